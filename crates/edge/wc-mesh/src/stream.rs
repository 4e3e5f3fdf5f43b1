//! Application streams: who may open how many, and the pipes that both sides then hold.
//!
//! `libp2p-stream` has the same shape, but queues one inbound stream per protocol and drops the next in silence, opens
//! one outbound stream at a time per connection, and picks a connection at random. A coordinator with hundreds of
//! donors meets all three, so this is our own behaviour: inbound streams meet explicit limits, a refusal is an event,
//! and streams of a node that has not yet proven to be of our network wait on their connection.

mod behaviour;
mod registry;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use libp2p::StreamProtocol;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};
use wc_types::NodeId;

use crate::pulse::Life;
pub(crate) use behaviour::{Behaviour, Refused};
use registry::Permit;
pub(crate) use registry::{LinkError, Registry};

/// A two-way pipe to one peer under one protocol.
///
/// There is no task between it and the connection. Dropping it without `shutdown` resets it.
pub struct MeshStream {
    pipe: Compat<libp2p::Stream>,
    node: NodeId,
    life: Arc<Life>,
    /// A write waits for room, which the peer makes.
    blocked: bool,
    _budget: Option<Permit>,
}

impl MeshStream {
    fn new(pipe: libp2p::Stream, node: NodeId, life: Arc<Life>, budget: Option<Permit>) -> Self {
        life.load.fetch_add(1, Ordering::Relaxed);
        life.used();
        Self { pipe: pipe.compat(), node, life, blocked: false, _budget: budget }
    }

    /// Returns the peer at the other end.
    pub fn node(&self) -> NodeId {
        self.node
    }
}

impl Drop for MeshStream {
    fn drop(&mut self) {
        self.life.load.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for MeshStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeshStream").field("node", &self.node).finish_non_exhaustive()
    }
}

impl AsyncRead for MeshStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.pipe).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.life.heard();
        }
        read
    }
}

impl AsyncWrite for MeshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.pipe).poll_write(cx, buf);
        if std::mem::replace(&mut self.blocked, written.is_pending()) && matches!(written, Poll::Ready(Ok(_)))
        {
            self.life.heard();
        } else {
            self.life.used();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// Streams that peers open under one protocol. Dropping it stops accepting them.
#[derive(Debug)]
pub struct Incoming {
    queue: mpsc::Receiver<(NodeId, MeshStream)>,
}

impl Incoming {
    /// Returns the next stream and who opened it, or `None` once the mesh has stopped. May be dropped at any await.
    pub async fn recv(&mut self) -> Option<(NodeId, MeshStream)> {
        self.queue.recv().await
    }
}

impl futures::Stream for Incoming {
    type Item = (NodeId, MeshStream);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.poll_recv(cx)
    }
}

/// A protocol cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// Protocol ids start with a slash.
    #[error("{protocol:?} is no protocol id: it must start with a slash")]
    Malformed {
        /// The id as given.
        protocol: String,
    },
    /// Somebody in this process accepts it already.
    #[error("{protocol} is accepted elsewhere in this process")]
    Taken {
        /// The protocol.
        protocol: String,
    },
}

/// A stream could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no connection and none could be made.
    #[error("not connected to {node}")]
    NotConnected {
        /// The node.
        node: NodeId,
        /// What was tried.
        source: crate::DialError,
    },
    /// The peer does not accept this protocol (now).
    #[error("{node} does not accept {protocol}")]
    UnsupportedProtocol {
        /// The node.
        node: NodeId,
        /// The protocol.
        protocol: String,
    },
    /// The peer did not answer in time.
    #[error("{node} did not open {protocol} in time")]
    Timeout {
        /// The node.
        node: NodeId,
        /// The protocol.
        protocol: String,
    },
    /// The connection broke.
    #[error("opening {protocol} to {node} failed")]
    Io {
        /// The node.
        node: NodeId,
        /// The protocol.
        protocol: String,
        /// What the transport said.
        source: io::Error,
    },
    /// Protocol ids start with a slash.
    #[error("{protocol:?} is no protocol id: it must start with a slash")]
    Malformed {
        /// The id as given.
        protocol: String,
    },
    /// This mesh has stopped.
    #[error("the mesh has stopped")]
    Stopped,
}

/// Parses a protocol id.
pub(crate) fn protocol_id(text: &str) -> Option<StreamProtocol> {
    StreamProtocol::try_from_owned(text.to_owned()).ok()
}
