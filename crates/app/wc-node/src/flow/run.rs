//! Station 6: replicas run in this machine's sandbox.
//!
//! A slot takes a batch of one stage, binds a worker to the stage's module once, and turns each outcome into a signed
//! report. What goes wrong with the guest is a result that other machines find too; what goes wrong with this machine
//! is a failure, and the task is tried elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use wc_host::LoadSampler;
use wc_proto::limit::{INLINE_BYTES_MAX, STDERR_BYTES_MAX};
use wc_proto::peer::session::{InlineBlob, Report};
use wc_sandbox::{InputSource as GuestFile, Limits, Prepared, Slot, TaskOutcome, TaskSpec};
use wc_types::cid::{CODEC_DAG_CBOR, CODEC_RAW, cid_of, sha256};
use wc_types::grant::GatherList;
use wc_types::manifest::{BlobRef, InputList, InputSource, Stage};
use wc_types::outcome::{Ending, Exit, Failure, Outcome, ResultRecord, Usage};
use wc_types::{Bytes, Cid, Fuel, Signed, from_canonical, to_canonical};

use crate::agent::{Agent, Assignment, Claim, Order};
use crate::blobs;
use crate::clock;
use crate::coordinator::lock;

/// Inputs up to this size are handed to the guest from memory; larger ones from a file.
const INPUT_IN_MEMORY_BYTES_MAX: u64 = 1 << 20;
/// Largest list of inputs or of results. Ten million items of 36 bytes would be more; such stages must be split.
const LIST_BYTES_MAX: usize = wc_types::canonical::RECORD_BYTES_MAX;
/// Lists that are kept decoded.
const LISTS_MAX: usize = 64;
/// Chunk size of a raw leaf: larger content is a UnixFS file and goes through the store.
const LEAF_BYTES_MAX: usize = 256 << 10;
/// Tries at giving a worker to a module before the machine is to blame.
const RETRIES: u32 = 1;

/// Decoded lists, unpacked inputs, and the guests that can be ended.
pub(crate) struct Pantry {
    inputs: PathBuf,
    lists: Mutex<HashMap<Cid, Arc<InputList>>>,
    gathers: Mutex<HashMap<Cid, Arc<GatherList>>>,
    guests: Mutex<HashMap<Claim, Arc<Notify>>>,
    load: Mutex<LoadSampler>,
}

impl Pantry {
    /// Returns an empty pantry that unpacks into `inputs`.
    pub fn new(inputs: PathBuf) -> Self {
        // What an earlier run left there belongs to nobody.
        let _ = std::fs::remove_dir_all(&inputs);
        Self {
            inputs,
            lists: Mutex::default(),
            gathers: Mutex::default(),
            guests: Mutex::default(),
            load: Mutex::new(LoadSampler::default()),
        }
    }

    /// Ends the guest that runs a lease, if it still does.
    pub fn end_guest(&self, claim: Claim) {
        if let Some(guest) = lock(&self.guests).get(&claim) {
            guest.notify_one();
        }
    }

    /// Returns the machine's load in parts per million.
    pub fn load_ppm(&self) -> u32 {
        lock(&self.load).sample(Instant::now()).overall().0
    }
}

/// One slot's place: the worker that is bound to the job it ran last.
pub(crate) struct Bench {
    number: u16,
    bound: Option<Bound>,
}

struct Bound {
    key: [u8; 32],
    module: Cid,
    slot: Slot,
}

impl Bench {
    /// Returns an empty place.
    pub fn new(number: u16) -> Self {
        Self { number, bound: None }
    }

    /// Returns whether a worker waits here for more of its job.
    pub fn is_bound(&self) -> bool {
        self.bound.is_some()
    }

    /// Ends the worker.
    pub fn release(&mut self) {
        self.bound = None;
    }
}

/// Why a batch could not run here.
enum Unable {
    /// The artifact is broken everywhere: that is a result.
    ModuleInvalid,
    /// This machine cannot.
    Here(Failure),
}

