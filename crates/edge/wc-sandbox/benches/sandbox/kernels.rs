//! What counting work costs, and what the sandbox costs, on real kernels.
//!
//! With `WC_WASMTIME=/path/to/wasmtime` the command line of wasmtime runs the same modules in the same rounds.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use wasmtime::{Config, Engine, Instance, Module, Store};
use wc_sandbox::{Metering, Slot, TaskSpec};

use crate::Place;

const RUNS: usize = 5;
const KERNELS: [(&str, &[u8]); 3] = [
    ("integer (SHA-256 compression)", include_bytes!("../kernels/integer.wasm")),
    ("floating point (Mandelbrot)", include_bytes!("../kernels/float.wasm")),
    ("memory (64 MiB, random and in order)", include_bytes!("../kernels/memory.wasm")),
];

/// One way to run a kernel.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    sandboxed: bool,
    fuel: bool,
    canonical_nans: bool,
}

const WAYS: [Way; 6] = [
    Way { name: "bare, defaults", sandboxed: false, fuel: false, canonical_nans: false },
    Way { name: "bare, fuel", sandboxed: false, fuel: true, canonical_nans: false },
    Way { name: "bare, fuel, canonical NaNs", sandboxed: false, fuel: true, canonical_nans: true },
    Way { name: "sandbox, canonical NaNs", sandboxed: true, fuel: false, canonical_nans: true },
    Way {
        name: "sandbox, fuel, canonical NaNs (default)",
        sandboxed: true,
        fuel: true,
        canonical_nans: true,
    },
    Way { name: "sandbox, fuel", sandboxed: true, fuel: true, canonical_nans: false },
];

