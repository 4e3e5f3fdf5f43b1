//! Keeping under the cap: who pins what, what was used least recently, and what a crash left behind.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use wc_types::cid::{CODEC_DAG_PB, CODEC_RAW, Cid, sha256};

use crate::blob::{BlobError, Blobs, Inner, OWNER_BYTES_MAX, State, io, read_failed};
use crate::index::{
    ACCESS, Form, Key, LEAVES, PIN, ROW, Row, access_key, cid_of_key, index_key, key_of, part_key,
};
use crate::store::locked;
use crate::unixfs::{Layout, Place};

/// Last-access times kept in memory before they are written.
const TOUCHED_MAX: usize = 4096;
/// Space is reserved for a stream of unknown length in steps of this size.
const RESERVE_STEP_BYTES: u64 = 16 << 20;

/// How full the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of blobs, stored or being written.
    pub used_bytes: u64,
    /// Bytes of pinned blobs, which are never evicted.
    pub pinned_bytes: u64,
    /// The cap.
    pub cap_bytes: u64,
    /// Number of blobs, partial ones included.
    pub blobs: u64,
}

/// What a collection freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Blobs evicted.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Blobs {
    /// Keeps `cid` and all its blocks for `owner` until it is unpinned, whether it is here already or still to come.
    /// Pinning twice is pinning once. A pin does not follow links inside DAG-CBOR records.
    ///
    /// # Errors
    /// [`BlobError::Owner`] for an owner's name that is empty or too long; disk errors.
    pub fn pin(&self, cid: &Cid, owner: &str) -> Result<(), BlobError> {
        let key = key_of(cid)?;
        check_owner(owner)?;
        let inner = &*self.inner;
        let name = index_key(PIN, &[&key, owner.as_bytes()]);
        let mut state = locked(&inner.state);
        // Many tasks of a job have the same result. Each write would leave a version that a search must step over.
        if inner.index.contains_key(&name).map_err(read_failed)? {
            return Ok(());
        }
        let first = !inner.is_pinned(&key)?;
        let mut batch = inner.shared.db.batch();
        batch.insert(&inner.index, name, []);
        let row = inner.row(&key)?;
        if let (true, Some(row)) = (first, row) {
            batch.remove(&inner.index, access_key(row.accessed, &key));
        }
        inner.write(batch, "pin a blob")?;
        if let (true, Some(row)) = (first, row) {
            state.pinned_bytes += row.bytes;
        }
        Ok(())
    }

    /// Takes `owner`'s pin away; without one, nothing happens.
    ///
    /// # Errors
    /// As [`pin`](Self::pin).
    pub fn unpin(&self, cid: &Cid, owner: &str) -> Result<(), BlobError> {
        let key = key_of(cid)?;
        check_owner(owner)?;
        let inner = &*self.inner;
        let mut state = locked(&inner.state);
        let name = index_key(PIN, &[&key, owner.as_bytes()]);
        if !inner.index.contains_key(&name).map_err(read_failed)? {
            return Ok(());
        }
        let mut owners = inner.index.prefix(index_key(PIN, &[&key]));
        let last = owners.next().is_some() && owners.next().is_none();
        let mut batch = inner.shared.db.batch();
        batch.remove(&inner.index, name);
        let row = inner.row(&key)?;
        if let (true, Some(row)) = (last, row) {
            batch.insert(&inner.index, access_key(row.accessed, &key), []);
        }
        inner.write(batch, "unpin a blob")?;
        if let (true, Some(row)) = (last, row) {
            state.pinned_bytes -= row.bytes;
        }
        Ok(())
    }

    /// How full the store is.
    pub fn usage(&self) -> Usage {
        let state = locked(&self.inner.state);
        Usage {
            used_bytes: state.used_bytes,
            pinned_bytes: state.pinned_bytes,
            cap_bytes: self.inner.cap_bytes,
            blobs: state.blobs,
        }
    }

    /// Evicts the least recently used blobs that nobody pins until the store is within its cap.
    ///
    /// # Errors
    /// Disk errors.
    pub fn collect(&self) -> Result<Collected, BlobError> {
        let mut state = locked(&self.inner.state);
        self.inner.evict_down_to(&mut state, self.inner.cap_bytes)
    }

    /// Removes a blob that nobody pins; returns whether it was here.
    ///
    /// # Errors
    /// [`BlobError::Pinned`]; disk errors.
    pub fn remove(&self, cid: &Cid) -> Result<bool, BlobError> {
        let key = key_of(cid)?;
        let mut state = locked(&self.inner.state);
        let Some(row) = self.inner.row(&key)? else { return Ok(false) };
        if self.inner.is_pinned(&key)? {
            return Err(BlobError::Pinned { cid: *cid });
        }
        self.inner.evict(&mut state, &key, row)?;
        Ok(true)
    }
}

