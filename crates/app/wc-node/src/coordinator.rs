//! The coordinator of a cell: its sessions with donors, and the hands that perform what the cell commands.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Notify, mpsc};
use wc_cell::{Command, Event};
use wc_mesh::Mesh;
use wc_proto::frame;
use wc_proto::limit::FRAME_BYTES_MAX;
use wc_proto::peer::session::{AgentMessage, CoordinatorMessage};
use wc_store::Store;
use wc_types::charter::Founding;
use wc_types::code::{Class, Code};
use wc_types::directive::Directives;
use wc_types::entry::JobEnd;
use wc_types::node::{Enrolment, Path, Reach};
use wc_types::{CellId, JobId, LeaseId, Millis, NodeId, Refusal, Signed, SigningKey};

use crate::anchor::{Anchoring, Shelf};
use crate::archive::Archive;
use crate::brain::{Brain, BrainError, Performer};
use crate::cells::Cells;
use crate::control::StateHash;
use crate::directives;
use crate::flow::{agree, dispatch, post, report, stage};
use crate::link::{self, LinkError};
use crate::pace::{MEMBERSHIP_ROWS, Pace, RETURNED_ROWS};
use crate::publish::Publication;
use crate::reach;
use crate::retention::Forgetter;
use crate::signers::notary::Notary;

/// Messages that may wait for one donor. A donor that reads slower than this is cut off and its leases are revoked.
const OUTBOX_MAX: usize = 4096;
/// How long a stream may stay open without an enrolment; until then it may hold one frame of memory.
const ENROL_TIMEOUT: Duration = Duration::from_secs(20);
/// Pauses that are longer are worth a line in the log.
const HELD_BACK_TOLD: Duration = Duration::from_secs(5);
/// Donors that may be connected at once.
const SESSIONS_MAX: usize = 10_000;

const REFUSED_ENROLMENT: Code = Code::new("WC-NODE-001", Class::Caller);
const EXPELLED: Code = Code::new("WC-NODE-003", Class::Caller);
const SESSIONS_FULL: Code = Code::new("WC-NODE-002", Class::Exhausted);

/// Locks a map whose holders never panic midway through a change.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One donor's session.
struct Session {
    id: u64,
    outbox: mpsc::Sender<CoordinatorMessage>,
    /// Jobs whose manifest this session has been sent.
    manifests: HashSet<JobId>,
    last_heard: Instant,
    /// Told when the node may not work here any more.
    expelled: Arc<Notify>,
    /// Whether the cell is about to know the node; before that it can be told nothing of it.
    enrolled: bool,
    /// Its path as the cell knows it.
    path: Option<Path>,
    /// Whether the donor says that its way to us is inspected.
    inspected: bool,
}

/// Who is connected, and who was until a moment ago.
#[derive(Default)]
pub(crate) struct Sessions {
    live: Mutex<HashMap<NodeId, Session>>,
    gone: Mutex<BTreeMap<NodeId, Instant>>,
    /// Nodes that the cell counted on when this process started, and that have not come back yet.
    awaited: Mutex<BTreeSet<NodeId>>,
    next_id: AtomicU64,
    /// How much each of them may make us write down.
    pub pace: Pace,
}

