//! What a cell tells about itself: values for the people and programs that ask.

use wc_scheduler::Lease;
use wc_types::entry::{Holder, JobEnd, Standing};
use wc_types::manifest::{Manifest, WorkClass};
use wc_types::node::{CaliberClass, Capabilities, Locality, Path, TrustTier};
use wc_types::{AccountId, Cid, JobId, LeaseId, MicroNcu, NodeId, PartsPerMillion, TaskId, Timestamp};

use crate::cell::Cell;
use crate::job::{Job, JobState};
use crate::node::Node;
use crate::stage::StagePhase;
use crate::task::Task;

/// Where a job is, in the words that submitters see (WFL-07).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobPhase {
    /// Artifacts and inputs are being made local.
    Staging,
    /// It waits for nodes.
    Queued,
    /// Nodes have leases and none has said anything yet.
    Leased,
    /// Replicas run.
    Running,
    /// Every replica is bound to a result; they are being compared.
    Verifying,
    /// Every task has an accepted result.
    Verified,
    /// A task failed for good.
    Failed,
    /// Its submitter cancelled it.
    Cancelled,
}

/// One stage in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageView {
    /// Its name.
    pub name: String,
    /// How many tasks it has.
    pub tasks: u32,
    /// Tasks that nobody runs.
    pub pending: u32,
    /// Tasks that somebody runs, or whose results are being compared.
    pub active: u32,
    /// Tasks with an accepted result.
    pub accepted: u32,
    /// Tasks that failed for good.
    pub failed: u32,
    /// Live leases.
    pub replicas_running: u32,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// CID of its manifest.
    pub manifest: Cid,
    /// Whose it is.
    pub submitter: AccountId,
    /// Where it is.
    pub phase: JobPhase,
    /// Its stages, in order.
    pub stages: Vec<StageView>,
    /// When it was made, by its submitter.
    pub submitted_at: Timestamp,
    /// When it was admitted.
    pub admitted_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// What its submitter paid.
    pub charged: MicroNcu,
    /// What donors earned.
    pub awarded: MicroNcu,
    /// What is still set aside for it.
    pub reserved: MicroNcu,
    /// Why it ended, when it was not completed.
    pub reason: Option<String>,
    /// CID of the result record that failed it: its guest ended unsuccessfully wherever it ran, and how it ended is in
    /// there.
    pub failed_result: Option<Cid>,
    /// Whether its results, verdicts and logs are kept no longer.
    pub forgotten: bool,
}

/// Where a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskPhase {
    /// Nobody runs it.
    Pending,
    /// Somebody runs it.
    Running,
    /// Results are being compared.
    Verifying,
    /// It has a result.
    Accepted,
    /// It failed for good.
    Failed,
}

/// What a replica is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaPhase {
    /// It has a lease.
    Leased,
    /// It is bound to a result.
    Committed,
    /// Its result is known.
    Reported,
}

/// One replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaView {
    /// Where it runs.
    pub node: NodeId,
    /// Its lease.
    pub lease: LeaseId,
    /// What it is doing.
    pub phase: ReplicaPhase,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// Which.
    pub id: TaskId,
    /// Where it is.
    pub phase: TaskPhase,
    /// Its replicas that are not settled yet.
    pub replicas: Vec<ReplicaView>,
    /// CID of its result record.
    pub result: Option<Cid>,
    /// Machines that did not finish it, and why.
    pub faults: Vec<(NodeId, String)>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Which.
    pub id: NodeId,
    /// Whose.
    pub owner: AccountId,
    /// What it offers.
    pub capabilities: Capabilities,
    /// Where it is.
    pub locality: Locality,
    /// What its owner consents to.
    pub consents: Vec<WorkClass>,
    /// Its version.
    pub agent_version: String,
    /// When it first joined.
    pub joined_at: Timestamp,
    /// Whether it is connected.
    pub online: bool,
    /// Whether its owner paused it.
    pub paused: bool,
    /// Whether its owner withdrew it.
    pub left: bool,
    /// Whether the cell gives it work.
    pub standing: Standing,
    /// Its trust score.
    pub score: PartsPerMillion,
    /// Its trust tier.
    pub tier: TrustTier,
    /// How its session reaches the coordinator, while it has one.
    pub path: Option<Path>,
    /// Replicas that it asked for and has not been given.
    pub credit: u32,
    /// Leases that it owes a report for.
    pub leases: u32,
    /// Replicas that agreed with an accepted result.
    pub agreed: u64,
    /// Replicas that did not.
    pub dissented: u64,
    /// Replicas without a result.
    pub failed: u64,
}

