//! Which nodes that answer Kademlia's questions stand in our routing table, and when.
//!
//! Every node that enters the table makes the library look around for more, which dials twenty or more nodes. A node that
//! answers others has to do that. One that only asks does not: who is where is heard from exchanges, so the servers that
//! it met wait until there is somebody to look for whose address nobody has told.

use std::collections::VecDeque;

use libp2p::{Multiaddr, PeerId};

use super::Host;

/// Servers that wait, the newest ones: enough for a search to begin with.
const WAITING_MAX: usize = 16;

/// A node that answers Kademlia's questions.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) peer: PeerId,
    /// Where it was met.
    pub(super) region: Option<[u8; 4]>,
    pub(super) addrs: Vec<Multiaddr>,
}

/// Servers that are not in the table yet.
#[derive(Debug, Default)]
pub(super) struct Servers {
    /// Whether we answer others, and need a table for that.
    serving: bool,
    waiting: VecDeque<Server>,
}

impl Servers {
    /// Keeps a server for later, in the place of what was known of it.
    fn wait(&mut self, server: Server) {
        self.waiting.retain(|known| known.peer != server.peer);
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(server);
    }
}

impl Host {
    /// Notes a server that was met.
    pub(super) fn on_server(&mut self, server: Server) {
        self.servers.wait(server);
        if self.servers.serving {
            self.fill_table();
        }
    }

    /// Notes whether we answer others.
    pub(super) fn serve_table(&mut self, serving: bool) {
        self.servers.serving = serving;
        if serving {
            self.fill_table();
        }
    }

    /// Puts the servers that wait into the table, one of each region. Returns whether there is anybody in it.
    pub(super) fn fill_table(&mut self) -> bool {
        for Server { peer, region, addrs } in std::mem::take(&mut self.servers.waiting) {
            let kad = &mut self.swarm.behaviour_mut().kad;
            let has_place = |known: &PeerId| {
                kad.kbucket(*known)
                    .is_some_and(|bucket| bucket.iter().any(|entry| entry.node.key.preimage() == known))
            };
            if self.regions.admit(region, peer, has_place) {
                for addr in addrs {
                    self.swarm.behaviour_mut().kad.add_address(&peer, addr);
                }
            }
        }
        self.swarm.behaviour_mut().kad.kbuckets().next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_wait_are_few_and_each_is_there_once() {
        let mut servers = Servers::default();
        let peers: Vec<PeerId> = (0..100).map(|_| PeerId::random()).collect();
        for peer in peers.iter().chain(&peers[90..]) {
            servers.wait(Server { peer: *peer, region: None, addrs: Vec::new() });
        }
        let waiting: Vec<PeerId> = servers.waiting.iter().map(|server| server.peer).collect();
        assert_eq!(waiting[WAITING_MAX - 10..], peers[90..]);
        assert_eq!(waiting.len(), WAITING_MAX);
    }
}
