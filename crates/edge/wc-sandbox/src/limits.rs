//! How much a guest may use, and how it is counted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a guest's work is counted (`docs/adr/0003-how-work-is-counted.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Metering {
    /// Every executed instruction costs fuel: the same count on every host, and a bound that ends endless loops.
    Fuel,
    /// No count. Faster, but credit would have to be claimed time.
    None,
}

/// What one task of a slot may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory and tables of the guest.
    pub memory_bytes: u64,
    /// Fuel, under [`Metering::Fuel`].
    pub fuel: u64,
    /// Processor time, seen from outside the worker.
    pub cpu: Duration,
    /// Wall-clock time, not counting time spent frozen.
    pub wall: Duration,
    /// Standard output; a guest that prints more is stopped.
    pub stdout_bytes: u64,
    /// Standard error; the last bytes are kept.
    pub stderr_bytes: u64,
    /// All files under `/out` together, and again under `/checkpoint`.
    pub output_bytes: u64,
    /// Number of files under `/out`, and again under `/checkpoint`.
    pub output_files: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 512 << 20,
            fuel: u64::MAX,
            cpu: Duration::from_secs(3600),
            wall: Duration::from_secs(3600),
            stdout_bytes: 1 << 20,
            stderr_bytes: 64 << 10,
            output_bytes: 1 << 30,
            output_files: 4096,
        }
    }
}

impl Limits {
    /// Captured streams never need more than this, whatever a manifest asks for.
    pub(crate) const STREAM_BYTES_MAX: u64 = 64 << 20;

    /// Returns these limits with the captured streams cut to what a frame can carry.
    pub(crate) fn bounded(mut self) -> Self {
        self.stdout_bytes = self.stdout_bytes.min(Self::STREAM_BYTES_MAX);
        self.stderr_bytes = self.stderr_bytes.min(Self::STREAM_BYTES_MAX);
        self
    }
}

/// What one task used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Fuel spent; 0 without metering.
    pub fuel: u64,
    /// Processor time of the worker for this task.
    pub cpu_micros: u64,
    /// Wall-clock time of the task.
    pub wall_micros: u64,
    /// Most linear memory the guest had at once.
    pub memory_bytes_peak: u64,
}
