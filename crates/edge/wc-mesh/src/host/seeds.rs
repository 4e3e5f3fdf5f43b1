//! Seeds that are names of lists: `/dnsaddr/<name>` stands for as many nodes as its records say (NET-05).

use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::{BACKOFF_FIRST, Due, Host, Seed};
use crate::address::{host_name, split_node};

/// Look-ups that wait for the swarm task.
pub(super) const LOOKED_UP_QUEUED_MAX: usize = 16;
/// Seeds, configured and found in names.
const SEEDS_MAX: usize = 64;
/// From one look-up of a name that led somewhere to the next: seeds come and go without an update of ours.
const REFRESH: Duration = Duration::from_secs(1800);
/// First and longest pause after one that did not.
const FAILED_FIRST: Duration = Duration::from_secs(30);
const FAILED_MAX: Duration = Duration::from_secs(3600);

/// What a seed's name led to.
#[derive(Debug)]
pub(super) struct LookedUp {
    seed: usize,
    found: Result<Vec<Multiaddr>, String>,
}

impl Host {
    /// Looks the seed's name up, if it is one that stands for nodes that we do not know yet. Returns whether it is.
    pub(super) fn look_up_seed(&self, index: usize) -> bool {
        let Some(seed) = self.seeds.get(index).filter(|seed| seed.peer.is_none()) else { return false };
        let Some(Protocol::Dnsaddr(name)) = seed.addr.iter().next() else { return false };
        let Some(name) = host_name(&name) else { return false };
        let (resolver, answer) = (self.ways.resolver.clone(), self.looking_up.clone());
        tokio::spawn(async move {
            let found = resolver.dnsaddr(&name, None).await.map_err(|error| error.to_string());
            // The mesh may have stopped meanwhile.
            let _ = answer.send(LookedUp { seed: index, found }).await;
        });
        true
    }

    pub(super) fn on_looked_up(&mut self, looked_up: LookedUp) {
        let Some(seed) = self.seeds.get_mut(looked_up.seed) else { return };
        let (addr, failed_before) = (seed.addr.clone(), seed.backoff);
        match looked_up.found {
            Ok(found) => {
                seed.backoff = BACKOFF_FIRST;
                self.timers.after(REFRESH, Due::Seed(looked_up.seed));
                for addr in found {
                    let peer = split_node(&addr).1;
                    let known = self.seeds.iter().any(|seed| seed.peer == peer && seed.addr == addr);
                    if known || peer == Some(self.local) || self.seeds.len() >= SEEDS_MAX {
                        continue;
                    }
                    tracing::info!(%addr, "found a seed by name");
                    self.seeds.push(Seed { addr, peer, backoff: BACKOFF_FIRST });
                    self.dial_seed(self.seeds.len() - 1);
                }
            }
            Err(cause) => {
                let pause = failed_before.max(FAILED_FIRST);
                seed.backoff = (2 * pause).min(FAILED_MAX);
                self.timers.after(pause, Due::Seed(looked_up.seed));
                let again_s = pause.as_secs();
                tracing::info!(%addr, cause, again_s, "a seed's name leads nowhere now; other ways of discovery go on");
            }
        }
    }
}
