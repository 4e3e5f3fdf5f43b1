//! Nodes on 127.0.0.1 for tests, and waiting for what they tell.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod web;

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use wc_mesh::{DhtRole, LanDiscovery, Mesh, MeshConfig, MeshEvent, MeshEvents, MeshLimits};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

static NEXT: AtomicU32 = AtomicU32::new(1);

/// Returns a network name that no other test uses, in this process or beside it.
pub fn network() -> String {
    install_crypto();
    format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Returns a port of loopback that is free, and that the system gives to nobody who does not ask for it by number: it is below
/// the ports that it deals out, and no other test that runs now looks among the same thirty-two.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let first = 10_000 + (32 * std::process::id() + TAKEN.fetch_add(1, Ordering::Relaxed)) % 9_900;
    let free = |port: &u16| {
        let here = ("127.0.0.1", *port);
        std::net::TcpListener::bind(here).is_ok() && std::net::UdpSocket::bind(here).is_ok()
    };
    (u16::try_from(first).expect("below 20,000")..19_990).find(free).expect("a free port")
}

/// Installs the process's crypto provider once.
pub fn install_crypto() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
        let _ = tracing_subscriber::fmt().with_env_filter("wc_mesh=debug").with_test_writer().try_init();
    });
}

/// Returns a configuration that finds nobody by itself and listens on free loopback ports.
pub fn config(network: &str) -> MeshConfig {
    let mut secret = [0; 32];
    secret[..4].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    secret[4..8].copy_from_slice(&std::process::id().to_be_bytes());
    MeshConfig {
        listen: vec![
            "/ip4/127.0.0.1/tcp/0".parse().unwrap(),
            "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap(),
        ],
        lan: LanDiscovery { mdns: false, loopback: false },
        dht: DhtRole::Client,
        limits: MeshLimits::default(),
        ..MeshConfig::new(secret, network)
    }
}

/// Starts one node.
pub async fn start(config: MeshConfig) -> (Mesh, MeshEvents) {
    Mesh::start(config).await.unwrap()
}

/// Starts two nodes of one network and connects the first to the second; both know each other then.
pub async fn pair() -> ((Mesh, MeshEvents), (Mesh, MeshEvents)) {
    let network = network();
    let (one, mut two) = (start(config(&network)).await, start(config(&network)).await);
    let addr = two.0.listen_addrs().await.remove(0);
    assert_eq!(timeout(PATIENCE, one.0.dial(addr)).await.unwrap().unwrap(), two.0.node_id());
    until(&mut two.1, |event| matches!(event, MeshEvent::Connected { .. }).then_some(())).await;
    (one, two)
}

/// Waits for the first event that `pick` wants.
pub async fn until<T>(events: &mut MeshEvents, mut pick: impl FnMut(MeshEvent) -> Option<T>) -> T {
    timeout(PATIENCE, async {
        loop {
            let event = events.recv().await.expect("the mesh has stopped");
            if let Some(found) = pick(event) {
                return found;
            }
        }
    })
    .await
    .expect("the event did not come in time")
}
