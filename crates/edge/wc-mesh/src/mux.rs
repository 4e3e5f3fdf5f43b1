//! Many streams over one TCP connection: yamux, with frames that suit bulk bytes.
//!
//! The wire is the same as that of `libp2p-yamux`, which cuts writes into frames of 16 KiB and does not let one choose.
//! Each frame costs an allocation, a queue, a flush and a system call; on loopback that was the limit of every blob.

use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use tokio::time::Sleep;
use yamux::{Config, Connection, ConnectionError, Mode, Stream};

/// Most bytes of one frame. A frame goes out whole, so on a slow link it delays the small ones behind it: 64 KiB are
/// 5 ms at 100 Mbit/s. It is also what one Noise message holds.
const FRAME_BYTES_MAX: usize = 64 << 10;
/// Bytes that one connection may buffer for streams that are not read, all together. yamux starts every stream with 256
/// KiB and refuses to promise less than that to all of them.
const WINDOW_BYTES_PER_STREAM: usize = 256 << 10;
/// Streams that a peer has opened and nobody has taken yet; further ones are reset.
const INBOUND_QUEUED_MAX: usize = 256;
/// Time to send what is still to be sent when a connection is closed.
const CLOSING_MAX: Duration = Duration::from_secs(1);

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
    /// Runs while the connection is being closed.
    closing: Option<Pin<Box<Sleep>>>,
    // After the connection, so that whoever is woken finds it gone.
    sleepers: Sleepers,
}

/// Whoever waits for bytes of one stream, or for room on it.
#[derive(Debug, Default)]
struct Sleeper {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

/// The streams of one connection. The library wakes them when the other side ends a connection, but not when we do.
#[derive(Debug, Default)]
struct Sleepers {
    all: Vec<Weak<Sleeper>>,
    swept_at: usize,
}

impl Sleepers {
    fn wrap(&mut self, stream: Stream) -> MuxStream {
        if self.all.len() >= 2 * self.swept_at.max(16) {
            self.all.retain(|sleeper| sleeper.strong_count() > 0);
            self.swept_at = self.all.len();
        }
        let sleeper = Arc::new(Sleeper::default());
        self.all.push(Arc::downgrade(&sleeper));
        MuxStream { stream, sleeper }
    }

    fn wake(&self) {
        for sleeper in self.all.iter().filter_map(Weak::upgrade) {
            sleeper.reader.wake();
            sleeper.writer.wake();
        }
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        self.wake();
    }
}

/// One stream of a connection.
#[derive(Debug)]
pub(crate) struct MuxStream {
    stream: Stream,
    sleeper: Arc<Sleeper>,
}

impl AsyncRead for MuxStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.sleeper.reader.register(cx.waker());
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.sleeper.writer.register(cx.waker());
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sleeper.writer.register(cx.waker());
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sleeper.writer.register(cx.waker());
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

impl<C> Mux<C> {
    fn new(connection: Connection<C>) -> Self {
        Self {
            connection,
            inbound: VecDeque::new(),
            taker: None,
            closing: None,
            sleepers: Sleepers::default(),
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Mux<C> {
    type Substream = MuxStream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<MuxStream, ConnectionError>> {
        match self.inbound.pop_front() {
            Some(stream) => Poll::Ready(Ok(self.sleepers.wrap(stream))),
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
    ) -> Poll<Result<MuxStream, ConnectionError>> {
        let stream = std::task::ready!(self.connection.poll_new_outbound(cx))?;
        Poll::Ready(Ok(self.sleepers.wrap(stream)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let first = self.closing.is_none();
        let closed = self.connection.poll_close(cx);
        if first {
            self.sleepers.wake();
        }
        if closed.is_ready() {
            return closed;
        }
        // Where nobody reads any more, the last bytes would be waited for until the system gives up.
        let closing = self.closing.get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSING_MAX)));
        std::task::ready!(closing.as_mut().poll(cx));
        Poll::Ready(Err(ConnectionError::Closed))
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

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    async fn pair() -> (Mux<impl AsyncRead + AsyncWrite + Unpin>, tokio::io::DuplexStream) {
        // The other end never reads: what is written stays where it is.
        let (near, far) = tokio::io::duplex(16);
        let upgrade = Upgrade::new(4);
        (upgrade.upgrade_outbound(near.compat(), "/yamux/1.0.0").await.unwrap(), far)
    }

    #[tokio::test]
    async fn a_connection_that_we_close_wakes_whoever_waits_on_it_and_ends_although_nobody_reads() {
        let (mut mux, _far) = pair().await;
        let mut stream = futures::future::poll_fn(|cx| Pin::new(&mut mux).poll_outbound(cx)).await.unwrap();
        stream.write_all(&[7; 64]).await.unwrap();
        let waiting = tokio::spawn(async move { stream.read(&mut [0; 1]).await });
        let driven = futures::future::poll_fn(|cx| Pin::new(&mut mux).poll(cx).map(drop));
        let _ = tokio::time::timeout(Duration::from_millis(100), driven).await;
        let closing = futures::future::poll_fn(|cx| Pin::new(&mut mux).poll_close(cx));
        let _ = tokio::time::timeout(10 * CLOSING_MAX, closing).await.expect("closing hangs");
        drop(mux);
        let read = tokio::time::timeout(10 * CLOSING_MAX, waiting).await.expect("the reader sleeps on");
        assert!(!matches!(read.unwrap(), Ok(1..)), "nothing can have come");
    }
}