impl Sessions {
    fn open(&self, node: NodeId, outbox: mpsc::Sender<CoordinatorMessage>) -> Option<(u64, Arc<Notify>)> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut live = lock(&self.live);
        if live.len() >= SESSIONS_MAX && !live.contains_key(&node) {
            return None;
        }
        let expelled = Arc::new(Notify::new());
        let session = Session {
            id,
            outbox,
            manifests: HashSet::new(),
            last_heard: Instant::now(),
            expelled: expelled.clone(),
            enrolled: false,
            path: None,
            inspected: false,
        };
        live.insert(node, session);
        lock(&self.gone).remove(&node);
        Some((id, expelled))
    }

    /// Ends a node's session: the cell does not work with it any more.
    pub fn expel(&self, node: NodeId) {
        if let Some(session) = lock(&self.live).get(&node) {
            session.expelled.notify_one();
        }
    }

    /// Ends the session numbered `id`, unless a newer one of the same node has taken its place.
    fn close(&self, node: NodeId, id: u64) {
        let mut live = lock(&self.live);
        if live.get(&node).is_some_and(|session| session.id == id) {
            live.remove(&node);
            lock(&self.gone).insert(node, Instant::now());
        }
    }

    fn heard(&self, node: NodeId) {
        if let Some(session) = lock(&self.live).get_mut(&node) {
            session.last_heard = Instant::now();
        }
    }

    /// Notes that a node is enrolled next.
    fn enrol(&self, node: NodeId) {
        if let Some(session) = lock(&self.live).get_mut(&node) {
            session.enrolled = true;
        }
    }

    /// Tells everybody who is in session what the cell orders. Gossip may lose an order, or leave out the last of many; who
    /// does not read now hears it in its next session.
    pub fn direct(&self, directives: &Signed<Directives>) {
        for session in lock(&self.live).values().filter(|session| session.enrolled) {
            let directives = Box::new(directives.clone());
            let _ = session.outbox.try_send(CoordinatorMessage::Directed { directives });
        }
    }

    /// Notes the donor's word on whether its way to us is inspected.
    fn inspected(&self, node: NodeId, inspected: bool) {
        if let Some(session) = lock(&self.live).get_mut(&node) {
            session.inspected = inspected;
        }
    }

    /// Takes the path that a node's connection has now; returns what the cell has to be told, if that is another than it
    /// knows. A round trip is told once per path: it changes all the time, and every change would be kept for ever.
    pub fn path(&self, node: NodeId, seen: Path) -> Option<Event> {
        let mut live = lock(&self.live);
        let session = live.get_mut(&node).filter(|session| session.enrolled)?;
        let seen = Path { inspected: seen.inspected || session.inspected, ..seen };
        let is_known = session.path.is_some_and(|known| {
            (known.reach, known.inspected) == (seen.reach, seen.inspected)
                && (known.rtt.is_some() || seen.rtt.is_none())
        });
        if is_known {
            return None;
        }
        session.path = Some(seen);
        Some(Event::NodeReached { node, path: seen })
    }

    /// Sends to a node, if it is connected. A full outbox ends the session.
    pub fn send(&self, node: NodeId, message: CoordinatorMessage) -> bool {
        let mut live = lock(&self.live);
        let Some(session) = live.get(&node) else { return false };
        if session.outbox.try_send(message).is_ok() {
            return true;
        }
        tracing::warn!(%node, "donor does not read its messages; session ended");
        live.remove(&node);
        lock(&self.gone).insert(node, Instant::now());
        false
    }

    /// Returns whether the node still has to be sent the job's manifest, and notes that it has been.
    pub fn needs_manifest(&self, node: NodeId, job: JobId) -> bool {
        lock(&self.live).get_mut(&node).is_some_and(|session| session.manifests.insert(job))
    }

    /// Forgets which manifests a node knows: one that it does not know may be why it returned leases.
    fn forget_manifests(&self, node: NodeId) {
        if let Some(session) = lock(&self.live).get_mut(&node) {
            session.manifests.clear();
        }
    }

    /// Forgets which sessions know a job that has ended.
    pub fn forget_job(&self, job: &JobId) {
        for session in lock(&self.live).values_mut() {
            session.manifests.remove(job);
        }
    }

    /// Returns whether the node is connected.
    pub fn is_live(&self, node: &NodeId) -> bool {
        lock(&self.live).contains_key(node)
    }

    /// Returns how many nodes are connected.
    pub fn count(&self) -> usize {
        lock(&self.live).len()
    }

    /// Counts a node as gone from a moment on that is still to come, if it is not connected.
    pub fn expect(&self, node: NodeId, within: Duration) {
        if !self.is_live(&node) {
            lock(&self.gone).entry(node).or_insert_with(|| Instant::now() + within);
            lock(&self.awaited).insert(node);
        }
    }

    /// Returns whether a node comes back for the first time since this process started: what was granted and never
    /// reached it is not its fault.
    fn was_awaited(&self, node: &NodeId) -> bool {
        lock(&self.awaited).remove(node)
    }

    /// Ends the sessions of nodes that were silent for longer than `silence`, and takes out the nodes that have been
    /// gone for longer than `grace`.
    pub fn lost(&self, silence: Duration, grace: Duration) -> Vec<NodeId> {
        let mut lost = Vec::new();
        lock(&self.live).retain(|node, session| {
            let silent = session.last_heard.elapsed() > silence;
            if silent {
                lost.push(*node);
            }
            !silent
        });
        lock(&self.gone).retain(|node, since| {
            // Nothing has passed yet of a moment to come.
            let over = since.elapsed() > grace;
            if over {
                lost.push(*node);
            }
            !over
        });
        lost
    }
}

