//! `CELL-3`, `CELL-4`: no two live leases for one replica, no node twice in one task, no more leases than a node asked
//! for, none left with a node that is gone, numbers only grow.

use std::collections::BTreeMap;

use wc_cell::{Command, Event};
use wc_types::{LeaseId, NodeId, TaskId};

use crate::invariant::{Invariant, Step};

/// Follows every lease from its grant to its end.
#[derive(Default)]
pub struct SingleLease {
    last: u64,
    tasks: BTreeMap<TaskId, BTreeMap<LeaseId, NodeId>>,
    leases: BTreeMap<LeaseId, TaskId>,
    /// What each node asked for since it last joined and has not been given.
    wished: BTreeMap<NodeId, u64>,
}

impl SingleLease {
    fn end(&mut self, lease: LeaseId) {
        let Some(task) = self.leases.remove(&lease) else { return };
        if let Some(holders) = self.tasks.get_mut(&task) {
            holders.remove(&lease);
            if holders.is_empty() {
                self.tasks.remove(&task);
            }
        }
    }
}

impl Invariant for SingleLease {
    fn name(&self) -> &'static str {
        "CELL-3 single lease"
    }

    fn observe(&mut self, step: &Step<'_>) -> Result<(), String> {
        match &step.fact.event {
            Event::Returned { leases, .. } => leases.iter().for_each(|lease| self.end(*lease)),
            Event::WorkWanted { node, replicas } => {
                *self.wished.entry(*node).or_default() += u64::from(*replicas);
            }
            Event::NodeJoined(enrolment) => drop(self.wished.remove(&enrolment.node())),
            Event::NodeOffline { node } | Event::NodeLeft { node } => {
                self.wished.remove(node);
                if !step.cell.node_leases(node).is_empty() {
                    return Err(format!("{node} is gone and keeps its leases"));
                }
            }
            _ => {}
        }
        for command in step.commands {
            if let Command::Revoke { leases, .. } | Command::Settled { leases, .. } = command {
                leases.iter().for_each(|lease| self.end(*lease));
            }
        }
        let mut granted = Vec::new();
        for command in step.commands {
            let Command::Grant(grant) = command else { continue };
            let manifest = step.cell.manifest(&grant.job).ok_or("a grant of an unknown job")?;
            let replicas = manifest.stages[usize::from(grant.stage)].replicas;
            let wished = self.wished.entry(grant.node).or_default();
            *wished = wished
                .checked_sub(grant.leases.len() as u64)
                .ok_or_else(|| format!("{} is given more than it asked for", grant.node))?;
            for term in &grant.leases {
                granted.push(term.lease.0);
                let task = TaskId { job: grant.job, stage: grant.stage, index: term.index };
                if step.cell.result(&task).is_some() {
                    return Err(format!("{task} is granted although it has a result"));
                }
                let holders = self.tasks.entry(task).or_default();
                if holders.values().any(|node| *node == grant.node) {
                    return Err(format!("{} holds two replicas of {task}", grant.node));
                }
                holders.insert(term.lease, grant.node);
                if holders.len() > usize::from(replicas) {
                    return Err(format!("{task} has more leases than its {replicas} replicas: {holders:?}"));
                }
                self.leases.insert(term.lease, task);
            }
        }
        granted.sort_unstable();
        for lease in granted {
            if lease <= self.last {
                return Err(format!("lease {lease} comes after lease {}", self.last));
            }
            self.last = lease;
        }
        Ok(())
    }
}
