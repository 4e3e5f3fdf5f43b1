//! What a guest that broke out of WebAssembly would try, performed for tests by a locked worker (feature `attack`).

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// Arguments of a task that make the worker misbehave instead of running it.
pub const MISBEHAVE: &str = "attack:misbehave";

/// What to attack.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attack {
    /// The process to kill and to trace.
    pub agent_pid: i32,
}

/// One attempt and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// What was tried.
    pub name: String,
    /// The error number, or `None` if it worked.
    pub errno: Option<i32>,
    /// What was seen, where it worked.
    pub seen: String,
}

/// Tries everything and reports.
pub(crate) fn perform(attack: &Attack) -> Vec<Attempt> {
    let pid = i64::from(attack.agent_pid);
    let path = c"/etc/passwd".as_ptr() as i64;
    let calls: &[(&str, i64, [i64; 5])] = &[
        ("socket inet", libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0, 0, 0]),
        ("socket unix", libc::SYS_socket, [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0, 0, 0]),
        ("socket netlink", libc::SYS_socket, [libc::AF_NETLINK.into(), libc::SOCK_RAW.into(), 0, 0, 0]),
        ("io_uring", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
        ("clone", libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0]),
        (
            "thread",
            libc::SYS_clone,
            [i64::from(libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND), 0, 0, 0, 0],
        ),
        ("clone3", libc::SYS_clone3, [0, 0, 0, 0, 0]),
        ("execve", libc::SYS_execve, [path, 0, 0, 0, 0]),
        ("ptrace agent", libc::SYS_ptrace, [i64::from(libc::PTRACE_ATTACH), pid, 0, 0, 0]),
        ("read agent memory", libc::SYS_process_vm_readv, [pid, 0, 0, 0, 0]),
        ("kill agent", libc::SYS_kill, [pid, libc::SIGTERM.into(), 0, 0, 0]),
        ("kill everybody", libc::SYS_kill, [-1, libc::SIGTERM.into(), 0, 0, 0]),
        ("find agent", libc::SYS_pidfd_open, [pid, 0, 0, 0, 0]),
        ("open absolute", libc::SYS_openat, [libc::AT_FDCWD.into(), path, 0, 0, 0]),
        (
            "open upwards",
            libc::SYS_openat,
            [libc::AT_FDCWD.into(), c"../../../../etc/passwd".as_ptr() as i64, 0, 0, 0],
        ),
        ("open device", libc::SYS_openat, [libc::AT_FDCWD.into(), c"/dev/mem".as_ptr() as i64, 0, 0, 0]),
        ("open proc", libc::SYS_openat, [libc::AT_FDCWD.into(), c"/proc/self/maps".as_ptr() as i64, 0, 0, 0]),
        (
            "create in inputs",
            libc::SYS_openat,
            [
                libc::AT_FDCWD.into(),
                c"in/new".as_ptr() as i64,
                i64::from(libc::O_CREAT | libc::O_WRONLY),
                0o600,
                0,
            ],
        ),
        (
            "create in root",
            libc::SYS_openat,
            [
                libc::AT_FDCWD.into(),
                c"new".as_ptr() as i64,
                i64::from(libc::O_CREAT | libc::O_WRONLY),
                0o600,
                0,
            ],
        ),
        ("mount", libc::SYS_mount, [0, path, 0, 0, 0]),
        ("chroot", libc::SYS_chroot, [c"/".as_ptr() as i64, 0, 0, 0, 0]),
        ("unshare", libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0]),
        ("become root", libc::SYS_setuid, [0, 0, 0, 0, 0]),
        ("raise limit", libc::SYS_prlimit64, [pid, libc::RLIMIT_CPU.into(), 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, 0, 0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, 0, 0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [0, 0, 0, 0, 0]),
        ("perf", libc::SYS_perf_event_open, [0, 0, 0, 0, 0]),
        ("inject input", libc::SYS_ioctl, [0, libc::TIOCSTI as i64, path, 0, 0]),
        ("load kernel module", libc::SYS_init_module, [0, 0, 0, 0, 0]),
        ("reboot", libc::SYS_reboot, [0, 0, 0, 0, 0]),
        ("change filter", libc::SYS_prctl, [libc::PR_SET_SECCOMP.into(), 0, 0, 0, 0]),
    ];
    let mut attempts: Vec<Attempt> = calls
        .iter()
        .map(|(name, number, arguments)| {
            let errno = call(*number, *arguments).err().and_then(|error| error.raw_os_error());
            Attempt { name: (*name).into(), errno, seen: String::new() }
        })
        .collect();
    attempts.push(of(
        "list root",
        fs::read_dir("/").map(|entries| {
            let mut names: Vec<_> =
                entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names.join(" ")
        }),
    ));
    attempts.push(of("link out", {
        rustix::fs::symlinkat("/etc", rustix::fs::CWD, "out/etc")
            .map_err(io::Error::from)
            .and_then(|()| fs::read_to_string("out/etc/passwd"))
    }));
    let _ = fs::remove_file("out/etc");
    attempts
}

fn of(name: &str, result: io::Result<String>) -> Attempt {
    match result {
        Ok(seen) => Attempt { name: name.into(), errno: None, seen },
        Err(error) => Attempt { name: name.into(), errno: error.raw_os_error(), seen: String::new() },
    }
}

fn call(number: i64, [a, b, c, d, e]: [i64; 5]) -> io::Result<i64> {
    // JUSTIFICATION: a guest that broke out is not limited to what libraries offer.
    // SAFETY: every pointer in the table above is a static string or null; calls that would need more are refused by the
    // filter or fail on the null, and none of them, even if it worked, touches memory of this process.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
