//! When to ping, and what silence means. Decides and does nothing.
//!
//! ```text
//! resting ──due──► asked ──answer──► resting
//!                   │  ▲
//!             late  │  │ anything is heard
//!                   ▼  │
//!                 doubted ──silent for too long──► given up
//! ```

use std::time::{Duration, Instant};

/// Longest pause between two pings. One costs about 270 bytes on the wire, so fifty connections that nobody needs cost both
/// sides 600 bytes a second. What is called reachable has answered within the last minute.
const PAUSE_IDLE: Duration = Duration::from_secs(45);
/// Silence on a connection that a place at a relay hangs on, before it is pinged.
const PAUSE_LEANED_ON: Duration = Duration::from_secs(8);
/// The same where streams were used a moment ago.
const PAUSE_USED: Duration = Duration::from_secs(4);
/// The same where somebody has said something and waits for a sign that it was heard.
const PAUSE_AWAITED: Duration = Duration::from_secs(2);
/// Silence after a ping before other paths are looked for; two round trips are added. A lost packet or two are
/// repeated within that time.
pub(super) const LATE: Duration = Duration::from_secs(3);
/// Silence after a ping that ends the connection, whether there is another one or not.
pub(super) const SILENT: Duration = Duration::from_secs(10);
/// Longer than this after its time, a look at the clock says more about this machine than about the peer.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// Who would suffer if a connection were dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Nobody,
    /// Whoever wants to reach us through it.
    LeanedOn,
    /// Somebody who has just used it.
    Used,
    /// Somebody who has said something and heard nothing since.
    Awaited {
        /// When it was said.
        since: Instant,
    },
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Ping now.
    Ping,
    /// Look for another path.
    Doubt,
    /// The peer was heard after all.
    Believe,
    /// Close the connection.
    GiveUp,
    /// Nothing before this moment.
    Rest(Instant),
}

/// One connection's pulse.
#[derive(Debug, Default)]
pub(super) struct Beat {
    asked_at: Option<Instant>,
    waiting: bool,
    doubted: bool,
    round_trip: Duration,
    next_look: Option<Instant>,
}

impl Beat {
    /// Returns the next step.
    ///
    /// - `heard`: when the peer last showed that it is there
    /// - `need`: who would suffer if it were not
    /// - `at_once`: the swarm task wants to know now
    pub(super) fn step(&mut self, now: Instant, heard: Option<Instant>, need: Need, at_once: bool) -> Step {
        if let (Some(look), Some(asked)) = (self.next_look.take(), self.asked_at)
            && now > look + OVERSLEPT
        {
            // This process, or the whole machine, slept: what came meanwhile has not been read yet.
            self.asked_at = Some(asked + (now - look));
        }
        let Some(asked) = self.asked_at else { return self.ping(now) };
        let quiet_since = heard.map_or(asked, |heard| heard.max(asked));
        if !self.waiting {
            let idle = asked + PAUSE_IDLE;
            let due = match need {
                Need::Nobody => idle,
                Need::LeanedOn => idle.min(quiet_since + PAUSE_LEANED_ON),
                Need::Used => idle.min(quiet_since + PAUSE_USED),
                // An answer that comes soon is as good as one to a ping, and costs nothing.
                Need::Awaited { since } => idle.min(quiet_since.max(since) + PAUSE_AWAITED),
            };
            return if at_once || now >= due { self.ping(now) } else { self.rest(due) };
        }
        let late = quiet_since + LATE + 2 * self.round_trip;
        let silent = quiet_since + SILENT + 2 * self.round_trip;
        match (self.doubted, now) {
            (_, now) if now >= silent => Step::GiveUp,
            (false, now) if now >= late => {
                self.doubted = true;
                Step::Doubt
            }
            (false, _) => self.rest(late),
            (true, now) if now < late => {
                self.doubted = false;
                Step::Believe
            }
            (true, _) => self.rest(silent),
        }
    }

    fn ping(&mut self, now: Instant) -> Step {
        (self.asked_at, self.waiting) = (Some(now), true);
        Step::Ping
    }

