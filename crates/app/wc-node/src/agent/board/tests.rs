//! The board against the memory of one or several cells.

use std::sync::Arc;

use wc_types::cid::{CODEC_RAW, cid_of};
use wc_types::grant::{Grant, LeaseTerm};
use wc_types::outcome::{Ending, Outcome, Usage};
use wc_types::{JobId, Millis, NodeId, Signed, SigningKey, Timestamp};

use super::*;
use crate::agent::Order;
use crate::sample;

const SLOTS: u16 = 8;
const HOME: CellId = CellId([1; 32]);
const AWAY: CellId = CellId([2; 32]);

/// What a cell remembers of one node: leases that it holds, and how many more it may be given.
#[derive(Default)]
struct CellSide {
    held: BTreeSet<LeaseId>,
    credit: u32,
    lease_next: u64,
}

impl CellSide {
    /// As `wc-cell` does it: whatever is wanted beyond the limit is forgotten.
    fn want(&mut self, replicas: u32) {
        let held = u32::try_from(self.held.len()).expect("bounded");
        self.credit = self.credit.saturating_add(replicas).min(NODE_LEASES_MAX.saturating_sub(held));
    }

    fn grant(&mut self) -> Vec<LeaseId> {
        let granted: Vec<_> = (0..std::mem::take(&mut self.credit))
            .map(|at| LeaseId(self.lease_next + u64::from(at)))
            .collect();
        self.lease_next += granted.len() as u64;
        self.held.extend(&granted);
        granted
    }
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[1; 32])
}

fn report(cell: CellId, lease: LeaseId) -> Box<Report> {
    let outcome = Outcome {
        cell,
        job: JobId([0; 32]),
        stage: 0,
        index: 0,
        lease,
        node: key().node_id(),
        ending: Ending::Result { record: cid_of(CODEC_RAW, b"the same everywhere"), success: true },
        usage: Usage::default(),
        salt: [0; 16],
        ended_at: Timestamp(0),
    };
    Box::new(Report { outcome: Signed::seal(outcome, &key()), blobs: Vec::new(), stderr: Vec::new() })
}

fn commitment() -> Commitment {
    Commitment::new(&cid_of(CODEC_RAW, b"the same everywhere"), &[0; 16], &key().node_id())
}

/// Leases of one cell for the tasks of the same job, which every cell may know.
fn leases(cell: CellId, numbers: std::ops::Range<u64>) -> Vec<Assignment> {
    let manifest = Arc::new(sample::manifest());
    let grant = Grant {
        cell,
        job: JobId([0; 32]),
        manifest: manifest.cid(),
        stage: 0,
        node: key().node_id(),
        leases: Vec::<LeaseTerm>::new(),
        commit_first: true,
        gathers: Vec::new(),
        issued_at: Timestamp(0),
        ttl: Millis(1000),
    };
    let holders: Vec<NodeId> = Vec::new();
    let order = Arc::new(Order { grant: Signed::seal(grant, &key()), manifest, holders });
    numbers.map(|number| Assignment { lease: LeaseId(number), index: 0, order: order.clone() }).collect()
}

/// A board in session with these cells, the first of them its home.
fn board(cells: &[CellId]) -> Board {
    let mut board = Board::default();
    board.set_home(cells[0]);
    for cell in cells {
        board.sit_down(*cell, mpsc::channel(1).0);
    }
    board
}

/// Seen by users as an array of 20,000 tasks with three replicas that stood still for good: the fastest donor had
/// committed to 4,096 tasks, asked for more while the others were behind, and waited for grants that the cell had
/// forgotten it owed.
#[test]
fn a_donor_far_ahead_of_the_others_asks_again_when_its_commitments_are_settled() {
    let mut board = board(&[HOME]);
    board.task_micros = 1;
    let mut cell = CellSide::default();
    for round in 0..3 {
        // It runs all that it is given at once, commits, and hears nothing of the slower ones.
        let mut given = 0;
        while let Some(replicas) = board.room(HOME, SLOTS, Instant::now()) {
            cell.want(replicas);
            for lease in cell.grant() {
                board.answered(HOME, 1);
                let claim = Claim { cell: HOME, lease };
                board.held.insert(claim, Held::Waiting(report(HOME, lease), commitment()));
                given += 1;
            }
        }
        assert!(given > 0, "round {round}: the donor asks for nothing more and waits for good");
        let wanted = board.seats[&HOME].wanted;
        assert_eq!(wanted, 0, "round {round}: the donor waits for leases that the cell has forgotten");
        assert_eq!(board.held_of(HOME).into_iter().collect::<BTreeSet<_>>(), cell.held, "round {round}");
        // The others catch up.
        let settled: Vec<_> = std::mem::take(&mut cell.held).into_iter().collect();
        assert_eq!(board.settle(HOME, &settled), settled.len() as u64);
    }
}

