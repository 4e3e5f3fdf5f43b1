//! Small secret files: shares of signing keys and what their keeper has promised. For their owner only, replaced whole.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

/// Reads and replaces secret files.
#[derive(Debug)]
pub struct SecretFile;

impl SecretFile {
    /// Reads a file; `None` if there is none.
    ///
    /// # Errors
    /// When it is longer than `bytes_max`, readable by others, or the disk refuses.
    pub fn read(path: &Path, bytes_max: u64) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > bytes_max {
            return Err(io::Error::other(format!(
                "{} is not a file of at most {bytes_max} bytes",
                path.display()
            )));
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            let open =
                format!("{} can be read by other users (mode {mode:04o}); run: chmod 600", path.display());
            return Err(io::Error::other(open));
        }
        let mut bytes =
            Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default() + 1));
        Read::take(&mut file, bytes_max).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Writes a file: complete and durable under another name first, then renamed to its own. After it returns, what
    /// was written survives a power cut; before, what was there does.
    ///
    /// # Errors
    /// When the disk refuses; then what was there is still there.
    pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut suffix = [0; 8];
        getrandom::fill(&mut suffix).map_err(io::Error::other)?;
        let draft = dir.join(format!(".draft-{}", data_encoding::HEXLOWER.encode(&suffix)));
        let write = || -> io::Result<()> {
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, path)
        };
        if let Err(error) = write() {
            let _ = fs::remove_file(&draft);
            return Err(error);
        }
        File::open(dir)?.sync_all()
    }

    /// Removes a file that may be there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_replaced_whole_and_for_its_owner_only() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("signers/cell/share");
        assert!(SecretFile::read(&path, 10).expect("reads").is_none());
        SecretFile::replace(&path, b"first").expect("writes");
        SecretFile::replace(&path, b"second").expect("writes");
        assert_eq!(
            SecretFile::read(&path, 10).expect("reads").as_deref().map(Vec::as_slice),
            Some(&b"second"[..])
        );
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(path.parent().expect("dir")).expect("there").mode() & 0o7777, 0o700);
        assert_eq!(fs::read_dir(path.parent().expect("dir")).expect("dir").count(), 1, "no draft is left");
        assert!(SecretFile::read(&path, 3).is_err(), "longer than it may be");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("sets");
        assert!(SecretFile::read(&path, 10).is_err(), "open to others");
        SecretFile::remove(&path).expect("removes");
        SecretFile::remove(&path).expect("nothing to remove");
    }
}
