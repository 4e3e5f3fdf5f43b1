//! From agreement to credit: verdicts, postings, and the ends of stages and jobs.

use std::collections::{BTreeMap, BTreeSet};

use wc_ledger::{Work, award_postings, downgrade_refund};
use wc_quorum::required;
use wc_types::entry::{EntryKind, Holder, JobEnd, Posting};
use wc_types::grant::GatherList;
use wc_types::receipt::{Spread, Verdict, Vote};
use wc_types::{AccountId, LeaseId, MicroNcu, Sealed, record_cid, to_canonical};

use crate::cell::Cell;
use crate::command::Command;
use crate::job::{JobNo, JobState};
use crate::node::NodeNo;
use crate::openings::Openings;
use crate::stage::StagePhase;
use crate::task::{Replica, Report};
use crate::timer::Due;
use crate::turn::Turn;

impl Cell {
    /// Accepts the result of a task: writes the verdict, moves credit, and goes on with whatever waited for it.
    pub(crate) fn accept(
        &mut self,
        no: JobNo,
        stage: u16,
        index: u32,
        agreeing: &[LeaseId],
        dissenting: &[LeaseId],
        turn: &mut Turn,
    ) {
        let Some(job) = self.job_at_mut(no) else { return };
        let Some((replicas, name)) = job.spec(stage).map(|spec| (spec.replicas, spec.name.clone())) else {
            return;
        };
        let Some(tasks) = job.tasks_mut(stage) else { return };
        tasks.close(index);
        let Some(task) = tasks.live.get_mut(&index) else { return };
        let lacked = u64::from(replicas).saturating_sub(task.replicas.len() as u64);
        let (voted, late): (Vec<Replica>, Vec<Replica>) =
            std::mem::take(&mut task.replicas).into_iter().partition(|replica| replica.report.is_some());
        task.accepted = true;
        task.replicas = late;
        let none_late = task.replicas.is_empty();
        tasks.missing = tasks.missing.saturating_sub(lacked);
        let votes: BTreeMap<LeaseId, (NodeNo, AccountId, Box<Report>)> = voted
            .into_iter()
            .filter_map(|replica| Some((replica.lease.id(), (replica.node, replica.owner, replica.report?))))
            .collect();
        let Some((_, _, first)) = agreeing.first().and_then(|lease| votes.get(lease)) else { return };
        let (record, success) = (first.record, first.success);
        tasks.results.insert(index, &record);
        // The window may have been full: now another task can start.
        turn.opened.insert((no, stage));

        // Bound replicas that nobody asked yet, and late ones from now on, reveal too: it is their record.
        self.reveal(no, stage, index, turn);
        if none_late && let Some(tasks) = self.job_at_mut(no).and_then(|job| job.tasks_mut(stage)) {
            tasks.live.remove(&index);
        }

        let reports = || agreeing.iter().filter_map(|lease| Some(&votes.get(lease)?.2));
        let fuel = reports().map(|report| report.fuel).min().unwrap_or_default();
        let output = reports().map(|report| report.output).min().unwrap_or_default();
        let work = Work::wasm(fuel, output.0);
        let award = self.charter().map_or(MicroNcu(0), |charter| wc_ledger::price(&work, charter));
        let vote = |lease: &LeaseId, awarded: MicroNcu| {
            let (node, owner, report) = votes.get(lease)?;
            let node = self.node_id(*node);
            Some(Vote { node, owner: *owner, lease: *lease, outcome: report.outcome, awarded })
        };
        let mut verdict = Verdict {
            job: self.job_at(no).map_or(wc_types::JobId([0; 32]), |job| job.id),
            stage,
            index,
            result: record,
            replicas,
            required: required(replicas),
            agreeing: agreeing.iter().filter_map(|lease| vote(lease, award)).collect(),
            dissenting: dissenting.iter().filter_map(|lease| vote(lease, MicroNcu(0))).collect(),
            spread: self.spread(agreeing.iter().filter_map(|lease| {
                let (node, owner, _) = votes.get(lease)?;
                Some((*node, *owner))
            })),
            charged: MicroNcu(0),
        };
        let entry = self.pay(no, &mut verdict, turn);
        // What several people's machines found alike, somebody vouches for; what one person's found, nobody does.
        let checked = verdict.spread.owners > 1;
        for vote in &verdict.agreeing {
            if let Some((node, owner, _)) = votes.get(&vote.lease) {
                self.note_earning(*node, *owner, vote.awarded, checked, turn);
            }
        }
        let mut leases = agreeing.iter().chain(dissenting);
        let outcomes: Vec<Sealed> =
            leases.by_ref().filter_map(|lease| Some(votes.get(lease)?.2.sealed.clone())).collect();
        turn.events.push(Command::Decide { verdict, entry, outcomes });

        for (lease, (node, _, _)) in &votes {
            self.leases.remove(lease);
            turn.settle(self.node_id(*node), *lease);
        }
        // A single replica was compared with nothing, so it says nothing about its node.
        if replicas > 1 {
            let judged = agreeing.iter().map(|lease| (lease, true));
            for (lease, agreed) in judged.chain(dissenting.iter().map(|lease| (lease, false))) {
                if let Some((node, _, _)) = votes.get(lease) {
                    self.judge(*node, agreed, turn);
                    if agreed && checked {
                        self.vouch(*node);
                    }
                }
            }
        } else if let Some(node) =
            votes.values().next().map(|vote| vote.0).and_then(|no| self.node_at_mut(no))
        {
            node.agreed += 1;
        }
        self.after_acceptance(no, stage, index, success, &name, turn);
    }

