//! A guest's standard streams, kept in memory with a bound.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

/// Bytes a guest may hand over in one write.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// What happens when a stream is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// The guest is stopped.
    Stop,
    /// The oldest bytes go.
    KeepTail,
}

/// One captured stream; clones share it.
#[derive(Clone)]
pub(crate) struct Capture {
    state: Arc<Mutex<State>>,
    bytes_max: usize,
    when_full: WhenFull,
}

struct State {
    bytes: VecDeque<u8>,
    bytes_cut: u64,
    full: bool,
}

/// The error that stops a guest which printed more than it may.
#[derive(Debug, thiserror::Error)]
#[error("standard output is full")]
struct Full;

impl Capture {
    pub fn new(bytes_max: u64, when_full: WhenFull) -> Self {
        let state = State { bytes: VecDeque::new(), bytes_cut: 0, full: false };
        Self {
            state: Arc::new(Mutex::new(state)),
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            when_full,
        }
    }

    /// Appends `bytes`; `false` if the stream is full and the guest must stop.
    pub fn append(&self, bytes: &[u8]) -> bool {
        let mut state = self.lock();
        let room = self.bytes_max.saturating_sub(state.bytes.len());
        match self.when_full {
            WhenFull::Stop => {
                state.bytes.extend(&bytes[..bytes.len().min(room)]);
                state.full |= bytes.len() > room;
                !state.full
            }
            WhenFull::KeepTail => {
                let kept = &bytes[bytes.len().saturating_sub(self.bytes_max)..];
                let overflow = (state.bytes.len() + kept.len()).saturating_sub(self.bytes_max);
                state.bytes.drain(..overflow);
                state.bytes_cut += (overflow + bytes.len() - kept.len()) as u64;
                state.bytes.extend(kept);
                true
            }
        }
    }

    /// Returns whether more was printed than there is room for, under [`WhenFull::Stop`].
    pub fn is_full(&self) -> bool {
        self.lock().full
    }

    /// Returns what was captured and how many bytes before it were cut.
    pub fn take(&self) -> (Vec<u8>, u64) {
        let mut state = self.lock();
        (std::mem::take(&mut state.bytes).into(), state.bytes_cut)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IsTerminal for Capture {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Capture {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Capture {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Capture {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if self.append(&bytes) { Ok(()) } else { Err(StreamError::Trap(Full.into())) }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for Capture {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(if self.append(bytes) { Ok(bytes.len()) } else { Err(io::Error::other(Full)) })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_keeps_the_last_bytes_and_counts_the_rest() {
        let tail = Capture::new(4, WhenFull::KeepTail);
        assert!(tail.append(b"ab"));
        assert!(tail.append(b"cde"));
        assert!(tail.append(b"0123456789"));
        assert_eq!(tail.take(), (b"6789".to_vec(), 11));
    }

    #[test]
    fn a_full_stream_keeps_what_fits_and_says_so() {
        let head = Capture::new(4, WhenFull::Stop);
        assert!(head.append(b"abcd"));
        assert!(!head.is_full());
        assert!(!head.append(b"e"));
        assert!(head.is_full());
        assert_eq!(head.take(), (b"abcd".to_vec(), 0));
    }
}
