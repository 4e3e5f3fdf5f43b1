//! Receipts end to end: what is issued verifies, and nothing else does.

#[path = "fixture/cell.rs"]
mod cell;
#[path = "fixture/group.rs"]
mod group;
#[path = "fixture/handover.rs"]
mod handover;

use cell::{Accepted, Cell, accepts, key, result};
use group::together;
use handover::handed_over;
use proptest::prelude::*;
use wc_ledger::{
    Anchors, Checkpoint, Note, ReceiptFault, ReceiptParts, Seen, VerdictFault, WitnessFault, award_postings,
    check_signers, cosign, decode_receipt, issue, origin, verify_receipt,
};
use wc_types::entry::{Entry, EntryKind, Holder, Posting};
use wc_types::outcome::{Ending, Failure, Outcome};
use wc_types::receipt::{Receipt, ReceiptFile, Verdict};
use wc_types::{AccountId, CellId, LeaseId, MicroNcu, Signed, from_canonical, record_cid, to_canonical};

/// A cell with some history, and a receipt file of a task that two of three agreed on.
fn two_of_three() -> (Cell, ReceiptFile) {
    let mut cell = Cell::found();
    cell.pad(4);
    let accepted = cell.accept(3, "ABA", 20, 15);
    cell.pad(6);
    let file = cell.file(accepted);
    (cell, file)
}

fn code_of(file: &ReceiptFile) -> &'static str {
    verify_receipt(file, &Anchors::default()).expect_err("must not verify").code().name
}

/// Signs the receipt again after `change`, as a coordinator that lies would.
fn resealed(cell: &Cell, file: &ReceiptFile, change: impl FnOnce(&mut Receipt)) -> ReceiptFile {
    let mut receipt = (*file.receipt).clone();
    change(&mut receipt);
    ReceiptFile { receipt: Signed::seal(receipt, &cell.coordinator), ..file.clone() }
}

/// Puts a changed verdict on the ledger as it is, without any of the checks of an honest coordinator.
fn forced(
    change: impl FnOnce(&Cell, &mut Verdict, &mut Vec<Signed<Outcome>>, &mut Vec<Posting>),
) -> ReceiptFile {
    let mut cell = Cell::found();
    let (mut verdict, mut outcomes) = cell.verdict(3, "ABA", 20, 0);
    let mut postings = award_postings(&verdict).expect("small amounts");
    change(&cell, &mut verdict, &mut outcomes, &mut postings);
    cell.admit(0);
    let entry = cell.append(accepts(&verdict), postings);
    let receipt = Receipt {
        cell: cell.id(),
        manifest: result(b'M'),
        verdict,
        entry: record_cid(&entry),
        issued_at: wc_types::Timestamp(0),
    };
    cell.file(Accepted { receipt, outcomes, entry })
}

/// Signs the outcome of node `name` again after `change` and lets its vote name it.
fn reworded(
    name: u8,
    verdict: &mut Verdict,
    outcomes: &mut [Signed<Outcome>],
    change: impl FnOnce(&mut Outcome),
) {
    let lease = LeaseId(u64::from(name));
    let outcome = outcomes.iter_mut().find(|outcome| outcome.lease == lease).expect("voted");
    let mut said = (**outcome).clone();
    change(&mut said);
    *outcome = Signed::seal(said, &key(name));
    let vote = verdict.agreeing.iter_mut().chain(&mut verdict.dissenting).find(|vote| vote.lease == lease);
    vote.expect("voted").outcome = outcome.cid();
}

#[test]
fn an_issued_receipt_verifies_from_its_bytes_alone() {
    let (cell, file) = two_of_three();
    let bytes = to_canonical(&file);
    let copy = decode_receipt(&bytes).expect("decodes");
    assert_eq!(copy, file);
    let report = verify_receipt(&copy, &Anchors::default()).expect("verifies");
    assert_eq!(report.cell, cell.id());
    assert_eq!(report.result, result(b'A'));
    assert_eq!((report.replicas, report.required, report.agreeing, report.dissenting), (3, 2, 2, 1));
    assert_eq!((report.charged, report.awarded), (MicroNcu(15), 40));
    assert_eq!((report.entry_index, report.tree_size), (8, 15));
    assert!(report.success);
    let names: Vec<&str> = report.steps.iter().map(|step| step.name).collect();
    assert_eq!(names, ["founding", "receipt", "votes", "quorum", "credit", "checkpoint", "inclusion"]);
    assert_eq!(report.assumed.len(), 7);
    assert!(report.assumed.iter().any(|assumed| assumed.contains("that manifest is the coordinator's word")));
    assert_eq!(
        report.steps[4].proved,
        "ledger entry 8 names this verdict, sums to zero and pays 40 µNCU for it, 15 of them the submitter's: \
         the same to all who agreed, and no more than the charter allows for the least that they reported"
    );
}

