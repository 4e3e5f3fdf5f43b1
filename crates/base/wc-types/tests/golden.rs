//! The bytes of every kind of ledger entry, as they were first written.
//!
//! A log is read for ever: a change here means that old entries no longer hash to their leaves. The files change only by
//! adding kinds. `UPDATE_EXPECT=1 cargo test -p wc-types --test golden` writes them.

use expect_test::expect_file;
use wc_types::charter::{Charter, Founding};
use wc_types::cid::{CODEC_DAG_CBOR, cid_of};
use wc_types::entry::{Decay, Entry, EntryKind, Holder, JobEnd, Posting, Standing};
use wc_types::{
    AccountId, CellId, Cid, JobId, MicroNcu, NodeId, PartsPerMillion, Timestamp, from_canonical, record_cid,
    to_canonical,
};

const ALICE: AccountId = AccountId([0xa1; 32]);
const BOB: AccountId = AccountId([0xb0; 32]);
const NODE: NodeId = NodeId([0x40; 32]);
const JOB: JobId = JobId([0x10; 32]);

fn cid(name: &str) -> Cid {
    cid_of(CODEC_DAG_CBOR, name.as_bytes())
}

fn entry(index: u64, kind: EntryKind, postings: &[(Holder, i64)]) -> Entry {
    Entry {
        cell: CellId([0xce; 32]),
        index,
        previous: (index > 0).then(|| cid("previous")),
        at: Timestamp(1_800_000_000_000_000),
        kind,
        postings: postings.iter().map(|&(holder, amount)| Posting { holder, amount }).collect(),
    }
}

/// Returns one entry of every kind. The match has no wildcard, so a new kind must be given its bytes here.
fn entries() -> Vec<(&'static str, Entry)> {
    let (alice, bob, reserve) = (Holder::Account(ALICE), Holder::Account(BOB), Holder::Reserve(JOB));
    let all = vec![
        entry(0, EntryKind::CellFounded { founding: cid("founding") }, &[]),
        entry(1, EntryKind::NodeJoined { node: NODE, owner: ALICE, enrolment: cid("enrolment") }, &[]),
        entry(2, EntryKind::NodeStanding { node: NODE, standing: Standing::Good }, &[]),
        entry(3, EntryKind::NodeStanding { node: NODE, standing: Standing::Quarantined }, &[]),
        entry(
            4,
            EntryKind::JobAdmitted { job: JOB, manifest: cid("manifest") },
            &[(alice, -60), (reserve, 60)],
        ),
        entry(
            5,
            EntryKind::TaskAccepted { job: JOB, stage: 1, index: 70_000, verdict: cid("verdict") },
            &[(bob, 50), (Holder::Issuance, -10), (reserve, -40)],
        ),
        entry(6, EntryKind::JobEnded { job: JOB, end: JobEnd::Completed }, &[(alice, 20), (reserve, -20)]),
        entry(7, EntryKind::JobEnded { job: JOB, end: JobEnd::Failed }, &[]),
        entry(8, EntryKind::JobEnded { job: JOB, end: JobEnd::Cancelled }, &[]),
        entry(
            9,
            EntryKind::CreditDecayed {
                day: 20_833,
                acceleration: PartsPerMillion(1_100_000),
                accounts: vec![
                    Decay { before: MicroNcu(1_000_000_000), floor: MicroNcu(0) },
                    Decay { before: MicroNcu(500), floor: MicroNcu(499) },
                ],
            },
            &[(alice, -16_800_000), (bob, -1), (Holder::Issuance, 16_800_001)],
        ),
        entry(
            10,
            EntryKind::CreditReversed {
                node: NODE,
                owner: BOB,
                since: Timestamp(1_799_000_000_000_000),
                tasks: 7,
                unverified: MicroNcu(42),
                shortfall: MicroNcu(2),
            },
            &[(bob, -40), (Holder::Issuance, 40)],
        ),
        entry(11, EntryKind::NodeLeft { node: NODE, owner: BOB, expires_at: None }, &[]),
        entry(
            12,
            EntryKind::NodeLeft {
                node: NODE,
                owner: BOB,
                expires_at: Some(Timestamp(1_815_552_000_000_000)),
            },
            &[],
        ),
        entry(
            13,
            EntryKind::CreditExpired { account: BOB, withdrawn_at: Timestamp(1_800_000_000_000_000) },
            &[(bob, -9), (Holder::PublicGood, 9)],
        ),
        entry(14, EntryKind::SignersChanged { epoch: 1, set: record_cid(&"signers") }, &[]),
        entry(
            15,
            EntryKind::CellMet { parent: CellId([9; 32]), founded_at: Timestamp(1_800_000_000_000_000) },
            &[],
        ),
    ];
    all.into_iter().map(|entry| (name(&entry.kind), entry)).collect()
}

fn name(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::CellFounded { .. } => "cell-founded",
        EntryKind::NodeJoined { .. } => "node-joined",
        EntryKind::NodeStanding { .. } => "node-standing",
        EntryKind::JobAdmitted { .. } => "job-admitted",
        EntryKind::TaskAccepted { .. } => "task-accepted",
        EntryKind::JobEnded { .. } => "job-ended",
        EntryKind::CreditDecayed { .. } => "credit-decayed",
        EntryKind::CreditReversed { .. } => "credit-reversed",
        EntryKind::NodeLeft { .. } => "node-left",
        EntryKind::CreditExpired { .. } => "credit-expired",
        EntryKind::SignersChanged { .. } => "signers-changed",
        EntryKind::CellMet { .. } => "cell-met",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_kind_of_entry_keeps_its_bytes_and_its_cid() {
    let mut text = String::new();
    for (name, entry) in entries() {
        let bytes = to_canonical(&entry);
        assert_eq!(from_canonical::<Entry>(&bytes).as_ref(), Ok(&entry), "{name}");
        assert_eq!(entry.postings.iter().map(|posting| posting.amount).sum::<i64>(), 0, "{name}");
        text += &format!("{name} {}\n{}\n", record_cid(&entry), hex(&bytes));
    }
    expect_file!["golden/entries.txt"].assert_eq(&text);
}

#[test]
fn a_founding_record_keeps_its_bytes_with_and_without_rules_of_credit() {
    let mut text = String::new();
    for (name, charter) in [
        ("default", Charter::default()),
        ("without-economy", Charter { economy: None, ..Charter::default() }),
    ] {
        let founding = Founding {
            network: "worldcompute".into(),
            coordinator: NODE,
            owner: ALICE,
            charter,
            founded_at: Timestamp(1_800_000_000_000_000),
        };
        let bytes = to_canonical(&founding);
        assert_eq!(from_canonical::<Founding>(&bytes).as_ref(), Ok(&founding), "{name}");
        text += &format!("{name} {}\n{}\n", record_cid(&founding), hex(&bytes));
    }
    expect_file!["golden/foundings.txt"].assert_eq(&text);
}
