//! A worker takes every power from itself that it will not need, and notes what the kernel granted.
//!
//! Order matters and is the order of this file: change user, enter namespaces, become the first process of a process-id
//! namespace, build an empty root, set limits, drop capabilities, restrict file access, and last the system-call filter.
//! Everything happens in a process with a single thread.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::fs::StatVfsMountFlags;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::defence::Defence;
use crate::wire::Setup;

/// Directories of a guest, in a worker's directory and in the guest's root.
pub(crate) const GUEST_DIRS: [&str; 4] = ["in", "out", "scratch", "checkpoint"];
/// Where the guest's root is assembled, in a worker's directory.
pub(crate) const ROOT_DIR: &str = "root";
/// Files and directories that fit under `/scratch`.
const SCRATCH_INODES_MAX: u32 = 65_536;
/// Descriptors a worker may hold; a WASI guest's files are among them.
const DESCRIPTORS_MAX: u64 = 512;

/// Something failed while doing `step`.
#[derive(Debug)]
struct StepError {
    step: &'static str,
    source: io::Error,
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.source)
    }
}

trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, StepError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, StepError> {
        self.map_err(|e| StepError { step, source: e.into() })
    }
}

/// Becomes an unprivileged user and enters new namespaces. Returns whether children start in a new process-id namespace.
///
/// The current directory must be the worker's directory: it is the one thing of the old world that the new mount namespace
/// still reaches without walking a path.
pub(crate) fn enter_namespaces(setup: &Setup, defences: &mut Vec<Defence>) -> bool {
    let uid = rustix::process::geteuid().as_raw();
    defences.push(match setup.user_id {
        Some(user_id) => Defence::of("unprivileged user", become_user(user_id)),
        None if uid == 0 => {
            Defence::unavailable("unprivileged user", "root here has no other user to become")
        }
        None => Defence::active("unprivileged user", format!("user {uid}, as the agent")),
    });
    defences.push(Defence::of("user namespace", enter_user_namespace()));
    let mut new_pids = false;
    for (name, flag) in [
        ("mount namespace", UnshareFlags::NEWNS),
        ("network namespace", UnshareFlags::NEWNET),
        ("process namespace", UnshareFlags::NEWPID),
        ("ipc namespace", UnshareFlags::NEWIPC),
        ("host name namespace", UnshareFlags::NEWUTS),
        ("cgroup namespace", UnshareFlags::NEWCGROUP),
    ] {
        let result = unshare(flag);
        new_pids |= flag == UnshareFlags::NEWPID && result.is_ok();
        defences.push(Defence::of(name, result.map(|()| "")));
    }
    new_pids
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // JUSTIFICATION: rustix marks every unshare unsafe because of `FILES`, which we never pass.
    // SAFETY: the process has one thread and `flags` are namespace flags only, so no thread loses sight of a descriptor.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

fn become_user(user_id: u32) -> Result<String, StepError> {
    let (uid, gid) = (rustix::process::Uid::from_raw(user_id), rustix::process::Gid::from_raw(user_id));
    rustix::thread::set_keep_capabilities(true).step("keep capabilities")?;
    rustix::thread::set_thread_groups(&[]).step("leave groups")?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).step("change group")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step("change user")?;
    // Kept for the namespaces below where user namespaces are switched off; all gone before the first guest.
    let mut sets = rustix::thread::capabilities(None).step("read capabilities")?;
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets).step("raise capabilities")?;
    Ok(format!("user {user_id}"))
}

fn enter_user_namespace() -> Result<String, StepError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(UnshareFlags::NEWUSER).step("unshare")?;
    // Changing user made the process undumpable, and then /proc/self belongs to root.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
        .step("become dumpable")?;
    fs::write("/proc/self/setgroups", "deny").step("deny setgroups")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).step("map user")?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).step("map group")?;
    Ok(format!("only user {uid} exists"))
}

/// Replaces the file system by one that holds the guest's four directories and nothing else.
pub(crate) fn enter_root(setup: &Setup, defences: &mut Vec<Defence>) {
    let entered = fs::File::open(".").step("open the worker's directory").and_then(|before| {
        assemble_root(setup).inspect_err(|_| {
            // At most half a root is left mounted, in our own namespace; guests then work in the worker's directory itself,
            // and a failure to return there shows when the first guest is given its directories.
            let _ = rustix::process::fchdir(&before);
        })
    });
    defences.push(Defence::of("private root", entered));
}

