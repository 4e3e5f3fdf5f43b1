//! How do people and programs ask? The local control socket of a node: server and client.
//!
//! A node listens on `<data dir>/control.sock`. The directory is for its owner only and so is the socket; on top of
//! that the server asks the kernel who is calling and answers nobody but its own user and root. One connection carries
//! any number of requests, one answer each, in the frames of [`wc_proto::frame`].
//!
//! Beside it, [`log`] serves the published ledger to anybody, read-only, over plain HTTP, and reads one from a directory
//! or a URL.
//!
//! Deliberately absent: what a request means. The handler that is given to [`Server::serve`] knows.
#![forbid(unsafe_code)]

mod client;
mod error;
pub mod log;
mod server;
mod socket;
mod wire;

pub use client::Client;
pub use error::ApiError;
pub use server::{CONNECTIONS_MAX, Server};
pub use socket::{SOCKET_NAME, path_text};
