//! `CELL-3`, `CELL-4`: no two live leases for one replica, no node twice in one task, numbers only grow.

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
        if let Event::Returned { leases, .. } = &step.fact.event {
            leases.iter().for_each(|lease| self.end(*lease));
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
