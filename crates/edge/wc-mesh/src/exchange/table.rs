//! The announcements that this node believes: bounded, from many networks, forgotten when they are over.

use std::collections::{BTreeMap, HashMap};

use libp2p::Multiaddr;
use wc_proto::limit::ANNOUNCEMENTS_MAX;
use wc_proto::peer::announce::{Announcement, AnnouncementFlaw, check};
use wc_types::{NodeId, Signed, Timestamp};

use crate::address::{is_circuit, split_node, transport_of};
use crate::path::{Prefix, region_of, relay_of};

/// Nodes that are remembered. One takes about a kilobyte.
const NODES_MAX: usize = 512;
/// Relays among them.
const RELAYS_MAX: usize = 128;
/// Relays of one region (/16 of IPv4): whoever rents a network must not become everybody's only choice (NET-32).
const RELAYS_PER_REGION_MAX: usize = 2;
/// Nodes of one network (/24 of IPv4, or behind one relay).
const NODES_PER_PREFIX_MAX: usize = 128;
/// Relays among what is told to others, so that relays are known everywhere.
const RELAYS_TOLD_MAX: usize = 12;

/// One believed announcement.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) announcement: Signed<Announcement>,
    /// Its addresses, as far as this build knows how to dial them.
    pub(crate) addrs: Vec<Multiaddr>,
}

/// What an announcement changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Learned {
    /// A new node, or new addresses of a known one: others want to know, too.
    News,
    /// Nothing that others would not learn in time.
    Nothing,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Table {
    network: String,
    local: NodeId,
    nodes: BTreeMap<NodeId, Known>,
    /// Where the next selection begins, so that everybody is told of in turn.
    turn: usize,
}

impl Table {
    pub(crate) fn new(network: String, local: NodeId) -> Self {
        Self { network, local, nodes: BTreeMap::new(), turn: 0 }
    }

    /// Takes an announcement that somebody passed on.
    ///
    /// # Errors
    /// [`AnnouncementFlaw`] if it counts for nothing.
    pub(crate) fn learn(
        &mut self,
        announcement: Signed<Announcement>,
        now: Timestamp,
    ) -> Result<Learned, AnnouncementFlaw> {
        check(&announcement, &self.network, now)?;
        let node = announcement.node;
        if node == self.local {
            return Ok(Learned::Nothing);
        }
        let known = self.nodes.get(&node);
        if known.is_some_and(|known| known.announcement.at >= announcement.at) {
            return Ok(Learned::Nothing);
        }
        // A circuit through this node is of no use to it, but to those it passes the announcement on to.
        let addrs: Vec<Multiaddr> = announcement
            .addresses
            .iter()
            .filter_map(|text| text.parse::<Multiaddr>().ok())
            .map(|addr| split_node(&addr).0)
            .filter(|addr| transport_of(addr).is_some() && (!is_circuit(addr) || relay_of(addr).is_some()))
            .collect();
        let changed = known.is_none_or(|known| {
            known.announcement.addresses != announcement.addresses
                || known.announcement.relay.is_some() != announcement.relay.is_some()
        });
        if addrs.is_empty() {
            self.nodes.remove(&node);
            return Ok(Learned::Nothing);
        }
        let fresh = Known { announcement, addrs };
        if known.is_none() && !self.has_room(&fresh, now) {
            return Ok(Learned::Nothing);
        }
        self.nodes.insert(node, fresh);
        Ok(if changed { Learned::News } else { Learned::Nothing })
    }

    fn has_room(&mut self, fresh: &Known, now: Timestamp) -> bool {
        self.nodes.retain(|_, known| known.announcement.until > now);
        let of_prefix = |known: &Known| known.addrs.first().and_then(Prefix::of);
        let prefix = of_prefix(fresh);
        if prefix.is_some()
            && self.nodes.values().filter(|known| of_prefix(known) == prefix).count() >= NODES_PER_PREFIX_MAX
        {
            return false;
        }
        if fresh.announcement.relay.is_some() {
            let region = fresh.addrs.iter().find_map(region_of);
            let relays = || self.nodes.values().filter(|known| known.announcement.relay.is_some());
            let neighbours = relays().filter(|known| known.addrs.iter().find_map(region_of) == region);
            if relays().count() >= RELAYS_MAX
                || (region.is_some() && neighbours.count() >= RELAYS_PER_REGION_MAX)
            {
                return false;
            }
        }
        if self.nodes.len() >= NODES_MAX {
            // Whoever said the least recently that it is there goes; relays stay as long as there are others.
            let oldest = self
                .nodes
                .iter()
                .min_by_key(|(_, known)| (known.announcement.relay.is_some(), known.announcement.at))
                .map(|(node, _)| *node);
            if let Some(oldest) = oldest {
                self.nodes.remove(&oldest);
            }
        }
        true
    }