/// Runs a batch of one stage and hands every outcome to the agent.
pub(crate) async fn batch(agent: &Arc<Agent>, bench: &mut Bench, batch: Vec<Assignment>) {
    let Some(order) = batch.first().map(|assignment| assignment.order.clone()) else { return };
    let stage = &order.manifest.stages[usize::from(order.grant.stage)];
    let mut runnable = Vec::with_capacity(batch.len());
    let mut specs = Vec::with_capacity(batch.len());
    if let Err(unable) = bind(agent, bench, &order, stage).await {
        for assignment in batch {
            let report = match &unable {
                Unable::ModuleInvalid => {
                    let record = empty_record(Exit::ModuleInvalid);
                    result_report(agent, &assignment, record, Vec::new(), Usage::default(), Vec::new())
                }
                Unable::Here(failure) => {
                    failure_report(agent, &assignment, failure.clone(), Usage::default())
                }
            };
            agent.finish(&assignment, report);
        }
        return;
    }
    for assignment in batch {
        if agent.is_revoked(&assignment.claim()) {
            let failure = Failure::Preempted;
            agent.finish(&assignment, failure_report(agent, &assignment, failure, Usage::default()));
            continue;
        }
        match spec(agent, &assignment, stage).await {
            Ok(spec) => {
                runnable.push(assignment);
                specs.push(spec);
            }
            Err(failure) => {
                agent.finish(&assignment, failure_report(agent, &assignment, failure, Usage::default()));
            }
        }
    }
    if runnable.is_empty() {
        return;
    }
    let end = Arc::new(Notify::new());
    {
        let mut guests = lock(&agent.pantry.guests);
        for assignment in &runnable {
            guests.insert(assignment.claim(), end.clone());
        }
    }
    let mut done = vec![false; runnable.len()];
    let ran = {
        let Some(bound) = bench.bound.as_mut() else { return };
        let finished = |index: usize, outcome: TaskOutcome| {
            if let Some(assignment) = runnable.get(index) {
                done[index] = true;
                agent.finish(assignment, report(agent, assignment, stage, outcome));
            }
        };
        tokio::select! {
            ran = bound.slot.run_batch(specs, finished) => Some(ran),
            () = end.notified() => None,
        }
    };
    {
        let mut guests = lock(&agent.pantry.guests);
        for assignment in &runnable {
            guests.remove(&assignment.claim());
        }
    }
    let undone = runnable.into_iter().zip(done).filter(|(_, done)| !done).map(|(assignment, _)| assignment);
    match ran {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            tracing::warn!(slot = bench.number, %error, "the sandbox failed");
            bench.bound = None;
            for assignment in undone {
                let failure = Failure::SandboxUnavailable(error.to_string());
                agent.finish(&assignment, failure_report(agent, &assignment, failure, Usage::default()));
            }
        }
        // One of the batch was revoked while it ran; the others go back to the queue.
        None => {
            bench.bound = None;
            for assignment in undone {
                agent.put_back(assignment);
            }
        }
    }
}

/// Gives the slot a worker that has the stage's module.
async fn bind(agent: &Agent, bench: &mut Bench, order: &Order, stage: &Stage) -> Result<(), Unable> {
    let module = stage.workload.cid;
    let mut key = order.grant.job.0;
    for (byte, extra) in key.iter_mut().zip(order.grant.stage.to_be_bytes()) {
        *byte ^= extra;
    }
    if bench.bound.as_ref().is_some_and(|bound| bound.key == key && bound.module == module) {
        return Ok(());
    }
    // The old worker goes first: the sandbox has as many slots as we have benches.
    bench.bound = None;
    let prepared = prepare(agent, order, stage).await?;
    let mut cause = String::new();
    for _ in 0..=RETRIES {
        match agent.sandbox.slot(key, &prepared, limits(stage)).await {
            Ok(slot) => {
                bench.bound = Some(Bound { key, module, slot });
                return Ok(());
            }
            Err(wc_sandbox::SandboxError::ModuleInvalid { reason }) => {
                tracing::info!(%module, reason, "module cannot be loaded");
                return Err(Unable::ModuleInvalid);
            }
            Err(error) => cause = error.to_string(),
        }
    }
    Err(Unable::Here(Failure::SandboxUnavailable(cause)))
}

async fn prepare(agent: &Agent, order: &Order, stage: &Stage) -> Result<Prepared, Unable> {
    let module = stage.workload.cid;
    if let Some(prepared) = agent.sandbox.prepared(&module).await {
        return Ok(prepared);
    }
    let missing = |reason: String| Unable::Here(Failure::InputMissing(format!("module {module}: {reason}")));
    blobs::fetch(&agent.mesh, &agent.store, module, &order.holders).await.map_err(missing)?;
    let bytes = usize::try_from(stage.workload.bytes.0).unwrap_or(usize::MAX).min(MODULE_BYTES_MAX);
    let bytes = blobs::read(&agent.store, &module, bytes).map_err(missing)?;
    match agent.sandbox.prepare(&module, &bytes).await {
        Ok(prepared) => Ok(prepared),
        Err(wc_sandbox::SandboxError::ModuleInvalid { reason }) => {
            tracing::info!(%module, reason, "module cannot be compiled");
            Err(Unable::ModuleInvalid)
        }
        Err(error) => Err(Unable::Here(Failure::SandboxUnavailable(error.to_string()))),
    }
}

