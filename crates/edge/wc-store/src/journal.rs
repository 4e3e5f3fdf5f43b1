//! The journal: numbered facts that survive, or a clear refusal to go on.
//!
//! ```text
//! append ──► engine's log (one batch, all rows or none) ──► commit: fdatasync ──► mark ──► acknowledged
//!                                                             │ fails
//!                                                             ▼
//!                                                           stopped: nothing is taken any more
//! ```
//!
//! Each row carries its own CRC-32C over number and bytes, beside the checksums of the engine. After each commit the
//! number reached is also noted in `journal.mark`, two alternating slots in a file that is never synced by itself: it
//! may be behind, but never ahead of the disk. That note is how a start tells an uncommitted tail, which vanishes
//! silently as it should, from committed rows that rotted away, which must never vanish silently: the engine on its
//! own cuts its log at the first byte it does not understand and says nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fjall::Keyspace;

use wc_types::{Class, Code};

use crate::blob::Blobs;
use crate::snapshot::{self, Snapshot, SnapshotError};
use crate::store::{Shared, StoreError, locked, make_dir};

/// Longest row. Facts are small; whatever is larger belongs into a blob.
pub const ROW_BYTES_MAX: usize = 16 << 20;

/// Rows removed per write batch when the journal is truncated.
const TRUNCATE_ROWS: u64 = 10_000;

const BASE: &[u8] = b"base";

/// Why the journal refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A write has failed before; the journal takes nothing until the process starts again.
    #[error("journal stopped: {cause}")]
    Stopped {
        /// The first failure.
        cause: Arc<str>,
    },
    /// This write failed, and stopped the journal.
    #[error("could not {doing} the journal")]
    Failed {
        /// What we were doing.
        doing: &'static str,
        /// What went wrong.
        source: Box<StoreError>,
    },
    /// Rows must be appended in order, without a gap.
    #[error("the journal expects row {expected}, not {found}")]
    OutOfOrder {
        /// The next free number.
        expected: u64,
        /// The number that was offered.
        found: u64,
    },
    /// A row is longer than [`ROW_BYTES_MAX`].
    #[error("row {seq} has {bytes} bytes, more than {ROW_BYTES_MAX}")]
    RowTooLarge {
        /// Its number.
        seq: u64,
        /// Its length.
        bytes: usize,
    },
    /// A row does not match its checksum, and rows after it do.
    #[error("row {seq} of the journal is damaged")]
    Damaged {
        /// Its number.
        seq: u64,
    },
    /// A row is absent, and rows after it are there or were committed.
    #[error("row {seq} of the journal is missing")]
    Missing {
        /// Its number.
        seq: u64,
    },
    /// Rows that were acknowledged are gone from the end.
    #[error(
        "the journal lost committed rows: everything before {committed} was committed, but rows end before {found}; \
         restore the directory from a copy, or remove {} to go on without those rows", mark.display()
    )]
    CommittedRowsLost {
        /// First number that was not yet committed.
        committed: u64,
        /// First number that is not there.
        found: u64,
        /// The file that remembers.
        mark: PathBuf,
    },
    /// The rows asked for were truncated.
    #[error("rows from {from_seq} were asked for, but the journal begins at {first_seq}")]
    Truncated {
        /// First number that was asked for.
        from_seq: u64,
        /// First number that is kept.
        first_seq: u64,
    },
    /// The rows asked for do not exist yet.
    #[error("rows from {from_seq} were asked for, but the journal ends before {next_seq}")]
    BeyondEnd {
        /// First number that was asked for.
        from_seq: u64,
        /// The next free number.
        next_seq: u64,
    },
    /// A snapshot could not be written or read.
    #[error("snapshot failed")]
    Snapshot(#[from] SnapshotError),
}

impl JournalError {
    /// Stable code and whose move it is.
    pub fn code(&self) -> Code {
        match self {
            Self::Stopped { .. } => Code::new("WC-STORE-010", Class::Host),
            Self::Failed { .. } => Code::new("WC-STORE-011", Class::Host),
            Self::OutOfOrder { .. } => Code::new("WC-STORE-012", Class::Ours),
            Self::RowTooLarge { .. } => Code::new("WC-STORE-013", Class::Ours),
            Self::Damaged { .. } => Code::new("WC-STORE-014", Class::Host),
            Self::Missing { .. } => Code::new("WC-STORE-015", Class::Host),
            Self::CommittedRowsLost { .. } => Code::new("WC-STORE-016", Class::Host),
            Self::Truncated { .. } => Code::new("WC-STORE-017", Class::Conflict),
            Self::BeyondEnd { .. } => Code::new("WC-STORE-018", Class::Conflict),
            Self::Snapshot(error) => error.code(),
        }
    }
}

