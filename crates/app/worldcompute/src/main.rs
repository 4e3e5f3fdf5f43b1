//! `worldcompute`: lend a machine, submit work, check what came back.
#![forbid(unsafe_code)]

mod amount;
mod cli;
mod client;
mod command;
mod config;
mod document;
mod evidence;
mod exit;
mod fields;
mod identity;
mod json;
mod manifest;
mod node;
mod progress;
mod say;
mod scratch;

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    run_worker_if_asked();
    let cli = cli::Cli::parse();
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    exit::finish(command::run(cli, &variables))
}

/// Becomes a sandbox worker if the node started this process as one. Comes first: a worker must have no thread, no
/// open file and no setting of ours before it has closed itself in.
fn run_worker_if_asked() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == wc_sandbox::WORKER_ARGUMENT) {
        wc_sandbox::worker_main();
    }
}
