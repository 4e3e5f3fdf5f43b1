//! The world: an agenda of happenings, one cell, and donors around it.

use std::collections::{BTreeMap, BTreeSet};

use wc_cell::{Cell, Command, Event, Fact, JobPhase};
use wc_types::charter::Founding;
use wc_types::entry::EntryKind;
use wc_types::grant::Grant;
use wc_types::node::{Path, Reach};
use wc_types::outcome::{Commitment, Ending, Failure, Outcome, Usage};
use wc_types::{
    AccountId, Fuel, JobId, LeaseId, Millis, NodeId, Signed, SigningKey, TaskId, Timestamp, Witnessed,
};

use crate::invariant::{self, Invariant, Step};
use crate::sim::Chance;
use crate::sim::donor::{Donor, Held, Kind, Ready};
use crate::sim::plan::{Plan, PlannedJob, START, TROUBLE};

/// How long after healing every job must have ended.
const PATIENCE: Millis = Millis(6 * 3_600_000);
/// How often a donor says again what was not settled.
const RESEND: Millis = Millis(5_000);

/// Number of a donor in the world.
type DonorNo = usize;

/// What a donor says to the cell.
#[derive(Clone, Debug)]
enum Word {
    Want(u32),
    Commit(Vec<(LeaseId, Commitment)>),
    Report(Vec<Witnessed<Outcome>>),
    Return(Vec<LeaseId>),
    Pause(bool),
}

/// What the cell says to a donor.
#[derive(Clone, Debug)]
enum Order {
    Grant(Box<Grant>),
    Reveal(Vec<LeaseId>),
    Drop(Vec<LeaseId>),
}

/// What is on the agenda.
#[derive(Clone, Debug)]
enum Happening {
    Join(DonorNo),
    ToCell { from: DonorNo, link: u32, word: Word },
    ToDonor { to: DonorNo, link: u32, order: Order },
    Ran { donor: DonorNo, boot: u32, lease: LeaseId },
    Flush { donor: DonorNo, boot: u32 },
    Resend { donor: DonorNo, boot: u32 },
    Trouble(DonorNo),
    LinkBack(DonorNo),
    Missed { donor: DonorNo, link: u32 },
    Submit(usize),
    Staged(JobId),
    Cancel(usize),
    Tick,
    Restart,
    Heal,
}

/// What a world came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Facts that were applied.
    pub facts: u64,
    /// Donors that took part.
    pub donors: usize,
    /// Jobs that were completed.
    pub completed: usize,
    /// Tasks that were accepted.
    pub accepted: u64,
    /// Leases that were granted.
    pub granted: u64,
    /// Nodes that ended quarantined.
    pub quarantined: usize,
    /// How often the coordinator came back from its snapshot.
    pub restarts: usize,
    /// Entries by which credit faded, was taken back, or expired.
    pub faded: [u64; 3],
    /// The state at the end.
    pub hash: [u8; 32],
}

/// One simulated world.
pub struct World {
    seed: u64,
    chance: Chance,
    now: Timestamp,
    agenda: BTreeMap<(Timestamp, u64), Happening>,
    agenda_next: u64,
    cell: Cell,
    seq: u64,
    /// The last snapshot and every fact since.
    snapshot: Vec<u8>,
    since: Vec<Fact>,
    restarts: usize,
    donors: Vec<Donor>,
    numbers: BTreeMap<NodeId, DonorNo>,
    born: BTreeMap<NodeId, (Kind, AccountId)>,
    jobs: Vec<PlannedJob>,
    doomed: BTreeSet<JobId>,
    /// Commitments that everybody could see on the way.
    leaked: BTreeMap<TaskId, Vec<(NodeId, Ready)>>,
    invariants: Vec<Box<dyn Invariant>>,
    healed: bool,
    granted: u64,
    faded: [u64; 3],
    tick_at: Option<Timestamp>,
}