#[test]
fn receipts_of_every_size_of_quorum_verify() {
    for (replicas, letters) in
        [(1, "A"), (2, "AA"), (3, "AA"), (3, "AAA"), (3, "BAA"), (5, "AABAB"), (7, "AAAABCD")]
    {
        for charged in [0, 1, 7] {
            let mut cell = Cell::found();
            let accepted = cell.accept(replicas, letters, 7, charged);
            let report = verify_receipt(&cell.file(accepted), &Anchors::default()).expect("verifies");
            assert_eq!(report.agreeing + report.dissenting, letters.len(), "{letters}");
            assert_eq!(cell.book.total(), 0);
            assert_eq!(cell.book.balance(&Holder::Reserve(cell::JOB)), 0);
        }
    }
}

#[test]
fn a_receipt_verifies_under_every_later_checkpoint() {
    let mut cell = Cell::found();
    let accepted = cell.accept(3, "AA", 1, 0);
    let mut file = cell.file(accepted);
    for _ in 0..40 {
        cell.pad(1);
        file.inclusion = cell.inclusion(&file.entry);
        verify_receipt(&file, &Anchors::default()).expect("verifies");
    }
}

#[test]
fn a_known_cell_is_accepted_and_a_strange_one_is_not() {
    let (cell, file) = two_of_three();
    let known = Anchors { cells: [CellId([1; 32]), cell.id()].into(), seen: None };
    let report = verify_receipt(&file, &known).expect("verifies");
    assert_eq!(report.assumed.len(), 6);
    let others = Anchors { cells: [CellId([1; 32])].into(), seen: None };
    let fault = verify_receipt(&file, &others).expect_err("refused");
    assert_eq!(fault, ReceiptFault::CellUnknown { cell: cell.id() });
    assert_eq!(fault.code().name, "WC-LEDGER-062");
}

#[test]
fn a_checkpoint_seen_before_must_be_of_the_same_history() {
    let (mut cell, file) = two_of_three();
    let with = |checkpoint: Checkpoint, consistency| Anchors {
        seen: Some(Seen { checkpoint, consistency }),
        ..Anchors::default()
    };
    let same = cell.checkpoint();
    let report = verify_receipt(&file, &with(same.clone(), vec![])).expect("the very same checkpoint");
    assert_eq!(report.steps.last().map(|step| step.name), Some("history"));

    // Seen earlier: the log of the receipt goes on from it.
    let earlier = Checkpoint::new(&cell.id(), 3, {
        let mut young = Cell::found();
        young.pad(2);
        young.tree.root()
    });
    let proof = cell.consistency(3);
    verify_receipt(&file, &with(earlier.clone(), proof.clone())).expect("an earlier checkpoint");

    // Seen later: it goes on from the log of the receipt.
    cell.pad(20);
    verify_receipt(&file, &with(cell.checkpoint(), cell.consistency(file.inclusion.tree_size)))
        .expect("a later one");

    let rewritten = Checkpoint { root: [9; 32], ..same };
    let fault = verify_receipt(&file, &with(rewritten, vec![])).expect_err("refused");
    assert_eq!(fault.code().name, "WC-LEDGER-075");
    let fault =
        verify_receipt(&file, &with(Checkpoint { root: [9; 32], ..earlier }, proof)).expect_err("refused");
    assert_eq!(fault.code().name, "WC-LEDGER-075");
    let elsewhere = Checkpoint::new(&CellId([1; 32]), 3, [9; 32]);
    assert_eq!(
        verify_receipt(&file, &with(elsewhere, vec![])).expect_err("refused").code().name,
        "WC-LEDGER-074"
    );
}

