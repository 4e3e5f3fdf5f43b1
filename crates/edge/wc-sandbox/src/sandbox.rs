//! The agent's side: a sandbox with slots, spares, and compiled modules.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::sync::{OnceCell, Semaphore};
use wc_types::cid::{CODEC_RAW, Cid, cid_of};

use crate::cgroup::Cgroups;
use crate::defence::Defence;
use crate::error::SandboxError;
use crate::freeze::Freezer;
use crate::limits::{Limits, Metering};
use crate::process::{Launch, Reaper, Spawner, Worker, WorkerCommand, remove_worker_dir};
use crate::profile::Profile;
use crate::slot::Slot;
use crate::wire::{Bind, Compile, Done, End, FromWorker, Run, Setup, ToWorker};
use crate::worker::{OWN_DATA_BYTES, is_component};

/// The user a worker becomes when the agent is root: `nobody` on every Linux.
const UNPRIVILEGED_USER: u32 = 65_534;

/// Longest that a new worker may take for our own no-op; it takes a millisecond.
const EXERCISE_TIME_MAX: Duration = Duration::from_secs(10);

/// How a sandbox is set up.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Directory of this sandbox alone; created, and swept of what a killed agent left there.
    pub dir: PathBuf,
    /// Guests that run at the same time.
    pub slots: usize,
    /// How to start a worker.
    pub worker: WorkerCommand,
    /// How work is counted.
    pub metering: Metering,
    /// Make the bits of every NaN the same on every host. Guests that compute with floats pay for it; without it, results
    /// that contain NaNs may differ between kinds of processors.
    pub canonical_nans: bool,
    /// Most memory any guest of this machine may have, whatever a job asks for.
    pub memory_bytes_max: u64,
    /// Most bytes in one file of a guest, whatever a job asks for.
    pub file_bytes_max: u64,
    /// Size of `/scratch`, which lives in memory.
    pub scratch_bytes: u64,
    /// Memory a compilation may take.
    pub compile_memory_bytes: u64,
    /// Time a compilation may take.
    pub compile_wall: Duration,
    /// Bytes of compiled code from one module.
    pub compiled_bytes_max: u64,
    /// Locked workers without a guest, kept ready while there is work.
    pub spares: usize,
    /// How long a spare waits before it goes, so that an idle donor has none.
    pub spare_idle: Duration,
    /// Processor time after which the kernel ends a worker, whoever forgot it.
    pub worker_cpu_max: Duration,
}

