//! One job's guest on one slot: tasks in, outcomes out, whatever the worker does meanwhile.
//!
//! ```text
//!            send (up to PIPELINE_TASKS_MAX ahead)          Done
//!  waiting ───────────────────────────────────────► sent ─────────► outcome
//!     ▲                                               │
//!     │ sent behind the one that failed               │ worker died, lied, or ran over a limit
//!     └───────────────────────────────────────────────┴───────────► outcome of the first, new worker for the rest
//! ```

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_bytes::{ByteArray, ByteBuf};
use tokio::io::Interest;
use tokio::sync::OwnedSemaphorePermit;

use crate::collect::{
    CollectLimits, InputSource, OutputRefusal, Outputs, check_input_name, collect, exceeded, wipe,
};
use crate::error::SandboxError;
use crate::limits::{Limits, Usage};
use crate::process::Worker;
use crate::sandbox::{Inner, Prepared};
use crate::wire::{Done, End, FromWorker, Run, STDIN_BYTES_MAX, ToWorker, encode, micros};

/// Tasks a worker may have waiting in its socket; enough to hide the way there and back.
const PIPELINE_TASKS_MAX: usize = 64;
/// Bytes encoded but not yet sent; a task with large standard input travels alone.
const PIPELINE_BYTES_MAX: usize = 256 << 10;
/// How often a running guest is looked at from outside.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);
/// Looks at the processor time between two looks at the files.
const FILE_WATCH_TICKS: u32 = 5;
/// Arguments and environment together, like a command line elsewhere.
const ARGUMENT_BYTES_MAX: usize = 128 << 10;

/// One task for a guest.
#[derive(Debug, Clone, Default)]
pub struct TaskSpec {
    /// Arguments; the first is the program's name by convention.
    pub args: Vec<String>,
    /// Environment: these variables and no others.
    pub env: Vec<(String, String)>,
    /// Standard input, empty by default.
    pub stdin: Vec<u8>,
    /// Files under `/in`.
    pub inputs: Vec<(String, InputSource)>,
    /// Seed of everything random in the guest; derive it from the task id.
    pub seed: [u8; 32],
    /// Fuel for this task, where less than the slot's limit.
    pub fuel_max: Option<u64>,
    /// Wall-clock time for this task, where less than the slot's limit.
    pub wall_max: Option<Duration>,
}

/// How one task ended.
#[derive(Debug)]
pub struct TaskOutcome {
    /// Why the guest stopped.
    pub exit: Exit,
    /// What it used.
    pub usage: Usage,
    /// Standard output, from its beginning.
    pub stdout: Vec<u8>,
    /// Standard error, its last bytes.
    pub stderr: Vec<u8>,
    /// Bytes of standard error that were cut before those.
    pub stderr_bytes_cut: u64,
    /// Files it left.
    pub outputs: Outputs,
}

/// Why a guest stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// By itself, with this code; 0 is success.
    Exited {
        /// The exit code.
        code: i32,
    },
    /// It did something WebAssembly does not allow.
    Trapped {
        /// What, in a stable short phrase.
        kind: String,
        /// Where, for people.
        message: String,
    },
    /// It used up its fuel.
    FuelExhausted,
    /// It asked for more memory than it may have and could not go on.
    OutOfMemory,
    /// It used up its processor time.
    CpuLimit,
    /// It ran too long.
    WallLimit,
    /// It printed more than it may.
    StdoutLimit,
    /// It left files that are not acceptable.
    OutputRefused {
        /// Why.
        refusal: OutputRefusal,
    },
    /// Its process died under it.
    WorkerDied {
        /// By which signal, if by one.
        signal: Option<i32>,
    },
    /// Its process said things no worker says; whoever was in there had taken it over.
    WorkerMisbehaved {
        /// What it did.
        reason: String,
    },
}

impl Exit {
    /// Returns whether the guest ended by itself with code 0.
    pub fn is_success(&self) -> bool {
        *self == Self::Exited { code: 0 }
    }
}

/// A job's place to run tasks, one at a time. Dropping it ends its worker.
#[derive(Debug)]
pub struct Slot {
    inner: Arc<Inner>,
    job_key: [u8; 32],
    prepared: Prepared,
    limits: Limits,
    worker: Option<Worker>,
    seq: u64,
    _permit: OwnedSemaphorePermit,
}

/// A task on its way.
struct Sent {
    index: usize,
    seq: u64,
    spec: TaskSpec,
}

/// What is known about the task that the worker is busy with.
struct Watch {
    /// Time this task has had the worker, less the time everything was frozen.
    running: Duration,
    looked_at: Instant,
    /// Processor time of the worker when this task was first looked at.
    cpu_before: Option<Duration>,
    cpu: Duration,
    ticks: u32,
}

