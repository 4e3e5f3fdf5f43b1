//! A UDP socket that takes QUIC connections, and the addresses of this machine at which it does.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use if_watch::IfEvent;
use if_watch::tokio::IfWatcher;
use libp2p::core::transport::{ListenerId, TransportEvent};

use super::connection::{Handshake, shake_hands};
use super::{QuicError, address_of};

/// First packets looked at in one go.
const TURNS_MAX: usize = 64;

type Event = TransportEvent<Handshake, QuicError>;

/// One listener.
pub(super) struct Listener {
    pub(super) id: ListenerId,
    pub(super) endpoint: quinn::Endpoint,
    bound: SocketAddr,
    /// Where the socket takes packets, as far as that is known.
    ips: HashSet<IpAddr>,
    /// Tells of this machine's addresses, where the socket is bound to all of them.
    watcher: Option<IfWatcher>,
    arriving: BoxFuture<'static, Option<quinn::Incoming>>,
    handshake_timeout: Duration,
    events: VecDeque<Event>,
    is_closed: bool,
}

impl Listener {
    pub(super) fn new(
        id: ListenerId,
        endpoint: quinn::Endpoint,
        handshake_timeout: Duration,
    ) -> io::Result<Self> {
        let bound = endpoint.local_addr()?;
        let mut listener = Self {
            id,
            bound,
            ips: HashSet::new(),
            watcher: None,
            arriving: arrival(&endpoint),
            endpoint,
            handshake_timeout,
            events: VecDeque::new(),
            is_closed: false,
        };
        if bound.ip().is_unspecified() {
            listener.watcher = Some(IfWatcher::new()?);
        } else {
            listener.ips.insert(bound.ip());
            listener.events.push_back(Event::NewAddress { listener_id: id, listen_addr: address_of(bound) });
        }
        Ok(listener)
    }

    /// Returns whether packets from here reach `remote`, and those of `remote` come here.
    pub(super) fn reaches(&self, remote: &SocketAddr) -> bool {
        let near = if remote.ip().is_loopback() {
            self.ips.iter().any(IpAddr::is_loopback)
        } else {
            !self.bound.ip().is_loopback()
        };
        near && self.bound.is_ipv4() == remote.is_ipv4() && !self.is_closed
    }

    pub(super) fn close(&mut self) {
        if !self.is_closed {
            self.is_closed = true;
            self.endpoint.close(quinn::VarInt::from_u32(0), &[]);
            self.events.push_back(Event::ListenerClosed { listener_id: self.id, reason: Ok(()) });
        }
    }

    /// Returns what happens next; `None` once the listener is closed and has said so.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        for _ in 0..TURNS_MAX {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(Some(event));
            }
            if self.is_closed {
                return Poll::Ready(None);
            }
            if let Poll::Ready(event) = self.poll_addresses(cx) {
                return Poll::Ready(Some(event));
            }
            match self.arriving.as_mut().poll(cx) {
                Poll::Ready(Some(incoming)) => {
                    self.arriving = arrival(&self.endpoint);
                    match incoming.accept() {
                        Ok(connecting) => return Poll::Ready(Some(self.incoming(connecting))),
                        Err(error) => tracing::debug!(%error, "a first packet that begins nothing"),
                    }
                }
                Poll::Ready(None) => self.close(),
                Poll::Pending => return Poll::Pending,
            }
        }
        // Others have their turn before more of what begins nothing is looked at.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn incoming(&self, connecting: quinn::Connecting) -> Event {
        let send_back_addr = address_of(connecting.remote_address());
        Event::Incoming {
            listener_id: self.id,
            upgrade: shake_hands(connecting, self.handshake_timeout),
            local_addr: address_of(self.bound),
            send_back_addr,
        }
    }

    fn poll_addresses(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let Some(watcher) = &mut self.watcher else { return Poll::Pending };
        let (listener_id, bound) = (self.id, self.bound);
        let here = |ip: IpAddr| {
            (ip.is_ipv4() == bound.is_ipv4()).then(|| address_of(SocketAddr::new(ip, bound.port())))
        };
        loop {
            match Pin::new(&mut *watcher).poll_if_event(cx) {
                Poll::Ready(Ok(IfEvent::Up(net))) => {
                    if let Some(listen_addr) = here(net.addr()) {
                        self.ips.insert(net.addr());
                        return Poll::Ready(Event::NewAddress { listener_id, listen_addr });
                    }
                }
                Poll::Ready(Ok(IfEvent::Down(net))) => {
                    if let Some(listen_addr) = here(net.addr()) {
                        self.ips.remove(&net.addr());
                        return Poll::Ready(Event::AddressExpired { listener_id, listen_addr });
                    }
                }
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Event::ListenerError { listener_id, error: error.into() });
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

fn arrival(endpoint: &quinn::Endpoint) -> BoxFuture<'static, Option<quinn::Incoming>> {
    let endpoint = endpoint.clone();
    async move { endpoint.accept().await }.boxed()
}
