//! Control groups of our own: memory and process counts that the kernel enforces around each worker.
//!
//! Version 2 is used where this process may create a group with controllers, else the version 1 hierarchies `memory` and
//! `pids`. Only groups below our own are made; a sandbox removes them when it closes and sweeps those of agents that died.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::defence::Defence;

/// Beginning of the name of every group we make; the agent's process id follows.
const PREFIX: &str = "worldcompute-";
/// Tasks in one worker's group: the first process of a worker and the one it becomes.
const PROCESSES_MAX: u32 = 4;

/// The hierarchies in which workers get groups.
#[derive(Debug)]
pub(crate) struct Cgroups {
    kind: Kind,
    next: AtomicU64,
}

#[derive(Debug)]
enum Kind {
    None { reason: String },
    V2 { parent: PathBuf },
    V1 { memory: Result<PathBuf, String>, pids: Result<PathBuf, String> },
}

/// The groups of one worker, removed when dropped (the worker must be gone by then).
#[derive(Debug)]
pub(crate) struct WorkerGroup {
    memory: Option<(PathBuf, Version)>,
    paths: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cgroups {
    /// Finds out what this process may do, by trying.
    pub fn detect() -> Self {
        let kind = match (v2_parent(), v1_parent("memory"), v1_parent("pids")) {
            (Ok(parent), _, _) => Kind::V2 { parent },
            (Err(reason), Err(memory), Err(pids)) => {
                Kind::None { reason: format!("version 2: {reason}; version 1: {memory}, {pids}") }
            }
            (Err(_), memory, pids) => Kind::V1 { memory, pids },
        };
        Self { kind, next: AtomicU64::new(0) }
    }

    /// Returns what is enforced by groups here.
    pub fn defences(&self) -> Vec<Defence> {
        match &self.kind {
            Kind::V2 { .. } => vec![
                Defence::active("cgroup memory", "version 2"),
                Defence::active("cgroup processes", "version 2"),
            ],
            Kind::V1 { memory, pids } => vec![
                Defence::of("cgroup memory", memory.as_ref().map(|_| "version 1")),
                Defence::of("cgroup processes", pids.as_ref().map(|_| "version 1")),
            ],
            Kind::None { reason } => vec![
                Defence::unavailable("cgroup memory", reason),
                Defence::unavailable("cgroup processes", reason),
            ],
        }
    }

    /// Makes the groups of one worker and moves it in.
    pub fn enclose(&self, pid: i32, memory_bytes: u64) -> io::Result<Option<WorkerGroup>> {
        let name = format!("worker-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let mut group = WorkerGroup { memory: None, paths: Vec::new() };
        match &self.kind {
            Kind::None { .. } => return Ok(None),
            Kind::V2 { parent } => {
                let path = group.create(parent.join(name))?;
                group.memory = Some((path.clone(), Version::Two));
                fs::write(path.join("pids.max"), PROCESSES_MAX.to_string())?;
                group.limit_memory(memory_bytes)?;
                fs::write(path.join("cgroup.procs"), pid.to_string())?;
            }
            Kind::V1 { memory, pids } => {
                if let Ok(parent) = memory {
                    let path = group.create(parent.join(&name))?;
                    group.memory = Some((path.clone(), Version::One));
                    group.limit_memory(memory_bytes)?;
                    fs::write(path.join("cgroup.procs"), pid.to_string())?;
                }
                if let Ok(parent) = pids {
                    let path = group.create(parent.join(&name))?;
                    fs::write(path.join("pids.max"), PROCESSES_MAX.to_string())?;
                    fs::write(path.join("cgroup.procs"), pid.to_string())?;
                }
            }
        }
        Ok(Some(group))
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let parents: Vec<&PathBuf> = match &self.kind {
            Kind::None { .. } => vec![],
            Kind::V2 { parent } => vec![parent],
            Kind::V1 { memory, pids } => memory.iter().chain(pids).collect(),
        };
        for parent in parents {
            let _ = fs::remove_dir(parent);
        }
    }
}

impl WorkerGroup {
    fn create(&mut self, path: PathBuf) -> io::Result<PathBuf> {
        fs::create_dir(&path)?;
        self.paths.push(path.clone());
        Ok(path)
    }

    /// Sets how much memory, page cache included, the worker may have.
    pub fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        match &self.memory {
            None => Ok(()),
            Some((path, Version::One)) => fs::write(path.join("memory.limit_in_bytes"), bytes.to_string()),
            Some((path, Version::Two)) => {
                // Swap is an extra that kernels without swap accounting lack.
                let _ = fs::write(path.join("memory.swap.max"), "0");
                fs::write(path.join("memory.max"), bytes.to_string())
            }
        }
    }

    /// Returns whether the kernel ended something in this group for lack of memory.
    pub fn ran_out_of_memory(&self) -> bool {
        let text = match &self.memory {
            None => return false,
            Some((path, Version::One)) => fs::read_to_string(path.join("memory.oom_control")),
            Some((path, Version::Two)) => fs::read_to_string(path.join("memory.events")),
        };
        text.unwrap_or_default()
            .lines()
            .filter_map(|line| line.strip_prefix("oom_kill "))
            .any(|count| count.trim().parse().is_ok_and(|count: u64| count > 0))
    }
}

impl Drop for WorkerGroup {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Returns the directory of a new group of ours below our own group in the version 1 hierarchy of `controller`.
fn v1_parent(controller: &str) -> Result<PathBuf, String> {
    let own = own_group(|controllers| controllers.split(',').any(|name| name == controller))
        .ok_or_else(|| format!("no hierarchy for {controller}"))?;
    let mount =
        mount_point(|kind, options| kind == "cgroup" && options.split(',').any(|name| name == controller))
            .ok_or_else(|| format!("{controller} is not mounted"))?;
    create_parent(&mount.join(own.trim_start_matches('/'))).map_err(|e| format!("{controller}: {e}"))
}

/// The same for version 2, where the controllers must also reach the new group's children.
fn v2_parent() -> Result<PathBuf, String> {
    let own = own_group(str::is_empty).ok_or("no unified hierarchy")?;
    let mount = mount_point(|kind, _| kind == "cgroup2").ok_or("not mounted")?;
    let own = mount.join(own.trim_start_matches('/'));
    let has = |file: &str, dir: &Path| {
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        ["memory", "pids"].iter().all(|controller| text.split_whitespace().any(|name| name == *controller))
    };
    if !has("cgroup.controllers", &own) {
        return Err("no memory controller in our group".into());
    }
    if !has("cgroup.subtree_control", &own) {
        // Refused while processes live in the group itself; the service manager must delegate an empty one.
        fs::write(own.join("cgroup.subtree_control"), "+memory +pids")
            .map_err(|e| format!("controllers cannot be passed on: {e}"))?;
    }
    let parent = create_parent(&own).map_err(|e| e.to_string())?;
    fs::write(parent.join("cgroup.subtree_control"), "+memory +pids").map_err(|e| {
        let _ = fs::remove_dir(&parent);
        format!("controllers cannot be passed on: {e}")
    })?;
    Ok(parent)
}

fn create_parent(own: &Path) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    sweep(own);
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    let parent = own.join(format!("{PREFIX}{}-{count}", std::process::id()));
    fs::create_dir(&parent)?;
    Ok(parent)
}

/// Removes groups that agents left behind when they were killed.
fn sweep(own: &Path) {
    for entry in fs::read_dir(own).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()) else {
            continue;
        };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            for child in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(child.path());
            }
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Returns our path in the hierarchy whose controller list satisfies `wanted`.
fn own_group(wanted: impl Fn(&str) -> bool) -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        wanted(controllers).then(|| parts.next().map(str::to_owned))?
    })
}

/// Returns where the file system whose type and options satisfy `wanted` is mounted.
fn mount_point(wanted: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/mounts").ok()?;
    text.lines().find_map(|line| {
        let mut parts = line.split(' ').skip(1);
        let (path, kind, options) = (parts.next()?, parts.next()?, parts.next()?);
        wanted(kind, options).then(|| path.into())
    })
}
