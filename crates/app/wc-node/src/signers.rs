//! Several machines sign the cell's checkpoints: the one that coordinates asks, those with a share judge and sign.
//!
//! `notary` is the coordinator's side: it collects signatures and drives a change of signers. `signer` is the side of
//! every machine that holds a share, the coordinator's own included; it is asked in the same words whether the question
//! comes from this process or over the mesh. `asking` is the conversation with signers, `conduct` what came of it.
//! `cabinet` is what survives a restart, and `repeats` keeps the log readable.

mod asking;
pub(crate) mod cabinet;
mod conduct;
pub(crate) mod notary;
mod repeats;
pub(crate) mod signer;