fn assemble_root(setup: &Setup) -> Result<String, StepError> {
    let inert = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .step("make mounts private")?;
    mount_sized("none", ROOT_DIR, inert, "size=64k,nr_inodes=16,mode=755").step("mount root")?;
    for dir in GUEST_DIRS {
        fs::create_dir(Path::new(ROOT_DIR).join(dir)).step("create guest directory")?;
    }
    for dir in ["in", "out", "checkpoint"] {
        let target = Path::new(ROOT_DIR).join(dir);
        mount_bind(dir, &target).step("bind guest directory")?;
        // Flags that the outer mount has are locked in a user namespace: a remount must repeat them.
        let outer = rustix::fs::statvfs(&target).step("read mount flags")?.f_flag;
        let mut flags = inert | MountFlags::BIND;
        for (has, flag) in [
            (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
            (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
            (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
        ] {
            if outer.contains(has) {
                flags |= flag;
            }
        }
        if dir == "in" || outer.contains(StatVfsMountFlags::RDONLY) {
            flags |= MountFlags::RDONLY;
        }
        mount_remount(&target, flags, "").step("restrict guest directory")?;
    }
    let options = format!("size={},nr_inodes={SCRATCH_INODES_MAX},mode=700", setup.scratch_bytes);
    mount_sized("none", "root/scratch", inert, &options).step("mount scratch")?;

    rustix::process::chdir(ROOT_DIR).step("enter root")?;
    rustix::process::pivot_root(".", ".").step("pivot root")?;
    unmount(".", UnmountFlags::DETACH).step("leave old root")?;
    rustix::process::chdir("/").step("enter new root")?;
    mount_remount("/", inert | MountFlags::BIND | MountFlags::RDONLY, "").step("make root read-only")?;
    Ok(format!("scratch of {} MiB in memory", setup.scratch_bytes >> 20))
}

fn mount_sized(source: &str, target: &str, flags: MountFlags, options: &str) -> io::Result<()> {
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    Ok(mount(source, target, "tmpfs", flags, Some(options.as_c_str()))?)
}

/// Sets the limits that hold from now on whatever is bound later.
pub(crate) fn limit_resources(setup: &Setup, defences: &mut Vec<Defence>) {
    let result = (|| {
        for (resource, limit, step) in [
            (Resource::Core, 0, "limit core dumps"),
            (Resource::Nproc, 0, "limit processes"),
            (Resource::Memlock, 0, "limit locked memory"),
            (Resource::Msgqueue, 0, "limit message queues"),
            (Resource::Nofile, DESCRIPTORS_MAX, "limit descriptors"),
            (Resource::Cpu, setup.cpu_secs_max, "limit processor time"),
            (Resource::Fsize, setup.file_bytes_max, "limit file size"),
            (Resource::Data, setup.data_bytes_max, "limit memory"),
        ] {
            lower_limit(resource, limit).step(step)?;
        }
        Ok::<_, StepError>(format!(
            "no processes, {DESCRIPTORS_MAX} descriptors, {} MiB private memory",
            setup.data_bytes_max >> 20
        ))
    })();
    defences.push(Defence::of("resource limits", result));
}

/// Lowers a limit for good; a limit that is already lower stays.
pub(crate) fn lower_limit(resource: Resource, limit: u64) -> io::Result<()> {
    let now = rustix::process::getrlimit(resource);
    let limit = now.maximum.map_or(limit, |maximum| maximum.min(limit));
    Ok(setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?)
}

/// Gives up every capability for good and the way back to them.
pub(crate) fn drop_capabilities(defences: &mut Vec<Defence>) {
    let result = (|| {
        for bit in 0..64 {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            match rustix::thread::capability_is_in_bounding_set(capability) {
                Ok(true) => rustix::thread::remove_capability_from_bounding_set(capability)
                    .step("bound capabilities")?,
                Ok(false) => {}
                Err(_) => break, // the kernel knows no capability of this number or above
            }
        }
        Ok::<_, StepError>(())
    })();
    let none = CapabilitySet::empty();
    let dropped = rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )
    .step("drop capabilities")
    .and_then(|()| rustix::thread::capabilities(None).step("read capabilities"))
    .and_then(|now| match now.permitted.is_empty() && now.effective.is_empty() {
        true => Ok(if result.is_ok() { "none left, none to regain" } else { "none left" }),
        false => Err(StepError { step: "drop capabilities", source: io::Error::other("some are left") }),
    });
    defences.push(Defence::of("no capabilities", dropped));

    let no_new = rustix::thread::set_no_new_privs(true).and_then(|()| rustix::thread::no_new_privs());
    defences.push(match no_new {
        Ok(true) => Defence::active("no new privileges", ""),
        Ok(false) => Defence::unavailable("no new privileges", "the kernel ignored it"),
        Err(error) => Defence::unavailable("no new privileges", error),
    });
}

/// Makes the worker invisible to others' debuggers and mortal with its agent.
pub(crate) fn tie_to_agent(defences: &mut Vec<Defence>) {
    let hidden = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    defences.push(Defence::of("not inspectable", hidden.map(|()| "")));
    let tied = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    defences.push(Defence::of("dies with the agent", tied.map(|()| "")));
}

/// Restricts file access to the guest's directories, and forbids TCP and signals to others where the kernel knows how.
pub(crate) fn restrict_files(defences: &mut Vec<Defence>) {
    defences.push(match landlock_here() {
        Ok((RulesetStatus::FullyEnforced, abi)) => {
            Defence::active("landlock", format!("version {abi}, everything asked for"))
        }
        Ok((RulesetStatus::PartiallyEnforced, abi)) => Defence::active("landlock", format!("version {abi}")),
        Ok((RulesetStatus::NotEnforced, _)) => Defence::unavailable("landlock", "not in this kernel"),
        Err(error) => Defence::unavailable("landlock", error),
    });
}

fn landlock_here() -> Result<(RulesetStatus, String), Box<dyn std::error::Error>> {
    /// The newest version whose rights we know; older kernels enforce what they have.
    const NEWEST: ABI = ABI::V6;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    let write = AccessFs::from_all(NEWEST) & !AccessFs::Execute & !AccessFs::IoctlDev;
    let write = write & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeSock | AccessFs::MakeFifo);
    for dir in GUEST_DIRS {
        let access = if dir == "in" { AccessFs::ReadFile | AccessFs::ReadDir } else { write };
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(dir)?, access))?;
    }
    let status = ruleset.restrict_self()?;
    let version = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => {
            format!("{effective_abi:?}").trim_start_matches('V').to_owned()
        }
        LandlockStatus::NotEnabled => "none: switched off at boot".to_owned(),
        LandlockStatus::NotImplemented => "none".to_owned(),
    };
    Ok((status.ruleset, version))
}

