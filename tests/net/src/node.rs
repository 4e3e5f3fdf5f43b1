//! The real binary on machines of the lab, used as a person uses it: by its commands.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Machine;

/// One node of the network under test.
#[derive(Debug)]
pub struct Node {
    /// What the test calls it.
    pub name: String,
    /// Its data directory.
    pub dir: PathBuf,
    enter: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// Prepares a node on `machine`, whose directory will be in `lab`.
    pub fn new(machine: &Machine, lab: &Path) -> Self {
        let name = machine.name.clone();
        let (dir, log) = (lab.join(format!("{name}.data")), lab.join(format!("{name}.log")));
        Self { name, dir, enter: machine.enter().to_vec(), log, child: None }
    }

    /// Runs `worldcompute` with these words in the node's directory until [`stop`](Self::stop).
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&mut self, words: &[String], variables: &[(String, String)]) {
        let log =
            File::options().create(true).append(true).open(&self.log).expect("a file in the lab's directory");
        let child = Command::new(&self.enter[0])
            .args(&self.enter[1..])
            .arg(binary())
            .arg("--data-dir")
            .arg(&self.dir)
            .args(words)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .env("HOME", &self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the node starts");
        self.child = Some(child);
    }

    /// Ends the node as a power cut would.
    ///
    /// # Panics
    /// When it is not ours.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
    }

    /// Lets the node end by itself, as its owner would.
    ///
    /// # Panics
    /// When it is not ours.
    pub fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            child.wait().expect("our own child");
        }
    }

    /// Runs a command of the binary against this node, on this node's machine.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn command(&self, words: &[&str]) -> Output {
        Command::new(&self.enter[0])
            .args(&self.enter[1..])
            .arg(binary())
            .arg("--data-dir")
            .arg(&self.dir)
            .args(words)
            .env("HOME", &self.dir)
            .stdin(Stdio::null())
            .output()
            .expect("the command starts")
    }

    /// Runs a command with `--json` and returns what it printed, or what it said.
    ///
    /// # Errors
    /// The standard error of a command that failed.
    pub fn ask(&self, words: &[&str]) -> Result<Value, String> {
        let output = self.command(&[&["--json"], words].concat());
        let said = || {
            let text = [output.stdout.as_slice(), &output.stderr].concat();
            format!("{}: {words:?}: {}", self.name, String::from_utf8_lossy(&text).trim())
        };
        if !output.status.success() {
            return Err(said());
        }
        serde_json::from_slice(&output.stdout).map_err(|_| said())
    }

    /// Waits until `found` finds something in the answer to a command, and returns it with the time that it took.
    ///
    /// # Errors
    /// The last answer, when `patience` is over.
    pub fn until<T>(
        &self,
        words: &[&str],
        patience: Duration,
        found: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, String> {
        let begun = Instant::now();
        loop {
            let answer = self.ask(words);
            if let Some(found) = answer.as_ref().ok().and_then(&found) {
                return Ok(found);
            }
            if begun.elapsed() > patience {
                return Err(match answer {
                    Ok(value) => format!("{}: {words:?} still says {value}", self.name),
                    Err(error) => error,
                });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Returns the node's id, once it runs.
    ///
    /// # Errors
    /// When it does not.
    pub fn id(&self) -> Result<String, String> {
        self.until(&["donor", "status"], Duration::from_secs(60), |status| {
            status["node"].as_str().map(str::to_owned)
        })
    }

    /// Copies what the node logged into a directory.
    pub fn keep_log(&self, keep: &Path) {
        let copied = fs::create_dir_all(keep)
            .and_then(|()| fs::copy(&self.log, keep.join(format!("{}.log", self.name))));
        if let Err(error) = copied {
            eprintln!("{}: {error}", keep.display());
        }
    }

    /// Returns the number of the node's process while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Returns all that the node logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the last lines that the node logged.
    pub fn last_words(&self, lines: usize) -> String {
        let text = self.log();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Returns the path of the binary under test: the one that `WC_BIN` names, or the one that cargo built beside us.
///
/// # Panics
/// When there is none: `cargo build -p worldcompute` builds it.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("WC_BIN") {
        return PathBuf::from(path);
    }
    crate::space::beside("worldcompute")
}

/// Returns a built guest of `guests/built`.
///
/// # Panics
/// When there is no such guest.
pub fn guest(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/built").join(format!("{name}.wasm"));
    path.canonicalize().expect("built guests are in the repository")
}