pub fn run() {
    println!(
        "\nProcessor time of a run in ms, least of {RUNS}; \"bare\" is wasmtime in this process, as its command line does it.\n"
    );
    let names: Vec<_> = KERNELS.iter().map(|(name, _)| *name).collect();
    println!("| | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    let places: Vec<Option<Place>> = WAYS
        .iter()
        .map(|way| {
            way.sandboxed.then(|| {
                Place::new(1, |config| {
                    config.metering = if way.fuel { Metering::Fuel } else { Metering::None };
                    config.canonical_nans = way.canonical_nans;
                })
            })
        })
        .collect();
    let mut fuel = [0; KERNELS.len()];
    let mut best = [[Duration::MAX; KERNELS.len()]; WAYS.len()];
    let program = std::env::var_os("WC_WASMTIME").map(PathBuf::from);
    // The command line as the sandbox runs: with fuel, without and with canonical NaNs.
    let mut best_of_program = [[Duration::MAX; KERNELS.len()]; 2];
    for (k, (_, bytes)) in KERNELS.iter().enumerate() {
        let bare = WAYS.map(|way| Bare::new(bytes, way));
        let mut slots: Vec<Option<Slot>> = places
            .iter()
            .map(|place| place.as_ref().map(|place| place.slot(&place.prepare(bytes))))
            .collect();
        let dir = tempfile::tempdir().expect("directory");
        let precompiled = program.as_deref().map(|program| {
            [false, true].map(|canonical_nans| OfProgram::new(program, dir.path(), bytes, canonical_nans))
        });
        // Interleaved, so that a busy moment of the machine meets all of them.
        for _ in 0..RUNS {
            for w in 0..WAYS.len() {
                let time = match (&places[w], &mut slots[w]) {
                    (Some(place), Some(slot)) => {
                        let (time, spent) = in_slot(place, slot);
                        assert!(
                            !WAYS[w].fuel || fuel[k] == 0 || fuel[k] == spent,
                            "the count is always the same"
                        );
                        fuel[k] = fuel[k].max(spent);
                        time
                    }
                    _ => bare[w].run(),
                };
                best[w][k] = best[w][k].min(time);
            }
            for (w, way) in precompiled.iter().flatten().enumerate() {
                best_of_program[w][k] = best_of_program[w][k].min(way.run());
            }
        }
    }
    for (way, times) in WAYS.iter().zip(best) {
        let cells: Vec<_> = times.iter().map(|time| format!("{:.0}", time.as_secs_f64() * 1e3)).collect();
        println!("| {} | {} |", way.name, cells.join(" | "));
    }
    for (name, than, of) in [
        ("cost of fuel in the sandbox", 3, 4),
        ("cost of canonical NaNs in the sandbox", 5, 4),
        ("sandbox beside bare, both fuel and canonical NaNs", 2, 4),
        ("sandbox beside bare, both fuel only", 1, 5),
    ] {
        let cells: Vec<_> = (0..KERNELS.len())
            .map(|k| {
                format!("{:+.1} %", 100.0 * (best[of][k].as_secs_f64() / best[than][k].as_secs_f64() - 1.0))
            })
            .collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
    if program.is_some() {
        for (name, w, of) in
            [("wasmtime command line, fuel", 0, 5), ("wasmtime command line, fuel, canonical NaNs", 1, 4)]
        {
            let cells = best_of_program[w].map(|time| format!("{:.0}", time.as_secs_f64() * 1e3));
            println!("| {name} | {} |", cells.join(" | "));
            let cells: Vec<_> = (0..KERNELS.len())
                .map(|k| {
                    let ratio = best[of][k].as_secs_f64() / best_of_program[w][k].as_secs_f64();
                    format!("{:+.1} %", 100.0 * (ratio - 1.0))
                })
                .collect();
            println!("| {} beside it | {} |", WAYS[of].name, cells.join(" | "));
        }
    } else {
        println!("\nSKIP: the command line of wasmtime; WC_WASMTIME does not name one");
    }
    println!("| fuel | {} |", fuel.map(|fuel| format!("{fuel}")).join(" | "));
}

fn in_slot(place: &Place, slot: &mut Slot) -> (Duration, u64) {
    let outcome = place.runtime.block_on(slot.run(TaskSpec::default())).expect("runs");
    assert!(outcome.exit.is_success(), "{:?}", outcome.exit);
    assert_eq!(outcome.stdout.len(), 8);
    (Duration::from_micros(outcome.usage.cpu_micros), outcome.usage.fuel)
}

/// The module in this process with wasmtime's own defaults, which is what its command line does.
struct Bare {
    engine: Engine,
    module: Module,
    fuel: bool,
}

impl Bare {
    fn new(bytes: &[u8], way: Way) -> Self {
        let mut config = Config::new();
        config.consume_fuel(way.fuel).cranelift_nan_canonicalization(way.canonical_nans);
        let engine = Engine::new(&config).expect("engine");
        let module = Module::new(&engine, bytes).expect("valid module");
        Self { engine, module, fuel: way.fuel }
    }

    fn run(&self) -> Duration {
        let before = thread_cpu();
        let mut store = Store::new(&self.engine, ());
        if self.fuel {
            store.set_fuel(u64::MAX).expect("fuel is on");
        }
        let instance = Instance::new(&mut store, &self.module, &[]).expect("instance");
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start").expect("exported");
        start.call(&mut store, ()).expect("runs");
        thread_cpu() - before
    }
}

/// The module under wasmtime's command line, compiled before.
struct OfProgram {
    program: PathBuf,
    module: PathBuf,
    flags: Vec<&'static str>,
}

impl OfProgram {
    fn new(program: &Path, dir: &Path, bytes: &[u8], canonical_nans: bool) -> Self {
        let mut flags = vec!["-Wfuel=18446744073709551615"];
        if canonical_nans {
            flags.push("-Wnan-canonicalization=y");
        }
        let source = dir.join("kernel.wasm");
        std::fs::write(&source, bytes).expect("the module is written");
        let module = dir.join(format!("{canonical_nans}.cwasm"));
        let status = Command::new(program)
            .arg("compile")
            .args(&flags)
            .arg("-o")
            .args([&module, &source])
            .status()
            .expect("wasmtime starts");
        assert!(status.success(), "wasmtime compiles the kernel");
        Self { program: program.to_owned(), module, flags }
    }

    /// Returns the processor time of the whole process, in steps of the kernel's clock (10 ms).
    fn run(&self) -> Duration {
        let before = children_cpu();
        let status = Command::new(&self.program)
            .args(["run", "--allow-precompiled"])
            .args(&self.flags)
            .arg(&self.module)
            .stdout(Stdio::null())
            .status()
            .expect("wasmtime starts");
        assert!(status.success(), "wasmtime runs the kernel");
        children_cpu() - before
    }
}

/// Returns the user and system time of children that were waited for.
fn children_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, rest) = stat.rsplit_once(')').expect("the name is in parentheses");
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 = fields[13..15].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