#[test]
fn a_stranger_cannot_sign_in_the_place_of_the_coordinator() {
    let (cell, file) = two_of_three();
    let stranger = key(77);
    let founding = Signed::seal((*file.founding).clone(), &stranger);
    assert_eq!(code_of(&ReceiptFile { founding, ..file.clone() }), "WC-LEDGER-061");
    let receipt = Signed::seal((*file.receipt).clone(), &stranger);
    assert_eq!(code_of(&ReceiptFile { receipt, ..file.clone() }), "WC-LEDGER-063");

    let mut forged = file.clone();
    forged.inclusion.checkpoint = cell.checkpoint().sign(&stranger).expect("signs").to_string();
    assert_eq!(code_of(&forged), "WC-LEDGER-071");

    // A stranger's own cell is a cell, but another one: the same receipt does not belong to it.
    let other = Cell::found_by(stranger);
    assert_eq!(code_of(&ReceiptFile { founding: other.founding.clone(), ..file.clone() }), "WC-LEDGER-063");
    let receipt = Signed::seal((*file.receipt).clone(), &other.coordinator);
    assert_eq!(code_of(&ReceiptFile { founding: other.founding, receipt, ..file }), "WC-LEDGER-064");
}

#[test]
fn a_lying_coordinator_cannot_change_what_nodes_signed() {
    let table: [(&str, &str, ReceiptFile); 13] = [
        ("one vote is missing", "WC-LEDGER-065", forced(|_, _, outcomes, _| drop(outcomes.pop()))),
        (
            "one outcome too many",
            "WC-LEDGER-065",
            forced(|cell, _, outcomes, _| outcomes.push(cell.outcome(9, b'A'))),
        ),
        (
            "an outcome signed by the coordinator for a node",
            "WC-LEDGER-066",
            forced(|cell, verdict, outcomes, _| {
                outcomes[0] = Signed::seal((*outcomes[0]).clone(), &cell.coordinator);
                verdict.agreeing[0].outcome = outcomes[0].cid();
            }),
        ),
        ("outcomes in another order", "WC-LEDGER-066", forced(|_, _, outcomes, _| outcomes.swap(0, 1))),
        (
            "a vote that names another outcome",
            "WC-LEDGER-067",
            forced(|_, verdict, _, _| verdict.agreeing[0].outcome = result(b'X')),
        ),
        (
            "an outcome for another cell",
            "WC-LEDGER-067",
            forced(|_, verdict, outcomes, _| {
                reworded(1, verdict, outcomes, |said| said.cell = CellId([1; 32]))
            }),
        ),
        (
            "an outcome of another task",
            "WC-LEDGER-067",
            forced(|_, verdict, outcomes, _| reworded(1, verdict, outcomes, |said| said.index = 4)),
        ),
        (
            "an outcome in the name of another node",
            "WC-LEDGER-067",
            forced(|_, verdict, outcomes, _| {
                reworded(1, verdict, outcomes, |said| said.node = key(2).node_id())
            }),
        ),
        (
            "an outcome of another lease",
            "WC-LEDGER-067",
            forced(|_, verdict, outcomes, _| {
                reworded(1, verdict, outcomes, |said| said.lease = LeaseId(50));
            }),
        ),
        (
            "a failure that votes",
            "WC-LEDGER-067",
            forced(|_, verdict, outcomes, _| {
                reworded(1, verdict, outcomes, |said| said.ending = Ending::Failed(Failure::Preempted));
            }),
        ),
        (
            "dissent counted as agreement",
            "WC-LEDGER-067",
            forced(|_, verdict, outcomes, _| {
                let ending = Ending::Result { record: result(b'B'), success: true };
                reworded(3, verdict, outcomes, |said| said.ending = ending);
            }),
        ),
        (
            "agreement counted as dissent",
            "WC-LEDGER-067",
            forced(|_, verdict, outcomes, _| {
                let ending = Ending::Result { record: result(b'A'), success: true };
                reworded(2, verdict, outcomes, |said| said.ending = ending);
            }),
        ),
        ("another result", "WC-LEDGER-067", forced(|_, verdict, _, _| verdict.result = result(b'B'))),
    ];
    for (what, code, file) in table {
        assert_eq!(code_of(&file), code, "{what}");
    }
}

