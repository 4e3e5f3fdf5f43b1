//! What one machine holds and asks for, whatever number of cells it serves.
//!
//! Every lease belongs to the cell that granted it, and only that cell hears of it: commitments, reports and returns go
//! back there. The machine's slots are one: the home cell is asked first, the others for what it leaves idle.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use wc_proto::peer::session::Report;
use wc_types::grant::NODE_LEASES_MAX;
use wc_types::outcome::Commitment;
use wc_types::{CellId, LeaseId};

use super::{Assignment, Out};

/// Leases that one slot may hold ready. Bounds what is granted again elsewhere when this machine disappears.
const READY_PER_SLOT_MAX: u64 = 256;
/// Leases held or asked for at the same time, committed and reported ones included, of all cells in session together. A
/// cell forgets what is asked for beyond [`NODE_LEASES_MAX`]; asking past that would leave both sides waiting for each
/// other.
const HELD_MAX: u64 = 2048;
const _: () = assert!(HELD_MAX < NODE_LEASES_MAX as u64, "an agent must not ask for what its cell forgets");
/// How much work a slot holds ready: long enough to cover a commit and a round trip under load, short enough that
/// nobody waits for it.
const READY_MICROS: u64 = 100_000;
/// Tasks that one slot runs in one go.
const BATCH_MAX: usize = 32;
/// Tasks longer than this run one by one, so that other slots share them.
const BATCH_TASK_MICROS_MAX: u64 = 5_000;
/// How long the home cell may leave something that it was asked for unanswered before other cells are asked: a commit
/// and a round trip, and little enough that an idle machine is not idle for long.
pub(super) const HOME_FIRST: Duration = Duration::from_millis(200);

/// A lease by its whole name: cells number theirs independently of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Claim {
    /// The cell that granted it.
    pub cell: CellId,
    /// Its number there.
    pub lease: LeaseId,
}

/// Where a held lease stands.
pub(super) enum Held {
    Queued,
    Running,
    /// Committed; the report waits to be asked for.
    Waiting(Box<Report>, Commitment),
    /// Reported; kept until it is settled.
    Reported(Box<Report>),
}

/// A cell in session.
struct Seat {
    outbox: mpsc::Sender<Out>,
    /// Leases asked for and not yet granted, in this session.
    wanted: u64,
    /// Since when some of them have been asked for.
    asked_at: Option<Instant>,
}

/// What was done for a cell since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Replicas run.
    pub run: u64,
    /// Replicas settled.
    pub settled: u64,
    /// Leases held now.
    pub held: u64,
}

/// The board.
#[derive(Default)]
pub(super) struct Board {
    home: Option<CellId>,
    seats: BTreeMap<CellId, Seat>,
    /// The home cell's leases, then those of others.
    queues: [VecDeque<Assignment>; 2],
    held: BTreeMap<Claim, Held>,
    /// Running leases that were revoked; their outcome is dropped.
    revoked: BTreeSet<Claim>,
    tallies: BTreeMap<CellId, Tally>,
    /// Cells that dispatch nothing new: nothing is asked of them or taken from them.
    halted: BTreeSet<CellId>,
    /// Mean time of one task in a slot, in microseconds, weighted to the recent ones; 0 before the first.
    pub task_micros: u64,
    /// Slots at work.
    pub running: u32,
    pub paused: bool,
}

impl Board {
    /// Says whose work comes first; returns whether that was another cell until now.
    pub fn set_home(&mut self, home: CellId) -> bool {
        if self.home.replace(home) == Some(home) {
            return false;
        }
        let all = self.queues.each_mut().map(std::mem::take);
        for assignment in all.into_iter().flatten() {
            let lane = self.lane(assignment.cell());
            self.queues[lane].push_back(assignment);
        }
        true
    }

    fn lane(&self, cell: CellId) -> usize {
        usize::from(self.home.is_some_and(|home| home != cell))
    }

    /// Opens a session with a cell: nothing has been asked for in it yet.
    pub fn sit_down(&mut self, cell: CellId, outbox: mpsc::Sender<Out>) {
        self.seats.insert(cell, Seat { outbox, wanted: 0, asked_at: None });
    }

