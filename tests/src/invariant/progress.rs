//! `CELL-5`: no node that asks is left without work that it could take.

use wc_cell::Event;

use crate::invariant::{Invariant, Step};

/// Asks the cell itself, now and then, whether any waiting task has a node that nothing speaks against.
pub struct Progress;

impl Invariant for Progress {
    fn name(&self) -> &'static str {
        "CELL-5 progress"
    }

    fn observe(&mut self, step: &Step<'_>) -> Result<(), String> {
        // Explaining looks at every node; once in a while is enough, for the state stays as it is until it is fixed.
        if !step.fact.seq.is_multiple_of(97) && step.fact.event != Event::Tick {
            return Ok(());
        }
        self.finish(step)
    }

    fn finish(&mut self, step: &Step<'_>) -> Result<(), String> {
        for job in step.cell.jobs().filter(|job| job.ended_at.is_none()) {
            let Some(explanation) = step.cell.explain(&job.id) else { continue };
            for task in explanation.stages.iter().flat_map(|stage| &stage.waiting) {
                if let Some((node, _)) = task.nodes.iter().find(|(_, against)| against.is_none()) {
                    return Err(format!("{node} asks and could take task {} of {}", task.index, job.name));
                }
            }
        }
        Ok(())
    }
}
