//! The handle that the rest of the node holds: commands to the one task that owns the swarm.

use std::time::{Duration, SystemTime};

use libp2p::Multiaddr;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use wc_proto::peer::announce::Announcement;
use wc_proto::peer::gossip::{CellDirectives, Gossip, PresenceState};
use wc_types::{NodeId, Signed};

use crate::address::{Transport, peer_of};
use crate::config::{MeshConfig, StreamLimits};
use crate::dial::{DialError, Waiter};
use crate::event::{Direction, MeshEvent, MeshEvents, WeakEventSender};
use crate::host::Host;
use crate::status::MeshStatus;
use crate::stream::{AcceptError, Incoming, LinkError, MeshStream, OpenError, Registry, protocol_id};
use crate::transport::BuildError;

/// Commands that wait for the swarm task; whoever comes next waits, too.
const COMMANDS_QUEUED_MAX: usize = 256;
/// Time for connecting, where needed, and opening one stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections on which one stream is tried.
const OPEN_TRIES: u32 = 3;

/// One node's presence on the network. Cloning is cheap; the mesh stops when the last handle is gone.
#[derive(Debug, Clone)]
pub struct Mesh {
    node: NodeId,
    commands: mpsc::Sender<Command>,
    registry: Registry,
    events: WeakEventSender,
    streams_default: StreamLimits,
}

/// What a handle asks of the swarm task.
#[derive(Debug)]
pub(crate) enum Command {
    ListenAddrs(oneshot::Sender<Vec<Multiaddr>>),
    Peers(oneshot::Sender<Vec<PeerInfo>>),
    Peer(NodeId, oneshot::Sender<Option<PeerInfo>>),
    Status(oneshot::Sender<MeshStatus>),
    Known(oneshot::Sender<Vec<Signed<Announcement>>>),
    Dial { addr: Multiaddr, waiter: Waiter },
    Connect { node: NodeId, addrs: Vec<Multiaddr> },
    Reach { node: NodeId, waiter: Waiter },
    Disconnect(NodeId),
    Ban(NodeId),
    Unban(NodeId),
    Say(Box<Gossip>),
    Present(PresenceState),
    Stop(oneshot::Sender<()>),
}

/// A connected node.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// The node.
    pub node: NodeId,
    /// The address of the best connection with it: the oldest direct one, or the oldest through a relay.
    pub addr: Multiaddr,
    /// What carries it.
    pub transport: Transport,
    /// Who dialled it.
    pub direction: Direction,
    /// Whether it leads to this machine, or to one of its own network (NET-34).
    pub lan: bool,
    /// Last measured round trip, in microseconds.
    pub rtt_micros: Option<u64>,
    /// What the node calls itself.
    pub agent_version: String,
    /// When it was connected.
    pub since: SystemTime,
    /// How the node stands, by its own word.
    pub presence: PresenceState,
    /// Who reads along on that connection, or on ours with the relay that it leads through, which the machine's owner allows
    /// (NET-22). Lowers trust.
    pub inspected: Option<String>,
    /// Why it is not carried by something better, if we dialled it and something better was tried (NET-20).
    pub fallback: Option<String>,
}

/// A mesh could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The name of the network cannot be one.
    #[error("network name {name:?} is not 1 to 64 characters of a-z 0-9 . _ -")]
    NetworkName {
        /// The name as given.
        name: String,
    },
    /// Neither the wanted port nor any other could be had, on any address.
    #[error("cannot listen on any of the {count} addresses: {cause}")]
    Listen {
        /// How many were tried.
        count: usize,
        /// What the last one met.
        cause: String,
    },
    /// The host could not be put together.
    #[error("cannot build the mesh host")]
    Build(#[from] BuildError),
}

