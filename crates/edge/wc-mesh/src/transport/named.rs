//! Names under every transport: they are looked up by us, and the addresses behind one name are raced.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use super::Connections;
use crate::address::{is_circuit, rank, split_node, with_node};
use crate::dial::{head_start, intercepted, root_cause};
use crate::resolve::{ResolveError, Resolver};

/// The other transports, with names.
pub(crate) struct Named {
    inner: Arc<Mutex<Connections>>,
    resolver: Resolver,
}

/// A name led to no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamedError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    // Not transparent: that would hide a bare error of the system from whoever looks for it.
    #[error("{0}")]
    Dial(#[source] io::Error),
    /// More than one address was tried.
    #[error("{causes}")]
    All {
        /// What each of them came to.
        causes: String,
        /// Who issued a certificate that was not the peer's.
        interceptor: Option<String>,
    },
}

impl Named {
    pub(crate) fn new(inner: Connections, resolver: Resolver) -> Self {
        Self { inner: Arc::new(Mutex::new(inner)), resolver }
    }
}

fn is_named(addr: &Multiaddr) -> bool {
    matches!(
        addr.iter().next(),
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_))
    )
}

type Output = (PeerId, StreamMuxerBox);
type Dialling = BoxFuture<'static, Result<Output, NamedError>>;

fn dial(
    inner: &Mutex<Connections>,
    addr: Multiaddr,
    opts: DialOpts,
) -> Result<Dialling, TransportError<NamedError>> {
    let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
    let dialling = inner.dial(addr, opts).map_err(|error| error.map(NamedError::Dial))?;
    Ok(dialling.map(|result| result.map_err(NamedError::Dial)).boxed())
}

/// Dials all of `addrs`, the best first and each a little later than the one before, and returns the first connection.
async fn race(
    inner: Arc<Mutex<Connections>>,
    addrs: Vec<Multiaddr>,
    opts: DialOpts,
) -> Result<Output, NamedError> {
    let single = addrs.len() == 1;
    let mut waiting = addrs.into_iter().peekable();
    let mut pause = Duration::ZERO;
    let mut dialling = FuturesUnordered::new();
    let mut causes: Vec<String> = Vec::new();
    let mut interceptor = None;
    loop {
        if let Some(addr) = waiting.next() {
            pause = waiting.peek().map(|next| head_start(&addr, next)).unwrap_or_default();
            match dial(&inner, addr.clone(), opts) {
                Ok(future) => dialling.push(async move { (addr, future.await) }),
                Err(TransportError::Other(error)) if single => return Err(error),
                Err(error) => {
                    causes.push(format!("{addr}: {error}"));
                    continue;
                }
            }
        }
        // The next one starts when this one has had its head start, or has failed.
        let over = async {
            match waiting.len() {
                0 => std::future::pending().await,
                _ => tokio::time::sleep(pause).await,
            }
        };
        tokio::select! {
            ended = dialling.next() => match ended {
                Some((_, Ok(output))) => return Ok(output),
                Some((_, Err(error))) if single => return Err(error),
                Some((addr, Err(error))) => {
                    interceptor = interceptor.or_else(|| intercepted(&error));
                    causes.push(format!("{}: {}", split_node(&addr).0, root_cause(&error)));
                }
                None if waiting.len() == 0 => return Err(NamedError::All { causes: causes.join("; "), interceptor }),
                None => {}
            },
            () = over => {}
        }
    }
}

/// Returns `addrs`, the best first, each ending in `peer` if it is given.
fn ordered(mut addrs: Vec<Multiaddr>, peer: Option<PeerId>) -> Vec<Multiaddr> {
    addrs.sort_by_key(rank);
    let with_peer = |addr| match peer {
        Some(peer) => with_node(addr, peer),
        None => addr,
    };
    addrs.into_iter().map(with_peer).collect()
}

impl Transport for Named {
    type Output = Output;
    type Error = NamedError;
    type ListenerUpgrade = Dialling;
    type Dial = Dialling;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<NamedError>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.listen_on(id, addr).map_err(|error| error.map(NamedError::Dial))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Dialling, TransportError<NamedError>> {
        // In a circuit's address the name is the relay's: the relay client dials that one here.
        if is_circuit(&addr) || !is_named(&addr) {
            return dial(&self.inner, addr, opts);
        }
        let (inner, resolver) = (self.inner.clone(), self.resolver.clone());
        Ok(async move {
            let peer = split_node(&addr).1;
            let addrs = ordered(resolver.endpoints(&addr).await?, peer);
            let error = match race(inner.clone(), addrs, opts).await {
                Ok(output) => return Ok(output),
                Err(error) => error,
            };
            match resolver.second_opinion(&addr).await {
                Some(others) => race(inner, ordered(others, peer), opts).await,
                None => Err(error),
            }
        }
        .boxed())
    }

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, NamedError>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *inner).poll(cx).map(|event| {
            event
                .map_upgrade(|upgrade| upgrade.map(|result| result.map_err(NamedError::Dial)).boxed())
                .map_err(NamedError::Dial)
        })
    }
}
