//! `CELL-7`: every accepted result can be fetched: some node that truly ran the task vouches for it.

use wc_cell::Command;

use crate::invariant::{Invariant, Step};

/// Looks for a truthful node behind every verdict.
pub struct Reachable;

impl Invariant for Reachable {
    fn name(&self) -> &'static str {
        "CELL-7 reachable"
    }

    fn observe(&mut self, step: &Step<'_>) -> Result<(), String> {
        for command in step.commands {
            let Command::Decide { verdict, .. } = command else { continue };
            let kind = |node| step.born.get(&node).map(|(kind, _)| *kind);
            let held =
                verdict.agreeing.iter().any(|vote| kind(vote.node).is_some_and(|kind| kind.is_truthful()));
            if verdict.replicas > 1 && !held {
                return Err(format!(
                    "only liars vouch for {}/{}/{}",
                    verdict.job, verdict.stage, verdict.index
                ));
            }
        }
        Ok(())
    }
}
