//! What time, conviction and withdrawal do to credit, one fact at a time.

#[path = "cell/fixture.rs"]
#[allow(dead_code, reason = "shared with the tests of the rest of the cell")]
mod fixture;

use fixture::*;
use wc_cell::{Cell, Event, JobPhase};
use wc_types::charter::Charter;
use wc_types::entry::{Entry, EntryKind, Holder};
use wc_types::manifest::{CaliberWish, Manifest, Placement};
use wc_types::node::CaliberClass;
use wc_types::*;

const DAY: Millis = Millis(24 * 3_600_000);

fn account(number: u8) -> AccountId {
    owner_key(number).account_id()
}

fn balance(world: &World, number: u8) -> u64 {
    world.cell.balance(&account(number)).0
}

/// Lets days pass, ticking whenever something is due.
fn days(world: &mut World, days: u32) {
    let until = world.at.plus(Millis(DAY.0 * u64::from(days)));
    while let Some(due) = world.cell.next_deadline().filter(|due| *due <= until) {
        world.at = world.at.max(due);
        world.tell(Event::Tick);
    }
    world.at = until;
}

/// Submits a job of this name, now.
fn run(world: &mut World, name: &str, mut work: Manifest) -> JobId {
    work.name = name.replace(' ', "-");
    work.submitted_at = world.at;
    world.run(work)
}

/// Runs tasks of one replica each on one node; every task earns what its fuel is worth.
fn earn(world: &mut World, number: u8, name: &str, fuels: &[u64]) {
    let tasks = u32::try_from(fuels.len()).expect("few");
    let job = run(world, name, manifest(vec![stage("only", tasks, 1)]));
    world.want(number, tasks);
    for (at, fuel) in world.take(number).into_iter().zip(fuels) {
        let mut outcome = world.result(number, at, name);
        outcome.usage.fuel = Fuel(*fuel);
        world.report(number, outcome);
    }
    assert_eq!(world.cell.job(&job).expect("known").phase, JobPhase::Verified);
}

/// Runs one task on the first three nodes, who answer as told.
fn compare(world: &mut World, name: &str, answer: impl Fn(u8) -> &'static str) {
    run(world, name, manifest(vec![stage("only", 1, 3)]));
    for number in 0..3 {
        world.want(number, 1);
    }
    let held: Vec<_> =
        (0..3).flat_map(|number| world.take(number).into_iter().map(move |at| (number, at))).collect();
    let outcomes: Vec<_> =
        held.iter().map(|(number, at)| (*number, world.result(*number, *at, answer(*number)))).collect();
    for (number, outcome) in &outcomes {
        world.commit(*number, outcome);
    }
    // The last of three comes too late to be paid once two agree (E-21); let it be node 0.
    for (number, outcome) in outcomes.into_iter().rev() {
        world.report(number, outcome);
    }
}

fn decays(world: &World) -> Vec<&Entry> {
    world.entries.iter().filter(|entry| matches!(entry.kind, EntryKind::CreditDecayed { .. })).collect()
}

#[test]
fn a_thousand_ncu_are_five_hundred_forty_five_days_after_the_floor_let_go() {
    let mut world = World::with_nodes(1);
    earn(&mut world, 0, "earn", &[1_000_000_000_000_000]);
    assert_eq!(balance(&world, 0), 1_000_000_000);
    days(&mut world, 30);
    assert_eq!(balance(&world, 0), 1_000_000_000, "what was earned in the last thirty days is the floor");
    assert!(decays(&world).is_empty());
    days(&mut world, 45);
    assert!(balance(&world, 0).abs_diff(500_000_000) <= 10_000_000, "{}", balance(&world, 0));
    assert!(balance(&world, 0).abs_diff(500_000_000) <= 66);
    days(&mut world, 45);
    assert!(balance(&world, 0).abs_diff(250_000_000) <= 2_500_000, "the 90-day curve, within 1 %");
    assert_eq!(decays(&world).len(), 90, "one entry a day");
    world.check_replay();
}

