//! One node of each region in the routing table (NET-32): whoever rents one network, and makes a thousand keys there, must not
//! become everybody's neighbours.
//!
//! Addresses of private networks and of this machine are of no region: on a LAN everybody is wanted.

use std::collections::HashMap;

use libp2p::PeerId;

/// Regions that are remembered before those are forgotten whose node has left the table; more than a table has places.
const REGIONS_MAX: usize = 1024;

/// Who stands for each region.
#[derive(Debug, Default)]
pub(super) struct Regions(HashMap<[u8; 4], PeerId>);

impl Regions {
    /// Returns whether `peer` may stand in the table: alone of its region, or of none.
    ///
    /// - `region`: where it was met, not where it says it is
    /// - `is_in_table`: whether a node that was let in before still has its place
    pub(super) fn admit(
        &mut self,
        region: Option<[u8; 4]>,
        peer: PeerId,
        mut is_in_table: impl FnMut(&PeerId) -> bool,
    ) -> bool {
        let Some(region) = region else { return true };
        if self.0.get(&region).is_some_and(|known| *known != peer && is_in_table(known)) {
            return false;
        }
        if self.0.len() >= REGIONS_MAX && !self.0.contains_key(&region) {
            self.0.retain(|_, known| is_in_table(known));
            if self.0.len() >= REGIONS_MAX {
                return false;
            }
        }
        self.0.insert(region, peer);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::region_of;

    #[test]
    fn a_thousand_keys_of_one_network_get_one_place() {
        let region = |text: &str| region_of(&text.parse().unwrap());
        let mut regions = Regions::default();
        let keys: Vec<PeerId> = (0..1000).map(|_| PeerId::random()).collect();
        let crowd = region("/ip4/8.8.4.4/tcp/1");
        let admitted = keys.iter().filter(|key| regions.admit(crowd, **key, |_| true)).count();
        assert_eq!(admitted, 1);
        assert!(regions.admit(crowd, keys[0], |_| true), "the one that has it keeps it");
        assert!(!regions.admit(region("/ip4/8.8.200.1/udp/9/quic-v1"), keys[1], |_| true), "the same /16");
        assert!(regions.admit(region("/ip4/8.9.1.1/tcp/1"), keys[1], |_| true), "another /16");
        assert!(regions.admit(crowd, keys[2], |_| false), "a place that was left is free");
        let lan = region("/ip4/192.168.1.7/tcp/1");
        assert!(keys.iter().all(|key| regions.admit(lan, *key, |_| true)), "on a LAN everybody is wanted");
    }
}
