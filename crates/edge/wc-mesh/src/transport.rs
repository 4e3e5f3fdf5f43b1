//! How bytes get to another machine: every way that a node can dial and be dialled, behind one libp2p transport.
//!
//! ```text
//!                         ┌─ QUIC
//! swarm ── names ── timeout ┤
//!                         └─ session (TLS or Noise, yamux) ── wire: TCP, WebSocket over TLS; direct or by proxy
//! ```

mod acme;
mod certificate;
mod ended;
mod http;
mod named;
mod proxy;
mod quic;
mod session;
mod sliced;
mod websocket;
mod wire;

use std::sync::Arc;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::transport::{Boxed, Transport};
use libp2p::{PeerId, identity, relay};

use crate::config::MeshConfig;
use crate::hooked::hooked;
use crate::resolve::Resolver;
use ended::Ended;
use named::Named;
use quic::Quic;
use session::Session;
use sliced::Sliced;
use wire::Wire;

pub use acme::{AcmeConfig, LETS_ENCRYPT};
pub(crate) use certificate::{Disbelief, Trust};
pub use certificate::{Inspection, WssCertificate};
pub(crate) use named::NamedError;
pub use proxy::{Proxy, ProxyAddressError, ProxyConfig};
pub(crate) use proxy::{ProxyError, authority};
pub(crate) use websocket::{accept, connect_with};
pub(crate) use wire::{Inspected, Outward, WireError};

/// Streams on one connection, both directions and all protocols together.
const STREAMS_PER_CONNECTION_MAX: usize = 1024;
/// What the swarm takes: a proven peer and the streams to it.
pub(crate) type Connections = Boxed<(PeerId, StreamMuxerBox)>;

/// The host could not be put together.
#[derive(Debug, thiserror::Error)]
#[error("preparing the handshakes failed")]
pub struct BuildError(#[source] pub(crate) Box<dyn std::error::Error + Send + Sync>);

/// What the host keeps of the transports that it has built.
#[derive(Clone)]
pub(crate) struct Ways {
    /// Where somebody reads along.
    pub(crate) inspected: Inspected,
    /// Looks up the seeds' names.
    pub(crate) resolver: Resolver,
}

/// Returns every transport of `config` as one.
///
/// - `circuits`: the relay client's byte streams. They come before the others, which would take the beginning of a circuit's
///   address for their own.
pub(crate) fn build(
    config: &MeshConfig,
    key: &identity::Keypair,
    circuits: relay::client::Transport,
) -> Result<(Connections, Ways), BuildError> {
    let told = &config.transport;
    let inspected = Inspected::default();
    let outward = Arc::new(Outward {
        proxies: told.proxies.clone(),
        trust: Trust::new(told.authorities_pem.clone(), told.inspection.clone()),
        inspected: inspected.clone(),
    });
    let resolver = Resolver::new(told.dns.clone(), outward.clone());
    let session = Session::new(key, config.tcp_session, STREAMS_PER_CONNECTION_MAX)?;
    let wire = session.over(Wire::new(outward, told.certificate.clone(), resolver.clone()));
    let quic = Quic::new(session.tls(), config.limits.dial_timeout)?;
    let quic = quic.map(|(peer, muxer), _| (peer, hooked(muxer, || Sliced)));
    let direct = quic.or_transport(wire).map(|either, _| either.into_inner());
    let all = session.over(circuits).or_transport(direct).map(|either, _| either.into_inner());
    let all = all.map(|(peer, muxer), _| (peer, hooked(muxer, Ended::default)));
    // Each address has the time; looking up a name has its own.
    let timed = TransportTimeout::new(all, config.limits.dial_timeout).boxed();
    Ok((Named::new(timed, resolver.clone()).boxed(), Ways { inspected, resolver }))
}
