//! May this job run here at all?
#![forbid(unsafe_code)]
