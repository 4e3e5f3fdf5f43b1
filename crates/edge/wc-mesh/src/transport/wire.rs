//! Byte streams to other machines: TCP, and WebSocket over TLS; each directly or through a proxy.
//!
//! ```text
//! dialling:  route ──► TCP │ CONNECT ──► [TLS, certificate judged ──► WebSocket]
//! listening: TCP ──► [TLS with our certificate ──► WebSocket]
//! ```

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::channel::mpsc;
use futures::future::{BoxFuture, Either};
use futures::{FutureExt, StreamExt, TryFutureExt};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, Transport, TransportError, TransportEvent};
use libp2p::core::{Endpoint as Role, multihash::Multihash};
use libp2p::multiaddr::Protocol;
use libp2p::tcp;
use libp2p::tcp::tokio::TcpStream;
use rustls::ServerConfig;
use rustls::pki_types::ServerName;

use super::acme::{self, Web};
use super::certificate::{Belief, Claim, Disbelief, Identity, IdentityError, Trust, WssCertificate};
use super::proxy::{ProxyConfig, ProxyError, Route, authority};
use super::websocket::{self, WebSocket, WebSocketError};
use crate::address::{Endpoint, Host, SHA2_256, Way};
use crate::resolve::Resolver;

/// Hosts of which we remember who reads along.
const INSPECTED_MAX: usize = 256;

/// Head start of a direct connection to an address of a private network over one through the proxy.
const NEIGHBOUR_TIMEOUT: Duration = Duration::from_secs(1);

/// What a dial or an inbound connection yields.
pub(crate) type Stream = Either<TcpStream, WebSocket<TlsStream<TcpStream>>>;

/// A byte stream could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("{0}")]
    Tcp(#[source] io::Error),
    // Sources as well as messages: errors of the library above hide this one, not what it is made of.
    #[error("{0}")]
    Proxy(#[from] ProxyError),
    #[error("{0} has no address yet: names are looked up before")]
    Unresolved(String),
    #[error("{0}")]
    Intercepted(#[from] Disbelief),
    #[error("TLS to {place} failed: {cause}")]
    Tls { place: String, cause: String },
    #[error("{0}")]
    WebSocket(#[from] WebSocketError),
}

/// The hosts at which somebody reads along with our permission, by `host:port`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inspected(Arc<Mutex<HashMap<String, String>>>);

impl Inspected {
    /// Returns who read along at the last handshake with `addr`.
    pub(crate) fn at(&self, addr: &Multiaddr) -> Option<String> {
        self.of(&place_of(&Endpoint::parse(addr)?))
    }

    /// As `at`, for a name and port.
    pub(crate) fn of(&self, place: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(place).cloned()
    }

    fn note(&self, place: &str, belief: Belief) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match belief {
            Belief::Genuine => {
                known.remove(place);
            }
            Belief::Inspected { issuer } => {
                tracing::warn!(
                    place,
                    issuer,
                    "this connection is inspected, as --allow-ssl-inspection allows"
                );
                if known.len() < INSPECTED_MAX || known.contains_key(place) {
                    known.insert(place.to_owned(), issuer);
                }
            }
        }
    }
}

/// Returns the name and port under which the peer's certificate is checked.
fn place_of(endpoint: &Endpoint) -> String {
    let host = match (&endpoint.way, &endpoint.host) {
        (Way::Wss { name: Some(name), .. }, _) | (_, Host::Name(name, _)) => name.clone(),
        (_, Host::Ip(ip)) => ip.to_string(),
    };
    authority(&host, endpoint.port)
}

/// What every dial needs.
#[derive(Debug)]
pub(crate) struct Outward {
    pub(crate) proxies: ProxyConfig,
    pub(crate) trust: Arc<Trust>,
    pub(crate) inspected: Inspected,
}

impl Outward {
    /// Returns whether `host` is looked up by the proxy and not by us.
    pub(crate) fn is_proxied(&self, host: &Host) -> bool {
        self.proxies.route(host) == Route::Proxy
    }

    /// Connects to `endpoint` by whatever way it must take; `direct` is the way without a proxy.
    async fn connect(
        &self,
        endpoint: &Endpoint,
        direct: Option<BoxFuture<'static, io::Result<TcpStream>>>,
    ) -> Result<TcpStream, WireError> {
        let name = match &endpoint.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name, _) => name.clone(),
        };
        let unresolved = || WireError::Unresolved(name.clone());
        match (self.proxies.route(&endpoint.host), &self.proxies.proxy) {
            (Route::Direct, _) | (_, None) => direct.ok_or_else(unresolved)?.await.map_err(WireError::Tcp),
            (Route::Proxy, Some(proxy)) => Ok(proxy.connect(&name, endpoint.port).await?),
            (Route::Either, Some(proxy)) => {
                let mut direct = direct.ok_or_else(unresolved)?;
                match tokio::time::timeout(NEIGHBOUR_TIMEOUT, &mut direct).await {
                    Ok(Ok(socket)) => return Ok(socket),
                    Ok(Err(_)) => return Ok(proxy.connect(&name, endpoint.port).await?),
                    Err(_) => {}
                }
                // Firewalls swallow packets without a word: whoever answers first now.
                match futures::future::select(direct, pin!(proxy.connect(&name, endpoint.port))).await {
                    Either::Left((Ok(socket), _)) => Ok(socket),
                    Either::Left((Err(_), proxied)) => Ok(proxied.await?),
                    Either::Right((Ok(socket), _)) => Ok(socket),
                    Either::Right((Err(_), direct)) => direct.await.map_err(WireError::Tcp),
                }
            }
        }
    }

    /// As `connect`, from any port of ours.
    pub(crate) async fn connect_plain(&self, endpoint: &Endpoint) -> Result<TcpStream, WireError> {
        let direct = match endpoint.host {
            Host::Ip(ip) => {
                let at = (ip, endpoint.port);
                Some(async move { Ok(TcpStream(tokio::net::TcpStream::connect(at).await?)) }.boxed())
            }
            Host::Name(..) => None,
        };
        self.connect(endpoint, direct).await
    }

    /// Makes the TLS handshake as a web browser would, and judges the certificate.
    ///
    /// - `place`: name and port for messages and for the memory of who reads along
    pub(crate) async fn tls(
        &self,
        socket: TcpStream,
        name: &str,
        place: &str,
        pins: Vec<[u8; 32]>,
    ) -> Result<TlsStream<TcpStream>, WireError> {
        let failed = |cause: String| WireError::Tls { place: place.to_owned(), cause };
        let server = ServerName::try_from(name.to_owned()).map_err(|error| failed(error.to_string()))?;
        let (config, judge) = self.trust.client(place, pins).map_err(|error| failed(error.to_string()))?;
        let connected = TlsConnector::from(config).connect(server, socket).await;
        match (judge.verdict(), connected) {
            (Some(Ok(belief)), Ok(stream)) => {
                self.inspected.note(place, belief);
                Ok(stream.into())
            }
            (Some(Err(disbelief)), _) => Err(disbelief.into()),
            (_, Err(error)) => Err(failed(error.to_string())),
            (None, Ok(_)) => Err(failed("no certificate was shown".to_owned())),
        }
    }
}

