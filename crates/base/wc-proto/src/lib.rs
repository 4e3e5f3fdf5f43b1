//! What may be said between processes, in which version, and how big it may be.
//!
//! [`peer`] is spoken between machines over the mesh, [`api`] between a person's commands and their own node (and, for
//! the requests that concern a cell, onwards to its coordinator). Both travel in [`frame`]s. Every maximum is in
//! [`limit`].
#![forbid(unsafe_code)]

pub mod api;
pub mod frame;
pub mod limit;
pub mod peer;
pub mod version;
