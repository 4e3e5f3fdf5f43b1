//! Where do bytes rest, and do they survive?
//!
//! A [`Store`] is one directory with four parts over one embedded engine:
//!
//! - [`Journal`]: numbered facts. Appended in batches, durable with one `fdatasync`, checksummed row by row; snapshots
//!   shorten the replay. The first failed write stops it: what was not acknowledged may be gone, what was is not.
//! - [`Table`]: ordered maps for what a replay can rebuild; durable with the journal's next commit.
//! - [`Blobs`]: content under the CIDs that IPFS gives it, whole or known to be partial, fetched block by block from
//!   whoever has it, capped, collected least-recently-used first, never anything pinned.
//! - [`JournalWriter`]: a thread that lets many appends share a commit.
//!
//! Everything blocks; asynchronous callers use their own threads.
//!
//! **Invariants.** A number that was committed is replayed or the start fails ([`JournalError::CommittedRowsLost`]).
//! A block that leaves the store has the digest that its CID names. Nothing pinned is evicted.
#![forbid(unsafe_code)]

mod assembly;
mod blob;
mod index;
mod journal;
mod put;
mod reclaim;
mod serve;
mod snapshot;
mod store;
mod table;
pub mod unixfs;
mod writer;

pub use blob::{
    BLOCK_BYTES_MAX, BlobError, BlobRef, BlobStat, Blobs, Durability, INLINE_BYTES_MAX, OWNER_BYTES_MAX,
};
pub use journal::{Journal, JournalError, ROW_BYTES_MAX, Recovery, Replay, Row};
pub use reclaim::{Collected, Usage};
pub use snapshot::{Snapshot, SnapshotError};
pub use store::{Clock, Store, StoreConfig, StoreError};
pub use table::{Change, Table};
pub use writer::{Batch, Done, JournalWriter, QUEUE_BATCHES_MAX};
