//! Between machines.

pub mod dispatch;
pub mod hello;
pub mod session;
