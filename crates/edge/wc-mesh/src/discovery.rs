//! Finding nodes nearby: the loopback beacon, mDNS, and which side of a pair dials.

pub(crate) mod beacon;
pub(crate) mod mdns;

use std::time::Duration;

use libp2p::Multiaddr;
use wc_types::NodeId;
use wc_types::cid::sha256;

use crate::event::Via;

/// How long the lower of two nodes that found each other waits for the higher one to dial.
pub(crate) const DIAL_GRACE: Duration = Duration::from_millis(1500);

/// Returns how long `local` waits before it dials `remote`, whom both discovered.
///
/// Only one side should dial, or every pair ends with two connections. It is the higher id; the other one steps in when
/// nothing happened, because discovery may have worked in one direction only.
pub(crate) fn dial_delay(local: NodeId, remote: NodeId) -> Duration {
    if local > remote { Duration::ZERO } else { DIAL_GRACE }
}

/// A node that says it is of our network has just said where it listens.
#[derive(Debug)]
pub(crate) struct Sighting {
    pub(crate) node: NodeId,
    pub(crate) addrs: Vec<Multiaddr>,
    pub(crate) via: Via,
}

/// What the tasks that look around tell the swarm task.
#[derive(Debug)]
pub(crate) enum News {
    Sighting(Sighting),
    /// A way of looking around does not work here; what is done instead, or nothing.
    Degraded {
        via: Via,
        cause: String,
    },
}

/// Returns how a network is named where its name would take too much room.
pub(crate) fn network_digest(name: &str) -> [u8; 8] {
    let digest = sha256(name.as_bytes());
    let mut network = [0; 8];
    network.copy_from_slice(&digest[..8]);
    network
}
