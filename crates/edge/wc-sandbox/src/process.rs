//! One worker process as the agent holds it: start it, talk to it, watch it, end it.

use std::fs;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, waitid};
use serde::Deserialize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::cgroup::{Cgroups, WorkerGroup};
use crate::collect::{Staging, wipe};
use crate::defence::Defence;
use crate::error::SandboxError;
use crate::freeze::{Freezer, Registration};
use crate::lockdown::{GUEST_DIRS, ROOT_DIR};
use crate::wire::{FROM_WORKER_OVERHEAD_BYTES, FromWorker, Inbox, Setup, ToWorker, encode};
use crate::worker::WORKER_ARGUMENT;

/// How long a worker may take to start and lock itself up on a busy machine.
const START_TIME_MAX: Duration = Duration::from_secs(30);

/// The command that starts a worker: a binary that calls [`worker_main`](crate::worker_main) for these arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program, usually this one.
    pub program: PathBuf,
    /// Its arguments, beginning with [`WORKER_ARGUMENT`].
    pub args: Vec<String>,
}

impl WorkerCommand {
    /// Returns the command that re-executes this very program, even if its file was replaced meanwhile.
    pub fn this_program() -> Self {
        Self { program: "/proc/self/exe".into(), args: vec![WORKER_ARGUMENT.into()] }
    }
}

/// Starts workers on a thread of its own, because the kernel ends a worker when the *thread* that started it ends.
#[derive(Debug)]
pub(crate) struct Spawner {
    requests: mpsc::Sender<SpawnRequest>,
}

struct SpawnRequest {
    dir: PathBuf,
    reply: tokio::sync::oneshot::Sender<Result<Newborn, SandboxError>>,
}

/// A process that was started and nobody took charge of yet; it is ended and cleared away when nobody does, as when the
/// sandbox closes while a spare starts.
#[derive(Debug)]
struct Newborn {
    started: Option<(Child, StdUnixStream)>,
    dir: PathBuf,
    reaper: Reaper,
}

impl Newborn {
    fn take(mut self) -> Option<(Child, StdUnixStream)> {
        self.started.take()
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        let Some((mut child, _stream)) = self.started.take() else { return };
        let _ = child.kill();
        let dir = std::mem::take(&mut self.dir);
        self.reaper.clear(Remains { pidfd: None, first: Some(child), dir, group: None, _cgroups: None });
    }
}

/// Waits for killed workers and removes what they leave, on a thread of its own.
#[derive(Debug, Clone)]
pub(crate) struct Reaper {
    remains: mpsc::Sender<Remains>,
}

struct Remains {
    pidfd: Option<OwnedFd>,
    first: Option<Child>,
    dir: PathBuf,
    group: Option<WorkerGroup>,
    /// Kept so that the hierarchy is removed after its last worker.
    _cgroups: Option<Arc<Cgroups>>,
}

impl Spawner {
    pub fn new(command: WorkerCommand, user_id: Option<u32>, reaper: Reaper) -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel::<SpawnRequest>();
        std::thread::Builder::new().name("wc-sandbox-spawn".into()).spawn(move || {
            for SpawnRequest { dir, reply } in inbox {
                if reply.is_closed() {
                    continue;
                }
                let newborn = match start(&command, user_id, &dir) {
                    Ok(started) => Ok(Newborn { started: Some(started), dir, reaper: reaper.clone() }),
                    Err(error) => {
                        remove_worker_dir(&dir);
                        Err(error)
                    }
                };
                let _ = reply.send(newborn);
            }
        })?;
        Ok(Self { requests })
    }

    async fn spawn(&self, dir: PathBuf) -> Result<(Child, StdUnixStream), SandboxError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.requests.send(SpawnRequest { dir, reply }).map_err(|_| SandboxError::Closed)?;
        answer.await.map_err(|_| SandboxError::Closed)??.take().ok_or(SandboxError::Closed)
    }
}