impl SandboxConfig {
    /// Returns the defaults for a sandbox in `dir` with `slots` guests at a time.
    pub fn new(dir: impl Into<PathBuf>, slots: usize) -> Self {
        Self {
            dir: dir.into(),
            slots,
            worker: WorkerCommand::this_program(),
            metering: Metering::Fuel,
            canonical_nans: true,
            memory_bytes_max: 4 << 30,
            file_bytes_max: 4 << 30,
            scratch_bytes: 256 << 20,
            compile_memory_bytes: 2 << 30,
            compile_wall: Duration::from_secs(300),
            compiled_bytes_max: 1 << 30,
            spares: 1,
            spare_idle: Duration::from_secs(60),
            worker_cpu_max: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// A place where guests run. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sandbox {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub config: SandboxConfig,
    pub freezer: Freezer,
    slots: Arc<Semaphore>,
    spawner: Spawner,
    reaper: Reaper,
    cgroups: Arc<Cgroups>,
    user_id: Option<u32>,
    engine_fingerprint: String,
    defences: Vec<Defence>,
    spares: Mutex<Vec<Spare>>,
    prepared: Mutex<HashMap<Cid, Arc<OnceCell<Prepared>>>>,
    exercise: OnceCell<Prepared>,
    next: AtomicU64,
}

/// A module of ours that does nothing: one page of memory and an empty `_start`.
///
/// ```wat
/// (module (memory (export "memory") 1) (func (export "_start")))
/// ```
const EXERCISE_MODULE: &[u8] = b"\0asm\x01\0\0\0\
    \x01\x04\x01\x60\0\0\
    \x03\x02\x01\0\
    \x05\x03\x01\0\x01\
    \x07\x13\x02\x06memory\x02\0\x06_start\0\0\
    \x0a\x04\x01\x02\0\x0b";

#[derive(Debug)]
struct Spare {
    worker: Worker,
    since: Instant,
}

/// A module that is compiled and can be given to workers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub(crate) artifact: Arc<File>,
    pub(crate) component: bool,
    cid: Cid,
}

impl Prepared {
    /// Returns the content id the module was prepared under.
    pub fn cid(&self) -> &Cid {
        &self.cid
    }
}

impl Sandbox {
    /// Opens a sandbox and starts one worker in it, which says what protects guests here and stays as a spare.
    ///
    /// # Errors
    /// [`SandboxError::Files`] if `config.dir` cannot be used, [`SandboxError::Spawn`] and [`SandboxError::WorkerFailed`]
    /// if workers do not start.
    pub async fn open(config: SandboxConfig) -> Result<Self, SandboxError> {
        let user_id = worker_user();
        for name in ["worker", "compiled", "result"] {
            let path = config.dir.join(name);
            fs::create_dir_all(&path).map_err(SandboxError::files("create", &path))?;
        }
        for entry in fs::read_dir(config.dir.join("worker")).into_iter().flatten().flatten() {
            remove_worker_dir(&entry.path());
        }
        for entry in fs::read_dir(config.dir.join("result")).into_iter().flatten().flatten() {
            let _ = fs::remove_dir_all(entry.path());
        }
        let spawn_error = |source| SandboxError::Spawn { source };
        let reaper = Reaper::new().map_err(spawn_error)?;
        let spawner = Spawner::new(config.worker.clone(), user_id, reaper.clone()).map_err(spawn_error)?;
        let mut inner = Inner {
            freezer: Freezer::new(),
            slots: Arc::new(Semaphore::new(config.slots)),
            spawner,
            reaper,
            cgroups: Arc::new(Cgroups::detect()),
            user_id,
            engine_fingerprint: String::new(),
            defences: Vec::new(),
            spares: Mutex::default(),
            prepared: Mutex::default(),
            exercise: OnceCell::new(),
            next: AtomicU64::new(0),
            config,
        };
        let first = inner.launch().await?;
        inner.engine_fingerprint = first.engine_fingerprint.clone();
        inner.defences = first.defences.clone();
        inner.defences.extend(inner.cgroups.defences());
        let inner = Arc::new(inner);
        inner.keep_spare(first);
        Ok(Self { inner })
    }

    /// Returns what stands between a guest and this host, as a worker found it and as control groups allow it.
    pub fn defences(&self) -> &[Defence] {
        &self.inner.defences
    }

    /// Returns what decides a guest's exact bytes and fuel: engine, version and configuration.
    pub fn engine_fingerprint(&self) -> &str {
        &self.inner.engine_fingerprint
    }

    /// Returns the handle that stops every guest at once from any thread.
    pub fn freezer(&self) -> Freezer {
        self.inner.freezer.clone()
    }

    /// Returns how many spares wait for a guest right now.
    pub fn spares(&self) -> usize {
        self.inner.lock_spares().len()
    }

    /// Starts spares until there are as many as configured; they go again after the idle time.
    pub async fn warm(&self) -> Result<(), SandboxError> {
        while self.spares() < self.inner.config.spares {
            let worker = self.inner.launch_exercised().await?;
            self.inner.keep_spare(worker);
        }
        Ok(())
    }

    /// Compiles a module, or finds it compiled already.
    ///
    /// The bytes are a stranger's: they are compiled in a locked worker. `module_cid` names the cached result, so the
    /// caller must have verified that it belongs to `module_bytes`.
    ///
    /// # Errors
    /// [`SandboxError::ModuleInvalid`] if the bytes are not a module that can run here, [`SandboxError::CompileLimit`] if
    /// compiling takes too much.
    pub async fn prepare(&self, module_cid: &Cid, module_bytes: &[u8]) -> Result<Prepared, SandboxError> {
        let cell = self.inner.lock_prepared().entry(*module_cid).or_default().clone();
        cell.get_or_try_init(|| self.inner.prepare(module_cid, module_bytes)).await.cloned()
    }

    /// Returns a module that was prepared before, in this run of the agent or an earlier one, without its bytes.
    pub async fn prepared(&self, module_cid: &Cid) -> Option<Prepared> {
        let known = self.inner.lock_prepared().get(module_cid).cloned();
        if let Some(prepared) = known.and_then(|cell| cell.get().cloned()) {
            return Some(prepared);
        }
        let prepared = self.inner.find_compiled(module_cid)?;
        let cell = self.inner.lock_prepared().entry(*module_cid).or_default().clone();
        cell.get_or_init(|| async { prepared }).await.clone().into()
    }

