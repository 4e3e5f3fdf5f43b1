//! Identify, without its guesses about our address.
//!
//! What a peer saw of us is a candidate for hole punching. The library's identify replaces the port that was seen by the one
//! that we listen on whenever they differ, which is what every NAT that changes ports makes of a connection, so the candidate
//! is wrong exactly where it is needed. Here its candidates are dropped, and the host feeds in what was really seen on
//! connections that we made from our listening port.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm,
};
use libp2p::{Multiaddr, PeerId, identify};

/// Candidates that are remembered, the newest ones. Each is tested by peers and told to whoever punches holes with us.
const CANDIDATES_MAX: usize = 64;

/// Identify with the candidates of the host.
pub(crate) struct Behaviour {
    inner: identify::Behaviour,
    candidates: VecDeque<Multiaddr>,
    fed: VecDeque<Multiaddr>,
}

impl Behaviour {
    pub(crate) fn new(inner: identify::Behaviour) -> Self {
        Self { inner, candidates: VecDeque::new(), fed: VecDeque::new() }
    }

    /// Tells hole punching and reachability tests, once, of an address at which others may reach us.
    pub(crate) fn candidate(&mut self, addr: Multiaddr) {
        if self.fed.contains(&addr) {
            return;
        }
        if self.fed.len() == CANDIDATES_MAX {
            self.fed.pop_front();
            self.candidates.truncate(CANDIDATES_MAX - 1);
        }
        self.fed.push_back(addr.clone());
        self.candidates.push_back(addr);
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = <identify::Behaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = identify::Event;

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
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
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
        self.inner.handle_established_outbound_connection(id, peer, addr, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(addr) = self.candidates.pop_front() {
            return Poll::Ready(ToSwarm::NewExternalAddrCandidate(addr));
        }
        loop {
            match self.inner.poll(cx) {
                Poll::Ready(ToSwarm::NewExternalAddrCandidate(_)) => {}
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_that_somebody_made_up_do_not_keep_a_true_one_out_for_ever() {
        let key = libp2p::identity::Keypair::generate_ed25519().public();
        let config = identify::Config::new("test".to_owned(), key);
        let mut observed = Behaviour::new(identify::Behaviour::new(config));
        let addr = |port: usize| format!("/ip4/192.0.2.1/tcp/{port}").parse::<Multiaddr>().unwrap();
        for port in 1..=1000 {
            observed.candidate(addr(port));
        }
        observed.candidate(addr(5000));
        observed.candidate(addr(5000));
        assert_eq!((observed.fed.len(), observed.candidates.len()), (CANDIDATES_MAX, CANDIDATES_MAX));
        assert_eq!(observed.candidates.iter().filter(|known| **known == addr(5000)).count(), 1);
    }
}