/// Largest module that is compiled.
const MODULE_BYTES_MAX: usize = 256 << 20;

/// What the manifest allows, in the sandbox's words.
pub(crate) fn limits(stage: &Stage) -> Limits {
    let resources = &stage.resources;
    let declared: u64 = stage.outputs.iter().map(|output| output.bytes_max.0).sum();
    let wall = Duration::from_millis(resources.wall_clock.0);
    Limits {
        memory_bytes: resources.memory.0,
        fuel: resources.fuel.map_or(u64::MAX, |fuel| fuel.0),
        cpu: wall,
        wall,
        stdout_bytes: resources.stdout.0,
        stderr_bytes: STDERR_BYTES_MAX as u64,
        output_bytes: if stage.outputs.is_empty() { OUTPUT_BYTES_DEFAULT } else { declared },
        ..Limits::default()
    }
}

/// Most bytes of files of a stage that does not declare its outputs.
const OUTPUT_BYTES_DEFAULT: u64 = 1 << 30;

/// Builds what the guest sees.
async fn spec(agent: &Agent, assignment: &Assignment, stage: &Stage) -> Result<TaskSpec, Failure> {
    let order = &assignment.order;
    let index = assignment.index;
    let mut args = Vec::with_capacity(stage.command.len() + 1);
    args.push(stage.name.clone());
    args.extend(stage.command.iter().cloned());
    let mut env: Vec<(String, String)> =
        stage.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    env.push(("WC_TASK_INDEX".into(), index.to_string()));
    env.push(("WC_TASK_COUNT".into(), stage.tasks.to_string()));
    let mut inputs = Vec::new();
    for input in &stage.inputs {
        match &input.source {
            InputSource::Blob(blob) => inputs.push((input.name.clone(), file(agent, order, blob).await?)),
            InputSource::Each(list) => {
                let list = input_list(agent, order, list).await?;
                let item = list.items.get(index as usize).ok_or_else(|| {
                    Failure::InputMissing(format!("input {} has no item {index}", input.name))
                })?;
                inputs.push((input.name.clone(), file(agent, order, &item.blob).await?));
            }
            InputSource::Stage(from) => {
                gathered(agent, order, *from, &input.name, &mut inputs).await?;
            }
        }
    }
    let mut task = order.grant.manifest.to_bytes();
    task.extend_from_slice(&order.grant.stage.to_be_bytes());
    task.extend_from_slice(&index.to_be_bytes());
    Ok(TaskSpec { args, env, inputs, seed: sha256(&task), ..TaskSpec::default() })
}

/// Everything that an earlier stage produced, as files below the input's name.
async fn gathered(
    agent: &Agent,
    order: &Order,
    from: u16,
    name: &str,
    inputs: &mut Vec<(String, GuestFile)>,
) -> Result<(), Failure> {
    let missing = || Failure::InputMissing(format!("the results of stage {from}"));
    let gather = order.grant.gathers.iter().find(|gather| gather.stage == from).ok_or_else(missing)?;
    let list = gather_list(agent, order, &gather.list).await?;
    for (index, result) in list.results.iter().enumerate() {
        let bytes = fetch_bytes(agent, order, result, LIST_BYTES_MAX).await?;
        let record: ResultRecord = from_canonical(&bytes).map_err(|_| missing())?;
        if record.stdout.bytes.0 > 0 {
            let stdout = file(agent, order, &record.stdout).await?;
            inputs.push((format!("{name}/{index:08}/stdout"), stdout));
        }
        for (path, blob) in &record.outputs {
            inputs.push((format!("{name}/{index:08}/{path}"), file(agent, order, blob).await?));
        }
    }
    Ok(())
}

async fn fetch_bytes(agent: &Agent, order: &Order, cid: &Cid, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let missing = |reason: String| Failure::InputMissing(format!("{cid}: {reason}"));
    blobs::fetch(&agent.mesh, &agent.store, *cid, &order.holders).await.map_err(missing)?;
    blobs::read(&agent.store, cid, bytes_max).map_err(missing)
}

