//! Tasks that want one more replica, in an order in which each node needs to look at each of them only once.
//!
//! Every time that a task opens it gets a new, larger ticket. A node remembers the last ticket that it looked at; what
//! it could not take then, it cannot take later, because whatever could change that (a replica ending) opens the task
//! again. So granting costs a node one look per opening, and never a scan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::node::NodeNo;
use crate::pairs;

/// A queue of open tasks of one stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Openings {
    next: u64,
    #[serde(with = "pairs")]
    tasks: BTreeMap<u64, u32>,
    /// For each node the ticket after the last that it looked at.
    #[serde(with = "pairs")]
    seen: BTreeMap<NodeNo, u64>,
}

impl Openings {
    /// Opens a task and returns its ticket.
    pub(crate) fn open(&mut self, index: u32) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.tasks.insert(ticket, index);
        ticket
    }

    /// Closes what a ticket opened.
    pub(crate) fn close(&mut self, ticket: u64) {
        self.tasks.remove(&ticket);
    }

    /// Returns the next open task that `node` has not looked at, and notes that it does now.
    pub(crate) fn look(&mut self, node: NodeNo) -> Option<u32> {
        let from = self.seen.get(&node).copied().unwrap_or(0);
        let (&ticket, &index) = self.tasks.range(from..).next()?;
        self.seen.insert(node, ticket + 1);
        Some(index)
    }

    /// Lets `node` look at everything again.
    pub(crate) fn forget(&mut self, node: NodeNo) {
        self.seen.remove(&node);
    }

    /// Lets every node look at everything again.
    pub(crate) fn forget_all(&mut self) {
        self.seen.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Returns the open tasks, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        self.tasks.values().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_looks_at_each_opening_once() {
        let mut openings = Openings::default();
        let first = openings.open(10);
        openings.open(11);
        let node = NodeNo(1);
        assert_eq!(
            [openings.look(node), openings.look(node), openings.look(node)],
            [Some(10), Some(11), None]
        );
        openings.close(first);
        openings.open(10);
        assert_eq!([openings.look(node), openings.look(node)], [Some(10), None]);
        assert_eq!(openings.look(NodeNo(2)), Some(11), "older openings come first");
        openings.forget(node);
        assert_eq!(openings.look(node), Some(11));
    }
}
