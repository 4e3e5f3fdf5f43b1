//! `admin firewall-diagnose` on real processes: what it keeps, what it must not keep, and what stays when it is cut off.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use wc_tests::federation::{Federation, SOON, binary};

/// A port at which nobody listens; RFC 863 keeps it for a service that nobody runs.
const NOBODY: &str = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
const PASSWORD: &str = "corr%40ct-horse";

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a trace");
    // The last line may be half there in evidence of a crash.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("a document")).expect("JSON")
}

fn no_secret_in(dir: &Path) {
    // As it is typed, as it is, and as HTTP sends it: base64 of `ann:corr@ct-horse`.
    for file in fs::read_dir(dir).expect("a directory") {
        let path = file.expect("a file").path();
        let text = fs::read_to_string(&path).expect("text");
        for secret in [PASSWORD, "corr@ct-horse", "YW5uOmNvcnJAY3QtaG9yc2U"] {
            assert!(!text.contains(secret), "{} shows the password", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_evidence_of_a_running_node_has_every_dial_with_what_was_done_and_no_password() {
    let mut federation = Federation::empty(binary());
    let proxy = format!("http://ann:{PASSWORD}@127.0.0.1:9");
    let env = vec![("WORLDCOMPUTE_PROXY".to_owned(), proxy.clone())];
    federation.add_with(&["--coordinate", "always", "--slots", "0", "--no-lan", "--join", NOBODY], env);
    let node = federation.coordinator();
    drop(node.client().await);
    let dir = federation.dir.path().join("evidence");
    let output = node.command(&[
        "--json",
        "--log",
        "error",
        "admin",
        "firewall-diagnose",
        "--seconds",
        "6",
        "--proxy",
        &proxy,
        "--target",
        NOBODY,
        "--output",
        dir.to_str().expect("utf-8"),
    ]);
    // Nobody is reached: every transport to the one address is exhausted.
    assert_eq!(output.status.code(), Some(65), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["dials_failed_silently"], 0, "{said}");
    let index = fs::read_to_string(dir.join("index.md")).expect("a summary");
    assert!(index.contains("none was silent") && index.contains("Outcome: **fail**"), "{index}");
    let trace = lines(&dir.join("trace.jsonl"));
    let dials = |by: &str| -> Vec<&Value> {
        let to_nobody = |line: &&Value| {
            line["target_multiaddr"].as_str().is_some_and(|address| NOBODY.starts_with(address))
        };
        trace
            .iter()
            .filter(|line| line["event"] == "dial_attempt" && line["by"] == by)
            .filter(to_nobody)
            .collect()
    };
    let (node_dials, doctor_dials) = (dials("node"), dials("doctor"));
    assert!(!node_dials.is_empty() && !doctor_dials.is_empty(), "{trace:?}");
    for dial in node_dials {
        assert_eq!(dial["outcome"], "transport_error", "{dial}");
        assert!(dial["root_cause"].as_str().is_some_and(|cause| cause.contains("refused")), "{dial}");
        assert!(dial["follow_up"].as_str().is_some_and(|what| what.starts_with("retry in")), "{dial}");
    }
    let log = fs::read_to_string(dir.join("run.log")).expect("a log");
    assert!(log.contains(" DEBUG  node libp2p_swarm") || log.contains("DEBUG node libp2p_swarm"), "{log}");
    assert_eq!(json(&dir.join("results.json"))["overall"], "fail");
    assert_eq!(json(&dir.join("metadata.json"))["area"], "firewall-traversal");
    assert!(json(&dir.join("doctor.json"))["findings"].as_array().is_some_and(|rows| rows.len() == 10));
    assert!(json(&dir.join("node.json"))["after"]["node"].is_string());
    no_secret_in(&dir);
    assert!(!federation.coordinator().logged().contains(PASSWORD));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_node_the_command_looks_for_one_itself_and_reaches_it() {
    let mut federation = Federation::empty(binary());
    federation.add(&["--coordinate", "always", "--slots", "0"]);
    drop(federation.coordinator().client().await);
    let addresses = federation.coordinator().json(&["donor", "status"])["addresses"].clone();
    let target = addresses.as_array().expect("addresses")[0].as_str().expect("an address").to_owned();
    let (own, dir) = (federation.dir.path().join("nobody"), federation.dir.path().join("evidence"));
    let output = Command::new(binary())
        .args(["--data-dir", own.to_str().expect("utf-8"), "admin", "firewall-diagnose", "--seconds", "5"])
        .args(["--target", &target, "--output", dir.to_str().expect("utf-8")])
        .env("WORLDCOMPUTE_NETWORK", federation.network())
        .output()
        .expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let trace = lines(&dir.join("trace.jsonl"));
    assert!(trace.iter().any(|line| line["event"] == "connected" && line["by"] == "here"), "{trace:?}");
    assert!(trace.iter().any(|line| line["event"] == "dial_attempt" && line["outcome"] == "success"));
    assert_eq!(json(&dir.join("results.json"))["overall"], "pass");
    // Evidence is not written over.
    let again = Command::new(binary())
        .args(["--data-dir", own.to_str().expect("utf-8"), "admin", "firewall-diagnose", "--seconds", "5"])
        .args(["--output", dir.to_str().expect("utf-8")])
        .output()
        .expect("runs");
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("holds something already"));
}

#[test]
fn a_capture_that_is_killed_leaves_what_it_saw_and_says_that_it_is_not_whole() {
    let home = tempfile::tempdir().expect("tempdir");
    let mut child = Command::new(binary())
        .current_dir(home.path())
        .args(["--data-dir", home.path().join("d").to_str().expect("utf-8"), "admin", "firewall-diagnose"])
        .args(["--target", NOBODY])
        .env("WORLDCOMPUTE_NETWORK", "nobody-here")
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    // Without --output it goes where evidence goes, under the moment of its beginning.
    let area = home.path().join("evidence/phase1/firewall-traversal");
    let begun = Instant::now();
    let seen = loop {
        let dir = fs::read_dir(&area).ok().and_then(|mut rows| Some(rows.next()?.ok()?.path()));
        match dir {
            Some(dir) if !lines_of(&dir).is_empty() => break dir,
            _ => assert!(begun.elapsed() < SOON, "nothing is kept"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    let name = seen.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(name.len() == 16 && name.ends_with('Z') && name.as_bytes()[8] == b'T', "{name}");
    assert!(fs::read_to_string(seen.join("index.md")).expect("a summary").contains("interrupted"));
    assert!(!seen.join("results.json").exists());
}

fn lines_of(dir: &Path) -> Vec<Value> {
    if dir.join("trace.jsonl").exists() { lines(&dir.join("trace.jsonl")) } else { Vec::new() }
}
