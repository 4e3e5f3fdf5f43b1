//! What changes is heard by nodes that are connected with others only, and whoever lies is left.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, ValidationMode, Version};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, noise, tcp, yamux};
use support::{PATIENCE, config, network, start, until};
use tokio::time::timeout;
use wc_mesh::{Mesh, MeshConfig, MeshEvent, ReachConfig, TcpSession};
use wc_proto::peer::gossip::{CellDirectives, PresenceState, Topic};
use wc_proto::version;
use wc_types::charter::{Charter, Founding, cell_id};
use wc_types::directive::{Directives, Halt};
use wc_types::{NodeId, Signed, SigningKey, Timestamp};

fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    Timestamp(i64::try_from(micros).unwrap())
}

/// A halt of the cell that `key` coordinates.
fn halt(key: &SigningKey, network: &str, seq: u64) -> CellDirectives {
    let founding = Founding {
        network: network.to_owned(),
        coordinator: key.node_id(),
        owner: key.account_id(),
        charter: Charter::default(),
        founded_at: Timestamp(1),
    };
    let founding = Signed::seal(founding, key);
    let halt = Some(Halt { reason: "a worm was seen in the lab".to_owned(), at: now() });
    let directives = Directives { cell: cell_id(&founding), seq, at: now(), halt, bans: Vec::new() };
    CellDirectives { directives: Signed::seal(directives, key), founding }
}

/// Connects `one` to `two` and waits until both know it.
async fn meet(one: &Mesh, two: &Mesh) {
    let addr = two.listen_addrs().await.remove(0);
    timeout(PATIENCE, one.dial(addr)).await.unwrap().unwrap();
    eventually(async || two.peers().await.iter().any(|peer| peer.node == one.node_id())).await;
}

async fn eventually(holds: impl AsyncFn() -> bool) {
    timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it holds in the end");
}

