//! How others reach us: external addresses, reservations on relays, direct paths that replace circuits.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, autonat, dcutr, kad, relay};

use super::{Dialling, Due, Host};
use crate::address::{
    Transport, is_circuit, is_loopback, node_of, peer_of, rank, split_node, transport_of, with_node,
};
use crate::config::{DhtRole, Reservations};
use crate::dial::head_start;
use crate::event::{Direction, MeshEvent};
use crate::mapping::Forwarded;
use crate::nat::NatKind;
use crate::path::{Prefix, ip_of, is_near, relay_of, socket_of, with_ip};
use crate::relay::keeper::Candidate;
use crate::relay::{RESERVATION_DEFAULT, RelayCounters};
use crate::status::{MeshStatus, PathInfo, RelayInfo, ReservationInfo, UpgradeCount};

/// External addresses that are believed at the same time.
const EXTERNAL_MAX: usize = 16;
/// Hosts that we have sent to and remember; whoever else gets through to us is a stranger.
const CONTACTED_MAX: usize = 4096;
/// Pause between two looks for more relays while some are missing.
const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// Time that hole punching has before we try the peer's own addresses.
const IMPROVE_AFTER: Duration = Duration::from_secs(2);
/// Pause before the next try while there is only a circuit.
const IMPROVE_PAUSE: Duration = Duration::from_secs(300);
/// Addresses tried then, each with its head start.
const IMPROVE_ADDRS_MAX: usize = 3;
/// How long streams may stay on a circuit once there is a direct path; whatever is left then starts again on that.
const CIRCUIT_GRACE: Duration = Duration::from_secs(60);
/// A path counts as working as long as its last round trip is not older.
const ROUND_TRIP_AGE_MAX: Duration = Duration::from_secs(60);

