//! The key chain: from the key that founded the cell to the key that signs today.

use wc_types::charter::{Founding, cell_id};
use wc_types::sign::verify_bytes;
use wc_types::signers::{HANDOVERS_MAX, Handover, Signer, SignerOrder, SignerSet, check_members};
use wc_types::{CellId, Class, Code, NodeId, SignError, Signed};

use super::SignerKeys;
use crate::checkpoint::{Checkpoint, CheckpointError, cell_key};
use crate::note::Note;

/// A link of the chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("hand-over {epoch} of the signing key: {what}")]
pub struct ChainFault {
    /// Number of the set that the link should lead to.
    pub epoch: u64,
    /// What is wrong with it.
    pub what: &'static str,
}

impl ChainFault {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        Code::new("WC-LEDGER-147", Class::Peer)
    }
}

/// Walks the chain and returns the set at its end.
///
/// # Errors
/// [`ChainFault`] naming the first link that does not hold.
pub fn verify_chain(founding: &Signed<Founding>, chain: &[Handover]) -> Result<SignerKeys, ChainFault> {
    let mut keys = SignerKeys::founding(founding);
    if chain.len() > HANDOVERS_MAX {
        return Err(ChainFault { epoch: keys.epoch + 1, what: "the chain is longer than 256 links" });
    }
    let cell = cell_id(founding);
    for link in chain {
        keys = verify_link(&keys, &cell, link)?;
    }
    Ok(keys)
}

/// Opens a note as a checkpoint that the signers at the end of the chain signed.
///
/// # Errors
/// [`CheckpointError`].
pub fn open_signed(
    founding: &Signed<Founding>,
    chain: &[Handover],
    note: &Note,
) -> Result<Checkpoint, CheckpointError> {
    let keys = verify_chain(founding, chain)?;
    Checkpoint::open(note, &cell_key(&cell_id(founding), keys.group))
}

/// Opens a note that one keeps oneself, and which any of the sets of the chain may have signed. Returns how many
/// hand-overs lead to the set that did.
///
/// # Errors
/// [`CheckpointError`] of the newest set if none of them signed it.
pub fn open_kept(
    founding: &Signed<Founding>,
    chain: &[Handover],
    note: &Note,
) -> Result<(Checkpoint, usize), CheckpointError> {
    let newest = open_signed(founding, chain, note);
    let older = (0..chain.len()).rev().find_map(|epoch| {
        open_signed(founding, &chain[..epoch], note).ok().map(|checkpoint| (checkpoint, epoch))
    });
    match (newest, older) {
        (Ok(checkpoint), _) => Ok((checkpoint, chain.len())),
        (Err(_), Some(found)) => Ok(found),
        (Err(error), None) => Err(error),
    }
}

/// Checks that `link` leads on from `keys`, and returns the set that it leads to.
///
/// # Errors
/// [`ChainFault`].
pub fn verify_link(keys: &SignerKeys, cell: &CellId, link: &Handover) -> Result<SignerKeys, ChainFault> {
    let epoch = keys.epoch + 1;
    let fault = |what| ChainFault { epoch, what };
    link.set.signed_by(&keys.group).map_err(|_| fault("not signed by the set before it"))?;
    let next = verify_set(keys, cell, &link.set).map_err(fault)?;
    let message = link.set.cid().to_bytes();
    verify_bytes(&next.group, &message, &link.accepted)
        .map_err(|_| fault("the new set has not shown that it can sign"))?;
    Ok(next)
}

/// Checks a record against the set before it, without its signatures, and returns its set.
///
/// # Errors
/// What is wrong, in a sentence.
pub fn verify_set(
    keys: &SignerKeys,
    cell: &CellId,
    set: &Signed<SignerSet>,
) -> Result<SignerKeys, &'static str> {
    check_set(keys, cell, set)?;
    Ok(SignerKeys::of(set.cid(), set))
}

/// Returns the set of a record that is not signed yet, if it leads on from `keys`.
///
/// # Errors
/// What is wrong, in a sentence.
pub fn next_keys(keys: &SignerKeys, cell: &CellId, set: &SignerSet) -> Result<SignerKeys, &'static str> {
    check_set(keys, cell, set)?;
    Ok(SignerKeys::of(wc_types::record_cid(set), set))
}

fn check_set(keys: &SignerKeys, cell: &CellId, set: &SignerSet) -> Result<(), &'static str> {
    if set.cell != *cell {
        return Err("it is of another cell");
    }
    if set.epoch != keys.epoch + 1 || set.previous != keys.id {
        return Err("it does not follow the set before it");
    }
    check_members(set.threshold, set.members.iter().map(|member| &member.node))?;
    if let [only] = set.members.as_slice()
        && (only.share != only.node.0 || set.group != only.node.0)
    {
        return Err("a set of one signs with its member's own key");
    }
    Ok(())
}

/// Checks an owner's order against the set in force.
///
/// # Errors
/// What is wrong, in a sentence.
pub fn verify_order(
    founding: &Signed<Founding>,
    keys: &SignerKeys,
    order: &Signed<SignerOrder>,
) -> Result<(), &'static str> {
    if order.owner != founding.owner || order.signed_by(&founding.owner.0).is_err() {
        return Err("only the owner of the cell, whom its founding record names, changes its signers");
    }
    if order.cell != cell_id(founding) {
        return Err("the order is of another cell");
    }
    if order.epoch != keys.epoch + 1 || order.previous != keys.id {
        return Err("the order does not follow the signers in force");
    }
    if order.epoch > HANDOVERS_MAX as u64 {
        return Err("a cell changes its signers at most 256 times");
    }
    order.check()
}

/// Returns the record of a set of one, which needs no key generation.
pub fn set_of_one(order: &Signed<SignerOrder>, node: NodeId) -> SignerSet {
    SignerSet {
        cell: order.cell,
        epoch: order.epoch,
        previous: order.previous,
        order: order.cid(),
        threshold: 1,
        members: vec![Signer { node, share: node.0 }],
        group: node.0,
    }
}

/// Puts a link together out of the two signatures over the CID of the set's record.
///
/// # Errors
/// [`SignError`] if the set before has not signed the record.
pub fn link(
    set: &SignerSet,
    previous_group: [u8; 32],
    signature: [u8; 64],
    accepted: [u8; 64],
) -> Result<Handover, SignError> {
    let record = wc_types::to_canonical(set);
    let set = wc_types::Sealed { record, signer: previous_group, signature }.open()?;
    Ok(Handover { set, accepted })
}
