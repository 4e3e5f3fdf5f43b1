#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::Transport as _;
use libp2p::core::transport::MemoryTransport;
use libp2p::core::upgrade;
use libp2p::gossipsub::{Event, MessageAcceptance};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identity, noise, yamux};
use tokio::time::timeout;
use wc_proto::peer::announce::Announcement;
use wc_proto::peer::gossip::{CellDirectives, Gossip, Presence, PresenceState, Topic};
use wc_types::charter::{Charter, Founding, cell_id};
use wc_types::directive::{Directives, Halt};
use wc_types::{CellId, Millis, NodeId, Signed, SigningKey, Timestamp};

use super::judge::{Judge, News, Verdict};
use super::*;
use crate::exchange::table::Table;

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

fn id(number: u8) -> NodeId {
    key(number).node_id()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(NOW.0 + seconds * 1_000_000)
}

fn presence(number: u8, state: PresenceState, at: Timestamp) -> Gossip {
    let presence = Presence { network: "lab".to_owned(), node: id(number), state, at };
    Gossip::Presence(Box::new(Signed::seal(presence, &key(number))))
}

fn announcement(number: u8, host: u8, at: Timestamp) -> Gossip {
    let record = Announcement {
        network: "lab".to_owned(),
        node: id(number),
        addresses: vec![format!("/ip4/192.0.2.{host}/tcp/1")],
        relay: None,
        at,
        until: at.plus(Millis(3_600_000)),
    };
    Gossip::Addresses(Box::new(Signed::seal(record, &key(number))))
}

/// The directives of the cell of `number`, signed by `signer`, for the cell `of`.
fn directives(number: u8, signer: u8, of: Option<CellId>, seq: u64, at: Timestamp) -> Gossip {
    let founding = Founding {
        network: "lab".to_owned(),
        coordinator: id(number),
        owner: key(number).account_id(),
        charter: Charter::default(),
        founded_at: NOW,
    };
    let founding = Signed::seal(founding, &key(number));
    let halt = Some(Halt { reason: "a worm was seen in the lab".to_owned(), at });
    let directives =
        Directives { cell: of.unwrap_or_else(|| cell_id(&founding)), seq, at, halt, bans: Vec::new() };
    let directives = Signed::seal(directives, &key(signer));
    Gossip::Directives(Box::new(CellDirectives { founding, directives }))
}

struct Court {
    judge: Judge,
    table: Table,
}

impl Court {
    fn new() -> Self {
        Self { judge: Judge::new("lab".to_owned(), id(0)), table: Table::new("lab".to_owned(), id(0)) }
    }

    fn bytes(&mut self, topic: Topic, author: u8, bytes: &[u8], now: Timestamp) -> Verdict {
        self.judge.judge(topic, id(author), bytes, &mut self.table, (now, Instant::now()))
    }

    fn hear(&mut self, author: u8, gossip: &Gossip, now: Timestamp) -> Verdict {
        self.bytes(gossip.topic(), author, &gossip.encode(), now)
    }
}

fn is_rejected(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Reject(_))
}

#[test]
fn what_is_true_and_new_is_accepted_once() {
    let mut court = Court::new();
    let moved = announcement(1, 7, NOW);
    assert_eq!(court.hear(1, &moved, NOW), Verdict::Accept(News::Addresses(id(1))));
    assert_eq!(court.hear(1, &moved, NOW), Verdict::Ignore);
    let left = presence(1, PresenceState::Left, at(1));
    assert_eq!(court.hear(1, &left, at(1)), Verdict::Accept(News::Presence(id(1), PresenceState::Left)));
    assert_eq!(court.hear(1, &announcement(1, 8, at(0)), at(1)), Verdict::Ignore, "from before it left");
    assert_eq!(court.hear(1, &announcement(1, 8, at(2)), at(2)), Verdict::Accept(News::Addresses(id(1))));
    assert_eq!(court.judge.presence_of(&id(1)), Some(PresenceState::Here), "it is back");
    assert_eq!(court.hear(1, &left, at(3)), Verdict::Ignore, "its goodbye is not said again for it");
    assert_eq!(court.judge.presence_of(&id(1)), Some(PresenceState::Here));
    let halt = directives(2, 2, None, 1, NOW);
    assert!(matches!(court.hear(2, &halt, NOW), Verdict::Accept(News::Directives(_))));
    assert_eq!(court.hear(2, &halt, at(3600)), Verdict::Ignore, "said again after a restart");
    assert!(matches!(court.hear(2, &directives(2, 2, None, 2, at(1)), at(1)), Verdict::Accept(_)));
}

