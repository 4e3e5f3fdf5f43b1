//! One relay's promise to let others reach us through it (NET-14, NET-15).
//!
//! ```text
//! Requesting ──accepted──► Active ──renewal is late──► Renewing
//!     │                     │  ▲                         │  │
//!     │ refused, silence    │  └─────────accepted────────┘  │ expired
//!     ▼                     ▼  connection lost              ▼
//!   Failed                 Lost ◄───────────────────────────┘
//! ```
//! The library asks for a renewal once three quarters of a reservation are over. `renew_at`, thirty seconds before the
//! end, is when we stop trusting that it will come and look for another relay beside this one.

use std::time::{Duration, Instant};

/// How long before its end a reservation must have been renewed.
const MARGIN: Duration = Duration::from_secs(30);
/// How long a relay may take to answer a request, connecting included.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(12);

/// Where one reservation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reservation {
    /// Asked for.
    Requesting { answer_by: Instant },
    /// Held. `renew_at < expires_at`.
    Active { renew_at: Instant, expires_at: Instant },
    /// Held, and its renewal is late.
    Renewing { expires_at: Instant },
    /// Never held: refused, or no answer.
    Failed,
    /// Held once.
    Lost { lost_at: Instant },
}

impl Reservation {
    /// Returns a reservation that is asked for now.
    pub(crate) fn request(now: Instant) -> Self {
        Self::Requesting { answer_by: now + ANSWER_MAX }
    }

    /// Returns what follows from the relay's consent, for `life` from now.
    pub(crate) fn accepted(self, now: Instant, life: Duration) -> Self {
        match self {
            Self::Requesting { .. } | Self::Active { .. } | Self::Renewing { .. } => {
                // A life too short for the margin is renewed at its half.
                let margin = MARGIN.min(life / 2);
                Self::Active { renew_at: now + (life - margin), expires_at: now + life }
            }
            // An answer that came too late: we have stopped listening for it.
            Self::Failed | Self::Lost { .. } => self,
        }
    }

    /// Returns what follows from the end of the relay's listener: a refusal, or a lost connection.
    pub(crate) fn closed(self, now: Instant) -> Self {
        match self {
            Self::Requesting { .. } => Self::Failed,
            Self::Active { .. } | Self::Renewing { .. } => Self::Lost { lost_at: now },
            Self::Failed | Self::Lost { .. } => self,
        }
    }

    /// Returns what follows from the passing of time.
    pub(crate) fn at(self, now: Instant) -> Self {
        match self {
            Self::Requesting { answer_by } if now >= answer_by => Self::Failed,
            Self::Active { expires_at, .. } | Self::Renewing { expires_at } if now >= expires_at => {
                Self::Lost { lost_at: now }
            }
            Self::Active { renew_at, expires_at } if now >= renew_at => Self::Renewing { expires_at },
            Self::Requesting { .. }
            | Self::Active { .. }
            | Self::Renewing { .. }
            | Self::Failed
            | Self::Lost { .. } => self,
        }
    }

    /// Returns when time changes it next.
    pub(crate) fn due(self) -> Option<Instant> {
        match self {
            Self::Requesting { answer_by } => Some(answer_by),
            Self::Active { renew_at, .. } => Some(renew_at),
            Self::Renewing { expires_at } => Some(expires_at),
            Self::Failed | Self::Lost { .. } => None,
        }
    }

    /// Returns whether others can reach us through it.
    pub(crate) fn is_held(self) -> bool {
        matches!(self, Self::Active { .. } | Self::Renewing { .. })
    }

    /// Returns whether it is over.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Failed | Self::Lost { .. })
    }

    /// Returns its name in a status.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Requesting { .. } => "requesting",
            Self::Active { .. } => "active",
            Self::Renewing { .. } => "renewing",
            Self::Failed => "failed",
            Self::Lost { .. } => "lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Accepted(Duration),
        Closed,
        Time,
    }

    #[test]
    fn every_step_leads_where_the_drawing_says() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let requesting = Reservation::request(start);
        let active = requesting.accepted(start, HOUR);
        let renewing = active.at(after(3570));
        let lost = active.closed(after(5));
        let failed = requesting.closed(after(1));
        let table = [
            (requesting, Step::Time, 1, "requesting"),
            (requesting, Step::Time, 12, "failed"),
            (requesting, Step::Closed, 1, "failed"),
            (requesting, Step::Accepted(HOUR), 1, "active"),
            (active, Step::Time, 3569, "active"),
            (active, Step::Time, 3570, "renewing"),
            (active, Step::Time, 3600, "lost"),
            (active, Step::Accepted(HOUR), 2700, "active"),
            (active, Step::Closed, 5, "lost"),
            (renewing, Step::Time, 3599, "renewing"),
            (renewing, Step::Time, 3600, "lost"),
            (renewing, Step::Accepted(HOUR), 3580, "active"),
            (renewing, Step::Closed, 3580, "lost"),
            (lost, Step::Accepted(HOUR), 6, "lost"),
            (lost, Step::Closed, 6, "lost"),
            (lost, Step::Time, 9000, "lost"),
            (failed, Step::Accepted(HOUR), 2, "failed"),
            (failed, Step::Closed, 2, "failed"),
            (failed, Step::Time, 9000, "failed"),
        ];
        for (from, step, seconds, to) in table {
            let now = after(seconds);
            let next = match step {
                Step::Accepted(life) => from.accepted(now, life),
                Step::Closed => from.closed(now),
                Step::Time => from.at(now),
            };
            assert_eq!(next.name(), to, "{from:?} {step:?} after {seconds} s");
            assert_eq!(next.is_over(), next.due().is_none());
            if let Reservation::Active { renew_at, expires_at } = next {
                assert!(renew_at < expires_at);
            }
        }
    }

    #[test]
    fn a_renewed_reservation_runs_from_its_renewal() {
        let start = Instant::now();
        let later = start + Duration::from_secs(2700);
        let renewed = Reservation::request(start).accepted(start, HOUR).accepted(later, HOUR);
        assert_eq!(
            renewed,
            Reservation::Active { renew_at: later + (HOUR - MARGIN), expires_at: later + HOUR }
        );
        let short = Duration::from_secs(20);
        let brief = Reservation::request(start).accepted(start, short);
        assert_eq!(brief.due(), Some(start + short / 2));
    }
}
