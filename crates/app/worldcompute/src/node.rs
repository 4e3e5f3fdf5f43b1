//! The node itself: the one file of the command line that calls `wc-node`.
//!
//! Everything above this file speaks of settings and requests; everything below is the running node.

use wc_proto::peer::dispatch::DispatchRequest;
use wc_types::Signed;

pub use wc_node::{
    AnchoringConfig, Coordinate, DirectError, DirectRun, DohUpstream, Inspection, NodeConfig, Proxy,
    TransportConfig, WssCertificate,
};

/// Runs a node until `shutdown` completes.
///
/// # Errors
/// When it cannot start or must stop.
pub async fn run(
    config: NodeConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    Ok(wc_node::run(config, shutdown).await?)
}

/// Sends a module straight to the peer at a multiaddr and returns its checked answer.
///
/// # Errors
/// When the peer cannot be reached, refuses, or contradicts itself.
pub async fn dispatch(
    executor: &str,
    network: &str,
    transport: TransportConfig,
    request: Signed<DispatchRequest>,
    module: Vec<u8>,
) -> anyhow::Result<DirectRun> {
    Ok(wc_node::dispatch(executor, network, transport, request, module).await?)
}
