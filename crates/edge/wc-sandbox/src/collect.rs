//! Files between agent and guest: inputs put in, outputs taken out, everything else wiped.
//!
//! The directory a guest wrote to is a stranger's: names are read with care, links are never followed, and what counts as
//! output is copied, so that a worker that still holds a descriptor cannot change what was collected.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, renameat, unlinkat};

use crate::error::SandboxError;

/// Directories an output may be deep.
const DEPTH_MAX: usize = 8;
/// Bytes of one name in a path.
const NAME_BYTES_MAX: usize = 255;
/// Entries looked at before a directory counts as too full, beyond the files that are allowed.
const ENTRIES_SLACK: u64 = 1024;

/// Rounds of [`wipe`]; each takes one level of directories away.
const WIPE_ROUNDS_MAX: u32 = 200_000;

/// Bytes for the guest to find under `/in`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputSource {
    /// A file of the host whose content does not change while it is in use (a blob).
    Path(PathBuf),
    /// Bytes at hand.
    Bytes(Vec<u8>),
}

/// A file that a guest left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFile {
    /// Path relative to `/out` or `/checkpoint`, with `/` between names; never empty, absolute or containing `..`.
    pub name: String,
    /// Where the collected copy is; it goes away with the [`Outputs`] it came in.
    pub path: PathBuf,
    /// Size.
    pub bytes: u64,
}

/// What a task left under `/out` and `/checkpoint`, sorted by name. The copies are removed when this is dropped.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Files of `/out`.
    pub files: Vec<OutputFile>,
    /// Files of `/checkpoint`.
    pub checkpoint: Vec<OutputFile>,
    dir: Option<PathBuf>,
}

