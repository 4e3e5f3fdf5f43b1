//! QUIC, as a transport of libp2p: `/ip4/…/udp/…/quic-v1`, with the handshake that libp2p's specification names.
//!
//! The protocol is quinn's; what is here is its place behind libp2p's trait. `libp2p-quic` would be that, too, but chooses
//! the congestion control for us, and lossy paths need another ([`patience`]).

mod connection;
mod listener;
mod patience;

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libp2p::core::multiaddr::Protocol;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, Transport, TransportError, TransportEvent};
use libp2p::{Multiaddr, PeerId};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{EndpointConfig, TokioRuntime, TransportConfig, VarInt};
use socket2::{Domain, Socket, Type};

use super::{BuildError, STREAMS_PER_CONNECTION_MAX};
use crate::tls;
use connection::{Connection, Handshake, shake_hands};
use listener::Listener;
use patience::PatientConfig;

/// A path where nobody waits has a beat of the pulse every 45 s only: in between this keeps it from being taken for idle,
/// and NATs, of which many forget a flow of UDP after 30 s, from forgetting it.
const KEEP_ALIVE: Duration = Duration::from_secs(25);
const IDLE_MS_MAX: u32 = 30_000;
/// Bytes of one stream that the peer may send before we read them. Four streams fill a path of 300 Mbit/s and 100 ms, and
/// eight leave room for pings in the sender's window of 10 MB, which all streams of a connection share.
const STREAM_BYTES_MAX: u32 = 1 << 20;
/// The same for all streams of a connection.
const CONNECTION_BYTES_MAX: u32 = 15_000_000;
/// Nodes are known by keys; a name is what the library wants, and it is not sent.
const NOBODY: &str = "node";

/// A connection was not made, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuicError {
    #[error("{0}")]
    Connect(#[from] quinn::ConnectError),
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("the handshake timed out")]
    Timeout,
    #[error("the peer's certificate names no node")]
    Peer,
}

/// The transport.
pub(super) struct Quic {
    client: quinn::ClientConfig,
    server: quinn::ServerConfig,
    handshake_timeout: Duration,
    listeners: Vec<Listener>,
    /// What is dialled with where nothing listens, by whether it is IPv4.
    dialers: HashMap<bool, quinn::Endpoint>,
    waker: Option<Waker>,
}

impl Quic {
    pub(super) fn new(tls: &tls::Upgrade, handshake_timeout: Duration) -> Result<Self, BuildError> {
        fn boxed(error: impl std::error::Error + Send + Sync + 'static) -> BuildError {
            BuildError(Box::new(error))
        }
        let (client, server) = tls.configs();
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_PER_CONNECTION_MAX as u32))
            .datagram_receive_buffer_size(None)
            .keep_alive_interval(Some(KEEP_ALIVE))
            .max_idle_timeout(Some(VarInt::from_u32(IDLE_MS_MAX).into()))
            .allow_spin(false)
            .stream_receive_window(VarInt::from_u32(STREAM_BYTES_MAX))
            .receive_window(VarInt::from_u32(CONNECTION_BYTES_MAX))
            .congestion_controller_factory(Arc::new(PatientConfig));
        let transport = Arc::new(transport);
        let mut client =
            quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).map_err(boxed)?));
        client.transport_config(transport.clone());
        let server = QuicServerConfig::try_from(server).map_err(boxed)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
        server.transport_config(transport).migration(false);
        let (listeners, dialers) = (Vec::new(), HashMap::new());
        Ok(Self { client, server, handshake_timeout, listeners, dialers, waker: None })
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn endpoint(&self, at: SocketAddr, listens: bool) -> io::Result<quinn::Endpoint> {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(socket2::Protocol::UDP))?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&at.into())?;
        let mut config = EndpointConfig::default();
        config.supported_versions(vec![1]);
        let server = listens.then(|| self.server.clone());
        quinn::Endpoint::new(config, server, UdpSocket::from(socket), Arc::new(TokioRuntime))
    }

    fn connect(&mut self, remote: SocketAddr, port: PortUse) -> Result<quinn::Connecting, QuicError> {
        let dialer = self.dialer(&remote, port)?;
        Ok(dialer.connect_with(self.client.clone(), remote, NOBODY)?)
    }

    /// Returns what `remote` is dialled with: a listener, so that it is seen at the port where it can be reached, if that
    /// is wanted and there is one.
    fn dialer(&mut self, remote: &SocketAddr, port: PortUse) -> io::Result<quinn::Endpoint> {
        let anywhere = match remote {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let anywhere = SocketAddr::new(anywhere, 0);
        if port == PortUse::New {
            return self.endpoint(anywhere, false);
        }
        let able: Vec<&Listener> =
            self.listeners.iter().filter(|listener| listener.reaches(remote)).collect();
        if !able.is_empty() {
            // One remote is always dialled from the same.
            let number = BuildHasherDefault::<DefaultHasher>::default().hash_one(remote);
            let number = usize::try_from(number % able.len() as u64).unwrap_or(0);
            return Ok(able[number].endpoint.clone());
        }
        if let Some(dialer) = self.dialers.get(&remote.is_ipv4()) {
            return Ok(dialer.clone());
        }
        let dialer = self.endpoint(anywhere, false)?;
        self.dialers.insert(remote.is_ipv4(), dialer.clone());
        Ok(dialer)
    }
}

