//! A disk that fails under a whole coordinator: it stops and says so, and what it had acknowledged is still there.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use wc_api::Client;
use wc_proto::api::view::Phase;
use wc_proto::api::{CellRequest, Request, Response};
use wc_tests::federation::{Federation, SOON, guest};
use wc_types::JobId;

/// Set in the process that has mounts of its own.
const OWN_MOUNTS: &str = "WC_TEST_OWN_MOUNTS";
/// Room for a fresh coordinator and a few hundred tasks.
const DISK_BYTES: u64 = 192 << 20;
const COORDINATOR: &[&str] = &["--coordinate", "always", "--trusted", "--slots", "0"];
const DONOR: &[&str] = &["--coordinate", "never", "--consent", "all", "--slots", "2"];
const TASKS: u32 = 2_000;

/// Runs the test named `test` again where it may mount; returns whether this already is that process.
fn has_own_mounts(test: &str) -> bool {
    if std::env::var_os(OWN_MOUNTS).is_some() {
        return true;
    }
    let map: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--map-root-user"] };
    let unshare = |command: &[OsString]| {
        let mut unshare = Command::new("unshare");
        unshare.arg("--mount").args(map).arg("--").args(command).env(OWN_MOUNTS, "1");
        unshare
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let probe = [&["mount", "-t", "tmpfs", "tmpfs"].map(OsString::from)[..], &[dir.path().into()]].concat();
    match unshare(&probe).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            println!("SKIP: no small disk here: {}", String::from_utf8_lossy(&output.stderr).trim());
            return false;
        }
        Err(error) => {
            println!("SKIP: no small disk here: unshare: {error}");
            return false;
        }
    }
    let this = std::env::current_exe().expect("a test knows its own file");
    let again = [&[this.into()][..], &["--exact", test, "--nocapture"].map(OsString::from)].concat();
    let status = unshare(&again).status().expect("unshare runs");
    assert!(status.success(), "{test} failed in its own mount namespace");
    false
}

/// What the coordinator said so far and may never take back.
#[derive(Default)]
struct Acknowledged {
    jobs: Vec<JobId>,
    accepted: u32,
    facts: u64,
}

impl Acknowledged {
    /// Asks for what is there and for a little more; a coordinator that has stopped acknowledges nothing.
    async fn more(&mut self, federation: &Federation, array: JobId) {
        let dir = federation.coordinator().dir.clone();
        let ask = async |request| Client::connect(&dir).await.ok()?.ask(request).await.ok();
        let ask = async |request| tokio::time::timeout(Duration::from_secs(5), ask(request)).await.ok()?;
        if let Some(Response::Job(view)) =
            ask(Request::Cell(CellRequest::Job { job: array.to_string() })).await
        {
            self.accepted = self.accepted.max(view.stages[0].accepted);
        }
        if let Some(Response::Cluster(view)) = ask(Request::Cell(CellRequest::Cluster)).await {
            self.facts = self.facts.max(view.facts);
        }
        let path = guest("hello").display().to_string();
        let Some(Response::Blob(workload)) = ask(Request::PutFile { path }).await else { return };
        let manifest = Box::new(federation.manifest(vec![wc_tests::federation::stage(workload)]));
        let submit = CellRequest::Submit { manifest, holders: Vec::new(), dry_run: false };
        if let Some(Response::Submitted { job, .. }) = ask(Request::Cell(submit)).await {
            self.jobs.push(job);
        }
    }

    /// Looks for all of it in a coordinator that has started again, and sees the array through.
    async fn is_still_there(&self, federation: &Federation, array: JobId) {
        federation
            .until("the coordinator is back", async || {
                // The socket may still be that of the one that stops.
                let Ok(mut client) = Client::connect(&federation.coordinator().dir).await else {
                    return false;
                };
                let cluster = client.ask(Request::Cell(CellRequest::Cluster)).await;
                matches!(cluster, Ok(Response::Cluster(_)))
            })
            .await;
        let facts = federation.cluster().await.facts;
        assert!(facts >= self.facts, "{} facts were acknowledged, {facts} are there", self.facts);
        let accepted = federation.job(array).await.stages[0].accepted;
        assert!(accepted >= self.accepted, "{} tasks were accepted, now {accepted} are", self.accepted);
        for job in &self.jobs {
            assert!(
                !matches!(federation.job(*job).await.phase, Phase::Failed | Phase::Cancelled),
                "{job} is lost"
            );
        }
    }
}

/// Starts an array on a coordinator whose data directory is node 0's, and waits until it runs.
async fn run_array(federation: &mut Federation, env: Vec<(String, String)>) -> JobId {
    federation.add_with(COORDINATOR, env);
    for _ in 0..3 {
        federation.add(DONOR);
    }
    federation.joined(3).await;
    let array = federation.submit(&guest("hello"), |stage| stage.tasks = TASKS).await;
    federation
        .until("some tasks are accepted", async || federation.job(array).await.stages[0].accepted >= 20)
        .await;
    array
}

/// Waits until the coordinator has stopped by itself, noting what it acknowledges until then.
async fn stopped(
    federation: &mut Federation,
    array: JobId,
    acknowledged: &mut Acknowledged,
    worse: &mut dyn FnMut(),
) -> i32 {
    let begun = Instant::now();
    loop {
        worse();
        acknowledged.more(federation, array).await;
        if let Some(status) = federation.nodes[0].exit(Duration::ZERO) {
            return status.code().expect("it was not killed");
        }
        assert!(begun.elapsed() < SOON, "the coordinator goes on\n{}", federation.logs());
    }
}

/// The last error that a node told whoever started it.
fn last_error(federation: &Federation) -> String {
    let log = federation.coordinator().logged();
    let at = log.rfind("\nError: ").unwrap_or_else(|| panic!("no error was told\n{}", federation.logs()));
    log[at..].to_owned()
}

