//! Real guests in real workers: what they may do, what they may not, and what is left when they are stopped.
#![allow(clippy::unwrap_used, reason = "a test without libtest is not recognised as one")]

mod harness;

use std::fs;
use std::time::{Duration, Instant};

use wc_sandbox::attack::{Attack, MISBEHAVE};
use wc_sandbox::{
    Defence, Exit, InputSource, Limits, Metering, OutputRefusal, Prepared, Sandbox, SandboxConfig,
    SandboxError, Slot, TaskOutcome, TaskSpec,
};
use wc_types::cid::{CODEC_RAW, cid_of};

fn main() {
    if std::env::args().nth(1).as_deref() == Some(wc_sandbox::WORKER_ARGUMENT) {
        wc_sandbox::worker_main();
    }
    harness::run(tests![
        every_defence_is_reported,
        a_broken_out_guest_finds_every_door_closed,
        a_raw_module_returns_the_bytes_it_points_at,
        a_wasi_command_prints_reads_and_exits,
        arguments_and_environment_are_what_the_task_says_and_nothing_else,
        a_component_runs,
        tasks_in_a_batch_end_in_order_with_their_own_outcomes,
        a_fresh_instance_remembers_nothing,
        two_runs_of_one_task_give_the_same_bytes,
        two_seeds_give_other_random_bytes,
        the_clock_starts_at_zero_and_moves,
        fuel_is_the_same_every_time_and_ends_a_loop,
        an_endless_loop_ends_at_the_wall_limit,
        an_endless_loop_ends_at_the_processor_limit,
        a_guest_cannot_have_more_memory_than_its_limit,
        a_guest_that_prints_gigabytes_is_stopped,
        a_talkative_standard_error_keeps_its_tail,
        a_trap_says_what_it_was,
        a_deep_recursion_is_a_trap,
        a_non_zero_exit_keeps_its_code,
        a_corrupt_module_is_refused_with_a_reason,
        a_module_with_unknown_imports_is_refused,
        a_guest_sees_its_inputs_and_leaves_outputs,
        the_next_task_starts_with_clean_directories,
        a_guest_cannot_open_files_outside_its_directories,
        a_link_left_by_a_guest_is_refused,
        a_guest_that_fills_the_disk_is_stopped,
        scratch_is_bounded,
        listings_are_sorted_and_files_have_no_past,
        a_killed_worker_is_a_typed_outcome_and_the_next_task_runs,
        a_spare_that_was_ended_with_everybody_fails_no_task,
        a_worker_that_misbehaves_is_ended,
        freezing_stops_a_spinning_guest_within_ten_milliseconds,
        a_worker_born_while_frozen_stands_still,
        frozen_time_does_not_count_against_the_wall_limit,
        dropping_the_future_ends_the_guest,
        spares_leave_when_nobody_needs_them,
        a_compiled_module_is_found_again_by_the_next_agent,
        a_damaged_artifact_is_not_run,
        a_spare_that_was_just_starting_when_the_sandbox_closed_leaves_nothing,
        nothing_is_left_when_the_sandbox_closes,
    ]);
}

/// A runtime, a directory and a sandbox in it.
struct Bench {
    runtime: tokio::runtime::Runtime,
    sandbox: Sandbox,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut SandboxConfig)) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut config = SandboxConfig::new(dir.path(), 2);
        change(&mut config);
        let sandbox = runtime.block_on(Sandbox::open(config)).unwrap();
        Self { runtime, sandbox, dir }
    }

    fn prepare(&self, wat: &str) -> Prepared {
        let bytes = wat::parse_str(wat).unwrap();
        self.runtime.block_on(self.sandbox.prepare(&cid_of(CODEC_RAW, &bytes), &bytes)).unwrap()
    }

    fn slot(&self, wat: &str, limits: Limits) -> Slot {
        let prepared = self.prepare(wat);
        self.runtime.block_on(self.sandbox.slot([1; 32], &prepared, limits)).unwrap()
    }

    fn run(&self, slot: &mut Slot, task: TaskSpec) -> TaskOutcome {
        self.runtime.block_on(slot.run(task)).unwrap()
    }

    fn run_once(&self, wat: &str, limits: Limits) -> TaskOutcome {
        self.run(&mut self.slot(wat, limits), TaskSpec::default())
    }
}

const NO_OP: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
const SPIN: &str = r#"(module (func (export "_start") (loop br 0)))"#;

/// Imports that most guests below need.
const WASI: &str = r#"
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
"#;

