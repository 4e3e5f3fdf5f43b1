//! Blocks in memory: a flat DAG of chunks under DAG-CBOR nodes of links.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
#![allow(dead_code, reason = "each user of this file uses its own part")]

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use wc_mesh::blob::{BlockRejected, Blocks};
use wc_types::cid::{CODEC_DAG_CBOR, CODEC_RAW, Cid, cid_of};

/// Links of one node; UnixFS uses the same number.
pub const LINKS_PER_NODE: usize = 174;

/// A store that forgets everything, and may be told to misbehave.
#[derive(Default)]
pub struct Memory {
    /// The blocks.
    pub kept: RwLock<HashMap<Cid, Bytes>>,
    /// Blocks served so far.
    pub served: AtomicU64,
    /// Blocks accepted so far.
    pub accepted: AtomicU64,
    /// From this many served blocks on, every block is wrong.
    pub lies_after: Option<u64>,
    /// How long one block takes to read.
    pub delay: Duration,
    /// Checks leaves and remembers that it had them, but not their bytes.
    pub forgets_leaves: bool,
}

impl Memory {
    /// Keeps a DAG over `chunks` and returns its root.
    pub fn add_dag(&self, chunks: impl IntoIterator<Item = Vec<u8>>) -> Cid {
        let mut level: Vec<Cid> = chunks.into_iter().map(|chunk| self.keep(CODEC_RAW, chunk)).collect();
        loop {
            let nodes: Vec<Cid> = level
                .chunks(LINKS_PER_NODE)
                .map(|links| self.keep(CODEC_DAG_CBOR, serde_ipld_dagcbor::to_vec(&links.to_vec()).unwrap()))
                .collect();
            if let [root] = nodes[..] {
                return root;
            }
            level = nodes;
        }
    }

    fn keep(&self, codec: u64, bytes: Vec<u8>) -> Cid {
        let cid = cid_of(codec, &bytes);
        self.kept.write().unwrap().insert(cid, bytes.into());
        cid
    }

    pub fn len(&self) -> usize {
        self.kept.read().unwrap().len()
    }
}

impl Blocks for Memory {
    fn block(&self, cid: &Cid) -> io::Result<Option<Bytes>> {
        std::thread::sleep(self.delay);
        let Some(block) = self.kept.read().unwrap().get(cid).cloned() else { return Ok(None) };
        let served = self.served.fetch_add(1, Ordering::Relaxed);
        if self.lies_after.is_some_and(|after| served >= after) {
            let mut wrong = block.to_vec();
            wrong[0] ^= 1;
            return Ok(Some(wrong.into()));
        }
        Ok(Some(block))
    }

    fn put_block(&self, cid: &Cid, bytes: &[u8]) -> Result<(), BlockRejected> {
        if cid_of(cid.codec(), bytes) != *cid {
            return Err(BlockRejected::Mismatch { cid: *cid, reason: "another digest".into() });
        }
        let forget = self.forgets_leaves && cid.codec() == CODEC_RAW;
        let kept = if forget { Bytes::new() } else { Bytes::copy_from_slice(bytes) };
        self.kept.write().unwrap().insert(*cid, kept);
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn missing(&self, root: &Cid, limit: usize) -> io::Result<Vec<Cid>> {
        let kept = self.kept.read().unwrap();
        let mut missing = Vec::new();
        let mut seen = HashSet::new();
        let mut open = vec![*root];
        while let Some(cid) = open.pop() {
            if missing.len() >= limit || !seen.insert(cid) {
                continue;
            }
            match kept.get(&cid) {
                None => missing.push(cid),
                Some(bytes) if cid.codec() == CODEC_DAG_CBOR => {
                    let links: Vec<Cid> = serde_ipld_dagcbor::from_slice(bytes).map_err(io::Error::other)?;
                    open.extend(links.into_iter().rev());
                }
                Some(_) => {}
            }
        }
        Ok(missing)
    }
}