#[test]
fn each_decay_entry_says_what_it_found_and_moves_the_rest_back_to_the_issuance() {
    let mut world = World::with_nodes(2);
    earn(&mut world, 0, "a", &[100_000_000_000]);
    earn(&mut world, 1, "b", &[300_000_000_000]);
    days(&mut world, 32);
    let entries = decays(&world);
    let entry = entries.first().expect("faded");
    let EntryKind::CreditDecayed { day, acceleration, accounts } = &entry.kind else { panic!("{entry:?}") };
    assert_eq!((*day, *acceleration), (START.day() + 31, PartsPerMillion::ONE));
    assert_eq!(entry.at, Timestamp::of_day(*day), "at midnight");
    assert_eq!(accounts.len(), 2);
    let (lost, back) = entry.postings.split_at(2);
    assert!(lost.is_sorted_by_key(|posting| posting.holder));
    for (decay, posting) in accounts.iter().zip(lost) {
        assert_eq!(decay.floor, MicroNcu(0));
        let expected = (decay.before.0 as f64 * (1.0 - (-1.0f64 / 45.0).exp2())).ceil() as i64;
        assert_eq!(posting.amount, -expected);
    }
    assert_eq!(back[0].holder, Holder::Issuance);
    assert_eq!(entry.postings.iter().map(|posting| posting.amount).sum::<i64>(), 0);
    world.check_replay();
}

#[test]
fn what_is_earned_every_day_does_not_fade() {
    let mut world = World::with_nodes(1);
    let mut earned = 0;
    for day in 0..60 {
        earn(&mut world, 0, &format!("day {day}"), &[10_000_000_000]);
        earned += 10_000;
        days(&mut world, 1);
        // Never below the trailing thirty days, never above what was earned.
        let floor = 10_000 * (day + 1).min(30);
        let now = balance(&world, 0);
        assert!(now >= floor && now <= earned, "day {day}: {now}");
    }
    assert!(balance(&world, 0) < earned, "what is above the floor fades");
    world.check_replay();
}

#[test]
fn a_coordinator_that_slept_finds_the_same_balances_as_one_that_did_not() {
    let mut awake = World::with_nodes(2);
    earn(&mut awake, 0, "earn", &[77_000_000_000]);
    earn(&mut awake, 1, "more", &[5_000_000_000, 9_000_000_000]);
    let mut asleep = awake.clone();
    days(&mut awake, 100);
    asleep.at = asleep.at.plus(Millis(DAY.0 * 100));
    while asleep.cell.next_deadline().is_some_and(|due| due <= asleep.at) {
        asleep.tell(Event::Tick);
        asleep.at =
            asleep.at.max(asleep.cell.next_deadline().expect("the day").min(Timestamp(asleep.at.0 + 1)));
    }
    assert_eq!(balance(&asleep, 0), balance(&awake, 0));
    assert_eq!(balance(&asleep, 1), balance(&awake, 1));
    assert_eq!(decays(&asleep).len(), decays(&awake).len());
    asleep.check_replay();
}

#[test]
fn a_clock_that_goes_back_fades_nothing_twice() {
    let mut world = World::with_nodes(1);
    earn(&mut world, 0, "earn", &[1_000_000_000_000]);
    days(&mut world, 40);
    let (before, entries) = (balance(&world, 0), world.entries.len());
    world.at = Timestamp(world.at.0 - 10 * 86_400_000_000);
    for _ in 0..5 {
        world.tell(Event::Tick);
    }
    assert_eq!((balance(&world, 0), world.entries.len()), (before, entries));
    world.check_replay();
}

#[test]
fn a_cell_that_was_founded_without_these_rules_keeps_its_books() {
    let mut world = World::new(Charter { economy: None, ..charter() });
    world.join(0);
    earn(&mut world, 0, "earn", &[1_000_000_000]);
    let week = world.at.plus(Millis(6 * DAY.0));
    assert!(world.cell.next_deadline() > Some(week), "only the job's results have a term");
    world.tell(Event::NodeLeft { node: node_id(0) });
    world.at = world.at.plus(Millis(DAY.0 * 1000));
    world.tell(Event::Tick);
    assert_eq!(balance(&world, 0), 1000);
    assert!(matches!(world.entries.last().expect("some").kind, EntryKind::JobEnded { .. }));
    world.check_replay();
}

#[test]
fn a_clock_at_the_end_of_time_does_not_keep_the_cell_counting_days() {
    let mut world = World::with_nodes(1);
    earn(&mut world, 0, "earn", &[1_000_000_000]);
    world.at = Timestamp(i64::MAX);
    world.tell(Event::Tick);
    assert_eq!(world.cell.next_deadline(), None, "nothing is later");
    world.check_replay();
}

