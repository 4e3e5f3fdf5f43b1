//! Bringing a DAG here from whoever has it.
//!
//! Each holder gets one or more streams, and each stream a worker that keeps a window of wants in flight. All of them
//! draw from one [`Work`]; what a slow, dead or lying holder does not bring, the others do. Blocks are checked and kept on
//! blocking threads, a few at a time, because hashing is what a single task cannot do at line rate.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};
use tokio::time::timeout;
use wc_proto::frame::encode;
use wc_proto::limit::{WANT_BYTES_MAX, WANT_CIDS_MAX};
use wc_proto::peer::blob::{ANSWER_HEADER_BYTES, AnswerHeader, AnswerKind, Want};
use wc_proto::version::BLOB;
use wc_types::NodeId;
use wc_types::cid::{CODEC_RAW, Cid};

use super::work::{Holder, Work, Worker};
use super::{BlockRejected, Blocks, WireError, read_full};
use crate::mesh::Mesh;
use crate::stream::OpenError;

/// Missing blocks asked of the store in one go: 512 MiB of chunks, and 160 KiB of CIDs.
const MISSING_MAX: usize = 2048;
/// Blocks that wait below which the store is asked for more.
const PENDING_LOW: usize = 512;
/// How often an idle worker looks whether somebody else has become slow.
const IDLE_LOOK: Duration = Duration::from_millis(250);
/// Buffers kept for the next blocks instead of being freed.
const BUFFERS_KEPT_MAX: usize = 32;

/// How much one fetch may take and hold.
#[derive(Debug, Clone, Copy)]
pub struct FetchLimits {
    /// Streams opened to each holder.
    pub streams_per_holder: usize,
    /// Wants in flight on each stream, at most 64.
    pub window_blocks: usize,
    /// Blocks being checked and kept at the same time.
    pub checking_max: usize,
    /// Bytes to take at most; a DAG that needs more is refused in the middle.
    pub bytes_max: u64,
    /// How long a holder may be silent while something is wanted of it.
    pub stall_timeout: Duration,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            // Four readers for one connection: on a quiet machine a quarter faster than one.
            streams_per_holder: 4,
            window_blocks: 24,
            checking_max: 4,
            bytes_max: 64 << 30,
            stall_timeout: Duration::from_secs(15),
        }
    }
}

/// What a fetch did.
#[derive(Debug, Clone, Default)]
pub struct FetchStats {
    /// Blocks kept.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Per holder, in the order of the argument.
    pub holders: Vec<HolderStats>,
}

/// What one holder contributed.
#[derive(Debug, Clone)]
pub struct HolderStats {
    /// The holder.
    pub node: NodeId,
    /// Blocks of it that were kept.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Why it was dropped, if it was.
    pub fault: Option<HolderFault>,
}

/// Why a holder was dropped from a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HolderFault {
    /// It sent bytes that do not match their CID. Lowers trust.
    Lied {
        /// What it was asked for.
        cid: Cid,
    },
    /// It broke the protocol. Lowers trust.
    Misbehaved {
        /// What it did.
        what: String,
    },
    /// It could not be reached, or the stream broke.
    Lost {
        /// What the transport said.
        cause: String,
    },
    /// It stopped sending.
    Stalled,
}

impl HolderFault {
    /// Returns whether the holder is to blame, and not the network between us.
    pub fn is_peers_fault(&self) -> bool {
        matches!(self, Self::Lied { .. } | Self::Misbehaved { .. })
    }
}

/// A fetch did not complete. Whatever blocks came are kept, and the next fetch goes on from there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Nobody was named who could have it.
    #[error("no holder of {root} is known")]
    NoHolders {
        /// What was to be fetched.
        root: Cid,
    },
    /// Every holder was dropped.
    #[error("every holder of {root} failed: {}", faults(.stats))]
    HoldersFailed {
        /// What was to be fetched.
        root: Cid,
        /// What each holder did.
        stats: Box<FetchStats>,
    },
    /// None of the holders that are left has a block of it.
    #[error("no holder has block {cid}")]
    BlockUnobtainable {
        /// The block.
        cid: Cid,
        /// What each holder did.
        stats: Box<FetchStats>,
    },
    /// It is larger than allowed.
    #[error("{root} has more than {bytes_max} bytes")]
    TooLarge {
        /// What was to be fetched.
        root: Cid,
        /// The limit.
        bytes_max: u64,
    },
    /// Our own side cannot keep it.
    #[error("cannot keep {root}")]
    Host {
        /// What was to be fetched.
        root: Cid,
        /// Why not.
        source: io::Error,
    },
}

