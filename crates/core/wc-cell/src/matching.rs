//! Nodes that ask meet tasks that are open.
//!
//! Two directions. When tasks open, they are spread over the nodes that are hungry already ([`Cell::distribute`]); when
//! a node asks, it is fed from the queue ([`Cell::feed`]). After both, no hungry node could take anything that is there
//! (`CELL-5`), so the next fact needs to look only at what it changed.

use std::collections::BTreeSet;

use wc_quorum::required;
use wc_scheduler::{
    Lease, Load, Reason, Requirement, Round, Signals, Taker, composite, may_run, may_stand_beside, rounds,
};
use wc_types::entry::Holder;
use wc_types::grant::{LEASES_MAX, LeaseTerm};
use wc_types::manifest::Placement;
use wc_types::{AccountId, LeaseId, MicroNcu, NodeId};

use crate::cell::{Cell, Place};
use crate::job::{Job, JobNo};
use crate::node::{Node, NodeNo};
use crate::queue::RANK_EVERY;
use crate::stage::OPEN_MAX;
use crate::task::{Bar, LOSSES_MAX, Opening, Replica, Task};
use crate::timer::Due;
use crate::turn::Turn;

impl Cell {
    pub(crate) fn match_work(&mut self, turn: &mut Turn) {
        self.rank(turn);
        for job in turn.opened.iter().map(|&(job, _)| job).collect::<BTreeSet<_>>() {
            self.requeue(job, turn);
        }
        if self.hungry.is_empty() || self.is_halted() {
            return;
        }
        if turn.nodes_changed {
            // Another set of nodes may make a task possible that was not; let everybody look at retries again.
            for job in self.queue.jobs() {
                let Some(job) = self.job_at_mut(job) else { continue };
                for stage in &mut job.stages {
                    if !stage.retries.is_empty() {
                        stage.retries.forget_all();
                    }
                }
                turn.opened.extend(job.working().map(|stage| (job.no, stage)));
            }
        }
        let mut opened: Vec<(JobNo, u16)> = turn.opened.iter().copied().collect();
        opened.sort_by_key(|&(job, stage)| {
            (std::cmp::Reverse(self.job_at(job).and_then(|job| job.rank)), job, stage)
        });
        for (job, stage) in opened {
            if self.hungry.is_empty() {
                break;
            }
            self.distribute(job, stage, turn);
            self.requeue(job, turn);
        }
        for node in std::mem::take(&mut turn.asking) {
            self.feed(node, turn);
        }
    }

    /// Spreads the open tasks of a stage over the hungry nodes, round by round, and evenly within each.
    fn distribute(&mut self, no: JobNo, stage: u16, turn: &mut Turn) {
        for round in self.takers(no, stage, turn) {
            while self.serve(no, stage, &round, turn) > 0 {}
        }
    }

    /// Gives each hungry node of a round its share of what a stage wants now; returns how many leases that were.
    fn serve(&mut self, no: JobNo, stage: u16, round: &Round<NodeNo>, turn: &mut Turn) -> u32 {
        let Some(job) = self.job_at(no) else { return 0 };
        let (Some(spec), Some(tasks)) = (job.spec(stage), job.tasks(stage)) else { return 0 };
        let (count, wanted) = (spec.tasks, tasks.wanted(spec.tasks, spec.replicas));
        if wanted == 0 || !tasks.has_work(count) {
            return 0;
        }
        let room = |cell: &Self, node| if round.free_slots_only { cell.free_slots(node) } else { u32::MAX };
        let eager = |node: &&NodeNo| self.hungry.contains(node) && room(self, **node) > 0;
        let eager = round.nodes.iter().filter(eager).count() as u64;
        if eager == 0 {
            return 0;
        }
        let share = u32::try_from(wanted.div_ceil(eager)).unwrap_or(u32::MAX).min(LEASES_MAX as u32);
        let mut granted = 0;
        for &node in &round.nodes {
            let given = self.fill(no, stage, node, share.min(room(self, node)), turn);
            granted += given;
            let tasks = self.job_at(no).and_then(|job| job.tasks(stage));
            if given > 0 && !tasks.is_some_and(|tasks| tasks.has_work(count)) {
                break;
            }
        }
        granted
    }

