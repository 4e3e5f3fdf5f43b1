//! How this node is reached, and by which paths it reaches others, for its owner's eyes.

use std::time::Duration;

use wc_mesh::{Direction, MeshStatus, Multiaddr, PathInfo, PeerInfo, ReservationInfo, Transport};
use wc_proto::api::view::{PathView, PeerView, PunchView, ReachView, RelayView, ReservationView};
use wc_types::Millis;
use wc_types::node::{Path, Reach};

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn texts(addrs: &[Multiaddr]) -> Vec<String> {
    addrs.iter().map(ToString::to_string).collect()
}

/// Shows how this node stands in its network.
pub(crate) fn view(status: MeshStatus) -> ReachView {
    let reservations = status.reservations.iter().chain(&status.past_reservations);
    ReachView {
        reachable: !status.reachable_via.is_empty(),
        reachable_via: texts(&status.reachable_via),
        open: status.open,
        nat: status.nat.name().to_owned(),
        external: texts(&status.external),
        reservations: reservations.map(reservation).collect(),
        relay: status.relay.map(|relay| RelayView {
            offered: relay.offered,
            reservations: relay.counters.reservations,
            reservations_accepted: relay.counters.reservations_accepted,
            reservations_denied: relay.counters.reservations_denied,
            circuits: relay.counters.circuits,
            circuits_accepted: relay.counters.circuits_accepted,
            circuits_denied: relay.counters.circuits_denied,
            carried_bytes: relay.counters.carried_bytes,
        }),
        known_nodes: status.known_nodes as u64,
        known_relays: status.known_relays as u64,
        punches: status
            .upgrades
            .iter()
            .map(|count| PunchView {
                nat: count.nat.to_owned(),
                attempts: count.attempts,
                successes: count.successes,
            })
            .collect(),
    }
}

fn reservation(info: &ReservationInfo) -> ReservationView {
    ReservationView {
        relay: info.relay,
        address: info.addr.to_string(),
        state: info.state.to_owned(),
        circuits: texts(&info.circuits),
        for_s: info.since.map(|since| since.as_secs()),
        cause: info.cause.clone(),
    }
}

/// Returns how bytes travel to a peer, as placement and trust see it (NET-34, NET-22).
pub(crate) fn path(peer: &PeerInfo) -> Path {
    let reach = match peer.transport {
        Transport::Relay => Reach::Relayed,
        Transport::Quic | Transport::Tcp | Transport::Wss if peer.lan => Reach::Lan,
        Transport::Quic | Transport::Tcp | Transport::Wss => Reach::Direct,
    };
    let rtt = peer.rtt_micros.map(|micros| Millis(micros / 1000));
    Path { reach, rtt, inspected: peer.inspected.is_some() }
}

/// Shows the connected peers and the paths to each.
pub(crate) fn peers(peers: Vec<PeerInfo>, paths: &[PathInfo]) -> Vec<PeerView> {
    let path = |path: &PathInfo| PathView {
        address: path.addr.to_string(),
        transport: path.transport.to_string(),
        outbound: path.direction == Direction::Outbound,
        round_trip_age_ms: path.round_trip_age.map(millis),
    };
    peers
        .into_iter()
        .map(|peer| PeerView {
            node: peer.node,
            address: peer.addr.to_string(),
            transport: peer.transport.to_string(),
            outbound: peer.direction == Direction::Outbound,
            reach: self::path(&peer).reach,
            rtt_micros: peer.rtt_micros,
            agent_version: peer.agent_version,
            presence: peer.presence.name().to_owned(),
            inspected: peer.inspected,
            fallback: peer.fallback,
            paths: paths.iter().filter(|other| other.node == peer.node).map(path).collect(),
        })
        .collect()
}