/// The coordinator. One per cell; shared by its sessions and requests.
pub(crate) struct Coordinator {
    /// The loop.
    pub brain: Brain,
    /// What follows from the journal.
    pub archive: Archive,
    /// Blobs.
    pub store: Store,
    /// Other machines.
    pub mesh: Mesh,
    /// Signs grants and receipts, and checkpoints while nobody else does.
    pub key: Arc<SigningKey>,
    /// The cell's founding record.
    pub founding: Signed<Founding>,
    /// The cell.
    pub cell: CellId,
    /// Connected donors.
    pub sessions: Arc<Sessions>,
    /// Jobs being staged: who has their blobs.
    pub staging: Arc<stage::Staging>,
    /// Has checkpoints signed.
    pub notary: Notary,
    /// The published ledger.
    pub publication: Arc<Publication>,
    /// Where each job's log goes on.
    pub log_positions: Mutex<HashMap<JobId, u64>>,
    /// The anchors of its checkpoints.
    pub anchors: Shelf,
    /// How they are made, if they are.
    pub anchoring: Option<Arc<Anchoring>>,
    /// Other cells that this node has met.
    pub cells: Arc<Cells>,
    /// Held while an order is numbered.
    pub ordering: tokio::sync::Mutex<()>,
    /// Where this machine itself is told what its cell orders.
    pub directed: mpsc::Sender<Signed<Directives>>,
    /// Digest of the state, as it was last asked for.
    pub state_hash: tokio::sync::Mutex<Option<StateHash>>,
}

impl Coordinator {
    /// Returns who coordinates: this node.
    pub fn node(&self) -> NodeId {
        self.key.node_id()
    }

    /// Serves one donor until its stream ends. `node` is who the transport says it is.
    pub async fn serve_session<S>(self: Arc<Self>, node: NodeId, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::with_capacity(64 << 10, reader);
        let (outbox, mut messages) = mpsc::channel::<CoordinatorMessage>(OUTBOX_MAX);
        let writing = tokio::spawn(async move {
            let mut buffer = Vec::new();
            while let Some(message) = messages.recv().await {
                buffer.clear();
                append_frame(&mut buffer, &message);
                while buffer.len() < (256 << 10) {
                    let Ok(message) = messages.try_recv() else { break };
                    append_frame(&mut buffer, &message);
                }
                if writer.write_all(&buffer).await.is_err() || writer.flush().await.is_err() {
                    return;
                }
            }
            let _ = writer.shutdown().await;
        });
        let ended = self.clone().converse(node, &mut reader, outbox).await;
        match ended {
            Ok(()) | Err(SessionError::Link(LinkError::Closed | LinkError::Io(_))) => {
                tracing::info!(%node, "donor disconnected");
            }
            Err(SessionError::Link(error)) => {
                tracing::warn!(%node, %error, "donor misbehaved");
                self.mesh.report_misbehaviour(node, error.to_string());
            }
            Err(SessionError::Refused(refusal)) => {
                tracing::warn!(%node, %refusal, "donor refused");
                if refusal.class == Class::Peer {
                    // Forgery is no accident: this process does not talk to that machine again.
                    self.mesh.report_misbehaviour(node, refusal.message);
                    self.mesh.ban(node).await;
                }
            }
            Err(SessionError::Brain(error)) => tracing::error!(%node, %error, "session ends"),
        }
        let _ = tokio::time::timeout(Duration::from_secs(2), writing).await;
    }