#[test]
fn what_is_forged_replayed_oversized_or_of_another_cell_is_rejected() {
    let mut court = Court::new();
    // Forged: signed by another than it speaks of; or not even a record.
    let forged = Presence { network: "lab".to_owned(), node: id(1), state: PresenceState::Left, at: NOW };
    let forged = Gossip::Presence(Box::new(Signed::seal(forged, &key(9))));
    assert!(is_rejected(&court.hear(1, &forged, NOW)));
    let mut flipped = presence(1, PresenceState::Left, NOW).encode();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    assert!(is_rejected(&court.bytes(Topic::Presence, 1, &flipped, NOW)));
    assert!(is_rejected(&court.bytes(Topic::Directives, 1, b"junk", NOW)));
    // Of another network.
    let other = Presence { network: "other".to_owned(), node: id(1), state: PresenceState::Left, at: NOW };
    let other = Gossip::Presence(Box::new(Signed::seal(other, &key(1))));
    assert!(is_rejected(&court.hear(1, &other, NOW)));
    // Oversized for its topic.
    assert!(is_rejected(&court.bytes(Topic::Presence, 1, &vec![0; 513], NOW)));
    // Of another cell: another's cell named, or another's founding record shown.
    let cell = CellId([7; 32]);
    assert!(is_rejected(&court.hear(2, &directives(2, 2, Some(cell), 1, NOW), NOW)));
    assert!(is_rejected(&court.hear(2, &directives(2, 3, None, 1, NOW), NOW)));
    // Replayed: published by somebody else, or long after newer words of its author.
    let true_words = directives(2, 2, None, 5, NOW);
    assert!(is_rejected(&court.hear(3, &true_words, NOW)));
    assert!(matches!(court.hear(2, &true_words, NOW), Verdict::Accept(_)));
    let lifted_before = directives(2, 2, None, 4, at(-5));
    assert_eq!(court.hear(2, &lifted_before, NOW), Verdict::Ignore, "overtaken on the way");
    assert!(matches!(court.hear(1, &announcement(1, 7, NOW), NOW), Verdict::Accept(_)));
    assert!(is_rejected(&court.hear(1, &announcement(1, 6, at(-2000)), NOW)));
}

#[test]
fn whoever_passes_on_what_it_takes_for_new_is_never_to_blame() {
    let words = |age: i64| {
        let (old, new) = (at(-age), at(1 - age));
        [
            (announcement(1, 6, old), announcement(1, 7, new)),
            (presence(1, PresenceState::Left, old), presence(1, PresenceState::Here, new)),
            (directives(1, 1, None, 1, old), directives(1, 1, None, 2, new)),
        ]
    };
    for age in [1, 590, 610, 660, 900, 3000, 86_000] {
        // Clocks are up to ten minutes apart.
        for ahead in [0, 1, 300, 600] {
            for (old, new) in words(age) {
                // Somebody tells one node the old words only, and the other one the newer ones.
                let (mut honest, mut other) = (Court::new(), Court::new());
                let passed_on = matches!(honest.hear(1, &old, NOW), Verdict::Accept(_));
                other.hear(1, &new, at(ahead + 1 - age));
                let blamed = is_rejected(&other.hear(1, &old, at(ahead)));
                assert!(!(passed_on && blamed), "{:?}, {age} s old, {ahead} s ahead", old.topic());
            }
        }
    }
}

#[test]
fn an_author_who_talks_too_much_is_not_passed_on() {
    let mut court = Court::new();
    let accepted = (0..100)
        .filter(|second| {
            matches!(
                court.hear(1, &presence(1, PresenceState::Here, at(*second)), at(100)),
                Verdict::Accept(_)
            )
        })
        .count();
    assert!((10..=20).contains(&accepted), "{accepted}");
    assert!(matches!(court.hear(2, &presence(2, PresenceState::Here, NOW), NOW), Verdict::Accept(_)));
}

fn swarm<B: NetworkBehaviour>(behaviour: impl FnOnce(&identity::Keypair) -> B) -> Swarm<B> {
    let key = identity::Keypair::generate_ed25519();
    let transport = MemoryTransport::default()
        .upgrade(upgrade::Version::V1)
        .authenticate(noise::Config::new(&key).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let behaviour = behaviour(&key);
    let config = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(Duration::from_secs(1))
        .with_substream_upgrade_protocol_override(upgrade::Version::V1Lazy);
    Swarm::new(transport, behaviour, key.public().to_peer_id(), config)
}

async fn listen<B: NetworkBehaviour>(swarm: &mut Swarm<B>) -> Multiaddr {
    swarm.listen_on("/memory/0".parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address;
        }
    }
}

/// Runs both until `done` finds what it looks for in an event of `one`.
async fn both<T>(
    one: &mut Swarm<Behaviour>,
    two: &mut Swarm<Behaviour>,
    mut done: impl FnMut(&mut Swarm<Behaviour>, SwarmEvent<Told>) -> Option<T>,
) -> T {
    timeout(Duration::from_secs(20), async {
        loop {
            tokio::select! {
                event = one.select_next_some() => if let Some(found) = done(one, event) { return found },
                _ = two.select_next_some() => {}
            }
        }
    })
    .await
    .expect("it happens")
}

fn score(swarm: &Swarm<Behaviour>, peer: &PeerId) -> f64 {
    swarm.behaviour().inner.peer_score(peer).unwrap_or_default()
}

