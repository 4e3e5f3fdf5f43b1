//! What a mesh knows of how it is reached and what it reaches others by.

use std::time::Duration;

use libp2p::Multiaddr;
use wc_types::NodeId;

use crate::address::Transport;
use crate::event::Direction;
use crate::nat::NatKind;
use crate::relay::RelayCounters;

/// How this node stands in its network.
#[derive(Debug, Clone)]
pub struct MeshStatus {
    /// What stands between it and the internet.
    pub nat: NatKind,
    /// Whether strangers get through to it, as far as evidence goes.
    pub open: bool,
    /// Our ends of the paths by which somebody reached us and made a round trip within the last minute.
    pub reachable_via: Vec<Multiaddr>,
    /// Addresses that are ours by our operator's word, a router's, or because somebody dialled us back there.
    pub external: Vec<Multiaddr>,
    /// Reservations on relays that are asked for or held.
    pub reservations: Vec<ReservationInfo>,
    /// Reservations that ended last.
    pub past_reservations: Vec<ReservationInfo>,
    /// What this node does as a relay, if it is one.
    pub relay: Option<RelayInfo>,
    /// Every connection with an identified peer.
    pub paths: Vec<PathInfo>,
    /// Nodes of the network, this one included, as far as this one has heard: who is connected, or has announced itself, and
    /// has not withdrawn (NET-07).
    pub node_count: usize,
    /// Nodes known by their announcements.
    pub known_nodes: usize,
    /// Relays among them.
    pub known_relays: usize,
    /// Attempts to punch holes, by the kind of NAT that we were behind.
    pub upgrades: Vec<UpgradeCount>,
}

/// One reservation.
#[derive(Debug, Clone)]
pub struct ReservationInfo {
    /// The relay.
    pub relay: NodeId,
    /// Where it was asked.
    pub addr: Multiaddr,
    /// `requesting`, `active`, `renewing`, `failed` or `lost`.
    pub state: &'static str,
    /// Where others reach us through it.
    pub circuits: Vec<Multiaddr>,
    /// How long it has been held or asked for; `None` once it is over.
    pub since: Option<Duration>,
    /// Why it ended.
    pub cause: Option<String>,
}

/// A relay's own account.
#[derive(Debug, Clone)]
pub struct RelayInfo {
    /// Whether it offers itself: it does once it has an external address.
    pub offered: bool,
    /// What it has done.
    pub counters: RelayCounters,
}

/// One connection.
#[derive(Debug, Clone)]
pub struct PathInfo {
    /// Who is at the other end.
    pub node: NodeId,
    /// The address on this connection: the peer's, or of the relay between us.
    pub addr: Multiaddr,
    /// What carries it.
    pub transport: Transport,
    /// Who dialled.
    pub direction: Direction,
    /// How long ago its last round trip was; `None` before the first.
    pub round_trip_age: Option<Duration>,
    /// Who reads along, with our permission.
    pub inspected: Option<String>,
    /// Why nothing better carries it.
    pub fallback: Option<String>,
}

/// How often holes were punched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpgradeCount {
    /// Name of the kind of NAT that we were behind.
    pub nat: &'static str,
    /// Attempts that ended.
    pub attempts: u64,
    /// Those that led to a direct path.
    pub successes: u64,
}