    async fn converse(
        self: Arc<Self>,
        node: NodeId,
        reader: &mut (impl AsyncBufRead + Unpin),
        outbox: mpsc::Sender<CoordinatorMessage>,
    ) -> Result<(), SessionError> {
        let Ok(first) = tokio::time::timeout(ENROL_TIMEOUT, link::read(reader, FRAME_BYTES_MAX)).await else {
            let reason = format!("no enrolment came within {} s", ENROL_TIMEOUT.as_secs());
            return Err(SessionError::Refused(Refusal::new(REFUSED_ENROLMENT, reason)));
        };
        let AgentMessage::Enrol { enrolment, held } = first? else {
            let refusal =
                Refusal::new(REFUSED_ENROLMENT, "the first message of a session must be an enrolment");
            let _ = outbox.send(CoordinatorMessage::Refused { refusal: refusal.clone() }).await;
            return Err(SessionError::Refused(refusal));
        };
        if let Err(refusal) = check_enrolment(node, &enrolment) {
            let _ = outbox.send(CoordinatorMessage::Refused { refusal: refusal.clone() }).await;
            return Err(SessionError::Refused(refusal));
        }
        let Some((session, expelled)) = self.sessions.open(node, outbox.clone()) else {
            let refusal =
                Refusal::new(SESSIONS_FULL, format!("this coordinator already serves {SESSIONS_MAX} donors"));
            let _ = outbox.send(CoordinatorMessage::Refused { refusal: refusal.clone() }).await;
            return Err(SessionError::Refused(refusal));
        };
        let outcome = tokio::select! {
            outcome = self.clone().enrolled(node, *enrolment, held, reader, &outbox) => outcome,
            () = expelled.notified() => {
                let refusal = Refusal::new(EXPELLED, "the cell has banned this node");
                let _ = outbox.try_send(CoordinatorMessage::Refused { refusal: refusal.clone() });
                Err(SessionError::Refused(refusal))
            }
        };
        self.sessions.close(node, session);
        outcome
    }

    async fn enrolled(
        self: Arc<Self>,
        node: NodeId,
        enrolment: Signed<Enrolment>,
        held: Vec<LeaseId>,
        reader: &mut (impl AsyncBufRead + Unpin),
        outbox: &mpsc::Sender<CoordinatorMessage>,
    ) -> Result<(), SessionError> {
        let look = move |cell: &wc_cell::Cell| (cell.node(&node).is_some(), cell.ban_refusal(&node));
        let (known, banned) = self.brain.peek(look).await?;
        if let Some(refusal) = banned {
            // However often it comes: nothing is written down for it.
            let _ = outbox.send(CoordinatorMessage::Refused { refusal: refusal.clone() }).await;
            return Err(SessionError::Refused(refusal));
        }
        let now = Instant::now();
        let newcomer = if known { Duration::ZERO } else { self.sessions.pace.newcomer(now) };
        let wait = newcomer.max(self.sessions.pace.charge(node, MEMBERSHIP_ROWS, now));
        tokio::select! {
            () = self.hold_back(node, wait) => {}
            // Its place is somebody else's, and nothing is written down for it.
            () = hung_up(reader) => return Err(SessionError::Link(LinkError::Closed)),
        }
        self.sessions.enrol(node);
        let path = self.path_of(node).await.into_iter().collect();
        if let Err(refusals) = self.brain.ask(Event::NodeJoined(enrolment.witnessed()), path).await? {
            let refusal = refusals
                .into_iter()
                .next()
                .unwrap_or_else(|| Refusal::new(REFUSED_ENROLMENT, "the cell does not take this node"));
            let _ = outbox.send(CoordinatorMessage::Refused { refusal: refusal.clone() }).await;
            return Err(SessionError::Refused(refusal));
        }
        // Whatever the node does not bring along from an earlier session is lost at once.
        let mut missing: BTreeSet<LeaseId> =
            self.brain.query(move |cell, _| cell.node_leases(&node)).await?.into_iter().collect();
        let is_charged = !self.sessions.was_awaited(&node);
        if !is_charged {
            // What was granted before this process started has been paid for, which this process does not remember.
            let brought = held.iter().filter(|lease| missing.contains(lease)).count();
            self.sessions.pace.granted(node, brought);
        }
        self.reconcile(node, held, &mut missing, is_charged, outbox).await?;
        let _ = outbox.send(CoordinatorMessage::Welcome { founding: Box::new(self.founding.clone()) }).await;
        if let Some(standing) = directives::welcome(&self).await {
            let _ = outbox.send(standing).await;
        }
        tracing::info!(%node, "donor joined");
        // Beats that were sent while the node was not read: they know nothing of what it was granted since.
        let mut stale_beats = 0;
        loop {
            let message = link::read(reader, FRAME_BYTES_MAX).await?;
            self.sessions.heard(node);
            let wait = self.sessions.pace.charge(node, rows_of(&message), Instant::now());
            self.hold_back(node, wait).await;
            stale_beats = stale_beats.max(beats_within(wait, self.founding.charter.beat));
            match message {
                AgentMessage::Enrol { enrolment, .. } => {
                    if let Err(refusal) = check_enrolment(node, &enrolment) {
                        let _ = outbox.send(CoordinatorMessage::Refused { refusal: refusal.clone() }).await;
                        return Err(SessionError::Refused(refusal));
                    }
                    self.brain.events(vec![Event::NodeJoined(enrolment.witnessed())]).await?;
                }
                AgentMessage::Want { replicas } => {
                    self.brain.events(vec![Event::WorkWanted { node, replicas }]).await?;
                }
                AgentMessage::Commit { items } => {
                    self.brain.events(vec![Event::Committed { node, items }]).await?;
                }
                AgentMessage::Report { reports } => report::ingest(&self, node, reports).await?,
                AgentMessage::Return { leases } => {
                    self.sessions.forget_manifests(node);
                    self.brain.events(vec![Event::Returned { node, leases }]).await?;
                }
                AgentMessage::Beat { .. } if stale_beats > 0 => {
                    stale_beats -= 1;
                    missing.clear();
                }
                AgentMessage::Beat { held, .. } => {
                    self.reconcile(node, held, &mut missing, true, outbox).await?;
                }
                AgentMessage::Paused { paused } => {
                    self.brain.events(vec![Event::NodePaused { node, paused }]).await?;
                }
                AgentMessage::Inspected { inspected } => {
                    self.sessions.inspected(node, inspected);
                    let path: Vec<Event> = self.path_of(node).await.into_iter().collect();
                    if !path.is_empty() {
                        self.brain.events(path).await?;
                    }
                }
                AgentMessage::Leave => {
                    self.brain.events(vec![Event::NodeLeft { node }]).await?;
                    return Ok(());
                }
            }
        }
    }

