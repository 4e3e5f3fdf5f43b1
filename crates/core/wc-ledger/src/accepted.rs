//! Which tasks of a job were accepted: one bit for each, so that none is accepted, and paid, twice.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::pairs;

/// Tasks in a block.
const BLOCK: u32 = u64::BITS;

/// The accepted tasks of one job.
///
/// Blocks of 64 neighbours that have one: ten million tasks of a stage take about 5 MB, and a log that scatters its
/// tasks on purpose no more than some 30 bytes for each entry that it is read from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Accepted(#[serde(with = "pairs")] BTreeMap<(u16, u32), u64>);

impl Accepted {
    /// Returns whether the task was accepted.
    pub(crate) fn has(&self, stage: u16, index: u32) -> bool {
        self.0.get(&(stage, index / BLOCK)).is_some_and(|block| block >> (index % BLOCK) & 1 == 1)
    }

    /// Notes that the task was accepted.
    pub(crate) fn add(&mut self, stage: u16, index: u32) {
        *self.0.entry((stage, index / BLOCK)).or_default() |= 1 << (index % BLOCK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_noted_for_itself_alone_and_neighbours_share_a_block() {
        let mut accepted = Accepted::default();
        for (stage, index) in [(0, 0), (0, 63), (0, 64), (1, 63), (u16::MAX, u32::MAX)] {
            assert!(!accepted.has(stage, index));
            accepted.add(stage, index);
            assert!(accepted.has(stage, index));
        }
        assert!(!accepted.has(0, 1) && !accepted.has(1, 0) && !accepted.has(2, 63));
        let mut dense = Accepted::default();
        (0..100_000).for_each(|index| dense.add(0, index));
        assert_eq!(dense.0.len(), 100_000usize.div_ceil(64));
    }
}
