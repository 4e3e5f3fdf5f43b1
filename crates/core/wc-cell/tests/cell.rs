//! What a cell does with a few nodes and a few tasks, fact by fact.

#[path = "cell/fixture.rs"]
mod fixture;

use fixture::*;
use wc_cell::{Cell, Command, Event, JobPhase, TaskPhase};
use wc_types::entry::{EntryKind, JobEnd, Standing};
use wc_types::manifest::{Input, InputSource};
use wc_types::outcome::{Ending, Failure};
use wc_types::*;

fn decisions(commands: &[Command]) -> Vec<&receipt::Verdict> {
    commands
        .iter()
        .filter_map(|command| match command {
            Command::Decide { verdict, .. } => Some(verdict),
            _ => None,
        })
        .collect()
}

#[test]
fn a_single_task_with_one_replica_runs_and_is_paid() {
    let mut world = World::with_nodes(1);
    world.want(0, 4);
    let (job, _) = world.submit(manifest(vec![stage("only", 1, 1)]));
    let job = job.expect("admitted");
    assert_eq!(world.cell.job(&job).expect("known").phase, JobPhase::Staging);
    let commands = world.tell(Event::JobStaged { job });
    let [Command::Grant(grant)] = commands.as_slice() else { panic!("one grant, not {commands:?}") };
    assert!(!grant.commit_first);
    assert_eq!(world.cell.job(&job).expect("known").phase, JobPhase::Leased);

    let [leased] = world.take(0)[..] else { panic!("one lease") };
    let commands = world.report(0, world.result(0, leased, "x"));
    let [verdict] = decisions(&commands)[..] else { panic!("one verdict") };
    assert_eq!(verdict.agreeing.len(), 1);
    assert_eq!(verdict.agreeing[0].awarded, MicroNcu(5));
    assert_eq!(world.cell.balance(&owner_key(0).account_id()), MicroNcu(5));
    assert_eq!(world.cell.result(&leased.0), Some(record("x", 0)));
    let view = world.cell.job(&job).expect("known");
    assert_eq!((view.phase, view.awarded, view.charged), (JobPhase::Verified, MicroNcu(5), MicroNcu(0)));
    assert!(commands.contains(&Command::JobEnded { job, end: JobEnd::Completed, reason: None }));
    assert!(commands.contains(&Command::Settled { node: node_id(0), leases: vec![leased.1] }));
    world.check_replay();
}

#[test]
fn three_replicas_commit_then_reveal_then_agree() {
    let mut world = World::with_nodes(4);
    for number in 0..4 {
        world.want(number, 1);
    }
    let job = world.run(manifest(vec![stage("only", 1, 3)]));
    let leased: Vec<(u8, (TaskId, LeaseId))> =
        (0..4).flat_map(|number| world.take(number).into_iter().map(move |at| (number, at))).collect();
    assert_eq!(leased.len(), 3);
    for (position, &(number, at)) in leased.iter().enumerate() {
        assert!(world.reveals.is_empty(), "nobody reveals before all {position} are bound");
        world.commit(number, &world.result(number, at, "x"));
    }
    assert_eq!(world.reveals.len(), 3);
    assert_eq!(world.cell.job(&job).expect("known").phase, JobPhase::Verifying);
    for &(number, at) in &leased[..2] {
        world.report(number, world.result(number, at, "x"));
    }
    assert_eq!(world.cell.job(&job).expect("known").phase, JobPhase::Verified);
    assert_eq!(world.settled.len(), 2);
    let (late, at) = leased[2];
    world.report(late, world.result(late, at, "x"));
    assert_eq!(world.settled.len(), 3);
    assert_eq!(
        world.cell.balance(&owner_key(late).account_id()),
        MicroNcu(0),
        "late agreement earns nothing"
    );
    assert_eq!(world.cell.node(&node_id(late)).expect("known").agreed, 1);
    world.check_replay();
}