/// The same with what names files.
const WASI_FILES: &str = r#"
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $path_symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory"
    (func $path_create_directory (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get"
    (func $path_filestat_get (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $fd_readdir (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
"#;

/// `$print(address, length)`, with the io vector at 0 and the count at 8.
const PRINT: &str = r#"
  (func $print (param i32 i32)
    (i32.store (i32.const 0) (local.get 0))
    (i32.store (i32.const 4) (local.get 1))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
"#;

/// Rights to read, seek and list, and those to write as well.
const READ_RIGHTS: &str = "(i64.const 0x4026) (i64.const 0x4026)";
const WRITE_RIGHTS: &str = "(i64.const 0x1fffffff) (i64.const 0x1fffffff)";

fn wasi(body: &str) -> String {
    format!(r#"(module {WASI} (memory (export "memory") 4) {PRINT} {body})"#)
}

fn wasi_files(body: &str) -> String {
    format!(r#"(module {WASI} {WASI_FILES} (memory (export "memory") 4) {PRINT} {body})"#)
}

fn every_defence_is_reported() {
    let bench = Bench::new();
    let defences = bench.sandbox.defences();
    for defence in defences {
        println!("    {defence}");
    }
    let names: Vec<_> = defences.iter().map(|d| d.name.as_str()).collect();
    for name in
        ["user namespace", "network namespace", "private root", "landlock", "seccomp", "no capabilities"]
    {
        assert!(names.contains(&name), "{name}");
    }
    // What every kernel that we support gives to every user.
    for name in ["unprivileged user", "resource limits", "no capabilities", "no new privileges", "seccomp"] {
        assert!(defences.iter().any(|d| d.name == name && Defence::is_active(d)), "{name}");
    }
}

fn a_broken_out_guest_finds_every_door_closed() {
    let bench = Bench::new();
    let agent_pid = std::process::id() as i32;
    let attempts = bench.runtime.block_on(bench.sandbox.attack(Attack { agent_pid })).unwrap();
    assert!(attempts.len() > 30);
    let mut open = Vec::new();
    for attempt in &attempts {
        match attempt.name.as_str() {
            "list root" => assert!(
                attempt.errno.is_some() || attempt.seen == "checkpoint in out scratch",
                "the root holds {}",
                attempt.seen
            ),
            _ if attempt.errno.is_none() => open.push(&attempt.name),
            _ => {}
        }
    }
    assert!(open.is_empty(), "these worked: {open:?}");
    let refused_by_filter =
        |name: &str| attempts.iter().any(|a| a.name == name && a.errno == Some(libc::EPERM));
    for name in ["socket inet", "clone", "ptrace agent", "kill agent", "execve", "mount"] {
        assert!(refused_by_filter(name), "{name}");
    }
}

fn a_raw_module_returns_the_bytes_it_points_at() {
    let bench = Bench::new();
    let raw = |length: &str| {
        format!(
            r#"(module (memory (export "memory") 1) (data (i32.const 0) "hello")
                 (func (export "_start") (i32.store8 (i32.const 0) (i32.const 72)))
                 (func (export "output_len") (result i32) (i32.const {length})))"#
        )
    };
    let outcome = bench.run_once(&raw("5"), Limits::default());
    assert_eq!((outcome.exit, outcome.stdout), (Exit::Exited { code: 0 }, b"Hello".to_vec()));
    let outcome = bench.run_once(&raw("-1"), Limits::default());
    assert!(matches!(outcome.exit, Exit::Trapped { .. }), "{:?}", outcome.exit);
    let limits = Limits { stdout_bytes: 4, ..Limits::default() };
    assert_eq!(bench.run_once(&raw("5"), limits).exit, Exit::StdoutLimit);
}

fn a_wasi_command_prints_reads_and_exits() {
    let bench = Bench::new();
    let echo = wasi(
        r#"(func (export "_start")
             (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 100))
             (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
             (call $print (i32.const 64) (i32.load (i32.const 8)))
             (call $proc_exit (i32.const 0)))"#,
    );
    let mut slot = bench.slot(&echo, Limits::default());
    let outcome = bench.run(&mut slot, TaskSpec { stdin: b"to be echoed".to_vec(), ..TaskSpec::default() });
    assert_eq!((outcome.exit, outcome.stdout), (Exit::Exited { code: 0 }, b"to be echoed".to_vec()));
    assert!(outcome.usage.fuel > 0);
    assert_eq!(outcome.usage.memory_bytes_peak, 4 << 16);
    let outcome = bench.run(&mut slot, TaskSpec::default());
    assert!(outcome.exit.is_success() && outcome.stdout.is_empty(), "standard input is empty by default");
}

fn arguments_and_environment_are_what_the_task_says_and_nothing_else() {
    let bench = Bench::new();
    let show = wasi(
        r#"(func (export "_start")
             (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
             (drop (call $args_get (i32.const 64) (i32.const 1024)))
             (call $print (i32.const 1024) (i32.load (i32.const 20)))
             (drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
             (drop (call $environ_get (i32.const 64) (i32.const 1024)))
             (call $print (i32.const 1024) (i32.load (i32.const 20))))"#,
    );
    let mut slot = bench.slot(&show, Limits::default());
    let task = TaskSpec {
        args: vec!["guest".into(), "--é".into()],
        env: vec![("TILE".into(), "7".into())],
        ..TaskSpec::default()
    };
    let outcome = bench.run(&mut slot, task);
    assert_eq!(String::from_utf8(outcome.stdout).unwrap(), "guest\0--é\0TILE=7\0");
    assert!(bench.run(&mut slot, TaskSpec::default()).stdout.is_empty());
    let bad = TaskSpec { env: vec![("A=B".into(), "".into())], ..TaskSpec::default() };
    assert!(matches!(bench.runtime.block_on(slot.run(bad)), Err(SandboxError::TaskInvalid { .. })));
    assert!(bench.run(&mut slot, TaskSpec::default()).exit.is_success(), "a refused task costs nothing");
}

fn a_component_runs() {
    let bench = Bench::new();
    let component = |result: &str| {
        format!(
            r#"(component
                 (core module $m (func (export "run") (result i32) {result}))
                 (core instance $i (instantiate $m))
                 (func $run (result (result)) (canon lift (core func $i "run")))
                 (instance $cli (export "run" (func $run)))
                 (export "wasi:cli/run@0.2.0" (instance $cli)))"#
        )
    };
    assert_eq!(bench.run_once(&component("(i32.const 0)"), Limits::default()).exit, Exit::Exited { code: 0 });
    assert_eq!(bench.run_once(&component("(i32.const 1)"), Limits::default()).exit, Exit::Exited { code: 1 });
    assert!(matches!(
        bench.run_once(&component("unreachable"), Limits::default()).exit,
        Exit::Trapped { .. }
    ));
}

fn tasks_in_a_batch_end_in_order_with_their_own_outcomes() {
    let bench = Bench::new();
    let first_argument = wasi(
        r#"(func (export "_start")
             (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
             (drop (call $args_get (i32.const 64) (i32.const 1024)))
             (if (i32.eq (i32.load8_u (i32.const 1024)) (i32.const 120)) (then unreachable))
             (call $print (i32.const 1024) (i32.sub (i32.load (i32.const 20)) (i32.const 1))))"#,
    );
    let mut slot = bench.slot(&first_argument, Limits::default());
    let name = |i: usize| if i % 7 == 3 { "x".to_owned() } else { i.to_string() };
    let tasks = (0..500).map(|i| TaskSpec { args: vec![name(i)], ..TaskSpec::default() }).collect();
    let mut outcomes = Vec::new();
    bench.runtime.block_on(slot.run_batch(tasks, |i, outcome| outcomes.push((i, outcome)))).unwrap();
    assert_eq!(outcomes.len(), 500);
    for (position, (i, outcome)) in outcomes.iter().enumerate() {
        assert_eq!(position, *i);
        match i % 7 {
            3 => assert!(matches!(outcome.exit, Exit::Trapped { .. })),
            _ => assert_eq!(outcome.stdout, i.to_string().into_bytes()),
        }
    }
}

fn a_fresh_instance_remembers_nothing() {
    let bench = Bench::new();
    let remember = r#"(module (memory (export "memory") 2) (global $g (mut i32) (i32.const 0))
        (func (export "_start")
          (i32.store (i32.const 0) (i32.add (i32.load (i32.const 70000)) (global.get $g)))
          (i32.store (i32.const 70000) (i32.const 7)) (global.set $g (i32.const 7))
          (drop (memory.grow (i32.const 5))) (i32.store (i32.const 400000) (i32.const 7)))
        (func (export "output_len") (result i32) (i32.const 4)))"#;
    let mut slot = bench.slot(remember, Limits::default());
    for _ in 0..5 {
        let outcome = bench.run(&mut slot, TaskSpec::default());
        assert_eq!((outcome.exit, outcome.stdout), (Exit::Exited { code: 0 }, vec![0; 4]));
    }
}

/// Prints 32 random bytes and five readings of each clock.
fn ambient() -> String {
    wasi(
        r#"(func $clock (param i32)
             (drop (call $clock_time_get (local.get 0) (i64.const 0) (i32.const 64)))
             (call $print (i32.const 64) (i32.const 8)))
           (func (export "_start")
             (drop (call $random_get (i32.const 64) (i32.const 32)))
             (call $print (i32.const 64) (i32.const 32))
             (call $clock (i32.const 0)) (call $clock (i32.const 0))
             (call $clock (i32.const 1)) (call $clock (i32.const 1)))"#,
    )
}

fn two_runs_of_one_task_give_the_same_bytes() {
    let task = TaskSpec { seed: [9; 32], ..TaskSpec::default() };
    let outcomes: Vec<_> = (0..2)
        .map(|_| {
            let bench = Bench::new();
            let mut slot = bench.slot(&ambient(), Limits::default());
            [bench.run(&mut slot, task.clone()).stdout, bench.run(&mut slot, task.clone()).stdout]
        })
        .collect();
    assert_eq!(outcomes[0][0].len(), 64);
    assert!(outcomes.iter().flatten().all(|stdout| *stdout == outcomes[0][0]));
}

fn two_seeds_give_other_random_bytes() {
    let bench = Bench::new();
    let mut slot = bench.slot(&ambient(), Limits::default());
    let one = bench.run(&mut slot, TaskSpec { seed: [1; 32], ..TaskSpec::default() }).stdout;
    let two = bench.run(&mut slot, TaskSpec { seed: [2; 32], ..TaskSpec::default() }).stdout;
    assert_ne!(one[..32], two[..32]);
    assert_eq!(one[32..], two[32..], "clocks do not depend on the seed");
}

fn the_clock_starts_at_zero_and_moves() {
    let bench = Bench::new();
    let stdout = bench.run_once(&ambient(), Limits::default()).stdout;
    let readings: Vec<u64> =
        stdout[32..].chunks(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(readings[0], 0, "the wall clock starts at the epoch");
    assert!(readings[1] > readings[0] && readings[3] > readings[2] && readings[3] < 1_000_000_000);
}

const COUNT: &str = r#"(module (func (export "_start") (local i32)
    (loop (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 1000000))))))"#;

fn fuel_is_the_same_every_time_and_ends_a_loop() {
    let bench = Bench::new();
    let mut slot = bench.slot(COUNT, Limits::default());
    let fuel = bench.run(&mut slot, TaskSpec::default()).usage.fuel;
    assert!(fuel > 1_000_000);
    assert_eq!(bench.run(&mut slot, TaskSpec::default()).usage.fuel, fuel);
    let exact = bench.run(&mut slot, TaskSpec { fuel_max: Some(fuel), ..TaskSpec::default() });
    assert!(exact.exit.is_success());
    let short = bench.run(&mut slot, TaskSpec { fuel_max: Some(fuel / 2), ..TaskSpec::default() });
    assert_eq!(short.exit, Exit::FuelExhausted);
    assert!(bench.run(&mut slot, TaskSpec::default()).exit.is_success());

    let bench = Bench::with(|config| config.metering = Metering::None);
    assert_eq!(bench.run_once(COUNT, Limits::default()).usage.fuel, 0);
}

fn an_endless_loop_ends_at_the_wall_limit() {
    let bench = Bench::new();
    let limits = Limits { wall: Duration::from_millis(300), ..Limits::default() };
    let mut slot = bench.slot(SPIN, limits);
    let started = Instant::now();
    let outcome = bench.run(&mut slot, TaskSpec::default());
    assert_eq!(outcome.exit, Exit::WallLimit);
    assert!(outcome.usage.wall_micros >= 300_000 && outcome.usage.cpu_micros > 0);
    assert!(started.elapsed() < Duration::from_secs(3));
    let short = TaskSpec { wall_max: Some(Duration::from_millis(50)), ..TaskSpec::default() };
    assert_eq!(bench.run(&mut slot, short).exit, Exit::WallLimit);
}

fn an_endless_loop_ends_at_the_processor_limit() {
    let bench = Bench::new();
    let outcome = bench.run_once(SPIN, Limits { cpu: Duration::from_millis(200), ..Limits::default() });
    assert_eq!(outcome.exit, Exit::CpuLimit);
    assert!(outcome.usage.cpu_micros >= 190_000, "{:?}", outcome.usage);
}

fn a_guest_cannot_have_more_memory_than_its_limit() {
    let bench = Bench::new();
    let limits = Limits { memory_bytes: 64 << 20, ..Limits::default() };
    let grow = r#"(module (memory (export "memory") 1)
        (func (export "_start")
          (loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable))"#;
    let outcome = bench.run_once(grow, limits.clone());
    assert_eq!(outcome.exit, Exit::OutOfMemory);
    assert!(outcome.usage.memory_bytes_peak > 60 << 20 && outcome.usage.memory_bytes_peak <= 64 << 20);
    let born_large = r#"(module (memory (export "memory") 2000) (func (export "_start")))"#;
    assert_eq!(bench.run_once(born_large, limits.clone()).exit, Exit::OutOfMemory);
    // So large that the kernel would refuse it before the meter is asked.
    let almost_all = r#"(module (memory (export "memory") 65535) (func (export "_start")))"#;
    assert_eq!(bench.run_once(almost_all, limits.clone()).exit, Exit::OutOfMemory);
    let carry_on = r#"(module (memory (export "memory") 1)
        (func (export "_start") (loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))))"#;
    assert_eq!(bench.run_once(carry_on, limits).exit, Exit::Exited { code: 0 }, "a guest may cope");
}

