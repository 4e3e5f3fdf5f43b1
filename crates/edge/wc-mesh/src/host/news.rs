//! What changes: what we tell of ourselves, and what becomes of what we hear.

use std::time::Instant;

use libp2p::PeerId;
use libp2p::gossipsub::{self, MessageAcceptance, PublishError};
use wc_proto::peer::gossip::{Gossip, Presence, PresenceState, Topic};
use wc_types::{NodeId, Signed};

use super::Host;
use super::peers::now;
use crate::address::{node_of, peer_of};
use crate::event::MeshEvent;
use crate::gossip::author;
use crate::gossip::judge::{News, Verdict};

impl Host {
    /// Tells every peer that listens. Where nobody does, nobody needs to know yet.
    pub(super) fn publish(&mut self, gossip: &Gossip) {
        let topic = self.topics.hash(gossip.topic());
        match self.swarm.behaviour_mut().gossip.publish(topic, gossip.encode()) {
            Ok(_) => tracing::debug!(topic = ?gossip.topic(), "published"),
            Err(PublishError::Duplicate | PublishError::NoPeersSubscribedToTopic) => {}
            Err(error) => tracing::warn!(%error, topic = ?gossip.topic(), "gossip was not published"),
        }
    }

    /// Says how this node stands, now or as soon as somebody listens.
    pub(super) fn present(&mut self, state: PresenceState) {
        let presence = Presence { network: self.config.network.clone(), node: self.node, state, at: now() };
        let gossip = Gossip::Presence(Box::new(Signed::seal(presence, &self.key)));
        let topic = self.topics.hash(Topic::Presence);
        let heard = self.swarm.behaviour_mut().gossip.publish(topic, gossip.encode()).is_ok();
        self.unheard = (!heard).then_some(state);
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let acceptance = self.on_message(&propagation_source, &message);
                self.swarm.behaviour_mut().gossip.report(&message_id, &propagation_source, acceptance);
            }
            gossipsub::Event::Subscribed { topic, .. } => {
                if self.topics.of(&topic) == Some(Topic::Presence)
                    && let Some(state) = self.unheard
                {
                    self.present(state);
                }
            }
            gossipsub::Event::SlowPeer { peer_id, .. } => {
                tracing::debug!(peer = %peer_id, "does not read its gossip fast enough; some was dropped");
            }
            gossipsub::Event::Unsubscribed { .. } | gossipsub::Event::GossipsubNotSupported { .. } => {}
        }
    }

    fn on_message(&mut self, from: &PeerId, message: &gossipsub::Message) -> MessageAcceptance {
        let (Some(topic), Some(source)) = (self.topics.of(&message.topic), author(message)) else {
            return MessageAcceptance::Reject;
        };
        let Some(node) = node_of(&source) else { return MessageAcceptance::Reject };
        let moment = (now(), Instant::now());
        match self.judge.judge(topic, node, &message.data, &mut self.table, moment) {
            Verdict::Accept(news) => {
                self.on_change(news);
                MessageAcceptance::Accept
            }
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject(what) => {
                if let Some(from) = node_of(from) {
                    self.on_fault(from, "gossip", &what);
                }
                MessageAcceptance::Reject
            }
        }
    }

    fn on_change(&mut self, news: News) {
        match news {
            News::Addresses(node) => {
                let relays = self.table.get(&node).is_some_and(|known| known.announcement.relay.is_some());
                self.meet_known(node, relays);
                self.show();
            }
            News::Presence(node, state) => {
                tracing::info!(node_id = %node, state = state.name(), "a node says how it stands");
                if state == PresenceState::Left {
                    self.forget(node);
                }
            }
            News::Directives(directives) => self.events.send(MeshEvent::Directed(directives)),
        }
    }

    pub(super) fn presence_of(&self, peer: &PeerId) -> PresenceState {
        node_of(peer).and_then(|node| self.judge.presence_of(&node)).unwrap_or(PresenceState::Here)
    }

    /// Forgets where a node is, and seeks it no more.
    fn forget(&mut self, node: NodeId) {
        let peer = peer_of(node);
        self.book.forget(&peer);
        self.table.forget(&node);
        self.kept.remove(&peer);
        self.show();
    }

    pub(super) fn ban(&mut self, node: NodeId) {
        let peer = peer_of(node);
        self.banned.insert(peer);
        self.forget(node);
        if let Some(state) = self.peers.get_mut(&peer) {
            state.farewell = Some("banned".to_owned());
        }
        let behaviour = self.swarm.behaviour_mut();
        behaviour.gossip.shun(&peer, true);
        behaviour.banned.block_peer(peer);
    }

    pub(super) fn unban(&mut self, node: NodeId) {
        let peer = peer_of(node);
        if self.banned.remove(&peer) {
            let behaviour = self.swarm.behaviour_mut();
            behaviour.gossip.shun(&peer, false);
            behaviour.banned.unblock_peer(peer);
        }
    }
}
