//! Who fetches what: the blocks of one fetch, shared by the streams that work on it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use wc_types::cid::Cid;

/// How long a block is one stream's own before an idle stream fetches it, too.
const STEAL_AFTER: Duration = Duration::from_millis(500);
/// The same, while another stream to the same holder fetches it: on a slow path both would share what little there is.
const STEAL_FROM_OWN_AFTER: Duration = Duration::from_secs(10);
/// Streams that fetch the same block at once.
const FETCHERS_MAX: usize = 2;

/// Index of a holder in the order of `fetch`'s argument.
pub(super) type Holder = usize;
/// Number of a stream, counted over all holders.
pub(super) type Worker = usize;

/// The state of one fetch. Pure: whoever shares it brings the lock and the clock.
#[derive(Debug, Default)]
pub(super) struct Work {
    pending: VecDeque<Cid>,
    in_flight: HashMap<Cid, Flight>,
    /// Which holders said that they do not have a block.
    lacking: HashMap<Cid, HashSet<Holder>>,
    /// Blocks whose bytes have come and are being checked and kept.
    landing: HashSet<Cid>,
    pub(super) finished: bool,
}

#[derive(Debug)]
struct Flight {
    workers: Vec<(Holder, Worker)>,
    since: Instant,
}

impl Work {
    /// Adds blocks that are not known yet.
    pub(super) fn add(&mut self, cids: impl IntoIterator<Item = Cid>) {
        let queued: HashSet<Cid> = self.pending.iter().copied().collect();
        for cid in cids {
            if !queued.contains(&cid) && !self.in_flight.contains_key(&cid) && !self.landing.contains(&cid) {
                self.pending.push_back(cid);
            }
        }
    }

    /// Returns up to `count` blocks for `worker` of `holder`: waiting ones, else those that others are slow with.
    pub(super) fn take(&mut self, holder: Holder, worker: Worker, count: usize, now: Instant) -> Vec<Cid> {
        let mut taken = Vec::new();
        let mut passed_over = Vec::new();
        while taken.len() < count {
            let Some(cid) = self.pending.pop_front() else { break };
            if self.lacking.get(&cid).is_some_and(|holders| holders.contains(&holder)) {
                passed_over.push(cid);
                continue;
            }
            self.in_flight.insert(cid, Flight { workers: vec![(holder, worker)], since: now });
            taken.push(cid);
        }
        for cid in passed_over.into_iter().rev() {
            self.pending.push_front(cid);
        }
        if taken.is_empty() {
            let mut slow: Vec<(Instant, Cid)> = self
                .in_flight
                .iter()
                .filter(|(cid, flight)| {
                    let own = flight.workers.iter().any(|(of, _)| *of == holder);
                    let after = if own { STEAL_FROM_OWN_AFTER } else { STEAL_AFTER };
                    flight.workers.len() < FETCHERS_MAX
                        && !flight.workers.contains(&(holder, worker))
                        && now.duration_since(flight.since) >= after
                        && !self.lacking.get(cid).is_some_and(|holders| holders.contains(&holder))
                })
                .map(|(cid, flight)| (flight.since, *cid))
                .collect();
            // The longest awaited first; a few at a time, because most of them are about to arrive.
            slow.sort_unstable_by_key(|(since, _)| *since);
            for (_, cid) in slow.into_iter().take(count.div_ceil(4)) {
                if let Some(flight) = self.in_flight.get_mut(&cid) {
                    flight.workers.push((holder, worker));
                    taken.push(cid);
                }
            }
        }
        taken
    }

    /// Notes that the bytes of `cid` are here. Returns whether they are still needed.
    pub(super) fn land(&mut self, cid: &Cid) -> bool {
        self.in_flight.remove(cid).is_some() && self.landing.insert(*cid)
    }

    /// Notes that a landed block is kept.
    pub(super) fn keep(&mut self, cid: &Cid) {
        self.landing.remove(cid);
        self.lacking.remove(cid);
    }

    /// Notes that a landed block was wrong or could not be kept: it is wanted again.
    pub(super) fn reject(&mut self, cid: Cid) {
        if self.landing.remove(&cid) {
            self.pending.push_front(cid);
        }
    }

    /// Notes that `holder` does not have `cid`.
    pub(super) fn lacks(&mut self, holder: Holder, worker: Worker, cid: Cid) {
        self.lacking.entry(cid).or_default().insert(holder);
        self.release(worker, &[cid]);
    }