    fn free_slots(&self, node: NodeNo) -> u32 {
        self.node_at(node).map_or(0, Node::free_slots)
    }

    /// Returns the hungry nodes that may run a stage, in the order in which they are asked.
    fn takers(&self, no: JobNo, stage: u16, turn: &Turn) -> Vec<Round<NodeNo>> {
        let (Some(job), Some(charter)) = (self.job_at(no), self.charter()) else { return Vec::new() };
        let Some(spec) = job.spec(stage) else { return Vec::new() };
        let needs = job.requirement(spec, charter);
        let takers = self.hungry.iter().filter_map(|&no| {
            let node = self.node_at(no).filter(|node| may_run(&node.candidate(turn.at), &needs).is_ok())?;
            Some(Taker {
                node: no,
                path: node.path,
                network: node.locality.prefix_24,
                load: node.load(),
                lot: lot(&turn.seed, &node.id),
            })
        });
        let takers: Vec<_> = takers.collect();
        let replica_bytes = job.replica_bytes(stage);
        rounds(&takers, &Load { replica_bytes, replicas: spec.replicas, placement: needs.placement })
    }

    /// Gives one node what the queue has for it: the ageing lane's share first, then by score.
    fn feed(&mut self, node: NodeNo, turn: &mut Turn) {
        let share = self.charter().map_or_else(Default::default, |charter| charter.ageing_share);
        let first = self.queue.older_first(None).filter(|&job| self.is_aged(job, turn));
        if first.is_some() {
            let mut owed = self.queue.owed(self.credit(node), share);
            let mut next = first;
            while let Some(job) = next.filter(|&job| owed > 0 && self.is_aged(job, turn)) {
                next = self.queue.older_first(Some(job));
                owed -= self.offer(job, node, owed, turn).min(owed);
            }
        } else {
            self.queue.reset_lane();
        }
        let mut place = None;
        while self.credit(node) > 0 {
            let Some(next) = self.queue.after(place) else { break };
            place = Some(next);
            self.offer(next.1, node, u32::MAX, turn);
        }
    }

    /// Gives a node up to `limit` leases of a job; returns how many.
    fn offer(&mut self, no: JobNo, node: NodeNo, limit: u32, turn: &mut Turn) -> u32 {
        let Some(job) = self.job_at(no) else { return 0 };
        let mut granted = 0;
        for stage in job.working().collect::<Vec<_>>() {
            granted += self.fill(no, stage, node, limit - granted, turn);
        }
        if granted > 0 {
            let in_lane = self.is_aged(no, turn);
            if self.queue.older_first(None).is_some_and(|job| self.is_aged(job, turn)) {
                self.queue.note(granted, in_lane);
            }
            self.requeue(no, turn);
        }
        granted
    }

    /// Gives a node up to `limit` leases of a stage; returns how many.
    fn fill(&mut self, no: JobNo, stage: u16, node: NodeNo, limit: u32, turn: &mut Turn) -> u32 {
        let limit = limit.min(self.credit(node));
        let (Some(job), Some(charter)) = (self.job_at(no), self.charter()) else { return 0 };
        let (Some(spec), Some(taker)) = (job.spec(stage), self.node_at(node)) else { return 0 };
        let needs = job.requirement(spec, charter);
        if limit == 0 || may_run(&taker.candidate(turn.at), &needs).is_err() {
            return 0;
        }
        let (tasks, replicas) = (spec.tasks, spec.replicas);
        let mut granted = 0;
        while granted < limit {
            let Some(index) = self.look(no, stage, node) else { break };
            let mut may = self.may_take(no, stage, index, node, &needs, turn);
            if may == Err(Reason::OtherEngine) && self.start_over(no, stage, index, node, &needs, turn) {
                may = self.may_take(no, stage, index, node, &needs, turn);
            }
            if may.is_ok() {
                self.grant(no, stage, index, node, replicas, turn);
                granted += 1;
            }
        }
        if granted == limit || self.may_start(node, &needs, turn).is_err() {
            return granted;
        }
        while granted < limit {
            let Some(tasks_now) = self.job_at_mut(no).and_then(|job| job.tasks_mut(stage)) else { break };
            if tasks_now.cursor >= tasks || tasks_now.fresh.len() >= OPEN_MAX {
                break;
            }
            let index = tasks_now.cursor;
            tasks_now.cursor += 1;
            tasks_now.missing += u64::from(replicas);
            tasks_now.live.insert(index, Task::default());
            if replicas > 1 {
                let ticket = tasks_now.fresh.open(index);
                if let Some(task) = tasks_now.live.get_mut(&index) {
                    task.opening = Some(Opening::Fresh(ticket));
                }
                tasks_now.fresh.look(node);
            }
            self.grant(no, stage, index, node, replicas, turn);
            granted += 1;
        }
        granted
    }