    /// Ends the session with a cell. What is held for it stays.
    pub fn get_up(&mut self, cell: CellId) {
        self.seats.remove(&cell);
    }

    /// Returns the way to a cell, if it is in session.
    pub fn outbox(&self, cell: CellId) -> Option<&mpsc::Sender<Out>> {
        self.seats.get(&cell).map(|seat| &seat.outbox)
    }

    /// Returns the ways to every cell in session.
    pub fn outboxes(&self) -> impl Iterator<Item = &mpsc::Sender<Out>> {
        self.seats.values().map(|seat| &seat.outbox)
    }

    /// Returns whether a cell that is not the home cell is in session.
    pub fn serves_others(&self) -> bool {
        self.seats.keys().any(|cell| self.lane(*cell) > 0)
    }

    /// Returns how much is held ready or run at best.
    fn target(&self, slots: u16) -> u64 {
        let ready = match self.task_micros {
            0 => 2,
            micros => (READY_MICROS / micros + 2).min(READY_PER_SLOT_MAX),
        };
        ready * u64::from(slots)
    }

    /// Returns how much is held ready or run.
    fn busy(&self) -> u64 {
        let running = self.held.values().filter(|held| matches!(held, Held::Running)).count();
        self.queues.iter().map(|queue| queue.len() as u64).sum::<u64>() + running as u64
    }

    /// Returns how many more leases to ask a cell for, when that is worth a message.
    pub fn room(&mut self, cell: CellId, slots: u16, now: Instant) -> Option<u32> {
        if self.paused || self.halted.contains(&cell) || !self.may_ask(cell, now) {
            return None;
        }
        let target = self.target(slots);
        let has = self.busy() + self.seats.get(&cell)?.wanted;
        if has * 4 > target * 3 {
            return None;
        }
        let served = |claim: &&Claim| self.seats.contains_key(&claim.cell);
        let held = self.held.keys().filter(served).count() as u64;
        let wanted: u64 = self.seats.values().map(|seat| seat.wanted).sum();
        let more = (target - has).min(HELD_MAX.saturating_sub(held + wanted));
        if more == 0 {
            return None;
        }
        let seat = self.seats.get_mut(&cell)?;
        if seat.wanted == 0 {
            seat.asked_at = Some(now);
        }
        seat.wanted += more;
        u32::try_from(more).ok()
    }

    /// The home cell may be asked at any time; another when the home cell is away or halted, or has had time to answer and
    /// has left a part of what it was asked for unanswered.
    fn may_ask(&self, cell: CellId, now: Instant) -> bool {
        let Some(home) = self.home.filter(|home| *home != cell) else { return true };
        let seat = self.seats.get(&home).filter(|_| !self.halted.contains(&home));
        seat.is_none_or(|seat| {
            let waited = seat.asked_at.is_some_and(|at| now.saturating_duration_since(at) >= HOME_FIRST);
            seat.wanted > 0 && waited
        })
    }

    /// Takes in leases that a cell granted. Returns those that are better off elsewhere, to be given back: what another
    /// cell granted while there is enough to do, and what waits here for another cell once the home cell fills the slots.
    pub fn grant(&mut self, cell: CellId, granted: Vec<Assignment>, slots: u16) -> Vec<Claim> {
        let lane = self.lane(cell);
        let target = self.target(slots);
        let room = match lane {
            0 => usize::MAX,
            _ => usize::try_from((2 * target).saturating_sub(self.busy())).unwrap_or(usize::MAX),
        };
        let mut surplus = Vec::new();
        for (number, assignment) in granted.into_iter().enumerate() {
            let claim = assignment.claim();
            if number >= room {
                surplus.push(claim);
            } else if let Entry::Vacant(place) = self.held.entry(claim) {
                place.insert(Held::Queued);
                self.queues[lane].push_back(assignment);
            }
        }
        let [first, others] = &mut self.queues;
        if lane == 0 && !others.is_empty() && first.len() as u64 >= target {
            surplus.extend(others.drain(..).map(|assignment| assignment.claim()));
        }
        for claim in &surplus {
            self.held.remove(claim);
            if let Some(seat) = self.seats.get_mut(&claim.cell) {
                // Who gives something back gets nothing more from that cell before it asks again.
                seat.wanted = 0;
            }
        }
        surplus
    }

