//! A stream that has ended, or broken, says so a few times and then nothing more.
//!
//! Whoever reads on after the end of a stream without a pause never returns. The library's handler of AutoNAT's dial-backs
//! does so (libp2p-autonat 0.16: what it could not read it reads again), so that one malformed message of any peer would
//! keep a thread busy for good. After a few ends in a row such a reader is left waiting, until its own time limit ends it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, SubstreamBox};

/// Ends in a row that a reader is told of. A careful one needs one, a layered one a few.
const TOLD_MAX: u8 = 16;

/// Guards the readers of every stream of a connection.
pub(crate) fn guard(muxer: StreamMuxerBox) -> StreamMuxerBox {
    StreamMuxerBox::new(Guarded(muxer))
}

struct Guarded(StreamMuxerBox);

impl StreamMuxer for Guarded {
    type Substream = Ended<SubstreamBox>;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
        let stream = ready!(Pin::new(&mut self.0).poll_inbound(cx))?;
        Poll::Ready(Ok(Ended { stream, told: 0 }))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
        let stream = ready!(Pin::new(&mut self.0).poll_outbound(cx))?;
        Poll::Ready(Ok(Ended { stream, told: 0 }))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// A stream whose end is told only so often.
struct Ended<S> {
    stream: S,
    told: u8,
}

impl<S: AsyncRead + Unpin> AsyncRead for Ended<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.told >= TOLD_MAX {
            // Nothing will ever come, so nobody needs to be woken.
            return Poll::Pending;
        }
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        let progress = matches!(read, Ok(1..)) || buf.is_empty();
        self.told = if progress { 0 } else { self.told + 1 };
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ended<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use futures::{AsyncReadExt, FutureExt};

    use super::*;

    #[test]
    fn a_reader_that_does_not_take_the_end_for_an_answer_is_left_waiting() {
        let mut stream = Ended { stream: Cursor::new(b"word".to_vec()), told: 0 };
        let mut word = Vec::new();
        assert_eq!(stream.read_to_end(&mut word).now_or_never().unwrap().unwrap(), 4);
        let mut ends = 0;
        while let Some(Ok(0)) = stream.read(&mut [0; 8]).now_or_never() {
            ends += 1;
        }
        assert_eq!(ends, TOLD_MAX - 1, "the first end was that of the word");
    }
}
