//! The same view of a directory on every host: listings sorted by name, no times, small inode numbers.
//!
//! Directory order, inode numbers, times and the sizes of directories belong to a host's file system; a guest that lets one
//! of them into its result would differ from its replicas. Three functions of WASI preview 1 are wrapped: the real one
//! answers, and what a host could be recognised by is replaced. Preview 2 components still see the host's order.

use std::collections::HashMap;

use wasmtime::{Caller, Extern, Linker};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as preview1, WasiSnapshotPreview1};
use wiggle::GuestMemory;

use crate::worker::State;

const MODULE: &str = "wasi_snapshot_preview1";
/// Host memory of one call of the real function; the same bound wasmtime sets by default.
const HOSTCALL_FUEL: usize = 128 << 20;
/// Bytes of a whole directory listing; a directory with more is an error for the guest.
const LISTING_BYTES_MAX: usize = 16 << 20;
/// `errno` values of WASI preview 1.
const ERRNO_SUCCESS: i32 = 0;
const ERRNO_FAULT: i32 = 21;
const ERRNO_OVERFLOW: i32 = 61;
/// Bytes of a `dirent` before its name: next cookie (8), inode (8), length of the name (4), type (1), padding.
const DIRENT_BYTES: usize = 24;
/// Bytes of a `filestat`: device, inode, type, links, size, three times (8 each).
const FILESTAT_BYTES: usize = 64;
const TYPE_DIRECTORY: u8 = 3;

/// Inode numbers in the order a task met them: 1, 2, 3, …
#[derive(Debug, Default)]
pub(crate) struct Inodes {
    seen: HashMap<u64, u64>,
}

impl Inodes {
    fn number(&mut self, host: u64) -> u64 {
        let next = self.seen.len() as u64 + 1;
        *self.seen.entry(host).or_insert(next)
    }
}

