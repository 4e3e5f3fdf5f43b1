//! Streams whose protocol is agreed on while the first bytes travel.
//!
//! libp2p asks for a protocol and waits for the answer, a round trip during which nothing is sent. With one protocol to
//! choose from the answer can be read together with the first bytes that come back (`V1Lazy`, on the wire the same). Whoever
//! must know before whether the peer speaks the protocol reads nothing: an empty read waits for the agreement.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::AsyncRead;
use libp2p::core::upgrade::NegotiationError;

use crate::hooked::Hook;

/// Waits until the peer has agreed to the protocol of `stream`.
pub(crate) async fn agreed(stream: &mut libp2p::Stream) -> io::Result<()> {
    futures::future::poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut [])).await.map(drop)
}

/// Returns whether `error` says that the peer does not speak the protocol.
pub(crate) fn is_disagreement(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<NegotiationError>());
    matches!(inner, Some(NegotiationError::Failed))
}

/// An empty read is over at once, whatever the transport makes of such a thing.
pub(crate) struct Lazy;

impl Hook for Lazy {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Pin::new(stream).poll_read(cx, buf)
    }
}