impl Mesh {
    /// Starts a node on the network and returns once it listens.
    ///
    /// Needs a tokio runtime, and a rustls crypto provider installed for the process.
    ///
    /// # Errors
    /// [`StartError`] says which part of the configuration cannot be followed. A port that is taken is not an error:
    /// a free one is used and [`MeshEvent::ListenFailed`] says so.
    pub async fn start(config: MeshConfig) -> Result<(Self, MeshEvents), StartError> {
        if !crate::config::is_network_name(&config.network) {
            return Err(StartError::NetworkName { name: config.network });
        }
        let (events, reader) = crate::event::channel(config.limits.events_queued_max);
        let (commands, queue) = mpsc::channel(COMMANDS_QUEUED_MAX);
        let registry = Registry::default();
        let streams_default = config.limits.streams;
        let weak_events = events.downgrade();
        let mut host = Host::new(config, registry.clone(), events, queue)?;
        host.settle().await;
        let node = host.node();
        tokio::spawn(host.run());
        Ok((Self { node, commands, registry, events: weak_events, streams_default }, reader))
    }

    /// Returns this node's id.
    pub fn node_id(&self) -> NodeId {
        self.node
    }

    /// Returns where this node can be dialled, each address ending in its own id. Empty once the mesh has stopped.
    pub async fn listen_addrs(&self) -> Vec<Multiaddr> {
        self.ask(Command::ListenAddrs).await.unwrap_or_default()
    }

    /// Returns the connected nodes of our network. Empty once the mesh has stopped.
    pub async fn peers(&self) -> Vec<PeerInfo> {
        self.ask(Command::Peers).await.unwrap_or_default()
    }

    /// Returns a node of our network, if it is connected.
    pub async fn peer(&self, node: NodeId) -> Option<PeerInfo> {
        self.ask(|reply| Command::Peer(node, reply)).await.flatten()
    }

    /// Returns how this node is reached and what it reaches others by; `None` once the mesh has stopped.
    pub async fn status(&self) -> Option<MeshStatus> {
        self.ask(Command::Status).await
    }

    /// Returns the announcements that this node believes, to be given to the next start of it.
    pub async fn known(&self) -> Vec<Signed<Announcement>> {
        self.ask(Command::Known).await.unwrap_or_default()
    }

    /// Dials one address, and returns who is there once it has shown that it is of our network.
    ///
    /// # Errors
    /// [`DialError`] carries every attempt with its cause.
    pub async fn dial(&self, addr: Multiaddr) -> Result<NodeId, DialError> {
        let (waiter, answer) = oneshot::channel();
        let command = Command::Dial { addr, waiter };
        self.commands.send(command).await.map_err(|_| DialError::Stopped)?;
        answer.await.unwrap_or(Err(DialError::Stopped))
    }

    /// Asks for a lasting connection to `node`: it is dialled at `addrs` and whatever else is known of it, through
    /// the network's Kademlia table if that is nothing, and again with growing pauses, until `disconnect` or `ban`.
    pub async fn connect(&self, node: NodeId, addrs: Vec<Multiaddr>) {
        // A mesh that has stopped connects nobody; `open` says so.
        let _ = self.commands.send(Command::Connect { node, addrs }).await;
    }

    /// Waits until `node` is connected, dialling it where needed.
    ///
    /// # Errors
    /// [`DialError`] if it cannot be reached.
    pub async fn reach(&self, node: NodeId) -> Result<(), DialError> {
        let (waiter, answer) = oneshot::channel();
        self.commands.send(Command::Reach { node, waiter }).await.map_err(|_| DialError::Stopped)?;
        answer.await.unwrap_or(Err(DialError::Stopped)).map(|_| ())
    }

    /// Closes every connection to `node` and does not seek it again for ten minutes. It may still dial us.
    pub async fn disconnect(&self, node: NodeId) {
        let _ = self.commands.send(Command::Disconnect(node)).await;
    }

    /// Closes every connection to `node` and refuses new ones, in both directions, forgets where it is and hears nothing of
    /// it, until this mesh ends or the node is let in again.
    pub async fn ban(&self, node: NodeId) {
        let _ = self.commands.send(Command::Ban(node)).await;
    }

    /// Lets a node in again that was banned.
    pub async fn unban(&self, node: NodeId) {
        let _ = self.commands.send(Command::Unban(node)).await;
    }

