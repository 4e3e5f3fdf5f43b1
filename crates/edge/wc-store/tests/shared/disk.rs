//! A disk that fills up.

/// A small file system of its own, taken away again at the end.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts one of `bytes`, or says why it cannot.
    pub fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        let mounted = rustix::mount::mount(
            "tmpfs",
            dir.path(),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            options.as_c_str(),
        );
        match mounted {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                println!("SKIP: a small file system cannot be mounted here: {error}");
                None
            }
        }
    }
}

impl SmallDisk {
    /// Where it is mounted.
    pub fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    /// Makes it larger, as an administrator would.
    pub fn grow(&self, bytes: u64) {
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        rustix::mount::mount_remount(self.path(), rustix::mount::MountFlags::empty(), options.as_c_str())
            .unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}
