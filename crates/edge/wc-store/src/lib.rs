//! Where do bytes rest, and do they survive?
#![forbid(unsafe_code)]
pub mod unixfs;