fn a_guest_that_prints_gigabytes_is_stopped() {
    let bench = Bench::new();
    let flood =
        wasi(r#"(func (export "_start") (loop (call $print (i32.const 64) (i32.const 65536)) br 0))"#);
    let outcome = bench.run_once(&flood, Limits::default());
    assert_eq!(outcome.exit, Exit::StdoutLimit);
    assert_eq!(outcome.stdout.len(), 1 << 20, "what fits is kept");
}

fn a_talkative_standard_error_keeps_its_tail() {
    let bench = Bench::new();
    let talk = wasi(
        r#"(func (export "_start") (local i32)
             (loop
               (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1000))
               (i32.store8 (i32.const 64) (i32.add (i32.const 97) (i32.rem_u (local.get 0) (i32.const 26))))
               (drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
               (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 2600)))))"#,
    );
    let outcome = bench.run_once(&talk, Limits::default());
    assert!(outcome.exit.is_success());
    assert_eq!(outcome.stderr.len(), 64 << 10);
    assert_eq!(outcome.stderr_bytes_cut, 2_600_000 - (64 << 10));
    assert_eq!(outcome.stderr[outcome.stderr.len() - 1000], b'z');
}

fn a_trap_says_what_it_was() {
    let bench = Bench::new();
    for (code, kind) in [
        ("unreachable", "unreachable"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "divide by zero"),
        ("(drop (i32.load (i32.const -1)))", "out of bounds memory access"),
    ] {
        let wat = format!(r#"(module (memory (export "memory") 1) (func (export "_start") {code}))"#);
        let Exit::Trapped { kind: found, message } = bench.run_once(&wat, Limits::default()).exit else {
            panic!("{code} did not trap")
        };
        assert!(found.contains(kind), "{found}");
        assert!(!message.is_empty());
    }
}

fn a_deep_recursion_is_a_trap() {
    let bench = Bench::new();
    let deep = r#"(module (func $f (export "_start") (call $f)))"#;
    let mut slot = bench.slot(deep, Limits::default());
    for _ in 0..3 {
        let outcome = bench.run(&mut slot, TaskSpec::default());
        assert!(
            matches!(&outcome.exit, Exit::Trapped { kind, .. } if kind.contains("stack")),
            "{:?}",
            outcome.exit
        );
    }
}

fn a_non_zero_exit_keeps_its_code() {
    let bench = Bench::new();
    let exit = wasi(r#"(func (export "_start") (call $proc_exit (i32.const 42)))"#);
    assert_eq!(bench.run_once(&exit, Limits::default()).exit, Exit::Exited { code: 42 });
}

fn a_corrupt_module_is_refused_with_a_reason() {
    let bench = Bench::new();
    let good = wat::parse_str(ambient()).unwrap();
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle..middle + 8].fill(0xff);
    let cases: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("text", b"hello, this is not a module"),
        ("truncated", &good[..good.len() - 10]),
        ("flipped", &flipped),
        ("header only, wrong version", b"\0asm\x07\0\0\0"),
    ];
    for (name, bytes) in cases {
        let prepared = bench.runtime.block_on(bench.sandbox.prepare(&cid_of(CODEC_RAW, bytes), bytes));
        match prepared {
            Err(SandboxError::ModuleInvalid { reason }) => assert!(!reason.is_empty()),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(bench.runtime.block_on(bench.sandbox.prepare(&cid_of(CODEC_RAW, &good), &good)).is_ok());
    assert_eq!(
        fs::read_dir(bench.dir.path().join("compiled")).unwrap().count(),
        1,
        "no partial artifact is left"
    );
}

fn a_module_with_unknown_imports_is_refused() {
    let bench = Bench::new();
    for wat in [
        r#"(module (import "env" "launch_missiles" (func)) (func (export "_start")))"#,
        r#"(module (func (export "main")))"#,
    ] {
        let prepared = bench.prepare(wat);
        let slot = bench.runtime.block_on(bench.sandbox.slot([1; 32], &prepared, Limits::default()));
        assert!(matches!(slot, Err(SandboxError::ModuleInvalid { .. })), "{wat}");
    }
}

/// Opens `path` in the preopened directory `fd` and stores the descriptor at 128; traps if that fails.
fn open(fd: u32, path: &str, create: bool) -> String {
    format!(
        r#"(memory.init ${name} (i32.const 2048) (i32.const 0) (i32.const {length}))
           (if (call $path_open (i32.const {fd}) (i32.const 0) (i32.const 2048) (i32.const {length})
                 (i32.const {oflags}) {rights} (i32.const 0) (i32.const 128)) (then unreachable))"#,
        name = data_name(path),
        length = path.len(),
        oflags = if create { 1 } else { 0 },
        rights = if create { WRITE_RIGHTS } else { READ_RIGHTS },
    )
}

fn data_name(path: &str) -> String {
    path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn data(path: &str) -> String {
    format!(r#"(data ${} "{path}")"#, data_name(path))
}

// Preopened directories have descriptors 3 (/in), 4 (/out), 5 (/scratch) and 6 (/checkpoint).
const WRITE_64: &str = r#"(i32.store (i32.const 0) (i32.const 64))
    (if (call $fd_write (i32.load (i32.const 128)) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))"#;

/// Copies /in/a to /out/b and to /checkpoint/c, and leaves something in /scratch.
fn copy_guest() -> String {
    wasi_files(&format!(
        r#"{} {} {} {}
           (func (export "_start")
             {open_in}
             (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 60))
             (drop (call $fd_read (i32.load (i32.const 128)) (i32.const 0) (i32.const 1) (i32.const 8)))
             (i32.store (i32.const 4) (i32.load (i32.const 8)))
             {open_out} {WRITE_64} {open_checkpoint} {WRITE_64} {open_scratch} {WRITE_64})"#,
        data("a"),
        data("b"),
        data("c"),
        data("s"),
        open_in = open(3, "a", false),
        open_out = open(4, "b", true),
        open_checkpoint = open(6, "c", true),
        open_scratch = open(5, "s", true),
    ))
}

fn input(name: &str, bytes: &[u8]) -> (String, InputSource) {
    (name.into(), InputSource::Bytes(bytes.to_vec()))
}

fn a_guest_sees_its_inputs_and_leaves_outputs() {
    let bench = Bench::new();
    let mut slot = bench.slot(&copy_guest(), Limits::default());
    let blob = bench.dir.path().join("blob");
    fs::write(&blob, "from a blob").unwrap();
    let inputs = vec![("a".into(), InputSource::Path(blob.clone()))];
    let outcome = bench.run(&mut slot, TaskSpec { inputs, ..TaskSpec::default() });
    assert_eq!(outcome.exit, Exit::Exited { code: 0 });
    assert_eq!(outcome.outputs.files.len(), 1);
    assert_eq!((outcome.outputs.files[0].name.as_str(), outcome.outputs.files[0].bytes), ("b", 11));
    assert_eq!(fs::read(&outcome.outputs.files[0].path).unwrap(), b"from a blob");
    assert_eq!(outcome.outputs.checkpoint[0].name, "c");
    assert_eq!(fs::read(&blob).unwrap(), b"from a blob");

    let outcome = bench.run(&mut slot, TaskSpec::default());
    assert!(matches!(outcome.exit, Exit::Trapped { .. }), "without its input it cannot go on");
}

fn the_next_task_starts_with_clean_directories() {
    let bench = Bench::new();
    // Creates /out/x and /scratch/y and fails if either exists (O_CREAT | O_EXCL).
    let exclusive =
        |fd: u32, path: &str| open(fd, path, true).replace("(i32.const 1) (i64", "(i32.const 5) (i64");
    let guest = wasi_files(&format!(
        r#"{} {} (func (export "_start") {} {})"#,
        data("x"),
        data("y"),
        exclusive(4, "x"),
        exclusive(5, "y")
    ));
    let mut slot = bench.slot(&guest, Limits::default());
    let mut outcomes = Vec::new();
    let tasks = vec![TaskSpec::default(); 5];
    bench.runtime.block_on(slot.run_batch(tasks, |_, outcome| outcomes.push(outcome))).unwrap();
    for outcome in &outcomes {
        assert_eq!(outcome.exit, Exit::Exited { code: 0 });
        assert_eq!(outcome.outputs.files.len(), 1);
    }
    assert_ne!(outcomes[0].outputs.files[0].path, outcomes[1].outputs.files[0].path);
    drop(outcomes);
    assert_eq!(fs::read_dir(bench.dir.path().join("result")).unwrap().count(), 0);
}

fn a_guest_cannot_open_files_outside_its_directories() {
    let bench = Bench::new();
    for (fd, path, create) in [
        (3, "../../etc/passwd", false),
        (3, "/etc/passwd", false),
        (4, "../in/new", true),
        (3, "new", true),
        (4, "/tmp/escaped", true),
        (4, "../../../../../../tmp/escaped", true),
        (7, "etc/passwd", false),
        (2, "etc/passwd", false),
    ] {
        let guest =
            wasi_files(&format!(r#"{} (func (export "_start") {})"#, data(path), open(fd, path, create)));
        let outcome = bench.run_once(&guest, Limits::default());
        assert!(matches!(outcome.exit, Exit::Trapped { .. }), "{path} opened: {:?}", outcome.exit);
    }
    assert!(!std::path::Path::new("/tmp/escaped").exists());
}

fn a_link_left_by_a_guest_is_refused() {
    let bench = Bench::new();
    // WASI itself refuses absolute link targets, so point upwards.
    let guest = wasi_files(
        r#"(data (i32.const 1024) "../worker") (data (i32.const 1100) "link")
           (func (export "_start")
             (if (call $path_symlink (i32.const 1024) (i32.const 9) (i32.const 4) (i32.const 1100) (i32.const 4))
               (then unreachable)))"#,
    );
    let mut slot = bench.slot(&guest, Limits::default());
    for _ in 0..2 {
        let outcome = bench.run(&mut slot, TaskSpec::default());
        let refusal = OutputRefusal::NotAFile { name: "link".into() };
        assert_eq!(
            outcome.exit,
            Exit::OutputRefused { refusal },
            "and the next task meets a clean directory"
        );
    }
    // A worker that was taken over can make links to anywhere.
    let task = TaskSpec { args: vec![MISBEHAVE.into(), "link".into()], ..TaskSpec::default() };
    let refusal = OutputRefusal::NotAFile { name: "passwd".into() };
    assert_eq!(bench.run(&mut slot, task).exit, Exit::OutputRefused { refusal });
}

/// Writes 64 KiB to `/<directory>/f` until that fails, then goes on forever or traps.
fn fill(fd: u32, then: &str) -> String {
    wasi_files(&format!(
        r#"{} (func (export "_start") {}
             (i32.store (i32.const 0) (i32.const 0)) (i32.store (i32.const 4) (i32.const 65536))
             (loop (br_if 0 (i32.eqz
               (call $fd_write (i32.load (i32.const 128)) (i32.const 0) (i32.const 1) (i32.const 8)))))
             {then})"#,
        data("f"),
        open(fd, "f", true)
    ))
}

fn a_guest_that_fills_the_disk_is_stopped() {
    let limits = Limits { output_bytes: 8 << 20, ..Limits::default() };
    // One file ends at the limit by itself, and the guest learns it.
    let bench = Bench::with(|config| config.scratch_bytes = 1 << 20);
    let outcome = bench.run_once(&fill(4, ""), limits.clone());
    assert_eq!(outcome.exit, Exit::Exited { code: 0 });
    assert_eq!(outcome.outputs.files[0].bytes, 8 << 20);
    // Where one file may be larger, a guest that goes on is seen from outside while it runs.
    let bench = Bench::new();
    let outcome = bench.run_once(&fill(4, "(loop br 0)"), limits);
    assert!(matches!(outcome.exit, Exit::OutputRefused { .. }), "{:?}", outcome.exit);
    let many = wasi_files(
        r#"(data (i32.const 1024) "aaaaaa") (data (i32.const 1100) "dir")
           (func (export "_start") (local i32)
             (loop
               (i32.store (i32.const 1024) (i32.add (i32.const 0x61616161) (local.get 0)))
               (i32.store8 (i32.const 1028) (i32.add (i32.const 65) (i32.rem_u (local.get 0) (i32.const 57))))
               (drop (call $path_open (i32.const 4) (i32.const 0) (i32.const 1024) (i32.const 6)
                 (i32.const 1) (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 128)))
               (drop (call $fd_close (i32.load (i32.const 128))))
               (local.set 0 (i32.add (local.get 0) (i32.const 1)))
               br 0))"#,
    );
    let limits = Limits { output_files: 100, ..Limits::default() };
    let refusal = OutputRefusal::TooManyFiles { files_max: 100 };
    assert_eq!(bench.run_once(&many, limits).exit, Exit::OutputRefused { refusal });
}

fn scratch_is_bounded() {
    let bench = Bench::with(|config| config.scratch_bytes = 4 << 20);
    let private_root = bench.sandbox.defences().iter().any(|d| d.name == "private root" && d.is_active());
    if !private_root {
        println!("SKIP: no private root here, /scratch is a directory of the host");
        return;
    }
    let mut slot = bench.slot(&fill(5, ""), Limits::default());
    for _ in 0..3 {
        let outcome = bench.run(&mut slot, TaskSpec::default());
        assert_eq!(
            outcome.exit,
            Exit::Exited { code: 0 },
            "the write fails, the guest copes, the next one has room"
        );
        assert!(outcome.outputs.files.is_empty());
    }
}

fn listings_are_sorted_and_files_have_no_past() {
    let bench = Bench::new();
    let guest = wasi_files(
        r#"(data (i32.const 1024) "ab")
           (func (export "_start")
             (i32.store (i32.const 16) (i32.const 0))
             (if (call $fd_readdir (i32.const 3) (i32.const 4096) (i32.const 4096) (i64.const 0) (i32.const 16))
               (then unreachable))
             (call $print (i32.const 4096) (i32.load (i32.const 16)))
             (if (call $path_filestat_get (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 2) (i32.const 4096))
               (then unreachable))
             (call $print (i32.const 4096) (i32.const 64)))"#,
    );
    let mut stdouts = Vec::new();
    for order in [["zz", "ab", "mm"], ["mm", "zz", "ab"]] {
        let mut slot = bench.slot(&guest, Limits::default());
        let inputs = order.iter().map(|name| input(name, b"same")).collect();
        let outcome = bench.run(&mut slot, TaskSpec { inputs, ..TaskSpec::default() });
        assert_eq!(outcome.exit, Exit::Exited { code: 0 });
        stdouts.push(outcome.stdout);
    }
    assert_eq!(stdouts[0], stdouts[1]);
    let text = String::from_utf8_lossy(&stdouts[0]).into_owned();
    let place = |name: &str| text.find(name).unwrap();
    assert!(place("ab") < place("mm") && place("mm") < place("zz"));
}

fn a_killed_worker_is_a_typed_outcome_and_the_next_task_runs() {
    let bench = Bench::new();
    let either = wasi(
        r#"(func (export "_start")
             (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
             (if (i32.load (i32.const 16)) (then (loop br 0))))"#,
    );
    let mut slot = bench.slot(&either, Limits::default());
    let freezer = bench.sandbox.freezer();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        freezer.kill_all()
    });
    let spin = TaskSpec { args: vec!["spin".into()], ..TaskSpec::default() };
    let mut outcomes = Vec::new();
    let tasks = vec![TaskSpec::default(), spin, TaskSpec::default(), TaskSpec::default()];
    bench.runtime.block_on(slot.run_batch(tasks, |_, outcome| outcomes.push(outcome.exit))).unwrap();
    assert!(killer.join().unwrap().workers >= 1);
    let fine = Exit::Exited { code: 0 };
    let died = Exit::WorkerDied { signal: Some(libc::SIGKILL) };
    assert_eq!(outcomes, [fine.clone(), died, fine.clone(), fine.clone()]);
    slot.kill();
    assert_eq!(bench.run(&mut slot, TaskSpec::default()).exit, fine);
}

fn a_spare_that_was_ended_with_everybody_fails_no_task() {
    let bench = Bench::new();
    let prepared = bench.prepare(NO_OP);
    for round in 0..40 {
        bench.runtime.block_on(bench.sandbox.warm()).unwrap();
        bench.sandbox.freezer().kill_all();
        // Sooner or later than the spare's end can be seen.
        std::thread::sleep(Duration::from_micros(round * 20));
        let slot = bench.runtime.block_on(bench.sandbox.slot([1; 32], &prepared, Limits::default()));
        assert!(bench.run(&mut slot.unwrap(), TaskSpec::default()).exit.is_success(), "round {round}");
    }
}

fn a_worker_that_misbehaves_is_ended() {
    let bench = Bench::new();
    let mut slot = bench.slot(NO_OP, Limits::default());
    for how in ["oversized", "garbage", "wrong turn", "too much output"] {
        let task = TaskSpec { args: vec![MISBEHAVE.into(), how.into()], ..TaskSpec::default() };
        let mut outcomes = Vec::new();
        let tasks = vec![TaskSpec::default(), task, TaskSpec::default()];
        bench.runtime.block_on(slot.run_batch(tasks, |_, outcome| outcomes.push(outcome.exit))).unwrap();
        assert!(outcomes[0].is_success() && outcomes[2].is_success(), "{how}");
        assert!(matches!(outcomes[1], Exit::WorkerMisbehaved { .. }), "{how}: {:?}", outcomes[1]);
    }
    let task = TaskSpec { args: vec![MISBEHAVE.into(), "die".into()], ..TaskSpec::default() };
    let outcome = bench.run(&mut slot, task);
    assert!(matches!(outcome.exit, Exit::WorkerDied { signal: Some(_) }), "{:?}", outcome.exit);
}

/// Returns the state letter and the processor ticks of a process.
fn process_state(pid: i32) -> (char, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (
        fields[0].chars().next().unwrap(),
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap(),
    )
}

/// Runs `during` while a guest spins, then ends the guest.
fn while_spinning(bench: &Bench, limits: Limits, during: impl FnOnce(i32) + Send + 'static) -> Exit {
    let mut slot = bench.slot(SPIN, limits);
    let pid = slot.worker_pid().unwrap();
    let beside = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        during(pid);
    });
    let outcome = bench.run(&mut slot, TaskSpec::default());
    beside.join().unwrap();
    outcome.exit
}

