//! Nodes that come, ask, pause and go.

use wc_scheduler::{Lease, LeaseEnd};
use wc_types::entry::{EntryKind, Standing};
use wc_types::grant::NODE_LEASES_MAX;
use wc_types::node::{Enrolment, Path};
use wc_types::{LeaseId, NodeId, Witnessed};

use crate::cell::Cell;
use crate::command::Command;
use crate::node::{Node, NodeNo};
use crate::task::Bar;
use crate::timer::Due;
use crate::turn::Turn;

impl Cell {
    pub(crate) fn node_joined(&mut self, enrolment: &Witnessed<Enrolment>, turn: &mut Turn) {
        if enrolment.check().is_err() || enrolment.signed_by(&enrolment.node().0).is_err() {
            return;
        }
        let id = enrolment.node();
        if let Some(refusal) = self.ban_refusal(&id) {
            turn.answers.push(Command::Answer { refusals: vec![refusal], job: None });
            return;
        }
        let (no, was_here, changed) = match self.node_numbers.get(&id) {
            Some(&no) => {
                let Some(node) = self.node_at_mut(no) else { return };
                let was_here = node.online && !node.paused;
                node.online = true;
                node.paused = false;
                node.credit = 0;
                node.returned = false;
                (no, was_here, node.accept(enrolment))
            }
            None => {
                let Ok(number) = u32::try_from(self.nodes.len()) else { return };
                self.nodes.push(Node::new(enrolment, turn.at));
                self.node_numbers.insert(id, NodeNo(number));
                (NodeNo(number), false, true)
            }
        };
        let returned = self.node_at_mut(no).is_some_and(|node| std::mem::replace(&mut node.left, false));
        self.owner_is_here(enrolment.owner());
        if changed || returned {
            let kind =
                EntryKind::NodeJoined { node: id, owner: enrolment.owner(), enrolment: enrolment.cid() };
            self.post(kind, Vec::new(), turn);
        }
        self.note_appetite(no);
        // A node that only connects again, as all do after the coordinator restarts, changes nothing for the others.
        if changed || !was_here {
            self.look_again(no);
            turn.nodes_changed = true;
        }
    }

    /// Revokes what an absent node holds. It is not blamed, and may take the same tasks when it is back.
    pub(crate) fn node_gone(&mut self, id: NodeId, turn: &mut Turn) {
        let Some(&no) = self.node_numbers.get(&id) else { return };
        let Some(node) = self.node_at_mut(no) else { return };
        if !node.online {
            return;
        }
        node.online = false;
        node.credit = 0;
        self.note_appetite(no);
        self.take_back(no, turn);
        turn.nodes_changed = true;
    }

    pub(crate) fn node_paused(&mut self, id: NodeId, paused: bool, turn: &mut Turn) {
        let Some(&no) = self.node_numbers.get(&id) else { return };
        let Some(node) = self.node_at_mut(no) else { return };
        if node.paused == paused {
            return;
        }
        node.paused = paused;
        node.returned = false;
        self.note_appetite(no);
        turn.nodes_changed = true;
    }

    pub(crate) fn node_reached(&mut self, id: NodeId, path: Path, turn: &mut Turn) {
        let Some(&no) = self.node_numbers.get(&id) else { return };
        let Some(node) = self.node_at_mut(no) else { return };
        let tier = node.tier(turn.at);
        node.path = Some(path);
        // Where a node is reached changes whom work is offered first, only its tier what it may have at all.
        if tier != node.tier(turn.at) {
            self.look_again(no);
            turn.nodes_changed = true;
        }
    }

    pub(crate) fn work_wanted(&mut self, id: NodeId, replicas: u32, turn: &mut Turn) {
        let Some(&no) = self.node_numbers.get(&id) else { return };
        let Some(node) = self.node_at_mut(no) else { return };
        if !node.online {
            return;
        }
        let held = u32::try_from(node.leases.len()).unwrap_or(u32::MAX);
        node.credit = node.credit.saturating_add(replicas).min(NODE_LEASES_MAX.saturating_sub(held));
        node.returned = false;
        self.note_appetite(no);
        turn.asking.insert(no);
    }