#[test]
fn a_founding_record_of_an_earlier_release_still_has_its_id() {
    let charter = Charter { economy: None, ..Charter::default() };
    let bytes = to_canonical(&charter);
    assert_eq!(from_canonical::<Charter>(&bytes), Ok(charter));
    assert!(
        !bytes.windows(7).any(|name| name == b"economy"),
        "nothing is written for rules that are not there"
    );
}

/// Convicts node 2 by two lies that others see.
fn convict(world: &mut World) {
    compare(world, "first lie", |number| if number == 2 { "lie" } else { "x" });
    compare(world, "second lie", |number| if number == 2 { "lie" } else { "x" });
}

fn reversals(world: &World) -> Vec<&Entry> {
    world.entries.iter().filter(|entry| matches!(entry.kind, EntryKind::CreditReversed { .. })).collect()
}

#[test]
fn a_convicted_donor_loses_what_it_earned_unchecked_and_nobody_else_loses_anything() {
    let mut world = World::with_nodes(3);
    compare(&mut world, "all agree", |_| "x");
    earn(&mut world, 2, "unchecked", &[40_000_000, 2_000_000]);
    earn(&mut world, 0, "honest and unchecked", &[30_000_000]);
    assert_eq!(balance(&world, 2), 5 + 42);
    let others = (balance(&world, 0), balance(&world, 1));
    convict(&mut world);
    assert_eq!(balance(&world, 2), 5, "what was checked before is its own");
    assert_eq!((balance(&world, 0), balance(&world, 1)), (others.0 + 10, others.1 + 10));
    let [entry] = reversals(&world)[..] else { panic!("one reversal") };
    let EntryKind::CreditReversed { node, owner, tasks, unverified, shortfall, .. } = entry.kind else {
        panic!("{entry:?}")
    };
    assert_eq!((node, owner, tasks), (node_id(2), account(2), 2));
    assert_eq!((unverified, shortfall), (MicroNcu(42), MicroNcu(0)));
    world.check_replay();
}

#[test]
fn a_check_that_was_passed_vouches_for_what_came_before() {
    let mut world = World::with_nodes(3);
    earn(&mut world, 2, "unchecked", &[40_000_000]);
    compare(&mut world, "all agree", |_| "x");
    convict(&mut world);
    assert_eq!(balance(&world, 2), 45);
    assert!(reversals(&world).is_empty());
    world.check_replay();
}

#[test]
fn machines_of_one_owner_do_not_vouch_for_each_other() {
    let mut world = World::new(charter());
    for number in 0..3 {
        world.enrol(enrolment(number, 9), number);
    }
    let mut work = manifest(vec![stage("only", 1, 3)]);
    work.placement = Placement::Machines;
    run(&mut world, "machines", work);
    let mut outcomes = Vec::new();
    for number in 0..3 {
        world.want(number, 1);
        let at = world.take(number)[0];
        outcomes.push((number, world.result(number, at, "x")));
    }
    for (number, outcome) in &outcomes {
        world.commit(*number, outcome);
    }
    for (number, outcome) in outcomes {
        world.report(number, outcome);
    }
    // Two of the three agreed before the third was heard (E-21).
    assert_eq!(balance(&world, 9), 10);
    for number in 3..5 {
        world.join(number);
    }
    world.pass(Millis(1000));
    // Strangers see node 0 lie twice.
    for name in ["one", "two"] {
        run(&mut world, name, manifest(vec![stage("only", 1, 3)]));
        let mut outcomes = Vec::new();
        for number in [0, 3, 4] {
            world.want(number, 1);
            let at = world.take(number)[0];
            outcomes.push((number, world.result(number, at, if number == 0 { "lie" } else { "x" })));
        }
        for (number, outcome) in &outcomes {
            world.commit(*number, outcome);
        }
        for (number, outcome) in outcomes {
            world.report(number, outcome);
        }
    }
    assert_eq!(balance(&world, 9), 5, "node 0's part was taken back, its sister's was not");
    world.check_replay();
}