impl Watch {
    fn start() -> Self {
        Self {
            running: Duration::ZERO,
            looked_at: Instant::now(),
            cpu_before: None,
            cpu: Duration::ZERO,
            ticks: 0,
        }
    }
}

/// Why the conversation with a worker ended before its tasks did.
enum Broken {
    Gone,
    Misbehaved(String),
    Over(Exit),
}

impl Slot {
    pub(crate) fn new(
        inner: Arc<Inner>,
        permit: OwnedSemaphorePermit,
        job_key: [u8; 32],
        prepared: Prepared,
        limits: Limits,
    ) -> Self {
        Self { inner, job_key, prepared, limits: limits.bounded(), worker: None, seq: 0, _permit: permit }
    }

    /// Returns the process id of the worker, for messages.
    pub fn worker_pid(&self) -> Option<i32> {
        self.worker.as_ref().map(Worker::pid)
    }

    /// Ends the worker; the next task gets a new one.
    pub fn kill(&mut self) {
        self.worker = None;
    }

    pub(crate) async fn ensure_worker(&mut self) -> Result<(), SandboxError> {
        if self.worker.is_none() {
            self.worker = Some(self.inner.bound_worker(&self.prepared, &self.limits).await?);
        }
        Ok(())
    }

    /// Runs one task. Dropping the future ends the worker and with it the task.
    ///
    /// # Errors
    /// Only where the host failed: whatever the guest did is in the outcome.
    pub async fn run(&mut self, task: TaskSpec) -> Result<TaskOutcome, SandboxError> {
        let mut outcome = None;
        self.run_batch(vec![task], |_, done| outcome = Some(done)).await?;
        outcome
            .ok_or(SandboxError::WorkerFailed { stage: "running", reason: "the task has no outcome".into() })
    }

    /// Runs tasks one after the other, sending ahead, and calls `done` with each index and outcome in order.
    ///
    /// Dropping the future ends the worker; outcomes that `done` has seen stand.
    ///
    /// # Errors
    /// Only where the host failed; tasks that `done` has not seen have not been run to their end.
    pub async fn run_batch(
        &mut self,
        tasks: Vec<TaskSpec>,
        mut done: impl FnMut(usize, TaskOutcome),
    ) -> Result<(), SandboxError> {
        tasks.iter().try_for_each(check_task)?;
        let mut waiting: VecDeque<(usize, TaskSpec)> = tasks.into_iter().enumerate().collect();
        while !waiting.is_empty() {
            self.ensure_worker().await?;
            let Some(mut worker) = self.worker.take() else { return Err(SandboxError::Closed) };
            let mut sent = VecDeque::new();
            let mut watch = Watch::start();
            let broken =
                match self.converse(&mut worker, &mut waiting, &mut sent, &mut watch, &mut done).await? {
                    Ok(()) => {
                        self.worker = Some(worker);
                        continue;
                    }
                    Err(broken) => broken,
                };
            // The worker goes, the task it was busy with gets an outcome, those behind it wait for the next worker.
            let (known, pid) = (!matches!(broken, Broken::Gone), worker.pid());
            if known {
                worker.kill();
            }
            let death = worker.death().await;
            let exit = match broken {
                Broken::Over(exit) => exit,
                Broken::Misbehaved(reason) => Exit::WorkerMisbehaved { reason },
                Broken::Gone if death.out_of_memory => Exit::OutOfMemory,
                Broken::Gone => Exit::WorkerDied { signal: death.signal },
            };
            tracing::debug!(pid, job_key = ?self.job_key, ?exit, "worker ended under its guest");
            let first = sent.pop_front();
            while let Some(Sent { index, spec, .. }) = sent.pop_back() {
                waiting.push_front((index, spec));
            }
            match first {
                Some(first) => done(
                    first.index,
                    TaskOutcome {
                        exit,
                        usage: Usage {
                            cpu_micros: micros(watch.cpu),
                            wall_micros: micros(watch.running),
                            ..Usage::default()
                        },
                        stdout: Vec::new(),
                        stderr: Vec::new(),
                        stderr_bytes_cut: 0,
                        outputs: Outputs::default(),
                    },
                ),
                None => tracing::warn!(pid, "worker ended between tasks"),
            }
        }
        Ok(())
    }