impl World {
    /// Sets a plan up.
    pub fn new(plan: Plan) -> Self {
        let coordinator = SigningKey::from_seed(&[7; 32]);
        let founding = Founding {
            network: "sim".into(),
            coordinator: coordinator.node_id(),
            owner: SigningKey::from_seed(&[8; 32]).account_id(),
            charter: plan.charter,
            founded_at: START,
        };
        let numbers = plan.donors.iter().enumerate().map(|(number, donor)| (donor.node, number)).collect();
        let born = plan.donors.iter().map(|donor| (donor.node, (donor.born, donor.owner))).collect();
        let mut world = Self {
            seed: plan.seed,
            chance: plan.chance,
            now: START,
            agenda: BTreeMap::new(),
            agenda_next: 0,
            cell: Cell::empty(),
            seq: 0,
            snapshot: Cell::empty().snapshot(),
            since: Vec::new(),
            restarts: 0,
            donors: plan.donors,
            numbers,
            born,
            jobs: plan.jobs,
            doomed: BTreeSet::new(),
            leaked: BTreeMap::new(),
            invariants: invariant::all(),
            healed: false,
            granted: 0,
            faded: [0; 3],
            tick_at: None,
        };
        for number in 0..world.donors.len() {
            world.soon(number as u64 * 10, 3_000, Happening::Join(number));
            if world.donors[number].kind != Kind::Honest {
                world.soon(5_000, TROUBLE.0, Happening::Trouble(number));
            }
        }
        for number in 0..world.jobs.len() {
            world.put(world.jobs[number].at, Happening::Submit(number));
            if let Some(at) = world.jobs[number].cancel_at {
                world.put(at, Happening::Cancel(number));
            }
        }
        for at in plan.restarts {
            world.put(at, Happening::Restart);
        }
        world.put(START.plus(TROUBLE), Happening::Heal);
        let founded = Event::Founded(Signed::seal(founding, &coordinator).witnessed());
        world.tell(founded).expect("the founding breaks no invariant");
        world
    }

    /// Runs the world to its end.
    ///
    /// # Errors
    /// What went wrong, in words, with the command that shows it again.
    pub fn run(mut self) -> Result<Ran, String> {
        let seed = self.seed;
        self.go().map_err(|wrong| format!("seed {seed}: {wrong}\nagain: cargo xtask sim --seed {seed}"))
    }

    fn go(&mut self) -> Result<Ran, String> {
        let limit = START.plus(TROUBLE).plus(PATIENCE);
        while let Some(((at, _), happening)) = self.agenda.pop_first() {
            if at > limit {
                return Err(self.unfinished());
            }
            self.now = at;
            self.happen(happening)?;
            if self.healed && self.is_over() {
                self.months()?;
                return self.end();
            }
        }
        Err(self.unfinished())
    }

    /// Lets months pass after the last job, in leaps: credit fades, owners withdraw, some come back, the coordinator
    /// restarts between.
    fn months(&mut self) -> Result<(), String> {
        for _ in 0..self.chance.between(0, 8) {
            for _ in 0..self.chance.between(0, 4) {
                let last = self.donors.len() as u64 - 1;
                let number = usize::try_from(self.chance.between(0, last)).unwrap_or(0);
                let donor = &self.donors[number];
                let event = if donor.gone {
                    Event::NodeJoined(donor.enrolment.clone())
                } else {
                    Event::NodeLeft { node: donor.node }
                };
                self.donors[number].gone = !donor.gone;
                self.tell(event)?;
            }
            let leap = Millis(self.chance.between(1, 60 * 24) * 3_600_000);
            self.now = self.now.plus(leap);
            while let Some(due) = self.cell.next_deadline().filter(|due| *due <= self.now) {
                // A coordinator that sleeps through midnight sees it late, each tick a moment after the other.
                self.tell(Event::Tick)?;
                if self.cell.next_deadline() == Some(due) {
                    return Err(format!("a tick at {due} does nothing"));
                }
                let next = self.cell.next_deadline().filter(|due| *due <= Timestamp(self.now.0 + 1));
                self.now = next.map_or(self.now, |next| self.now.max(next));
            }
            if self.chance.percent(30) {
                self.replay()?;
            }
        }
        Ok(())
    }

    /// Returns whether every job ended and every donor may forget what it held.
    fn is_over(&self) -> bool {
        self.cell.counts().jobs_open == 0
            && !self.agenda.values().any(|next| matches!(next, Happening::Submit(_) | Happening::Staged(_)))
            && self.donors.iter().all(|donor| donor.gone || donor.held.is_empty())
    }