    /// Forgets a node.
    pub(crate) fn forget(&mut self, node: &NodeId) {
        self.nodes.remove(node);
    }

    /// Returns a believed announcement.
    pub(crate) fn get(&self, node: &NodeId) -> Option<&Known> {
        self.nodes.get(node)
    }

    /// Returns every believed announcement.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Known)> {
        self.nodes.iter()
    }

    /// Returns the relays that are known.
    pub(crate) fn relays(&self) -> impl Iterator<Item = (&NodeId, &Known)> {
        self.nodes.iter().filter(|(_, known)| known.announcement.relay.is_some())
    }

    /// Returns how many nodes are known, and how many of them relay.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.nodes.len(), self.relays().count())
    }

    /// Returns what to tell others: our own announcement, relays, and some of the rest, others the next time.
    pub(crate) fn told(
        &mut self,
        own: Option<&Signed<Announcement>>,
        now: Timestamp,
    ) -> Vec<Signed<Announcement>> {
        self.turn = self.turn.wrapping_add(ANNOUNCEMENTS_MAX / 2);
        let mut told: Vec<Signed<Announcement>> = own.into_iter().cloned().collect();
        let live = |known: &&Known| known.announcement.until > now;
        let (relays, others): (Vec<&Known>, Vec<&Known>) =
            self.nodes.values().filter(live).partition(|known| known.announcement.relay.is_some());
        let around = |all: &[&Known], most: usize| -> Vec<Signed<Announcement>> {
            let from = if all.is_empty() { 0 } else { self.turn % all.len() };
            all.iter()
                .cycle()
                .skip(from)
                .take(most.min(all.len()))
                .map(|known| known.announcement.clone())
                .collect()
        };
        told.extend(around(&relays, RELAYS_TOLD_MAX));
        let room = ANNOUNCEMENTS_MAX.saturating_sub(told.len());
        told.extend(around(&others, room));
        told
    }

    /// Returns what is worth remembering over a restart.
    pub(crate) fn remembered(&self) -> Vec<Signed<Announcement>> {
        self.nodes.values().map(|known| known.announcement.clone()).collect()
    }
}

/// How often each node misbehaved in exchanges; bounded.
#[derive(Debug, Default)]
pub(crate) struct Faults(HashMap<NodeId, u32>);

impl Faults {
    /// Faults after which a peer is left.
    const LEAVE_AT: u32 = 3;
    const NODES_MAX: usize = 1024;