fn faults(stats: &FetchStats) -> String {
    let mut text = String::new();
    for holder in &stats.holders {
        if !text.is_empty() {
            text.push_str("; ");
        }
        match &holder.fault {
            Some(fault) => text.push_str(&format!("{}: {fault:?}", holder.node)),
            None => text.push_str(&format!("{}: ended", holder.node)),
        }
    }
    text
}

/// What workers tell the fetch.
enum Report {
    /// A block has come and was checked.
    Landed { holder: Holder, cid: Cid, bytes: u64, verdict: Verdict },
    /// A holder does not have a block; the work knows which.
    Lacking,
}

/// What became of a block that came.
enum Verdict {
    Kept,
    Wrong,
    /// Our own side cannot keep it.
    Unkept(io::Error),
}

/// What the workers of one fetch share.
struct Shared {
    mesh: Mesh,
    blocks: Arc<dyn Blocks>,
    limits: FetchLimits,
    work: Mutex<Work>,
    /// Rung when there is more to take.
    more: Notify,
    checking: Arc<Semaphore>,
    reports: mpsc::Sender<Report>,
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl Shared {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn buffer(&self, length: usize) -> Vec<u8> {
        let kept = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = kept.unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut kept = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < BUFFERS_KEPT_MAX {
            kept.push(buffer);
        }
    }
}

/// Brings every missing block of the DAG of `root` into `blocks`.
///
/// What is there already is not fetched again, so a fetch that was interrupted resumes. May be dropped at any await: the
/// workers end, and what they had kept stays kept.
///
/// - `holders`: who may have it, each dialled where needed; the work is shared among all of them
///
/// # Errors
/// [`FetchError`]; a single faulty holder is not an error but a fault in the statistics.
pub async fn fetch(
    mesh: &Mesh,
    root: Cid,
    holders: &[NodeId],
    blocks: Arc<dyn Blocks>,
    limits: FetchLimits,
) -> Result<FetchStats, FetchError> {
    let mut unique = Vec::new();
    for node in holders {
        if *node != mesh.node_id() && !unique.contains(node) {
            unique.push(*node);
        }
    }
    // A few blocks may wait for the coordinator; the semaphore bounds those that hold memory.
    let (reports, mut inbox) = mpsc::channel(64);
    let mut fetch = Fetch {
        root,
        shared: Arc::new(Shared {
            mesh: mesh.clone(),
            checking: Arc::new(Semaphore::new(limits.checking_max.max(1))),
            blocks,
            limits,
            work: Mutex::new(Work::default()),
            more: Notify::new(),
            reports,
            buffers: Mutex::new(Vec::new()),
        }),
        stats: FetchStats {
            holders: unique
                .iter()
                .map(|node| HolderStats { node: *node, blocks: 0, bytes: 0, fault: None })
                .collect(),
            ..FetchStats::default()
        },
        workers: JoinSet::new(),
        streams: Vec::new(),
        may_miss_more: true,
    };
    if fetch.refill().await? {
        return Ok(fetch.stats);
    }
    if unique.is_empty() {
        return Err(FetchError::NoHolders { root });
    }
    for (holder, node) in unique.into_iter().enumerate() {
        for _ in 0..limits.streams_per_holder.max(1) {
            fetch.hire(holder, node);
        }
    }
    let ended = fetch.run(&mut inbox).await;
    fetch.shared.work().finished = true;
    fetch.shared.more.notify_waiters();
    ended.map(|()| fetch.stats)
}

/// One fetch, seen by the caller's own task.
struct Fetch {
    root: Cid,
    shared: Arc<Shared>,
    stats: FetchStats,
    /// Dropped with the fetch, which ends the workers.
    workers: JoinSet<Result<(), HolderFault>>,
    /// Holder, task and whether it still runs, by worker.
    streams: Vec<(Holder, AbortHandle, bool)>,
    /// The store may know of missing blocks that are not in the work yet.
    may_miss_more: bool,
}

impl Fetch {
    fn hire(&mut self, holder: Holder, node: NodeId) {
        let worker = self.streams.len();
        let shared = self.shared.clone();
        let task = self.workers.spawn(async move { work_stream(&shared, holder, worker, node).await });
        self.streams.push((holder, task, true));
    }

