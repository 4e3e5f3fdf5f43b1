//! Who introduces the cell to the world: the node, its loop, and the line of a job.
//!
//! [`run`] is a node. A node finds or founds a cell; the one that coordinates holds the cell's `brain` (journal and
//! state machine), and every one that lends slots has an `agent`. A job's stations are the files of `flow`, in order.
#![forbid(unsafe_code)]

mod agent;
mod anchor;
mod archive;
mod blobs;
mod brain;
mod cells;
mod clock;
mod config;
mod control;
mod coordinator;
mod credits;
mod direct;
mod directives;
mod doctor;
mod finder;
mod flow;
mod known;
mod link;
mod logtree;
mod node;
mod pace;
mod publish;
mod reach;
mod recorder;
mod replay;
mod retention;
#[cfg(test)]
mod sample;
mod serving;
mod signers;
mod view;
mod witness;

pub use archive::ArchiveError;
pub use brain::BrainError;
pub use config::{AnchoringConfig, Coordinate, NodeConfig, ReachSettings};
pub use direct::{DirectError, DirectRun, dispatch};
pub use doctor::{DoctorError, check_addresses, examine, look_around};
pub use link::LinkError;
pub use logtree::{LogSource, LogTree, LogTreeError};
pub use node::{NodeError, run};
pub use recorder::{Recorder, RecorderLayer, dial_view};
pub use replay::{ReplayError, ReplayReport, replay};
pub use wc_mesh::doctor::{Examination, Finding};
pub use wc_mesh::{
    AcmeConfig, DohUpstream, Inspection, LETS_ENCRYPT, Proxy, RelayLimits, Reservations, TransportConfig,
    WssCertificate,
};
