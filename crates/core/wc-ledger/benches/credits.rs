//! What a million accounts cost, how long a day's decay takes, and how long a donor needs to verify a year.
//!
//! `cargo bench -p wc-ledger --bench credits`
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock; the crate itself does not")]

use std::time::Instant;

use wc_ledger::{
    Audit, Book, Hash, Retained, Tree, award_postings, hash_leaf, inclusion_proof, leaf_bytes, leaf_hash,
};
use wc_types::charter::Economy;
use wc_types::cid::{CODEC_DAG_CBOR, cid_of};
use wc_types::entry::{Entry, EntryKind, Holder, Posting};
use wc_types::receipt::{Spread, Verdict, Vote};
use wc_types::{
    AccountId, CellId, JobId, LeaseId, MicroNcu, NodeId, PartsPerMillion, Timestamp, from_canonical,
    record_cid,
};

const ACCOUNTS: u32 = 1_000_000;
/// Accounts in one entry, as the cell makes them.
const PER_ENTRY: usize = 256;
/// Accounts in one fact, as the cell fades them.
const PER_FACT: usize = 4096;
const CELL: CellId = CellId([1; 32]);
const JOB: JobId = JobId([2; 32]);
const FIRST_DAY: u32 = 20_833;

fn main() {
    accounts_of(1);
    accounts_of(30);
    year();
}

fn account(number: u32) -> AccountId {
    let mut id = [0; 32];
    // Spread over the key space, as keys are.
    id[..4].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
    id[4..8].copy_from_slice(&number.to_be_bytes());
    AccountId(id)
}

fn entry(index: u64, day: u32, kind: EntryKind, postings: Vec<Posting>) -> Entry {
    let at = Timestamp::of_day(day);
    Entry { cell: CELL, index, previous: Some(cid_of(CODEC_DAG_CBOR, b"before")), at, kind, postings }
}

fn accepted(index: u32) -> EntryKind {
    EntryKind::TaskAccepted { job: JOB, stage: 0, index, verdict: cid_of(CODEC_DAG_CBOR, b"verdict") }
}

/// A book in which the job is open.
fn opened() -> Book {
    let mut book = Book::new(Some(Economy::default()));
    let kind = EntryKind::JobAdmitted { job: JOB, manifest: cid_of(CODEC_DAG_CBOR, b"manifest") };
    book.apply(&entry(0, FIRST_DAY, kind, Vec::new())).expect("posts");
    book
}

fn accounts_of(days: u32) {
    let before = resident();
    let mut book = opened();
    let mut tasks = 0..;
    for day in FIRST_DAY..FIRST_DAY + days {
        for first in (0..ACCOUNTS).step_by(PER_ENTRY) {
            let some = first..ACCOUNTS.min(first + PER_ENTRY as u32);
            let mut postings: Vec<Posting> = some
                .map(|number| Posting { holder: Holder::Account(account(number)), amount: 1_000_000 })
                .collect();
            let total = postings.len() as i64 * 1_000_000;
            postings.push(Posting { holder: Holder::Issuance, amount: -total });
            let kind = accepted(tasks.next().expect("endless"));
            book.apply(&entry(0, day, kind, postings)).expect("posts");
        }
    }
    let bytes = (resident() - before) * 1024 / u64::from(ACCOUNTS);
    println!("{ACCOUNTS} accounts that earned on {days} day(s): {bytes} bytes resident each");

    // The day after the floor has let go of everything.
    let (day, retained) = (FIRST_DAY + days + 31, Retained::of_day(45, PartsPerMillion::ONE));
    let (mut after, mut entries, mut worst, mut bytes, mut tree) = (None, 0u64, 0.0f64, 0usize, Tree::new());
    let begun = Instant::now();
    loop {
        let turn = Instant::now();
        let fading = book.fading(after.as_ref(), day, retained, PER_FACT);
        for some in fading.accounts.chunks(PER_ENTRY) {
            let mut postings: Vec<Posting> = some
                .iter()
                .map(|(id, decay, left)| Posting {
                    holder: Holder::Account(*id),
                    amount: -((decay.before.0 - left.0) as i64),
                })
                .collect();
            let total: i64 = postings.iter().map(|posting| -posting.amount).sum();
            postings.push(Posting { holder: Holder::Issuance, amount: total });
            let accounts = some.iter().map(|(_, decay, _)| *decay).collect();
            let kind = EntryKind::CreditDecayed { day, acceleration: PartsPerMillion::ONE, accounts };
            let entry = entry(entries, day, kind, postings);
            book.apply(&entry).expect("posts");
            let leaf = leaf_bytes(&entry);
            bytes += leaf.len();
            tree.push(hash_leaf(&leaf));
            entries += 1;
        }
        worst = worst.max(turn.elapsed().as_secs_f64());
        after = fading.next;
        if after.is_none() {
            break;
        }
    }
    println!(
        "  a day's decay of all of them: {:.2} s, {entries} entries of {} bytes, longest fact {:.1} ms",
        begun.elapsed().as_secs_f64(),
        bytes / entries.max(1) as usize,
        worst * 1e3,
    );
    assert_eq!(book.total(), 0);
    // Kept, so that the next measurement does not live in what this one gave back.
    std::mem::forget(book);
}

