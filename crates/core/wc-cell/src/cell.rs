//! The cell itself: its state, and the one door through which facts enter.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wc_ledger::Book;
use wc_types::charter::{Charter, Founding, cell_id};
use wc_types::directive::Directives;
use wc_types::entry::{EntryKind, Posting};
use wc_types::grant::{Gather, Grant, LeaseTerm};
use wc_types::signers::Handover;
use wc_types::{AccountId, CellId, JobId, LeaseId, NodeId, Signed, Timestamp, Witnessed};

use crate::account::Account;
use crate::command::Command;
use crate::economy::Tide;
use crate::fact::{Event, Fact};
use crate::job::{Job, JobNo};
use crate::ledger::Ledger;
use crate::meeting::Meeting;
use crate::node::{Node, NodeNo};
use crate::pairs;
use crate::pool::Pool;
use crate::queue::Queue;
use crate::stage::StagePhase;
use crate::timer::{Due, Timers};
use crate::turn::Turn;

/// What a live lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) job: JobNo,
    pub(crate) stage: u16,
    pub(crate) index: u32,
}

/// One cell. Clone it to try something out; compare it by [`Cell::state_hash`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    pub(crate) id: CellId,
    pub(crate) founding: Option<Witnessed<Founding>>,
    /// The next fact's number.
    pub(crate) seq_next: u64,
    /// The latest moment of any fact.
    pub(crate) now: Timestamp,
    pub(crate) lease_next: u64,
    pub(crate) nodes: Vec<Node>,
    #[serde(with = "pairs")]
    pub(crate) node_numbers: BTreeMap<NodeId, NodeNo>,
    pub(crate) jobs: Vec<Job>,
    #[serde(with = "pairs")]
    pub(crate) job_numbers: BTreeMap<JobId, JobNo>,
    #[serde(with = "pairs")]
    pub(crate) accounts: BTreeMap<AccountId, Account>,
    /// Every lease whose task is undecided, and late ones.
    #[serde(with = "pairs")]
    pub(crate) leases: BTreeMap<LeaseId, Place>,
    pub(crate) timers: Timers,
    pub(crate) queue: Queue,
    /// Nodes that have credit and may be given work.
    pub(crate) hungry: BTreeSet<NodeNo>,
    pub(crate) ledger: Ledger,
    /// Hand-overs of the key that signs checkpoints, from the founding on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) signers: Vec<Handover>,
    /// Older cells that this one met, each older than the one before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) met: Vec<Meeting>,
    /// What the coordinator orders, if it ever did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) directives: Option<Witnessed<Directives>>,
    pub(crate) tide: Tide,
    #[serde(skip)]
    pub(crate) pool: Pool,
}

impl Cell {
    /// Returns the cell before its first fact.
    pub fn empty() -> Self {
        Self {
            id: CellId([0; 32]),
            founding: None,
            seq_next: 0,
            now: Timestamp(i64::MIN),
            lease_next: 1,
            nodes: Vec::new(),
            node_numbers: BTreeMap::new(),
            jobs: Vec::new(),
            job_numbers: BTreeMap::new(),
            accounts: BTreeMap::new(),
            leases: BTreeMap::new(),
            timers: Timers::default(),
            queue: Queue::default(),
            hungry: BTreeSet::new(),
            ledger: Ledger::default(),
            signers: Vec::new(),
            met: Vec::new(),
            directives: None,
            tide: Tide::default(),
            pool: Pool::default(),
        }
    }

    /// Applies one fact and appends what must be done because of it.
    ///
    /// Total: a fact that does not apply, because it is about something that is gone or was applied before, changes
    /// nothing but the count of facts. A fact below the count was applied before, and is skipped.
    pub fn apply(&mut self, fact: &Fact, commands: &mut Vec<Command>) {
        if fact.seq < self.seq_next {
            return;
        }
        self.seq_next = fact.seq.saturating_add(1);
        // Coordinators' clocks may step back; the cell's time does not.
        self.now = self.now.max(fact.at);
        let mut turn = Turn::new(self.now, fact.seed);
        match &fact.event {
            Event::Founded(founding) => self.found(founding, &mut turn),
            event => {
                if self.founding.is_some() {
                    self.dispatch(event, &mut turn);
                }
            }
        }
        if turn.nodes_changed {
            self.pool.clear();
        }
        self.match_work(&mut turn);
        turn.flush(commands, |job, stage, node, terms| self.grant_of(job, stage, node, terms));
    }

