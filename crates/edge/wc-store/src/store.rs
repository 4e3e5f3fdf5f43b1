//! One directory, one engine, one lock: what the journal, the tables and the blobs share.
//!
//! Everything small goes through one write-ahead log, so a single `fdatasync` makes all that was written before it
//! durable. The first write that fails stops the whole store ([`StoreError::Stopped`]); what the disk holds then is
//! decided by the next start, never by going on.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use wc_types::{Class, Code};

use crate::blob::{BlobError, Blobs};
use crate::journal::{Journal, JournalError};
use crate::table::Table;

/// Memory of one table before it is written out; four may be waiting.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Write-ahead log kept before old tables are forced out; bounds how long a start takes.
const LOG_BYTES_MAX: u64 = 128 << 20;
/// Longest table name.
const TABLE_NAME_BYTES_MAX: usize = 64;

/// Returns the present in microseconds since 1970; the store reads no other clock.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Where the store lives and how much it may keep.
#[derive(Clone)]
pub struct StoreConfig {
    /// Directory of the store; created when absent, used by one process at a time.
    pub dir: PathBuf,
    /// Bytes of blobs kept at most; journal, snapshots and tables do not count.
    pub cap_bytes: u64,
    /// Memory for cached blocks of the engine.
    pub cache_bytes: u64,
    /// The clock behind last-access times.
    pub clock: Clock,
}

impl StoreConfig {
    /// A store under `dir` with `cap_bytes` of blobs, 8 MiB of cache and the given clock.
    pub fn new(dir: impl Into<PathBuf>, cap_bytes: u64, clock: Clock) -> Self {
        Self { dir: dir.into(), cap_bytes, cache_bytes: 8 << 20, clock }
    }
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreConfig")
            .field("dir", &self.dir)
            .field("cap_bytes", &self.cap_bytes)
            .field("cache_bytes", &self.cache_bytes)
            .finish_non_exhaustive()
    }
}

/// Why a store could not be opened or an operation on it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process (or another handle in this one) has the directory.
    #[error("{} is in use by another process", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
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
    /// The storage engine refused.
    #[error("the storage engine could not {doing}")]
    Engine {
        /// What we were doing.
        doing: &'static str,
        /// What the engine said.
        source: fjall::Error,
    },
    /// The engine's files are damaged beyond what it can open.
    #[error("the database under {} is damaged: {why}", dir.display())]
    Damaged {
        /// The database directory.
        dir: PathBuf,
        /// What the engine stumbled over.
        why: String,
    },
    /// An earlier write failed; nothing is written until the process starts again.
    #[error("store stopped: {cause}")]
    Stopped {
        /// The first failure.
        cause: Arc<str>,
    },
    /// A table name is empty, too long, or has other characters than `a-z 0-9 _ -`.
    #[error("{name:?} is not a table name")]
    TableName {
        /// The name that was asked for.
        name: String,
    },
    /// The journal could not be opened.
    #[error("could not open the journal")]
    Journal(#[from] JournalError),
    /// The blobs could not be opened.
    #[error("could not open the blobs")]
    Blob(#[from] BlobError),
}

impl StoreError {
    /// Stable code and whose move it is.
    pub fn code(&self) -> Code {
        match self {
            Self::Locked { .. } => Code::new("WC-STORE-001", Class::Conflict),
            Self::Io { .. } => Code::new("WC-STORE-002", Class::Host),
            Self::Engine { .. } => Code::new("WC-STORE-003", Class::Host),
            Self::Damaged { .. } => Code::new("WC-STORE-004", Class::Host),
            Self::Stopped { .. } => Code::new("WC-STORE-005", Class::Host),
            Self::TableName { .. } => Code::new("WC-STORE-006", Class::Caller),
            Self::Journal(error) => error.code(),
            Self::Blob(error) => error.code(),
        }
    }
}

/// A node's bytes: journal, snapshots, tables and blobs under one directory. Clones share everything.
#[derive(Clone)]
pub struct Store {
    journal: Journal,
    blobs: Blobs,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates the store, cuts a torn journal tail and removes what a crash left half-written.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has the directory; [`StoreError::Journal`] when committed rows are
    /// gone; the other variants when the disk or the engine fail.
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let dir = config.dir.clone();
        make_dir(&dir)?;
        let lock = lock(&dir)?;
        let db = open_engine(&dir.join("db"), config.cache_bytes)?;
        let shared = Arc::new(Shared { db, dir, health: Health::default(), _lock: lock });
        let blobs = Blobs::open(&shared, config.cap_bytes, config.clock)?;
        let journal = Journal::open(&shared, blobs.clone())?;
        Ok(Self { journal, blobs, shared })
    }

    /// The journal: facts in order, and snapshots of what they led to.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The content-addressed blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Opens or creates the table `name`, for data that can be derived again from the journal.
    ///
    /// # Errors
    /// [`StoreError::TableName`] for a name that is not `a-z 0-9 _ -`, 1 to 64 characters; engine errors.
    pub fn table(&self, name: &str) -> Result<Table, StoreError> {
        let fits = (1..=TABLE_NAME_BYTES_MAX).contains(&name.len());
        if !fits || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
        {
            return Err(StoreError::TableName { name: name.to_owned() });
        }
        let keyspace = self.shared.keyspace(&format!("table.{name}"))?;
        Ok(Table::new(Arc::clone(&self.shared), keyspace))
    }

    /// Makes everything written so far durable: blob files first, then the engine's log with one `fdatasync`.
    ///
    /// # Errors
    /// Any failure stops the store for good.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.blobs.sync_files()?;
        self.shared.persist()
    }

    /// The directory of this store.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// The first failure, if a write has failed since the store was opened.
    pub fn stopped(&self) -> Option<Arc<str>> {
        self.shared.health.cause()
    }
}

