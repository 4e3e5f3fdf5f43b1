//! Content-addressed blobs: whole, or partial and known to be, or absent.
//!
//! ```text
//!            put_bytes, put_file, put_record                 sync_files / commit
//!   absent ───────────────────────────────► unsynced ─────────────────────────────► complete
//!     │  put_block(root)                       ▲                                      │
//!     └──────────────────► partial ── last leaf ┘        a block that rotted           │
//!                             ▲  ◄─────────────────────────────────────────────────────┘
//! ```
//!
//! Blocks of up to 64 KiB live in the engine and are durable with the next journal commit. Anything larger is one
//! file, `blobs/ab/<cid>`, at its final length from the start; leaves are written at the offset that the layout gives
//! them. Which leaves of a partial file are there is never written down: a start hashes what it finds, so neither a
//! killed process nor a power loss can make the store believe in bytes that it does not have. The row of a file says
//! *complete* only after the file was synced.
//!
//! Every block that is served or read through [`Blobs::block`] and [`Blobs::read`] is hashed again on the way out.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};

use fjall::{Keyspace, OwnedWriteBatch};
use wc_types::cid::{CODEC_DAG_CBOR, CODEC_DAG_PB, CODEC_RAW, Cid, cid_digest, cid_from_digest, sha256};

use crate::assembly::Assembly;
use crate::store::{Clock, Shared, StoreError, locked, make_dir, sync_dir};
use crate::unixfs::{
    CHUNK_BYTES, Digest, FILE_BYTES_MAX, LINKS_MAX, Layout, Place, Tree, UnixfsError, decode_root,
};

/// Largest block that lives in the engine; larger ones are files.
pub const INLINE_BYTES_MAX: usize = 64 << 10;
/// Largest single block, and so the largest DAG-CBOR record.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Longest name of a pin's owner.
pub const OWNER_BYTES_MAX: usize = 128;
/// Files that may wait for a sync; bounds open descriptors.
const UNSYNCED_FILES_MAX: usize = 64;
/// Partial files kept open at once; others are hashed again when they go on.
const ASSEMBLIES_MAX: usize = 64;
/// Last-access times kept in memory before they are written.
pub(crate) const TOUCHED_MAX: usize = 4096;
/// Space is reserved for a stream of unknown length in steps of this size.
const RESERVE_STEP_BYTES: u64 = 16 << 20;
/// Buffers in flight between the reading and the hashing threads.
const PIPELINE_CHUNKS: usize = 12;
/// Threads that hash a stream.
const HASHERS: usize = 2;

/// Whether a put waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Synced when the call returns. The choice for large files.
    Now,
    /// Synced by the next [`Journal::commit`](crate::Journal::commit) or [`Store::sync`](crate::Store::sync), which
    /// then also waits for the files. Survives the end of the process at once.
    WithNextCommit,
}

/// A blob's name and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobRef {
    /// Its content id.
    pub cid: Cid,
    /// Length of its content.
    pub bytes: u64,
}

/// What is known of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobStat {
    /// Length of its content.
    pub bytes: u64,
    /// Bytes of content that are here.
    pub bytes_present: u64,
    /// Whether all of it is here.
    pub complete: bool,
    /// Whether anybody pins it.
    pub pinned: bool,
}

/// Why a blob operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// Neither the blob nor the block is here.
    #[error("{cid} is not here")]
    NotFound {
        /// What was asked for.
        cid: Cid,
    },
    /// Some blocks of the blob are not here yet.
    #[error("{cid} is not complete: {bytes_present} of {bytes} bytes are here")]
    Incomplete {
        /// The blob.
        cid: Cid,
        /// Bytes that are here.
        bytes_present: u64,
        /// Length of its content.
        bytes: u64,
    },
    /// Bytes do not have the digest that their CID names: whoever sent them is wrong.
    #[error("bytes with digest {found} are not {cid}")]
    Mismatch {
        /// What they should have been.
        cid: Cid,
        /// What they are.
        found: Cid,
    },
    /// A stored block has rotted. It is dropped and can be fetched again.
    #[error("block {cid} of {root} was damaged on disk and has been dropped")]
    Corrupt {
        /// The block.
        cid: Cid,
        /// The blob it belongs to.
        root: Cid,
    },
    /// A block that the blob does not need, or not yet.
    #[error("{cid} is no missing block of {root}")]
    NotMissing {
        /// The block.
        cid: Cid,
        /// The blob.
        root: Cid,
    },
    /// The CID's version, codec or hash function is none that we store.
    #[error("{cid} is no CIDv1 of raw, dag-pb or dag-cbor with SHA-256")]
    UnsupportedCid {
        /// The CID.
        cid: Cid,
    },
    /// The root is no file in the layout that we store.
    #[error("{cid} is no file that can be stored")]
    Unixfs {
        /// The root or inner node.
        cid: Cid,
        /// What is wrong with it.
        source: UnixfsError,
    },
    /// More bytes than the caller or a limit allows.
    #[error("{bytes} bytes are more than the {bytes_max} allowed here")]
    TooLarge {
        /// Bytes there are.
        bytes: u64,
        /// Bytes that are allowed.
        bytes_max: u64,
    },
    /// The cap leaves no room, even after everything unpinned was evicted.
    #[error("the store needs {needed_bytes} bytes but only {free_bytes} of {cap_bytes} can be free")]
    CapExceeded {
        /// Bytes that were asked for.
        needed_bytes: u64,
        /// Bytes that are free or could be.
        free_bytes: u64,
        /// The cap.
        cap_bytes: u64,
    },
    /// The blob is pinned.
    #[error("{cid} is pinned")]
    Pinned {
        /// The blob.
        cid: Cid,
    },
    /// The name of a pin's owner is empty or longer than [`OWNER_BYTES_MAX`].
    #[error("the owner of a pin has 1 to {OWNER_BYTES_MAX} bytes, not {bytes}")]
    Owner {
        /// Its length.
        bytes: usize,
    },
    /// The file system refused.
    #[error("could not {doing} {}", path.display())]
    Io {
        /// What we were doing.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The engine refused, or has stopped.
    #[error("could not {doing}")]
    Store {
        /// What we were doing.
        doing: &'static str,
        /// What went wrong.
        source: Box<StoreError>,
    },
}

