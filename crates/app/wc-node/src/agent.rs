//! The donor's agent: holds leases, runs them in its slots, and talks with the coordinator in batches.
//!
//! ```text
//! granted ─► queued ─► running ─┬─► waiting ──asked to reveal──► reported ─► settled
//!               │         │     └──── (nobody else runs it) ────────▲
//!               └─ returned when the donor pauses or leaves ◄───┘
//! ```
//!
//! The connection may break at any moment: a lease and its report are kept until the coordinator says that they are
//! settled, and are offered again in the next session.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Notify, mpsc, watch};
use wc_mesh::Mesh;
use wc_proto::frame;
use wc_proto::limit::{FRAME_BYTES_MAX, REPORTS_MAX};
use wc_proto::peer::session::{AgentMessage, CoordinatorMessage, Report};
use wc_sandbox::Sandbox;
use wc_store::Store;
use wc_types::charter::{Founding, cell_id};
use wc_types::grant::{Grant, LEASES_MAX, NODE_LEASES_MAX};
use wc_types::manifest::{Manifest, WorkClass};
use wc_types::node::Enrolment;
use wc_types::outcome::Commitment;
use wc_types::{CellId, JobId, LeaseId, NodeId, Refusal, Signed, SigningKey};

use crate::coordinator::lock;
use crate::flow::run;
use crate::link::{self, LinkError};

/// Leases that one slot may hold ready. Bounds what is granted again elsewhere when this machine disappears.
const READY_PER_SLOT_MAX: u64 = 256;
/// Leases held or asked for at the same time, committed and reported ones included. A cell forgets what is asked for
/// beyond [`NODE_LEASES_MAX`]; asking past that would leave both sides waiting for each other.
const HELD_MAX: u64 = 2048;
const _: () = assert!(HELD_MAX < NODE_LEASES_MAX as u64, "an agent must not ask for what its cell forgets");
/// How much work a slot holds ready: long enough to cover a commit and a round trip under load, short enough that
/// nobody waits for it.
const READY_MICROS: u64 = 100_000;
/// Tasks that one slot runs in one go.
const BATCH_MAX: usize = 32;
/// Tasks longer than this run one by one, so that other slots share them.
const BATCH_TASK_MICROS_MAX: u64 = 5_000;
/// Manifests of different jobs that are kept between grants.
const MANIFESTS_MAX: usize = 256;
/// How long a slot keeps the worker of a job that has no more work for it; an idle donor has none.
const BOUND_IDLE: Duration = Duration::from_secs(30);
/// Messages that may wait to be written.
const OUTBOX_MAX: usize = 8192;
/// How long guests stay frozen after a pause before their leases are given back.
const FROZEN_MAX: Duration = Duration::from_secs(30);

/// What several leases of one grant share.
pub(crate) struct Order {
    /// The signed grant.
    pub grant: Signed<Grant>,
    /// The job's manifest.
    pub manifest: Arc<Signed<Manifest>>,
    /// Machines that probably have the job's blobs.
    pub holders: Vec<NodeId>,
}

/// One replica to run.
#[derive(Clone)]
pub(crate) struct Assignment {
    /// Its lease.
    pub lease: LeaseId,
    /// Index of its task.
    pub index: u32,
    /// The rest.
    pub order: Arc<Order>,
}

/// Where a held lease stands.
enum Held {
    Queued,
    Running,
    /// Committed; the report waits to be asked for.
    Waiting(Box<Report>, Commitment),
    /// Reported; kept until it is settled.
    Reported(Box<Report>),
}

#[derive(Default)]
struct Board {
    queue: VecDeque<Assignment>,
    held: BTreeMap<LeaseId, Held>,
    /// Running leases that were revoked; their outcome is dropped.
    revoked: BTreeSet<LeaseId>,
    /// Leases asked for and not yet granted, in this session.
    wanted: u64,
    /// Mean time of one task in a slot, in microseconds, weighted to the recent ones; 0 before the first.
    task_micros: u64,
    running: u32,
    paused: bool,
}

