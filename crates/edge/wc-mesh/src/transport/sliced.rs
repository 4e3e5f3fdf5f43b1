//! Writes to a stream in small pieces, so that room is made for the next one little by little.
//!
//! What is written to QUIC counts against the connection's send window (10 MB, what a fast far path takes) until the
//! *whole* piece is acknowledged (quinn-proto 0.11: the allocation is freed at once or not at all). With
//! pieces of 256 KiB, which the streams send by turns, a window that is full stays full for ten seconds on a path of 100
//! KB/s: nobody can write, not even a ping, and nothing tells that the path works.

use crate::hooked::Hook;

/// A stream that takes only so much at once.
pub(super) struct Sliced;

impl Hook for Sliced {
    /// Sixteen streams on 100 KB/s are then heard of every 2.6 s.
    const WRITE_BYTES_MAX: usize = 16 << 10;
}
