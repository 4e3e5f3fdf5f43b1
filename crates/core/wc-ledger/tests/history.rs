//! One donor's history, told truthfully and in every way that it could be told wrongly.

use wc_ledger::{
    Audit, Book, Hash, HistoryFault, Remembered, Retained, Tree, award_postings, inclusion_proof, leaf_hash,
};
use wc_types::charter::Economy;
use wc_types::cid::{CODEC_DAG_CBOR, cid_of};
use wc_types::entry::{Decay, Entry, EntryKind, Holder, JobEnd, Posting, Standing};
use wc_types::receipt::{Spread, Verdict, Vote};
use wc_types::{AccountId, CellId, JobId, LeaseId, MicroNcu, NodeId, PartsPerMillion, Timestamp, record_cid};

const CELL: CellId = CellId([1; 32]);
const ME: AccountId = AccountId([2; 32]);
const OTHER: AccountId = AccountId([3; 32]);
const DAY: u32 = 20_833;

const NOW: Timestamp = Timestamp(i64::MAX);

/// A log, and which of its entries are mine.
#[derive(Clone)]
struct Log {
    book: Book,
    tree: Tree,
    levels: Vec<Vec<Hash>>,
    all: Vec<Line>,
}

#[derive(Clone)]
struct Line {
    entry: Entry,
    verdict: Option<Verdict>,
    mine: bool,
}

impl Log {
    fn new() -> Self {
        let book = Book::new(Some(Economy::default()));
        Self { book, tree: Tree::new(), levels: vec![Vec::new(); 64], all: Vec::new() }
    }

    fn post(&mut self, day: u32, kind: EntryKind, postings: Vec<Posting>, verdict: Option<Verdict>) {
        let entry = self.next(day, kind, postings);
        self.book.apply(&entry).expect("posts");
        self.push(Line { entry, verdict, mine: true });
    }

    /// Posts what concerns nobody's credit.
    fn note(&mut self, day: u32, kind: EntryKind) {
        let entry = self.next(day, kind, vec![]);
        self.book.apply(&entry).expect("posts");
        self.push(Line { entry, verdict: None, mine: false });
    }

    fn next(&self, day: u32, kind: EntryKind, postings: Vec<Posting>) -> Entry {
        let at = Timestamp::of_day(day);
        let previous = Some(cid_of(CODEC_DAG_CBOR, b"before"));
        Entry { cell: CELL, index: self.tree.size(), previous, at, kind, postings }
    }

    /// Puts a line into the log, whatever it says.
    fn push(&mut self, line: Line) {
        let levels = &mut self.levels;
        self.tree.push_with(leaf_hash(&line.entry), |level, _, hash| levels[usize::from(level)].push(*hash));
        self.all.push(line);
    }

