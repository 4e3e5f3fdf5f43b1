//! GossipSub that holds no connection and listens to nobody faster than it may.
//!
//! The library keeps one stream open each way for as long as there is a connection, and an open stream keeps its connection
//! alive: every peer that was ever met would stay connected. Here neither streams nor the mesh of a topic count: gossip goes
//! over the connections that somebody needs. And what comes in is counted, per peer and per network, before the library
//! looks at it (NET-32, NET-33).

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::gossipsub::{
    self, IdentityTransform, MaxCountSubscriptionFilter, Message, MessageAcceptance, MessageId, PublishError,
    WhitelistSubscriptionFilter,
};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound, InboundUpgradeSend,
    ListenUpgradeError, OutboundUpgradeSend, SendWrapper, UpgradeInfoSend,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    Stream, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use crate::address::{is_circuit, is_loopback};
use crate::path::Prefix;
use crate::relay::Rates;

/// The library's part.
pub(crate) type Inner =
    gossipsub::Behaviour<IdentityTransform, MaxCountSubscriptionFilter<WhitelistSubscriptionFilter>>;

/// Frames that one peer may send at once, and per minute after that. One carries a message, or what is said about the mesh of
/// all topics; a peer through which everybody's news comes sends a few per second while a network comes together.
const FRAMES_OF_PEER: (u32, u32) = (256, 1200);
/// Frames that one network (/24 of IPv4) may send: whoever has ten keys has one network (NET-32).
const FRAMES_OF_PREFIX: (u32, u32) = (2048, 12_000);
/// Frames of a peer beyond its own which are dropped before it is said aloud.
const DROPPED_TOLD: u32 = 256;

/// What the behaviour tells the host.
#[derive(Debug)]
pub(crate) enum Told {
    /// What the library has to say.
    Gossip(gossipsub::Event),
    /// A peer sends more than anybody may.
    Flood(PeerId),
}

/// The behaviour.
pub(crate) struct Behaviour {
    pub(super) inner: Inner,
    peers: Rates<PeerId>,
    prefixes: Rates<Prefix>,
    /// The networks of connections that are counted.
    origins: HashMap<ConnectionId, Prefix>,
    dropped: HashMap<PeerId, u32>,
    pub(super) outbox: VecDeque<PeerId>,
}

impl Behaviour {
    pub(super) fn new(inner: Inner) -> Self {
        Self {
            inner,
            peers: Rates::new(FRAMES_OF_PEER.0, FRAMES_OF_PEER.1),
            prefixes: Rates::new(FRAMES_OF_PREFIX.0, FRAMES_OF_PREFIX.1),
            origins: HashMap::new(),
            dropped: HashMap::new(),
            outbox: VecDeque::new(),
        }
    }

    /// Sends a message of our own to every peer that listens to its topic.
    pub(crate) fn publish(
        &mut self,
        topic: gossipsub::TopicHash,
        bytes: Vec<u8>,
    ) -> Result<MessageId, PublishError> {
        self.inner.publish(topic, bytes)
    }

    /// Says what became of a message: whether it is passed on, and whether whoever brought it is to blame.
    pub(crate) fn report(&mut self, id: &MessageId, from: &PeerId, acceptance: MessageAcceptance) {
        self.inner.report_message_validation_result(id, from, acceptance);
    }

    /// Takes no message of `peer`, whoever brings it, or takes them again.
    pub(crate) fn shun(&mut self, peer: &PeerId, shunned: bool) {
        if shunned {
            self.inner.blacklist_peer(peer);
        } else {
            self.inner.remove_blacklisted_peer(peer);
        }
    }

    pub(super) fn note(&mut self, id: ConnectionId, addr: &Multiaddr) {
        if let Some(prefix) = Prefix::of(addr).filter(|_| !is_loopback(addr) && !is_circuit(addr)) {
            self.origins.insert(id, prefix);
        }
    }