impl Inner {
    pub(crate) fn is_pinned(&self, key: &Key) -> Result<bool, BlobError> {
        match self.index.prefix(index_key(PIN, &[key])).next() {
            None => Ok(false),
            Some(entry) => entry.key().map(|_| true).map_err(read_failed),
        }
    }

    /// Notes that a blob was used now.
    pub(crate) fn touch(&self, key: &Key) -> Result<(), BlobError> {
        let mut state = locked(&self.state);
        state.touched.insert(*key, (self.clock)());
        if state.touched.len() >= TOUCHED_MAX { self.write_touched(&mut state) } else { Ok(()) }
    }

    /// Brings the order of access in the index up to date.
    pub(crate) fn write_touched(&self, state: &mut State) -> Result<(), BlobError> {
        let mut batch = self.shared.db.batch();
        for (key, accessed) in state.touched.drain() {
            let Some(row) = self.row(&key)? else { continue };
            if accessed == row.accessed {
                continue;
            }
            batch.insert(&self.index, index_key(ROW, &[&key]), Row { accessed, ..row }.encode());
            if !self.is_pinned(&key)? {
                batch.remove(&self.index, access_key(row.accessed, &key));
                batch.insert(&self.index, access_key(accessed, &key), []);
            }
        }
        self.write(batch, "note accesses")
    }

