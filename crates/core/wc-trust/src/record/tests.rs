use proptest::prelude::*;

use super::*;

const SOFT: PartsPerMillion = PartsPerMillion(500_000);
const HARDWARE: PartsPerMillion = PartsPerMillion::ONE;

fn day(days: u64) -> Timestamp {
    Timestamp(0).plus(Millis(days * DAY))
}

/// A machine that joined on day 0 and agreed in `units` tasks on that day.
fn agreeing(units: u32) -> TrustRecord {
    let mut record = TrustRecord::new(day(0));
    for _ in 0..units {
        record.record(true, day(0));
    }
    record
}

#[test]
fn a_clean_attested_machine_reaches_one_after_thirty_days() {
    let record = agreeing(200);
    assert_eq!(record.score(HARDWARE, day(29)), PartsPerMillion(993_333));
    assert_eq!(record.score(HARDWARE, day(30)), PartsPerMillion::ONE);
    assert_eq!(record.score(HARDWARE, day(3000)), PartsPerMillion::ONE);
}

#[test]
fn a_clean_machine_without_hardware_evidence_reaches_eighty_five_hundredths() {
    assert_eq!(agreeing(200).score(SOFT, day(30)), PartsPerMillion(850_000));
}

#[test]
fn the_first_week_is_capped_at_a_half() {
    let record = agreeing(200);
    assert_eq!(record.score(HARDWARE, day(0)), CAP_SCORE);
    assert_eq!(record.score(HARDWARE, Timestamp(day(7).0 - 1_000)), CAP_SCORE);
    assert_eq!(record.score(HARDWARE, day(7)), PartsPerMillion(846_666));
}

#[test]
fn a_newcomer_is_worth_its_attestation_only() {
    assert_eq!(TrustRecord::new(day(0)).score(SOFT, day(0)), PartsPerMillion(150_000));
    assert_eq!(TrustRecord::new(day(0)).score(PartsPerMillion(u32::MAX), day(0)), PartsPerMillion(300_000));
}

#[test]
fn one_lucky_unit_is_not_a_clean_record() {
    assert_eq!(agreeing(1).score(SOFT, day(30)), PartsPerMillion(25_000 + 150_000 + 200_000));
    assert_eq!(agreeing(UNITS_MIN).score(SOFT, day(30)), PartsPerMillion(850_000));
}

#[test]
fn a_proven_disagreement_takes_everything_and_comes_back_by_halves() {
    let mut record = agreeing(199);
    record.record(false, day(30));
    assert_eq!(record.score(HARDWARE, day(30)), PartsPerMillion(0));
    // 199 of 200 units agreed: 0.5 · 0.995 + 0.3 + 0.2 = 0.9975.
    assert_eq!(record.score(HARDWARE, day(44)), PartsPerMillion(498_750));
    assert_eq!(record.score(HARDWARE, day(58)), PartsPerMillion(748_125));
    assert_eq!(record.standing(), Standing::Good);
    assert_eq!(record.strikes(), 1);
}

#[test]
fn a_second_disagreement_inside_fourteen_days_quarantines_for_good() {
    let mut record = agreeing(200);
    record.record(false, day(30));
    record.record(false, day(44));
    assert_eq!(record.standing(), Standing::Quarantined);
    for _ in 0..500 {
        record.record(true, day(400));
    }
    assert_eq!(record.standing(), Standing::Quarantined, "it takes attestation, not time");
}

#[test]
fn disagreements_more_than_fourteen_days_apart_do_not_quarantine() {
    let mut record = agreeing(200);
    for time in [30, 45, 60, 75] {
        record.record(false, day(time));
    }
    assert_eq!(record.standing(), Standing::Good);
    assert_eq!(record.strikes(), 4);
}

