//! What a signer keeps: its shares, what it has signed, what it has promised. Each file is replaced whole and is durable
//! before anything is signed because of it.
//!
//! ```text
//! signers/<cell>/memory          the chain of signers, the last head that was signed, the promised hand-over
//! signers/<cell>/share-<order>   a share of the key that was made under that order
//! signers/<cell>/handover        coordinator: the hand-over that is being signed
//! signers/<cell>/checkpoint      coordinator: the last checkpoint that several signed
//! ```

use std::io;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use wc_host::SecretFile;
use wc_ledger::threshold::generate::KeyShare;
use wc_types::charter::{Founding, cell_id};
use wc_types::signers::{Handover, SignedHead, SignerOrder, SignerSet};
use wc_types::{CellId, Cid, Signed, from_canonical, to_canonical};

/// Largest file: the longest chain of hand-overs.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a signer remembers of a cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Memory {
    /// The cell.
    pub founding: Signed<Founding>,
    /// The longest chain of hand-overs that was seen.
    pub chain: Vec<Handover>,
    /// The last head that this machine signed.
    pub head: Option<SignedHead>,
    /// The only next set that this machine hands over to.
    pub promised: Option<Promise>,
}

/// A hand-over that was signed. No other for the same epoch ever is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Promise {
    /// Number of the next set.
    pub epoch: u64,
    /// CID of its record.
    pub set: Cid,
}

/// A hand-over that the new signers have accepted and the old ones are asked to sign.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pending {
    /// The new set.
    pub set: SignerSet,
    /// The owner's order.
    pub order: Signed<SignerOrder>,
    /// The new set's signature.
    pub accepted: ByteArray<64>,
}

/// A checkpoint that several signed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeptCheckpoint {
    /// Number of leaves.
    pub size: u64,
    /// Number of the set that signed.
    pub epoch: u64,
    /// The note.
    pub note: String,
}

/// The files of a data directory.
#[derive(Clone, Debug)]
pub(crate) struct Cabinet {
    dir: PathBuf,
}

impl Cabinet {
    /// Names the directory.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn file(&self, cell: &CellId, name: &str) -> PathBuf {
        self.dir.join(cell.to_string()).join(name)
    }

    fn read<T: Serialize + DeserializeOwned>(&self, cell: &CellId, name: &str) -> io::Result<Option<T>> {
        let path = self.file(cell, name);
        let Some(bytes) = SecretFile::read(&path, FILE_BYTES_MAX)? else { return Ok(None) };
        from_canonical(&bytes)
            .map(Some)
            .map_err(|error| io::Error::other(format!("{} is damaged: {error}", path.display())))
    }

    fn write<T: Serialize>(&self, cell: &CellId, name: &str, value: &T) -> io::Result<()> {
        SecretFile::replace(&self.file(cell, name), &to_canonical(value))
    }

    /// Returns what is remembered of a cell.
    pub fn memory(&self, cell: &CellId) -> io::Result<Option<Memory>> {
        self.read(cell, "memory")
    }

    /// Remembers.
    pub fn keep_memory(&self, memory: &Memory) -> io::Result<()> {
        self.write(&cell_id(&memory.founding), "memory", memory)
    }

    /// Returns the share that was made under an order.
    pub fn share(&self, cell: &CellId, order: &Cid) -> io::Result<Option<KeyShare>> {
        let path = self.file(cell, &format!("share-{order}"));
        let Some(bytes) = SecretFile::read(&path, FILE_BYTES_MAX)? else { return Ok(None) };
        KeyShare::from_bytes(&bytes)
            .map(Some)
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
    }

    /// Keeps a share.
    pub fn keep_share(&self, cell: &CellId, share: &KeyShare) -> io::Result<()> {
        let path = self.file(cell, &format!("share-{}", share.order()));
        SecretFile::replace(&path, &share.to_bytes())
    }

    /// Destroys a share whose set signs no more.
    pub fn drop_share(&self, cell: &CellId, order: &Cid) -> io::Result<()> {
        SecretFile::remove(&self.file(cell, &format!("share-{order}")))
    }

    /// Returns the hand-over that a crash may have interrupted.
    pub fn pending(&self, cell: &CellId) -> io::Result<Option<Pending>> {
        self.read(cell, "handover")
    }

    /// Keeps the hand-over that is about to be signed.
    pub fn keep_pending(&self, cell: &CellId, pending: &Pending) -> io::Result<()> {
        self.write(cell, "handover", pending)
    }

    /// Forgets the hand-over, which is in the journal now.
    pub fn drop_pending(&self, cell: &CellId) -> io::Result<()> {
        SecretFile::remove(&self.file(cell, "handover"))
    }

    /// Returns the last checkpoint that several signed.
    pub fn checkpoint(&self, cell: &CellId) -> io::Result<Option<KeptCheckpoint>> {
        self.read(cell, "checkpoint")
    }

    /// Keeps a checkpoint.
    pub fn keep_checkpoint(&self, cell: &CellId, checkpoint: &KeptCheckpoint) -> io::Result<()> {
        self.write(cell, "checkpoint", checkpoint)
    }
}