    pub(crate) fn returned(&mut self, id: NodeId, leases: &[LeaseId], turn: &mut Turn) {
        let Some(&no) = self.node_numbers.get(&id) else { return };
        for &lease in leases {
            let Some(node) = self.node_at_mut(no) else { return };
            if !node.leases.contains(&lease) {
                turn.settle(id, lease);
                continue;
            }
            node.returned = true;
            self.end_lease(lease, LeaseEnd::Returned, turn);
        }
        self.note_appetite(no);
    }

    /// Writes a changed standing into the ledger and takes back what a quarantined node holds.
    pub(crate) fn standing_changed(&mut self, no: NodeNo, turn: &mut Turn) {
        let Some(node) = self.node_at(no) else { return };
        let (id, standing) = (node.id, node.trust.standing());
        self.post(EntryKind::NodeStanding { node: id, standing }, Vec::new(), turn);
        self.note_appetite(no);
        if standing == Standing::Quarantined {
            self.reverse(no, turn);
            self.take_back(no, turn);
        }
        turn.nodes_changed = true;
    }

    /// Notes in a node's record how it did, and what follows from it.
    pub(crate) fn judge(&mut self, no: NodeNo, agreed: bool, turn: &mut Turn) {
        let Some(node) = self.node_at_mut(no) else { return };
        let before = node.trust.standing();
        node.trust.record(agreed, turn.at);
        if agreed {
            node.agreed += 1;
        } else {
            node.dissented += 1;
        }
        if before != node.trust.standing() {
            self.standing_changed(no, turn);
        }
    }

    /// Ends every lease that a node holds, without blame.
    fn take_back(&mut self, no: NodeNo, turn: &mut Turn) {
        let Some(node) = self.node_at(no) else { return };
        let id = node.id;
        let held: Vec<LeaseId> = node.leases.iter().copied().collect();
        for lease in held {
            self.end_lease(lease, LeaseEnd::Lost, turn);
            turn.revoke(id, lease);
        }
    }

    /// Keeps the set of hungry nodes true for one node.
    pub(crate) fn note_appetite(&mut self, no: NodeNo) {
        let hungry = self.node_at(no).is_some_and(|node| {
            node.credit > 0
                && node.online
                && !node.paused
                && !node.returned
                && node.trust.standing() == Standing::Good
        });
        if hungry {
            self.hungry.insert(no);
        } else {
            self.hungry.remove(&no);
        }
    }

    /// Lets a node look at every open task again, because it has changed.
    fn look_again(&mut self, no: NodeNo) {
        for job in self.queue.jobs() {
            let Some(job) = self.job_at_mut(job) else { continue };
            for stage in &mut job.stages {
                stage.retries.forget(no);
                stage.fresh.forget(no);
            }
        }
    }

    /// Ends a lease without a report and opens its task again.
    pub(crate) fn end_lease(&mut self, lease: LeaseId, end: LeaseEnd, turn: &mut Turn) {
        let bar = match end {
            LeaseEnd::Lost | LeaseEnd::Returned | LeaseEnd::Revoked => Bar::Open,
            LeaseEnd::Expired => Bar::Last,
        };
        let counted = end == LeaseEnd::Expired;
        let noted = end != LeaseEnd::Returned;
        self.lose_replica(lease, bar, counted, noted.then(|| end.to_string()), turn);
    }

    /// Ends a lease whose time is over, unless its node did its part and only waits for others.
    pub(crate) fn expire(&mut self, lease: LeaseId, turn: &mut Turn) {
        let Some(place) = self.leases.get(&lease).copied() else { return };
        let ttl = self.charter().map_or_else(Default::default, |charter| charter.lease_ttl);
        let Some(job) = self.job_at_mut(place.job) else { return };
        let task = job.tasks_mut(place.stage).and_then(|tasks| tasks.live.get_mut(&place.index));
        let Some(task) = task else { return };
        let waits = !task.revealing;
        let Some(replica) = task.replica_mut(lease) else { return };
        let node = replica.node;
        if let (Lease::Committed { expires_at, .. }, true) = (&mut replica.lease, waits) {
            *expires_at = turn.at.plus(ttl);
            let at = *expires_at;
            self.timers.set(at, Due::Lease(lease));
            return;
        }
        turn.revoke(self.node_id(node), lease);
        if let Some(node) = self.node_at_mut(node) {
            node.failed += 1;
        }
        self.end_lease(lease, LeaseEnd::Expired, turn);
    }
}
