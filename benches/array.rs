//! An array of no-op tasks: tasks per second from submission to the last accepted result, and processor time per task;
//! beside Ray and Dask on the same machine with as many workers.
//!
//! `cargo bench -p wc-benches --bench array`. `WC_TASKS` (20000), `WC_RUNS` (5). `WC_PEERS_PYTHON` names a Python that
//! has `ray` and `dask[distributed]`; without it only our own rows are printed.

use std::process::Command;
use std::time::{Duration, Instant};

use wc_benches::{Submitter, cpu, federation, median, print_machine, setting};
use wc_tests::federation::{Federation, guest};

const SLOTS: u16 = 4;

#[tokio::main]
async fn main() {
    let tasks = u32::try_from(setting("WC_TASKS", 20_000)).expect("a task index has 32 bits");
    let runs = setting("WC_RUNS", 5);
    print_machine();
    println!("{tasks} no-op tasks, {runs} runs, medians");
    println!("{:<44} {:>10} {:>10} {:>14}", "", "tasks/s", "best", "CPU µs/task");
    ours("worldcompute, R = 1, one donor, four slots", 1, 1, tasks, runs).await;
    ours("worldcompute, R = 3, three donors, four slots", 3, 3, tasks, runs).await;
    match std::env::var("WC_PEERS_PYTHON") {
        Ok(python) => {
            for (label, script) in
                [("Ray, four workers", "ray_noop.py"), ("Dask, four worker processes", "dask_noop.py")]
            {
                peer(&python, label, script, tasks, runs);
            }
        }
        Err(_) => println!("SKIP: WC_PEERS_PYTHON is not set, so Ray and Dask were not measured"),
    }
}

fn total_cpu(federation: &Federation) -> Duration {
    federation.nodes.iter().filter_map(|node| node.pid()).map(cpu).sum()
}

async fn ours(label: &str, donors: usize, replicas: u8, tasks: u32, runs: usize) {
    let federation = federation(donors, SLOTS).await;
    let mut submitter = Submitter::new(federation.coordinator(), &guest("noop")).await;
    // Compiled everywhere, workers warm, the donors' pace known.
    let job = submitter.submit(&federation, tasks / 10 + 1, replicas).await;
    submitter.verified(job).await;
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let before = total_cpu(&federation);
        let begun = Instant::now();
        let job = submitter.submit(&federation, tasks, replicas).await;
        submitter.verified(job).await;
        rates.push(f64::from(tasks) / begun.elapsed().as_secs_f64());
        costs.push((total_cpu(&federation) - before).as_secs_f64() * 1e6 / f64::from(tasks));
    }
    row(label, rates, costs);
}

fn row(label: &str, rates: Vec<f64>, costs: Vec<f64>) {
    let best = rates.iter().copied().fold(0.0, f64::max);
    println!("{label:<44} {:>10.0} {best:>10.0} {:>14.0}", median(rates), median(costs));
}

/// Runs a script that prints one line `SECONDS CPU_SECONDS` for each run.
fn peer(python: &str, label: &str, script: &str, tasks: u32, runs: usize) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/").to_owned() + script;
    let output = Command::new(python)
        .args([&script, &tasks.to_string(), &runs.to_string(), &SLOTS.to_string()])
        .output()
        .expect("WC_PEERS_PYTHON starts");
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let numbers: Vec<f64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        if let [seconds, cpu] = numbers[..] {
            rates.push(f64::from(tasks) / seconds);
            costs.push(cpu * 1e6 / f64::from(tasks));
        }
    }
    if rates.is_empty() {
        println!("{label}: no result\n{}", String::from_utf8_lossy(&output.stderr));
    } else {
        row(label, rates, costs);
    }
}
