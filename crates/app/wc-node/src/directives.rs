//! What cells order (halts, bans), and what this node does about it.
//!
//! ```text
//! admin halt|resume|ban|unban ──► coordinator ──fact──► cell ──► no grants; leases taken back, sessions ended
//!                                      │
//!                                      ├── gossip ─────────────► every node of the network
//!                                      └── sessions ───────────► members, at once or after their next welcome
//!                                                                   │
//!   a halted cell:   what has not begun is given back, nothing is asked for       ◄──┤
//!   a banned node:   no connection, no addresses, no gossip of it, where every cell   ◄──┘
//!                    that this node knows has banned it
//! ```
//!
//! The authority is the key that signed the cell's founding record, used by whoever may open the control socket of the
//! coordinator's machine. There are no roles and no votes yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use wc_cell::Event;
use wc_mesh::Mesh;
use wc_proto::api::{Order, Response};
use wc_proto::peer::gossip::CellDirectives;
use wc_proto::peer::session::CoordinatorMessage;
use wc_types::code::{Class, Code};
use wc_types::directive::{Ban, Directives, Halt};
use wc_types::{CellId, NodeId, Refusal, Signed, Timestamp};

use crate::agent::Agent;
use crate::cells::{Cells, Known};
use crate::clock;
use crate::control::STOPPED;
use crate::coordinator::{Coordinator, lock};

/// Directives that wait to be looked at.
pub(crate) const HEARD_MAX: usize = 64;

const NOT_SO: Code = Code::new("WC-NODE-045", Class::Conflict);
const UNFIT: Code = Code::new("WC-NODE-046", Class::Caller);

/// The newest directives of each known cell.
#[derive(Default)]
pub(crate) struct Standing(Mutex<BTreeMap<CellId, Signed<Directives>>>);

impl Standing {
    /// Takes directives in, if they are the words of a known cell's coordinator and newer than what is known.
    fn hear(&self, directives: Signed<Directives>, known: &Known) -> bool {
        let Some(place) = known.get(directives.cell) else { return false };
        if let Err(flaw) = Directives::check(&directives, &place.brief.founding) {
            tracing::warn!(cell = %directives.cell, %flaw, "directives that count for nothing");
            return false;
        }
        let mut standing = lock(&self.0);
        if standing.get(&directives.cell).is_some_and(|last| last.seq >= directives.seq) {
            return false;
        }
        standing.insert(directives.cell, directives);
        true
    }

    /// Returns why a cell is halted, if it is.
    pub fn halt(&self, cell: CellId) -> Option<Halt> {
        lock(&self.0).get(&cell)?.halt.clone()
    }

    /// Returns the nodes that every known cell has banned, this one and those that coordinate left out: one cell alone cannot
    /// cut the paths of others.
    fn outcasts(&self, known: &Known, own: NodeId) -> BTreeSet<NodeId> {
        let standing = lock(&self.0);
        let banned_by = |cell: &CellId| -> BTreeSet<NodeId> {
            standing.get(cell).into_iter().flat_map(|last| last.bans.iter().map(|ban| ban.node)).collect()
        };
        let mut cells = known.places().iter().map(|place| banned_by(&place.brief.cell));
        let Some(first) = cells.next() else { return BTreeSet::new() };
        let mut banned = cells.fold(first, |all, next| all.intersection(&next).copied().collect());
        banned.retain(|node| {
            *node != own && !known.places().iter().any(|place| place.brief.coordinator == *node)
        });
        banned
    }

    fn forget_unknown(&self, known: &Known) {
        lock(&self.0).retain(|cell, _| known.get(*cell).is_some());
    }
}