/// Installs the system-call filter: what a running guest needs, and an error for everything else.
pub(crate) fn filter_system_calls(defences: &mut Vec<Defence>) {
    let installed = system_call_filter().and_then(|program| seccompiler::apply_filter(&program));
    defences.push(match installed {
        Ok(()) => Defence::active("seccomp", format!("{} system calls allowed", allowed_calls().len())),
        Err(error) => Defence::unavailable("seccomp", error),
    });
}

fn system_call_filter() -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        allowed_calls().into_iter().map(|call| (call, vec![])).collect();
    // Limits may be lowered, of this process only: pid 0 means "mine".
    rules.insert(
        libc::SYS_prlimit64,
        vec![SeccompRule::new(vec![SeccompCondition::new(
            0,
            SeccompCmpArgLen::Qword,
            SeccompCmpOp::Eq,
            0,
        )?])?],
    );
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    Ok(SeccompFilter::new(rules, denied, SeccompAction::Allow, arch)?.try_into()?)
}

/// Returns the system calls of a locked worker: memory, its own files, its socket, time. No call here makes a process, a
/// thread, a socket, a namespace or a mount, sends a signal, or changes who we are.
fn allowed_calls() -> Vec<i64> {
    let mut calls = vec![
        // memory; memfd_create backs copy-on-write images of modules that are not mapped from a file
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_mremap,
        libc::SYS_brk,
        libc::SYS_memfd_create,
        // descriptors and files below the guest's directories
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_preadv,
        libc::SYS_pwritev,
        libc::SYS_preadv2,
        libc::SYS_pwritev2,
        libc::SYS_lseek,
        libc::SYS_close,
        libc::SYS_dup,
        libc::SYS_dup3,
        libc::SYS_fcntl,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_getdents64,
        libc::SYS_mkdirat,
        libc::SYS_unlinkat,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_readlinkat,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_utimensat,
        libc::SYS_fadvise64,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        // the socket to the agent, which is already connected
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        // time, waiting, signals of this process
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_futex,
        libc::SYS_ppoll,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_getrandom,
        libc::SYS_getrusage,
        // the end
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        libc::SYS_open,
        libc::SYS_stat,
        libc::SYS_lstat,
        libc::SYS_poll,
        libc::SYS_mkdir,
        libc::SYS_rmdir,
        libc::SYS_unlink,
        libc::SYS_rename,
        libc::SYS_readlink,
    ]);
    calls
}

/// Closes every descriptor but the three standard ones.
pub(crate) fn close_inherited() -> io::Result<()> {
    // JUSTIFICATION: neither std nor rustix offers close_range.
    // SAFETY: called first thing in the worker, before anything opened a descriptor above 2, so no owner loses one.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Which side of [`fork_beside`] we are on.
pub(crate) enum Side {
    /// The process that called; the new one has this process id.
    Before { pid: i32 },
    /// The new process, once the old one has closed `gate`'s other end.
    After,
}

/// Forks so that the new process is a child of our parent, as its first process in the namespaces just unshared.
///
/// The new process only returns once the old one is gone, so what the old one wrote to a shared socket came first.
pub(crate) fn fork_beside() -> io::Result<Side> {
    let (gate, held): (OwnedFd, OwnedFd) = rustix::pipe::pipe()?;
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // JUSTIFICATION: a process-id namespace starts with the next child, and only CLONE_PARENT leaves that child to the
    // agent to wait for; fork(2) and std have no such flag.
    // SAFETY: without CLONE_VM and with a null stack this is fork(2). The process has one thread, so no lock is held by a
    // thread that will not exist in the copy. The C library's cached thread id goes stale, which only abort() reads.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(held);
            let _ = rustix::io::read(&gate, &mut [0u8; 1]);
            Ok(Side::After)
        }
        pid => {
            // `held` must stay open until the process ends.
            std::mem::forget(held);
            Ok(Side::Before { pid: pid as i32 })
        }
    }
}