    /// Returns what the cell has to be told of a node's path, if anything.
    async fn path_of(&self, node: NodeId) -> Option<Event> {
        let path = if node == self.node() {
            Path { reach: Reach::Lan, rtt: None, inspected: false }
        } else {
            reach::path(&self.mesh.peer(node).await?)
        };
        self.sessions.path(node, path)
    }

    /// Waits before a node's message is taken in. Meanwhile the node counts as alive: it is us who do not listen.
    async fn hold_back(&self, node: NodeId, wait: Duration) {
        if wait > HELD_BACK_TOLD {
            tracing::warn!(%node, seconds = wait.as_secs(), "donor sends more than its work needs; it is read slowly");
        }
        let until = Instant::now() + wait;
        while Instant::now() < until && self.sessions.is_live(&node) {
            tokio::time::sleep(until.saturating_duration_since(Instant::now()).min(Duration::from_secs(1)))
                .await;
            self.sessions.heard(node);
        }
    }

    /// Settles a difference between the leases that the cell and the node believe in: what the node does not hold is
    /// granted again elsewhere, what the cell does not know is revoked. A grant may still be on its way, so a lease
    /// counts as missing when it was missing in the beat before, too.
    async fn reconcile(
        &self,
        node: NodeId,
        held: Vec<LeaseId>,
        missing: &mut BTreeSet<LeaseId>,
        is_charged: bool,
        outbox: &mpsc::Sender<CoordinatorMessage>,
    ) -> Result<(), SessionError> {
        let held: BTreeSet<LeaseId> = held.into_iter().collect();
        let live: BTreeSet<LeaseId> =
            self.brain.query(move |cell, _| cell.node_leases(&node)).await?.into_iter().collect();
        let unheld: BTreeSet<LeaseId> = live.difference(&held).copied().collect();
        let lost: Vec<LeaseId> = unheld.intersection(missing).copied().collect();
        *missing = unheld;
        if !lost.is_empty() {
            tracing::info!(%node, leases = lost.len(), "leases were lost on the way; granted again");
            self.sessions.forget_manifests(node);
            let rows = (lost.len() as u64).saturating_mul(RETURNED_ROWS);
            self.brain.events(vec![Event::Returned { node, leases: lost }]).await?;
            if is_charged {
                self.sessions.pace.charge(node, rows, Instant::now());
            }
        }
        let unknown: Vec<LeaseId> = held.difference(&live).copied().collect();
        if !unknown.is_empty() {
            // Settled and revoked look the same to a node that still holds them: forget.
            let _ = outbox.send(CoordinatorMessage::Revoke { leases: unknown }).await;
        }
        Ok(())
    }
}

