//! Reading: finding a blob, resuming a partial one, serving blocks, dropping what rotted.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use wc_types::cid::{CODEC_DAG_PB, CODEC_RAW, Cid, sha256};

use crate::assembly::Assembly;
use crate::blob::{BLOCK_BYTES_MAX, BlobError, Inner, State, io, read_failed};
use crate::index::{
    Form, Key, LEAVES, PART, ROW, Row, cid_of_key, decode_place, digest, index_key, key_from, key_of,
};
use crate::put::{Temp, permissions};
use crate::store::locked;
use crate::unixfs::{CHUNK_BYTES, Digest, Layout, Place, Tree, decode_root};

/// Partial files kept open at once; others are hashed again when they go on.
const ASSEMBLIES_MAX: usize = 64;

/// A blob's row, and its assembly when it is not whole.
pub(crate) type Found = (Row, Option<Arc<Assembly>>);

impl Inner {
    pub(crate) fn row(&self, key: &Key) -> Result<Option<Row>, BlobError> {
        let bytes = self.index.get(index_key(ROW, &[key])).map_err(read_failed)?;
        Ok(bytes.and_then(|bytes| Row::decode(&bytes)))
    }

    pub(crate) fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(format!("{:02x}", key[1])).join(cid_of_key(key).to_string())
    }

    /// A blob's row, and its assembly when it is not whole.
    pub(crate) fn find(&self, key: &Key) -> Result<Option<Found>, BlobError> {
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
    fn resume(&self, key: &Key, row: Row) -> Result<Option<Found>, BlobError> {
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
    pub(crate) fn shed(&self, state: &mut State) {
        if state.assemblies.len() >= ASSEMBLIES_MAX {
            state.assemblies.retain(|_, assembly| Arc::strong_count(assembly) > 1);
        }
    }

    /// A blob that must be whole.
    pub(crate) fn whole(&self, key: &Key) -> Result<Row, BlobError> {
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
    pub(crate) fn walk(
        &self,
        key: &Key,
        row: Row,
        mut take: impl FnMut(&[u8]),
    ) -> Result<Option<Key>, BlobError> {
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

    pub(crate) fn inline(&self, key: &Key) -> Result<Vec<u8>, BlobError> {
        let block = self.blocks.get(key).map_err(read_failed)?;
        block.map(|block| block.to_vec()).ok_or_else(|| BlobError::NotFound { cid: cid_of_key(key) })
    }

    /// Drops what rotted: a leaf makes its file partial, a block of its own disappears. Returns the error to report.
    pub(crate) fn rotted(&self, root: &Key, bad: &Key) -> Result<BlobError, BlobError> {
        let error = BlobError::Corrupt { cid: cid_of_key(bad), root: Box::new(cid_of_key(root)) };
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

    pub(crate) fn block(&self, key: &Key) -> Result<Vec<u8>, BlobError> {
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

    pub(crate) fn export(
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
}
