//! Where an address leads: to which host, on which network, through which relay.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::address::{is_circuit, is_loopback};

/// The network that a host is in, as far as an address tells: /24 of IPv4, /48 of IPv6, which is about what one customer
/// of a provider has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Prefix {
    V4([u8; 3]),
    V6([u8; 6]),
}

impl Prefix {
    /// Returns the network of the first host in `addr`; `None` for names and for circuits without their relay.
    pub(crate) fn of(addr: &Multiaddr) -> Option<Self> {
        Some(Self::of_ip(ip_of(addr)?))
    }

    fn of_ip(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f])
            }
        }
    }
}

/// The larger network that a public host is in: /16 of IPv4, /32 of IPv6 (NET-32).
pub(crate) fn region_of(addr: &Multiaddr) -> Option<[u8; 4]> {
    let ip = ip_of(addr).filter(|ip| is_public(*ip))?;
    Some(match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            [0, 0, a, b]
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.octets();
            [a, b, c, d]
        }
    })
}

/// Returns the host at the beginning of `addr`.
pub(crate) fn ip_of(addr: &Multiaddr) -> Option<IpAddr> {
    match addr.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Returns `addr` at another host.
pub(crate) fn with_ip(addr: &Multiaddr, ip: IpAddr) -> Multiaddr {
    addr.iter().skip(1).fold(Multiaddr::from(ip), Multiaddr::with)
}

/// Returns the host and port at the beginning of `addr`.
pub(crate) fn socket_of(addr: &Multiaddr) -> Option<SocketAddr> {
    let ip = ip_of(addr)?;
    match addr.iter().nth(1)? {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// Returns the address of this machine from which packets to `remote` leave now. Sends nothing.
pub(crate) fn source_of(remote: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Returns whether `addr` is of use only with the name of an interface, which a multiaddr does not carry.
pub(crate) fn is_scoped(addr: &Multiaddr) -> bool {
    matches!(ip_of(addr), Some(IpAddr::V6(ip)) if ip.is_unicast_link_local())
}

/// Returns whether `addr` is one of a private network that this machine is not in. There may be a way to it all the same,
/// or somebody else may have it.
pub(crate) fn is_foreign(addr: &Multiaddr) -> bool {
    let Some(socket) = socket_of(addr).filter(|_| is_near(addr) && !is_circuit(addr)) else { return false };
    let shares = |source: IpAddr| Prefix::of_ip(source) == Prefix::of_ip(socket.ip());
    !socket.ip().is_loopback() && !source_of(socket).is_some_and(shares)
}

/// Returns whether the host of `addr` is this machine, or one of the network that we speak to it from.
pub(crate) fn is_neighbour(addr: &Multiaddr, source: Option<IpAddr>) -> bool {
    let shares = |source: IpAddr| Prefix::of(addr) == Some(Prefix::of_ip(source));
    is_loopback(addr) || source.is_some_and(shares)
}

/// Returns whether the host of `addr` is this machine, or one of a private network.
pub(crate) fn is_near(addr: &Multiaddr) -> bool {
    ip_of(addr).is_some_and(|ip| !is_public(ip))
}

/// Returns whether hosts everywhere may reach `ip`. Documentation ranges count as public: tests build internets of them.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = Ipv4Addr::new(100, 64, 0, 0).to_bits() == ip.to_bits() & 0xffc0_0000;
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || shared)
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local())
                && ip != Ipv6Addr::UNSPECIFIED
        }
    }
}

/// Returns the relay that `addr` leads through, if it is an address through exactly one relay (NET-14).
pub(crate) fn relay_of(addr: &Multiaddr) -> Option<PeerId> {
    let mut relay = None;
    let mut circuits = 0;
    for part in addr {
        match part {
            Protocol::P2p(peer) if circuits == 0 => relay = Some(peer),
            Protocol::P2pCircuit => circuits += 1,
            _ => {}
        }
    }
    relay.filter(|_| circuits == 1)
}

/// Returns the address of the relay that `addr` leads through, without its name.
pub(crate) fn before_circuit(addr: &Multiaddr) -> Option<Multiaddr> {
    let before = addr.iter().take_while(|part| !matches!(part, Protocol::P2p(_) | Protocol::P2pCircuit));
    let relay: Multiaddr = before.collect();
    (!relay.is_empty()).then_some(relay)
}

