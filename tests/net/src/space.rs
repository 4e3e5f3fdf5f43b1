//! One machine of the lab: a network and a mount namespace that live as long as the process that holds them.
//!
//! The holder is `cat`, waiting for the end of its standard input. The other end of that pipe is in the test, so the
//! holder ends with the test, also when the test is killed, and the kernel removes the namespaces and every device in
//! them.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};

/// Words that put a command into somebody's namespaces.
#[derive(Debug, Clone)]
struct Enter(Vec<String>);

impl Enter {
    /// Returns the command that runs `program` there; `nsenter` becomes the program, so the process id is the
    /// program's own.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(&self.0[0]);
        command.args(&self.0[1..]).arg(program);
        command
    }
}

/// The namespaces that all machines of one lab are made from.
#[derive(Debug)]
pub struct Ground {
    /// The first holder. It owns the user namespace, where there is one.
    workshop: Machine,
    /// Whether a user namespace stands between us and the host.
    own_users: bool,
}

impl Ground {
    /// Makes the ground of a lab in `dir`.
    ///
    /// # Errors
    /// A sentence that says what this machine lacks.
    pub fn new(dir: &Path) -> Result<Self, String> {
        let attempt = |users: bool| -> Result<Self, String> {
            let mut command = Command::new("unshare");
            if users {
                command.arg("--map-root-user");
            }
            command.args(["--net", "--mount", "--propagation", "private"]);
            let workshop = Machine::hold("workshop", dir, command, users)?;
            Ok(Self { workshop, own_users: users })
        };
        attempt(true).or_else(|first| attempt(false).map_err(|second| format!("{first}; {second}")))
    }

    /// Returns the machine that belongs to the lab itself, where devices are made before they are moved.
    pub fn workshop(&self) -> &Machine {
        &self.workshop
    }

    /// Makes a machine with nothing but a loopback device.
    ///
    /// # Errors
    /// A sentence that says what failed.
    pub fn machine(&self, name: &str, dir: &Path) -> Result<Machine, String> {
        let mut command = self.workshop.command("unshare");
        command.args(["--net", "--mount", "--propagation", "private"]);
        Machine::hold(name, dir, command, self.own_users)
    }
}

/// One machine.
#[derive(Debug)]
pub struct Machine {
    /// What the test calls it.
    pub name: String,
    resolv: PathBuf,
    enter: Enter,
    holder: Child,
}

