//! What stands between this node and the internet (NET-11, E-31).
//!
//! Two questions, each answered by evidence from others. *Mapping*: do two peers at different addresses see us at the same
//! address and port? Only then can a third one use it. *Filtering*: who gets through to that address: anybody, only hosts
//! that we have sent to, or only the very ports?

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;

use crate::address::{Transport, transport_of};
use crate::path::{is_near, socket_of};

/// Observations that are kept, the newest ones.
const SEEN_MAX: usize = 32;

/// What kind of NAT or firewall this node sits behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NatKind {
    /// None: peers see the address that we listen on, and get through.
    Direct,
    /// One mapping for all, and anybody gets through.
    FullCone,
    /// One mapping for all; hosts that we have sent to get through from any port.
    RestrictedCone,
    /// One mapping for all; only ports that we have sent to get through.
    PortRestricted,
    /// Another mapping for each peer: its address is of no use to a third one.
    Symmetric,
    /// Not enough evidence.
    #[default]
    Unknown,
}

impl NatKind {
    /// Returns its name in a status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::FullCone => "full-cone",
            Self::RestrictedCone => "restricted-cone",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::Unknown => "unknown",
        }
    }

    /// Returns whether strangers get through.
    pub fn is_open(self) -> bool {
        match self {
            Self::Direct | Self::FullCone => true,
            Self::RestrictedCone | Self::PortRestricted | Self::Symmetric | Self::Unknown => false,
        }
    }
}

/// How we look from outside, by one transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sight {
    transport: Transport,
    /// Who saw us.
    by: IpAddr,
    /// As what.
    as_: SocketAddr,
}

/// The evidence.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    sights: VecDeque<Sight>,
    /// Somebody whom we had never sent anything dialled us and got through.
    stranger: bool,
    /// A peer dialled us back from another port, when we asked for it.
    dialled_back: Option<bool>,
    /// Somebody from elsewhere got through to an address of our own.
    reached: bool,
    /// Somebody got through to a port that the router forwards to us.
    forwarded: bool,
    /// Our own addresses.
    own: Vec<SocketAddr>,
}

impl Evidence {
    /// Notes at which sockets this node listens.
    pub(crate) fn listening(&mut self, addrs: impl Iterator<Item = Multiaddr>) {
        self.own = addrs.filter_map(|addr| socket_of(&addr)).collect();
    }

    /// Notes that the peer at `remote`, whom we dialled from the port that we listen on, sees us at `observed`. Returns
    /// whether that tells something new about how we look from outside.
    pub(crate) fn observed(&mut self, remote: &Multiaddr, observed: &Multiaddr) -> bool {
        let (Some(by), Some(as_), Some(transport)) =
            (socket_of(remote), socket_of(observed), transport_of(observed))
        else {
            return false;
        };
        // A neighbour sees the address that we know ourselves; that says nothing about the way out.
        let neighbourly = is_near(remote) && self.own.contains(&as_);
        if by.ip().is_loopback() || neighbourly || transport_of(remote) != Some(transport) {
            return false;
        }
        let sight = Sight { transport, by: by.ip(), as_ };
        let new = !self.sights.iter().any(|known| (known.transport, known.as_) == (transport, as_));
        self.sights.retain(|known| (known.transport, known.by) != (transport, sight.by));
        self.sights.push_front(sight);
        self.sights.truncate(SEEN_MAX);
        new
    }

    /// Notes that somebody whom we had never sent anything got through to us.
    pub(crate) fn stranger_came(&mut self) {
        self.stranger = true;
    }

    /// Notes that somebody from elsewhere, whom we had never sent anything, got through to `addr`.
    pub(crate) fn reached(&mut self, addr: &Multiaddr) {
        self.reached |= !is_near(addr) && socket_of(addr).is_some_and(|socket| self.own.contains(&socket));
    }

    /// Notes that a peer got through to a port that the router forwards to us.
    pub(crate) fn forwarded_works(&mut self) {
        self.forwarded = true;
    }

    /// Notes how many ports the router forwards to us.
    pub(crate) fn forwards(&mut self, ports: usize) {
        self.forwarded &= ports > 0;
    }

    /// Notes how an attempt of a peer to dial us back ended.
    pub(crate) fn dialled_back(&mut self, success: bool) {
        // One success is proof; a failure may be the fault of the one who tried.
        self.dialled_back = Some(success || self.dialled_back == Some(true));
    }

    /// Forgets everything: the network has changed.
    pub(crate) fn forget(&mut self) {
        let own = std::mem::take(&mut self.own);
        *self = Self { own, ..Self::default() };
    }

