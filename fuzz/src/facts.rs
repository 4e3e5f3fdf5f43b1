//! Rows of a journal and snapshots of a cell, as a damaged or a borrowed disk may give them back.
//!
//! Checksums stand before both, so these bytes are not a peer's. But a start must end in words, not in a panic, whatever
//! is in the directory, and a state that is restored must bear every later fact.

use wc_cell::{Cell, Event, Fact};
use wc_proto::frame::decode;
use wc_types::node::{Path, Reach};
use wc_types::{Bytes, JobId, LeaseId, Millis, Signed, Timestamp, to_canonical};

use crate::sample;

/// Reads the bytes as a fact and as a snapshot, and goes on from whatever is accepted.
pub fn target(data: &[u8]) {
    if let Ok(fact) = decode::<Fact>(data) {
        let row = to_canonical(&fact);
        assert_eq!(decode::<Fact>(&row).as_ref(), Ok(&fact));
        let mut cell = lived();
        let mut twin = cell.clone();
        // In its turn, whatever number it claims: otherwise the cell would only count it.
        let fact = Fact { seq: cell.next_seq(), ..fact };
        let (mut said, mut said_again) = (Vec::new(), Vec::new());
        cell.apply(&fact, &mut said);
        twin.apply(&fact, &mut said_again);
        assert_eq!(cell.state_hash(), twin.state_hash());
        assert_eq!(said, said_again);
        bears_more(cell);
    }
    match Cell::restore(data) {
        Ok(cell) => {
            let again = Cell::restore(&cell.snapshot()).expect("what was restored is a state");
            assert_eq!(again.state_hash(), cell.state_hash());
            bears_more(cell);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Rows of every shape, and the states before and after them.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = life().iter().map(to_canonical).collect();
    seeds.push(Cell::empty().snapshot());
    seeds.push(lived().snapshot());
    seeds
}

/// A cell in which a job waits for a node.
fn lived() -> Cell {
    let mut cell = Cell::empty();
    let mut commands = Vec::new();
    for fact in life() {
        cell.apply(&fact, &mut commands);
    }
    cell
}

fn life() -> Vec<Fact> {
    let key = sample::key();
    let node = key.node_id();
    // The sample shows every shape that a record may have; this is one that a cell admits.
    let mut manifest = sample::manifest();
    manifest.deadline = None;
    manifest.stages.truncate(1);
    (manifest.stages[0].replicas, manifest.stages[0].inputs) = (5, Vec::new());
    let job = Signed::seal(manifest, &key);
    let job_id = job.job_id(&job.cid());
    let outcome = Signed::seal(sample::outcome(), &key);
    let events = [
        Event::Founded(Signed::seal(sample::founding(), &key).witnessed()),
        Event::NodeJoined(Signed::seal(sample::enrolment(), &key).witnessed()),
        Event::NodeReached {
            node,
            path: Path { reach: Reach::Relayed, rtt: Some(Millis(80)), inspected: true },
        },
        Event::WorkWanted { node, replicas: 3 },
        Event::JobSubmitted(job.witnessed()),
        Event::JobStaged { job: job_id, listed: vec![Bytes(9 << 20)] },
        Event::StagingFailed { job: JobId([3; 32]), reason: "gone".to_owned() },
        Event::Committed { node, items: vec![(LeaseId(1), wc_types::outcome::Commitment([9; 32]))] },
        Event::Reported { outcomes: vec![outcome.witnessed()] },
        Event::Returned { node, leases: vec![LeaseId(1), LeaseId(2)] },
        Event::NodePaused { node, paused: true },
        Event::NodePaused { node, paused: false },
        Event::NodeOffline { node },
        Event::JobCancelled { job: JobId([4; 32]), by: key.account_id() },
        Event::NodeLeft { node },
        Event::Tick,
    ];
    let facts = (0..).zip(events).map(|(seq, event)| Fact {
        seq,
        at: Timestamp(1_790_000_000_000 + seq as i64),
        seed: [seq as u8; 32],
        event,
    });
    facts.collect()
}

/// Applies what may come next to a state that bytes led to: nothing in it may end in a panic.
fn bears_more(mut cell: Cell) {
    let mut commands = Vec::new();
    let first = cell.next_seq();
    for (fact, step) in life().into_iter().zip(0u64..) {
        cell.apply(&Fact { seq: first.saturating_add(step), ..fact }, &mut commands);
    }
    let jobs: Vec<_> = cell.jobs().take(8).map(|job| job.id).collect();
    for job in jobs {
        let _ = cell.explain(&job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_accepted_as_one_of_the_two() {
        for (number, seed) in seeds().iter().enumerate() {
            assert!(decode::<Fact>(seed).is_ok() || Cell::restore(seed).is_ok(), "sample {number}");
            target(seed);
        }
        let (mut cell, mut said) = (Cell::empty(), Vec::new());
        life().iter().for_each(|fact| cell.apply(fact, &mut said));
        assert_eq!(cell.jobs().count(), 1, "the sample's job is admitted: {said:?}");
    }
}