/// What a start found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovery {
    /// First row kept; `None` when there never was one.
    pub first_seq: Option<u64>,
    /// The next free number; `None` when there never was a row.
    pub next_seq: Option<u64>,
    /// Damaged rows cut from the end; none of them was committed.
    pub rows_cut: u64,
    /// Whole rows at the end that were written but perhaps never acknowledged.
    pub rows_unacknowledged: u64,
    /// A slot of `journal.mark` held something that nobody wrote, so that it may remember less than was committed.
    pub mark_damaged: bool,
}

/// One row read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its number.
    pub seq: u64,
    /// What was appended.
    pub bytes: Vec<u8>,
}

/// Numbered, durable facts, and snapshots of what they led to. Clones share everything.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    rows: Keyspace,
    meta: Keyspace,
    blobs: Blobs,
    snapshots: PathBuf,
    head: Mutex<Head>,
    mark: Mutex<Mark>,
    recovery: Recovery,
    shared: Arc<Shared>,
}

/// The numbers of the first row kept and of the next one; `None` before the first append.
#[derive(Debug, Clone, Copy)]
struct Head {
    span: Option<(u64, u64)>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("head", &*locked(&self.inner.head)).finish_non_exhaustive()
    }
}

impl Journal {
    pub(crate) fn open(shared: &Arc<Shared>, blobs: Blobs) -> Result<Self, StoreError> {
        let rows = shared.keyspace("journal")?;
        let meta = shared.keyspace("journal.meta")?;
        let snapshots = shared.dir.join("snapshots");
        make_dir(&snapshots)?;
        snapshot::clean(&snapshots).map_err(JournalError::from)?;
        let mut mark = Mark::open(&shared.dir.join("journal.mark"))?;
        let recovery = recover(shared, &rows, &meta, &mut mark)?;
        let head = Head { span: recovery.first_seq.zip(recovery.next_seq) };
        let shared = Arc::clone(shared);
        let (head, mark) = (Mutex::new(head), Mutex::new(mark));
        Ok(Self { inner: Arc::new(Inner { rows, meta, blobs, snapshots, head, mark, recovery, shared }) })
    }

    /// What the start found and cut.
    pub fn recovery(&self) -> Recovery {
        self.inner.recovery
    }

    /// The next free number; `None` before the first append ever.
    pub fn next_seq(&self) -> Option<u64> {
        locked(&self.inner.head).span.map(|(_, next)| next)
    }

    /// The first row kept; `None` before the first append ever.
    pub fn first_seq(&self) -> Option<u64> {
        locked(&self.inner.head).span.map(|(first, _)| first)
    }

    /// Numbers below this are known to be durable.
    pub fn committed(&self) -> u64 {
        locked(&self.inner.mark).next
    }

    /// Appends `rows` as numbers `first_seq`, `first_seq + 1`, … in one batch: all or none. Not durable before
    /// [`commit`](Self::commit).
    ///
    /// # Errors
    /// [`JournalError::OutOfOrder`] and [`JournalError::RowTooLarge`] change nothing; any other failure stops the
    /// journal.
    pub fn append(&self, first_seq: u64, rows: &[impl AsRef<[u8]>]) -> Result<(), JournalError> {
        self.check()?;
        if rows.is_empty() {
            return Ok(());
        }
        let inner = &*self.inner;
        let mut head = locked(&inner.head);
        if let Some((_, expected)) = head.span
            && expected != first_seq
        {
            return Err(JournalError::OutOfOrder { expected, found: first_seq });
        }
        let mut batch = inner.shared.db.batch();
        if head.span.is_none() {
            batch.insert(&inner.meta, BASE, first_seq.to_be_bytes());
        }
        let mut seq = first_seq;
        for row in rows {
            let bytes = row.as_ref();
            if bytes.len() > ROW_BYTES_MAX {
                return Err(JournalError::RowTooLarge { seq, bytes: bytes.len() });
            }
            batch.insert(&inner.rows, seq.to_be_bytes(), seal(seq, bytes));
            seq += 1;
        }
        inner.shared.write(batch, "append to the journal").map_err(|e| failed("append to", e))?;
        head.span = Some((head.span.map_or(first_seq, |(first, _)| first), seq));
        Ok(())
    }

    /// Makes everything appended, put into tables and put into blobs before this call durable.
    ///
    /// # Errors
    /// Any failure stops the journal: what was appended since the last commit must not be acknowledged.
    pub fn commit(&self) -> Result<(), JournalError> {
        self.check()?;
        let inner = &*self.inner;
        let next = locked(&inner.head).span.map_or(0, |(_, next)| next);
        inner.blobs.sync_files().map_err(|e| self.stop("sync blobs before", StoreError::Blob(e)))?;
        inner.shared.persist().map_err(|e| failed("commit", e))?;
        locked(&inner.mark).advance(next).map_err(|e| self.stop("mark", e))
    }