impl Drop for Outputs {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// Why the files of a guest are not an output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutputRefusal {
    /// More bytes than the task may leave.
    #[error("more than {bytes_max} bytes")]
    TooManyBytes {
        /// The limit.
        bytes_max: u64,
    },
    /// More files than the task may leave.
    #[error("more than {files_max} files or directories")]
    TooManyFiles {
        /// The limit.
        files_max: u32,
    },
    /// A link or something else that is not a file or a directory.
    #[error("`{name}` is not a regular file")]
    NotAFile {
        /// Which entry.
        name: String,
    },
    /// A name that cannot be told to others: not UTF-8, too long or too deep.
    #[error("`{name}` is not an acceptable name: {reason}")]
    BadName {
        /// Which entry, as far as it can be shown.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Limits of what may be collected from one directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CollectLimits {
    pub bytes_max: u64,
    pub files_max: u32,
}

/// A regular file found in a guest's directory.
struct Found {
    name: String,
    file: OwnedFd,
    bytes: u64,
}

/// Copies what the guest left in `out` and `checkpoint` to `target`, which is created.
pub(crate) fn collect(
    worker_dir: &Path,
    target: &Path,
    limits: CollectLimits,
) -> Result<Result<Outputs, OutputRefusal>, SandboxError> {
    let mut outputs = Outputs { files: Vec::new(), checkpoint: Vec::new(), dir: Some(target.to_owned()) };
    fs::create_dir_all(target).map_err(SandboxError::files("create", target))?;
    let mut copied = 0;
    for (dir, into) in [("out", &mut outputs.files), ("checkpoint", &mut outputs.checkpoint)] {
        let path = worker_dir.join(dir);
        let found = match find(&path, limits).map_err(SandboxError::files("read", &path))? {
            Ok(found) => found,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let mut bytes_left = limits.bytes_max;
        for found in found {
            let copy = target.join(copied.to_string());
            copied += 1;
            let mut to = File::create_new(&copy).map_err(SandboxError::files("create", &copy))?;
            // The size was bounded before, but whoever broke out may still be writing: bound it again.
            let mut from = io::Read::take(File::from(found.file), found.bytes);
            let bytes = io::copy(&mut from, &mut to).map_err(SandboxError::files("write", &copy))?;
            let Some(left) = bytes_left.checked_sub(bytes) else {
                return Ok(Err(OutputRefusal::TooManyBytes { bytes_max: limits.bytes_max }));
            };
            bytes_left = left;
            into.push(OutputFile { name: found.name, path: copy, bytes });
        }
        into.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Ok(Ok(outputs))
}

/// Returns which of its limits a directory a guest writes to is beyond right now, looking at no more than necessary.
pub(crate) fn exceeded(path: &Path, limits: CollectLimits) -> io::Result<Option<OutputRefusal>> {
    let refusal = survey(path, limits, &mut |_, _, _| Ok(()))?.err();
    Ok(refusal.filter(|refusal| {
        matches!(refusal, OutputRefusal::TooManyBytes { .. } | OutputRefusal::TooManyFiles { .. })
    }))
}

fn find(path: &Path, limits: CollectLimits) -> io::Result<Result<Vec<Found>, OutputRefusal>> {
    let mut found = Vec::new();
    let surveyed = survey(path, limits, &mut |dir, name, bytes| {
        let last = name.rsplit('/').next().unwrap_or(name);
        let file = open_beneath(dir, OsStr::new(last), OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
        // What was looked at and what was opened may differ in a hostile directory: only the latter counts.
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            found.push(Found { name: name.to_owned(), file, bytes: bytes.min(stat.st_size as u64) });
        }
        Ok(())
    })?;
    Ok(surveyed.map(|()| found))
}

/// Walks the directory without recursion and calls `visit` with each regular file's directory, path and size.
fn survey(
    path: &Path,
    limits: CollectLimits,
    visit: &mut dyn FnMut(&OwnedFd, &str, u64) -> io::Result<()>,
) -> io::Result<Result<(), OutputRefusal>> {
    let too_many = OutputRefusal::TooManyFiles { files_max: limits.files_max };
    let (mut bytes, mut files, mut entries) = (0u64, 0u32, 0u64);
    let root = open_dir(path)?;
    let mut pending = vec![(root, String::new(), 1)];
    while let Some((dir, prefix, depth)) = pending.pop() {
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let raw = entry.file_name().to_bytes();
            if raw == b"." || raw == b".." {
                continue;
            }
            entries += 1;
            if entries > u64::from(limits.files_max) + ENTRIES_SLACK {
                return Ok(Err(too_many));
            }
            let shown = || format!("{prefix}{}", String::from_utf8_lossy(raw));
            let Ok(name) = std::str::from_utf8(raw) else {
                return Ok(Err(OutputRefusal::BadName { name: shown(), reason: "not UTF-8" }));
            };
            if name.len() > NAME_BYTES_MAX {
                return Ok(Err(OutputRefusal::BadName { name: shown(), reason: "too long" }));
            }
            let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(rustix::io::Errno::NOENT) => continue, // gone since it was listed
                other => other?,
            };
            let name = format!("{prefix}{name}");
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {
                    files += 1;
                    bytes = bytes.saturating_add(stat.st_size as u64);
                    if files > limits.files_max {
                        return Ok(Err(too_many));
                    }
                    if bytes > limits.bytes_max {
                        return Ok(Err(OutputRefusal::TooManyBytes { bytes_max: limits.bytes_max }));
                    }
                    visit(&dir, &name, stat.st_size as u64)?;
                }
                FileType::Directory if depth >= DEPTH_MAX => {
                    return Ok(Err(OutputRefusal::BadName { name, reason: "too deep" }));
                }
                FileType::Directory => {
                    let child =
                        open_beneath(&dir, OsStr::from_bytes(raw), OFlags::RDONLY | OFlags::DIRECTORY)?;
                    pending.push((child, format!("{name}/"), depth + 1));
                }
                _ => return Ok(Err(OutputRefusal::NotAFile { name })),
            }
        }
    }
    Ok(Ok(()))
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn open_beneath(dir: impl AsFd, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(dir, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// Empties a directory a guest wrote to, whatever shape it has: no recursion, so depth does not matter.
pub(crate) fn wipe(path: &Path) -> io::Result<()> {
    let root = open_dir(path)?;
    let mut lifted = 0u64;
    // A worker that broke out may refill the directory as fast as it is emptied: give up on it at some point.
    for _ in 0..WIPE_ROUNDS_MAX {
        let names = names_of(&root)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            match unlinkat(&root, &name, AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => continue,
                Err(_) => {}
            }
            // A directory: lift its children up beside it and remove it; the loop around meets them next.
            let child = open_beneath(&root, &name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            for grandchild in names_of(&child)? {
                match unlinkat(&child, &grandchild, AtFlags::empty()) {
                    Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                    Err(_) => {
                        // The pid keeps names of two wipes apart; a guest's own name in the way is replaced or lifted later.
                        renameat(
                            &child,
                            &grandchild,
                            &root,
                            format!(".wipe-{}-{lifted}", std::process::id()),
                        )?;
                        lifted += 1;
                    }
                }
            }
            unlinkat(&root, &name, AtFlags::REMOVEDIR)?;
        }
    }
    Err(io::Error::other("the directory does not become empty"))
}

fn names_of(dir: &OwnedFd) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let raw = entry.file_name().to_bytes();
        if raw != b"." && raw != b".." {
            names.push(OsStr::from_bytes(raw).to_owned());
        }
    }
    Ok(names)
}

/// The inputs that lie in one worker's `in` directory.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    present: BTreeMap<String, InputSource>,
}

