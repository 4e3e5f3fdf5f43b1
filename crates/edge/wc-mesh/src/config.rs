//! What a mesh must be told before it starts, and how much it may hold.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libp2p::Multiaddr;

use crate::resolve::DnsConfig;
use crate::transport::{Inspection, ProxyConfig, WssCertificate};

/// Port that a node listens on unless told otherwise, on TCP and on UDP (NET-02).
pub const PORT_DEFAULT: u16 = 19999;
/// Longest network name, in bytes: it travels inside the identify agent string, which others log.
pub const NETWORK_NAME_BYTES_MAX: usize = 64;

/// Everything a [`Mesh`](crate::Mesh) needs to start.
#[derive(Clone)]
pub struct MeshConfig {
    /// Seed of the node's Ed25519 key; the node id is derived from it.
    pub secret: [u8; 32],
    /// Addresses to listen on. A port that is taken is replaced by a free one, which an event tells.
    pub listen: Vec<Multiaddr>,
    /// Name of the network: nodes of different networks do not stay connected. 1 to 64 of `a-z 0-9 . _ -`.
    pub network: String,
    /// How to find nodes nearby.
    pub lan: LanDiscovery,
    /// Addresses that are dialled at the start and again, with growing pauses, whenever the connection is gone.
    pub seeds: Vec<Multiaddr>,
    /// Part in the network's Kademlia table, at least: a node that strangers can reach serves it in any case.
    pub dht: DhtRole,
    /// How others reach this node.
    pub reach: ReachConfig,
    /// Announcements of an earlier start ([`Mesh::known`](crate::Mesh::known)): where to find the network again.
    pub known: Vec<wc_types::Signed<wc_proto::peer::announce::Announcement>>,
    /// Handshake proposed first when dialling over TCP; both are always accepted.
    pub tcp_session: TcpSession,
    /// How connections get past what stands in the way: proxies, name servers, interception.
    pub transport: TransportConfig,
    /// Upper bounds.
    pub limits: MeshLimits,
    /// What this node calls itself, such as `worldcompute/0.1.0`.
    pub agent_version: String,
}

impl MeshConfig {
    /// Returns a configuration that listens on the default ports of every interface and finds its LAN by itself.
    pub fn new(secret: [u8; 32], network: impl Into<String>) -> Self {
        Self {
            secret,
            listen: listen_default(),
            network: network.into(),
            lan: LanDiscovery { mdns: true, loopback: true },
            seeds: Vec::new(),
            dht: DhtRole::Client,
            reach: ReachConfig::default(),
            known: Vec::new(),
            tcp_session: TcpSession::Tls,
            transport: TransportConfig::default(),
            limits: MeshLimits::default(),
            agent_version: concat!("worldcompute/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Leaves the secret out.
impl fmt::Debug for MeshConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshConfig")
            .field("listen", &self.listen)
            .field("network", &self.network)
            .field("lan", &self.lan)
            .field("seeds", &self.seeds)
            .field("dht", &self.dht)
            .field("reach", &self.reach)
            .field("tcp_session", &self.tcp_session)
            .field("transport", &self.transport)
            .field("limits", &self.limits)
            .field("agent_version", &self.agent_version)
            .finish_non_exhaustive()
    }
}

/// What stands between a node and the others, and the listeners that need a certificate.
#[derive(Debug, Clone, Default)]
pub struct TransportConfig {
    /// Certificate of the WebSocket listeners, if there are any.
    pub certificate: WssCertificate,
    /// What to do about certificates that somebody in between has made.
    pub inspection: Inspection,
    /// Authorities, in PEM, that are believed like the public ones.
    pub authorities_pem: Option<Vec<u8>>,
    /// The proxy, and what is reached without it.
    pub proxies: ProxyConfig,
    /// How names are looked up.
    pub dns: DnsConfig,
}

/// Returns every interface on the default TCP and QUIC ports, over IPv4 and IPv6.
pub fn listen_default() -> Vec<Multiaddr> {
    use libp2p::multiaddr::Protocol;
    let families = [Multiaddr::from(Ipv4Addr::UNSPECIFIED), Multiaddr::from(Ipv6Addr::UNSPECIFIED)];
    let both = |any: Multiaddr| {
        let quic = any.clone().with(Protocol::Udp(PORT_DEFAULT)).with(Protocol::QuicV1);
        [any.with(Protocol::Tcp(PORT_DEFAULT)), quic]
    };
    families.into_iter().flat_map(both).collect()
}

/// Ways to find nodes without being told about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanDiscovery {
    /// Multicast DNS on every interface but loopback.
    pub mdns: bool,
    /// The beacon on 127.0.0.1, which needs no network at all.
    pub loopback: bool,
}

/// Part that a node takes in the Kademlia table of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DhtRole {
    /// Asks, does not answer: the right choice behind a NAT.
    Client,
    /// Answers others and is listed in their tables: for nodes that others can reach.
    Server,
}