impl Board {
    /// Returns how many more leases to ask for, when that is worth a message.
    fn room(&mut self, slots: u16) -> Option<u32> {
        if self.paused {
            return None;
        }
        let ready = match self.task_micros {
            0 => 2,
            micros => (READY_MICROS / micros + 2).min(READY_PER_SLOT_MAX),
        };
        let target = ready * u64::from(slots);
        let running = self.held.values().filter(|held| matches!(held, Held::Running)).count() as u64;
        let has = self.queue.len() as u64 + running + self.wanted;
        if has * 4 > target * 3 {
            return None;
        }
        let held = self.held.len() as u64 + self.wanted;
        let more = (target - has).min(HELD_MAX.saturating_sub(held));
        if more == 0 {
            return None;
        }
        self.wanted += more;
        u32::try_from(more).ok()
    }

    /// Forgets what the coordinator has made durable; returns how many leases that were.
    fn settle(&mut self, leases: &[LeaseId]) -> u64 {
        leases.iter().filter(|lease| self.held.remove(lease).is_some()).count() as u64
    }
}

/// What the session writes.
enum Out {
    Commit(LeaseId, Commitment),
    Report(Box<Report>),
    /// Room may have come free.
    Room,
    Say(AgentMessage),
}

/// Counters for `donor status`.
#[derive(Default)]
pub(crate) struct Counters {
    /// Replicas run since the start.
    pub run: AtomicU64,
    /// Replicas settled since the start.
    pub settled: AtomicU64,
}

/// The agent. Shared by its session, its slots and the local requests.
pub(crate) struct Agent {
    /// This machine's key.
    pub key: Arc<SigningKey>,
    /// Blobs.
    pub store: Store,
    /// Other machines.
    pub mesh: Mesh,
    /// Where guests run.
    pub sandbox: Arc<Sandbox>,
    /// Compiled modules and unpacked inputs.
    pub pantry: run::Pantry,
    /// Classes that the owner consents to.
    pub consents: Vec<WorkClass>,
    /// Guests at the same time.
    pub slots: u16,
    /// For the status.
    pub counters: Counters,
    board: Mutex<Board>,
    work: Notify,
    outbox: Mutex<Option<mpsc::Sender<Out>>>,
    stopping: watch::Sender<bool>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SessionEnd {
    /// The connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The coordinator does not take this node.
    #[error("the coordinator refused: {0}")]
    Refused(Refusal),
    /// The node stops.
    #[error("the node stops")]
    Stopping,
}

impl Agent {
    /// Returns an idle agent.
    pub fn new(
        key: Arc<SigningKey>,
        store: Store,
        mesh: Mesh,
        sandbox: Arc<Sandbox>,
        pantry: run::Pantry,
        consents: Vec<WorkClass>,
        slots: u16,
    ) -> Arc<Self> {
        Arc::new(Self {
            key,
            store,
            mesh,
            sandbox,
            pantry,
            consents,
            slots,
            counters: Counters::default(),
            board: Mutex::default(),
            work: Notify::new(),
            outbox: Mutex::default(),
            stopping: watch::Sender::new(false),
        })
    }

    /// Returns who this is.
    pub fn node(&self) -> NodeId {
        self.key.node_id()
    }

    /// Starts the slots; they end with the agent.
    pub fn start_slots(self: &Arc<Self>) {
        for number in 0..self.slots {
            let agent = self.clone();
            tokio::spawn(async move { agent.run_slot(number).await });
        }
    }

    /// Returns whether guests run, whether the donor paused, and how many guests there are.
    pub fn activity(&self) -> (bool, u32) {
        let board = lock(&self.board);
        (board.paused, board.running)
    }

