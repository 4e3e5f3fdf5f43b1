//! A QUIC connection as libp2p sees one: a proven peer, and streams both ways.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use libp2p::PeerId;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use quinn::{ConnectionError, RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;

use super::QuicError;
use crate::tls;

/// A connection that is being made.
pub(crate) type Handshake = BoxFuture<'static, Result<(PeerId, Connection), QuicError>>;

type Opening = BoxFuture<'static, Result<(SendStream, RecvStream), ConnectionError>>;

/// Finishes a handshake and learns who is there.
pub(super) fn shake_hands(connecting: quinn::Connecting, within: Duration) -> Handshake {
    async move {
        let connected = tokio::time::timeout(within, connecting).await;
        let connection = connected.map_err(|_| QuicError::Timeout)??;
        let identity = connection.peer_identity().and_then(|identity| identity.downcast().ok());
        let certificates: Box<Vec<CertificateDer<'static>>> = identity.ok_or(QuicError::Peer)?;
        let peer = tls::peer_of_chain(&certificates).map_err(|_| QuicError::Peer)?;
        Ok((peer, Connection { connection, inbound: None, outbound: None, closing: None }))
    }
    .boxed()
}

/// An established connection.
pub(crate) struct Connection {
    connection: quinn::Connection,
    inbound: Option<Opening>,
    outbound: Option<Opening>,
    closing: Option<BoxFuture<'static, ConnectionError>>,
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = QuicError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, QuicError>> {
        let Self { connection, inbound, .. } = &mut *self;
        let opening = inbound.get_or_insert_with(|| {
            let connection = connection.clone();
            async move { connection.accept_bi().await }.boxed()
        });
        let opened = ready!(opening.as_mut().poll(cx));
        *inbound = None;
        Poll::Ready(Ok(Stream::new(opened?)))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, QuicError>> {
        let Self { connection, outbound, .. } = &mut *self;
        let opening = outbound.get_or_insert_with(|| {
            let connection = connection.clone();
            async move { connection.open_bi().await }.boxed()
        });
        let opened = ready!(opening.as_mut().poll(cx));
        *outbound = None;
        Poll::Ready(Ok(Stream::new(opened?)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), QuicError>> {
        let Self { connection, closing, .. } = &mut *self;
        let closed = closing.get_or_insert_with(|| {
            connection.close(VarInt::from_u32(0), &[]);
            let connection = connection.clone();
            async move { connection.closed().await }.boxed()
        });
        match ready!(closed.as_mut().poll(cx)) {
            ConnectionError::LocallyClosed => Poll::Ready(Ok(())),
            error => Poll::Ready(Err(error.into())),
        }
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, QuicError>> {
        // Connections stay where they are: the other end's address does not change.
        Poll::Pending
    }
}

/// One stream.
pub(crate) struct Stream {
    send: SendStream,
    receive: RecvStream,
    /// How closing it ended, which may be asked again.
    closed: Option<Result<(), io::ErrorKind>>,
}

impl Stream {
    fn new((send, receive): (SendStream, RecvStream)) -> Self {
        Self { send, receive, closed: None }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if matches!(self.closed, Some(Err(_))) {
            // The connection is gone, and with it what could be read.
            return Poll::Ready(Ok(0));
        }
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(closed) = self.closed {
            return Poll::Ready(closed.map_err(io::Error::from));
        }
        let closed = ready!(AsyncWrite::poll_close(Pin::new(&mut self.send), cx));
        self.closed = Some(match &closed {
            Ok(()) => Ok(()),
            Err(error) => Err(error.kind()),
        });
        Poll::Ready(closed)
    }
}
