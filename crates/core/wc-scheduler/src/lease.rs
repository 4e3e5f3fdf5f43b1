//! One replica's right to run on one node until a deadline.
//!
//! ```text
//! Granted ──commit──► Committed ──report──► Reported
//!    │  └──────────────report──────────────────▲
//!    │                    │
//!    └───────end──────────┴──► Ended (lost, expired, revoked, returned)
//! ```
//!
//! The happy path of a replica that is compared with others commits before it reports; a single replica reports at
//! once. A report that reaches an ended lease is superseded: the number of the lease is the fence.

use std::fmt;

use serde::{Deserialize, Serialize};
use wc_types::outcome::Commitment;
use wc_types::{LeaseId, Timestamp};

/// Why a lease ended without a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseEnd {
    /// Its node went away.
    Lost,
    /// Nothing was heard of it in time.
    Expired,
    /// The cell took it back.
    Revoked,
    /// Its node gave it back before starting.
    Returned,
}

impl fmt::Display for LeaseEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "the machine went away",
            Self::Expired => "nothing was heard of it before its lease expired",
            Self::Revoked => "the lease was revoked",
            Self::Returned => "the machine gave it back",
        })
    }
}

/// The life of one permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lease {
    /// The node may run the replica.
    Granted {
        /// Its number.
        id: LeaseId,
        /// When it ends unless something is heard.
        expires_at: Timestamp,
    },
    /// The node has a result and is bound to it.
    Committed {
        /// Its number.
        id: LeaseId,
        /// When it ends unless the result is revealed.
        expires_at: Timestamp,
        /// What the node is bound to.
        commitment: Commitment,
    },
    /// The node's word is in.
    Reported {
        /// Its number.
        id: LeaseId,
        /// When.
        at: Timestamp,
    },
    /// It ended without a report.
    Ended {
        /// Its number.
        id: LeaseId,
        /// When.
        at: Timestamp,
        /// Why.
        end: LeaseEnd,
    },
}

/// The lease is not in a state from which this step leads anywhere. Never shown to a person: the cell takes the step or
/// leaves the lease as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// It is bound to another result already.
    #[error("{lease} has committed to another result")]
    BoundOtherwise {
        /// The lease.
        lease: LeaseId,
    },
    /// It has ended or was reported.
    #[error("{lease} is no longer live")]
    NotLive {
        /// The lease.
        lease: LeaseId,
    },
}

impl Lease {
    /// Returns the number of this lease.
    pub fn id(&self) -> LeaseId {
        match *self {
            Self::Granted { id, .. }
            | Self::Committed { id, .. }
            | Self::Reported { id, .. }
            | Self::Ended { id, .. } => id,
        }
    }

    /// Returns whether the node still owes a report.
    pub fn is_live(&self) -> bool {
        self.expires_at().is_some()
    }

    /// Returns when the lease ends by itself; `None` once it is not live.
    pub fn expires_at(&self) -> Option<Timestamp> {
        match *self {
            Self::Granted { expires_at, .. } | Self::Committed { expires_at, .. } => Some(expires_at),
            Self::Reported { .. } | Self::Ended { .. } => None,
        }
    }

    /// Returns the lease that follows from the node binding itself to a result. Saying the same again is harmless.
    ///
    /// # Errors
    /// [`LeaseError`] when the lease is not live or bound to something else.
    pub fn commit(&self, commitment: Commitment) -> Result<Self, LeaseError> {
        match *self {
            Self::Granted { id, expires_at } => Ok(Self::Committed { id, expires_at, commitment }),
            Self::Committed { commitment: bound, .. } if bound == commitment => Ok(*self),
            Self::Committed { id, .. } => Err(LeaseError::BoundOtherwise { lease: id }),
            Self::Reported { id, .. } | Self::Ended { id, .. } => Err(LeaseError::NotLive { lease: id }),
        }
    }

    /// Returns the lease that follows from the node's report.
    ///
    /// # Errors
    /// [`LeaseError::NotLive`] when there is nothing left to report on.
    pub fn report(&self, at: Timestamp) -> Result<Self, LeaseError> {
        match *self {
            Self::Granted { id, .. } | Self::Committed { id, .. } => Ok(Self::Reported { id, at }),
            Self::Reported { id, .. } | Self::Ended { id, .. } => Err(LeaseError::NotLive { lease: id }),
        }
    }

    /// Returns the lease that follows from it ending without a report.
    ///
    /// # Errors
    /// [`LeaseError::NotLive`] when it ended before or was reported.
    pub fn end(&self, at: Timestamp, end: LeaseEnd) -> Result<Self, LeaseError> {
        match *self {
            Self::Granted { id, .. } | Self::Committed { id, .. } => Ok(Self::Ended { id, at, end }),
            Self::Reported { id, .. } | Self::Ended { id, .. } => Err(LeaseError::NotLive { lease: id }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANTED: Lease = Lease::Granted { id: LeaseId(7), expires_at: Timestamp(100) };

    #[test]
    fn a_lease_is_granted_committed_and_reported() {
        let committed = GRANTED.commit(Commitment([1; 32])).expect("live");
        assert_eq!(committed.expires_at(), Some(Timestamp(100)));
        let reported = committed.report(Timestamp(9)).expect("live");
        assert_eq!(reported, Lease::Reported { id: LeaseId(7), at: Timestamp(9) });
        assert!(!reported.is_live());
    }

    #[test]
    fn a_commitment_binds_once_and_may_be_repeated() {
        let committed = GRANTED.commit(Commitment([1; 32])).expect("live");
        assert_eq!(committed.commit(Commitment([1; 32])), Ok(committed));
        let error = committed.commit(Commitment([2; 32])).expect_err("bound");
        assert_eq!(error, LeaseError::BoundOtherwise { lease: LeaseId(7) });
    }

    #[test]
    fn nothing_follows_from_an_ended_lease() {
        for end in [LeaseEnd::Lost, LeaseEnd::Expired, LeaseEnd::Revoked, LeaseEnd::Returned] {
            let ended = GRANTED.end(Timestamp(5), end).expect("live");
            assert!(ended.commit(Commitment([1; 32])).is_err());
            assert!(ended.report(Timestamp(6)).is_err());
            assert!(ended.end(Timestamp(6), LeaseEnd::Lost).is_err());
            assert_eq!(ended.id(), LeaseId(7));
        }
    }
}