    /// Forgets a compiled module and removes it from disk.
    pub fn forget(&self, module_cid: &Cid) {
        self.inner.lock_prepared().remove(module_cid);
        for component in [true, false] {
            let _ = fs::remove_file(self.inner.compiled_path(module_cid, component));
        }
    }

    /// Lets a locked worker try to break out, and returns what came of it.
    #[cfg(feature = "attack")]
    pub async fn attack(
        &self,
        attack: crate::attack::Attack,
    ) -> Result<Vec<crate::attack::Attempt>, SandboxError> {
        let failed = |reason: String| SandboxError::WorkerFailed { stage: "attacking", reason };
        let mut worker = self.inner.launch().await?;
        worker.send(&ToWorker::Attack(attack), &[]).await.map_err(|e| failed(e.to_string()))?;
        match worker.receive().await.map_err(failed)? {
            FromWorker::Attacked(attempts) => Ok(attempts),
            _ => Err(failed("it spoke out of turn".into())),
        }
    }

    /// Waits for a free slot and gives it to the job `job_key`, with a worker that has loaded its module.
    ///
    /// # Errors
    /// [`SandboxError::ModuleInvalid`] if the module imports something that does not exist here.
    pub async fn slot(
        &self,
        job_key: [u8; 32],
        prepared: &Prepared,
        limits: Limits,
    ) -> Result<Slot, SandboxError> {
        let permit = self.inner.slots.clone().acquire_owned().await.map_err(|_| SandboxError::Closed)?;
        let mut slot = Slot::new(self.inner.clone(), permit, job_key, prepared.clone(), limits);
        slot.ensure_worker().await?;
        Ok(slot)
    }
}

impl Inner {
    fn lock_spares(&self) -> MutexGuard<'_, Vec<Spare>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_prepared(&self) -> MutexGuard<'_, HashMap<Cid, Arc<OnceCell<Prepared>>>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a path below `<dir>/<kind>/` that was never used by this process.
    pub fn fresh_path(&self, kind: &str) -> PathBuf {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        self.config.dir.join(kind).join(format!("{}-{count}", std::process::id()))
    }

    async fn launch(&self) -> Result<Worker, SandboxError> {
        let config = &self.config;
        let data_bytes_max = config.memory_bytes_max.max(config.compile_memory_bytes) + OWN_DATA_BYTES;
        Worker::launch(Launch {
            spawner: &self.spawner,
            reaper: &self.reaper,
            freezer: &self.freezer,
            cgroups: &self.cgroups,
            dir: self.fresh_path("worker"),
            group_bytes_max: data_bytes_max + config.scratch_bytes,
            setup: Setup {
                profile: Profile { metering: config.metering, canonical_nans: config.canonical_nans },
                scratch_bytes: config.scratch_bytes,
                data_bytes_max,
                file_bytes_max: config.file_bytes_max.max(config.compiled_bytes_max),
                cpu_secs_max: config.worker_cpu_max.as_secs(),
                user_id: self.user_id,
            },
        })
        .await
    }

    /// Returns a new worker that has run a module of ours once. Its guest's first task then finds engine and host
    /// functions in memory instead of paying for every page of them.
    async fn launch_exercised(self: &Arc<Self>) -> Result<Worker, SandboxError> {
        let cid = cid_of(CODEC_RAW, EXERCISE_MODULE);
        let module = self.exercise.get_or_try_init(|| self.prepare(&cid, EXERCISE_MODULE)).await?;
        let mut worker = self.launch().await?;
        self.bind(&mut worker, module, self.config.memory_bytes_max, self.config.file_bytes_max).await?;
        let failed = |reason: String| SandboxError::WorkerFailed { stage: "running our own module", reason };
        let run = Run { fuel_max: 1_000, ..Run::default() };
        worker.send(&ToWorker::Run(run), &[]).await.map_err(|e| failed(e.to_string()))?;
        match tokio::time::timeout(EXERCISE_TIME_MAX, worker.receive()).await {
            Ok(Ok(FromWorker::Done(Done { end: End::Exited { code: 0 }, .. }))) => Ok(worker),
            Ok(Ok(_)) => Err(failed("it did not end well".into())),
            Ok(Err(reason)) => Err(failed(reason)),
            Err(_) => Err(failed("it took too long".into())),
        }
    }

