//! When to anchor, when to try again, and when to raise the alarm.
//!
//! ```text
//!            offer                 step: Try                  anchored
//! Level ───────────────► Behind ─────────────► (asking) ─────────────────► Level, or Behind if the log grew
//!   ▲                    ▲   │                     │
//!   │                    │   └ 2 intervals: Overdue│ failed: wait, twice as long each time
//!   └── anchored ────────┘     3 intervals: Missed └──────────────────────► Behind
//! ```
//!
//! Nothing queues up: an anchor covers the whole log, so the newest checkpoint stands for all that wait. Time is an
//! argument. A clock that goes backwards moves everything that was noted by as much, so waits stay as long as they were
//! meant to be; nothing is forgotten and nothing is due early.

use serde::{Deserialize, Serialize};
use wc_types::cid::sha256;
use wc_types::{Millis, Timestamp};

/// How often, how long to wait, how often to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnchorPolicy {
    /// From one anchor to the next while the log grows.
    pub interval: Millis,
    /// Wait after the first failure.
    pub retry_first: Millis,
    /// Longest wait after a failure.
    pub retry_max: Millis,
    /// Answers in a row that do not verify until an operator has to look.
    pub unverified_max: u32,
}

impl AnchorPolicy {
    /// Ten minutes between anchors (LED-06), five seconds to five minutes after a failure, five answers that do not
    /// verify.
    pub const DEFAULT: Self = Self {
        interval: Millis(10 * 60 * 1000),
        retry_first: Millis(5_000),
        retry_max: Millis(5 * 60 * 1000),
        unverified_max: 5,
    };

    /// Returns the default with another interval; waits never exceed half of it.
    #[must_use]
    pub fn every(interval: Millis) -> Self {
        let retry_max = Self::DEFAULT.retry_max.0.min(interval.0 / 2).max(1);
        Self {
            interval,
            retry_first: Millis(Self::DEFAULT.retry_first.0.min(retry_max)),
            retry_max: Millis(retry_max),
            ..Self::DEFAULT
        }
    }
}

/// How bad it is that the log has grown and is not anchored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// Two intervals late: somebody should look.
    Overdue,
    /// Three intervals missed (P1): somebody must look.
    Missed,
}

impl Alarm {
    /// Returns the word that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overdue => "overdue",
            Self::Missed => "missed",
        }
    }
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is new.
    Rest,
    /// Something is new; it is not time yet.
    Wait(Millis),
    /// Anchor the newest checkpoint.
    Try,
}

/// What has to survive a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Entries that the newest anchor covers.
    pub anchored_size: u64,
    /// When it was made.
    pub anchored_at: Option<Timestamp>,
    /// Since when there is something that it does not cover.
    pub behind_since: Option<Timestamp>,
}

/// The decision, and all that it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    policy: AnchorPolicy,
    standing: Standing,
    /// Entries in the log.
    size: u64,
    /// Not before this moment.
    due: Timestamp,
    failures: u32,
    unverified: u32,
    /// The latest moment that was told.
    told: Timestamp,
}

impl Schedule {
    /// Goes on from what was noted before; the first anchor is due at once.
    pub fn new(policy: AnchorPolicy, standing: Standing, now: Timestamp) -> Self {
        let told = [Some(now), standing.anchored_at, standing.behind_since].into_iter().flatten().max();
        let mut schedule = Self {
            policy,
            standing,
            size: standing.anchored_size,
            due: now,
            failures: 0,
            unverified: 0,
            told: told.unwrap_or(now),
        };
        // What was noted by a clock that has since been set back belongs before this one.
        schedule.observe(now);
        schedule.due = match schedule.standing.anchored_at {
            Some(at) => at.plus(policy.interval).min(now.plus(policy.interval)),
            None => now,
        };
        schedule
    }

