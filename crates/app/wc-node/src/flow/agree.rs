//! Station 8: replicas reveal, the cell decides, and the evidence is kept.

use wc_proto::peer::session::CoordinatorMessage;
use wc_types::cid::CODEC_DAG_CBOR;
use wc_types::receipt::Verdict;
use wc_types::{JobId, LeaseId, NodeId, Sealed};

use crate::archive::Decision;
use crate::blobs;
use crate::coordinator::Hands;

/// Asks a node for results whose commitments are all in.
pub(crate) fn ask_reveal(hands: &Hands, node: NodeId, leases: Vec<LeaseId>) {
    hands.sessions.send(node, CoordinatorMessage::AskReveal { leases });
}

/// Keeps a record that later stages read, pinned for its job.
pub(crate) fn keep(hands: &Hands, job: &JobId, record: &[u8]) {
    let kept = blobs::put_as(&hands.store, CODEC_DAG_CBOR, record)
        .and_then(|blob| blobs::pin(&hands.store, &blob.cid, &job.to_string()));
    if let Err(error) = kept {
        tracing::error!(%job, error, "a record of the job cannot be kept");
    }
}

/// Keeps a verdict with its evidence and pins the accepted result.
pub(crate) fn decide(hands: &Hands, verdict: Verdict, entry: u64, outcomes: Vec<Sealed>) {
    let job = verdict.job;
    crate::flow::report::pin_result(&hands.store, &job, &verdict.result);
    if let Err(error) = hands.archive.put_decision(&Decision { verdict, entry, outcomes }) {
        tracing::error!(%job, %error, "a verdict cannot be kept; replay will keep it again");
    }
}