impl Staging {
    /// Returns whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    /// Makes `in` hold exactly `inputs`. What is already there from the task before stays.
    pub fn stage(&mut self, worker_dir: &Path, inputs: &[(String, InputSource)]) -> Result<(), SandboxError> {
        let dir = worker_dir.join("in");
        let kept = |name: &String, source: &InputSource| inputs.iter().any(|(n, s)| n == name && s == source);
        if !self.present.iter().all(|(name, source)| kept(name, source)) {
            self.present.clear();
            wipe(&dir).map_err(SandboxError::files("empty", &dir))?;
        }
        for (name, source) in inputs {
            if self.present.contains_key(name) {
                continue;
            }
            check_input_name(name)?;
            let path = dir.join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(SandboxError::files("create", parent))?;
            }
            place(source, &path)?;
            self.present.insert(name.clone(), source.clone());
        }
        Ok(())
    }
}

fn place(source: &InputSource, path: &Path) -> Result<(), SandboxError> {
    let to = File::create_new(path).map_err(SandboxError::files("create", path))?;
    match source {
        InputSource::Bytes(bytes) => {
            io::Write::write_all(&mut &to, bytes).map_err(SandboxError::files("write", path))?;
        }
        InputSource::Path(from) => {
            let mut file = File::open(from).map_err(SandboxError::files("open", from))?;
            // A clone shares blocks where the file system can; elsewhere the bytes are copied.
            if rustix::fs::ioctl_ficlone(&to, &file).is_err() {
                io::copy(&mut file, &mut &to).map_err(SandboxError::files("write", path))?;
            }
        }
    }
    let finish = || {
        to.set_permissions(Permissions::from_mode(0o444))?;
        to.set_modified(SystemTime::UNIX_EPOCH)
    };
    finish().map_err(SandboxError::files("finish", path))
}

