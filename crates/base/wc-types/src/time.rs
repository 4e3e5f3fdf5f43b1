//! Moments, as facts and records carry them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::unit::Millis;

const DAY_MICROS: i64 = 86_400_000_000;

/// Microseconds since 1970-01-01T00:00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Returns the moment `delay` later; saturates at the end of time.
    pub fn plus(self, delay: Millis) -> Self {
        let micros = i64::try_from(delay.0.saturating_mul(1000)).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// Returns how long after `earlier` this moment is, zero if it is not.
    pub fn since(self, earlier: Self) -> Millis {
        Millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0) / 1000)
    }

    /// Returns the day, counted from 1970-01-01 UTC; the first or the last one that fits for moments beyond.
    pub fn day(self) -> u32 {
        let day = self.0.div_euclid(DAY_MICROS);
        u32::try_from(day).unwrap_or(if day < 0 { 0 } else { u32::MAX })
    }

    /// Returns the moment at which a day begins.
    pub fn of_day(day: u32) -> Self {
        Self(i64::from(day).saturating_mul(DAY_MICROS))
    }
}

impl fmt::Display for Timestamp {
    /// Writes RFC 3339 with microseconds, in UTC.
    ///
    /// # Source
    /// The civil-from-days algorithm for the proleptic Gregorian calendar with 400-year eras of 146,097 days.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(1_000_000);
        let micros = self.0.rem_euclid(1_000_000);
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Count from 0000-03-01, so that the leap day is the last day of its year.
        let day = days + 719_468;
        let era = day.div_euclid(146_097);
        let day_of_era = day.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day_of_month = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        write!(
            f,
            "{year:04}-{month:02}-{day_of_month:02}T{:02}:{:02}:{:02}.{micros:06}Z",
            second / 3600,
            second / 60 % 60,
            second % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_as_rfc_3339() {
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp(951_782_400_000_001).to_string(), "2000-02-29T00:00:00.000001Z");
        assert_eq!(Timestamp(1_795_410_134_500_000).to_string(), "2026-11-23T05:02:14.500000Z");
    }

    #[test]
    fn days_begin_at_midnight_in_utc() {
        assert_eq!(Timestamp(0).day(), 0);
        assert_eq!(Timestamp(86_399_999_999).day(), 0);
        assert_eq!(Timestamp(86_400_000_000).day(), 1);
        assert_eq!(Timestamp::of_day(20_833).to_string(), "2027-01-15T00:00:00.000000Z");
        assert_eq!(Timestamp::of_day(20_833).day(), 20_833);
        assert_eq!((Timestamp(-1).day(), Timestamp(i64::MIN).day()), (0, 0));
        assert_eq!(Timestamp(i64::MAX).day(), 106_751_991);
    }

    #[test]
    fn time_saturates_instead_of_wrapping() {
        assert_eq!(Timestamp(i64::MAX).plus(Millis(u64::MAX)), Timestamp(i64::MAX));
        assert_eq!(Timestamp(5).since(Timestamp(9_000)), Millis(0));
    }
}
