//! A path that goes silent is left for another one before anybody loses patience.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{PATIENCE, config, network, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use wc_mesh::{Mesh, MeshConfig, Multiaddr};

const ECHO: &str = "/test/echo/1.0.0";
/// Half of what a user waits for at most; QUIC's own patience is thirty seconds, TCP's a quarter of an hour.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

/// A wire that can be cut without either end being told.
struct Wire {
    addr: Multiaddr,
    cut: Arc<AtomicBool>,
}

impl Wire {
    /// Returns a wire to a TCP listener on this machine.
    async fn to(target: &Multiaddr) -> Self {
        let mut parts = target.to_string().split('/').map(str::to_owned).collect::<Vec<_>>();
        let target = format!("{}:{}", parts[2], parts[4]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        parts[4] = listener.local_addr().unwrap().port().to_string();
        let cut = Arc::new(AtomicBool::new(false));
        let wire = Self { addr: parts.join("/").parse().unwrap(), cut: cut.clone() };
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&target).await.unwrap();
                let (near, far) = (near.into_split(), far.into_split());
                tokio::spawn(carry(near.0, far.1, cut.clone()));
                tokio::spawn(carry(far.0, near.1, cut.clone()));
            }
        });
        wire
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    cut: Arc<AtomicBool>,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if cut.load(Ordering::Relaxed) {
            // What was read is lost, and what comes later is not even read; nobody is told.
            return std::future::pending().await;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

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

/// Sends a word there and back.
async fn word(mesh: &Mesh, to: &Mesh) -> std::io::Result<()> {
    let mut stream = mesh.open(to.node_id(), ECHO).await.map_err(std::io::Error::other)?;
    stream.write_all(b"word").await?;
    stream.flush().await?;
    let mut back = [0; 4];
    stream.read_exact(&mut back).await?;
    assert_eq!(&back, b"word");
    Ok(())
}

/// Listens on TCP only, so that only wires lead to it.
async fn behind_wires(network: &str) -> (Mesh, wc_mesh::MeshEvents, Multiaddr) {
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let (mesh, events) = start(MeshConfig { listen, ..config(network) }).await;
    echo(&mesh);
    let addr = mesh.listen_addrs().await.remove(0);
    (mesh, events, addr)
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_on_a_path_that_went_silent_end_soon_and_new_ones_take_another_path() {
    let network = network();
    let (there, _there_events, addr) = behind_wires(&network).await;
    let (first, second) = (Wire::to(&addr).await, Wire::to(&addr).await);
    let (here, _here_events) = start(MeshConfig { listen: Vec::new(), ..config(&network) }).await;
    timeout(PATIENCE, here.dial(first.addr.clone())).await.unwrap().unwrap();
    let mut old = here.open(there.node_id(), ECHO).await.unwrap();
    old.write_all(b"word").await.unwrap();
    old.flush().await.unwrap();
    old.read_exact(&mut [0; 4]).await.unwrap();
    // Known, and not used yet; the peer's own address is known as well, from its identification.
    here.connect(there.node_id(), vec![second.addr.clone()]).await;

    first.cut.store(true, Ordering::Relaxed);
    let cut = Instant::now();
    old.write_all(b"word").await.unwrap();
    old.flush().await.unwrap();
    let ended = timeout(PATIENCE, old.read_exact(&mut [0; 4])).await.expect("the stream hangs");
    assert!(ended.is_err(), "nothing can have come back");
    println!("the stream ended {:?} after the cut", cut.elapsed());
    timeout(PATIENCE, word(&here, &there)).await.expect("the new stream hangs").unwrap();
    println!("a new one worked {:?} after the cut", cut.elapsed());
    assert!(cut.elapsed() < 2 * NOTICED_WITHIN, "{:?}", cut.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_opened_into_silence_is_opened_elsewhere() {
    let network = network();
    let (there, _there_events, addr) = behind_wires(&network).await;
    let (first, second) = (Wire::to(&addr).await, Wire::to(&addr).await);
    let (here, _here_events) = start(MeshConfig { listen: Vec::new(), ..config(&network) }).await;
    timeout(PATIENCE, here.dial(first.addr.clone())).await.unwrap().unwrap();
    here.connect(there.node_id(), vec![second.addr.clone()]).await;
    timeout(PATIENCE, word(&here, &there)).await.unwrap().unwrap();
    first.cut.store(true, Ordering::Relaxed);
    let cut = Instant::now();
    timeout(2 * PATIENCE, word(&here, &there)).await.expect("the stream hangs").unwrap();
    println!("a stream that was opened at the cut worked after {:?}", cut.elapsed());
    assert!(cut.elapsed() < 2 * NOTICED_WITHIN, "{:?}", cut.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lasting_connection_is_made_again_although_nothing_said_that_it_ended() {
    let network = network();
    let (there, _there_events, addr) = behind_wires(&network).await;
    let wire = Wire::to(&addr).await;
    let (here, _here_events) = start(MeshConfig { listen: Vec::new(), ..config(&network) }).await;
    here.connect(there.node_id(), vec![wire.addr.clone()]).await;
    timeout(PATIENCE, here.reach(there.node_id())).await.unwrap().unwrap();
    wire.cut.store(true, Ordering::Relaxed);
    let cut = Instant::now();
    let uses = here.open(there.node_id(), ECHO);
    let _ = timeout(NOTICED_WITHIN, uses).await;
    wire.cut.store(false, Ordering::Relaxed);
    loop {
        if let Ok(Ok(())) = timeout(Duration::from_secs(5), word(&here, &there)).await {
            break;
        }
        assert!(cut.elapsed() < 3 * PATIENCE, "it was not made again");
    }
    println!("it was there again {:?} after the cut", cut.elapsed());
}
