//! Everything a developer runs, typed: `cargo xtask <command>`.
//!
//! `verify` reads and never writes; `fix` writes what a machine can decide. Both are thin: each check lives in a file
//! named after it and can be run alone.
#![forbid(unsafe_code)]

mod codes;
mod fix;
mod layers;
mod process;
mod reach;
mod sim;
mod verify;
mod words;
mod workspace;

use std::process::ExitCode;

const HELP: &str = "\
Everything a developer runs.

Usage: cargo xtask <command>

Commands:
  verify [--only a,b]  run every check; never writes a tracked file
  fix                  apply what a machine can decide: formatting, clippy's fixes, docs/layers.txt
  codes                error codes that are made in more than one place
  layers [--write]     who may depend on whom, compared with docs/layers.txt (--write renews that file)
  reach                public items that nothing reachable from the binary or its tests uses
  sim [--seed N] [--seeds COUNT]
                       the simulation of a whole cell from a seed, with a row for each
  words                words that mean unfinished work

Steps of verify, in order:
";

/// A subcommand: its name and what runs with the arguments behind it.
type Command = (&'static str, fn(&[String]) -> anyhow::Result<()>);

const COMMANDS: &[Command] = &[
    ("verify", verify::command),
    ("codes", codes::command),
    ("fix", fix::command),
    ("layers", layers::command),
    ("reach", reach::command),
    ("sim", sim::command),
    ("words", words::command),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, rest) = match arguments.split_first() {
        None => return help(),
        Some((name, _)) if matches!(name.as_str(), "help" | "--help" | "-h") => return help(),
        Some((name, rest)) => (name.as_str(), rest),
    };
    let Some((_, run)) = COMMANDS.iter().find(|(known, _)| *known == name) else {
        eprintln!("error: no such command: {name}\nhint: `cargo xtask help` lists them");
        return ExitCode::from(2);
    };
    match run(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn help() -> ExitCode {
    print!("{HELP}");
    for step in verify::STEPS {
        println!("  {:<8} {}", step.name, step.about);
    }
    ExitCode::SUCCESS
}
