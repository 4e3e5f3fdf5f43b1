//! The loop: event in → fact → journal → cell → commands → perform.
//!
//! ```text
//!  inputs ──► decide ──────────► commit ──────────► perform
//!             number the fact,   one fdatasync for  keep what follows from it,
//!             append, apply      all that waits     tell whom it concerns
//! ```
//!
//! Three threads in a row, so that deciding the next batch overlaps with the disk. Nothing leaves the second thread
//! before the facts it follows from are durable: not a command, not an answer, not a view of the state.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};
use wc_cell::{Cell, Command, Event, Fact, RestoreError};
use wc_proto::api::view::JobView;
use wc_store::{Journal, JournalError, Row};
use wc_types::{Cid, JobId, Refusal, Timestamp, to_canonical};

use crate::clock;
use crate::view;

/// Inputs that may wait before senders are held back. A few milliseconds of work for the cell.
const INPUTS_MAX: usize = 4096;
/// Inputs that are decided as one batch, and so share one append.
const BATCH_MAX: usize = 512;
/// Batches that may wait for the disk. More would only add latency.
const COMMITS_MAX: usize = 16;
/// Facts between two snapshots. Replay takes a few microseconds per fact, so a restart stays below a second or two.
const SNAPSHOT_FACTS: u64 = 200_000;

/// What comes after durability: sends an answer that was computed before.
type Delivery = Box<dyn FnOnce() + Send>;
/// Reads the state and returns the delivery of what it found.
type Query = Box<dyn FnOnce(&Cell, u64) -> Delivery + Send>;
/// Reads the state and answers at once.
type Peek = Box<dyn FnOnce(&Cell) + Send>;

/// The answer to a submission or a cancellation.
pub(crate) type Answer = Result<Option<JobId>, Vec<Refusal>>;

enum Input {
    /// Things that happened.
    Events(Vec<Event>),
    /// Something that happened and what follows it in the same batch; answered when durable.
    Ask { event: Box<Event>, then: Vec<Event>, answer: oneshot::Sender<Answer> },
    /// A look at the state.
    Query(Query),
    /// A look at the state for a decision of our own.
    Peek(Peek),
    /// Waits until a job differs from what the caller has seen.
    Watch(Watch),
    /// Write a snapshot and end.
    Stop,
}

/// Waits for a job to change.
pub(crate) struct Watch {
    /// The job.
    pub job: JobId,
    /// Revision that the caller has seen.
    pub seen: u64,
    /// Told how it is when it differs, with the record that says how its guest failed, or dropped with the cell; `None`
    /// when there is no such job.
    pub changed: oneshot::Sender<Option<(JobView, Option<Cid>)>>,
}

/// Performs what the cell commands. Called in the order of the facts, on one thread.
pub(crate) trait Performer: Send + 'static {
    /// Performs a command that follows from the fact numbered `seq`. Doing so twice is harmless. `live` is false while
    /// the journal is replayed: then only what is kept on disk is done again, and nobody is told.
    fn perform(&mut self, seq: u64, command: Command, live: bool);
    /// Called after each batch, when everything before it has been performed.
    fn flush(&mut self, live: bool);
}

/// One unit on its way from deciding to performing.
struct Decided {
    commands: Vec<(u64, Command)>,
    deliveries: Vec<Delivery>,
    /// Whether anything here has to be durable before it goes on.
    commit: bool,
    snapshot: Option<(u64, Vec<u8>)>,
}

/// The brain cannot start or has stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrainError {
    /// The journal cannot be read or written.
    #[error("the journal cannot be used")]
    Journal(#[from] JournalError),
    /// A row of the journal is not a fact of this version.
    #[error("fact {seq} of the journal does not decode")]
    Fact {
        /// Its number.
        seq: u64,
        /// What the decoder said.
        #[source]
        source: wc_types::CanonicalError,
    },
    /// The snapshot does not restore.
    #[error("the snapshot cannot be restored: {reason}")]
    Snapshot {
        /// Why.
        reason: String,
    },
    /// The brain has stopped; the journal says why.
    #[error("the coordinator has stopped")]
    Stopped,
}

/// A handle to the loop. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Brain {
    inputs: mpsc::Sender<Input>,
    /// When a tick is due, in microseconds; `i64::MAX` when never.
    deadline: Arc<AtomicI64>,
    /// How often the journal was made durable since the start.
    commits: Arc<AtomicU64>,
}

