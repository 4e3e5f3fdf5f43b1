//! Where each known node was last said to be reachable.

use std::collections::{HashMap, VecDeque};

use libp2p::{Multiaddr, PeerId};

/// Addresses kept per node; the newest win.
pub(crate) const ADDRS_MAX: usize = 8;
/// Nodes kept; one more forgets the one that was heard of longest ago.
const NODES_MAX: usize = 4096;
/// The same for what nobody has signed: less, and beside the rest, so that whoever makes it up takes no place of it.
const HINTED_ADDRS_MAX: usize = 4;
const HINTED_NODES_MAX: usize = 512;

/// The address book. Lives as long as the mesh; whoever wants it longer saves it above.
#[derive(Debug, Default)]
pub(crate) struct Book {
    told: Shelf<NODES_MAX, ADDRS_MAX>,
    hinted: Shelf<HINTED_NODES_MAX, HINTED_ADDRS_MAX>,
}

impl Book {
    /// Notes what the node itself said, or our owner.
    pub(crate) fn add(&mut self, peer: PeerId, addrs: impl IntoIterator<Item = Multiaddr>) {
        self.told.add(peer, addrs);
    }

    /// Notes what somebody nearby said of the node.
    pub(crate) fn hint(&mut self, peer: PeerId, addrs: impl IntoIterator<Item = Multiaddr>) {
        self.hinted.add(peer, addrs);
    }

    pub(crate) fn addrs(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let mut addrs: Vec<Multiaddr> = self.told.of(peer).cloned().collect();
        for addr in self.hinted.of(peer) {
            if !addrs.contains(addr) {
                addrs.push(addr.clone());
            }
        }
        addrs
    }

    pub(crate) fn first(&self, peer: &PeerId) -> Option<Multiaddr> {
        self.told.of(peer).chain(self.hinted.of(peer)).next().cloned()
    }

    /// Forgets a node.
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.told.forget(peer);
        self.hinted.forget(peer);
    }

    /// Forgets an address that failed; the last one is kept if `keep_last`.
    pub(crate) fn remove(&mut self, peer: &PeerId, addr: &Multiaddr, keep_last: bool) {
        if keep_last && self.addrs(peer).len() == 1 {
            return;
        }
        self.told.remove(peer, addr);
        self.hinted.remove(peer, addr);
    }
}

#[derive(Debug, Default)]
struct Shelf<const NODES: usize, const ADDRS: usize> {
    nodes: HashMap<PeerId, VecDeque<Multiaddr>>,
    /// Order of arrival, for forgetting.
    order: VecDeque<PeerId>,
}

impl<const NODES: usize, const ADDRS: usize> Shelf<NODES, ADDRS> {
    fn add(&mut self, peer: PeerId, addrs: impl IntoIterator<Item = Multiaddr>) {
        for addr in addrs {
            if !self.nodes.contains_key(&peer) {
                if self.nodes.len() >= NODES
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.nodes.remove(&oldest);
                }
                self.order.push_back(peer);
            }
            let known = self.nodes.entry(peer).or_default();
            known.retain(|other| *other != addr);
            known.push_front(addr);
            known.truncate(ADDRS);
        }
    }

    fn of(&self, peer: &PeerId) -> impl Iterator<Item = &Multiaddr> {
        self.nodes.get(peer).into_iter().flatten()
    }

    fn forget(&mut self, peer: &PeerId) {
        if self.nodes.remove(peer).is_some() {
            self.order.retain(|other| other != peer);
        }
    }

    fn remove(&mut self, peer: &PeerId, addr: &Multiaddr) {
        let Some(addrs) = self.nodes.get_mut(peer) else { return };
        addrs.retain(|other| other != addr);
        if addrs.is_empty() {
            self.nodes.remove(peer);
            self.order.retain(|other| other != peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_keeps_the_newest_addresses_of_the_newest_nodes() {
        let mut book = Book::default();
        let first = PeerId::random();
        let addr = |port: u16| format!("/ip4/10.0.0.1/tcp/{port}").parse::<Multiaddr>().unwrap();
        book.add(first, (0..20).map(addr));
        assert_eq!(book.addrs(&first).len(), ADDRS_MAX);
        assert_eq!(book.first(&first), Some(addr(19)));
        for _ in 0..NODES_MAX {
            book.add(PeerId::random(), [addr(1)]);
        }
        assert!(book.addrs(&first).is_empty());
        assert_eq!((book.told.nodes.len(), book.told.order.len()), (NODES_MAX, NODES_MAX));
    }

    #[test]
    fn a_failed_address_is_forgotten_unless_it_is_the_last_of_a_kept_node() {
        let mut book = Book::default();
        let peer = PeerId::random();
        let addr = "/ip4/10.0.0.1/tcp/1".parse::<Multiaddr>().unwrap();
        book.add(peer, [addr.clone()]);
        book.remove(&peer, &addr, true);
        assert_eq!(book.addrs(&peer).len(), 1);
        book.remove(&peer, &addr, false);
        assert!(book.addrs(&peer).is_empty() && book.told.order.is_empty());
    }
    #[test]
    fn what_somebody_nearby_makes_up_takes_no_place_of_what_nodes_said_themselves() {
        let mut book = Book::default();
        let peer = PeerId::random();
        let addr = |port: usize| format!("/ip4/10.0.0.1/tcp/{port}").parse::<Multiaddr>().unwrap();
        book.add(peer, [addr(1)]);
        book.hint(peer, (2..100).map(addr));
        book.hint(peer, [addr(1)]);
        assert_eq!(book.addrs(&peer), [1, 99, 98, 97].map(addr));
        for number in 0..2 * NODES_MAX {
            book.hint(PeerId::random(), [addr(number)]);
        }
        assert_eq!(book.addrs(&peer), [addr(1)]);
        assert_eq!(book.hinted.nodes.len(), HINTED_NODES_MAX);
    }
}
