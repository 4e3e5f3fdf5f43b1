//! Writing: single blocks, streams, fetched files, and making files durable.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};

use fjall::OwnedWriteBatch;
use wc_types::cid::{CODEC_DAG_PB, CODEC_RAW, sha256};

use crate::assembly::Assembly;
use crate::blob::{
    BlobError, BlobRef, Durability, INLINE_BYTES_MAX, Inner, State, check_block_bytes, io, read_failed, store,
};
use crate::index::{
    Form, Key, LEAVES, ROW, Row, access_key, cid_of_key, digest, encode_place, index_key, key_from, key_of,
    part_key,
};
use crate::reclaim::Room;
use crate::store::{locked, sync_dir};
use crate::unixfs::{
    CHUNK_BYTES, Digest, FILE_BYTES_MAX, LINKS_MAX, Layout, Place, Tree, UnixfsError, decode_root,
};

/// Files that may wait for a sync; bounds open descriptors.
const UNSYNCED_FILES_MAX: usize = 64;
/// Buffers in flight between the reading and the hashing threads.
const PIPELINE_CHUNKS: usize = 12;
/// Threads that hash a stream.
const HASHERS: usize = 2;

impl Inner {
    /// Stores one block of its own, or starts a file from its root. Returns whether the blob is complete.
    pub(crate) fn put_block(
        &self,
        key: Key,
        bytes: &[u8],
        durability: Durability,
    ) -> Result<bool, BlobError> {
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
        let (layout, children) =
            decode_root(block).map_err(|source| BlobError::Unixfs { cid, source: Box::new(source) })?;
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
        if let Err(source) = preallocate(&file, layout.file_bytes()) {
            let _ = fs::remove_file(&path);
            return Err(BlobError::Io { doing: "reserve space for", path, source });
        }
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
    pub(crate) fn fill(
        &self,
        root: &Key,
        assembly: &Arc<Assembly>,
        key: &Key,
        bytes: &[u8],
    ) -> Result<bool, BlobError> {
        let cid = cid_of_key(key);
        let path = || self.path(root);
        if u64::from(key[0]) == CODEC_DAG_PB {
            let taken = assembly
                .take_node(&digest(key), bytes)
                .map_err(|source| BlobError::Unixfs { cid, source: Box::new(source) })?;
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
                Ok(Some(places)) if assembly.is_sync_due(places as u64 * bytes.len() as u64) => {
                    assembly.file().sync_data().map_err(|source| self.sync_failed(&path(), source))?;
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    return Err(BlobError::Unixfs { cid: cid_of_key(root), source: Box::new(source) });
                }
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
            Err(BlobError::NotMissing { cid: cid_of_key(key), root: Box::new(cid_of_key(root)) })
        }
    }

    /// Reads, hashes and writes a stream at once. `bytes_expected` is set aside before the first byte is written; 0
    /// when the length is unknown.
    pub(crate) fn put_stream(
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
            file.sync_data().map_err(|source| self.sync_failed(&temp.path, source))?;
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
            sync_dir(parent).map_err(|source| self.sync_failed(parent, source))?;
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

    pub(crate) fn sync_files(&self) -> Result<(), BlobError> {
        let files: Vec<(Key, Arc<File>)> =
            locked(&self.state).unsynced.iter().map(|(key, file)| (*key, Arc::clone(file))).collect();
        if files.is_empty() {
            return Ok(());
        }
        let mut parents = std::collections::BTreeSet::new();
        for (key, file) in &files {
            let path = self.path(key);
            file.sync_data().map_err(|source| self.sync_failed(&path, source))?;
            parents.extend(path.parent().map(Path::to_owned));
        }
        parents.insert(self.dir.clone());
        for parent in parents {
            sync_dir(&parent).map_err(|source| self.sync_failed(&parent, source))?;
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

    /// Stops the store: the system reports a failed write-back once, and a later sync of the same file would succeed
    /// although its bytes are gone.
    fn sync_failed(&self, path: &Path, source: std::io::Error) -> BlobError {
        self.shared.health.stop(&format!("could not sync {}: {source}", path.display()));
        io("sync", path)(source)
    }

    fn sync_now(&self) -> Result<(), BlobError> {
        self.sync_files()?;
        self.shared.persist().map_err(store("sync a blob"))
    }

    pub(crate) fn temp(&self) -> Temp {
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
pub(crate) struct Temp {
    pub(crate) path: PathBuf,
    pub(crate) kept: bool,
}

impl Temp {
    pub(crate) fn keep(mut self) {
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

pub(crate) fn permissions(mode: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}
