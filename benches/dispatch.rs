//! `worldcompute job submit --executor` of a trivial module: the whole command line, from fork to exit.
//!
//! `cargo bench -p wc-benches --bench dispatch`. `WC_RUNS` (50).

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use wc_benches::{QUIET, binary, median, millis, print_machine, setting};
use wc_proto::api::{Request, Response};
use wc_tests::federation::{Federation, guest};

#[tokio::main]
async fn main() {
    let runs = setting("WC_RUNS", 50);
    print_machine();
    println!("{:<64} {:>10} {:>10}", format!("{runs} runs, ms"), "median", "p95");
    let mut federation = Federation::empty(binary());
    federation.add(
        &[&["--coordinate", "always", "--slots", "1", "--consent", "all", "--accept-direct"], &QUIET[..]]
            .concat(),
    );
    let mut client = federation.nodes[0].client().await;
    for transport in ["/tcp/", "/quic-v1"] {
        let Ok(Response::Donor(donor)) = client.ask(Request::DonorStatus).await else {
            panic!("the node says who it is")
        };
        let address = donor
            .addresses
            .iter()
            .find(|address| address.contains(transport))
            .map(|address| {
                if address.contains("/p2p/") {
                    address.clone()
                } else {
                    format!("{address}/p2p/{}", donor.node)
                }
            })
            .expect("the node listens");
        measure(&format!("hello.wasm over {}", transport.trim_matches('/')), &federation, &address, runs);
    }
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..runs {
        let begun = Instant::now();
        let status =
            Command::new(binary()).arg("--version").stdout(Stdio::null()).status().expect("it starts");
        assert!(status.success(), "--version succeeds");
        times.push(begun.elapsed());
    }
    row("worldcompute --version, for comparison", times);
}

fn measure(label: &str, federation: &Federation, address: &str, runs: usize) {
    let (mut times, mut failed) = (Vec::new(), Vec::new());
    let home = federation.dir.path().join("submitter");
    for run in 0..runs + 5 {
        let begun = Instant::now();
        let output = Command::new(binary())
            .arg("--data-dir")
            .arg(&home)
            .args(["job", "submit", "--executor", address, "--workload"])
            .arg(guest("hello"))
            .env("WORLDCOMPUTE_NETWORK", &federation.network)
            .output()
            .expect("it starts");
        let elapsed = begun.elapsed();
        if !output.status.success() {
            failed.push(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        } else if run >= 5 {
            times.push(elapsed);
        }
    }
    if let Some(first) = failed.first() {
        println!("{label}: {} of {} failed, the first with: {first}", failed.len(), runs + 5);
    }
    if !times.is_empty() {
        row(label, times);
    }
}

fn row(label: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let p95 = times[times.len() * 95 / 100];
    println!("{label:<64} {:>10} {:>10}", millis(median(times)), millis(p95));
}
