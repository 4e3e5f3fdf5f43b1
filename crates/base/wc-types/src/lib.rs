//! The nouns of World Compute: ids, units, signed records and their canonical bytes.
//!
//! Everything here is a value. Nothing in this crate reads a clock, draws a random number or touches a file.
#![forbid(unsafe_code)]

pub mod cid;
pub mod id;

pub use id::{AccountId, CellId, IdError, JobId, LeaseId, NodeId, TaskId};
