//! Connections whose streams are read, or written, a little differently.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent};

/// What one stream does differently.
pub(crate) trait Hook: Unpin + Send + 'static {
    /// Most bytes that one write takes.
    const WRITE_BYTES_MAX: usize = usize::MAX;

    /// Reads from the stream.
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(stream).poll_read(cx, buf)
    }
}

/// Returns a connection each of whose streams has a hook of its own.
pub(crate) fn hooked<M, H>(muxer: M, hook: impl Fn() -> H + Unpin + Send + 'static) -> StreamMuxerBox
where
    M: StreamMuxer<Substream: Unpin + Send, Error: Send + Sync> + Unpin + Send + 'static,
    H: Hook,
{
    StreamMuxerBox::new(Muxer { muxer, hook })
}

struct Muxer<M, F> {
    muxer: M,
    hook: F,
}

impl<M, F, H> StreamMuxer for Muxer<M, F>
where
    M: StreamMuxer<Substream: Unpin> + Unpin,
    F: Fn() -> H + Unpin,
    H: Hook,
{
    type Substream = Hooked<M::Substream, H>;
    type Error = M::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        let stream = ready!(Pin::new(&mut self.muxer).poll_inbound(cx))?;
        Poll::Ready(Ok(Hooked { stream, hook: (self.hook)() }))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        let stream = ready!(Pin::new(&mut self.muxer).poll_outbound(cx))?;
        Poll::Ready(Ok(Hooked { stream, hook: (self.hook)() }))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        Pin::new(&mut self.muxer).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.muxer).poll(cx)
    }
}

/// A stream with a hook.
pub(crate) struct Hooked<S, H> {
    pub(crate) stream: S,
    pub(crate) hook: H,
}

impl<S: AsyncRead + Unpin, H: Hook> AsyncRead for Hooked<S, H> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { stream, hook } = &mut *self;
        hook.poll_read(stream, cx, buf)
    }
}

impl<S: AsyncWrite + Unpin, H: Hook> AsyncWrite for Hooked<S, H> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let piece = &buf[..buf.len().min(H::WRITE_BYTES_MAX)];
        Pin::new(&mut self.stream).poll_write(cx, piece)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if H::WRITE_BYTES_MAX < usize::MAX {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[], |buf| buf));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
