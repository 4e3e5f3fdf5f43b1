//! How many bytes a relay carries per second, for one peer and altogether.
//!
//! The library's relay caps the bytes and the life of a circuit, not its speed. So every stream of a relay's connections
//! is read through a token bucket of its peer and one of the whole node. What is not read stays with the sender: its
//! flow-control window fills, and it slows down. Reads are counted and writes are not, since a relayed byte is read once.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::AsyncRead;
use libp2p::PeerId;
use libp2p::core::muxing::StreamMuxerBox;
use tokio::time::Sleep;

use crate::hooked::{Hook, hooked};

/// What a bucket holds when full, in time: a burst that no reader of a second's average notices.
const BURST: Duration = Duration::from_millis(250);
/// Waits shorter than this are carried over to the next read: a timer costs more than it saves.
const WAIT_MIN: Duration = Duration::from_millis(2);
/// Longest single wait, so that a lowered debt is noticed.
const WAIT_MAX: Duration = Duration::from_secs(5);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A token bucket that may go into debt by one read.
#[derive(Debug)]
struct Bucket {
    /// 0: without limit.
    bytes_per_second: u64,
    state: Mutex<(i64, Instant)>,
}

impl Bucket {
    fn new(bytes_per_second: u64) -> Self {
        let full = Self::full(bytes_per_second);
        Self { bytes_per_second, state: Mutex::new((full, Instant::now())) }
    }

    fn full(bytes_per_second: u64) -> i64 {
        let burst = u128::from(bytes_per_second) * BURST.as_millis() / 1000;
        i64::try_from(burst).unwrap_or(i64::MAX)
    }

    /// Takes `bytes` that were read at `now`, and returns how long to wait before the next read.
    fn charge(&self, bytes: usize, now: Instant) -> Duration {
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let mut state = lock(&self.state);
        let (tokens, filled_at) = &mut *state;
        let gained =
            now.saturating_duration_since(*filled_at).as_micros() * u128::from(self.bytes_per_second);
        let gained = i64::try_from(gained / 1_000_000).unwrap_or(i64::MAX);
        // A moment too short for one byte must not be forgotten, or a slow bucket never fills.
        if gained > 0 {
            *filled_at = now;
        }
        let paid = i64::try_from(bytes).unwrap_or(i64::MAX);
        *tokens = tokens.saturating_add(gained).min(Self::full(self.bytes_per_second)).saturating_sub(paid);
        let debt = u64::try_from(-*tokens).unwrap_or(0);
        Duration::from_micros(debt.saturating_mul(1_000_000) / self.bytes_per_second).min(WAIT_MAX)
    }
}

/// Meters every connection of a relay.
#[derive(Debug, Clone)]
pub(crate) struct Shaper(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    total: Bucket,
    peer_bytes_per_second: u64,
    peers: Mutex<HashMap<PeerId, Weak<Bucket>>>,
    carried: AtomicU64,
}

impl Shaper {
    pub(crate) fn new(total_bytes_per_second: u64, peer_bytes_per_second: u64) -> Self {
        Self(Arc::new(Inner {
            total: Bucket::new(total_bytes_per_second),
            peer_bytes_per_second,
            peers: Mutex::default(),
            carried: AtomicU64::new(0),
        }))
    }

    /// Returns the bytes read from peers since the start.
    pub(crate) fn carried_bytes(&self) -> u64 {
        self.0.carried.load(Ordering::Relaxed)
    }

    /// Returns `muxer` with its streams metered on the account of `peer`; connections of one peer share an account.
    pub(crate) fn meter(&self, peer: PeerId, muxer: StreamMuxerBox) -> StreamMuxerBox {
        let mut peers = lock(&self.0.peers);
        let account = peers.get(&peer).and_then(Weak::upgrade).unwrap_or_else(|| {
            peers.retain(|_, account| account.strong_count() > 0);
            let account = Arc::new(Bucket::new(self.0.peer_bytes_per_second));
            peers.insert(peer, Arc::downgrade(&account));
            account
        });
        drop(peers);
        let shaper = self.clone();
        hooked(muxer, move || Metered { shaper: shaper.clone(), account: account.clone(), pause: None })
    }
}

/// Reads no faster than its accounts allow.
struct Metered {
    shaper: Shaper,
    account: Arc<Bucket>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Hook for Metered {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let bytes = ready!(Pin::new(stream).poll_read(cx, buf))?;
        let inner = &self.shaper.0;
        inner.carried.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = Instant::now();
        let wait = self.account.charge(bytes, now).max(inner.total.charge(bytes, now));
        if wait >= WAIT_MIN {
            self.pause = Some(Box::pin(tokio::time::sleep(wait)));
        }
        Poll::Ready(Ok(bytes))
    }
}

#[cfg(test)]
mod tests {
    use futures::AsyncReadExt;

    use super::*;
    use crate::hooked::Hooked;

    #[test]
    fn a_bucket_lends_its_burst_and_then_holds_to_its_rate() {
        let bucket = Bucket::new(1_000_000);
        let start = Instant::now();
        assert_eq!(bucket.charge(250_000, start), Duration::ZERO);
        assert_eq!(bucket.charge(100_000, start), Duration::from_millis(100));
        assert_eq!(bucket.charge(0, start + Duration::from_millis(100)), Duration::ZERO);
        assert_eq!(Bucket::new(0).charge(usize::MAX, start), Duration::ZERO);
        let slow = Bucket::new(10);
        slow.charge(2, start);
        let moments = (1..=100).map(|ms| slow.charge(0, start + Duration::from_millis(ms * 10)));
        assert_eq!(moments.last(), Some(Duration::ZERO), "small moments add up");
    }

    #[tokio::test]
    async fn a_peer_is_read_no_faster_than_its_share() {
        let shaper = Shaper::new(0, 4_000_000);
        let account = Arc::new(Bucket::new(4_000_000));
        let hook = Metered { shaper: shaper.clone(), account, pause: None };
        let bytes = vec![7u8; 1_800_000];
        let mut stream = Hooked { stream: futures::io::Cursor::new(bytes), hook };
        let mut read = Vec::new();
        let start = Instant::now();
        stream.read_to_end(&mut read).await.unwrap();
        assert_eq!((read.len(), shaper.carried_bytes()), (1_800_000, 1_800_000));
        // A burst of 1 MB is free, the last read is paid for later; the rest takes its time, or longer on a busy machine.
        assert!(start.elapsed() >= Duration::from_millis(100), "{:?}", start.elapsed());
    }
}
