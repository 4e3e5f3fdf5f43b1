//! `CELL-8`: accepted results are the true ones as long as liars are a minority of each task.

use wc_cell::Command;
use wc_types::TaskId;

use crate::invariant::{Invariant, Step};
use crate::sim::donor::truth;

/// Compares every accepted result with the true one. A single replica is compared with nothing, so it is believed.
pub struct Truth;

impl Invariant for Truth {
    fn name(&self) -> &'static str {
        "CELL-8 truth"
    }

    fn observe(&mut self, step: &Step<'_>) -> Result<(), String> {
        for command in step.commands {
            let Command::Decide { verdict, .. } = command else { continue };
            let task = TaskId { job: verdict.job, stage: verdict.stage, index: verdict.index };
            if verdict.replicas > 1 && verdict.result != truth(&task) {
                return Err(format!("{task} has a wrong result"));
            }
        }
        Ok(())
    }
}
