//! What we tell of ourselves, what we hear of others, and whom of them we meet.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::{Multiaddr, PeerId};
use wc_proto::limit::{ADDRESS_BYTES_MAX, ADDRESSES_MAX};
use wc_proto::peer::announce::{Announcement, AnnouncementFlaw};
use wc_proto::peer::gossip::Gossip;
use wc_types::{Millis, NodeId, Signed, Timestamp};

use super::{Due, Host};
use crate::address::{is_circuit, node_of, peer_of, split_node, transport_of};
use crate::event::{MeshEvent, Via};
use crate::exchange::table::Learned;
use crate::exchange::{self, Heard};
use crate::path::{is_dialable, is_foreign, is_near};

/// Life of our own announcement, renewed at its half.
const LIFE: Millis = Millis(2 * 60 * 60 * 1000);
/// Pause between a change of our addresses and the announcement of it: they come in groups.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(300);
/// Pause between two exchanges with some peer, so that what was missed is heard in the end.
const ASK_PAUSE: Duration = Duration::from_secs(15 * 60);
/// News is passed on in groups, this long after the first.
const SPREAD_AFTER: Duration = Duration::from_secs(1);
/// Peers that news is passed on to: in a network of n nodes everybody has heard after about log n rounds.
const SPREAD_PEERS_MAX: usize = 8;
/// News that waits to be passed on; more than that is heard by asking.
const NEWS_MAX: usize = 24;
/// First and longest pause between two looks for somebody to meet.
pub(super) const MINGLE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(300));
/// Nodes that one such look tries.
const MINGLE_NODES: usize = 2;
/// What faults in exchanges are about.
const ANNOUNCEMENTS: &str = "announcements";
/// Peers that a node seeks by itself; one that is sought by others may have more.
pub(super) const FRIENDS: usize = 6;

pub(super) fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    Timestamp(i64::try_from(micros).unwrap_or(i64::MAX))
}

impl Host {
    /// Takes up what was known at an earlier start.
    pub(super) fn start_peers(&mut self) {
        let mut known = std::mem::take(&mut self.config.known);
        known.sort_by_key(|announcement| (announcement.relay.is_none(), Reverse(announcement.at)));
        for announcement in known {
            let (node, relays) = (announcement.node, announcement.relay.is_some());
            let addrs: Vec<Multiaddr> =
                announcement.addresses.iter().filter_map(|text| text.parse().ok()).collect();
            if let Err(AnnouncementFlaw::Over) = self.learn(announcement) {
                // Too old to be passed on, and often still true.
                let addrs = addrs.into_iter().map(|addr| split_node(&addr).0);
                let usable =
                    |addr: &Multiaddr| transport_of(addr).is_some() && is_dialable(addr, &self.local);
                self.meet(peer_of(node), addrs.filter(usable).collect(), relays);
            }
        }
        if let Some(incoming) = exchange::accept(&self.registry) {
            tokio::spawn(exchange::answer(incoming, self.window.clone(), self.heard_sender.clone()));
        }
        self.timers.after(ANNOUNCE_AFTER, Due::Announce);
        self.timers.after(ASK_PAUSE, Due::Ask);
        self.mingle_soon();
    }

    /// Looks for somebody to meet, if there is nobody or not much company: who was not there, or not reached, may be now.
    pub(super) fn mingle(&mut self) {
        let turn = self.asked;
        self.asked = self.asked.wrapping_add(1);
        let strangers: Vec<(NodeId, bool)> = self
            .table
            .iter()
            .map(|(node, known)| (*node, known.announcement.relay.is_some()))
            .filter(|(node, _)| !self.peers.contains_key(&peer_of(*node)))
            .collect();
        for (node, relays) in strangers.iter().cycle().skip(turn).take(MINGLE_NODES.min(strangers.len())) {
            if self.wants_friend(*relays) {
                self.meet_known(*node, *relays);
            }
        }
        self.mingle_pause = (2 * self.mingle_pause).min(MINGLE.1);
        self.timers.after(self.mingle_pause, Due::Mingle);
    }

