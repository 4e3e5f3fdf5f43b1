//! Answering wants.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
const GROUP_BLOCKS: u32 = 8;
/// Blocks that all streams together read in such groups. Beyond that each reads one at a time, so that a crowd of slow
/// readers holds two blocks each: 96 MiB of usual chunks with 128 of them, 384 MiB of the largest blocks there are.
const GROUPED_BLOCKS_MAX: usize = 128;

/// How much a blob server gives at a time.
#[derive(Debug, Clone, Copy)]
pub struct ServeLimits {
    /// Streams of all peers together. Each holds two blocks in memory, and more as long as the others leave room.
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
    let grouped = Arc::new(Semaphore::new(GROUPED_BLOCKS_MAX));
    let accepting = tokio::spawn(async move {
        while let Some((node, stream)) = incoming.recv().await {
            // Without room the stream is dropped: the peer sees a reset and asks another holder.
            let Ok(permit) = room.clone().try_acquire_owned() else { continue };
            let (mesh, blocks, grouped) = (mesh.clone(), blocks.clone(), grouped.clone());
            tokio::spawn(async move {
                let ended = answer_wants(stream, blocks, grouped, limits).await;
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
    grouped: Arc<Semaphore>,
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
        let mut rest = want.cids.as_slice();
        let mut reading = next_group(&mut rest, &grouped).map(|group| group.read(&blocks));
        while let Some(group) = reading.take() {
            let (found, _room) = group.await.map_err(std::io::Error::other)?;
            // The next group is read while this one travels.
            reading = next_group(&mut rest, &grouped).map(|group| group.read(&blocks));
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

/// Blocks that are read in one go.
struct Group<'a> {
    cids: &'a [Cid],
    /// Its share of the blocks that are read in groups; a single block needs none.
    room: Option<OwnedSemaphorePermit>,
}

/// Takes the next group off `rest`: a single block when others read as many as there is room for.
fn next_group<'a>(rest: &mut &'a [Cid], grouped: &Arc<Semaphore>) -> Option<Group<'a>> {
    let wanted = GROUP_BLOCKS.min(u32::try_from(rest.len()).unwrap_or(GROUP_BLOCKS));
    let room = if wanted > 1 { grouped.clone().try_acquire_many_owned(wanted).ok() } else { None };
    let taken = if room.is_some() { wanted as usize } else { 1 };
    let (cids, later) = rest.split_at_checked(taken)?;
    *rest = later;
    Some(Group { cids, room })
}

impl Group<'_> {
    /// Reads the blocks off the async threads. A block that cannot be read is one that we do not have.
    fn read(
        self,
        blocks: &Arc<dyn Blocks>,
    ) -> JoinHandle<(Vec<Option<Bytes>>, Option<OwnedSemaphorePermit>)> {
        let (blocks, cids, room) = (blocks.clone(), self.cids.to_vec(), self.room);
        spawn_blocking(move || {
            let found = cids.iter().map(|cid| match blocks.block(cid) {
                Ok(block) => block.filter(|bytes| bytes.len() <= BLOCK_BYTES_MAX),
                Err(error) => {
                    tracing::warn!(%cid, %error, "cannot read a block");
                    None
                }
            });
            (found.collect(), room)
        })
    }
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

#[cfg(test)]
mod tests {
    use wc_types::cid::{CODEC_RAW, cid_of};

    use super::*;

    #[test]
    fn a_crowd_of_readers_gets_one_block_at_a_time() {
        let cids = [cid_of(CODEC_RAW, b"a block"); 20];
        let grouped = Arc::new(Semaphore::new(GROUPED_BLOCKS_MAX));
        let mut rest = &cids[..];
        let sizes: Vec<usize> =
            std::iter::from_fn(|| next_group(&mut rest, &grouped)).map(|group| group.cids.len()).collect();
        assert_eq!(sizes, [8, 8, 4]);
        let others: Vec<Group<'_>> =
            (0..GROUPED_BLOCKS_MAX / 8).filter_map(|_| next_group(&mut &cids[..], &grouped)).collect();
        let mut rest = &cids[..3];
        assert!(
            next_group(&mut rest, &grouped)
                .is_some_and(|group| group.cids.len() == 1 && group.room.is_none())
        );
        drop(others);
        assert_eq!(next_group(&mut rest, &grouped).map(|group| group.cids.len()), Some(2));
        assert!(next_group(&mut rest, &grouped).is_none());
    }
}