fn start(
    command: &WorkerCommand,
    user_id: Option<u32>,
    dir: &Path,
) -> Result<(Child, StdUnixStream), SandboxError> {
    fs::create_dir_all(dir).map_err(SandboxError::files("create", dir))?;
    for name in GUEST_DIRS.into_iter().chain([ROOT_DIR]) {
        let path = dir.join(name);
        fs::create_dir(&path).map_err(SandboxError::files("create", &path))?;
        // Inputs stay ours: the guest's user can read them and nothing more.
        if let Some(user_id) = user_id.filter(|_| name != "in") {
            std::os::unix::fs::chown(&path, Some(user_id), Some(user_id))
                .map_err(SandboxError::files("hand over", &path))?;
        }
    }
    if let Some(user_id) = user_id {
        // The directory itself is searchable for that user only through the descriptor it is given.
        std::os::unix::fs::chown(dir, Some(user_id), Some(user_id))
            .map_err(SandboxError::files("hand over", dir))?;
    }
    let directory = fs::File::open(dir).map_err(SandboxError::files("open", dir))?;
    let spawn_error = |source| SandboxError::Spawn { source };
    let (ours, theirs) = StdUnixStream::pair().map_err(spawn_error)?;
    ours.set_nonblocking(true).map_err(spawn_error)?;
    let child = Command::new(&command.program)
        .args(&command.args)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(directory))
        .stderr(Stdio::null())
        .spawn()
        .map_err(spawn_error)?;
    Ok((child, ours))
}

impl Reaper {
    pub fn new() -> io::Result<Self> {
        let (remains, inbox) = mpsc::channel::<Remains>();
        std::thread::Builder::new().name("wc-sandbox-reap".into()).spawn(move || {
            for mut remains in inbox {
                if let Some(first) = &mut remains.first {
                    let _ = first.wait();
                }
                if let Some(pidfd) = &remains.pidfd {
                    // Fails when somebody waited already.
                    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
                }
                remove_worker_dir(&remains.dir);
                drop(remains.group);
            }
        })?;
        Ok(Self { remains })
    }

    fn clear(&self, remains: Remains) {
        // The thread ends only with its last sender, so this arrives.
        let _ = self.remains.send(remains);
    }
}

/// Removes a worker's directory, whatever a guest made of it.
pub(crate) fn remove_worker_dir(dir: &Path) {
    for name in GUEST_DIRS {
        let _ = wipe(&dir.join(name));
    }
    let _ = fs::remove_dir_all(dir);
}

/// How a worker process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Death {
    pub signal: Option<i32>,
    pub out_of_memory: bool,
}

/// A live worker.
#[derive(Debug)]
pub(crate) struct Worker {
    stream: UnixStream,
    inbox: Inbox,
    frame_bytes_max: usize,
    pidfd: Option<AsyncFd<OwnedFd>>,
    pid: i32,
    dead: bool,
    registration: Option<Registration>,
    group: Option<WorkerGroup>,
    reaper: Reaper,
    first: Option<Child>,
    cgroups: Arc<Cgroups>,
    /// This worker's directory.
    pub dir: PathBuf,
    /// Inputs that lie in it.
    pub staging: Arc<Mutex<Staging>>,
    /// Whether its guest can name files at all.
    pub uses_files: bool,
    /// What the worker says it is.
    pub engine_fingerprint: String,
    /// What the worker says protects it.
    pub defences: Vec<Defence>,
}

/// What starting a worker needs.
pub(crate) struct Launch<'a> {
    pub spawner: &'a Spawner,
    pub reaper: &'a Reaper,
    pub freezer: &'a Freezer,
    pub cgroups: &'a Arc<Cgroups>,
    pub dir: PathBuf,
    pub setup: Setup,
    pub group_bytes_max: u64,
}

