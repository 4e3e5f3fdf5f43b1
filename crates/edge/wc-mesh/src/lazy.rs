//! Streams whose protocol is agreed on while the first bytes travel.
//!
//! libp2p asks for a protocol and waits for the answer, a round trip during which nothing is sent. With one protocol to
//! choose from the answer can be read together with the first bytes that come back (`V1Lazy`, on the wire the same). Whoever
//! must know before whether the peer speaks the protocol reads nothing: an empty read waits for the agreement.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::StreamMuxer;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerEvent, SubstreamBox};
use libp2p::core::upgrade::NegotiationError;

/// Waits until the peer has agreed to the protocol of `stream`.
pub(crate) async fn agreed(stream: &mut libp2p::Stream) -> io::Result<()> {
    futures::future::poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut [])).await.map(drop)
}

/// Returns whether `error` says that the peer does not speak the protocol.
pub(crate) fn is_disagreement(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<NegotiationError>());
    matches!(inner, Some(NegotiationError::Failed))
}

/// A connection on whose streams an empty read is over at once, whatever the transport makes of such a thing.
pub(crate) struct Muxer(pub(crate) StreamMuxerBox);

impl StreamMuxer for Muxer {
    type Substream = Substream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Substream>> {
        Poll::Ready(Ok(Substream(ready!(Pin::new(&mut self.0).poll_inbound(cx))?)))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Substream>> {
        Poll::Ready(Ok(Substream(ready!(Pin::new(&mut self.0).poll_outbound(cx))?)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// One stream.
pub(crate) struct Substream(SubstreamBox);

impl AsyncRead for Substream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Substream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}
