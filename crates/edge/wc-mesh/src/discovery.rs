//! Finding nodes nearby: the loopback beacon, mDNS, and which side of a pair dials.

pub(crate) mod beacon;

use std::time::Duration;

use wc_types::NodeId;

/// How long the lower of two nodes that found each other waits for the higher one to dial.
pub(crate) const DIAL_GRACE: Duration = Duration::from_millis(1500);

/// Returns how long `local` waits before it dials `remote`, whom both discovered.
///
/// Only one side should dial, or every pair ends with two connections. It is the higher id; the other one steps in when
/// nothing happened, because discovery may have worked in one direction only.
pub(crate) fn dial_delay(local: NodeId, remote: NodeId) -> Duration {
    if local > remote { Duration::ZERO } else { DIAL_GRACE }
}
