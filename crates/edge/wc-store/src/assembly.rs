//! A file that is being fetched: which blocks it still needs, and where each one goes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use wc_types::cid::{CODEC_DAG_PB, CODEC_RAW, Cid, cid_from_digest, sha256};

use crate::index::{Key, digest};
use crate::store::locked;
use crate::unixfs::{CHUNK_BYTES, Digest, LINKS_MAX, Layout, Place, UnixfsError};

/// Bytes written to a file after which they are made durable while the next ones come: the last sync has little left to
/// do, and the disk works while the network does.
const SYNC_EVERY_BYTES: u64 = 64 << 20;

/// A partial file.
pub(crate) struct Assembly {
    layout: Layout,
    file: Arc<File>,
    /// Bytes written since somebody last took it upon himself to sync.
    unsynced_bytes: AtomicU64,
    progress: Mutex<Progress>,
}

/// What is known and what is here.
struct Progress {
    /// Inner nodes that are known by digest and not here.
    nodes: BTreeMap<Place, Digest>,
    /// Inner nodes that came since the file was opened.
    taken: HashSet<Digest>,
    /// Leaf digests, as far as their segment of 174 is known.
    segments: BTreeMap<u32, Vec<Digest>>,
    /// Where each missing leaf goes; several places when the file repeats itself.
    wanted: HashMap<Digest, Vec<u32>>,
    /// Leaves that are not here, known or not.
    left: u64,
    bytes_present: u64,
}

/// What a node told.
pub(crate) struct Taken {
    /// Where the node stands; empty when it is not missing.
    pub(crate) places: Vec<Place>,
    /// Segments of leaves that are known now.
    pub(crate) segments: Vec<(u32, Vec<Digest>)>,
}

impl Assembly {
    /// A file of which only the root is here.
    pub(crate) fn new(layout: Layout, file: File, children: &[Digest]) -> Self {
        let progress = Progress {
            nodes: BTreeMap::new(),
            taken: HashSet::new(),
            segments: BTreeMap::new(),
            wanted: HashMap::new(),
            left: layout.leaves(),
            bytes_present: 0,
        };
        let (file, unsynced_bytes) = (Arc::new(file), AtomicU64::new(0));
        let assembly = Self { layout, file, unsynced_bytes, progress: Mutex::new(progress) };
        assembly.learn(&mut locked(&assembly.progress), layout.root(), children);
        assembly
    }

