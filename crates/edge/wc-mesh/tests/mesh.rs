//! Nodes find, reach and refuse each other over real sockets.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::time::{Duration, Instant};

use support::{PATIENCE, config, free_port, install_crypto, network, pair, start, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use wc_mesh::{
    DhtRole, DialError, DialOutcome, Direction, LanDiscovery, Mesh, MeshConfig, MeshEvent, Multiaddr,
    OpenError, StartError, StreamLimits, StreamRefusal, TcpSession, Transport, Via,
};
use wc_proto::peer::beacon::{Beacon, Port};
use wc_types::NodeId;

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

#[tokio::test(flavor = "multi_thread")]
async fn two_fresh_nodes_find_each_other_on_loopback_within_a_second() {
    let network = network();
    let lan = LanDiscovery { mdns: false, loopback: true };
    let (one, mut one_events) = start(MeshConfig { lan, ..config(&network) }).await;
    let started = Instant::now();
    let (two, mut two_events) = start(MeshConfig { lan, ..config(&network) }).await;
    let connected = |event| match event {
        MeshEvent::Connected { node, .. } => Some(node),
        _ => None,
    };
    assert_eq!(until(&mut two_events, connected).await, one.node_id());
    let took = started.elapsed();
    assert_eq!(until(&mut one_events, connected).await, two.node_id());
    assert!(took < Duration::from_secs(1), "took {took:?}");
    println!("two fresh nodes were connected {took:?} after the second one's start");
    let peers = one.peers().await;
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].node, two.node_id());
    assert!(peers[0].agent_version.starts_with("worldcompute/"), "{}", peers[0].agent_version);
    assert!(!peers[0].agent_version.contains("net="), "the network is not part of the version");
}

