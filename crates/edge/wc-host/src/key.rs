//! Key files: sixty-four hexadecimal digits and a newline, readable by their owner only.
//!
//! The text is the Ed25519 seed. Hexadecimal, so that a key can be read aloud, typed, printed for a safe, and told
//! apart from a damaged file.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER_PERMISSIVE;
use wc_types::{Class, Code, Refusal, SigningKey};
use zeroize::Zeroizing;

/// Digits of a seed.
const DIGITS: usize = 64;

/// A key file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Others can read it.
    #[error("key file {} can be read by other users (mode {mode:04o}); run: chmod 600 {}", path.display(), path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("key file {} belongs to user {owner}, not to you", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
    },
    /// It is not a key.
    #[error("key file {} is not a key: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The disk, or the kernel's random numbers, refused.
    #[error("could not {doing} key file {}: {source}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl KeyError {
    /// Returns the stable code and whose move it is.
    pub fn code(&self) -> Code {
        match self {
            Self::Open { .. } => Code::new("WC-HOST-001", Class::Host),
            Self::Foreign { .. } => Code::new("WC-HOST-002", Class::Host),
            Self::Malformed { .. } => Code::new("WC-HOST-003", Class::Host),
            Self::Io { .. } => Code::new("WC-HOST-004", Class::Host),
        }
    }

    /// Returns this error as it is shown to a person.
    pub fn to_refusal(&self) -> Refusal {
        let refusal = Refusal::new(self.code(), self.to_string());
        match self {
            Self::Open { path, .. } => refusal.hint(format!("chmod 600 {}", path.display())),
            Self::Foreign { .. } => refusal.hint("use a key of your own, or run as its owner"),
            Self::Malformed { .. } => {
                refusal.hint("restore the file from a copy; a new key is a new identity")
            }
            Self::Io { .. } => refusal,
        }
    }
}

/// Where a key is kept.
#[derive(Debug)]
pub struct KeyFile;

impl KeyFile {
    /// Reads the key at `path`, or makes a new one there. When two processes make it at once, both get the same.
    ///
    /// # Errors
    /// [`KeyError`]; nothing that is wrong with a file is ever repaired by replacing it.
    pub fn load_or_create(path: &Path) -> Result<SigningKey, KeyError> {
        match Self::load(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::create(path)?;
                Self::load(path)
            }
            loaded => loaded,
        }
    }

    /// Reads the key at `path`.
    ///
    /// # Errors
    /// [`KeyError`] when the file is not there, is not a key, or is open to others.
    pub fn load(path: &Path) -> Result<SigningKey, KeyError> {
        let io = |source| KeyError::Io { doing: "read", path: path.to_owned(), source };
        let malformed = |reason| KeyError::Malformed { path: path.to_owned(), reason };
        // Not blocking, so that a pipe in place of the file cannot hang us.
        let mut file = File::options()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(malformed("not a regular file"));
        }
        let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
        if mode & 0o077 != 0 {
            return Err(KeyError::Open { path: path.to_owned(), mode });
        }
        if owner != rustix::process::geteuid().as_raw() {
            return Err(KeyError::Foreign { path: path.to_owned(), owner });
        }
        let mut text = Zeroizing::new(Vec::with_capacity(DIGITS + 2));
        Read::take(&mut file, DIGITS as u64 + 2).read_to_end(&mut text).map_err(io)?;
        let digits = text.strip_suffix(b"\n").unwrap_or(&text);
        if digits.len() != DIGITS {
            return Err(malformed("expected 64 hexadecimal digits and a newline"));
        }
        let mut seed = Zeroizing::new([0; 32]);
        match HEXLOWER_PERMISSIVE.decode_mut(digits, seed.as_mut_slice()) {
            Ok(32) => Ok(SigningKey::from_seed(&seed)),
            Ok(_) | Err(_) => Err(malformed("expected 64 hexadecimal digits and a newline")),
        }
    }

    /// Writes a new key: complete and durable under another name first, then linked to its own, which fails if
    /// somebody else was faster.
    fn create(path: &Path) -> Result<(), KeyError> {
        let failed = |doing| move |source| KeyError::Io { doing, path: path.to_owned(), source };
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("make the directory of"))?;
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice())
            .map_err(|error| failed("draw random numbers for")(io::Error::other(error)))?;
        let mut text = Zeroizing::new([0; DIGITS + 1]);
        data_encoding::HEXLOWER.encode_mut(seed.as_slice(), &mut text[..DIGITS]);
        text[DIGITS] = b'\n';

        let mut suffix = [0; 8];
        getrandom::fill(&mut suffix)
            .map_err(|error| failed("draw random numbers for")(io::Error::other(error)))?;
        let draft = dir.join(format!(".key-{}", data_encoding::HEXLOWER.encode(&suffix)));
        let write = || -> io::Result<()> {
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(text.as_slice())?;
            file.sync_all()?;
            match fs::hard_link(&draft, path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                linked => linked,
            }
        };
        let written = write();
        // The draft is a second name of the secret; it goes even when the link failed.
        let removed = fs::remove_file(&draft);
        written.and(removed).map_err(failed("write"))?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("keep"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn file_with(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("node.key");
        fs::write(&path, content).expect("writes");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("sets");
        (dir, path)
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_only() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("keys/node.key");
        let first = KeyFile::load_or_create(&path).expect("creates");
        let second = KeyFile::load_or_create(&path).expect("loads");
        assert_eq!(first.public(), second.public());
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o600);
        let text = fs::read_to_string(&path).expect("text");
        assert_eq!((text.len(), text.ends_with('\n')), (65, true));
        let names = fs::read_dir(dir.path().join("keys")).expect("dir").count();
        assert_eq!(names, 1, "no draft is left");
    }

    #[test]
    fn processes_that_make_a_key_at_once_get_the_same_one() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("node.key");
        let racers: Vec<_> = (0..16)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || KeyFile::load_or_create(&path).expect("works").public())
            })
            .collect();
        let keys: Vec<_> = racers.into_iter().map(|racer| racer.join().expect("joins")).collect();
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_command_that_helps() {
        let text = format!("{}\n", "ab".repeat(32));
        for mode in [0o644, 0o640, 0o604, 0o660, 0o601] {
            let (_dir, path) = file_with(text.as_bytes(), mode);
            let error = KeyFile::load_or_create(&path).expect_err("open to others");
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
            assert_eq!(error.code().name, "WC-HOST-001");
        }
        let (_dir, path) = file_with(text.as_bytes(), 0o400);
        assert!(KeyFile::load(&path).is_ok(), "stricter is fine");
    }

    #[test]
    fn a_file_that_is_not_a_key_is_refused_and_kept() {
        let long = "ab".repeat(33);
        let letters = "zz".repeat(32);
        let cases: [&[u8]; 6] = [b"", b"ab", &[7; 32], long.as_bytes(), letters.as_bytes(), b"\xff\xfe\n"];
        for content in cases {
            let (_dir, path) = file_with(content, 0o600);
            assert!(matches!(KeyFile::load_or_create(&path), Err(KeyError::Malformed { .. })), "{content:?}");
            assert_eq!(fs::read(&path).expect("still there"), content);
        }
        let dir = tempfile::tempdir().expect("tempdir");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).expect("sets");
        assert!(KeyFile::load_or_create(dir.path()).is_err(), "a directory is no key");
    }
}
