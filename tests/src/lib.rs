//! Shared harness of the cross-crate tests.
//!
//! [`sim`] is a world made from one seed: a cell, hundreds of donors good and bad, a network that loses, and a
//! coordinator that dies. [`invariant`] holds what must be true after every fact of it, one file each. [`federation`]
//! starts the real binary, one process per node, and talks to it as a user's commands do; [`peer`] is a
//! node that the test plays itself, and [`cosigner`] one that holds a share; [`mod@reference`] is a transparency log that we did not
//! write, and [`rekor`] an outside one that the test plays.
#![forbid(unsafe_code)]

pub mod cosigner;
pub mod federation;
pub mod flood;
pub mod invariant;
pub mod peer;
pub mod port;
pub mod reference;
pub mod rekor;
pub mod sim;