    /// Tells everybody what a cell orders, as its coordinator.
    pub async fn direct(&self, directives: CellDirectives) {
        let said = Box::new(Gossip::Directives(Box::new(directives)));
        let _ = self.commands.send(Command::Say(said)).await;
    }

    /// Tells everybody how this node stands now; where nobody is connected, as soon as somebody is.
    pub async fn present(&self, state: PresenceState) {
        let _ = self.commands.send(Command::Present(state)).await;
    }

    /// Accepts streams of `protocol` (such as `/worldcompute/blob/1.0.0`) under the configured default limits.
    ///
    /// # Errors
    /// [`AcceptError`] if the id is malformed or somebody in this process accepts it already.
    pub fn accept(&self, protocol: &str) -> Result<Incoming, AcceptError> {
        self.accept_within(protocol, self.streams_default)
    }

    /// Accepts streams of `protocol` under limits of its own.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub fn accept_within(&self, protocol: &str, limits: StreamLimits) -> Result<Incoming, AcceptError> {
        self.registry.accept(protocol, limits)
    }

    /// Opens a stream to `node`, connecting first if there is no connection and an address is known.
    ///
    /// # Errors
    /// [`OpenError`]; none of them leaves a half-open stream behind.
    pub async fn open(&self, node: NodeId, protocol: &str) -> Result<MeshStream, OpenError> {
        self.open_as(node, protocol, true).await
    }

    /// As [`open`](Self::open), but without waiting for the peer's consent, which is a round trip: for protocols in which we
    /// speak first. A peer that does not accept the protocol ends the stream instead of answering.
    ///
    /// # Errors
    /// As `open`, without [`OpenError::UnsupportedProtocol`].
    pub async fn open_lazily(&self, node: NodeId, protocol: &str) -> Result<MeshStream, OpenError> {
        self.open_as(node, protocol, false).await
    }

    async fn open_as(&self, node: NodeId, protocol: &str, agreed: bool) -> Result<MeshStream, OpenError> {
        let id =
            protocol_id(protocol).ok_or_else(|| OpenError::Malformed { protocol: protocol.to_owned() })?;
        let peer = peer_of(node);
        let opened = timeout(OPEN_TIMEOUT, async {
            let mut tries = OPEN_TRIES;
            loop {
                tries -= 1;
                match self.registry.open(&peer, id.clone(), agreed).await {
                    // A connection that ends while a stream is opened on it says nothing about the next one.
                    Err(LinkError::NoLink | LinkError::Io(_)) if tries > 0 => self.reach(node).await?,
                    other => return Ok(other),
                }
            }
        })
        .await;
        let protocol = protocol.to_owned();
        match opened {
            Err(_) => Err(OpenError::Timeout { node, protocol }),
            Ok(Err(DialError::Stopped)) => Err(OpenError::Stopped),
            Ok(Err(source)) => Err(OpenError::NotConnected { node, source }),
            Ok(Ok(Ok(stream))) => Ok(stream),
            Ok(Ok(Err(_))) if self.registry.is_stopped() => Err(OpenError::Stopped),
            Ok(Ok(Err(LinkError::NoLink))) => {
                Err(OpenError::Io { node, protocol, source: std::io::ErrorKind::NotConnected.into() })
            }
            Ok(Ok(Err(LinkError::UnsupportedProtocol))) => {
                Err(OpenError::UnsupportedProtocol { node, protocol })
            }
            Ok(Ok(Err(LinkError::Timeout))) => Err(OpenError::Timeout { node, protocol }),
            Ok(Ok(Err(LinkError::Io(source)))) => Err(OpenError::Io { node, protocol, source }),
        }
    }

    /// Says, as an event, that a peer broke a protocol spoken above this crate.
    pub fn report_misbehaviour(&self, node: NodeId, what: impl Into<String>) {
        let what = what.into();
        tracing::info!(node_id = %node, what, "peer misbehaved");
        self.events.send(MeshEvent::PeerMisbehaved { node, what });
    }

    /// Closes every connection and returns when the swarm task has ended.
    pub async fn stop(&self) {
        let _ = self.ask(Command::Stop).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}
