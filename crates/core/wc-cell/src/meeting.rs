//! Other cells of the same network: an island that meets an older cell is no island any more.
//!
//! The two stay two cells, each with its own journal and ledger; what changes is that their donors work for both. So a
//! meeting moves no job, no lease and no credit, and the entry that records it posts nothing.

use serde::{Deserialize, Serialize};
use wc_types::charter::{Founding, cell_id};
use wc_types::entry::EntryKind;
use wc_types::{CellId, Timestamp, Witnessed};

use crate::cell::Cell;
use crate::turn::Turn;

/// Meetings that are recorded. Each is with an older cell than the last, so honest networks need a few; who founds cells
/// with ever older dates gets no further than this.
const MEETINGS_MAX: usize = 8;

/// A meeting with an older cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meeting {
    /// The older cell.
    pub parent: CellId,
    /// When it was founded.
    pub founded_at: Timestamp,
    /// When the two met.
    pub merged_at: Timestamp,
}

impl Cell {
    /// Records that there is an older cell, if it is one: signed by whom it names, of this network, founded before this
    /// one and before every cell that was met so far. The same cell is never another one, however often its coordinator
    /// was restored or copied.
    pub(crate) fn cell_met(&mut self, founding: &Witnessed<Founding>, turn: &mut Turn) {
        let Some(own) = &self.founding else { return };
        let (parent, founded_at) = (cell_id(founding), founding.founded_at);
        let oldest = match self.met.last() {
            Some(last) => (last.founded_at, last.parent),
            None => (own.founded_at, self.id),
        };
        let counts = founding.signed_by(&founding.coordinator.0).is_ok()
            && founding.network == own.network
            && (founded_at, parent) < oldest
            && self.met.len() < MEETINGS_MAX;
        if !counts {
            return;
        }
        self.met.push(Meeting { parent, founded_at, merged_at: turn.at });
        self.post(EntryKind::CellMet { parent, founded_at }, Vec::new(), turn);
    }

    /// Returns the meeting with the oldest cell that this one knows of; none while it is an island, or the oldest itself.
    pub fn parent(&self) -> Option<Meeting> {
        self.met.last().copied()
    }
}
