//! Which tasks of a job were accepted: as few spans as there are gaps, since tasks are accepted nearly in order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::pairs;

/// Tasks of one job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Accepted {
    /// The last task of each span, by the stage and the first. Spans do not touch.
    #[serde(with = "pairs")]
    spans: BTreeMap<(u16, u32), u32>,
}

impl Accepted {
    /// Returns whether the task is among them.
    pub fn contains(&self, stage: u16, index: u32) -> bool {
        self.before(stage, index).is_some_and(|(_, last)| last >= index)
    }

    /// Adds a task.
    pub fn insert(&mut self, stage: u16, index: u32) {
        let before = self.before(stage, index);
        if before.is_some_and(|(_, last)| last >= index) {
            return;
        }
        let behind = index.checked_add(1).and_then(|next| self.spans.remove(&(stage, next)));
        let first =
            before.filter(|(_, last)| last.checked_add(1) == Some(index)).map_or(index, |(first, _)| first);
        self.spans.insert((stage, first), behind.unwrap_or(index));
    }

    /// Returns the span that begins at a task or is the nearest before it.
    fn before(&self, stage: u16, index: u32) -> Option<(u32, u32)> {
        let span = self.spans.range(..=(stage, index)).next_back();
        span.filter(|((of, _), _)| *of == stage).map(|((_, first), last)| (*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tasks_in_order_are_one_span_and_the_last_possible_task_is_one() {
        let mut accepted = Accepted::default();
        for index in (0..1000).rev().chain(1000..2000) {
            accepted.insert(3, index);
        }
        for index in [u32::MAX, u32::MAX - 1] {
            accepted.insert(3, index);
        }
        assert_eq!(accepted.spans.len(), 2);
        assert!(accepted.contains(3, u32::MAX) && !accepted.contains(3, 2000) && !accepted.contains(2, 0));
    }

    proptest! {
        #[test]
        fn spans_hold_what_a_set_of_tasks_holds(tasks in prop::collection::vec((0u16..3, 0u32..20), 0..60)) {
            let (mut accepted, mut set) = (Accepted::default(), BTreeSet::new());
            for (stage, index) in tasks {
                prop_assert_eq!(accepted.contains(stage, index), set.contains(&(stage, index)));
                accepted.insert(stage, index);
                set.insert((stage, index));
            }
            for stage in 0..3 {
                for index in 0..21 {
                    prop_assert_eq!(accepted.contains(stage, index), set.contains(&(stage, index)));
                }
            }
            let gaps = set.iter().filter(|(stage, index)| !set.contains(&(*stage, index + 1))).count();
            prop_assert_eq!(accepted.spans.len(), gaps);
        }
    }
}
