//! Which node runs which replica next, and until when?
//!
//! Four questions, each a function of values: [`priority`] ranks jobs, [`placement`] says whether a node may take a
//! replica and why not, [`rank`] which of those that may are asked first, [`lease`] is the life of a permission once it
//! is given. The queues and tables that these questions are asked about live in `wc-cell`.
#![forbid(unsafe_code)]

mod fixed;
pub mod lease;
pub mod placement;
pub mod priority;
pub mod rank;

pub use lease::{Lease, LeaseEnd, LeaseError};
pub use placement::{Candidate, Reason, Requirement, Site, may_run, may_stand_beside};
pub use priority::{Signals, composite};
pub use rank::{Load, Round, Taker, is_heavy, rounds};
