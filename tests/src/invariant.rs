//! What must be true after every fact of a simulated world, one file each.

pub mod balance;
pub mod cheat;
pub mod fading;
pub mod lease;
pub mod progress;
pub mod quorum;
pub mod reachable;
pub mod truth;

use std::collections::BTreeMap;

use wc_cell::{Cell, Command, Fact};
use wc_types::{AccountId, NodeId};

use crate::sim::donor::Kind;

/// One fact, what it led to, and the cell after it.
pub struct Step<'a> {
    /// What happened.
    pub fact: &'a Fact,
    /// What the cell wanted done.
    pub commands: &'a [Command],
    /// The cell afterwards.
    pub cell: &'a Cell,
    /// Whether the time of troubles is over and everybody behaves.
    pub healed: bool,
    /// What each node truly is. The cell cannot know; the checks can.
    pub born: &'a BTreeMap<NodeId, (Kind, AccountId)>,
}

/// Something that must hold.
pub trait Invariant {
    /// Its stable id and a few words.
    fn name(&self) -> &'static str;

    /// Looks at one fact.
    ///
    /// # Errors
    /// What is wrong.
    fn observe(&mut self, step: &Step<'_>) -> Result<(), String>;

    /// Looks at the end, when everything has healed and every job is over.
    ///
    /// # Errors
    /// What is wrong.
    fn finish(&mut self, _step: &Step<'_>) -> Result<(), String> {
        Ok(())
    }
}

/// Returns all of them, fresh.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(balance::Balance::default()),
        Box::new(lease::SingleLease::default()),
        Box::new(quorum::Quorum::default()),
        Box::new(reachable::Reachable),
        Box::new(truth::Truth),
        Box::new(cheat::Cheat),
        Box::new(progress::Progress),
        Box::new(fading::Fading::default()),
    ]
}