    /// Reads rows from `from_seq` to the end, checking each number and checksum.
    ///
    /// # Errors
    /// [`JournalError::Truncated`] or [`JournalError::BeyondEnd`] at once; [`JournalError::Damaged`] and
    /// [`JournalError::Missing`] name the first bad row and end the walk.
    pub fn replay(&self, from_seq: u64) -> Result<Replay, JournalError> {
        let (first_seq, next_seq) = locked(&self.inner.head).span.unwrap_or((from_seq, from_seq));
        if from_seq < first_seq {
            return Err(JournalError::Truncated { from_seq, first_seq });
        }
        if from_seq > next_seq {
            return Err(JournalError::BeyondEnd { from_seq, next_seq });
        }
        let rows = self.inner.rows.range(from_seq.to_be_bytes()..next_seq.to_be_bytes());
        Ok(Replay { rows, seq: from_seq, end: next_seq })
    }

    /// Writes the state after row `seq` as a snapshot: whole on disk when this returns, or absent. Commits first when
    /// `seq` is not durable yet. A failure here does not stop the journal: no row is lost by it.
    ///
    /// # Errors
    /// [`JournalError::BeyondEnd`] for a number that was never appended; disk errors.
    pub fn write_snapshot(&self, seq: u64, bytes: &[u8]) -> Result<(), JournalError> {
        self.check()?;
        if let Some((_, next_seq)) = locked(&self.inner.head).span
            && seq >= next_seq
        {
            return Err(JournalError::BeyondEnd { from_seq: seq, next_seq });
        }
        if seq >= self.committed() {
            self.commit()?;
        }
        Ok(snapshot::write(&self.inner.snapshots, seq, bytes)?)
    }

    /// Reads the newest snapshot that is whole.
    ///
    /// # Errors
    /// [`SnapshotError::AllDamaged`] when there are some and none is whole; disk errors.
    pub fn latest_snapshot(&self) -> Result<Option<Snapshot>, JournalError> {
        Ok(snapshot::latest(&self.inner.snapshots)?)
    }

    fn check(&self) -> Result<(), JournalError> {
        self.inner.shared.health.cause().map_or(Ok(()), |cause| Err(JournalError::Stopped { cause }))
    }

    fn stop(&self, doing: &'static str, source: StoreError) -> JournalError {
        self.inner.shared.health.stop(&format!("could not {doing} the journal: {}", chain(&source)));
        failed(doing, source)
    }
}

/// The rows of a [`Journal`] in order; ends at the first error.
pub struct Replay {
    rows: fjall::Iter,
    seq: u64,
    end: u64,
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("seq", &self.seq).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Iterator for Replay {
    type Item = Result<Row, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.seq == self.end {
            return None;
        }
        let seq = self.seq;
        let row = match self.rows.next().map(fjall::Guard::into_inner) {
            None => Err(JournalError::Missing { seq }),
            Some(Err(source)) => Err(failed("read", StoreError::Engine { doing: "read a row", source })),
            Some(Ok((key, _))) if *key != seq.to_be_bytes() => Err(JournalError::Missing { seq }),
            Some(Ok((_, value))) => match unseal(seq, &value) {
                Some(bytes) => Ok(Row { seq, bytes: bytes.to_vec() }),
                None => Err(JournalError::Damaged { seq }),
            },
        };
        self.seq = if row.is_ok() { seq + 1 } else { self.end };
        Some(row)
    }
}

/// Cuts damaged rows from the end and compares what is left with what was committed.
fn recover(
    shared: &Shared,
    rows: &Keyspace,
    meta: &Keyspace,
    mark: &mut Mark,
) -> Result<Recovery, StoreError> {
    let read = |source| StoreError::Engine { doing: "read the journal", source };
    let base =
        meta.get(BASE).map_err(read)?.and_then(|bytes| Some(u64::from_be_bytes((*bytes).try_into().ok()?)));
    let Some(base) = base else {
        // No row was ever appended, or the whole log is gone.
        if mark.next > 0 {
            return Err(mark.lost(0).into());
        }
        return Ok(Recovery { mark_damaged: mark.damaged, ..Recovery::default() });
    };
    let mut cut = Vec::new();
    let mut next = base;
    for entry in rows.iter().rev() {
        let (key, value) = entry.into_inner().map_err(read)?;
        let seq = (*key).try_into().ok().map(u64::from_be_bytes);
        match seq {
            Some(seq) if seq < base => break,
            Some(seq) if unseal(seq, &value).is_some() => {
                next = seq + 1;
                break;
            }
            _ => cut.push(key),
        }
    }
    if next < mark.next {
        return Err(mark.lost(next).into());
    }
    let rows_cut = cut.len() as u64;
    if rows_cut > 0 {
        tracing::warn!(rows_cut, next, "torn journal tail cut");
        let mut batch = shared.db.batch();
        for key in cut {
            batch.remove(rows, key);
        }
        shared.write(batch, "cut a torn journal tail")?;
        shared.persist()?;
    }
    // A truncation that was interrupted: its base is written with the first rows it removes.
    if let Some(entry) = rows.range(..base.to_be_bytes()).next() {
        let key = entry.key().map_err(read)?;
        let first = (*key).try_into().map_or(base, u64::from_be_bytes);
        remove_rows(shared, rows, meta, first, base)?;
    }
    let rows_unacknowledged = next - mark.next.clamp(base, next);
    let mark_damaged = mark.damaged;
    Ok(Recovery { first_seq: Some(base), next_seq: Some(next), rows_cut, rows_unacknowledged, mark_damaged })
}