    /// Sets `bytes` of the cap aside.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<Room<'_>, BlobError> {
        let mut state = locked(&self.state);
        self.make_room(&mut state, bytes)?;
        state.used_bytes += bytes;
        Ok(Room { inner: self, bytes })
    }

    /// Evicts until `bytes` more fit under the cap; evicts nothing when they never would.
    pub(crate) fn make_room(&self, state: &mut State, bytes: u64) -> Result<(), BlobError> {
        let free = |used: u64| self.cap_bytes.saturating_sub(used);
        if bytes <= free(state.used_bytes) {
            return Ok(());
        }
        if bytes <= free(state.pinned_bytes) {
            self.evict_down_to(state, self.cap_bytes - bytes)?;
            if bytes <= free(state.used_bytes) {
                return Ok(());
            }
        }
        let free_bytes = free(state.pinned_bytes);
        Err(BlobError::CapExceeded { needed_bytes: bytes, free_bytes, cap_bytes: self.cap_bytes })
    }

    fn evict_down_to(&self, state: &mut State, bytes: u64) -> Result<Collected, BlobError> {
        let mut collected = Collected::default();
        if state.used_bytes <= bytes {
            return Ok(collected);
        }
        self.write_touched(state)?;
        for entry in self.index.prefix([ACCESS]) {
            if state.used_bytes <= bytes {
                break;
            }
            let name = entry.key().map_err(read_failed)?;
            let Some(key) = name.last_chunk::<33>() else { continue };
            let Some(row) = self.row(key)? else { continue };
            tracing::debug!(cid = %cid_of_key(key), bytes = row.bytes, "evicted");
            self.evict(state, key, row)?;
            collected.blobs += 1;
            collected.bytes += row.bytes;
        }
        Ok(collected)
    }

    /// Forgets a blob: first its entries, then its file, so that a crash in between leaves a file without a row, which
    /// the next start removes.
    pub(crate) fn evict(&self, state: &mut State, key: &Key, row: Row) -> Result<(), BlobError> {
        let mut batch = self.shared.db.batch();
        batch.remove(&self.index, index_key(ROW, &[key]));
        batch.remove(&self.index, access_key(row.accessed, key));
        if row.form == Form::Inline || u64::from(key[0]) == CODEC_DAG_PB {
            batch.remove(&self.blocks, *key);
        }
        if u64::from(key[0]) == CODEC_DAG_PB {
            let layout = Layout::of(row.bytes).ok();
            for (segment, leaves) in self.leaves(key)? {
                batch.remove(&self.index, index_key(LEAVES, &[&key[1..], &segment.to_be_bytes()]));
                for leaf in &leaves {
                    batch.remove(&self.index, part_key(CODEC_RAW, leaf, key));
                }
                if let Some(layout) = layout {
                    let node = sha256(&layout.encode(Place { level: 1, ordinal: segment }, &leaves));
                    batch.remove(&self.index, part_key(CODEC_DAG_PB, &node, key));
                }
            }
        }
        self.write(batch, "forget a blob")?;
        state.used_bytes -= row.bytes.min(state.used_bytes);
        state.blobs -= 1;
        if self.is_pinned(key)? {
            state.pinned_bytes -= row.bytes.min(state.pinned_bytes);
        }
        state.touched.remove(key);
        state.assemblies.remove(key);
        state.unsynced.remove(key);
        if row.form != Form::Inline {
            self.flush()?;
            let path = self.path(key);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// At the start: removes temporary files, files without a row and rows without a file, and counts what is left.
    pub(crate) fn tidy(&self) -> Result<(), BlobError> {
        let mut files = HashMap::new();
        for folder in list(&self.dir)? {
            if !folder.is_dir() {
                continue;
            }
            for path in list(&folder)? {
                let name = path.file_name().and_then(|name| name.to_str());
                let key = name.and_then(|name| Cid::try_from(name).ok()).and_then(|cid| key_of(&cid).ok());
                match key {
                    Some(key) if self.path(&key) == path => {
                        let bytes = path.metadata().map_err(io("read", &path))?.len();
                        files.insert(key, bytes);
                    }
                    _ => fs::remove_file(&path).map_err(io("remove", &path))?,
                }
            }
        }
        let mut state = locked(&self.state);
        let mut lost = Vec::new();
        for entry in self.index.prefix([ROW]) {
            let (name, value) = entry.into_inner().map_err(read_failed)?;
            let (Some(key), Some(row)) = (name.last_chunk::<33>(), Row::decode(&value)) else { continue };
            state.used_bytes += row.bytes;
            state.blobs += 1;
            if row.form != Form::Inline && files.remove(key) != Some(row.bytes) {
                lost.push((*key, row));
            }
        }
        for key in files.keys() {
            let path = self.path(key);
            fs::remove_file(&path).map_err(io("remove", &path))?;
        }
        let mut before: Option<Key> = None;
        for entry in self.index.prefix([PIN]) {
            let name = entry.key().map_err(read_failed)?;
            let Some(key) = name.get(1..).and_then(|name| name.first_chunk::<33>()) else { continue };
            if before.replace(*key) != Some(*key) {
                state.pinned_bytes += self.row(key)?.map_or(0, |row| row.bytes);
            }
        }
        for (key, row) in lost {
            tracing::warn!(cid = %cid_of_key(&key), "the file of a blob is gone or cut");
            self.evict(&mut state, &key, row)?;
        }
        Ok(())
    }
}

/// Bytes of the cap that are set aside, and go back unless they are kept.
pub(crate) struct Room<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) bytes: u64,
}

impl Room<'_> {
    /// Makes the reservation at least `bytes`; in large steps while nothing has to be evicted for them.
    pub(crate) fn grow_to(&mut self, bytes: u64) -> Result<(), BlobError> {
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

    pub(crate) fn shrink_to(&mut self, state: &mut State, bytes: u64) {
        state.used_bytes -= self.bytes - bytes.min(self.bytes);
        self.bytes = bytes.min(self.bytes);
    }

    pub(crate) fn keep(mut self) {
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

fn list(dir: &std::path::Path) -> Result<Vec<PathBuf>, BlobError> {
    let entries = fs::read_dir(dir).map_err(io("list", dir))?;
    entries.map(|entry| Ok(entry.map_err(io("list", dir))?.path())).collect()
}

fn check_owner(owner: &str) -> Result<(), BlobError> {
    if (1..=OWNER_BYTES_MAX).contains(&owner.len()) {
        Ok(())
    } else {
        Err(BlobError::Owner { bytes: owner.len() })
    }
}