    async fn run(&mut self, inbox: &mut mpsc::Receiver<Report>) -> Result<(), FetchError> {
        loop {
            tokio::select! {
                Some(report) = inbox.recv() => self.on_report(report)?,
                Some(ended) = self.workers.join_next_with_id() => {
                    // A task without a result was aborted, because another stream of its holder showed that it lies.
                    let (id, result) = match ended {
                        Ok((id, result)) => (id, result),
                        Err(error) => (error.id(), Ok(())),
                    };
                    let ended = self.streams.iter_mut().find(|(_, task, _)| task.id() == id);
                    let Some((holder, _, runs)) = ended else { continue };
                    *runs = false;
                    let holder = *holder;
                    if let Err(fault) = result {
                        self.drop_holder(holder, fault);
                    }
                }
            }
            let (pending, idle) = {
                let work = self.shared.work();
                (work.pending(), work.is_idle())
            };
            if ((self.may_miss_more && pending < PENDING_LOW) || idle) && self.refill().await? {
                return Ok(());
            }
            let alive: HashSet<Holder> =
                self.streams.iter().filter(|(_, _, runs)| *runs).map(|(holder, _, _)| *holder).collect();
            if alive.is_empty() && !self.shared.work().is_landing() {
                return Err(FetchError::HoldersFailed {
                    root: self.root,
                    stats: Box::new(self.stats.clone()),
                });
            }
            let unobtainable = self.shared.work().unobtainable(&alive);
            if let Some(cid) = unobtainable.filter(|_| !alive.is_empty()) {
                return Err(FetchError::BlockUnobtainable { cid, stats: Box::new(self.stats.clone()) });
            }
        }
    }

    /// Adds what is missing to the work. Returns whether the DAG is complete.
    async fn refill(&mut self) -> Result<bool, FetchError> {
        let (blocks, root) = (self.shared.blocks.clone(), self.root);
        let missing = spawn_blocking(move || blocks.missing(&root, MISSING_MAX))
            .await
            .map_err(io::Error::other)
            .and_then(|missing| missing)
            .map_err(|source| FetchError::Host { root, source })?;
        self.may_miss_more = missing.len() >= MISSING_MAX;
        let complete = missing.is_empty();
        self.shared.work().add(missing);
        self.shared.more.notify_waiters();
        Ok(complete)
    }

    fn on_report(&mut self, report: Report) -> Result<(), FetchError> {
        let Report::Landed { holder, cid, bytes, verdict } = report else { return Ok(()) };
        match verdict {
            Verdict::Kept => {
                self.shared.work().keep(&cid);
                self.stats.blocks += 1;
                self.stats.bytes += bytes;
                self.stats.holders[holder].blocks += 1;
                self.stats.holders[holder].bytes += bytes;
                // A leaf links to nothing.
                self.may_miss_more |= cid.codec() != CODEC_RAW;
                if self.stats.bytes > self.shared.limits.bytes_max {
                    let bytes_max = self.shared.limits.bytes_max;
                    return Err(FetchError::TooLarge { root: self.root, bytes_max });
                }
                Ok(())
            }
            Verdict::Wrong => {
                self.shared.work().reject(cid);
                self.shared.more.notify_waiters();
                self.drop_holder(holder, HolderFault::Lied { cid });
                Ok(())
            }
            Verdict::Unkept(source) => Err(FetchError::Host { root: self.root, source }),
        }
    }

    /// Notes why a holder is no longer used. One that is to blame loses all of its streams; one that lost a stream keeps
    /// the others.
    fn drop_holder(&mut self, holder: Holder, fault: HolderFault) {
        let node = self.stats.holders[holder].node;
        if fault.is_peers_fault() {
            for stream in self.streams.iter_mut().filter(|(of, _, _)| *of == holder) {
                stream.1.abort();
                stream.2 = false;
            }
        }
        let noted = &mut self.stats.holders[holder].fault;
        if noted.as_ref().is_none_or(|noted| !noted.is_peers_fault()) {
            if fault.is_peers_fault() {
                self.shared.mesh.report_misbehaviour(node, format!("blob: {fault:?}"));
            }
            *noted = Some(fault);
        }
    }
}

/// Gives back what a worker had asked for, however it ends.
struct Returning<'a> {
    shared: &'a Shared,
    worker: Worker,
    wanted: VecDeque<Cid>,
}

impl Drop for Returning<'_> {
    fn drop(&mut self) {
        let wanted: Vec<Cid> = self.wanted.drain(..).collect();
        self.shared.work().release(self.worker, &wanted);
        self.shared.more.notify_waiters();
    }
}

