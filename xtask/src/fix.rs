//! Applies what a machine can decide; the counterpart of `verify`, which never writes.

use anyhow::{Result, bail};

use crate::{layers, process, workspace};

/// `cargo xtask fix`
pub fn command(arguments: &[String]) -> Result<()> {
    if !arguments.is_empty() {
        bail!("usage: cargo xtask fix");
    }
    let root = workspace::root()?;
    let fixes: &[&[&str]] = &[
        &["clippy", "--workspace", "--all-targets", "--locked", "--fix", "--allow-dirty", "--allow-staged"],
        &["fmt", "--all"],
        &["fmt", "--all", "--manifest-path", "fuzz/Cargo.toml"],
    ];
    for arguments in fixes {
        process::run(process::program(&root, "cargo", arguments))?;
    }
    // Without `--locked`: takes over dependencies that our crates have gained into the lock file of `fuzz/`.
    let renew = ["metadata", "--format-version", "1", "--manifest-path", "fuzz/Cargo.toml"];
    process::output_of(process::program(&root, "cargo", &renew))?;
    layers::write()
}
