//! Real guests in real workers: what they may do, what they may not, and what is left when they are stopped.

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
    harness::run(tests![every_defence_is_reported, a_no_op_runs,]);
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
    assert!(defences.iter().filter(|d| Defence::is_active(d)).count() >= 3);
}

fn a_no_op_runs() {
    let bench = Bench::new();
    let outcome = bench.run_once(NO_OP, Limits::default());
    assert_eq!(outcome.exit, Exit::Exited { code: 0 });
}