/// Attempts to replace circuits by direct paths, by the kind of NAT that we were behind.
#[derive(Debug, Default)]
pub(super) struct Upgrades(HashMap<&'static str, (u64, u64)>);

impl Upgrades {
    fn count(&mut self, kind: NatKind, success: bool) {
        let (attempts, successes) = self.0.entry(kind.name()).or_default();
        *attempts += 1;
        *successes += u64::from(success);
    }
}

impl Host {
    /// Begins to be reachable.
    pub(super) fn start_reach(&mut self) {
        for addr in self.config.reach.external.clone() {
            self.swarm.add_external_address(split_node(&addr).0);
        }
        for addr in &self.config.reach.external {
            self.external.push(split_node(addr).0);
        }
        self.take_dht_role();
        self.timers.after(Duration::from_millis(500), Due::Reach);
    }

    /// Counts an address of this machine that everybody can dial as external, if this node relays: its operator says that
    /// strangers get through, and whoever asks for a place has got through.
    pub(super) fn on_public_address(&mut self, addr: &Multiaddr) {
        if self.config.reach.relay.is_some() && !is_circuit(addr) && !is_near(addr) {
            self.swarm.add_external_address(addr.clone());
            self.on_external(addr.clone(), true);
        }
    }

    /// Returns whether strangers get through to us.
    pub(super) fn is_open(&self) -> bool {
        !self.config.reach.external.is_empty()
            || (!self.external.is_empty() && self.evidence.kind().is_open())
    }

    fn take_dht_role(&mut self) {
        let server = self.config.dht == DhtRole::Server || self.is_open();
        let mode = if server { kad::Mode::Server } else { kad::Mode::Client };
        self.swarm.behaviour_mut().kad.set_mode(Some(mode));
        self.serve_table(server);
    }

    fn wants_relays(&self) -> bool {
        match self.config.reach.reservations {
            Reservations::Never => false,
            Reservations::Always => true,
            Reservations::WhenUnreachable => !self.is_open(),
        }
    }

    // ---- reservations

    /// Looks after the reservations, and comes back when that is due again.
    pub(super) fn reach_turn(&mut self) {
        self.watch_relays();
        let now = Instant::now();
        let candidates = if self.wants_relays() { self.relay_candidates() } else { Vec::new() };
        for candidate in self.keeper.turn(now, candidates) {
            let addr = with_node(candidate.addr.clone(), candidate.relay).with(Protocol::P2pCircuit);
            let listener = self
                .swarm
                .listen_on(addr.clone())
                .inspect_err(
                    |error| tracing::warn!(%addr, cause = super::root_cause(error), "cannot ask this relay"),
                )
                .ok();
            if listener.is_some() {
                tracing::info!(%addr, "reservation requested");
            }
            self.keeper.asked(candidate, listener, now);
        }
        let mut next = self.keeper.due();
        if self.wants_relays() && self.keeper.missing() > 0 && self.court_relays(now) {
            next = Some(next.map_or(now + LOOK_PAUSE, |due| due.min(now + LOOK_PAUSE)));
        }
        if let Some(next) = next
            && !self.timers.contains(&Due::Reach)
        {
            // A turn that is due at once was just taken; a second's patience keeps a mistake from spinning.
            let pause = next.saturating_duration_since(now).max(Duration::from_secs(1));
            self.timers.after(pause, Due::Reach);
        }
    }

    /// Takes a turn soon: something has changed.
    pub(super) fn reach_soon(&mut self) {
        self.timers.cancel(&Due::Reach);
        self.timers.after(Duration::from_millis(50), Due::Reach);
    }

    /// Returns the relays that we are directly connected to.
    fn relay_candidates(&self) -> Vec<Candidate> {
        let connected = self.peers.iter().filter(|(_, state)| state.admitted && state.relays);
        connected
            .filter_map(|(peer, state)| {
                let known = node_of(peer).and_then(|node| self.table.get(&node));
                let dialled = state
                    .links
                    .iter()
                    .filter(|link| {
                        link.transport != Transport::Relay && link.direction == Direction::Outbound
                    })
                    .map(|link| link.addr.clone());
                let told = known.into_iter().flat_map(|known| known.addrs.iter().cloned());
                let addr = dialled.chain(told).chain(self.book.addrs(peer)).find(|addr| !is_circuit(addr))?;
                state.links.iter().any(|link| link.transport != Transport::Relay).then_some(())?;
                let offered = known.and_then(|known| known.announcement.relay.as_ref());
                let life = offered.map_or(RESERVATION_DEFAULT, |offer| {
                    Duration::from_millis(offer.reservation.0)
                        .clamp(Duration::from_secs(60), Duration::from_secs(24 * 3600))
                });
                Some(Candidate { relay: *peer, addr, life })
            })
            .collect()
    }

    /// Connects to relays that are only known by name. Returns whether there are any that can be tried.
    fn court_relays(&mut self, now: Instant) -> bool {
        let known: Vec<PeerId> = self.table.relays().map(|(node, _)| peer_of(*node)).collect();
        let mut missing = self.keeper.missing();
        let any = !known.is_empty();
        for peer in known {
            let tried =
                self.peers.contains_key(&peer) || self.plans.contains_key(&peer) || self.is_avoided(&peer);
            if missing > 0 && !tried && self.keeper.may_ask(&peer, now) {
                missing -= 1;
                self.seek(peer, None);
            }
        }
        any
    }

    pub(super) fn on_circuits(&mut self, event: relay::client::Event) {
        match event {
            relay::client::Event::ReservationReqAccepted { relay_peer_id, renewal, .. } => {
                if self.keeper.accepted(&relay_peer_id, Instant::now()) {
                    tracing::info!(relay = %relay_peer_id, "reservation active");
                } else if renewal {
                    tracing::info!(relay = %relay_peer_id, "reservation renewed");
                }
                self.reach_soon();
                self.announce_soon();
            }
            relay::client::Event::OutboundCircuitEstablished { relay_peer_id, .. } => {
                tracing::debug!(relay = %relay_peer_id, "circuit opened");
            }
            relay::client::Event::InboundCircuitEstablished { src_peer_id, .. } => {
                tracing::debug!(peer = %src_peer_id, "circuit accepted");
            }
        }
    }

    /// Notes an address at which we listen through a relay. Returns whether it is one.
    pub(super) fn on_circuit_listening(&mut self, listener: ListenerId, addr: &Multiaddr) -> bool {
        let Some(relay) = relay_of(addr) else { return is_circuit(addr) };
        let (bare, named) = split_node(addr);
        // A relay may say whatever it likes: only a circuit through itself to us is a circuit of ours.
        let ours = named == Some(self.local)
            && self.keeper.holds().any(|(held, hold)| *held == relay && hold.listener == Some(listener));
        if ours {
            self.keeper.circuit(listener, bare.clone());
            tracing::info!(addr = %bare, "reachable through a relay");
            self.events.send(MeshEvent::Listening { addr: with_node(bare, self.local) });
            self.announce_soon();
        }
        true
    }

    /// Notes that a listener is closed. Returns whether it was a relay's.
    pub(super) fn on_circuit_closed(&mut self, listener: ListenerId, cause: Option<&str>) -> bool {
        let cause = cause.unwrap_or("the connection to the relay is gone");
        let Some(relay) = self.keeper.closed(listener, Instant::now(), cause) else { return false };
        tracing::warn!(%relay, cause, "reservation lost");
        self.reach_soon();
        self.announce_soon();
        true
    }

    // ---- relaying for others

    pub(super) fn on_relay(&mut self, event: relay::Event) {
        let counters = &mut self.relayed;
        match event {
            relay::Event::ReservationReqAccepted { src_peer_id, renewed: true } => {
                self.granted.grant(src_peer_id, Instant::now());
            }
            relay::Event::ReservationReqAccepted { src_peer_id, renewed: false } => {
                counters.reservations_accepted += 1;
                self.granted.grant(src_peer_id, Instant::now());
                tracing::info!(peer = %src_peer_id, "reservation granted");
            }
            relay::Event::ReservationReqDenied { src_peer_id, status } => {
                counters.reservations_denied += 1;
                tracing::info!(peer = %src_peer_id, ?status, "reservation refused");
            }
            // The library says so for every closed connection; another one may still hold the reservation.
            relay::Event::ReservationClosed { src_peer_id } if !self.peers.contains_key(&src_peer_id) => {
                self.granted.leave(&src_peer_id);
            }
            relay::Event::ReservationClosed { .. } => {}
            relay::Event::ReservationTimedOut { src_peer_id } => {
                let life =
                    self.config.reach.relay.as_ref().map_or(RESERVATION_DEFAULT, |limits| limits.reservation);
                self.granted.time_out(&src_peer_id, Instant::now(), life);
            }
            relay::Event::CircuitReqDenied { src_peer_id, dst_peer_id, status } => {
                counters.circuits_denied += 1;
                tracing::debug!(from = %src_peer_id, to = %dst_peer_id, ?status, "circuit refused");
            }
            relay::Event::CircuitReqAccepted { src_peer_id, dst_peer_id } => {
                counters.circuits_accepted += 1;
                counters.circuits += 1;
                tracing::info!(from = %src_peer_id, to = %dst_peer_id, "circuit opened for others");
            }
            relay::Event::CircuitClosed { src_peer_id, dst_peer_id, error } => {
                counters.circuits = counters.circuits.saturating_sub(1);
                let cause = error.map(|error| error.to_string());
                tracing::info!(from = %src_peer_id, to = %dst_peer_id, cause, "circuit closed");
            }
            relay::Event::StatusChanged { status } => {
                tracing::info!(?status, "relaying changed");
                self.announce_soon();
            }
            // Deprecated variants: the library logs them itself.
            _ => {}
        }
    }

    // ---- what we look like from outside

    pub(super) fn on_external(&mut self, addr: Multiaddr, there: bool) {
        let (bare, _) = split_node(&addr);
        if is_circuit(&bare) {
            return;
        }
        if !there {
            self.external.retain(|known| *known != bare);
        } else if !self.external.contains(&bare) && self.external.len() < EXTERNAL_MAX {
            tracing::info!(addr = %bare, "external address confirmed");
            self.external.push(bare.clone());
            self.offer_web_listener(&bare);
        }
        self.reachability_changed();
    }

    /// Has our own WebSocket listener tested at the host of an address that works: where only port 443 gets through, it is
    /// what others need.
    fn offer_web_listener(&mut self, addr: &Multiaddr) {
        let Some(ip) = ip_of(addr).filter(|_| transport_of(addr) != Some(Transport::Wss)) else { return };
        let web = self.swarm.listeners().filter(|own| {
            transport_of(own) == Some(Transport::Wss)
                && ip_of(own).is_some_and(|own| own.is_ipv4() == ip.is_ipv4() && !own.is_loopback())
        });
        let there: Option<Multiaddr> = web.map(|own| with_ip(own, ip)).next();
        if let Some(there) = there.filter(|there| !self.external.contains(there)) {
            self.swarm.behaviour_mut().identify.candidate(there);
        }
    }

    fn reachability_changed(&mut self) {
        self.take_dht_role();
        self.reach_soon();
        self.announce_soon();
    }

    pub(super) fn on_dialled_back(&mut self, event: autonat::v2::client::Event) {
        let success = event.result.is_ok();
        tracing::info!(addr = %event.tested_addr, server = %event.server, success, "dialled back");
        let before = self.evidence.kind();
        self.evidence.dialled_back(success);
        let (tested, _) = split_node(&event.tested_addr);
        if success {
            self.evidence.reached(&tested);
            if self.forwarded.values().any(|addr| *addr == tested) {
                self.evidence.forwarded_works();
            }
        }
        if self.evidence.kind() != before {
            self.reachability_changed();
        }
    }

    /// Notes what the router forwards to us now.
    pub(super) fn on_forwarded(&mut self, forwarded: Forwarded) {
        let before = self.forwarded.remove(&forwarded.transport);
        let now = forwarded.addr();
        if let Some(gone) = before.filter(|gone| now.as_ref() != Some(gone)) {
            tracing::info!(addr = %gone, "the router no longer forwards a port to us");
            self.swarm.remove_external_address(&gone);
            self.on_external(gone, false);
        }
        match now {
            Some(addr) if is_near(&addr) => {
                tracing::info!(%addr, "the router that forwards a port to us is itself behind another one");
            }
            Some(addr) => {
                tracing::info!(%addr, "the router forwards a port to us");
                self.forwarded.insert(forwarded.transport, addr.clone());
                self.swarm.behaviour_mut().identify.candidate(addr);
            }
            None => {}
        }
        self.evidence.forwards(self.forwarded.len());
    }

    /// Notes at which address the peer of a connection sees us.
    pub(super) fn on_observed(&mut self, peer: PeerId, id: ConnectionId, observed: &Multiaddr) {
        let link = self.peers.get(&peer).and_then(|state| state.links.iter().find(|link| link.id == id));
        // A WebSocket is dialled from any port: nobody can use what is seen of it.
        let tells =
            |link: &&super::Link| link.reused && matches!(link.transport, Transport::Quic | Transport::Tcp);
        let Some(link) = link.filter(tells) else { return };
        let (remote, before) = (link.addr.clone(), self.evidence.kind());
        let (observed, _) = split_node(observed);
        if self.is_passing_port(&observed) {
            return;
        }
        let told = ip_of(&remote).is_some_and(|by| self.observers.spend(by, Instant::now()));
        if told && self.evidence.observed(&remote, &observed) {
            tracing::info!(addr = %observed, by = %remote, "seen from outside");
            self.swarm.behaviour_mut().identify.candidate(observed);
        }
        let kind = self.evidence.kind();
        if kind != before {
            tracing::info!(kind = kind.name(), "nat");
            self.reachability_changed();
        }
    }

    /// Returns whether `observed` is this machine's own address with a port on which nobody listens: the system could not
    /// dial from the port that was wanted, and nothing on the way changed it.
    fn is_passing_port(&self, observed: &Multiaddr) -> bool {
        let Some(socket) = socket_of(observed) else { return true };
        let mut own = self.swarm.listeners().filter_map(socket_of).filter(|own| own.ip() == socket.ip());
        own.next()
            .is_some_and(|first| first.port() != socket.port() && own.all(|own| own.port() != socket.port()))
    }

    /// Notes that we send something to the host of `addr`.
    pub(super) fn on_contact(&mut self, addr: &Multiaddr) {
        if let Some(socket) = socket_of(addr).filter(|_| !is_circuit(addr)) {
            if self.contacted.len() >= CONTACTED_MAX {
                self.contacted.clear();
                // Nobody counts as a stranger for a while, rather than somebody wrongly.
                self.contacts_forgotten = true;
            }
            self.contacted.insert(socket.ip());
        }
    }

    /// Notes a direct connection that somebody else made to our `local` address.
    pub(super) fn on_inbound(&mut self, peer: &PeerId, addr: &Multiaddr, local: &Multiaddr) {
        let Some(socket) = socket_of(addr) else { return };
        let punched = self.peers.get(peer).is_some_and(|state| !state.links.is_empty());
        let stranger =
            !self.contacts_forgotten && !punched && !is_near(addr) && !self.contacted.contains(&socket.ip());
        let before = self.evidence.kind();
        if stranger {
            self.evidence.stranger_came();
            self.on_reached(local);
        }
        if self.evidence.kind() != before {
            self.reachability_changed();
        }
    }

    /// Notes that a stranger from elsewhere got through to our `local` address: if that is a public one of this machine,
    /// others get through to it, too. A relay counts such an address from the start ([`Self::on_public_address`]); any other
    /// node waits for this proof, since a firewall may stand before it.
    fn on_reached(&mut self, local: &Multiaddr) {
        let Some(reached) = socket_of(local) else { return };
        let is_it = |own: &&Multiaddr| {
            let same = |own: SocketAddr| {
                let any = reached.ip().is_unspecified() && own.is_ipv4() == reached.is_ipv4();
                own.port() == reached.port() && (any || own.ip() == reached.ip())
            };
            !is_circuit(own)
                && !is_near(own)
                && transport_of(own) == transport_of(local)
                && socket_of(own).is_some_and(same)
        };
        let found: Vec<Multiaddr> = self.swarm.listeners().filter(is_it).cloned().collect();
        // With several public addresses at one socket it is not known which one it was; peers test each of them.
        let [own] = found.as_slice() else { return };
        let (own, _) = split_node(own);
        self.evidence.reached(&own);
        if !self.external.contains(&own) {
            self.swarm.add_external_address(own.clone());
            self.on_external(own, true);
        }
    }

    /// Notes that the addresses of this machine changed.
    pub(super) fn on_listeners_changed(&mut self, network_changed: bool) {
        if network_changed {
            self.evidence.forget();
        }
        let own = self.swarm.listeners().filter(|addr| !is_circuit(addr) && !is_near(addr));
        let own: Vec<Multiaddr> = own.map(|addr| split_node(addr).0).collect();
        for addr in own {
            self.swarm.behaviour_mut().identify.candidate(addr);
        }
        if let Some(mapping) = &self.mapping {
            mapping.listening(self.swarm.listeners().filter(|addr| !is_circuit(addr)));
        }
        self.evidence.listening(self.swarm.listeners().filter(|addr| !is_circuit(addr)).cloned());
        self.announce_soon();
    }

    // ---- from circuits to direct paths

    pub(super) fn on_punched(&mut self, event: dcutr::Event) {
        let kind = self.evidence.kind();
        let success = event.result.is_ok();
        self.upgrades.count(kind, success);
        match event.result {
            Ok(_) => tracing::info!(peer = %event.remote_peer_id, kind = kind.name(), "hole punched"),
            Err(error) => {
                let cause = super::root_cause(&error);
                tracing::info!(peer = %event.remote_peer_id, kind = kind.name(), cause, "hole not punched");
            }
        }
    }

    /// Retires the circuits to a peer to which there is a direct path now.
    pub(super) fn leave_circuits(&mut self, peer: PeerId) {
        let Some(state) = self.peers.get(&peer) else { return };
        let circuits = state.links.iter().filter(|link| link.transport == Transport::Relay);
        let ids: Vec<ConnectionId> = circuits.map(|link| link.id).collect();
        for id in ids {
            self.swarm.behaviour_mut().streams.release(peer, id);
            self.timers.after(CIRCUIT_GRACE, Due::Retire(peer, id));
        }
    }

    /// Closes a circuit whose time is over, if there is still a direct path.
    pub(super) fn retire(&mut self, peer: PeerId, id: ConnectionId) {
        let Some(state) = self.peers.get(&peer) else { return };
        let direct = state.links.iter().any(|link| link.transport != Transport::Relay);
        if direct && state.links.iter().any(|link| link.id == id) {
            tracing::info!(%peer, "circuit left for the direct path");
            self.swarm.close_connection(id);
        }
    }

    /// Tries the peer's own addresses while there is only a circuit to it.
    pub(super) fn improve(&mut self, peer: PeerId) {
        if !self.has_only_circuits(&peer) {
            return;
        }
        let ours: Vec<Prefix> = self.swarm.listeners().filter_map(Prefix::of).collect();
        // Whoever comes over a relay on this machine may be on it, too.
        let beside =
            self.peers.get(&peer).is_some_and(|state| state.links.iter().any(|link| is_loopback(&link.addr)));
        // Private addresses mean something else here than there, unless we share the network.
        let sensible = |addr: &Multiaddr| {
            let shared = if is_loopback(addr) {
                beside
            } else {
                is_near(addr) && Prefix::of(addr).is_some_and(|it| ours.contains(&it))
            };
            !is_circuit(addr) && transport_of(addr).is_some() && (!is_near(addr) || shared)
        };
        let mut addrs: Vec<Multiaddr> = self.book.addrs(&peer).into_iter().filter(sensible).collect();
        addrs.sort_by_key(rank);
        addrs.truncate(IMPROVE_ADDRS_MAX);
        self.improving.insert(peer, addrs.into());
        self.timers.after(IMPROVE_PAUSE, Due::Improve(peer));
        self.improve_next(peer);
    }

    /// Returns whether `peer` is connected, and by nothing but circuits.
    fn has_only_circuits(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|state| {
            state.admitted && state.links.iter().all(|link| link.transport == Transport::Relay)
        })
    }

    /// Dials the next of the addresses that may be better than a circuit.
    pub(super) fn improve_next(&mut self, peer: PeerId) {
        let wanted = self.has_only_circuits(&peer);
        let Some(queue) = self.improving.get_mut(&peer).filter(|_| wanted) else {
            self.improving.remove(&peer);
            return;
        };
        let Some(addr) = queue.pop_front() else {
            self.improving.remove(&peer);
            return;
        };
        if let Some(next) = queue.front() {
            self.timers.after(head_start(&addr, next), Due::ImproveNext(peer));
        }
        let opts =
            DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![addr.clone()]).build();
        let id = opts.connection_id();
        self.on_contact(&addr);
        if self.swarm.dial(opts).is_ok() {
            let dialling = Dialling::to(peer, addr);
            self.dialling.insert(id, dialling);
        }
    }

    /// Plans a try of the peer's own addresses.
    pub(super) fn improve_soon(&mut self, peer: PeerId) {
        if !self.timers.contains(&Due::Improve(peer)) {
            self.timers.after(IMPROVE_AFTER, Due::Improve(peer));
        }
    }

    // ---- status

    pub(super) fn status(&self) -> MeshStatus {
        let now = Instant::now();
        let fresh = |at: Option<Instant>| at.is_some_and(|at| now.duration_since(at) < ROUND_TRIP_AGE_MAX);
        let links =
            || self.peers.iter().filter(|(_, state)| state.admitted).flat_map(|(_, state)| &state.links);
        let mut reachable_via: Vec<Multiaddr> = links()
            .filter(|link| link.direction == Direction::Inbound && fresh(link.round_trip_at))
            .map(|link| link.local.clone())
            .collect();
        reachable_via.sort();
        reachable_via.dedup();
        let held = self.keeper.holds().filter_map(|(relay, hold)| {
            Some(ReservationInfo {
                relay: node_of(relay)?,
                addr: hold.addr.clone(),
                state: hold.state.name(),
                circuits: hold.circuits.clone(),
                since: Some(now.duration_since(hold.since)),
                cause: None,
            })
        });
        let past = self.keeper.past().filter_map(|past| {
            Some(ReservationInfo {
                relay: node_of(&past.relay)?,
                addr: past.addr.clone(),
                state: past.state.name(),
                circuits: Vec::new(),
                since: None,
                cause: Some(past.cause.clone()),
            })
        });
        let (known_nodes, known_relays) = self.table.counts();
        let node_count =
            1 + known_nodes + self.admitted().filter(|node| self.table.get(node).is_none()).count();
        let mut upgrades: Vec<UpgradeCount> = self
            .upgrades
            .0
            .iter()
            .map(|(nat, (attempts, successes))| UpgradeCount {
                nat,
                attempts: *attempts,
                successes: *successes,
            })
            .collect();
        upgrades.sort_by_key(|count| count.nat);
        MeshStatus {
            nat: self.evidence.kind(),
            open: self.is_open(),
            reachable_via,
            external: self.external.clone(),
            reservations: held.collect(),
            past_reservations: past.collect(),
            relay: self.config.reach.relay.as_ref().map(|_| RelayInfo {
                offered: !self.external.is_empty(),
                counters: RelayCounters {
                    reservations: self.granted.count(),
                    carried_bytes: self.shaper.as_ref().map_or(0, |shaper| shaper.carried_bytes()),
                    ..self.relayed
                },
            }),
            paths: self.paths(now),
            node_count,
            known_nodes,
            known_relays,
            upgrades,
        }
    }

    fn paths(&self, now: Instant) -> Vec<PathInfo> {
        let mut paths: Vec<PathInfo> = self
            .peers
            .iter()
            .filter(|(_, state)| state.admitted)
            .filter_map(|(peer, state)| Some((node_of(peer)?, state)))
            .flat_map(|(node, state)| {
                state.links.iter().map(move |link| PathInfo {
                    node,
                    addr: link.addr.clone(),
                    transport: link.transport,
                    direction: link.direction,
                    round_trip_age: link.round_trip_at.map(|at| now.duration_since(at)),
                    inspected: link.inspected.clone(),
                    fallback: link.fallback.clone(),
                })
            })
            .collect();
        paths.sort_by_key(|path| path.node);
        paths
    }
}