/// The running threads, joined at the end.
pub(crate) struct BrainThreads {
    threads: Vec<JoinHandle<()>>,
}

impl BrainThreads {
    /// Waits until all three threads have ended.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the coordinator panicked");
            }
        }
    }
}

/// What the journal already holds.
pub(crate) struct Recovered {
    cell: Cell,
    next_seq: u64,
}

impl Recovered {
    /// Returns the state at the journal's end.
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    /// Returns whether nothing has ever happened here.
    pub fn is_empty(&self) -> bool {
        self.next_seq == 0
    }
}

/// Reads the journal: newest snapshot, then every fact after it, performing again what is kept on disk.
pub(crate) fn recover(journal: &Journal, performer: &mut dyn Performer) -> Result<Recovered, BrainError> {
    let (mut cell, mut next_seq) = match journal.latest_snapshot()? {
        Some(snapshot) => match Cell::restore(&snapshot.bytes) {
            Ok(cell) => (cell, snapshot.seq + 1),
            // The journal is the state: what another release summed up is summed up again from the first fact.
            Err(RestoreError::Version { version }) if journal.first_seq() == Some(0) => {
                tracing::info!(version, "the snapshot is of another release; the whole journal is replayed");
                (Cell::empty(), 0)
            }
            Err(error) => return Err(BrainError::Snapshot { reason: error.to_string() }),
        },
        None => (Cell::empty(), 0),
    };
    let mut commands = Vec::new();
    for row in journal.replay(next_seq)? {
        let Row { seq, bytes } = row?;
        let fact: Fact = wc_proto::frame::decode(&bytes).map_err(|error| BrainError::Fact {
            seq,
            source: wc_types::CanonicalError::Malformed { kind: "Fact", reason: error.to_string() },
        })?;
        cell.apply(&fact, &mut commands);
        for command in commands.drain(..) {
            performer.perform(seq, command, false);
        }
        next_seq = seq + 1;
    }
    performer.flush(false);
    Ok(Recovered { cell, next_seq })
}

impl Brain {
    /// Starts the three threads. The receiver says why the brain stopped by itself.
    pub fn start(
        journal: Journal,
        recovered: Recovered,
        performer: impl Performer,
    ) -> (Self, BrainThreads, oneshot::Receiver<JournalError>) {
        let (inputs, inputs_end) = mpsc::channel(INPUTS_MAX);
        let (to_commit, from_decide) = std_mpsc::sync_channel(COMMITS_MAX);
        let (to_perform, from_commit) = std_mpsc::sync_channel::<Decided>(COMMITS_MAX);
        let (fail, failed) = oneshot::channel();
        let deadline = Arc::new(AtomicI64::new(micros(recovered.cell.next_deadline())));
        let commits = Arc::new(AtomicU64::new(0));
        let decide = {
            let (journal, deadline) = (journal.clone(), deadline.clone());
            spawn("wc-decide", move || decide(inputs_end, &journal, recovered, &to_commit, &deadline))
        };
        let commit = {
            let (journal, commits) = (journal.clone(), commits.clone());
            spawn("wc-commit", move || commit(&from_decide, &journal, &to_perform, fail, &commits))
        };
        let perform = spawn("wc-perform", move || perform(&from_commit, &journal, performer));
        (Self { inputs, deadline, commits }, BrainThreads { threads: vec![decide, commit, perform] }, failed)
    }

    /// Records things that happened. Waits while the cell is behind.
    pub async fn events(&self, events: Vec<Event>) -> Result<(), BrainError> {
        self.inputs.send(Input::Events(events)).await.map_err(|_| BrainError::Stopped)
    }

    /// Records `event`, then `then` in the same batch, and returns the cell's durable answer to `event`.
    pub async fn ask(&self, event: Event, then: Vec<Event>) -> Result<Answer, BrainError> {
        let (answer, answered) = oneshot::channel();
        self.inputs
            .send(Input::Ask { event: Box::new(event), then, answer })
            .await
            .map_err(|_| BrainError::Stopped)?;
        answered.await.map_err(|_| BrainError::Stopped)
    }

