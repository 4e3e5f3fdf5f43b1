//! What changes is told to everybody: GossipSub v1.1 over the connections that there are.
//!
//! Each node keeps a small mesh of peers for each topic (`wc_proto::peer::gossip`), passes on what [`judge`] finds true and
//! new, and tells others beside the mesh what it has heard. A peer that brings false messages loses its score, then its place
//! in the mesh, then its hearing; one that goes on is left. What is missed is heard in the pulled exchanges (`exchange`) and,
//! for directives, in the session with the cell.
//!
//! # Source
//! The mesh, the scores and their names: the GossipSub v1.1 specification (libp2p/specs, `pubsub/gossipsub`), whose P1 to P7 are
//! named beside the numbers. Ours differ from its examples where those suppose a steady stream of messages: here a topic may
//! be silent for hours, so nobody is expected to deliver (P3 and P3b are off).

pub(crate) mod behaviour;
pub(crate) mod judge;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libp2p::gossipsub::{
    self, ConfigBuilder, IdentTopic, MaxCountSubscriptionFilter, Message, MessageAuthenticity, MessageId,
    PeerScoreParams, PeerScoreThresholds, TopicHash, TopicScoreParams, ValidationMode, Version,
    WhitelistSubscriptionFilter, score_parameter_decay_with_base,
};
use libp2p::identity;
use wc_proto::limit::DIRECTIVES_BYTES_MAX;
use wc_proto::peer::gossip::Topic;
use wc_proto::version;

pub(crate) use behaviour::{Behaviour, Told, author};

/// Peers of the mesh of one topic: wanted, fewest and most. The specification's 6, 4 and 12 are for thousands of messages a
/// minute; with four, a message reaches 50 nodes in three hops.
const MESH: (usize, usize, usize) = (4, 3, 6);
/// Share of the peers beside the mesh that are told, in the two heartbeats after it, what was heard: all of them. Around a
/// coordinator stand nodes that have no other peer, and messages are few. The specification's quarter, three times, leaves out
/// four of ten.
const LAZY: f64 = 1.0;
/// How long a peer that was one too many in the mesh is not asked again: around a coordinator most are, always.
const PRUNED: Duration = Duration::from_secs(300);
/// Pause between two looks at the mesh, at which missed messages are offered: two of them and their round trips are within the
/// five seconds that a halt may take (NET-31), and a look costs some microseconds.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long a message is known again, so that it is not passed on twice. Bounded in number by the frames that peers may send.
const SEEN: Duration = Duration::from_secs(120);
/// Pause between two decays of the scores.
const DECAY: Duration = Duration::from_secs(10);
/// A score that has decayed to this part of its beginning is forgotten.
const DECAYED: f64 = 0.01;
/// How long the bad score of a peer that has left is kept: as long as one that was left is avoided.
const RETAIN: Duration = Duration::from_secs(600);
/// Peers with one address beyond which each of them loses (P6). Many honest machines stand behind one NAT, or come through one
/// relay: a campus must fit. The rates per network, and the caps of the gate, hold for smaller crowds.
const COLOCATED_MAX: f64 = 256.0;
/// Topics, for the filter of subscriptions.
const TOPICS: usize = Topic::ALL.len();

/// The topics of one network by their names on the wire.
#[derive(Debug, Clone)]
pub(crate) struct Topics {
    by_hash: HashMap<TopicHash, Topic>,
    network: String,
}

impl Topics {
    pub(crate) fn new(network: &str) -> Self {
        let by_hash = Topic::ALL.into_iter().map(|topic| (hash(topic, network), topic)).collect();
        Self { by_hash, network: network.to_owned() }
    }

    /// Returns the topic of a message.
    pub(crate) fn of(&self, hash: &TopicHash) -> Option<Topic> {
        self.by_hash.get(hash).copied()
    }

    /// Returns a topic's name on the wire.
    pub(crate) fn hash(&self, topic: Topic) -> TopicHash {
        hash(topic, &self.network)
    }
}

fn hash(topic: Topic, network: &str) -> TopicHash {
    IdentTopic::new(topic.name(network)).hash()
}

/// A message is known by its content: the same words said twice are one message.
fn message_id(message: &Message) -> MessageId {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    digest.update(message.topic.as_str().as_bytes());
    digest.update(&[0]);
    digest.update(&message.data);
    MessageId::new(&digest.finish().as_ref()[..20])
}

fn decay(after: Duration) -> f64 {
    score_parameter_decay_with_base(after, DECAY, DECAYED)
}