impl Machine {
    fn hold(name: &str, dir: &Path, mut unshare: Command, users: bool) -> Result<Self, String> {
        let resolv = dir.join(format!("{name}.resolv.conf"));
        let switch = dir.join("nsswitch.conf");
        let failed = |error: io::Error| format!("machine {name}: {error}");
        fs::write(&resolv, "").map_err(failed)?;
        fs::write(&switch, "passwd: files\ngroup: files\nhosts: files dns\n").map_err(failed)?;
        // TCP shall not depend on what the host prefers; Cubic may be reserved to the host, and Reno does much the same
        // on paths that lose at random. An IPv6 address is there at once: nobody else can have it. Names are looked up where the test says, not at a caching service of the host.
        let script = "tcp=/proc/sys/net/ipv4/tcp_congestion_control; ip link set lo up && \
            { [ ! -e /proc/sys/net/ipv6 ] || echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; } && \
            { echo cubic >$tcp || echo reno >$tcp; } 2>/dev/null && mount --bind \"$1\" /etc/resolv.conf && \
            { [ ! -e /etc/nsswitch.conf ] || mount --bind \"$2\" /etc/nsswitch.conf; } && echo ready && exec cat";
        let mut holder = unshare
            .args(["sh", "-c", script, "sh"])
            .arg(&resolv)
            .arg(&switch)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut line = String::new();
        if let Some(stdout) = holder.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
        }
        if line.trim() != "ready" {
            let _ = holder.kill();
            let said = holder.wait_with_output().map_err(failed)?;
            return Err(String::from_utf8_lossy(&said.stderr).trim().to_owned());
        }
        let mut enter = vec!["nsenter".to_owned(), "--target".to_owned(), holder.id().to_string()];
        if users {
            enter.extend(["--user", "--preserve-credentials"].map(str::to_owned));
        }
        enter.extend(["--net", "--mount"].map(str::to_owned));
        Ok(Self { name: name.to_owned(), resolv, enter: Enter(enter), holder })
    }

    /// Returns the process id that stands for the machine's namespaces.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Returns the words that put a command into this machine when they stand before it.
    pub fn enter(&self) -> &[String] {
        &self.enter.0
    }

    /// Returns a command that will run on this machine, in its root directory.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.enter.command(program)
    }

    /// Runs a command and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, words: &[&str]) -> String {
        let output = self.try_run(words, "");
        assert!(
            output.status.success(),
            "on {}: {words:?} ended with {}: {}{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command of our helper binary and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn run_netbox(&self, words: &[&str]) -> String {
        let netbox = netbox();
        self.run(&[&[netbox.to_str().expect("utf-8 path")], words].concat())
    }

    /// As `run_netbox`, and says how the command ended.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn try_netbox(&self, words: &[&str]) -> Output {
        let netbox = netbox();
        self.try_run(&[&[netbox.to_str().expect("utf-8 path")], words].concat(), "")
    }

    /// Runs a command with `input` on its standard input and returns how it ended.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn try_run(&self, words: &[&str], input: &str) -> Output {
        let mut child = self
            .command(words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("on {}: {words:?}: {error}", self.name));
        // A command that ends without reading its input says why in its status.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        child.wait_with_output().expect("our own child")
    }

    /// Gives lines to `ip -batch`.
    ///
    /// # Panics
    /// When one of them fails.
    pub fn ip(&self, lines: &str) {
        self.feed(&["ip", "-batch", "-"], lines);
    }

    /// Gives rules to `nft`, all or none of them.
    ///
    /// # Panics
    /// When they are refused.
    pub fn nft(&self, rules: &str) {
        self.feed(&["nft", "-f", "-"], rules);
    }

    fn feed(&self, words: &[&str], input: &str) {
        let output = self.try_run(words, input);
        assert!(
            output.status.success(),
            "on {}: {words:?} refused:\n{input}\n{}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Writes the machine's `/etc/resolv.conf`.
    pub fn resolv(&self, text: &str) {
        // In place: the file is mounted, and a new one of the same name would not be.
        fs::write(&self.resolv, text).expect("a file in the lab's own directory");
    }

    /// Starts a command of our helper binary that goes on until it is dropped, and waits for the line with which it
    /// says that it is ready.
    ///
    /// # Panics
    /// When it ends instead.
    pub fn serve(&self, words: &[String]) -> Service {
        let mut child = self
            .command(netbox())
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("netbox starts");
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut ready = String::new();
        stdout.read_line(&mut ready).expect("a line");
        assert!(!ready.is_empty(), "on {}: netbox {words:?} ended at once", self.name);
        Service { ready: ready.trim().to_owned(), child, stdout, stdin }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A process that serves until it is dropped, or until this process is gone.
#[derive(Debug)]
pub struct Service {
    /// The line with which it said that it is ready.
    pub ready: String,
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    stdin: Option<ChildStdin>,
}

impl Service {
    /// Returns the number of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the service and returns the lines that it printed since it was ready.
    pub fn stop(mut self) -> Vec<String> {
        drop(self.stdin.take());
        let lines = self.stdout.by_ref().lines().map_while(Result::ok).collect();
        let _ = self.child.wait();
        lines
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Killed, it could not end what it keeps.
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Returns the path of our helper binary, which cargo builds beside every test and program of this crate.
fn netbox() -> PathBuf {
    beside("netbox")
}

/// Returns the path of a program that cargo built beside this one.
///
/// # Panics
/// When it was not built.
pub(crate) fn beside(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a process knows its own file");
    // Programs are in target/<profile>, tests in target/<profile>/deps.
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no {name} beside {}: run cargo build --workspace", own.display()))
}
