//! Tables of moments: what happens, and what is decided.

use super::*;

const MINUTE: i64 = 60_000_000;
const POLICY: AnchorPolicy = AnchorPolicy::DEFAULT;

fn at(minutes: i64) -> Timestamp {
    Timestamp(1_800_000_000_000_000 + minutes * MINUTE)
}

#[test]
fn a_log_that_does_not_grow_is_left_alone() {
    let mut schedule = Schedule::new(POLICY, Standing::default(), at(0));
    assert_eq!(schedule.step(at(0)), Step::Rest);
    schedule.offer(0, at(1));
    assert_eq!(schedule.step(at(10_000)), Step::Rest);
    assert_eq!(schedule.alarm(at(10_000)), None, "an idle cell raises no alarm");
}

#[test]
fn the_first_anchor_is_due_at_once_and_the_next_ten_minutes_later() {
    let mut schedule = Schedule::new(POLICY, Standing::default(), at(0));
    schedule.offer(5, at(0));
    assert_eq!(schedule.step(at(0)), Step::Try);
    schedule.anchored(5, at(0));
    assert_eq!(schedule.step(at(1)), Step::Rest);
    schedule.offer(6, at(3));
    assert_eq!(schedule.step(at(3)), Step::Wait(Millis(7 * 60_000)));
    assert_eq!(schedule.step(at(10)), Step::Try);
}

#[test]
fn one_anchor_covers_everything_that_waits() {
    let mut schedule = Schedule::new(POLICY, Standing::default(), at(0));
    for size in 1..=500 {
        schedule.offer(size, at(0));
    }
    schedule.failed(at(0), 1, None);
    schedule.offer(900, at(1));
    schedule.anchored(900, at(2));
    assert_eq!(schedule.step(at(2)), Step::Rest);
    assert_eq!(schedule.standing().anchored_size, 900);
}

#[test]
fn what_came_while_the_log_was_asked_waits_for_the_next_anchor() {
    let mut schedule = Schedule::new(POLICY, Standing::default(), at(0));
    schedule.offer(5, at(0));
    schedule.offer(7, at(1));
    schedule.anchored(5, at(2));
    assert_eq!(schedule.standing().behind_since, Some(at(2)));
    assert_eq!(schedule.step(at(2)), Step::Wait(POLICY.interval));
}

#[test]
fn waits_double_up_to_their_maximum_and_differ_by_seed() {
    let mut waits = Vec::new();
    for seed in 0..3 {
        let mut schedule = Schedule::new(POLICY, Standing::default(), at(0));
        schedule.offer(1, at(0));
        let mut row = Vec::new();
        for failure in 1..=12u32 {
            schedule.failed(at(0), seed, None);
            let Step::Wait(wait) = schedule.step(at(0)) else { panic!("a failure is waited for") };
            let whole = (POLICY.retry_first.0 << (failure - 1)).min(POLICY.retry_max.0);
            assert!((whole / 2..=whole).contains(&wait.0), "failure {failure}: {} of {whole}", wait.0);
            row.push(wait);
        }
        waits.push(row);
    }
    assert!(waits[0] != waits[1] && waits[1] != waits[2], "many coordinators do not come back together");
}

#[test]
fn a_log_that_asks_for_patience_gets_it_within_reason() {
    let mut schedule = Schedule::new(POLICY, Standing::default(), at(0));
    schedule.offer(1, at(0));
    schedule.failed(at(0), 0, Some(Millis(120_000)));
    assert_eq!(schedule.step(at(0)), Step::Wait(Millis(120_000)));
    schedule.failed(at(0), 0, Some(Millis(u64::MAX)));
    assert_eq!(schedule.step(at(0)), Step::Wait(POLICY.interval), "never longer than an interval");
}

#[test]
fn a_log_that_is_away_for_a_day_raises_the_alarm_and_is_caught_up_by_one_anchor() {
    let mut schedule = Schedule::new(POLICY, Standing::default(), at(0));
    schedule.offer(1, at(0));
    let (mut now, mut tries, mut alarms) = (at(0), 0u32, Vec::new());
    while now < at(24 * 60) {
        schedule.offer(1 + u64::from(tries), now);
        match schedule.step(now) {
            Step::Try => {
                tries += 1;
                schedule.failed(now, u64::from(tries), None);
            }
            Step::Wait(wait) => {
                now = now.plus(wait);
                let alarm = schedule.alarm(now);
                if alarms.last() != Some(&alarm) {
                    alarms.push(alarm);
                }
            }
            Step::Rest => panic!("there is something to anchor"),
        }
    }
    assert_eq!(alarms, [None, Some(Alarm::Overdue), Some(Alarm::Missed)]);
    // 288 waits of five minutes at most; twice as many if all are half as long.
    assert!((280..620).contains(&tries), "{tries} tries in a day");
    schedule.anchored(1 + u64::from(tries), now);
    assert_eq!(schedule.alarm(now), None);
    assert_eq!(schedule.step(now), Step::Rest);
    assert_eq!(schedule.failures(), 0);
}