/// Follows what cells order until it is dropped.
pub(crate) async fn follow(
    standing: Arc<Standing>,
    cells: Arc<Cells>,
    mesh: Mesh,
    agent: Option<Arc<Agent>>,
    mut heard: mpsc::Receiver<Signed<Directives>>,
) {
    let mut changes = cells.subscribe();
    let mut outcasts = BTreeSet::new();
    loop {
        let known = changes.borrow_and_update().clone();
        standing.forget_unknown(&known);
        if let Some(agent) = &agent {
            for place in known.places() {
                agent.set_halted(place.brief.cell, standing.halt(place.brief.cell).is_some());
            }
        }
        let now = standing.outcasts(&known, mesh.node_id());
        for node in now.difference(&outcasts) {
            tracing::warn!(%node, "banned by every cell that this node knows");
            mesh.ban(*node).await;
        }
        for node in outcasts.difference(&now) {
            tracing::info!(%node, "no longer banned");
            mesh.unban(*node).await;
        }
        outcasts = now;
        tokio::select! {
            directives = heard.recv() => match directives {
                Some(directives) => {
                    let (cell, seq) = (directives.cell, directives.seq);
                    // As it is now: the cell may have become known a moment ago.
                    if standing.hear(directives, &cells.known()) {
                        let halted = standing.halt(cell).is_some();
                        tracing::info!(%cell, seq, halted, "the cell's coordinator has ordered something");
                    }
                }
                None => return,
            },
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Returns the directives that follow from an order.
fn next(order: Order, last: Option<&Directives>, cell: CellId, at: Timestamp) -> Result<Directives, Refusal> {
    // Members may know of later orders than a coordinator that was brought back from a copy of yesterday.
    let by_time = u64::try_from(at.0 / 1_000_000).unwrap_or(0);
    let seq = last.map_or(1, |last| last.seq.saturating_add(1)).max(by_time);
    let mut next = match last {
        Some(last) => Directives { seq, at, ..last.clone() },
        None => Directives { cell, seq, at, halt: None, bans: Vec::new() },
    };
    let place = |bans: &[Ban], node: &NodeId| bans.binary_search_by_key(node, |ban| ban.node);
    match order {
        Order::Halt { reason } => {
            let since = next.halt.as_ref().map_or(at, |halt| halt.at);
            next.halt = Some(Halt { reason: reason.trim().to_owned(), at: since });
        }
        Order::Resume => {
            if next.halt.take().is_none() {
                return Err(Refusal::new(NOT_SO, "the cell is not halted"));
            }
        }
        Order::Ban { node, reason } => match place(&next.bans, &node) {
            Ok(number) => next.bans[number].reason = reason,
            Err(number) => next.bans.insert(number, Ban { node, reason, at }),
        },
        Order::Unban { node } => match place(&next.bans, &node) {
            Ok(number) => drop(next.bans.remove(number)),
            Err(_) => {
                return Err(Refusal::new(NOT_SO, format!("{node} is not banned"))
                    .hint("'worldcompute cluster status' lists those that are"));
            }
        },
    }
    Ok(next)
}

/// Follows an order of the operator of a coordinator's machine.
pub(crate) async fn order(coordinator: &Arc<Coordinator>, order: Order) -> Response {
    match try_order(coordinator, order).await {
        Ok(()) => Response::Done,
        Err(refusals) => Response::Refused(refusals),
    }
}

async fn try_order(coordinator: &Arc<Coordinator>, order: Order) -> Result<(), Vec<Refusal>> {
    let stopped = |error: crate::brain::BrainError| vec![Refusal::new(STOPPED, error.to_string())];
    if let Order::Ban { node, .. } = order
        && node == coordinator.node()
    {
        return Err(vec![Refusal::new(UNFIT, "a cell cannot ban its own coordinator").field("node")]);
    }
    // One order at a time: each is numbered after the last.
    let _turn = coordinator.ordering.lock().await;
    let last = coordinator.brain.query(|cell, _| cell.directives().map(|last| Directives::clone(last))).await;
    let last = last.map_err(stopped)?;
    let next = next(order, last.as_ref(), coordinator.cell, clock::now()).map_err(|refusal| vec![refusal])?;
    let next = Signed::seal(next, &coordinator.key);
    if let Err(flaw) = Directives::check(&next, &coordinator.founding) {
        return Err(vec![Refusal::new(UNFIT, flaw.to_string())]);
    }
    let directed = Event::Directed(Box::new(next.clone().witnessed()));
    coordinator.brain.ask(directed, Vec::new()).await.map_err(stopped)??;
    tracing::warn!(seq = next.seq, halted = next.halt.is_some(), bans = next.bans.len(), "ordered");
    for ban in &next.bans {
        coordinator.sessions.expel(ban.node);
    }
    proclaim(coordinator, next).await;
    Ok(())
}

/// Says again what stood before a restart.
pub(crate) async fn repeat(coordinator: Arc<Coordinator>) {
    if let Ok(Some(standing)) = coordinator.brain.query(|cell, _| cell.directives().cloned()).await {
        proclaim(&coordinator, standing).await;
    }
}

/// Tells this machine and everybody else.
async fn proclaim(coordinator: &Coordinator, directives: Signed<Directives>) {
    let _ = coordinator.directed.send(directives.clone()).await;
    coordinator.sessions.direct(&directives);
    let founding = coordinator.founding.clone();
    coordinator.mesh.direct(CellDirectives { founding, directives }).await;
}

/// Returns what a member is told when its session begins.
pub(crate) async fn welcome(coordinator: &Coordinator) -> Option<CoordinatorMessage> {
    let standing = coordinator.brain.peek(|cell| cell.directives().cloned()).await.ok()??;
    Some(CoordinatorMessage::Directed { directives: Box::new(standing) })
}

#[cfg(test)]
mod tests {
    use wc_proto::peer::hello::CellBrief;
    use wc_types::SigningKey;
    use wc_types::charter::{Charter, Founding, cell_id};
    use wc_types::directive::BanReason;

    use super::*;

    fn key(number: u8) -> SigningKey {
        SigningKey::from_seed(&[number; 32])
    }

    fn brief(number: u8) -> CellBrief {
        let founding = Founding {
            network: "lab".to_owned(),
            coordinator: key(number).node_id(),
            owner: key(number).account_id(),
            charter: Charter::default(),
            founded_at: Timestamp(i64::from(number)),
        };
        let founding = Signed::seal(founding, &key(number));
        CellBrief {
            cell: cell_id(&founding),
            coordinator: founding.coordinator,
            founding,
            addresses: Vec::new(),
            has_jobs: false,
        }
    }

    fn ban(node: NodeId) -> Order {
        Order::Ban { node, reason: BanReason::ByzantineBehavior }
    }

    #[test]
    fn each_order_follows_from_the_last_and_one_that_changes_nothing_is_refused() {
        let (cell, at) = (CellId([1; 32]), Timestamp(5));
        let halt = Order::Halt { reason: " a worm was seen in the lab ".to_owned() };
        let halted = next(halt, None, cell, at).unwrap();
        assert_eq!(
            (halted.seq, halted.halt.as_ref().unwrap().reason.as_str()),
            (1, "a worm was seen in the lab")
        );
        let [low, high] = [NodeId([2; 32]), NodeId([3; 32])];
        let one = next(ban(high), Some(&halted), cell, at).unwrap();
        let both = next(ban(low), Some(&one), cell, at).unwrap();
        assert!(both.is_banned(&low) && both.is_banned(&high) && both.halt.is_some());
        assert!(both.bans.is_sorted_by_key(|ban| ban.node));
        let resumed = next(Order::Resume, Some(&both), cell, at).unwrap();
        assert!(resumed.halt.is_none() && resumed.bans.len() == 2 && resumed.seq == 4);
        assert!(next(Order::Resume, Some(&resumed), cell, at).is_err());
        let lifted = next(Order::Unban { node: low }, Some(&resumed), cell, at).unwrap();
        assert!(!lifted.is_banned(&low) && lifted.is_banned(&high));
        assert!(next(Order::Unban { node: low }, Some(&lifted), cell, at).is_err());
    }

    #[test]
    fn what_a_coordinator_orders_after_it_forgot_some_of_its_orders_still_counts() {
        let (cell, node) = (CellId([1; 32]), NodeId([2; 32]));
        let at = |second: i64| Timestamp(second * 1_000_000);
        let copied = next(ban(node), None, cell, at(1_000)).unwrap();
        let forgotten = (1..50).fold(copied.clone(), |last, second| {
            let reason = Order::Halt { reason: format!("halt number {second} of this cell") };
            next(reason, Some(&last), cell, at(1_000 + second)).unwrap()
        });
        let restored = next(Order::Unban { node }, Some(&copied), cell, at(2_000)).unwrap();
        assert!(restored.seq > forgotten.seq, "{} after {}", restored.seq, forgotten.seq);
        // Two in the same second, or a clock that was put back.
        let again = next(ban(node), Some(&restored), cell, at(500)).unwrap();
        assert_eq!(again.seq, restored.seq + 1);
    }

    #[test]
    fn a_node_is_an_outcast_only_where_every_known_cell_has_banned_it() {
        let standing = Standing::default();
        let (one, two) = (brief(1), brief(2));
        let known = Known::of(vec![one.clone(), two.clone()]);
        let (bad, own) = (NodeId([9; 32]), NodeId([8; 32]));
        let said = |brief: &CellBrief, signer: u8, seq: u64, nodes: &[NodeId]| {
            let bans = nodes.iter().map(|node| Ban {
                node: *node,
                reason: BanReason::ByzantineBehavior,
                at: Timestamp(1),
            });
            let bans = bans.collect();
            let directives = Directives { cell: brief.cell, seq, at: Timestamp(1), halt: None, bans };
            Signed::seal(directives, &key(signer))
        };
        assert!(standing.hear(said(&one, 1, 1, &[own, bad]), &known));
        assert!(standing.outcasts(&known, own).is_empty(), "one of two cells");
        assert!(
            !standing.hear(said(&two, 1, 1, &[bad]), &known),
            "the other cell's word is its coordinator's"
        );
        assert!(!standing.hear(said(&brief(3), 3, 1, &[bad]), &known), "an unknown cell");
        assert!(standing.hear(said(&two, 2, 2, &[own, bad]), &known));
        assert_eq!(standing.outcasts(&known, own), BTreeSet::from([bad]), "never this node itself");
        assert!(!standing.hear(said(&two, 2, 1, &[]), &known), "an older word");
        assert!(standing.hear(said(&two, 2, 3, &[]), &known));
        assert!(standing.outcasts(&known, own).is_empty());
        assert!(standing.outcasts(&Known::default(), own).is_empty(), "who knows no cell bans nobody");
        standing.forget_unknown(&Known::of(vec![two]));
        assert!(standing.halt(one.cell).is_none());
    }
}
