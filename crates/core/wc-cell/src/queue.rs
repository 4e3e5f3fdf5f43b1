//! Jobs that have something to grant, in the order in which nodes are offered them.
//!
//! Scores change slowly (by the hour), so they are computed when a job enters and again every ten seconds, not with
//! every grant. Jobs that have waited too long form a lane of their own, first come first served, which gets its share
//! of all grants whatever the scores say (E-18).

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Bound;

use serde::{Deserialize, Serialize};
use wc_types::{Millis, PartsPerMillion, Timestamp};

use crate::job::JobNo;

/// How old a score may get.
pub(crate) const RANK_EVERY: Millis = Millis(10_000);
/// Grants after which the lane's counts are halved, so that they follow the present.
const LANE_WINDOW: u64 = 1 << 20;

/// A place in the queue: higher scores first, then older jobs.
pub(crate) type Place = (Reverse<u32>, JobNo);

/// The queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Queue {
    ranked: BTreeSet<Place>,
    by_age: BTreeSet<JobNo>,
    pub(crate) ranked_at: Timestamp,
    /// Leases granted while the lane had work, and how many of them to the lane.
    all: u64,
    lane: u64,
}

impl Queue {
    pub(crate) fn insert(&mut self, job: JobNo, score: u32) {
        self.ranked.insert((Reverse(score), job));
        self.by_age.insert(job);
    }

    pub(crate) fn remove(&mut self, job: JobNo, score: u32) {
        self.ranked.remove(&(Reverse(score), job));
        self.by_age.remove(&job);
    }

    /// Returns the first place after `place`; the very first for `None`.
    pub(crate) fn after(&self, place: Option<Place>) -> Option<Place> {
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        self.ranked.range((from, Bound::Unbounded)).next().copied()
    }

    /// Returns the oldest job after `job`; the very oldest for `None`.
    pub(crate) fn older_first(&self, job: Option<JobNo>) -> Option<JobNo> {
        let from = job.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_age.range((from, Bound::Unbounded)).next().copied()
    }

    /// Returns every job in the queue, oldest first.
    pub(crate) fn jobs(&self) -> Vec<JobNo> {
        self.by_age.iter().copied().collect()
    }

    /// Returns how many of the next `grants` the lane must get to have its share.
    pub(crate) fn owed(&self, grants: u32, share: PartsPerMillion) -> u32 {
        let due = share.of_floor(self.all + u64::from(grants) + 999_999 / u64::from(share.0.max(1)));
        u32::try_from(due.saturating_sub(self.lane)).unwrap_or(u32::MAX).min(grants)
    }

    /// Notes grants made while the lane had work.
    pub(crate) fn note(&mut self, grants: u32, in_lane: bool) {
        self.all += u64::from(grants);
        if in_lane {
            self.lane += u64::from(grants);
        }
        if self.all > LANE_WINDOW {
            self.all /= 2;
            self.lane /= 2;
        }
    }

    /// Forgets the shares, when the lane is empty.
    pub(crate) fn reset_lane(&mut self) {
        self.all = 0;
        self.lane = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_scores_come_first_and_older_jobs_break_ties() {
        let mut queue = Queue::default();
        for (job, score) in [(1, 10), (2, 30), (3, 10)] {
            queue.insert(JobNo(job), score);
        }
        let mut order = Vec::new();
        let mut place = None;
        while let Some(next) = queue.after(place) {
            order.push(next.1.0);
            place = Some(next);
        }
        assert_eq!(order, [2, 1, 3]);
        queue.remove(JobNo(2), 30);
        assert_eq!(queue.older_first(Some(JobNo(1))), Some(JobNo(3)));
    }

    #[test]
    fn the_lane_gets_its_share_of_grants() {
        let mut queue = Queue::default();
        let share = PartsPerMillion(200_000);
        let mut in_lane = 0;
        for _ in 0..1000 {
            let owed = queue.owed(1, share);
            queue.note(1, owed == 1);
            in_lane += owed;
        }
        assert!((199..=201).contains(&in_lane), "{in_lane}");
        assert_eq!(Queue::default().owed(10, PartsPerMillion(0)), 0);
    }
}
