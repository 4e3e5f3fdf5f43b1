//! How big the machine is, as far as this process may use it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use wc_types::Bytes;
use wc_types::node::{CaliberClass, Capabilities, SandboxKind};

use crate::load::meminfo_kib;

/// Memory that is left to the operating system and the agent before guests get any: an eighth of the machine.
const RESERVE_DIVISOR: u64 = 8;
/// Most slots that are offered unasked.
const SLOTS_MAX: u16 = 1024;
/// Smallest memory that one guest is offered (the least that a manifest may ask for).
const GUEST_MEMORY_MIN: Bytes = wc_types::manifest::MEMORY_RANGE.0;
/// Most memory that one guest can use.
const GUEST_MEMORY_MAX: Bytes = wc_types::manifest::MEMORY_RANGE.1;

/// The machine could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A file of the kernel, or the data directory, did not answer.
    #[error("could not read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel's memory table has no total.
    #[error("/proc/meminfo does not say how much memory there is")]
    NoMemory,
}

/// What this process may use of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Cores, within the process's affinity and its cgroups' quota.
    pub cpu_cores: u32,
    /// Memory, within its cgroups' limit.
    pub memory: Bytes,
    /// Room left for the user on the disk of the data directory.
    pub disk_free: Bytes,
}

impl Machine {
    /// Measures the machine; `data_dir` must exist.
    ///
    /// # Errors
    /// [`HostError`] when the kernel does not tell.
    pub fn detect(data_dir: &Path) -> Result<Self, HostError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| HostError::Unreadable { path, source }
        };
        // The standard library already respects affinity and the CPU quota of cgroup v1 and v2.
        let cores =
            std::thread::available_parallelism().map_err(unreadable(Path::new("/proc/self/status")))?;
        let meminfo = Path::new("/proc/meminfo");
        let text = fs::read_to_string(meminfo).map_err(unreadable(meminfo))?;
        let total = meminfo_kib(&text, "MemTotal").ok_or(HostError::NoMemory)?.saturating_mul(1024);
        let limit = memory_limit(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"));
        let disk = rustix::fs::statvfs(data_dir).map_err(|errno| unreadable(data_dir)(errno.into()))?;
        Ok(Self {
            cpu_cores: u32::try_from(cores.get()).unwrap_or(u32::MAX),
            memory: Bytes(limit.map_or(total, |limit| limit.min(total))),
            disk_free: Bytes(disk.f_bavail.saturating_mul(disk.f_frsize)),
        })
    }

    /// Returns what this machine offers to its cell.
    ///
    /// - `slots`: guests at the same time; one for each core if the owner did not say
    /// - `storage_cap`: the owner's wish, bounded by what is free on the disk
    /// - `engine`: engine and version, from the sandbox
    pub fn offer(&self, slots: Option<u16>, storage_cap: Bytes, engine: String) -> Capabilities {
        let cores = u16::try_from(self.cpu_cores).unwrap_or(SLOTS_MAX);
        let slots = slots.unwrap_or(cores).clamp(1, SLOTS_MAX);
        let usable = self.memory.0 - self.memory.0 / RESERVE_DIVISOR;
        let share = Bytes(usable / u64::from(slots));
        Capabilities {
            cpu_cores: self.cpu_cores,
            memory: self.memory,
            slots,
            guest_memory_max: share.clamp(GUEST_MEMORY_MIN, GUEST_MEMORY_MAX),
            storage_cap: storage_cap.min(self.disk_free),
            sandbox: SandboxKind::WasmHost,
            engine,
            // Accelerators are not offered to guests yet, so a machine with one is still a plain processor here.
            caliber: if self.cpu_cores >= 2 && self.memory >= Bytes(2 << 30) {
                CaliberClass::C1
            } else {
                CaliberClass::C0
            },
        }
    }
}

