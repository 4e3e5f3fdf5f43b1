use proptest::prelude::*;
use wc_types::cid::{CODEC_DAG_CBOR, cid_of};
use wc_types::entry::JobEnd;
use wc_types::{CellId, Timestamp, from_canonical, to_canonical};

use super::*;

const ALICE: Holder = Holder::Account(AccountId([1; 32]));
const BOB: Holder = Holder::Account(AccountId([2; 32]));
const JOB: JobId = JobId([9; 32]);

fn accepted() -> EntryKind {
    EntryKind::TaskAccepted { job: JOB, stage: 0, index: 0, verdict: cid_of(CODEC_DAG_CBOR, b"verdict") }
}

fn admitted() -> EntryKind {
    EntryKind::JobAdmitted { job: JOB, manifest: cid_of(CODEC_DAG_CBOR, b"manifest") }
}

fn ended() -> EntryKind {
    EntryKind::JobEnded { job: JOB, end: JobEnd::Completed }
}

fn entry(kind: EntryKind, postings: &[(Holder, i64)]) -> Entry {
    Entry {
        cell: CellId([0; 32]),
        index: 0,
        previous: None,
        at: Timestamp(0),
        kind,
        postings: postings.iter().map(|&(holder, amount)| Posting { holder, amount }).collect(),
    }
}

const EARLIER: JobId = JobId([8; 32]);

fn issued(amount: i64) -> Book {
    let mut book = Book::new(Some(Economy::default()));
    let manifest = cid_of(CODEC_DAG_CBOR, b"manifest");
    book.apply(&entry(EntryKind::JobAdmitted { job: EARLIER, manifest }, &[])).expect("admitted");
    let kind = EntryKind::TaskAccepted { job: EARLIER, stage: 0, index: 0, verdict: manifest };
    book.apply(&entry(kind, &[(Holder::Issuance, -amount), (ALICE, amount)])).expect("issued");
    book
}

/// Whatever a test does not look at.
fn open() -> Book {
    let mut book = issued(10);
    book.apply(&entry(admitted(), &[])).expect("admitted");
    book
}

#[test]
fn credit_moves_and_the_sum_stays_zero() {
    let mut book = issued(100);
    book.apply(&entry(admitted(), &[(ALICE, -60), (Holder::Reserve(JOB), 60)])).expect("set aside");
    book.apply(&entry(accepted(), &[(Holder::Reserve(JOB), -40), (BOB, 40)])).expect("paid");
    book.apply(&entry(ended(), &[(Holder::Reserve(JOB), -20), (ALICE, 20)])).expect("returned");
    assert_eq!(book.balance(&ALICE), 60);
    assert_eq!(book.balance(&BOB), 40);
    assert_eq!(book.balance(&Holder::Issuance), -100);
    assert_eq!(book.balance(&Holder::Reserve(JOB)), 0);
    assert_eq!(book.totals(&AccountId([1; 32])), Totals { balance: 60, earned: 100, spent: 40, lost: 0 });
    assert_eq!(book.totals(&AccountId([2; 32])), Totals { balance: 40, earned: 40, spent: 0, lost: 0 });
    assert_eq!(book.total(), 0);
    assert!(!book.jobs.contains_key(&JOB), "a job that ended is forgotten");
    assert_eq!(book.accounts().count(), 2);
}

#[test]
fn postings_that_do_not_sum_to_zero_are_refused() {
    let mut book = open();
    let before = book.clone();
    let refused = book.apply(&entry(accepted(), &[(Holder::Issuance, -5), (ALICE, 6)]));
    assert_eq!(refused, Err(PostError::Rule(RuleFault::Unbalanced { sum: 1 })));
    assert_eq!(book, before);
}

#[test]
fn nobody_but_the_issuance_goes_below_zero() {
    let mut book = issued(10);
    let before = book.clone();
    let refused = book.apply(&entry(admitted(), &[(ALICE, -11), (Holder::Reserve(JOB), 11)]));
    assert_eq!(refused, Err(PostError::Overdrawn { holder: ALICE, balance: 10, amount: 11 }));
    assert_eq!(book, before, "none of the postings happened");
}

