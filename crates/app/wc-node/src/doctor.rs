//! What the network of this machine lets through, for people who wonder why nobody is reached.

use wc_mesh::doctor::Examination;
use wc_mesh::{LanDiscovery, Mesh, MeshConfig, Multiaddr, TransportConfig};
use wc_proto::api::view::{PeerView, ReachView};
use wc_proto::version;

use crate::recorder::Recorder;
use crate::{clock, reach};

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
    Ok(wc_mesh::doctor::examine(stranger(network, transport), addresses(targets)?).await?)
}

/// Does on `network` what a node does that looks for others, until `enough` completes; what happens goes to `recorder`.
/// Returns how it was reached in the end, and whom it reached.
///
/// - `seeds`: where to look first
///
/// # Errors
/// [`DoctorError`] if a seed is no address, or no mesh can start.
pub async fn look_around(
    network: &str,
    transport: TransportConfig,
    seeds: &[String],
    recorder: Recorder,
    enough: impl Future<Output = ()>,
) -> Result<(ReachView, Vec<PeerView>), DoctorError> {
    let mut config = stranger(network, transport);
    config.seeds = addresses(seeds)?;
    config.listen = wc_mesh::listen_default();
    config.lan = LanDiscovery { mdns: true, loopback: true };
    let (mesh, mut events) = Mesh::start(config).await?;
    let noting = tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            recorder.note(&event);
        }
    });
    enough.await;
    let status = mesh.status().await;
    let paths = status.as_ref().map(|status| status.paths.clone()).unwrap_or_default();
    let peers = reach::peers(mesh.peers().await, &paths);
    mesh.stop().await;
    drop(mesh);
    // What was said last is kept, too; a task that ended otherwise has nothing to add.
    let _ = noting.await;
    Ok((status.map(reach::view).unwrap_or_default(), peers))
}

/// A name for a few connections: the node's own is in use.
fn stranger(network: &str, transport: TransportConfig) -> MeshConfig {
    let mut config = MeshConfig::new(clock::random(), network);
    config.agent_version = version::AGENT_VERSION.to_owned();
    config.transport = transport;
    config
}

/// Checks that everything that is to be dialled, or listened on, is an address.
///
/// # Errors
/// [`DoctorError::Address`] names the first that is none.
pub fn check_addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Result<(), DoctorError> {
    texts.into_iter().try_for_each(|text| address(text).map(drop))
}

fn address(text: &str) -> Result<Multiaddr, DoctorError> {
    text.parse().map_err(|_| DoctorError::Address { text: text.to_owned() })
}

fn addresses(texts: &[String]) -> Result<Vec<Multiaddr>, DoctorError> {
    texts.iter().map(|text| address(text)).collect()
}
