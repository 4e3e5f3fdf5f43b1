//! What nodes say their replicas found, and what becomes of replicas that found nothing.

use wc_quorum::{Decision, decide};
use wc_scheduler::Lease;
use wc_types::cid::{CODEC_DAG_CBOR, cid_digest, cid_from_digest};
use wc_types::entry::JobEnd;
use wc_types::manifest::Placement;
use wc_types::outcome::{Ending, Failure, Outcome};
use wc_types::{Cid, Fuel, LeaseId, TaskId, Witnessed};

use crate::cell::{Cell, Place};
use crate::job::JobNo;
use crate::node::NodeNo;
use crate::task::{Bar, Fault, LOSSES_MAX, Report, Task};
use crate::timer::Due;
use crate::turn::Turn;

/// Longest reason that a failed replica leaves behind, in bytes.
const REASON_BYTES_MAX: usize = 256;
/// Most machines that the reason of a failed task names.
const MACHINES_NAMED_MAX: usize = 32;

impl Cell {
    pub(crate) fn reported(&mut self, outcomes: &[Witnessed<Outcome>], turn: &mut Turn) {
        for outcome in outcomes {
            if outcome.signed_by(&outcome.node.0).is_ok() {
                self.report(outcome, turn);
            }
        }
    }

    fn report(&mut self, outcome: &Witnessed<Outcome>, turn: &mut Turn) {
        let lease = outcome.lease;
        let place = self.leases.get(&lease).copied();
        let node = self.node_numbers.get(&outcome.node).copied();
        let (Some(place), Some(node)) = (place, node) else {
            // Superseded or heard before: no credit, no blame, nothing more to keep.
            turn.settle(outcome.node, lease);
            return;
        };
        let Some(job) = self.job_at(place.job) else { return };
        let (Some(spec), Some(tasks)) = (job.spec(place.stage), job.tasks(place.stage)) else { return };
        let Some(task) = tasks.live.get(&place.index) else { return };
        let Some(replica) = task.replica(lease) else { return };
        if replica.node != node {
            turn.settle(outcome.node, lease);
            return;
        }
        if !replica.lease.is_live() {
            // Said before and not decided yet; it will be settled with its task.
            return;
        }
        let claimed = TaskId { job: job.id, stage: place.stage, index: place.index };
        if outcome.cell != self.id || outcome.task() != claimed {
            self.refuse(lease, node, "the report is about another task than its lease", turn);
            return;
        }
        let (record, success) = match &outcome.ending {
            Ending::Failed(failure) => {
                self.replica_failed(lease, node, failure, turn);
                return;
            }
            Ending::Result { record, success } => (*record, *success),
        };
        if !is_record(&record) {
            self.refuse(lease, node, "the result is not named by the CID of a record", turn);
            return;
        }
        let bound = match &replica.lease {
            Lease::Committed { commitment, .. } => commitment.opens(outcome),
            Lease::Granted { .. } | Lease::Reported { .. } | Lease::Ended { .. } => spec.replicas == 1,
        };
        if !bound {
            self.refuse(lease, node, "the result is not the one that it committed to", turn);
            return;
        }
        let fuel_max = spec.resources.fuel.unwrap_or(Fuel(u64::MAX));
        let report = Report {
            record,
            success,
            fuel: outcome.usage.fuel.min(fuel_max),
            output: outcome.usage.output,
            outcome: outcome.cid(),
            sealed: outcome.sealed().clone(),
        };
        self.keep_report(place, lease, node, report, turn);
    }

