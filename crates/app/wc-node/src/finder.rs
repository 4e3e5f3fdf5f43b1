//! How a node finds its cell, or founds one.
//!
//! Connected peers tell each other in a hello which cell they belong to. A node that may coordinate, has heard of no
//! cell, and whose neighbourhood has not changed for two seconds founds one if no neighbour with a lower id may
//! (NET-04); the others wait for it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use wc_mesh::{Mesh, MeshStream};
use wc_proto::limit::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, HELLO_BYTES_MAX, NETWORK_BYTES_MAX};
use wc_proto::peer::hello::{CellBrief, Hello};
use wc_proto::version;
use wc_types::NodeId;
use wc_types::charter::cell_id;

use crate::link::{self, LinkError};

/// How long the neighbourhood must stay the same before a node founds a cell.
const STABLE: Duration = Duration::from_secs(2);
/// How long a node waits for a lower neighbour to found a cell before it does so itself.
const PATIENCE: Duration = Duration::from_secs(6);
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

fn believable(hello: &Hello, network: &str) -> bool {
    hello.network.len() <= NETWORK_BYTES_MAX
        && hello.network == network
        && hello.cell.as_ref().is_none_or(|brief| {
            brief.addresses.len() <= ADDRESSES_MAX
                && brief.addresses.iter().all(|address| address.len() <= ADDRESS_BYTES_MAX)
                && cell_id(&brief.founding) == brief.cell
                && brief.founding.signed_by(&brief.founding.coordinator.0).is_ok()
        })
}

/// Answers the hellos of others until the mesh stops.
pub(crate) async fn answer(mesh: Mesh, introduction: watch::Receiver<Hello>) {
    let Ok(mut incoming) = mesh.accept(version::HELLO) else {
        tracing::error!("hellos cannot be accepted");
        return;
    };
    while let Some((_, stream)) = incoming.recv().await {
        let hello = introduction.borrow().clone();
        tokio::spawn(tokio::time::timeout(HELLO_TIMEOUT, async move { exchange(stream, &hello).await }));
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
    let oldest = hellos
        .values()
        .filter_map(|hello| hello.cell.clone())
        .min_by_key(|brief| (!brief.has_jobs, brief.founding.founded_at, brief.cell));
    (oldest, hellos)
}

/// Searches until a cell is found, or it is this node's turn to found one.
pub(crate) async fn search(mesh: &Mesh, introduction: &Introduction) -> Search {
    let mine = introduction.borrow().clone();
    let mut neighbours: Vec<NodeId> = Vec::new();
    let mut stable_since = Instant::now();
    loop {
        let (cell, hellos) = oldest_cell(mesh, &mine).await;
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
