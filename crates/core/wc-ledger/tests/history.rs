//! One donor's history, told truthfully and in every way that it could be told wrongly.

use wc_ledger::{
    Audit, Book, Hash, HistoryFault, Remembered, Retained, Tree, award_postings, inclusion_proof, leaf_hash,
};
use wc_types::charter::Economy;
use wc_types::cid::{CODEC_DAG_CBOR, cid_of};
use wc_types::entry::{Decay, Entry, EntryKind, Holder, JobEnd, Posting};
use wc_types::receipt::{Spread, Verdict, Vote};
use wc_types::{AccountId, CellId, JobId, LeaseId, MicroNcu, NodeId, PartsPerMillion, Timestamp, record_cid};

const CELL: CellId = CellId([1; 32]);
const ME: AccountId = AccountId([2; 32]);
const OTHER: AccountId = AccountId([3; 32]);
const DAY: u32 = 20_833;

/// A log, and which of its entries are mine.
struct Log {
    book: Book,
    tree: Tree,
    levels: Vec<Vec<Hash>>,
    mine: Vec<(Entry, Option<Verdict>)>,
}

impl Log {
    fn new() -> Self {
        Self { book: Book::new(), tree: Tree::new(), levels: vec![Vec::new(); 64], mine: Vec::new() }
    }

    fn post(&mut self, day: u32, kind: EntryKind, postings: Vec<Posting>, verdict: Option<Verdict>) {
        let at = Timestamp::of_day(day);
        let previous = Some(cid_of(CODEC_DAG_CBOR, b"before"));
        let entry = Entry { cell: CELL, index: self.tree.size(), previous, at, kind, postings };
        self.book.apply(&entry).expect("posts");
        let levels = &mut self.levels;
        self.tree.push_with(leaf_hash(&entry), |level, _, hash| levels[usize::from(level)].push(*hash));
        self.mine.push((entry, verdict));
    }

    fn earn(&mut self, day: u32, index: u32, job: JobId, charged: u64) {
        let vote = |seat: u8, owner: AccountId| Vote {
            node: NodeId([seat; 32]),
            owner,
            lease: LeaseId(u64::from(index) * 2 + u64::from(seat)),
            outcome: cid_of(CODEC_DAG_CBOR, &[seat]),
            awarded: MicroNcu(1_000_000),
        };
        let verdict = Verdict {
            job,
            stage: 0,
            index,
            result: cid_of(CODEC_DAG_CBOR, b"result"),
            replicas: 3,
            required: 2,
            agreeing: vec![vote(0, ME), vote(1, OTHER)],
            dissenting: vec![],
            spread: Spread { owners: 2, networks: 2, systems: 2 },
            charged: MicroNcu(charged),
        };
        let kind = EntryKind::TaskAccepted { job, stage: 0, index, verdict: record_cid(&verdict) };
        self.post(day, kind, award_postings(&verdict).expect("small"), Some(verdict));
    }

    fn fade(&mut self, day: u32) {
        let retained = Retained::of_day(45, PartsPerMillion::ONE);
        let fading = self.book.fading(None, day, retained, 10);
        let mut postings: Vec<Posting> = fading
            .accounts
            .iter()
            .map(|(id, decay, left)| Posting {
                holder: Holder::Account(*id),
                amount: -((decay.before.0 - left.0) as i64),
            })
            .collect();
        let back = postings.iter().map(|posting| -posting.amount).sum();
        postings.push(Posting { holder: Holder::Issuance, amount: back });
        let accounts: Vec<Decay> = fading.accounts.iter().map(|(_, decay, _)| *decay).collect();
        let kind = EntryKind::CreditDecayed { day, acceleration: PartsPerMillion::ONE, accounts };
        self.post(day, kind, postings, None);
    }

    /// Puts a changed entry into the log, as a coordinator would that lies from the beginning.
    fn rewrite(&self, index: usize, change: impl FnOnce(&mut Entry)) -> Self {
        let mut log = Self::new();
        let mut change = Some(change);
        for (position, (entry, verdict)) in self.mine.iter().enumerate() {
            let mut entry = entry.clone();
            if position == index
                && let Some(change) = change.take()
            {
                change(&mut entry);
            }
            let levels = &mut log.levels;
            log.tree.push_with(leaf_hash(&entry), |level, _, hash| levels[usize::from(level)].push(*hash));
            log.mine.push((entry, verdict.clone()));
        }
        log.book = self.book.clone();
        log
    }