#[test]
fn several_postings_of_one_holder_count_as_their_sum() {
    let mut book = open();
    book.apply(&entry(accepted(), &[(ALICE, -15), (BOB, 5), (ALICE, 15), (Holder::Issuance, -5)]))
        .expect("nets out");
    assert_eq!((book.balance(&ALICE), book.balance(&BOB)), (10, 5));
}

#[test]
fn sums_beyond_sixty_four_bits_are_refused_not_wrapped() {
    let mut book = issued(i64::MAX);
    book.apply(&entry(admitted(), &[])).expect("admitted");
    let before = book.clone();
    let refused = book.apply(&entry(accepted(), &[(Holder::Issuance, -2), (ALICE, 2)]));
    assert_eq!(refused, Err(PostError::Overflow { holder: ALICE }));
    let refused = book.apply(&entry(accepted(), &[(BOB, i64::MAX), (ALICE, i64::MAX), (BOB, i64::MAX)]));
    let sum = 3 * i128::from(i64::MAX);
    assert_eq!(refused, Err(PostError::Rule(RuleFault::Unbalanced { sum })));
    assert_eq!(book, before);
}

#[test]
fn every_refusal_has_its_own_code() {
    let errors = [
        PostError::Rule(RuleFault::Unbalanced { sum: 1 }),
        PostError::Overdrawn { holder: ALICE, balance: 0, amount: 1 },
        PostError::Overflow { holder: ALICE },
    ];
    let names: Vec<&str> = errors.iter().map(|error| error.code().name).collect();
    assert_eq!(names, ["WC-LEDGER-001", "WC-LEDGER-002", "WC-LEDGER-003"]);
}

fn any_holder() -> impl Strategy<Value = Holder> {
    prop_oneof![
        Just(Holder::Issuance),
        (0u8..4).prop_map(|name| Holder::Account(AccountId([name; 32]))),
        (0u8..3).prop_map(|name| Holder::Reserve(JobId([name; 32]))),
    ]
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let postings = prop::collection::vec((any_holder(), -100i64..100), 0..5);
    let kind = prop_oneof![Just(accepted()), Just(admitted()), Just(ended())];
    let any = (postings, kind, any::<bool>()).prop_map(|(mut postings, kind, balanced)| {
        if balanced {
            postings.push((Holder::Issuance, -postings.iter().map(|(_, amount)| amount).sum::<i64>()));
        }
        entry(kind, &postings)
    });
    // What an honest cell would post, so that there is something to go wrong with.
    let person = prop_oneof![Just(ALICE), Just(BOB)];
    let plausible = (person, 1i64..50, 0u8..4).prop_map(|(person, amount, what)| match what {
        0 => entry(admitted(), &[(person, -amount), (Holder::Reserve(JOB), amount)]),
        1 => entry(accepted(), &[(Holder::Reserve(JOB), -amount), (person, amount)]),
        2 => entry(accepted(), &[(Holder::Issuance, -amount), (person, amount)]),
        _ => entry(ended(), &[]),
    });
    prop_oneof![any, plausible]
}

proptest! {
    #[test]
    fn no_history_makes_loses_or_owes_credit(entries in prop::collection::vec(any_entry(), 0..40)) {
        let mut book = issued(100);
        for entry in &entries {
            let before = book.clone();
            if book.apply(entry).is_err() {
                prop_assert_eq!(&book, &before);
            }
            prop_assert_eq!(book.total(), 0);
            prop_assert!(book.balance(&Holder::Issuance) <= 0);
            prop_assert!(book.accounts().all(|(_, totals)| totals.balance >= 0));
        }
        let bytes = to_canonical(&book);
        prop_assert_eq!(from_canonical::<Book>(&bytes).expect("survives its bytes"), book);
    }
}