/// A year of one donor: 50,000 tasks among a million entries of others, and a decay entry on each day.
fn year() {
    const OWN: u64 = 50_000;
    const OTHERS: u64 = 19;
    let me = account(7);
    let economy = Economy::default();
    let retained = Retained::of_day(economy.half_life_days, PartsPerMillion::ONE);
    let mut book = opened();
    let mut log: Vec<(Entry, Option<Verdict>)> = Vec::new();
    let mut levels: Vec<Vec<Hash>> = vec![Vec::new(); 64];
    let mut tree = Tree::new();
    let mut push = |tree: &mut Tree, leaf: Hash| {
        tree.push_with(leaf, |level, _, hash| levels[usize::from(level)].push(*hash));
    };
    let mut day_before = FIRST_DAY;
    for number in 0..OWN {
        let day = FIRST_DAY + u32::try_from(number * 365 / OWN).expect("a year");
        if day > day_before {
            day_before = day;
            let fading = book.fading(None, day, retained, PER_ENTRY);
            if let Some((_, decay, left)) = fading.accounts.iter().find(|(id, ..)| *id == me) {
                let loss = (decay.before.0 - left.0) as i64;
                // As it stands among 255 others, of whose balances the donor knows nothing.
                let mut others: Vec<AccountId> = (0..255).map(|number| account(1000 + number)).collect();
                others.push(me);
                others.sort();
                let faded =
                    |amount| others.iter().map(move |id| Posting { holder: Holder::Account(*id), amount });
                let mut postings: Vec<Posting> = faded(-loss).collect();
                postings.push(Posting { holder: Holder::Issuance, amount: loss * 256 });
                let kind =
                    |accounts| EntryKind::CreditDecayed { day, acceleration: PartsPerMillion::ONE, accounts };
                let own = vec![
                    Posting { holder: Holder::Account(me), amount: -loss },
                    Posting { holder: Holder::Issuance, amount: loss },
                ];
                book.apply(&entry(tree.size(), day, kind(vec![*decay]), own)).expect("posts");
                let entry = entry(tree.size(), day, kind(vec![*decay; 256]), postings);
                push(&mut tree, leaf_hash(&entry));
                log.push((entry, None));
            }
        }
        let vote = |seat: u8, owner: AccountId| Vote {
            node: NodeId([seat; 32]),
            owner,
            lease: LeaseId(number * 3 + u64::from(seat)),
            outcome: cid_of(CODEC_DAG_CBOR, &[seat]),
            awarded: MicroNcu(1000),
        };
        let verdict = Verdict {
            job: JOB,
            stage: 0,
            index: u32::try_from(number).expect("few"),
            result: cid_of(CODEC_DAG_CBOR, b"result"),
            replicas: 3,
            required: 2,
            agreeing: vec![vote(0, me), vote(1, account(8)), vote(2, account(9))],
            dissenting: vec![],
            spread: Spread { owners: 3, networks: 3, systems: 3 },
            charged: MicroNcu(0),
        };
        let kind = EntryKind::TaskAccepted {
            job: JOB,
            stage: 0,
            index: verdict.index,
            verdict: record_cid(&verdict),
        };
        let entry = entry(tree.size(), day, kind, award_postings(&verdict).expect("small"));
        book.apply(&entry).expect("posts");
        push(&mut tree, leaf_hash(&entry));
        log.push((entry, Some(verdict)));
        for other in 0..OTHERS {
            push(&mut tree, hash_leaf(&(number * OTHERS + other).to_be_bytes()));
        }
    }
    let source = |level: u8, index: u64| levels[usize::from(level)].get(index as usize).copied();
    let begun = Instant::now();
    let rows: Vec<(Vec<u8>, Option<Verdict>, Vec<Hash>)> = log
        .into_iter()
        .map(|(entry, verdict)| {
            let path = inclusion_proof(entry.index, tree.size(), source).expect("all hashes are there");
            (leaf_bytes(&entry), verdict, path)
        })
        .collect();
    let made = begun.elapsed();
    let begun = Instant::now();
    let mut audit =
        Audit::new(me, CELL, Some(economy), (tree.size(), tree.root()), Timestamp(i64::MAX), None);
    for (bytes, verdict, path) in &rows {
        let entry: Entry = from_canonical(bytes).expect("an entry");
        audit.take(&entry, verdict.as_ref(), path).expect("sound");
    }
    let balance = MicroNcu(u64::try_from(book.balance(&Holder::Account(me))).expect("positive"));
    let report = audit.finish(Some(balance)).expect("sound");
    println!(
        "a year of one donor: {} entries ({} decays) in a log of {}, proofs made in {:.2} s, decoded and verified in {:.2} s",
        report.seen.entries,
        report.decays,
        tree.size(),
        made.as_secs_f64(),
        begun.elapsed().as_secs_f64(),
    );
}

/// Returns this process's resident memory in KiB, zero where the system does not say.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