impl BlobError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "WC-STORE-030",
            Self::Incomplete { .. } => "WC-STORE-031",
            Self::Mismatch { .. } => "WC-STORE-032",
            Self::Corrupt { .. } => "WC-STORE-033",
            Self::NotMissing { .. } => "WC-STORE-034",
            Self::UnsupportedCid { .. } => "WC-STORE-035",
            Self::Unixfs { .. } => "WC-STORE-036",
            Self::TooLarge { .. } => "WC-STORE-037",
            Self::CapExceeded { .. } => "WC-STORE-038",
            Self::Pinned { .. } => "WC-STORE-039",
            Self::Owner { .. } => "WC-STORE-040",
            Self::Io { .. } => "WC-STORE-041",
            Self::Store { .. } => "WC-STORE-042",
        }
    }
}

/// Codec and digest: what a CID is to us.
pub(crate) type Key = [u8; 33];

/// Content-addressed blobs of one store. Clones share everything.
#[derive(Clone)]
pub struct Blobs {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    /// Rows, leaves, parts, pins and access order, told apart by their first byte (`ROW` …).
    pub(crate) index: Keyspace,
    /// Blocks of up to 64 KiB, and the root node of every file.
    pub(crate) blocks: Keyspace,
    pub(crate) dir: PathBuf,
    pub(crate) cap_bytes: u64,
    pub(crate) clock: Clock,
    pub(crate) state: Mutex<State>,
    temp: AtomicU64,
    pub(crate) shared: Arc<Shared>,
}

/// What must agree with the index and changes together with it.
#[derive(Default)]
pub(crate) struct State {
    /// Bytes stored or reserved.
    pub(crate) used_bytes: u64,
    /// Bytes of blobs that are pinned.
    pub(crate) pinned_bytes: u64,
    pub(crate) blobs: u64,
    /// Last accesses that the index does not know yet.
    pub(crate) touched: HashMap<Key, i64>,
    /// Partial files that are being filled.
    pub(crate) assemblies: HashMap<Key, Arc<Assembly>>,
    /// Complete files whose row still says partial.
    pub(crate) unsynced: HashMap<Key, Arc<File>>,
}

pub(crate) const ROW: u8 = b'r';
pub(crate) const LEAVES: u8 = b'l';
pub(crate) const PART: u8 = b'p';
pub(crate) const PIN: u8 = b'n';
pub(crate) const ACCESS: u8 = b'a';

/// How a blob is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// In the engine.
    Inline,
    /// A file that is not known to be whole after a restart.
    Partial,
    /// A file that was synced whole.
    Complete,
}

/// A blob's entry in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) form: Form,
    pub(crate) bytes: u64,
    pub(crate) accessed: i64,
}

impl Row {
    pub(crate) fn encode(self) -> [u8; 17] {
        let mut bytes = [0; 17];
        bytes[0] = match self.form {
            Form::Inline => 0,
            Form::Partial => 1,
            Form::Complete => 2,
        };
        bytes[1..9].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[9..].copy_from_slice(&self.accessed.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 17] = bytes.try_into().ok()?;
        let form = match bytes[0] {
            0 => Form::Inline,
            1 => Form::Partial,
            2 => Form::Complete,
            _ => return None,
        };
        let word = |from: usize| std::array::from_fn(|at| bytes[from + at]);
        Some(Self { form, bytes: u64::from_le_bytes(word(1)), accessed: i64::from_le_bytes(word(9)) })
    }
}

impl std::fmt::Debug for Blobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blobs").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

impl Blobs {
    pub(crate) fn open(shared: &Arc<Shared>, cap_bytes: u64, clock: Clock) -> Result<Self, StoreError> {
        let dir = shared.dir.join("blobs");
        make_dir(&dir.join("tmp"))?;
        let inner = Inner {
            index: shared.keyspace("blobs")?,
            blocks: shared.keyspace("blocks")?,
            dir,
            cap_bytes,
            clock,
            state: Mutex::default(),
            temp: AtomicU64::new(0),
            shared: Arc::clone(shared),
        };
        let blobs = Self { inner: Arc::new(inner) };
        blobs.inner.tidy()?;
        Ok(blobs)
    }

    /// Stores `bytes` under the CID that `ipfs add --cid-version 1 --raw-leaves` gives them.
    ///
    /// # Errors
    /// [`BlobError::CapExceeded`], disk errors.
    pub fn put_bytes(&self, bytes: &[u8], durability: Durability) -> Result<BlobRef, BlobError> {
        if bytes.len() as u64 > CHUNK_BYTES {
            return self.inner.put_stream(bytes, bytes.len() as u64, durability);
        }
        let key = key_from(CODEC_RAW, sha256(bytes));
        self.inner.put_block(key, bytes, durability)?;
        Ok(BlobRef { cid: cid_of_key(&key), bytes: bytes.len() as u64 })
    }

    /// Stores one canonical DAG-CBOR record as a block of its own.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`] beyond [`BLOCK_BYTES_MAX`]; [`BlobError::CapExceeded`]; disk errors.
    pub fn put_record(&self, bytes: &[u8], durability: Durability) -> Result<Cid, BlobError> {
        check_block_bytes(bytes)?;
        let key = key_from(CODEC_DAG_CBOR, sha256(bytes));
        self.inner.put_block(key, bytes, durability)?;
        Ok(cid_of_key(&key))
    }

    /// Stores the content of the file at `path`.
    ///
    /// # Errors
    /// As [`put_reader`](Self::put_reader).
    pub fn put_file(&self, path: &Path, durability: Durability) -> Result<BlobRef, BlobError> {
        let file = File::open(path).map_err(io("open", path))?;
        let file_bytes = file.metadata().map_err(io("read", path))?.len();
        self.inner.put_stream(file, file_bytes, durability)
    }

    /// Stores everything that `source` yields, hashing on the way.
    ///
    /// # Errors
    /// [`BlobError::CapExceeded`], [`BlobError::TooLarge`], read and disk errors; nothing is left behind.
    pub fn put_reader(&self, source: impl Read, durability: Durability) -> Result<BlobRef, BlobError> {
        self.inner.put_stream(source, 0, durability)
    }

    /// Whether the whole blob is here. After a crash this may hash the file once.
    ///
    /// # Errors
    /// Disk errors.
    pub fn has(&self, cid: &Cid) -> Result<bool, BlobError> {
        Ok(self.stat(cid)?.is_some_and(|stat| stat.complete))
    }