fn remove_rows(
    shared: &Shared,
    rows: &Keyspace,
    meta: &Keyspace,
    first: u64,
    until: u64,
) -> Result<(), StoreError> {
    let mut from = first;
    while from < until {
        let to = until.min(from.saturating_add(TRUNCATE_ROWS));
        let mut batch = shared.db.batch();
        batch.insert(meta, BASE, until.to_be_bytes());
        for seq in from..to {
            batch.remove(rows, seq.to_be_bytes());
        }
        shared.write(batch, "truncate the journal")?;
        from = to;
    }
    Ok(())
}

/// Row value: CRC-32C of number and bytes, then the bytes.
fn seal(seq: u64, bytes: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(4 + bytes.len());
    value.extend_from_slice(&row_sum(seq, bytes).to_le_bytes());
    value.extend_from_slice(bytes);
    value
}

fn unseal(seq: u64, value: &[u8]) -> Option<&[u8]> {
    let (sum, bytes) = value.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == row_sum(seq, bytes)).then_some(bytes)
}

fn row_sum(seq: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&seq.to_be_bytes()), bytes)
}

fn failed(doing: &'static str, source: StoreError) -> JournalError {
    match source {
        StoreError::Stopped { cause } => JournalError::Stopped { cause },
        source => JournalError::Failed { doing, source: Box::new(source) },
    }
}

/// An error and its sources on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// The number that commits have reached, in two alternating slots.
struct Mark {
    file: File,
    path: PathBuf,
    next: u64,
    slot: u64,
    damaged: bool,
}

const MARK_MAGIC: &[u8; 8] = b"WCMARK1\n";
const MARK_SLOT_BYTES: u64 = 512;

impl Mark {
    fn open(path: &Path) -> Result<Self, StoreError> {
        let io = |doing, source| StoreError::Io { doing, path: path.to_owned(), source };
        let options = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = options.map_err(|e| io("open", e))?;
        // Space for both slots is taken now, so that a full disk cannot fail a mark later.
        if file.metadata().map_err(|e| io("read", e))?.len() < 2 * MARK_SLOT_BYTES {
            file.write_all_at(&[0; 2 * MARK_SLOT_BYTES as usize], 0).map_err(|e| io("write", e))?;
            file.sync_all().map_err(|e| io("sync", e))?;
        }
        let mut mark = Self { file, path: path.to_owned(), next: 0, slot: 0, damaged: false };
        for slot in 0..2 {
            let mut bytes = [0; 20];
            mark.file.read_exact_at(&mut bytes, slot * MARK_SLOT_BYTES).map_err(|e| io("read", e))?;
            let next = u64::from_le_bytes(std::array::from_fn(|at| bytes[8 + at]));
            let whole = bytes == mark_bytes(next);
            // A slot that was never written is zero.
            mark.damaged |= !whole && bytes != [0; 20];
            if whole && next >= mark.next {
                mark.next = next;
                mark.slot = 1 - slot;
            }
        }
        Ok(mark)
    }

    fn advance(&mut self, next: u64) -> Result<(), StoreError> {
        if next <= self.next {
            return Ok(());
        }
        let written = self.file.write_all_at(&mark_bytes(next), self.slot * MARK_SLOT_BYTES);
        written.map_err(|source| StoreError::Io { doing: "write", path: self.path.clone(), source })?;
        self.next = next;
        self.slot = 1 - self.slot;
        Ok(())
    }

    fn lost(&self, found: u64) -> JournalError {
        JournalError::CommittedRowsLost { committed: self.next, found, mark: self.path.clone() }
    }
}

fn mark_bytes(next: u64) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(MARK_MAGIC);
    bytes[8..16].copy_from_slice(&next.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..16]);
    bytes[16..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests;
