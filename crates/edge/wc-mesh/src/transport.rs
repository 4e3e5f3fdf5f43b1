//! How bytes get to another machine: every way that a node can dial and be dialled, behind one libp2p transport.
//!
//! ```text
//! QUIC ───────────────────────────────┐
//! TCP ── session (TLS or Noise, yamux) ┼── timeout ── swarm
//! (more byte streams, same session) ───┘
//! ```

mod session;

use std::time::Duration;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::transport::{Boxed, Transport};
use libp2p::{PeerId, identity, quic, relay, tcp};

use crate::config::MeshConfig;
use session::Session;

/// Streams on one connection, both directions and all protocols together.
const STREAMS_PER_CONNECTION_MAX: usize = 1024;
/// QUIC must speak up before the NAT forgets the flow; on both sides this also finds dead peers.
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(10);
const QUIC_IDLE_MS_MAX: u32 = 30_000;

/// What the swarm takes: a proven peer and the streams to it.
pub(crate) type Connections = Boxed<(PeerId, StreamMuxerBox)>;

/// The host could not be put together.
#[derive(Debug, thiserror::Error)]
#[error("preparing the handshakes failed")]
pub struct BuildError(#[source] pub(crate) Box<dyn std::error::Error + Send + Sync>);

/// Returns every transport of `config` as one.
///
/// - `circuits`: the relay client's byte streams. They come before the others, which would take the beginning of a circuit's
///   address for their own.
pub(crate) fn build(
    config: &MeshConfig,
    key: &identity::Keypair,
    circuits: relay::client::Transport,
) -> Result<Connections, BuildError> {
    let session = Session::new(key, config.tcp_session, STREAMS_PER_CONNECTION_MAX)?;
    // Small frames must leave at once: a lease is a few hundred bytes.
    let tcp = session.over(tcp::tokio::Transport::new(tcp::Config::new().nodelay(true)));
    let direct = quic(config, key).or_transport(tcp).map(|either, _| either.into_inner());
    let all = session.over(circuits).or_transport(direct).map(|either, _| either.into_inner());
    Ok(TransportTimeout::new(all, config.limits.dial_timeout).boxed())
}

fn quic(config: &MeshConfig, key: &identity::Keypair) -> Connections {
    let mut quic = quic::Config::new(key);
    quic.handshake_timeout = config.limits.dial_timeout;
    quic.keep_alive_interval = QUIC_KEEP_ALIVE;
    quic.max_idle_timeout = QUIC_IDLE_MS_MAX;
    quic.max_concurrent_stream_limit = STREAMS_PER_CONNECTION_MAX as u32;
    quic::tokio::Transport::new(quic).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed()
}
