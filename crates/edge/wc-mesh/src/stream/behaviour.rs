//! The libp2p side of streams: one handler per connection that negotiates them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    self, ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId,
    FromSwarm, NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, StreamProtocol};
use tokio::sync::{mpsc, oneshot};

use super::MeshStream;
use super::registry::{LinkError, OpenRequest, Registry};
use crate::address::{Transport, transport_of};
use crate::event::StreamRefusal;
use crate::lazy;
use crate::pulse::Life;

/// Inbound streams of a peer that is not yet identified, held per connection; one round trip later it is. As many as the
/// default burst, so that a peer which knows us before we know it is not refused what it may open a moment later.
const PARKED_MAX: usize = 128;
/// Refusals that wait to be reported per connection; a peer that is refused more often than that is reported less.
const REFUSALS_QUEUED_MAX: usize = 16;

/// A stream of `peer` was reset.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) peer: PeerId,
    pub(crate) protocol: StreamProtocol,
    pub(crate) reason: StreamRefusal,
}

/// Gives every connection a stream handler.
pub(crate) struct Behaviour {
    registry: Registry,
    outbox: VecDeque<ToSwarm<Refused, FromBehaviour>>,
}

/// What the behaviour tells a handler.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FromBehaviour {
    /// The peer is of our network: deliver what it has opened.
    Admitted,
    /// Nobody needs this connection for its own sake: let it idle out.
    Release,
}

impl Behaviour {
    pub(crate) fn new(registry: Registry) -> Self {
        Self { registry, outbox: VecDeque::new() }
    }

    /// Lets streams flow between us and `peer`.
    pub(crate) fn admit(&mut self, peer: PeerId) {
        for id in self.registry.admit(&peer) {
            self.notify(peer, id, FromBehaviour::Admitted);
        }
    }

    /// Stops keeping one connection alive.
    pub(crate) fn release(&mut self, peer: PeerId, id: ConnectionId) {
        self.notify(peer, id, FromBehaviour::Release);
    }

    fn notify(&mut self, peer_id: PeerId, id: ConnectionId, event: FromBehaviour) {
        self.outbox.push_back(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(id), event });
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Refused;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.registry.clone(), peer, id, cost(local)))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.registry.clone(), peer, id, cost(addr)))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) = event {
            self.registry.unlink(&peer_id, connection_id);
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        self.outbox.push_back(ToSwarm::GenerateEvent(event));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // Whatever fills the outbox is called by the swarm, which polls again afterwards: no waker is needed.
        self.outbox.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// Returns what a connection over `addr` costs: direct ones nothing, a WebSocket some copying, a circuit somebody else's
/// bandwidth.
fn cost(addr: &Multiaddr) -> u8 {
    match transport_of(addr) {
        Some(Transport::Quic | Transport::Tcp) => 0,
        Some(Transport::Wss) => 1,
        Some(Transport::Relay) => 2,
        None => 3,
    }
}

/// Negotiates the streams of one connection.
pub(crate) struct Handler {
    registry: Registry,
    peer: PeerId,
    id: ConnectionId,
    requests: mpsc::Receiver<OpenRequest>,
    life: Arc<Life>,
    parked: Vec<(libp2p::Stream, StreamProtocol)>,
    refusals: VecDeque<Refused>,
    keep: bool,
}

impl Handler {
    fn new(registry: Registry, peer: PeerId, id: ConnectionId, cost: u8) -> Self {
        let (requests, life) = registry.link(peer, id, cost);
        Self { registry, peer, id, requests, life, parked: Vec::new(), refusals: VecDeque::new(), keep: true }
    }

    fn deliver(&mut self, pipe: libp2p::Stream, protocol: StreamProtocol) {
        if let Err(reason) = self.registry.deliver(&self.peer, pipe, &protocol, &self.life) {
            self.refuse(protocol, reason);
        }
    }

    fn refuse(&mut self, protocol: StreamProtocol, reason: StreamRefusal) {
        if self.refusals.len() < REFUSALS_QUEUED_MAX {
            self.refusals.push_back(Refused { peer: self.peer, protocol, reason });
        }
    }
}

/// A connection that another behaviour denies never reports that it closed, so its handler clears up.
impl Drop for Handler {
    fn drop(&mut self) {
        self.registry.unlink(&self.peer, self.id);
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = FromBehaviour;
    type ToBehaviour = Refused;
    type InboundProtocol = Protocols;
    type OutboundProtocol = Wish;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = oneshot::Sender<Result<MeshStream, LinkError>>;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        SubstreamProtocol::new(Protocols(self.registry.accepted()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.keep
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if let Some(refused) = self.refusals.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(refused));
        }
        match self.requests.poll_recv(cx) {
            Poll::Ready(Some(OpenRequest { protocol, agreed, reply })) => {
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                    protocol: SubstreamProtocol::new(Wish { protocol, agreed }, reply),
                })
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, event: FromBehaviour) {
        match event {
            FromBehaviour::Admitted => {
                for (pipe, protocol) in std::mem::take(&mut self.parked) {
                    self.deliver(pipe, protocol);
                }
            }
            FromBehaviour::Release => self.keep = false,
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (pipe, protocol),
                info: (),
            }) => {
                if self.registry.is_admitted(&self.peer) {
                    self.deliver(pipe, protocol);
                } else if self.parked.len() < PARKED_MAX {
                    self.parked.push((pipe, protocol));
                } else {
                    self.refuse(protocol, StreamRefusal::TooMany);
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: pipe,
                info: reply,
            }) => {
                let stream = Registry::outbound(&self.peer, pipe, &self.life).ok_or(LinkError::NoLink);
                // An opener that gave up drops the stream, which resets it.
                let _ = reply.send(stream);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, error }) => {
                let error = match error {
                    StreamUpgradeError::Timeout => LinkError::Timeout,
                    StreamUpgradeError::Apply(error) if lazy::is_disagreement(&error) => {
                        LinkError::UnsupportedProtocol
                    }
                    StreamUpgradeError::Apply(error) => LinkError::Io(error),
                    StreamUpgradeError::NegotiationFailed => LinkError::UnsupportedProtocol,
                    StreamUpgradeError::Io(error) => LinkError::Io(error),
                };
                let _ = reply.send(Err(error));
            }
            // Addresses, protocol lists and half-open streams of strangers do not concern us.
            _ => {}
        }
    }
}

/// Accepts one of several protocols and hands over the bare stream.
pub(crate) struct Protocols(Vec<StreamProtocol>);

impl UpgradeInfo for Protocols {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<swarm::Stream> for Protocols {
    type Output = (swarm::Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, pipe: swarm::Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((pipe, protocol)))
    }
}

/// Asks for one protocol.
pub(crate) struct Wish {
    protocol: StreamProtocol,
    agreed: bool,
}

impl UpgradeInfo for Wish {
    type Info = StreamProtocol;
    type InfoIter = std::iter::Once<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(self.protocol.clone())
    }
}

impl OutboundUpgrade<swarm::Stream> for Wish {
    type Output = swarm::Stream;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<swarm::Stream>>;

    fn upgrade_outbound(self, mut pipe: swarm::Stream, _: StreamProtocol) -> Self::Future {
        async move {
            if self.agreed {
                lazy::agreed(&mut pipe).await?;
            }
            Ok(pipe)
        }
        .boxed()
    }
}
