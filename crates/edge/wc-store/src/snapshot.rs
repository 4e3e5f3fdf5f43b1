//! Snapshots: what the facts up to a number led to, so that a replay can start there.
//!
//! A snapshot is one file, written beside its final name, synced and renamed. The two newest are kept; a damaged one
//! is passed over for the one before.
//!
//! ```text
//! "WCSNAP1\n"  seq u64 LE  length u64 LE  crc32c u32 LE (of seq, length and body)  body
//! ```

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use wc_types::{Class, Code};

use crate::store::sync_dir;

const MAGIC: &[u8; 8] = b"WCSNAP1\n";
const HEAD_BYTES: usize = 28;
/// Snapshots kept: the newest, and one to fall back to.
const KEPT: usize = 2;
/// Largest body that is read back.
const BODY_BYTES_MAX: u64 = 16 << 30;

/// A snapshot that was read back and matches its checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The last fact that is part of it.
    pub seq: u64,
    /// The state, as the caller encoded it.
    pub bytes: Vec<u8>,
    /// Newer snapshots that were damaged and passed over.
    pub damaged: Vec<u64>,
}

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The file system refused.
    #[error("could not {doing} {}", path.display())]
    Io {
        /// What we were doing.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There are snapshots, and every one is damaged.
    #[error("no snapshot under {} is whole; damaged: {damaged:?}", dir.display())]
    AllDamaged {
        /// The directory.
        dir: PathBuf,
        /// Numbers of the damaged ones.
        damaged: Vec<u64>,
    },
}

impl SnapshotError {
    /// Stable code and whose move it is.
    pub fn code(&self) -> Code {
        match self {
            Self::Io { .. } => Code::new("WC-STORE-020", Class::Host),
            Self::AllDamaged { .. } => Code::new("WC-STORE-021", Class::Host),
        }
    }
}

/// Writes a snapshot durably, then forgets all but the newest two.
pub(crate) fn write(dir: &Path, seq: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
    let path = dir.join(name(seq));
    let temp = dir.join(format!("{seq:020}.tmp"));
    let io = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| SnapshotError::Io { doing, path, source }
    };
    let mut file = File::create(&temp).map_err(io("create", &temp))?;
    file.write_all(&head(seq, bytes)).and_then(|()| file.write_all(bytes)).map_err(io("write", &temp))?;
    file.sync_all().map_err(io("sync", &temp))?;
    fs::rename(&temp, &path).map_err(io("rename", &temp))?;
    sync_dir(dir).map_err(io("sync", dir))?;
    for old in list(dir)?.into_iter().rev().skip(KEPT) {
        let path = dir.join(name(old));
        fs::remove_file(&path).map_err(io("remove", &path))?;
    }
    Ok(())
}

/// Reads the newest whole snapshot.
pub(crate) fn latest(dir: &Path) -> Result<Option<Snapshot>, SnapshotError> {
    let mut damaged = Vec::new();
    for seq in list(dir)?.into_iter().rev() {
        match read(&dir.join(name(seq)), seq)? {
            Some(bytes) => return Ok(Some(Snapshot { seq, bytes, damaged })),
            None => {
                tracing::warn!(seq, "damaged snapshot passed over");
                damaged.push(seq);
            }
        }
    }
    if damaged.is_empty() {
        Ok(None)
    } else {
        Err(SnapshotError::AllDamaged { dir: dir.to_owned(), damaged })
    }
}

/// Numbers of the snapshots on disk, oldest first.
pub(crate) fn list(dir: &Path) -> Result<Vec<u64>, SnapshotError> {
    let io = |source| SnapshotError::Io { doing: "list", path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        if let Some(seq) = name.to_str().and_then(|name| name.strip_suffix(".snap")?.parse().ok()) {
            found.push(seq);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Removes what an interrupted write left.
pub(crate) fn clean(dir: &Path) -> Result<(), SnapshotError> {
    let io = |source| SnapshotError::Io { doing: "clean", path: dir.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.path().extension().is_some_and(|extension| extension == "tmp") {
            fs::remove_file(entry.path()).map_err(io)?;
        }
    }
    Ok(())
}

fn name(seq: u64) -> String {
    format!("{seq:020}.snap")
}

fn head(seq: u64, bytes: &[u8]) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..16].copy_from_slice(&seq.to_le_bytes());
    head[16..24].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&head[8..24]), bytes);
    head[24..].copy_from_slice(&sum.to_le_bytes());
    head
}

/// Returns the body, or `None` when the file is not what was written.
fn read(path: &Path, seq: u64) -> Result<Option<Vec<u8>>, SnapshotError> {
    let io = |source| SnapshotError::Io { doing: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let file_bytes = file.metadata().map_err(io)?.len();
    if file_bytes < HEAD_BYTES as u64 || file_bytes - HEAD_BYTES as u64 > BODY_BYTES_MAX {
        return Ok(None);
    }
    let mut found = [0; HEAD_BYTES];
    file.read_exact(&mut found).map_err(io)?;
    let mut bytes = Vec::with_capacity(file_bytes as usize - HEAD_BYTES);
    file.read_to_end(&mut bytes).map_err(io)?;
    Ok((found == head(seq, &bytes)).then_some(bytes))
}
