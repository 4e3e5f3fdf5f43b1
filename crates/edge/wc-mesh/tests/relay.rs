//! Nodes that nobody can dial are reached through relays, and leave them when there is a direct way.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::time::{Duration, Instant};

use support::{PATIENCE, config, free_port, network, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use wc_mesh::{
    Direction, Mesh, MeshConfig, MeshEvent, MeshEvents, MeshStatus, Multiaddr, ReachConfig, RelayLimits,
    Reservations, Transport,
};
use wc_types::SigningKey;

const ECHO: &str = "/test/echo/1.0.0";

fn echo(mesh: &Mesh) {
    let mut incoming = mesh.accept(ECHO).unwrap();
    tokio::spawn(async move {
        while let Some((_, stream)) = incoming.recv().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
}

/// Starts a relay and returns the address under which everybody knows it.
async fn relay(network: &str, limits: RelayLimits) -> (Mesh, MeshEvents, Multiaddr) {
    let addr: Multiaddr = format!("/ip4/127.0.0.1/tcp/{}", free_port()).parse().unwrap();
    let reach = ReachConfig { external: vec![addr.clone()], relay: Some(limits), ..ReachConfig::default() };
    let (mesh, events) = start(MeshConfig { listen: vec![addr], reach, ..config(network) }).await;
    let addr = mesh.listen_addrs().await.remove(0);
    (mesh, events, addr)
}

/// A node that listens nowhere, like one behind a NAT that lets nobody in.
fn hidden(network: &str, seeds: &[&Multiaddr]) -> MeshConfig {
    MeshConfig {
        listen: Vec::new(),
        seeds: seeds.iter().map(|addr| (*addr).clone()).collect(),
        ..config(network)
    }
}

async fn eventually<T>(mesh: &Mesh, what: &str, mut pick: impl FnMut(&MeshStatus) -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        let status = mesh.status().await.unwrap();
        if let Some(found) = pick(&status) {
            return found;
        }
        assert!(started.elapsed() < 2 * PATIENCE, "{what} did not come to be: {status:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn active(status: &MeshStatus) -> usize {
    status
        .reservations
        .iter()
        .filter(|reservation| reservation.state == "active" && !reservation.circuits.is_empty())
        .count()
}

async fn echoed(from: &Mesh, to: &Mesh, bytes: usize) -> Vec<u8> {
    let stream = timeout(PATIENCE, from.open(to.node_id(), ECHO)).await.unwrap().unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sent: Vec<u8> = (0..bytes).map(|at| (at * 31 % 251) as u8).collect();
    let copy = sent.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&copy).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    timeout(3 * PATIENCE, reader.read_to_end(&mut received)).await.unwrap().unwrap();
    writing.await.unwrap();
    assert!(received == sent, "the echo differs");
    received
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_listen_nowhere_meet_through_a_relay_of_which_they_know_the_address_only() {
    let network = network();
    let (relay, _relay_events, addr) = relay(&network, RelayLimits::default()).await;
    let started = Instant::now();
    let (one, _one_events) = start(hidden(&network, &[&addr])).await;
    // The other is late: it has been there for a while when it first has anything to say of itself.
    let (two, _two_events) = start(hidden(&network, &[])).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    timeout(PATIENCE, two.dial(addr)).await.unwrap().unwrap();
    echo(&two);
    for mesh in [&one, &two] {
        eventually(mesh, "a reservation", |status| (active(status) == 1).then_some(())).await;
    }
    println!("both nodes held a reservation {:?} after the first one's start", started.elapsed());
    // They hear of each other from the relay, and connect by themselves.
    let met = |status: &MeshStatus| {
        let path = status.paths.iter().find(|path| path.node == two.node_id())?;
        assert_eq!(path.transport, Transport::Relay);
        Some((path.addr.to_string(), path.direction))
    };
    let (path, direction) = eventually(&one, "a circuit", met).await;
    assert_eq!(path.matches("/p2p-circuit").count(), 1, "{path}");
    println!("they met {:?} after the first one's start", started.elapsed());
    echoed(&one, &two, 1 << 20).await;
    let counters = relay.status().await.unwrap().relay.unwrap().counters;
    assert_eq!((counters.reservations, counters.reservations_denied), (2, 0));
    assert!(counters.circuits_accepted >= 1 && counters.circuits >= 1, "{counters:?}");
    assert!(counters.carried_bytes > 2 << 20, "{counters:?}");
    // Which of them dialled is decided by their ids.
    let reached = if direction == Direction::Outbound { &two } else { &one };
    let status = eventually(reached, "a round trip", |status| {
        (!status.reachable_via.is_empty()).then(|| status.clone())
    })
    .await;
    assert!(
        status.reachable_via.iter().any(|addr| addr.to_string().ends_with("/p2p-circuit")),
        "{status:#?}"
    );
    assert!(!status.open, "strangers do not get through");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_goes_away_is_replaced_by_one_that_was_only_heard_of() {
    let network = network();
    let (first, _first_events, first_addr) = relay(&network, RelayLimits::default()).await;
    let (second, _second_events, second_addr) = relay(&network, RelayLimits::default()).await;
    let (third, _third_events, third_addr) = relay(&network, RelayLimits::default()).await;
    for addr in [&second_addr, &third_addr] {
        first.dial(addr.clone()).await.unwrap();
    }
    // The node is told of one relay; two more it learns of.
    let (node, _events) = start(hidden(&network, &[&first_addr])).await;
    let node_id = node.node_id();
    let held = |status: &MeshStatus| -> Vec<_> {
        let active = status.reservations.iter().filter(|reservation| reservation.state == "active");
        active.map(|reservation| reservation.relay).collect()
    };
    let before =
        eventually(&node, "two reservations", |status| (active(status) == 2).then(|| held(status))).await;
    let (lost, lost_id) = [(&first, first.node_id()), (&second, second.node_id()), (&third, third.node_id())]
        .into_iter()
        .find(|(_, id)| before.contains(id))
        .unwrap();
    let stopped = Instant::now();
    lost.stop().await;
    let after = eventually(&node, "another relay", |status| {
        let held = held(status);
        (held.len() == 2 && !held.contains(&lost_id)).then_some(held)
    })
    .await;
    println!("a lost reservation was replaced after {:?}", stopped.elapsed());
    assert!(stopped.elapsed() < Duration::from_secs(60));
    assert_ne!(before, after);
    assert_eq!(node.node_id(), node_id);
    let status = node.status().await.unwrap();
    assert!(status.past_reservations.iter().any(|past| past.relay == lost_id && past.state == "lost"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_relay_refuses_and_says_so() {
    let network = network();
    let limits = RelayLimits { reservations_max: 1, ..RelayLimits::default() };
    let (relay, _relay_events, addr) = relay(&network, limits).await;
    let (one, _one_events) = start(hidden(&network, &[&addr])).await;
    eventually(&one, "a reservation", |status| (active(status) == 1).then_some(())).await;
    let (two, _two_events) = start(hidden(&network, &[&addr])).await;
    let refused = eventually(&two, "a refusal", |status| {
        status.past_reservations.iter().find(|past| past.state == "failed")?.cause.clone()
    })
    .await;
    println!("refused: {refused}");
    eventually(&relay, "the count of it", |status| {
        (status.relay.as_ref()?.counters.reservations_denied >= 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_carries_no_more_per_second_than_its_operator_gives() {
    let network = network();
    let limits = RelayLimits { peer_bytes_per_second: 1 << 20, ..RelayLimits::default() };
    let (_relay, _relay_events, addr) = relay(&network, limits).await;
    let (one, _one_events) = start(hidden(&network, &[&addr])).await;
    let (two, _two_events) = start(hidden(&network, &[&addr])).await;
    echo(&two);
    eventually(&two, "a reservation", |status| (active(status) == 1).then_some(())).await;
    eventually(&one, "a circuit", |status| {
        status.paths.iter().any(|path| path.node == two.node_id()).then_some(())
    })
    .await;
    let started = Instant::now();
    echoed(&one, &two, 3 << 20).await;
    let took = started.elapsed();
    println!("3 MiB there and back took {took:?} at 1 MiB/s for each peer");
    assert!(took > Duration::from_secs(2), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_a_network_leads_back_into_it_after_a_restart() {
    let network = network();
    let (_relay, _relay_events, addr) = relay(&network, RelayLimits::default()).await;
    let node = hidden(&network, &[&addr]);
    let (mesh, events) = start(node.clone()).await;
    eventually(&mesh, "the relay's announcement", |status| (status.known_relays == 1).then_some(())).await;
    let known = mesh.known().await;
    mesh.stop().await;
    drop((mesh, events));
    let (again, _events) = start(MeshConfig { seeds: Vec::new(), known, ..node }).await;
    eventually(&again, "a reservation", |status| (active(status) == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_move_to_a_direct_path_and_the_circuit_is_left() {
    let network = network();
    let (_relay, _relay_events, addr) = relay(&network, RelayLimits::default()).await;
    let (one, _one_events) = start(hidden(&network, &[&addr])).await;
    let listening = MeshConfig {
        seeds: vec![addr.clone()],
        reach: ReachConfig { reservations: Reservations::Always, ..ReachConfig::default() },
        ..config(&network)
    };
    let (two, _two_events) = start(listening).await;
    echo(&two);
    eventually(&two, "a reservation", |status| (active(status) == 1).then_some(())).await;
    let circuit: Multiaddr =
        two.listen_addrs().await.into_iter().find(|addr| addr.to_string().contains("p2p-circuit")).unwrap();
    assert_eq!(timeout(PATIENCE, one.dial(circuit)).await.unwrap().unwrap(), two.node_id());
    let paths = |status: &MeshStatus| -> Vec<Transport> {
        let of_two = status.paths.iter().filter(|path| path.node == two.node_id());
        of_two.map(|path| path.transport).collect()
    };
    echoed(&one, &two, 1 << 10).await;
    eventually(&one, "a direct path beside the circuit", |status| {
        paths(status).iter().any(|transport| *transport != Transport::Relay).then_some(())
    })
    .await;
    // New streams take the better way, and the circuit idles out.
    echoed(&one, &two, 1 << 20).await;
    let started = Instant::now();
    loop {
        let now = paths(&one.status().await.unwrap());
        if !now.is_empty() && now.iter().all(|transport| *transport != Transport::Relay) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(100), "the circuit stays: {now:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_can_be_dialled_while_its_relay_is_being_dialled() {
    let network = network();
    let (_relay, _relay_events, addr) = relay(&network, RelayLimits::default()).await;
    let (two, _two_events) = start(hidden(&network, &[&addr])).await;
    eventually(&two, "a reservation", |status| (active(status) == 1).then_some(())).await;
    let circuit: Multiaddr =
        two.listen_addrs().await.into_iter().find(|addr| addr.to_string().contains("p2p-circuit")).unwrap();
    for round in 0..5 {
        let (one, _one_events) = start(hidden(&network, &[])).await;
        let (to_relay, to_two) = tokio::join!(one.dial(addr.clone()), one.dial(circuit.clone()));
        to_relay.unwrap();
        assert_eq!(to_two.unwrap_or_else(|error| panic!("round {round}: {error}")), two.node_id());
    }
    // Nobody needs to have heard of the relay.
    let (three, _three_events) = start(hidden(&network, &[])).await;
    assert_eq!(timeout(PATIENCE, three.dial(circuit)).await.unwrap().unwrap(), two.node_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_through_a_relay_that_is_gone_fails_with_that_as_its_cause() {
    let network = network();
    let (relay, _relay_events, addr) = relay(&network, RelayLimits::default()).await;
    let (two, _two_events) = start(hidden(&network, &[&addr])).await;
    eventually(&two, "a reservation", |status| (active(status) == 1).then_some(())).await;
    let circuit: Multiaddr =
        two.listen_addrs().await.into_iter().find(|addr| addr.to_string().contains("p2p-circuit")).unwrap();
    relay.stop().await;
    let (one, _one_events) = start(hidden(&network, &[])).await;
    let error = timeout(PATIENCE, one.dial(circuit)).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("relay is not reached"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_who_hears_of_a_crowd_goes_to_a_few_of_it() {
    let network = network();
    let (_relay, _relay_events, seed) = relay(&network, RelayLimits::default()).await;
    let mut crowd = Vec::new();
    for _ in 0..16 {
        let addr: Multiaddr = format!("/ip4/127.0.0.1/tcp/{}", free_port()).parse().unwrap();
        let reach = ReachConfig { external: vec![addr.clone()], ..ReachConfig::default() };
        crowd.push(start(MeshConfig { listen: vec![addr], reach, ..hidden(&network, &[&seed]) }).await);
    }
    let begun = Instant::now();
    while crowd[0].0.known().await.len() < 12 {
        assert!(begun.elapsed() < PATIENCE, "the crowd hears of itself");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let reach = ReachConfig { reservations: Reservations::Never, ..ReachConfig::default() };
    // Of two who find each other the one with the lower name waits a moment: so does the newcomer here, for everybody.
    let lowest = crowd.iter().map(|(mesh, _)| mesh.node_id()).min().unwrap();
    let mut secrets = (0..=u16::MAX).map(|number| {
        let mut secret = [0; 32];
        secret[..2].copy_from_slice(&number.to_be_bytes());
        secret
    });
    let secret = secrets.find(|secret| SigningKey::from_seed(secret).node_id() < lowest);
    let config = MeshConfig { secret: secret.unwrap(), reach, ..hidden(&network, &[&seed]) };
    let (newcomer, mut events) = start(config).await;
    let mut dialled = 0;
    let mut quiet_from = Instant::now() + PATIENCE;
    // A busy machine begins late: what is waited for is that it goes to some, and after them to nobody for a while.
    while let Ok(Some(event)) = tokio::time::timeout_at(quiet_from.into(), events.recv()).await {
        if matches!(event, MeshEvent::DialAttempt(_)) {
            dialled += 1;
            if dialled == 3 {
                quiet_from = Instant::now() + Duration::from_secs(5);
            }
        }
    }
    assert!(newcomer.known().await.len() >= 12, "it has heard of the crowd");
    assert!((3..=8).contains(&dialled), "{dialled} dials");
}