    /// Talks to one worker until nothing is waiting or the worker cannot go on.
    async fn converse(
        &mut self,
        worker: &mut Worker,
        waiting: &mut VecDeque<(usize, TaskSpec)>,
        sent: &mut VecDeque<Sent>,
        watch: &mut Watch,
        done: &mut impl FnMut(usize, TaskOutcome),
    ) -> Result<Result<(), Broken>, SandboxError> {
        let mut outbox: Vec<u8> = Vec::new();
        let mut interval = tokio::time::interval(WATCH_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        interval.reset();
        loop {
            while let Some((_, task)) = waiting.front() {
                // Files are the job of one task at a time: whoever brings them waits for an idle worker.
                let with_files = worker.uses_files;
                if with_files && !sent.is_empty() {
                    break;
                }
                if sent.len() >= PIPELINE_TASKS_MAX || outbox.len() >= PIPELINE_BYTES_MAX {
                    break;
                }
                if with_files {
                    stage(worker, &task.inputs).await?;
                }
                let Some((index, spec)) = waiting.pop_front() else { break };
                self.seq += 1;
                if sent.is_empty() {
                    *watch = Watch::start();
                }
                let frame = ToWorker::Run(self.run_frame(&spec));
                let bytes =
                    encode(&frame).map_err(|e| SandboxError::TaskInvalid { reason: e.to_string() })?;
                outbox.extend_from_slice(&bytes);
                sent.push_back(Sent { index, seq: self.seq, spec });
            }
            if sent.is_empty() && outbox.is_empty() {
                return Ok(Ok(()));
            }
            let interest =
                if outbox.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            let ready = tokio::select! {
                biased;
                ready = worker.ready(interest) => Some(ready),
                _ = interval.tick() => None,
            };
            match ready {
                None => {
                    if let Some(exit) = self.look(worker, sent.front(), watch) {
                        return Ok(Err(Broken::Over(exit)));
                    }
                }
                Some(Err(_)) => return Ok(Err(Broken::Gone)),
                Some(Ok(ready)) => {
                    if ready.is_writable() && !outbox.is_empty() {
                        match worker.try_send(&outbox, &[]) {
                            Ok(count) => drop(outbox.drain(..count)),
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                            Err(_) => {} // reading tells whether the worker left a last word
                        }
                    }
                    if ready.is_readable() || ready.is_read_closed() {
                        let open = worker.fill().unwrap_or(false);
                        loop {
                            match worker.frame::<FromWorker>() {
                                Ok(None) => break,
                                Err(reason) => return Ok(Err(Broken::Misbehaved(reason))),
                                Ok(Some(FromWorker::Done(report))) => {
                                    match self.finish(worker, sent, report, watch).await? {
                                        Err(broken) => return Ok(Err(broken)),
                                        Ok((index, outcome, next)) => {
                                            if let Some(next) = next {
                                                // A guest with files has no task sent ahead: nothing is before this.
                                                outbox.extend_from_slice(&next);
                                            }
                                            *watch = Watch::start();
                                            done(index, outcome);
                                        }
                                    }
                                }
                                Ok(Some(FromWorker::Fatal { reason })) => {
                                    tracing::warn!(pid = worker.pid(), reason, "worker gave up");
                                    return Ok(Err(Broken::Gone));
                                }
                                Ok(Some(_)) => {
                                    return Ok(Err(Broken::Misbehaved("it spoke out of turn".into())));
                                }
                            }
                        }
                        if !open {
                            return Ok(Err(Broken::Gone));
                        }
                    }
                }
            }
        }
    }

    /// Turns a worker's report into an outcome, and gives the frame that lets the worker go on if it waits.
    async fn finish(
        &self,
        worker: &Worker,
        sent: &mut VecDeque<Sent>,
        report: Done,
        watch: &mut Watch,
    ) -> Result<Result<(usize, TaskOutcome, Option<Vec<u8>>), Broken>, SandboxError> {
        let misbehaved = |reason: &str| Ok(Err(Broken::Misbehaved(reason.into())));
        if sent.front().is_none_or(|first| first.seq != report.seq) {
            return misbehaved("it reports a task that is not its turn");
        }
        if report.stdout.len() as u64 > self.limits.stdout_bytes
            || report.stderr.len() as u64 > self.limits.stderr_bytes
        {
            return misbehaved("it reports more output than the task may have");
        }
        let (mut outputs, mut next, mut refused) = (Outputs::default(), None, None);
        if report.files {
            if !worker.uses_files {
                return misbehaved("it reports files of a guest that has none");
            }
            match self.take_files(worker).await? {
                Ok(taken) => outputs = taken,
                Err(refusal) => refused = Some(Exit::OutputRefused { refusal }),
            }
            next = Some(
                encode(&ToWorker::Next).map_err(|e| SandboxError::TaskInvalid { reason: e.to_string() })?,
            );
        }
        let Some(Sent { index, .. }) = sent.pop_front() else { return misbehaved("it reports too much") };
        watch.running += watch.looked_at.elapsed();
        let exit = refused.unwrap_or(match report.end {
            End::Exited { code } => Exit::Exited { code },
            End::Trapped { kind, message } => Exit::Trapped { kind, message },
            End::FuelExhausted => Exit::FuelExhausted,
            End::OutOfMemory => Exit::OutOfMemory,
            End::StdoutFull => Exit::StdoutLimit,
        });
        let outcome = TaskOutcome {
            exit,
            usage: Usage {
                fuel: report.fuel,
                cpu_micros: report.cpu_micros,
                wall_micros: report.wall_micros,
                memory_bytes_peak: report.memory_bytes_peak,
            },
            stdout: report.stdout.into_vec(),
            stderr: report.stderr.into_vec(),
            stderr_bytes_cut: report.stderr_bytes_cut,
            outputs,
        };
        Ok(Ok((index, outcome, next)))
    }

    /// Copies what the guest left and empties its directories, off the async threads.
    async fn take_files(&self, worker: &Worker) -> Result<Result<Outputs, OutputRefusal>, SandboxError> {
        let (dir, target, limits) =
            (worker.dir.clone(), self.inner.fresh_path("result"), self.collect_limits());
        let taken = tokio::task::spawn_blocking(move || {
            let taken = collect(&dir, &target, limits)?;
            for name in ["out", "checkpoint"] {
                let path = dir.join(name);
                wipe(&path).map_err(SandboxError::files("empty", &path))?;
            }
            Ok(taken)
        });
        taken.await.map_err(|_| SandboxError::Closed)?
    }

    fn collect_limits(&self) -> CollectLimits {
        CollectLimits { bytes_max: self.limits.output_bytes, files_max: self.limits.output_files }
    }

    /// Looks at the running guest from outside and returns the limit it is over.
    fn look(&self, worker: &Worker, first: Option<&Sent>, watch: &mut Watch) -> Option<Exit> {
        let since = watch.looked_at.elapsed();
        watch.looked_at = Instant::now();
        if self.inner.freezer.is_frozen() {
            return None;
        }
        watch.running += since;
        watch.ticks += 1;
        if let Some(now) = worker.cpu_time() {
            let before = *watch.cpu_before.get_or_insert(now);
            watch.cpu = now.saturating_sub(before);
        }
        let wall_max = first
            .and_then(|first| first.spec.wall_max)
            .map_or(self.limits.wall, |wall| wall.min(self.limits.wall));
        if watch.cpu > self.limits.cpu {
            return Some(Exit::CpuLimit);
        }
        if watch.running > wall_max {
            return Some(Exit::WallLimit);
        }
        if worker.uses_files && watch.ticks.is_multiple_of(FILE_WATCH_TICKS) {
            let limits = self.collect_limits();
            for name in ["out", "checkpoint"] {
                // Names that vanish while we look are the guest's business; the limits are looked at again.
                if let Ok(Some(refusal)) = exceeded(&worker.dir.join(name), limits) {
                    return Some(Exit::OutputRefused { refusal });
                }
            }
        }
        None
    }

    fn run_frame(&self, spec: &TaskSpec) -> Run {
        Run {
            seq: self.seq,
            args: spec.args.clone(),
            env: spec.env.clone(),
            stdin: ByteBuf::from(spec.stdin.clone()),
            seed: ByteArray::new(spec.seed),
            fuel_max: spec.fuel_max.map_or(self.limits.fuel, |fuel| fuel.min(self.limits.fuel)),
            stdout_bytes_max: self.limits.stdout_bytes,
            stderr_bytes_max: self.limits.stderr_bytes,
        }
    }
}

async fn stage(worker: &Worker, inputs: &[(String, InputSource)]) -> Result<(), SandboxError> {
    if inputs.is_empty() && worker.staging().is_empty() {
        return Ok(());
    }
    let (staging, dir, inputs) = (worker.staging.clone(), worker.dir.clone(), inputs.to_vec());
    let staged = tokio::task::spawn_blocking(move || {
        staging.lock().unwrap_or_else(std::sync::PoisonError::into_inner).stage(&dir, &inputs)
    });
    staged.await.map_err(|_| SandboxError::Closed)?
}

fn check_task(task: &TaskSpec) -> Result<(), SandboxError> {
    let invalid = |reason: &str| Err(SandboxError::TaskInvalid { reason: reason.into() });
    let env_bytes = task.env.iter().map(|(name, value)| name.len() + value.len() + 2);
    let bytes: usize = task.args.iter().map(|arg| arg.len() + 1).chain(env_bytes).sum();
    if bytes > ARGUMENT_BYTES_MAX {
        return invalid("arguments and environment are too long");
    }
    if task.args.iter().any(|arg| arg.contains('\0')) {
        return invalid("an argument contains a zero byte");
    }
    if task
        .env
        .iter()
        .any(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'))
    {
        return invalid("an environment variable has no acceptable name or value");
    }
    if task.stdin.len() > STDIN_BYTES_MAX {
        return invalid("standard input is too long; pass a file");
    }
    task.inputs.iter().try_for_each(|(name, _)| check_input_name(name))
}
