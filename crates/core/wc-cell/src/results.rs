//! Accepted results of a stage: thirty-two bytes per task, nothing for tasks that have none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wc_types::Cid;
use wc_types::cid::{CODEC_DAG_CBOR, cid_digest, cid_from_digest};

use crate::pairs;

/// Tasks per chunk: a full chunk of digests is 8 KiB.
const CHUNK: u32 = 256;
const DIGEST: usize = 32;

/// Digests of result records by task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Results {
    #[serde(with = "pairs")]
    chunks: BTreeMap<u32, Chunk>,
    accepted: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Chunk {
    /// One bit per task that has a result.
    present: [u64; CHUNK as usize / 64],
    /// As long as the last result needs.
    #[serde(with = "serde_bytes")]
    digests: Vec<u8>,
}

impl Results {
    /// Keeps the result of a task; the first one stays. Returns whether it was the first.
    pub(crate) fn insert(&mut self, index: u32, result: &Cid) -> bool {
        let Some(digest) = cid_digest(result) else { return false };
        let chunk = self.chunks.entry(index / CHUNK).or_default();
        let place = (index % CHUNK) as usize;
        let (limb, bit) = (place / 64, 1u64 << (place % 64));
        if chunk.present[limb] & bit != 0 {
            return false;
        }
        chunk.present[limb] |= bit;
        if chunk.digests.len() < (place + 1) * DIGEST {
            chunk.digests.resize((place + 1) * DIGEST, 0);
        }
        if let Some(slot) = chunk.digests.get_mut(place * DIGEST..(place + 1) * DIGEST) {
            slot.copy_from_slice(&digest);
        }
        self.accepted += 1;
        true
    }

    /// Returns the result of a task, if it has one.
    pub(crate) fn get(&self, index: u32) -> Option<Cid> {
        let chunk = self.chunks.get(&(index / CHUNK))?;
        let place = (index % CHUNK) as usize;
        if chunk.present[place / 64] & 1 << (place % 64) == 0 {
            return None;
        }
        let digest = chunk.digests.get(place * DIGEST..(place + 1) * DIGEST)?;
        Some(cid_from_digest(CODEC_DAG_CBOR, digest.try_into().ok()?))
    }

    /// Returns how many tasks have a result.
    pub(crate) fn accepted(&self) -> u32 {
        self.accepted
    }

    /// Returns the results there are, in task order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, Cid)> {
        self.chunks.keys().flat_map(move |chunk| {
            (chunk * CHUNK..=chunk * CHUNK + (CHUNK - 1)).filter_map(|index| Some((index, self.get(index)?)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wc_types::cid::cid_of;

    #[test]
    fn results_are_kept_by_task_and_never_replaced() {
        let mut results = Results::default();
        let cid = |byte: u8| cid_of(CODEC_DAG_CBOR, &[byte]);
        for index in [0, 63, 64, 255, 256, 9_999_999] {
            assert_eq!(results.get(index), None);
            assert!(results.insert(index, &cid(1)));
            assert!(!results.insert(index, &cid(2)));
            assert_eq!(results.get(index), Some(cid(1)));
        }
        assert_eq!(results.accepted(), 6);
        let indices: Vec<u32> = results.iter().map(|(index, _)| index).collect();
        assert_eq!(indices, [0, 63, 64, 255, 256, 9_999_999]);
    }
}