    /// Takes a spare that seems to be alive.
    fn take_spare(&self) -> Option<Worker> {
        loop {
            let mut worker = self.lock_spares().pop()?.worker;
            if !worker.has_ended() {
                return Some(worker);
            }
        }
    }

    /// Starts one spare in the background if there are fewer than configured.
    fn refill(self: &Arc<Self>) {
        if self.lock_spares().len() >= self.config.spares {
            return;
        }
        let inner = self.clone();
        tokio::spawn(async move {
            match inner.launch_exercised().await {
                Ok(worker) => inner.keep_spare(worker),
                Err(error) => tracing::warn!(%error, "no spare worker"),
            }
        });
    }

    fn keep_spare(self: &Arc<Self>, worker: Worker) {
        let since = Instant::now();
        {
            let mut spares = self.lock_spares();
            if spares.len() >= self.config.spares.max(1) {
                return; // dropped, and so ended
            }
            spares.push(Spare { worker, since });
        }
        let (inner, idle): (Weak<Self>, _) = (Arc::downgrade(self), self.config.spare_idle);
        tokio::spawn(async move {
            tokio::time::sleep(idle).await;
            if let Some(inner) = inner.upgrade() {
                inner.lock_spares().retain(|spare| spare.since.elapsed() < idle);
            }
        });
    }

