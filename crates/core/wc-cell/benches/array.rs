//! How fast the cell decides, and what a queued task costs: array jobs of many tasks, every signature made beforehand.
//!
//! `cargo bench -p wc-cell`
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock; the cell does not")]

#[path = "../tests/cell/fixture.rs"]
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
mod fixture;

use std::time::{Duration, Instant};

use fixture::*;
use wc_cell::{Command, Event, Fact};
use wc_types::grant::Grant;
use wc_types::node::{Path, Reach};
use wc_types::outcome::{Commitment, Outcome};
use wc_types::{Bytes, LeaseId, Millis, Signed, TaskId};

/// Time spent applying facts of each kind.
#[derive(Default)]
struct Spent {
    grant: Duration,
    commit: Duration,
    report: Duration,
}

fn main() {
    for replicas in [1, 3] {
        array(20_000, replicas);
    }
    queued(1_000_000);
    for (replicas, bytes) in [(1, 4), (3, 4), (3, 9 << 20)] {
        placed(replicas, bytes);
    }
}

/// How long it takes to choose among 250 nodes that all ask for work, half of them behind relays, for one task.
fn placed(replicas: u8, bytes: u64) {
    const NODES: u8 = 250;
    const JOBS: u32 = 400;
    let mut world = World::with_nodes(NODES);
    let mut seq = world.facts.len() as u64;
    for number in 0..NODES {
        let reach = if number % 2 == 0 { Reach::Direct } else { Reach::Relayed };
        let path = Path { reach, rtt: Some(Millis(u64::from(number))), inspected: false };
        apply(&mut world, &mut seq, Event::NodeReached { node: node_id(number), path });
        apply(&mut world, &mut seq, Event::WorkWanted { node: node_id(number), replicas: 256 });
    }
    let mut spent = Duration::ZERO;
    for number in 0..JOBS {
        let mut manifest = manifest(vec![stage("noop", 1, replicas)]);
        manifest.name = format!("job{number}");
        manifest.stages[0].workload.bytes = Bytes(bytes);
        let job = Signed::seal(manifest, &submitter_key());
        let id = job.job_id(&job.cid());
        apply(&mut world, &mut seq, Event::JobSubmitted(job.witnessed()));
        let (commands, took) = apply(&mut world, &mut seq, Event::JobStaged { job: id, listed: Vec::new() });
        let granted = commands.iter().filter(|command| matches!(command, Command::Grant(_))).count();
        assert_eq!(granted, usize::from(replicas));
        spent += took;
    }
    println!(
        "one task of {bytes} bytes, R = {replicas}, placed among {NODES} idle nodes: {:.1} µs",
        spent.as_secs_f64() * 1e6 / f64::from(JOBS),
    );
}

/// Applies one fact and returns what it led to and how long that took.
fn apply(world: &mut World, seq: &mut u64, event: Event) -> (Vec<Command>, Duration) {
    let fact = Fact { seq: *seq, at: world.at, seed: [7; 32], event };
    *seq += 1;
    let mut commands = Vec::new();
    let start = Instant::now();
    world.cell.apply(&fact, &mut commands);
    (commands, start.elapsed())
}

fn array(tasks: u32, replicas: u8) {
    const NODES: u8 = 4;
    let mut world = World::with_nodes(NODES);
    let job = world.run(manifest(vec![stage("noop", tasks, replicas)]));
    let mut seq = world.facts.len() as u64;
    let mut spent = Spent::default();
    let (mut outcomes_total, mut decided) = (0u32, 0u32);
    while world.cell.job(&job).is_some_and(|view| view.ended_at.is_none()) {
        let mut held: Vec<(u8, Outcome)> = Vec::new();
        for number in 0..NODES {
            let wanted = Event::WorkWanted { node: node_id(number), replicas: 256 };
            let (commands, took) = apply(&mut world, &mut seq, wanted);
            spent.grant += took;
            for command in commands {
                if let Command::Grant(grant) = command {
                    held.extend(results(&world, number, &grant));
                }
            }
        }
        if replicas > 1 {
            for number in 0..NODES {
                let mine = held.iter().filter(|(holder, _)| *holder == number);
                let items: Vec<(LeaseId, Commitment)> = mine
                    .map(|(_, outcome)| {
                        let record = outcome.result().expect("a result");
                        (outcome.lease, Commitment::new(record, &outcome.salt, &outcome.node))
                    })
                    .collect();
                let node = node_id(number);
                spent.commit += apply(&mut world, &mut seq, Event::Committed { node, items }).1;
            }
        }
        for number in 0..NODES {
            let mine = held.iter().filter(|(holder, _)| *holder == number);
            let outcomes: Vec<_> = mine
                .map(|(_, outcome)| Signed::seal(outcome.clone(), &node_key(number)).witnessed())
                .collect();
            outcomes_total += u32::try_from(outcomes.len()).expect("few");
            let (commands, took) = apply(&mut world, &mut seq, Event::Reported { outcomes });
            spent.report += took;
            let decisions = commands.iter().filter(|command| matches!(command, Command::Decide { .. }));
            decided += u32::try_from(decisions.count()).expect("few");
        }
    }
    assert_eq!(decided, tasks);
    let each = |time: Duration, count: u32| time.as_secs_f64() * 1e6 / f64::from(count);
    println!(
        "array of {tasks}, R = {replicas}: grant {:.2} µs, commit {:.2} µs, report {:.2} µs per replica; {:.2} µs per task",
        each(spent.grant, outcomes_total),
        each(spent.commit, outcomes_total),
        each(spent.report, outcomes_total),
        each(spent.grant + spent.commit + spent.report, tasks),
    );
    let start = Instant::now();
    let bytes = world.cell.snapshot().len();
    println!("  snapshot {bytes} bytes in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
}

fn results(world: &World, number: u8, grant: &Grant) -> Vec<(u8, Outcome)> {
    let at = |index| TaskId { job: grant.job, stage: grant.stage, index };
    grant
        .leases
        .iter()
        .map(|term| (number, world.result(number, (at(term.index), term.lease), "x")))
        .collect()
}

fn queued(tasks: u32) {
    let mut world = World::with_nodes(4);
    let before = resident();
    let start = Instant::now();
    world.run(manifest(vec![stage("noop", tasks, 1)]));
    let took = start.elapsed();
    println!(
        "{tasks} queued tasks: submitted in {:.3} ms, snapshot {} bytes, {} KiB more resident",
        took.as_secs_f64() * 1e3,
        world.cell.snapshot().len(),
        resident().saturating_sub(before),
    );
}

/// Returns this process's resident memory in KiB, zero where the system does not say.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
