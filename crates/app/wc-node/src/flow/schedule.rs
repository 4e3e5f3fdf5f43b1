//! Station 4: the cell places replicas by itself; the node only tells it who is there and when something is due.
//!
//! Heartbeats are not facts. Who was heard is a volatile table; only its consequence, a node that is lost, goes into
//! the journal. Nor are round trips: what path a session takes is told when it changes (NET-34), so that a replay places
//! every replica where it was placed.

use std::sync::Arc;
use std::time::Duration;

use wc_cell::Event;

use crate::clock;
use crate::coordinator::Coordinator;
use crate::reach;

/// How often the table is looked at. A lost node is noticed at most this much late.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Looks between two at the paths of all sessions. Five seconds: a path that goes up and down makes at most that many facts,
/// and one that stays has been found before the first heavy job ends.
const PATHS_EVERY: u64 = 20;

/// How long nodes may take to notice that the coordinator is back after a restart, beside their usual grace: a dial that
/// was under way when it came back has to time out first, then comes the longest pause between two tries. What they did
/// meanwhile is then reported and not done again (NET-09).
const RETURN: Duration = Duration::from_secs(20);

/// Watches liveness and deadlines until the brain stops.
pub(crate) async fn run(coordinator: Arc<Coordinator>) {
    let charter = &coordinator.founding.charter;
    // Two missed beats, and half a beat for the way (E-22).
    let silence = Duration::from_millis(charter.beat.0 * 5 / 2);
    let grace = Duration::from_millis(charter.reconnect_grace.0);
    // After a restart the cell still counts on nodes that have not come back yet.
    if let Ok(nodes) = coordinator
        .brain
        .query(|cell, _| cell.nodes().filter(|node| node.online).map(|node| node.id).collect::<Vec<_>>())
        .await
    {
        for node in nodes {
            coordinator.sessions.expect(node, RETURN);
        }
    }
    let mut looks = tokio::time::interval(LOOK_EVERY);
    for look in 0u64.. {
        looks.tick().await;
        let mut events: Vec<Event> = coordinator
            .sessions
            .lost(silence, grace)
            .into_iter()
            .inspect(|node| tracing::info!(%node, "node lost"))
            .map(|node| Event::NodeOffline { node })
            .collect();
        if look % PATHS_EVERY == 0 {
            let peers = coordinator.mesh.peers().await;
            events.extend(
                peers.iter().filter_map(|peer| coordinator.sessions.path(peer.node, reach::path(peer))),
            );
        }
        if coordinator.brain.deadline().is_some_and(|due| due <= clock::now()) {
            events.push(Event::Tick);
        }
        if !events.is_empty() && coordinator.brain.events(events).await.is_err() {
            return;
        }
    }
}
