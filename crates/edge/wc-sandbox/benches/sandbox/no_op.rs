//! Tasks that do nothing: what is left is what we add.

use std::time::{Duration, Instant};

use wc_sandbox::TaskSpec;

use crate::{Place, median};

const TASKS: usize = 20_000;
/// A module of the raw convention, and one with the WASI context of a command.
const RAW: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
const WASI: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1) (data (i32.const 0) "\10\00\00\00\02\00\00\00") (data (i32.const 16) "ok")
    (func (export "_start") (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

pub fn run() {
    println!(
        "\n| no-op tasks | tasks/s | µs per task in the worker | CPU µs per task in the worker |\n|---|---|---|---|"
    );
    for (name, wat) in [("raw module", RAW), ("WASI command that prints", WASI)] {
        for workers in [1, 4] {
            batch(name, wat, workers);
        }
    }
    latencies();
}

fn batch(name: &str, wat: &str, workers: usize) {
    let place = Place::new(workers, |_| {});
    let prepared = place.prepare(&wat::parse_str(wat).expect("valid text"));
    let slots: Vec<_> = (0..workers).map(|_| place.slot(&prepared)).collect();
    let started = Instant::now();
    let handles: Vec<_> = slots
        .into_iter()
        .map(|mut slot| {
            place.runtime.spawn(async move {
                let (mut wall_micros, mut cpu_micros) = (0, 0);
                let tasks = vec![TaskSpec::default(); TASKS];
                slot.run_batch(tasks, |_, outcome| {
                    assert!(outcome.exit.is_success());
                    wall_micros += outcome.usage.wall_micros;
                    cpu_micros += outcome.usage.cpu_micros;
                })
                .await
                .expect("runs");
                (wall_micros, cpu_micros)
            })
        })
        .collect();
    let used: Vec<_> =
        handles.into_iter().map(|handle| place.runtime.block_on(handle).expect("no panic")).collect();
    let elapsed = started.elapsed().as_secs_f64();
    let tasks = (workers * TASKS) as f64;
    let wall: u64 = used.iter().map(|(wall, _)| wall).sum();
    let cpu: u64 = used.iter().map(|(_, cpu)| cpu).sum();
    println!(
        "| {name}, {workers} worker{} | {:.0} | {:.1} | {:.1} |",
        if workers == 1 { "" } else { "s" },
        tasks / elapsed,
        wall as f64 / tasks,
        cpu as f64 / tasks
    );
}

fn latencies() {
    println!("\n| latency | median |\n|---|---|");
    let print = |name: &str, values: Vec<Duration>| println!("| {name} | {:?} |", median(values));

    let place = Place::new(1, |config| config.spares = 1);
    let prepared = place.prepare(&wat::parse_str(RAW).expect("valid text"));
    let mut slot = place.slot(&prepared);
    let one = |slot: &mut wc_sandbox::Slot| {
        let started = Instant::now();
        assert!(place.runtime.block_on(slot.run(TaskSpec::default())).expect("runs").exit.is_success());
        started.elapsed()
    };
    print("one task, worker bound", (0..2000).map(|_| one(&mut slot)).collect());
    drop(slot);

    let take = |wait: bool| {
        let place = Place::new(1, |config| config.spares = usize::from(wait));
        let prepared = place.prepare(&wat::parse_str(RAW).expect("valid text"));
        (0..50)
            .map(|_| {
                if wait {
                    place.runtime.block_on(place.sandbox.warm()).expect("spares");
                    std::thread::sleep(Duration::from_millis(5));
                }
                let started = Instant::now();
                let mut slot = place.slot(&prepared);
                place.runtime.block_on(slot.run(TaskSpec::default())).expect("runs");
                started.elapsed()
            })
            .collect::<Vec<_>>()
    };
    print("slot and one task, module cached, spare waiting", take(true));
    print("slot and one task, module cached, no spare (a process is started and locked)", take(false));
}