async fn file(agent: &Agent, order: &Order, blob: &BlobRef) -> Result<GuestFile, Failure> {
    let missing = |reason: String| Failure::InputMissing(format!("{}: {reason}", blob.cid));
    if blob.bytes.0 <= INPUT_IN_MEMORY_BYTES_MAX {
        let bytes = fetch_bytes(agent, order, &blob.cid, INPUT_IN_MEMORY_BYTES_MAX as usize).await?;
        if bytes.len() as u64 != blob.bytes.0 {
            return Err(missing(format!("has {} bytes, the manifest says {}", bytes.len(), blob.bytes.0)));
        }
        return Ok(GuestFile::Bytes(bytes));
    }
    blobs::fetch(&agent.mesh, &agent.store, blob.cid, &order.holders).await.map_err(missing)?;
    let path = agent.pantry.inputs.join(blob.cid.to_string());
    if !path.exists() {
        std::fs::create_dir_all(&agent.pantry.inputs).map_err(|error| missing(error.to_string()))?;
        blobs::export(&agent.store, blob.cid, &path).await.map_err(missing)?;
    }
    Ok(GuestFile::Path(path))
}

async fn input_list(agent: &Agent, order: &Order, cid: &Cid) -> Result<Arc<InputList>, Failure> {
    if let Some(list) = lock(&agent.pantry.lists).get(cid) {
        return Ok(list.clone());
    }
    let bytes = fetch_bytes(agent, order, cid, LIST_BYTES_MAX).await?;
    let list: InputList = from_canonical(&bytes).map_err(|error| Failure::InputMissing(error.to_string()))?;
    let list = Arc::new(list);
    remember(&agent.pantry.lists, *cid, &list);
    Ok(list)
}

async fn gather_list(agent: &Agent, order: &Order, cid: &Cid) -> Result<Arc<GatherList>, Failure> {
    if let Some(list) = lock(&agent.pantry.gathers).get(cid) {
        return Ok(list.clone());
    }
    let bytes = fetch_bytes(agent, order, cid, LIST_BYTES_MAX).await?;
    let list: GatherList =
        from_canonical(&bytes).map_err(|error| Failure::InputMissing(error.to_string()))?;
    let list = Arc::new(list);
    remember(&agent.pantry.gathers, *cid, &list);
    Ok(list)
}

fn remember<T>(cache: &Mutex<HashMap<Cid, Arc<T>>>, cid: Cid, value: &Arc<T>) {
    let mut cache = lock(cache);
    if cache.len() >= LISTS_MAX {
        cache.clear();
    }
    cache.insert(cid, value.clone());
}

fn empty_record(exit: Exit) -> ResultRecord {
    let stdout = BlobRef { cid: cid_of(CODEC_RAW, b""), bytes: Bytes(0) };
    ResultRecord { exit, stdout, outputs: BTreeMap::new() }
}

/// Says how a guest ended in the words that are compared; `Err` when this machine, not the guest, is the reason.
pub(crate) fn ending_of(exit: wc_sandbox::Exit) -> Result<Exit, Failure> {
    use wc_sandbox::Exit as Guest;
    Ok(match exit {
        Guest::Exited { code: 0 } => Exit::Success,
        Guest::Exited { code } => Exit::Code(code),
        Guest::Trapped { kind, .. } => Exit::Trap(kind),
        Guest::FuelExhausted => Exit::FuelExhausted,
        Guest::OutOfMemory => Exit::MemoryExceeded,
        Guest::StdoutLimit => Exit::OutputRefused("standard output is larger than allowed".into()),
        Guest::OutputRefused { refusal } => Exit::OutputRefused(refusal.to_string()),
        Guest::CpuLimit | Guest::WallLimit => return Err(Failure::WallClockExceeded),
        Guest::WorkerDied { signal } => {
            return Err(Failure::SandboxUnavailable(match signal {
                Some(signal) => format!("the worker was ended by signal {signal}"),
                None => "the worker ended".into(),
            }));
        }
        Guest::WorkerMisbehaved { reason } => return Err(Failure::SandboxUnavailable(reason)),
        other => return Err(Failure::SandboxUnavailable(format!("{other:?}"))),
    })
}

/// Returns what the files of a successful guest say against the manifest.
fn check_outputs(stage: &Stage, outputs: &BTreeMap<String, BlobRef>) -> Result<(), String> {
    if stage.outputs.is_empty() {
        return Ok(());
    }
    for declared in &stage.outputs {
        match outputs.get(&declared.name) {
            None => return Err(format!("declared output `{}` is missing", declared.name)),
            Some(blob) if blob.bytes > declared.bytes_max => {
                return Err(format!(
                    "output `{}` has more than its {} bytes",
                    declared.name, declared.bytes_max.0
                ));
            }
            Some(_) => {}
        }
    }
    match outputs.keys().find(|name| stage.outputs.iter().all(|declared| declared.name != **name)) {
        Some(name) => Err(format!("output `{}` is not declared", name.escape_debug())),
        None => Ok(()),
    }
}

