//! The published ledger on disk: a static tree in the C2SP `tlog-tiles` layout that any file server can serve.
//!
//! ```text
//! log/checkpoint            the newest signed note; written last
//! log/signers               the hand-overs from that key to the key that signs, once it is another
//! log/founding              the cell's founding record, whose digest is the cell's id and which names its key
//! log/tile/0/000 …          hashes;   log/tile/entries/000 …  leaves
//! ```
//!
//! Every file is written beside its name, synced, and renamed; the directories are synced before the checkpoint that
//! needs them is written. So whoever reads a checkpoint finds every tile under it, whenever this process or the machine
//! died. Writing the same range again is harmless. Only what grew is written: a batch of n entries costs n/256 files of
//! each kind and a few partial ones.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use wc_ledger::tile::{TILE_LEVEL_MAX, TILE_WIDTH};
use wc_ledger::{Bundle, Hash, Tile, TileError};

use crate::archive::ArchiveError;

/// Longest checkpoint that is read back.
const CHECKPOINT_BYTES_MAX: u64 = wc_ledger::note::NOTE_BYTES_MAX as u64;

/// Files of the tree that are not cut from the log.
const BESIDE_TILES: [&str; 3] = ["checkpoint", "signers", "founding"];
/// How the name of a file ends while it is written.
const DRAFT: &str = ".tmp";

