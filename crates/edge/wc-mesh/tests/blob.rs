//! Blobs travel whole, from several holders, past dead and lying ones.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

#[path = "support/memory.rs"]
mod memory;
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use memory::Memory;
use support::{PATIENCE, config, network, start, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use wc_mesh::blob::{
    BlobServer, Blocks, FetchError, FetchLimits, FetchStats, HolderFault, ServeLimits, fetch, serve,
};
use wc_mesh::{Mesh, MeshEvent, MeshEvents};
use wc_types::NodeId;
use wc_types::cid::{CODEC_RAW, Cid, cid_of};

const BLOB: &str = "/worldcompute/blob/1.0.0";
const CHUNK_BYTES: usize = 16 << 10;

fn chunks(count: u32) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(|index| {
        let mut chunk = vec![index as u8; CHUNK_BYTES];
        chunk[..4].copy_from_slice(&index.to_be_bytes());
        chunk
    })
}

struct Holder {
    mesh: Mesh,
    _events: MeshEvents,
    blocks: Arc<Memory>,
    _server: BlobServer,
}

async fn holder(network: &str, blocks: Memory) -> Holder {
    let (mesh, events) = start(config(network)).await;
    let blocks = Arc::new(blocks);
    let server = serve(&mesh, blocks.clone(), ServeLimits::default()).unwrap();
    Holder { mesh, _events: events, blocks, _server: server }
}

/// Starts a node that knows where the holders are.
async fn fetcher(network: &str, holders: &[&Holder]) -> (Mesh, MeshEvents) {
    let (mesh, events) = start(config(network)).await;
    for holder in holders {
        let addr = holder.mesh.listen_addrs().await.remove(0);
        timeout(PATIENCE, mesh.dial(addr)).await.unwrap().unwrap();
    }
    (mesh, events)
}

fn full(count: u32) -> (Memory, Cid) {
    let blocks = Memory::default();
    let root = blocks.add_dag(chunks(count));
    (blocks, root)
}

