//! Ask a transparency log outside of us to keep something, and read what it keeps.
//!
//! ```text
//! submit_v1: POST /api/v1/log/entries ──201──► answer          409 Location ──► GET /api/v1/log/entries/{id} ──► answer
//! submit_v2: POST /api/v2/log/entries ──201──► entry           409 x-log-index ──► number of the entry
//!                                                              GET /api/v2/{checkpoint,tile/…} ──► its proof
//! ```
//!
//! Calls block, for at most the configured time: run them beside the loop, never in it. What comes back is bytes; whether
//! they are to be believed is asked elsewhere.
//!
//! **Invariants.** HTTPS only, but for a log on this machine; redirects are not followed and no answer names the next
//! address, so a log cannot send us anywhere; no answer is longer than [`ANSWER_BYTES_MAX`].
#![forbid(unsafe_code)]

mod client;
mod error;

pub use client::{ANSWER_BYTES_MAX, ClientConfig, LogClient, TIMEOUT_DEFAULT, Taken};
pub use error::ClientError;