    /// Gives back what a stream will not bring any more.
    pub(super) fn release(&mut self, worker: Worker, cids: &[Cid]) {
        for cid in cids {
            let Some(flight) = self.in_flight.get_mut(cid) else { continue };
            flight.workers.retain(|(_, other)| *other != worker);
            if flight.workers.is_empty() {
                self.in_flight.remove(cid);
                self.pending.push_front(*cid);
            }
        }
    }

    /// Returns a waiting block that none of the holders still `alive` has.
    pub(super) fn unobtainable(&self, alive: &HashSet<Holder>) -> Option<Cid> {
        if self.lacking.is_empty() {
            return None;
        }
        self.pending
            .iter()
            .find(|cid| self.lacking.get(cid).is_some_and(|holders| alive.is_subset(holders)))
            .copied()
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Returns whether a block is still being checked.
    pub(super) fn is_landing(&self) -> bool {
        !self.landing.is_empty()
    }

    /// Returns whether nothing waits, travels or is being checked.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.in_flight.is_empty() && self.landing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wc_types::cid::{CODEC_RAW, cid_of};

    fn cids(count: u8) -> Vec<Cid> {
        (0..count).map(|byte| cid_of(CODEC_RAW, &[byte])).collect()
    }

    #[test]
    fn what_a_dead_stream_held_goes_to_the_others() {
        let now = Instant::now();
        let cids = cids(4);
        let mut work = Work::default();
        work.add(cids.clone());
        work.add(cids.clone());
        assert_eq!(work.pending(), 4, "nothing is added twice");
        assert_eq!(work.take(0, 0, 3, now), cids[..3]);
        assert!(work.land(&cids[0]) && !work.land(&cids[0]));
        work.keep(&cids[0]);
        work.release(0, &cids[..3]);
        let mut rest = work.take(1, 1, 10, now);
        rest.sort();
        let mut expected = cids[1..].to_vec();
        expected.sort();
        assert_eq!(rest, expected);
    }

    #[test]
    fn an_idle_stream_takes_over_only_what_has_been_slow() {
        let now = Instant::now();
        let cids = cids(2);
        let mut work = Work::default();
        work.add(cids.clone());
        assert_eq!(work.take(0, 0, 2, now).len(), 2);
        assert!(work.take(1, 1, 4, now).is_empty(), "nothing is slow yet");
        let later = now + STEAL_AFTER;
        assert!(
            work.take(0, 3, 4, later).is_empty(),
            "another stream to the same holder would only share its path"
        );
        assert_eq!(work.take(1, 1, 8, later).len(), 2);
        assert!(work.take(2, 2, 8, later).is_empty(), "two streams for one block are enough");
        assert!(work.land(&cids[0]));
        assert!(!work.land(&cids[0]), "the second copy is not needed");
    }

    #[test]
    fn a_stream_that_hangs_is_helped_by_another_to_the_same_holder() {
        let now = Instant::now();
        let mut work = Work::default();
        work.add(cids(1));
        assert_eq!(work.take(0, 0, 1, now).len(), 1);
        assert!(work.take(0, 1, 1, now + STEAL_FROM_OWN_AFTER / 2).is_empty());
        assert_eq!(work.take(0, 1, 1, now + STEAL_FROM_OWN_AFTER).len(), 1);
    }

    #[test]
    fn a_block_that_every_live_holder_lacks_is_unobtainable() {
        let now = Instant::now();
        let cid = cids(1)[0];
        let mut work = Work::default();
        work.add([cid]);
        assert_eq!(work.take(0, 0, 1, now), [cid]);
        work.lacks(0, 0, cid);
        assert_eq!(work.unobtainable(&HashSet::from([0, 1])), None);
        assert!(work.take(0, 0, 1, now).is_empty(), "it is not asked of the same holder again");
        assert_eq!(work.unobtainable(&HashSet::from([0])), Some(cid));
        assert_eq!(work.take(1, 1, 1, now), [cid]);
    }

    #[test]
    fn a_wrong_block_is_wanted_again() {
        let now = Instant::now();
        let cid = cids(1)[0];
        let mut work = Work::default();
        work.add([cid]);
        work.take(0, 0, 1, now);
        assert!(work.land(&cid));
        assert!(!work.is_idle());
        work.reject(cid);
        assert_eq!(work.take(1, 1, 1, now), [cid]);
        assert!(work.land(&cid));
        work.keep(&cid);
        assert!(work.is_idle());
    }
}
