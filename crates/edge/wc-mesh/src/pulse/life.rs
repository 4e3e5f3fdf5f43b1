//! What the streams of a connection, its pulse and the swarm task tell each other about it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;

use super::beat::Need;

/// How long after its last use a connection counts as used.
const USE_LASTS: Duration = Duration::from_secs(10);

/// Depths of the pulse's sleep: nothing that streams do wakes it, something written does, anything does.
const AWAKE: u8 = 0;
const DOZING: u8 = 1;
const ASLEEP: u8 = 2;

/// One connection's signs of life. Written for every read and write of every stream, so it is a few atomic numbers.
#[derive(Debug)]
pub(crate) struct Life {
    born: Instant,
    /// Open streams.
    pub(crate) load: AtomicU32,
    /// Milliseconds since the birth, plus one; 0 is never.
    used_ms: AtomicU64,
    heard_ms: AtomicU64,
    /// Somebody depends on it although no stream is used: it leads to a relay that holds a place for us.
    leaned_on: AtomicBool,
    /// The swarm task wants to know now.
    asked: AtomicBool,
    /// Asked, and not answered yet.
    questioned: AtomicBool,
    /// A ping is late.
    doubted: AtomicBool,
    /// What wakes the pulse.
    asleep: AtomicU8,
    waker: AtomicWaker,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            load: AtomicU32::new(0),
            used_ms: AtomicU64::new(0),
            heard_ms: AtomicU64::new(0),
            leaned_on: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            questioned: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            asleep: AtomicU8::new(AWAKE),
            waker: AtomicWaker::new(),
        }
    }
}

impl Life {
    fn stamp(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn moment(&self, stamp: u64) -> Option<Instant> {
        (stamp > 0).then(|| self.born + Duration::from_millis(stamp))
    }

    fn used_at(&self, stamp: u64, depth: u8) {
        self.used_ms.store(stamp, Ordering::Relaxed);
        if self.asleep.load(Ordering::Relaxed) >= depth && self.asleep.swap(AWAKE, Ordering::AcqRel) >= depth
        {
            self.waker.wake();
        }
    }

    /// Notes that somebody wants something of the peer.
    pub(crate) fn used(&self) {
        self.used_at(self.stamp(), DOZING);
    }

    /// Notes that the peer has shown that it is there: bytes of it came, or it made room for more of ours.
    pub(crate) fn heard(&self) {
        let stamp = self.stamp();
        self.heard_ms.store(stamp, Ordering::Relaxed);
        self.used_at(stamp, ASLEEP);
    }

    /// Notes that the peer has shown that it is there, which is of no use to anybody.
    pub(super) fn seen(&self) {
        self.heard_ms.store(self.stamp(), Ordering::Relaxed);
    }

    /// Returns when the peer last showed that it is there.
    pub(super) fn heard_at(&self) -> Option<Instant> {
        self.moment(self.heard_ms.load(Ordering::Relaxed))
    }

    /// Returns how long no stream has used the connection; nothing while one is open, or a place at a relay hangs on it.
    pub(crate) fn unused_for(&self, now: Instant) -> Duration {
        if self.load.load(Ordering::Relaxed) > 0 || self.leaned_on.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let used = self.moment(self.used_ms.load(Ordering::Relaxed)).unwrap_or(self.born);
        now.saturating_duration_since(used)
    }

    /// Returns whether somebody would suffer if the connection were dead.
    pub(crate) fn is_needed(&self, now: Instant) -> bool {
        let used = self.moment(self.used_ms.load(Ordering::Relaxed));
        self.leaned_on.load(Ordering::Relaxed) || used.is_some_and(|used| used + USE_LASTS > now)
    }

    /// Returns who would suffer if the connection were dead.
    pub(super) fn need(&self, now: Instant) -> Need {
        let (used, heard) = (self.used_ms.load(Ordering::Relaxed), self.heard_ms.load(Ordering::Relaxed));
        match self.moment(used).filter(|used| *used + USE_LASTS > now) {
            Some(since) if used > heard => Need::Awaited { since },
            Some(_) => Need::Used,
            None if self.leaned_on.load(Ordering::Relaxed) => Need::LeanedOn,
            None => Need::Nobody,
        }
    }

    /// Says whether the connection is needed even while no stream is used.
    pub(crate) fn lean_on(&self, leaned_on: bool) {
        if self.leaned_on.swap(leaned_on, Ordering::Relaxed) != leaned_on {
            self.waker.wake();
        }
    }

    /// Has the peer pinged now; until it answers, equally good connections are preferred.
    pub(crate) fn ask(&self) {
        self.questioned.store(true, Ordering::Relaxed);
        self.asked.store(true, Ordering::Relaxed);
        self.waker.wake();
    }

    pub(super) fn take_asked(&self) -> bool {
        self.asked.swap(false, Ordering::Relaxed)
    }

    /// Returns whether the swarm task has asked and there is no answer yet.
    pub(crate) fn is_questioned(&self) -> bool {
        self.questioned.load(Ordering::Relaxed)
    }

    /// Notes that the peer has answered.
    pub(super) fn answered(&self) {
        self.seen();
        self.questioned.store(false, Ordering::Relaxed);
        self.doubt(false);
    }

    /// Returns whether a ping is late.
    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    pub(super) fn doubt(&self, doubted: bool) {
        self.doubted.store(doubted, Ordering::Relaxed);
    }

    /// Wakes `waker` from now on when more is needed of the connection than `need`, or the swarm task asks.
    pub(super) fn wake(&self, waker: &std::task::Waker, need: Need) {
        self.waker.register(waker);
        let depth = match need {
            Need::Nobody => ASLEEP,
            Need::LeanedOn | Need::Used => DOZING,
            Need::Awaited { .. } => AWAKE,
        };
        self.asleep.store(depth, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_needed_while_it_is_used_or_leaned_on() {
        let life = Life::default();
        let now = Instant::now();
        assert!(!life.is_needed(now) && life.heard_at().is_none());
        life.used();
        assert!(life.is_needed(now) && life.heard_at().is_none());
        assert!(matches!(life.need(now), Need::Awaited { .. }));
        assert_eq!(life.need(now + 2 * USE_LASTS), Need::Nobody);
        assert!(life.unused_for(now + 2 * USE_LASTS) > USE_LASTS);
        life.lean_on(true);
        assert_eq!(life.unused_for(now + 2 * USE_LASTS), Duration::ZERO);
        assert!(life.is_needed(now + 2 * USE_LASTS));
        assert_eq!(life.need(now + 2 * USE_LASTS), Need::LeanedOn);
        life.ask();
        assert!(life.is_questioned() && life.take_asked() && !life.take_asked());
        life.doubt(true);
        life.answered();
        assert!(!life.is_questioned() && !life.is_doubted());
        life.lean_on(false);
        life.heard();
        assert!(life.heard_at().is_some() && life.is_needed(now));
        assert_eq!(life.need(now), Need::Used);
    }
}
