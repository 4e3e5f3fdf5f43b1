//! How much each donor may make the coordinator write down.
//!
//! Every message of a donor that changes the cell becomes a row of the journal, and some become entries of the ledger;
//! both are kept for ever. Work pays for its own rows: each lease that a node is granted allows the messages that it will
//! take. Everything beyond that comes out of a small allowance, and a node that has used it up is read more slowly. It is
//! not cut off: an honest one that stumbles now and then does not notice, and one that means harm gains a few rows a
//! second.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use wc_types::NodeId;

use crate::coordinator::lock;

/// Rows that a node may cause per second without having been granted anything.
const ROWS_PER_SECOND: u64 = 5;
/// Rows that a node may cause at once.
const ROWS_BURST: u64 = 1_000;
/// Rows that a granted lease pays for: wanting it, committing, reporting, and one more.
const ROWS_PER_LEASE: u64 = 4;
/// Rows that stay saved up at most, so that long work buys no later flood.
const ROWS_SAVED_MAX: u64 = 20_000;
/// Rows that an enrolment or a goodbye counts for: an entry of the ledger is replicated, signed and kept by everybody.
pub(crate) const MEMBERSHIP_ROWS: u64 = 50;
/// Rows that a lease counts for when it is given back: more than it paid for, or asking and returning would be free.
pub(crate) const RETURNED_ROWS: u64 = 2 * ROWS_PER_LEASE;
/// Nodes that are kept in mind at once. Those with a full allowance are forgotten first, which changes nothing for them.
const NODES_MAX: usize = 20_000;
/// Nodes that were never seen before that may join per second, all together: making keys costs a stranger nothing.
const NEWCOMERS_PER_SECOND: u64 = 50;
/// Newcomers that may join at once.
const NEWCOMERS_BURST: u64 = 2_000;

/// An amount that fills up with time. Counted in microseconds of filling, so that nothing is lost to rounding.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    per_second: u64,
    burst: u64,
    /// What is left, in units times a million; below zero after more was taken than there was.
    left: i64,
    at: Instant,
}

impl Allowance {
    fn full(per_second: u64, burst: u64, now: Instant) -> Self {
        Self { per_second, burst, left: micros(burst), at: now }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_micros().min(u128::from(u32::MAX)) as u64;
        self.at = now.max(self.at);
        let top = micros(self.burst).max(self.left);
        self.left = self.left.saturating_add_unsigned(elapsed.saturating_mul(self.per_second)).min(top);
    }

    /// Takes `units` and returns how long to wait before the next.
    fn take(&mut self, units: u64, now: Instant) -> Duration {
        self.fill(now);
        self.left = self.left.saturating_sub(micros(units));
        self.wait()
    }

    fn wait(&self) -> Duration {
        Duration::from_micros(self.left.min(0).unsigned_abs() / self.per_second)
    }

    fn add(&mut self, units: u64, saved_max: u64) {
        let top = micros(saved_max).max(self.left);
        self.left = self.left.saturating_add(micros(units)).min(top);
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.left >= micros(self.burst)
    }
}

fn micros(units: u64) -> i64 {
    i64::try_from(units.saturating_mul(1_000_000)).unwrap_or(i64::MAX)
}

/// The allowances of all nodes.
pub(crate) struct Pace {
    nodes: Mutex<HashMap<NodeId, Allowance>>,
    newcomers: Mutex<Allowance>,
}

impl Default for Pace {
    fn default() -> Self {
        let newcomers = Allowance::full(NEWCOMERS_PER_SECOND, NEWCOMERS_BURST, Instant::now());
        Self { nodes: Mutex::default(), newcomers: Mutex::new(newcomers) }
    }
}

