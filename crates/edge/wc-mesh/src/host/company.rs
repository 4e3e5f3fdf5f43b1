//! Which connections are kept without anybody using them.
//!
//! A search through the network's table dials twenty nodes or more, an old cell's members are asked once, a blob comes from
//! somebody who is never needed again. Each such connection costs both sides pings for as long as it stands, so it is
//! closed by whoever made it: the other side may count on us as one of its few friends, and cannot know.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::Instant;

use libp2p::PeerId;

use super::peers::FRIENDS;
use super::{Due, Host, Peer};
use crate::address::is_loopback;
use crate::event::Direction;
use crate::path::relay_of;

/// Peers that this node came to itself which it stays with, however many others have come to it: whoever makes a dozen keys
/// and dials us must not become all that we hear.
const CHOSEN_MIN: usize = 2;

fn is_chosen(state: &Peer) -> bool {
    state.admitted && state.links.iter().any(|link| link.direction == Direction::Outbound)
}

impl Host {
    /// Plans to look whether there is more company than we want.
    pub(super) fn leave_later(&mut self) {
        if self.peers.len() > FRIENDS && !self.timers.contains(&Due::Leave) {
            self.timers.after(self.config.limits.idle_timeout, Due::Leave);
        }
    }

    /// Leaves nodes that we came to and that nobody needs, the newest first, as long as enough others are there.
    pub(super) fn leave_strangers(&mut self) {
        let (now, patience) = (Instant::now(), self.config.limits.idle_timeout);
        // A circuit ends with the connection to its relay.
        let carriers: HashSet<PeerId> = self
            .peers
            .iter()
            .flat_map(|(peer, state)| {
                state.links.iter().filter_map(|link| relay_of(&link.addr)).filter(move |relay| relay != peer)
            })
            .collect();
        let (mut unused, mut busy) = (Vec::new(), false);
        for (peer, state) in self.peers.iter().filter(|(peer, state)| self.may_leave(peer, state)) {
            if carriers.contains(peer) || state.links.iter().any(|link| link.life.unused_for(now) < patience)
            {
                busy = true;
            } else {
                unused.push((state.since, *peer));
            }
        }
        unused.sort_by_key(|(since, _)| Reverse(*since));
        let chosen = self.peers.values().filter(|state| is_chosen(state)).count();
        let surplus = self.peers.len().saturating_sub(FRIENDS).min(chosen.saturating_sub(CHOSEN_MIN));
        for (_, peer) in unused.into_iter().take(surplus) {
            tracing::debug!(%peer, "nobody needs this connection");
            self.part(peer, "nobody needed it");
        }
        if busy {
            self.timers.after(patience, Due::Leave);
        }
    }

    /// Returns whether nothing but its use could make us stay with `peer`.
    fn may_leave(&self, peer: &PeerId, state: &Peer) -> bool {
        let beside_us = |link: &super::Link| self.config.lan.loopback && is_loopback(&link.addr);
        state.admitted
            && state.links.iter().all(|link| link.direction == Direction::Outbound && !beside_us(link))
            && !self.is_sought(peer)
            && !self.granted.has(peer)
            && !self.plans.contains_key(peer)
    }
}