    /// Freezes every guest at once and takes no more work.
    pub fn pause(self: &Arc<Self>) {
        let frozen = self.sandbox.freezer().freeze_all();
        let queued: Vec<LeaseId> = {
            let mut board = lock(&self.board);
            board.paused = true;
            board.wanted = 0;
            let queued = board.queue.drain(..).map(|assignment| assignment.lease).collect::<Vec<_>>();
            for lease in &queued {
                board.held.remove(lease);
            }
            queued
        };
        tracing::info!(workers = frozen.workers, micros = frozen.elapsed.as_micros(), "guests frozen");
        self.say(AgentMessage::Paused { paused: true });
        if !queued.is_empty() {
            self.say(AgentMessage::Return { leases: queued });
        }
        let agent = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(FROZEN_MAX).await;
            if agent.activity().0 {
                agent.release();
            }
        });
    }

    /// Ends every guest and gives its lease back.
    fn release(&self) {
        let running: Vec<LeaseId> = {
            let mut board = lock(&self.board);
            let running: Vec<_> = board
                .held
                .iter()
                .filter(|(_, held)| matches!(held, Held::Running))
                .map(|(lease, _)| *lease)
                .collect();
            board.revoked.extend(&running);
            for lease in &running {
                board.held.remove(lease);
            }
            running
        };
        self.sandbox.freezer().kill_all();
        if !running.is_empty() {
            self.say(AgentMessage::Return { leases: running });
        }
    }

    /// Takes work again.
    pub fn resume(&self) {
        lock(&self.board).paused = false;
        self.sandbox.freezer().thaw_all();
        self.say(AgentMessage::Paused { paused: false });
        self.work.notify_waiters();
        self.out(Out::Room);
    }

    /// Gives everything back, ends the guests and says goodbye.
    pub async fn leave(&self) {
        let queued: Vec<LeaseId> =
            lock(&self.board).queue.drain(..).map(|assignment| assignment.lease).collect();
        lock(&self.board).paused = true;
        self.release();
        if !queued.is_empty() {
            self.say(AgentMessage::Return { leases: queued });
        }
        self.say(AgentMessage::Leave);
        // Long enough for the goodbye to be written; the coordinator notices our absence in any case.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    /// Ends the slots and the session.
    pub fn stop(&self) {
        let _ = self.stopping.send(true);
        self.sandbox.freezer().kill_all();
    }

    fn say(&self, message: AgentMessage) {
        self.out(Out::Say(message));
    }

    fn out(&self, out: Out) {
        if let Some(outbox) = lock(&self.outbox).as_ref() {
            // A full outbox means a dead connection: what matters is held and offered again in the next session.
            let _ = outbox.try_send(out);
        }
    }

    async fn run_slot(self: Arc<Self>, number: u16) {
        let mut bench = run::Bench::new(number);
        let mut stopping = self.stopping.subscribe();
        loop {
            let batch = tokio::select! {
                batch = self.take() => batch,
                () = tokio::time::sleep(BOUND_IDLE), if bench.is_bound() => {
                    bench.release();
                    continue;
                }
                _ = stopping.changed() => return,
            };
            let started = Instant::now();
            let tasks = batch.len() as u64;
            run::batch(&self, &mut bench, batch).await;
            let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX) / tasks;
            let mut board = lock(&self.board);
            board.running = board.running.saturating_sub(1);
            board.task_micros =
                if board.task_micros == 0 { micros } else { (board.task_micros * 3 + micros) / 4 };
            drop(board);
            self.out(Out::Room);
        }
    }

    /// Waits for work and takes a batch of one stage.
    async fn take(&self) -> Vec<Assignment> {
        loop {
            let notified = self.work.notified();
            tokio::pin!(notified);
            // Registered before looking, so that work which arrives in between wakes this slot.
            notified.as_mut().enable();
            if let Some(batch) = self.try_take() {
                return batch;
            }
            notified.await;
        }
    }

    fn try_take(&self) -> Option<Vec<Assignment>> {
        let mut board = lock(&self.board);
        if board.paused {
            return None;
        }
        let first = board.queue.pop_front()?;
        let share = board.queue.len() / usize::from(self.slots.max(1));
        let short = board.task_micros > 0 && board.task_micros <= BATCH_TASK_MICROS_MAX;
        let most = if short { share.clamp(1, BATCH_MAX) } else { 1 };
        let mut batch = vec![first];
        while batch.len() < most {
            let same = board.queue.front().is_some_and(|next| {
                let (next, first) = (&next.order.grant, &batch[0].order.grant);
                next.job == first.job && next.stage == first.stage
            });
            if !same {
                break;
            }
            batch.extend(board.queue.pop_front());
        }
        for assignment in &batch {
            board.held.insert(assignment.lease, Held::Running);
        }
        board.running += 1;
        drop(board);
        self.out(Out::Room);
        Some(batch)
    }

    /// Returns whether a lease was revoked before it started.
    pub fn is_revoked(&self, lease: LeaseId) -> bool {
        lock(&self.board).revoked.contains(&lease)
    }

    /// Takes what a slot found out about a lease: commits to it or reports it.
    pub fn finish(&self, assignment: &Assignment, report: Report) {
        self.counters.run.fetch_add(1, Ordering::Relaxed);
        let lease = assignment.lease;
        let report = Box::new(report);
        let mut board = lock(&self.board);
        if board.revoked.remove(&lease) {
            board.held.remove(&lease);
            return;
        }
        let commitment = report
            .outcome
            .result()
            .filter(|_| assignment.order.grant.commit_first)
            .map(|result| Commitment::new(result, &report.outcome.salt, &report.outcome.node));
        let out = match commitment {
            Some(commitment) => {
                board.held.insert(lease, Held::Waiting(report, commitment));
                Out::Commit(lease, commitment)
            }
            None => {
                board.held.insert(lease, Held::Reported(report.clone()));
                Out::Report(report)
            }
        };
        drop(board);
        self.out(out);
    }

    /// Puts back a lease that was not run after all, for another try in this machine.
    pub fn put_back(&self, assignment: Assignment) {
        let mut board = lock(&self.board);
        if board.revoked.remove(&assignment.lease) || board.paused {
            board.held.remove(&assignment.lease);
            drop(board);
            self.say(AgentMessage::Return { leases: vec![assignment.lease] });
            return;
        }
        board.held.insert(assignment.lease, Held::Queued);
        board.queue.push_front(assignment);
        drop(board);
        self.work.notify_one();
    }

    /// Talks with the coordinator until the connection ends.
    pub async fn converse<S>(
        self: &Arc<Self>,
        coordinator: NodeId,
        enrolment: Signed<Enrolment>,
        stream: S,
        joined: &watch::Sender<Option<Signed<Founding>>>,
    ) -> SessionEnd
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::with_capacity(64 << 10, reader);
        let held: Vec<LeaseId> = lock(&self.board).held.keys().copied().collect();
        let enrol = AgentMessage::Enrol { enrolment: Box::new(enrolment), held };
        if let Err(error) = link::write(&mut writer, &enrol, FRAME_BYTES_MAX).await {
            return error.into();
        }
        let founding = loop {
            match link::read(&mut reader, FRAME_BYTES_MAX).await {
                Ok(CoordinatorMessage::Welcome { founding }) => break *founding,
                Ok(CoordinatorMessage::Refused { refusal }) => return SessionEnd::Refused(refusal),
                Ok(CoordinatorMessage::Revoke { leases }) => self.revoke(&leases),
                Ok(
                    CoordinatorMessage::Grant { .. }
                    | CoordinatorMessage::AskReveal { .. }
                    | CoordinatorMessage::Settled { .. },
                ) => {}
                Err(error) => return error.into(),
            }
        };
        let cell = cell_id(&founding);
        let beat = Duration::from_millis(founding.charter.beat.0.max(500));
        let _ = joined.send(Some(founding));
        let (outbox, out) = mpsc::channel(OUTBOX_MAX);
        self.offer_again(&outbox);
        *lock(&self.outbox) = Some(outbox);
        let (inbox, messages) = mpsc::channel(64);
        let reading = tokio::spawn(async move {
            loop {
                let message = link::read::<CoordinatorMessage>(&mut reader, FRAME_BYTES_MAX).await;
                let ended = message.is_err();
                if inbox.send(message).await.is_err() || ended {
                    return;
                }
            }
        });
        let end = self.exchange(coordinator, cell, beat, &mut writer, out, messages).await;
        *lock(&self.outbox) = None;
        reading.abort();
        end
    }

    /// Offers everything that an earlier session left unsettled.
    fn offer_again(&self, outbox: &mpsc::Sender<Out>) {
        let mut board = lock(&self.board);
        board.wanted = 0;
        for (lease, held) in &board.held {
            let out = match held {
                Held::Queued | Held::Running => continue,
                Held::Waiting(_, commitment) => Out::Commit(*lease, *commitment),
                Held::Reported(report) => Out::Report(report.clone()),
            };
            let _ = outbox.try_send(out);
        }
        if board.paused {
            let _ = outbox.try_send(Out::Say(AgentMessage::Paused { paused: true }));
        }
        let _ = outbox.try_send(Out::Room);
    }

    async fn exchange(
        self: &Arc<Self>,
        coordinator: NodeId,
        cell: CellId,
        beat: Duration,
        writer: &mut (impl AsyncWrite + Unpin),
        mut out: mpsc::Receiver<Out>,
        mut messages: mpsc::Receiver<Result<CoordinatorMessage, LinkError>>,
    ) -> SessionEnd {
        let mut manifests: BTreeMap<JobId, Arc<Signed<Manifest>>> = BTreeMap::new();
        let mut beats = tokio::time::interval(beat);
        let mut stopping = self.stopping.subscribe();
        let mut waiting = Vec::new();
        let mut buffer = Vec::new();
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Ok(message)) => {
                        if let Err(refusal) = self.take_in(coordinator, cell, message, &mut manifests) {
                            return SessionEnd::Refused(refusal);
                        }
                    }
                    Some(Err(error)) => return error.into(),
                    None => return SessionEnd::Link(LinkError::Closed),
                },
                count = out.recv_many(&mut waiting, OUTBOX_MAX) => {
                    if count == 0 {
                        return SessionEnd::Stopping;
                    }
                    buffer.clear();
                    for message in self.merge(&mut waiting) {
                        match frame::encode(&message, FRAME_BYTES_MAX) {
                            Ok(frame) => buffer.extend_from_slice(&frame),
                            Err(error) => tracing::error!(%error, "a message to the coordinator was dropped"),
                        }
                    }
                    if !buffer.is_empty() {
                        if let Err(error) = writer.write_all(&buffer).await {
                            return LinkError::Io(error).into();
                        }
                        if let Err(error) = writer.flush().await {
                            return LinkError::Io(error).into();
                        }
                    }
                }
                _ = beats.tick() => {
                    let held = lock(&self.board).held.keys().copied().collect();
                    let message = AgentMessage::Beat { held, load_ppm: self.pantry.load_ppm() };
                    if let Err(error) = link::write(writer, &message, FRAME_BYTES_MAX).await {
                        return error.into();
                    }
                }
                _ = stopping.changed() => return SessionEnd::Stopping,
            }
        }
    }

    /// Turns what waits into as few messages as possible: commitments and reports in batches, one want.
    fn merge(&self, waiting: &mut Vec<Out>) -> Vec<AgentMessage> {
        let mut messages = Vec::new();
        let (mut items, mut reports, mut bytes) = (Vec::new(), Vec::new(), 0);
        for out in waiting.drain(..) {
            match out {
                Out::Commit(lease, commitment) => items.push((lease, commitment)),
                Out::Report(report) => {
                    bytes += report.blobs.iter().map(|blob| blob.bytes.len()).sum::<usize>()
                        + report.stderr.len()
                        + 1024;
                    reports.push(*report);
                    if reports.len() >= REPORTS_MAX || bytes > FRAME_BYTES_MAX / 4 {
                        messages.push(AgentMessage::Report { reports: std::mem::take(&mut reports) });
                        bytes = 0;
                    }
                }
                Out::Room => {}
                Out::Say(message) => messages.push(message),
            }
        }
        if !items.is_empty() {
            messages.push(AgentMessage::Commit { items });
        }
        if !reports.is_empty() {
            messages.push(AgentMessage::Report { reports });
        }
        if let Some(replicas) = lock(&self.board).room(self.slots) {
            messages.push(AgentMessage::Want { replicas });
        }
        messages
    }

    fn take_in(
        &self,
        coordinator: NodeId,
        cell: CellId,
        message: CoordinatorMessage,
        manifests: &mut BTreeMap<JobId, Arc<Signed<Manifest>>>,
    ) -> Result<(), Refusal> {
        match message {
            CoordinatorMessage::Grant { grant, manifest } => {
                if let Some(manifest) = manifest {
                    if manifests.len() >= MANIFESTS_MAX {
                        manifests.clear();
                    }
                    manifests.insert(grant.job, Arc::new(*manifest));
                }
                self.granted(coordinator, cell, *grant, manifests);
            }
            CoordinatorMessage::AskReveal { leases } => self.reveal(&leases),
            CoordinatorMessage::Revoke { leases } => self.revoke(&leases),
            CoordinatorMessage::Settled { leases } => {
                let settled = lock(&self.board).settle(&leases);
                self.counters.settled.fetch_add(settled, Ordering::Relaxed);
                self.out(Out::Room);
            }
            CoordinatorMessage::Refused { refusal } => return Err(refusal),
            CoordinatorMessage::Welcome { .. } => {}
        }
        Ok(())
    }

    /// Checks a grant once more before anything runs: who signed it, for whom, and whether the owner consents.
    fn granted(
        &self,
        coordinator: NodeId,
        cell: CellId,
        grant: Signed<Grant>,
        manifests: &BTreeMap<JobId, Arc<Signed<Manifest>>>,
    ) {
        let leases: Vec<LeaseId> = grant.leases.iter().map(|term| term.lease).collect();
        let refuse = |why: &'static str| {
            tracing::warn!(job = %grant.job, why, "grant refused");
            self.say(AgentMessage::Return { leases: leases.clone() });
        };
        {
            let mut board = lock(&self.board);
            board.wanted = board.wanted.saturating_sub(leases.len() as u64);
        }
        if grant.signed_by(&coordinator.0).is_err() {
            return refuse("not signed by the coordinator");
        }
        if grant.cell != cell || grant.node != self.node() || leases.is_empty() || leases.len() > LEASES_MAX {
            return refuse("not for this node");
        }
        let Some(manifest) = manifests.get(&grant.job).cloned() else {
            return refuse("its manifest is unknown");
        };
        if manifest.cid() != grant.manifest || usize::from(grant.stage) >= manifest.stages.len() {
            return refuse("it does not fit its manifest");
        }
        if !self.consents.contains(&manifest.class) {
            return refuse("the owner does not consent to its class");
        }
        let mut board = lock(&self.board);
        if board.paused {
            drop(board);
            return refuse("the donor has paused");
        }
        let order = Arc::new(Order { manifest, holders: vec![coordinator], grant });
        for term in &order.grant.leases {
            if board.held.insert(term.lease, Held::Queued).is_none() {
                board.queue.push_back(Assignment {
                    lease: term.lease,
                    index: term.index,
                    order: order.clone(),
                });
            }
        }
        drop(board);
        self.work.notify_waiters();
        self.out(Out::Room);
    }

    fn reveal(&self, leases: &[LeaseId]) {
        let mut board = lock(&self.board);
        let mut reports = Vec::new();
        for lease in leases {
            if let Some(held) = board.held.get_mut(lease)
                && let Held::Waiting(report, _) = held
            {
                let report = report.clone();
                *held = Held::Reported(report.clone());
                reports.push(report);
            }
        }
        drop(board);
        for report in reports {
            self.out(Out::Report(report));
        }
    }

    fn revoke(&self, leases: &[LeaseId]) {
        let mut board = lock(&self.board);
        let gone: BTreeSet<LeaseId> = leases.iter().copied().collect();
        board.queue.retain(|assignment| !gone.contains(&assignment.lease));
        let mut running = Vec::new();
        for lease in &gone {
            match board.held.get(lease) {
                Some(Held::Running) => {
                    board.revoked.insert(*lease);
                    running.push(*lease);
                }
                Some(Held::Queued | Held::Waiting(..) | Held::Reported(_)) => {
                    board.held.remove(lease);
                }
                None => {}
            }
        }
        drop(board);
        for lease in running {
            self.pantry.end_guest(lease);
        }
        self.out(Out::Room);
    }
}