    /// Notes that a cell answered a part of what it was asked for.
    pub fn answered(&mut self, cell: CellId, leases: u64) {
        if let Some(seat) = self.seats.get_mut(&cell) {
            seat.wanted = seat.wanted.saturating_sub(leases);
        }
    }

    /// Takes the next leases to run in one go: of one stage of one job of one cell.
    pub fn take(&mut self, slots: u16) -> Option<Vec<Assignment>> {
        if self.paused {
            return None;
        }
        let queue = self.queues.iter_mut().find(|queue| !queue.is_empty())?;
        let first = queue.pop_front()?;
        let share = queue.len() / usize::from(slots.max(1));
        let short = self.task_micros > 0 && self.task_micros <= BATCH_TASK_MICROS_MAX;
        let most = if short { share.clamp(1, BATCH_MAX) } else { 1 };
        let mut batch = vec![first];
        while batch.len() < most && queue.front().is_some_and(|next| next.runs_with(&batch[0])) {
            batch.extend(queue.pop_front());
        }
        for assignment in &batch {
            self.held.insert(assignment.claim(), Held::Running);
        }
        self.running += 1;
        Some(batch)
    }

    /// Notes that a slot is free again, after `tasks` tasks that took `micros` microseconds each.
    pub fn done(&mut self, micros: u64) {
        self.running = self.running.saturating_sub(1);
        self.task_micros = if self.task_micros == 0 { micros } else { (self.task_micros * 3 + micros) / 4 };
    }

    /// Returns whether a lease was revoked before it started.
    pub fn is_revoked(&self, claim: &Claim) -> bool {
        self.revoked.contains(claim)
    }

    /// Takes what a lease came to; returns what to tell its cell, unless nobody wants to know any more.
    pub fn finish(
        &mut self,
        claim: Claim,
        report: Box<Report>,
        commitment: Option<Commitment>,
    ) -> Option<Out> {
        self.tally(claim.cell).run += 1;
        if self.revoked.remove(&claim) {
            self.held.remove(&claim);
            return None;
        }
        let (held, out) = match commitment {
            Some(commitment) => (Held::Waiting(report, commitment), Out::Commit(claim.lease, commitment)),
            None => (Held::Reported(report.clone()), Out::Report(report)),
        };
        self.held.insert(claim, held);
        Some(out)
    }

    /// Puts back a lease that was not run after all; false when it is to be given back instead.
    pub fn put_back(&mut self, assignment: Assignment) -> bool {
        let claim = assignment.claim();
        if self.revoked.remove(&claim) || self.paused {
            self.held.remove(&claim);
            return false;
        }
        self.held.insert(claim, Held::Queued);
        let lane = self.lane(claim.cell);
        self.queues[lane].push_front(assignment);
        true
    }

    /// Returns the reports that a cell asks for, among those that wait.
    pub fn reveal(&mut self, cell: CellId, leases: &[LeaseId]) -> Vec<Report> {
        let mut reports = Vec::new();
        for &lease in leases {
            if let Some(held) = self.held.get_mut(&Claim { cell, lease })
                && let Held::Waiting(report, _) = held
            {
                let report = report.clone();
                reports.push((*report).clone());
                *held = Held::Reported(report);
            }
        }
        reports
    }

    /// Forgets what a cell has made durable; returns how many leases that were.
    pub fn settle(&mut self, cell: CellId, leases: &[LeaseId]) -> u64 {
        let gone = |lease: &&LeaseId| self.held.remove(&Claim { cell, lease: **lease }).is_some();
        let settled = leases.iter().filter(gone).count() as u64;
        self.tally(cell).settled += settled;
        settled
    }

