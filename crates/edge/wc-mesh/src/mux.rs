//! Many streams over one TCP connection: yamux, with frames that suit bulk bytes.
//!
//! The wire is the same as that of `libp2p-yamux`, which cuts writes into frames of 16 KiB and does not let one choose.
//! Each frame costs an allocation, a queue, a flush and a system call; on loopback that was the limit of every blob.

use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use yamux::{Config, Connection, ConnectionError, Mode, Stream};

/// Most bytes of one frame. A frame goes out whole, so on a slow link it delays the small ones behind it: 64 KiB are
/// 5 ms at 100 Mbit/s. It is also what one Noise message holds.
const FRAME_BYTES_MAX: usize = 64 << 10;
/// Bytes that one connection may buffer for streams that are not read, all together. yamux starts every stream with 256
/// KiB and refuses to promise less than that to all of them.
const WINDOW_BYTES_PER_STREAM: usize = 256 << 10;
/// Streams that a peer has opened and nobody has taken yet; further ones are reset.
const INBOUND_QUEUED_MAX: usize = 256;

/// Negotiates yamux.
#[derive(Debug, Clone)]
pub(crate) struct Upgrade(Config);

impl Upgrade {
    pub(crate) fn new(streams_max: usize) -> Self {
        let mut config = Config::default();
        config.set_max_num_streams(streams_max);
        config.set_max_connection_receive_window(Some(streams_max * WINDOW_BYTES_PER_STREAM));
        config.set_split_send_size(FRAME_BYTES_MAX);
        Self(config)
    }
}

impl UpgradeInfo for Upgrade {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/yamux/1.0.0")
    }
}

impl<C> InboundConnectionUpgrade<C> for Upgrade
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Mux<C>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Mux::new(Connection::new(socket, self.0, Mode::Server))))
    }
}

impl<C> OutboundConnectionUpgrade<C> for Upgrade
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Mux<C>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Mux::new(Connection::new(socket, self.0, Mode::Client))))
    }
}

/// One multiplexed connection.
pub(crate) struct Mux<C> {
    connection: Connection<C>,
    inbound: VecDeque<Stream>,
    /// Whoever waits for the next inbound stream.
    taker: Option<Waker>,
}

impl<C> Mux<C> {
    fn new(connection: Connection<C>) -> Self {
        Self { connection, inbound: VecDeque::new(), taker: None }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Mux<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        match self.inbound.pop_front() {
            Some(stream) => Poll::Ready(Ok(stream)),
            None => {
                // `poll`, which drives the connection, fills the queue.
                self.taker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.connection.poll_close(cx)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        loop {
            match self.connection.poll_next_inbound(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Err(ConnectionError::Closed)),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(Some(Ok(stream))) => {
                    if self.inbound.len() < INBOUND_QUEUED_MAX {
                        self.inbound.push_back(stream);
                    }
                    if let Some(taker) = self.taker.take() {
                        taker.wake();
                    }
                }
            }
        }
    }
}
