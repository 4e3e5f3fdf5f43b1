//! A test runner whose program is also the worker: libtest owns `main` and would take `sandbox-worker` for a filter.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// One test: its sentence and its body.
pub type Test = (&'static str, fn());

/// Runs the tests whose name contains the first argument, one after the other, and exits non-zero if one fails.
pub fn run(tests: &[Test]) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        // Runners also ask for the tests that are switched off; there are none.
        if !arguments.iter().any(|argument| argument == "--ignored") {
            tests.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let mut failed = Vec::new();
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let wanted = |name: &str| {
        filter.is_none_or(|filter| if exact { name == filter } else { name.contains(filter.as_str()) })
    };
    let chosen = tests.iter().filter(|(name, _)| wanted(name));
    for (name, test) in chosen {
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(test));
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({} ms)", started.elapsed().as_millis());
        if outcome.is_err() {
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        println!("failed: {failed:?}");
        std::process::exit(1);
    }
}

/// Lists test functions under their own names.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as fn())),*] };
}
