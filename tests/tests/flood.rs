//! Nodes that are flooded with messages that mean nothing go on working (NET-33).
//!
//! The full minute is `cargo bench -p wc-benches --bench flood`; here each listener and protocol gets a few seconds of it.

use std::time::Duration;

use wc_tests::federation::binary;
use wc_tests::flood::{Kind, Siege};

/// Messages a second to each of two nodes, if the machine gives as many.
const RATE: u32 = 10_000;
/// Seconds of each kind.
const TIME: Duration = Duration::from_secs(4);
/// Beacons reach every node of this machine, other tests' among them.
const BEACON_RATE: u32 = 1_000;
/// What a node may take more than before, whatever it is sent: connections that shake hands, and the streams of its peers.
const GROWTH_KIB_MAX: u64 = 192 << 10;

async fn endures(kinds: &[Kind]) {
    let siege = Siege::start(binary()).await;
    for kind in kinds {
        let rate = if *kind == Kind::Beacons { BEACON_RATE } else { RATE };
        let survived = siege.endure(*kind, rate, TIME).await;
        println!("{kind}: {survived:?}");
        assert!(survived.sent > 0, "{kind}: nothing was sent");
        assert!(survived.jobs > 0, "{kind}: no job got through");
        for (before, peak) in survived.before_kib.into_iter().zip(survived.peak_kib) {
            assert!(peak < before + GROWTH_KIB_MAX, "{kind}: memory grew from {before} KiB to {peak} KiB");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_go_on_while_the_listeners_are_flooded() {
    endures(&[Kind::Quic, Kind::Tcp, Kind::Tls, Kind::Web]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_go_on_while_peers_of_the_network_flood_every_protocol() {
    endures(&[Kind::Streams, Kind::Announcements, Kind::Beacons]).await;
}