/// What every part of the store holds on to. Field order is drop order: the engine closes before the lock opens.
pub(crate) struct Shared {
    pub(crate) db: Database,
    pub(crate) dir: PathBuf,
    pub(crate) health: Health,
    _lock: File,
}

impl Shared {
    /// Opens a keyspace of the engine.
    pub(crate) fn keyspace(&self, name: &str) -> Result<Keyspace, StoreError> {
        self.health.check()?;
        self.db
            .keyspace(name, || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(MEMTABLE_BYTES)
                    .manual_journal_persist(true)
            })
            .map_err(|source| self.engine_failed("open a keyspace", source))
    }

    /// Applies one write batch; the first failure stops the store.
    pub(crate) fn write(&self, batch: fjall::OwnedWriteBatch, doing: &'static str) -> Result<(), StoreError> {
        self.health.check()?;
        batch.commit().map_err(|source| self.engine_failed(doing, source))
    }

    /// `fdatasync` of the engine's log.
    pub(crate) fn persist(&self) -> Result<(), StoreError> {
        self.health.check()?;
        self.db.persist(PersistMode::SyncData).map_err(|source| self.engine_failed("sync its log", source))
    }

    /// Hands the engine's log to the system, so that it outlives this process.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.health.check()?;
        self.db.persist(PersistMode::Buffer).map_err(|source| self.engine_failed("write its log", source))
    }

    /// Turns an engine failure on the write path into an error, and stops the store.
    pub(crate) fn engine_failed(&self, doing: &'static str, source: fjall::Error) -> StoreError {
        if matches!(source, fjall::Error::Poisoned) {
            self.health.stop("the storage engine stopped after a failed write in the background");
        } else {
            self.health.stop(&format!("the storage engine could not {doing}: {source}"));
        }
        StoreError::Engine { doing, source }
    }
}

/// Remembers the first failed write.
#[derive(Default)]
pub(crate) struct Health {
    cause: Mutex<Option<Arc<str>>>,
}

impl Health {
    /// Refuses when a write has failed before.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match self.cause() {
            None => Ok(()),
            Some(cause) => Err(StoreError::Stopped { cause }),
        }
    }

    /// Records `cause` unless there is an earlier one, and returns the one that stands.
    pub(crate) fn stop(&self, cause: &str) -> Arc<str> {
        let mut first = locked(&self.cause);
        if first.is_none() {
            tracing::error!(cause, "store stopped");
        }
        Arc::clone(first.get_or_insert_with(|| cause.into()))
    }

    pub(crate) fn cause(&self) -> Option<Arc<str>> {
        locked(&self.cause).clone()
    }
}

/// Locks `mutex`; a thread that panicked inside left a state that every user of these locks can continue from.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates a directory and its parents.
pub(crate) fn make_dir(dir: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(dir).map_err(|source| StoreError::Io { doing: "create", path: dir.to_owned(), source })
}

/// Makes the names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let io = |doing, source| StoreError::Io { doing, path: path.clone(), source };
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| io("open", e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::Locked { dir: dir.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(io("lock", source)),
    }
}

fn open_engine(dir: &Path, cache_bytes: u64) -> Result<Database, StoreError> {
    let builder = Database::builder(dir)
        .cache_size(cache_bytes)
        .max_journaling_size(LOG_BYTES_MAX)
        .journal_compression(CompressionType::None)
        .manual_journal_persist(true)
        .worker_threads(2);
    // The engine asserts on some damaged files instead of returning an error.
    match catch_unwind(AssertUnwindSafe(|| builder.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(fjall::Error::Locked)) => Err(StoreError::Locked { dir: dir.to_owned() }),
        Ok(Err(fjall::Error::Io(source))) => {
            Err(StoreError::Io { doing: "open the database", path: dir.to_owned(), source })
        }
        Ok(Err(error)) => Err(StoreError::Damaged { dir: dir.to_owned(), why: error.to_string() }),
        Err(_) => Err(StoreError::Damaged {
            dir: dir.to_owned(),
            why: "an assertion of the engine failed".to_owned(),
        }),
    }
}