/// Refuses names that would leave `/in` or that other hosts could not spell.
pub(crate) fn check_input_name(name: &str) -> Result<(), SandboxError> {
    let acceptable = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.len() <= NAME_BYTES_MAX
            && !part.contains('\0')
    };
    if name.split('/').count() <= DEPTH_MAX && name.split('/').all(acceptable) {
        return Ok(());
    }
    Err(SandboxError::TaskInvalid {
        reason: format!("`{}` is not an acceptable input name", name.escape_debug()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const LIMITS: CollectLimits = CollectLimits { bytes_max: 100, files_max: 3 };

    fn worker_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        for name in ["in", "out", "checkpoint"] {
            fs::create_dir(dir.path().join(name)).expect("directory");
        }
        dir
    }

    fn refusal(dir: &Path) -> OutputRefusal {
        collect(dir, &dir.join("results"), LIMITS).expect("readable").expect_err("refused")
    }

    #[test]
    fn outputs_are_sorted_copies_with_relative_names() {
        let dir = worker_dir();
        fs::create_dir(dir.path().join("out/b")).expect("directory");
        fs::write(dir.path().join("out/b/two"), "22").expect("file");
        fs::write(dir.path().join("out/a"), "1").expect("file");
        fs::write(dir.path().join("checkpoint/state"), "s").expect("file");
        let outputs =
            collect(dir.path(), &dir.path().join("results"), LIMITS).expect("readable").expect("accepted");
        fs::write(dir.path().join("out/a"), "changed").expect("file");
        let names: Vec<_> = outputs.files.iter().map(|f| (f.name.as_str(), f.bytes)).collect();
        assert_eq!(names, [("a", 1), ("b/two", 2)]);
        assert_eq!(fs::read(&outputs.files[0].path).expect("copy"), b"1");
        assert_eq!(outputs.checkpoint[0].name, "state");
        drop(outputs);
        assert!(!dir.path().join("results").exists());
    }

    #[test]
    fn a_link_is_never_an_output() {
        let dir = worker_dir();
        symlink("/etc/passwd", dir.path().join("out/passwd")).expect("link");
        assert_eq!(refusal(dir.path()), OutputRefusal::NotAFile { name: "passwd".into() });
        fs::remove_file(dir.path().join("out/passwd")).expect("removed");
        symlink("/etc", dir.path().join("out/etc")).expect("link");
        assert_eq!(refusal(dir.path()), OutputRefusal::NotAFile { name: "etc".into() });
    }

    #[test]
    fn too_much_is_refused_and_a_hole_counts_as_its_size() {
        let dir = worker_dir();
        let file = File::create(dir.path().join("out/hole")).expect("file");
        file.set_len(1 << 40).expect("sparse");
        assert_eq!(refusal(dir.path()), OutputRefusal::TooManyBytes { bytes_max: 100 });
        wipe(&dir.path().join("out")).expect("wiped");
        for name in ["1", "2", "3", "4"] {
            fs::write(dir.path().join("out").join(name), "").expect("file");
        }
        assert_eq!(refusal(dir.path()), OutputRefusal::TooManyFiles { files_max: 3 });
    }

    #[test]
    fn names_that_cannot_be_told_are_refused() {
        let dir = worker_dir();
        fs::write(dir.path().join("out").join(OsStr::from_bytes(b"\xff")), "").expect("file");
        assert!(matches!(refusal(dir.path()), OutputRefusal::BadName { reason: "not UTF-8", .. }));
        wipe(&dir.path().join("out")).expect("wiped");
        fs::create_dir_all(dir.path().join("out/1/2/3/4/5/6/7/8")).expect("directories");
        assert!(matches!(refusal(dir.path()), OutputRefusal::BadName { reason: "too deep", .. }));
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_wiped() {
        let dir = worker_dir();
        let out = dir.path().join("out");
        let mut at = open_dir(&out).expect("out");
        for _ in 0..5000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("directory");
            at = open_beneath(&at, OsStr::new("d"), OFlags::RDONLY | OFlags::DIRECTORY).expect("directory");
        }
        drop(at);
        wipe(&out).expect("wiped");
        assert_eq!(fs::read_dir(&out).expect("out").count(), 0);
    }

    #[test]
    fn inputs_that_stay_are_not_copied_again() {
        let dir = worker_dir();
        let mut staging = Staging::default();
        let shared = ("shared".to_owned(), InputSource::Bytes(b"s".to_vec()));
        let one = ("dir/one".to_owned(), InputSource::Bytes(b"1".to_vec()));
        staging.stage(dir.path(), std::slice::from_ref(&shared)).expect("staged");
        let before = fs::metadata(dir.path().join("in/shared")).expect("input");
        staging.stage(dir.path(), &[shared.clone(), one]).expect("staged");
        let after = fs::metadata(dir.path().join("in/shared")).expect("input");
        assert_eq!(std::os::unix::fs::MetadataExt::ino(&before), std::os::unix::fs::MetadataExt::ino(&after));
        assert_eq!(after.modified().expect("time"), SystemTime::UNIX_EPOCH);
        staging.stage(dir.path(), &[shared]).expect("staged");
        assert!(!dir.path().join("in/dir").exists());
    }

    #[test]
    fn an_input_cannot_leave_its_directory() {
        for name in ["", "/etc/passwd", "../x", "a/../b", "a//b", ".", "a/", "a\0b"] {
            assert!(check_input_name(name).is_err(), "{name:?}");
        }
        assert!(check_input_name("genome/lambda.fa").is_ok());
    }
}
