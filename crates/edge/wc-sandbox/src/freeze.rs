//! Stopping every guest at once, from any thread, without waiting for anybody.
//!
//! A [`Freezer`] reads a fixed table of process descriptors with plain atomics: whoever registers or removes a worker may
//! have to wait for the freezer, never the other way round. No allocation, no lock, one system call per worker.

use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};

/// Workers that can exist at once; far above any number of slots, so that the table never grows.
const WORKERS_MAX: usize = 1024;
const EMPTY: RawFd = -1;
const RESERVED: RawFd = -2;

/// Freezes and thaws all guests of a sandbox. Cheap to clone; meant for a thread that does nothing else.
#[derive(Clone, Debug)]
pub struct Freezer {
    table: Arc<Table>,
}

/// What one [`Freezer::freeze_all`] or [`Freezer::thaw_all`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreezeReport {
    /// Workers that took the signal.
    pub workers: usize,
    /// Time from the call until the last signal was delivered to the kernel.
    pub elapsed: Duration,
}

impl Freezer {
    pub(crate) fn new() -> Self {
        let entries = (0..WORKERS_MAX)
            .map(|_| Entry { pidfd: AtomicI32::new(EMPTY), readers: AtomicU32::new(0) })
            .collect();
        Self { table: Arc::new(Table { frozen: AtomicBool::new(false), used: AtomicUsize::new(0), entries }) }
    }

    /// Stops every guest; new workers start stopped until [`Freezer::thaw_all`].
    pub fn freeze_all(&self) -> FreezeReport {
        let started = Instant::now();
        self.table.frozen.store(true, Ordering::SeqCst);
        FreezeReport { workers: self.table.signal_all(Signal::STOP), elapsed: started.elapsed() }
    }

    /// Lets every guest go on.
    pub fn thaw_all(&self) -> FreezeReport {
        let started = Instant::now();
        self.table.frozen.store(false, Ordering::SeqCst);
        FreezeReport { workers: self.table.signal_all(Signal::CONT), elapsed: started.elapsed() }
    }

    /// Ends every guest at once.
    pub fn kill_all(&self) -> FreezeReport {
        let started = Instant::now();
        FreezeReport { workers: self.table.signal_all(Signal::KILL), elapsed: started.elapsed() }
    }

    /// Returns whether guests are to stand still.
    pub fn is_frozen(&self) -> bool {
        self.table.frozen.load(Ordering::SeqCst)
    }

    /// Puts a worker under this freezer, or gives the descriptor back if the table is full.
    pub(crate) fn register(&self, pidfd: OwnedFd) -> Result<Registration, OwnedFd> {
        for (index, entry) in self.table.entries.iter().enumerate() {
            if entry.pidfd.compare_exchange(EMPTY, RESERVED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                entry.pidfd.store(pidfd.into_raw_fd(), Ordering::SeqCst);
                self.table.used.fetch_max(index + 1, Ordering::SeqCst);
                let registration = Registration { table: self.table.clone(), index };
                // A freeze that looked before the store above did not see this worker; it has set the flag, though.
                if self.is_frozen() {
                    registration.signal(Signal::STOP);
                    if !self.is_frozen() {
                        registration.signal(Signal::CONT);
                    }
                }
                return Ok(registration);
            }
        }
        Err(pidfd)
    }
}

/// One worker's place in the table; leaving the table closes its process descriptor.
#[derive(Debug)]
pub(crate) struct Registration {
    table: Arc<Table>,
    index: usize,
}

impl Registration {
    /// Sends `signal` to this worker; `false` if it is gone.
    pub fn signal(&self, signal: Signal) -> bool {
        self.table.entries[self.index].signal(signal)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.table.entries[self.index].clear();
    }
}

#[derive(Debug)]
struct Table {
    frozen: AtomicBool,
    /// No entry at or beyond this index was ever used.
    used: AtomicUsize,
    entries: Box<[Entry]>,
}

impl Table {
    fn signal_all(&self, signal: Signal) -> usize {
        let used = self.used.load(Ordering::SeqCst);
        self.entries[..used].iter().filter(|entry| entry.signal(signal)).count()
    }
}

#[derive(Debug)]
struct Entry {
    pidfd: AtomicI32,
    /// Threads between reading the descriptor and being done with it.
    readers: AtomicU32,
}

impl Entry {
    fn signal(&self, signal: Signal) -> bool {
        self.readers.fetch_add(1, Ordering::SeqCst);
        let fd = self.pidfd.load(Ordering::SeqCst);
        let sent = fd >= 0 && {
            // JUSTIFICATION: the descriptor must be reachable without a lock, so it lives in an atomic integer.
            // SAFETY: `readers` is above zero and was raised before the load, so `clear`, which empties the entry before
            // it waits for the readers, cannot have closed this descriptor and does not before the count falls.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            pidfd_send_signal(fd, signal).is_ok()
        };
        self.readers.fetch_sub(1, Ordering::SeqCst);
        sent
    }

    fn clear(&self) {
        use std::os::fd::FromRawFd;
        let fd = self.pidfd.swap(RESERVED, Ordering::SeqCst);
        while self.readers.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        if fd >= 0 {
            // JUSTIFICATION: ends the life of the descriptor that `register` moved into the atomic integer.
            // SAFETY: it came from `into_raw_fd`, was swapped out exactly once, and no reader holds it any more.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        self.pidfd.store(EMPTY, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    #[test]
    fn a_place_in_the_table_is_used_again() {
        let freezer = Freezer::new();
        for _ in 0..3 * WORKERS_MAX {
            let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).expect("own process");
            drop(freezer.register(pidfd).expect("a free place"));
        }
        assert_eq!(freezer.table.used.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn registering_while_others_signal_never_closes_a_descriptor_in_use() {
        let freezer = Freezer::new();
        let stop = Arc::new(AtomicBool::new(false));
        let signaller = std::thread::spawn({
            let (freezer, stop) = (freezer.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::SeqCst) {
                    freezer.thaw_all(); // SIGCONT to ourselves: harmless
                }
            }
        });
        for _ in 0..20_000 {
            let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).expect("own process");
            drop(freezer.register(pidfd).expect("a free place"));
        }
        stop.store(true, Ordering::SeqCst);
        signaller.join().expect("no panic");
    }
}
