//! How much each donor and submitter may make the coordinator write down.
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
/// KiB of manifests per second that a machine may submit for long: sixty small jobs, or one of the largest every 16 s. Each
/// is kept in the journal and the archive for ever, and in memory, whatever becomes of the job.
const SUBMITTED_KIB_PER_SECOND: u64 = 64;
/// KiB of manifests that a machine may submit at once.
const SUBMITTED_KIB_BURST: u64 = 16 << 10;
/// A machine that would have to wait for longer before it may submit is sent away: whoever asks there gives up after 40 s.
const SUBMITTER_WAIT_MAX: Duration = Duration::from_secs(20);
/// Nodes that are kept in mind at once. Those with a full allowance are forgotten first, which changes nothing for them.
const NODES_MAX: usize = 20_000;
/// Nodes that were never seen before that may join per second, all together: making keys costs a stranger nothing.
const NEWCOMERS_PER_SECOND: u64 = 50;
/// Newcomers that may join at once.
const NEWCOMERS_BURST: u64 = 2_000;
/// Newcomers that may wait at once. One more waits no longer than they do: whoever floods us with keys must not close the
/// door for hours.
const NEWCOMERS_WAITING_MAX: u64 = 10_000;

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
    submitters: Mutex<HashMap<NodeId, Allowance>>,
    newcomers: Mutex<Allowance>,
}

impl Default for Pace {
    fn default() -> Self {
        let newcomers = Allowance::full(NEWCOMERS_PER_SECOND, NEWCOMERS_BURST, Instant::now());
        Self { nodes: Mutex::default(), submitters: Mutex::default(), newcomers: Mutex::new(newcomers) }
    }
}

impl Pace {
    /// Counts rows that a node causes; returns how long to wait before it is read again.
    pub fn charge(&self, node: NodeId, rows: u64, now: Instant) -> Duration {
        take_of(&self.nodes, node, rows, Allowance::full(ROWS_PER_SECOND, ROWS_BURST, now), now)
    }

    /// Counts a manifest of this many bytes that a machine submits, its own or another's; returns how long to wait before
    /// it is taken.
    ///
    /// # Errors
    /// How long to stay away first. Then nothing is counted.
    pub fn submitted(&self, node: NodeId, bytes: usize, now: Instant) -> Result<Duration, Duration> {
        let kib = (bytes as u64).div_ceil(1024).max(1);
        let fresh = Allowance::full(SUBMITTED_KIB_PER_SECOND, SUBMITTED_KIB_BURST, now);
        match take_of(&self.submitters, node, 0, fresh, now) {
            wait if wait > SUBMITTER_WAIT_MAX => Err(wait),
            _ => Ok(take_of(&self.submitters, node, kib, fresh, now)),
        }
    }

    /// Lets granted leases pay for the messages that they will take.
    pub fn granted(&self, node: NodeId, leases: usize) {
        if let Some(allowance) = lock(&self.nodes).get_mut(&node) {
            allowance.add((leases as u64).saturating_mul(ROWS_PER_LEASE), ROWS_SAVED_MAX);
        }
    }

    /// Counts a node that was never seen before; returns how long it has to wait.
    pub fn newcomer(&self, now: Instant) -> Duration {
        let mut newcomers = lock(&self.newcomers);
        newcomers.take(1, now);
        newcomers.left = newcomers.left.max(-micros(NEWCOMERS_WAITING_MAX));
        newcomers.wait()
    }
}

/// Takes units from the allowance of a node, which is `fresh` if it is not known.
fn take_of(
    nodes: &Mutex<HashMap<NodeId, Allowance>>,
    node: NodeId,
    units: u64,
    fresh: Allowance,
    now: Instant,
) -> Duration {
    let mut nodes = lock(nodes);
    if nodes.len() >= NODES_MAX && !nodes.contains_key(&node) {
        nodes.retain(|_, allowance| !allowance.is_full(now));
        if nodes.len() >= NODES_MAX {
            // Only a flood of new keys gets here; each of them waits as long as one that used up its allowance.
            return Duration::from_secs(fresh.burst / fresh.per_second);
        }
    }
    nodes.entry(node).or_insert(fresh).take(units, now)
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
    fn jobs_that_are_submitted_and_cancelled_again_come_down_to_a_megabyte_in_sixteen_seconds() {
        let (pace, begun) = (Pace::default(), Instant::now());
        let waits: Vec<_> = (0..32).map(|_| pace.submitted(NODE, 1 << 20, begun)).collect();
        let seconds = Duration::from_secs;
        assert_eq!(waits[15..18], [Ok(Duration::ZERO), Ok(seconds(16)), Ok(seconds(32))]);
        assert_eq!(waits[18], Err(seconds(32)), "asking on many streams at once gains nothing");
        assert_eq!(waits[18], waits[31], "and costs nothing");
        assert_eq!(pace.submitted(NodeId([8; 32]), 1 << 20, begun), Ok(Duration::ZERO), "others do not wait");
        let back = pace.submitted(NODE, 1, begun + seconds(16)).map(|wait| wait.as_secs());
        assert_eq!(back, Ok(16), "it may come back");
        // Somebody's script that submits fifty small jobs a second for an hour.
        let (node, mut now) = (NodeId([9; 32]), begun);
        for _ in 0..50 * 3600 {
            now += Duration::from_millis(20);
            assert_eq!(pace.submitted(node, 900, now), Ok(Duration::ZERO));
        }
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
        // However many come, the next one waits for minutes and not for hours.
        for _ in 0..1_000_000 {
            pace.newcomer(now);
        }
        assert_eq!(pace.newcomer(now), Duration::from_secs(NEWCOMERS_WAITING_MAX / NEWCOMERS_PER_SECOND));
    }
}