    /// Counts a fault and returns whether to leave the peer.
    pub(crate) fn count(&mut self, node: NodeId) -> bool {
        if self.0.len() >= Self::NODES_MAX && !self.0.contains_key(&node) {
            self.0.clear();
        }
        let faults = self.0.entry(node).or_default();
        *faults += 1;
        if *faults >= Self::LEAVE_AT {
            self.0.remove(&node);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use wc_proto::peer::announce::RelayOffer;
    use wc_types::{Millis, SigningKey};

    use super::*;
    use crate::address::peer_of;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

    fn key(number: u32) -> SigningKey {
        let mut seed = [1; 32];
        seed[..4].copy_from_slice(&number.to_le_bytes());
        SigningKey::from_seed(&seed)
    }

    fn announcement(number: u32, address: &str, relay: bool, at: Timestamp) -> Signed<Announcement> {
        let offer = RelayOffer {
            reservations_max: 1,
            reservation: Millis(1),
            circuit_bytes_max: 1,
            circuit: Millis(1),
            peer_bytes_per_second: 0,
        };
        let record = Announcement {
            network: "lab".to_owned(),
            node: key(number).node_id(),
            addresses: vec![address.to_owned()],
            relay: relay.then_some(offer),
            at,
            until: at.plus(Millis(3_600_000)),
        };
        Signed::seal(record, &key(number))
    }

    fn table() -> Table {
        Table::new("lab".to_owned(), key(0).node_id())
    }

    fn later(seconds: u64) -> Timestamp {
        NOW.plus(Millis(seconds * 1000))
    }

    #[test]
    fn new_addresses_are_news_and_old_words_are_not() {
        let mut table = table();
        let first = announcement(1, "/ip4/192.0.2.1/tcp/1", false, NOW);
        assert_eq!(table.learn(first.clone(), NOW), Ok(Learned::News));
        assert_eq!(table.learn(first.clone(), NOW), Ok(Learned::Nothing));
        let renewed = announcement(1, "/ip4/192.0.2.1/tcp/1", false, later(60));
        assert_eq!(table.learn(renewed, later(60)), Ok(Learned::Nothing));
        let moved = announcement(1, "/ip4/192.0.2.9/tcp/1", false, later(120));
        assert_eq!(table.learn(moved, later(120)), Ok(Learned::News));
        assert_eq!(table.learn(first, later(130)), Ok(Learned::Nothing));
        let known = table.get(&key(1).node_id()).unwrap();
        assert_eq!(known.addrs, ["/ip4/192.0.2.9/tcp/1".parse().unwrap()]);
        let own = announcement(0, "/ip4/192.0.2.1/tcp/1", false, NOW);
        assert_eq!(table.learn(own, NOW), Ok(Learned::Nothing));
        assert_eq!(table.counts(), (1, 0));
    }

    #[test]
    fn one_network_cannot_fill_the_table_or_own_the_relays() {
        let mut table = table();
        for number in 1..=200 {
            let crowd = announcement(number, &format!("/ip4/192.0.2.{number}/tcp/1"), false, NOW);
            table.learn(crowd, NOW).unwrap();
        }
        assert_eq!(table.counts(), (NODES_PER_PREFIX_MAX, 0));
        for number in 1000..1020 {
            let rented = announcement(number, &format!("/ip4/203.0.{}.1/tcp/1", number - 1000), true, NOW);
            table.learn(rented, NOW).unwrap();
        }
        assert_eq!(table.counts().1, RELAYS_PER_REGION_MAX);
        let elsewhere = announcement(2000, "/ip4/8.8.8.8/tcp/1", true, NOW);
        assert_eq!(table.learn(elsewhere, NOW), Ok(Learned::News));
    }

    #[test]
    fn the_table_is_bounded_and_the_newest_stay() {
        let mut table = table();
        for number in 1..=600 {
            let at = later(u64::from(number));
            let address = format!("/ip4/{}.{}.0.1/tcp/1", 11 + number / 200, number % 200);
            table.learn(announcement(number, &address, number <= 3, at), later(600)).unwrap();
        }
        assert_eq!(table.counts(), (NODES_MAX, 3));
        assert!(table.get(&key(1).node_id()).is_some(), "relays stay");
        assert!(table.get(&key(4).node_id()).is_none());
        let own = announcement(0, "/ip4/192.0.2.1/tcp/1", false, NOW);
        let told = table.told(Some(&own), later(600));
        assert_eq!(told.len(), ANNOUNCEMENTS_MAX);
        assert_eq!(told[0], own);
        assert_ne!(told, table.told(Some(&own), later(600)), "the next one is told of others");
        assert_eq!(table.told(None, later(90_000)).len(), 0, "what is over is not passed on");
        assert_eq!(table.remembered().len(), NODES_MAX);
    }

    #[test]
    fn a_circuit_through_two_relays_is_no_address_and_one_through_ourselves_is_told_to_others() {
        let mut table = table();
        let [us, other] = [0, 5].map(|number| peer_of(key(number).node_id()));
        let once = format!("/ip4/192.0.2.1/tcp/1/p2p/{other}/p2p-circuit");
        let twice = format!("{once}/p2p/{us}/p2p-circuit");
        assert_eq!(table.learn(announcement(1, &twice, false, NOW), NOW), Ok(Learned::Nothing));
        assert_eq!(table.learn(announcement(1, &once, false, NOW), NOW), Ok(Learned::News));
        let own = format!("/ip4/192.0.2.1/tcp/1/p2p/{us}/p2p-circuit");
        assert_eq!(table.learn(announcement(2, &own, false, NOW), NOW), Ok(Learned::News));
        assert_eq!(table.told(None, NOW).len(), 2);
    }

    #[test]
    fn a_peer_that_errs_three_times_is_left() {
        let mut faults = Faults::default();
        let node = NodeId([3; 32]);
        assert_eq!([(); 4].map(|()| faults.count(node)), [false, false, true, false]);
    }
}
