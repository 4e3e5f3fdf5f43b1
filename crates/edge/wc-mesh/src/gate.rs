//! Who may connect at all: so many connections of one network at the same time, so many that are still shaking hands, and
//! so many new ones per minute.
//!
//! One machine with a thousand keys still has one address (NET-32), so what is counted is the prefix, not the peer.
//! Connections from this machine and circuits are not counted: the first are our user's own, the second are counted by
//! their relay, and here by the connection limits.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::address::{Transport, is_loopback, transport_of};
use crate::path::Prefix;
use crate::relay::Rates;

/// The gate.
pub(crate) struct Behaviour {
    per_prefix_max: u32,
    /// Of datagrams and of streams apart: the sender of a first datagram can be anybody's name, and must not shut that
    /// network out of TCP, too; nor may thousands of such names fill the table in which streams are counted.
    datagrams: Rates,
    streams: Rates,
    inbound: Tally,
    pending_per_prefix_max: u32,
    pending: Tally,
}

/// Connections, and how many of them each network has.
#[derive(Debug, Default)]
struct Tally {
    prefixes: HashMap<ConnectionId, Prefix>,
    counts: HashMap<Prefix, u32>,
}

impl Tally {
    fn of(&self, prefix: &Prefix) -> u32 {
        self.counts.get(prefix).copied().unwrap_or(0)
    }

    fn enter(&mut self, id: ConnectionId, addr: &Multiaddr) {
        if let Some(prefix) = Prefix::of(addr).filter(|_| !is_loopback(addr)) {
            self.prefixes.insert(id, prefix);
            *self.counts.entry(prefix).or_default() += 1;
        }
    }

    fn leave(&mut self, id: ConnectionId) {
        let Some(prefix) = self.prefixes.remove(&id) else { return };
        if let Some(count) = self.counts.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&prefix);
            }
        }
    }
}

/// A connection that the gate refused.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Its network has as many connections as it may.
    TooMany,
    /// Too many of its network's are still shaking hands.
    HalfOpen,
    /// Its network makes new ones faster than it may.
    TooFast,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooMany => "too many connections from one network",
            Self::HalfOpen => "too many connections from one network are still shaking hands",
            Self::TooFast => "new connections from one network come too fast",
        })
    }
}

impl std::error::Error for Refused {}

impl Behaviour {
    pub(crate) fn new(per_prefix_max: u32, pending_per_prefix_max: u32, burst: u32, per_minute: u32) -> Self {
        let [datagrams, streams] = [(); 2].map(|()| Rates::new(burst, per_minute));
        let (inbound, pending) = (Tally::default(), Tally::default());
        Self { per_prefix_max, datagrams, streams, inbound, pending_per_prefix_max, pending }
    }

    fn check(&mut self, addr: &Multiaddr, now: Instant) -> Result<(), Refused> {
        let Some(prefix) = Prefix::of(addr).filter(|_| !is_loopback(addr)) else { return Ok(()) };
        if self.inbound.of(&prefix) >= self.per_prefix_max {
            return Err(Refused::TooMany);
        }
        if self.pending.of(&prefix) >= self.pending_per_prefix_max {
            return Err(Refused::HalfOpen);
        }
        let is_datagram = transport_of(addr) == Some(Transport::Quic);
        let rates = if is_datagram { &mut self.datagrams } else { &mut self.streams };
        if rates.spend(prefix, now) { Ok(()) } else { Err(Refused::TooFast) }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.check(remote, Instant::now()).map_err(ConnectionDenied::new)?;
        self.pending.enter(id, remote);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ListenFailure(event) => self.pending.leave(event.connection_id),
            // Counted once nobody can deny it any more.
            FromSwarm::ConnectionEstablished(event) if event.endpoint.is_listener() => {
                self.pending.leave(event.connection_id);
                self.inbound.enter(event.connection_id, event.endpoint.get_remote_address());
            }
            FromSwarm::ConnectionClosed(event) => self.inbound.leave(event.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_cannot_take_every_place() {
        let mut gate = Behaviour::new(2, 3, 10, 60);
        let crowd: Multiaddr = "/ip4/198.51.100.7/tcp/1".parse().unwrap();
        let other: Multiaddr = "/ip4/203.0.113.7/tcp/1".parse().unwrap();
        let now = Instant::now();
        let ids = [1, 2].map(ConnectionId::new_unchecked);
        for id in ids {
            assert!(gate.check(&crowd, now).is_ok());
            gate.inbound.enter(id, &crowd);
        }
        assert!(matches!(gate.check(&crowd, now), Err(Refused::TooMany)));
        assert!(gate.check(&other, now).is_ok());
        gate.inbound.leave(ids[0]);
        assert!(gate.check(&crowd, now).is_ok());
        gate.inbound.leave(ids[1]);
        assert!(gate.inbound.counts.is_empty() && gate.inbound.prefixes.is_empty());
        let half_open = [3, 4, 5].map(ConnectionId::new_unchecked);
        half_open.into_iter().for_each(|id| gate.pending.enter(id, &crowd));
        assert!(matches!(gate.check(&crowd, now), Err(Refused::HalfOpen)));
        assert!(gate.check(&other, now).is_ok(), "who does not shake hands does not keep others out");
        half_open.into_iter().for_each(|id| gate.pending.leave(id));
        let fast = (0..100).filter(|_| gate.check(&crowd, now).is_ok()).count();
        assert!(fast <= 10, "{fast}");
        let datagram: Multiaddr = "/ip4/198.51.100.9/udp/1/quic-v1".parse().unwrap();
        let fast = (0..100).filter(|_| gate.check(&datagram, now).is_ok()).count();
        assert_eq!(fast, 10, "QUIC has a rate of its own");
        let victim: Multiaddr = "/ip4/192.0.2.7/udp/1/quic-v1".parse().unwrap();
        while gate.check(&victim, now).is_ok() {}
        assert!(gate.check(&"/ip4/192.0.2.7/tcp/1".parse().unwrap(), now).is_ok());
        for number in 0..20_000u32 {
            let forged: Multiaddr =
                format!("/ip4/9.{}.{}.1/udp/1/quic-v1", number >> 8, number & 255).parse().unwrap();
            let _ = gate.check(&forged, now);
        }
        let newcomer: Multiaddr = "/ip4/192.0.3.7/tcp/1".parse().unwrap();
        assert!(gate.check(&newcomer, now).is_ok(), "made-up senders of datagrams keep nobody out of TCP");
        let local: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        assert!((0..100).all(|_| gate.check(&local, now).is_ok()));
    }
}
