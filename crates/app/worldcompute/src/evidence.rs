//! A directory of evidence (EVD-02): lines that grow while something is looked at, and documents that are whole or not there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wc_host::{HostError, Machine};
use wc_proto::version;
use wc_types::Timestamp;

use crate::say;
use crate::scratch::random_name;

/// Bytes of all growing files together; a bundle is sent by mail (EVD-05 allows 10 MB).
const LINES_BYTES_MAX: u64 = 9_000_000;
/// Share of them that is kept for the trace, which is small and worth most.
const TRACE_BYTES_KEPT: u64 = 2_000_000;

/// A bundle under way. What was written before a crash stays; `index.md` says from the first moment how it stands.
#[derive(Debug)]
pub struct Bundle {
    dir: PathBuf,
    log: Lines,
    trace: Lines,
}

#[derive(Debug)]
struct Lines {
    file: BufWriter<File>,
    room: u64,
    left_out: u64,
}

/// Something that was expected, and what was seen.
#[derive(Debug)]
pub struct Assertion {
    /// What it is about.
    pub name: &'static str,
    /// What should be so.
    pub expected: String,
    /// What is so.
    pub observed: String,
    /// Whether that is the same; `None` if it could not be decided.
    pub pass: Option<bool>,
}

/// What all assertions come to: `fail` if one failed, `partial` if one is undecided.
pub fn overall(assertions: &[Assertion]) -> &'static str {
    if assertions.iter().any(|assertion| assertion.pass == Some(false)) {
        "fail"
    } else if assertions.iter().any(|assertion| assertion.pass.is_none()) {
        "partial"
    } else {
        "pass"
    }
}

/// Writes assertions as `results.json` has them.
pub fn results(assertions: &[Assertion]) -> Value {
    let rows = assertions.iter().map(|assertion| {
        json!({
            "name": assertion.name,
            "expected": assertion.expected,
            "observed": assertion.observed,
            "pass": assertion.pass,
        })
    });
    json!({ "overall": overall(assertions), "assertions": rows.collect::<Vec<_>>() })
}

/// What a bundle is about (EVD-03).
#[derive(Debug)]
pub struct Run {
    /// Area of the evidence.
    pub area: &'static str,
    /// What asks for it.
    pub spec: &'static str,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// The machine's network, in a sentence.
    pub profile: String,
    /// Settings that matter, without secrets.
    pub settings: Value,
}

impl Run {
    /// Writes `metadata.json`. The commit is not known to a built program; its version is.
    ///
    /// - `dir`: a directory that exists, on the disk of the node
    ///
    /// # Errors
    /// When the machine does not say what it is.
    pub fn metadata(&self, dir: &Path) -> Result<Value, HostError> {
        let system = rustix::system::uname();
        // The data directory need not be there when no node ever ran.
        let measured = if dir.exists() { dir } else { Path::new("/") };
        let memory_gb = Machine::detect(measured)?.memory.0 >> 30;
        let first = |path: &str, key: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.trim_start_matches(['\t', ' ', ':', '=']).trim_matches('"').to_owned())
        };
        Ok(json!({
            "run_id": uuid(),
            "area": self.area,
            "spec": self.spec,
            "git_sha": Value::Null,
            "software_version": version::AGENT_VERSION,
            "started_at": self.started.to_string(),
            "ended_at": self.ended.to_string(),
            "machines": [{
                "hostname": system.nodename().to_string_lossy(),
                "os": first("/etc/os-release", "PRETTY_NAME"),
                "kernel": system.release().to_string_lossy(),
                "cpu_model": first("/proc/cpuinfo", "model name"),
                "gpus": [],
                "memory_gb": memory_gb,
                "network_profile": self.profile,
            }],
            "env": self.settings,
        }))
    }
}