    fn dispatch(&mut self, event: &Event, turn: &mut Turn) {
        match event {
            // Handled by the caller; a second founding never comes here.
            Event::Founded(_) => {}
            Event::NodeJoined(enrolment) => self.node_joined(enrolment, turn),
            Event::NodeOffline { node } => self.node_gone(*node, turn),
            Event::NodeLeft { node } => {
                self.node_gone(*node, turn);
                self.node_left(*node, turn);
            }
            Event::NodePaused { node, paused } => self.node_paused(*node, *paused, turn),
            Event::NodeReached { node, path } => self.node_reached(*node, *path, turn),
            Event::SignersChanged(handover) => self.signers_changed(handover, turn),
            Event::CellMet(founding) => self.cell_met(founding, turn),
            Event::Directed(directives) => self.directed(directives, turn),
            Event::JobSubmitted(manifest) => self.job_submitted(manifest, turn),
            Event::JobStaged { job, listed } => self.job_staged(*job, listed, turn),
            Event::StagingFailed { job, reason } => self.staging_failed(*job, reason, turn),
            Event::JobCancelled { job, by } => self.job_cancelled(*job, *by, turn),
            Event::WorkWanted { node, replicas } => self.work_wanted(*node, *replicas, turn),
            Event::Committed { node, items } => self.committed(*node, items, turn),
            Event::Reported { outcomes } => self.reported(outcomes, turn),
            Event::Returned { node, leases } => self.returned(*node, leases, turn),
            Event::Tick => self.tick(turn),
        }
    }

    fn found(&mut self, founding: &Witnessed<Founding>, turn: &mut Turn) {
        let first = self.founding.is_none() && self.ledger.size() == 0;
        if !first || founding.signed_by(&founding.coordinator.0).is_err() {
            return;
        }
        self.id = cell_id(founding);
        self.founding = Some(founding.clone());
        self.ledger.book = Book::new(founding.charter.economy.clone());
        self.post(EntryKind::CellFounded { founding: founding.cid() }, Vec::new(), turn);
        self.open_books(turn);
    }

    /// Does what is due.
    fn tick(&mut self, turn: &mut Turn) {
        while let Some(due) = self.timers.pop(turn.at) {
            match due {
                Due::Lease(lease) => self.expire(lease, turn),
                Due::Reveal { job, stage, index } => self.reveal_due(job, stage, index, turn),
                Due::Job(job) => self.deadline_passed(job, turn),
                Due::Day => self.day_begins(turn),
                Due::Expiry(account) => self.expire_credit(account, turn),
                Due::Retention(job) => self.forget(job, turn),
            }
        }
    }

    /// Returns when a `Tick` is due.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.timers.next()
    }

    /// Returns the number that the next fact must have.
    pub fn next_seq(&self) -> u64 {
        self.seq_next
    }

    /// Returns the id of the cell; all zeros before it is founded.
    pub fn id(&self) -> CellId {
        self.id
    }

    /// Returns the founding record.
    pub fn founding(&self) -> Option<&Signed<Founding>> {
        self.founding.as_deref()
    }

    /// Returns the numbers in force.
    pub fn charter(&self) -> Option<&Charter> {
        self.founding.as_ref().map(|founding| &founding.charter)
    }

    /// Posts an entry. The postings are balanced by construction; should a balance leave its range nevertheless, the
    /// entry is posted without them, so that the decision stays on record. Returns its index and whether credit moved.
    pub(crate) fn post(&mut self, kind: EntryKind, postings: Vec<Posting>, turn: &mut Turn) -> (u64, bool) {
        let index = self.ledger.size();
        let entry = self.ledger.post(self.id, turn.at, kind.clone(), postings);
        let moved = entry.is_some();
        let entry = entry.or_else(|| self.ledger.post(self.id, turn.at, kind, Vec::new()));
        turn.entries.extend(entry);
        (index, moved)
    }

    pub(crate) fn job_at(&self, no: JobNo) -> Option<&Job> {
        self.jobs.get(no.0 as usize)
    }

    pub(crate) fn job_at_mut(&mut self, no: JobNo) -> Option<&mut Job> {
        self.jobs.get_mut(no.0 as usize)
    }

    pub(crate) fn job_by_id(&self, id: &JobId) -> Option<&Job> {
        self.job_at(*self.job_numbers.get(id)?)
    }

    pub(crate) fn node_at(&self, no: NodeNo) -> Option<&Node> {
        self.nodes.get(no.0 as usize)
    }

    pub(crate) fn node_at_mut(&mut self, no: NodeNo) -> Option<&mut Node> {
        self.nodes.get_mut(no.0 as usize)
    }

    pub(crate) fn node_id(&self, no: NodeNo) -> NodeId {
        self.node_at(no).map_or(NodeId([0; 32]), |node| node.id)
    }

    /// Returns the grant of some leases of one stage to one node.
    fn grant_of(&self, job: JobNo, stage: u16, node: NodeNo, leases: Vec<LeaseTerm>) -> Option<Grant> {
        let job = self.job_at(job)?;
        let spec = job.spec(stage)?;
        let gathers = spec.dependencies().into_iter().filter_map(|earlier| match job.tasks(earlier)?.phase {
            StagePhase::Complete { gather: Some(list) } => Some(Gather { stage: earlier, list }),
            StagePhase::Complete { gather: None } | StagePhase::Open | StagePhase::Waiting => None,
        });
        Some(Grant {
            cell: self.id,
            job: job.id,
            manifest: job.manifest_cid,
            stage,
            node: self.node_id(node),
            leases,
            commit_first: spec.replicas > 1,
            gathers: gathers.collect(),
            issued_at: self.now,
            ttl: self.charter()?.lease_ttl,
        })
    }
}
