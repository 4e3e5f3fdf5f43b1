//! What a multiaddr says: which transport, which node, and which of several to try first.

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use wc_types::NodeId;

/// How bytes travel to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP with an encrypted, multiplexed session on top.
    Tcp,
    /// QUIC v1 over UDP.
    Quic,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        })
    }
}

/// Returns the transport that `addr` asks for, or `None` when it is one that this build does not speak.
pub fn transport_of(addr: &Multiaddr) -> Option<Transport> {
    let mut parts = addr.iter();
    match parts.next()? {
        Protocol::Ip4(_) | Protocol::Ip6(_) => {}
        _ => return None,
    }
    let transport = match (parts.next()?, parts.next()) {
        (Protocol::Tcp(_), None | Some(Protocol::P2p(_))) => Transport::Tcp,
        (Protocol::Udp(_), Some(Protocol::QuicV1)) => Transport::Quic,
        _ => return None,
    };
    Some(transport)
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
/// This machine before the LAN before the rest, and on each of the near ones TCP before QUIC. The catalogue (NET-20)
/// ranks QUIC first because it crosses NATs and suffers less from lost packets; neither matters nearby, where one stream
/// carries about 1,600 MiB/s over TCP and 340 over QUIC, for a fifth of the processor time, and round trips differ by ten
/// microseconds (`cargo bench -p wc-mesh`, `docs/adr/0004-mesh-transports.md`). Beyond the LAN QUIC is first.
pub(crate) fn rank(addr: &Multiaddr) -> u8 {
    let distance = match addr.iter().next() {
        Some(Protocol::Ip4(ip)) if ip.is_loopback() => 0,
        Some(Protocol::Ip6(ip)) if ip.is_loopback() => 0,
        Some(Protocol::Ip4(ip)) if ip.is_private() || ip.is_link_local() => 2,
        Some(Protocol::Ip6(ip)) if ip.is_unique_local() || ip.is_unicast_link_local() => 2,
        _ => 4,
    };
    let near = distance < 4;
    match transport_of(addr) {
        Some(Transport::Tcp) => distance + u8::from(!near),
        Some(Transport::Quic) => distance + u8::from(near),
        None => 6,
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
            ("/ip4/1.2.3.4/tcp/443/tls/ws", None),
            ("/dns4/example.org/tcp/1", None),
            ("/ip4/1.2.3.4", None),
        ];
        for (text, transport) in table {
            assert_eq!(transport_of(&addr(text)), transport, "{text}");
        }
    }

    #[test]
    fn near_addresses_come_first_and_tcp_leads_only_when_near() {
        let mut addrs = [
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