#[test]
fn a_lying_coordinator_cannot_bend_the_quorum_or_the_money() {
    let table: [(&str, &str, ReceiptFile); 14] = [
        ("a lower bar", "WC-LEDGER-050", forced(|_, verdict, _, _| verdict.required = 1)),
        ("more replicas than voted for it", "WC-LEDGER-051", {
            forced(|_, verdict, _, _| (verdict.replicas, verdict.required) = (5, 3))
        }),
        ("fewer than the latecomers that dissent", "WC-LEDGER-051", {
            forced(|cell, verdict, outcomes, _| (*verdict, *outcomes) = cell.verdict(3, "AABBB", 20, 0))
        }),
        ("a minority that wins", "WC-LEDGER-051", {
            forced(|_, verdict, outcomes, _| {
                verdict.dissenting.push(verdict.agreeing.remove(1));
                outcomes.swap(1, 2);
            })
        }),
        (
            "one node twice",
            "WC-LEDGER-052",
            forced(|_, verdict, _, _| verdict.agreeing[1].node = key(1).node_id()),
        ),
        (
            "one lease twice",
            "WC-LEDGER-052",
            forced(|_, verdict, _, _| verdict.agreeing[1].lease = LeaseId(1)),
        ),
        ("votes out of order", "WC-LEDGER-052", forced(|_, verdict, _, _| verdict.agreeing.swap(0, 1))),
        (
            "dissent is paid",
            "WC-LEDGER-053",
            forced(|_, verdict, _, _| verdict.dissenting[0].awarded = MicroNcu(1)),
        ),
        ("more owners than there are", "WC-LEDGER-054", forced(|_, verdict, _, _| verdict.spread.owners = 3)),
        (
            "charged more than paid",
            "WC-LEDGER-055",
            forced(|_, verdict, _, _| verdict.charged = MicroNcu(41)),
        ),
        ("awards that the ledger does not have", "WC-LEDGER-057", {
            forced(|_, verdict, _, _| {
                verdict.agreeing.iter_mut().for_each(|vote| vote.awarded = MicroNcu(19));
            })
        }),
        ("nothing for one, and all for the other", "WC-LEDGER-059", {
            forced(|_, verdict, _, postings| {
                (verdict.agreeing[0].awarded, verdict.agreeing[1].awarded) = (MicroNcu(0), MicroNcu(40));
                *postings = award_postings(verdict).expect("small amounts");
            })
        }),
        ("more than the work is worth", "WC-LEDGER-076", {
            forced(|cell, verdict, outcomes, postings| {
                (*verdict, *outcomes) = cell.verdict(3, "ABA", 21, 0);
                *postings = award_postings(verdict).expect("small amounts");
            })
        }),
        ("credit for a friend", "WC-LEDGER-057", {
            forced(|_, _, _, postings| {
                postings.push(Posting { holder: Holder::Account(AccountId([66; 32])), amount: 5 });
                postings.push(Posting { holder: Holder::Issuance, amount: -5 });
            })
        }),
    ];
    for (what, code, file) in table {
        assert_eq!(code_of(&file), code, "{what}");
    }
}

#[test]
fn the_entry_must_be_the_one_under_the_checkpoint() {
    let (mut cell, file) = two_of_three();
    let changed = |change: &dyn Fn(&mut ReceiptFile)| {
        let mut copy = file.clone();
        change(&mut copy);
        copy
    };
    assert_eq!(code_of(&changed(&|file| file.entry.index += 1)), "WC-LEDGER-068");
    assert_eq!(code_of(&changed(&|file| file.entry.postings.clear())), "WC-LEDGER-068");
    assert_eq!(code_of(&changed(&|file| drop(file.inclusion.path.pop()))), "WC-LEDGER-069");
    assert_eq!(code_of(&changed(&|file| file.inclusion.path[1][5] ^= 1)), "WC-LEDGER-069");
    assert_eq!(code_of(&changed(&|file| file.inclusion.path[0].push(0))), "WC-LEDGER-070");
    assert_eq!(code_of(&changed(&|file| file.inclusion.checkpoint.clear())), "WC-LEDGER-071");
    assert_eq!(code_of(&changed(&|file| file.inclusion.tree_size += 1)), "WC-LEDGER-073");

    // A checkpoint of before the entry, and one of another history.
    let entry = file.entry.clone();
    cell.pad(1);
    let mut late = file.clone();
    late.inclusion.checkpoint = cell.inclusion(&entry).checkpoint;
    assert_eq!(code_of(&late), "WC-LEDGER-073");
    late.inclusion.tree_size += 1;
    assert_eq!(code_of(&late), "WC-LEDGER-069");

    // A verdict that the ledger does not name, and an entry of another place that names the same verdict.
    let other = resealed(&cell, &file, |receipt| receipt.verdict.spread.networks = 2);
    assert_eq!(code_of(&other), "WC-LEDGER-056");
    let moved = Entry { index: 2, ..file.entry.clone() };
    let moved_receipt = resealed(&cell, &file, |receipt| receipt.entry = record_cid(&moved));
    assert_eq!(code_of(&ReceiptFile { entry: moved, ..moved_receipt }), "WC-LEDGER-069");
}

