//! What a node is told before it starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use wc_ledger::TrustedRoot;
use wc_ledger::rekor::Api;
use wc_mesh::{RelayLimits, Reservations, TransportConfig};
use wc_types::manifest::WorkClass;
use wc_types::{Bytes, Millis};

use crate::recorder::Recorder;

/// Whether this node may found a cell when it finds none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinate {
    /// Found one if no other node has and this one has the lowest id of those that may.
    Auto,
    /// Found, or resume, a cell at once.
    Always,
    /// Only ever join.
    Never,
}

/// Everything a node needs to start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where keys, blobs, journal and sandboxes live.
    pub data_dir: PathBuf,
    /// Name of the network; nodes of other networks are ignored.
    pub network: String,
    /// Multiaddrs to listen on; none for the default ports of every interface.
    pub listen: Option<Vec<String>>,
    /// Multiaddrs of nodes to join through; empty to find them on the LAN.
    pub join: Vec<String>,
    /// Multiaddrs of the network's seeds: where to look for it first. That nobody is there is no failure.
    pub bootstrap: Vec<String>,
    /// Multiaddrs to listen on for WebSockets, beside `listen`.
    pub wss_listen: Vec<String>,
    /// How others reach this node.
    pub reach: ReachSettings,
    /// Proxy, name servers, certificates.
    pub transport: TransportConfig,
    /// Whether this node looks for a cell at all: one that only relays does not.
    pub joins_cell: bool,
    /// Most cells that this machine works for, its home cell included.
    pub cells_max: usize,
    /// How long its home cell may be out of reach before a node that may found a cell founds an island.
    pub island_after: Millis,
    /// Whether this node may found a cell.
    pub coordinate: Coordinate,
    /// Declares the nodes of a cell that this node founds trusted.
    pub trusted: bool,
    /// How long such a cell keeps the results and logs of jobs that have ended, if not for the charter's seven days.
    pub keep_results: Option<Millis>,
    /// Runs modules that strangers send straight to this node.
    pub accept_direct: bool,
    /// Holds a share of the key that signs its cell's checkpoints when the cell's owner names it.
    pub cosigner: bool,
    /// Cosigns the growth of its cell's ledger, and raises an alarm when it does not add up.
    pub witness: bool,
    /// Where the published ledger is served over plain HTTP while this node coordinates.
    pub log_listen: Option<SocketAddr>,
    /// Guests at the same time; 0 to lend nothing, `None` for one per core but one.
    pub slots: Option<u16>,
    /// Classes of work that the owner consents to.
    pub consents: Vec<WorkClass>,
    /// Most bytes of blobs.
    pub storage_cap: Bytes,
    /// The owner's key file, if it is not in the data directory.
    pub owner_key: Option<PathBuf>,
    /// Whether, and where, the checkpoints of a cell that this node coordinates are anchored.
    pub anchoring: Option<AnchoringConfig>,
    /// Keeps what the network side does, while somebody diagnoses it.
    pub recorder: Recorder,
}

/// How others reach a node.
#[derive(Clone, Debug)]
pub struct ReachSettings {
    /// Multiaddrs at which everybody can dial it, by its operator's word.
    pub external: Vec<String>,
    /// What it gives away as a relay, if it is one.
    pub relay: Option<RelayLimits>,
    /// When it holds reservations on relays of others.
    pub reservations: Reservations,
    /// Whether it asks the router to forward its ports (UPnP).
    pub port_mapping: bool,
    /// Whether it looks for nodes on this machine and its LAN, and shows itself there.
    pub lan: bool,
}

/// Where checkpoints are anchored, and whom to believe about it.
#[derive(Clone, Debug)]
pub struct AnchoringConfig {
    /// The protocol of the log.
    pub api: Api,
    /// Where it is.
    pub url: String,
    /// Which logs are believed.
    pub trusted_root: TrustedRoot,
    /// From one anchor to the next.
    pub interval: Millis,
    /// Certificates in PEM that the log's must come from, instead of the public authorities.
    pub authorities_pem: Option<Vec<u8>>,
    /// An HTTP proxy to go through.
    pub proxy: Option<String>,
}