fn topic_scores() -> TopicScoreParams {
    TopicScoreParams {
        topic_weight: 1.0,
        // P1: at most 1, after a hundred minutes. It decides between peers that are otherwise equal.
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(60),
        time_in_mesh_cap: 100.0,
        // P2: at most 5. Whoever brings news is worth keeping, and cannot save up for lies: one costs 20.
        first_message_deliveries_weight: 0.5,
        first_message_deliveries_decay: decay(Duration::from_secs(3600)),
        first_message_deliveries_cap: 10.0,
        // P3 and P3b: silence is no failure here.
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        // P4: one false message costs 20 (out of every mesh), two 80 (nothing is told to it any more), three 180 (nothing is heard
        // of it). Forgotten after an hour.
        invalid_message_deliveries_weight: -20.0,
        invalid_message_deliveries_decay: decay(Duration::from_secs(3600)),
        ..TopicScoreParams::default()
    }
}

fn scores(topics: &Topics) -> PeerScoreParams {
    PeerScoreParams {
        topics: topics.by_hash.keys().map(|hash| (hash.clone(), topic_scores())).collect(),
        topic_score_cap: 12.0,
        // P5: nothing above knows better yet.
        app_specific_weight: 0.0,
        // P6. Nodes of one machine are its owner's own.
        ip_colocation_factor_weight: -1.0,
        ip_colocation_factor_threshold: COLOCATED_MAX,
        ip_colocation_factor_whitelist: HashSet::from([
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ]),
        // P7: grafting again too early, and promising messages that do not come. A link that breaks looks like that now and then.
        behaviour_penalty_weight: -5.0,
        behaviour_penalty_threshold: 6.0,
        behaviour_penalty_decay: decay(Duration::from_secs(600)),
        decay_interval: DECAY,
        decay_to_zero: DECAYED,
        retain_score: RETAIN,
        // A peer whose link is full is slow, not bad.
        slow_peer_weight: 0.0,
        ..PeerScoreParams::default()
    }
}

/// Below zero is out of every mesh; these are the next steps down.
fn thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        gossip_threshold: -30.0,
        publish_threshold: -60.0,
        graylist_threshold: -150.0,
        // Nobody is met on a peer's word here (PX is off).
        accept_px_threshold: 100.0,
        opportunistic_graft_threshold: 0.5,
    }
}

/// Returns the behaviour of a node of `network`.
pub(crate) fn build(network: &str, key: &identity::Keypair) -> Behaviour {
    let topics = Topics::new(network);
    let mut config = ConfigBuilder::default();
    config
        .protocol_id(version::GOSSIP, Version::V1_1)
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(message_id)
        .mesh_n(MESH.0)
        .mesh_n_low(MESH.1)
        .mesh_n_high(MESH.2)
        .mesh_outbound_min(1)
        .gossip_factor(LAZY)
        .history_gossip(2)
        .prune_backoff(PRUNED)
        .heartbeat_interval(HEARTBEAT)
        .heartbeat_initial_delay(HEARTBEAT / 4)
        .duplicate_cache_time(SEEN)
        // Our own messages are few, and go to everybody who is connected: those are the ones that look for us.
        .flood_publish(true)
        // The largest message, its author's key and signature, and the frame.
        .max_transmit_size(DIRECTIVES_BYTES_MAX + 1024)
        .max_control_message_size(4 << 10)
        .max_publish_messages(16)
        .connection_handler_queue_len(256);
    for topic in Topic::ALL {
        config.max_transmit_size_for_topic(topic.bytes_max() + 1024, topics.hash(topic));
    }
    let config = config.build().expect("the numbers above fit each other");
    let filter = MaxCountSubscriptionFilter {
        filter: WhitelistSubscriptionFilter(topics.by_hash.keys().cloned().collect()),
        max_subscribed_topics: TOPICS,
        max_subscriptions_per_request: 2 * TOPICS,
    };
    let authenticity = MessageAuthenticity::Signed(key.clone());
    let mut inner = gossipsub::Behaviour::new_with_subscription_filter(authenticity, config, filter)
        .expect("a signing author goes with strict validation");
    inner.with_peer_score(scores(&topics), thresholds()).expect("the scores above fit each other");
    for topic in Topic::ALL {
        let subscribed = inner.subscribe(&IdentTopic::new(topic.name(network)));
        debug_assert!(subscribed.is_ok(), "the filter lets the topics through that it was made of");
    }
    Behaviour::new(inner)
}

#[cfg(test)]
mod tests;
