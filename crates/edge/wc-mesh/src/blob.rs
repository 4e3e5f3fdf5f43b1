//! Moving content-addressed bytes: blocks asked for by CID, from several holders at once, each one checked.
//!
//! The wire is `wc_proto::peer::blob`. [`serve`](serve()) answers wants from a [`Blocks`]; [`fetch`](fetch()) brings a
//! whole DAG into one.

mod fetch;
mod serve;
mod work;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;
use wc_proto::frame::FrameError;
use wc_types::cid::Cid;

pub use fetch::{FetchError, FetchLimits, FetchStats, HolderFault, HolderStats, fetch};
pub use serve::{BlobServer, ServeLimits, serve};

/// Where blocks rest: the store, seen from here. Called from blocking threads only, several at a time.
pub trait Blocks: Send + Sync + 'static {
    /// Returns the bytes of a block that is kept here.
    ///
    /// # Errors
    /// What the disk said; the peer that asked is told that the block is not here.
    fn block(&self, cid: &Cid) -> io::Result<Option<Bytes>>;

    /// Checks `bytes` against `cid`, and keeps them if they match.
    ///
    /// # Errors
    /// [`BlockRejected`] says whose fault it is.
    fn put_block(&self, cid: &Cid, bytes: &[u8]) -> Result<(), BlockRejected>;

    /// Returns up to `limit` blocks that are known to belong to the DAG of `root` and are not here: the root itself if
    /// it is missing, then whatever the blocks already here link to. Empty when the DAG is complete.
    ///
    /// # Errors
    /// What the disk said, or a block here that is no valid node of a DAG.
    fn missing(&self, root: &Cid, limit: usize) -> io::Result<Vec<Cid>>;
}

/// A block was not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockRejected {
    /// The bytes do not have this CID, or are no valid node of a DAG. Whoever sent them lied.
    #[error("bytes do not match {cid}: {reason}")]
    Mismatch {
        /// What was asked for.
        cid: Cid,
        /// What is wrong with the bytes.
        reason: String,
    },
    /// Our own side cannot keep it.
    #[error("cannot keep {cid}")]
    Host {
        /// What should have been kept.
        cid: Cid,
        /// Why not.
        source: io::Error,
    },
}

/// What ends a blob stream early.
#[derive(Debug, thiserror::Error)]
enum WireError {
    #[error("the stream broke")]
    Io(#[from] io::Error),
    #[error("no byte came for {0:?}")]
    Stalled(Duration),
    #[error("the peer broke the protocol")]
    Frame(#[from] FrameError),
    #[error("answer {got} came where {expected} was due")]
    OutOfOrder { got: u32, expected: u32 },
}

impl WireError {
    /// Returns whether only a peer that breaks the protocol can cause this.
    fn is_misbehaviour(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::OutOfOrder { .. })
    }
}

/// Fills `buffer`; every pause of `stall` without a byte is one too long.
async fn read_full<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut [u8],
    stall: Duration,
) -> Result<(), WireError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match timeout(stall, reader.read(&mut buffer[filled..])).await {
            Err(_) => return Err(WireError::Stalled(stall)),
            Ok(Ok(0)) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(Ok(count)) => filled += count,
            Ok(Err(error)) => return Err(error.into()),
        }
    }
    Ok(())
}
