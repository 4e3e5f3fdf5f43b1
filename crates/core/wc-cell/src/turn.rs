//! Everything that belongs to one fact while it is applied: its moment, its seed, and what it leads to.
//!
//! Commands are collected, so that each node hears once and grants are as large as they can be.

use std::collections::{BTreeMap, BTreeSet};

use wc_types::entry::Entry;
use wc_types::grant::{Grant, LEASES_MAX, LeaseTerm};
use wc_types::{LeaseId, NodeId, Timestamp};

use crate::command::Command;
use crate::job::JobNo;
use crate::node::NodeNo;

/// One fact's worth of work.
pub(crate) struct Turn {
    pub(crate) at: Timestamp,
    pub(crate) seed: [u8; 32],
    pub(crate) answers: Vec<Command>,
    pub(crate) entries: Vec<Entry>,
    /// Decisions, kept records and ends of jobs, in the order in which they came about.
    pub(crate) events: Vec<Command>,
    /// Stages in which a task opened.
    pub(crate) opened: BTreeSet<(JobNo, u16)>,
    /// Nodes that asked for work.
    pub(crate) asking: BTreeSet<NodeNo>,
    /// Whether the set of nodes changed, so that any open work may suit any node.
    pub(crate) nodes_changed: bool,
    settled: BTreeMap<NodeId, Vec<LeaseId>>,
    revoked: BTreeMap<NodeId, Vec<LeaseId>>,
    reveals: BTreeMap<NodeId, Vec<LeaseId>>,
    granted: BTreeMap<(JobNo, u16, NodeNo), Vec<LeaseTerm>>,
}

impl Turn {
    pub(crate) fn new(at: Timestamp, seed: [u8; 32]) -> Self {
        Self {
            at,
            seed,
            answers: Vec::new(),
            entries: Vec::new(),
            events: Vec::new(),
            opened: BTreeSet::new(),
            asking: BTreeSet::new(),
            nodes_changed: false,
            settled: BTreeMap::new(),
            revoked: BTreeMap::new(),
            reveals: BTreeMap::new(),
            granted: BTreeMap::new(),
        }
    }

    pub(crate) fn settle(&mut self, node: NodeId, lease: LeaseId) {
        self.settled.entry(node).or_default().push(lease);
    }

    pub(crate) fn revoke(&mut self, node: NodeId, lease: LeaseId) {
        self.revoked.entry(node).or_default().push(lease);
    }

    pub(crate) fn ask_reveal(&mut self, node: NodeId, lease: LeaseId) {
        self.reveals.entry(node).or_default().push(lease);
    }

    pub(crate) fn grant(&mut self, job: JobNo, stage: u16, node: NodeNo, term: LeaseTerm) {
        self.granted.entry((job, stage, node)).or_default().push(term);
    }

    /// Appends every command to `commands`: answers, then what must be kept, then what nodes are told.
    ///
    /// - `grant`: makes the grant of some leases
    pub(crate) fn flush(
        self,
        commands: &mut Vec<Command>,
        grant: impl Fn(JobNo, u16, NodeNo, Vec<LeaseTerm>) -> Option<Grant>,
    ) {
        commands.extend(self.answers);
        if !self.entries.is_empty() {
            commands.push(Command::Publish { entries: self.entries });
        }
        commands.extend(self.events);
        commands.extend(self.settled.into_iter().map(|(node, leases)| Command::Settled { node, leases }));
        commands.extend(self.revoked.into_iter().map(|(node, leases)| Command::Revoke { node, leases }));
        commands.extend(self.reveals.into_iter().map(|(node, leases)| Command::AskReveal { node, leases }));
        for ((job, stage, node), terms) in self.granted {
            for chunk in terms.chunks(LEASES_MAX) {
                commands.extend(grant(job, stage, node, chunk.to_vec()).map(Command::Grant));
            }
        }
    }
}