fn report(agent: &Agent, assignment: &Assignment, stage: &Stage, outcome: TaskOutcome) -> Report {
    let mut usage = Usage {
        fuel: Fuel(outcome.usage.fuel),
        cpu_micros: outcome.usage.cpu_micros,
        wall_micros: outcome.usage.wall_micros,
        memory_peak: Bytes(outcome.usage.memory_bytes_peak),
        output: Bytes(0),
    };
    let mut stderr = outcome.stderr;
    stderr.drain(..stderr.len().saturating_sub(STDERR_BYTES_MAX));
    let exit = match ending_of(outcome.exit) {
        Ok(exit) => exit,
        Err(failure) => {
            let mut report = failure_report(agent, assignment, failure, usage);
            report.stderr = stderr;
            return report;
        }
    };
    let mut content = Vec::new();
    let mut record = empty_record(exit);
    let kept = (|| -> Result<(), String> {
        record.stdout = keep(agent, outcome.stdout, &mut content)?;
        usage.output = record.stdout.bytes;
        if !record.exit.is_success() {
            return Ok(());
        }
        for file in &outcome.outputs.files {
            let blob = if file.bytes <= LEAF_BYTES_MAX as u64 {
                let bytes = std::fs::read(&file.path).map_err(|error| error.to_string())?;
                keep(agent, bytes, &mut content)?
            } else {
                let open = std::fs::File::open(&file.path).map_err(|error| error.to_string())?;
                blobs::put_open(&agent.store, open)?
            };
            usage.output = usage.output.saturating_add(blob.bytes);
            record.outputs.insert(file.name.clone(), blob);
        }
        if let Err(against) = check_outputs(stage, &record.outputs) {
            record.exit = Exit::OutputRefused(against);
            record.outputs.clear();
        }
        Ok(())
    })();
    if let Err(cause) = kept {
        return failure_report(agent, assignment, Failure::SandboxUnavailable(cause), usage);
    }
    result_report(agent, assignment, record, content, usage, stderr)
}

/// Names content that may still travel inline, or puts larger content into the store.
fn keep(agent: &Agent, bytes: Vec<u8>, content: &mut Vec<(Cid, Vec<u8>)>) -> Result<BlobRef, String> {
    if bytes.len() > LEAF_BYTES_MAX {
        return blobs::put(&agent.store, &bytes);
    }
    let blob = BlobRef { cid: cid_of(CODEC_RAW, &bytes), bytes: Bytes(bytes.len() as u64) };
    content.push((blob.cid, bytes));
    Ok(blob)
}

/// Signs a result. Small content goes with it; otherwise all of it goes into the store, for the coordinator to fetch.
fn result_report(
    agent: &Agent,
    assignment: &Assignment,
    record: ResultRecord,
    mut content: Vec<(Cid, Vec<u8>)>,
    usage: Usage,
    stderr: Vec<u8>,
) -> Report {
    let success = record.exit.is_success();
    let bytes = to_canonical(&record);
    let cid = cid_of(CODEC_DAG_CBOR, &bytes);
    // Output that is too large to travel is in the store already, under a CID that no empty content has.
    if content.is_empty() && record.stdout.bytes.0 == 0 {
        content.push((record.stdout.cid, Vec::new()));
    }
    content.push((cid, bytes));
    let inline = content.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= INLINE_BYTES_MAX;
    if !inline {
        for (cid, bytes) in content.drain(..) {
            if let Err(cause) = blobs::put_as(&agent.store, cid.codec(), &bytes) {
                return failure_report(agent, assignment, Failure::SandboxUnavailable(cause), usage);
            }
        }
    }
    let outcome = outcome(agent, assignment, Ending::Result { record: cid, success }, usage);
    let blobs = content.into_iter().map(|(cid, bytes)| InlineBlob { cid, bytes }).collect();
    Report { outcome, blobs, stderr }
}

fn failure_report(agent: &Agent, assignment: &Assignment, failure: Failure, usage: Usage) -> Report {
    tracing::info!(lease = %assignment.lease, ?failure, "a replica failed here");
    let outcome = outcome(agent, assignment, Ending::Failed(failure.cut()), usage);
    Report { outcome, blobs: Vec::new(), stderr: Vec::new() }
}

fn outcome(agent: &Agent, assignment: &Assignment, ending: Ending, usage: Usage) -> Signed<Outcome> {
    let grant = &assignment.order.grant;
    Signed::seal(
        Outcome {
            cell: grant.cell,
            job: grant.job,
            stage: grant.stage,
            index: assignment.index,
            lease: assignment.lease,
            node: agent.node(),
            ending,
            usage,
            salt: clock::random(),
            ended_at: clock::now(),
        },
        &agent.key,
    )
}
