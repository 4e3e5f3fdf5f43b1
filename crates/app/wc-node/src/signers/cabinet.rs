//! What a signer keeps: its shares, what it has signed, what it has promised. Each file is replaced whole and is durable
//! before anything is signed because of it.
//!
//! ```text
//! signers/<cell>/memory          the chain of signers, the last head that was signed by this machine or, as it was told, by
//!                                others, the promised hand-over
//! signers/<cell>/share-<order>   a share of the key that was made under that order
//! signers/<cell>/handover        coordinator: the hand-over that is being signed
//! signers/<cell>/checkpoint      coordinator: the last checkpoint that several signed
//! signers/<cell>/told            coordinator: which hand-over each machine has confirmed
//! signers/<cell>/disputes        coordinator: who remembers another history, and its words
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use wc_host::SecretFile;
use wc_ledger::threshold::generate::KeyShare;
use wc_types::charter::{Founding, cell_id};
use wc_types::signers::{Handover, SignedHead, SignerOrder, SignerSet};
use wc_types::{CellId, Cid, NodeId, Signed, from_canonical, to_canonical};

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
    /// The last head that this machine signed, or that others signed and it was told of.
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

    /// Destroys the shares of a cell for which `is_old` holds, by the orders they were made under. Returns how many there were.
    pub fn drop_shares(&self, cell: &CellId, is_old: impl Fn(&str) -> bool) -> io::Result<u32> {
        let entries = match fs::read_dir(self.dir.join(cell.to_string())) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut dropped = 0;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let order = name.to_str().and_then(|name| name.strip_prefix("share-"));
            if order.is_some_and(&is_old) {
                SecretFile::remove(&entry.path())?;
                dropped += 1;
            }
        }
        Ok(dropped)
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

    /// Returns up to which hand-over each machine has confirmed that it knows the chain.
    pub fn told(&self, cell: &CellId) -> io::Result<BTreeMap<NodeId, u64>> {
        let told: Option<Vec<(NodeId, u64)>> = self.read(cell, "told")?;
        Ok(told.unwrap_or_default().into_iter().collect())
    }

    /// Keeps what machines have confirmed.
    pub fn keep_told(&self, cell: &CellId, told: &BTreeMap<NodeId, u64>) -> io::Result<()> {
        self.write(cell, "told", &told.iter().collect::<Vec<_>>())
    }

    /// Returns who remembers another history, and what each said.
    pub fn disputes(&self, cell: &CellId) -> io::Result<BTreeMap<NodeId, String>> {
        let disputes: Option<Vec<(NodeId, String)>> = self.read(cell, "disputes")?;
        Ok(disputes.unwrap_or_default().into_iter().collect())
    }

    /// Keeps who remembers another history.
    pub fn keep_disputes(&self, cell: &CellId, disputes: &BTreeMap<NodeId, String>) -> io::Result<()> {
        self.write(cell, "disputes", &disputes.iter().collect::<Vec<_>>())
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