/// Returns how many beats of a node are old after it was not read for `wait`. One more may be: it is the first of the two
/// that have to agree before a lease counts as lost.
fn beats_within(wait: Duration, beat: Millis) -> u64 {
    u64::try_from(wait.as_millis() / u128::from(beat.0.max(1))).unwrap_or(u64::MAX)
}

/// Waits until the other side has hung up without saying more.
async fn hung_up(reader: &mut (impl AsyncBufRead + Unpin)) {
    if reader.fill_buf().await.is_ok_and(|bytes| !bytes.is_empty()) {
        std::future::pending::<()>().await;
    }
}

/// Returns what a message counts for.
fn rows_of(message: &AgentMessage) -> u64 {
    match message {
        AgentMessage::Enrol { .. } | AgentMessage::Leave => MEMBERSHIP_ROWS,
        AgentMessage::Want { .. } | AgentMessage::Paused { .. } | AgentMessage::Inspected { .. } => 1,
        AgentMessage::Commit { items } => items.len().max(1) as u64,
        AgentMessage::Report { reports } => reports.len().max(1) as u64,
        AgentMessage::Return { leases } => (leases.len() as u64).max(1).saturating_mul(RETURNED_ROWS),
        // No row by itself, but a look at the cell.
        AgentMessage::Beat { .. } => 1,
    }
}

fn append_frame(buffer: &mut Vec<u8>, message: &CoordinatorMessage) {
    match frame::encode(message, FRAME_BYTES_MAX) {
        Ok(frame) => buffer.extend_from_slice(&frame),
        Err(error) => tracing::error!(%error, "a message to a donor is too large and was dropped"),
    }
}

