//! What can come of asking a log.

use wc_types::{Class, Code, Millis, Refusal};

/// A log was not asked, did not answer, or did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address cannot be used.
    #[error("the address {url:?} of the log cannot be used: {reason}")]
    Address {
        /// The address.
        url: String,
        /// Why not.
        reason: &'static str,
    },
    /// The certificates that the log's should come from do not read.
    #[error("the certificates for the log cannot be used: {reason}")]
    Certificates {
        /// Why not.
        reason: String,
    },
    /// No answer came.
    #[error("the log cannot be reached: {reason}")]
    Unreachable {
        /// Why not.
        reason: String,
    },
    /// It answered that this is not the moment.
    #[error("the log has no time for us (status {status})")]
    Busy {
        /// HTTP status.
        status: u16,
        /// How long it asks us to wait, if it does.
        wait: Option<Millis>,
    },
    /// It will not do it.
    #[error("the log refuses (status {status}): {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The beginning of what it says, harmless to print.
        text: String,
    },
    /// Its answer is longer than anything we would believe.
    #[error("the log's answer is longer than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// Its answer lacks what the protocol says is there.
    #[error("the log's answer lacks {what}")]
    Incomplete {
        /// What.
        what: &'static str,
    },
}

impl ClientError {
    /// Returns the stable code and whose move it is.
    pub fn code(&self) -> Code {
        match self {
            Self::Address { .. } => Code::new("WC-ANCHOR-001", Class::Caller),
            Self::Certificates { .. } => Code::new("WC-ANCHOR-002", Class::Caller),
            Self::Unreachable { .. } => Code::new("WC-ANCHOR-003", Class::Host),
            Self::Busy { .. } => Code::new("WC-ANCHOR-004", Class::Exhausted),
            Self::Refused { .. } => Code::new("WC-ANCHOR-005", Class::Peer),
            Self::TooLarge { .. } => Code::new("WC-ANCHOR-006", Class::Peer),
            Self::Incomplete { .. } => Code::new("WC-ANCHOR-007", Class::Peer),
        }
    }

    /// Returns this error as it is shown to a person.
    pub fn to_refusal(&self) -> Refusal {
        Refusal::new(self.code(), self.to_string())
    }

    /// Returns how long the log asks us to wait, if it does.
    pub fn wait(&self) -> Option<Millis> {
        match self {
            Self::Busy { wait, .. } => *wait,
            _ => None,
        }
    }
}