    /// Returns the next open task of a stage that a node has not looked at.
    fn look(&mut self, no: JobNo, stage: u16, node: NodeNo) -> Option<u32> {
        let tasks = self.job_at_mut(no)?.tasks_mut(stage)?;
        tasks.retries.look(node).or_else(|| tasks.fresh.look(node))
    }

    /// Returns whether starting a task on a node can lead to a majority on nodes like it.
    pub(crate) fn may_start(&mut self, node: NodeNo, needs: &Requirement, turn: &Turn) -> Result<(), Reason> {
        if needs.replicas == 1 {
            return Ok(());
        }
        let Some(taker) = self.nodes.get(node.0 as usize) else { return Err(Reason::Offline) };
        may_stand_beside(&taker.site(), [], needs.placement, needs.replicas)?;
        let needed = required(needs.replicas);
        let present = self.pool.peers(needs, &taker.capabilities.engine, &self.nodes, turn.at);
        if present < usize::from(needed) {
            return Err(Reason::TooFewPeers { needed, present: u8::try_from(present).unwrap_or(u8::MAX) });
        }
        Ok(())
    }

    /// Returns whether a node may take another replica of a live task.
    fn may_take(
        &mut self,
        no: JobNo,
        stage: u16,
        index: u32,
        node: NodeNo,
        needs: &Requirement,
        turn: &Turn,
    ) -> Result<(), Reason> {
        let task = self.jobs.get(no.0 as usize).and_then(|job| job.tasks(stage)?.live.get(&index));
        if task.is_some_and(|task| task.replicas.is_empty()) {
            self.may_start(node, needs, turn)?;
        }
        // Looked up again, because counting peers fills a table of the cell.
        let Some(taker) = self.nodes.get(node.0 as usize) else { return Err(Reason::Offline) };
        let task = self.jobs.get(no.0 as usize).and_then(|job| job.tasks(stage)?.live.get(&index));
        let Some(task) = task else { return Err(Reason::SameNode) };
        if task.faults.is_empty() {
            return may_join(taker, task, &self.nodes, needs, usize::MAX);
        }
        let able = self.pool.able(needs, &self.nodes, turn.at);
        may_join(taker, task, &self.nodes, needs, able)
    }