/// Fetches over one stream until nothing is left.
async fn work_stream(
    shared: &Arc<Shared>,
    holder: Holder,
    worker: Worker,
    node: NodeId,
) -> Result<(), HolderFault> {
    let mut returning = Returning { shared, worker, wanted: VecDeque::new() };
    let mut stream = shared.mesh.open_lazily(node, BLOB).await.map_err(|error| lost(&error))?;
    let window = shared.limits.window_blocks.clamp(1, WANT_CIDS_MAX);
    let mut answered = 0u32;
    loop {
        // Asked for in halves of the window, so that the holder is never without a want.
        if returning.wanted.len() <= window / 2 {
            let more = shared.more.notified();
            let cids = {
                let mut work = shared.work();
                if work.finished {
                    break;
                }
                work.take(holder, worker, window - returning.wanted.len(), Instant::now())
            };
            if !cids.is_empty() {
                returning.wanted.extend(&cids);
                let frame = encode(&Want { cids }, WANT_BYTES_MAX).map_err(|error| fault(&error.into()))?;
                let sent = async {
                    stream.write_all(&frame).await?;
                    stream.flush().await
                };
                let stall = shared.limits.stall_timeout;
                timeout(stall, sent)
                    .await
                    .map_err(|_| HolderFault::Stalled)?
                    .map_err(|error| fault(&error.into()))?;
            } else if returning.wanted.is_empty() {
                // Also notices a holder that hangs up while it has nothing to do.
                let mut byte = [0];
                tokio::select! {
                    _ = timeout(IDLE_LOOK, more) => {}
                    read = stream.read(&mut byte) => {
                        return Err(match read {
                            Ok(0) => HolderFault::Lost { cause: "the holder closed the stream".to_owned() },
                            Ok(_) => HolderFault::Misbehaved { what: "answered what nobody asked".to_owned() },
                            Err(error) => HolderFault::Lost { cause: error.to_string() },
                        });
                    }
                }
                continue;
            }
        }
        let Some(cid) = returning.wanted.front().copied() else { continue };
        let block = read_answer(shared, &mut stream, answered).await.map_err(|error| fault(&error))?;
        answered = answered.wrapping_add(1);
        match block {
            // Wanted until it has landed, or else an abort would lose it.
            Some(buffer) => check(shared, holder, cid, buffer).await,
            None => {
                shared.work().lacks(holder, worker, cid);
                shared.more.notify_waiters();
                // The fetch decides whether anybody else can have it; it listens as long as this task lives.
                let _ = shared.reports.send(Report::Lacking).await;
            }
        }
        returning.wanted.pop_front();
    }
    let _ = timeout(shared.limits.stall_timeout, stream.shutdown()).await;
    Ok(())
}

/// Hands a block to a blocking thread, unless another stream was faster; waits while too many are there.
async fn check(shared: &Arc<Shared>, holder: Holder, cid: Cid, buffer: Vec<u8>) {
    // The semaphore is never closed. From `land` on nothing is awaited, so an aborted worker leaves no block landing.
    let Ok(permit) = shared.checking.clone().acquire_owned().await else { return };
    if !shared.work().land(&cid) {
        return shared.give_back(buffer);
    }
    let shared = shared.clone();
    spawn_blocking(move || {
        let verdict = match shared.blocks.put_block(&cid, &buffer) {
            Ok(()) => Verdict::Kept,
            Err(BlockRejected::Mismatch { .. }) => Verdict::Wrong,
            Err(BlockRejected::Host { source, .. }) => Verdict::Unkept(source),
        };
        let report = Report::Landed { holder, cid, bytes: buffer.len() as u64, verdict };
        shared.give_back(buffer);
        // Nobody listens any more when the fetch was dropped.
        let _ = shared.reports.blocking_send(report);
        drop(permit);
    });
}

async fn read_answer(
    shared: &Shared,
    stream: &mut crate::stream::MeshStream,
    expected: u32,
) -> Result<Option<Vec<u8>>, WireError> {
    let stall = shared.limits.stall_timeout;
    let mut header = [0; ANSWER_HEADER_BYTES];
    read_full(stream, &mut header, stall).await?;
    let header = AnswerHeader::decode(header)?;
    if header.number != expected {
        return Err(WireError::OutOfOrder { got: header.number, expected });
    }
    match header.kind {
        AnswerKind::NotFound => Ok(None),
        AnswerKind::Block => {
            let mut buffer = shared.buffer(header.payload_bytes);
            read_full(stream, &mut buffer, stall).await?;
            Ok(Some(buffer))
        }
    }
}

fn lost(error: &OpenError) -> HolderFault {
    HolderFault::Lost { cause: crate::dial::root_cause(error) }
}

fn fault(error: &WireError) -> HolderFault {
    match error {
        WireError::Stalled(_) => HolderFault::Stalled,
        WireError::Io(_) => HolderFault::Lost { cause: crate::dial::root_cause(error) },
        WireError::Frame(_) | WireError::OutOfOrder { .. } => {
            HolderFault::Misbehaved { what: crate::dial::root_cause(error) }
        }
    }
}