    fn rest(&mut self, until: Instant) -> Step {
        self.next_look = Some(until);
        Step::Rest(until)
    }

    /// Notes the answer, and returns the round trip.
    pub(super) fn answered(&mut self, now: Instant) -> Duration {
        (self.waiting, self.doubted) = (false, false);
        self.round_trip = self.asked_at.map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked));
        self.round_trip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(at: Instant) -> Beat {
        let mut beat = Beat::default();
        assert_eq!(beat.step(at, None, Need::Nobody, false), Step::Ping);
        assert_eq!(beat.answered(at), Duration::ZERO);
        beat
    }

    #[test]
    fn an_idle_connection_is_pinged_rarely_and_a_needed_one_when_it_is_quiet() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut beat = answered(start);
        assert_eq!(beat.step(after(6), None, Need::Nobody, false), Step::Rest(after(45)));
        assert_eq!(beat.step(after(6), None, Need::Used, false), Step::Ping, "a use begins");
        let mut beat = answered(start);
        assert_eq!(
            beat.step(after(6), Some(after(4)), Need::Used, false),
            Step::Rest(after(8)),
            "bytes are as good"
        );
        assert_eq!(beat.step(after(6), Some(after(4)), Need::Used, true), Step::Ping, "unless the host asks");
        let mut beat = answered(start);
        assert_eq!(beat.step(after(1), None, Need::Used, false), Step::Rest(after(4)));
        assert_eq!(beat.step(after(1), None, Need::LeanedOn, false), Step::Rest(after(8)));
        let awaited = Need::Awaited { since: after(1) };
        assert_eq!(beat.step(after(1), None, awaited, false), Step::Rest(after(3)));
        assert_eq!(beat.step(after(3), None, awaited, false), Step::Ping, "nothing came");
        let mut beat = answered(start);
        assert_eq!(
            beat.step(after(45), Some(after(44)), Need::Used, false),
            Step::Ping,
            "round trips are measured"
        );
    }

    #[test]
    fn silence_brings_doubt_and_then_the_end_and_a_byte_dispels_it() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut beat = Beat::default();
        assert_eq!(beat.step(start, None, Need::Used, false), Step::Ping);
        assert_eq!(beat.step(start, None, Need::Used, false), Step::Rest(after(3)));
        assert_eq!(beat.step(after(3), None, Need::Used, false), Step::Doubt);
        assert_eq!(beat.step(after(3), None, Need::Used, false), Step::Rest(after(10)));
        assert_eq!(beat.step(after(4), Some(after(4)), Need::Used, false), Step::Believe);
        assert_eq!(beat.step(after(4), Some(after(4)), Need::Used, false), Step::Rest(after(7)));
        assert_eq!(beat.step(after(7), Some(after(4)), Need::Used, false), Step::Doubt);
        assert_eq!(beat.step(after(7), Some(after(4)), Need::Used, false), Step::Rest(after(14)));
        assert_eq!(beat.step(after(14), Some(after(4)), Need::Used, false), Step::GiveUp);
    }

    #[test]
    fn a_machine_that_slept_blames_nobody() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut beat = Beat::default();
        beat.step(start, None, Need::Used, false);
        assert_eq!(beat.step(start, None, Need::Used, false), Step::Rest(after(3)));
        assert_eq!(
            beat.step(after(600), None, Need::Used, false),
            Step::Doubt,
            "late, by no more than was slept"
        );
        assert_eq!(beat.step(after(600), None, Need::Used, false), Step::Rest(after(607)));
        let round_trip = beat.answered(after(601));
        assert!(round_trip < Duration::from_secs(5), "{round_trip:?}");
    }

    #[test]
    fn a_path_that_is_known_to_be_slow_has_more_time() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut beat = Beat::default();
        beat.step(start, None, Need::Used, false);
        assert_eq!(beat.answered(after(2)), Duration::from_secs(2));
        assert_eq!(beat.step(after(7), None, Need::Used, false), Step::Ping);
        assert_eq!(beat.step(after(7), None, Need::Used, false), Step::Rest(after(14)));
    }
}
