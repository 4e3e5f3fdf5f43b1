//! What a submitter has running, and what it used of late.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wc_types::{MicroNcu, Timestamp};

use crate::pairs;

const HOUR_MICROS: i64 = 3_600_000_000;
/// Hours that recent use is taken over (SCH-20).
const WINDOW_HOURS: i64 = 24;

/// One submitter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) jobs_open: u32,
    pub(crate) tasks_open: u64,
    /// What its tasks earned others, by hour since 1970.
    #[serde(with = "pairs")]
    used: BTreeMap<i64, u64>,
}

impl Account {
    /// Notes that `amount` was earned by work for this submitter.
    pub(crate) fn use_up(&mut self, amount: MicroNcu, at: Timestamp) {
        let hour = at.0.div_euclid(HOUR_MICROS);
        self.used = self.used.split_off(&(hour - WINDOW_HOURS));
        let used = self.used.entry(hour).or_default();
        *used = used.saturating_add(amount.0);
    }

    /// Returns what was used in the last 24 hours, in whole hours.
    pub(crate) fn used_recently(&self, at: Timestamp) -> MicroNcu {
        let hour = at.0.div_euclid(HOUR_MICROS);
        let recent = self.used.range(hour - WINDOW_HOURS + 1..);
        MicroNcu(recent.fold(0, |sum: u64, (_, amount)| sum.saturating_add(*amount)))
    }
}
