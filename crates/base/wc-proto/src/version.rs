//! Protocol ids. A breaking change of a message changes the id's version, so old and new never misread each other.

/// Announced by identify.
pub const IDENTIFY: &str = "/worldcompute/1.0.0";
/// A donor's session with its coordinator: [`crate::peer::session`].
pub const SESSION: &str = "/worldcompute/cell/1.0.0";
/// A request of a submitter or operator to a coordinator: [`crate::api`].
pub const CONTROL: &str = "/worldcompute/control/1.0.0";
/// A module sent straight to one peer: [`crate::peer::dispatch`].
pub const DISPATCH: &str = "/worldcompute/dispatch/1.0.0";
/// Who is what on this network: [`crate::peer::hello`].
pub const HELLO: &str = "/worldcompute/hello/1.0.0";
/// Which nodes there are, and where: [`crate::peer::announce`].
pub const PEERS: &str = "/worldcompute/peers/1.0.0";
/// Blocks of content, by CID: [`crate::peer::blob`].
pub const BLOB: &str = "/worldcompute/blob/1.0.0";
/// Making and using a key that several machines hold together: [`crate::peer::signers`].
pub const SIGNERS: &str = "/worldcompute/signers/1.0.0";
/// What has changed, from peer to peer: [`crate::peer::gossip`].
pub const GOSSIP: &str = "/worldcompute/gossip/1.0.0";
/// Version of the agent, as identify and enrolments carry it.
pub const AGENT_VERSION: &str = concat!("worldcompute/", env!("CARGO_PKG_VERSION"));
