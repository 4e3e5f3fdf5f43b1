//! What a mesh tells its owner.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use libp2p::Multiaddr;
use tokio::sync::mpsc;
use wc_proto::peer::gossip::CellDirectives;
use wc_types::NodeId;

use crate::address::Transport;

/// Something that happened on the mesh.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum MeshEvent {
    /// We accept connections at this address.
    Listening {
        /// The address, ending in our own node id.
        addr: Multiaddr,
    },
    /// We could not listen where we were told to.
    ListenFailed {
        /// Where we were told to listen.
        wanted: Multiaddr,
        /// Why that is impossible.
        cause: String,
        /// Where we listen instead, if anywhere.
        instead: Option<Multiaddr>,
    },
    /// A way of finding neighbours does not work here; the others go on.
    DiscoveryUnavailable {
        /// The way that does not work.
        via: Via,
        /// Why not, and what is done instead.
        cause: String,
    },
    /// We heard of a node that we were not connected to.
    Discovered {
        /// The node.
        node: NodeId,
        /// Where it says it can be reached.
        addrs: Vec<Multiaddr>,
        /// How we heard of it.
        via: Via,
    },
    /// One dial has ended.
    DialAttempt(DialAttempt),
    /// A node of our own network is connected and identified.
    Connected {
        /// The node.
        node: NodeId,
        /// Its address on this connection.
        addr: Multiaddr,
        /// What carries the connection.
        transport: Transport,
        /// Who dialled.
        direction: Direction,
    },
    /// The last connection to a node is gone.
    Disconnected {
        /// The node.
        node: NodeId,
        /// Why, in words for a log.
        cause: String,
    },
    /// A node of another network, or one that speaks another protocol, was turned away.
    WrongNetwork {
        /// The node.
        node: NodeId,
        /// The network that it named, if it named one.
        network: Option<String>,
    },
    /// A stream that a peer opened was reset.
    StreamRefused {
        /// The peer.
        node: NodeId,
        /// The protocol of the stream.
        protocol: String,
        /// Which limit it met.
        reason: StreamRefusal,
    },
    /// A peer broke a protocol. Lowers trust.
    PeerMisbehaved {
        /// The peer.
        node: NodeId,
        /// What it did.
        what: String,
    },
    /// A cell's coordinator orders something. It is its word; whether the cell is one that concerns this node is for the
    /// reader to know.
    Directed(Box<CellDirectives>),
    /// The reader was too slow and missed events; `Mesh::peers` has the present state.
    Lagged {
        /// How many events were dropped.
        missed: u64,
    },
}

/// How a node became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// Multicast DNS on the LAN.
    Mdns,
    /// The beacon on this machine's loopback interface.
    Loopback,
    /// The network's Kademlia table.
    Kademlia,
    /// A configured seed.
    Seed,
    /// Another node's word.
    Exchange,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mdns => "mdns",
            Self::Loopback => "loopback",
            Self::Kademlia => "kademlia",
            Self::Seed => "seed",
            Self::Exchange => "exchange",
        })
    }
}

/// Who dialled a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The peer did.
    Inbound,
    /// We did.
    Outbound,
}

/// Which limit a refused stream met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamRefusal {
    /// The peer holds as many streams of this protocol as it may.
    TooMany,
    /// The peer opens streams faster than it may.
    TooFast,
    /// Our own side does not take streams off the queue fast enough.
    QueueFull,
    /// Nobody reads this protocol any more.
    Closed,
}

/// How one dial ended (NET-24).
#[derive(Debug, Clone)]
pub struct DialAttempt {
    /// When it ended.
    pub timestamp: SystemTime,
    /// The address that was dialled.
    pub target_multiaddr: Multiaddr,
    /// What should have carried the connection; `None` for an address that this build cannot dial.
    pub transport: Option<Transport>,
    /// How it ended.
    pub outcome: DialOutcome,
    /// Why it failed; present exactly when it did not succeed.
    pub root_cause: Option<String>,
    /// What is done about it; present exactly when it did not succeed, so that no failure is silent.
    pub follow_up: Option<FollowUp>,
    /// Somebody on the way showed a certificate of its own (NET-22).
    pub interception: Option<Interception>,
}