impl Transport for Quic {
    type Output = (PeerId, Connection);
    type Error = QuicError;
    type ListenerUpgrade = Handshake;
    type Dial = Handshake;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<QuicError>> {
        let at = socket_of(&addr).ok_or(TransportError::MultiaddrNotSupported(addr))?;
        let failed = |error: io::Error| TransportError::Other(QuicError::Socket(error));
        let endpoint = self.endpoint(at, true).map_err(failed)?;
        self.listeners.push(Listener::new(id, endpoint, self.handshake_timeout).map_err(failed)?);
        // It lasts as long as its connections; new ones are made with the listener.
        self.dialers.remove(&at.is_ipv4());
        self.wake();
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let listener = self.listeners.iter_mut().find(|listener| listener.id == id);
        let found = listener.map(Listener::close).is_some();
        self.wake();
        found
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Handshake, TransportError<QuicError>> {
        // A hole is punched by two that dial each other: connections of QUIC do not cross, whoever began.
        let remote = socket_of(&addr).filter(|remote| remote.port() != 0 && !remote.ip().is_unspecified());
        let remote = remote.ok_or(TransportError::MultiaddrNotSupported(addr))?;
        let mut connecting = self.connect(remote, opts.port_use);
        if let Err(QuicError::Connect(quinn::ConnectError::EndpointStopping)) = connecting {
            // Its socket has failed; the next is another.
            self.dialers.remove(&remote.is_ipv4());
            connecting = self.connect(remote, opts.port_use);
        }
        Ok(shake_hands(connecting.map_err(TransportError::Other)?, self.handshake_timeout))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Handshake, QuicError>> {
        let mut number = 0;
        while let Some(listener) = self.listeners.get_mut(number) {
            match listener.poll(cx) {
                Poll::Ready(Some(event)) => {
                    // The others have their turn first next time.
                    self.listeners.rotate_left(number + 1);
                    return Poll::Ready(event);
                }
                Poll::Ready(None) => drop(self.listeners.remove(number)),
                Poll::Pending => number += 1,
            }
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn socket_of(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    let Protocol::Udp(port) = parts.next()? else { return None };
    let (Some(Protocol::QuicV1), None | Some(Protocol::P2p(_)), None) =
        (parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    Some(SocketAddr::new(ip, port))
}

fn address_of(socket: SocketAddr) -> Multiaddr {
    Multiaddr::empty().with(socket.ip().into()).with(Protocol::Udp(socket.port())).with(Protocol::QuicV1)
}
