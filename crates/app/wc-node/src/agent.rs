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
//!
//! An agent serves its home cell and, when that leaves slots idle, other cells of its network that it has met: one
//! session with each, one [`board`](Board) for all. Every lease is its cell's own; nothing is passed from one to another.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use wc_mesh::Mesh;
use wc_proto::frame;
use wc_proto::limit::{FRAME_BYTES_MAX, REPORTS_MAX};
use wc_proto::peer::session::{AgentMessage, CoordinatorMessage, Report};
use wc_sandbox::Sandbox;
use wc_store::Store;
use wc_types::charter::{Founding, cell_id};
use wc_types::directive::Directives;
use wc_types::grant::{Grant, LEASES_MAX, LeaseTerm};
use wc_types::manifest::{Manifest, WorkClass};
use wc_types::node::Enrolment;
use wc_types::outcome::Commitment;
use wc_types::{CellId, JobId, LeaseId, NodeId, Refusal, Signed, SigningKey, to_canonical};

use self::board::{Board, HOME_FIRST};
pub(crate) use self::board::{Claim, Tally};
use crate::coordinator::lock;
use crate::flow::run;
use crate::link::{self, LinkError};

mod board;

/// Manifests of different jobs that are kept between grants.
const MANIFESTS_MAX: usize = 256;
/// Messages of a coordinator that are kept until its welcome has come, and their bytes: until then it may be anybody.
const EARLY_MAX: usize = 256;
const EARLY_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;
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

impl Assignment {
    /// Returns the cell that granted it.
    pub fn cell(&self) -> CellId {
        self.order.grant.cell
    }

    /// Returns its whole name.
    pub fn claim(&self) -> Claim {
        Claim { cell: self.cell(), lease: self.lease }
    }

