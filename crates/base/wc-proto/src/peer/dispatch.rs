//! A module sent straight to one peer, outside any job (JOB-13): one request, one signed answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wc_types::manifest::{Resources, WorkClass};
use wc_types::outcome::{Exit, Outcome};
use wc_types::{AccountId, Refusal, Signed, Timestamp};

/// What to run. Signed by its submitter, so that the donor knows whom it ran for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DispatchRequest {
    /// Whose work it is.
    pub submitter: AccountId,
    /// When it was made; the executor refuses requests older than five minutes.
    pub at: Timestamp,
    /// The class of work; the donor must consent to it.
    pub class: WorkClass,
    /// Arguments.
    pub command: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// What it may use.
    pub resources: Resources,
    /// CID of the module that follows.
    pub module: wc_types::Cid,
}

/// The request and its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispatch {
    /// The signed request.
    pub request: Signed<DispatchRequest>,
    /// The module; at most [`crate::limit::DISPATCH_BYTES_MAX`].
    #[serde(with = "serde_bytes")]
    pub module: Vec<u8>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DispatchAnswer {
    /// It ran.
    Ran {
        /// The node's signed word. Its cell is all zero, its job is the digest of the signed request, its lease 0.
        outcome: Box<Signed<Outcome>>,
        /// How the guest ended.
        exit: Exit,
        /// Standard output.
        #[serde(with = "serde_bytes")]
        stdout: Vec<u8>,
        /// Tail of standard error.
        #[serde(with = "serde_bytes")]
        stderr: Vec<u8>,
        /// The canonical result record whose CID the outcome names.
        #[serde(with = "serde_bytes")]
        record: Vec<u8>,
    },
    /// It did not.
    Refused {
        /// Why.
        refusal: Refusal,
    },
}
