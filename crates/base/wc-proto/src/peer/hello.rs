//! The first words between two connected peers: which network, which cell, who coordinates.

use serde::{Deserialize, Serialize};
use wc_types::charter::Founding;
use wc_types::{CellId, NodeId, Signed};

/// What a peer says of itself. Sent by both sides; each then knows whether the other can lead it to a cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Name of the network; peers of other networks disconnect.
    pub network: String,
    /// The cell this peer belongs to, if it has found one and can lead others to it.
    pub cell: Option<CellBrief>,
    /// Whether this peer may found or coordinate a cell.
    pub coordinates: bool,
    /// Other cells of the network whose coordinators this peer has heard itself of late; at most
    /// [`crate::limit::CELLS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<CellBrief>,
}

/// A cell and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellBrief {
    /// The cell.
    pub cell: CellId,
    /// Its founding record.
    pub founding: Signed<Founding>,
    /// Who coordinates it now.
    pub coordinator: NodeId,
    /// Addresses of the coordinator, as multiaddrs in text; at most [`crate::limit::ADDRESSES_MAX`].
    pub addresses: Vec<String>,
    /// Whether it has accepted a job. A cell that has not gives way to an older one.
    pub has_jobs: bool,
}