async fn knows(mesh: &Mesh, node: NodeId) -> bool {
    mesh.known().await.iter().any(|known| known.node == node)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_at_one_node_is_heard_two_hops_away() {
    let network = network();
    let external: Multiaddr = "/ip4/192.0.2.7/tcp/1".parse().unwrap();
    let config_of = |external: Vec<Multiaddr>| MeshConfig {
        reach: ReachConfig { external, ..ReachConfig::default() },
        ..config(&network)
    };
    let told = config_of(vec![external]);
    let key = SigningKey::from_seed(&told.secret);
    let (near, _near_events) = start(config_of(Vec::new())).await;
    let (far, mut far_events) = start(config_of(Vec::new())).await;
    let (one, _one_events) = start(told).await;
    meet(&far, &near).await;
    meet(&one, &near).await;
    eventually(async || knows(&near, one.node_id()).await).await;

    // A halt travels while nobody knows the cell: its own record shows whose word it is.
    let directed = |event| match event {
        MeshEvent::Directed(directives) => Some(directives),
        _ => None,
    };
    for seq in 1..=2 {
        let said = halt(&key, &network, seq);
        one.direct(said.clone()).await;
        assert_eq!(*until(&mut far_events, directed).await, said);
    }
    // An older one that comes late is not heard again; a newer one is.
    one.direct(halt(&key, &network, 1)).await;
    one.direct(halt(&key, &network, 3)).await;
    assert_eq!(until(&mut far_events, directed).await.directives.seq, 3);

    // Where it is, is heard by those who have no connection with it; and forgotten when it says goodbye.
    eventually(async || knows(&far, one.node_id()).await).await;
    assert!(far.peers().await.iter().all(|peer| peer.node != one.node_id()), "they have not met");
    one.present(PresenceState::Left).await;
    eventually(async || !knows(&far, one.node_id()).await && !knows(&near, one.node_id()).await).await;
    eventually(async || far.status().await.unwrap().node_count == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn around_a_hub_everybody_hears_although_most_are_in_nobodys_mesh() {
    let network = network();
    let (hub, _hub_events) = start(config(&network)).await;
    let mut leaves = Vec::new();
    for _ in 0..16 {
        let leaf = start(config(&network)).await;
        meet(&leaf.0, &hub).await;
        leaves.push(leaf);
    }
    // Long enough for a mesh to have found its size.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let key = SigningKey::from_seed(&[77; 32]);
    let outsider = start(MeshConfig { secret: *key.to_seed(), ..config(&network) }).await;
    meet(&outsider.0, &hub).await;
    // Whether the hub listens to it already is not to be seen; what is not heard is said again with the next number.
    let begun = std::time::Instant::now();
    let said = async {
        for seq in 1.. {
            outsider.0.direct(halt(&key, &network, seq)).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    };
    let heard = async {
        for (_, events) in &mut leaves {
            until(events, |event| matches!(event, MeshEvent::Directed(_)).then_some(())).await;
        }
    };
    tokio::select! {
        () = said => {}
        () = heard => {}
    }
    println!("16 leaves of a hub heard after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_nobody_could_hear_is_said_when_somebody_comes() {
    let network = network();
    let (one, _one_events) = start(config(&network)).await;
    let (two, _two_events) = start(config(&network)).await;
    one.present(PresenceState::Paused).await;
    meet(&one, &two).await;
    let presence = async || two.peers().await.first().map(|peer| peer.presence);
    eventually(async || presence().await == Some(PresenceState::Paused)).await;
    one.present(PresenceState::Here).await;
    eventually(async || presence().await == Some(PresenceState::Here)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_node_is_let_in_again_when_the_ban_is_lifted() {
    let network = network();
    let (one, _one_events) = start(config(&network)).await;
    let (two, _two_events) = start(config(&network)).await;
    meet(&one, &two).await;
    two.ban(one.node_id()).await;
    eventually(async || one.peers().await.is_empty() && two.peers().await.is_empty()).await;
    two.unban(one.node_id()).await;
    meet(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_goes_on_lying_is_left() {
    let network = network();
    let (victim, mut events) = start(MeshConfig { tcp_session: TcpSession::Noise, ..config(&network) }).await;
    let addr =
        victim.listen_addrs().await.into_iter().find(|addr| addr.to_string().contains("/tcp/")).unwrap();
    let mut liar = libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| {
            let config = gossipsub::ConfigBuilder::default()
                .protocol_id(version::GOSSIP, Version::V1_1)
                .validation_mode(ValidationMode::Strict)
                .flood_publish(true)
                .build()
                .unwrap();
            gossipsub::Behaviour::<gossipsub::IdentityTransform>::new(
                MessageAuthenticity::Signed(key.clone()),
                config,
            )
            .unwrap()
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(30)))
        .build();
    let topic = IdentTopic::new(Topic::Directives.name(&network));
    liar.behaviour_mut().subscribe(&topic).unwrap();
    let id = NodeId::from_peer_id_bytes(&liar.local_peer_id().to_bytes()).unwrap();
    liar.dial(addr).unwrap();
    let lying = async {
        let mut lies = 0u8;
        let mut listens = false;
        let mut pauses = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                event = liar.select_next_some() => match event {
                    SwarmEvent::Behaviour(gossipsub::Event::Subscribed { topic: heard, .. }) => {
                        listens |= heard == topic.hash();
                    }
                    SwarmEvent::ConnectionClosed { .. } => return,
                    _ => {}
                },
                _ = pauses.tick(), if listens && lies < 3 => {
                    lies += 1;
                    liar.behaviour_mut().publish(topic.clone(), vec![lies; 64]).unwrap();
                }
            }
        }
    };
    let blamed = async {
        for _ in 0..3 {
            until(&mut events, |event| match event {
                MeshEvent::PeerMisbehaved { node, what } if node == id => {
                    assert!(what.contains("gossip"), "{what}");
                    Some(())
                }
                _ => None,
            })
            .await;
        }
    };
    timeout(PATIENCE, async { tokio::join!(lying, blamed) })
        .await
        .expect("it is blamed three times, and left");
}