#[test]
fn the_alarm_comes_after_two_intervals_and_is_urgent_after_three() {
    let mut schedule = Schedule::new(POLICY, Standing::default(), at(0));
    schedule.offer(1, at(0));
    let table = [
        (0, None),
        (20, None),
        (21, Some(Alarm::Overdue)),
        (30, Some(Alarm::Overdue)),
        (31, Some(Alarm::Missed)),
    ];
    for (minutes, alarm) in table {
        assert_eq!(schedule.alarm(at(minutes)), alarm, "minute {minutes}");
    }
}

#[test]
fn the_alarm_survives_a_restart() {
    let mut schedule = Schedule::new(POLICY, Standing::default(), at(0));
    schedule.offer(1, at(0));
    schedule.failed(at(0), 0, None);
    let mut schedule = Schedule::new(POLICY, schedule.standing(), at(40));
    assert_eq!(schedule.alarm(at(40)), Some(Alarm::Missed));
    assert_eq!(schedule.step(at(40)), Step::Try, "a restart tries at once");
}

#[test]
fn a_restart_does_not_anchor_more_often() {
    let mut schedule = Schedule::new(POLICY, Standing::default(), at(0));
    schedule.offer(1, at(0));
    schedule.anchored(1, at(0));
    let mut schedule = Schedule::new(POLICY, schedule.standing(), at(4));
    schedule.offer(2, at(4));
    assert_eq!(schedule.step(at(4)), Step::Wait(Millis(6 * 60_000)));
}

#[test]
fn a_clock_that_goes_backwards_neither_stalls_nor_hurries() {
    let mut schedule = Schedule::new(POLICY, Standing::default(), at(0));
    schedule.offer(1, at(0));
    schedule.anchored(1, at(0));
    schedule.offer(2, at(4));
    // A day back: four of ten minutes have passed, six are left.
    let day = 24 * 60;
    assert_eq!(schedule.step(at(4 - day)), Step::Wait(Millis(6 * 60_000)));
    assert_eq!(schedule.alarm(at(4 - day)), None);
    assert_eq!(schedule.step(at(10 - day)), Step::Try);
    schedule.failed(at(10 - day), 0, None);
    assert!(matches!(schedule.step(at(10 - day)), Step::Wait(_)));
    // Behind since minute 4, on the new clock.
    assert_eq!(schedule.alarm(at(25 - day)), Some(Alarm::Overdue));
    assert_eq!(schedule.alarm(at(35 - day)), Some(Alarm::Missed));
}

#[test]
fn a_clock_that_was_set_back_between_two_runs_does_not_stall_the_second() {
    let standing =
        Standing { anchored_size: 5, anchored_at: Some(at(10_000)), behind_since: Some(at(10_001)) };
    let mut schedule = Schedule::new(POLICY, standing, at(0));
    schedule.offer(9, at(0));
    let Step::Wait(wait) = schedule.step(at(0)) else { panic!("the last anchor counts as made just now") };
    assert!(wait <= POLICY.interval);
    assert_eq!(schedule.step(at(10)), Step::Try);
    assert_eq!(schedule.alarm(at(1)), None);
}

#[test]
fn a_clock_that_leaps_forward_tries_at_once() {
    let mut schedule = Schedule::new(POLICY, Standing::default(), at(0));
    schedule.offer(1, at(0));
    schedule.anchored(1, at(0));
    schedule.offer(2, at(1));
    assert_eq!(schedule.step(at(100_000)), Step::Try);
}

#[test]
fn answers_that_do_not_verify_are_flagged_when_the_budget_is_used_up() {
    let mut schedule = Schedule::new(POLICY, Standing::default(), at(0));
    schedule.offer(1, at(0));
    let flags: Vec<bool> = (0..10).map(|seed| schedule.unverified(at(seed), 0)).collect();
    let every_fifth: Vec<bool> = (1..=10).map(|number| number % 5 == 0).collect();
    assert_eq!(flags, every_fifth);
    assert_eq!(schedule.step(at(9)), Step::Wait(POLICY.interval));
    // An outage in between uses up nothing of the budget.
    let mut schedule = Schedule::new(POLICY, Standing::default(), at(0));
    schedule.offer(1, at(0));
    assert!((0..100).all(|seed| {
        schedule.failed(at(0), seed, None);
        schedule.failures() == u32::try_from(seed).expect("small") + 1
    }));
    assert!(!schedule.unverified(at(0), 0));
}

#[test]
fn no_moment_and_no_interval_makes_it_fail() {
    for interval in [0, 1, 2, u64::MAX] {
        let policy = AnchorPolicy::every(Millis(interval));
        let mut schedule = Schedule::new(policy, Standing::default(), Timestamp(i64::MAX));
        for now in [i64::MIN, 0, i64::MAX, -1, i64::MIN] {
            let now = Timestamp(now);
            schedule.offer(u64::MAX, now);
            let _ = (schedule.step(now), schedule.alarm(now));
            schedule.failed(now, u64::MAX, Some(Millis(u64::MAX)));
            schedule.unverified(now, 0);
            let _ = schedule.step(now);
            schedule.anchored(1, now);
        }
    }
}