/// The transport of byte streams.
pub(crate) struct Wire {
    /// Listens and dials for TCP, from one port where possible: hole punching needs that.
    tcp: tcp::tokio::Transport,
    /// The same under WebSocket over TLS.
    web: tcp::tokio::Transport,
    outward: Arc<Outward>,
    certificate: WssCertificate,
    /// Made when the first listener needs it.
    identity: Option<(Arc<Identity>, Arc<ServerConfig>)>,
    /// Says that the certificate has become another.
    changes: Option<mpsc::Receiver<()>>,
    /// Addresses of WebSocket listeners: which listener, on which TCP address, and as others know it.
    told: Vec<(ListenerId, Multiaddr, Multiaddr)>,
    /// What is to be said of them.
    news: VecDeque<TransportEvent<Connecting, WireError>>,
    resolver: Resolver,
}

impl Wire {
    pub(crate) fn new(outward: Arc<Outward>, certificate: WssCertificate, resolver: Resolver) -> Self {
        // Small frames must leave at once: a lease is a few hundred bytes.
        let tcp = || tcp::tokio::Transport::new(tcp::Config::new().nodelay(true));
        Self {
            tcp: tcp(),
            web: tcp(),
            outward,
            certificate,
            identity: None,
            changes: None,
            told: Vec::new(),
            news: VecDeque::new(),
            resolver,
        }
    }

    fn identity(&mut self) -> Result<&(Arc<Identity>, Arc<ServerConfig>), IdentityError> {
        let made = match self.identity.take() {
            Some(made) => made,
            None => {
                let (identity, changes) = Identity::new(self.certificate.clone())?;
                self.changes = Some(changes);
                if let WssCertificate::Issued { wanted, .. } = &self.certificate {
                    let web = Web { outward: self.outward.clone(), resolver: self.resolver.clone() };
                    tokio::spawn(acme::run(Arc::downgrade(&identity), wanted.clone(), web));
                }
                let server = identity.server().map_err(|error| IdentityError::Unusable(error.to_string()))?;
                (identity, server)
            }
        };
        Ok(self.identity.insert(made))
    }

