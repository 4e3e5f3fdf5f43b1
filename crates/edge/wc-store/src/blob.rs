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
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use fjall::Keyspace;
use wc_types::cid::{CODEC_DAG_CBOR, CODEC_RAW, Cid, cid_from_digest, sha256};
use wc_types::{Class, Code};

use crate::assembly::Assembly;
use crate::index::{Form, Key, cid_of_key, digest, key_from, key_of};
use crate::store::{Clock, Shared, StoreError, locked, make_dir};
use crate::unixfs::{CHUNK_BYTES, UnixfsError};

/// Largest block that lives in the engine; larger ones are files.
pub const INLINE_BYTES_MAX: usize = 64 << 10;
/// Largest single block, and so the largest DAG-CBOR record.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Longest name of a pin's owner.
pub const OWNER_BYTES_MAX: usize = 128;

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
        found: Box<Cid>,
    },
    /// A stored block has rotted. It is dropped and can be fetched again.
    #[error("block {cid} of {root} was damaged on disk and has been dropped")]
    Corrupt {
        /// The block.
        cid: Cid,
        /// The blob it belongs to.
        root: Box<Cid>,
    },
    /// A block that the blob does not need, or not yet.
    #[error("{cid} is no missing block of {root}")]
    NotMissing {
        /// The block.
        cid: Cid,
        /// The blob.
        root: Box<Cid>,
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
        source: Box<UnixfsError>,
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
    /// Stable code and whose move it is.
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::new("WC-STORE-030", Class::Conflict),
            Self::Incomplete { .. } => Code::new("WC-STORE-031", Class::Conflict),
            Self::Mismatch { .. } => Code::new("WC-STORE-032", Class::Peer),
            Self::Corrupt { .. } => Code::new("WC-STORE-033", Class::Host),
            Self::NotMissing { .. } => Code::new("WC-STORE-034", Class::Peer),
            Self::UnsupportedCid { .. } => Code::new("WC-STORE-035", Class::Caller),
            Self::Unixfs { .. } => Code::new("WC-STORE-036", Class::Peer),
            Self::TooLarge { .. } => Code::new("WC-STORE-037", Class::Caller),
            Self::CapExceeded { .. } => Code::new("WC-STORE-038", Class::Exhausted),
            Self::Pinned { .. } => Code::new("WC-STORE-039", Class::Conflict),
            Self::Owner { .. } => Code::new("WC-STORE-040", Class::Caller),
            Self::Io { .. } => Code::new("WC-STORE-041", Class::Host),
            Self::Store { .. } => Code::new("WC-STORE-042", Class::Host),
        }
    }
}

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
    pub(crate) temp: AtomicU64,
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
        let found = self.inner.find(&key_of(cid)?)?;
        Ok(found.is_some_and(|(row, assembly)| assembly.is_none_or(|one| one.bytes_present() == row.bytes)))
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

fn checked_block(cid: &Cid, bytes: &[u8]) -> Result<Key, BlobError> {
    let key = key_of(cid)?;
    check_block_bytes(bytes)?;
    let found = sha256(bytes);
    if found != digest(&key) {
        return Err(BlobError::Mismatch { cid: *cid, found: Box::new(cid_from_digest(cid.codec(), found)) });
    }
    Ok(key)
}

pub(crate) fn check_block_bytes(bytes: &[u8]) -> Result<(), BlobError> {
    if bytes.len() > BLOCK_BYTES_MAX {
        return Err(BlobError::TooLarge { bytes: bytes.len() as u64, bytes_max: BLOCK_BYTES_MAX as u64 });
    }
    Ok(())
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
