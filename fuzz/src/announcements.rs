//! Exchanges of peers: who is where, and who relays, as any peer may tell it.

use wc_mesh::decode::learn;
use wc_proto::frame::{PREFIX_BYTES, body_bytes, decode, encode};
use wc_proto::limit::{ANNOUNCEMENTS_MAX, EXCHANGE_BYTES_MAX};
use wc_proto::peer::announce::{Announcement, Exchange, RelayOffer};
use wc_types::{Millis, Signed, SigningKey, Timestamp};

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

/// Reads an exchange as the mesh does, and has its table learn it; what is accepted keeps to every limit.
pub fn target(data: &[u8]) {
    let Some((prefix, body)) = data.split_first_chunk::<PREFIX_BYTES>() else { return };
    if let Ok(length) = body_bytes(*prefix, EXCHANGE_BYTES_MAX) {
        assert!(length <= EXCHANGE_BYTES_MAX);
    }
    let Ok(exchange) = decode::<Exchange>(body) else { return };
    let again = encode(&exchange, EXCHANGE_BYTES_MAX).expect("what fits in a frame fits again");
    assert_eq!(decode::<Exchange>(&again[PREFIX_BYTES..]).as_ref(), Ok(&exchange));
    if !exchange.is_within_limits() {
        return;
    }
    let count = exchange.announcements.len();
    let learned = learn(exchange, NOW);
    assert!(learned.nodes <= count && learned.relays <= learned.nodes, "{learned:?} of {count}");
    assert!(learned.told <= ANNOUNCEMENTS_MAX, "{learned:?}");
}

/// Exchanges of none, of a node and a relay, of a circuit, and of what is not believed.
pub fn seeds() -> Vec<Vec<u8>> {
    let announce = |name: u8, addresses: &[&str], relay: bool| {
        let key = SigningKey::from_seed(&[name; 32]);
        let offer = RelayOffer {
            reservations_max: 1024,
            reservation: Millis(3_600_000),
            circuit_bytes_max: 1 << 36,
            circuit: Millis(43_200_000),
            peer_bytes_per_second: 1 << 25,
        };
        let announcement = Announcement {
            network: "lab".to_owned(),
            node: key.node_id(),
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
            relay: relay.then_some(offer),
            at: NOW,
            until: NOW.plus(Millis(3_600_000)),
        };
        Signed::seal(announcement, &key)
    };
    let relay = SigningKey::from_seed(&[9; 32]).node_id();
    let circuit = format!("/ip4/203.0.113.7/tcp/443/tls/ws/p2p/{relay}/p2p-circuit");
    let exchanges = [
        Vec::new(),
        vec![
            announce(1, &["/ip4/192.0.2.1/tcp/19999", "/ip6/2001:db8::1/udp/19999/quic-v1"], false),
            announce(2, &["/dns4/relay.example/tcp/443/tls/ws"], true),
        ],
        vec![announce(3, &[&circuit], false), announce(3, &["/ip4/127.0.0.1/tcp/1"], true)],
        vec![announce(4, &["nonsense", "", "/ip4/192.0.2.1"], true)],
    ];
    let frame = |announcements| {
        encode(&Exchange { announcements, asks: true }, EXCHANGE_BYTES_MAX).expect("a sample is small")
    };
    exchanges.into_iter().map(frame).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_read_and_the_second_is_learned() {
        let counts: Vec<_> = seeds()
            .iter()
            .map(|seed| {
                target(seed);
                let exchange: Exchange = decode(&seed[PREFIX_BYTES..]).expect("a sample");
                let learned = learn(exchange, NOW);
                (learned.nodes, learned.relays)
            })
            .collect();
        assert_eq!(counts, [(0, 0), (2, 1), (1, 0), (0, 0)]);
    }
}
