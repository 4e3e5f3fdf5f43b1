//! How nodes learn of nodes: connected peers tell each other announcements (`wc_proto::peer::announce`).
//!
//! Tasks here carry frames; what is believed and kept is decided in [`table`], by the swarm task.

pub(crate) mod table;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use libp2p::StreamProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use wc_proto::frame::{self, FrameError, PREFIX_BYTES};
use wc_proto::limit::EXCHANGE_BYTES_MAX;
use wc_proto::peer::announce::{Announcement, Exchange};
use wc_proto::version;
use wc_types::{NodeId, Signed};

use crate::address::peer_of;
use crate::config::StreamLimits;
use crate::stream::{Incoming, MeshStream, Registry};

/// Exchanges that wait for the swarm task.
pub(crate) const HEARD_QUEUED_MAX: usize = 32;
/// One exchange, both halves.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Each exchange costs the checking of up to thirty-two signatures, a millisecond or two.
const LIMITS: StreamLimits =
    StreamLimits { per_peer_max: 2, per_peer_rate_per_second: 1, per_peer_burst: 16, queued_max: 64 };

/// What a peer said.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) from: NodeId,
    pub(crate) said: Result<Vec<Signed<Announcement>>, FrameError>,
}

/// What this node tells whoever asks, kept up to date by the swarm task.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window(Arc<RwLock<Arc<Vec<Signed<Announcement>>>>>);

impl Window {
    pub(crate) fn show(&self, announcements: Vec<Signed<Announcement>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(announcements);
    }

    fn look(&self) -> Vec<Signed<Announcement>> {
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        shown.as_ref().clone()
    }
}

/// Returns the exchanges that peers begin.
pub(crate) fn accept(registry: &Registry) -> Option<Incoming> {
    registry.accept(version::PEERS, LIMITS).ok()
}

/// Answers the exchanges that peers begin, until the mesh stops.
pub(crate) async fn answer(mut incoming: Incoming, window: Window, heard: mpsc::Sender<Heard>) {
    while let Some((from, mut stream)) = incoming.recv().await {
        let (window, heard) = (window.clone(), heard.clone());
        tokio::spawn(timeout(TIMEOUT, async move {
            let exchange = match read(&mut stream).await {
                Ok(exchange) => exchange,
                Err(ReadError::Frame(error)) => {
                    let _ = heard.send(Heard { from, said: Err(error) }).await;
                    return;
                }
                Err(ReadError::Io) => return,
            };
            let announcements = if exchange.asks { window.look() } else { Vec::new() };
            let _ = write(&mut stream, announcements, false).await;
            let _ = heard.send(Heard { from, said: Ok(exchange.announcements) }).await;
        }));
    }
}

/// Tells `peer` some announcements, and asks for what it knows if `asks`.
pub(crate) async fn tell(
    registry: Registry,
    peer: NodeId,
    announcements: Vec<Signed<Announcement>>,
    asks: bool,
    heard: mpsc::Sender<Heard>,
) {
    let exchange = async {
        let protocol = StreamProtocol::new(version::PEERS);
        let mut stream = registry.open(&peer_of(peer), protocol, false).await.ok()?;
        write(&mut stream, announcements, asks).await.ok()?;
        Some(read(&mut stream).await)
    };
    let said = match timeout(TIMEOUT, exchange).await {
        Ok(Some(Ok(exchange))) => Ok(exchange.announcements),
        Ok(Some(Err(ReadError::Frame(error)))) => Err(error),
        // A peer that does not exchange, or is gone, is no news.
        Ok(Some(Err(ReadError::Io)) | None) | Err(_) => return,
    };
    let _ = heard.send(Heard { from: peer, said }).await;
}

enum ReadError {
    Io,
    Frame(FrameError),
}

async fn read(stream: &mut MeshStream) -> Result<Exchange, ReadError> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await.map_err(|_| ReadError::Io)?;
    let bytes = frame::body_bytes(prefix, EXCHANGE_BYTES_MAX).map_err(ReadError::Frame)?;
    let mut body = vec![0; bytes];
    stream.read_exact(&mut body).await.map_err(|_| ReadError::Io)?;
    let exchange: Exchange = frame::decode(&body).map_err(ReadError::Frame)?;
    if !exchange.is_within_limits() {
        return Err(ReadError::Frame(FrameError::Malformed { reason: "too many announcements".to_owned() }));
    }
    Ok(exchange)
}

async fn write(
    stream: &mut MeshStream,
    announcements: Vec<Signed<Announcement>>,
    asks: bool,
) -> std::io::Result<()> {
    let exchange = Exchange { announcements, asks };
    let frame = frame::encode(&exchange, EXCHANGE_BYTES_MAX).map_err(std::io::Error::other)?;
    stream.write_all(&frame).await?;
    stream.flush().await?;
    stream.shutdown().await
}
