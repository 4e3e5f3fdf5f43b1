//! The deterministic state machine of one cell: facts go in, commands come out.
//!
//! ```text
//! fact {seq, at, seed, event} ──► Cell::apply ──► commands
//!                                   │
//!   admit ── matching ── commit ── report ── settle        one file per step, all over the nouns
//!                                   │                      node, job, stage, task
//!                                 ledger                   entries, balances, Merkle log
//!                                 economy                  what time and conviction do to credit
//! ```
//!
//! The cell composes the pure questions of `wc-policy`, `wc-scheduler`, `wc-quorum`, `wc-trust` and `wc-ledger`. It has
//! no clock, no randomness and no IO: time and seed arrive inside the fact, and what must happen in the world leaves as
//! a command that somebody else performs. The journal of facts is therefore the state: replaying it gives the same
//! bytes, which [`Cell::state_hash`] sums up.
//!
//! # Invariants
//! - `CELL-1`: the sum of all balances is zero, and only the issuance is below zero.
//! - `CELL-2`: a task is accepted only with a majority of matching results of different nodes, each bound by a
//!   commitment that preceded its report when there is more than one replica.
//! - `CELL-3`: two live leases never stand for one replica, and no node holds two replicas of one task.
//! - `CELL-4`: lease numbers and ledger indices only grow.
//! - `CELL-5`: after every fact no node with credit could take work that is there (matching is maximal).
//! - `CELL-6`: applying never panics; a fact that does not apply changes nothing.
//! - `CELL-7`: of those who vouch for an accepted result at least one truly found it, so it can be fetched.
//! - `CELL-8`: accepted results of compared tasks are the true ones while liars are a minority of each task.
//! - `CELL-9`: whoever cheats where it is compared earns nothing there, and its second time quarantines it.
//! - `CELL-10`: decay never raises a balance, nor takes it below what was earned in the trailing 30 days.
//!
//! `tests/src/invariant` checks all of them after every fact of every simulated world.
#![forbid(unsafe_code)]

mod account;
mod admit;
mod cell;
mod command;
mod commit;
mod directive;
mod economy;
mod explain;
mod fact;
mod job;
mod ledger;
mod matching;
mod meeting;
mod membership;
mod node;
mod openings;
mod pairs;
mod pool;
mod queue;
mod report;
mod results;
mod settle;
mod signers;
mod snapshot;
mod stage;
mod task;
mod timer;
mod turn;
mod view;

pub use cell::Cell;
pub use command::Command;
pub use explain::{Explanation, StageExplanation, WaitingTask};
pub use fact::{Event, Fact};
pub use meeting::Meeting;
pub use snapshot::RestoreError;
pub use view::{
    AccountView, CellCounts, JobPhase, JobView, NodeView, ReplicaPhase, ReplicaView, StageView, TaskPhase,
    TaskView,
};
