//! What the measuring programs share: the binary, real nodes on loopback, what the kernel says about a process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wc_api::Client;
use wc_proto::api::view::{JobView, Phase};
use wc_proto::api::{CellRequest, Request, Response};
use wc_tests::federation::{Federation, Node, stage};
use wc_types::manifest::{BlobRef, Stage};
use wc_types::{Fuel, JobId};

/// Logs of measured nodes hold warnings only.
pub const QUIET: [&str; 2] = ["--log", "warn"];

/// Returns the release binary: `WC_BIN`, or the one in `target/release`.
///
/// # Panics
/// When there is none.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("WC_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/worldcompute"),
        PathBuf::from,
    );
    path.canonicalize()
        .unwrap_or_else(|_| panic!("{} is missing: run cargo build --release, or set WC_BIN", path.display()))
}

/// Starts a coordinator that lends nothing and `donors` donors with `slots` slots each; waits until all have joined.
pub async fn federation(donors: usize, slots: u16) -> Federation {
    let mut federation = Federation::empty(binary());
    federation.add(&[&["--coordinate", "always", "--trusted", "--slots", "0"], &QUIET[..]].concat());
    for _ in 0..donors {
        let slots = slots.to_string();
        let args = ["--coordinate", "never", "--consent", "all", "--slots", &slots];
        federation.add(&[&args[..], &QUIET[..]].concat());
    }
    federation.joined(donors).await;
    federation
}

/// A submitter's connection to the coordinator.
pub struct Submitter {
    client: Client,
    workload: BlobRef,
}

impl Submitter {
    /// Connects and hands over the module.
    ///
    /// # Panics
    /// When the node refuses.
    pub async fn new(node: &Node, module: &Path) -> Self {
        let mut client = node.client().await;
        let path = module.display().to_string();
        match client.ask(Request::PutFile { path }).await.expect("the node answers") {
            Response::Blob(workload) => Self { client, workload },
            other => panic!("the module cannot be put: {other:?}"),
        }
    }

    /// Asks for something about the cell.
    ///
    /// # Panics
    /// When the node is gone.
    pub async fn cell(&mut self, request: CellRequest) -> Response {
        self.client.ask(Request::Cell(request)).await.expect("the node answers")
    }

    /// Signs and submits a job of one stage of `tasks` tasks.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn submit(&mut self, federation: &Federation, tasks: u32, replicas: u8) -> JobId {
        let stage = Stage { tasks, replicas, ..small(stage(self.workload)) };
        let manifest = Box::new(federation.manifest(vec![stage]));
        match self.cell(CellRequest::Submit { manifest, holders: Vec::new(), dry_run: false }).await {
            Response::Submitted { job, .. } => job,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until a job is verified.
    ///
    /// # Panics
    /// When it fails.
    pub async fn verified(&mut self, job: JobId) -> JobView {
        let mut seen = 0;
        loop {
            let Response::Job(view) = self.cell(CellRequest::WatchJob { job: job.to_string(), seen }).await
            else {
                panic!("the job is unknown")
            };
            seen = view.revision;
            if view.phase.is_final() {
                assert_eq!(view.phase, Phase::Verified, "{:?}", view.reason);
                return *view;
            }
        }
    }
}

/// A no-op needs little; a modest declaration also lets many run beside each other.
fn small(mut stage: Stage) -> Stage {
    stage.resources.fuel = Some(Fuel(1_000_000_000));
    stage
}

/// Processor time of a process that ran so far, and of all its descendants that are alive.
pub fn cpu(pid: u32) -> Duration {
    family(pid).iter().map(|pid| ticks(*pid)).sum()
}

/// Resident memory of a process and its descendants, in bytes.
pub fn resident(pid: u32) -> u64 {
    family(pid).iter().map(|pid| status_kib(*pid, "VmRSS:") * 1024).sum()
}

/// Resident memory of one process, in bytes.
pub fn resident_alone(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:") * 1024
}

/// Returns a process and its descendants.
pub fn family(pid: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").expect("Linux").flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = stat(child).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(child);
        }
    }
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(parent) = family.get(at) {
        family.extend(children.remove(parent).unwrap_or_default());
        at += 1;
    }
    family
}

/// Fields of `/proc/PID/stat` from the state on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split_ascii_whitespace().map(str::to_owned).collect())
}

/// User and system time of a process and of its children that have ended.
fn ticks(pid: u32) -> Duration {
    let Some(fields) = stat(pid) else { return Duration::ZERO };
    let ticks: u64 =
        fields.get(11..15).unwrap_or_default().iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn status_kib(pid: u32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or_default()
}

/// Medians of writing 1 KiB to a file beside `dir` and making it durable: at the end of a file that grows, and inside
/// one whose blocks are there already, as a journal with preallocated segments has it.
///
/// # Panics
/// When the disk cannot be written.
pub fn durable_floor(dir: &Path, rounds: usize) -> (Duration, Duration) {
    let append = (0..rounds).map({
        let mut file = File::create(dir.join("floor-append")).expect("the disk can be written");
        move |_| synced(&mut file)
    });
    let append = median(append.collect());
    let mut file = File::create(dir.join("floor-overwrite")).expect("the disk can be written");
    file.write_all(&vec![1; 1024 * rounds]).expect("the disk can be written");
    file.sync_all().expect("the disk can be synchronised");
    file.rewind().expect("a file can be rewound");
    let overwrite = median((0..rounds).map(|_| synced(&mut file)).collect());
    (append, overwrite)
}

fn synced(file: &mut File) -> Duration {
    let begun = Instant::now();
    file.write_all(&[7; 1024]).expect("the disk can be written");
    file.sync_data().expect("the disk can be synchronised");
    begun.elapsed()
}

/// The middle one.
///
/// # Panics
/// When there are none.
pub fn median<T: Copy + PartialOrd>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("comparable"));
    values[values.len() / 2]
}

/// Milliseconds, with two decimals.
pub fn millis(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

/// Says on what machine and how busy it is: numbers mean nothing without.
pub fn print_machine() {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    println!("{cores} cores, load before the run {load}, {}", binary().display());
}

/// The number in the environment variable `name`, or `usual`.
pub fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}
