//! How do we reach other peers?
//!
//! A [`Mesh`] is one node's presence on the network: it listens, finds other nodes of the same network (on this machine,
//! on the LAN, by seeds, by Kademlia), keeps connections to them and carries streams between them. [`blob`] moves
//! content-addressed bytes over such streams.
//!
//! ```text
//! Mesh (handles) ──commands──► host: one task, owns the swarm ──► events (MeshEvents)
//!   │                            ▲              ▲
//!   │                     discovery/beacon      │ libp2p: TCP, QUIC, identify, ping, mDNS, Kademlia
//!   └── open/accept ── stream registry ── one handler per connection
//! ```
//!
//! **Invariants.** Nothing above this crate sees a peer before it has proven its key (handshake) and named our network
//! (identify). Every queue is bounded and every limit stands beside its reason. Opening and reading streams does not pass
//! through the swarm task.
#![forbid(unsafe_code)]

pub mod address;
mod behaviour;
pub mod blob;
mod config;
pub mod decode;
mod dial;
mod discovery;
pub mod doctor;
mod event;
mod exchange;
mod gate;
mod gossip;
mod hooked;
mod host;
mod lazy;
mod mapping;
mod mesh;
mod mux;
mod nat;
mod observe;
mod path;
mod pulse;
mod relay;
mod resolve;
mod status;
mod stream;
mod tls;
mod transport;

pub use libp2p::Multiaddr;

pub use address::Transport;
pub use behaviour::{KADEMLIA_PROTOCOL, PROTOCOL_VERSION};
pub use config::{
    DhtRole, LanDiscovery, MeshConfig, MeshLimits, NETWORK_NAME_BYTES_MAX, PORT_DEFAULT, ReachConfig,
    Reservations, StreamLimits, TcpSession, TransportConfig, listen_default,
};
pub use dial::DialError;
pub use event::{
    DialAttempt, DialOutcome, Direction, FollowUp, Interception, MeshEvent, MeshEvents, StreamRefusal, Via,
};
pub use mesh::{Mesh, PeerInfo, StartError};
pub use nat::NatKind;
pub use relay::{RelayCounters, RelayLimits};
pub use resolve::{DnsConfig, DohUpstream, DohUpstreamError};
pub use status::{MeshStatus, PathInfo, RelayInfo, ReservationInfo, UpgradeCount};
pub use stream::{AcceptError, Incoming, MeshStream, OpenError};
pub use transport::{
    AcmeConfig, BuildError, Inspection, LETS_ENCRYPT, Proxy, ProxyAddressError, ProxyConfig, WssCertificate,
};
