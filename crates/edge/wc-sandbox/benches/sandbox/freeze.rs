//! How long guests still run after the human has returned.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use wc_sandbox::{Freezer, TaskSpec};

use crate::{Place, cores, quantile};

const ROUNDS: usize = 1000;
const SPIN: &str = r#"(module (func (export "_start") (loop br 0)))"#;

pub fn run() {
    println!("\n| {ROUNDS} freezes of {} spinning workers | p50 | p99 | max |\n|---|---|---|---|", cores());
    let place = Place::new(cores(), |_| {});
    let prepared = place.prepare(&wat::parse_str(SPIN).expect("valid text"));
    let mut slots: Vec<_> = (0..cores()).map(|_| place.slot(&prepared)).collect();
    let pids: Vec<i32> = slots.iter().filter_map(|slot| slot.worker_pid()).collect();
    for mut slot in slots.drain(..) {
        place.runtime.spawn(async move { slot.run(TaskSpec::default()).await });
    }
    let freezer = place.sandbox.freezer();
    let thread = std::thread::spawn(move || {
        // As the agent's freezer thread: ahead of everybody who merely computes, where this user may be.
        let _ = rustix::process::setpriority_process(None, -20);
        by_signal(&freezer, &pids);
        by_cgroup(&pids);
        freezer.kill_all();
    });
    thread.join().expect("no panic");
}

fn by_signal(freezer: &Freezer, pids: &[i32]) {
    let (mut returned, mut stopped) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        pause(round);
        let started = Instant::now();
        freezer.freeze_all();
        returned.push(started.elapsed());
        while !pids.iter().all(|pid| state(*pid) == 'T') {}
        stopped.push(started.elapsed());
        freezer.thaw_all();
    }
    print("SIGSTOP: the call returns", returned);
    print("SIGSTOP: every worker seen stopped", stopped);
}

/// The freezer of version 1 or 2, if this user may make a group, for comparison.
fn by_cgroup(pids: &[i32]) {
    let name = format!("worldcompute-bench-{}", std::process::id());
    let v1 = PathBuf::from("/sys/fs/cgroup/freezer").join(&name);
    let v2 = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(|root| PathBuf::from(root).join(&name));
    let made = |path: &PathBuf| fs::create_dir(path).is_ok();
    let (path, write, frozen, thawed): (_, _, fn(&str) -> bool, _) = if made(&v1) {
        (v1, "freezer.state", |text| text.trim() == "FROZEN", ("FROZEN", "THAWED"))
    } else if let Some(path) = v2.into_iter().find(made) {
        (path, "cgroup.freeze", |_| true, ("1", "0"))
    } else {
        println!("SKIP: control group freezer: no group can be made here");
        return;
    };
    for pid in pids {
        fs::write(path.join("cgroup.procs"), pid.to_string()).expect("a group of ours takes our worker");
    }
    let (mut returned, mut stopped) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        pause(round);
        let started = Instant::now();
        fs::write(path.join(write), thawed.0).expect("freezes");
        returned.push(started.elapsed());
        while !frozen(&fs::read_to_string(path.join(write)).unwrap_or_default()) {}
        stopped.push(started.elapsed());
        fs::write(path.join(write), thawed.1).expect("thaws");
    }
    print("control group freezer: the write returns", returned);
    print("control group freezer: reports frozen", stopped);
    let parent = path.parent().expect("a group has a parent").join("cgroup.procs");
    for pid in pids {
        let _ = fs::write(&parent, pid.to_string());
    }
    let _ = fs::remove_dir(path);
}

/// Lets the guests run for a moment that is not in step with the kernel's ticks.
fn pause(round: usize) {
    std::thread::sleep(Duration::from_micros(700 + (round as u64 * 137) % 2000));
}

fn state(pid: i32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?')
}

fn print(name: &str, mut values: Vec<Duration>) {
    values.sort();
    println!(
        "| {name} | {:?} | {:?} | {:?} |",
        quantile(&values, 0.5),
        quantile(&values, 0.99),
        quantile(&values, 1.0)
    );
}
