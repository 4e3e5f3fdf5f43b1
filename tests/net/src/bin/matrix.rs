//! Runs the network matrix and prints its table as Markdown: `matrix [--no-bulk] [PART OF A NAME]...`.
//!
//! `WC_BIN` names the binary to measure; the nodes' logs of the last cell are left in `WC_NET_LOGS`, if that names a
//! directory.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

use wc_tests_net::matrix::{self, Cell, Row};

fn main() -> ExitCode {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    let bulk = !wanted.iter().any(|word| word == "--no-bulk");
    wanted.retain(|word| word != "--no-bulk");
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("Load before: {}\n", load.split(' ').next().unwrap_or_default());
    println!(
        "| network | completes | s to a reservation | s to both donors joined | s to first job | path at the end | s to direct | MB/s | TCP alone, MB/s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut broken = 0;
    for cell in matrix::cells() {
        if !wanted.is_empty() && !wanted.iter().any(|part| cell.name.contains(part.as_str())) {
            continue;
        }
        match attempt(&cell, bulk) {
            Ok(Some(row)) => println!("{}", line(&cell, &row)),
            // The reason was printed.
            Ok(None) => {}
            Err(error) => {
                broken += 1;
                eprintln!("{error}");
                println!("| {} | no | | | | | | | |", cell.name);
            }
        }
    }
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn attempt(cell: &Cell, bulk: bool) -> Result<Option<Row>, String> {
    catch_unwind(AssertUnwindSafe(|| cell.run(bulk)))
        .unwrap_or_else(|_| Err(format!("{}: the network is not what it should be", cell.name)))
}

fn line(cell: &Cell, row: &Row) -> String {
    let rate = |bytes: Option<f64>| bytes.map_or_else(String::new, |bytes| format!("{:.2}", bytes / 1e6));
    let job = rate(row.bulk.map(|bulk| bulk.job));
    let tcp = rate(row.bulk.and_then(|bulk| bulk.tcp));
    let seconds =
        |time: Option<Duration>| time.map_or_else(String::new, |time| format!("{:.1}", time.as_secs_f64()));
    format!(
        "| {} | yes | {} | {:.1} | {:.1} | {} | {} | {job} | {tcp} |",
        cell.name,
        seconds(row.reserved),
        row.joined.as_secs_f64(),
        row.job.as_secs_f64(),
        row.path,
        seconds(row.direct),
    )
}