    /// Returns what follows from the evidence.
    pub(crate) fn kind(&self) -> NatKind {
        if self.reached {
            return NatKind::Direct;
        }
        if self.forwarded {
            // Whatever the router does with other ports, anybody gets through to this one.
            return NatKind::FullCone;
        }
        let mut untranslated = false;
        let mut independent = false;
        for transport in [Transport::Quic, Transport::Tcp] {
            let sights: Vec<&Sight> = self
                .sights
                .iter()
                .filter(|sight| sight.transport == transport && sight.as_.is_ipv4())
                .collect();
            let Some(first) = sights.first() else { continue };
            if self.own.contains(&first.as_) {
                untranslated = true;
                continue;
            }
            if sights.iter().any(|sight| sight.as_ != first.as_) {
                return NatKind::Symmetric;
            }
            independent |= sights.len() >= 2;
        }
        match (untranslated, independent, self.stranger, self.dialled_back) {
            (true, _, true, _) | (true, _, _, Some(true)) => NatKind::Direct,
            // No translation, and still nobody gets in: a firewall that behaves like the narrowest cone.
            (true, _, false, Some(false)) => NatKind::PortRestricted,
            (false, true, true, _) => NatKind::FullCone,
            (false, true, false, Some(true)) => NatKind::RestrictedCone,
            (false, true, false, _) => NatKind::PortRestricted,
            (true, _, false, None) | (false, false, _, _) => NatKind::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    const LISTEN: &str = "/ip4/192.168.1.7/udp/19999/quic-v1";

    /// Remote host, and our port as it sees it on 203.0.113.9 (0: our own address).
    fn kind(sights: &[(&str, u16)], stranger: bool, dialled_back: Option<bool>) -> NatKind {
        let mut evidence = Evidence::default();
        evidence.listening([addr(LISTEN)].into_iter());
        for (by, port) in sights {
            let observed = match port {
                0 => addr(LISTEN),
                port => addr(&format!("/ip4/203.0.113.9/udp/{port}/quic-v1")),
            };
            evidence.observed(&addr(&format!("/ip4/{by}/udp/19999/quic-v1")), &observed);
        }
        if stranger {
            evidence.stranger_came();
        }
        if let Some(success) = dialled_back {
            evidence.dialled_back(success);
        }
        evidence.kind()
    }

    #[test]
    fn each_kind_follows_from_its_evidence() {
        let (a, b) = ("8.8.8.8", "1.1.1.1");
        let table = [
            (kind(&[], false, None), NatKind::Unknown),
            (kind(&[(a, 4000)], false, None), NatKind::Unknown),
            (kind(&[(a, 4000), (b, 4001)], false, None), NatKind::Symmetric),
            (kind(&[(a, 4000), (b, 4001)], true, Some(true)), NatKind::Symmetric),
            (kind(&[(a, 4000), (b, 4000)], false, None), NatKind::PortRestricted),
            (kind(&[(a, 4000), (b, 4000)], false, Some(false)), NatKind::PortRestricted),
            (kind(&[(a, 4000), (b, 4000)], false, Some(true)), NatKind::RestrictedCone),
            (kind(&[(a, 4000), (b, 4000)], true, None), NatKind::FullCone),
            (kind(&[(a, 0), (b, 0)], false, None), NatKind::Unknown),
            (kind(&[(a, 0), (b, 0)], true, None), NatKind::Direct),
            (kind(&[(a, 0)], false, Some(true)), NatKind::Direct),
            (kind(&[(a, 0)], false, Some(false)), NatKind::PortRestricted),
            (kind(&[("192.168.1.8", 0)], true, Some(true)), NatKind::Unknown),
        ];
        for (row, (found, expected)) in table.into_iter().enumerate() {
            assert_eq!(found, expected, "row {row}");
        }
    }

    #[test]
    fn a_public_address_of_our_own_that_strangers_reach_is_direct_without_anybody_having_told() {
        let own = addr("/ip4/8.8.4.4/udp/19999/quic-v1");
        let mut evidence = Evidence::default();
        evidence.listening([addr(LISTEN), own.clone()].into_iter());
        for elsewhere in [addr(LISTEN), addr("/ip4/8.8.4.4/udp/20000/quic-v1")] {
            evidence.reached(&elsewhere);
            assert_eq!(evidence.kind(), NatKind::Unknown, "{elsewhere}");
        }
        evidence.reached(&own);
        assert_eq!(evidence.kind(), NatKind::Direct);
    }

    #[test]
    fn a_forwarded_port_that_works_opens_even_a_symmetric_nat_until_it_is_gone() {
        let mut evidence = Evidence::default();
        evidence.listening([addr(LISTEN)].into_iter());
        for (by, port) in [("8.8.8.8", 4000), ("1.1.1.1", 4001)] {
            let observed = addr(&format!("/ip4/203.0.113.9/udp/{port}/quic-v1"));
            evidence.observed(&addr(&format!("/ip4/{by}/udp/19999/quic-v1")), &observed);
        }
        evidence.forwards(2);
        assert_eq!(evidence.kind(), NatKind::Symmetric, "nobody has tried it");
        evidence.forwarded_works();
        evidence.forwards(1);
        assert_eq!(evidence.kind(), NatKind::FullCone);
        evidence.forwards(0);
        assert_eq!(evidence.kind(), NatKind::Symmetric);
    }

    #[test]
    fn a_peer_that_looks_again_replaces_what_it_saw_and_the_rest_is_bounded() {
        let mut evidence = Evidence::default();
        let seen = |port: u16| addr(&format!("/ip4/203.0.113.9/tcp/{port}"));
        assert!(evidence.observed(&addr("/ip4/8.8.8.8/tcp/1"), &seen(1)));
        assert!(!evidence.observed(&addr("/ip4/1.1.1.1/tcp/1"), &seen(1)));
        assert!(evidence.observed(&addr("/ip4/8.8.8.8/tcp/1"), &seen(2)));
        assert_eq!(evidence.sights.len(), 2);
        for host in 0..200u8 {
            evidence.observed(&addr(&format!("/ip4/9.9.9.{host}/tcp/1")), &seen(3));
        }
        assert_eq!(evidence.sights.len(), SEEN_MAX);
        evidence.forget();
        assert_eq!(evidence.kind(), NatKind::Unknown);
    }
}