    /// What is known of the blob; `None` when nothing of it is here.
    ///
    /// # Errors
    /// Disk errors.
    pub fn stat(&self, cid: &Cid) -> Result<Option<BlobStat>, BlobError> {
        let key = key_of(cid)?;
        let Some((row, assembly)) = self.inner.find(&key)? else { return Ok(None) };
        let bytes_present = assembly.map_or(row.bytes, |assembly| assembly.bytes_present());
        let pinned = self.inner.is_pinned(&key)?;
        Ok(Some(BlobStat { bytes: row.bytes, bytes_present, complete: bytes_present == row.bytes, pinned }))
    }

    /// Reads a blob of at most `bytes_max` bytes, hashing every block.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`], [`BlobError::NotFound`], [`BlobError::Incomplete`], [`BlobError::Corrupt`]; disk
    /// errors.
    pub fn read(&self, cid: &Cid, bytes_max: u64) -> Result<Vec<u8>, BlobError> {
        let key = key_of(cid)?;
        let row = self.inner.whole(&key)?;
        if row.bytes > bytes_max {
            return Err(BlobError::TooLarge { bytes: row.bytes, bytes_max });
        }
        let mut content = Vec::with_capacity(row.bytes as usize);
        match self.inner.walk(&key, row, |bytes| content.extend_from_slice(bytes))? {
            None => {
                self.inner.touch(&key)?;
                Ok(content)
            }
            Some(bad) => Err(self.inner.rotted(&key, &bad)?),
        }
    }

    /// Reads into `buffer` from `offset` without hashing, for content that was verified when it came; returns how
    /// many bytes there were.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], [`BlobError::Incomplete`]; disk errors.
    pub fn read_at(&self, cid: &Cid, offset: u64, buffer: &mut [u8]) -> Result<usize, BlobError> {
        let key = key_of(cid)?;
        let row = self.inner.whole(&key)?;
        let count = row.bytes.saturating_sub(offset).min(buffer.len() as u64) as usize;
        if row.form == Form::Inline {
            let block = self.inner.inline(&key)?;
            let from = (offset as usize).min(block.len());
            buffer[..count].copy_from_slice(&block[from..from + count]);
        } else {
            let path = self.inner.path(&key);
            let file = File::open(&path).map_err(io("open", &path))?;
            file.read_exact_at(&mut buffer[..count], offset).map_err(io("read", &path))?;
        }
        self.inner.touch(&key)?;
        Ok(count)
    }

    /// Writes the blob's content to `path`, whole or not at all.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], [`BlobError::Incomplete`]; disk errors.
    pub fn export(&self, cid: &Cid, path: &Path) -> Result<(), BlobError> {
        self.inner.export(cid, path, |source, temp| fs::copy(source, temp).map(|_| ()))
    }

    /// Puts the blob's content at `path` without copying where the file system can: a reflink, else a hard link to
    /// the store's own read-only file, else a copy. Only for readers: a writer on a hard link would damage the blob
    /// (which the next read notices).
    ///
    /// # Errors
    /// As [`export`](Self::export).
    pub fn link_or_export(&self, cid: &Cid, path: &Path) -> Result<(), BlobError> {
        self.inner.export(cid, path, |source, temp| {
            let cloned = File::open(source)
                .and_then(|from| Ok((from, File::create(temp)?)))
                .and_then(|(from, to)| Ok(rustix::fs::ioctl_ficlone(to, from)?));
            if cloned.is_ok() {
                return Ok(());
            }
            let _ = fs::remove_file(temp);
            fs::hard_link(source, temp).or_else(|_| fs::copy(source, temp).map(|_| ()))
        })
    }

    /// Returns one block, whichever blob it is part of: a record, a leaf, an inner node. It is hashed before it is
    /// returned; one that rotted is dropped instead.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], [`BlobError::Corrupt`]; disk errors.
    pub fn block(&self, cid: &Cid) -> Result<Vec<u8>, BlobError> {
        self.inner.block(&key_of(cid)?)
    }

    /// Stores one block after checking its digest. A dag-pb block starts (or is part of) a file; raw leaves go to the
    /// files being fetched that miss them, or stand for themselves. Returns whether a blob became complete.
    ///
    /// # Errors
    /// [`BlobError::Mismatch`] when the bytes are not what the CID says; [`BlobError::Unixfs`] for a dag-pb block that
    /// is no file of ours; [`BlobError::CapExceeded`]; disk errors.
    pub fn put_block(&self, cid: &Cid, bytes: &[u8]) -> Result<bool, BlobError> {
        let key = checked_block(cid, bytes)?;
        let assemblies: Vec<(Key, Arc<Assembly>)> =
            locked(&self.inner.state).assemblies.iter().map(|(key, one)| (*key, Arc::clone(one))).collect();
        let (mut taken, mut complete) = (false, false);
        for (root, assembly) in assemblies {
            if root != key && assembly.wants(&key) {
                complete |= self.inner.fill(&root, &assembly, &key, bytes)?;
                taken = true;
            }
        }
        if taken {
            return Ok(complete);
        }
        self.inner.put_block(key, bytes, Durability::WithNextCommit)
    }

    /// Stores one block of the blob `root` after checking its digest; the way to go on with a fetch after a restart.
    /// Returns whether the blob is complete now.
    ///
    /// # Errors
    /// As [`put_block`](Self::put_block), and [`BlobError::NotMissing`] for a block that `root` does not need.
    pub fn put_block_of(&self, root: &Cid, cid: &Cid, bytes: &[u8]) -> Result<bool, BlobError> {
        let key = checked_block(cid, bytes)?;
        let root_key = key_of(root)?;
        if key == root_key {
            return self.inner.put_block(key, bytes, Durability::WithNextCommit);
        }
        match self.inner.find(&root_key)? {
            None => Err(BlobError::NotFound { cid: *root }),
            Some((_, None)) => Ok(true),
            Some((_, Some(assembly))) => self.inner.fill(&root_key, &assembly, &key, bytes),
        }
    }

    /// Which blocks must still be fetched, at most `limit`: the root, then inner nodes, then leaves from the left.
    /// Empty when the blob is complete.
    ///
    /// # Errors
    /// Disk errors.
    pub fn missing(&self, root: &Cid, limit: usize) -> Result<Vec<Cid>, BlobError> {
        let key = key_of(root)?;
        Ok(match self.inner.find(&key)? {
            None => vec![*root],
            Some((_, None)) => Vec::new(),
            Some((_, Some(assembly))) => assembly.missing(limit),
        })
    }

