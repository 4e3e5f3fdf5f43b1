//! What can go wrong between a command and its node.

use std::io;
use std::path::PathBuf;

use wc_proto::frame::FrameError;
use wc_types::{Class, Code, Refusal};

/// A request did not reach a node, or its answer did not come back; or a node could not open its socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// Nobody listens in this directory (API-43).
    #[error("not connected: no node is running in {}", dir.display())]
    NotConnected {
        /// The data directory.
        dir: PathBuf,
    },
    /// The socket is there, and not ours to use.
    #[error("the node in {} belongs to another user", dir.display())]
    NotOurs {
        /// The data directory.
        dir: PathBuf,
    },
    /// Another process holds the directory.
    #[error("another node is already running in {}", dir.display())]
    AlreadyRunning {
        /// The data directory.
        dir: PathBuf,
    },
    /// Others could replace what lies in the directory.
    #[error("the directory {} can be written by other users", dir.display())]
    OpenToOthers {
        /// The data directory.
        dir: PathBuf,
    },
    /// A path that cannot be written as text cannot be sent.
    #[error("the path {} is not valid UTF-8", path.display())]
    PathNotText {
        /// The path, shown with replacement characters.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("could not {doing}: {source}")]
    Io {
        /// What was attempted.
        doing: String,
        /// Why not.
        source: io::Error,
    },
    /// The other side speaks otherwise, or too much.
    #[error("the conversation with the node broke: {0}")]
    Frame(#[from] FrameError),
    /// The other side hung up before it answered.
    #[error("the node closed the connection before it answered")]
    Closed,
}

impl ApiError {
    /// Returns the stable code and whose move it is.
    pub fn code(&self) -> Code {
        match self {
            Self::NotConnected { .. } => Code::new("WC-API-001", Class::Host),
            Self::NotOurs { .. } => Code::new("WC-API-002", Class::Host),
            Self::AlreadyRunning { .. } => Code::new("WC-API-003", Class::Conflict),
            Self::PathNotText { .. } => Code::new("WC-API-004", Class::Caller),
            Self::Io { .. } => Code::new("WC-API-005", Class::Host),
            Self::Frame(_) => Code::new("WC-API-006", Class::Ours),
            Self::Closed => Code::new("WC-API-007", Class::Ours),
            Self::OpenToOthers { .. } => Code::new("WC-API-012", Class::Host),
        }
    }

    /// Returns this error as it is shown to a person.
    pub fn to_refusal(&self) -> Refusal {
        let refusal = Refusal::new(self.code(), self.to_string());
        match self {
            Self::NotConnected { .. } => refusal.hint("run 'worldcompute node run' first"),
            Self::NotOurs { dir } => refusal.hint(format!(
                "run this command as the user who runs the node, or name your own directory instead of {}",
                dir.display()
            )),
            Self::AlreadyRunning { .. } => {
                refusal.hint("stop it with 'worldcompute node stop', or choose another --data-dir")
            }
            Self::OpenToOthers { dir } => {
                refusal.hint(format!("chmod 700 {}, or name a directory of your own", dir.display()))
            }
            Self::PathNotText { .. } => refusal.hint("rename it, or work on a copy under another name"),
            Self::Io { .. } => refusal,
            Self::Frame(_) => refusal.hint("do the command and the node have the same version?"),
            Self::Closed => refusal.hint("look at the node's log; it may have stopped"),
        }
    }
}

/// Request was not understood.
pub(crate) const MALFORMED: Code = Code::new("WC-API-008", Class::Caller);
/// Request is larger than a frame.
pub(crate) const TOO_LARGE: Code = Code::new("WC-API-009", Class::Caller);
/// Too many connections at once.
pub(crate) const BUSY: Code = Code::new("WC-API-010", Class::Exhausted);
/// The answer does not fit a frame.
pub(crate) const ANSWER_TOO_LARGE: Code = Code::new("WC-API-011", Class::Ours);
