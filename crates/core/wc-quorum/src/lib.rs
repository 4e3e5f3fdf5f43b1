//! Which result do we accept? One pure question, asked after every ballot of a task.
//!
//! ```text
//! ballots ──► two of one node count once ──► group by result ──► a majority?      Accepted
//!                                                                can one still be? Wait
//!                                                                otherwise         NoMajority
//! ```
//!
//! A majority is more than half of the replicas that the manifest asked for, and it closes the question at once even
//! while slower replicas are still out (erratum E-21). Should more nodes vote than were asked for, because a lease was
//! given away again and its first holder came back after all, the winner also needs more than half of the votes that
//! were cast. So two results can never both be acceptable.
//!
//! The type of a result here is its content id: results of deterministic guests are equal when their CIDs are (VER-02).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use wc_types::{Cid, LeaseId, NodeId};

/// One replica's word: under this lease, this node found this result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// The lease it ran under.
    pub lease: LeaseId,
    /// Who ran it.
    pub node: NodeId,
    /// CID of the result record.
    pub result: Cid,
}

/// What the ballots of one task amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No result has its majority yet, and one still can.
    Wait,
    /// A majority found the same result.
    Accepted {
        /// CID of the accepted result record.
        result: Cid,
        /// Leases that found it, in ascending order.
        agreeing: Vec<LeaseId>,
        /// Leases that found another one, in ascending order.
        dissenting: Vec<LeaseId>,
    },
    /// No result has a majority and none can reach it any more: all nodes are marked and the task runs elsewhere
    /// (VER-03).
    NoMajority,
}

/// Returns how many replicas must agree: more than half of those asked for.
///
/// # Source
/// VER-01: 2 of 3, 3 of 5.
pub const fn required(replicas: u8) -> u8 {
    replicas / 2 + 1
}

/// Returns what the ballots cast so far decide.
///
/// Does not depend on the order of `ballots`. Of several ballots of one node only that of its lowest lease counts; the
/// others are in neither list of the decision.
///
/// - `replicas`: how many the manifest asked for
/// - `outstanding`: how many replicas may still vote: running, or about to be granted
/// - `ballots`: one per replica that has revealed a result; replicas that failed without a result do not vote
///
/// # Source
/// VER-01, VER-03, E-21. A majority is unique: two sets of more than half of the cast ballots share a node.
pub fn decide(replicas: u8, outstanding: u8, ballots: &[Ballot]) -> Decision {
    let mut by_node: BTreeMap<NodeId, &Ballot> = BTreeMap::new();
    for ballot in ballots {
        let counted = by_node.entry(ballot.node).or_insert(ballot);
        if (ballot.lease, ballot.result) < (counted.lease, counted.result) {
            *counted = ballot;
        }
    }

    let mut by_result: BTreeMap<Cid, Vec<LeaseId>> = BTreeMap::new();
    for ballot in by_node.values() {
        by_result.entry(ballot.result).or_default().push(ballot.lease);
    }

    let cast = by_node.len();
    let bar = |cast: usize| usize::from(required(replicas)).max(cast / 2 + 1);
    let leader = by_result.iter().max_by_key(|(_, leases)| leases.len());
    let lead = leader.map_or(0, |(_, leases)| leases.len());

    if let Some((&result, agreeing)) = leader
        && lead >= bar(cast)
    {
        let mut agreeing = agreeing.clone();
        agreeing.sort_unstable();
        let mut dissenting: Vec<LeaseId> =
            by_node.values().filter(|ballot| ballot.result != result).map(|ballot| ballot.lease).collect();
        dissenting.sort_unstable();
        return Decision::Accepted { result, agreeing, dissenting };
    }

    let outstanding = usize::from(outstanding);
    if lead + outstanding >= bar(cast + outstanding) { Decision::Wait } else { Decision::NoMajority }
}

#[cfg(test)]
mod tests;