/// Returns a random UUID (RFC 9562, version 4).
fn uuid() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = data_encoding::HEXLOWER.encode(&bytes);
    Some([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

/// Writes a table of Markdown.
pub fn table<const N: usize>(heading: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let cell = |text: &str| say::harmless(text).replace(['\n', '\t'], " ").replace('|', "\\|");
    let line = |cells: [String; N]| format!("| {} |", cells.join(" | "));
    let mut lines = vec![line(heading.map(str::to_owned)), format!("|{}", " --- |".repeat(N))];
    lines.extend(rows.into_iter().map(|row| line(row.map(|text| cell(&text)))));
    lines.join("\n")
}

/// Returns a moment as names of directories have it: `20261123T142638Z`.
pub fn stamp(at: Timestamp) -> String {
    let text = at.to_string();
    let whole = text.split('.').next().unwrap_or(&text);
    format!("{}Z", whole.replace(['-', ':'], "").trim_end_matches('Z'))
}

impl Bundle {
    /// Makes `dir` with its parents, for this user only, and begins the growing files in it.
    ///
    /// # Errors
    /// When it is there and holds something, or the disk refuses.
    pub fn create(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        if fs::read_dir(dir)?.next().is_some() {
            let holds = format!("{} holds something already", dir.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, holds));
        }
        let begin = |name: &str, room| -> io::Result<Lines> {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(name))?;
            Ok(Lines { file: BufWriter::new(file), room, left_out: 0 })
        };
        Ok(Self {
            log: begin("run.log", LINES_BYTES_MAX - TRACE_BYTES_KEPT)?,
            trace: begin("trace.jsonl", TRACE_BYTES_KEPT)?,
            dir: dir.to_owned(),
        })
    }

    /// Adds a line to `run.log`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn log(&mut self, line: &str) -> io::Result<()> {
        self.log.add(line)
    }

    /// Adds a line to `trace.jsonl`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn trace(&mut self, event: &Value) -> io::Result<()> {
        self.trace.add(&event.to_string())
    }

    /// Returns how many lines had no room.
    pub fn left_out(&self) -> u64 {
        self.log.left_out + self.trace.left_out
    }

    /// Brings what has grown to the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&mut self) -> io::Result<()> {
        for lines in [&mut self.log, &mut self.trace] {
            lines.file.flush()?;
            lines.file.get_ref().sync_data()?;
        }
        Ok(())
    }

    /// Puts a document into the bundle, whole, in the place of an earlier one of that name.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put(&self, name: &str, content: &str) -> io::Result<()> {
        let draft = self.dir.join(format!(".{name}.{}", random_name()?));
        let kept = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(content.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, self.dir.join(name))?;
            File::open(&self.dir)?.sync_all()
        })();
        if kept.is_err() {
            // What matters is the first error; a draft that stays is told by its name.
            let _ = fs::remove_file(&draft);
        }
        kept
    }
}

impl Lines {
    fn add(&mut self, line: &str) -> io::Result<()> {
        let bytes = line.len() as u64 + 1;
        if bytes > self.room {
            // From here on all is left out: a log with holes misleads.
            self.room = 0;
            self.left_out += 1;
            return Ok(());
        }
        self.room -= bytes;
        self.file.write_all(line.as_bytes())?;
        self.file.write_all(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_bundle_is_whole_bounded_and_for_its_owner_only() {
        let parent = tempfile::tempdir().expect("tempdir");
        let dir = parent.path().join("evidence/x");
        let mut bundle = Bundle::create(&dir).expect("creates");
        bundle.put("index.md", "under way").expect("puts");
        bundle.put("index.md", "done").expect("puts again");
        let line = "x".repeat(1 << 20);
        for _ in 0..20 {
            bundle.log(&line).expect("logs");
        }
        bundle.trace(&json!({ "event": "late" })).expect("still has room");
        bundle.sync().expect("syncs");
        assert!(bundle.left_out() > 0);
        let mut names: Vec<_> =
            fs::read_dir(&dir).expect("reads").map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["index.md", "run.log", "trace.jsonl"]);
        let bytes: u64 = names.iter().map(|name| fs::metadata(dir.join(name)).expect("a file").len()).sum();
        assert!(bytes < 10_000_000, "{bytes}");
        assert_eq!(fs::read_to_string(dir.join("index.md")).expect("reads"), "done");
        for path in names.iter().map(|name| dir.join(name)).chain([dir.clone()]) {
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o077, 0, "{path:?}");
        }
        assert!(Bundle::create(&dir).is_err(), "evidence is not written over");
        assert_eq!(stamp(Timestamp(1_790_000_000_000_000)), "20260921T141320Z");
    }
}