/// The tree cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogTreeError {
    /// The disk refused.
    #[error("could not {doing} {}", path.display())]
    Io {
        /// What we were doing.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The ledger cannot be read.
    #[error("the ledger cannot be read")]
    Archive(#[from] ArchiveError),
    /// The ledger lacks a part of what it says it has.
    #[error("{what} {index} is missing from the ledger")]
    Missing {
        /// `entry` or `hash`.
        what: &'static str,
        /// Which.
        index: u64,
    },
    /// An entry does not fit.
    #[error("an entry cannot be published")]
    Tile(#[from] TileError),
}

/// Where entries and hashes come from.
pub trait LogSource {
    /// Returns the bytes of leaf `index`.
    ///
    /// # Errors
    /// When they cannot be read.
    fn leaf(&self, index: u64) -> Result<Option<Vec<u8>>, ArchiveError>;
    /// Returns the root of the perfect subtree of `2^level` leaves that begins at leaf `index · 2^level`.
    ///
    /// # Errors
    /// When it cannot be read.
    fn hash(&self, level: u8, index: u64) -> Result<Option<Hash>, ArchiveError>;
}

/// The directory of a published ledger.
#[derive(Clone, Debug)]
pub struct LogTree {
    dir: PathBuf,
}

impl LogTree {
    /// Names the directory, and makes it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, LogTreeError> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(failed("make", &dir))?;
        Ok(Self { dir })
    }

    /// Returns the checkpoint that is published; `None` if there is none that reads as text.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn checkpoint(&self) -> Result<Option<String>, LogTreeError> {
        let path = self.dir.join("checkpoint");
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > CHECKPOINT_BYTES_MAX => Ok(None),
            Ok(_) => Ok(String::from_utf8(fs::read(&path).map_err(failed("read", &path))?).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Writes the tiles and bundles that a log of `to` entries has and one of `from` had not, durably.
    ///
    /// # Errors
    /// [`LogTreeError`]; what was published before stays as it was.
    pub fn extend(&self, from: u64, to: u64, source: &impl LogSource) -> Result<(), LogTreeError> {
        let mut batch = Batch::default();
        let width = u64::from(TILE_WIDTH);
        let grown = (from / width..).map_while(|index| Bundle::of_log(index, to));
        for bundle in grown.take_while(|_| to > from) {
            batch.write(&self.dir, &bundle.to_string(), &Tiled::Entries(bundle).bytes(source)?)?;
        }
        for level in 0..=TILE_LEVEL_MAX {
            let (had, has) = (from >> (level * 8), to >> (level * 8));
            if has == had {
                continue;
            }
            for tile in (had / width..).map_while(|index| Tile::of_log(level, index, to)) {
                batch.write(&self.dir, &tile.to_string(), &Tiled::Hashes(tile).bytes(source)?)?;
            }
        }
        batch.sync()
    }

    /// Puts the checkpoint of a log that [`extend`](Self::extend) has written in the place of the one before.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn publish(&self, note: &str) -> Result<(), LogTreeError> {
        self.put("checkpoint", note.as_bytes())
    }

    /// Puts the hand-overs to those who sign beside the checkpoint; none as long as the founding coordinator does.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put_signers(&self, chain: &[u8]) -> Result<(), LogTreeError> {
        let there = fs::read(self.dir.join("signers")).is_ok_and(|bytes| bytes == chain);
        if there { Ok(()) } else { self.put("signers", chain) }
    }

    /// Puts the founding record beside the checkpoint.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put_founding(&self, record: &[u8]) -> Result<(), LogTreeError> {
        let there = fs::read(self.dir.join("founding")).is_ok_and(|bytes| bytes == record);
        if there { Ok(()) } else { self.put("founding", record) }
    }

    /// Removes the partial tiles whose full ones a log of `to` entries has and one of `from` had not. Readers with an
    /// older checkpoint take the full ones, as the specification tells them.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn prune(&self, from: u64, to: u64) -> Result<(), LogTreeError> {
        let remove = |path: String| {
            let path = self.dir.join(format!("{path}.p"));
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
                _ => Ok(()),
            }
        };
        let width = u64::from(TILE_WIDTH);
        for level in 0..=TILE_LEVEL_MAX {
            let (had, has) = (from >> (level * 8), to >> (level * 8));
            for index in had / width..has / width {
                if let Some(tile) = Tile::of_log(level, index, to) {
                    remove(tile.to_string())?;
                }
                if let Some(bundle) = Bundle::of_log(index, to).filter(|_| level == 0) {
                    remove(bundle.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// Compares every file under the directory with what `source` has, whichever checkpoint it was written for, and tells
    /// which ones differ, do not belong there, or are missing under a checkpoint of `size` entries. Returns how many were
    /// compared.
    ///
    /// # Errors
    /// When the disk refuses, or the source cannot be read.
    pub fn compare(
        &self,
        size: u64,
        source: &impl LogSource,
        mut differs: impl FnMut(String),
    ) -> Result<u64, LogTreeError> {
        let bundles = (0..).map_while(|index| Bundle::of_log(index, size)).map(|bundle| bundle.to_string());
        let row = |level| (0..).map_while(move |index| Tile::of_log(level, index, size));
        let tiles = (0..=TILE_LEVEL_MAX).flat_map(row).map(|tile| tile.to_string());
        for name in bundles.chain(tiles) {
            // Where a partial one is gone, its full one stands for it.
            let full = name.split_once(".p/").map_or(name.as_str(), |(full, _)| full);
            if !self.dir.join(&name).is_file() && !self.dir.join(full).is_file() {
                differs(format!("{name} of the published ledger is missing"));
            }
        }
        let mut compared = 0;
        let mut dirs = vec![(self.dir.clone(), String::new())];
        while let Some((dir, prefix)) = dirs.pop() {
            for found in fs::read_dir(&dir).map_err(failed("read", &dir))? {
                let found = found.map_err(failed("read", &dir))?;
                let name = format!("{prefix}{}", found.file_name().to_string_lossy());
                let kind = found.file_type().map_err(failed("look at", &found.path()))?;
                if kind.is_dir() {
                    dirs.push((found.path(), name + "/"));
                    continue;
                }
                if kind.is_file() && BESIDE_TILES.contains(&&*name) {
                    compared += 1;
                    continue;
                }
                // A draft that an interrupted write left: the next one of its name replaces it.
                let draft = name.strip_suffix(DRAFT);
                if kind.is_file()
                    && draft.is_some_and(|of| BESIDE_TILES.contains(&of) || Tiled::of(of).is_some())
                {
                    continue;
                }
                match Tiled::of(&name) {
                    Some(expected) if kind.is_file() => {
                        let bytes = fs::read(found.path()).map_err(failed("read", &found.path()))?;
                        match expected.bytes(source) {
                            Ok(expected) if bytes == expected => {}
                            Ok(_) => {
                                differs(format!(
                                    "{name} of the published ledger is not what the journal says"
                                ));
                            }
                            Err(LogTreeError::Missing { .. }) => {
                                differs(format!(
                                    "{name} of the published ledger is more than the journal gives"
                                ));
                            }
                            Err(error) => return Err(error),
                        }
                        compared += 1;
                    }
                    _ => differs(format!("{name} does not belong to a published ledger")),
                }
            }
        }
        Ok(compared)
    }

    /// Returns a file that does not belong to the tiles; `None` if it is not there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn file(&self, name: &str) -> Result<Option<Vec<u8>>, LogTreeError> {
        let path = self.dir.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), LogTreeError> {
        let mut batch = Batch::default();
        batch.write(&self.dir, name, bytes)?;
        batch.sync()
    }
}

/// A file of the tree that is cut from the log.
enum Tiled {
    Entries(Bundle),
    Hashes(Tile),
}

impl Tiled {
    fn of(name: &str) -> Option<Self> {
        name.parse().map(Self::Entries).or_else(|_| name.parse().map(Self::Hashes)).ok()
    }

    /// Returns what the file has to hold.
    fn bytes(&self, source: &impl LogSource) -> Result<Vec<u8>, LogTreeError> {
        let mut bytes = Vec::new();
        match self {
            Self::Entries(bundle) => {
                for index in bundle.leaves() {
                    let leaf = source.leaf(index)?.ok_or(LogTreeError::Missing { what: "entry", index })?;
                    Bundle::write_leaf(&mut bytes, &leaf)?;
                }
            }
            Self::Hashes(tile) => {
                for (level, index) in tile.hashes() {
                    let hash = source.hash(level, index)?;
                    bytes.extend_from_slice(&hash.ok_or(LogTreeError::Missing { what: "hash", index })?);
                }
            }
        }
        Ok(bytes)
    }
}

/// Files that were written and renamed, whose directories have to be synced.
#[derive(Default)]
struct Batch {
    dirs: BTreeSet<PathBuf>,
}

impl Batch {
    /// Writes a file beside its name, syncs it, and gives it its name.
    fn write(&mut self, root: &Path, name: &str, bytes: &[u8]) -> Result<(), LogTreeError> {
        let path = root.join(name);
        let dir = path.parent().unwrap_or(root);
        if !self.dirs.contains(dir) {
            fs::create_dir_all(dir).map_err(failed("make", dir))?;
            // A directory that is new is an entry of the one above it, up to the root of the tree.
            self.dirs.extend(dir.ancestors().take_while(|above| above.starts_with(root)).map(Path::to_owned));
        }
        let mut draft = path.clone().into_os_string();
        draft.push(DRAFT);
        let draft = PathBuf::from(draft);
        let mut file = File::create(&draft).map_err(failed("create", &draft))?;
        file.write_all(bytes).map_err(failed("write", &draft))?;
        file.sync_data().map_err(failed("sync", &draft))?;
        fs::rename(&draft, &path).map_err(failed("rename", &draft))
    }

    fn sync(self) -> Result<(), LogTreeError> {
        for dir in self.dirs {
            File::open(&dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", &dir))?;
        }
        Ok(())
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogTreeError {
    let path = path.to_owned();
    move |source| LogTreeError::Io { doing, path, source }
}
