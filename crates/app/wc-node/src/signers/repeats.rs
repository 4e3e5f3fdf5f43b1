//! What happens again and again is said at once, and after that at growing intervals.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// First and longest time between two words about the same thing.
const AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));
/// Things that are kept apart. More than there are reasons to refuse.
const THINGS_MAX: usize = 64;

/// What was said lately.
#[derive(Debug, Default)]
pub(crate) struct Repeats(BTreeMap<String, Said>);

#[derive(Debug)]
struct Said {
    next: Instant,
    wait: Duration,
    last: Instant,
    times: u64,
}

impl Repeats {
    /// Counts that `thing` happened. Returns how often it did since it was last said, if it is to be said now.
    pub fn happened(&mut self, thing: &str, now: Instant) -> Option<u64> {
        // What has been quiet for long is news again.
        self.0.retain(|_, said| now < said.last + said.wait * 2);
        if let Some(said) = self.0.get_mut(thing) {
            said.last = now;
            said.times += 1;
            if now < said.next {
                return None;
            }
            said.wait = (said.wait * 2).min(AGAIN.1);
            said.next = now + said.wait;
            return Some(std::mem::take(&mut said.times));
        }
        if self.0.len() == THINGS_MAX
            && let Some(oldest) =
                self.0.iter().min_by_key(|(_, said)| said.last).map(|(thing, _)| thing.clone())
        {
            self.0.remove(&oldest);
        }
        let said = Said { next: now + AGAIN.0, wait: AGAIN.0, last: now, times: 0 };
        self.0.insert(thing.to_owned(), said);
        Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_every_two_seconds_is_said_a_few_times_in_an_hour() {
        let (mut repeats, begun) = (Repeats::default(), Instant::now());
        let mut said = 0;
        for second in (0..3600).step_by(2) {
            said +=
                u32::from(repeats.happened("WC-LEDGER-150", begun + Duration::from_secs(second)).is_some());
        }
        assert_eq!(said, 9);
        assert_eq!(repeats.happened("another", begun + Duration::from_secs(3600)), Some(1), "news is said");
        let later = begun + Duration::from_secs(3600 * 24);
        assert_eq!(
            repeats.happened("WC-LEDGER-150", later),
            Some(1),
            "after a long silence it is news again"
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        for thing in 0..1000 {
            repeats.happened(&thing.to_string(), now);
        }
        assert_eq!(repeats.0.len(), THINGS_MAX);
    }
}
