//! What running guests in locked workers costs: `cargo bench -p wc-sandbox --bench sandbox [-- no-op | kernels | freeze]`.

mod freeze;
mod kernels;
mod no_op;

use std::time::Duration;

use wc_sandbox::{Limits, Prepared, Sandbox, SandboxConfig, Slot};
use wc_types::cid::{CODEC_RAW, cid_of};

fn main() {
    if std::env::args().nth(1).as_deref() == Some(wc_sandbox::WORKER_ARGUMENT) {
        wc_sandbox::worker_main();
    }
    let chosen: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == name);
    println!("{} processors, load {}", cores(), load());
    if wants("no-op") {
        no_op::run();
    }
    if wants("freeze") {
        freeze::run();
    }
    if wants("kernels") {
        kernels::run();
    }
}

/// A runtime and a sandbox in a directory that goes away.
struct Place {
    runtime: tokio::runtime::Runtime,
    sandbox: Sandbox,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new(slots: usize, change: impl FnOnce(&mut SandboxConfig)) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("runtime");
        let dir = tempfile::tempdir().expect("directory");
        let mut config = SandboxConfig::new(dir.path(), slots);
        config.spares = slots;
        change(&mut config);
        let sandbox = runtime.block_on(Sandbox::open(config)).expect("sandbox");
        Self { runtime, sandbox, _dir: dir }
    }

    fn prepare(&self, bytes: &[u8]) -> Prepared {
        self.runtime.block_on(self.sandbox.prepare(&cid_of(CODEC_RAW, bytes), bytes)).expect("a valid module")
    }

    fn slot(&self, prepared: &Prepared) -> Slot {
        self.runtime.block_on(self.sandbox.slot([0; 32], prepared, Limits::default())).expect("a slot")
    }
}

/// Returns the value below which `part` of the sorted `values` lie.
fn quantile(values: &[Duration], part: f64) -> Duration {
    values[((values.len() - 1) as f64 * part) as usize]
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    quantile(&values, 0.5)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or("?").to_owned()
}
