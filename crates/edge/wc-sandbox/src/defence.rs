//! What stands between a guest and its host, as the worker found it after locking itself up.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One kernel defence and whether it is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defence {
    /// A short stable name, such as `user namespace` or `seccomp`.
    pub name: String,
    /// Whether it is on, and if not, why not.
    pub state: DefenceState,
}

/// Whether a defence is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefenceState {
    /// Switched on, and the kernel said so.
    Active {
        /// What exactly holds, for people; may be empty.
        detail: String,
    },
    /// This kernel or this user cannot have it.
    Unavailable {
        /// What the kernel answered.
        reason: String,
    },
}

impl Defence {
    pub(crate) fn active(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.into(), state: DefenceState::Active { detail: detail.into() } }
    }

    pub(crate) fn unavailable(name: &str, reason: impl fmt::Display) -> Self {
        Self { name: name.into(), state: DefenceState::Unavailable { reason: reason.to_string() } }
    }

    pub(crate) fn of<E: fmt::Display>(name: &str, result: Result<impl Into<String>, E>) -> Self {
        match result {
            Ok(detail) => Self::active(name, detail),
            Err(error) => Self::unavailable(name, error),
        }
    }

    /// Returns whether the defence is on.
    pub fn is_active(&self) -> bool {
        matches!(self.state, DefenceState::Active { .. })
    }
}

impl fmt::Display for Defence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            DefenceState::Active { detail } if detail.is_empty() => write!(f, "{}: active", self.name),
            DefenceState::Active { detail } => write!(f, "{}: active ({detail})", self.name),
            DefenceState::Unavailable { reason } => write!(f, "{}: unavailable ({reason})", self.name),
        }
    }
}
