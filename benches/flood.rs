//! A coordinator and a donor that are flooded with messages that mean nothing, and go on working (NET-33).
//!
//! `cargo bench -p wc-benches --bench flood`. `WC_FLOOD_SECONDS` (60) for each kind, `WC_FLOOD_RATE` (10000) messages a
//! second to each node at most. A line for each kind comes when it is over; a node that ends, drops out or fails a job
//! ends the program.

use std::time::Duration;

use wc_benches::{binary, print_machine, setting};
use wc_tests::flood::{Kind, Siege};

#[tokio::main]
async fn main() {
    let time = Duration::from_secs(setting("WC_FLOOD_SECONDS", 60) as u64);
    let rate = u32::try_from(setting("WC_FLOOD_RATE", 10_000)).expect("a rate has 32 bits");
    print_machine();
    let siege = Siege::start(binary()).await;
    println!(
        "kind | sent a second to each | jobs verified | slowest, ms | MB before | MB at most | cores busy"
    );
    for kind in Kind::ALL {
        let survived = siege.endure(kind, rate, time).await;
        let seconds = time.as_secs_f64();
        let mb = |kib: [u64; 2]| format!("{:.0}, {:.0}", kib[0] as f64 / 976.6, kib[1] as f64 / 976.6);
        println!(
            "{kind} | {:.0} | {} | {} | {} | {} | {:.1}",
            survived.sent as f64 / seconds,
            survived.jobs,
            survived.slowest.as_millis(),
            mb(survived.before_kib),
            mb(survived.peak_kib),
            survived.busy.as_secs_f64() / seconds
        );
    }
}