/// Replaces the functions in `linker` that show a host's file system.
pub(crate) fn steady_files(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.func_wrap_async(
        MODULE,
        "fd_readdir",
        |mut caller: Caller<'_, State>, (fd, buffer, length, cookie, used): (i32, i32, i32, i64, i32)| {
            Box::new(async move {
                let (memory, state) = guest_memory(&mut caller)?;
                let mut listing = match listing(state, fd).await? {
                    Ok(listing) => listing,
                    Err(errno) => return Ok(errno),
                };
                sort(&mut listing, &mut state.inodes);
                let rest = from_cookie(&listing, cookie as u64);
                let count = rest.len().min(length as u32 as usize);
                let (Some(target), true) =
                    (span(buffer, count, memory.len()), span(used, 4, memory.len()).is_some())
                else {
                    return Ok(ERRNO_FAULT);
                };
                memory[target].copy_from_slice(&rest[..count]);
                let used = used as u32 as usize;
                memory[used..used + 4].copy_from_slice(&(count as u32).to_le_bytes());
                Ok::<i32, wasmtime::Error>(ERRNO_SUCCESS)
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_filestat_get",
        |mut caller: Caller<'_, State>, (fd, stat): (i32, i32)| {
            Box::new(async move {
                let (memory, state) = guest_memory(&mut caller)?;
                let mut guest = GuestMemory::Unshared(memory);
                let errno = preview1::fd_filestat_get(&mut state.wasi, &mut guest, fd, stat).await?;
                Ok::<i32, wasmtime::Error>(steady_stat(errno, memory, stat, &mut state.inodes))
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "path_filestat_get",
        |mut caller: Caller<'_, State>, (fd, flags, path, length, stat): (i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let (memory, state) = guest_memory(&mut caller)?;
                let mut guest = GuestMemory::Unshared(memory);
                let errno =
                    preview1::path_filestat_get(&mut state.wasi, &mut guest, fd, flags, path, length, stat)
                        .await?;
                Ok::<i32, wasmtime::Error>(steady_stat(errno, memory, stat, &mut state.inodes))
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

fn guest_memory<'a>(caller: &'a mut Caller<'_, State>) -> wasmtime::Result<(&'a mut [u8], &'a mut State)> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        wasmtime::bail!("the module calls WASI but exports no `memory`");
    };
    let (memory, state) = memory.data_and_store_mut(caller);
    state.wasi.set_hostcall_fuel(HOSTCALL_FUEL);
    Ok((memory, state))
}

/// Returns the range of `length` bytes at a guest address, if it lies in memory.
fn span(address: i32, length: usize, memory_bytes: usize) -> Option<std::ops::Range<usize>> {
    let start = address as u32 as usize;
    let end = start.checked_add(length)?;
    (end <= memory_bytes).then_some(start..end)
}

/// Reads a whole directory into memory of the host, or returns the error number for the guest.
async fn listing(state: &mut State, fd: i32) -> wasmtime::Result<Result<Vec<u8>, i32>> {
    let mut bytes_max = 16 << 10;
    loop {
        // A memory as the real function wants one: the count at 0, the entries after it.
        let mut memory = vec![0u8; 8 + bytes_max];
        let mut view = GuestMemory::Unshared(&mut memory);
        let errno = preview1::fd_readdir(&mut state.wasi, &mut view, fd, 8, bytes_max as i32, 0, 0).await?;
        if errno != ERRNO_SUCCESS {
            return Ok(Err(errno));
        }
        let used = memory.first_chunk().map_or(0, |count| u32::from_le_bytes(*count) as usize);
        if used < bytes_max {
            memory.truncate(8 + used);
            memory.drain(..8);
            return Ok(Ok(memory));
        }
        bytes_max *= 4;
        if bytes_max > LISTING_BYTES_MAX {
            return Ok(Err(ERRNO_OVERFLOW));
        }
    }
}

/// Splits a listing into its entries.
fn entries(mut listing: &[u8]) -> Vec<&[u8]> {
    let mut entries = Vec::new();
    while let Some(length) = listing.get(16..20).and_then(|bytes| bytes.first_chunk::<4>()) {
        let end = DIRENT_BYTES.saturating_add(u32::from_le_bytes(*length) as usize);
        let Some((entry, rest)) = listing.split_at_checked(end) else { break };
        entries.push(entry);
        listing = rest;
    }
    entries
}

/// Sorts a listing by name and numbers it anew.
fn sort(listing: &mut Vec<u8>, inodes: &mut Inodes) {
    let mut sorted = Vec::with_capacity(listing.len());
    let mut entries = entries(listing);
    entries.sort_by_key(|entry| &entry[DIRENT_BYTES..]);
    for (index, entry) in entries.into_iter().enumerate() {
        let host = entry[8..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        sorted.extend_from_slice(&(index as u64 + 1).to_le_bytes());
        sorted.extend_from_slice(&inodes.number(host).to_le_bytes());
        sorted.extend_from_slice(&entry[16..]);
    }
    *listing = sorted;
}

/// Returns the entries after the one that carries `cookie`; cookies are places in the sorted listing.
fn from_cookie(listing: &[u8], cookie: u64) -> &[u8] {
    let skipped: usize = entries(listing)
        .iter()
        .take(usize::try_from(cookie).unwrap_or(usize::MAX))
        .map(|entry| entry.len())
        .sum();
    &listing[skipped..]
}

fn steady_stat(errno: i32, memory: &mut [u8], stat: i32, inodes: &mut Inodes) -> i32 {
    let Some(range) = span(stat, FILESTAT_BYTES, memory.len()) else { return errno };
    if errno == ERRNO_SUCCESS {
        let stat = &mut memory[range];
        let host = stat[8..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        stat[..8].copy_from_slice(&1u64.to_le_bytes());
        stat[8..16].copy_from_slice(&inodes.number(host).to_le_bytes());
        if stat[16] == TYPE_DIRECTORY {
            stat[24..32].copy_from_slice(&1u64.to_le_bytes());
            stat[32..40].fill(0);
        }
        stat[40..].fill(0);
    }
    errno
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirent(name: &str, inode: u64) -> Vec<u8> {
        let mut bytes = vec![0; DIRENT_BYTES];
        bytes[8..16].copy_from_slice(&inode.to_le_bytes());
        bytes[16..20].copy_from_slice(&(name.len() as u32).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes
    }

    #[test]
    fn a_listing_does_not_show_the_order_or_the_inodes_of_its_host() {
        let mut one = [dirent("b", 70), dirent("a", 99), dirent("ab", 3)].concat();
        let mut two = [dirent("ab", 8), dirent("b", 1), dirent("a", 2)].concat();
        sort(&mut one, &mut Inodes::default());
        sort(&mut two, &mut Inodes::default());
        assert_eq!(one, two);
        let names: Vec<_> = entries(&one).iter().map(|entry| entry[DIRENT_BYTES..].to_vec()).collect();
        assert_eq!(names, [b"a".to_vec(), b"ab".to_vec(), b"b".to_vec()]);
        assert_eq!(entries(from_cookie(&one, 2)).len(), 1);
        assert!(from_cookie(&one, u64::MAX).is_empty());
    }

    #[test]
    fn an_inode_keeps_its_number() {
        let mut inodes = Inodes::default();
        assert_eq!([inodes.number(500), inodes.number(7), inodes.number(500)], [1, 2, 1]);
    }
}