    /// Returns a listener's address as others can dial it.
    fn web_address(&self, addr: Multiaddr) -> Multiaddr {
        let claim = self.identity.as_ref().map(|(identity, _)| identity.claim());
        let Claim { name, pin } = claim.unwrap_or(Claim { name: None, pin: None });
        let mut addr = addr.with(Protocol::Tls);
        if let Some(name) = name {
            addr.push(Protocol::Sni(name.into()));
        }
        addr.push(Protocol::Ws("/".into()));
        if let Some(hash) = pin.and_then(|pin| Multihash::<64>::wrap(SHA2_256, &pin).ok()) {
            addr.push(Protocol::Certhash(hash));
        }
        addr
    }

    /// Takes every address back that the new certificate makes another, and says the new one.
    fn tell_again(&mut self) {
        let told = std::mem::take(&mut self.told);
        for (id, socket, before) in told {
            let now = self.web_address(socket.clone());
            if now != before {
                let expired = TransportEvent::AddressExpired { listener_id: id, listen_addr: before };
                self.news.push_back(expired);
                self.news.push_back(TransportEvent::NewAddress { listener_id: id, listen_addr: now.clone() });
            }
            self.told.push((id, socket, now));
        }
    }

    fn accept(&self, socket: BoxFuture<'static, io::Result<TcpStream>>) -> Connecting {
        let Some((_, server)) = &self.identity else {
            return futures::future::err(WireError::Tcp(io::ErrorKind::NotConnected.into())).boxed();
        };
        let acceptor = TlsAcceptor::from(server.clone());
        async move {
            let socket = socket.await.map_err(WireError::Tcp)?;
            let stream = acceptor
                .accept(socket)
                .await
                .map_err(|error| WireError::Tls { place: "a client".to_owned(), cause: error.to_string() })?;
            Ok(Either::Right(websocket::accept(stream.into()).await?))
        }
        .boxed()
    }
}

type Connecting = BoxFuture<'static, Result<Stream, WireError>>;

/// Returns the address of the TCP connection below `endpoint`, if it is known.
fn socket_addr(endpoint: &Endpoint) -> Option<Multiaddr> {
    match endpoint.host {
        Host::Ip(ip) => Some(Multiaddr::from(ip).with(Protocol::Tcp(endpoint.port))),
        Host::Name(..) => None,
    }
}

