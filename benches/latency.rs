//! One trivial task whose module is cached: from the submission to a receipt that was verified, beside what the disk
//! alone takes for as many commits.
//!
//! `cargo bench -p wc-benches --bench latency`. `WC_RUNS` (200).

use std::time::{Duration, Instant};

use wc_benches::{Submitter, durable_floor, federation, median, millis, print_machine, setting};
use wc_ledger::verify::{Anchors, verify_receipt};
use wc_proto::api::{CellRequest, Response};
use wc_tests::federation::guest;

#[tokio::main]
async fn main() {
    let runs = setting("WC_RUNS", 200);
    print_machine();
    println!("one no-op task, module cached, {runs} runs, medians in ms");
    println!(
        "{:<34} {:>9} {:>9} {:>9} {:>9} {:>11} {:>8}",
        "", "submitted", "verified", "receipt", "p95", "floor", "ratio"
    );
    measure("R = 1, one donor, one slot", 1, 1, 2, runs).await;
    measure("R = 3, three donors, one slot each", 3, 3, 3, runs).await;
}

/// Runs jobs of one task; `commits` of the journal follow one another on their path.
async fn measure(label: &str, donors: usize, replicas: u8, commits: u32, runs: usize) {
    let federation = federation(donors, 1).await;
    let mut submitter = Submitter::new(federation.coordinator(), &guest("noop")).await;
    let (mut submitted, mut verified, mut receipt) = (Vec::new(), Vec::new(), Vec::new());
    let mut disk = Vec::new();
    for run in 0..runs + 20 {
        let begun = Instant::now();
        let job = submitter.submit(&federation, 1, replicas).await;
        let at_submitted = begun.elapsed();
        submitter.verified(job).await;
        let at_verified = begun.elapsed();
        let wanted = CellRequest::Receipts { job: job.to_string(), stage: 0, from: 0 };
        let Response::Receipts { receipts, .. } = submitter.cell(wanted).await else {
            panic!("a verified job has receipts")
        };
        verify_receipt(&receipts[0], &Anchors::default()).expect("the receipt verifies");
        let at_receipt = begun.elapsed();
        // The first ones compile and warm up.
        if run >= 20 {
            submitted.push(at_submitted);
            verified.push(at_verified);
            receipt.push(at_receipt);
        }
        if run % 20 == 0 {
            disk.push(durable_floor(federation.dir.path(), 20));
        }
    }
    let floor = median(disk.iter().map(|floor| floor.0).collect()) * commits;
    let overwrite = median(disk.iter().map(|floor| floor.1).collect());
    let mut sorted = receipt.clone();
    sorted.sort_unstable();
    let p95: Duration = sorted[sorted.len() * 95 / 100];
    let receipt = median(receipt);
    println!(
        "{label:<34} {:>9} {:>9} {:>9} {:>9} {:>6} = {commits} x {} {:>5.2}",
        millis(median(submitted)),
        millis(median(verified)),
        millis(receipt),
        millis(p95),
        millis(floor),
        millis(floor / commits),
        receipt.as_secs_f64() / floor.as_secs_f64(),
    );
    println!("{:<34} the same inside a file that does not grow: {} ms each", "", millis(overwrite));
}
