//! Where the socket is, and how to name it when its path is longer than the kernel's 108 bytes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::ApiError;

/// Name of the socket in the data directory.
pub const SOCKET_NAME: &str = "control.sock";

/// Longest path that fits `sockaddr_un` with its terminating NUL.
const SUN_PATH_BYTES_MAX: usize = 107;

/// A name for the socket that fits the kernel's structure; valid as long as this value lives.
pub(crate) struct SocketName {
    /// The name.
    pub path: PathBuf,
    /// Keeps `/proc/self/fd/<n>` pointing at the directory.
    _dir: Option<File>,
}

impl SocketName {
    /// Names the socket in `dir`: by its path if that is short enough, else through an open handle of the directory.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET_NAME);
        if path.as_os_str().as_bytes().len() <= SUN_PATH_BYTES_MAX {
            return Ok(Self { path, _dir: None });
        }
        let handle = File::open(dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_NAME}", handle.as_raw_fd()));
        Ok(Self { path, _dir: Some(handle) })
    }
}

/// Returns `path` as absolute text, as requests carry it.
///
/// # Errors
/// [`ApiError::PathNotText`] when it is not UTF-8, [`ApiError::Io`] when there is no working directory to start from.
pub fn path_text(path: &Path) -> Result<String, ApiError> {
    let absolute = std::path::absolute(path)
        .map_err(|source| ApiError::Io { doing: format!("resolve {}", path.display()), source })?;
    absolute.to_str().map(str::to_owned).ok_or(ApiError::PathNotText { path: absolute })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_path_that_is_not_text_is_an_error() {
        let path = Path::new(OsStr::from_bytes(b"/tmp/\xff\xfe"));
        assert!(matches!(path_text(path), Err(ApiError::PathNotText { .. })));
        assert_eq!(path_text(Path::new("/tmp/a")).expect("text"), "/tmp/a");
    }
}
