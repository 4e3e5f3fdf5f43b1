//! What the network of this machine lets through, for people who wonder why nobody is reached.

use wc_mesh::doctor::Examination;
use wc_mesh::{MeshConfig, TransportConfig};
use wc_proto::version;

use crate::clock;

/// A network could not be examined.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// A target's address.
    #[error("`{text}` is not a multiaddr such as /ip4/192.0.2.1/tcp/443/tls/ws")]
    Address {
        /// What was given.
        text: String,
    },
    /// The short-lived mesh that dials.
    #[error("the mesh cannot start")]
    Mesh(#[from] wc_mesh::StartError),
}

/// Tries what a node of `network` would try, towards `targets`.
///
/// # Errors
/// [`DoctorError`] if a target is no address, or nothing can be tried at all.
pub async fn examine(
    network: &str,
    transport: TransportConfig,
    targets: &[String],
) -> Result<Examination, DoctorError> {
    let targets: Result<_, _> = targets
        .iter()
        .map(|text| text.parse().map_err(|_| DoctorError::Address { text: text.clone() }))
        .collect();
    // A name for these few connections: the node's own is in use.
    let mut config = MeshConfig::new(clock::random(), network);
    config.agent_version = version::AGENT_VERSION.to_owned();
    config.transport = transport;
    Ok(wc_mesh::doctor::examine(config, targets?).await?)
}