    /// Gives up what was found on an engine of which no further node can come, so that a task can be done on another
    /// engine instead. Returns whether it did. Nobody is blamed; it counts like a machine that went away.
    fn start_over(
        &mut self,
        no: JobNo,
        stage: u16,
        index: u32,
        node: NodeNo,
        needs: &Requirement,
        turn: &mut Turn,
    ) -> bool {
        if self.may_start(node, needs, turn).is_err() {
            return false;
        }
        let task = self.jobs.get(no.0 as usize).and_then(|job| job.tasks(stage)?.live.get(&index));
        let Some(task) = task.filter(|task| !task.accepted) else { return false };
        let asked = |replica: &Replica| task.revealing && replica.lease.is_live();
        if task.has_unbound() || task.replicas.iter().any(asked) {
            return false;
        }
        let holder = task.replicas.first().and_then(|replica| self.nodes.get(replica.node.0 as usize));
        let Some(engine) = holder.map(|holder| &holder.capabilities.engine) else { return false };
        let present = self.pool.peers(needs, engine, &self.nodes, turn.at);
        if present > spent(task, &self.nodes, needs, Some(engine)).len() {
            return false;
        }
        if task.losses >= LOSSES_MAX {
            self.task_failed(no, stage, index, turn);
            return false;
        }
        let Some(tasks) = self.job_at_mut(no).and_then(|job| job.tasks_mut(stage)) else { return false };
        let Some(task) = tasks.live.get_mut(&index) else { return false };
        let replicas = std::mem::take(&mut task.replicas);
        task.losses += 1;
        task.revealing = false;
        let live = replicas.iter().filter(|replica| replica.lease.is_live()).count();
        tasks.running = tasks.running.saturating_sub(u32::try_from(live).unwrap_or(u32::MAX));
        tasks.missing += replicas.len() as u64;
        tasks.reopen(index);
        turn.opened.insert((no, stage));
        for replica in replicas {
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
        true
    }

    /// Writes a lease.
    fn grant(&mut self, no: JobNo, stage: u16, index: u32, node: NodeNo, replicas: u8, turn: &mut Turn) {
        let Some(charter) = self.charter() else { return };
        let ttl = charter.lease_ttl;
        let lease = LeaseId(self.lease_next);
        let Some(owner) = self.node_at(node).map(|node| node.owner) else { return };
        let Some(job) = self.job_at_mut(no) else { return };
        let Some(wall_clock) = job.spec(stage).map(|spec| spec.resources.wall_clock) else { return };
        let expires_at = turn.at.plus(ttl).plus(wall_clock);
        let Some(tasks) = job.tasks_mut(stage) else { return };
        let Some(task) = tasks.live.get_mut(&index) else { return };
        task.replicas.push(Replica {
            lease: Lease::Granted { id: lease, expires_at },
            node,
            owner,
            report: None,
        });
        tasks.missing = tasks.missing.saturating_sub(1);
        tasks.running += 1;
        if task.replicas.len() >= usize::from(replicas) {
            tasks.close(index);
        }
        self.lease_next += 1;
        self.leases.insert(lease, Place { job: no, stage, index });
        self.timers.set(expires_at, Due::Lease(lease));
        if let Some(node) = self.node_at_mut(node) {
            node.leases.insert(lease);
            node.credit = node.credit.saturating_sub(1);
        }
        self.note_appetite(node);
        turn.grant(no, stage, node, LeaseTerm { lease, index });
    }

    fn credit(&self, node: NodeNo) -> u32 {
        if !self.hungry.contains(&node) {
            return 0;
        }
        self.node_at(node).map_or(0, |node| node.credit)
    }

    fn is_aged(&self, job: JobNo, turn: &Turn) -> bool {
        let (Some(job), Some(charter)) = (self.job_at(job), self.charter()) else { return false };
        turn.at.since(job.admitted_at) >= charter.ageing_after
    }

    /// Puts a job into the queue, or takes it out, by whether it has work.
    pub(crate) fn requeue(&mut self, no: JobNo, turn: &Turn) {
        let Some(job) = self.job_at(no) else { return };
        let works = job.working().next().is_some();
        match (job.rank, works) {
            (None, true) => {
                let score = self.score(job, turn);
                self.queue.insert(no, score);
                if let Some(job) = self.job_at_mut(no) {
                    job.rank = Some(score);
                }
            }
            (Some(score), false) => {
                self.queue.remove(no, score);
                if let Some(job) = self.job_at_mut(no) {
                    job.rank = None;
                }
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// Computes every score anew when they are old.
    fn rank(&mut self, turn: &Turn) {
        if turn.at.since(self.queue.ranked_at) < RANK_EVERY {
            return;
        }
        self.queue.ranked_at = turn.at;
        for no in self.queue.jobs() {
            let Some(job) = self.job_at(no) else { continue };
            let (old, new) = (job.rank, self.score(job, turn));
            if let Some(old) = old.filter(|&old| old != new) {
                self.queue.remove(no, old);
                self.queue.insert(no, new);
                if let Some(job) = self.job_at_mut(no) {
                    job.rank = Some(new);
                }
            }
        }
    }

    fn score(&self, job: &Job, turn: &Turn) -> u32 {
        let Some(charter) = self.charter() else { return 0 };
        let submitter: AccountId = job.submitter();
        let balance = self.ledger.book.balance(&Holder::Account(submitter));
        let reserved = self.ledger.book.balance(&Holder::Reserve(job.id));
        let used = self.accounts.get(&submitter).map(|account| account.used_recently(turn.at));
        let signals = Signals {
            // What was set aside for this very job is still the submitter's.
            balance: MicroNcu(u64::try_from(balance.saturating_add(reserved)).unwrap_or(0)),
            votes_net: 0,
            voters: 0,
            requested: job.estimate,
            waited: turn.at.since(job.admitted_at),
            used_recently: used.unwrap_or_default(),
        };
        composite(&signals, &charter.priority_weights).0
    }
}

/// Returns whether a node may hold another replica of a task, given who holds and who failed it.
///
/// - `able`: how many nodes could run the task, for deciding whether one that failed must try again
pub(crate) fn may_join(
    taker: &Node,
    task: &Task,
    nodes: &[Node],
    needs: &Requirement,
    able: usize,
) -> Result<(), Reason> {
    let node_of = |no: NodeNo| nodes.get(no.0 as usize);
    let holders = task.replicas.iter().filter_map(|replica| Some(node_of(replica.node)?.site()));
    may_stand_beside(&taker.site(), holders, needs.placement, needs.replicas)?;
    let own = task.faults.iter().filter(|fault| node_of(fault.node).is_some_and(|node| node.id == taker.id));
    match own.map(|fault| fault.bar).max_by_key(|bar| *bar as u8) {
        None | Some(Bar::Open) => return Ok(()),
        Some(Bar::Never) => return Err(Reason::Dissented),
        Some(Bar::Last) => {}
    }
    // It failed before. It may try again only if those who have not are too few for what is missing.
    let missing = usize::from(needs.replicas).saturating_sub(task.replicas.len());
    let others = able.saturating_sub(spent(task, nodes, needs, None).len());
    if others < missing { Ok(()) } else { Err(Reason::FailedBefore) }
}

/// Returns who holds a task or failed it, of those connected: owners where replicas must differ in owner, else nodes.
///
/// - `engine`: only those that run it
fn spent(task: &Task, nodes: &[Node], needs: &Requirement, engine: Option<&String>) -> BTreeSet<[u8; 32]> {
    let holding = task.replicas.iter().map(|replica| replica.node);
    let barred = task.faults.iter().filter(|fault| fault.bar != Bar::Open).map(|fault| fault.node);
    let connected = holding
        .chain(barred)
        .filter_map(|no| nodes.get(no.0 as usize))
        .filter(|node| node.online && engine.is_none_or(|engine| *engine == node.capabilities.engine));
    let key = |node: &Node| match needs.placement {
        Placement::Machines => node.id.0,
        Placement::Lan | Placement::Disjoint => node.owner.0,
    };
    connected.map(key).collect()
}

/// Returns a node's lot in this draw.
fn lot(seed: &[u8; 32], node: &NodeId) -> u64 {
    let word = |bytes: &[u8; 32], at: usize| {
        bytes.iter().skip(at).take(8).fold(0u64, |word, byte| word << 8 | u64::from(*byte))
    };
    // The finalizer of SplitMix64 over both: enough to spread ties, not meant to be unpredictable to the coordinator.
    let mut x =
        word(seed, 0) ^ word(&node.0, 0) ^ word(&node.0, 8).rotate_left(17) ^ word(seed, 8).rotate_left(31);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
