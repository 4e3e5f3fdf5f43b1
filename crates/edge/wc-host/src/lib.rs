//! What is this machine? Its size, its load, its place, its keys and its data directory.
//!
//! Everything is read from the kernel's own files, by hand: the five numbers that are needed are five lines of `/proc`,
//! and a general library reads (and keeps) every process of the machine to give them. The readers take the directory
//! they read from, so that tests run on recorded trees.
//!
//! Deliberately absent: environment variables and defaults. Where the data directory is, is for the caller to say.
#![forbid(unsafe_code)]

mod key;
mod layout;
mod load;
mod locality;
mod machine;
mod secret;

pub use key::{KeyError, KeyFile};
pub use layout::DataDir;
pub use load::{LoadSample, LoadSampler};
pub use locality::{locality_of, prefix_24};
pub use machine::{HostError, Machine};
pub use secret::SecretFile;