    /// Looks for somebody to meet soon: something has changed.
    pub(super) fn mingle_soon(&mut self) {
        self.mingle_pause = MINGLE.0;
        self.timers.cancel(&Due::Mingle);
        self.timers.after(MINGLE.0, Due::Mingle);
    }

    pub(super) fn meet_known(&mut self, node: NodeId, relays: bool) {
        let addrs = self.table.get(&node).map(|known| known.addrs.iter()).into_iter().flatten();
        let addrs = addrs.filter(|addr| is_dialable(addr, &self.local)).cloned().collect();
        self.meet(peer_of(node), addrs, relays);
    }

    /// Returns what is worth remembering over a restart.
    pub(super) fn remembered(&self) -> Vec<Signed<Announcement>> {
        self.table.remembered()
    }

    pub(super) fn announce_soon(&mut self) {
        if !self.timers.contains(&Due::Announce) {
            self.timers.after(ANNOUNCE_AFTER, Due::Announce);
        }
    }

    /// Says where we are, if that has changed or was said long ago.
    pub(super) fn announce(&mut self) {
        let now = now();
        let listening = self.swarm.listeners().filter(|addr| !is_circuit(addr) && !is_near(addr)).cloned();
        let mut addrs: Vec<Multiaddr> = self.external.clone();
        addrs.extend(self.keeper.circuits());
        addrs.extend(listening);
        let mut seen = HashSet::new();
        let addresses: Vec<String> = addrs
            .iter()
            .map(|addr| split_node(addr).0.to_string())
            .filter(|text| text.len() <= ADDRESS_BYTES_MAX && seen.insert(text.clone()))
            .take(ADDRESSES_MAX)
            .collect();
        let relay = self.config.reach.relay.as_ref().filter(|_| !self.external.is_empty());
        let relay = relay.map(|limits| limits.offer());
        let due = self.own.as_ref().is_none_or(|own| own.at.plus(Millis(LIFE.0 / 2)) <= now);
        let changed = match &self.own {
            Some(own) => own.addresses != addresses || own.relay != relay,
            None => !addresses.is_empty(),
        };
        if changed || (due && !addresses.is_empty()) {
            let record = Announcement {
                network: self.config.network.clone(),
                node: self.node,
                addresses,
                relay,
                at: now,
                until: now.plus(LIFE),
            };
            let own = Signed::seal(record, &self.key);
            tracing::debug!(addresses = ?own.addresses, relay = own.relay.is_some(), "announced");
            self.own = Some(own.clone());
            self.show();
            // Peers are told, for they are who is going to look for us; they pass it on if it is another place than before.
            self.publish(&Gossip::Addresses(Box::new(own)));
        }
        if !self.timers.contains(&Due::Renew) {
            self.timers.after(Duration::from_millis(LIFE.0 / 4), Due::Renew);
        }
    }

    /// Changes what we tell those who ask.
    pub(super) fn show(&mut self) {
        let told = self.table.told(self.own.as_ref(), now());
        self.window.show(told);
    }

    pub(super) fn admitted(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().filter(|(_, state)| state.admitted).filter_map(|(peer, _)| node_of(peer))
    }

    fn tell(&self, peer: NodeId, announcements: Vec<Signed<Announcement>>, asks: bool) {
        let (registry, heard) = (self.registry.clone(), self.heard_sender.clone());
        tokio::spawn(exchange::tell(registry, peer, announcements, asks, heard));
    }

    /// Greets a peer that has just shown that it is of our network. Whom we have not heard of may know a part of the network
    /// that we do not; all that we know ourselves is told to those who ask.
    pub(super) fn greet(&mut self, peer: NodeId) {
        let asks = self.table.get(&peer).is_none();
        if asks || self.own.is_some() {
            self.tell(peer, self.own.iter().cloned().collect(), asks);
        }
    }

    /// Asks some peer what it knows, once in a while.
    pub(super) fn ask_around(&mut self) {
        let turn = self.asked;
        self.asked = self.asked.wrapping_add(1);
        let peers: Vec<NodeId> = self.admitted().collect();
        if !peers.is_empty() {
            self.greet(peers[turn % peers.len()]);
        }
        self.timers.after(ASK_PAUSE, Due::Ask);
    }