    /// Takes in a segment that was known before a restart, and hashes which of its leaves are here.
    pub(crate) fn resume_segment(&self, segment: u32, leaves: &[Digest]) -> std::io::Result<()> {
        let mut progress = locked(&self.progress);
        let place = Place { level: 1, ordinal: segment };
        if u64::from(segment) >= self.layout.width(1) || self.layout.children(place).len() != leaves.len() {
            return Ok(());
        }
        progress.nodes.remove(&place);
        self.learn(&mut progress, place, leaves);
        // Deeper trees: a node whose segments are all known is not needed again.
        let nodes: Vec<Place> = progress.nodes.keys().copied().filter(|place| place.level == 2).collect();
        for node in nodes {
            if self.layout.children(node).all(|ordinal| progress.segments.contains_key(&ordinal)) {
                progress.nodes.remove(&node);
            }
        }
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        for (at, leaf) in leaves.iter().enumerate() {
            let index = segment * LINKS_MAX as u32 + at as u32;
            let bytes = &mut buffer[..self.layout.leaf_bytes(u64::from(index)) as usize];
            match self.file.read_exact_at(bytes, self.layout.leaf_offset(u64::from(index))) {
                Ok(()) if sha256(bytes) == *leaf => progress.arrived(leaf, index, bytes.len() as u64),
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The file.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Notes bytes that were written. Returns whether the caller is to sync the file now; one of many callers is.
    pub(crate) fn is_sync_due(&self, bytes: u64) -> bool {
        let before = self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed);
        let due = before < SYNC_EVERY_BYTES && before + bytes >= SYNC_EVERY_BYTES;
        if due {
            self.unsynced_bytes.fetch_sub(SYNC_EVERY_BYTES, Ordering::Relaxed);
        }
        due
    }

    /// Leaves that are not here.
    pub(crate) fn left(&self) -> u64 {
        locked(&self.progress).left
    }

    /// Bytes of content that are here.
    pub(crate) fn bytes_present(&self) -> u64 {
        locked(&self.progress).bytes_present
    }

    /// Whether this block is missing here.
    pub(crate) fn wants(&self, key: &Key) -> bool {
        let progress = locked(&self.progress);
        match u64::from(key[0]) {
            CODEC_RAW => progress.wanted.contains_key(&digest(key)),
            CODEC_DAG_PB => progress.nodes.values().any(|node| *node == digest(key)),
            _ => false,
        }
    }

    /// Whether this block is part of the file and was known before.
    pub(crate) fn had(&self, key: &Key) -> bool {
        let progress = locked(&self.progress);
        let digest = digest(key);
        match u64::from(key[0]) {
            CODEC_RAW => progress.segments.values().flatten().any(|leaf| *leaf == digest),
            CODEC_DAG_PB => progress.taken.contains(&digest),
            _ => false,
        }
    }

    /// Blocks to fetch next: inner nodes, then leaves from the left; no more than `limit`, none twice.
    pub(crate) fn missing(&self, limit: usize) -> Vec<Cid> {
        let progress = locked(&self.progress);
        let nodes = progress.nodes.values().map(|node| (CODEC_DAG_PB, node));
        let leaves = progress.segments.values().flatten().map(|leaf| (CODEC_RAW, leaf));
        let leaves = leaves.filter(|(_, leaf)| progress.wanted.contains_key(*leaf));
        let mut seen = HashSet::new();
        let fresh = nodes.chain(leaves).filter(|block| seen.insert(*block));
        fresh.take(limit).map(|(codec, digest)| cid_from_digest(codec, *digest)).collect()
    }

    /// Takes an inner node; its digest was checked.
    pub(crate) fn take_node(&self, node: &Digest, bytes: &[u8]) -> Result<Taken, UnixfsError> {
        let mut progress = locked(&self.progress);
        let places: Vec<Place> =
            progress.nodes.iter().filter(|(_, digest)| *digest == node).map(|(place, _)| *place).collect();
        let mut segments = Vec::new();
        for place in &places {
            let children = self.layout.decode(*place, bytes)?;
            progress.nodes.remove(place);
            progress.taken.insert(*node);
            self.learn(&mut progress, *place, &children);
            if place.level == 1 {
                segments.push((place.ordinal, children));
            }
        }
        Ok(Taken { places, segments })
    }

    /// Writes a leaf wherever it belongs; its digest was checked. Returns in how many places, or `None` when it does
    /// not have the length that the root claims for it: such a root never becomes a file.
    pub(crate) fn take_leaf(&self, leaf: &Digest, bytes: &[u8]) -> std::io::Result<Option<usize>> {
        let places = locked(&self.progress).wanted.get(leaf).cloned().unwrap_or_default();
        if places.iter().any(|index| self.layout.leaf_bytes(u64::from(*index)) != bytes.len() as u64) {
            return Ok(None);
        }
        for index in &places {
            self.file.write_all_at(bytes, self.layout.leaf_offset(u64::from(*index)))?;
            locked(&self.progress).arrived(leaf, *index, bytes.len() as u64);
        }
        Ok(Some(places.len()))
    }

    /// Notes the children of the node at `place`.
    fn learn(&self, progress: &mut Progress, place: Place, children: &[Digest]) {
        if place.level > 1 {
            for (ordinal, child) in self.layout.children(place).zip(children) {
                let below = Place { level: place.level - 1, ordinal };
                if below.level > 1 || !progress.segments.contains_key(&ordinal) {
                    progress.nodes.insert(below, *child);
                }
            }
            return;
        }
        if progress.segments.insert(place.ordinal, children.to_vec()).is_none() {
            for (index, leaf) in self.layout.children(place).zip(children) {
                progress.wanted.entry(*leaf).or_default().push(index);
            }
        }
    }
}

impl Progress {
    /// Notes that a leaf is here; a second arrival changes nothing.
    fn arrived(&mut self, leaf: &Digest, index: u32, bytes: u64) {
        let Some(places) = self.wanted.get_mut(leaf) else { return };
        let Some(at) = places.iter().position(|place| *place == index) else { return };
        places.swap_remove(at);
        if places.is_empty() {
            self.wanted.remove(leaf);
        }
        self.left -= 1;
        self.bytes_present += bytes;
    }
}