    fn after_acceptance(
        &mut self,
        no: JobNo,
        stage: u16,
        index: u32,
        success: bool,
        name: &str,
        turn: &mut Turn,
    ) {
        let Some(job) = self.job_at_mut(no) else { return };
        if job.has_ended() {
            return;
        }
        if !success {
            job.failed = Some((stage, index));
            let reason = format!("task {index} of stage {name} exits unsuccessfully on every replica");
            self.end_job(no, JobEnd::Failed, Some(reason), turn);
            return;
        }
        let submitter = job.submitter();
        let tasks = job.spec(stage).map_or(0, |spec| spec.tasks);
        let complete = job.tasks(stage).is_some_and(|now| now.results.accepted() >= tasks);
        if let Some(account) = self.accounts.get_mut(&submitter) {
            account.tasks_open = account.tasks_open.saturating_sub(1);
        }
        if complete {
            self.complete_stage(no, stage, turn);
        }
    }

    /// Writes the ledger entry of a verdict: owners of agreeing nodes gain, the job's reserve pays as far as it goes,
    /// and the issuance pays the rest. Returns the entry's index.
    fn pay(&mut self, no: JobNo, verdict: &mut Verdict, turn: &mut Turn) -> u64 {
        let total = verdict.agreeing.iter().fold(0u64, |sum, vote| sum.saturating_add(vote.awarded.0));
        let reserved = self.ledger.book.balance(&Holder::Reserve(verdict.job));
        let charged = u64::try_from(reserved).unwrap_or(0).min(total);
        verdict.charged = MicroNcu(charged - self.downgrade_refund(no, verdict, charged));
        let kind = |verdict: &Verdict| EntryKind::TaskAccepted {
            job: verdict.job,
            stage: verdict.stage,
            index: verdict.index,
            verdict: record_cid(verdict),
        };
        let index = self.ledger.size();
        let postings = award_postings(verdict).ok();
        let entry = postings.and_then(|postings| self.ledger.post(self.id, turn.at, kind(verdict), postings));
        let moved = entry.is_some();
        turn.entries.extend(entry);
        if !moved {
            // An award or a balance would leave its range: the result stands, without credit.
            verdict.charged = MicroNcu(0);
            for vote in &mut verdict.agreeing {
                vote.awarded = MicroNcu(0);
            }
            self.post(kind(verdict), Vec::new(), turn);
            return index;
        }
        let total = MicroNcu(total);
        let Some(job) = self.job_at_mut(no) else { return index };
        job.charged = job.charged.saturating_add(verdict.charged);
        job.awarded = job.awarded.saturating_add(total);
        let submitter = job.submitter();
        self.accounts.entry(submitter).or_default().use_up(total, turn.at);
        index
    }

    /// Returns what of a charge a redeeming donor is let off, because the machines that agreed were of a lower class
    /// than it asked for. It is not charged in the first place: the issuance pays the difference.
    fn downgrade_refund(&self, no: JobNo, verdict: &Verdict, charged: u64) -> u64 {
        let wish = self.job_at(no).and_then(|job| job.spec(verdict.stage)?.resources.caliber);
        let (Some(wish), Some(economy)) = (wish, self.economy()) else { return 0 };
        let nodes = verdict.agreeing.iter().filter_map(|vote| self.node_numbers.get(&vote.node));
        let used = nodes.filter_map(|&no| Some(self.node_at(no)?.capabilities.caliber)).min();
        used.map_or(0, |used| {
            downgrade_refund(MicroNcu(charged), wish.class, used, economy.downgrade_refund).0
        })
    }

    /// Returns how different some nodes and their owners are.
    fn spread(&self, votes: impl Iterator<Item = (NodeNo, AccountId)>) -> Spread {
        let (mut owners, mut networks, mut systems) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (no, owner) in votes {
            owners.insert(owner);
            let Some(node) = self.node_at(no) else { continue };
            networks.insert(node.locality.prefix_24);
            systems.insert(node.locality.asn);
        }
        let count = |distinct: usize| u8::try_from(distinct).unwrap_or(u8::MAX);
        Spread { owners: count(owners.len()), networks: count(networks.len()), systems: count(systems.len()) }
    }