    pub(super) fn on_heard(&mut self, heard: Heard) {
        let Heard { from, said } = heard;
        let announcements = match said {
            Ok(announcements) => announcements,
            Err(error) => return self.on_fault(from, ANNOUNCEMENTS, &error.to_string()),
        };
        for announcement in announcements {
            let node = announcement.node;
            match self.learn(announcement) {
                Ok(Learned::News) => {
                    if self.fresh.len() < NEWS_MAX {
                        self.fresh.push((node, from));
                    }
                    if !self.timers.contains(&Due::Spread) {
                        self.timers.after(SPREAD_AFTER, Due::Spread);
                    }
                }
                Ok(Learned::Nothing) => {}
                Err(flaw) if flaw.is_misbehaviour() => {
                    return self.on_fault(from, ANNOUNCEMENTS, &flaw.to_string());
                }
                Err(_) => {}
            }
        }
        self.show();
    }

    /// Notes that a peer has broken a rule of `about`, and leaves one that goes on.
    pub(super) fn on_fault(&mut self, from: NodeId, about: &str, what: &str) {
        tracing::warn!(node_id = %from, what, "bad {about}");
        self.events.send(MeshEvent::PeerMisbehaved { node: from, what: format!("bad {about}: {what}") });
        if self.faults.count(from) {
            let peer = peer_of(from);
            self.avoid(peer);
            self.part(peer, &format!("bad {about}"));
        }
    }

    fn learn(&mut self, announcement: Signed<Announcement>) -> Result<Learned, AnnouncementFlaw> {
        if self.banned.contains(&peer_of(announcement.node)) || self.judge.has_left(&announcement) {
            return Ok(Learned::Nothing);
        }
        let (node, relays) = (announcement.node, announcement.relay.is_some());
        let learned = self.table.learn(announcement, now())?;
        if learned == Learned::News {
            self.meet_known(node, relays);
        }
        Ok(learned)
    }

    /// Uses new addresses of a node: for whoever waits for it, and to know enough nodes.
    fn meet(&mut self, peer: PeerId, addrs: Vec<Multiaddr>, relays: bool) {
        if self.is_avoided(&peer) {
            return;
        }
        self.book.add(peer, addrs.iter().rev().cloned());
        if self.peers.contains_key(&peer) {
            return;
        }
        if let Some(plan) = self.plans.get_mut(&peer) {
            plan.extend(addrs);
            plan.put_last(is_foreign);
            if plan.in_flight.is_empty() {
                self.dial_next(peer);
            }
        } else if self.kept.contains_key(&peer) {
            self.seek(peer, None);
        } else if !addrs.is_empty() && self.wants_friend(relays) {
            self.on_discovered(peer, addrs, Via::Exchange);
        }
        if relays {
            self.reach_soon();
        }
    }

    fn wants_friend(&self, relays: bool) -> bool {
        // Whoever everybody comes to need not go out, but relays should know each other.
        let soon = self.timers.count(|due| matches!(due, Due::Dial(_)));
        (relays || self.config.reach.relay.is_none()) && self.peers.len() + self.plans.len() + soon < FRIENDS
    }

    /// Passes news on.
    pub(super) fn spread(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        let peers: Vec<NodeId> = self.admitted().collect();
        let turn = self.asked;
        self.asked = self.asked.wrapping_add(SPREAD_PEERS_MAX);
        for peer in
            peers.iter().cycle().skip(turn % peers.len().max(1)).take(SPREAD_PEERS_MAX.min(peers.len()))
        {
            let news: Vec<Signed<Announcement>> = fresh
                .iter()
                .filter(|(node, from)| node != peer && from != peer)
                .filter_map(|(node, _)| Some(self.table.get(node)?.announcement.clone()))
                .collect();
            if !news.is_empty() {
                self.tell(*peer, news, false);
            }
        }
    }
}