/// What comes after a dial that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowUp {
    /// Other addresses of the node are tried, or are being tried already.
    Fallback,
    /// The node is connected by another address.
    Connected,
    /// The node, or the seed, is dialled again.
    Retry {
        /// After this pause.
        after: Duration,
    },
    /// Whoever asked for this connection was told that there is none.
    Told,
    /// Nobody asked for the node: it is dialled again when it is heard of again, or wanted.
    Unneeded,
    /// Made by a look-up, a hole punch, a test of reachability or a reservation, which goes on without this address.
    Elsewhere,
}

impl fmt::Display for FollowUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fallback => f.write_str("fallback: other addresses of the node are tried"),
            Self::Connected => f.write_str("fallback: another address of the node has answered"),
            Self::Retry { after } => write!(f, "retry in {:.1} s", after.as_secs_f64()),
            Self::Told => f.write_str("given up: whoever asked was told"),
            Self::Unneeded => f.write_str("given up until the node is heard of again, or wanted"),
            Self::Elsewhere => f.write_str("fallback: whatever wanted it goes on without this address"),
        }
    }
}

/// Somebody between us and a peer opens the TLS of our WebSockets. The session inside is not theirs to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interception {
    /// We did not go on.
    Refused {
        /// Who issued the certificate.
        issuer: String,
    },
    /// We went on, because the machine's owner allows it: the connection is inspected.
    Allowed {
        /// Who issued the certificate.
        issuer: String,
    },
}

/// The kinds of end that a dial can come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialOutcome {
    /// Connected to the node that was meant.
    Success,
    /// No answer in time.
    Timeout,
    /// The transport or a handshake on it failed.
    TransportError(String),
    /// One of the two sides does not want this connection.
    Denied(String),
}

impl fmt::Display for DialOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("success"),
            Self::Timeout => f.write_str("timeout"),
            Self::TransportError(_) => f.write_str("transport_error"),
            Self::Denied(_) => f.write_str("denied"),
        }
    }
}

/// The reading end of a mesh's events.
#[derive(Debug)]
pub struct MeshEvents {
    queue: mpsc::Receiver<MeshEvent>,
    missed: Arc<AtomicU64>,
}

impl MeshEvents {
    /// Returns the next event, or `None` once the mesh has stopped. May be dropped at any await.
    pub async fn recv(&mut self) -> Option<MeshEvent> {
        let missed = self.missed.swap(0, Ordering::Relaxed);
        if missed > 0 {
            return Some(MeshEvent::Lagged { missed });
        }
        self.queue.recv().await
    }
}

/// The writing end; never waits.
#[derive(Debug, Clone)]
pub(crate) struct EventSender {
    queue: mpsc::Sender<MeshEvent>,
    missed: Arc<AtomicU64>,
}

impl EventSender {
    pub(crate) fn downgrade(&self) -> WeakEventSender {
        WeakEventSender { queue: self.queue.downgrade(), missed: self.missed.clone() }
    }

    pub(crate) fn send(&self, event: MeshEvent) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(event) {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A writing end that does not keep the events open: handles outlive the mesh that they belong to.
#[derive(Debug, Clone)]
pub(crate) struct WeakEventSender {
    queue: mpsc::WeakSender<MeshEvent>,
    missed: Arc<AtomicU64>,
}

impl WeakEventSender {
    pub(crate) fn send(&self, event: MeshEvent) {
        if let Some(queue) = self.queue.upgrade() {
            EventSender { queue, missed: self.missed.clone() }.send(event);
        }
    }
}

pub(crate) fn channel(queued_max: usize) -> (EventSender, MeshEvents) {
    let (sender, queue) = mpsc::channel(queued_max.max(1));
    let missed = Arc::new(AtomicU64::new(0));
    (EventSender { queue: sender, missed: missed.clone() }, MeshEvents { queue, missed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_reader_is_told_how_much_it_missed() {
        let (sender, mut events) = channel(2);
        for what in ["a", "b", "c", "d"] {
            sender.send(MeshEvent::PeerMisbehaved { node: NodeId([1; 32]), what: what.into() });
        }
        assert!(matches!(events.recv().await, Some(MeshEvent::Lagged { missed: 2 })));
        assert!(matches!(events.recv().await, Some(MeshEvent::PeerMisbehaved { what, .. }) if what == "a"));
    }
}