#[cfg(test)]
mod tests {
    use wc_types::cid::{CODEC_RAW, cid_of};
    use wc_types::outcome::{Ending, Outcome, Usage};
    use wc_types::{CellId, Timestamp};

    use super::*;

    const SLOTS: u16 = 8;

    /// What a cell remembers of one node: leases that it holds, and how many more it may be given.
    #[derive(Default)]
    struct CellSide {
        held: BTreeSet<LeaseId>,
        credit: u32,
        lease_next: u64,
    }

    impl CellSide {
        /// As `wc-cell` does it: whatever is wanted beyond the limit is forgotten.
        fn want(&mut self, replicas: u32) {
            let held = u32::try_from(self.held.len()).expect("bounded");
            self.credit = self.credit.saturating_add(replicas).min(NODE_LEASES_MAX.saturating_sub(held));
        }

        fn grant(&mut self) -> Vec<LeaseId> {
            let granted: Vec<_> = (0..std::mem::take(&mut self.credit))
                .map(|at| LeaseId(self.lease_next + u64::from(at)))
                .collect();
            self.lease_next += granted.len() as u64;
            self.held.extend(&granted);
            granted
        }
    }

    fn report() -> Report {
        let key = SigningKey::from_seed(&[1; 32]);
        let outcome = Outcome {
            cell: CellId([0; 32]),
            job: JobId([0; 32]),
            stage: 0,
            index: 0,
            lease: LeaseId(0),
            node: key.node_id(),
            ending: Ending::Result { record: cid_of(CODEC_RAW, b"the same everywhere"), success: true },
            usage: Usage::default(),
            salt: [0; 16],
            ended_at: Timestamp(0),
        };
        Report { outcome: Signed::seal(outcome, &key), blobs: Vec::new(), stderr: Vec::new() }
    }