#[tokio::test]
async fn each_false_message_lowers_its_senders_score_until_nothing_is_heard_of_it() {
    let mut honest = swarm(|key| build("lab", key));
    let mut liar = swarm(|key| build("lab", key));
    let address = listen(&mut honest).await;
    liar.dial(address).unwrap();
    let peer = *liar.local_peer_id();
    let topic = Topics::new("lab").hash(Topic::Directives);
    // They listen to each other.
    both(&mut liar, &mut honest, |_, event| match event {
        SwarmEvent::Behaviour(Told::Gossip(Event::Subscribed { topic: heard, .. })) if heard == topic => {
            Some(())
        }
        _ => None,
    })
    .await;
    let mut scores = vec![score(&honest, &peer)];
    for lie in 0..3u8 {
        liar.behaviour_mut().publish(topic.clone(), vec![lie; 100]).unwrap();
        let message = both(&mut honest, &mut liar, |_, event| match event {
            SwarmEvent::Behaviour(Told::Gossip(Event::Message { message_id, .. })) => Some(message_id),
            _ => None,
        })
        .await;
        honest.behaviour_mut().report(&message, &peer, MessageAcceptance::Reject);
        scores.push(score(&honest, &peer));
    }
    assert!(scores.windows(2).all(|pair| pair[1] < pair[0]), "{scores:?}");
    let thresholds = thresholds();
    assert!(scores[0] >= 0.0 && scores[1] < 0.0, "out of the mesh after one: {scores:?}");
    assert!(scores[2] < thresholds.publish_threshold, "{scores:?}");
    assert!(scores[3] < thresholds.graylist_threshold, "{scores:?}");
    // Whatever it says now is not even looked at.
    liar.behaviour_mut().publish(topic.clone(), b"once more".to_vec()).unwrap();
    let heard = timeout(
        Duration::from_secs(1),
        both(&mut honest, &mut liar, |_, event| {
            matches!(event, SwarmEvent::Behaviour(Told::Gossip(Event::Message { .. }))).then_some(())
        }),
    )
    .await;
    assert!(heard.is_err(), "heard all the same");
}

#[tokio::test]
async fn gossip_keeps_no_connection_alive() {
    let mut one = swarm(|key| build("lab", key));
    let mut two = swarm(|key| build("lab", key));
    let address = listen(&mut one).await;
    two.dial(address).unwrap();
    let topic = Topics::new("lab").hash(Topic::Addresses);
    let mut grafted = false;
    both(&mut one, &mut two, |one, event| {
        grafted |= one.behaviour().inner.all_mesh_peers().next().is_some();
        matches!(event, SwarmEvent::ConnectionClosed { .. }).then_some(())
    })
    .await;
    assert!(one.behaviour().inner.mesh_peers(&topic).next().is_none());
    // Who was in the mesh of a topic was let go all the same: that is what the wrapped handler is for.
    assert!(grafted, "they were in each other's mesh");
}

#[tokio::test]
async fn a_peer_that_sends_more_than_anybody_may_is_told_of() {
    let mut one = swarm(|key| build("lab", key));
    let peer = PeerId::random();
    let connection = libp2p::swarm::ConnectionId::new_unchecked(1);
    let now = Instant::now();
    let allowed = (0..2000).filter(|_| one.behaviour_mut().may_speak(peer, connection, now)).count();
    assert_eq!(allowed, 256);
    let told = timeout(Duration::from_secs(20), async {
        loop {
            if let SwarmEvent::Behaviour(Told::Flood(peer)) = one.select_next_some().await {
                return peer;
            }
        }
    })
    .await
    .unwrap();
    assert_eq!(told, peer);
    assert!(one.behaviour_mut().may_speak(PeerId::random(), connection, now), "others may");
}

#[test]
fn a_network_of_many_keys_is_counted_together() {
    let key = identity::Keypair::generate_ed25519();
    let mut behaviour = build("lab", &key);
    let addr: Multiaddr = "/ip4/198.51.100.7/tcp/1".parse().unwrap();
    let loopback: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let now = Instant::now();
    let allowed = (0..40)
        .map(|number| {
            let connection = libp2p::swarm::ConnectionId::new_unchecked(number);
            behaviour.note(connection, &addr);
            let peer = PeerId::random();
            (0..200).filter(|_| behaviour.may_speak(peer, connection, now)).count()
        })
        .sum::<usize>();
    assert_eq!(allowed, 2048);
    // Nobody is to blame for what others of its network have spent.
    let (quiet, connection) = (PeerId::random(), libp2p::swarm::ConnectionId::new_unchecked(99));
    behaviour.note(connection, &addr);
    behaviour.outbox.clear();
    assert_eq!((0..256).filter(|_| behaviour.may_speak(quiet, connection, now)).count(), 0);
    assert!(behaviour.outbox.is_empty());
    let own = libp2p::swarm::ConnectionId::new_unchecked(100);
    behaviour.note(own, &loopback);
    assert!(behaviour.may_speak(PeerId::random(), own, now), "this machine's own are not a network");
}