    /// Hashes the whole blob and returns its first bad block, which is then missing.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], [`BlobError::Incomplete`]; disk errors.
    pub fn verify(&self, cid: &Cid) -> Result<Option<Cid>, BlobError> {
        let key = key_of(cid)?;
        let row = self.inner.whole(&key)?;
        let bad = self.inner.walk(&key, row, |_| ())?;
        if let Some(bad) = &bad {
            self.inner.rotted(&key, bad)?;
        }
        Ok(bad.as_ref().map(cid_of_key))
    }

    /// Syncs files that were put with [`Durability::WithNextCommit`] and marks them complete; the marks become durable
    /// with the engine's next sync.
    pub(crate) fn sync_files(&self) -> Result<(), BlobError> {
        self.inner.sync_files()
    }
}

impl Inner {
    pub(crate) fn row(&self, key: &Key) -> Result<Option<Row>, BlobError> {
        let bytes = self.index.get(index_key(ROW, &[key])).map_err(read_failed)?;
        Ok(bytes.and_then(|bytes| Row::decode(&bytes)))
    }

    pub(crate) fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(format!("{:02x}", key[1])).join(cid_of_key(key).to_string())
    }

    /// A blob's row, and its assembly when it is not whole.
    fn find(&self, key: &Key) -> Result<Option<(Row, Option<Arc<Assembly>>)>, BlobError> {
        let Some(row) = self.row(key)? else { return Ok(None) };
        if row.form != Form::Partial {
            return Ok(Some((row, None)));
        }
        {
            let state = locked(&self.state);
            if state.unsynced.contains_key(key) {
                return Ok(Some((row, None)));
            }
            if let Some(assembly) = state.assemblies.get(key) {
                return Ok(Some((row, Some(Arc::clone(assembly)))));
            }
        }
        self.resume(key, row)
    }

    /// Hashes what a partial file has after a restart.
    fn resume(&self, key: &Key, row: Row) -> Result<Option<(Row, Option<Arc<Assembly>>)>, BlobError> {
        let path = self.path(key);
        // A finished file is read-only; filling it again needs the right back.
        let _ = fs::set_permissions(&path, permissions(0o600));
        let file = File::options().read(true).write(true).open(&path).map_err(io("open", &path))?;
        if u64::from(key[0]) != CODEC_DAG_PB {
            let mut bytes = vec![0; row.bytes.min(BLOCK_BYTES_MAX as u64) as usize];
            let whole = file.read_exact_at(&mut bytes, 0).is_ok() && sha256(&bytes) == digest(key);
            let mut state = locked(&self.state);
            if whole {
                state.unsynced.insert(*key, Arc::new(file));
                return Ok(Some((row, None)));
            }
            self.evict(&mut state, key, row)?;
            return Ok(None);
        }
        let root = self.blocks.get(key).map_err(read_failed)?.unwrap_or_else(|| fjall::Slice::from(&[]));
        let Ok((layout, children)) = decode_root(&root) else {
            self.evict(&mut locked(&self.state), key, row)?;
            return Ok(None);
        };
        let assembly = Assembly::new(layout, file, &children);
        for (segment, leaves) in self.leaves(key)? {
            assembly.resume_segment(segment, &leaves).map_err(io("read", &path))?;
        }
        let assembly = Arc::new(assembly);
        let mut state = locked(&self.state);
        if assembly.left() == 0 {
            state.unsynced.entry(*key).or_insert_with(|| assembly.file());
            return Ok(Some((row, None)));
        }
        self.shed(&mut state);
        let kept = state.assemblies.entry(*key).or_insert(assembly);
        Ok(Some((row, Some(Arc::clone(kept)))))
    }

    /// Closes partial files that nobody is filling, when there are many.
    fn shed(&self, state: &mut State) {
        if state.assemblies.len() >= ASSEMBLIES_MAX {
            state.assemblies.retain(|_, assembly| Arc::strong_count(assembly) > 1);
        }
    }

    /// A blob that must be whole.
    fn whole(&self, key: &Key) -> Result<Row, BlobError> {
        match self.find(key)? {
            None => Err(BlobError::NotFound { cid: cid_of_key(key) }),
            Some((row, None)) => Ok(row),
            Some((row, Some(assembly))) => Err(BlobError::Incomplete {
                cid: cid_of_key(key),
                bytes_present: assembly.bytes_present(),
                bytes: row.bytes,
            }),
        }
    }

    /// Leaf digests of a file, by segment of 174.
    pub(crate) fn leaves(&self, key: &Key) -> Result<Vec<(u32, Vec<Digest>)>, BlobError> {
        let mut segments = Vec::new();
        for entry in self.index.prefix(index_key(LEAVES, &[&key[1..]])) {
            let (name, value) = entry.into_inner().map_err(read_failed)?;
            let segment = name.last_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
            segments.push((segment, value.as_chunks::<32>().0.to_vec()));
        }
        Ok(segments)
    }

    /// Reads a whole blob block by block, hashing; returns the first block that does not match.
    fn walk(&self, key: &Key, row: Row, mut take: impl FnMut(&[u8])) -> Result<Option<Key>, BlobError> {
        if row.form == Form::Inline {
            let block = self.inline(key)?;
            let good = sha256(&block) == digest(key);
            take(&block);
            return Ok((!good).then_some(*key));
        }
        let path = self.path(key);
        let file = File::open(&path).map_err(io("open", &path))?;
        if u64::from(key[0]) != CODEC_DAG_PB {
            let mut bytes = vec![0; row.bytes.min(BLOCK_BYTES_MAX as u64) as usize];
            let good = file.read_exact_at(&mut bytes, 0).is_ok() && sha256(&bytes) == digest(key);
            take(&bytes);
            return Ok((!good).then_some(*key));
        }
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        let mut offset = 0;
        for leaf in self.leaves(key)?.into_iter().flat_map(|(_, leaves)| leaves) {
            let bytes = &mut buffer[..CHUNK_BYTES.min(row.bytes.saturating_sub(offset)) as usize];
            // A file that ends early is damaged, not unreadable.
            let read = file.read_exact_at(bytes, offset);
            if read.is_err() || sha256(bytes) != leaf {
                return Ok(Some(key_from(CODEC_RAW, leaf)));
            }
            take(bytes);
            offset += bytes.len() as u64;
        }
        Ok((offset != row.bytes).then_some(*key))
    }

    fn inline(&self, key: &Key) -> Result<Vec<u8>, BlobError> {
        let block = self.blocks.get(key).map_err(read_failed)?;
        block.map(|block| block.to_vec()).ok_or_else(|| BlobError::NotFound { cid: cid_of_key(key) })
    }

    /// Drops what rotted: a leaf makes its file partial, a block of its own disappears. Returns the error to report.
    fn rotted(&self, root: &Key, bad: &Key) -> Result<BlobError, BlobError> {
        let error = BlobError::Corrupt { cid: cid_of_key(bad), root: cid_of_key(root) };
        tracing::warn!(cid = %cid_of_key(bad), root = %cid_of_key(root), "damaged block dropped");
        let mut state = locked(&self.state);
        let Some(row) = self.row(root)? else { return Ok(error) };
        if root == bad {
            self.evict(&mut state, root, row)?;
        } else {
            state.unsynced.remove(root);
            state.assemblies.remove(root);
            let mut batch = self.shared.db.batch();
            batch.insert(&self.index, index_key(ROW, &[root]), Row { form: Form::Partial, ..row }.encode());
            self.write(batch, "mark a damaged blob")?;
            self.flush()?;
        }
        Ok(error)
    }

    fn block(&self, key: &Key) -> Result<Vec<u8>, BlobError> {
        if let Some(row) = self.row(key)? {
            if let Some(block) = self.blocks.get(key).map_err(read_failed)? {
                if sha256(&block) != digest(key) {
                    return Err(self.rotted(key, key)?);
                }
                self.touch(key)?;
                return Ok(block.to_vec());
            }
            if u64::from(key[0]) != CODEC_DAG_PB {
                let mut content = Vec::with_capacity(row.bytes as usize);
                let bad = self.walk(key, row, |bytes| content.extend_from_slice(bytes))?;
                if bad.is_some() {
                    return Err(self.rotted(key, key)?);
                }
                self.touch(key)?;
                return Ok(content);
            }
        }
        let mut rotted = None;
        for entry in self.index.prefix(index_key(PART, &[key])) {
            let (name, value) = entry.into_inner().map_err(read_failed)?;
            let (Some(root), Some(place)) = (name.last_chunk::<32>(), decode_place(&value)) else { continue };
            let root = key_from(CODEC_DAG_PB, *root);
            let Some(row) = self.row(&root)? else { continue };
            let block = self.part(&root, row, place)?;
            if block.as_ref().is_some_and(|block| sha256(block) == digest(key)) {
                self.touch(&root)?;
                return Ok(block.unwrap_or_default());
            }
            // A leaf that a partial file does not have yet is no damage.
            if row.form == Form::Complete || locked(&self.state).unsynced.contains_key(&root) {
                rotted = Some(self.rotted(&root, key)?);
            }
        }
        Err(rotted.unwrap_or_else(|| BlobError::NotFound { cid: cid_of_key(key) }))
    }

    /// Reads a leaf, or encodes an inner node again.
    fn part(&self, root: &Key, row: Row, place: Place) -> Result<Option<Vec<u8>>, BlobError> {
        if place.level == 0 {
            let offset = u64::from(place.ordinal) * CHUNK_BYTES;
            let mut bytes = vec![0; CHUNK_BYTES.min(row.bytes.saturating_sub(offset)) as usize];
            let read = File::open(self.path(root)).and_then(|file| file.read_exact_at(&mut bytes, offset));
            return Ok(read.is_ok().then_some(bytes));
        }
        let Ok(layout) = Layout::of(row.bytes) else { return Ok(None) };
        if place.level == 1 {
            let name = index_key(LEAVES, &[&root[1..], &place.ordinal.to_be_bytes()]);
            let leaves = self.index.get(name).map_err(read_failed)?;
            return Ok(leaves.map(|leaves| layout.encode(place, leaves.as_chunks::<32>().0)));
        }
        let leaves: Vec<Digest> = self.leaves(root)?.into_iter().flat_map(|(_, leaves)| leaves).collect();
        if leaves.len() as u64 != layout.leaves() {
            return Ok(None);
        }
        let tree = Tree::build(layout, leaves);
        let children = layout.children(place);
        let below = &tree.levels[usize::from(place.level) - 1];
        Ok(below.get(children.start as usize..children.end as usize).map(|below| layout.encode(place, below)))
    }

    /// Stores one block of its own, or starts a file from its root. Returns whether the blob is complete.
    fn put_block(&self, key: Key, bytes: &[u8], durability: Durability) -> Result<bool, BlobError> {
        check_block_bytes(bytes)?;
        if let Some((_, assembly)) = self.find(&key)? {
            self.touch(&key)?;
            if durability == Durability::Now && assembly.is_none() {
                self.sync_now()?;
            }
            return Ok(assembly.is_none());
        }
        if u64::from(key[0]) == CODEC_DAG_PB {
            self.start(key, bytes)?;
            return Ok(false);
        }
        let count = bytes.len() as u64;
        if bytes.len() <= INLINE_BYTES_MAX {
            let mut state = locked(&self.state);
            if self.row(&key)?.is_some() {
                return Ok(true);
            }
            self.make_room(&mut state, count)?;
            let mut batch = self.shared.db.batch();
            batch.insert(&self.blocks, key, bytes);
            self.add(&mut state, &mut batch, &key, Form::Inline, count)?;
            self.write(batch, "store a block")?;
            state.used_bytes += count;
        } else {
            let room = self.reserve(count)?;
            let temp = self.temp();
            let mut file = File::create_new(&temp.path).map_err(io("create", &temp.path))?;
            file.write_all(bytes).map_err(io("write", &temp.path))?;
            self.finish(key, file, temp, count, room, durability, |_, _| ())?;
        }
        if durability == Durability::Now {
            self.shared.persist().map_err(store("sync a block"))?;
        }
        Ok(true)
    }

    /// Adds a blob's row to `batch` and its numbers to `state`; the caller accounts for its bytes.
    fn add(
        &self,
        state: &mut State,
        batch: &mut OwnedWriteBatch,
        key: &Key,
        form: Form,
        bytes: u64,
    ) -> Result<(), BlobError> {
        let accessed = (self.clock)();
        batch.insert(&self.index, index_key(ROW, &[key]), Row { form, bytes, accessed }.encode());
        state.blobs += 1;
        if self.is_pinned(key)? {
            state.pinned_bytes += bytes;
        } else {
            batch.insert(&self.index, access_key(accessed, key), []);
        }
        Ok(())
    }

    /// Starts a file from its root node.
    fn start(&self, key: Key, block: &[u8]) -> Result<(), BlobError> {
        let cid = cid_of_key(&key);
        let (layout, children) = decode_root(block).map_err(|source| BlobError::Unixfs { cid, source })?;
        let room = self.reserve(layout.file_bytes())?;
        let path = self.path(&key);
        let parent = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent).map_err(io("create", parent))?;
        let mut state = locked(&self.state);
        if self.row(&key)?.is_some() {
            return Ok(());
        }
        let options = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = options.map_err(io("create", &path))?;
        preallocate(&file, layout.file_bytes()).map_err(io("reserve space for", &path))?;
        let mut batch = self.shared.db.batch();
        batch.insert(&self.blocks, key, block);
        if layout.height() == 1 {
            self.add_segment(&mut batch, &key, 0, &children);
        }
        self.add(&mut state, &mut batch, &key, Form::Partial, layout.file_bytes())?;
        self.write(batch, "start a file")?;
        room.keep();
        self.shed(&mut state);
        state.assemblies.insert(key, Arc::new(Assembly::new(layout, file, &children)));
        self.flush()
    }

    /// Remembers the leaves of one segment, and where each block of it is.
    fn add_segment(&self, batch: &mut OwnedWriteBatch, root: &Key, segment: u32, leaves: &[Digest]) {
        let name = index_key(LEAVES, &[&root[1..], &segment.to_be_bytes()]);
        batch.insert(&self.index, name, leaves.as_flattened());
        for (at, leaf) in leaves.iter().enumerate() {
            let place = Place { level: 0, ordinal: segment * LINKS_MAX as u32 + at as u32 };
            batch.insert(&self.index, part_key(CODEC_RAW, leaf, root), encode_place(place));
        }
    }

    /// Gives a block to a partial file; returns whether the file is complete now.
    fn fill(&self, root: &Key, assembly: &Arc<Assembly>, key: &Key, bytes: &[u8]) -> Result<bool, BlobError> {
        let cid = cid_of_key(key);
        let path = || self.path(root);
        if u64::from(key[0]) == CODEC_DAG_PB {
            let taken = assembly
                .take_node(&digest(key), bytes)
                .map_err(|source| BlobError::Unixfs { cid, source })?;
            if taken.places.is_empty() {
                return self.had(root, assembly, key);
            }
            let mut batch = self.shared.db.batch();
            for (segment, leaves) in &taken.segments {
                self.add_segment(&mut batch, root, *segment, leaves);
            }
            for place in taken.places {
                batch.insert(&self.index, part_key(CODEC_DAG_PB, &digest(key), root), encode_place(place));
            }
            self.write(batch, "store an inner node")?;
            self.flush()?;
        } else {
            let source =
                UnixfsError::UnsupportedLayout { why: "a leaf has another length than its root says" };
            match assembly.take_leaf(&digest(key), bytes) {
                Ok(Some(0)) => return self.had(root, assembly, key),
                Ok(Some(_)) => {}
                Ok(None) => return Err(BlobError::Unixfs { cid: cid_of_key(root), source }),
                Err(source) => return Err(BlobError::Io { doing: "write", path: path(), source }),
            }
        }
        self.touch(root)?;
        if assembly.left() > 0 {
            return Ok(false);
        }
        let mut state = locked(&self.state);
        // Evicted while it was being filled: what was written is gone with the file.
        if !state.assemblies.get(root).is_some_and(|kept| Arc::ptr_eq(kept, assembly)) {
            drop(state);
            return Ok(matches!(self.find(root)?, Some((_, None))));
        }
        state.assemblies.remove(root);
        state.unsynced.insert(*root, assembly.file());
        let _ = fs::set_permissions(path(), permissions(0o444));
        let many = state.unsynced.len() >= UNSYNCED_FILES_MAX;
        drop(state);
        if many {
            self.sync_files()?;
        }
        Ok(true)
    }

    /// A block that is not missing: one that came twice is welcome, one of something else is not.
    fn had(&self, root: &Key, assembly: &Assembly, key: &Key) -> Result<bool, BlobError> {
        let name = part_key(u64::from(key[0]), &digest(key), root);
        if assembly.had(key) || self.index.contains_key(name).map_err(read_failed)? {
            Ok(assembly.left() == 0)
        } else {
            Err(BlobError::NotMissing { cid: cid_of_key(key), root: cid_of_key(root) })
        }
    }

    /// Reads, hashes and writes a stream at once. `bytes_expected` is set aside before the first byte is written; 0
    /// when the length is unknown.
    fn put_stream(
        &self,
        mut source: impl Read,
        bytes_expected: u64,
        durability: Durability,
    ) -> Result<BlobRef, BlobError> {
        let read_failed =
            |source| BlobError::Io { doing: "read", path: "the source of a blob".into(), source };
        let mut first = vec![0; CHUNK_BYTES as usize];
        let count = fill_buffer(&mut source, &mut first).map_err(read_failed)?;
        first.truncate(count);
        let mut second = vec![0; CHUNK_BYTES as usize];
        let more = if count as u64 == CHUNK_BYTES {
            fill_buffer(&mut source, &mut second).map_err(read_failed)?
        } else {
            0
        };
        if more == 0 {
            let key = key_from(CODEC_RAW, sha256(&first));
            self.put_block(key, &first, durability)?;
            return Ok(BlobRef { cid: cid_of_key(&key), bytes: count as u64 });
        }
        second.truncate(more);

        let mut room = self.reserve(bytes_expected)?;
        let temp = self.temp();
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&temp.path)
            .map_err(io("create", &temp.path))?;
        let mut file_bytes = 0u64;
        let mut leaves: Vec<Digest> = Vec::new();
        std::thread::scope(|scope| -> Result<(), BlobError> {
            let (to_hash, chunks) = sync_channel::<(usize, Vec<u8>)>(PIPELINE_CHUNKS);
            let (hashed, digests) = sync_channel::<(usize, Digest, Vec<u8>)>(PIPELINE_CHUNKS * 2);
            let chunks = Arc::new(Mutex::new(chunks));
            for _ in 0..HASHERS {
                let (chunks, hashed) = (Arc::clone(&chunks), hashed.clone());
                scope.spawn(move || {
                    loop {
                        let next = locked(&chunks).recv();
                        let Ok((index, bytes)) = next else { break };
                        if hashed.send((index, sha256(&bytes), bytes)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(hashed);
            let mut pending = 0usize;
            let mut next = Some(first);
            let mut after = Some(second);
            while let Some(chunk) = next.take() {
                file_bytes += chunk.len() as u64;
                if file_bytes > FILE_BYTES_MAX {
                    return Err(BlobError::TooLarge { bytes: file_bytes, bytes_max: FILE_BYTES_MAX });
                }
                room.grow_to(file_bytes)?;
                file.write_all(&chunk).map_err(io("write", &temp.path))?;
                let last = (chunk.len() as u64) < CHUNK_BYTES;
                let index = leaves.len();
                leaves.push([0; 32]);
                pending += 1;
                let _ = to_hash.send((index, chunk));
                let mut spare = None;
                while pending >= PIPELINE_CHUNKS {
                    let Ok((index, digest, bytes)) = digests.recv() else { break };
                    leaves[index] = digest;
                    pending -= 1;
                    spare = Some(bytes);
                }
                next = after.take();
                if next.is_none() && !last {
                    let mut buffer = spare.unwrap_or_default();
                    buffer.resize(CHUNK_BYTES as usize, 0);
                    let count = fill_buffer(&mut source, &mut buffer).map_err(read_failed)?;
                    buffer.truncate(count);
                    next = (count > 0).then_some(buffer);
                }
            }
            drop(to_hash);
            for (index, digest, _) in digests {
                leaves[index] = digest;
            }
            Ok(())
        })?;

        let layout = Layout::of(file_bytes)
            .map_err(|_| BlobError::TooLarge { bytes: file_bytes, bytes_max: FILE_BYTES_MAX })?;
        let tree = Tree::build(layout, leaves);
        let cid = tree.cid();
        let key = key_of(&cid)?;
        self.finish(key, file, temp, file_bytes, room, durability, |batch, key| {
            batch.insert(&self.blocks, *key, tree.root_block.as_slice());
            for (segment, leaves) in tree.levels[0].chunks(LINKS_MAX as usize).enumerate() {
                self.add_segment(batch, key, segment as u32, leaves);
            }
            for level in 1..layout.height() {
                for (ordinal, node) in tree.levels[usize::from(level)].iter().enumerate() {
                    let place = Place { level, ordinal: ordinal as u32 };
                    batch.insert(&self.index, part_key(CODEC_DAG_PB, node, key), encode_place(place));
                }
            }
        })?;
        if durability == Durability::Now {
            self.shared.persist().map_err(store("sync a file"))?;
        }
        Ok(BlobRef { cid, bytes: file_bytes })
    }

    /// Moves a written temporary file to its place and adds its row.
    #[expect(clippy::too_many_arguments, reason = "one caller each for blocks and streams")]
    fn finish(
        &self,
        key: Key,
        file: File,
        temp: Temp,
        bytes: u64,
        mut room: Room<'_>,
        durability: Durability,
        more: impl FnOnce(&mut OwnedWriteBatch, &Key),
    ) -> Result<(), BlobError> {
        let path = self.path(&key);
        let parent = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent).map_err(io("create", parent))?;
        let _ = file.set_permissions(permissions(0o444));
        if durability == Durability::Now {
            file.sync_data().map_err(io("sync", &temp.path))?;
        }
        let mut state = locked(&self.state);
        if let Some(row) = self.row(&key)? {
            if row.form != Form::Partial || state.unsynced.contains_key(&key) {
                return Ok(());
            }
            // Somebody was fetching the same content block by block; this file is whole, so it takes over.
            self.evict(&mut state, &key, row)?;
        }
        fs::rename(&temp.path, &path).map_err(io("rename", &temp.path))?;
        temp.keep();
        let form = if durability == Durability::Now {
            sync_dir(parent).map_err(io("sync", parent))?;
            Form::Complete
        } else {
            Form::Partial
        };
        let mut batch = self.shared.db.batch();
        more(&mut batch, &key);
        self.add(&mut state, &mut batch, &key, form, bytes)?;
        self.write(batch, "store a file")?;
        room.shrink_to(&mut state, bytes);
        room.keep();
        if form == Form::Partial {
            state.unsynced.insert(key, Arc::new(file));
        }
        let many = state.unsynced.len() >= UNSYNCED_FILES_MAX;
        drop(state);
        self.flush()?;
        if many { self.sync_files() } else { Ok(()) }
    }

    fn sync_files(&self) -> Result<(), BlobError> {
        let files: Vec<(Key, Arc<File>)> =
            locked(&self.state).unsynced.iter().map(|(key, file)| (*key, Arc::clone(file))).collect();
        if files.is_empty() {
            return Ok(());
        }
        let mut parents = std::collections::BTreeSet::new();
        for (key, file) in &files {
            let path = self.path(key);
            file.sync_data().map_err(io("sync", &path))?;
            parents.extend(path.parent().map(Path::to_owned));
        }
        parents.insert(self.dir.clone());
        for parent in parents {
            sync_dir(&parent).map_err(io("sync", &parent))?;
        }
        let mut state = locked(&self.state);
        let mut batch = self.shared.db.batch();
        for (key, file) in files {
            if !state.unsynced.get(&key).is_some_and(|kept| Arc::ptr_eq(kept, &file)) {
                continue;
            }
            state.unsynced.remove(&key);
            if let Some(row) = self.row(&key)? {
                batch.insert(
                    &self.index,
                    index_key(ROW, &[&key]),
                    Row { form: Form::Complete, ..row }.encode(),
                );
            }
        }
        self.write(batch, "mark files as synced")
    }

    fn sync_now(&self) -> Result<(), BlobError> {
        self.sync_files()?;
        self.shared.persist().map_err(store("sync a blob"))
    }

    fn export(
        &self,
        cid: &Cid,
        path: &Path,
        copy: impl FnOnce(&Path, &Path) -> std::io::Result<()>,
    ) -> Result<(), BlobError> {
        let key = key_of(cid)?;
        let row = self.whole(&key)?;
        let number = self.temp.fetch_add(1, Ordering::Relaxed);
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}-{number}.tmp", std::process::id()));
        let temp = Temp { path: path.with_file_name(name), kept: false };
        if row.form == Form::Inline {
            let block = self.inline(&key)?;
            if sha256(&block) != digest(&key) {
                return Err(self.rotted(&key, &key)?);
            }
            fs::write(&temp.path, block).map_err(io("write", &temp.path))?;
        } else {
            copy(&self.path(&key), &temp.path).map_err(io("write", &temp.path))?;
        }
        fs::rename(&temp.path, path).map_err(io("rename", &temp.path))?;
        temp.keep();
        self.touch(&key)
    }

    fn temp(&self) -> Temp {
        let number = self.temp.fetch_add(1, Ordering::Relaxed);
        Temp { path: self.dir.join("tmp").join(format!("{number}.tmp")), kept: false }
    }

    pub(crate) fn write(&self, batch: OwnedWriteBatch, doing: &'static str) -> Result<(), BlobError> {
        self.shared.write(batch, doing).map_err(store(doing))
    }

    pub(crate) fn flush(&self) -> Result<(), BlobError> {
        self.shared.flush().map_err(store("write the engine's log"))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A last chance to spare the next start from hashing; failures leave rows partial, which is safe.
        let noted = self.write_touched(&mut locked(&self.state));
        if let Err(error) = noted.and_then(|()| self.sync_files()) {
            tracing::debug!(%error, "could not settle the blobs while closing");
        }
    }
}

/// A temporary file that goes away unless it is kept.
struct Temp {
    path: PathBuf,
    kept: bool,
}

impl Temp {
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Bytes of the cap that are set aside, and go back unless they are kept.
pub(crate) struct Room<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) bytes: u64,
}

