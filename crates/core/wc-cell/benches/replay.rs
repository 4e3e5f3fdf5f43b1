//! How fast a journal is replayed: facts decoded from their bytes and applied, as `worldcompute ledger replay` does.
//!
//! `cargo bench -p wc-cell --bench replay`
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock; the cell does not")]

#[path = "../tests/cell/fixture.rs"]
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
mod fixture;

use std::time::Instant;

use fixture::*;
use wc_cell::{Cell, Event, Fact};
use wc_types::outcome::{Commitment, Outcome};
use wc_types::{LeaseId, Signed, TaskId, to_canonical};

fn main() {
    // Each message of a donor a fact of its own, as when machines trickle; then as when they come in batches.
    for (replicas, batch) in [(1, 1), (3, 1), (3, 64)] {
        journal(30_000 / u32::from(replicas), replicas, batch);
    }
}

/// Records the facts of one array job on four donors, and replays them.
fn journal(tasks: u32, replicas: u8, batch: u32) {
    const NODES: u8 = 4;
    let mut world = World::with_nodes(NODES);
    let job = world.run(manifest(vec![stage("noop", tasks, replicas)]));
    while world.cell.job(&job).is_some_and(|view| view.ended_at.is_none()) {
        let mut held: Vec<(u8, Outcome)> = Vec::new();
        for number in 0..NODES {
            world.want(number, batch);
            for (task, lease) in world.take(number) {
                let task = TaskId { job, ..task };
                held.push((number, world.result(number, (task, lease), "x")));
            }
        }
        for number in 0..NODES {
            let mine: Vec<&Outcome> =
                held.iter().filter(|(holder, _)| *holder == number).map(|(_, outcome)| outcome).collect();
            for mine in mine.chunks(batch as usize).filter(|_| replicas > 1) {
                let bind = |outcome: &&Outcome| {
                    let record = outcome.result().expect("a result");
                    (outcome.lease, Commitment::new(record, &outcome.salt, &outcome.node))
                };
                let items: Vec<(LeaseId, Commitment)> = mine.iter().map(bind).collect();
                world.tell(Event::Committed { node: node_id(number), items });
            }
        }
        for number in 0..NODES {
            let mine: Vec<&Outcome> =
                held.iter().filter(|(holder, _)| *holder == number).map(|(_, outcome)| outcome).collect();
            for mine in mine.chunks(batch as usize) {
                let seal =
                    |outcome: &&Outcome| Signed::seal((*outcome).clone(), &node_key(number)).witnessed();
                world.tell(Event::Reported { outcomes: mine.iter().map(seal).collect() });
            }
        }
        world.commands.clear();
        world.entries.clear();
    }
    let rows: Vec<Vec<u8>> = world.facts.iter().map(to_canonical).collect();
    let bytes: usize = rows.iter().map(Vec::len).sum();
    let (mut cell, mut commands) = (Cell::empty(), Vec::new());
    let (mut decoding, mut applying) = (0.0, 0.0);
    for row in &rows {
        let begun = Instant::now();
        let fact: Fact = decode(row);
        decoding += begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        cell.apply(&fact, &mut commands);
        applying += begun.elapsed().as_secs_f64();
        commands.clear();
    }
    assert_eq!(cell.state_hash(), world.cell.state_hash(), "the replay is the state");
    let facts = rows.len() as f64;
    println!(
        "R = {replicas}, up to {batch} per message: {facts} facts of {} bytes, {} ledger entries: {:.0} facts/s \
         ({:.2} µs to decode, {:.2} µs to apply)",
        bytes / rows.len(),
        cell.ledger_size(),
        facts / (decoding + applying),
        decoding / facts * 1e6,
        applying / facts * 1e6,
    );
}

/// Decodes a row as the journal's reader does: its checksum was checked, so the encoding need not be.
fn decode(row: &[u8]) -> Fact {
    serde_ipld_dagcbor::from_slice(row).expect("our own row")
}
