//! May this job run here at all?
//!
//! [`admit()`] answers with every check and its outcome, so that a submitter learns all that is wrong at once. Nothing
//! here depends on how busy the cell is: a job that is allowed waits for its turn.
#![forbid(unsafe_code)]

pub mod admit;
pub mod code;

pub use admit::{Admission, AdmissionContext, Check, GATHER_TASKS_MAX, admit};
