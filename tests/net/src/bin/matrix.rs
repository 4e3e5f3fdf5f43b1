//! Runs the network matrix and prints its table as Markdown: `matrix [--no-bulk] [--runs N] [PART OF A NAME]...`.
//!
//! With several runs, times are medians, and the direct paths are counted. `WC_SENDME` names a `sendme` to measure beside us.
//! `WC_BIN` names the binary to measure; the nodes' logs of the last cell are left in `WC_NET_LOGS`, if that names a
//! directory.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

use wc_tests_net::matrix::{self, Bulk, Cell, Row};

fn main() -> ExitCode {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    let bulk = !wanted.iter().any(|word| word == "--no-bulk");
    wanted.retain(|word| word != "--no-bulk");
    let runs = wanted.iter().position(|word| word == "--runs").map_or(1, |at| {
        let words: Vec<String> = wanted.drain(at..wanted.len().min(at + 2)).collect();
        words.get(1).and_then(|word| word.parse().ok()).unwrap_or(1)
    });
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("Load before: {}\n", load.split(' ').next().unwrap_or_default());
    println!(
        "| network | completes | s to a reservation | s to both donors joined | s to first job | path at the end | direct within 10 s, after s | s for a trivial job | MB/s | TCP alone, MB/s | sendme, MB/s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let mut broken = 0;
    for cell in matrix::cells() {
        if !wanted.is_empty() && !wanted.iter().any(|part| cell.name.contains(part.as_str())) {
            continue;
        }
        let (mut rows, mut skipped) = (Vec::new(), false);
        for _ in 0..runs {
            match attempt(&cell, bulk) {
                Ok(Some(row)) => rows.push(row),
                // The reason was printed.
                Ok(None) => skipped = true,
                Err(error) => {
                    broken += 1;
                    eprintln!("{error}");
                }
            }
        }
        if !skipped {
            println!("{}", line(&cell, &rows, runs));
        }
    }
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn attempt(cell: &Cell, bulk: bool) -> Result<Option<Row>, String> {
    catch_unwind(AssertUnwindSafe(|| cell.run(bulk)))
        .unwrap_or_else(|_| Err(format!("{}: the network is not what it should be", cell.name)))
}

fn line(cell: &Cell, rows: &[Row], runs: usize) -> String {
    let rate = |of: fn(&Bulk) -> Option<f64>| {
        let rates = rows.iter().filter_map(|row| of(row.bulk.as_ref()?)).collect();
        median(rates).map_or_else(String::new, |bytes| format!("{:.2}", bytes / 1e6))
    };
    let seconds = |of: fn(&Row) -> Option<Duration>| {
        let times = rows.iter().filter_map(|row| Some(of(row)?.as_secs_f64())).collect();
        median(times).map_or_else(String::new, |seconds| format!("{seconds:.1}"))
    };
    let completes = match (rows.len(), runs) {
        (0, _) => "no".to_owned(),
        (1, 1) => "yes".to_owned(),
        (done, of) => format!("{done} of {of}"),
    };
    let direct = rows.iter().filter(|row| row.direct.is_some()).count();
    let direct = match (rows.iter().any(|row| row.reserved.is_some()), runs) {
        (false, _) => String::new(),
        (true, 1) => seconds(|row| row.direct),
        (true, _) => format!("{direct} of {}, {}", rows.len(), seconds(|row| row.direct)),
    };
    let paths: BTreeSet<&str> = rows.iter().map(|row| row.path.as_str()).collect();
    format!(
        "| {} | {completes} | {} | {} | {} | {} | {direct} | {} | {} | {} | {} |",
        cell.name,
        seconds(|row| row.reserved),
        seconds(|row| Some(row.joined)),
        seconds(|row| Some(row.job)),
        paths.into_iter().collect::<Vec<_>>().join("; "),
        seconds(|row| Some(row.bulk?.trivial)),
        rate(|bulk| Some(bulk.job)),
        rate(|bulk| bulk.tcp),
        rate(|bulk| bulk.sendme),
    )
}

/// Returns the middle one, the smaller of two.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}
