//! What a multiaddr says: which transport, which node, and which of several to try first.

use std::iter::Peekable;
use std::net::IpAddr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use wc_types::NodeId;

/// Longest host name, as DNS counts it.
const NAME_BYTES_MAX: usize = 253;
/// Certificate fingerprints that one address may name; a relay that changes its certificate names two for a while.
const PINS_MAX: usize = 4;
/// Code of SHA-256 among multihashes.
pub(crate) const SHA2_256: u64 = 0x12;

/// How bytes travel to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// QUIC v1 over UDP.
    Quic,
    /// TCP with an encrypted, multiplexed session on top.
    Tcp,
    /// The same session inside a WebSocket inside TLS: to the network it is a visit to a web site.
    Wss,
    /// A circuit through a relay.
    Relay,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
            Self::Wss => "wss",
            Self::Relay => "relay",
        })
    }
}

/// Returns the transport that `addr` asks for, or `None` when it is one that this build does not speak.
pub fn transport_of(addr: &Multiaddr) -> Option<Transport> {
    if is_circuit(addr) {
        return Some(Transport::Relay);
    }
    Some(match Endpoint::parse(addr)?.way {
        Way::Quic => Transport::Quic,
        Way::Tcp => Transport::Tcp,
        Way::Wss { .. } => Transport::Wss,
    })
}

/// Returns whether `addr` leads through a relay.
pub(crate) fn is_circuit(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| part == Protocol::P2pCircuit)
}

/// What a direct address says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) way: Way,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// At this address.
    Ip(IpAddr),
    /// At every address of this name.
    Name(String, Family),
}

/// Which addresses of a name count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Both.
    Any,
}

/// How an endpoint is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// QUIC v1.
    Quic,
    /// TCP.
    Tcp,
    /// WebSocket over TLS.
    Wss {
        /// Name that the certificate must be for, where the host does not say it.
        name: Option<String>,
        /// SHA-256 of certificates that are the endpoint's whoever issued them.
        pins: Vec<[u8; 32]>,
    },
}

impl Endpoint {
    /// Reads `addr`; `None` if it is no direct address of a kind that this build speaks.
    ///
    /// WebSocket over TLS is `/tcp/443/tls/ws` or `/tcp/443/wss`, with `/sni/<name>` behind `/tls`, and with
    /// `/certhash/<multihash>` at the end.
    pub(crate) fn parse(addr: &Multiaddr) -> Option<Self> {
        let mut parts = addr.iter().peekable();
        let host = match parts.next()? {
            Protocol::Ip4(ip) => Host::Ip(ip.into()),
            Protocol::Ip6(ip) => Host::Ip(ip.into()),
            Protocol::Dns(name) => Host::Name(host_name(&name)?, Family::Any),
            Protocol::Dns4(name) => Host::Name(host_name(&name)?, Family::V4),
            Protocol::Dns6(name) => Host::Name(host_name(&name)?, Family::V6),
            _ => return None,
        };
        let (port, way) = match parts.next()? {
            Protocol::Udp(port) => (port, (parts.next()? == Protocol::QuicV1).then_some(Way::Quic)?),
            Protocol::Tcp(port) => match parts.peek() {
                None | Some(Protocol::P2p(_)) => (port, Way::Tcp),
                Some(_) => (port, wss(&mut parts)?),
            },
            _ => return None,
        };
        match parts.next() {
            None => {}
            Some(Protocol::P2p(_)) if parts.next().is_none() => {}
            Some(_) => return None,
        }
        Some(Self { host, port, way })
    }
}

/// Reads what makes a TCP address one of WebSocket over TLS.
fn wss<'a>(parts: &mut Peekable<impl Iterator<Item = Protocol<'a>>>) -> Option<Way> {
    let mut name = None;
    match parts.next()? {
        Protocol::Tls => {
            if let Some(Protocol::Sni(wanted)) = parts.peek() {
                name = Some(host_name(wanted)?);
                parts.next();
            }
            match parts.next()? {
                Protocol::Ws(path) if path == "/" => {}
                _ => return None,
            }
        }
        Protocol::Wss(path) if path == "/" => {}
        _ => return None,
    }
    let mut pins = Vec::new();
    while let Some(Protocol::Certhash(hash)) = parts.peek() {
        if hash.code() != SHA2_256 || pins.len() == PINS_MAX {
            return None;
        }
        pins.push(hash.digest().try_into().ok()?);
        parts.next();
    }
    Some(Way::Wss { name, pins })
}

/// Returns `name` in small letters if it can be the name of a host: it goes into requests to proxies.
pub(crate) fn host_name(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    ((1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed))
        .then(|| name.to_ascii_lowercase())
}

/// Returns the node named at the end of `addr`, and the address without that name.
pub(crate) fn split_node(addr: &Multiaddr) -> (Multiaddr, Option<PeerId>) {
    let mut bare = addr.clone();
    match bare.iter().last() {
        Some(Protocol::P2p(peer)) => {
            bare.pop();
            (bare, Some(peer))
        }
        _ => (bare, None),
    }
}

/// Returns `addr` ending in the name of `peer`.
pub(crate) fn with_node(addr: Multiaddr, peer: PeerId) -> Multiaddr {
    addr.with_p2p(peer).unwrap_or_else(|other| other)
}

