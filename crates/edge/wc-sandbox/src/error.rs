//! What can go wrong around a guest. How a guest itself ended is not an error but an [`Exit`](crate::Exit).

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The sandbox could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// A file or directory of the sandbox could not be used.
    #[error("cannot {action} {}", path.display())]
    Files {
        /// What was being done, such as `create`.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The worker process did not start.
    #[error("cannot start a sandbox worker")]
    Spawn {
        /// What the operating system answered.
        source: io::Error,
    },
    /// The worker process started but ended or misbehaved before a guest was in it.
    #[error("sandbox worker failed while {stage}: {reason}")]
    WorkerFailed {
        /// What it was doing.
        stage: &'static str,
        /// What is known.
        reason: String,
    },
    /// The bytes are not a WebAssembly module or component that this sandbox can run.
    #[error("module is invalid: {reason}")]
    ModuleInvalid {
        /// Where and why, from the compiler.
        reason: String,
    },
    /// Compiling took more than it may.
    #[error("module needs more than {wall:?} or {memory_bytes} bytes to compile")]
    CompileLimit {
        /// The time limit.
        wall: Duration,
        /// The memory limit.
        memory_bytes: u64,
    },
    /// A task asks for something that cannot be given to a guest.
    #[error("task is invalid: {reason}")]
    TaskInvalid {
        /// What and why.
        reason: String,
    },
    /// The sandbox was closed.
    #[error("the sandbox is closed")]
    Closed,
}

impl SandboxError {
    pub(crate) fn files(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Files { action, path, source }
    }
}
