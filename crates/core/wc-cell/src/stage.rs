//! One stage of a job: a range of tasks, of which only the live ones are objects.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wc_types::Cid;

use crate::openings::Openings;
use crate::pairs;
use crate::results::Results;
use crate::task::{Opening, Task};

/// Most tasks of one stage that may lack some of their first replicas: bounds what a node far ahead of the others can
/// start before the others catch up.
pub(crate) const OPEN_MAX: usize = 4096;

/// Where a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StagePhase {
    /// For the job to be staged or for earlier stages.
    Waiting,
    /// Its tasks may be granted.
    Open,
    /// Every task has a result.
    Complete {
        /// CID of the list of results, when another stage reads it.
        gather: Option<Cid>,
    },
}

/// A stage's tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StageTasks {
    pub(crate) phase: StagePhase,
    /// The first task that was never granted.
    pub(crate) cursor: u32,
    #[serde(with = "pairs")]
    pub(crate) live: BTreeMap<u32, Task>,
    pub(crate) retries: Openings,
    pub(crate) fresh: Openings,
    /// Replicas that open tasks lack.
    pub(crate) missing: u64,
    /// Live leases.
    pub(crate) running: u32,
    pub(crate) results: Results,
}

impl StageTasks {
    pub(crate) fn new() -> Self {
        Self {
            phase: StagePhase::Waiting,
            cursor: 0,
            live: BTreeMap::new(),
            retries: Openings::default(),
            fresh: Openings::default(),
            missing: 0,
            running: 0,
            results: Results::default(),
        }
    }

    /// Returns whether some node might take something.
    pub(crate) fn has_work(&self, tasks: u32) -> bool {
        self.phase == StagePhase::Open
            && (!self.retries.is_empty()
                || !self.fresh.is_empty()
                || (self.cursor < tasks && self.fresh.len() < OPEN_MAX))
    }

    /// Returns how many leases the stage could use now.
    pub(crate) fn wanted(&self, tasks: u32, replicas: u8) -> u64 {
        u64::from(tasks.saturating_sub(self.cursor)) * u64::from(replicas) + self.missing
    }

    /// Closes the opening of a task, if it has one.
    pub(crate) fn close(&mut self, index: u32) {
        let Some(task) = self.live.get_mut(&index) else { return };
        match task.opening.take() {
            Some(Opening::Retry(ticket)) => self.retries.close(ticket),
            Some(Opening::Fresh(ticket)) => self.fresh.close(ticket),
            None => {}
        }
    }

    /// Opens a task anew, so that every node looks at it again.
    pub(crate) fn reopen(&mut self, index: u32) {
        self.close(index);
        if let Some(task) = self.live.get_mut(&index) {
            task.opening = Some(Opening::Retry(self.retries.open(index)));
        }
    }
}
