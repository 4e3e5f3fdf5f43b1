//! Every check that a change has to pass, in one list. Never writes a tracked file.
//!
//! All steps run, whatever failed before, so that one run shows everything there is to mend. The last lines are a table
//! of the steps and one sentence.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{answers, output_of, program, run, run_watched};
use crate::{codes, layers, reach, words, workspace};

/// How long each fuzz target runs here; a night of fuzzing is another command (`CONTRIBUTING.md`).
const FUZZ_SECONDS_EACH: &str = "3";

/// One check.
pub struct Step {
    /// The word for `--only`.
    pub name: &'static str,
    /// What it asks, in one line.
    pub about: &'static str,
    run: fn(&Path) -> Result<Outcome>,
}

/// How a step ended, if it did not fail.
enum Outcome {
    /// It holds; the text adds figures where there are some.
    Passed(String),
    /// It could not be tried here, and why.
    Skipped(String),
}

/// The steps: cheap ones first, so that the first answer comes early.
pub const STEPS: &[Step] = &[
    Step { name: "fmt", about: "is everything formatted?", run: fmt },
    Step { name: "words", about: "does a word admit unfinished work?", run: no_unfinished_words },
    Step { name: "codes", about: "does every error code mean one thing?", run: unique_codes },
    Step { name: "layers", about: "does every dependency go the right way?", run: right_layers },
    Step { name: "reach", about: "is every public item used on a real path?", run: all_in_reach },
    Step {
        name: "deny",
        about: "may we ship what we depend on, and does it come from the package registry?",
        run: deny,
    },
    Step { name: "clippy", about: "does the compiler, with clippy, have nothing to say?", run: clippy },
    Step {
        name: "pins",
        about: "does a production build refuse an empty trusted root, and only that?",
        run: pins,
    },
    Step { name: "docs", about: "does the documentation build, with every link?", run: docs },
    Step { name: "guests", about: "are the committed guest modules what their sources build?", run: guests },
    Step { name: "tests", about: "do all tests pass?", run: tests },
    Step { name: "fuzz", about: "do the decoders survive a few seconds of hostile bytes each?", run: fuzz },
];

/// `cargo xtask verify [--only fmt,layers]`
pub fn command(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let chosen: Vec<&Step> = match words.as_slice() {
        [] => STEPS.iter().collect(),
        ["--only", names] => chosen(names)?,
        _ => bail!("usage: cargo xtask verify [--only fmt,layers]"),
    };
    let root = workspace::root()?;
    let complete = chosen.len() == STEPS.len();
    let mut rows = Vec::new();
    for step in chosen {
        eprintln!("\n=== {}: {}", step.name, step.about);
        let started = Instant::now();
        let result = (step.run)(&root);
        let (word, detail) = match result {
            Ok(Outcome::Passed(detail)) => ("ok", detail),
            Ok(Outcome::Skipped(reason)) => {
                eprintln!("SKIP: {}: {reason}", step.name);
                ("SKIP", reason)
            }
            Err(error) => {
                eprintln!("error: {}: {error:#}", step.name);
                ("FAILED", format!("{error:#}"))
            }
        };
        rows.push(Row { name: step.name, word, took: started.elapsed(), detail });
    }
    print!("{}", table(&rows));
    let failed: Vec<&str> = rows.iter().filter(|row| row.word == "FAILED").map(|row| row.name).collect();
    if !failed.is_empty() {
        bail!("verify failed: {}", failed.join(", "));
    }
    let skipped = rows.iter().filter(|row| row.word == "SKIP").count();
    let scope = if complete { "verify" } else { "verify (chosen steps only)" };
    println!("{scope}: ok, {} of {} steps passed, {skipped} skipped", rows.len() - skipped, rows.len());
    Ok(())
}

fn chosen(names: &str) -> Result<Vec<&'static Step>> {
    let known = || STEPS.iter().map(|step| step.name).collect::<Vec<_>>().join(", ");
    names
        .split(',')
        .map(|name| {
            let found = STEPS.iter().find(|step| step.name == name);
            found.with_context(|| format!("there is no step `{name}`; the steps are {}", known()))
        })
        .collect()
}