/// Returns the least memory limit of the process's cgroups and their parents, under v2, v1 or both; `None` if nothing
/// limits it.
fn memory_limit(membership: &Path, mount: &Path) -> Option<u64> {
    let text = fs::read_to_string(membership).ok()?;
    let limits = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_hierarchy, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
        if controllers.is_empty() {
            // In the hybrid layout v2 is mounted one directory deeper, without the memory controller.
            least_limit(mount, group, "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            least_limit(&mount.join("memory"), group, "memory.limit_in_bytes")
        } else {
            None
        }
    });
    limits.min()
}

/// Walks from `group` up to the root of its hierarchy. Inside a container the path may name a group that only the host
/// sees; the groups that do exist on the way up still count.
fn least_limit(hierarchy: &Path, group: &str, file: &str) -> Option<u64> {
    let relative = Path::new(group.trim_start_matches('/'));
    if relative.components().any(|part| part == std::path::Component::ParentDir) {
        return read_limit(&hierarchy.join(file));
    }
    relative.ancestors().filter_map(|ancestor| read_limit(&hierarchy.join(ancestor).join(file))).min()
}

fn read_limit(path: &Path) -> Option<u64> {
    // `max` under v2 is no number, so it is no limit; v1 says "none" with a number near 2^63.
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("tempdir");
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("makes");
            fs::write(path, content).expect("writes");
        }
        dir
    }

    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        let dir = tree(files);
        memory_limit(&dir.path().join("cgroup"), &dir.path().join("fs"))
    }

    #[test]
    fn the_tightest_group_on_the_way_up_decides() {
        let v2 = [("cgroup", "0::/a/b\n"), ("fs/a/memory.max", "4096\n"), ("fs/a/b/memory.max", "max\n")];
        assert_eq!(limit(&v2), Some(4096));
        let v1 = [
            ("cgroup", "9:name=systemd:/\n4:memory:/job\n0::/\n"),
            ("fs/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("fs/memory/job/memory.limit_in_bytes", "8192\n"),
        ];
        assert_eq!(limit(&v1), Some(8192));
        let hidden = [("cgroup", "0::/only/on/the/host\n"), ("fs/memory.max", "77\n")];
        assert_eq!(limit(&hidden), Some(77), "a container sees its own root");
        let outside = [("cgroup", "0::/../x\n"), ("fs/memory.max", "78\n"), ("x/memory.max", "1\n")];
        assert_eq!(limit(&outside), Some(78));
        assert_eq!(limit(&[("cgroup", "0::/a\n")]), None);
        assert_eq!(limit(&[("cgroup", "nonsense\n:\n")]), None);
    }

    #[test]
    fn an_offer_stays_inside_the_machine() {
        let machine = Machine { cpu_cores: 4, memory: Bytes(8 << 30), disk_free: Bytes(5 << 30) };
        let offer = machine.offer(None, Bytes(10 << 30), "engine".to_owned());
        assert_eq!((offer.slots, offer.storage_cap), (4, Bytes(5 << 30)));
        assert_eq!(offer.guest_memory_max, Bytes((7 << 30) / 4));
        assert_eq!(offer.caliber, CaliberClass::C1);
        assert_eq!(machine.offer(Some(0), Bytes(0), String::new()).slots, 1);
        let tiny = Machine { cpu_cores: 1, memory: Bytes(1 << 20), disk_free: Bytes(0) };
        let offer = tiny.offer(Some(2), Bytes(1), String::new());
        assert_eq!((offer.guest_memory_max, offer.caliber), (GUEST_MEMORY_MIN, CaliberClass::C0));
    }

    #[test]
    fn this_machine_can_be_measured() {
        let dir = tempfile::tempdir().expect("tempdir");
        let machine = Machine::detect(dir.path()).expect("measures");
        assert!(machine.cpu_cores >= 1 && machine.memory > Bytes(1 << 20), "{machine:?}");
        assert!(Machine::detect(Path::new("/does/not/exist")).is_err());
    }
}
