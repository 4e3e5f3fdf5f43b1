//! Between machines.

pub mod announce;
pub mod beacon;
pub mod blob;
pub mod dispatch;
pub mod gossip;
pub mod hello;
pub mod session;
pub mod signers;
