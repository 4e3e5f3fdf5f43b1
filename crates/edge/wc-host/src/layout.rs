//! What lies where in a node's data directory.
//!
//! ```text
//! <dir>/                 0700
//!   config.toml          read by the command line
//!   control.sock         0600, while the node runs
//!   control.lock         held while the node runs
//!   keys/node.key        the machine's key, 0600
//!   keys/owner.key       the person's key, 0600
//!   keys/anchor.key      the seed of the key that signs anchors, 0600; on coordinators that anchor
//!   signers/<cell>/      this machine's share of a cell's signing key and what it has signed, 0600
//!   store/               blobs and journal
//!   log/                 the published ledger: a static tree that any file server can serve
//!   witness/             what this machine cosigned last, and evidence of logs that do not fit it
//!   sandbox/             directories of running guests, and compiled modules
//! ```

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A node's data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// Names the directory; nothing is made yet. A relative path is taken from the working directory.
    ///
    /// # Errors
    /// When the path is empty or the working directory is gone.
    pub fn new(path: &Path) -> io::Result<Self> {
        std::path::absolute(path).map(Self)
    }

    /// Makes the directory and its parts, for the owner only. What is there stays as it is.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn create(&self) -> io::Result<()> {
        for dir in [self.0.clone(), self.keys(), self.store(), self.sandbox()] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        Ok(())
    }

    /// Returns the directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns where the keys lie.
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// Returns the file of the machine's key.
    pub fn node_key(&self) -> PathBuf {
        self.keys().join("node.key")
    }

    /// Returns the file of the person's key.
    pub fn owner_key(&self) -> PathBuf {
        self.keys().join("owner.key")
    }

    /// Returns the file of the seed of the key that signs anchors.
    pub fn anchor_key(&self) -> PathBuf {
        self.keys().join("anchor.key")
    }

    /// Returns where blobs and journal lie.
    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// Returns where the published ledger lies.
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Returns where a witness remembers what it cosigned.
    pub fn witness(&self) -> PathBuf {
        self.0.join("witness")
    }

    /// Returns where guests run.
    pub fn sandbox(&self) -> PathBuf {
        self.0.join("sandbox")
    }

    /// Returns where shares of cells' signing keys lie.
    pub fn signers(&self) -> PathBuf {
        self.0.join("signers")
    }

    /// Returns the file of what other nodes said of where they are.
    pub fn peers(&self) -> PathBuf {
        self.0.join("peers")
    }

    /// Returns the file of the cells that this node belongs to and has met.
    pub fn cells(&self) -> PathBuf {
        self.0.join("cells")
    }

    /// Returns the file of the command line's settings.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn every_part_is_for_the_owner_only() {
        let parent = tempfile::tempdir().expect("tempdir");
        let dir = DataDir::new(&parent.path().join("a/b")).expect("names");
        dir.create().expect("creates");
        dir.create().expect("creates again");
        for part in [dir.path(), &dir.keys(), &dir.store(), &dir.sandbox()] {
            let mode = std::fs::metadata(part).expect("there").permissions().mode() & 0o777;
            assert_eq!(mode, 0o700, "{}", part.display());
        }
    }
}
