//! A whole cell from one seed: no sockets, no clock, the very state machine that ships.
//!
//! ```text
//! seed ──► plan ──► world ──agenda──► fact ──► cell ──► commands ──► donors ──► agenda …
//!                                      └──► invariants, after every fact
//! ```
//! Faults first (crashes, lost links, lies, a dying coordinator), then everything heals and every job must end.

pub mod chance;
pub mod donor;
pub mod plan;
pub mod world;

pub use chance::Chance;
pub use plan::Plan;
pub use world::{Ran, World};

/// Runs the world of one seed to its end.
///
/// # Errors
/// What went wrong, in words.
pub fn run(seed: u64) -> Result<Ran, String> {
    World::new(Plan::draw(seed)).run()
}
