//! Answering wants.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use wc_proto::frame::{PREFIX_BYTES, body_bytes, decode};
use wc_proto::limit::{BLOCK_BYTES_MAX, WANT_BYTES_MAX};
use wc_proto::peer::blob::{AnswerHeader, AnswerKind, Want};
use wc_proto::version::BLOB;
use wc_types::cid::Cid;

use super::{Blocks, WireError, read_full};
use crate::config::StreamLimits;
use crate::mesh::Mesh;
use crate::stream::{AcceptError, MeshStream};

/// Blocks read from disk in one go, while the ones before travel: 2 MiB of chunks.
const GROUP_BLOCKS: usize = 8;

/// How much a blob server gives at a time.
#[derive(Debug, Clone, Copy)]
pub struct ServeLimits {
    /// Streams of all peers together. Each holds at most 16 MiB of blocks in memory, and 4 MiB with usual chunks.
    pub streams_max: usize,
    /// Streams of one peer.
    pub streams_per_peer_max: u32,
    /// How long a stream may be silent between two wants.
    pub idle_timeout: Duration,
    /// How long a peer may leave bytes unread.
    pub stall_timeout: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            streams_max: 128,
            streams_per_peer_max: 16,
            idle_timeout: Duration::from_secs(120),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

/// A running blob server; dropping it stops accepting.
#[derive(Debug)]
pub struct BlobServer {
    accepting: JoinHandle<()>,
}

impl Drop for BlobServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves the blocks of `blocks` to every peer of the network.
///
/// # Errors
/// [`AcceptError::Taken`] if blobs are served already.
pub fn serve(mesh: &Mesh, blocks: Arc<dyn Blocks>, limits: ServeLimits) -> Result<BlobServer, AcceptError> {
    // A task that gathers the results of a stage opens a stream for each small blob; how many are open at once, and how
    // much memory they hold, is bounded elsewhere.
    let stream_limits = StreamLimits {
        per_peer_max: limits.streams_per_peer_max,
        per_peer_rate_per_second: 1_000,
        per_peer_burst: 2_000,
        ..StreamLimits::default()
    };
    let mut incoming = mesh.accept_within(BLOB, stream_limits)?;
    let mesh = mesh.clone();
    let room = Arc::new(Semaphore::new(limits.streams_max));
    let accepting = tokio::spawn(async move {
        while let Some((node, stream)) = incoming.recv().await {
            // Without room the stream is dropped: the peer sees a reset and asks another holder.
            let Ok(permit) = room.clone().try_acquire_owned() else { continue };
            let (mesh, blocks) = (mesh.clone(), blocks.clone());
            tokio::spawn(async move {
                let ended = answer_wants(stream, blocks, limits).await;
                if let Err(error) = ended {
                    if error.is_misbehaviour() {
                        mesh.report_misbehaviour(node, format!("blob: {}", crate::dial::root_cause(&error)));
                    } else {
                        tracing::debug!(node_id = %node, cause = crate::dial::root_cause(&error), "blob stream ended");
                    }
                }
                drop(permit);
            });
        }
    });
    Ok(BlobServer { accepting })
}

async fn answer_wants(
    mut stream: MeshStream,
    blocks: Arc<dyn Blocks>,
    limits: ServeLimits,
) -> Result<(), WireError> {
    let mut number = 0u32;
    loop {
        let mut prefix = [0; PREFIX_BYTES];
        let first = match timeout(limits.idle_timeout, stream.read(&mut prefix)).await {
            Err(_) => return Err(WireError::Stalled(limits.idle_timeout)),
            Ok(read) => read?,
        };
        if first == 0 {
            return Ok(timeout(limits.stall_timeout, stream.shutdown()).await.unwrap_or(Ok(()))?);
        }
        read_full(&mut stream, &mut prefix[first..], limits.stall_timeout).await?;
        let mut body = vec![0; body_bytes(prefix, WANT_BYTES_MAX)?];
        read_full(&mut stream, &mut body, limits.stall_timeout).await?;
        let want: Want = decode(&body)?;
        want.check()?;
        let mut groups = want.cids.chunks(GROUP_BLOCKS);
        let mut reading = groups.next().map(|group| read_group(&blocks, group));
        while let Some(group) = reading.take() {
            let found = group.await.map_err(std::io::Error::other)?;
            // The next group is read while this one travels.
            reading = groups.next().map(|group| read_group(&blocks, group));
            for block in found {
                send(&mut stream, number, block, limits.stall_timeout).await?;
                number = number.wrapping_add(1);
            }
        }
        timeout(limits.stall_timeout, stream.flush())
            .await
            .map_err(|_| WireError::Stalled(limits.stall_timeout))??;
    }
}

/// Reads blocks off the async threads. A block that cannot be read is one that we do not have.
fn read_group(blocks: &Arc<dyn Blocks>, cids: &[Cid]) -> JoinHandle<Vec<Option<Bytes>>> {
    let (blocks, cids) = (blocks.clone(), cids.to_vec());
    spawn_blocking(move || {
        cids.iter()
            .map(|cid| match blocks.block(cid) {
                Ok(block) => block.filter(|bytes| bytes.len() <= BLOCK_BYTES_MAX),
                Err(error) => {
                    tracing::warn!(%cid, %error, "cannot read a block");
                    None
                }
            })
            .collect()
    })
}

async fn send(
    stream: &mut MeshStream,
    number: u32,
    block: Option<Bytes>,
    stall: Duration,
) -> Result<(), WireError> {
    let (kind, payload) = match block {
        Some(bytes) => (AnswerKind::Block, bytes),
        None => (AnswerKind::NotFound, Bytes::new()),
    };
    let header = AnswerHeader { kind, number, payload_bytes: payload.len() }.encode()?;
    let whole = async {
        stream.write_all(&header).await?;
        stream.write_all(&payload).await
    };
    Ok(timeout(stall, whole).await.map_err(|_| WireError::Stalled(stall))??)
}