struct Row {
    name: &'static str,
    word: &'static str,
    took: Duration,
    detail: String,
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from("\nstep     result  seconds  detail\n");
    for row in rows {
        let detail = row.detail.lines().next().unwrap_or_default();
        let line = format!("{:<8} {:<6} {:>8.1}  {detail}", row.name, row.word, row.took.as_secs_f64());
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let total: Duration = rows.iter().map(|row| row.took).sum();
    text.push_str(&format!("{:<8} {:<6} {:>8.1}\n\n", "total", "", total.as_secs_f64()));
    text
}

fn passed() -> Result<Outcome> {
    Ok(Outcome::Passed(String::new()))
}

fn fmt(root: &Path) -> Result<Outcome> {
    run(program(root, "cargo", &["fmt", "--all", "--check"]))?;
    run(program(root, "cargo", &["fmt", "--all", "--check", "--manifest-path", "fuzz/Cargo.toml"]))
        .context("run `cargo xtask fix`")?;
    passed()
}

fn no_unfinished_words(_root: &Path) -> Result<Outcome> {
    words::check()?;
    passed()
}

fn unique_codes(_root: &Path) -> Result<Outcome> {
    Ok(Outcome::Passed(format!("{} codes", codes::check()?)))
}

fn right_layers(_root: &Path) -> Result<Outcome> {
    layers::check()?;
    passed()
}

fn all_in_reach(_root: &Path) -> Result<Outcome> {
    reach::check()?;
    passed()
}

fn deny(root: &Path) -> Result<Outcome> {
    if !answers(program(root, "cargo", &["deny", "--version"])) {
        bail!(
            "cargo-deny is missing: `cargo install cargo-deny --locked --no-default-features` (`.ci/run` does it)"
        );
    }
    let arguments =
        ["deny", "--locked", "--workspace", "--log-level", "error", "check", "licenses", "bans", "sources"];
    run(program(root, "cargo", &arguments))?;
    passed()
}

fn clippy(root: &Path) -> Result<Outcome> {
    let warnings = ["--", "-D", "warnings"];
    let product = ["clippy", "--workspace", "--all-targets", "--locked"];
    run(program(root, "cargo", &[&product[..], &warnings].concat()))?;
    // With the wrappers for libFuzzer: they type-check on a stable compiler too.
    let fuzz =
        ["clippy", "--manifest-path", "fuzz/Cargo.toml", "--all-targets", "--all-features", "--locked"];
    run(program(root, "cargo", &[&fuzz[..], &warnings].concat()))?;
    passed()
}

/// Compiles the one crate that pins keys, with the keys and without. The message is that of its own assertion, so that
/// another reason not to compile does not pass for it.
fn pins(root: &Path) -> Result<Outcome> {
    const REFUSAL: &str = "a production build needs a trusted root";
    let check = |features: &str| {
        program(root, "cargo", &["check", "-p", "wc-ledger", "--locked", "--features", features])
    };
    run(check("production"))?;
    let mut said = false;
    let good = run_watched(check("production,unpinned"), |line| said |= line.contains(REFUSAL))?;
    match (good, said) {
        (false, true) => passed(),
        (true, _) => bail!("a production build without a pinned log compiles"),
        (false, false) => bail!("a production build without a pinned log fails for another reason"),
    }
}

fn docs(root: &Path) -> Result<Outcome> {
    let mut command = program(root, "cargo", &["doc", "--workspace", "--no-deps", "--locked"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    run(command)?;
    passed()
}

fn guests(root: &Path) -> Result<Outcome> {
    let script = "guests/build.sh";
    if !root.join(script).is_file() {
        bail!("{script} is missing");
    }
    let sysroot = ["/usr/include/wasm32-wasi", "/usr/share/wasi-sysroot"];
    let can_build = answers(program(root, "clang", &["--version"]))
        && answers(program(root, "wasm-ld", &["--version"]))
        && (std::env::var_os("WASI_SYSROOT").is_some()
            || sysroot.iter().any(|path| Path::new(path).is_dir()));
    if !can_build {
        return Ok(Outcome::Skipped(
            "no clang for wasm here (apt-get install clang lld wasi-libc libclang-rt-14-dev-wasm32)"
                .to_owned(),
        ));
    }
    run(program(root, "sh", &[script, "--check"]))?;
    passed()
}

fn tests(root: &Path) -> Result<Outcome> {
    let mut report = TestReport::default();
    let mut good = if answers(program(root, "cargo", &["nextest", "--version"])) {
        let target = target_directory(root)?;
        let junit = Path::new(&target).join("nextest/verify/junit.xml");
        // A report of an earlier run must not speak for this one.
        if junit.exists() {
            std::fs::remove_file(&junit).context("cannot remove the last test report")?;
        }
        let arguments =
            ["nextest", "run", "--workspace", "--locked", "--profile", "verify", "--no-fail-fast"];
        let good = run_watched(program(root, "cargo", &arguments), |line| report.see(line))?;
        for line in std::fs::read_to_string(&junit).unwrap_or_default().lines() {
            report.see_skip(line);
        }
        good
    } else {
        // The output of passing tests is shown here, so that each `SKIP: reason` can be seen.
        let arguments =
            ["test", "--workspace", "--locked", "--no-fail-fast", "--all-targets", "--", "--show-output"];
        run_watched(program(root, "cargo", &arguments), |line| {
            report.see(line);
            report.see_skip(line);
        })?
    };
    let examples = ["test", "--workspace", "--locked", "--doc", "--no-fail-fast"];
    good &= run_watched(program(root, "cargo", &examples), |line| report.see(line))?;
    for skipped in &report.skipped {
        eprintln!("SKIP: {skipped}");
    }
    let text = report.text();
    if !good {
        bail!("{text}");
    }
    Ok(Outcome::Passed(text))
}

fn fuzz(root: &Path) -> Result<Outcome> {
    let manifest = ["--release", "--locked", "--manifest-path", "fuzz/Cargo.toml"];
    // Do the targets accept their own samples? Otherwise they would test the first check of a decoder only.
    run(program(root, "cargo", &[&["test", "--lib"], &manifest[..]].concat()))?;
    let drive = [&["run"], &manifest[..], &["--", "--seconds", FUZZ_SECONDS_EACH]].concat();
    let mut verdict = String::new();
    let good = run_watched(program(root, "cargo", &drive), |line| {
        if line.ends_with("all survived") || line.starts_with("error: ") {
            verdict = line.to_owned();
        }
    })?;
    if !good {
        bail!("{verdict}");
    }
    Ok(Outcome::Passed(verdict))
}

fn target_directory(root: &Path) -> Result<String> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        target_directory: String,
    }
    let arguments = ["metadata", "--format-version", "1", "--no-deps", "--offline"];
    let text = output_of(program(root, "cargo", &arguments))?;
    Ok(serde_json::from_str::<Metadata>(&text).context("cannot read `cargo metadata`")?.target_directory)
}

/// What the test runners said, added up.
#[derive(Default)]
struct TestReport {
    passed: u64,
    failed: u64,
    skipped: BTreeSet<String>,
}

impl TestReport {
    /// Reads the summary lines of nextest (`Summary [ 1.2s] 3 tests run: 3 passed, 0 skipped`) and of libtest
    /// (`test result: ok. 3 passed; 0 failed; …`).
    fn see(&mut self, line: &str) {
        let line = line.trim_start();
        let figures = match line.strip_prefix("Summary [") {
            Some(rest) => rest.rsplit_once("run:").map(|(_, figures)| figures),
            None => line.strip_prefix("test result: "),
        };
        let Some(figures) = figures else { return };
        let words: Vec<&str> =
            figures.split([' ', ',', ';', '(', ')']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<u64>() else { continue };
            match pair[1] {
                "passed" => self.passed += count,
                "failed" | "timed" => self.failed += count,
                _ => {}
            }
        }
    }