    fn mine(&self) -> Vec<(Entry, Option<Verdict>)> {
        let mine = self.all.iter().filter(|line| line.mine);
        mine.map(|line| (line.entry.clone(), line.verdict.clone())).collect()
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

    /// A task that nobody but node 0 has run.
    fn earn_alone(&mut self, day: u32, index: u32, job: JobId) {
        let verdict = Verdict {
            job,
            stage: 1,
            index,
            result: cid_of(CODEC_DAG_CBOR, b"result"),
            replicas: 1,
            required: 1,
            agreeing: vec![Vote {
                node: NodeId([0; 32]),
                owner: ME,
                lease: LeaseId(1000 + u64::from(index)),
                outcome: cid_of(CODEC_DAG_CBOR, b"alone"),
                awarded: MicroNcu(600_000),
            }],
            dissenting: vec![],
            spread: Spread { owners: 1, networks: 1, systems: 1 },
            charged: MicroNcu(0),
        };
        let kind = EntryKind::TaskAccepted { job, stage: 1, index, verdict: record_cid(&verdict) };
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
        for (position, line) in self.all.iter().enumerate() {
            let mut line = line.clone();
            if position == index
                && let Some(change) = change.take()
            {
                change(&mut line.entry);
            }
            log.push(line);
        }
        log.book = self.book.clone();
        log
    }

    /// Puts one more entry of mine behind the others, as a coordinator would that lies from now on.
    fn and(&self, day: u32, kind: EntryKind, postings: &[(Holder, i64)]) -> Self {
        let mut log = self.clone();
        let postings = postings.iter().map(|&(holder, amount)| Posting { holder, amount }).collect();
        let entry = log.next(day, kind, postings);
        log.push(Line { entry, verdict: None, mine: true });
        log
    }

    /// The code under which the donor and a reader of the whole log refuse the last entry.
    fn refused(&self) -> (Option<&'static str>, Option<&'static str>) {
        let mut audit = self.audit(None);
        let mut take = |(entry, verdict): &(Entry, Option<Verdict>)| {
            audit.take(entry, verdict.as_ref(), &self.path(entry.index)).err()
        };
        let fault = self.mine().iter().find_map(&mut take);
        if let Some(fault) = &fault {
            assert_eq!(fault.entry(), Some(self.tree.size() - 1), "{fault:?}");
        }
        let last = &self.all.last().expect("one").entry;
        let refused = self.book.clone().apply(last).err();
        (fault.map(|fault| fault.code().name), refused.map(|fault| fault.code().name))
    }

    fn path(&self, index: u64) -> Vec<Hash> {
        let source = |level: u8, index: u64| self.levels[usize::from(level)].get(index as usize).copied();
        inclusion_proof(index, self.tree.size(), source).expect("all hashes are there")
    }

    fn audit(&self, seen: Option<Remembered>) -> Audit {
        Audit::new(ME, CELL, Some(Economy::default()), (self.tree.size(), self.tree.root()), NOW, seen)
    }

    fn balance(&self) -> MicroNcu {
        MicroNcu(self.book.balance(&Holder::Account(ME)).unsigned_abs())
    }

    fn check(&self, seen: Option<Remembered>) -> Result<wc_ledger::HistoryReport, HistoryFault> {
        let mut audit = self.audit(seen);
        for (entry, verdict) in &self.mine() {
            audit.take(entry, verdict.as_ref(), &self.path(entry.index))?;
        }
        audit.finish(Some(self.balance()))
    }
}

fn reversal(unverified: u64, tasks: u64) -> EntryKind {
    EntryKind::CreditReversed {
        node: NodeId([0; 32]),
        owner: ME,
        since: Timestamp::of_day(DAY + 2),
        tasks,
        unverified: MicroNcu(unverified),
        shortfall: MicroNcu(0),
    }
}

/// Earned, spent in part, refunded, faded, taken back: one of everything.
fn life() -> Log {
    let (job, own) = (JobId([9; 32]), JobId([8; 32]));
    let mut log = Log::new();
    let node = NodeId([0; 32]);
    let enrolment = cid_of(CODEC_DAG_CBOR, b"enrolment");
    log.note(DAY, EntryKind::NodeJoined { node, owner: ME, enrolment });
    log.note(DAY, EntryKind::JobAdmitted { job, manifest: cid_of(CODEC_DAG_CBOR, b"m") });
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
    log.earn_alone(DAY + 2, 0, job);
    log.earn_alone(DAY + 2, 1, job);
    log.note(DAY + 2, EntryKind::NodeStanding { node, standing: Standing::Quarantined });
    log.post(
        DAY + 2,
        reversal(1_200_000, 2),
        vec![
            Posting { holder: Holder::Account(ME), amount: -1_200_000 },
            Posting { holder: Holder::Issuance, amount: 1_200_000 },
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
    assert_eq!(report.seen.entries, log.mine().len() as u64);
    assert_eq!((report.verdicts, report.decays, report.balance), (8, 9, log.balance()));
    assert_eq!(report.depth, 5);
    let mut longer = life();
    longer.earn(DAY + 60, 7, JobId([9; 32]), 0);
    longer.check(Some(report.seen)).expect("the same history goes on");
}

#[test]
fn an_entry_that_was_changed_on_the_way_is_named() {
    let log = life();
    let mine = log.mine();
    for position in 0..mine.len() {
        let mut audit = log.audit(None);
        for (entry, verdict) in &mine[..position] {
            audit.take(entry, verdict.as_ref(), &log.path(entry.index)).expect("untouched");
        }
        let (entry, verdict) = &mine[position];
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
        log.all.iter().position(|line| wanted(&line.entry.kind)).expect("one of everything")
    };
    let earned = place(|kind| matches!(kind, EntryKind::TaskAccepted { .. }));
    let faded = place(|kind| matches!(kind, EntryKind::CreditDecayed { .. }));
    let fault = |index: usize, change: fn(&mut Entry)| {
        let fault = log.rewrite(index, change).check(None).expect_err("a lie");
        (fault.entry(), fault.code().name)
    };
    let at = |index: usize, code| (Some(index as u64), code);
    // Credit from nowhere.
    assert_eq!(fault(earned, |entry| entry.postings[0].amount += 1), at(earned, "WC-LEDGER-001"));
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
    assert_eq!(fault(faded, silent), at(faded, "WC-LEDGER-181"));
    assert_eq!(fault(2, |entry| entry.cell = CellId([7; 32])), at(2, "WC-LEDGER-161"));
    assert_eq!(fault(3, |entry| entry.at = Timestamp::of_day(DAY - 1)), at(3, "WC-LEDGER-164"));
}

#[test]
fn what_is_left_out_shows_in_the_sum_and_what_was_seen_before_must_stay() {
    let log = life();
    let seen = log.check(None).expect("sound").seen;
    let mine = log.mine();
    let without = |skip: usize, seen: Option<Remembered>, claimed: MicroNcu| {
        let mut audit = log.audit(seen);
        for (position, (entry, verdict)) in mine.iter().enumerate() {
            if position != skip {
                audit.take(entry, verdict.as_ref(), &log.path(entry.index))?;
            }
        }
        audit.finish(Some(claimed))
    };
    let last = mine.len() - 1;
    assert!(matches!(without(last, None, log.balance()), Err(HistoryFault::Balance { .. })));
    // Left out together with its amount: nothing but memory notices.
    let lost: i64 = mine[last].0.postings[0].amount;
    let claimed = MicroNcu(log.balance().0 + lost.unsigned_abs());
    without(last, None, claimed).expect("nobody can tell");
    assert!(matches!(without(last, Some(seen), claimed), Err(HistoryFault::Changed { .. })));
    // Out of order, and of somebody else.
    let mut audit = log.audit(None);
    let (entry, verdict) = &mine[1];
    audit.take(entry, verdict.as_ref(), &log.path(3)).expect("sound");
    let (entry, verdict) = &mine[0];
    let again = audit.take(entry, verdict.as_ref(), &log.path(2));
    assert_eq!(again, Err(HistoryFault::OutOfOrder { index: 2, after: 3 }));
    let other = AccountId([77; 32]);
    let mut audit = Audit::new(other, CELL, None, (log.tree.size(), log.tree.root()), NOW, None);
    let stranger = audit.take(entry, verdict.as_ref(), &log.path(2));
    assert_eq!(stranger, Err(HistoryFault::NotMine { index: 2, account: other }));
    let mut audit = log.audit(None);
    assert_eq!(audit.take(entry, None, &log.path(2)), Err(HistoryFault::VerdictMissing { index: 2 }));
}

const MINE: Holder = Holder::Account(ME);
const COWORKER: Holder = Holder::Account(OTHER);

fn decay(log: &Log, named: u32) -> (EntryKind, [(Holder, i64); 2]) {
    let before = log.balance();
    let left = Retained::of_day(45, PartsPerMillion::ONE).above(before, MicroNcu(0));
    let loss = (before.0 - left.0) as i64;
    let accounts = vec![Decay { before, floor: MicroNcu(0) }];
    let kind = EntryKind::CreditDecayed { day: named, acceleration: PartsPerMillion::ONE, accounts };
    (kind, [(MINE, -loss), (Holder::Issuance, loss)])
}

#[test]
fn a_day_fades_once_and_only_when_it_has_come() {
    let log = life();
    // The last day that faded is 39, and all that was earned is old by then.
    for (posted, named) in [(40, 39), (60, 38), (40, 41), (40, 0)] {
        let (kind, postings) = decay(&log, DAY * u32::from(named > 0) + named);
        let refused = log.and(DAY + posted, kind, &postings).refused();
        assert_eq!(refused, (Some("WC-LEDGER-168"), Some("WC-LEDGER-168")), "day {named} on day {posted}");
    }
    let (kind, postings) = decay(&log, DAY + 40);
    assert_eq!(log.and(DAY + 40, kind.clone(), &postings).refused().1, None);
    // A coordinator that dates its entries into the future is stopped by the reader's own clock.
    let ahead = log.and(DAY + 40, kind, &postings);
    let economy = Some(Economy::default());
    let (size, root) = (ahead.tree.size(), ahead.tree.root());
    let mut audit = Audit::new(ME, CELL, economy, (size, root), Timestamp::of_day(DAY + 39), None);
    let faults: Vec<HistoryFault> = ahead
        .mine()
        .iter()
        .filter_map(|(entry, verdict)| audit.take(entry, verdict.as_ref(), &ahead.path(entry.index)).err())
        .collect();
    assert!(matches!(faults[..], [HistoryFault::Time { index, .. }] if index == size - 1), "{faults:?}");
}

#[test]
fn decay_speeds_up_by_the_step_of_the_charter_and_not_at_once() {
    let log = life();
    let (kind, postings) = decay(&log, DAY + 40);
    let EntryKind::CreditDecayed { day, accounts, .. } = kind else { panic!("a decay") };
    let kind = EntryKind::CreditDecayed { day, acceleration: PartsPerMillion(1_200_000), accounts };
    let refused = log.and(DAY + 40, kind, &postings).refused();
    assert_eq!(refused, (Some("WC-LEDGER-168"), Some("WC-LEDGER-168")));
}

#[test]
fn an_entry_that_is_only_a_record_moves_nothing() {
    let log = life();
    let cid = cid_of(CODEC_DAG_CBOR, b"any");
    let node = NodeId([0; 32]);
    let kinds = [
        EntryKind::CellFounded { founding: cid },
        EntryKind::NodeJoined { node, owner: ME, enrolment: cid },
        EntryKind::NodeStanding { node, standing: Standing::Good },
        EntryKind::NodeLeft { node, owner: ME, expires_at: None },
        EntryKind::SignersChanged { epoch: 1, set: cid },
        EntryKind::CellMet { parent: CellId([9; 32]), founded_at: Timestamp(0) },
    ];
    for kind in kinds {
        for back in [Holder::Issuance, COWORKER] {
            let refused = log.and(DAY + 40, kind.clone(), &[(MINE, -5), (back, 5)]).refused();
            assert_eq!(refused, (Some("WC-LEDGER-180"), Some("WC-LEDGER-180")), "{kind:?}");
        }
    }
}

#[test]
fn a_reserve_comes_from_its_submitter_and_goes_back_whole_and_once() {
    let log = life();
    let (job, own) = (JobId([7; 32]), Holder::Reserve(JobId([7; 32])));
    let admitted = || EntryKind::JobAdmitted { job, manifest: cid_of(CODEC_DAG_CBOR, b"m") };
    let ended = |job| EntryKind::JobEnded { job, end: JobEnd::Cancelled };
    let both = |code| (Some(code), Some(code));
    let refused = |kind, postings: &[(Holder, i64)]| log.and(DAY + 40, kind, postings).refused();
    // What is set aside must go to the job.
    assert_eq!(refused(admitted(), &[(MINE, -9), (Holder::Issuance, 9)]), both("WC-LEDGER-181"));
    assert_eq!(refused(admitted(), &[(MINE, -9), (COWORKER, 9)]), both("WC-LEDGER-181"));
    let elsewhere = Holder::Reserve(JobId([6; 32]));
    assert_eq!(refused(admitted(), &[(MINE, -9), (elsewhere, 9)]), both("WC-LEDGER-181"));
    // The job of my life has ended: it does not end again, and is not admitted with what was never there.
    assert_eq!(
        refused(ended(JobId([8; 32])), &[(MINE, 1), (Holder::Reserve(JobId([8; 32])), -1)]),
        both("WC-LEDGER-183")
    );
    assert_eq!(refused(ended(JobId([8; 32])), &[]).1, Some("WC-LEDGER-183"));

    let mut log = life();
    let kind = admitted();
    log.post(
        DAY + 40,
        kind,
        vec![Posting { holder: MINE, amount: -900 }, Posting { holder: own, amount: 900 }],
        None,
    );
    let refused = |kind, postings: &[(Holder, i64)]| log.and(DAY + 40, kind, postings).refused();
    assert_eq!(refused(admitted(), &[(MINE, -9), (own, 9)]), both("WC-LEDGER-183"), "twice");
    assert_eq!(refused(ended(job), &[(MINE, 899), (own, -899)]), both("WC-LEDGER-183"), "not all of it");
    assert_eq!(refused(ended(job), &[]).1, Some("WC-LEDGER-183"), "nothing of it");
    assert_eq!(refused(ended(job), &[(COWORKER, 900), (own, -900)]), both("WC-LEDGER-183"), "another's");
    let shared = [(MINE, 450), (COWORKER, 450), (own, -900)];
    assert_eq!(refused(ended(job), &shared), both("WC-LEDGER-181"));
    assert_eq!(refused(ended(job), &[(MINE, 900), (own, -900)]), (None, None));
}

#[test]
fn a_task_is_paid_once_and_a_job_that_has_ended_does_not_begin_anew() {
    let job = JobId([9; 32]);
    // The same verdict again, and another one about the same task.
    for (index, changed) in [(0, false), (4, false), (2, true)] {
        let mut log = life();
        log.earn(DAY + 40, 9, job, 0);
        let paid = |line: &&Line| matches!(line.entry.kind, EntryKind::TaskAccepted { job: of, stage: 0, index: at, .. } if of == job && at == index);
        let mut verdict = log.all.iter().find(paid).and_then(|line| line.verdict.clone()).expect("one");
        if changed {
            verdict.agreeing[0].lease = LeaseId(77_777);
            verdict.agreeing.swap(0, 1);
        }
        let kind = EntryKind::TaskAccepted { job, stage: 0, index, verdict: record_cid(&verdict) };
        let entry = log.next(DAY + 40, kind, award_postings(&verdict).expect("small"));
        log.push(Line { entry, verdict: Some(verdict), mine: true });
        assert_eq!(log.refused(), (Some("WC-LEDGER-183"), Some("WC-LEDGER-183")), "task {index}, {changed}");
    }
    // A submitter is not charged twice for one task.
    let (own, reserve) = (JobId([7; 32]), Holder::Reserve(JobId([7; 32])));
    let mut log = life();
    let set_aside = vec![Posting { holder: MINE, amount: -900 }, Posting { holder: reserve, amount: 900 }];
    let admitted = |job| EntryKind::JobAdmitted { job, manifest: cid_of(CODEC_DAG_CBOR, b"m") };
    log.post(DAY + 40, admitted(own), set_aside.clone(), None);
    log.earn(DAY + 40, 0, own, 300);
    let line = log.all.last().expect("one").clone();
    let entry = log.next(DAY + 40, line.entry.kind, line.entry.postings);
    log.push(Line { entry, ..line });
    assert_eq!(log.refused(), (Some("WC-LEDGER-183"), Some("WC-LEDGER-183")), "charged twice");
    // Nor does a job begin anew after its end, with its tasks to be paid again.
    let again = [(MINE, -9), (Holder::Reserve(JobId([8; 32])), 9)];
    let refused = life().and(DAY + 40, admitted(JobId([8; 32])), &again).refused();
    assert_eq!(refused, (Some("WC-LEDGER-183"), Some("WC-LEDGER-183")));
}

#[test]
fn a_conviction_takes_what_was_earned_unchecked_from_the_convicted_and_from_nobody_else() {
    let mut log = life();
    log.earn_alone(DAY + 50, 2, JobId([9; 32]));
    let there = log.balance().0 as i64;
    let both = |code| (Some(code), Some(code));
    let since = Timestamp::of_day(DAY + 50);
    let kind = |unverified: u64, tasks, shortfall| EntryKind::CreditReversed {
        node: NodeId([0; 32]),
        owner: ME,
        since,
        tasks,
        unverified: MicroNcu(unverified),
        shortfall: MicroNcu(shortfall),
    };
    let refused = |kind, postings: &[(Holder, i64)]| log.and(DAY + 50, kind, postings).refused();
    let sound = [(MINE, -600_000), (Holder::Issuance, 600_000)];
    assert_eq!(refused(kind(600_000, 1, 0), &sound), (None, None));
    // A co-worker pays, or gains.
    let coworker = [(COWORKER, -600_000), (Holder::Issuance, 600_000)];
    assert_eq!(refused(kind(600_000, 1, 0), &coworker), both("WC-LEDGER-181"));
    assert_eq!(refused(kind(600_000, 1, 0), &[(MINE, -600_000), (COWORKER, 600_000)]), both("WC-LEDGER-181"));
    // More than it says; more than there is; less than there is.
    assert_eq!(refused(kind(599_999, 1, 0), &sound), both("WC-LEDGER-184"));
    assert_eq!(refused(kind(600_001, 1, 1), &sound), both("WC-LEDGER-184"));
    // More than the verdicts show: only who sees them can tell. More than was ever earned: everybody.
    let more = [(MINE, -600_001), (Holder::Issuance, 600_001)];
    assert_eq!(refused(kind(600_001, 1, 0), &more), (Some("WC-LEDGER-184"), None));
    assert_eq!(refused(kind(600_000, 2, 0), &sound), (Some("WC-LEDGER-184"), None));
    let all = [(MINE, -there), (Holder::Issuance, there)];
    let invented = 1 << 50;
    assert_eq!(refused(kind(invented, 1, invented - there as u64), &all), both("WC-LEDGER-184"));
    // A machine that was never convicted, or never worked for this owner.
    let innocent = EntryKind::CreditReversed {
        node: NodeId([1; 32]),
        owner: ME,
        since,
        tasks: 1,
        unverified: MicroNcu(600_000),
        shortfall: MicroNcu(0),
    };
    assert_eq!(refused(innocent, &sound), both("WC-LEDGER-184"));
    log.note(DAY + 50, EntryKind::NodeStanding { node: NodeId([0; 32]), standing: Standing::Good });
    let forgiven = log.and(DAY + 50, kind(600_000, 1, 0), &sound).refused();
    assert_eq!(forgiven.1, Some("WC-LEDGER-184"), "it is not quarantined any more");
}

#[test]
fn credit_expires_whole_half_a_year_after_its_owner_left_and_goes_to_the_public_good() {
    let mut log = life();
    let gone = Timestamp::of_day(DAY + 40);
    let expired = |withdrawn_at| EntryKind::CreditExpired { account: ME, withdrawn_at };
    let both = |code| (Some(code), Some(code));
    let all = log.balance().0 as i64;
    let whole = [(MINE, -all), (Holder::PublicGood, all)];
    let present = log.and(DAY + 220, expired(gone), &whole).refused();
    assert_eq!(present, (None, Some("WC-LEDGER-185")), "its owner is still there");
    let node = NodeId([0; 32]);
    let wrong = EntryKind::NodeLeft { node, owner: ME, expires_at: Some(Timestamp::of_day(DAY + 41)) };
    let wrong = log.next(DAY + 40, wrong, vec![]);
    assert_eq!(log.book.clone().apply(&wrong).expect_err("too soon").code().name, "WC-LEDGER-186");
    let expires_at = Some(Timestamp::of_day(DAY + 220));
    // With another machine there, the owner has not left; with none, it has; and nobody leaves twice.
    let (mut two, second) = (log.clone(), NodeId([7; 32]));
    two.note(
        DAY + 40,
        EntryKind::NodeJoined { node: second, owner: ME, enrolment: cid_of(CODEC_DAG_CBOR, b"e") },
    );
    let refused = |log: &Log, node, expires_at| {
        let entry = log.next(DAY + 40, EntryKind::NodeLeft { node, owner: ME, expires_at }, vec![]);
        log.book.clone().apply(&entry).err().map(|fault| fault.code().name)
    };
    assert_eq!(refused(&two, node, expires_at), Some("WC-LEDGER-186"));
    assert_eq!(refused(&two, node, None), None);
    two.note(DAY + 40, EntryKind::NodeLeft { node, owner: ME, expires_at: None });
    assert_eq!(refused(&two, node, None), Some("WC-LEDGER-186"));
    assert_eq!(refused(&two, second, None), Some("WC-LEDGER-186"));
    two.note(
        DAY + 40,
        EntryKind::NodeJoined { node: second, owner: OTHER, enrolment: cid_of(CODEC_DAG_CBOR, b"e") },
    );
    assert_eq!(refused(&two, second, expires_at), Some("WC-LEDGER-186"), "it is another's now");
    log.note(DAY + 40, EntryKind::NodeLeft { node, owner: ME, expires_at });
    let refused = |day, at, postings: &[(Holder, i64)]| log.and(day, expired(at), postings).refused();
    assert_eq!(refused(DAY + 220, gone, &whole), (None, None));
    assert_eq!(refused(DAY + 219, gone, &whole), both("WC-LEDGER-185"));
    let earlier = Timestamp::of_day(DAY + 39);
    assert_eq!(refused(DAY + 219, earlier, &whole), (None, Some("WC-LEDGER-185")));
    let part = [(MINE, -1), (Holder::PublicGood, 1)];
    assert_eq!(refused(DAY + 220, gone, &part), both("WC-LEDGER-185"));
    assert_eq!(refused(DAY + 220, gone, &[(MINE, -all), (COWORKER, all)]), both("WC-LEDGER-181"));
    assert_eq!(refused(DAY + 220, gone, &[(MINE, -all), (Holder::Issuance, all)]), both("WC-LEDGER-181"));
    log.note(DAY + 100, EntryKind::NodeJoined { node, owner: ME, enrolment: cid_of(CODEC_DAG_CBOR, b"e") });
    let back = log.and(DAY + 220, expired(gone), &whole).refused();
    assert_eq!(back.1, Some("WC-LEDGER-185"), "who comes back keeps it");
}

#[test]
fn a_task_is_paid_by_its_own_open_job_and_the_issuance() {
    let log = life();
    let cid = cid_of(CODEC_DAG_CBOR, b"verdict");
    let accepted = |job| EntryKind::TaskAccepted { job, stage: 0, index: 9, verdict: cid };
    let refused = |job, postings: &[(Holder, i64)]| log.and(DAY + 40, accepted(job), postings).refused();
    let job = JobId([9; 32]);
    let both = |code| (Some(code), Some(code));
    assert_eq!(refused(job, &[(MINE, 5), (COWORKER, -5)]), both("WC-LEDGER-181"), "a co-worker pays");
    assert_eq!(refused(job, &[(MINE, -5), (Holder::Issuance, 5)]), both("WC-LEDGER-181"), "I pay");
    assert_eq!(refused(job, &[(MINE, 5), (Holder::PublicGood, -5)]), both("WC-LEDGER-181"));
    let other = Holder::Reserve(JobId([8; 32]));
    assert_eq!(refused(job, &[(MINE, 5), (other, -5)]), both("WC-LEDGER-181"), "another job pays");
    let unknown = refused(JobId([8; 32]), &[(MINE, 5), (Holder::Issuance, -5)]);
    assert_eq!(unknown.1, Some("WC-LEDGER-183"), "a job that has ended");
}