/// How others reach a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReachConfig {
    /// Addresses at which everybody can dial this node, because its operator says so.
    pub external: Vec<Multiaddr>,
    /// Relays for others, under these limits.
    pub relay: Option<crate::relay::RelayLimits>,
    /// When to hold reservations on relays of others.
    pub reservations: Reservations,
    /// Asks the router to forward our ports (PCP, NAT-PMP, UPnP).
    pub port_mapping: bool,
}

impl Default for ReachConfig {
    fn default() -> Self {
        Self {
            external: Vec::new(),
            relay: None,
            reservations: Reservations::WhenUnreachable,
            port_mapping: false,
        }
    }
}

/// When a node holds reservations on relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reservations {
    /// As long as strangers do not get through to it.
    WhenUnreachable,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Encryption of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpSession {
    /// Noise XX with ChaCha20-Poly1305.
    Noise,
    /// TLS 1.3 as libp2p specifies it, with AES-GCM where the processor helps.
    Tls,
}

/// How much one mesh may hold. Everything that a peer can make grow has a number here or beside its constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshLimits {
    /// Established connections, in both directions together. One costs about 100 KiB.
    pub connections_max: u32,
    /// Established connections with one peer: two for a crossed dial, two more while either side
    /// reconnects, and two circuits that a direct path takes over from.
    pub connections_per_peer_max: u32,
    /// Established inbound connections from one network (/24 of IPv4, /48 of IPv6); this machine is not counted.
    pub connections_per_prefix_max: u32,
    /// New inbound connections from one network at once, and per minute after that.
    pub connections_per_prefix_burst: u32,
    /// See there.
    pub connections_per_prefix_per_minute: u32,
    /// Connections that are still shaking hands, per direction.
    pub connections_pending_max: u32,
    /// Time for one dial, handshakes included.
    pub dial_timeout: Duration,
    /// Time between a connection and the peer's identification on it; without it the connection is closed.
    pub identify_timeout: Duration,
    /// How long a connection that nobody asked to keep may idle.
    pub idle_timeout: Duration,
    /// Events waiting for their reader; further ones are counted, dropped and reported as `Lagged`.
    pub events_queued_max: usize,
    /// Defaults for protocols that name no limits of their own.
    pub streams: StreamLimits,
}

impl Default for MeshLimits {
    fn default() -> Self {
        Self {
            connections_max: 2048,
            connections_per_peer_max: 6,
            connections_per_prefix_max: 512,
            connections_per_prefix_burst: 512,
            connections_per_prefix_per_minute: 600,
            connections_pending_max: 256,
            dial_timeout: Duration::from_secs(8),
            identify_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            events_queued_max: 4096,
            streams: StreamLimits::default(),
        }
    }
}

/// How many streams of one protocol one peer may open to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// Streams that one peer may hold open at the same time.
    pub per_peer_max: u32,
    /// Streams that one peer may open per second, averaged.
    pub per_peer_rate_per_second: u32,
    /// Streams that one peer may open at once before the average counts.
    pub per_peer_burst: u32,
    /// Accepted streams of all peers that wait for [`Incoming`](crate::Incoming) to be read.
    pub queued_max: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { per_peer_max: 64, per_peer_rate_per_second: 64, per_peer_burst: 128, queued_max: 256 }
    }
}

/// Returns whether `name` may name a network.
pub(crate) fn is_network_name(name: &str) -> bool {
    (1..=NETWORK_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}
