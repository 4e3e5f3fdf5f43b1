//! A million queued tasks and nobody to run them: what the coordinator takes to accept and to hold them.
//!
//! `cargo bench -p wc-benches --bench queue`. `WC_TASKS` (1000000), `WC_RUNS` (5).

use std::time::{Duration, Instant};

use wc_benches::{Submitter, federation, median, millis, print_machine, resident_alone, setting};
use wc_tests::federation::guest;

#[tokio::main]
async fn main() {
    let tasks = u32::try_from(setting("WC_TASKS", 1_000_000)).expect("a task index has 32 bits");
    let runs = setting("WC_RUNS", 5);
    print_machine();
    let federation = federation(0, 0).await;
    let mut submitter = Submitter::new(federation.coordinator(), &guest("noop")).await;
    let pid = federation.coordinator().pid().expect("it runs");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = resident_alone(pid);
    let mut times = Vec::new();
    for _ in 0..runs {
        let begun = Instant::now();
        submitter.submit(&federation, tasks, 3).await;
        times.push(begun.elapsed());
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = resident_alone(pid);
    println!("job of {tasks} tasks, three replicas each, no donors");
    println!("submission, durable, median of {runs}, ms: {}", millis(median(times)));
    println!("resident before, MB: {:.1}", before as f64 / 1e6);
    println!("resident after {runs} such jobs, MB: {:.1}", after as f64 / 1e6);
}