    /// Keeps a result that counts, and decides the task if it can be.
    fn keep_report(&mut self, place: Place, lease: LeaseId, node: NodeNo, report: Report, turn: &mut Turn) {
        let Place { job: no, stage, index } = place;
        let Some(tasks) = self.job_at_mut(no).and_then(|job| job.tasks_mut(stage)) else { return };
        let accepted = tasks.results.get(index);
        let Some(task) = tasks.live.get_mut(&index) else { return };
        let late = task.accepted;
        let Some(replica) = task.replica_mut(lease) else { return };
        let Ok(next) = replica.lease.report(turn.at) else { return };
        let expires_at = replica.lease.expires_at();
        replica.lease = next;
        if late {
            // The question is closed (E-21). What it found still says something about the node; it earns nothing.
            task.replicas.retain(|replica| replica.lease.id() != lease);
            if task.replicas.is_empty() {
                tasks.live.remove(&index);
            }
        } else {
            replica.report = Some(Box::new(report.clone()));
        }
        tasks.running = tasks.running.saturating_sub(1);
        if let Some(at) = expires_at {
            self.timers.cancel(at, Due::Lease(lease));
        }
        if let Some(node) = self.node_at_mut(node) {
            node.leases.remove(&lease);
        }
        if late {
            self.leases.remove(&lease);
            turn.settle(self.node_id(node), lease);
            // Only a successful result is accepted without ending the job, so success is part of the comparison.
            let agreed = accepted == Some(report.record) && report.success;
            self.judge(node, agreed, turn);
            let apart = self.job_at(no).is_some_and(|job| job.manifest.placement != Placement::Machines);
            if agreed && apart {
                self.vouch(node);
            }
        } else {
            self.tally(no, stage, index, turn);
        }
    }

    /// Asks whether the results so far decide a task.
    fn tally(&mut self, no: JobNo, stage: u16, index: u32, turn: &mut Turn) {
        let Some(job) = self.job_at(no) else { return };
        let (Some(spec), Some(tasks)) = (job.spec(stage), job.tasks(stage)) else { return };
        let Some(task) = tasks.live.get(&index) else { return };
        let ballots = task.ballots(|node| self.node_id(node));
        let cast = u8::try_from(ballots.len()).unwrap_or(u8::MAX);
        let outstanding = spec.replicas.saturating_sub(cast);
        match decide(spec.replicas, outstanding, &ballots) {
            Decision::Wait => self.reveal_if_ready(no, stage, index, None, turn),
            Decision::NoMajority => self.no_majority(no, stage, index, turn),
            Decision::Accepted { result: _, agreeing, dissenting } => {
                self.accept(no, stage, index, &agreeing, &dissenting, turn);
            }
        }
    }

    /// Marks every node of a task on which no two would agree, and tries the task on others (VER-03).
    fn no_majority(&mut self, no: JobNo, stage: u16, index: u32, turn: &mut Turn) {
        let Some(job) = self.job_at_mut(no) else { return };
        let Some(retries_max) = job.spec(stage).map(|spec| spec.retries_max) else { return };
        let Some(tasks) = job.tasks_mut(stage) else { return };
        let Some(task) = tasks.live.get_mut(&index) else { return };
        let (voted, live): (Vec<_>, Vec<_>) =
            std::mem::take(&mut task.replicas).into_iter().partition(|replica| replica.report.is_some());
        task.replicas = live;
        task.failures = task.failures.saturating_add(1);
        let spent = task.failures > retries_max;
        for replica in &voted {
            let reason = "no majority found the same result".to_owned();
            task.faults.push(Fault { node: replica.node, bar: Bar::Last, reason });
        }
        tasks.missing += voted.len() as u64;
        tasks.reopen(index);
        turn.opened.insert((no, stage));
        for replica in voted {
            let lease = replica.lease.id();
            self.leases.remove(&lease);
            turn.settle(self.node_id(replica.node), lease);
            if let Some(node) = self.node_at_mut(replica.node) {
                node.failed += 1;
                node.trust.mark_no_majority(turn.at);
            }
        }
        if spent {
            self.task_failed(no, stage, index, turn);
        }
    }

    /// Ends a replica whose machine could not run it.
    fn replica_failed(&mut self, lease: LeaseId, node: NodeNo, failure: &Failure, turn: &mut Turn) {
        let (bar, counted) = match failure {
            // The donor's human came back: nobody's fault, and it may have time again later.
            Failure::Preempted => (Bar::Open, false),
            Failure::InputMissing(_)
            | Failure::SandboxUnavailable(_)
            | Failure::WallClockExceeded
            | Failure::Refused(_) => (Bar::Last, true),
        };
        turn.settle(self.node_id(node), lease);
        if let Some(node) = self.node_at_mut(node) {
            node.failed += 1;
        }
        self.lose_replica(lease, bar, counted, Some(failure.to_string()), turn);
    }