impl Room<'_> {
    /// Makes the reservation at least `bytes`; in large steps while nothing has to be evicted for them.
    fn grow_to(&mut self, bytes: u64) -> Result<(), BlobError> {
        if bytes > self.bytes {
            let mut state = locked(&self.inner.state);
            let free_bytes = self.inner.cap_bytes.saturating_sub(state.used_bytes);
            let mut step = bytes - self.bytes;
            if step.max(RESERVE_STEP_BYTES) <= free_bytes {
                step = step.max(RESERVE_STEP_BYTES);
            }
            self.inner.make_room(&mut state, step)?;
            state.used_bytes += step;
            self.bytes += step;
        }
        Ok(())
    }

    fn shrink_to(&mut self, state: &mut State, bytes: u64) {
        state.used_bytes -= self.bytes - bytes.min(self.bytes);
        self.bytes = bytes.min(self.bytes);
    }

    fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            locked(&self.inner.state).used_bytes -= self.bytes;
        }
    }
}

fn checked_block(cid: &Cid, bytes: &[u8]) -> Result<Key, BlobError> {
    let key = key_of(cid)?;
    check_block_bytes(bytes)?;
    let found = sha256(bytes);
    if found != digest(&key) {
        return Err(BlobError::Mismatch { cid: *cid, found: cid_from_digest(cid.codec(), found) });
    }
    Ok(key)
}

