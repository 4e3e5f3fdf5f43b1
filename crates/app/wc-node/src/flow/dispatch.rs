//! Station 5: a placement becomes a signed grant on its way to a donor.

use wc_proto::peer::session::CoordinatorMessage;
use wc_types::Signed;
use wc_types::grant::Grant;

use crate::coordinator::Hands;

/// Signs and sends a grant, with the job's manifest the first time. A grant that cannot be sent is found missing by the
/// node's next beat, or with the node.
pub(crate) fn send(hands: &Hands, seq: u64, grant: Grant) {
    let (job, node, leases) = (grant.job, grant.node, grant.leases.len());
    let manifest = if hands.sessions.needs_manifest(node, job) {
        match hands.archive.manifest(&job) {
            Ok(Some(manifest)) => Some(Box::new(manifest)),
            Ok(None) | Err(_) => {
                tracing::error!(%job, "the manifest of a granted job is not in the archive");
                return;
            }
        }
    } else {
        None
    };
    let grant = Box::new(Signed::seal(grant, &hands.key));
    hands.sessions.pace.granted(node, leases);
    let sent = hands.sessions.send(node, CoordinatorMessage::Grant { grant, manifest });
    tracing::debug!(%job, %node, seq, leases, sent, "granted");
}