    /// Lists the results of a complete stage for those that read them, and goes on with those or with the end.
    fn complete_stage(&mut self, no: JobNo, stage: u16, turn: &mut Turn) {
        let Some(job) = self.job_at_mut(no) else { return };
        let read = job.manifest.stages.iter().any(|later| later.dependencies().contains(&stage));
        let id = job.id;
        let Some(tasks) = job.tasks_mut(stage) else { return };
        let mut gather = None;
        if read {
            let list = GatherList { results: tasks.results.iter().map(|(_, result)| result).collect() };
            let record = to_canonical(&list);
            gather = Some(wc_types::cid::cid_of(wc_types::cid::CODEC_DAG_CBOR, &record));
            turn.events.push(Command::Keep { job: id, record });
        }
        tasks.phase = StagePhase::Complete { gather };
        tasks.retries = Openings::default();
        tasks.fresh = Openings::default();
        let done = job.stages.iter().all(|tasks| matches!(tasks.phase, StagePhase::Complete { .. }));
        if done {
            self.end_job(no, JobEnd::Completed, None, turn);
        } else {
            self.open_stages(no, turn);
        }
    }

    /// Ends a job: frees what it holds, returns what is left of its reserve.
    pub(crate) fn end_job(&mut self, no: JobNo, end: JobEnd, reason: Option<String>, turn: &mut Turn) {
        let Some(job) = self.job_at_mut(no) else { return };
        if job.has_ended() {
            return;
        }
        job.state = JobState::Ended { end, at: turn.at, reason: reason.clone() };
        let (id, submitter, deadline) = (job.id, job.submitter(), job.manifest.deadline);
        let unfinished: u64 = job
            .stages
            .iter()
            .zip(&job.manifest.stages)
            .map(|(tasks, spec)| u64::from(spec.tasks.saturating_sub(tasks.results.accepted())))
            .sum();
        if let Some(score) = job.rank.take() {
            self.queue.remove(no, score);
        }
        if let Some(at) = deadline {
            self.timers.cancel(at, Due::Job(no));
        }
        let retention = self.charter().map_or_else(Default::default, |charter| charter.retention);
        self.timers.set(turn.at.plus(retention), Due::Retention(no));
        if end != JobEnd::Completed {
            self.clear_tasks(no, turn);
        }
        if let Some(account) = self.accounts.get_mut(&submitter) {
            account.jobs_open = account.jobs_open.saturating_sub(1);
            account.tasks_open = account.tasks_open.saturating_sub(unfinished);
        }
        let left = self.ledger.book.balance(&Holder::Reserve(id));
        let postings = if left > 0 {
            vec![
                Posting { holder: Holder::Account(submitter), amount: left },
                Posting { holder: Holder::Reserve(id), amount: -left },
            ]
        } else {
            Vec::new()
        };
        self.post(EntryKind::JobEnded { job: id, end }, postings, turn);
        turn.events.push(Command::JobEnded { job: id, end, reason });
    }

    /// Lets go of what was kept of a job that ended long ago. The ledger keeps what it says, and receipts that somebody
    /// holds stay as good as they were.
    pub(crate) fn forget(&mut self, no: JobNo, turn: &mut Turn) {
        let Some(job) = self.job_at_mut(no) else { return };
        if !job.has_ended() || std::mem::replace(&mut job.forgotten, true) {
            return;
        }
        let records = job.stages.iter().filter_map(|tasks| match tasks.phase {
            StagePhase::Complete { gather } => gather,
            StagePhase::Open | StagePhase::Waiting => None,
        });
        turn.events.push(Command::Forget { job: job.id, records: records.collect() });
    }

    /// Revokes every live lease of a job and forgets what was reported and not decided.
    fn clear_tasks(&mut self, no: JobNo, turn: &mut Turn) {
        let Some(job) = self.job_at_mut(no) else { return };
        let mut held = Vec::new();
        for (number, tasks) in (0u16..).zip(&mut job.stages) {
            for (index, task) in std::mem::take(&mut tasks.live) {
                held.extend(task.reveal_due.map(|at| (None, Some((at, number, index)))));
                held.extend(task.replicas.into_iter().map(|replica| (Some(replica), None)));
            }
            tasks.retries = Openings::default();
            tasks.fresh = Openings::default();
            tasks.missing = 0;
            tasks.running = 0;
        }
        for (replica, reveal) in held {
            if let Some((at, stage, index)) = reveal {
                self.timers.cancel(at, Due::Reveal { job: no, stage, index });
            }
            let Some(replica) = replica else { continue };
            let lease = replica.lease.id();
            self.leases.remove(&lease);
            let id = self.node_id(replica.node);
            match replica.lease.expires_at() {
                Some(at) => {
                    self.timers.cancel(at, Due::Lease(lease));
                    turn.revoke(id, lease);
                }
                None => turn.settle(id, lease),
            }
            if let Some(node) = self.node_at_mut(replica.node) {
                node.leases.remove(&lease);
            }
        }
    }
}
