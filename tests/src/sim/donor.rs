//! A simulated donor: what it holds, how it runs, and how honest it is.

use std::collections::{BTreeMap, VecDeque};

use wc_types::cid::{CODEC_DAG_CBOR, cid_of};
use wc_types::node::Enrolment;
use wc_types::outcome::{Commitment, Outcome};
use wc_types::{AccountId, Cid, LeaseId, Millis, NodeId, SigningKey, TaskId, Witnessed};

use crate::sim::Chance;

/// What kind of donor this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Runs what it is given and tells the truth.
    Honest,
    /// The same, ten times slower.
    Slow,
    /// Loses power now and then, and forgets everything.
    Crashing,
    /// Leaves for good.
    Leaving,
    /// Its link breaks now and then.
    Flaky,
    /// Takes leases and says nothing.
    Silent,
    /// Its sandbox never starts.
    Broken,
    /// Gives back half of what it gets.
    Picky,
    /// Sends junk beside its work.
    Babbling,
    /// Invents every result.
    Liar,
    /// Invents the same results as the other colluder.
    Colluder,
    /// Commits to what another node committed to.
    Copier,
    /// Reports without committing.
    Eager,
    /// Commits and never reveals.
    Withholder,
}

impl Kind {
    /// Returns whether every result that it reports is the true one.
    pub fn is_truthful(self) -> bool {
        !matches!(self, Self::Liar | Self::Colluder | Self::Copier)
    }

    /// Returns whether it breaks the rules in a way that must end in quarantine.
    pub fn is_cheat(self) -> bool {
        matches!(self, Self::Liar | Self::Colluder | Self::Copier | Self::Eager)
    }
}

/// A result that a donor has ready.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Its signed word.
    pub outcome: Witnessed<Outcome>,
    /// What it is bound to; `None` when nobody compares it.
    pub commitment: Option<Commitment>,
}

/// One lease as its donor knows it.
#[derive(Clone, Debug)]
pub struct Held {
    /// What to run.
    pub task: TaskId,
    /// Whether to commit before reporting.
    pub commit_first: bool,
    /// How often it looked for something to copy.
    pub looked: u8,
    /// The result, when there is one.
    pub ready: Option<Ready>,
    /// Whether the cell asked to see it.
    pub asked: bool,
}

/// One machine.
#[derive(Debug)]
pub struct Donor {
    /// Its key.
    pub key: SigningKey,
    /// Its id.
    pub node: NodeId,
    /// Who is paid.
    pub owner: AccountId,
    /// How it behaves; heals.
    pub kind: Kind,
    /// How it behaved at first.
    pub born: Kind,
    /// Its request to join.
    pub enrolment: Witnessed<Enrolment>,
    /// Guests at once.
    pub slots: usize,
    /// What it holds.
    pub held: BTreeMap<LeaseId, Held>,
    /// What waits for a slot.
    pub waiting: VecDeque<LeaseId>,
    /// Slots in use.
    pub busy: usize,
    /// What it asked for and was not given.
    pub wished: u32,
    /// Whether its link works.
    pub linked: bool,
    /// Number of its link: what was sent over an older one is lost.
    pub link: u32,
    /// Number of its power cycle: what ran before the last one is lost.
    pub boot: u32,
    /// Whether it left for good.
    pub gone: bool,
    /// Leases whose result or commitment must be sent soon.
    pub unsent: Vec<LeaseId>,
    /// Whether a flush is on the agenda.
    pub flushing: bool,
}

impl Donor {
    /// Returns how long a task takes here.
    pub fn duration(&self, chance: &mut Chance) -> Millis {
        let base = chance.between(20, 4_000);
        Millis(if self.kind == Kind::Slow { base * 10 } else { base })
    }

    /// Returns the result that this donor reports for a task.
    pub fn record(&self, task: &TaskId) -> Cid {
        match self.kind {
            Kind::Liar | Kind::Copier => lie(&self.node.0, task),
            Kind::Colluder => lie(b"together", task),
            Kind::Honest
            | Kind::Slow
            | Kind::Crashing
            | Kind::Leaving
            | Kind::Flaky
            | Kind::Silent
            | Kind::Broken
            | Kind::Picky
            | Kind::Babbling
            | Kind::Eager
            | Kind::Withholder => truth(task),
        }
    }
}

/// Returns the true result of a task.
pub fn truth(task: &TaskId) -> Cid {
    cid_of(CODEC_DAG_CBOR, format!("truth of {task}").as_bytes())
}

fn lie(whose: &[u8], task: &TaskId) -> Cid {
    let mut bytes = format!("lie about {task} by ").into_bytes();
    bytes.extend_from_slice(whose);
    cid_of(CODEC_DAG_CBOR, &bytes)
}