    fn end(&mut self) -> Result<Ran, String> {
        let fact = Fact { seq: self.seq, at: self.now, seed: [0; 32], event: Event::Tick };
        let mut invariants = std::mem::take(&mut self.invariants);
        let step = Step { fact: &fact, commands: &[], cell: &self.cell, healed: true, born: &self.born };
        for invariant in &mut invariants {
            invariant.finish(&step).map_err(|wrong| format!("{}: at the end: {wrong}", invariant.name()))?;
        }
        self.replay()?;
        let mut completed = 0;
        let mut accepted = 0;
        for job in self.cell.jobs() {
            accepted += job.stages.iter().map(|stage| u64::from(stage.accepted)).sum::<u64>();
            let may_cancel = self.jobs.iter().any(|planned| {
                planned.cancel_at.is_some() && planned.manifest.job_id(&planned.manifest.cid()) == job.id
            });
            match job.phase {
                JobPhase::Verified if !self.doomed.contains(&job.id) => completed += 1,
                JobPhase::Failed if self.doomed.contains(&job.id) => {}
                JobPhase::Cancelled if may_cancel => {}
                phase => return Err(format!("{} ended {phase:?}: {:?}", job.name, job.reason)),
            }
        }
        Ok(Ran {
            facts: self.seq,
            donors: self.donors.len(),
            completed,
            accepted,
            granted: self.granted,
            quarantined: self
                .cell
                .nodes()
                .filter(|node| node.standing == wc_types::entry::Standing::Quarantined)
                .count(),
            restarts: self.restarts,
            faded: self.faded,
            hash: self.cell.state_hash(),
        })
    }

    fn unfinished(&self) -> String {
        let mut text = String::from("not everything ends:");
        for job in self.cell.jobs().filter(|job| job.ended_at.is_none()) {
            text += &format!("\n  {} {:?} {:?}", job.name, job.phase, job.stages);
            for stage in self.cell.explain(&job.id).into_iter().flat_map(|explanation| explanation.stages) {
                for task in stage.waiting.iter().take(1) {
                    let view = self.cell.task(&TaskId { job: job.id, stage: 0, index: task.index });
                    text += &format!("\n    {task:?}\n    {view:?}");
                }
            }
        }
        for donor in self.donors.iter().filter(|donor| !donor.gone && !donor.held.is_empty()) {
            text += &format!(
                "\n  {} {:?}/{:?} linked {} holds {} leases",
                donor.node,
                donor.born,
                donor.kind,
                donor.linked,
                donor.held.len()
            );
        }
        text
    }

    fn put(&mut self, at: Timestamp, happening: Happening) {
        self.agenda.insert((at, self.agenda_next), happening);
        self.agenda_next += 1;
    }

    /// Puts something on the agenda after a random time in milliseconds.
    fn soon(&mut self, least: u64, most: u64, happening: Happening) {
        let delay = Millis(self.chance.between(least.min(most), most));
        self.put(self.now.plus(delay), happening);
    }

    /// Commits one fact: applies it, checks everything, performs what follows.
    fn tell(&mut self, event: Event) -> Result<(), String> {
        let fact = Fact { seq: self.seq, at: self.now, seed: self.chance.bytes(), event };
        self.seq += 1;
        let mut commands = Vec::new();
        self.cell.apply(&fact, &mut commands);
        let step = Step {
            fact: &fact,
            commands: &commands,
            cell: &self.cell,
            healed: self.healed,
            born: &self.born,
        };
        for invariant in &mut self.invariants {
            invariant
                .observe(&step)
                .map_err(|wrong| format!("{}: after fact {}: {wrong}", invariant.name(), fact.seq))?;
        }
        self.since.push(fact);
        for command in commands {
            self.perform(command);
        }
        if self.chance.percent(1) && self.since.len() > 50 {
            self.replay()?;
            self.snapshot = self.cell.snapshot();
            self.since.clear();
        }
        let due = self.cell.next_deadline();
        if due != self.tick_at {
            self.tick_at = due;
            if let Some(at) = due {
                self.put(at.max(self.now), Happening::Tick);
            }
        }
        Ok(())
    }

    /// Restores the last snapshot, applies what came since, and compares.
    fn replay(&mut self) -> Result<(), String> {
        let mut cell = Cell::restore(&self.snapshot).map_err(|error| error.to_string())?;
        let mut ignored = Vec::new();
        for fact in &self.since {
            ignored.clear();
            cell.apply(fact, &mut ignored);
        }
        if cell.state_hash() != self.cell.state_hash() {
            return Err(format!("replay: {} facts since the snapshot lead elsewhere", self.since.len()));
        }
        self.cell = cell;
        Ok(())
    }