fn check_enrolment(node: NodeId, enrolment: &Signed<Enrolment>) -> Result<(), Refusal> {
    if enrolment.signed_by(&node.0).is_err() || enrolment.node() != node {
        return Err(Refusal::new(
            REFUSED_ENROLMENT,
            "the enrolment is not signed by the machine that sent it",
        ));
    }
    enrolment.check().map_err(|rule| Refusal::new(REFUSED_ENROLMENT, rule).field("enrolment"))
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SessionError {
    /// The stream.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The cell.
    #[error(transparent)]
    Brain(#[from] BrainError),
    /// The donor broke a rule.
    #[error("{0}")]
    Refused(Refusal),
}

/// What performs the cell's commands: the third thread's end of the loop.
pub(crate) struct Hands {
    /// What follows from the journal.
    pub archive: Archive,
    /// Blobs.
    pub store: Store,
    /// Connected donors.
    pub sessions: Arc<Sessions>,
    /// Signs grants.
    pub key: Arc<SigningKey>,
    /// Jobs whose blobs have to be made local.
    pub staging: Arc<stage::Staging>,
    /// Lets go of old jobs.
    pub forgetter: Forgetter,
    /// Ledger entries of this batch.
    pub entries: Vec<wc_types::entry::Entry>,
}

impl Performer for Hands {
    fn perform(&mut self, seq: u64, command: Command, live: bool) {
        match command {
            Command::Answer { .. } => {}
            // After a restart whoever is still staging is found in the state; the past wants nothing staged.
            Command::Stage { job } if live => self.staging.wanted(job),
            Command::Grant(grant) if live => dispatch::send(self, seq, grant),
            Command::AskReveal { node, leases } if live => agree::ask_reveal(self, node, leases),
            Command::Revoke { node, leases } if live => {
                self.sessions.send(node, CoordinatorMessage::Revoke { leases });
            }
            Command::Settled { node, leases } if live => {
                self.sessions.send(node, CoordinatorMessage::Settled { leases });
            }
            Command::Stage { .. }
            | Command::Grant(_)
            | Command::AskReveal { .. }
            | Command::Revoke { .. }
            | Command::Settled { .. } => {}
            Command::Keep { job, record } => agree::keep(self, &job, &record),
            Command::Decide { verdict, entry, outcomes } => agree::decide(self, verdict, entry, outcomes),
            Command::Forget { job, records } => {
                self.forgetter.note(&job, &records);
                self.forgetter.wake();
            }
            Command::Publish { entries } => self.entries.extend(entries),
            Command::JobEnded { job, end, reason } => {
                self.sessions.forget_job(&job);
                self.staging.ended(&job);
                if let Ok(Some(manifest)) = self.archive.manifest(&job) {
                    stage::unpin(&self.store, &job, &manifest);
                }
                if live {
                    match end {
                        JobEnd::Completed => tracing::info!(%job, seq, "job completed"),
                        JobEnd::Failed => tracing::info!(%job, seq, reason, "job failed"),
                        JobEnd::Cancelled => tracing::info!(%job, seq, "job cancelled"),
                    }
                }
            }
        }
    }

    fn flush(&mut self, _live: bool) {
        post::publish(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_that_waited_with_their_node_are_known() {
        let seconds = Duration::from_secs;
        assert_eq!(beats_within(seconds(4), Millis(5_000)), 0, "a busy donor's beats go on counting");
        assert_eq!(beats_within(seconds(35), Millis(5_000)), 7);
        assert_eq!(beats_within(seconds(35), Millis(0)), 35_000);
    }

    #[test]
    fn a_path_is_told_when_it_is_another_and_its_round_trip_once() {
        let (sessions, node) = (Sessions::default(), NodeId([7; 32]));
        let path = |reach, millis: Option<u64>, inspected| Path { reach, rtt: millis.map(Millis), inspected };
        let told = |seen: Path| match sessions.path(node, seen) {
            Some(Event::NodeReached { node: of, path }) if of == node => Some(path),
            None => None,
            other => panic!("{other:?}"),
        };
        let relayed = path(Reach::Relayed, None, false);
        assert_eq!(told(relayed), None, "no session, no path");
        let (outbox, _messages) = mpsc::channel(1);
        sessions.open(node, outbox.clone()).expect("there is room");
        assert_eq!(told(relayed), None, "it is held back, and the cell does not know it");
        sessions.enrol(node);
        assert_eq!(told(relayed), Some(relayed));
        assert_eq!(told(relayed), None);
        let measured = path(Reach::Relayed, Some(80), false);
        assert_eq!(told(measured), Some(measured), "the first round trip");
        assert_eq!(
            told(path(Reach::Relayed, Some(800), false)),
            None,
            "later ones are kept from the journal"
        );
        let direct = path(Reach::Direct, Some(20), false);
        assert_eq!(told(direct), Some(direct));
        sessions.inspected(node, true);
        let inspected = path(Reach::Direct, Some(20), true);
        assert_eq!(told(direct), Some(inspected), "the donor sees what we cannot");
        sessions.inspected(node, false);
        assert_eq!(told(inspected), None, "and it cannot unsay what we see");
        sessions.open(node, outbox).expect("there is room");
        sessions.enrol(node);
        assert_eq!(told(direct), Some(direct), "a new session is told anew");
    }

    #[tokio::test]
    async fn a_donor_that_hangs_up_while_it_waits_is_noticed_and_one_that_speaks_is_not_taken_for_it() {
        let heard = |ours| async move {
            let mut reader = BufReader::new(ours);
            tokio::time::timeout(Duration::from_millis(200), hung_up(&mut reader)).await.is_ok()
        };
        let (ours, theirs) = tokio::io::duplex(64);
        assert!(!heard(ours).await, "it waits");
        drop(theirs);
        let (ours, mut theirs) = tokio::io::duplex(64);
        theirs.write_all(b"word").await.expect("writes");
        assert!(!heard(ours).await, "it has said something");
        let (ours, theirs) = tokio::io::duplex(64);
        drop(theirs);
        assert!(heard(ours).await, "it is gone");
    }
}