    /// Forgets leases that a cell has revoked; returns those whose guests still run.
    pub fn revoke(&mut self, cell: CellId, leases: &[LeaseId]) -> Vec<Claim> {
        let gone: BTreeSet<Claim> = leases.iter().map(|&lease| Claim { cell, lease }).collect();
        for queue in &mut self.queues {
            queue.retain(|assignment| !gone.contains(&assignment.claim()));
        }
        let mut running = Vec::new();
        for claim in gone {
            match self.held.get(&claim) {
                Some(Held::Running) => {
                    self.revoked.insert(claim);
                    running.push(claim);
                }
                Some(Held::Queued | Held::Waiting(..) | Held::Reported(_)) => {
                    self.held.remove(&claim);
                }
                None => {}
            }
        }
        running
    }

    /// Notes whether a cell dispatches anything; returns whether that was otherwise until now, and what of its leases has not
    /// begun, off the board.
    pub fn set_halted(&mut self, cell: CellId, halted: bool) -> (bool, Vec<Claim>) {
        if !halted {
            return (self.halted.remove(&cell), Vec::new());
        }
        if !self.halted.insert(cell) {
            return (false, Vec::new());
        }
        let mut queued = Vec::new();
        for queue in &mut self.queues {
            let (its, rest) = std::mem::take(queue).into_iter().partition(|waits| waits.cell() == cell);
            *queue = rest;
            let its: VecDeque<Assignment> = its;
            queued.extend(its.iter().map(Assignment::claim));
        }
        for claim in &queued {
            self.held.remove(claim);
        }
        if let Some(seat) = self.seats.get_mut(&cell).filter(|_| !queued.is_empty()) {
            // Who gives something back gets nothing more before it asks again.
            seat.wanted = 0;
        }
        (true, queued)
    }

    /// Returns whether a cell dispatches nothing new.
    pub fn is_halted(&self, cell: CellId) -> bool {
        self.halted.contains(&cell)
    }

    /// Takes every lease that has not started off the board.
    pub fn clear_queue(&mut self) -> Vec<Claim> {
        let queued: Vec<Claim> =
            self.queues.iter_mut().flat_map(|queue| queue.drain(..)).map(|a| a.claim()).collect();
        for claim in &queued {
            self.held.remove(claim);
        }
        for seat in self.seats.values_mut() {
            seat.wanted = 0;
        }
        queued
    }

    /// Takes every lease that runs off the board.
    pub fn clear_running(&mut self) -> Vec<Claim> {
        let running = |(_, held): &(&Claim, &Held)| matches!(held, Held::Running);
        let running: Vec<Claim> = self.held.iter().filter(running).map(|(claim, _)| *claim).collect();
        self.revoked.extend(&running);
        for claim in &running {
            self.held.remove(claim);
        }
        running
    }

    /// Returns the leases held for a cell.
    pub fn held_of(&self, cell: CellId) -> Vec<LeaseId> {
        self.of(cell).map(|(claim, _)| claim.lease).collect()
    }

    fn of(&self, cell: CellId) -> impl Iterator<Item = (&Claim, &Held)> {
        let lease = |number| Claim { cell, lease: LeaseId(number) };
        self.held.range(lease(0)..=lease(u64::MAX))
    }

    /// Returns what a cell has to be told again after its session broke: all that it has not settled.
    pub fn unsettled(&self, cell: CellId) -> Vec<Out> {
        let out = |(claim, held): (&Claim, &Held)| match held {
            Held::Queued | Held::Running => None,
            Held::Waiting(_, commitment) => Some(Out::Commit(claim.lease, *commitment)),
            Held::Reported(report) => Some(Out::Report(report.clone())),
        };
        self.of(cell).filter_map(out).collect()
    }

    /// Returns what was done for each cell since the start, and what is held for it.
    pub fn tallies(&self) -> BTreeMap<CellId, Tally> {
        let mut tallies = self.tallies.clone();
        for claim in self.held.keys() {
            tallies.entry(claim.cell).or_default().held += 1;
        }
        tallies
    }

    /// Returns whether a cell is in session.
    pub fn is_seated(&self, cell: CellId) -> bool {
        self.seats.contains_key(&cell)
    }

    fn tally(&mut self, cell: CellId) -> &mut Tally {
        self.tallies.entry(cell).or_default()
    }
}

#[cfg(test)]
mod tests;