#[test]
fn what_a_convicted_donor_has_spent_is_recorded_as_missing_and_nobody_goes_below_zero() {
    let mut world = World::with_nodes(3);
    // The submitter owns the machine that will lie.
    let mut mine = enrolment(2, 0);
    let me = submitter_key().account_id();
    let delegation = node::Delegation { owner: me, node: node_id(2), issued_at: START };
    mine.delegation = Signed::seal(delegation, &submitter_key());
    world.enrol(mine, 2);
    earn(&mut world, 2, "unchecked", &[40_000_000]);
    assert_eq!(world.cell.balance(&me), MicroNcu(40));
    let mut spend = manifest(vec![stage("spend", 1, 1)]);
    spend.max_total = Some(MicroNcu(33));
    spend.name = "spend".into();
    world.submit(spend);
    assert_eq!(world.cell.balance(&me), MicroNcu(7), "thirty-three are set aside");
    // The second lie is told while the reserve is still out, and the jobs of the comparison find seven to reserve.
    convict(&mut world);
    assert_eq!(world.cell.balance(&me), MicroNcu(0));
    let [entry] = reversals(&world)[..] else { panic!("one reversal") };
    let EntryKind::CreditReversed { unverified, shortfall, .. } = entry.kind else { panic!("{entry:?}") };
    let taken: i64 =
        entry.postings.iter().filter(|posting| posting.amount > 0).map(|posting| posting.amount).sum();
    assert_eq!(unverified, MicroNcu(40));
    assert_eq!(shortfall.0 + taken.unsigned_abs(), 40);
    assert!(shortfall.0 >= 33);
    world.check_replay();
}

#[test]
fn a_withdrawn_donor_keeps_its_credit_for_a_hundred_and_eighty_days() {
    let mut world = World::new(charter());
    world.join(0);
    world.enrol(enrolment(1, 0), 1);
    earn(&mut world, 0, "earn", &[9_000_000_000_000_000]);
    world.tell(Event::NodeLeft { node: node_id(0) });
    let left = |world: &World| match world.entries.last().expect("some").kind {
        EntryKind::NodeLeft { expires_at, .. } => expires_at,
        _ => panic!("the withdrawal is on the ledger"),
    };
    assert_eq!(left(&world), None, "another machine of the same owner is still here");
    // Gone by itself first, then withdrawn.
    world.tell(Event::NodeOffline { node: node_id(1) });
    world.tell(Event::NodeLeft { node: node_id(1) });
    assert_eq!(left(&world), Some(world.at.plus(Millis(180 * DAY.0))));
    let mut back = world.clone();
    days(&mut world, 179);
    assert!(balance(&world, 0) > 0);
    days(&mut world, 1);
    assert_eq!(balance(&world, 0), 0);
    let expired =
        world.entries.iter().rev().find(|entry| matches!(entry.kind, EntryKind::CreditExpired { .. }));
    let postings = &expired.expect("on the ledger").postings;
    assert_eq!(postings[1].holder, Holder::PublicGood);
    days(&mut world, 100);
    world.check_replay();

    days(&mut back, 100);
    back.join(0);
    days(&mut back, 300);
    assert!(balance(&back, 0) > 0, "whoever comes back in time keeps it, as far as it has not faded");
    back.check_replay();
}

#[test]
fn a_submitter_without_credit_is_served_and_one_with_credit_never_pays_more_than_its_limit() {
    let mut world = World::with_nodes(1);
    let me = submitter_key().account_id();
    // E-41: nothing on the account, and the job runs.
    earn(&mut world, 0, "free", &[5_000_000]);
    assert_eq!((balance(&world, 0), world.cell.balance(&me)), (5, MicroNcu(0)));
    let mut mine = enrolment(1, 0);
    let delegation = node::Delegation { owner: me, node: node_id(1), issued_at: START };
    mine.delegation = Signed::seal(delegation, &submitter_key());
    world.enrol(mine, 1);
    earn(&mut world, 1, "mine", &[1_000_000_000]);
    let mut limited = manifest(vec![stage("only", 4, 1)]);
    limited.max_total = Some(MicroNcu(7));
    let job = run(&mut world, "limited", limited);
    world.want(0, 4);
    for at in world.take(0) {
        world.report(0, world.result(0, at, "x"));
    }
    let view = world.cell.job(&job).expect("known");
    assert_eq!((view.charged, view.awarded), (MicroNcu(7), MicroNcu(20)));
    assert_eq!(world.cell.balance(&me), MicroNcu(993));
    world.check_replay();
}

