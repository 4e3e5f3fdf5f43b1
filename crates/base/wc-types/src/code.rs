//! Stable error codes and whose move an error is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whose move it is after an error. HTTP statuses and exit codes derive from it, never from the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The caller's: the request was wrong and must change.
    Caller,
    /// The request was right but the world has moved on; look again.
    Conflict,
    /// Nothing is left of something bounded; wait or ask for less.
    Exhausted,
    /// Another machine misbehaved; its score falls.
    Peer,
    /// This machine lacks something: permission, space, a kernel feature.
    Host,
    /// A defect of ours.
    Ours,
}

/// A stable code such as `WC-POLICY-003`, and its class. Codes are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The text that users see and search for.
    pub name: &'static str,
    /// Whose move it is.
    pub class: Class,
}

impl Code {
    /// Names a code.
    pub const fn new(name: &'static str, class: Class) -> Self {
        Self { name, class }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A refusal as it crosses a process boundary: which code, why, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} [{code}]")]
pub struct Refusal {
    /// Stable code, such as `WC-POLICY-003`.
    pub code: String,
    /// Whose move it is.
    pub class: Class,
    /// What was refused and why, in one sentence.
    pub message: String,
    /// The field of the request that is wrong, such as `stages[0].replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What would make it right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Refusal {
    /// A refusal with a code and a sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code: code.name.to_owned(),
            class: code.class,
            message: message.into(),
            field: None,
            hint: None,
        }
    }

    /// Adds the field that is wrong.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Adds the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