    /// Reads the state; `read` also gets the number of facts. The answer is never ahead of the journal.
    pub async fn query<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Cell, u64) -> T + Send + 'static,
    ) -> Result<T, BrainError> {
        let (answer, answered) = oneshot::channel();
        let query: Query = Box::new(move |cell, facts| {
            let value = read(cell, facts);
            Box::new(move || {
                let _ = answer.send(value);
            })
        });
        self.inputs.send(Input::Query(query)).await.map_err(|_| BrainError::Stopped)?;
        answered.await.map_err(|_| BrainError::Stopped)
    }

    /// Reads the state for a decision that nobody outside is shown as a fact: the answer may be ahead of the journal, and
    /// waits for no commit.
    pub async fn peek<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Cell) -> T + Send + 'static,
    ) -> Result<T, BrainError> {
        let (answer, answered) = oneshot::channel();
        let peek: Peek = Box::new(move |cell| {
            let _ = answer.send(read(cell));
        });
        self.inputs.send(Input::Peek(peek)).await.map_err(|_| BrainError::Stopped)?;
        answered.await.map_err(|_| BrainError::Stopped)
    }

    /// Returns when a tick is due.
    pub fn deadline(&self) -> Option<Timestamp> {
        let micros = self.deadline.load(Ordering::Relaxed);
        (micros != i64::MAX).then_some(Timestamp(micros))
    }

    /// Returns how often the journal was made durable since the start.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Waits until a job changes.
    pub async fn watch(&self, watch: Watch) -> Result<(), BrainError> {
        self.inputs.send(Input::Watch(watch)).await.map_err(|_| BrainError::Stopped)
    }

    /// Ends the loop after a snapshot; everything sent before is decided first.
    pub async fn stop(&self) {
        let _ = self.inputs.send(Input::Stop).await;
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .expect("a process that starts has room for three threads")
}

/// First thread: numbers facts, appends them and applies them.
fn decide(
    mut inputs: mpsc::Receiver<Input>,
    journal: &Journal,
    recovered: Recovered,
    to_commit: &std_mpsc::SyncSender<Result<Decided, JournalError>>,
    deadline: &AtomicI64,
) {
    let Recovered { mut cell, mut next_seq } = recovered;
    let mut snapshot_seq = next_seq;
    let mut watches: Vec<Watch> = Vec::new();
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut stopping = false;
    // Whether rows were appended that no commit covers yet.
    let mut soft = false;
    while !stopping {
        batch.clear();
        match inputs.blocking_recv() {
            Some(input) => batch.push(input),
            None => break,
        }
        while batch.len() < BATCH_MAX {
            match inputs.try_recv() {
                Ok(input) => batch.push(input),
                Err(_) => break,
            }
        }
        let first_seq = next_seq;
        let mut round = Round {
            cell: &mut cell,
            next_seq: &mut next_seq,
            rows: Vec::new(),
            commands: Vec::new(),
            commit: false,
        };
        let mut deliveries: Vec<Delivery> = Vec::new();
        let mut looked = false;
        for input in batch.drain(..) {
            match input {
                Input::Events(events) => {
                    for event in events {
                        round.record(event);
                    }
                }
                Input::Ask { event, then, answer } => {
                    let given = round.ask(*event, then);
                    deliveries.push(Box::new(move || {
                        let _ = answer.send(given);
                    }));
                }
                Input::Query(query) => {
                    looked = true;
                    deliveries.push(query(round.cell, *round.next_seq));
                }
                Input::Peek(peek) => peek(round.cell),
                Input::Watch(watch) => watches.push(watch),
                Input::Stop => stopping = true,
            }
        }
        let Round { rows, commands, mut commit, .. } = round;
        soft |= !rows.is_empty();
        // Whoever looks is shown nothing that a crash could take back.
        commit |= looked && soft;
        soft &= !commit;
        let mut decided = Decided { commands, deliveries, commit, snapshot: None };
        deadline.store(micros(cell.next_deadline()), Ordering::Relaxed);
        watches.retain(|watch| !watch.changed.is_closed());
        let mut index = 0;
        // Those who watch are told with the next commit.
        while !soft && index < watches.len() {
            let job = cell.job(&watches[index].job);
            let differs = job.as_ref().is_none_or(|job| view::revision(job) != watches[index].seen);
            if differs {
                let watch = watches.swap_remove(index);
                let now = job.map(|job| view::job(job, &cell));
                decided.deliveries.push(Box::new(move || {
                    let _ = watch.changed.send(now);
                }));
            } else {
                index += 1;
            }
        }
        if !rows.is_empty()
            && let Err(error) = journal.append(first_seq, &rows)
        {
            // The state is ahead of the journal now, so nothing of this batch may be performed, nor anything after it.
            tracing::error!(%error, "facts cannot be appended; the coordinator stops");
            let _ = to_commit.send(Err(error));
            break;
        }
        if next_seq - snapshot_seq >= SNAPSHOT_FACTS || (stopping && next_seq > snapshot_seq) {
            decided.snapshot = Some((next_seq - 1, cell.snapshot()));
            snapshot_seq = next_seq;
        }
        if to_commit.send(Ok(decided)).is_err() {
            break;
        }
    }
}

