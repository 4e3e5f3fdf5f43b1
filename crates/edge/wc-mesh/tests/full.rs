//! A narrow path that is full of bytes works, and is not left for another one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{PATIENCE, config, network, start, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use wc_mesh::{MeshEvent, Multiaddr};

const BULK: &str = "/test/bulk/1.0.0";
/// Longer than a path that is silent would be kept.
const WATCHED: Duration = Duration::from_secs(15);
/// Datagrams that wait at the narrow place; one more is lost.
const QUEUED_MAX: usize = 24;

/// Returns the address of a narrow place on the way to a QUIC listener of this machine, for one dialler.
async fn narrow(target: &Multiaddr, bytes_per_second: u32) -> Multiaddr {
    let mut parts = target.to_string().split('/').map(str::to_owned).collect::<Vec<_>>();
    let target: SocketAddr = format!("{}:{}", parts[2], parts[4]).parse().unwrap();
    let near = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    let far = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    parts[4] = near.local_addr().unwrap().port().to_string();
    let (queue, mut queued) = mpsc::channel::<Vec<u8>>(QUEUED_MAX);
    let out = far.clone();
    tokio::spawn(async move {
        while let Some(datagram) = queued.recv().await {
            sleep(Duration::from_secs(datagram.len() as u64) / bytes_per_second).await;
            let _ = out.send_to(&datagram, target).await;
        }
    });
    tokio::spawn(async move {
        let (mut there, mut back) = ([0; 2048], [0; 2048]);
        let mut dialler = None;
        loop {
            tokio::select! {
                came = near.recv_from(&mut there) => {
                    let Ok((count, from)) = came else { continue };
                    dialler = Some(from);
                    let _ = queue.try_send(there[..count].to_vec());
                }
                came = far.recv_from(&mut back) => {
                    if let (Ok((count, _)), Some(dialler)) = (came, dialler) {
                        let _ = near.send_to(&back[..count], dialler).await;
                    }
                }
            }
        }
    });
    parts.join("/").parse().unwrap()
}

/// Sends over so many streams at once whatever the path takes; every one of them must last.
async fn fill(streams: usize, bytes_per_second: u32) {
    let network = network();
    let (there, mut there_events) = start(config(&network)).await;
    let (here, _here_events) = start(config(&network)).await;
    let mut incoming = there.accept(BULK).unwrap();
    let came = Arc::new(AtomicU64::new(0));
    let counter = came.clone();
    tokio::spawn(async move {
        while let Some((_, mut stream)) = incoming.recv().await {
            let counter = counter.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 64 << 10];
                while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                    counter.fetch_add(count as u64, Ordering::Relaxed);
                }
            });
        }
    });
    let quic = |addr: &Multiaddr| addr.to_string().contains("quic");
    let direct = there.listen_addrs().await.into_iter().find(quic).unwrap();
    let slow = narrow(&direct, bytes_per_second).await;
    timeout(PATIENCE, here.dial(slow)).await.unwrap().unwrap();
    until(&mut there_events, |event| matches!(event, MeshEvent::Connected { .. }).then_some(())).await;

    let mut opened = Vec::new();
    for _ in 0..streams {
        opened.push(timeout(PATIENCE, here.open(there.node_id(), BULK)).await.unwrap().unwrap());
    }
    let mut writers = JoinSet::new();
    for mut stream in opened {
        writers.spawn(async move {
            let block = vec![7; 256 << 10];
            loop {
                if let Err(error) = stream.write_all(&block).await {
                    return error;
                }
            }
        });
    }
    let began = Instant::now();
    let ended = timeout(WATCHED, writers.join_next()).await;
    assert!(ended.is_err(), "a stream ended after {:?}: {ended:?}", began.elapsed());
    let rate = came.load(Ordering::Relaxed) / WATCHED.as_secs();
    println!("{streams} streams: {rate} bytes a second of {bytes_per_second}");
    assert!(rate > 0, "nothing travels");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_the_streams_of_one_blob_fill_is_kept() {
    fill(4, 100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_whose_streams_leave_no_room_for_a_ping_is_kept() {
    fill(14, 250_000).await;
}