/// One account (CRD-03).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountView {
    /// Whose.
    pub account: AccountId,
    /// What it may spend.
    pub balance: MicroNcu,
    /// What accepted tasks ever paid it.
    pub earned: MicroNcu,
    /// What its jobs ever cost it, with what is still set aside.
    pub spent: MicroNcu,
    /// What decay, reversal and expiry ever took.
    pub lost: MicroNcu,
    /// What it earned in the trailing 30 days, which it does not fade below.
    pub floor: MicroNcu,
    /// Class of hardware that this credit was earned with of late.
    pub caliber: Option<CaliberClass>,
    /// When credit last faded here; `None` when it never did, or never does.
    pub faded_at: Option<Timestamp>,
    /// When credit fades next.
    pub fades_at: Option<Timestamp>,
    /// How much faster than its half-life; one is none.
    pub acceleration: PartsPerMillion,
    /// When it expires, if its donor has withdrawn.
    pub expires_at: Option<Timestamp>,
    /// CID of the last entry of the ledger.
    pub as_of: Option<Cid>,
    /// How many entries there are.
    pub ledger_size: u64,
    /// The Merkle root over them.
    pub ledger_root: [u8; 32],
    /// The latest moment that the cell knows of.
    pub at: Timestamp,
}

/// The cell in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CellCounts {
    /// Facts applied.
    pub facts: u64,
    /// Nodes that ever joined.
    pub nodes: u32,
    /// Nodes connected.
    pub nodes_online: u32,
    /// Jobs ever admitted.
    pub jobs: u32,
    /// Jobs that have not ended.
    pub jobs_open: u32,
    /// Live leases.
    pub leases: u64,
}

impl Cell {
    /// Returns a job.
    pub fn job(&self, id: &JobId) -> Option<JobView> {
        self.job_by_id(id).map(|job| self.job_view(job))
    }

    /// Returns a job's manifest.
    pub fn manifest(&self, id: &JobId) -> Option<&Manifest> {
        self.job_by_id(id).map(|job| &job.manifest)
    }

    /// Returns every job, newest first.
    pub fn jobs(&self) -> impl Iterator<Item = JobView> {
        self.jobs.iter().rev().map(|job| self.job_view(job))
    }

    /// Returns the jobs whose id starts with `prefix`, written with or without its kind.
    pub fn job_prefix(&self, prefix: &str) -> Vec<JobId> {
        let digits = prefix.strip_prefix("job_").unwrap_or(prefix).to_ascii_lowercase();
        let matches =
            |id: &&JobId| id.to_string().strip_prefix("job_").is_some_and(|id| id.starts_with(&digits));
        self.job_numbers.keys().filter(matches).copied().collect()
    }

    /// Returns a task.
    pub fn task(&self, id: &TaskId) -> Option<TaskView> {
        let job = self.job_by_id(&id.job)?;
        let (spec, tasks) = (job.spec(id.stage)?, job.tasks(id.stage)?);
        if id.index >= spec.tasks {
            return None;
        }
        let result = tasks.results.get(id.index);
        let task = tasks.live.get(&id.index);
        let phase = match task {
            _ if job.failed == Some((id.stage, id.index)) => TaskPhase::Failed,
            _ if result.is_some() => TaskPhase::Accepted,
            Some(task) if task.replicas.is_empty() => TaskPhase::Pending,
            Some(task) if task.has_unbound() => TaskPhase::Running,
            Some(_) => TaskPhase::Verifying,
            None => TaskPhase::Pending,
        };
        let replicas = task.into_iter().flat_map(|task| &task.replicas);
        let replicas = replicas.filter_map(|replica| {
            let phase = match replica.lease {
                Lease::Granted { .. } => ReplicaPhase::Leased,
                Lease::Committed { .. } => ReplicaPhase::Committed,
                Lease::Reported { .. } => ReplicaPhase::Reported,
                Lease::Ended { .. } => return None,
            };
            Some(ReplicaView { node: self.node_id(replica.node), lease: replica.lease.id(), phase })
        });
        let faults = task.into_iter().flat_map(|task| &task.faults);
        let faults = faults.map(|fault| (self.node_id(fault.node), fault.reason.clone()));
        Some(TaskView { id: *id, phase, replicas: replicas.collect(), result, faults: faults.collect() })
    }

