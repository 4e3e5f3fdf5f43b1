//! The node itself: the one file of the command line that calls `wc-node`.
//!
//! Everything above this file speaks of settings and requests; everything below is the running node.

use std::path::PathBuf;

use wc_proto::peer::dispatch::DispatchRequest;
use wc_types::manifest::WorkClass;
use wc_types::outcome::{Exit, Outcome};
use wc_types::{Bytes, NodeId, Signed, SigningKey};

/// Whether a node may found and coordinate a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinate {
    /// When nobody else does.
    Auto,
    /// At once.
    Always,
    /// Not at all.
    Never,
}

/// What a node is told.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where keys, blobs, journal and sandboxes live.
    pub data_dir: PathBuf,
    /// Name of the network; nodes of other networks are ignored.
    pub network: String,
    /// Multiaddrs to listen on; empty for the default ports of every interface.
    pub listen: Vec<String>,
    /// Multiaddrs of nodes to join through; empty to find them on the LAN.
    pub join: Vec<String>,
    /// Whether this node may found a cell.
    pub coordinate: Coordinate,
    /// Declares the nodes of a cell that this node founds trusted.
    pub trusted: bool,
    /// Runs modules that strangers send straight to this node.
    pub accept_direct: bool,
    /// Guests at the same time; 0 to lend nothing, `None` for one per core but one.
    pub slots: Option<u16>,
    /// Classes of work that the owner consents to.
    pub consents: Vec<WorkClass>,
    /// Most bytes of blobs.
    pub storage_cap: Bytes,
    /// The owner's key file, if it is not in the data directory.
    pub owner_key: Option<PathBuf>,
}

/// What one peer made of a module.
#[derive(Debug)]
pub struct DirectRun {
    /// The peer.
    pub executor: NodeId,
    /// Its signed word.
    pub outcome: Signed<Outcome>,
    /// How the guest ended.
    pub exit: Exit,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Tail of standard error.
    pub stderr: Vec<u8>,
}

/// Runs a node until `shutdown` completes.
///
/// # Errors
/// When it cannot start or must stop.
pub async fn run(
    config: NodeConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let _ = (config, shutdown);
    anyhow::bail!("this build has no node in it")
}

/// Sends a module straight to the peer at a multiaddr and returns its checked answer.
///
/// # Errors
/// When the peer cannot be reached, refuses, or contradicts itself.
pub async fn dispatch(
    executor: &str,
    secret: &SigningKey,
    network: &str,
    request: Signed<DispatchRequest>,
    module: Vec<u8>,
) -> anyhow::Result<DirectRun> {
    let _ = (executor, secret, network, request, module);
    anyhow::bail!("this build has no node in it")
}
