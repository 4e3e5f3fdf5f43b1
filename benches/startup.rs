//! From nothing to a working cell, from a command to a ready node, and what an idle donor takes.
//!
//! `cargo bench -p wc-benches --bench startup`. `WC_RUNS` (5), `WC_IDLE_SECONDS` (60).

use std::time::{Duration, Instant};

use wc_benches::{
    QUIET, Submitter, binary, cpu, family, federation, median, millis, print_machine, resident, setting,
};
use wc_proto::api::{CellRequest, Response};
use wc_tests::federation::{Federation, guest};

#[tokio::main]
async fn main() {
    let runs = setting("WC_RUNS", 5);
    print_machine();
    println!("{:<64} {:>10} {:>10}", format!("{runs} runs"), "median", "worst");
    let mut cells = Vec::new();
    for _ in 0..runs {
        cells.push(cell_of_three().await);
    }
    times("three fresh nodes to a cell with all three online, ms", cells);
    let mut ready = Vec::new();
    for _ in 0..runs {
        ready.push(node_ready().await);
    }
    times("node start to the first answered request, ms", ready);
    idle().await;
}

fn times(label: &str, times: Vec<Duration>) {
    let worst = times.iter().copied().max().unwrap_or_default();
    println!("{label:<64} {:>10} {:>10}", millis(median(times)), millis(worst));
}

async fn cell_of_three() -> Duration {
    let begun = Instant::now();
    let mut federation = Federation::empty(binary());
    for _ in 0..3 {
        let args = ["--coordinate", "auto", "--trusted", "--consent", "all", "--slots", "1"];
        federation.add(&[&args[..], &QUIET[..]].concat());
    }
    // Asked of the node that was started first, whoever coordinates: the answer goes through its coordinator.
    let mut client = federation.nodes[0].client().await;
    loop {
        let request = wc_proto::api::Request::Cell(CellRequest::Nodes);
        if let Ok(Response::Nodes(nodes)) = client.ask(request).await
            && nodes.iter().filter(|node| node.state == "online").count() == 3
        {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no cell\n{}", federation.logs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn node_ready() -> Duration {
    let mut federation = Federation::empty(binary());
    let begun = Instant::now();
    let args = ["--coordinate", "always", "--trusted", "--consent", "all", "--slots", "4"];
    federation.add(&[&args[..], &QUIET[..]].concat());
    loop {
        if let Ok(mut client) = wc_api::Client::connect(&federation.nodes[0].dir).await
            && let Ok(Response::Cluster(_)) =
                client.ask(wc_proto::api::Request::Cell(CellRequest::Cluster)).await
        {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "not ready\n{}", federation.logs());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A donor of three slots that has joined and has nothing to do: fresh, and after it has worked.
async fn idle() {
    let seconds = setting("WC_IDLE_SECONDS", 60);
    let federation = federation(1, 3).await;
    let donor = federation.nodes[1].pid().expect("it runs");
    rest(donor, "idle donor, fresh", seconds).await;
    let mut submitter = Submitter::new(federation.coordinator(), &guest("noop")).await;
    let job = submitter.submit(&federation, 5_000, 1).await;
    submitter.verified(job).await;
    rest(donor, "idle donor, after 5,000 tasks", seconds).await;
}

async fn rest(donor: u32, label: &str, seconds: usize) {
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, begun) = (cpu(donor), Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
    let share = (cpu(donor) - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    println!(
        "{label}: {:.1} MB resident (agent {:.1} MB and {} worker processes), {:.3} % of a core over {seconds} s",
        resident(donor) as f64 / 1e6,
        wc_benches::resident_alone(donor) as f64 / 1e6,
        family(donor).len() - 1,
        share * 100.0,
    );
}