#[test]
fn a_task_without_majority_costs_a_little_and_never_quarantines() {
    let mut record = agreeing(200);
    record.mark_no_majority(day(30));
    // 0.9975 · (1 − 0.1)
    assert_eq!(record.score(HARDWARE, day(30)), PartsPerMillion(897_750));
    for _ in 0..50 {
        record.mark_no_majority(day(30));
    }
    assert_eq!(record.standing(), Standing::Good);
    assert_eq!(record.strikes(), 0);
    assert!(record.score(HARDWARE, day(30)) < PartsPerMillion(10_000), "but it adds up");
}

#[test]
fn the_window_forgets_what_is_older_than_two_hundred_units() {
    let mut record = TrustRecord::new(day(0));
    for _ in 0..100 {
        record.mark_no_majority(day(0));
    }
    for _ in 0..199 {
        record.record(true, day(0));
    }
    assert_eq!(record.units(), WINDOW);
    assert_eq!(record.consistency(), PartsPerMillion(995_000));
    record.record(true, day(0));
    assert_eq!(record.consistency(), PartsPerMillion::ONE);
}

#[test]
fn a_clock_that_steps_back_breaks_nothing() {
    let mut record = agreeing(20);
    record.record(false, day(10));
    assert_eq!(record.score(HARDWARE, day(9)), PartsPerMillion(0));
    record.record(false, day(5));
    assert_eq!(record.standing(), Standing::Quarantined);
    assert_eq!(record.age(Timestamp(i64::MIN)), Millis(0));
}

proptest! {
    #[test]
    fn the_window_counts_like_a_list_would(history in prop::collection::vec(any::<bool>(), 0..500)) {
        let mut record = TrustRecord::new(day(0));
        for &agreed in &history {
            record.record(agreed, day(0));
        }
        let recent = &history[history.len().saturating_sub(WINDOW as usize)..];
        let agreed = recent.iter().filter(|&&agreed| agreed).count();
        let bits: u32 = record.agreed.iter().map(|limb| limb.count_ones()).sum();
        prop_assert_eq!(bits as usize, agreed);
        prop_assert_eq!(record.units() as usize, recent.len());
    }

    #[test]
    fn a_score_is_a_share_and_evidence_never_hurts(
        history in prop::collection::vec((0u8..4, 0i64..1 << 42), 0..60),
        at in 0i64..1 << 42,
        attestation in 0u32..=1_000_000,
    ) {
        let mut record = TrustRecord::new(day(0));
        for (what, when) in history {
            match what {
                0 => record.record(false, Timestamp(when)),
                1 => record.mark_no_majority(Timestamp(when)),
                _ => record.record(true, Timestamp(when)),
            }
        }
        let score = record.score(PartsPerMillion(attestation), Timestamp(at));
        prop_assert!(score <= PartsPerMillion::ONE);
        prop_assert!(score <= record.score(PartsPerMillion::ONE, Timestamp(at)));
        let bytes = wc_types::to_canonical(&record);
        prop_assert_eq!(wc_types::from_canonical::<TrustRecord>(&bytes).expect("survives its bytes"), record);
        prop_assert!(bytes.len() < 200, "{} bytes", bytes.len());
    }

    /// Whatever the machine did before, a disagreement never raises its score and an agreement never lowers it.
    #[test]
    fn one_more_unit_moves_the_score_its_way(
        history in prop::collection::vec(any::<bool>(), 20..300),
        days in 7u64..100,
    ) {
        let mut record = TrustRecord::new(day(0));
        for &agreed in &history {
            record.record(agreed, day(0));
        }
        let before = record.score(HARDWARE, day(days));
        let mut better = record.clone();
        better.record(true, day(days));
        let mut worse = record.clone();
        worse.record(false, day(days));
        prop_assert!(worse.score(HARDWARE, day(days)) <= before);
        // The oldest unit leaves the window; unless it agreed, one more agreement can only help.
        prop_assert!(better.score(HARDWARE, day(days)) >= before || history.len() < WINDOW as usize);
    }
}