#[test]
fn another_cell_is_asked_only_for_what_the_home_cell_leaves_idle() {
    let mut board = board(&[HOME, AWAY]);
    let start = Instant::now();
    assert_eq!(board.room(AWAY, SLOTS, start), None, "the home cell has not been asked");
    let asked = board.room(HOME, SLOTS, start).expect("idle");
    assert_eq!(board.room(AWAY, SLOTS, start), None, "the home cell has had no time to answer");
    let later = start + HOME_FIRST;
    let away = board.room(AWAY, SLOTS, later).expect("the home cell has nothing");
    assert_eq!(board.room(AWAY, SLOTS, later), None, "once is enough");
    // The other cell answers: the slots are busy, and nobody is asked.
    board.answered(AWAY, u64::from(away));
    assert!(board.grant(AWAY, leases(AWAY, 0..u64::from(away)), SLOTS).is_empty());
    assert_eq!((board.room(AWAY, SLOTS, later), board.room(HOME, SLOTS, later)), (None, None));
    // The home cell has a little after all: it is taken, and run first.
    assert!(asked > 2);
    board.answered(HOME, 2);
    assert!(board.grant(HOME, leases(HOME, 0..2), SLOTS).is_empty());
    let batch = board.take(SLOTS).expect("work");
    assert_eq!(batch[0].cell(), HOME);
    board.answered(HOME, u64::MAX);
    // While the home cell answers all that it is asked for, the other one is not asked.
    for queue in &mut board.queues {
        queue.clear();
    }
    board.held.clear();
    let asked = board.room(HOME, SLOTS, later).expect("room");
    board.answered(HOME, u64::from(asked));
    board.grant(HOME, leases(HOME, 100..100 + u64::from(asked)), SLOTS);
    assert_eq!(board.room(AWAY, SLOTS, later + HOME_FIRST * 5), None);
}

#[test]
fn a_cell_that_is_away_does_not_keep_the_others_from_being_asked() {
    let mut board = board(&[HOME, AWAY]);
    board.get_up(HOME);
    assert!(board.room(AWAY, SLOTS, Instant::now()).is_some());
    // Nor does what is held for it: those leases are that cell's affair until it is back.
    for number in 0..HELD_MAX {
        let claim = Claim { cell: HOME, lease: LeaseId(number) };
        board.held.insert(claim, Held::Reported(report(HOME, LeaseId(number))));
    }
    board.answered(AWAY, u64::MAX);
    assert!(board.room(AWAY, SLOTS, Instant::now()).is_some());
    // In session, they count.
    board.sit_down(HOME, mpsc::channel(1).0);
    board.answered(AWAY, u64::MAX);
    assert_eq!(board.room(HOME, SLOTS, Instant::now()), None);
}