    /// Returns whether one worker runs both in one go. Two cells may know the same job, and other results of its
    /// earlier stages.
    fn runs_with(&self, other: &Self) -> bool {
        let (mine, theirs) = (&self.order.grant, &other.order.grant);
        mine.cell == theirs.cell && mine.job == theirs.job && mine.stage == theirs.stage
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
    /// Where directives go that a coordinator tells in its session.
    directed: mpsc::Sender<Signed<Directives>>,
    board: Mutex<Board>,
    work: Notify,
    /// Whether a look is planned at what the home cell leaves idle.
    looking: AtomicBool,
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
    /// Whoever coordinated the cell keeps another one now.
    #[error("its coordinator keeps another cell now, {actual}")]
    OtherCell {
        /// Which.
        actual: CellId,
    },
    /// The node stops.
    #[error("the node stops")]
    Stopping,
}

/// What a coordinator says before its welcome.
#[derive(Default)]
struct Early {
    messages: Vec<CoordinatorMessage>,
    bytes: usize,
}

impl Early {
    /// Keeps a message; returns whether there was room for it.
    fn keep(&mut self, message: CoordinatorMessage) -> bool {
        self.bytes = self.bytes.saturating_add(to_canonical(&message).len());
        if self.messages.len() >= EARLY_MAX || self.bytes > EARLY_BYTES_MAX {
            return false;
        }
        self.messages.push(message);
        true
    }
}

/// Waits for a coordinator's welcome, and returns what it said before: the cell may have work for a node that comes back
/// before the coordinator gets to its welcome.
async fn welcomed(
    reader: &mut (impl AsyncBufRead + Unpin),
) -> Result<(Signed<Founding>, Vec<CoordinatorMessage>), SessionEnd> {
    let mut early = Early::default();
    loop {
        match link::read(reader, FRAME_BYTES_MAX).await {
            Ok(CoordinatorMessage::Welcome { founding }) => return Ok((*founding, early.messages)),
            Ok(CoordinatorMessage::Refused { refusal }) => return Err(SessionEnd::Refused(refusal)),
            Ok(message) => {
                if !early.keep(message) {
                    return Err(SessionEnd::Link(LinkError::Closed));
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

impl Agent {
    /// Returns an idle agent.
    #[expect(clippy::too_many_arguments, reason = "one caller, which has made each of them")]
    pub fn new(
        key: Arc<SigningKey>,
        store: Store,
        mesh: Mesh,
        sandbox: Arc<Sandbox>,
        pantry: run::Pantry,
        consents: Vec<WorkClass>,
        slots: u16,
        directed: mpsc::Sender<Signed<Directives>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            key,
            store,
            mesh,
            sandbox,
            pantry,
            consents,
            slots,
            directed,
            board: Mutex::default(),
            work: Notify::new(),
            looking: AtomicBool::new(false),
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

    /// Returns what was done for each cell since the start, and whether it is in session.
    pub fn tallies(&self) -> BTreeMap<CellId, Tally> {
        lock(&self.board).tallies()
    }

    /// Returns whether a cell is in session.
    pub fn is_in_session(&self, cell: CellId) -> bool {
        lock(&self.board).is_seated(cell)
    }

    /// Says which cell's work comes first.
    pub fn set_home(&self, home: CellId) {
        if lock(&self.board).set_home(home) {
            self.room();
        }
    }

    /// Ends everything about a cell for which this machine works no longer. The cell notices by itself.
    pub fn forget(&self, cell: CellId) {
        let held = {
            let mut board = lock(&self.board);
            board.get_up(cell);
            board.held_of(cell)
        };
        self.revoke(cell, &held);
    }

    /// Freezes every guest at once and takes no more work.
    pub fn pause(self: &Arc<Self>) {
        let frozen = self.sandbox.freezer().freeze_all();
        let queued = {
            let mut board = lock(&self.board);
            board.paused = true;
            board.clear_queue()
        };
        tracing::info!(workers = frozen.workers, micros = frozen.elapsed.as_micros(), "guests frozen");
        self.say_all(&AgentMessage::Paused { paused: true });
        self.give_back(&queued);
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
        let running = lock(&self.board).clear_running();
        self.sandbox.freezer().kill_all();
        self.give_back(&running);
    }

    /// Takes work again.
    pub fn resume(&self) {
        lock(&self.board).paused = false;
        self.sandbox.freezer().thaw_all();
        self.say_all(&AgentMessage::Paused { paused: false });
        self.work.notify_waiters();
        self.room();
    }

    /// Gives everything back, ends the guests and says goodbye.
    pub async fn leave(&self) {
        let queued = {
            let mut board = lock(&self.board);
            board.paused = true;
            board.clear_queue()
        };
        self.release();
        self.give_back(&queued);
        self.say_all(&AgentMessage::Leave);
        // Long enough for the goodbye to be written; the coordinator notices our absence in any case.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    /// Takes nothing new from a cell that is halted, and gives back what has not begun; or asks it again.
    pub fn set_halted(&self, cell: CellId, halted: bool) {
        let (changed, queued) = lock(&self.board).set_halted(cell, halted);
        if changed {
            tracing::info!(%cell, halted, returned = queued.len(), "the cell is halted, or no longer");
            self.give_back(&queued);
            self.room();
        }
    }

    /// Returns whether the node ends.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Ends the slots and the sessions.
    pub fn stop(&self) {
        let _ = self.stopping.send(true);
        self.sandbox.freezer().kill_all();
    }

    /// Gives leases back, each to its cell.
    fn give_back(&self, claims: &[Claim]) {
        let mut leases: BTreeMap<CellId, Vec<LeaseId>> = BTreeMap::new();
        for claim in claims {
            leases.entry(claim.cell).or_default().push(claim.lease);
        }
        for (cell, leases) in leases {
            self.say(cell, AgentMessage::Return { leases });
        }
    }

    fn say(&self, cell: CellId, message: AgentMessage) {
        self.out(cell, Out::Say(message));
    }

    fn say_all(&self, message: &AgentMessage) {
        for outbox in lock(&self.board).outboxes() {
            let _ = outbox.try_send(Out::Say(message.clone()));
        }
    }

    fn out(&self, cell: CellId, out: Out) {
        if let Some(outbox) = lock(&self.board).outbox(cell) {
            // A full outbox means a dead connection: what matters is held and offered again in the next session.
            let _ = outbox.try_send(out);
        }
    }

    /// Room may have come free, for whichever cell has work.
    fn room(&self) {
        for outbox in lock(&self.board).outboxes() {
            let _ = outbox.try_send(Out::Room);
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
            lock(&self.board).done(micros);
            self.room();
        }
    }

    /// Waits for work and takes a batch of one stage.
    async fn take(&self) -> Vec<Assignment> {
        loop {
            let notified = self.work.notified();
            tokio::pin!(notified);
            // Registered before looking, so that work which arrives in between wakes this slot.
            notified.as_mut().enable();
            let batch = lock(&self.board).take(self.slots);
            if let Some(batch) = batch {
                self.room();
                return batch;
            }
            notified.await;
        }
    }

    /// Returns whether a lease was revoked before it started.
    pub fn is_revoked(&self, claim: &Claim) -> bool {
        lock(&self.board).is_revoked(claim)
    }

    /// Takes what a slot found out about a lease: commits to it or reports it.
    pub fn finish(&self, assignment: &Assignment, report: Report) {
        let commitment = report
            .outcome
            .result()
            .filter(|_| assignment.order.grant.commit_first)
            .map(|result| Commitment::new(result, &report.outcome.salt, &report.outcome.node));
        let out = lock(&self.board).finish(assignment.claim(), Box::new(report), commitment);
        if let Some(out) = out {
            self.out(assignment.cell(), out);
        }
    }

    /// Puts back a lease that was not run after all, for another try in this machine.
    pub fn put_back(&self, assignment: Assignment) {
        let claim = assignment.claim();
        if lock(&self.board).put_back(assignment) {
            self.work.notify_one();
        } else {
            self.give_back(&[claim]);
        }
    }

    /// Talks with the coordinator of a cell until the connection ends.
    pub async fn converse<S>(
        self: &Arc<Self>,
        cell: CellId,
        coordinator: NodeId,
        enrolment: Signed<Enrolment>,
        stream: S,
    ) -> SessionEnd
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::with_capacity(64 << 10, reader);
        let held = lock(&self.board).held_of(cell);
        let enrol = AgentMessage::Enrol { enrolment: Box::new(enrolment), held };
        if let Err(error) = link::write(&mut writer, &enrol, FRAME_BYTES_MAX).await {
            return error.into();
        }
        let (founding, early) = match welcomed(&mut reader).await {
            Ok(welcomed) => welcomed,
            Err(end) => return end,
        };
        let actual = cell_id(&founding);
        if actual != cell {
            return SessionEnd::OtherCell { actual };
        }
        let beat = Duration::from_millis(founding.charter.beat.0.max(500));
        let (outbox, out) = mpsc::channel(OUTBOX_MAX);
        self.offer_again(cell, outbox);
        let (inbox, messages) = mpsc::channel(64);
        // Ends with this session, also where that is cut short.
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            for message in early {
                if inbox.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            loop {
                let message = link::read::<CoordinatorMessage>(&mut reader, FRAME_BYTES_MAX).await;
                let ended = message.is_err();
                if inbox.send(message).await.is_err() || ended {
                    return;
                }
            }
        });
        let end = self.exchange(coordinator, cell, beat, &mut writer, out, messages).await;
        lock(&self.board).get_up(cell);
        // What this cell does not ask for any more, another may.
        self.room();
        end
    }

    /// Opens the session, and offers everything that an earlier one left unsettled.
    fn offer_again(&self, cell: CellId, outbox: mpsc::Sender<Out>) {
        let mut board = lock(&self.board);
        for out in board.unsettled(cell) {
            let _ = outbox.try_send(out);
        }
        if board.paused {
            let _ = outbox.try_send(Out::Say(AgentMessage::Paused { paused: true }));
        }
        let _ = outbox.try_send(Out::Room);
        board.sit_down(cell, outbox);
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
        let mut told = false;
        if let Err(error) = self.tell_inspection(coordinator, &mut told, writer).await {
            return error.into();
        }
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
                    for message in self.merge(cell, &mut waiting) {
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
                    if let Err(error) = self.tell_inspection(coordinator, &mut told, writer).await {
                        return error.into();
                    }
                    let held = lock(&self.board).held_of(cell);
                    let message = AgentMessage::Beat { held, load_ppm: self.pantry.load_ppm() };
                    if let Err(error) = link::write(writer, &message, FRAME_BYTES_MAX).await {
                        return error.into();
                    }
                }
                _ = stopping.changed() => return SessionEnd::Stopping,
            }
        }
    }

    /// Tells the coordinator whether our way to it is inspected, when that is not what it was told last.
    async fn tell_inspection(
        &self,
        coordinator: NodeId,
        told: &mut bool,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), LinkError> {
        let peer = self.mesh.peer(coordinator).await;
        let Some(inspected) = peer.map(|peer| peer.inspected.is_some()) else { return Ok(()) };
        if inspected != *told {
            link::write(writer, &AgentMessage::Inspected { inspected }, FRAME_BYTES_MAX).await?;
            *told = inspected;
        }
        Ok(())
    }

    /// Turns what waits into as few messages as possible: commitments and reports in batches, one want.
    fn merge(self: &Arc<Self>, cell: CellId, waiting: &mut Vec<Out>) -> Vec<AgentMessage> {
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
        let mut board = lock(&self.board);
        if let Some(replicas) = board.room(cell, self.slots, Instant::now()) {
            messages.push(AgentMessage::Want { replicas });
            if board.serves_others() && !self.looking.swap(true, Ordering::Relaxed) {
                // What nobody has answered by then, others may be asked for.
                let agent = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(HOME_FIRST + Duration::from_millis(10)).await;
                    agent.looking.store(false, Ordering::Relaxed);
                    agent.room();
                });
            }
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
            CoordinatorMessage::AskReveal { leases } => self.reveal(cell, &leases),
            CoordinatorMessage::Revoke { leases } => self.revoke(cell, &leases),
            CoordinatorMessage::Settled { leases } => {
                lock(&self.board).settle(cell, &leases);
                self.room();
            }
            CoordinatorMessage::Directed { directives } => {
                // Whoever reads them checks whose they are. What cannot be taken in now comes with the next session.
                let _ = self.directed.try_send(*directives);
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
            self.say(cell, AgentMessage::Return { leases: leases.clone() });
        };
        lock(&self.board).answered(cell, leases.len() as u64);
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
        let why = match () {
            () if board.paused => Some("the donor has paused"),
            () if board.is_halted(cell) => Some("the cell is halted"),
            () => None,
        };
        if let Some(why) = why {
            drop(board);
            return refuse(why);
        }
        let order = Arc::new(Order { manifest, holders: vec![coordinator], grant });
        let assignment =
            |term: &LeaseTerm| Assignment { lease: term.lease, index: term.index, order: order.clone() };
        let granted = order.grant.leases.iter().map(assignment).collect();
        let surplus = board.grant(cell, granted, self.slots);
        drop(board);
        if !surplus.is_empty() {
            tracing::debug!(%cell, leases = surplus.len(), "there is enough to do; given back");
            self.give_back(&surplus);
        }
        self.work.notify_waiters();
        self.room();
    }

    fn reveal(&self, cell: CellId, leases: &[LeaseId]) {
        let reports = lock(&self.board).reveal(cell, leases);
        for report in reports {
            self.out(cell, Out::Report(Box::new(report)));
        }
    }

    fn revoke(&self, cell: CellId, leases: &[LeaseId]) {
        let running = lock(&self.board).revoke(cell, leases);
        for claim in running {
            self.pantry.end_guest(claim);
        }
        self.room();
    }
}

#[cfg(test)]
mod tests {
    use wc_types::Timestamp;
    use wc_types::charter::Charter;

    use super::*;

    #[tokio::test]
    async fn what_a_coordinator_grants_before_its_welcome_is_not_lost() {
        let key = SigningKey::from_seed(&[1; 32]);
        let founding = Founding {
            network: "lab".to_owned(),
            coordinator: key.node_id(),
            owner: key.account_id(),
            charter: Charter::default(),
            founded_at: Timestamp(1),
        };
        let founding = Signed::seal(founding, &key);
        let granted = CoordinatorMessage::Settled { leases: vec![LeaseId(7)] };
        let (mut theirs, ours) = tokio::io::duplex(1 << 16);
        for message in [&granted, &CoordinatorMessage::Welcome { founding: Box::new(founding.clone()) }] {
            link::write(&mut theirs, message, FRAME_BYTES_MAX).await.unwrap();
        }
        let (welcome, early) = welcomed(&mut BufReader::new(ours)).await.unwrap();
        assert_eq!((cell_id(&welcome), early), (cell_id(&founding), vec![granted]));
    }

    #[test]
    fn whoever_says_much_before_its_welcome_takes_no_more_memory_than_two_frames() {
        let told = |leases| CoordinatorMessage::Settled { leases: vec![LeaseId(u64::MAX); leases] };
        let mut early = Early::default();
        assert_eq!((0..1000).filter(|_| early.keep(told(1))).count(), EARLY_MAX);
        let mut early = Early::default();
        // Some 7 MiB each.
        let kept = (0..20).filter(|_| early.keep(told(800_000))).count();
        assert_eq!(kept, 2);
    }
}
