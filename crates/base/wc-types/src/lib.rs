//! The nouns of World Compute: ids, units, signed records and their canonical bytes.
//!
//! A job's nouns in the order in which they come to be: [`manifest`], [`grant`], [`outcome`], [`receipt`] (which holds
//! the verdict), and [`entry`] for the ledger. Everything here is a value. Nothing in this crate reads a clock, draws a
//! random number or touches a file.
#![forbid(unsafe_code)]

pub mod canonical;
pub mod charter;
pub mod cid;
pub mod code;
pub mod directive;
pub mod entry;
pub mod grant;
pub mod id;
pub mod manifest;
pub mod node;
pub mod outcome;
pub mod receipt;
pub mod sign;
pub mod signers;
pub mod time;
pub mod unit;

pub use canonical::{CanonicalError, from_canonical, record_cid, to_canonical};
pub use cid::Cid;
pub use code::{Class, Code, Refusal};
pub use id::{AccountId, CellId, IdError, JobId, LeaseId, NodeId, TaskId};
pub use sign::{Sealed, SignError, Signed, SigningKey, Witnessed};
pub use time::Timestamp;
pub use unit::{Bytes, Fuel, MicroNcu, Millis, PartsPerMillion};
