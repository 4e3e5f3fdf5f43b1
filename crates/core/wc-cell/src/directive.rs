//! What the coordinator orders the whole cell: a halt, and bans. They are facts, so they outlive a restart.

use wc_types::directive::Directives;
use wc_types::{Class, Code, NodeId, Refusal, Signed, Witnessed};

use crate::cell::Cell;
use crate::command::Command;
use crate::turn::Turn;

const NOT_OURS: Code = Code::new("WC-CELL-011", Class::Caller);
const OUTDATED: Code = Code::new("WC-CELL-012", Class::Conflict);
pub(crate) const BANNED: Code = Code::new("WC-CELL-013", Class::Caller);

impl Cell {
    /// Takes new directives in the place of those that stood, and answers whether they count. A banned node's leases are
    /// taken back at once, for others to get.
    pub(crate) fn directed(&mut self, directives: &Witnessed<Directives>, turn: &mut Turn) {
        let refusal = self.directives_refusal(directives);
        let refusals: Vec<Refusal> = refusal.into_iter().collect();
        let counts = refusals.is_empty();
        turn.answers.push(Command::Answer { refusals, job: None });
        if !counts {
            return;
        }
        let former = self.directives.replace(directives.clone());
        for ban in &directives.bans {
            self.node_gone(ban.node, turn);
        }
        let halted = |directives: Option<&Witnessed<Directives>>| {
            directives.is_some_and(|directives| directives.halt.is_some())
        };
        if halted(former.as_ref()) && !self.is_halted() {
            // Whoever asked meanwhile still waits for an answer.
            turn.nodes_changed = true;
        }
    }

    fn directives_refusal(&self, directives: &Witnessed<Directives>) -> Option<Refusal> {
        let founding = self.founding.as_deref()?;
        if let Err(flaw) = Directives::check(directives, founding) {
            return Some(Refusal::new(NOT_OURS, flaw.to_string()));
        }
        let last = self.directives.as_ref().map_or(0, |last| last.seq);
        (directives.seq <= last).then(|| {
            Refusal::new(
                OUTDATED,
                format!("directives {} are known already, these are {}", last, directives.seq),
            )
        })
    }

    /// Returns the directives in force, if there were any.
    pub fn directives(&self) -> Option<&Signed<Directives>> {
        self.directives.as_deref()
    }

    pub(crate) fn halt_reason(&self) -> Option<&str> {
        self.directives.as_ref()?.halt.as_ref().map(|halt| halt.reason.as_str())
    }

    /// Returns whether nothing new is dispatched.
    pub(crate) fn is_halted(&self) -> bool {
        self.directives.as_ref().is_some_and(|directives| directives.halt.is_some())
    }

    /// Returns why a node may not work here, if it is banned.
    pub fn ban_refusal(&self, node: &NodeId) -> Option<Refusal> {
        let directives = self.directives.as_ref()?;
        let ban = directives.bans.iter().find(|ban| ban.node == *node)?;
        let banned = format!("this node is banned from the cell: {}", ban.reason);
        Some(Refusal::new(BANNED, banned).hint("its coordinator's operator can lift that"))
    }
}