    /// Returns every node, in order of first joining.
    pub fn nodes(&self) -> impl Iterator<Item = NodeView> {
        self.nodes.iter().map(|node| self.node_view(node))
    }

    /// Returns a node.
    pub fn node(&self, id: &NodeId) -> Option<NodeView> {
        self.node_at(*self.node_numbers.get(id)?).map(|node| self.node_view(node))
    }

    /// Returns the leases that a node owes a report for.
    pub fn node_leases(&self, id: &NodeId) -> Vec<LeaseId> {
        let node = self.node_numbers.get(id).and_then(|&no| self.node_at(no));
        node.map(|node| node.leases.iter().copied().collect()).unwrap_or_default()
    }

    /// Returns what an account may spend.
    pub fn balance(&self, account: &AccountId) -> MicroNcu {
        MicroNcu(u64::try_from(self.ledger.book.balance(&Holder::Account(*account))).unwrap_or(0))
    }

    /// Returns an account as it stands.
    pub fn account(&self, account: &AccountId) -> AccountView {
        let book = &self.ledger.book;
        let totals = book.totals(account);
        let amount = |signed: i64| MicroNcu(u64::try_from(signed).unwrap_or(0));
        let fades = self.economy().is_some();
        let next = self.next_fading_day();
        AccountView {
            account: *account,
            balance: amount(totals.balance),
            earned: amount(totals.earned),
            spent: amount(totals.spent),
            lost: amount(totals.lost),
            floor: book.floor(account, self.now.day()),
            caliber: self.donated_class(account, self.now),
            faded_at: book.faded_at(account),
            fades_at: fades.then(|| Timestamp::of_day(next)),
            acceleration: self.tide.acceleration.factor,
            expires_at: self.expires_at(account),
            as_of: self.ledger.last(),
            ledger_size: self.ledger.size(),
            ledger_root: self.ledger.root(),
            at: self.now,
        }
    }

    /// Returns every account that ever had a posting, with its balance.
    pub fn balances(&self) -> impl Iterator<Item = (AccountId, MicroNcu)> {
        let accounts = self.ledger.book.accounts();
        accounts.map(|(id, totals)| (*id, MicroNcu(u64::try_from(totals.balance).unwrap_or(0))))
    }

    /// Returns the CID of a task's accepted result.
    pub fn result(&self, id: &TaskId) -> Option<Cid> {
        self.job_by_id(&id.job)?.tasks(id.stage)?.results.get(id.index)
    }

    /// Returns the accepted results of a stage, in task order.
    pub fn stage_results(&self, job: &JobId, stage: u16) -> impl Iterator<Item = (u32, Cid)> {
        let tasks = self.job_by_id(job).and_then(|job| job.tasks(stage));
        tasks.into_iter().flat_map(|tasks| tasks.results.iter())
    }

    /// Returns how many entries the ledger has.
    pub fn ledger_size(&self) -> u64 {
        self.ledger.size()
    }

    /// Returns the Merkle root over those entries.
    pub fn ledger_root(&self) -> [u8; 32] {
        self.ledger.root()
    }

    /// Returns the cell in numbers.
    pub fn counts(&self) -> CellCounts {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        CellCounts {
            facts: self.seq_next,
            nodes: count(self.nodes.len()),
            nodes_online: count(self.nodes.iter().filter(|node| node.online).count()),
            jobs: count(self.jobs.len()),
            jobs_open: count(self.jobs.iter().filter(|job| !job.has_ended()).count()),
            leases: self.nodes.iter().map(|node| node.leases.len() as u64).sum(),
        }
    }

