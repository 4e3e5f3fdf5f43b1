//! What was earned of late, by day: the floor under a balance, kept in as few bytes as the days that had any.

use serde::{Deserialize, Serialize};

/// Days that "of late" means (CRD-05).
pub const TRAILING_DAYS: u32 = 30;

/// Amounts of the trailing days. Empty for an account that earned nothing of late: 32 bytes, and 8 more for each day
/// between the first and the last with an amount, at most 31.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Earnings {
    /// Day of the last amount.
    newest: u32,
    /// One amount for each day up to the newest.
    amounts: Vec<u64>,
}

impl Earnings {
    /// Notes that `amount` was earned on `day`. A day before the newest counts as the newest: time does not run
    /// backwards on a ledger.
    pub fn add(&mut self, day: u32, amount: u64) {
        if amount == 0 {
            return;
        }
        match self.amounts.last_mut() {
            Some(newest) if day <= self.newest => *newest = newest.saturating_add(amount),
            Some(_) if day - self.newest <= TRAILING_DAYS => {
                let gap = (day - self.newest - 1) as usize;
                // Exact: a million accounts should not pay for days that did not come yet.
                self.amounts.reserve_exact(gap + 1);
                self.amounts.extend(std::iter::repeat_n(0, gap));
                self.amounts.push(amount);
                self.newest = day;
                self.forget(day);
            }
            Some(_) | None => {
                self.amounts = vec![amount];
                self.newest = day;
            }
        }
    }

    /// Takes back what was wrongly earned, from the newest day on.
    pub fn take_back(&mut self, mut amount: u64) {
        for kept in self.amounts.iter_mut().rev() {
            let taken = amount.min(*kept);
            *kept -= taken;
            amount -= taken;
        }
    }

    /// Returns what was earned on `day` and the [`TRAILING_DAYS`] before it.
    ///
    /// A day counts in full until thirty whole days have passed, so a floor is never below thirty days of earnings.
    pub fn trailing(&self, day: u32) -> u64 {
        let oldest = self.oldest();
        let days = self.amounts.iter().zip(oldest..);
        let late = days.filter(|(_, on)| on.saturating_add(TRAILING_DAYS) >= day);
        late.fold(0, |sum: u64, (amount, _)| sum.saturating_add(*amount))
    }

    fn oldest(&self) -> u32 {
        let span = u32::try_from(self.amounts.len()).unwrap_or(u32::MAX);
        self.newest.saturating_sub(span.saturating_sub(1))
    }

    /// Forgets days that are too old to count.
    fn forget(&mut self, day: u32) {
        let old = self.oldest();
        let keep_from = day.saturating_sub(TRAILING_DAYS);
        let gone = (keep_from.saturating_sub(old) as usize).min(self.amounts.len());
        self.amounts.drain(..gone);
        let empty = self.amounts.iter().take_while(|amount| **amount == 0).count();
        if empty > 0 {
            self.amounts.drain(..empty);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn earnings_count_for_thirty_days_and_then_no_more() {
        let mut earnings = Earnings::default();
        assert_eq!(earnings.trailing(100), 0);
        earnings.add(100, 7);
        earnings.add(100, 1);
        earnings.add(103, 20);
        for (day, expected) in [(103, 28), (130, 28), (131, 20), (133, 20), (134, 0), (9999, 0)] {
            assert_eq!(earnings.trailing(day), expected, "day {day}");
        }
        earnings.add(200, 5);
        assert_eq!((earnings.trailing(200), earnings.amounts.len()), (5, 1), "what is old is forgotten");
    }

    #[test]
    fn what_is_taken_back_is_taken_from_the_newest() {
        let mut earnings = Earnings::default();
        earnings.add(1, 10);
        earnings.add(2, 10);
        earnings.take_back(15);
        assert_eq!((earnings.trailing(2), earnings.trailing(31), earnings.trailing(32)), (5, 5, 0));
        earnings.take_back(u64::MAX);
        assert_eq!(earnings.trailing(2), 0);
    }

    proptest! {
        #[test]
        fn the_compact_form_counts_like_a_list(
            steps in prop::collection::vec((0u32..12, 0u64..1000), 0..120),
            ahead in 0u32..40,
        ) {
            let (mut earnings, mut list, mut day) = (Earnings::default(), Vec::new(), 1000);
            for (pass, amount) in steps {
                day += pass;
                earnings.add(day, amount);
                list.push((day, amount));
                prop_assert!(earnings.amounts.len() <= TRAILING_DAYS as usize + 1);
            }
            let at = day + ahead;
            let expected: u64 = list.iter().filter(|(on, _)| on + TRAILING_DAYS >= at).map(|(_, amount)| amount).sum();
            prop_assert_eq!(earnings.trailing(at), expected);
        }
    }
}