    /// Seen by users as an array of 20,000 tasks with three replicas that stood still for good: the fastest donor had
    /// committed to 4,096 tasks, asked for more while the others were behind, and waited for grants that the cell had
    /// forgotten it owed.
    #[test]
    fn a_donor_far_ahead_of_the_others_asks_again_when_its_commitments_are_settled() {
        let mut board = Board { task_micros: 1, ..Board::default() };
        let mut cell = CellSide::default();
        let report = Box::new(report());
        let commitment =
            Commitment::new(&cid_of(CODEC_RAW, b"the same everywhere"), &[0; 16], &report.outcome.node);
        for round in 0..3 {
            // It runs all that it is given at once, commits, and hears nothing of the slower ones.
            let mut given = 0;
            while let Some(replicas) = board.room(SLOTS) {
                cell.want(replicas);
                for lease in cell.grant() {
                    board.wanted -= 1;
                    board.held.insert(lease, Held::Waiting(report.clone(), commitment));
                    given += 1;
                }
            }
            assert!(given > 0, "round {round}: the donor asks for nothing more and waits for good");
            assert_eq!(
                board.wanted, 0,
                "round {round}: the donor waits for leases that the cell has forgotten"
            );
            assert_eq!(board.held.keys().copied().collect::<BTreeSet<_>>(), cell.held, "round {round}");
            // The others catch up.
            let settled: Vec<_> = std::mem::take(&mut cell.held).into_iter().collect();
            assert_eq!(board.settle(&settled), settled.len() as u64);
        }
    }
}