impl Pace {
    /// Counts rows that a node causes; returns how long to wait before it is read again.
    pub fn charge(&self, node: NodeId, rows: u64, now: Instant) -> Duration {
        let mut nodes = lock(&self.nodes);
        if nodes.len() >= NODES_MAX && !nodes.contains_key(&node) {
            nodes.retain(|_, allowance| !allowance.is_full(now));
            if nodes.len() >= NODES_MAX {
                // Only a flood of new keys gets here; each of them waits as long as one that used up its allowance.
                return Duration::from_secs(ROWS_BURST / ROWS_PER_SECOND);
            }
        }
        let fresh = || Allowance::full(ROWS_PER_SECOND, ROWS_BURST, now);
        nodes.entry(node).or_insert_with(fresh).take(rows, now)
    }

    /// Lets granted leases pay for the messages that they will take.
    pub fn granted(&self, node: NodeId, leases: usize) {
        if let Some(allowance) = lock(&self.nodes).get_mut(&node) {
            allowance.add((leases as u64).saturating_mul(ROWS_PER_LEASE), ROWS_SAVED_MAX);
        }
    }

    /// Counts a node that was never seen before; returns how long it has to wait.
    pub fn newcomer(&self, now: Instant) -> Duration {
        lock(&self.newcomers).take(1, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([7; 32]);

    #[test]
    fn a_donor_that_works_is_never_held_back() {
        let (pace, mut now) = (Pace::default(), Instant::now());
        assert_eq!(pace.charge(NODE, MEMBERSHIP_ROWS, now), Duration::ZERO);
        // 4,000 leases a second: wanted, committed, reported, in batches of any size.
        for round in 0..2_000 {
            now += Duration::from_millis(25);
            pace.granted(NODE, 100);
            let batch = [100, 1, 100, 100][round % 4];
            assert_eq!(pace.charge(NODE, 1, now), Duration::ZERO, "round {round}");
            assert_eq!(pace.charge(NODE, batch, now), Duration::ZERO, "round {round}");
            assert_eq!(pace.charge(NODE, batch, now), Duration::ZERO, "round {round}");
        }
    }

    #[test]
    fn messages_without_work_come_down_to_five_a_second() {
        let (pace, mut now) = (Pace::default(), Instant::now());
        let (start, mut rows) = (now, 0);
        while now.duration_since(start) < Duration::from_secs(1_000) {
            rows += 1;
            now += pace.charge(NODE, 1, now).max(Duration::from_micros(50));
        }
        assert!((5_900..6_200).contains(&rows), "{rows} rows in 1,000 s");
    }

    #[test]
    fn asking_for_work_only_to_return_it_does_not_pay() {
        let (pace, mut now) = (Pace::default(), Instant::now());
        let (start, mut rounds) = (now, 0);
        while now.duration_since(start) < Duration::from_secs(1_000) {
            rounds += 1;
            pace.charge(NODE, 1, now);
            pace.granted(NODE, 1);
            now += pace.charge(NODE, RETURNED_ROWS, now).max(Duration::from_micros(50));
        }
        assert!(rounds < 1_500, "{rounds} rounds in 1,000 s");
    }

    #[test]
    fn coming_and_going_is_paid_for_even_by_who_reconnects() {
        let (pace, now) = (Pace::default(), Instant::now());
        let waits: Vec<_> = (0..30).map(|_| pace.charge(NODE, MEMBERSHIP_ROWS, now)).collect();
        assert_eq!(waits[19], Duration::ZERO);
        assert_eq!(waits[20], Duration::from_secs(10));
    }

    #[test]
    fn a_flood_of_keys_neither_grows_the_table_nor_passes_freely() {
        let (pace, now) = (Pace::default(), Instant::now());
        for number in 0..NODES_MAX as u64 + 10 {
            let mut node = [0; 32];
            node[..8].copy_from_slice(&number.to_be_bytes());
            pace.charge(NodeId(node), 1, now);
        }
        assert_eq!(lock(&pace.nodes).len(), NODES_MAX);
        assert!(pace.charge(NODE, 1, now) > Duration::from_secs(60));
        let waits: Vec<_> = (0..NEWCOMERS_BURST + 50).map(|_| pace.newcomer(now)).collect();
        assert_eq!(waits[NEWCOMERS_BURST as usize - 1], Duration::ZERO);
        assert_eq!(waits.last(), Some(&Duration::from_secs(1)));
    }
}