/// Nobody signs a beacon, and each new name in one costs a dial.
#[tokio::test(flavor = "multi_thread")]
async fn made_up_beacons_are_followed_no_faster_than_real_nodes_come() {
    const BURST: u64 = 256;
    const PER_SECOND: u64 = 5;
    let network = network();
    let lan = LanDiscovery { mdns: false, loopback: true };
    let (_one, mut events) = start(MeshConfig { lan, ..config(&network) }).await;
    let begun = Instant::now();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let digest = wc_types::cid::sha256(network.as_bytes());
    for number in 0_u64..4000 {
        let mut node = [7; 32];
        node[..8].copy_from_slice(&number.to_be_bytes());
        let beacon = Beacon {
            network: std::array::from_fn(|at| digest[at]),
            boot: number,
            node: NodeId(node),
            ports: vec![Port::Tcp(1)],
        };
        socket.send_to(&beacon.encode(), "239.255.77.67:19998").unwrap();
        if number % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let (mut followed, mut complained) = (0, false);
    while let Ok(Some(event)) = timeout(Duration::from_secs(2), events.recv()).await {
        match event {
            MeshEvent::Discovered { via: Via::Loopback, .. } => followed += 1,
            MeshEvent::DiscoveryUnavailable { via: Via::Loopback, .. } => complained = true,
            _ => {}
        }
    }
    if followed == 0 {
        println!("SKIP: multicast on the loopback interface does not come through here");
        return;
    }
    let most = BURST + PER_SECOND * (begun.elapsed().as_secs() + 1);
    assert!(complained && followed <= most, "{followed} of them were followed, and {most} may be");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_networks_on_one_machine_do_not_see_each_other() {
    let (red, blue) = (network(), network());
    let lan = LanDiscovery { mdns: false, loopback: true };
    let (_one, mut one_events) = start(MeshConfig { lan, ..config(&red) }).await;
    let (other, _other_events) = start(MeshConfig { lan, ..config(&blue) }).await;
    let (two, _two_events) = start(MeshConfig { lan, ..config(&red) }).await;
    // When the second red node is connected, the blue one has had its chance.
    until(&mut one_events, |event| match event {
        MeshEvent::Connected { node, .. } => {
            assert_eq!(node, two.node_id());
            Some(())
        }
        MeshEvent::Discovered { node, .. } => {
            assert_ne!(node, other.node_id());
            None
        }
        _ => None,
    })
    .await;
    assert!(other.peers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_network_is_turned_away_on_both_sides() {
    let (one, mut one_events) = start(config(&network())).await;
    let (two, mut two_events) = start(config(&network())).await;
    let addr = two.listen_addrs().await.remove(0);
    let error = timeout(PATIENCE, one.dial(addr)).await.unwrap().unwrap_err();
    assert!(
        matches!(error, DialError::WrongNetwork { node, .. } | DialError::Unidentified { node, .. } if node == two.node_id()),
        "{error}"
    );
    // Whichever side reads the other's identification first hangs up; both never let streams through.
    let wrong = |event| matches!(event, MeshEvent::WrongNetwork { .. }).then_some(());
    tokio::select! {
        () = until(&mut one_events, wrong) => (),
        () = until(&mut two_events, wrong) => (),
    }
    assert!(one.peers().await.is_empty() && two.peers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_dial_tells_target_transport_and_cause() {
    let (one, mut events) = start(config(&network())).await;
    let port = free_port();
    let addr: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let error = timeout(PATIENCE, one.dial(addr.clone())).await.unwrap().unwrap_err();
    let DialError::Unreachable { attempts } = &error else { panic!("{error}") };
    assert_eq!(attempts.len(), 1);
    let attempt = until(&mut events, |event| match event {
        MeshEvent::DialAttempt(attempt) => Some(attempt),
        _ => None,
    })
    .await;
    assert_eq!(attempt.target_multiaddr, addr);
    assert_eq!(attempt.transport, Some(Transport::Tcp));
    assert!(matches!(attempt.outcome, DialOutcome::TransportError(_)), "{:?}", attempt.outcome);
    assert!(attempt.root_cause.unwrap().to_lowercase().contains("refused"));

    let unknown: Multiaddr = "/dns4/example.invalid/tcp/443/wss".parse().unwrap();
    assert!(matches!(
        timeout(PATIENCE, one.dial(unknown)).await.unwrap(),
        Err(DialError::Unreachable { .. })
    ));
    let own = one.listen_addrs().await.remove(0);
    assert!(matches!(timeout(PATIENCE, one.dial(own)).await.unwrap(), Err(DialError::Ourselves)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_answers_with_another_key_is_denied() {
    let network = network();
    let (one, _one_events) = start(config(&network)).await;
    let (two, _two_events) = start(config(&network)).await;
    let (three, _three_events) = start(config(&network)).await;
    let wrong = two.listen_addrs().await.remove(0).to_string();
    let wrong = wrong.replace(&two.node_id().to_string(), &three.node_id().to_string()).parse().unwrap();
    let error = timeout(PATIENCE, one.dial(wrong)).await.unwrap().unwrap_err();
    let DialError::Unreachable { attempts } = &error else { panic!("{error}") };
    assert!(matches!(attempts[0].outcome, DialOutcome::Denied(_)), "{error}");
    assert!(error.to_string().contains(&two.node_id().to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_carry_bytes_both_ways_over_each_transport() {
    let network = network();
    let noise = MeshConfig { tcp_session: TcpSession::Noise, ..config(&network) };
    for config in [config(&network), noise] {
        let (one, _one_events) = start(config).await;
        let (two, _two_events) = start(support::config(&network)).await;
        echo(&two);
        for addr in two.listen_addrs().await {
            let expected = wc_mesh::address::transport_of(&addr).unwrap();
            timeout(PATIENCE, one.dial(addr)).await.unwrap().unwrap();
            assert_eq!(one.peers().await[0].transport, expected);
            let mut stream = one.open(two.node_id(), ECHO).await.unwrap();
            let sent: Vec<u8> = (0..1_000_000u32).map(|i| i as u8).collect();
            let (mut reader, mut writer) = tokio::io::split(&mut stream);
            let send = async {
                writer.write_all(&sent).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let receive = async {
                let mut received = Vec::new();
                reader.read_to_end(&mut received).await.unwrap();
                received
            };
            let ((), received) = timeout(PATIENCE, async { tokio::join!(send, receive) }).await.unwrap();
            assert_eq!(received.len(), sent.len());
            assert!(received == sent, "the echo differs");
            drop(stream);
            one.disconnect(two.node_id()).await;
            timeout(PATIENCE, async {
                while !one.peers().await.is_empty() || !two.peers().await.is_empty() {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_that_nobody_accepts_is_unsupported() {
    let ((one, _one_events), (two, _two_events)) = pair().await;
    let error = one.open(two.node_id(), "/test/nothing/1.0.0").await.unwrap_err();
    assert!(matches!(error, OpenError::UnsupportedProtocol { .. }), "{error}");
    assert!(matches!(one.open(two.node_id(), "no slash").await, Err(OpenError::Malformed { .. })));
    let held = two.accept(ECHO).unwrap();
    assert!(two.accept(ECHO).is_err(), "one acceptor per protocol");
    drop(held);
    assert!(two.accept(ECHO).is_ok(), "a dropped acceptor makes room");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_a_peers_limit_are_reset_and_reported() {
    let ((one, _one_events), (two, mut two_events)) = pair().await;
    let limits = StreamLimits { per_peer_max: 2, ..StreamLimits::default() };
    let mut incoming = two.accept_within(ECHO, limits).unwrap();
    let mut first = one.open(two.node_id(), ECHO).await.unwrap();
    let _second = one.open(two.node_id(), ECHO).await.unwrap();
    let mut third = one.open(two.node_id(), ECHO).await.unwrap();
    let reason = until(&mut two_events, |event| match event {
        MeshEvent::StreamRefused { reason, .. } => Some(reason),
        _ => None,
    })
    .await;
    assert_eq!(reason, StreamRefusal::TooMany);
    let mut byte = [0];
    let ended = timeout(PATIENCE, third.read(&mut byte)).await.unwrap();
    assert!(!matches!(ended, Ok(1..)), "the third stream is dead: {ended:?}");
    let (_, mut held) = incoming.recv().await.unwrap();
    first.write_all(b"x").await.unwrap();
    first.flush().await.unwrap();
    held.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"x", "the streams within the limit live on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_streams_within_the_limits_loses_none() {
    let network = network();
    let (one, _one_events) = start(config(&network)).await;
    let (two, _two_events) = start(config(&network)).await;
    // The first may open streams as soon as it knows the second, which may not know the first yet.
    timeout(PATIENCE, one.dial(two.listen_addrs().await.remove(0))).await.unwrap().unwrap();
    let mut incoming = two.accept(ECHO).unwrap();
    let opened = futures::future::join_all((0..60).map(|_| one.open(two.node_id(), ECHO))).await;
    let opened: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
    for _ in &opened {
        timeout(PATIENCE, incoming.recv()).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_dial_each_other_at_once_stay_connected() {
    let network = network();
    // One time in fifty or so both SYNs make one TCP connection, which both believe to have opened.
    for _ in 0..40 {
        let (one, _one_events) = start(config(&network)).await;
        let (two, _two_events) = start(config(&network)).await;
        echo(&two);
        let (to_two, to_one) = (two.listen_addrs().await.remove(0), one.listen_addrs().await.remove(0));
        let (left, right) = tokio::join!(one.dial(to_two), two.dial(to_one));
        assert_eq!((left.unwrap(), right.unwrap()), (two.node_id(), one.node_id()));
        let mut stream = one.open(two.node_id(), ECHO).await.unwrap();
        stream.write_all(b"still here").await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = [0; 10];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"still here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_replaced_and_the_event_says_by_what() {
    let network = network();
    let mut first = config(&network);
    let port = free_port();
    let (udp, tcp) = (format!("/ip4/127.0.0.1/udp/{port}/quic-v1"), format!("/ip4/127.0.0.1/tcp/{port}"));
    first.listen = vec![tcp.parse().unwrap(), udp.parse().unwrap()];
    let mut second = config(&network);
    second.listen = first.listen.clone();
    let (one, _one_events) = start(first).await;
    let (two, mut two_events) = start(second).await;
    let ports = |addrs: Vec<Multiaddr>| {
        let mut ports: Vec<String> =
            addrs.iter().map(|addr| addr.to_string().split('/').nth(4).unwrap().to_owned()).collect();
        ports.sort();
        ports
    };
    let (of_one, of_two) = (ports(one.listen_addrs().await), ports(two.listen_addrs().await));
    assert_eq!((of_one.len(), of_two.len()), (2, 2));
    assert_eq!(of_one[0], of_one[1], "the first node has the port it wanted, twice");
    assert!(!of_two.contains(&of_one[0]), "the second node shares neither");
    for _ in 0..2 {
        until(&mut two_events, |event| match event {
            MeshEvent::ListenFailed { instead, .. } => {
                assert!(instead.is_some());
                Some(())
            }
            _ => None,
        })
        .await;
    }
    // Whoever dials the first node's port reaches the first node.
    let (three, _three_events) = start(config(&network)).await;
    for addr in one.listen_addrs().await {
        assert_eq!(timeout(PATIENCE, three.dial(addr)).await.unwrap().unwrap(), one.node_id());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_is_dialled_again_when_it_comes_back() {
    let network = network();
    let port = free_port();
    let listen: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let mut seeded = config(&network);
    seeded.seeds = vec![listen.clone()];
    let (one, mut one_events) = start(seeded).await;
    let mut seed = config(&network);
    seed.listen = vec![listen];
    let connected = |event| match event {
        MeshEvent::Connected { node, .. } => Some(node),
        _ => None,
    };
    // The seed is not there yet, then there, then gone, then there again.
    let (two, two_events) = start(seed.clone()).await;
    assert_eq!(until(&mut one_events, connected).await, two.node_id());
    two.stop().await;
    drop((two, two_events));
    until(&mut one_events, |event| matches!(event, MeshEvent::Disconnected { .. }).then_some(())).await;
    let (two, _two_events) = start(seed).await;
    assert_eq!(until(&mut one_events, connected).await, two.node_id());
    assert_eq!(one.peers().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_known_only_by_its_id_is_found_through_the_table_of_a_third() {
    let network = network();
    let server = |network: &str| MeshConfig { dht: DhtRole::Server, ..config(network) };
    let (hub, mut hub_events) = start(server(&network)).await;
    let (target, _target_events) = start(server(&network)).await;
    let (seeker, mut seeker_events) = start(config(&network)).await;
    echo(&target);
    let hub_addr = hub.listen_addrs().await.remove(0);
    timeout(PATIENCE, target.dial(hub_addr.clone())).await.unwrap().unwrap();
    until(&mut hub_events, |event| matches!(event, MeshEvent::Connected { .. }).then_some(())).await;
    timeout(PATIENCE, seeker.dial(hub_addr)).await.unwrap().unwrap();
    seeker.connect(target.node_id(), Vec::new()).await;
    until(&mut seeker_events, |event| match event {
        MeshEvent::Connected { node, .. } if node == target.node_id() => Some(()),
        _ => None,
    })
    .await;
    assert!(seeker.open(target.node_id(), ECHO).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_node_is_cut_off_and_stays_out() {
    let ((one, mut one_events), (two, mut two_events)) = pair().await;
    one.ban(two.node_id()).await;
    let cause = until(&mut one_events, |event| match event {
        MeshEvent::Disconnected { cause, .. } => Some(cause),
        _ => None,
    })
    .await;
    assert_eq!(cause, "banned");
    until(&mut two_events, |event| matches!(event, MeshEvent::Disconnected { .. }).then_some(())).await;
    assert!(matches!(one.reach(two.node_id()).await, Err(DialError::Banned { .. })));
    let addr = one.listen_addrs().await.remove(0);
    assert!(timeout(PATIENCE, two.dial(addr)).await.unwrap().is_err());
    assert!(one.peers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_mesh_says_so_to_everyone() {
    let ((one, mut one_events), (two, _two_events)) = pair().await;
    let mut incoming = one.accept(ECHO).unwrap();
    one.stop().await;
    assert!(incoming.recv().await.is_none());
    while one_events.recv().await.is_some() {}
    assert!(matches!(one.open(two.node_id(), ECHO).await, Err(OpenError::Stopped)));
    assert!(matches!(one.reach(two.node_id()).await, Err(DialError::Stopped)));
    assert!(one.listen_addrs().await.is_empty());
}

#[tokio::test]
async fn a_network_name_that_could_be_mistaken_is_refused() {
    install_crypto();
    for name in ["", "Lab", "a b", "net=x", &"x".repeat(65)] {
        let started = Mesh::start(config(name)).await;
        assert!(matches!(started, Err(StartError::NetworkName { .. })), "{name:?}");
    }
}

#[test]
fn ways_of_discovery_have_names_for_logs() {
    assert_eq!(
        [Via::Mdns, Via::Loopback, Via::Kademlia, Via::Seed].map(|via| via.to_string()).join(" "),
        "mdns loopback kademlia seed"
    );
}

/// Processor time of this process so far, in hundredths of a second.
fn busy_ticks() -> u64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = text.rsplit_once(')').unwrap();
    fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_message_that_ends_too_early_keeps_no_thread_busy() {
    let ((one, _one_events), (two, _two_events)) = pair().await;
    // AutoNAT's dial-back, of a length that does not come; its reader reads the end of it again and again.
    for _ in 0..2 {
        let mut stream = one.open(two.node_id(), "/libp2p/autonat/2/dial-back").await.unwrap();
        stream.write_all(&[0x20, 1, 2, 3]).await.unwrap();
        stream.shutdown().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = busy_ticks();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let busy = busy_ticks() - before;
    assert!(busy < 40, "two idle nodes took {} ms of two seconds", busy * 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_families_listen_on_one_port() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        println!("SKIP: this machine does not speak IPv6");
        return;
    }
    let network = network();
    let port = std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let listen = [
        format!("/ip4/0.0.0.0/tcp/{port}"),
        format!("/ip4/0.0.0.0/udp/{port}/quic-v1"),
        format!("/ip6/::/tcp/{port}"),
        format!("/ip6/::/udp/{port}/quic-v1"),
    ];
    let listen = listen.map(|addr| addr.parse().unwrap()).to_vec();
    let (mesh, _events) = start(MeshConfig { listen, ..config(&network) }).await;
    let addrs: Vec<String> = mesh.listen_addrs().await.iter().map(ToString::to_string).collect();
    for wanted in [
        format!("/ip4/127.0.0.1/tcp/{port}/"),
        format!("/ip4/127.0.0.1/udp/{port}/"),
        format!("/ip6/::1/tcp/{port}/"),
        format!("/ip6/::1/udp/{port}/"),
    ] {
        assert!(addrs.iter().any(|addr| addr.starts_with(&wanted)), "{wanted}: {addrs:?}");
    }
    // A second node on the same ports must not share them: the kernel would deal out the connections.
    let listen = vec![format!("/ip6/::/tcp/{port}").parse().unwrap()];
    let (other, _events) = start(MeshConfig { listen, ..config(&network) }).await;
    let addrs: Vec<String> = other.listen_addrs().await.iter().map(ToString::to_string).collect();
    assert!(addrs.iter().all(|addr| !addr.contains(&format!("/tcp/{port}/"))), "{addrs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_seeds_addresses_the_best_one_wins_in_whatever_order_they_are_named() {
    let network = network();
    let (seed, _seed_events) = start(config(&network)).await;
    let mut seeds = seed.listen_addrs().await;
    // On one machine that is TCP; the order of the transports is reversed here.
    seeds.sort_by_key(|addr| !addr.to_string().contains("quic"));
    assert!(seeds.len() >= 2 && seeds[0].to_string().contains("quic"), "{seeds:?}");
    let (node, mut events) = start(MeshConfig { seeds, ..config(&network) }).await;
    let transport = until(&mut events, |event| match event {
        MeshEvent::Connected { transport, .. } => Some(transport),
        _ => None,
    })
    .await;
    assert_eq!(transport, Transport::Tcp, "{:?}", node.peers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_nobody_uses_are_closed_by_whoever_made_them_and_a_few_stay() {
    let network = network();
    let mut hub = config(&network);
    hub.limits.idle_timeout = Duration::from_secs(1);
    let (hub, _hub_events) = start(hub).await;
    let mut others = Vec::new();
    for _ in 0..10 {
        let (other, events) = start(config(&network)).await;
        echo(&other);
        let addr = other.listen_addrs().await.remove(0);
        timeout(PATIENCE, hub.dial(addr)).await.unwrap().unwrap();
        others.push((other, events));
    }
    // The last of them would be the first to be left.
    let used = others[9].0.node_id();
    let mut stream = timeout(PATIENCE, hub.open(used, ECHO)).await.unwrap().unwrap();
    let (guest, _guest_events) = start(config(&network)).await;
    timeout(PATIENCE, guest.dial(hub.listen_addrs().await.remove(0))).await.unwrap().unwrap();
    timeout(PATIENCE, async {
        while hub.peers().await.len() > 6 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("most are left");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let stayed: Vec<_> = hub.peers().await.iter().map(|peer| peer.node).collect();
    assert_eq!(stayed.len(), 6, "no more than needed are left");
    assert!(stayed.contains(&guest.node_id()), "who came to us decides itself");
    stream.write_all(b"still there").await.unwrap();
    let mut answer = [0; 11];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_in_numbers_does_not_take_the_place_of_everybody_whom_a_node_chose() {
    let network = network();
    let mut hub = config(&network);
    hub.limits.idle_timeout = Duration::from_secs(1);
    let (hub, _hub_events) = start(hub).await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let (other, events) = start(config(&network)).await;
        let addr = other.listen_addrs().await.remove(0);
        timeout(PATIENCE, hub.dial(addr)).await.unwrap().unwrap();
        others.push((other, events));
    }
    let addr = hub.listen_addrs().await.remove(0);
    for _ in 0..8 {
        let (guest, events) = start(config(&network)).await;
        timeout(PATIENCE, guest.dial(addr.clone())).await.unwrap().unwrap();
        others.push((guest, events));
    }
    let chosen = async || {
        let peers = hub.peers().await;
        peers.iter().filter(|peer| peer.direction == Direction::Outbound).count()
    };
    timeout(PATIENCE, async {
        while chosen().await > 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("those who are too many are left");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(chosen().await, 2, "some of its own choice stay");
}