    fn path(&self, index: u64) -> Vec<Hash> {
        let source = |level: u8, index: u64| self.levels[usize::from(level)].get(index as usize).copied();
        inclusion_proof(index, self.tree.size(), source).expect("all hashes are there")
    }

    fn audit(&self, seen: Option<Remembered>) -> Audit {
        Audit::new(ME, CELL, Some(Economy::default()), (self.tree.size(), self.tree.root()), seen)
    }

    fn balance(&self) -> MicroNcu {
        MicroNcu(self.book.balance(&Holder::Account(ME)).unsigned_abs())
    }

    fn check(&self, seen: Option<Remembered>) -> Result<wc_ledger::HistoryReport, HistoryFault> {
        let mut audit = self.audit(seen);
        for (entry, verdict) in &self.mine {
            audit.take(entry, verdict.as_ref(), &self.path(entry.index))?;
        }
        audit.finish(self.balance())
    }
}

/// Earned, spent in part, refunded, faded, taken back: one of everything.
fn life() -> Log {
    let (job, own) = (JobId([9; 32]), JobId([8; 32]));
    let mut log = Log::new();
    for index in 0..5 {
        log.earn(DAY, index, job, 0);
    }
    let reserve = Holder::Reserve(own);
    log.post(
        DAY + 1,
        EntryKind::JobAdmitted { job: own, manifest: cid_of(CODEC_DAG_CBOR, b"m") },
        vec![Posting { holder: Holder::Account(ME), amount: -700 }, Posting { holder: reserve, amount: 700 }],
        None,
    );
    log.earn(DAY + 1, 0, own, 300);
    log.post(
        DAY + 1,
        EntryKind::JobEnded { job: own, end: JobEnd::Completed },
        vec![Posting { holder: Holder::Account(ME), amount: 400 }, Posting { holder: reserve, amount: -400 }],
        None,
    );
    log.post(
        DAY + 2,
        EntryKind::CreditReversed {
            node: NodeId([0; 32]),
            owner: ME,
            since: Timestamp::of_day(DAY),
            tasks: 1,
            unverified: MicroNcu(1_000_000),
            shortfall: MicroNcu(0),
        },
        vec![
            Posting { holder: Holder::Account(ME), amount: -1_000_000 },
            Posting { holder: Holder::Issuance, amount: 1_000_000 },
        ],
        None,
    );
    for day in 31..40 {
        log.fade(DAY + day);
    }
    log
}

#[test]
fn a_true_history_adds_up_and_is_remembered() {
    let log = life();
    let report = log.check(None).expect("sound");
    assert_eq!(report.seen.entries, log.mine.len() as u64);
    assert_eq!((report.verdicts, report.decays, report.balance), (6, 9, log.balance()));
    assert_eq!(report.depth, 5);
    let mut longer = life();
    longer.earn(DAY + 60, 7, JobId([9; 32]), 0);
    longer.check(Some(report.seen)).expect("the same history goes on");
}

#[test]
fn an_entry_that_was_changed_on_the_way_is_named() {
    let log = life();
    for position in 0..log.mine.len() {
        let mut audit = log.audit(None);
        for (entry, verdict) in &log.mine[..position] {
            audit.take(entry, verdict.as_ref(), &log.path(entry.index)).expect("untouched");
        }
        let (entry, verdict) = &log.mine[position];
        let mut forged = entry.clone();
        forged.postings[0].amount += 1;
        let fault = audit.take(&forged, verdict.as_ref(), &log.path(entry.index)).expect_err("forged");
        assert_eq!((fault.entry(), fault.code().name), (Some(entry.index), "WC-LEDGER-160"));
        let mut path = log.path(entry.index);
        path[0][3] ^= 1;
        let fault = audit.take(entry, verdict.as_ref(), &path).expect_err("another path");
        assert_eq!(fault.entry(), Some(entry.index));
    }
}