/// The receipt of [`two_of_three`], under a checkpoint that two of three machines signed after two hand-overs.
fn signed_together() -> (Cell, ReceiptFile) {
    let (cell, mut file) = two_of_three();
    let (signers, members) = handed_over(&cell.founding, &cell.coordinator);
    file.signers = signers;
    let checkpoint = cell.checkpoint();
    let signature = together(&members, checkpoint.to_text().as_bytes(), 200);
    let note = Note::with_signature(
        checkpoint.to_text(),
        checkpoint.origin.clone(),
        &members[0].keys().group,
        signature,
    );
    file.inclusion.checkpoint = note.expect("a note").to_string();
    (cell, file)
}

#[test]
fn a_checkpoint_signed_by_several_verifies_along_the_chain_of_their_keys() {
    let (cell, file) = signed_together();
    let bytes = to_canonical(&file);
    let copy = decode_receipt(&bytes).expect("decodes");
    let report = verify_receipt(&copy, &Anchors::default()).expect("verifies");
    let names: Vec<&str> = report.steps.iter().map(|step| step.name).collect();
    assert_eq!(
        names,
        ["founding", "receipt", "votes", "quorum", "credit", "signers", "checkpoint", "inclusion"]
    );
    assert_eq!(
        report.steps[5].proved,
        "2 hand-overs, each signed by the key before it, lead from the coordinator's key to that of 2 of 3 signers"
    );
    let changed = |change: &dyn Fn(&mut ReceiptFile)| {
        let mut copy = file.clone();
        change(&mut copy);
        copy
    };
    // The failing link is named.
    let lost = changed(&|file| drop(file.signers.remove(0)));
    let fault = verify_receipt(&lost, &Anchors::default()).expect_err("refused");
    assert_eq!(fault.code().name, "WC-LEDGER-147");
    assert!(matches!(&fault, ReceiptFault::Signers(fault) if fault.epoch == 1), "{fault:?}");
    let unaccepted = changed(&|file| file.signers[1].accepted[0] ^= 1);
    let fault = verify_receipt(&unaccepted, &Anchors::default()).expect_err("refused");
    assert!(matches!(&fault, ReceiptFault::Signers(fault) if fault.epoch == 2), "{fault:?}");
    // A chain cut short leads to a key that has not signed this checkpoint.
    assert_eq!(code_of(&changed(&|file| drop(file.signers.pop()))), "WC-LEDGER-071");
    assert_eq!(code_of(&changed(&|file| file.signers.clear())), "WC-LEDGER-071");
    // The coordinator alone, whose key founded the cell, cannot sign in the place of the group.
    let alone = changed(&|file| {
        file.inclusion.checkpoint = cell.checkpoint().sign(&cell.coordinator).expect("signs").to_string();
    });
    assert_eq!(code_of(&alone), "WC-LEDGER-071");
}

#[test]
fn a_witness_is_not_led_back_to_earlier_signers_or_to_a_fork() {
    let chain = signed_together().1.signers;
    assert_eq!(check_signers(&[], &chain), Ok(()), "signers may take over");
    assert_eq!(check_signers(&chain[..1], &chain), Ok(()));
    assert_eq!(check_signers(&chain, &chain), Ok(()));
    let back = WitnessFault::Signers { seen: 2, offered: 0 };
    assert_eq!(check_signers(&chain, &[]), Err(back), "the founding key signs again");
    assert!(check_signers(&chain, &chain[..1]).is_err(), "the first set signs again");
    let fork = [chain[1].clone(), chain[0].clone()];
    assert!(check_signers(&chain, &fork).is_err(), "other sets");
}

