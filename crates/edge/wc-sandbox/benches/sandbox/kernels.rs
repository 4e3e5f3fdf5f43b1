//! What counting work costs, and what the sandbox costs, on real kernels.

use std::time::{Duration, Instant};

use wasmtime::{Config, Engine, Instance, Module, Store};
use wc_sandbox::{Metering, Slot, TaskSpec};

use crate::{Place, median};

const RUNS: usize = 5;
const KERNELS: [(&str, &[u8]); 3] = [
    ("integer (SHA-256 compression)", include_bytes!("../kernels/integer.wasm")),
    ("floating point (Mandelbrot)", include_bytes!("../kernels/float.wasm")),
    ("memory (64 MiB, random and in order)", include_bytes!("../kernels/memory.wasm")),
];

pub fn run() {
    println!(
        "\n| kernel | bare wasmtime | sandbox, no count | bare wasmtime, fuel | sandbox, fuel | cost of fuel | cost of the sandbox (with fuel) | fuel/s |\n|---|---|---|---|---|---|---|---|"
    );
    let places =
        [Metering::None, Metering::Fuel].map(|metering| Place::new(1, |config| config.metering = metering));
    for (name, bytes) in KERNELS {
        let mut slots = places.each_ref().map(|place| place.slot(&place.prepare(bytes)));
        let bare = [false, true].map(|fuel| Bare::new(bytes, fuel));
        let mut times: [Vec<Duration>; 4] = Default::default();
        let mut fuel = 0;
        for _ in 0..RUNS {
            // Interleaved, so that a busy moment of the machine meets all of them.
            times[0].push(bare[0].run());
            times[1].push(in_slot(&places[0], &mut slots[0]).0);
            times[2].push(bare[1].run());
            let (time, spent) = in_slot(&places[1], &mut slots[1]);
            times[3].push(time);
            assert!(fuel == 0 || fuel == spent, "the count is the same every time");
            fuel = spent;
        }
        let [bare, none, bare_fuel, with_fuel] = times.map(median);
        let more = |than: Duration, time: Duration| 100.0 * (time.as_secs_f64() / than.as_secs_f64() - 1.0);
        println!(
            "| {name} | {} | {} | {} | {} | {:+.1} % | {:+.1} % | {:.2e} |",
            ms(bare),
            ms(none),
            ms(bare_fuel),
            ms(with_fuel),
            more(none, with_fuel),
            more(bare_fuel, with_fuel),
            fuel as f64 / with_fuel.as_secs_f64()
        );
    }
}

fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

fn in_slot(place: &Place, slot: &mut Slot) -> (Duration, u64) {
    let started = Instant::now();
    let outcome = place.runtime.block_on(slot.run(TaskSpec::default())).expect("runs");
    let elapsed = started.elapsed();
    assert!(outcome.exit.is_success(), "{:?}", outcome.exit);
    assert_eq!(outcome.stdout.len(), 8);
    (elapsed, outcome.usage.fuel)
}

/// The module in this process with wasmtime's own defaults, which is what its command line does.
struct Bare {
    engine: Engine,
    module: Module,
    fuel: bool,
}

impl Bare {
    fn new(bytes: &[u8], fuel: bool) -> Self {
        let mut config = Config::new();
        config.consume_fuel(fuel);
        let engine = Engine::new(&config).expect("engine");
        let module = Module::new(&engine, bytes).expect("valid module");
        Self { engine, module, fuel }
    }

    fn run(&self) -> Duration {
        let started = Instant::now();
        let mut store = Store::new(&self.engine, ());
        if self.fuel {
            store.set_fuel(u64::MAX).expect("fuel is on");
        }
        let instance = Instance::new(&mut store, &self.module, &[]).expect("instance");
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start").expect("exported");
        start.call(&mut store, ()).expect("runs");
        started.elapsed()
    }
}
