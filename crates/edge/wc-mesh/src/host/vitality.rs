//! Which connections still lead to their peer, and what is done when one no longer does.
//!
//! A connection whose ping is late is doubted: new streams take another one if there is one, and if there is none the
//! peer is dialled again. As soon as another connection to the peer shows life, the doubted one is closed, so that
//! whatever hangs on it fails and is tried again. When this machine loses an address, the connections from there are
//! closed at once; when it gets one, whoever is missed is dialled at once.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use super::{BACKOFF_FIRST, Due, Host};
use crate::address::{Transport, is_circuit, is_loopback};
use crate::path::{ip_of, is_scoped, socket_of, source_of};
use crate::pulse::{Event, Sign};

/// Changes of this machine's addresses come in groups; this long after the last one everybody who is missed is dialled.
const NETWORK_SETTLES: Duration = Duration::from_millis(200);

impl Host {
    pub(super) fn on_pulse(&mut self, event: Event) {
        let Event { peer, connection, sign } = event;
        match sign {
            Sign::Answer { round_trip } => self.on_answer(peer, connection, round_trip),
            Sign::Late => self.on_late(peer, connection),
            Sign::Silence => self.forsake(peer, connection, "does not answer pings"),
        }
    }

    fn on_answer(&mut self, peer: PeerId, id: ConnectionId, round_trip: Duration) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.rtt = Some(round_trip);
        if let Some(link) = state.links.iter_mut().find(|link| link.id == id) {
            link.round_trip_at = Some(Instant::now());
        }
        let dead: Vec<ConnectionId> = state
            .links
            .iter()
            .filter(|link| link.id != id && link.life.is_doubted())
            .map(|link| link.id)
            .collect();
        for id in dead {
            self.forsake(peer, id, "does not answer, while another connection does");
        }
    }

    fn on_late(&mut self, peer: PeerId, id: ConnectionId) {
        let Some(state) = self.peers.get(&peer) else { return };
        let Some(link) = state.links.iter().find(|link| link.id == id) else { return };
        let now = Instant::now();
        let needed = link.life.is_needed(now);
        tracing::info!(%peer, addr = %link.addr, needed, "a connection does not answer; looking for another path");
        for other in state.links.iter().filter(|other| other.id != id) {
            other.life.ask();
        }
        if needed || self.is_sought(&peer) {
            self.seek(peer, None);
        }
    }

    /// Returns whether a lasting connection to `peer` is wanted.
    pub(super) fn is_sought(&self, peer: &PeerId) -> bool {
        self.kept.contains_key(peer) || self.seeds.iter().any(|seed| seed.peer == Some(*peer))
    }

    /// Returns whether there is a connection to `peer` that is not in doubt.
    pub(super) fn is_reached(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|state| state.links.iter().any(|link| !link.life.is_doubted()))
    }

    /// Closes one connection.
    pub(super) fn forsake(&mut self, peer: PeerId, id: ConnectionId, why: &str) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let Some(link) = state.links.iter().find(|link| link.id == id) else { return };
        tracing::info!(%peer, addr = %link.addr, why, "a connection is given up");
        if state.links.len() == 1 {
            state.farewell = Some(why.to_owned());
        }
        self.swarm.close_connection(id);
    }

    /// Looks whether the connections to `peer` live, now that there is a new one.
    pub(super) fn compare_links(&self, peer: &PeerId, new: ConnectionId) {
        let Some(state) = self.peers.get(peer) else { return };
        for link in state.links.iter().filter(|link| link.id != new) {
            link.life.ask();
        }
    }

    /// Notes which connections lead to relays that hold a place for us: many depend on those.
    pub(super) fn watch_relays(&self) {
        for (peer, state) in &self.peers {
            let held = self.keeper.holds().any(|(relay, _)| relay == peer);
            for link in state.links.iter().filter(|link| link.transport != Transport::Relay) {
                link.life.lean_on(held);
            }
        }
    }

    /// Gives up what went out from an address that this machine no longer has.
    pub(super) fn on_address_lost(&mut self, addr: &Multiaddr) {
        // One that names a certificate ends with that certificate: whoever dials it would take the new one for a forgery.
        if self.external.contains(addr) && !self.config.reach.external.contains(addr) {
            self.swarm.remove_external_address(addr);
            self.on_external(addr.clone(), false);
        }
        let Some(ip) = ip_of(addr).filter(|_| !is_scoped(addr)) else { return };
        if self.swarm.listeners().any(|other| ip_of(other) == Some(ip)) {
            // One listener of several is gone, and not the address.
            return;
        }
        let gone: Vec<Multiaddr> =
            self.external.iter().filter(|addr| ip_of(addr) == Some(ip)).cloned().collect();
        for addr in gone {
            self.swarm.remove_external_address(&addr);
            self.on_external(addr, false);
        }
        let from_there = |link: &super::Link| link.source == Some(ip);
        let dead: Vec<(PeerId, ConnectionId)> = self
            .peers
            .iter()
            .flat_map(|(peer, state)| state.links.iter().map(move |link| (*peer, link)))
            .filter(|(_, link)| from_there(link))
            .map(|(peer, link)| (peer, link.id))
            .collect();
        for (peer, id) in dead {
            self.forsake(peer, id, "this machine no longer has the address that it came from");
        }
        self.network_soon();
    }

    /// Plans to look at everything again: this machine has other addresses than before.
    pub(super) fn network_soon(&mut self) {
        self.timers.cancel(&Due::Network);
        self.timers.after(NETWORK_SETTLES, Due::Network);
    }

    /// Looks at everything again: what failed on one network may work on the other.
    pub(super) fn on_network(&mut self) {
        for state in self.peers.values() {
            for link in &state.links {
                link.life.ask();
            }
        }
        self.keeper.forgive();
        self.reach_soon();
        self.mingle_soon();
        let mut missed: Vec<PeerId> = self.kept.keys().copied().collect();
        missed.extend(self.seeds.iter().filter_map(|seed| seed.peer));
        missed.extend(self.plans.keys().copied());
        missed.sort();
        missed.dedup();
        for kept in self.kept.values_mut() {
            kept.backoff = BACKOFF_FIRST;
        }
        for seed in &mut self.seeds {
            seed.backoff = BACKOFF_FIRST;
        }
        for peer in missed {
            if self.is_reached(&peer) || self.is_avoided(&peer) {
                continue;
            }
            self.timers.cancel(&Due::Retry(peer));
            // Dials that left by the old network will not come to anything.
            let waiters = self.plans.remove(&peer).map(|plan| plan.waiters).unwrap_or_default();
            self.book_seeds_of(&peer);
            self.plans.entry(peer).or_default().waiters.extend(waiters);
            self.seek(peer, None);
        }
        for index in 0..self.seeds.len() {
            if self.seeds[index].peer.is_none() {
                self.timers.cancel(&Due::Seed(index));
                self.dial_seed(index);
            }
        }
    }
}

/// Returns the address of this machine from which bytes to `remote` leave, as far as it can be known.
pub(super) fn source(remote: &Multiaddr, local: &Multiaddr) -> Option<IpAddr> {
    if is_circuit(remote) || is_circuit(local) {
        // As good as the connection to its relay.
        return None;
    }
    let named = ip_of(local).filter(|ip| !ip.is_unspecified());
    named.or_else(|| source_of(socket_of(remote)?)).filter(|_| !is_loopback(remote))
}