/// Returns whether `addr` is one that a node may be dialled at by a stranger's word: direct, or through one relay that is
/// not `local` itself.
pub(crate) fn is_dialable(addr: &Multiaddr, local: &PeerId) -> bool {
    !is_circuit(addr) || relay_of(addr).is_some_and(|relay| relay != *local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_is_what_one_customer_has() {
        let prefix = |text: &str| Prefix::of(&addr(text));
        assert_eq!(prefix("/ip4/192.0.2.1/tcp/1"), prefix("/ip4/192.0.2.200/udp/9/quic-v1"));
        assert_ne!(prefix("/ip4/192.0.2.1/tcp/1"), prefix("/ip4/192.0.3.1/tcp/1"));
        assert_eq!(prefix("/ip6/2001:db8:1::1/tcp/1"), prefix("/ip6/2001:db8:1:ffff::2/tcp/1"));
        assert_eq!(prefix("/ip6/::ffff:192.0.2.1/tcp/1"), prefix("/ip4/192.0.2.1/tcp/1"));
        assert_eq!(prefix("/dns4/example.org/tcp/1"), None);
        assert_eq!(region_of(&addr("/ip4/8.8.1.1/tcp/1")), region_of(&addr("/ip4/8.8.2.2/tcp/1")));
        for near in
            ["/ip4/10.1.1.1/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip4/100.64.0.1/tcp/1", "/ip6/fd00::1/tcp/1"]
        {
            assert!(is_near(&addr(near)) && region_of(&addr(near)).is_none(), "{near}");
        }
    }

    #[test]
    fn an_address_moves_to_another_host_with_everything_else() {
        let hash = "/tcp/443/tls/ws/certhash/uEiDuT6aO45IY_l6jtPrXPgrlGT_gsLrg2JtandYvOiEojA";
        let moved = with_ip(&addr(&format!("/ip4/10.0.0.2{hash}")), Ipv4Addr::new(192, 0, 2, 9).into());
        assert_eq!(moved, addr(&format!("/ip4/192.0.2.9{hash}")));
    }

    #[test]
    fn a_private_network_is_foreign_unless_this_machine_is_in_it() {
        assert!(!is_foreign(&addr("/ip4/127.0.0.1/tcp/1")));
        assert!(!is_foreign(&addr("/ip4/192.0.2.1/tcp/1")), "a public address is nobody's neighbour");
        let ours = source_of(SocketAddr::from(([192, 0, 2, 1], 1))).filter(|ip| !is_public(*ip));
        if let Some(ours) = ours {
            assert!(!is_foreign(&Multiaddr::from(ours).with(Protocol::Tcp(1))));
        }
        // A machine has one of these networks at most.
        let networks = ["/ip4/10.251.3.9/tcp/1", "/ip4/10.252.3.9/tcp/1"];
        assert!(networks.iter().any(|network| is_foreign(&addr(network))));
    }

    #[test]
    fn a_neighbour_is_on_this_machine_or_in_the_network_that_we_speak_from() {
        let from = |ip: &str| Some(ip.parse::<IpAddr>().unwrap());
        assert!(is_neighbour(&addr("/ip4/127.0.0.1/tcp/1"), None));
        assert!(is_neighbour(&addr("/ip4/192.168.7.9/udp/1/quic-v1"), from("192.168.7.1")));
        assert!(is_neighbour(&addr("/ip6/2001:db8:1::9/tcp/1"), from("2001:db8:1:2::1")));
        assert!(!is_neighbour(&addr("/ip4/192.168.8.9/tcp/1"), from("192.168.7.1")));
        assert!(!is_neighbour(&addr("/ip4/192.168.7.9/tcp/1"), None));
        assert!(!is_neighbour(&addr("/dns4/example.org/tcp/1"), from("192.168.7.1")));
    }

    #[test]
    fn a_circuit_has_exactly_one_relay_and_it_is_not_us() {
        let [relay, local] = [PeerId::random(), PeerId::random()];
        let circuit = addr(&format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit"));
        assert_eq!(relay_of(&circuit), Some(relay));
        assert_eq!(relay_of(&circuit.clone().with(Protocol::P2p(local))), Some(relay));
        assert_eq!(relay_of(&circuit.clone().with(Protocol::P2p(local)).with(Protocol::P2pCircuit)), None);
        assert_eq!(relay_of(&addr("/p2p-circuit")), None);
        assert!(is_dialable(&circuit, &local) && !is_dialable(&circuit, &relay));
        assert!(is_dialable(&addr("/ip4/192.0.2.1/tcp/1"), &local));
    }
}
