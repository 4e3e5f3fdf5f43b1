//! How many nodes, far enough apart from each other, could work on a stage together.
//!
//! Replicas of one task run on equal engines, so starting a task where too few such nodes exist would only hold up the
//! first of them. The counts follow from the nodes alone and are forgotten whenever those change.

use std::collections::{BTreeMap, BTreeSet};

use wc_quorum::required;
use wc_scheduler::{Requirement, may_run};
use wc_types::Timestamp;
use wc_types::manifest::Placement;

use crate::node::Node;

/// Counts that were asked for since the nodes last changed. Not part of the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    peers: BTreeMap<Requirement, BTreeMap<String, usize>>,
    mixed: Option<bool>,
}

impl Pool {
    pub(crate) fn clear(&mut self) {
        self.peers.clear();
        self.mixed = None;
    }

    /// Returns whether nodes with different engines are connected.
    pub(crate) fn is_mixed(&mut self, nodes: &[Node]) -> bool {
        *self.mixed.get_or_insert_with(|| {
            let mut engines = nodes.iter().filter(|node| node.online).map(|node| &node.capabilities.engine);
            engines.next().is_some_and(|first| engines.any(|engine| engine != first))
        })
    }

    /// Returns how many nodes with `engine` could hold replicas of the same task.
    pub(crate) fn peers(
        &mut self,
        needs: &Requirement,
        engine: &str,
        nodes: &[Node],
        at: Timestamp,
    ) -> usize {
        let counts = self.peers.entry(*needs).or_insert_with(|| count(needs, nodes, at));
        counts.get(engine).copied().unwrap_or(0)
    }

    /// Returns how many nodes could hold replicas of some task, over all engines that have enough for a majority.
    pub(crate) fn able(&mut self, needs: &Requirement, nodes: &[Node], at: Timestamp) -> usize {
        able(needs, self.peers.entry(*needs).or_insert_with(|| count(needs, nodes, at)))
    }
}

/// Returns how many nodes belong to engines with enough of them for a majority.
pub(crate) fn able(needs: &Requirement, counts: &BTreeMap<String, usize>) -> usize {
    counts.values().filter(|&&peers| peers >= usize::from(required(needs.replicas))).sum()
}

/// An upper bound: exact where only one kind of difference is asked for.
pub(crate) fn count(needs: &Requirement, nodes: &[Node], at: Timestamp) -> BTreeMap<String, usize> {
    type Distinct = (BTreeSet<[u8; 32]>, BTreeSet<u32>, BTreeSet<u32>);
    let mut engines: BTreeMap<&str, Distinct> = BTreeMap::new();
    for node in nodes.iter().filter(|node| may_run(&node.candidate(at), needs).is_ok()) {
        let (holders, networks, systems) = engines.entry(node.capabilities.engine.as_str()).or_default();
        match needs.placement {
            Placement::Machines => holders.insert(node.id.0),
            Placement::Lan | Placement::Disjoint => holders.insert(node.owner.0),
        };
        networks.insert(node.locality.prefix_24);
        systems.insert(node.locality.asn);
    }
    let counted = engines.into_iter().map(|(engine, (holders, mut networks, mut systems))| {
        let known = match needs.placement {
            Placement::Disjoint if needs.replicas > 1 => {
                networks.remove(&0);
                systems.remove(&0);
                networks.len().min(systems.len())
            }
            Placement::Disjoint | Placement::Lan | Placement::Machines => usize::MAX,
        };
        (engine.to_owned(), holders.len().min(known))
    });
    counted.collect()
}