impl Transport for Wire {
    type Output = Stream;
    type Error = WireError;
    type ListenerUpgrade = Connecting;
    type Dial = Connecting;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<WireError>> {
        let Some(endpoint) = Endpoint::parse(&addr) else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        match (endpoint.way.clone(), socket_addr(&endpoint)) {
            (Way::Tcp, Some(socket)) => {
                self.tcp.listen_on(id, socket).map_err(|error| error.map(WireError::Tcp))
            }
            (Way::Wss { .. }, Some(socket)) => {
                self.identity()
                    .map_err(|error| TransportError::Other(WireError::Tcp(io::Error::other(error))))?;
                self.web.listen_on(id, socket).map_err(|error| error.map(WireError::Tcp))
            }
            _ => Err(TransportError::MultiaddrNotSupported(addr)),
        }
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.tcp.remove_listener(id) || self.web.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Connecting, TransportError<WireError>> {
        let Some(endpoint) = Endpoint::parse(&addr) else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        let outward = self.outward.clone();
        let socket = socket_addr(&endpoint);
        match endpoint.way.clone() {
            Way::Quic => Err(TransportError::MultiaddrNotSupported(addr)),
            Way::Tcp => {
                let direct = match socket {
                    Some(socket) => {
                        let dial = self.tcp.dial(socket, opts).map_err(|error| error.map(WireError::Tcp))?;
                        Some(dial.boxed())
                    }
                    None => None,
                };
                if opts.role == Role::Listener {
                    // A hole is punched by both sides at once, and only directly.
                    let direct = direct.ok_or(TransportError::MultiaddrNotSupported(addr))?;
                    return Ok(direct.map_ok(Either::Left).map_err(WireError::Tcp).boxed());
                }
                Ok(async move { Ok(Either::Left(outward.connect(&endpoint, direct).await?)) }.boxed())
            }
            Way::Wss { name, pins } => {
                if opts.role == Role::Listener {
                    return Err(TransportError::MultiaddrNotSupported(addr));
                }
                let opts = DialOpts { port_use: PortUse::New, ..opts };
                let direct = match socket {
                    Some(socket) => {
                        let dial = self.web.dial(socket, opts).map_err(|error| error.map(WireError::Tcp))?;
                        Some(dial.boxed())
                    }
                    None => None,
                };
                Ok(async move {
                    let socket = outward.connect(&endpoint, direct).await?;
                    let name = match (name, &endpoint.host) {
                        (Some(name), _) => name,
                        (None, Host::Name(name, _)) => name.clone(),
                        (None, Host::Ip(ip)) => ip.to_string(),
                    };
                    let place = place_of(&endpoint);
                    let stream = outward.tls(socket, &name, &place, pins).await?;
                    Ok(Either::Right(websocket::connect(stream, &place).await?))
                }
                .boxed())
            }
        }
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, WireError>> {
        if let Poll::Ready(event) = Pin::new(&mut self.tcp).poll(cx) {
            return Poll::Ready(
                event
                    .map_upgrade(|socket| socket.map_ok(Either::Left).map_err(WireError::Tcp).boxed())
                    .map_err(WireError::Tcp),
            );
        }
        if let Some(changes) = &mut self.changes
            && let Poll::Ready(Some(())) = changes.poll_next_unpin(cx)
        {
            // Asked again below if there is more: the channel wakes us only when it was found empty.
            cx.waker().wake_by_ref();
            self.tell_again();
        }
        if let Some(event) = self.news.pop_front() {
            return Poll::Ready(event);
        }
        let Poll::Ready(event) = Pin::new(&mut self.web).poll(cx) else { return Poll::Pending };
        Poll::Ready(match event {
            TransportEvent::NewAddress { listener_id, listen_addr } => {
                let shown = self.web_address(listen_addr.clone());
                self.told.push((listener_id, listen_addr, shown.clone()));
                TransportEvent::NewAddress { listener_id, listen_addr: shown }
            }
            TransportEvent::AddressExpired { listener_id, listen_addr } => {
                let of = |(id, socket, _): &(ListenerId, Multiaddr, Multiaddr)| {
                    *id == listener_id && *socket == listen_addr
                };
                let shown = match self.told.iter().position(of) {
                    Some(at) => self.told.swap_remove(at).2,
                    None => self.web_address(listen_addr),
                };
                TransportEvent::AddressExpired { listener_id, listen_addr: shown }
            }
            TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr } => {
                let web = |addr: Multiaddr| addr.with(Protocol::Tls).with(Protocol::Ws("/".into()));
                TransportEvent::Incoming {
                    listener_id,
                    upgrade: self.accept(upgrade.boxed()),
                    local_addr: web(local_addr),
                    send_back_addr: web(send_back_addr),
                }
            }
            TransportEvent::ListenerClosed { listener_id, reason } => {
                self.told.retain(|(id, ..)| *id != listener_id);
                TransportEvent::ListenerClosed { listener_id, reason: reason.map_err(WireError::Tcp) }
            }
            TransportEvent::ListenerError { listener_id, error } => {
                TransportEvent::ListenerError { listener_id, error: WireError::Tcp(error) }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Inspection, Proxy};

    #[tokio::test]
    async fn a_neighbour_that_does_not_answer_is_sought_through_the_proxy() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                tokio::spawn(async move { tokio::io::copy(&mut socket, &mut tokio::io::sink()).await });
            }
        });
        let outward = Outward {
            proxies: ProxyConfig { proxy: Some(proxy), exceptions: Vec::new() },
            trust: Trust::new(None, Inspection::Refuse),
            inspected: Inspected::default(),
        };
        let endpoint = |text: &str| Endpoint::parse(&text.parse().unwrap()).unwrap();
        let swallowed = || Some(std::future::pending().boxed());
        let refused = || Some(futures::future::err(io::ErrorKind::ConnectionRefused.into()).boxed());
        let neighbour = endpoint("/ip4/10.0.0.1/tcp/443");
        assert!(outward.connect(&neighbour, swallowed()).await.is_ok());
        assert!(outward.connect(&neighbour, refused()).await.is_ok());
        let ourselves = endpoint("/ip4/127.0.0.1/tcp/443");
        assert!(matches!(outward.connect(&ourselves, refused()).await, Err(WireError::Tcp(_))));
    }
}
