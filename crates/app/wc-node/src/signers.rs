//! Several machines sign the cell's checkpoints: the one that coordinates asks, those with a share judge and sign.
//!
//! `notary` is the coordinator's side: it collects signatures and drives a change of signers. `signer` is the side of
//! every machine that holds a share, the coordinator's own included; it is asked in the same words whether the question
//! comes from this process or over the mesh. `cabinet` is what survives a restart.

pub(crate) mod cabinet;
pub(crate) mod notary;
pub(crate) mod signer;
