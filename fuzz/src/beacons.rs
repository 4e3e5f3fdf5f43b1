//! Datagrams that anybody on this machine may send to the port of beacons.

use wc_proto::peer::beacon::{BEACON_BYTES_MAX, Beacon, PORTS_MAX, Port};
use wc_types::NodeId;

/// Reads the bytes as a beacon; what is accepted is said in exactly those bytes.
pub fn target(data: &[u8]) {
    let Some(beacon) = Beacon::decode(data) else { return };
    assert!(data.len() <= BEACON_BYTES_MAX && beacon.ports.len() <= PORTS_MAX);
    assert_eq!(beacon.encode(), data);
}

/// Beacons with no port, with two and with the most.
pub fn seeds() -> Vec<Vec<u8>> {
    let with = |ports| Beacon { network: [1; 8], boot: 7, node: NodeId([2; 32]), ports }.encode();
    vec![
        with(Vec::new()),
        with(vec![Port::Tcp(19_999), Port::Quic(4_000)]),
        with(vec![Port::Quic(1); PORTS_MAX]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_accepted() {
        for seed in seeds() {
            assert!(Beacon::decode(&seed).is_some());
            target(&seed);
        }
    }
}