fn check_block_bytes(bytes: &[u8]) -> Result<(), BlobError> {
    if bytes.len() > BLOCK_BYTES_MAX {
        return Err(BlobError::TooLarge { bytes: bytes.len() as u64, bytes_max: BLOCK_BYTES_MAX as u64 });
    }
    Ok(())
}

pub(crate) fn key_of(cid: &Cid) -> Result<Key, BlobError> {
    let known = [CODEC_RAW, CODEC_DAG_PB, CODEC_DAG_CBOR].contains(&cid.codec());
    match cid_digest(cid) {
        // The comparison refuses CIDv0, which has the same codec and digest.
        Some(digest) if known && cid_from_digest(cid.codec(), digest) == *cid => {
            Ok(key_from(cid.codec(), digest))
        }
        _ => Err(BlobError::UnsupportedCid { cid: *cid }),
    }
}

pub(crate) fn key_from(codec: u64, digest: Digest) -> Key {
    let mut key = [0; 33];
    key[0] = codec as u8;
    key[1..].copy_from_slice(&digest);
    key
}

pub(crate) fn cid_of_key(key: &Key) -> Cid {
    cid_from_digest(u64::from(key[0]), digest(key))
}

pub(crate) fn digest(key: &Key) -> Digest {
    std::array::from_fn(|at| key[1 + at])
}