fn micros(deadline: Option<Timestamp>) -> i64 {
    deadline.map_or(i64::MAX, |deadline| deadline.0)
}

/// One batch while it is decided.
struct Round<'a> {
    cell: &'a mut Cell,
    next_seq: &'a mut u64,
    rows: Vec<Vec<u8>>,
    commands: Vec<(u64, Command)>,
    commit: bool,
}

impl Round<'_> {
    /// Numbers one event, remembers its row, and applies it.
    fn record(&mut self, event: Event) {
        let fact = Fact { seq: *self.next_seq, at: clock::now(), seed: clock::random(), event };
        *self.next_seq += 1;
        self.rows.push(to_canonical(&fact));
        let mut commands = Vec::new();
        self.cell.apply(&fact, &mut commands);
        // What a node says again in its next session, and what has no consequence yet, promises nothing to anybody: a wish
        // for work, a commitment while others are still to come, a report that does not decide, its path. It becomes
        // durable with the fact that has one.
        let said_again = matches!(
            fact.event,
            Event::WorkWanted { .. }
                | Event::Committed { .. }
                | Event::Reported { .. }
                | Event::NodeReached { .. }
        );
        self.commit |= !(said_again && commands.is_empty());
        self.commands.extend(commands.into_iter().map(|command| (fact.seq, command)));
    }

    /// Records an event and, if the cell does not refuse it, what follows; returns the cell's answer.
    fn ask(&mut self, event: Event, then: Vec<Event>) -> Answer {
        let before = self.commands.len();
        self.record(event);
        let mut given = Ok(None);
        for (_, command) in &self.commands[before..] {
            if let Command::Answer { refusals, job } = command {
                given = if refusals.is_empty() { Ok(*job) } else { Err(refusals.clone()) };
            }
        }
        if given.is_ok() {
            then.into_iter().for_each(|event| self.record(event));
        }
        given
    }
}

/// Second thread: makes everything that waits durable with one fdatasync, then lets it go.
fn commit(
    from_decide: &std_mpsc::Receiver<Result<Decided, JournalError>>,
    journal: &Journal,
    to_perform: &std_mpsc::SyncSender<Decided>,
    fail: oneshot::Sender<JournalError>,
    commits: &AtomicU64,
) {
    while let Ok(first) = from_decide.recv() {
        let mut refused = None;
        let mut waiting = Vec::new();
        for decided in std::iter::once(first).chain(from_decide.try_iter()) {
            match decided {
                Ok(decided) => waiting.push(decided),
                Err(error) => refused = Some(error),
            }
        }
        if waiting.iter().any(|decided| decided.commit) {
            if let Err(error) = journal.commit() {
                tracing::error!(%error, "the journal cannot be made durable; the coordinator stops");
                let _ = fail.send(error);
                return;
            }
            commits.fetch_add(1, Ordering::Relaxed);
        }
        for decided in waiting {
            if to_perform.send(decided).is_err() {
                return;
            }
        }
        if let Some(error) = refused {
            let _ = fail.send(error);
            return;
        }
    }
}

/// Third thread: performs, in order.
fn perform(from_commit: &std_mpsc::Receiver<Decided>, journal: &Journal, mut performer: impl Performer) {
    while let Ok(decided) = from_commit.recv() {
        for (seq, command) in decided.commands {
            performer.perform(seq, command, true);
        }
        performer.flush(true);
        // Answers come last, so that whoever reads one also finds what was kept on disk with it.
        for delivery in decided.deliveries {
            delivery();
        }
        if let Some((seq, bytes)) = decided.snapshot {
            // What the facts before `seq` left on disk must be there before replay may skip them.
            let written = journal.commit().and_then(|()| journal.write_snapshot(seq, &bytes));
            match written {
                Ok(()) => tracing::info!(seq, bytes = bytes.len(), "snapshot written"),
                Err(error) => tracing::warn!(%error, seq, "snapshot not written; restart will replay more"),
            }
        }
    }
}
