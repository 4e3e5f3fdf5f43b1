//! What falls due when, so that an idle host sleeps instead of ticking.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Things that fall due, in order.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    by_time: BTreeMap<(Instant, u64), T>,
    sequence: u64,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { by_time: BTreeMap::new(), sequence: 0 }
    }
}

impl<T: PartialEq> Timers<T> {
    pub(crate) fn after(&mut self, delay: Duration, what: T) {
        self.sequence += 1;
        self.by_time.insert((Instant::now() + delay, self.sequence), what);
    }

    pub(crate) fn contains(&self, what: &T) -> bool {
        self.by_time.values().any(|other| other == what)
    }

    /// Returns how many things of a kind are to fall due.
    pub(crate) fn count(&self, is_one: impl Fn(&T) -> bool) -> usize {
        self.by_time.values().filter(|what| is_one(what)).count()
    }

    /// Returns how long it is until `what` falls due, if it does.
    pub(crate) fn pause(&self, what: &T) -> Option<Duration> {
        let due = self.by_time.iter().find(|(_, other)| *other == what);
        due.map(|((at, _), _)| at.saturating_duration_since(Instant::now()))
    }

    /// Forgets something that was to fall due.
    pub(crate) fn cancel(&mut self, what: &T) {
        self.by_time.retain(|_, other| other != what);
    }

    /// Returns when the next thing falls due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.keys().next().map(|(at, _)| *at)
    }

    /// Removes and returns what is due at `now`.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<T> {
        let later = self.by_time.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.by_time, later).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_out_in_order_and_the_rest_stays() {
        let mut timers = Timers::default();
        timers.after(Duration::from_secs(60), "late");
        timers.after(Duration::ZERO, "first");
        timers.after(Duration::ZERO, "second");
        assert_eq!(timers.take_due(Instant::now()), ["first", "second"]);
        assert!(timers.contains(&"late") && timers.next().is_some());
        assert_eq!(timers.count(|what| what.len() == 4), 1);
        assert!(timers.pause(&"late").is_some_and(|pause| pause > Duration::from_secs(30)));
        assert!(timers.pause(&"first").is_none());
        timers.cancel(&"late");
        assert!(timers.next().is_none());
    }
}
