//! `CELL-9`: whoever cheats where it is compared earns nothing there, and ends quarantined at the second time.

use wc_cell::Command;
use wc_types::entry::Standing;

use crate::invariant::{Invariant, Step};

/// Follows what cheats are paid.
pub struct Cheat;

impl Invariant for Cheat {
    fn name(&self) -> &'static str {
        "CELL-9 cheat"
    }

    fn observe(&mut self, step: &Step<'_>) -> Result<(), String> {
        for command in step.commands {
            let Command::Decide { verdict, .. } = command else { continue };
            for vote in &verdict.agreeing {
                let born = step.born.get(&vote.node).ok_or("a vote of an unknown node")?;
                // After healing even they tell the truth; before that nothing of theirs is ever paid.
                if !step.healed && verdict.replicas > 1 && !born.0.is_truthful() && vote.awarded.0 > 0 {
                    return Err(format!("{} of kind {:?} is paid {}", vote.node, born.0, vote.awarded));
                }
            }
            if verdict.dissenting.iter().any(|vote| vote.awarded.0 > 0) {
                return Err("dissent is paid".into());
            }
        }
        Ok(())
    }

    fn finish(&mut self, step: &Step<'_>) -> Result<(), String> {
        for node in step.cell.nodes() {
            let (kind, _) = step.born.get(&node.id).ok_or("an unknown node")?;
            let quarantined = node.standing == Standing::Quarantined;
            if quarantined != (node.dissented >= 2) {
                return Err(format!(
                    "{} dissented {} times and is {:?}",
                    node.id, node.dissented, node.standing
                ));
            }
            if quarantined && !kind.is_cheat() {
                return Err(format!("{} is quarantined and of kind {kind:?}", node.id));
            }
        }
        Ok(())
    }
}