    /// Keeps what a test says about hardware that it misses.
    fn see_skip(&mut self, line: &str) {
        if let Some((_, reason)) = line.split_once("SKIP: ") {
            let reason = reason.split("</").next().unwrap_or(reason);
            self.skipped.insert(reason.replace("&apos;", "'").replace("&quot;", "\"").replace("&amp;", "&"));
        }
    }

    fn text(&self) -> String {
        format!("{} passed, {} failed, {} kind(s) of SKIP", self.passed, self.failed, self.skipped.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summaries_of_both_test_runners_add_up() {
        let mut report = TestReport::default();
        report.see(
            "     Summary [   4.119s] 120 tests run: 117 passed (1 slow), 2 failed, 1 timed out, 0 skipped",
        );
        report.see(
            "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
        );
        report.see_skip("<system-out>SKIP: no cgroup v2 here</system-out>");
        report.see_skip("SKIP: no cgroup v2 here");
        assert_eq!(report.text(), "121 passed, 3 failed, 1 kind(s) of SKIP");
    }

    #[test]
    fn an_unknown_step_is_refused_with_the_list() {
        let error = chosen("fmt,lyers").err().expect("`lyers` is no step").to_string();
        assert!(error.contains("`lyers`") && error.contains("layers"), "{error}");
        assert_eq!(chosen("layers,fmt").expect("both are steps").len(), 2);
    }
}
