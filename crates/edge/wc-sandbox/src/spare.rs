//! Gives memory back that this process needed to start, and no longer needs.
//!
//! A node that idles runs a tenth of its program, but keeps most of it mapped: the kernel maps sixteen pages for each one
//! that is touched. It also keeps what was allocated for a moment, while it heard of hundreds of nodes at once. Both
//! are returned here; whatever is wanted again comes back from the page cache in microseconds.
//!
//! It lives in this crate because this is the one that may hold unsafe code.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::mm::{Advice, madvise};

/// Returns the pages of this program's code, and free memory of the allocator, to the system.
///
/// # Errors
/// `/proc` cannot be read, or the kernel refuses.
pub fn give_memory_back() -> io::Result<()> {
    let program = fs::metadata("/proc/self/exe")?.ino();
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        if let Some((start, length)) = code_of(line, program) {
            // SAFETY: the range is a private mapping of this program's file, readable and executable and never writable,
            // so each of its pages is equal to the file's, and the kernel reads it again when it is touched.
            unsafe { madvise(start as *mut _, length, Advice::LinuxDontNeed) }?;
        }
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and is as safe beside other threads as `free`.
    unsafe {
        libc::malloc_trim(0);
    }
    Ok(())
}

/// Returns where a line of `/proc/self/maps` says that the code of the file with this inode is, and how long it is.
fn code_of(line: &str, inode: u64) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    let of = fields.nth(2)?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let length = end.checked_sub(start)?;
    (rights == "r-xp" && of.parse() == Ok(inode)).then_some((start, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_itself_is_given_back() {
        let line = |rights: &str, inode: u64| {
            code_of(&format!("5580c000-5580e000 {rights} 00001000 08:01 {inode}   /usr/bin/worldcompute"), 42)
        };
        assert_eq!(line("r-xp", 42), Some((0x5580_c000, 0x2000)));
        // What was written to while the program was loaded cannot be read again from its file.
        assert_eq!((line("r--p", 42), line("rw-p", 42), line("rwxp", 42)), (None, None, None));
        assert_eq!((line("r-xp", 43), code_of("", 42), code_of("5-x r-xp 0 0:0 42", 42)), (None, None, None));
    }

    #[test]
    fn a_process_that_gave_its_memory_back_runs_on_with_less() {
        let program = fs::metadata("/proc/self/exe").expect("readable").ino();
        // Not `RssFile`, of which the kernel's count is behind by some pages.
        let resident = || {
            let maps = fs::read_to_string("/proc/self/smaps").expect("readable");
            let code = maps.lines().skip_while(|line| code_of(line, program).is_none());
            let line = code.into_iter().find_map(|line| line.strip_prefix("Rss:")).expect("Linux tells");
            line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number")
        };
        // Something that is done once, and takes much code: a module with an empty function is compiled.
        let module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a\x04\x01\x02\0\x0b";
        wasmtime::Module::new(&wasmtime::Engine::default(), module).expect("a module");
        let before = resident();
        give_memory_back().expect("the kernel agrees");
        let after = resident();
        assert!(after < before * 3 / 4, "{before} KiB before, {after} after");
    }
}
