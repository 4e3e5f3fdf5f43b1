//! Moments at which something is due although nobody says anything.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use wc_types::{AccountId, LeaseId, Timestamp};

use crate::job::JobNo;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Due {
    /// A lease expires.
    Lease(LeaseId),
    /// A majority has waited long enough for the slower replicas.
    Reveal { job: JobNo, stage: u16, index: u32 },
    /// A job's result stops being useful.
    Job(JobNo),
    /// A day begins: credit fades.
    Day,
    /// A withdrawn donor's credit expires.
    Expiry(AccountId),
    /// The results of a job that has ended are not kept any longer.
    Retention(JobNo),
}

/// Everything that is due, soonest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Timers(BTreeSet<(Timestamp, Due)>);

impl Timers {
    pub(crate) fn set(&mut self, at: Timestamp, due: Due) {
        self.0.insert((at, due));
    }

    pub(crate) fn cancel(&mut self, at: Timestamp, due: Due) {
        self.0.remove(&(at, due));
    }

    /// Returns when the soonest is due.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.0.first().map(|&(at, _)| at)
    }

    /// Takes the soonest that is due by `now`.
    pub(crate) fn pop(&mut self, now: Timestamp) -> Option<Due> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, due)| due)
    }
}