    fn perform(&mut self, command: Command) {
        match command {
            Command::Stage { job } => self.soon(1, 200, Happening::Staged(job)),
            Command::Grant(grant) => {
                self.granted += grant.leases.len() as u64;
                self.order(grant.node, Order::Grant(Box::new(grant)));
            }
            Command::AskReveal { node, leases } => self.order(node, Order::Reveal(leases)),
            Command::Revoke { node, leases } | Command::Settled { node, leases } => {
                self.order(node, Order::Drop(leases));
            }
            Command::Answer { .. }
            | Command::Keep { .. }
            | Command::Decide { .. }
            | Command::Forget { .. }
            | Command::JobEnded { .. } => {}
            Command::Publish { entries } => {
                for entry in entries {
                    match entry.kind {
                        EntryKind::CreditDecayed { .. } => self.faded[0] += 1,
                        EntryKind::CreditReversed { .. } => self.faded[1] += 1,
                        EntryKind::CreditExpired { .. } => self.faded[2] += 1,
                        _ => {}
                    }
                }
            }
        }
    }

    /// Sends something to a donor; lost when its link is down or breaks on the way.
    fn order(&mut self, node: NodeId, order: Order) {
        let Some(&to) = self.numbers.get(&node) else { return };
        if self.donors[to].linked {
            let link = self.donors[to].link;
            self.soon(1, 60, Happening::ToDonor { to, link, order });
        }
    }

