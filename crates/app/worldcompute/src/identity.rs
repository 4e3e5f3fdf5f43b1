//! Who is asking, and when: the owner's key and the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use wc_host::KeyFile;
use wc_types::{Millis, SigningKey, Timestamp};

use crate::config::Context;

/// Returns the owner's key, which signs manifests and cancellations; makes it the first time.
///
/// # Errors
/// When the key file cannot be used.
pub fn owner_key(context: &Context) -> anyhow::Result<SigningKey> {
    let path = context.owner_key().unwrap_or_else(|| context.dir.owner_key());
    Ok(KeyFile::load_or_create(&path)?)
}

/// Returns the time by this machine's clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// What another machine's clock may be ahead of ours before we call its entries dated into the future.
const CLOCK_AHEAD_MAX: Millis = Millis(10 * 60_000);

/// Returns the latest moment that an honest entry of a ledger can be of.
pub fn latest() -> Timestamp {
    now().plus(CLOCK_AHEAD_MAX)
}