    /// Refuses a node's word: it earns nothing, counts as disagreement, and the node does not see this task again.
    fn refuse(&mut self, lease: LeaseId, node: NodeNo, reason: &str, turn: &mut Turn) {
        turn.settle(self.node_id(node), lease);
        self.lose_replica(lease, Bar::Never, true, Some(reason.to_owned()), turn);
        self.judge(node, false, turn);
    }

    /// Takes a live replica away from its task and opens the task again, or ends it when too much was tried.
    ///
    /// - `counted`: whether this was an attempt that the manifest's `retries_max` bounds
    /// - `reason`: what to remember about it; `None` when there is nothing to remember
    pub(crate) fn lose_replica(
        &mut self,
        lease: LeaseId,
        bar: Bar,
        counted: bool,
        reason: Option<String>,
        turn: &mut Turn,
    ) {
        let Some(Place { job: no, stage, index }) = self.leases.get(&lease).copied() else { return };
        let Some(job) = self.job_at_mut(no) else { return };
        let Some(retries_max) = job.spec(stage).map(|spec| spec.retries_max) else { return };
        let Some(tasks) = job.tasks_mut(stage) else { return };
        let Some(task) = tasks.live.get_mut(&index) else { return };
        let Some(position) = task.replicas.iter().position(|replica| replica.lease.id() == lease) else {
            return;
        };
        if !task.replicas.get(position).is_some_and(|replica| replica.lease.is_live()) {
            return;
        }
        let replica = task.replicas.remove(position);
        tasks.running = tasks.running.saturating_sub(1);
        let mut spent = false;
        if task.accepted {
            if task.replicas.is_empty() {
                tasks.live.remove(&index);
            }
        } else {
            spent = note_fault(task, replica.node, bar, counted, reason, retries_max);
            tasks.missing += 1;
            tasks.reopen(index);
            turn.opened.insert((no, stage));
        }
        self.leases.remove(&lease);
        if let Some(at) = replica.lease.expires_at() {
            self.timers.cancel(at, Due::Lease(lease));
        }
        if let Some(node) = self.node_at_mut(replica.node) {
            node.leases.remove(&lease);
        }
        if spent {
            self.task_failed(no, stage, index, turn);
        } else {
            self.reveal_if_ready(no, stage, index, None, turn);
        }
    }

    /// Fails the job of a task that was tried often enough, naming every machine and its reason (SCH-15).
    pub(crate) fn task_failed(&mut self, no: JobNo, stage: u16, index: u32, turn: &mut Turn) {
        let Some(job) = self.job_at_mut(no) else { return };
        job.failed = Some((stage, index));
        let Some(job) = self.job_at(no) else { return };
        let name = job.spec(stage).map_or_else(String::new, |spec| spec.name.clone());
        let faults = job.tasks(stage).and_then(|tasks| tasks.live.get(&index)).map(|task| &task.faults);
        let told: Vec<String> = faults
            .into_iter()
            .flatten()
            .take(MACHINES_NAMED_MAX)
            .map(|fault| format!("{}: {}", self.node_id(fault.node), fault.reason))
            .collect();
        let reason = format!("task {index} of stage {name} failed on every machine: {}", told.join("; "));
        self.end_job(no, JobEnd::Failed, Some(reason), turn);
    }
}

/// Notes why a replica ended; returns whether the task has been tried often enough.
fn note_fault(
    task: &mut Task,
    node: NodeNo,
    bar: Bar,
    counted: bool,
    reason: Option<String>,
    retries_max: u8,
) -> bool {
    let Some(mut reason) = reason else { return false };
    if reason.len() > REASON_BYTES_MAX {
        let cut = (0..=REASON_BYTES_MAX).rev().find(|&cut| reason.is_char_boundary(cut)).unwrap_or(0);
        reason.truncate(cut);
    }
    task.faults.push(Fault { node, bar, reason });
    if counted {
        task.failures = task.failures.saturating_add(1);
    } else {
        task.losses = task.losses.saturating_add(1);
    }
    task.failures > retries_max || task.losses > LOSSES_MAX
}

/// Returns whether a CID names one of our records: then its digest alone says all of it.
fn is_record(cid: &Cid) -> bool {
    cid_digest(cid).is_some_and(|digest| *cid == cid_from_digest(CODEC_DAG_CBOR, digest))
}
