//! Where each known node was last said to be reachable.

use std::collections::{HashMap, VecDeque};

use libp2p::{Multiaddr, PeerId};

/// Addresses kept per node; the newest win.
pub(crate) const ADDRS_MAX: usize = 8;
/// Nodes kept; one more forgets the one that was heard of longest ago.
const NODES_MAX: usize = 4096;

/// The address book. Lives as long as the mesh; whoever wants it longer saves it above.
#[derive(Debug, Default)]
pub(crate) struct Book {
    nodes: HashMap<PeerId, VecDeque<Multiaddr>>,
    /// Order of arrival, for forgetting.
    order: VecDeque<PeerId>,
}

impl Book {
    pub(crate) fn add(&mut self, peer: PeerId, addrs: impl IntoIterator<Item = Multiaddr>) {
        for addr in addrs {
            if !self.nodes.contains_key(&peer) {
                if self.nodes.len() >= NODES_MAX
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.nodes.remove(&oldest);
                }
                self.order.push_back(peer);
            }
            let known = self.nodes.entry(peer).or_default();
            known.retain(|other| *other != addr);
            known.push_front(addr);
            known.truncate(ADDRS_MAX);
        }
    }

    pub(crate) fn addrs(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.nodes.get(peer).map(|addrs| addrs.iter().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn first(&self, peer: &PeerId) -> Option<Multiaddr> {
        self.nodes.get(peer)?.front().cloned()
    }

    /// Forgets a node.
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        if self.nodes.remove(peer).is_some() {
            self.order.retain(|other| other != peer);
        }
    }

    /// Forgets an address that failed; the last one is kept if `keep_last`.
    pub(crate) fn remove(&mut self, peer: &PeerId, addr: &Multiaddr, keep_last: bool) {
        let Some(addrs) = self.nodes.get_mut(peer) else { return };
        if keep_last && addrs.len() == 1 {
            return;
        }
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
        assert_eq!((book.nodes.len(), book.order.len()), (NODES_MAX, NODES_MAX));
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
        assert!(book.addrs(&peer).is_empty() && book.order.is_empty());
    }
}