async fn bring(
    mesh: &Mesh,
    root: Cid,
    holders: &[NodeId],
    blocks: &Arc<Memory>,
    limits: FetchLimits,
) -> Result<FetchStats, FetchError> {
    timeout(PATIENCE, fetch(mesh, root, holders, blocks.clone(), limits)).await.expect("the fetch hangs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dag_of_several_levels_arrives_whole() {
    let network = network();
    let (blocks, root) = full(500);
    let one = holder(&network, blocks).await;
    let (mesh, _events) = fetcher(&network, &[&one]).await;
    let here = Arc::new(Memory::default());
    let stats = bring(&mesh, root, &[one.mesh.node_id()], &here, FetchLimits::default()).await.unwrap();
    assert_eq!(stats.blocks, 500 + 3 + 1);
    assert!(here.missing(&root, 1).unwrap().is_empty());
    assert_eq!(here.len(), one.blocks.len());
    // A second fetch has nothing to do, and needs nobody.
    let again = bring(&mesh, root, &[], &here, FetchLimits::default()).await.unwrap();
    assert_eq!(again.blocks, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_fetch_goes_on_where_it_was() {
    let network = network();
    let (blocks, root) = full(300);
    let one = holder(&network, Memory { delay: Duration::from_millis(1), ..blocks }).await;
    let (mesh, _events) = fetcher(&network, &[&one]).await;
    let here = Arc::new(Memory::default());
    let first = tokio::spawn({
        let (mesh, here, node) = (mesh.clone(), here.clone(), one.mesh.node_id());
        async move { fetch(&mesh, root, &[node], here, FetchLimits::default()).await }
    });
    timeout(PATIENCE, async {
        while here.accepted.load(Ordering::Relaxed) < 50 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    first.abort();
    let _ = first.await;
    let kept = here.accepted.load(Ordering::Relaxed);
    let stats = bring(&mesh, root, &[one.mesh.node_id()], &here, FetchLimits::default()).await.unwrap();
    // A block or two may have been on a checking thread when the first fetch ended.
    assert!(stats.blocks <= 303 - kept, "{} kept, then {}", kept, stats.blocks);
    assert!(here.missing(&root, 1).unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_lies_is_dropped_and_the_others_bring_the_rest() {
    let network = network();
    let ((honest, root), (lying, _)) = (full(400), full(400));
    let one = holder(&network, Memory { delay: Duration::from_millis(5), ..honest }).await;
    let two = holder(&network, Memory { lies_after: Some(100), ..lying }).await;
    let (mesh, mut events) = fetcher(&network, &[&one, &two]).await;
    let here = Arc::new(Memory::default());
    let holders = [two.mesh.node_id(), one.mesh.node_id()];
    let stats = bring(&mesh, root, &holders, &here, FetchLimits::default()).await.unwrap();
    assert!(here.missing(&root, 1).unwrap().is_empty());
    let fault = stats.holders[0].fault.clone().unwrap();
    assert!(matches!(fault, HolderFault::Lied { .. }) && fault.is_peers_fault(), "{fault:?}");
    assert_eq!(stats.holders[1].fault, None);
    // Several streams run side by side, so most of its hundred true blocks may still be on their way when the lie comes.
    assert!(stats.holders[0].blocks > 0, "it was used while it told the truth: {stats:?}");
    let liar = until(&mut events, |event| match event {
        MeshEvent::PeerMisbehaved { node, .. } => Some(node),
        _ => None,
    })
    .await;
    assert_eq!(liar, two.mesh.node_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_dies_midway_is_replaced_by_the_other() {
    let network = network();
    let ((first, root), (second, _)) = (full(400), full(400));
    let one = holder(&network, Memory { delay: Duration::from_millis(2), ..first }).await;
    let two = holder(&network, Memory { delay: Duration::from_millis(2), ..second }).await;
    let (mesh, _events) = fetcher(&network, &[&one, &two]).await;
    let here = Arc::new(Memory::default());
    let fetching = tokio::spawn({
        let (mesh, here, holders) = (mesh.clone(), here.clone(), [one.mesh.node_id(), two.mesh.node_id()]);
        async move { fetch(&mesh, root, &holders, here, FetchLimits::default()).await }
    });
    timeout(PATIENCE, async {
        while one.blocks.served.load(Ordering::Relaxed) < 40 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    one.mesh.stop().await;
    let stats = timeout(PATIENCE, fetching).await.unwrap().unwrap().unwrap();
    assert!(here.missing(&root, 1).unwrap().is_empty());
    // A holder that dies with nothing asked of it is not even missed.
    let fault = &stats.holders[0].fault;
    assert!(matches!(fault, None | Some(HolderFault::Lost { .. })), "{stats:?}");
    assert!(fault.as_ref().is_none_or(|fault| !fault.is_peers_fault()));
    assert!(stats.holders[0].blocks < 400 && stats.holders[1].blocks > 0, "{stats:?}");
    assert_eq!(stats.holders[1].fault, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_holder_does_not_hold_up_the_end() {
    let network = network();
    let ((fast, root), (slow, _)) = (full(60), full(60));
    let one = holder(&network, fast).await;
    let two = holder(&network, Memory { delay: Duration::from_millis(400), ..slow }).await;
    let (mesh, _events) = fetcher(&network, &[&one, &two]).await;
    let here = Arc::new(Memory::default());
    let started = std::time::Instant::now();
    let holders = [two.mesh.node_id(), one.mesh.node_id()];
    let stats = bring(&mesh, root, &holders, &here, FetchLimits::default()).await.unwrap();
    // 400 ms per block and half of the blocks in its window: without stealing this takes longer.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(stats.holders[1].blocks > 30, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_nobody_has_ends_the_fetch_with_its_name() {
    let network = network();
    let one = holder(&network, Memory::default()).await;
    let two = holder(&network, Memory::default()).await;
    let (mesh, _events) = fetcher(&network, &[&one, &two]).await;
    let root = cid_of(CODEC_RAW, b"nobody has this");
    let here = Arc::new(Memory::default());
    let holders = [one.mesh.node_id(), two.mesh.node_id()];
    let error = bring(&mesh, root, &holders, &here, FetchLimits::default()).await.unwrap_err();
    assert!(matches!(error, FetchError::BlockUnobtainable { cid, .. } if cid == root), "{error}");
    let error = bring(&mesh, root, &[], &here, FetchLimits::default()).await.unwrap_err();
    assert!(matches!(error, FetchError::NoHolders { .. }), "{error}");
    let stranger = NodeId([9; 32]);
    let error = bring(&mesh, root, &[stranger], &here, FetchLimits::default()).await.unwrap_err();
    let FetchError::HoldersFailed { stats, .. } = &error else { panic!("{error}") };
    assert!(matches!(stats.holders[0].fault, Some(HolderFault::Lost { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_only_one_holder_has_is_found_there() {
    let network = network();
    let (blocks, root) = full(50);
    let one = holder(&network, Memory::default()).await;
    let two = holder(&network, blocks).await;
    let (mesh, _events) = fetcher(&network, &[&one, &two]).await;
    let here = Arc::new(Memory::default());
    let holders = [one.mesh.node_id(), two.mesh.node_id()];
    let stats = bring(&mesh, root, &holders, &here, FetchLimits::default()).await.unwrap();
    assert_eq!((stats.holders[0].blocks, stats.holders[1].blocks), (0, 51));
    assert_eq!(stats.holders[0].fault, None, "not to have a block is no fault");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dag_that_is_larger_than_allowed_is_refused() {
    let network = network();
    let (blocks, root) = full(100);
    let one = holder(&network, blocks).await;
    let (mesh, _events) = fetcher(&network, &[&one]).await;
    let here = Arc::new(Memory::default());
    let limits = FetchLimits { bytes_max: 20 * CHUNK_BYTES as u64, ..FetchLimits::default() };
    let error = bring(&mesh, root, &[one.mesh.node_id()], &here, limits).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_instead_of_a_want_ends_the_stream_and_is_reported() {
    let network = network();
    let (mesh, mut events) = start(config(&network)).await;
    let _server = serve(&mesh, Arc::new(Memory::default()), ServeLimits::default()).unwrap();
    let (attacker, _attacker_events) = start(config(&network)).await;
    timeout(PATIENCE, attacker.dial(mesh.listen_addrs().await.remove(0))).await.unwrap().unwrap();
    // An oversized frame, a frame that is no want, and a want of nothing.
    let empty_want = [&[0, 0, 0, 8][..], &[0xa1, 0x64, b'c', b'i', b'd', b's', 0x80, 0x00]].concat();
    for garbage in [vec![0xff; 64], [&[0, 0, 0, 4][..], b"junk"].concat(), empty_want] {
        let mut stream = attacker.open(mesh.node_id(), BLOB).await.unwrap();
        stream.write_all(&garbage).await.unwrap();
        stream.flush().await.unwrap();
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty(), "garbage is not answered");
        let node = until(&mut events, |event| match event {
            MeshEvent::PeerMisbehaved { node, .. } => Some(node),
            _ => None,
        })
        .await;
        assert_eq!(node, attacker.node_id());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_instead_of_an_answer_drops_the_holder() {
    let network = network();
    let (liar, _liar_events) = start(config(&network)).await;
    let mut incoming = liar.accept(BLOB).unwrap();
    tokio::spawn(async move {
        while let Some((_, mut stream)) = incoming.recv().await {
            tokio::spawn(async move {
                let _ = stream.write_all(&[0xff; 4096]).await;
                let _ = stream.flush().await;
                let mut sink = Vec::new();
                let _ = stream.read_to_end(&mut sink).await;
            });
        }
    });
    let (mesh, mut events) = start(config(&network)).await;
    timeout(PATIENCE, mesh.dial(liar.listen_addrs().await.remove(0))).await.unwrap().unwrap();
    let here = Arc::new(Memory::default());
    let root = cid_of(CODEC_RAW, b"anything");
    let error = bring(&mesh, root, &[liar.node_id()], &here, FetchLimits::default()).await.unwrap_err();
    let FetchError::HoldersFailed { stats, .. } = &error else { panic!("{error}") };
    assert!(matches!(stats.holders[0].fault, Some(HolderFault::Misbehaved { .. })), "{stats:?}");
    until(&mut events, |event| matches!(event, MeshEvent::PeerMisbehaved { .. }).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_holder_stalls_and_is_left() {
    let network = network();
    let (silent, _silent_events) = start(config(&network)).await;
    let mut incoming = silent.accept(BLOB).unwrap();
    let holding = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some(stream) = incoming.recv().await {
            held.push(stream);
        }
    });
    let (mesh, _events) = start(config(&network)).await;
    timeout(PATIENCE, mesh.dial(silent.listen_addrs().await.remove(0))).await.unwrap().unwrap();
    let here = Arc::new(Memory::default());
    let limits = FetchLimits { stall_timeout: Duration::from_millis(200), ..FetchLimits::default() };
    let root = cid_of(CODEC_RAW, b"anything");
    let error = bring(&mesh, root, &[silent.node_id()], &here, limits).await.unwrap_err();
    let FetchError::HoldersFailed { stats, .. } = &error else { panic!("{error}") };
    assert_eq!(stats.holders[0].fault, Some(HolderFault::Stalled));
    holding.abort();
}
