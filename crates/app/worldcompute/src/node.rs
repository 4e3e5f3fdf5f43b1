//! The node itself: the one file of the command line that calls `wc-node`.
//!
//! Everything above this file speaks of settings and requests; everything below is the running node.

use wc_proto::peer::dispatch::DispatchRequest;
use wc_types::Signed;

use crate::exit::Usage;

pub use wc_node::{
    AcmeConfig, AnchoringConfig, Coordinate, DirectError, DirectRun, DohUpstream, Examination, Finding,
    Inspection, LETS_ENCRYPT, NodeConfig, Proxy, ReachSettings, Recorder, RelayLimits, Reservations,
    TransportConfig, WssCertificate, dial_view, look_around,
};

/// Checks the addresses of a node before anything is begun, or said.
///
/// # Errors
/// Names the first that is none.
pub fn check_addresses<'a>(named: impl Iterator<Item = &'a String>) -> Result<(), Usage> {
    wc_node::check_addresses(named).map_err(|error| Usage {
        message: error.to_string(),
        hint: "--listen, --join, --bootstrap-seed and --external-address take multiaddrs: /ip4/0.0.0.0/tcp/19999, or /ip4/0.0.0.0/udp/19999/quic-v1".to_owned(),
    })
}

/// Checks what `--target` names.
///
/// # Errors
/// Names the first that is no address.
pub fn check_targets(targets: &[String]) -> Result<(), Usage> {
    wc_node::check_addresses(targets).map_err(|error| Usage {
        message: error.to_string(),
        hint: "--target takes a multiaddr: /dns4/relay.example/tcp/443/tls/ws, or /ip4/192.0.2.1/tcp/19999"
            .to_owned(),
    })
}

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
    wc_node::dispatch(executor, network, transport, request, module).await.map_err(|error| match error {
        DirectError::Address { .. } => Usage {
            message: error.to_string(),
            hint: "--executor takes a multiaddr: /ip4/192.168.1.7/tcp/19999/p2p/12D3KooW…, as the node's log has it"
                .to_owned(),
        }
        .into(),
        error => error.into(),
    })
}

/// Tries what a node of `network` would try towards `targets`, and says what this machine's network lets through.
///
/// # Errors
/// When a target is no address, or nothing can be tried at all.
pub async fn examine(
    network: &str,
    transport: TransportConfig,
    targets: &[String],
) -> anyhow::Result<Examination> {
    wc_node::check_addresses(targets).map_err(|error| Usage {
        message: error.to_string(),
        hint: "seeds (`bootstrap_seeds`, WORLDCOMPUTE_BOOTSTRAP_SEEDS) and nodes to join through (`join`) are multiaddrs"
            .to_owned(),
    })?;
    Ok(wc_node::examine(network, transport, targets).await?)
}