/// Returns whether `addr` stays inside this machine.
pub(crate) fn is_loopback(addr: &Multiaddr) -> bool {
    match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// Returns the rank of `addr` among the addresses of one node; lower is tried first.
///
/// This machine before the LAN before the rest, then by transport: QUIC, TCP, WebSocket over TLS (NET-20), and circuits
/// after everything direct. On the near ones TCP comes before QUIC: that QUIC crosses NATs and suffers less from lost
/// packets does not matter there, where one stream carries about 1,600 MiB/s over TCP and 340 over QUIC, for a fifth of
/// the processor time, and round trips differ by ten microseconds (`cargo bench -p wc-mesh`,
/// `docs/adr/0004-mesh-transports.md`).
pub(crate) fn rank(addr: &Multiaddr) -> u8 {
    let distance = match addr.iter().next() {
        Some(Protocol::Ip4(ip)) if ip.is_loopback() => 0,
        Some(Protocol::Ip6(ip)) if ip.is_loopback() => 0,
        Some(Protocol::Ip4(ip)) if ip.is_private() || ip.is_link_local() => 3,
        Some(Protocol::Ip6(ip)) if ip.is_unique_local() || ip.is_unicast_link_local() => 3,
        _ => 6,
    };
    let near = distance < 6;
    match transport_of(addr) {
        Some(Transport::Tcp) => distance + u8::from(!near),
        Some(Transport::Quic) => distance + u8::from(near),
        Some(Transport::Wss) => distance + 2,
        Some(Transport::Relay) => 9,
        None => 10,
    }
}

/// Returns the node behind `peer`, if its id is that of an Ed25519 key.
pub(crate) fn node_of(peer: &PeerId) -> Option<NodeId> {
    NodeId::from_peer_id_bytes(&peer.to_bytes())
}

/// Returns the peer id of `node`.
pub(crate) fn peer_of(node: NodeId) -> PeerId {
    // An identity multihash of 36 bytes is a peer id whatever the key inside it.
    PeerId::from_bytes(&node.to_peer_id_bytes()).expect("a node id is an identity multihash")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_names_its_transport_or_none() {
        let table = [
            ("/ip4/127.0.0.1/tcp/1", Some(Transport::Tcp)),
            ("/ip6/::1/udp/1/quic-v1", Some(Transport::Quic)),
            ("/ip4/1.2.3.4/udp/1/quic", None),
            ("/ip4/1.2.3.4/tcp/443/tls/ws", Some(Transport::Wss)),
            ("/dns4/relay.example/tcp/443/wss", Some(Transport::Wss)),
            ("/ip6/2001:db8::1/tcp/443/tls/sni/relay.example/ws", Some(Transport::Wss)),
            ("/ip4/1.2.3.4/tcp/80/ws", None),
            ("/ip4/1.2.3.4/tcp/443/tls", None),
            ("/dns4/example.org/tcp/1", Some(Transport::Tcp)),
            ("/dns/example.org/udp/1/quic-v1", Some(Transport::Quic)),
            ("/dns4/exa%20mple/tcp/1", None),
            ("/dnsaddr/example.org", None),
            ("/ip4/1.2.3.4", None),
        ];
        for (text, transport) in table {
            assert_eq!(transport_of(&addr(text)), transport, "{text}");
        }
    }

    #[test]
    fn a_fingerprint_in_an_address_is_read_and_anything_behind_it_is_not() {
        let base = "/ip4/1.2.3.4/tcp/443/tls/sni/Relay.Example./ws";
        let hash = libp2p::multihash::Multihash::<64>::wrap(SHA2_256, &[7; 32]).unwrap();
        let pinned = addr(base).with(Protocol::Certhash(hash));
        let way = Way::Wss { name: Some("relay.example".to_owned()), pins: vec![[7; 32]] };
        assert_eq!(Endpoint::parse(&with_node(pinned.clone(), peer_of(NodeId([7; 32])))).unwrap().way, way);
        assert_eq!(Endpoint::parse(&pinned.clone().with(Protocol::Tcp(1))), None);
        let short = libp2p::multihash::Multihash::<64>::wrap(SHA2_256, &[7; 31]).unwrap();
        assert_eq!(Endpoint::parse(&addr(base).with(Protocol::Certhash(short))), None);
        let many = (0..5).fold(addr(base), |addr, _| addr.with(Protocol::Certhash(hash)));
        assert_eq!(Endpoint::parse(&many), None, "fingerprints of one address are bounded");
    }

    #[test]
    fn near_addresses_come_first_and_tcp_leads_only_when_near() {
        let circuit = format!("/ip4/10.0.0.1/tcp/1/p2p/{}/p2p-circuit", peer_of(NodeId([7; 32])));
        let mut addrs = [
            circuit.as_str(),
            "/ip4/8.8.8.8/tcp/443/tls/ws",
            "/ip4/8.8.8.8/tcp/1",
            "/ip4/8.8.8.8/udp/1/quic-v1",
            "/ip4/10.0.0.1/udp/1/quic-v1",
            "/ip4/127.0.0.1/udp/1/quic-v1",
            "/ip4/10.0.0.1/tcp/1",
            "/ip4/127.0.0.1/tcp/1",
        ]
        .map(addr);
        addrs.sort_by_key(rank);
        let texts: Vec<String> = addrs.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "/ip4/127.0.0.1/tcp/1",
                "/ip4/127.0.0.1/udp/1/quic-v1",
                "/ip4/10.0.0.1/tcp/1",
                "/ip4/10.0.0.1/udp/1/quic-v1",
                "/ip4/8.8.8.8/udp/1/quic-v1",
                "/ip4/8.8.8.8/tcp/1",
                "/ip4/8.8.8.8/tcp/443/tls/ws",
                circuit.as_str(),
            ]
        );
    }

    #[test]
    fn a_node_id_and_its_peer_id_name_each_other() {
        let node = NodeId([7; 32]);
        assert_eq!(node_of(&peer_of(node)), Some(node));
        let (bare, peer) = split_node(&with_node(addr("/ip4/127.0.0.1/tcp/1"), peer_of(node)));
        assert_eq!((bare, peer), (addr("/ip4/127.0.0.1/tcp/1"), Some(peer_of(node))));
    }
}
