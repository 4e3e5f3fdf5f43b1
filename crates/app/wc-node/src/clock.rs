//! The only place that reads the clock and draws randomness. Both go into facts; decisions see nothing else.

use std::time::{SystemTime, UNIX_EPOCH};

use wc_types::Timestamp;

/// Returns the moment now.
pub fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    Timestamp(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// Returns fresh random bytes from the operating system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system's random source works once the machine is up");
    bytes
}
