//! What turns a byte stream into a connection with a proven peer: encryption, then many streams.

use std::future::Future;
use std::pin::Pin;

use futures::future::Either;
use futures::{AsyncRead, AsyncWrite, FutureExt, TryFutureExt};
use futures_rustls::TlsStream;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, Transport};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo, Version};
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise};

use super::BuildError;
use crate::config::TcpSession;
use crate::{mux, tls};

/// The session of every byte-stream transport: TCP, WebSocket, and a circuit through a relay.
#[derive(Clone)]
pub(crate) struct Session {
    security: Security,
    mux: mux::Upgrade,
}

impl Session {
    /// - `first`: handshake that is proposed first when we dial; both are always accepted
    pub(crate) fn new(key: &Keypair, first: TcpSession, streams_max: usize) -> Result<Self, BuildError> {
        let tls = tls::Upgrade::new(key).map_err(|error| BuildError(Box::new(error)))?;
        let noise = noise::Config::new(key).map_err(|error| BuildError(Box::new(error)))?;
        Ok(Self { security: Security { tls, noise, first }, mux: mux::Upgrade::new(streams_max) })
    }

    /// Returns the TLS of it.
    pub(super) fn tls(&self) -> &tls::Upgrade {
        &self.security.tls
    }

    /// Returns `transport` with its byte streams encrypted, authenticated and multiplexed.
    pub(crate) fn over<T>(&self, transport: T) -> Boxed<(PeerId, StreamMuxerBox)>
    where
        T: Transport + Send + Unpin + 'static,
        T::Output: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        T::Error: Send + Sync,
        T::Dial: Send,
        T::ListenerUpgrade: Send,
    {
        transport
            .upgrade(Version::V1Lazy)
            .authenticate(self.security.clone())
            .multiplex(self.mux.clone())
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed()
    }
}

/// Negotiates which of the two handshakes is made, and makes it.
#[derive(Clone)]
struct Security {
    tls: tls::Upgrade,
    noise: noise::Config,
    first: TcpSession,
}

/// A handshake failed.
#[derive(Debug, thiserror::Error)]
enum SecurityError {
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error(transparent)]
    Noise(#[from] noise::Error),
}

type Encrypted<C> = Either<TlsStream<futures::io::BufReader<C>>, noise::Output<C>>;
type Handshake<C> = Pin<Box<dyn Future<Output = Result<(PeerId, Encrypted<C>), SecurityError>> + Send>>;

impl UpgradeInfo for Security {
    type Info = &'static str;
    type InfoIter = std::array::IntoIter<&'static str, 2>;

    fn protocol_info(&self) -> Self::InfoIter {
        let names = match self.first {
            TcpSession::Tls => [tls::PROTOCOL, NOISE],
            TcpSession::Noise => [NOISE, tls::PROTOCOL],
        };
        names.into_iter()
    }
}

const NOISE: &str = "/noise";

impl<C> InboundConnectionUpgrade<C> for Security
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Encrypted<C>);
    type Error = SecurityError;
    type Future = Handshake<C>;

    fn upgrade_inbound(self, socket: C, chosen: Self::Info) -> Self::Future {
        if chosen == NOISE {
            let handshake = self.noise.upgrade_inbound(socket, chosen);
            handshake.map_ok(|(peer, stream)| (peer, Either::Right(stream))).err_into().boxed()
        } else {
            let handshake = self.tls.upgrade_inbound(socket, chosen);
            handshake.map_ok(|(peer, stream)| (peer, Either::Left(stream))).err_into().boxed()
        }
    }
}

impl<C> OutboundConnectionUpgrade<C> for Security
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Encrypted<C>);
    type Error = SecurityError;
    type Future = Handshake<C>;

    fn upgrade_outbound(self, socket: C, chosen: Self::Info) -> Self::Future {
        if chosen == NOISE {
            let handshake = self.noise.upgrade_outbound(socket, chosen);
            handshake.map_ok(|(peer, stream)| (peer, Either::Right(stream))).err_into().boxed()
        } else {
            let handshake = self.tls.upgrade_outbound(socket, chosen);
            handshake.map_ok(|(peer, stream)| (peer, Either::Left(stream))).err_into().boxed()
        }
    }
}
