//! One fuzz target per decoder that reads a stranger's bytes.
//!
//! A target is a plain function: it must return for every input, and may assert what has to hold when the input is
//! accepted. The driver (`cargo run --manifest-path fuzz/Cargo.toml`) needs only a stable compiler and is what
//! `cargo xtask verify` runs; `fuzz_targets/` wraps the same functions for libFuzzer.
//!
//! A new decoder gets a file beside [`ids`], a line in [`TARGETS`] and a wrapper in `fuzz_targets/`.
#![forbid(unsafe_code)]

pub mod announcements;
pub mod beacons;
pub mod blocks;
pub mod facts;
pub mod frames;
pub mod gossip;
pub mod ids;
pub mod ledger;
pub mod mutate;
pub mod names;
pub mod neighbours;
pub mod published;
pub mod records;
pub mod rekor;
pub mod sample;
pub mod web;

/// A decoder under attack.
pub struct Target {
    /// The word for `--target`.
    pub name: &'static str,
    /// Decodes the bytes. Panics when a promise about accepted input is broken.
    pub run: fn(&[u8]),
    /// Inputs to start from: valid ones, so that mutations get past the first check.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target, in alphabetical order.
pub const TARGETS: &[Target] = &[
    Target { name: "announcements", run: announcements::target, seeds: announcements::seeds },
    Target { name: "beacons", run: beacons::target, seeds: beacons::seeds },
    Target { name: "blocks", run: blocks::target, seeds: blocks::seeds },
    Target { name: "facts", run: facts::target, seeds: facts::seeds },
    Target { name: "frames", run: frames::target, seeds: frames::seeds },
    Target { name: "gossip", run: gossip::target, seeds: gossip::seeds },
    Target { name: "ids", run: ids::target, seeds: ids::seeds },
    Target { name: "ledger", run: ledger::target, seeds: ledger::seeds },
    Target { name: "names", run: names::target, seeds: names::seeds },
    Target { name: "neighbours", run: neighbours::target, seeds: neighbours::seeds },
    Target { name: "published", run: published::target, seeds: published::seeds },
    Target { name: "records", run: records::target, seeds: records::seeds },
    Target { name: "rekor", run: rekor::target, seeds: rekor::seeds },
    Target { name: "web", run: web::target, seeds: web::seeds },
];