#[test]
fn every_single_byte_of_a_chain_of_signers_matters() {
    let (_, file) = signed_together();
    let bytes = to_canonical(&file);
    assert!(accepted(&bytes));
    let mut copy = bytes.clone();
    for place in 0..bytes.len() {
        let bit = 1 << (place % 8);
        copy[place] ^= bit;
        assert!(!accepted(&copy), "byte {place}");
        copy[place] ^= bit;
    }
}

/// The receipt with the cosignatures of nodes `names` on its checkpoint.
fn cosigned(file: &ReceiptFile, names: &[u8]) -> ReceiptFile {
    let mut note = Note::parse(&file.inclusion.checkpoint).expect("parses");
    for name in names {
        note = note.with(cosign(note.text(), &key(*name), 1_700_000_000)).expect("fits");
    }
    let mut file = file.clone();
    file.inclusion.checkpoint = note.to_string();
    file
}

#[test]
fn a_receipt_says_who_cosigned_its_checkpoint() {
    let (_, file) = two_of_three();
    let both = cosigned(&file, &[3, 4]);
    let report = verify_receipt(&both, &Anchors::default()).expect("verifies");
    let witnesses: Vec<_> = report.witnesses.iter().map(|one| one.witness).collect();
    assert_eq!(witnesses, [key(3).node_id(), key(4).node_id()]);
    assert!(report.steps.iter().any(|step| step.name == "witnesses"));
    assert_eq!(code_of(&cosigned(&file, &[3, 3])), "WC-LEDGER-120", "the same witness twice");

    // The cell's own line twice, and a cosignature of another checkpoint.
    let mut twice = file.clone();
    let (_, own) = file.inclusion.checkpoint.rsplit_once("\n\n").expect("a blank line");
    twice.inclusion.checkpoint.push_str(own);
    assert_eq!(code_of(&twice), "WC-LEDGER-072");
    let mut moved = file.clone();
    let line = cosign("another text\n", &key(3), 1);
    let note = Note::parse(&file.inclusion.checkpoint).expect("parses").with(line).expect("fits");
    moved.inclusion.checkpoint = note.to_string();
    assert_eq!(code_of(&moved), "WC-LEDGER-120");
}

#[test]
fn every_single_bit_of_a_cosigned_checkpoint_in_a_receipt_matters() {
    let (_, file) = two_of_three();
    let file = cosigned(&file, &[3, 4]);
    let bytes = to_canonical(&file);
    assert!(accepted(&bytes));
    let note = file.inclusion.checkpoint.as_bytes();
    let at = bytes.windows(note.len()).position(|window| window == note).expect("the note is in it");
    let mut copy = bytes.clone();
    for place in at..at + note.len() {
        for bit in 0..8 {
            copy[place] ^= 1 << bit;
            assert!(!accepted(&copy), "byte {place} bit {bit}");
            copy[place] ^= 1 << bit;
        }
    }
}

#[test]
fn a_line_that_nothing_confirms_has_no_place_in_a_receipt() {
    let (cell, file) = two_of_three();
    let witness =
        Note::sign(cell.checkpoint().to_text(), "witness.example", &key(3)).expect("signs").to_string();
    let (_, line) = witness.rsplit_once("\n\n").expect("a blank line");
    let mut both = file.clone();
    both.inclusion.checkpoint.push_str(line);
    // Nothing in the file vouches for a witness, so its line could be changed at will.
    assert_eq!(code_of(&both), "WC-LEDGER-072");

    let mut foreign = file;
    let elsewhere = Checkpoint { origin: "example.com/log".to_owned(), ..cell.checkpoint() };
    foreign.inclusion.checkpoint =
        Note::sign(elsewhere.to_text(), origin(&cell.id()), &cell.coordinator).expect("signs").to_string();
    assert_eq!(code_of(&foreign), "WC-LEDGER-071");
}

