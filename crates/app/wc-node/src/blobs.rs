//! Blobs between the store and the mesh.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use wc_mesh::Mesh;
use wc_mesh::blob::{BlockRejected, Blocks, FetchLimits};
use wc_store::{BlobError, Durability, Store};
use wc_types::cid::{CODEC_DAG_CBOR, CODEC_DAG_PB};
use wc_types::manifest::BlobRef;
use wc_types::{Cid, NodeId};

/// Tries at one blob before whoever wants it is told that it cannot be had: a holder may be busy or on its way back.
const FETCH_TRIES: u32 = 4;
/// Pause after the first try; doubles.
const FETCH_PAUSE: Duration = Duration::from_millis(100);

/// The store as the mesh's blob transfer sees it.
pub(crate) struct StoreBlocks(pub Store);

impl Blocks for StoreBlocks {
    fn block(&self, cid: &Cid) -> io::Result<Option<Bytes>> {
        match self.0.blobs().block(cid) {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(BlobError::NotFound { .. } | BlobError::Incomplete { .. }) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn put_block(&self, cid: &Cid, bytes: &[u8]) -> Result<(), BlockRejected> {
        match self.0.blobs().put_block(cid, bytes) {
            Ok(_) => Ok(()),
            Err(error @ BlobError::Mismatch { .. }) => {
                Err(BlockRejected::Mismatch { cid: *cid, reason: error.to_string() })
            }
            Err(error) => Err(BlockRejected::Host { cid: *cid, source: io::Error::other(error) }),
        }
    }

    fn missing(&self, root: &Cid, limit: usize) -> io::Result<Vec<Cid>> {
        self.0.blobs().missing(root, limit).map_err(io::Error::other)
    }
}

/// Returns whether the whole blob is here.
pub(crate) fn has(store: &Store, cid: &Cid) -> bool {
    store.blobs().has(cid).unwrap_or(false)
}

/// Reads a small blob.
pub(crate) fn read(store: &Store, cid: &Cid, bytes_max: usize) -> Result<Vec<u8>, String> {
    store.blobs().read(cid, bytes_max as u64).map_err(|error| error.to_string())
}

/// Keeps a small blob.
pub(crate) fn put(store: &Store, bytes: &[u8]) -> Result<BlobRef, String> {
    let kept =
        store.blobs().put_bytes(bytes, Durability::WithNextCommit).map_err(|error| error.to_string())?;
    Ok(BlobRef { cid: kept.cid, bytes: wc_types::Bytes(kept.bytes) })
}

/// Keeps a record, or a small blob, under the codec that the caller names.
pub(crate) fn put_as(store: &Store, codec: u64, bytes: &[u8]) -> Result<BlobRef, String> {
    if codec != CODEC_DAG_CBOR {
        return put(store, bytes);
    }
    let cid =
        store.blobs().put_record(bytes, Durability::WithNextCommit).map_err(|error| error.to_string())?;
    Ok(BlobRef { cid, bytes: wc_types::Bytes(bytes.len() as u64) })
}

/// Keeps a file as a blob.
pub(crate) fn put_file(store: &Store, path: &Path) -> Result<BlobRef, String> {
    let kept = store
        .blobs()
        .put_file(path, Durability::WithNextCommit)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(BlobRef { cid: kept.cid, bytes: wc_types::Bytes(kept.bytes) })
}

/// Keeps a blob from collection until its owner unpins it.
pub(crate) fn pin(store: &Store, cid: &Cid, owner: &str) -> Result<(), String> {
    store.blobs().pin(cid, owner).map_err(|error| error.to_string())
}

/// Fetches a blob from whoever has it, and checks every block.
pub(crate) async fn fetch(mesh: &Mesh, store: &Store, cid: Cid, holders: &[NodeId]) -> Result<(), String> {
    if has(store, &cid) {
        return Ok(());
    }
    let holders: Vec<NodeId> = holders.iter().copied().filter(|node| *node != mesh.node_id()).collect();
    if holders.is_empty() {
        return Err("nobody who has it is known".to_owned());
    }
    let blocks: Arc<dyn Blocks> = Arc::new(StoreBlocks(store.clone()));
    let mut limits = FetchLimits::default();
    if cid.codec() != CODEC_DAG_PB {
        // One block: more streams would only be opened and closed.
        limits.streams_per_holder = 1;
    }
    let mut pause = FETCH_PAUSE;
    for _ in 1..FETCH_TRIES {
        match wc_mesh::blob::fetch(mesh, cid, &holders, blocks.clone(), limits).await {
            Ok(_) => return Ok(()),
            Err(error) => tracing::debug!(%cid, %error, "a blob is fetched once more"),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    wc_mesh::blob::fetch(mesh, cid, &holders, blocks, limits)
        .await
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Keeps what an open file holds, whoever may replace its name meanwhile.
pub(crate) fn put_open(store: &Store, file: std::fs::File) -> Result<BlobRef, String> {
    let kept =
        store.blobs().put_reader(file, Durability::WithNextCommit).map_err(|error| error.to_string())?;
    Ok(BlobRef { cid: kept.cid, bytes: wc_types::Bytes(kept.bytes) })
}

/// Lets a blob be collected again, as far as `owner` is concerned.
pub(crate) fn unpin(store: &Store, cid: &Cid, owner: &str) -> Result<(), String> {
    store.blobs().unpin(cid, owner).map_err(|error| error.to_string())
}

/// Writes a blob to a file: beside it first, then renamed.
pub(crate) async fn export(store: &Store, cid: Cid, path: &Path) -> Result<(), String> {
    let (store, path) = (store.clone(), path.to_owned());
    tokio::task::spawn_blocking(move || store.blobs().export(&cid, &path).map_err(|error| error.to_string()))
        .await
        .map_err(|error| error.to_string())?
}
