//! How does a guest run without touching its host, and stop the moment the human returns?
//!
//! A guest is WebAssembly from a stranger. It runs in a process of its own — this same binary, re-executed as a *worker* —
//! which gives up everything it does not need before it sees the first byte of the guest: user, capabilities, namespaces,
//! file system, system calls. The agent talks to it over one socket, believes none of its frames, measures it from
//! outside, and can stop it with one signal that needs nobody's cooperation.
//!
//! ```text
//!  agent (async, ordinary process)                     worker (one thread, locked up)
//!  Sandbox ── prepare ──► compiled module on disk      wasmtime engine, linker
//!     │  └─── slot ─────► Slot ══ socket ════════════► one guest, a fresh instance per task
//!     └─ freezer ───────► Freezer ── SIGSTOP ────────►
//! ```
//!
//! Deliberately absent: the network (no socket can exist in a worker), clocks and randomness (both are replaced, so that
//! the same task gives the same bytes on every host), and any knowledge of jobs, leases or peers.
//!
//! What still differs between hosts and must not reach a result: for components (preview 2) the order of directory
//! listings and the times of files, for every guest when a write fails for lack of space.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "wc-sandbox isolates guests with Linux namespaces, Landlock and seccomp; other systems have no backend yet"
);

#[cfg(feature = "attack")]
pub mod attack;
mod capture;
mod cgroup;
mod collect;
mod defence;
mod error;
mod freeze;
mod limits;
mod lockdown;
mod process;
mod profile;
mod sandbox;
mod slot;
mod spare;
mod steady;
mod wire;
mod worker;

pub use collect::{InputSource, OutputFile, OutputRefusal, Outputs};
pub use defence::{Defence, DefenceState};
pub use error::SandboxError;
pub use freeze::{FreezeReport, Freezer};
pub use limits::{Limits, Metering, Usage};
pub use process::WorkerCommand;
pub use sandbox::{Prepared, Sandbox, SandboxConfig};
pub use slot::{Exit, Slot, TaskOutcome, TaskSpec};
pub use spare::give_memory_back;
pub use worker::{WORKER_ARGUMENT, worker_main};
