//! The reference implementation of transparency logs, Go's `golang.org/x/mod/sumdb`, as a program.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Where Debian's `golang-golang-x-mod-dev` puts the sources.
const GOPATH: &str = "/usr/share/gocode";

/// `tests/go/logcheck`, built.
pub struct LogCheck {
    program: PathBuf,
}

impl LogCheck {
    /// Builds the program into `dir`; `None`, said aloud, where there is no Go.
    ///
    /// # Panics
    /// When there is Go and the program does not build.
    pub fn build(dir: &Path) -> Option<Self> {
        let sources = Path::new(GOPATH).join("src/golang.org/x/mod/sumdb/tlog");
        if Command::new("go").arg("version").output().is_err() || !sources.exists() {
            eprintln!("SKIP: no Go with golang.org/x/mod (Debian: golang-go golang-golang-x-mod-dev)");
            return None;
        }
        let program = dir.join("logcheck");
        let built = Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg("main.go")
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("go/logcheck"))
            .env("GO111MODULE", "off")
            .env("GOPATH", GOPATH)
            .env("GOFLAGS", "")
            .env("GOCACHE", dir.join("go-cache"))
            .output()
            .expect("go runs");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Some(Self { program })
    }

    /// Runs it, with `input` on its standard input.
    ///
    /// # Panics
    /// When it does not start.
    pub fn run(&self, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(&self.program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("logcheck starts");
        // It may refuse before it has read everything.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        child.wait_with_output().expect("logcheck ends")
    }

    /// Runs it, which must succeed, and returns what it printed.
    ///
    /// # Panics
    /// When it refuses.
    pub fn accepts(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}