#[test]
fn a_halted_cell_gets_back_what_has_not_begun_and_leaves_the_slots_to_others() {
    let mut board = board(&[HOME, AWAY]);
    let now = Instant::now();
    let asked = u64::from(board.room(HOME, SLOTS, now).expect("idle"));
    board.answered(HOME, 3);
    assert!(board.grant(HOME, leases(HOME, 0..3), SLOTS).is_empty());
    board.grant(AWAY, leases(AWAY, 7..8), SLOTS);
    let running = board.take(SLOTS).expect("work");
    let (changed, queued) = board.set_halted(HOME, true);
    assert!(changed && asked > 3);
    assert_eq!(queued.iter().map(|claim| claim.lease.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(board.held_of(HOME), [running[0].lease], "what runs goes on");
    assert_eq!(board.held_of(AWAY), [LeaseId(7)], "another cell's lease is its own");
    assert_eq!(board.set_halted(HOME, true), (false, Vec::new()));
    assert_eq!(board.room(HOME, SLOTS, now), None, "a halted cell is asked for nothing");
    assert!(board.room(AWAY, SLOTS, now).is_some(), "others are asked at once");
    assert_eq!(board.set_halted(HOME, false), (true, Vec::new()));
    board.answered(AWAY, u64::MAX);
    assert!(board.room(HOME, SLOTS, now).is_some());
}

#[test]
fn more_than_twice_of_what_is_held_ready_is_given_back_to_cells_that_answer_at_the_same_time() {
    let third = CellId([3; 32]);
    let mut board = board(&[HOME, AWAY, third]);
    let start = Instant::now();
    board.room(HOME, SLOTS, start);
    let wanted =
        [AWAY, third].map(|cell| u64::from(board.room(cell, SLOTS, start + HOME_FIRST).expect("idle")));
    let target = board.target(SLOTS);
    assert_eq!(wanted, [target, target]);
    let mut answer = |cell| {
        board.answered(cell, 2 * target);
        let back = board.grant(cell, leases(cell, 0..2 * target), SLOTS);
        (back.len() as u64, back.iter().map(|claim| claim.cell).collect::<BTreeSet<_>>(), board.busy())
    };
    assert_eq!(answer(AWAY), (0, [].into(), 2 * target), "the first takes all that is free");
    assert_eq!(answer(third), (2 * target, [third].into(), 2 * target), "there is no room left");
    // The home cell answers last, is never refused, and what the others have waiting would wait for long.
    assert_eq!(answer(HOME), (2 * target, [AWAY].into(), 2 * target));
    assert_eq!(board.held_of(HOME).len() as u64, 2 * target);
}

#[test]
fn the_same_lease_number_of_two_cells_is_two_leases() {
    let mut board = board(&[HOME, AWAY]);
    board.task_micros = 1;
    for cell in [HOME, AWAY] {
        assert!(board.grant(cell, leases(cell, 7..9), 1).is_empty());
    }
    let first = board.take(1).expect("work");
    assert!(first.iter().all(|assignment| assignment.cell() == HOME), "two cells never share a batch");
    assert_eq!(first.len(), 2 - board.queues[0].len());
    // The home cell revokes its number 7, which runs; the other cell's goes on.
    assert_eq!(board.revoke(HOME, &[LeaseId(7)]), [Claim { cell: HOME, lease: LeaseId(7) }]);
    assert!(board.is_revoked(&Claim { cell: HOME, lease: LeaseId(7) }));
    assert!(!board.is_revoked(&Claim { cell: AWAY, lease: LeaseId(7) }));
    let claim = |cell| Claim { cell, lease: LeaseId(7) };
    assert!(board.finish(claim(HOME), report(HOME, LeaseId(7)), None).is_none(), "nobody wants to know");
    let told = board.finish(claim(AWAY), report(AWAY, LeaseId(7)), Some(commitment()));
    assert!(matches!(told, Some(Out::Commit(LeaseId(7), _))));
    // What another cell says of its number 7 changes nothing here.
    assert!(board.reveal(HOME, &[LeaseId(7)]).is_empty());
    assert_eq!(board.settle(HOME, &[LeaseId(7)]), 0);
    assert_eq!(board.reveal(AWAY, &[LeaseId(7)]).len(), 1);
    assert_eq!(board.settle(AWAY, &[LeaseId(7)]), 1);
    assert_eq!((board.tallies()[&AWAY].run, board.tallies()[&AWAY].settled), (1, 1));
}

#[test]
fn what_a_cell_has_not_settled_is_offered_to_it_again_and_to_nobody_else() {
    let mut board = board(&[HOME, AWAY]);
    for cell in [HOME, AWAY] {
        board.grant(cell, leases(cell, 1..4), SLOTS);
    }
    let claim = |cell, number| Claim { cell, lease: LeaseId(number) };
    board.finish(claim(AWAY, 1), report(AWAY, LeaseId(1)), Some(commitment()));
    board.finish(claim(AWAY, 2), report(AWAY, LeaseId(2)), None);
    board.get_up(AWAY);
    board.sit_down(AWAY, mpsc::channel(1).0);
    assert_eq!(board.held_of(AWAY), [LeaseId(1), LeaseId(2), LeaseId(3)]);
    let offered = board.unsettled(AWAY);
    assert!(matches!(offered[..], [Out::Commit(LeaseId(1), _), Out::Report(_)]));
    assert!(board.unsettled(HOME).is_empty());
    // A pause gives everybody's unstarted leases back, each to its own cell.
    board.paused = true;
    let back: BTreeSet<Claim> = board.clear_queue().into_iter().collect();
    let home = (1..4).map(|number| claim(HOME, number));
    let all: BTreeSet<Claim> = home.chain((1..4).map(|number| claim(AWAY, number))).collect();
    assert_eq!(back, all);
    assert!(board.take(SLOTS).is_none());
}

#[test]
fn when_the_home_changes_what_waits_changes_its_place() {
    let mut board = board(&[HOME, AWAY]);
    for cell in [HOME, AWAY] {
        board.grant(cell, leases(cell, 1..2), SLOTS);
    }
    assert!(board.set_home(AWAY));
    assert!(!board.set_home(AWAY));
    assert_eq!(board.take(SLOTS).expect("work")[0].cell(), AWAY);
}