    /// Returns whether a peer may say something now, and counts that it does.
    pub(super) fn may_speak(&mut self, peer: PeerId, id: ConnectionId, now: Instant) -> bool {
        let is_within = self.peers.spend(peer, now);
        if !is_within {
            let dropped = self.dropped.entry(peer).or_default();
            *dropped += 1;
            if *dropped >= DROPPED_TOLD {
                *dropped = 0;
                self.outbox.push_back(peer);
            }
        }
        // Who shares a network with a flood is not heard meanwhile, and not to blame.
        is_within && self.origins.get(&id).is_none_or(|prefix| self.prefixes.spend(*prefix, now))
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Unheld<<Inner as NetworkBehaviour>::ConnectionHandler>;
    type ToSwarm = Told;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote).map(Unheld)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addrs: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(id, peer, addrs, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, addr, role, port_use).map(Unheld)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::ConnectionEstablished(event) => {
                self.note(event.connection_id, event.endpoint.get_remote_address());
            }
            FromSwarm::ConnectionClosed(event) => {
                self.origins.remove(&event.connection_id);
                if event.remaining_established == 0 {
                    self.dropped.remove(&event.peer_id);
                }
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        if self.may_speak(peer, id, Instant::now()) {
            self.inner.on_connection_handler_event(peer, id, event);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(peer) = self.outbox.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(Told::Flood(peer)));
        }
        loop {
            match self.inner.poll(cx) {
                // Nobody is dialled for the sake of gossip.
                Poll::Ready(ToSwarm::Dial { .. }) => {}
                Poll::Ready(other) => return Poll::Ready(other.map_out(Told::Gossip)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Returns the author of a message: whoever published it first. Strict validation leaves none without.
pub(crate) fn author(message: &Message) -> Option<PeerId> {
    message.source
}

/// A handler, or an upgrade, whose streams do not keep their connection.
pub(crate) struct Unheld<T>(T);

impl<H: ConnectionHandler> ConnectionHandler for Unheld<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = Unheld<H::InboundProtocol>;
    type OutboundProtocol = Unheld<H::OutboundProtocol>;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        let protocol = self.0.listen_protocol();
        let timeout = *protocol.timeout();
        let (upgrade, info) = protocol.into_upgrade();
        SubstreamProtocol::new(Unheld(upgrade), info).with_timeout(timeout)
    }

    fn connection_keep_alive(&self) -> bool {
        false
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        self.0.poll(cx).map(|event| event.map_protocol(Unheld))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.0.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.0.on_behaviour_event(event);
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
        let event = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info }) => {
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info })
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info })
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error })
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }) => {
                ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error })
            }
            ConnectionEvent::AddressChange(change) => ConnectionEvent::AddressChange(change),
            ConnectionEvent::LocalProtocolsChange(change) => ConnectionEvent::LocalProtocolsChange(change),
            ConnectionEvent::RemoteProtocolsChange(change) => ConnectionEvent::RemoteProtocolsChange(change),
            // Whatever a later release adds is not known to this wrapper.
            _ => return,
        };
        self.0.on_connection_event(event);
    }
}

impl<U: UpgradeInfoSend> UpgradeInfo for Unheld<U> {
    type Info = U::Info;
    type InfoIter = U::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        UpgradeInfoSend::protocol_info(&self.0)
    }
}

impl<U: InboundUpgradeSend> InboundUpgrade<Stream> for Unheld<U> {
    type Output = U::Output;
    type Error = U::Error;
    type Future = U::Future;

    fn upgrade_inbound(self, mut stream: Stream, info: U::Info) -> Self::Future {
        stream.ignore_for_keep_alive();
        InboundUpgrade::upgrade_inbound(SendWrapper(self.0), stream, info)
    }
}

impl<U: OutboundUpgradeSend> OutboundUpgrade<Stream> for Unheld<U> {
    type Output = U::Output;
    type Error = U::Error;
    type Future = U::Future;

    fn upgrade_outbound(self, mut stream: Stream, info: U::Info) -> Self::Future {
        stream.ignore_for_keep_alive();
        OutboundUpgrade::upgrade_outbound(SendWrapper(self.0), stream, info)
    }
}
