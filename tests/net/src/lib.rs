//! Small internets on one machine, and the real binary in them.
//!
//! A [`Lab`] is a handful of network namespaces: machines, routers with each kind of NAT, links that are slow,
//! lossy or narrow. Nothing of it has a name outside: every namespace belongs to a process that ends when the test
//! does, however the test ends, and the kernel takes down what was in it. No root is needed where unprivileged user
//! namespaces are allowed.
//!
//! [`space`] is one machine, [`lab`] puts them together, [`nat`] and [`filter`] are the rules of routers, [`link`] is
//! the emulated wire, and [`probe`] proves that a NAT is of the kind it is said to be before anything is measured
//! behind it. [`middle`] and [`dns`] are what else stands in the way. [`node`] runs the real binary on a machine, and [`matrix`] is the list of networks that it must cope with. The parts that must live inside a namespace are processes of the `netbox` binary.
#![forbid(unsafe_code)]

pub mod dns;
pub mod filter;
pub mod lab;
pub mod link;
pub mod matrix;
pub mod middle;
pub mod nat;
pub mod node;
pub mod probe;
pub mod space;

pub use lab::{Lab, Router};
pub use space::Machine;