#[test]
fn a_coordinator_that_lies_from_the_beginning_is_found_out_where_its_numbers_are_wrong() {
    let log = life();
    let place = |wanted: fn(&EntryKind) -> bool| {
        log.mine.iter().position(|(entry, _)| wanted(&entry.kind)).expect("one of everything")
    };
    let earned = place(|kind| matches!(kind, EntryKind::TaskAccepted { .. }));
    let faded = place(|kind| matches!(kind, EntryKind::CreditDecayed { .. }));
    let fault = |index: usize, change: fn(&mut Entry)| {
        let fault = log.rewrite(index, change).check(None).expect_err("a lie");
        (fault.entry(), fault.code().name)
    };
    let at = |index: usize, code| (Some(index as u64), code);
    // Credit from nowhere.
    assert_eq!(fault(earned, |entry| entry.postings[0].amount += 1), at(earned, "WC-LEDGER-164"));
    // Another award than the verdict's.
    let other_award = |entry: &mut Entry| {
        entry.postings[0].amount -= 1;
        entry.postings[1].amount += 1;
    };
    assert_eq!(fault(earned, other_award), at(earned, "WC-LEDGER-167"));
    // Decay that takes more than it may, from another balance, above another floor, or faster than allowed.
    let more = |entry: &mut Entry| {
        entry.postings[0].amount -= 1;
        entry.postings[2].amount += 1;
    };
    assert_eq!(fault(faded, more), at(faded, "WC-LEDGER-168"));
    let decay = |entry: &mut Entry, change: fn(&mut PartsPerMillion, &mut Decay)| {
        if let EntryKind::CreditDecayed { acceleration, accounts, .. } = &mut entry.kind {
            change(acceleration, &mut accounts[0]);
        }
    };
    let changes: [fn(&mut PartsPerMillion, &mut Decay); 4] = [
        |_, row| row.before.0 += 1,
        |_, row| row.floor.0 += 1,
        |speed, _| speed.0 = 2_000_001,
        |speed, _| speed.0 = 999_999,
    ];
    for change in changes {
        let forged = log.rewrite(faded, |entry| decay(entry, change));
        let fault = forged.check(None).expect_err("a lie");
        assert_eq!((fault.entry(), fault.code().name), at(faded, "WC-LEDGER-168"), "{fault}");
    }
    let silent = |entry: &mut Entry| {
        if let EntryKind::CreditDecayed { accounts, .. } = &mut entry.kind {
            accounts.clear();
        }
    };
    assert_eq!(fault(faded, silent), at(faded, "WC-LEDGER-168"));
    assert_eq!(fault(2, |entry| entry.cell = CellId([7; 32])), at(2, "WC-LEDGER-161"));
}

#[test]
fn what_is_left_out_shows_in_the_sum_and_what_was_seen_before_must_stay() {
    let log = life();
    let seen = log.check(None).expect("sound").seen;
    let without = |skip: usize, seen: Option<Remembered>, claimed: MicroNcu| {
        let mut audit = log.audit(seen);
        for (position, (entry, verdict)) in log.mine.iter().enumerate() {
            if position != skip {
                audit.take(entry, verdict.as_ref(), &log.path(entry.index))?;
            }
        }
        audit.finish(claimed)
    };
    let last = log.mine.len() - 1;
    assert!(matches!(without(last, None, log.balance()), Err(HistoryFault::Balance { .. })));
    // Left out together with its amount: nothing but memory notices.
    let lost: i64 = log.mine[last].0.postings[0].amount;
    let claimed = MicroNcu(log.balance().0 + lost.unsigned_abs());
    without(last, None, claimed).expect("nobody can tell");
    assert!(matches!(without(last, Some(seen), claimed), Err(HistoryFault::Changed { .. })));
    // Out of order, and of somebody else.
    let mut audit = log.audit(None);
    let (entry, verdict) = &log.mine[1];
    audit.take(entry, verdict.as_ref(), &log.path(1)).expect("sound");
    let (entry, verdict) = &log.mine[0];
    let again = audit.take(entry, verdict.as_ref(), &log.path(0));
    assert_eq!(again, Err(HistoryFault::OutOfOrder { index: 0, after: 1 }));
    let other = AccountId([77; 32]);
    let mut audit = Audit::new(other, CELL, None, (log.tree.size(), log.tree.root()), None);
    let stranger = audit.take(entry, verdict.as_ref(), &log.path(0));
    assert_eq!(stranger, Err(HistoryFault::NotMine { index: 0, account: other }));
    let mut audit = log.audit(None);
    assert_eq!(audit.take(entry, None, &log.path(0)), Err(HistoryFault::VerdictMissing { index: 0 }));
}
