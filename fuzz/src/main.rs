//! Runs the fuzz targets for a bounded time with a stable compiler.
//!
//! Each target runs in a child process, which notes the number of its present input in a file. So a panic, an abort
//! (stack overflow, out of memory) and a hang all end the same way: with the target, the seed and the number that
//! repeat it.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use wc_fuzz::{TARGETS, Target, mutate};

const HELP: &str = "\
Runs every fuzz target for a bounded time.

Usage: cargo run --release --manifest-path fuzz/Cargo.toml -- [options]

  --seconds N    time for each target (3)
  --seed N       another sequence of inputs (1)
  --target NAME  only this target
  --number N     only this input: repeats a failure
  --input FILE   only the bytes of this file
  --list         the targets
";

/// One input may take this long before it counts as a hang; the slowest decoder needs milliseconds.
const INPUT_SECONDS_MAX: u64 = 10;

#[derive(Clone)]
struct Options {
    seconds: u64,
    seed: u64,
    target: Option<String>,
    number: Option<u64>,
    input: Option<PathBuf>,
    /// Set for the child: where it notes the number of its present input.
    progress: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(complaint) => {
            eprintln!("error: {complaint}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let chosen: Vec<&Target> = TARGETS
        .iter()
        .filter(|target| options.target.as_deref().is_none_or(|name| name == target.name))
        .collect();
    let single = options.number.is_some() || options.input.is_some() || options.progress.is_some();
    let result = match chosen.as_slice() {
        [] => Err("there is no such target: --list shows them".to_owned()),
        [target] if single => run_here(target, &options),
        _ if single => Err("name one --target".to_owned()),
        targets => run_all(targets, &options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            eprintln!("error: {complaint}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options =
        Options { seconds: 3, seed: 1, target: None, number: None, input: None, progress: None };
    while let Some(flag) = arguments.next() {
        match flag.as_str() {
            "--list" => {
                TARGETS.iter().for_each(|target| println!("{}", target.name));
                return Ok(None);
            }
            "--help" | "-h" => {
                print!("{HELP}");
                return Ok(None);
            }
            _ => {}
        }
        let value = arguments.next().ok_or(format!("{flag} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{flag} {value}: {error}"));
        match flag.as_str() {
            "--seconds" => options.seconds = number()?,
            "--seed" => options.seed = number()?,
            "--number" => options.number = Some(number()?),
            "--target" => options.target = Some(value),
            "--input" => options.input = Some(value.into()),
            "--progress" => options.progress = Some(value.into()),
            _ => return Err(format!("there is no option {flag}")),
        }
    }
    Ok(Some(options))
}

/// Runs each target in a child and says how many inputs it survived.
fn run_all(targets: &[&Target], options: &Options) -> Result<(), String> {
    let mut total = 0;
    let mut failed = Vec::new();
    for target in targets {
        match run_in_child(target, options) {
            Ok(inputs) => {
                eprintln!("{:<12} {inputs} inputs in {} s", target.name, options.seconds);
                total += inputs;
            }
            Err(complaint) => {
                eprintln!("error: {complaint}");
                failed.push(target.name);
            }
        }
    }
    if !failed.is_empty() {
        return Err(format!("{} of {} target(s) failed: {}", failed.len(), targets.len(), failed.join(", ")));
    }
    println!("{} target(s), {total} inputs, seed {}: all survived", targets.len(), options.seed);
    Ok(())
}

fn run_in_child(target: &Target, options: &Options) -> Result<u64, String> {
    let name = target.name;
    let progress = std::env::temp_dir().join(format!("wc-fuzz-{name}-{}", std::process::id()));
    fs::write(&progress, 0u64.to_le_bytes()).map_err(|error| format!("{}: {error}", progress.display()))?;
    let ended = watch_child(target, options, &progress);
    let number = number_in(&progress);
    // Nothing is lost if the note stays: it is eight bytes among temporary files.
    let _ = fs::remove_file(&progress);
    match ended? {
        None => Ok(number),
        Some(how) => {
            let bytes = mutate::input(&(target.seeds)(), options.seed, number);
            let file = save(name, &bytes)?;
            Err(format!(
                "{name} {how} on input {number} of seed {seed} ({length} bytes, kept in {file})\nrepeat it: cargo run \
                 --release --manifest-path fuzz/Cargo.toml -- --target {name} --seed {seed} --number {number}",
                seed = options.seed,
                length = bytes.len(),
                file = file.display(),
            ))
        }
    }
}

/// Waits for a child that runs the target; returns what went wrong with its present input, if anything did.
fn watch_child(target: &Target, options: &Options, progress: &Path) -> Result<Option<String>, String> {
    let own = std::env::current_exe().map_err(|error| format!("our own path is unknown: {error}"))?;
    let mut child = Command::new(own)
        .args(["--target", target.name, "--seed", &options.seed.to_string()])
        .args(["--seconds", &options.seconds.to_string()])
        .arg("--progress")
        .arg(progress)
        .spawn()
        .map_err(|error| format!("cannot start the child: {error}"))?;
    let mut last = (u64::MAX, Instant::now());
    loop {
        if let Some(status) =
            child.try_wait().map_err(|error| format!("cannot wait for the child: {error}"))?
        {
            return Ok((!status.success()).then(|| format!("failed ({status})")));
        }
        let number = number_in(progress);
        if number != last.0 {
            last = (number, Instant::now());
        } else if last.1.elapsed() > Duration::from_secs(INPUT_SECONDS_MAX) {
            // It may have ended in this very moment; either way it is gone after the wait.
            let _ = child.kill();
            let _ = child.wait();
            return Ok(Some(format!("did not return within {INPUT_SECONDS_MAX} s")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs one target in this process: one given input, or inputs until the time is over.
fn run_here(target: &Target, options: &Options) -> Result<(), String> {
    if let Some(file) = &options.input {
        let bytes = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        (target.run)(&bytes);
        return Ok(());
    }
    let corpus = (target.seeds)();
    if let Some(number) = options.number {
        (target.run)(&mutate::input(&corpus, options.seed, number));
        return Ok(());
    }
    let progress = options.progress.as_ref().ok_or("name --number or --input")?;
    let mut note = File::create(progress).map_err(|error| format!("{}: {error}", progress.display()))?;
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut number = 0u64;
    while Instant::now() < end {
        note.rewind()
            .and_then(|()| note.write_all(&number.to_le_bytes()))
            .map_err(|error| format!("cannot note the progress: {error}"))?;
        (target.run)(&mutate::input(&corpus, options.seed, number));
        number += 1;
    }
    Ok(())
}

fn number_in(progress: &Path) -> u64 {
    let bytes = fs::read(progress).unwrap_or_default();
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

fn save(name: &str, bytes: &[u8]) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts").join(name);
    let file = folder.join("latest");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&file, bytes))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(file)
}