pub(crate) fn index_key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut name = vec![kind];
    parts.iter().for_each(|part| name.extend_from_slice(part));
    name
}

/// Sorts by time: the sign bit is flipped so that early times come first.
pub(crate) fn access_key(accessed: i64, key: &Key) -> Vec<u8> {
    index_key(ACCESS, &[&(accessed as u64 ^ 1 << 63).to_be_bytes(), key])
}

pub(crate) fn part_key(codec: u64, block: &Digest, root: &Key) -> Vec<u8> {
    index_key(PART, &[&[codec as u8], block, &root[1..]])
}

fn encode_place(place: Place) -> [u8; 5] {
    let mut bytes = [place.level; 5];
    bytes[1..].copy_from_slice(&place.ordinal.to_be_bytes());
    bytes
}

fn decode_place(bytes: &[u8]) -> Option<Place> {
    let (level, ordinal) = bytes.split_first()?;
    Some(Place { level: *level, ordinal: u32::from_be_bytes(ordinal.try_into().ok()?) })
}

/// Reads until `buffer` is full or the source ends.
fn fill_buffer(source: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match source.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Takes the space now where the file system can, so that a full disk is noticed at the start of a fetch.
fn preallocate(file: &File, bytes: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(bytes),
        done => Ok(done?),
    }
}

fn permissions(mode: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| BlobError::Io { doing, path, source }
}

pub(crate) fn store(doing: &'static str) -> impl FnOnce(StoreError) -> BlobError {
    move |source| BlobError::Store { doing, source: Box::new(source) }
}

pub(crate) fn read_failed(source: fjall::Error) -> BlobError {
    let doing = "read the index of blobs";
    BlobError::Store { doing, source: Box::new(StoreError::Engine { doing, source }) }
}