/// Writes until not one more page fits.
fn fill(path: &Path) {
    let mut file = File::options().create(true).append(true).open(path).expect("an empty file takes no room");
    for bytes in [1 << 20, 4 << 10] {
        while file.write_all(&vec![7; bytes]).is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_the_coordinator_and_loses_nothing_acknowledged() {
    if !has_own_mounts("a_full_disk_stops_the_coordinator_and_loses_nothing_acknowledged") {
        return;
    }
    let mut federation = Federation::empty(wc_tests::federation::binary());
    let disk = federation.dir.path().join("node-0");
    std::fs::create_dir(&disk).expect("directory");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES},mode=700"), "tmpfs"])
        .arg(&disk)
        .status();
    assert!(mounted.expect("mount runs").success());

    let array = run_array(&mut federation, Vec::new()).await;
    let mut acknowledged = Acknowledged::default();
    acknowledged.more(&federation, array).await;
    let ballast = disk.join("ballast");
    let code = stopped(&mut federation, array, &mut acknowledged, &mut || fill(&ballast)).await;
    assert_eq!(code, 1, "the documented exit code of what could not be done");
    let told = last_error(&federation);
    for word in
        ["the coordinator stopped", &disk.display().to_string(), "No space left on device", "hint: free"]
    {
        assert!(told.contains(word), "{word:?} is missing: {told}");
    }

    // A start on a disk that is still full says so too, and breaks nothing.
    federation.nodes[0].start();
    if let Some(status) = federation.nodes[0].exit(Duration::from_secs(5)) {
        assert_eq!(status.code(), Some(1));
    }
    federation.nodes[0].kill();

    std::fs::remove_file(&ballast).expect("ballast");
    federation.nodes[0].start();
    acknowledged.is_still_there(&federation, array).await;
    let view = federation.finished(array).await;
    assert_eq!(view.phase, Phase::Verified, "{view:?}\n{}", federation.logs());
    for job in &acknowledged.jobs {
        assert_eq!(federation.finished(*job).await.phase, Phase::Verified, "{}", federation.logs());
    }
    federation.credited_once().await;
}

/// Makes `fsync` and `fdatasync` fail once, and only once, for a file whose name contains the text in the file that
/// `WC_FAIL_SYNC` names: as the kernel does, which reports a failed write-back a single time and forgets.
const FAILING_SYNC: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(int fd) {
    const char *trigger = getenv("WC_FAIL_SYNC");
    FILE *file = trigger ? fopen(trigger, "r") : NULL;
    if (!file) return 0;
    char wanted[256] = "", link[64], path[4096];
    if (!fgets(wanted, sizeof wanted, file)) wanted[0] = 0;
    fclose(file);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || !wanted[0]) return 0;
    path[length] = 0;
    if (!strstr(path, wanted)) return 0;
    return unlink(trigger) == 0; /* whoever takes the file away is the one that fails */
}

int fdatasync(int fd) {
    if (fails(fd)) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}

int fsync(int fd) {
    if (fails(fd)) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
"#;

/// Builds the library that fails syncs; `None`, after saying why, where there is no C compiler.
fn failing_sync(dir: &Path) -> Option<PathBuf> {
    let (source, library) = (dir.join("failing_sync.c"), dir.join("failing_sync.so"));
    std::fs::write(&source, FAILING_SYNC).expect("a temporary file");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").output();
    match built {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(library)
        }
        Err(error) => {
            println!("SKIP: no C compiler to build a failing disk with: {error}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_once_stops_the_coordinator_although_the_next_would_succeed() {
    let mut federation = Federation::empty(wc_tests::federation::binary());
    let Some(library) = failing_sync(federation.dir.path()) else { return };
    let trigger = federation.dir.path().join("fail-sync");
    let text = |path: &Path| path.to_str().expect("utf-8 path").to_owned();
    let env = vec![("LD_PRELOAD".into(), text(&library)), ("WC_FAIL_SYNC".into(), text(&trigger))];
    let array = run_array(&mut federation, env).await;
    let mut acknowledged = Acknowledged::default();
    acknowledged.more(&federation, array).await;

    // First the journal itself, then a blob that an accepted result may name.
    let large = federation.dir.path().join("large");
    for file in [".jnl", "/blobs/"] {
        std::fs::write(&trigger, file).expect("trigger");
        let mut number = 0u64;
        let dir = federation.coordinator().dir.clone();
        let code = stopped(&mut federation, array, &mut acknowledged, &mut || {
            // A fresh blob that is too large for the index, so that there is a file of blobs to sync.
            number += 1;
            let content: Vec<u8> = (0..200_000u64).flat_map(|word| (word * number).to_le_bytes()).collect();
            std::fs::write(&large, content).expect("a temporary file");
            let (dir, path) = (dir.clone(), text(&large));
            tokio::spawn(async move {
                Client::connect(&dir).await.ok()?.ask(Request::PutFile { path }).await.ok()
            });
        })
        .await;
        assert!(!trigger.exists(), "no sync has failed");
        assert_eq!(code, 1, "{file}");
        let told = last_error(&federation);
        for word in ["the coordinator stopped", "Input/output error", "sync", "hint: free or repair the disk"]
        {
            assert!(told.contains(word), "{word:?} is missing: {told}");
        }
        federation.nodes[0].start();
        acknowledged.is_still_there(&federation, array).await;
    }
    let view = federation.finished(array).await;
    assert_eq!(view.phase, Phase::Verified, "{view:?}\n{}", federation.logs());
    for job in &acknowledged.jobs {
        assert_eq!(federation.finished(*job).await.phase, Phase::Verified, "{}", federation.logs());
    }
    federation.credited_once().await;
}
