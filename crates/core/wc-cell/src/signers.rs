//! Who signs the cell's checkpoints: the chain of hand-overs, and the entry that records each.

use wc_ledger::threshold::SignerKeys;
use wc_ledger::threshold::handover::{verify_chain, verify_link};
use wc_types::entry::EntryKind;
use wc_types::signers::Handover;
use wc_types::{Class, Code, Refusal};

use crate::cell::Cell;
use crate::command::Command;
use crate::turn::Turn;

const BROKEN_LINK: Code = Code::new("WC-CELL-010", Class::Caller);

impl Cell {
    /// Takes over new signers, if both they and those in force have signed; else answers why not.
    pub(crate) fn signers_changed(&mut self, handover: &Handover, turn: &mut Turn) {
        let refused = match self.signer_keys().map(|keys| verify_link(&keys, &self.id, handover)) {
            Some(Ok(_)) => None,
            Some(Err(fault)) => Some(fault.to_string()),
            None => Some("the cell is not founded".to_owned()),
        };
        if let Some(reason) = refused {
            turn.answers
                .push(Command::Answer { refusals: vec![Refusal::new(BROKEN_LINK, reason)], job: None });
            return;
        }
        self.signers.push(handover.clone());
        let kind = EntryKind::SignersChanged { epoch: handover.set.epoch, set: handover.set.cid() };
        self.post(kind, Vec::new(), turn);
        turn.answers.push(Command::Answer { refusals: Vec::new(), job: None });
    }

    /// Returns the hand-overs from the founding to the signers in force.
    pub fn signers(&self) -> &[Handover] {
        &self.signers
    }

    /// Returns the signers in force; none before the founding.
    pub fn signer_keys(&self) -> Option<SignerKeys> {
        verify_chain(self.founding.as_deref()?, &self.signers).ok()
    }
}
