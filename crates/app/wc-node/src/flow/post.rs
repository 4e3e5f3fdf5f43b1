//! Station 9: credit moves on the ledger.

use crate::coordinator::Hands;

/// Appends the entries of this batch to the ledger's log and tree.
pub(crate) fn publish(hands: &mut Hands) {
    if hands.entries.is_empty() {
        return;
    }
    let entries = std::mem::take(&mut hands.entries);
    if let Err(error) = hands.archive.put_entries(&entries) {
        tracing::error!(%error, "ledger entries cannot be kept; replay will keep them again");
    }
}