    /// Returns a worker that has loaded `prepared`.
    pub async fn bound_worker(
        self: &Arc<Self>,
        prepared: &Prepared,
        limits: &Limits,
    ) -> Result<Worker, SandboxError> {
        let memory_bytes = limits.memory_bytes.min(self.config.memory_bytes_max);
        let group_bytes = memory_bytes + OWN_DATA_BYTES + self.config.scratch_bytes;
        let file_bytes_max =
            limits.output_bytes.max(self.config.scratch_bytes).min(self.config.file_bytes_max);
        if let Some(mut worker) = self.take_spare() {
            worker.limit_memory(group_bytes);
            match self.bind(&mut worker, prepared, memory_bytes, file_bytes_max).await {
                Ok(uses_files) => return Ok(self.bound(worker, uses_files, limits)),
                // It died while it waited, perhaps in this very moment because everything was ended: that is nobody's
                // failure, and a new one tells whether the module can be loaded.
                Err(SandboxError::WorkerFailed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut worker = self.launch().await?;
        worker.limit_memory(group_bytes);
        let uses_files = self.bind(&mut worker, prepared, memory_bytes, file_bytes_max).await?;
        Ok(self.bound(worker, uses_files, limits))
    }

    fn bound(self: &Arc<Self>, mut worker: Worker, uses_files: bool, limits: &Limits) -> Worker {
        worker.uses_files = uses_files;
        worker.expect_captured(limits.stdout_bytes.saturating_add(limits.stderr_bytes));
        // Only now, so that starting the next spare does not compete with the task that waits.
        self.refill();
        worker
    }

    /// Makes `worker` load `prepared`, and returns whether the module names files.
    async fn bind(
        &self,
        worker: &mut Worker,
        prepared: &Prepared,
        memory_bytes_max: u64,
        file_bytes_max: u64,
    ) -> Result<bool, SandboxError> {
        // A descriptor of its own, so that no worker moves another's reading position.
        let artifact = self.reopen(&prepared.artifact).map_err(|source| SandboxError::Spawn { source })?;
        let bind = Bind { component: prepared.component, memory_bytes_max, file_bytes_max };
        let failed = |reason: String| SandboxError::WorkerFailed { stage: "loading a module", reason };
        worker.send(&ToWorker::Bind(bind), &[artifact.as_fd()]).await.map_err(|e| failed(e.to_string()))?;
        let answer = match tokio::time::timeout(self.config.compile_wall, worker.receive()).await {
            Err(_) => return Err(failed("it took too long".into())),
            Ok(answer) => answer.map_err(failed)?,
        };
        match answer {
            FromWorker::Bound { uses_files } => Ok(uses_files),
            FromWorker::Refused { reason } => Err(SandboxError::ModuleInvalid { reason }),
            FromWorker::Fatal { reason } => Err(failed(reason)),
            _ => Err(failed("it spoke out of turn".into())),
        }
    }

    fn reopen(&self, file: &File) -> io::Result<OwnedFd> {
        use std::os::fd::AsRawFd;
        Ok(File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.into())
    }

    fn compiled_path(&self, module_cid: &Cid, component: bool) -> PathBuf {
        let kind = if component { "component" } else { "module" };
        self.config.dir.join("compiled").join(format!("{module_cid}-{}.{kind}", self.engine_fingerprint))
    }

    fn find_compiled(&self, module_cid: &Cid) -> Option<Prepared> {
        [false, true].into_iter().find_map(|component| {
            let artifact = File::open(self.compiled_path(module_cid, component)).ok()?;
            Some(Prepared { artifact: Arc::new(artifact), component, cid: *module_cid })
        })
    }

    async fn prepare(
        self: &Arc<Self>,
        module_cid: &Cid,
        module_bytes: &[u8],
    ) -> Result<Prepared, SandboxError> {
        if let Some(prepared) = self.find_compiled(module_cid) {
            return Ok(prepared);
        }
        let started = Instant::now();
        if !module_bytes.starts_with(b"\0asm") {
            return Err(SandboxError::ModuleInvalid { reason: "it does not begin like WebAssembly".into() });
        }
        let target = self.compiled_path(module_cid, is_component(module_bytes));
        let temporary = self.fresh_path("compiled");
        let compiled = self.compile(module_bytes, &temporary).await;
        let finished = compiled.and_then(|()| {
            fs::rename(&temporary, &target).map_err(SandboxError::files("rename", &temporary))
        });
        if finished.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        finished?;
        tracing::debug!(%module_cid, elapsed = ?started.elapsed(), "module compiled");
        self.find_compiled(module_cid).ok_or_else(|| SandboxError::Files {
            action: "open",
            path: target,
            source: io::ErrorKind::NotFound.into(),
        })
    }

    async fn compile(self: &Arc<Self>, module_bytes: &[u8], to: &Path) -> Result<(), SandboxError> {
        let (wall, memory_bytes) = (self.config.compile_wall, self.config.compile_memory_bytes);
        let source = module_file(module_bytes).map_err(|source| SandboxError::Spawn { source })?;
        let artifact = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(to)
            .map_err(SandboxError::files("create", to))?;
        let failed = |reason: String| SandboxError::WorkerFailed { stage: "compiling", reason };
        let mut worker = self.launch().await?;
        worker.limit_memory(memory_bytes + OWN_DATA_BYTES);
        let frame = ToWorker::Compile(Compile {
            memory_bytes_max: memory_bytes,
            artifact_bytes_max: self.config.compiled_bytes_max,
        });
        worker.send(&frame, &[source.as_fd(), artifact.as_fd()]).await.map_err(|e| failed(e.to_string()))?;
        let answer = tokio::time::timeout(wall, worker.receive()).await;
        let result = match answer {
            Ok(Ok(FromWorker::Compiled { component })) if component == is_component(module_bytes) => Ok(()),
            Ok(Ok(FromWorker::Refused { reason })) => Err(SandboxError::ModuleInvalid { reason }),
            Ok(Ok(FromWorker::Fatal { reason })) => Err(failed(reason)),
            Ok(Ok(_)) => Err(failed("it spoke out of turn".into())),
            Err(_) => Err(SandboxError::CompileLimit { wall, memory_bytes }),
            Ok(Err(reason)) => {
                let death = worker.death().await;
                return Err(match death.out_of_memory || death.signal == Some(libc::SIGABRT) {
                    // Rust aborts when an allocation fails.
                    true => SandboxError::CompileLimit { wall, memory_bytes },
                    false => failed(format!("{reason}, signal {:?}", death.signal)),
                });
            }
        };
        // The worker holds the artifact open for writing: it must be gone before anybody trusts the file.
        worker.death().await;
        result?;
        artifact.sync_data().map_err(SandboxError::files("write", to))?;
        Ok(())
    }
}

/// Returns the user that workers become: none of its own for an agent that is not root, or is root of a container in which
/// that user does not exist.
fn worker_user() -> Option<u32> {
    let exists = |map: &str| {
        fs::read_to_string(map).unwrap_or_default().lines().any(|line| {
            let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().unwrap_or(0));
            let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
            first.zip(count).is_some_and(|(first, count)| {
                UNPRIVILEGED_USER.checked_sub(first).is_some_and(|offset| offset < count)
            })
        })
    };
    let root = rustix::process::geteuid().is_root();
    (root && exists("/proc/self/uid_map") && exists("/proc/self/gid_map")).then_some(UNPRIVILEGED_USER)
}

/// Returns an anonymous file with `bytes`, read from its beginning.
fn module_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create("module", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file.into())
}
