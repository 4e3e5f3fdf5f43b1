//! A stream that has ended, or broken, says so a few times and then nothing more.
//!
//! Whoever reads on after the end of a stream without a pause never returns. The library's handler of AutoNAT's dial-backs
//! does so (libp2p-autonat 0.16: what it could not read it reads again), so that one malformed message of any peer would
//! keep a thread busy for good. After a few ends in a row such a reader is left waiting, until its own time limit ends it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::AsyncRead;

use crate::hooked::Hook;

/// Ends in a row that a reader is told of. A careful one needs one, a layered one a few.
const TOLD_MAX: u8 = 16;

/// How often in a row the end of a stream was told.
#[derive(Default)]
pub(super) struct Ended {
    told: u8,
}

impl Hook for Ended {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.told >= TOLD_MAX {
            // Nothing will ever come, so nobody needs to be woken.
            return Poll::Pending;
        }
        let read = ready!(Pin::new(stream).poll_read(cx, buf));
        let progress = matches!(read, Ok(1..)) || buf.is_empty();
        self.told = if progress { 0 } else { self.told + 1 };
        Poll::Ready(read)
    }
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use futures::{AsyncReadExt, FutureExt};

    use super::*;
    use crate::hooked::Hooked;

    #[test]
    fn a_reader_that_does_not_take_the_end_for_an_answer_is_left_waiting() {
        let mut stream = Hooked { stream: Cursor::new(b"word".to_vec()), hook: Ended::default() };
        let mut word = Vec::new();
        assert_eq!(stream.read_to_end(&mut word).now_or_never().unwrap().unwrap(), 4);
        let mut ends = 0;
        while let Some(Ok(0)) = stream.read(&mut [0; 8]).now_or_never() {
            ends += 1;
        }
        assert_eq!(ends, TOLD_MAX - 1, "the first end was that of the word");
    }
}