    fn job_view(&self, job: &Job) -> JobView {
        let (ended_at, reason) = match &job.state {
            JobState::Staging | JobState::Open => (None, None),
            JobState::Ended { at, reason, .. } => (Some(*at), reason.clone()),
        };
        let reserved = self.ledger.book.balance(&Holder::Reserve(job.id));
        let stages: Vec<StageView> = (0u16..).map_while(|stage| stage_view(job, stage)).collect();
        JobView {
            id: job.id,
            name: job.manifest.name.clone(),
            manifest: job.manifest_cid,
            submitter: job.submitter(),
            phase: phase(job, &stages),
            stages,
            submitted_at: job.manifest.submitted_at,
            admitted_at: job.admitted_at,
            ended_at,
            charged: job.charged,
            awarded: job.awarded,
            reserved: MicroNcu(u64::try_from(reserved).unwrap_or(0)),
            reason,
            forgotten: job.forgotten,
            failed_result: job.failed.and_then(|(stage, index)| job.tasks(stage)?.results.get(index)),
        }
    }

    fn node_view(&self, node: &Node) -> NodeView {
        NodeView {
            id: node.id,
            owner: node.owner,
            capabilities: node.capabilities.clone(),
            locality: node.locality,
            consents: node.consents.clone(),
            agent_version: node.agent_version.clone(),
            joined_at: node.joined_at,
            online: node.online,
            paused: node.paused,
            left: node.left,
            standing: node.trust.standing(),
            score: node.score(self.now),
            tier: node.tier(self.now),
            path: node.path.filter(|_| node.online),
            credit: node.credit,
            leases: u32::try_from(node.leases.len()).unwrap_or(u32::MAX),
            agreed: node.agreed,
            dissented: node.dissented,
            failed: node.failed,
        }
    }
}

fn stage_view(job: &Job, stage: u16) -> Option<StageView> {
    let (spec, tasks) = (job.spec(stage)?, job.tasks(stage)?);
    let undecided = tasks.live.values().filter(|task| !task.accepted);
    let active = undecided.filter(|task| !task.replicas.is_empty()).count();
    let active = u32::try_from(active).unwrap_or(u32::MAX);
    let accepted = tasks.results.accepted();
    let failed = u32::from(job.failed.is_some_and(|(failed, _)| failed == stage));
    let unsuccessful =
        job.failed.is_some_and(|(at, index)| at == stage && tasks.results.get(index).is_some());
    let accepted = accepted - u32::from(unsuccessful);
    Some(StageView {
        name: spec.name.clone(),
        tasks: spec.tasks,
        pending: spec.tasks.saturating_sub(active + accepted + failed),
        active,
        accepted,
        failed,
        replicas_running: tasks.running,
    })
}

fn phase(job: &Job, stages: &[StageView]) -> JobPhase {
    match &job.state {
        JobState::Staging => return JobPhase::Staging,
        JobState::Ended { end: JobEnd::Completed, .. } => return JobPhase::Verified,
        JobState::Ended { end: JobEnd::Failed, .. } => return JobPhase::Failed,
        JobState::Ended { end: JobEnd::Cancelled, .. } => return JobPhase::Cancelled,
        JobState::Open => {}
    }
    let open = || job.stages.iter().filter(|tasks| tasks.phase == StagePhase::Open);
    let undecided = || open().flat_map(|tasks| tasks.live.values()).filter(|task| !task.accepted);
    let bound = undecided().any(|task| task.bound() > 0);
    let unbound = undecided().any(Task::has_unbound);
    let pending = stages.iter().any(|stage| stage.pending > 0);
    if bound && !unbound && !pending {
        JobPhase::Verifying
    } else if bound || stages.iter().any(|stage| stage.accepted > 0) {
        JobPhase::Running
    } else if unbound {
        JobPhase::Leased
    } else {
        JobPhase::Queued
    }
}
