//! Commit, then reveal: nobody says what it found before enough others are bound to what they found.

use wc_scheduler::Lease;
use wc_types::outcome::Commitment;
use wc_types::{LeaseId, NodeId};

use crate::cell::Cell;
use crate::job::JobNo;
use crate::timer::Due;
use crate::turn::Turn;

impl Cell {
    pub(crate) fn committed(&mut self, id: NodeId, items: &[(LeaseId, Commitment)], turn: &mut Turn) {
        let Some(&no) = self.node_numbers.get(&id) else { return };
        for &(lease, commitment) in items {
            let place = self.leases.get(&lease).copied();
            let task = place.and_then(|place| {
                self.job_at_mut(place.job)?.tasks_mut(place.stage)?.live.get_mut(&place.index)
            });
            let replica = task.and_then(|task| task.replica_mut(lease));
            let (Some(place), Some(replica)) = (place, replica.filter(|replica| replica.node == no)) else {
                // Ended meanwhile, or never this node's: it need not keep anything for it.
                turn.settle(id, lease);
                continue;
            };
            // A node that changes its mind stays bound to what it said first, and will be refused.
            if let Ok(next) = replica.lease.commit(commitment) {
                replica.lease = next;
                self.reveal_if_ready(place.job, place.stage, place.index, Some(lease), turn);
            }
        }
    }

    /// Asks for what is committed once every live replica is bound, and a majority is; waits a little for the slower
    /// ones while only a majority is.
    ///
    /// - `said`: the lease that committed just now
    pub(crate) fn reveal_if_ready(
        &mut self,
        no: JobNo,
        stage: u16,
        index: u32,
        said: Option<LeaseId>,
        turn: &mut Turn,
    ) {
        let grace = self.charter().map_or_else(Default::default, |charter| charter.reveal_grace);
        let mixed = self.pool.is_mixed(&self.nodes);
        let Some(job) = self.job_at_mut(no) else { return };
        let Some(replicas) = job.spec(stage).map(|spec| spec.replicas) else { return };
        let Some(task) = job.tasks_mut(stage).and_then(|tasks| tasks.live.get_mut(&index)) else { return };
        let live = task.replicas.iter().any(|replica| replica.lease.is_live());
        let unbound = task.has_unbound();
        let waits = task.opening.is_some() && !task.accepted && !task.replicas.is_empty();
        if task.revealing {
            let asked = said.and_then(|lease| Some((task.replica(lease)?.node, lease)));
            if let Some((node, lease)) = asked {
                turn.ask_reveal(self.node_id(node), lease);
            }
            if mixed && waits && !live {
                self.offer_again(no, stage, index, turn);
            }
            return;
        }
        let majority = task.has_bound_majority(replicas);
        if majority && !unbound {
            self.reveal(no, stage, index, turn);
            return;
        }
        let due = Due::Reveal { job: no, stage, index };
        match (majority, task.reveal_due) {
            (true, None) => {
                let at = turn.at.plus(grace);
                task.reveal_due = Some(at);
                self.timers.set(at, due);
            }
            (false, Some(at)) => {
                task.reveal_due = None;
                self.timers.cancel(at, due);
            }
            (true, Some(_)) | (false, None) => {}
        }
        if mixed && waits && !majority && !unbound {
            self.offer_again(no, stage, index, turn);
        }
    }

    /// Lets every node look at a task again that waits for others than it has: those of another engine may take it
    /// over if nobody else can join.
    fn offer_again(&mut self, no: JobNo, stage: u16, index: u32, turn: &mut Turn) {
        let Some(job) = self.job_at_mut(no) else { return };
        if let Some(tasks) = job.tasks_mut(stage) {
            tasks.reopen(index);
            turn.opened.insert((no, stage));
        }
    }

    /// Asks every bound replica of a task to reveal, and from now on each that commits. Revealing takes a message, not
    /// a run, so what is left of a long lease shrinks to the time in which a node must be heard of anyway.
    pub(crate) fn reveal(&mut self, no: JobNo, stage: u16, index: u32, turn: &mut Turn) {
        let ttl = self.charter().map_or_else(Default::default, |charter| charter.lease_ttl);
        let latest = turn.at.plus(ttl);
        let Some(job) = self.job_at_mut(no) else { return };
        let Some(task) = job.tasks_mut(stage).and_then(|tasks| tasks.live.get_mut(&index)) else { return };
        let newly = !std::mem::replace(&mut task.revealing, true);
        let due = task.reveal_due.take();
        let mut bound = Vec::new();
        for replica in &mut task.replicas {
            if let (Lease::Committed { id, expires_at, .. }, true) = (&mut replica.lease, newly) {
                bound.push((replica.node, *id, *expires_at));
                *expires_at = latest.min(*expires_at);
            }
        }
        if let Some(at) = due {
            self.timers.cancel(at, Due::Reveal { job: no, stage, index });
        }
        for (node, lease, expired_at) in bound {
            self.timers.cancel(expired_at, Due::Lease(lease));
            self.timers.set(latest.min(expired_at), Due::Lease(lease));
            turn.ask_reveal(self.node_id(node), lease);
        }
    }

    pub(crate) fn reveal_due(&mut self, no: JobNo, stage: u16, index: u32, turn: &mut Turn) {
        let Some(job) = self.job_at_mut(no) else { return };
        let Some(task) = job.tasks_mut(stage).and_then(|tasks| tasks.live.get_mut(&index)) else { return };
        if task.reveal_due.is_some() {
            self.reveal(no, stage, index, turn);
        }
    }
}