#[test]
fn nothing_is_issued_for_a_verdict_whose_numbers_disagree() {
    let mut cell = Cell::found();
    let accepted = cell.accept(3, "AAB", 20, 15);
    let attempt = |verdict: Verdict, entry: &Entry| {
        let manifest = result(b'M');
        issue(ReceiptParts { cell: cell.id(), manifest, verdict, entry, issued_at: wc_types::Timestamp(0) })
    };
    let verdict = &accepted.receipt.verdict;
    assert_eq!(
        attempt(verdict.clone(), &accepted.entry).map(|receipt| receipt.entry),
        Ok(accepted.receipt.entry)
    );

    let mut generous = verdict.clone();
    generous.agreeing.iter_mut().for_each(|vote| vote.awarded = MicroNcu(19));
    assert!(matches!(attempt(generous, &accepted.entry), Err(VerdictFault::OtherEntry { .. })));
    let mut short = verdict.clone();
    short.agreeing.pop();
    assert!(matches!(attempt(short, &accepted.entry), Err(VerdictFault::TooFew { agreeing: 1, .. })));
    let mut unbalanced = accepted.entry.clone();
    unbalanced.postings[0].amount += 1;
    assert!(matches!(attempt(verdict.clone(), &unbalanced), Err(VerdictFault::OtherPostings { .. })));
    let mut other_task = accepted.entry.clone();
    let named = record_cid(verdict);
    other_task.kind = EntryKind::TaskAccepted { job: cell::JOB, stage: 0, index: 4, verdict: named };
    assert!(matches!(attempt(verdict.clone(), &other_task), Err(VerdictFault::OtherEntry { .. })));
    let elsewhere = Entry { cell: CellId([1; 32]), ..accepted.entry.clone() };
    assert!(matches!(attempt(verdict.clone(), &elsewhere), Err(VerdictFault::OtherEntry { .. })));

    let mut boundless = verdict.clone();
    boundless.agreeing[0].awarded = MicroNcu(u64::MAX);
    let fault = award_postings(&boundless).expect_err("does not fit a balance");
    assert_eq!(fault.code().name, "WC-LEDGER-058");
}

#[test]
fn foreign_bytes_are_refused_before_they_are_looked_at() {
    assert_eq!(decode_receipt(b"").expect_err("refused").code().name, "WC-LEDGER-060");
    assert!(decode_receipt(&vec![0; (1 << 20) + 1]).expect_err("refused").to_string().contains("receipt"));
    let (_, file) = two_of_three();
    let bytes = to_canonical(&file);
    for length in 0..bytes.len() {
        assert!(decode_receipt(&bytes[..length]).is_err(), "cut to {length} bytes");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(decode_receipt(&longer).is_err());
}

fn accepted(bytes: &[u8]) -> bool {
    decode_receipt(bytes).is_ok_and(|file| verify_receipt(&file, &Anchors::default()).is_ok())
}

#[test]
fn every_single_bit_of_a_receipt_file_matters() {
    let mut cell = Cell::found();
    let work = cell.accept(1, "A", 1, 0);
    let bytes = to_canonical(&cell.file(work));
    assert!(accepted(&bytes));
    let mut copy = bytes.clone();
    for place in 0..bytes.len() {
        for bit in 0..8 {
            copy[place] ^= 1 << bit;
            assert!(!accepted(&copy), "byte {place} bit {bit}");
            copy[place] ^= 1 << bit;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_changed_byte_is_accepted(place in any::<prop::sample::Index>(), mask in 1u8..=255) {
        let mut bytes = to_canonical(&two_of_three().1);
        let place = place.index(bytes.len());
        bytes[place] ^= mask;
        prop_assert!(!accepted(&bytes), "byte {place} xor {mask:#x}");
    }

    #[test]
    fn no_bytes_cut_out_or_put_in_are_accepted(
        from in any::<prop::sample::Index>(),
        cut in 0usize..40,
        put in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let bytes = to_canonical(&two_of_three().1);
        let from = from.index(bytes.len());
        let to = (from + cut).min(bytes.len());
        let changed = [&bytes[..from], &put, &bytes[to..]].concat();
        prop_assert_eq!(accepted(&changed), changed == bytes);
    }
}

#[test]
fn an_entry_and_a_receipt_survive_their_bytes() {
    let (_, file) = two_of_three();
    assert_eq!(from_canonical::<Entry>(&to_canonical(&file.entry)).expect("decodes"), file.entry);
    assert_eq!(
        from_canonical::<Signed<Receipt>>(&to_canonical(&file.receipt)).expect("decodes"),
        file.receipt
    );
}