impl Worker {
    /// Starts a worker and waits until it has locked itself up.
    pub async fn launch(launch: Launch<'_>) -> Result<Self, SandboxError> {
        let (child, stream) = launch.spawner.spawn(launch.dir.clone()).await?;
        let spawn_error = |source| SandboxError::Spawn { source };
        let mut worker = Self {
            stream: UnixStream::from_std(stream).map_err(spawn_error)?,
            inbox: Inbox::default(),
            frame_bytes_max: FROM_WORKER_OVERHEAD_BYTES,
            pidfd: None,
            pid: 0,
            dead: false,
            registration: None,
            group: None,
            reaper: launch.reaper.clone(),
            first: Some(child),
            cgroups: launch.cgroups.clone(),
            dir: launch.dir,
            staging: Arc::default(),
            uses_files: false,
            engine_fingerprint: String::new(),
            defences: Vec::new(),
        };
        let started = tokio::time::timeout(
            START_TIME_MAX,
            worker.introduce(launch.setup, launch.freezer, launch.group_bytes_max),
        );
        match started.await {
            Ok(Ok(())) => Ok(worker),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                Err(SandboxError::WorkerFailed { stage: "starting", reason: "it took too long".into() })
            }
        }
    }

    async fn introduce(
        &mut self,
        setup: Setup,
        freezer: &Freezer,
        group_bytes_max: u64,
    ) -> Result<(), SandboxError> {
        let failed = |reason: String| SandboxError::WorkerFailed { stage: "starting", reason };
        self.send(&ToWorker::Setup(setup), &[]).await.map_err(|e| failed(e.to_string()))?;
        loop {
            match self.receive().await.map_err(failed)? {
                FromWorker::Launched { pid } => {
                    self.pid = pid;
                    let spawn_error = |source: io::Error| SandboxError::Spawn { source };
                    let id = Pid::from_raw(pid).ok_or_else(|| failed("it has no process id".into()))?;
                    let pidfd = pidfd_open(id, PidfdFlags::empty()).map_err(|e| spawn_error(e.into()))?;
                    let shared = pidfd.try_clone().map_err(spawn_error)?;
                    // JUSTIFICATION: waiting for a process without blocking a thread needs its descriptor in the reactor.
                    // SAFETY: `AsRawFd` of an `OwnedFd` always gives the descriptor it owns, open until it is dropped, and
                    // `AsyncFd` never lets us replace it.
                    let watched = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
                    self.pidfd = Some(watched.map_err(|e| spawn_error(e.into()))?);
                    self.registration = Some(
                        freezer.register(shared).map_err(|_| failed("too many workers at once".into()))?,
                    );
                    let same = self.first.as_ref().is_some_and(|first| first.id() == pid as u32);
                    if same {
                        self.first = None; // the process descriptor waits for it
                    }
                    match self.cgroups.enclose(pid, group_bytes_max) {
                        Ok(group) => self.group = group,
                        Err(error) => tracing::warn!(pid, %error, "worker runs without control groups"),
                    }
                }
                FromWorker::Hello(hello) if self.pidfd.is_some() => {
                    self.engine_fingerprint = hello.engine_fingerprint;
                    self.defences = hello.defences;
                    if let Some(first) = &mut self.first {
                        let _ = first.try_wait();
                    }
                    return Ok(());
                }
                _ => return Err(failed("it spoke out of turn".into())),
            }
        }
    }

    /// Allows frames that carry this many captured bytes.
    pub fn expect_captured(&mut self, bytes: u64) {
        self.frame_bytes_max = FROM_WORKER_OVERHEAD_BYTES + usize::try_from(bytes).unwrap_or(usize::MAX / 2);
    }

    /// Limits the memory of the worker's control group, if it has one.
    pub fn limit_memory(&self, bytes: u64) {
        if let Some(Err(error)) = self.group.as_ref().map(|group| group.limit_memory(bytes)) {
            tracing::warn!(pid = self.pid, %error, "memory limit of a control group not set");
        }
    }

    /// Sends one frame with file descriptors.
    pub async fn send(&mut self, frame: &ToWorker, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = encode(frame).map_err(io::Error::other)?;
        let mut rest = &bytes[..];
        let mut descriptors = descriptors;
        while !rest.is_empty() {
            self.stream.writable().await?;
            match self.try_send(rest, descriptors) {
                Ok(sent) => {
                    rest = &rest[sent..];
                    descriptors = &[];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends what the socket takes right now.
    pub fn try_send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.stream.try_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::Error::other("too many descriptors in one frame"));
            }
            Ok(sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
        })
    }

    /// Returns when the socket takes or has bytes.
    pub async fn ready(&self, interest: Interest) -> io::Result<tokio::io::Ready> {
        self.stream.ready(interest).await
    }

    /// Moves bytes that arrived into the inbox; `false` when the worker closed its end.
    pub fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0u8; 64 << 10];
        match self.stream.try_read(&mut bytes) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.inbox.push(&bytes[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Returns the next frame that has arrived whole, or why the worker is not to be believed.
    pub fn frame<T: for<'de> Deserialize<'de>>(&mut self) -> Result<Option<T>, String> {
        self.inbox.next(self.frame_bytes_max).map_err(|e| e.to_string())
    }

    /// Waits for one frame.
    pub async fn receive(&mut self) -> Result<FromWorker, String> {
        loop {
            if let Some(frame) = self.frame()? {
                return Ok(frame);
            }
            self.stream.readable().await.map_err(|e| e.to_string())?;
            if !self.fill().map_err(|e| e.to_string())? {
                return Err("it ended".into());
            }
        }
    }

    /// Ends the process now.
    pub fn kill(&self) {
        match (&self.registration, &self.first) {
            (Some(registration), _) => {
                registration.signal(Signal::KILL);
            }
            (None, Some(first)) => {
                if let Some(pid) = Pid::from_raw(first.id() as i32) {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
            (None, None) => {}
        }
    }

    /// Ends the process and returns how it ended (which may have been earlier and by itself).
    pub async fn death(mut self) -> Death {
        // An exit that is already under way should show as what it was.
        let natural = tokio::time::timeout(Duration::from_millis(20), self.exited()).await;
        let signal = match natural {
            Ok(signal) => signal,
            Err(_) => {
                self.kill();
                self.exited().await
            }
        };
        self.dead = true;
        Death { signal, out_of_memory: self.group.as_ref().is_some_and(WorkerGroup::ran_out_of_memory) }
    }

    async fn exited(&self) -> Option<i32> {
        let pidfd = self.pidfd.as_ref()?;
        pidfd.readable().await.ok()?.retain_ready();
        let status =
            waitid(WaitId::PidFd(pidfd.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        status.ok()??.terminating_signal()
    }

    /// Returns the process id, for messages and for reading `/proc`.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns whether the process has ended without being asked.
    pub fn has_ended(&mut self) -> bool {
        // A spare says nothing after its Hello: readable means closed.
        !matches!(self.stream.try_read(&mut [0u8; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Returns the processor time this worker has used so far, as the kernel counts it.
    pub fn cpu_time(&self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        // The second field is the name in parentheses and may contain anything; user and system time are 14 and 15.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let ticks: u64 = fields.next()?.parse::<u64>().ok()?.saturating_add(fields.next()?.parse().ok()?);
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        Some(Duration::from_millis(ticks.saturating_mul(1000) / ticks_per_second))
    }

    /// Returns the lock around the staged inputs.
    pub fn staging(&self) -> std::sync::MutexGuard<'_, Staging> {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.dead {
            self.kill();
        }
        self.reaper.clear(Remains {
            pidfd: self.pidfd.take().filter(|_| !self.dead).map(AsyncFd::into_inner),
            first: self.first.take(),
            dir: std::mem::take(&mut self.dir),
            group: self.group.take(),
            _cgroups: Some(self.cgroups.clone()),
        });
    }
}
