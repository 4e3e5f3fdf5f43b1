//! Station 1: a signed manifest leaves its submitter's machine.
//!
//! The node that a submitter talks to has the job's blobs in its store. It passes the manifest on and names itself as
//! holder, so that the coordinator knows where to fetch them.

use wc_proto::api::CellRequest;
use wc_types::NodeId;

/// Adds this node to the holders of a submission that it passes on; other requests pass unchanged.
pub(crate) fn pass_on(request: CellRequest, node: NodeId) -> CellRequest {
    match request {
        CellRequest::Submit { manifest, mut holders, dry_run } => {
            if !holders.contains(&node) {
                holders.push(node);
            }
            CellRequest::Submit { manifest, holders, dry_run }
        }
        other => other,
    }
}
