//! Shared harness of the cross-crate tests.
//!
//! [`sim`] is a world made from one seed: a cell, hundreds of donors good and bad, a network that loses, and a
//! coordinator that dies. [`invariant`] holds what must be true after every fact of it, one file each.
#![forbid(unsafe_code)]

pub mod invariant;
pub mod sim;
