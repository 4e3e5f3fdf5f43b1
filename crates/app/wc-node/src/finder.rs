//! How a node finds its cell, or founds one.
//!
//! Connected peers tell each other in a hello which cell they belong to. A node that may coordinate, has heard of no
//! cell, and whose neighbourhood has not changed for two seconds founds one if no neighbour with a lower id may
//! (NET-04); the others wait for it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use wc_mesh::{Mesh, MeshStream, Multiaddr};
use wc_proto::limit::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, CELLS_MAX, HELLO_BYTES_MAX, NETWORK_BYTES_MAX};
use wc_proto::peer::hello::{CellBrief, Hello};
use wc_proto::version;
use wc_types::NodeId;
use wc_types::charter::cell_id;

use crate::link::{self, LinkError};

/// How long the neighbourhood must stay the same before a node founds a cell.
const STABLE: Duration = Duration::from_secs(2);
/// How long a node waits for a lower neighbour to found a cell before it does so itself.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long a node that was in a cell before looks for nothing but that cell.
const HOME_PATIENCE: Duration = Duration::from_secs(15);
/// Pause between two rounds of asking.
const ROUND: Duration = Duration::from_millis(200);
/// Longest wait for a hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);

/// What a node says of itself in its hellos; changes when it finds its cell.
pub(crate) type Introduction = watch::Sender<Hello>;

/// What the search ended with.
pub(crate) enum Search {
    /// A cell to join.
    Found(Box<CellBrief>),
    /// None exists, and it is this node that founds one.
    OurTurn,
}

/// A peer, and what it says of itself.
pub(crate) struct Heard {
    pub node: NodeId,
    pub hello: Hello,
}

fn believable(hello: &Hello, network: &str) -> bool {
    hello.network.len() <= NETWORK_BYTES_MAX
        && hello.network == network
        && hello.others.len() < CELLS_MAX
        && hello.cell.iter().chain(&hello.others).all(|brief| is_cell_of(brief, network))
}

/// Returns where a cell's coordinator can be dialled.
pub(crate) fn addresses(brief: &CellBrief) -> Vec<Multiaddr> {
    brief.addresses.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Returns whether a brief is of a cell of this network: its founding record says so, and is signed by the machine that
/// coordinates. No other machine can show yet that it does.
pub(crate) fn is_cell_of(brief: &CellBrief, network: &str) -> bool {
    brief.addresses.len() <= ADDRESSES_MAX
        && brief.addresses.iter().all(|address| address.len() <= ADDRESS_BYTES_MAX)
        && brief.founding.network == network
        && brief.coordinator == brief.founding.coordinator
        && cell_id(&brief.founding) == brief.cell
        && brief.founding.signed_by(&brief.founding.coordinator.0).is_ok()
}

/// Answers the hellos of others until the mesh stops, and passes on what they say.
pub(crate) async fn answer(mesh: Mesh, introduction: watch::Receiver<Hello>, heard: mpsc::Sender<Heard>) {
    let Ok(mut incoming) = mesh.accept(version::HELLO) else {
        tracing::error!("hellos cannot be accepted");
        return;
    };
    while let Some((node, stream)) = incoming.recv().await {
        let mine = introduction.borrow().clone();
        let heard = heard.clone();
        tokio::spawn(tokio::time::timeout(HELLO_TIMEOUT, async move {
            let Ok(hello) = exchange(stream, &mine).await else { return };
            if believable(&hello, &mine.network) {
                // Whoever is not listened to now will be asked.
                let _ = heard.try_send(Heard { node, hello });
            }
        }));
    }
}

async fn exchange(mut stream: MeshStream, mine: &Hello) -> Result<Hello, LinkError> {
    link::write(&mut stream, mine, HELLO_BYTES_MAX).await?;
    link::read(&mut stream, HELLO_BYTES_MAX).await
}

/// Asks one peer who it is; `None` when it does not say, or says something unbelievable.
pub(crate) async fn ask(mesh: &Mesh, node: NodeId, mine: &Hello) -> Option<Hello> {
    let asked = async {
        let stream = mesh.open_lazily(node, version::HELLO).await.ok()?;
        exchange(stream, mine).await.ok()
    };
    let hello = tokio::time::timeout(HELLO_TIMEOUT, asked).await.ok()??;
    believable(&hello, &mine.network).then_some(hello)
}

/// Asks every connected peer for its cell, and returns the oldest that anybody knows.
pub(crate) async fn oldest_cell(mesh: &Mesh, mine: &Hello) -> (Option<CellBrief>, BTreeMap<NodeId, Hello>) {
    let peers = mesh.peers().await;
    let asked = peers.iter().map(|peer| async { (peer.node, ask(mesh, peer.node, mine).await) });
    let hellos: BTreeMap<NodeId, Hello> = futures::future::join_all(asked)
        .await
        .into_iter()
        .filter_map(|(node, hello)| hello.map(|hello| (node, hello)))
        .collect();
    // A cell that this very node kept and has no journal of any more leads nowhere.
    let oldest = hellos
        .values()
        .filter_map(|hello| hello.cell.clone())
        .filter(|brief| brief.coordinator != mesh.node_id())
        .min_by_key(|brief| (!brief.has_jobs, brief.founding.founded_at, brief.cell));
    (oldest, hellos)
}

/// Searches until a cell is found, or it is this node's turn to found one.
///
/// - `home`: the cell that this node belonged to before it was stopped; for a while no other one will do
pub(crate) async fn search(mesh: &Mesh, introduction: &Introduction, mut home: Option<CellBrief>) -> Search {
    let begun = Instant::now();
    if let Some(home) = &home {
        mesh.connect(home.coordinator, addresses(home)).await;
    }
    let mine = introduction.borrow().clone();
    let mut neighbours: Vec<NodeId> = Vec::new();
    let mut stable_since = Instant::now();
    loop {
        let (cell, hellos) = oldest_cell(mesh, &mine).await;
        if let Some(wanted) = &home {
            let named = |hello: &Hello| hello.cell.clone().filter(|brief| brief.cell == wanted.cell);
            if let Some(brief) = hellos.values().find_map(named) {
                return Search::Found(Box::new(brief));
            }
            let elsewhere = hellos.get(&wanted.coordinator).is_some_and(|hello| hello.cell.is_some());
            if !elsewhere && begun.elapsed() < HOME_PATIENCE {
                tokio::time::sleep(ROUND).await;
                continue;
            }
            tracing::info!(cell = %wanted.cell, "the home cell is not there; looking for another one meanwhile");
            home = None;
        }
        if let Some(brief) = cell {
            return Search::Found(Box::new(brief));
        }
        let seen: Vec<NodeId> = hellos.keys().copied().collect();
        if seen != neighbours {
            neighbours = seen;
            stable_since = Instant::now();
        }
        let lowest =
            hellos.iter().filter(|(_, hello)| hello.coordinates).all(|(node, _)| mesh.node_id() < *node);
        let waited = stable_since.elapsed();
        if mine.coordinates && ((lowest && waited >= STABLE) || waited >= PATIENCE) {
            return Search::OurTurn;
        }
        tokio::time::sleep(ROUND).await;
    }
}