#[test]
fn decay_accelerates_where_people_spend_less_than_is_outstanding_and_says_so() {
    let mut world = World::with_nodes(1);
    let me = submitter_key().account_id();
    let mut mine = enrolment(1, 0);
    let delegation = node::Delegation { owner: me, node: node_id(1), issued_at: START };
    mine.delegation = Signed::seal(delegation, &submitter_key());
    world.enrol(mine, 1);
    earn(&mut world, 0, "hoard", &[1_000_000_000_000]);
    earn(&mut world, 1, "mine", &[100_000_000_000]);
    days(&mut world, 31);
    // A twentieth of what is outstanding is redeemed.
    earn(&mut world, 0, "paid", &[50_000_000_000]);
    days(&mut world, 5);
    let rates: Vec<u32> = decays(&world)
        .iter()
        .map(|entry| match &entry.kind {
            EntryKind::CreditDecayed { acceleration, .. } => acceleration.0,
            _ => 0,
        })
        .collect();
    // The day before anybody paid, then a step a day while some of it is redeemed and most is not.
    assert_eq!(rates, [1_000_000, 1_100_000, 1_200_000, 1_300_000, 1_400_000, 1_500_000]);
    world.check_replay();
}

#[test]
fn a_snapshot_in_the_middle_of_a_day_goes_on_where_it_was() {
    let mut world = World::with_nodes(4);
    for number in 0..4 {
        earn(&mut world, number, &format!("earn {number}"), &[1_000_000_000 * u64::from(number + 1)]);
    }
    days(&mut world, 35);
    let restored = Cell::restore(&world.cell.snapshot()).expect("own snapshot");
    assert_eq!(restored.state_hash(), world.cell.state_hash());
    assert_eq!(restored.next_deadline(), world.cell.next_deadline());
}

#[test]
fn a_donor_redeems_its_own_class_or_takes_a_lower_one_for_part_of_the_charge() {
    let me = submitter_key().account_id();
    let of_class = |number: u8, class| {
        let mut enrolment = enrolment(number, number);
        enrolment.capabilities.caliber = class;
        enrolment
    };
    let mut world = World::new(charter());
    let mut mine = of_class(0, CaliberClass::C1);
    let delegation = node::Delegation { owner: me, node: node_id(0), issued_at: START };
    mine.delegation = Signed::seal(delegation, &submitter_key());
    world.enrol(mine, 0);
    world.enrol(of_class(1, CaliberClass::C0), 1);
    let wish = |class, lower_accepted| {
        let mut work = manifest(vec![stage("only", 1, 1)]);
        work.stages[0].resources.caliber = Some(CaliberWish { class, lower_accepted });
        work.name = format!("{class:?}-{lower_accepted}");
        work
    };
    let (_, refusals) = world.submit(wish(CaliberClass::C0, false));
    assert_eq!(refusals[0].code, "WC-POLICY-017", "without credit there is nothing to redeem");
    earn(&mut world, 0, "earn", &[1_000_000_000]);
    let (_, refusals) = world.submit(wish(CaliberClass::C2, true));
    assert_eq!(refusals[0].code, "WC-POLICY-017", "it gave no such hardware");

    let job = world.run(wish(CaliberClass::C1, false));
    world.want(1, 1);
    assert_eq!(world.take(1), [], "no silent downgrade");
    world.want(0, 1);
    let at = world.take(0)[0];
    world.report(0, world.result(0, at, "x"));
    assert_eq!(
        world.cell.job(&job).expect("known").charged,
        MicroNcu(5),
        "its own class costs the whole price"
    );

    let job = world.run(wish(CaliberClass::C1, true));
    world.want(1, 1);
    let at = world.take(1)[0];
    world.report(1, world.result(1, at, "x"));
    let view = world.cell.job(&job).expect("known");
    assert_eq!(
        (view.charged, view.awarded),
        (MicroNcu(4), MicroNcu(5)),
        "three tenths of 5, rounded down, come back"
    );
    world.check_replay();
}

#[test]
fn a_snapshot_of_another_release_says_so_whatever_is_in_it() {
    // The list of a version and something that is no state of this release.
    for bytes in [&[0x82, 0x01, 0xa0][..], &[0x82, 0x01, 0xa1, 0x61, b'x', 0x05][..]] {
        assert!(matches!(Cell::restore(bytes), Err(wc_cell::RestoreError::Version { version: 1 })));
    }
}