fn freezing_stops_a_spinning_guest_within_ten_milliseconds() {
    let bench = Bench::new();
    let freezer = bench.sandbox.freezer();
    let exit = while_spinning(&bench, Limits::default(), move |pid| {
        // The quickest of several: on a busy machine it is the observer who waits for a processor, not the guest.
        let mut stopped = Duration::MAX;
        for _ in 0..5 {
            let started = Instant::now();
            let report = freezer.freeze_all();
            while process_state(pid).0 != 'T' {
                assert!(started.elapsed() < Duration::from_secs(5), "never stopped");
            }
            stopped = stopped.min(started.elapsed());
            assert!(report.workers >= 1);
            let (_, ticks) = process_state(pid);
            std::thread::sleep(Duration::from_millis(60));
            assert_eq!(process_state(pid).1, ticks, "a frozen guest uses no processor time");
            freezer.thaw_all();
            let thawed = Instant::now();
            while process_state(pid).1 <= ticks + 2 {
                assert!(thawed.elapsed() < Duration::from_secs(10), "a thawed guest goes on");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        freezer.kill_all();
        println!("    stopped after {stopped:?}");
        assert!(stopped < Duration::from_millis(10), "{stopped:?}");
    });
    assert_eq!(exit, Exit::WorkerDied { signal: Some(libc::SIGKILL) });
}

fn a_worker_born_while_frozen_stands_still() {
    let bench = Bench::with(|config| config.spares = 0);
    let freezer = bench.sandbox.freezer();
    let prepared = bench.prepare(NO_OP);
    freezer.freeze_all();
    let thaw = std::thread::spawn({
        let freezer = freezer.clone();
        move || {
            std::thread::sleep(Duration::from_millis(300));
            freezer.thaw_all();
        }
    });
    let started = Instant::now();
    let mut slot = bench.runtime.block_on(bench.sandbox.slot([1; 32], &prepared, Limits::default())).unwrap();
    assert!(started.elapsed() > Duration::from_millis(250), "{:?}", started.elapsed());
    assert!(bench.run(&mut slot, TaskSpec::default()).exit.is_success());
    thaw.join().unwrap();
}

fn frozen_time_does_not_count_against_the_wall_limit() {
    let bench = Bench::new();
    let freezer = bench.sandbox.freezer();
    let started = Instant::now();
    let limits = Limits { wall: Duration::from_millis(300), ..Limits::default() };
    let exit = while_spinning(&bench, limits, move |_| {
        freezer.freeze_all();
        std::thread::sleep(Duration::from_millis(500));
        freezer.thaw_all();
    });
    assert_eq!(exit, Exit::WallLimit);
    assert!(started.elapsed() > Duration::from_millis(750), "{:?}", started.elapsed());
}

fn dropping_the_future_ends_the_guest() {
    let bench = Bench::new();
    let mut slot = bench.slot(SPIN, Limits::default());
    let pid = slot.worker_pid().unwrap();
    let cancelled = bench.runtime.block_on(async {
        tokio::time::timeout(Duration::from_millis(100), slot.run(TaskSpec::default())).await.is_err()
    });
    assert!(cancelled);
    let started = Instant::now();
    while std::path::Path::new(&format!("/proc/{pid}")).exists() {
        assert!(started.elapsed() < Duration::from_secs(2), "the guest lives on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn spares_leave_when_nobody_needs_them() {
    let bench = Bench::with(|config| {
        config.spares = 2;
        config.spare_idle = Duration::from_millis(500);
    });
    bench.runtime.block_on(bench.sandbox.warm()).unwrap();
    assert_eq!(bench.sandbox.spares(), 2);
    let started = Instant::now();
    while bench.sandbox.spares() > 0 {
        assert!(started.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(bench.run_once(NO_OP, Limits::default()).exit.is_success(), "a new one is started on demand");
}

fn a_compiled_module_is_found_again_by_the_next_agent() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = wat::parse_str(NO_OP).unwrap();
    let cid = cid_of(CODEC_RAW, &bytes);
    for round in 0..2 {
        let bench = Bench::with(|config| config.dir = dir.path().to_owned());
        let found = bench.runtime.block_on(bench.sandbox.prepared(&cid));
        assert_eq!(found.is_some(), round == 1);
        let prepared = bench.prepare(NO_OP);
        let mut slot =
            bench.runtime.block_on(bench.sandbox.slot([1; 32], &prepared, Limits::default())).unwrap();
        assert!(bench.run(&mut slot, TaskSpec::default()).exit.is_success());
    }
    let bench = Bench::with(|config| config.dir = dir.path().to_owned());
    bench.sandbox.forget(&cid);
    assert!(bench.runtime.block_on(bench.sandbox.prepared(&cid)).is_none());
}

fn a_damaged_artifact_is_not_run() {
    let bench = Bench::new();
    let prepared = bench.prepare(NO_OP);
    let compiled = fs::read_dir(bench.dir.path().join("compiled")).unwrap();
    let name = prepared.cid().to_string();
    let mut artifacts = compiled.map(|entry| entry.unwrap().path());
    let path = artifacts.find(|path| path.to_string_lossy().contains(&name)).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(100).unwrap();
    let slot = bench.runtime.block_on(bench.sandbox.slot([1; 32], &prepared, Limits::default()));
    assert!(slot.is_err());
}

fn a_spare_that_was_just_starting_when_the_sandbox_closed_leaves_nothing() {
    for delay_us in (0..4_000).step_by(250) {
        let bench = Bench::with(|config| config.spares = 4);
        let Bench { runtime, sandbox, dir } = bench;
        let warming = sandbox.clone();
        runtime.spawn(async move { warming.warm().await });
        std::thread::sleep(Duration::from_micros(delay_us));
        drop((sandbox, runtime));
        let started = Instant::now();
        let left = || fs::read_dir(dir.path().join("worker")).unwrap().count();
        while left() > 0 {
            assert!(started.elapsed() < Duration::from_secs(5), "{} left after {delay_us} us", left());
            std::thread::sleep(Duration::from_millis(5));
        }
        // Looked at again, because the spawning thread may have been about to make one.
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(left(), 0, "after {delay_us} us");
    }
}

fn nothing_is_left_when_the_sandbox_closes() {
    let bench = Bench::new();
    let mut slot = bench.slot(&copy_guest(), Limits::default());
    bench.run(&mut slot, TaskSpec { inputs: vec![input("a", b"x")], ..TaskSpec::default() });
    let pid = slot.worker_pid().unwrap();
    drop(slot);
    let Bench { runtime, sandbox, dir } = bench;
    drop(sandbox);
    drop(runtime);
    let started = Instant::now();
    let left = || fs::read_dir(dir.path().join("worker")).unwrap().count();
    while left() > 0 || std::path::Path::new(&format!("/proc/{pid}")).exists() {
        assert!(started.elapsed() < Duration::from_secs(5), "{} directories left", left());
        std::thread::sleep(Duration::from_millis(5));
    }
}
