//! `CELL-2`: nothing is accepted without a majority of matching results, each bound before it was revealed.

use std::collections::{BTreeMap, BTreeSet};

use wc_cell::{Command, Event};
use wc_types::outcome::{Commitment, Outcome};
use wc_types::receipt::Verdict;
use wc_types::{LeaseId, NodeId, Sealed, TaskId};

use crate::invariant::{Invariant, Step};

/// Remembers who was granted what and who committed to what, and checks every verdict against it.
#[derive(Default)]
pub struct Quorum {
    granted: BTreeMap<LeaseId, (NodeId, TaskId)>,
    /// What each lease was bound to first.
    bound: BTreeMap<LeaseId, Commitment>,
    decided: BTreeSet<TaskId>,
}

impl Quorum {
    fn verdict(&mut self, step: &Step<'_>, verdict: &Verdict, outcomes: &[Sealed]) -> Result<(), String> {
        let task = TaskId { job: verdict.job, stage: verdict.stage, index: verdict.index };
        if !self.decided.insert(task) {
            return Err(format!("{task} is decided twice"));
        }
        let manifest = step.cell.manifest(&task.job).ok_or("a verdict on an unknown job")?;
        let replicas = manifest.stages[usize::from(task.stage)].replicas;
        let nodes: BTreeSet<NodeId> = verdict.agreeing.iter().map(|vote| vote.node).collect();
        if nodes.len() <= usize::from(replicas / 2) {
            return Err(format!("{task} is accepted by {} of {replicas}", nodes.len()));
        }
        let votes = verdict.agreeing.iter().chain(&verdict.dissenting);
        for (vote, sealed) in votes.zip(outcomes) {
            let signed = sealed.clone().open::<Outcome>().map_err(|error| format!("{task}: {error}"))?;
            let same = signed.cid() == vote.outcome && signed.lease == vote.lease && signed.node == vote.node;
            if !same || signed.signed_by(&vote.node.0).is_err() {
                return Err(format!("{task}: a vote and its signed outcome differ"));
            }
            if self.granted.get(&vote.lease) != Some(&(vote.node, task)) {
                return Err(format!("{task}: {} voted under a lease that it was not given", vote.node));
            }
            if replicas > 1 && !self.bound.get(&vote.lease).is_some_and(|bound| bound.opens(&signed)) {
                return Err(format!("{task}: {} was not bound to what it revealed", vote.node));
            }
            let agrees = signed.result() == Some(&verdict.result);
            if agrees != verdict.agreeing.contains(vote) && signed.result().is_some() && agrees {
                return Err(format!("{task}: {} agreed and is counted as dissent", vote.node));
            }
            if verdict.agreeing.contains(vote) && !agrees {
                return Err(format!("{task}: {} is counted for a result that it did not find", vote.node));
            }
        }
        Ok(())
    }
}

impl Invariant for Quorum {
    fn name(&self) -> &'static str {
        "CELL-2 quorum"
    }

    fn observe(&mut self, step: &Step<'_>) -> Result<(), String> {
        if let Event::Committed { node, items } = &step.fact.event {
            for (lease, commitment) in items {
                if self.granted.get(lease).is_some_and(|(holder, _)| holder == node) {
                    self.bound.entry(*lease).or_insert(*commitment);
                }
            }
        }
        for command in step.commands {
            match command {
                Command::Grant(grant) => {
                    for term in &grant.leases {
                        let task = TaskId { job: grant.job, stage: grant.stage, index: term.index };
                        self.granted.insert(term.lease, (grant.node, task));
                    }
                }
                Command::Decide { verdict, outcomes, .. } => self.verdict(step, verdict, outcomes)?,
                Command::Answer { .. }
                | Command::Stage { .. }
                | Command::AskReveal { .. }
                | Command::Revoke { .. }
                | Command::Settled { .. }
                | Command::Keep { .. }
                | Command::Publish { .. }
                | Command::Forget { .. }
                | Command::JobEnded { .. } => {}
            }
        }
        Ok(())
    }
}
