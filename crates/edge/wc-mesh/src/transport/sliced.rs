//! Writes to a stream in small pieces, so that room is made for the next one little by little.
//!
//! What is written to QUIC counts against the connection's send window (10 MB, which libp2p does not let one choose)
//! until the *whole* piece is acknowledged (quinn-proto 0.11: the allocation is freed at once or not at all). With
//! pieces of 256 KiB, which the streams send by turns, a window that is full stays full for ten seconds on a path of 100
//! KB/s: nobody can write, not even a ping, and nothing tells that the path works.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};

/// Most bytes of one piece. Sixteen streams on 100 KB/s are then heard of every 2.6 s.
const PIECE_BYTES_MAX: usize = 16 << 10;

/// A connection whose streams are written to in small pieces.
pub(super) struct Sliced<M>(pub(super) M);

impl<M> StreamMuxer for Sliced<M>
where
    M: StreamMuxer + Unpin,
    M::Substream: Unpin,
{
    type Substream = Pieces<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        Poll::Ready(Ok(Pieces(ready!(Pin::new(&mut self.0).poll_inbound(cx))?)))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        Poll::Ready(Ok(Pieces(ready!(Pin::new(&mut self.0).poll_outbound(cx))?)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        Pin::new(&mut self.0).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// A stream that takes only so much at once.
pub(super) struct Pieces<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Pieces<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Pieces<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let piece = &buf[..buf.len().min(PIECE_BYTES_MAX)];
        Pin::new(&mut self.0).poll_write(cx, piece)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}
