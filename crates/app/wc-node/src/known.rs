//! What a node knows of its network, kept over restarts: a file of announcements, each signed by the node it speaks of.
//!
//! Written whole to a draft and renamed, so a power cut leaves the old file or the new one. Losing it costs a search.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use wc_mesh::Mesh;
use wc_proto::peer::announce::Announcement;
use wc_types::{Signed, from_canonical, to_canonical};

use crate::witness::put;

/// Largest file that is read: the mesh keeps at most 512 announcements of at most 6 KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// How often what is known is looked at, and written when it has changed.
const LOOK_PAUSE: Duration = Duration::from_secs(20);

/// Reads what was known at the end of an earlier run.
pub(crate) fn load(path: &Path) -> Vec<Signed<Announcement>> {
    match read(path) {
        Ok(known) => known,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "what was known of the network cannot be read; starting without");
            Vec::new()
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<Signed<Announcement>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too large"));
    }
    from_canonical(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The file, and what it says.
pub(crate) struct Keeper {
    path: PathBuf,
    written: Vec<u8>,
}

impl Keeper {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, written: Vec::new() }
    }

    /// Writes what the mesh knows, whenever that has changed.
    pub(crate) async fn run(mut self, mesh: Mesh) {
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            self = self.keep(&mesh).await;
        }
    }

    /// Writes what the mesh knows, if that has changed. Knowing nobody is not worth forgetting the others.
    pub(crate) async fn keep(mut self, mesh: &Mesh) -> Self {
        let known = mesh.known().await;
        if known.is_empty() {
            return self;
        }
        let bytes = to_canonical(&known);
        if bytes == self.written {
            return self;
        }
        let path = self.path.clone();
        let done = tokio::task::spawn_blocking(move || put(&path, &bytes).map(|()| bytes)).await;
        match done {
            Ok(Ok(bytes)) => self.written = bytes,
            Ok(Err(error)) => {
                tracing::warn!(path = %self.path.display(), %error, "what is known of the network cannot be kept");
            }
            // The runtime ends.
            Err(_) => {}
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use wc_types::{Millis, SigningKey, Timestamp};

    use super::*;

    #[test]
    fn what_was_written_is_read_and_a_torn_file_is_no_reason_not_to_start() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("peers");
        assert!(load(&path).is_empty());
        let key = SigningKey::from_seed(&[7; 32]);
        let at = Timestamp(1_800_000_000_000_000);
        let announcement = Announcement {
            network: "lab".to_owned(),
            node: key.node_id(),
            addresses: vec!["/ip4/192.0.2.1/tcp/1".to_owned()],
            relay: None,
            at,
            until: at.plus(Millis(1000)),
        };
        let known = vec![Signed::seal(announcement, &key)];
        let bytes = to_canonical(&known);
        put(&path, &bytes).expect("writes");
        assert_eq!(load(&path), known);
        fs::write(&path, &bytes[..bytes.len() / 2]).expect("writes");
        assert!(load(&path).is_empty());
        File::create(&path).and_then(|file| file.set_len(FILE_BYTES_MAX + 1)).expect("writes");
        assert!(load(&path).is_empty());
    }
}
