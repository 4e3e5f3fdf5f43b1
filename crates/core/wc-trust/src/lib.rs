//! How far is a machine believed? Its record, the score that follows from it, and the tier that the score allows.
//!
//! ```text
//! agreed ─────────────┐
//! disagreed ──────────┼──► TrustRecord ──score(attestation, at)──► 0 … 1,000,000 ppm ──tier──► T0 … T4
//! no majority (weak) ─┘         └────────standing()──────────────► Good | Quarantined
//! ```
//!
//! Everything is in parts per million and integers, so that every replay of a journal gives the same scores.
#![forbid(unsafe_code)]

mod decay;
mod record;
mod tier;

pub use record::{
    CAP_AGE, CAP_SCORE, FAILURE_HALF_LIFE, FULL_AGE, NO_MAJORITY_WEIGHT, STRIKE_WINDOW, TrustRecord,
    UNITS_MIN, WINDOW,
};
pub use tier::{Evidence, tier};