    /// Returns what has to survive a restart.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Returns how many times in a row nothing came of it.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Takes note of the moment. Going backwards moves everything that was noted before.
    fn observe(&mut self, now: Timestamp) {
        if now < self.told {
            let back = self.told.0.saturating_sub(now.0);
            let standing = &mut self.standing;
            let moments = [standing.anchored_at.as_mut(), standing.behind_since.as_mut()];
            for at in moments.into_iter().flatten().chain([&mut self.due]) {
                *at = Timestamp(at.0.saturating_sub(back));
            }
        }
        self.told = now;
    }

    /// Takes note that the log has `size` entries.
    pub fn offer(&mut self, size: u64, now: Timestamp) {
        self.observe(now);
        self.size = self.size.max(size);
        if self.size > self.standing.anchored_size && self.standing.behind_since.is_none() {
            self.standing.behind_since = Some(now);
        }
    }

    /// Returns what to do now.
    pub fn step(&mut self, now: Timestamp) -> Step {
        self.observe(now);
        if self.standing.behind_since.is_none() {
            return Step::Rest;
        }
        // No wait that we begin is longer than an interval; a longer one can only come from a broken clock.
        match self.due.since(now).0.min(self.policy.interval.0) {
            0 => Step::Try,
            wait => Step::Wait(Millis(wait)),
        }
    }

    /// Takes note that a checkpoint of `size` entries is anchored.
    pub fn anchored(&mut self, size: u64, now: Timestamp) {
        self.observe(now);
        self.failures = 0;
        self.unverified = 0;
        self.size = self.size.max(size);
        self.standing = Standing {
            anchored_size: self.standing.anchored_size.max(size),
            anchored_at: Some(now),
            behind_since: (self.size > size).then_some(now),
        };
        self.due = now.plus(self.policy.interval);
    }

    /// Takes note that the log could not be reached or refused.
    ///
    /// - `seed`: random; spreads the waits of many coordinators
    /// - `wait_at_least`: what the log asked for, if it did
    pub fn failed(&mut self, now: Timestamp, seed: u64, wait_at_least: Option<Millis>) {
        self.observe(now);
        self.failures = self.failures.saturating_add(1);
        let asked = wait_at_least.map_or(0, |wait| wait.0.min(self.policy.interval.0));
        self.due = now.plus(Millis(self.backoff(seed).0.max(asked)));
    }

    /// Takes note that what the log answered does not verify. Returns whether an operator has to look: the budget of
    /// tries is used up.
    pub fn unverified(&mut self, now: Timestamp, seed: u64) -> bool {
        self.failed(now, seed, None);
        self.unverified = self.unverified.saturating_add(1);
        let flagged = self.unverified >= self.policy.unverified_max.max(1);
        if flagged {
            // From here on it is asked no more often than when all is well.
            self.unverified = 0;
            self.due = now.plus(self.policy.interval);
        }
        flagged
    }

    /// Returns how loud to be.
    pub fn alarm(&mut self, now: Timestamp) -> Option<Alarm> {
        self.observe(now);
        let behind = now.since(self.standing.behind_since?).0;
        let interval = self.policy.interval.0;
        if behind > interval.saturating_mul(3) {
            Some(Alarm::Missed)
        } else if behind > interval.saturating_mul(2) {
            Some(Alarm::Overdue)
        } else {
            None
        }
    }

    /// Returns the wait after the present failure: doubled each time up to the maximum, then between half and all of it.
    fn backoff(&self, seed: u64) -> Millis {
        let doublings = self.failures.saturating_sub(1).min(32);
        let whole =
            self.policy.retry_first.0.saturating_mul(1 << doublings).min(self.policy.retry_max.0).max(1);
        let preimage = [seed.to_be_bytes(), u64::from(self.failures).to_be_bytes()].concat();
        let [a, b, c, d, ..] = sha256(&preimage);
        let half = whole / 2;
        Millis(whole - u64::from(u32::from_be_bytes([a, b, c, d])) % (half + 1))
    }
}

#[cfg(test)]
mod tests;