    /// Sends something to the cell; lost when the link is down or breaks on the way.
    fn say(&mut self, from: DonorNo, word: Word) {
        if self.donors[from].linked {
            let link = self.donors[from].link;
            self.soon(1, 60, Happening::ToCell { from, link, word });
        }
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Join(number) => self.join(number)?,
            Happening::ToCell { from, link, word } => {
                if self.donors[from].linked && self.donors[from].link == link {
                    self.heard(from, word)?;
                }
            }
            Happening::ToDonor { to, link, order } => {
                if self.donors[to].linked && self.donors[to].link == link {
                    self.ordered(to, order);
                }
            }
            Happening::Ran { donor, boot, lease } => {
                if self.donors[donor].boot == boot {
                    self.ran(donor, lease);
                }
            }
            Happening::Flush { donor, boot } => {
                if self.donors[donor].boot == boot {
                    self.flush(donor);
                }
            }
            Happening::Resend { donor, boot } => {
                if self.donors[donor].boot == boot && !self.donors[donor].gone {
                    self.resend(donor);
                    self.put(self.now.plus(RESEND), Happening::Resend { donor, boot });
                }
            }
            Happening::Trouble(number) => self.trouble(number)?,
            Happening::LinkBack(number) => {
                if !self.donors[number].linked {
                    self.join(number)?;
                }
            }
            Happening::Missed { donor, link } => {
                if !self.donors[donor].linked && self.donors[donor].link == link {
                    self.tell(Event::NodeOffline { node: self.donors[donor].node })?;
                }
            }
            Happening::Submit(number) => self.submit(number)?,
            Happening::Staged(job) => self.tell(Event::JobStaged { job, listed: Vec::new() })?,
            Happening::Cancel(number) => {
                let manifest = &self.jobs[number].manifest;
                let (job, by) = (manifest.job_id(&manifest.cid()), manifest.submitter);
                self.tell(Event::JobCancelled { job, by })?;
            }
            Happening::Tick => {
                self.tick_at = None;
                if self.cell.next_deadline().is_some_and(|due| due <= self.now) {
                    self.tell(Event::Tick)?;
                }
            }
            Happening::Restart => self.restart()?,
            Happening::Heal => self.heal(),
        }
        Ok(())
    }

    fn submit(&mut self, number: usize) -> Result<(), String> {
        let manifest = self.jobs[number].manifest.clone();
        if self.jobs[number].doomed {
            self.doomed.insert(manifest.job_id(&manifest.cid()));
        }
        self.tell(Event::JobSubmitted(manifest.clone().witnessed()))?;
        if self.chance.percent(20) {
            // Submitted again, by a user who saw no answer.
            self.tell(Event::JobSubmitted(manifest.witnessed()))?;
        }
        Ok(())
    }

    /// A donor connects, for the first time or again; what cell and donor believe about leases is brought together.
    fn join(&mut self, number: DonorNo) -> Result<(), String> {
        let donor = &mut self.donors[number];
        if donor.gone {
            return Ok(());
        }
        donor.link += 1;
        donor.linked = true;
        donor.wished = 0;
        let (node, boot, enrolment) = (donor.node, donor.boot, donor.enrolment.clone());
        self.tell(Event::NodeJoined(enrolment))?;
        self.reached(node)?;
        let held = &self.donors[number].held;
        let forgotten: Vec<LeaseId> =
            self.cell.node_leases(&node).into_iter().filter(|lease| !held.contains_key(lease)).collect();
        if !forgotten.is_empty() {
            self.tell(Event::Returned { node, leases: forgotten })?;
        }
        self.soon(1, 5_000, Happening::Resend { donor: number, boot });
        self.wish(number);
        Ok(())
    }

    /// The coordinator sees by what path a donor comes this time.
    fn reached(&mut self, node: NodeId) -> Result<(), String> {
        let reach = match self.chance.between(0, 3) {
            0 => Reach::Lan,
            1 | 2 => Reach::Direct,
            _ => Reach::Relayed,
        };
        let rtt = self.chance.percent(50).then(|| Millis(self.chance.between(0, 400)));
        let path = Path { reach, rtt, inspected: self.chance.percent(10) };
        self.tell(Event::NodeReached { node, path })
    }

    /// Asks for as much as keeps the slots busy. What only waits for others to commit does not count: were it counted,
    /// donors could all be full of results that wait for each other.
    fn wish(&mut self, number: DonorNo) {
        let donor = &mut self.donors[number];
        let most = u32::try_from(donor.slots * 2).expect("small");
        let unfinished = donor.held.values().filter(|held| held.ready.is_none()).count();
        let has = u32::try_from(unfinished).expect("small") + donor.wished;
        if donor.linked && has < most {
            donor.wished += most - has;
            self.say(number, Word::Want(most - has));
        }
    }

    fn heard(&mut self, from: DonorNo, word: Word) -> Result<(), String> {
        let node = self.donors[from].node;
        let event = match word {
            Word::Want(replicas) => Event::WorkWanted { node, replicas },
            Word::Commit(items) => Event::Committed { node, items },
            Word::Report(outcomes) => Event::Reported { outcomes },
            Word::Return(leases) => Event::Returned { node, leases },
            Word::Pause(paused) => Event::NodePaused { node, paused },
        };
        self.tell(event)
    }

    fn ordered(&mut self, to: DonorNo, order: Order) {
        match order {
            Order::Grant(grant) => self.granted_to(to, &grant),
            Order::Reveal(leases) => {
                let silent = self.donors[to].kind == Kind::Withholder;
                for lease in leases {
                    if let Some(held) = self.donors[to].held.get_mut(&lease) {
                        held.asked = true;
                        if !silent {
                            self.send_later(to, lease);
                        }
                    }
                }
            }
            Order::Drop(leases) => {
                for lease in leases {
                    self.donors[to].held.remove(&lease);
                }
            }
        }
        self.wish(to);
    }

    fn granted_to(&mut self, to: DonorNo, grant: &Grant) {
        let donor = &mut self.donors[to];
        let mut refused = Vec::new();
        for term in &grant.leases {
            donor.wished = donor.wished.saturating_sub(1);
            if donor.kind == Kind::Picky && self.chance.percent(50) {
                refused.push(term.lease);
                continue;
            }
            let task = TaskId { job: grant.job, stage: grant.stage, index: term.index };
            let held = Held { task, commit_first: grant.commit_first, looked: 0, ready: None, asked: false };
            donor.held.insert(term.lease, held);
            donor.waiting.push_back(term.lease);
        }
        if !refused.is_empty() {
            donor.wished = 0;
            self.say(to, Word::Return(refused));
        }
        self.start(to);
    }

    /// Starts what fits into the slots.
    fn start(&mut self, number: DonorNo) {
        loop {
            let donor = &mut self.donors[number];
            if donor.kind == Kind::Silent || donor.busy >= donor.slots {
                return;
            }
            let Some(lease) = donor.waiting.pop_front() else { return };
            if !donor.held.contains_key(&lease) {
                continue;
            }
            donor.busy += 1;
            let (boot, took) = (donor.boot, donor.duration(&mut self.chance));
            self.put(self.now.plus(took), Happening::Ran { donor: number, boot, lease });
        }
    }

    /// A guest ended.
    fn ran(&mut self, number: DonorNo, lease: LeaseId) {
        let donor = &mut self.donors[number];
        let Some(held) = donor.held.get_mut(&lease) else {
            donor.busy = donor.busy.saturating_sub(1);
            self.start(number);
            return;
        };
        let task = held.task;
        if donor.kind == Kind::Copier && held.commit_first {
            let others = self.leaked.get(&task).into_iter().flatten();
            let copied =
                others.map(|(node, ready)| (*node, ready.clone())).find(|(node, _)| *node != donor.node);
            held.looked += 1;
            if copied.is_none() && held.looked < 20 {
                let boot = donor.boot;
                self.put(self.now.plus(Millis(1_000)), Happening::Ran { donor: number, boot, lease });
                return;
            }
            if let Some((_, theirs)) = copied {
                let outcome = Outcome { node: donor.node, lease, ..Outcome::clone(&theirs.outcome) };
                let outcome = Signed::seal(outcome, &donor.key).witnessed();
                held.ready = Some(Ready { outcome, commitment: theirs.commitment });
            }
        }
        if held.ready.is_none() {
            let success = !self.doomed.contains(&task.job);
            let ready = self.result(number, lease, task, success);
            let donor = &mut self.donors[number];
            if let Some(ready) = ready.as_ref().filter(|ready| ready.commitment.is_some())
                && donor.kind != Kind::Copier
            {
                self.leaked.entry(task).or_default().push((donor.node, ready.clone()));
            }
            if let Some(held) = self.donors[number].held.get_mut(&lease) {
                held.ready = ready;
            }
        }
        let donor = &mut self.donors[number];
        donor.busy = donor.busy.saturating_sub(1);
        self.send_later(number, lease);
        self.start(number);
    }

    /// Makes a donor's signed word about a task.
    fn result(&mut self, number: DonorNo, lease: LeaseId, task: TaskId, success: bool) -> Option<Ready> {
        let salt = self.chance.bytes();
        let broken = self.donors[number].kind == Kind::Broken;
        let donor = &self.donors[number];
        let ending = if broken {
            Ending::Failed(Failure::SandboxUnavailable("it never starts".into()))
        } else {
            Ending::Result { record: donor.record(&task), success }
        };
        let mut outcome = Outcome {
            cell: self.cell.id(),
            job: task.job,
            stage: task.stage,
            index: task.index,
            lease,
            node: donor.node,
            ending,
            usage: Usage { fuel: Fuel(u64::from(task.index % 7 + 1) * 1_000_000), ..Usage::default() },
            salt: [0; 16],
            ended_at: self.now,
        };
        outcome.salt.copy_from_slice(&salt[..16]);
        let commits = held_commits(self, number, lease);
        let commitment = outcome
            .result()
            .filter(|_| commits)
            .map(|record| Commitment::new(record, &outcome.salt, &outcome.node));
        Some(Ready { outcome: Signed::seal(outcome, &donor.key).witnessed(), commitment })
    }

    /// Sends what is ready with the next flush, so that one message carries many leases.
    fn send_later(&mut self, number: DonorNo, lease: LeaseId) {
        let donor = &mut self.donors[number];
        donor.unsent.push(lease);
        if !donor.flushing {
            donor.flushing = true;
            let boot = donor.boot;
            self.soon(1, 40, Happening::Flush { donor: number, boot });
        }
    }

    fn flush(&mut self, number: DonorNo) {
        let donor = &mut self.donors[number];
        donor.flushing = false;
        let leases = std::mem::take(&mut donor.unsent);
        let (mut commitments, mut outcomes) = (Vec::new(), Vec::new());
        for lease in leases {
            let Some(held) = donor.held.get(&lease) else { continue };
            let Some(ready) = &held.ready else { continue };
            match ready.commitment {
                Some(commitment) if !held.asked && donor.kind != Kind::Eager => {
                    commitments.push((lease, commitment));
                }
                Some(_) | None => outcomes.push(ready.outcome.clone()),
            }
        }
        if !commitments.is_empty() {
            self.say(number, Word::Commit(commitments));
        }
        if !outcomes.is_empty() {
            self.say(number, Word::Report(outcomes));
        }
    }

    /// Says again what nobody settled, and asks again for work.
    fn resend(&mut self, number: DonorNo) {
        let donor = &self.donors[number];
        let withheld = donor.kind == Kind::Withholder;
        let unsettled: Vec<LeaseId> = donor
            .held
            .iter()
            .filter(|(_, held)| held.ready.is_some() && !(withheld && held.asked))
            .map(|(lease, _)| *lease)
            .collect();
        for lease in unsettled {
            self.send_later(number, lease);
        }
        if self.donors[number].kind == Kind::Babbling && !self.healed {
            self.babble(number);
        }
        self.wish(number);
    }

    /// Says things that no honest agent says.
    fn babble(&mut self, number: DonorNo) {
        let lease = LeaseId(self.chance.between(0, self.granted + 2));
        let commitment = Commitment(self.chance.bytes());
        if !self.donors[number].held.contains_key(&lease) {
            self.say(number, Word::Commit(vec![(lease, commitment)]));
            self.say(number, Word::Return(vec![lease]));
            let job = JobId(self.chance.bytes());
            let task = TaskId { job, stage: 3, index: 9 };
            if let Some(ready) = self.result(number, lease, task, true) {
                self.say(number, Word::Report(vec![ready.outcome.clone(), ready.outcome]));
            }
        }
        // After `Return` the cell gives nothing until it is asked again.
        self.donors[number].wished = 0;
        self.wish(number);
    }

    /// A donor's own kind of trouble strikes, and will again.
    fn trouble(&mut self, number: DonorNo) -> Result<(), String> {
        if self.healed || self.donors[number].gone {
            return Ok(());
        }
        match self.donors[number].kind {
            Kind::Crashing => {
                let donor = &mut self.donors[number];
                donor.boot += 1;
                donor.held.clear();
                donor.waiting.clear();
                donor.unsent.clear();
                donor.flushing = false;
                donor.busy = 0;
                self.unlink(number, 10_000);
            }
            Kind::Flaky => self.unlink(number, 8_000),
            Kind::Leaving => {
                self.tell(Event::NodeLeft { node: self.donors[number].node })?;
                let donor = &mut self.donors[number];
                donor.gone = true;
                donor.linked = false;
                donor.held.clear();
            }
            Kind::Picky => {
                self.say(number, Word::Pause(true));
                self.say(number, Word::Pause(false));
            }
            Kind::Honest
            | Kind::Slow
            | Kind::Silent
            | Kind::Broken
            | Kind::Babbling
            | Kind::Liar
            | Kind::Colluder
            | Kind::Copier
            | Kind::Eager
            | Kind::Withholder => {}
        }
        self.soon(5_000, 60_000, Happening::Trouble(number));
        Ok(())
    }

    /// Breaks a donor's link for up to so many milliseconds.
    fn unlink(&mut self, number: DonorNo, most: u64) {
        let donor = &mut self.donors[number];
        donor.linked = false;
        donor.link += 1;
        let link = donor.link;
        self.put(self.now.plus(Millis(3_000)), Happening::Missed { donor: number, link });
        self.soon(200, most, Happening::LinkBack(number));
    }

    /// The coordinator dies: what was on its way is lost, its state comes back from snapshot and journal, and every
    /// donor connects again.
    fn restart(&mut self) -> Result<(), String> {
        self.restarts += 1;
        self.replay()?;
        self.tick_at = None;
        self.agenda.retain(|_, next| !matches!(next, Happening::Staged(_) | Happening::Tick));
        for number in 0..self.donors.len() {
            if self.donors[number].linked && !self.donors[number].gone {
                self.unlink(number, 2_500);
            }
        }
        let staging: Vec<JobId> =
            self.cell.jobs().filter(|job| job.phase == JobPhase::Staging).map(|job| job.id).collect();
        for job in staging {
            self.soon(100, 1_000, Happening::Staged(job));
        }
        self.soon(100, 200, Happening::Tick);
        self.tell(Event::Tick)
    }

    /// Ends every trouble: whoever is left behaves from now on.
    fn heal(&mut self) {
        self.healed = true;
        for number in 0..self.donors.len() {
            let donor = &mut self.donors[number];
            donor.kind = Kind::Honest;
            if !donor.linked && !donor.gone {
                self.soon(1, 500, Happening::LinkBack(number));
            }
            self.start(number);
        }
    }
}

/// Returns whether a lease wants a commitment first.
fn held_commits(world: &World, number: DonorNo, lease: LeaseId) -> bool {
    world.donors[number].held.get(&lease).is_some_and(|held| held.commit_first)
}
