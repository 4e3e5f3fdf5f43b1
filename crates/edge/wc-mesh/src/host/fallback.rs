//! Why a connection is not carried by something better (NET-20).

use libp2p::PeerId;

use super::Host;
use crate::address::{Transport, transport_of};

impl Host {
    /// Returns what happened to the better transports that were tried for `peer`, and logs it; nothing if there were none.
    pub(super) fn fallback_reason(&self, peer: PeerId, used: Option<Transport>) -> Option<String> {
        let used = used.filter(|used| matches!(used, Transport::Wss | Transport::Relay))?;
        let plan = self.plans.get(&peer)?;
        let failed = plan.attempts.iter().filter_map(|attempt| {
            let transport = attempt.transport.filter(|transport| *transport < used)?;
            Some((transport, attempt.root_cause.as_deref()?))
        });
        let waiting = self.dialling.values().filter(|dialling| dialling.peer == Some(peer));
        let waiting = waiting.filter_map(|dialling| {
            transport_of(&dialling.addr)
                .filter(|transport| *transport < used)
                .map(|transport| (transport, "no answer yet"))
        });
        let mut reasons: Vec<String> =
            failed.chain(waiting).map(|(transport, cause)| format!("{transport}: {cause}")).collect();
        reasons.sort();
        reasons.dedup();
        if reasons.is_empty() {
            return None;
        }
        let reason = reasons.join("; ");
        tracing::info!(transport = %used, reason, "fell back to another transport");
        Some(reason)
    }
}
