//! What a cell does with a few nodes and a few tasks, fact by fact.

#[path = "cell/fixture.rs"]
mod fixture;
#[path = "cell/random.rs"]
mod random;
#[path = "cell/reach.rs"]
mod reach;

use fixture::*;
use wc_cell::{Cell, Command, Event, JobPhase, TaskPhase};
use wc_types::charter::{Charter, Founding};
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
    let commands = world.tell(Event::JobStaged { job, listed: Vec::new() });
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

/// A hand-over to node `to` alone, signed by `from` and accepted by `to`.
fn handover(cell: &Cell, from: &SigningKey, to: u8, epoch: u64, previous: Cid) -> signers::Handover {
    let set = signers::SignerSet {
        cell: cell.id(),
        epoch,
        previous,
        order: record("order", 0),
        threshold: 1,
        members: vec![signers::Signer { node: node_id(to), share: node_id(to).0 }],
        group: node_id(to).0,
    };
    let accepted = node_key(to).sign_bytes(&record_cid(&set).to_bytes());
    signers::Handover { set: Signed::seal(set, from), accepted }
}

#[test]
fn a_hand_over_of_the_signing_key_stands_on_the_ledger_and_one_that_does_not_hold_changes_nothing() {
    let mut world = World::with_nodes(1);
    let founding = world.cell.founding().expect("founded").cid();
    let coordinator = key(4, 0);
    let good = handover(&world.cell, &coordinator, 1, 1, founding);
    let (size, refused) = (world.cell.ledger_size(), |commands: &[Command]| {
        commands
            .iter()
            .any(|command| matches!(command, Command::Answer { refusals, .. } if !refusals.is_empty()))
    });
    // Signed by another, of a later number, or not accepted by the new signer.
    let stranger = handover(&world.cell, &node_key(3), 1, 1, founding);
    let early = handover(&world.cell, &coordinator, 1, 2, founding);
    let unaccepted = signers::Handover { accepted: [1; 64], ..good.clone() };
    for bad in [stranger, early, unaccepted] {
        assert!(refused(&world.tell(Event::SignersChanged(Box::new(bad)))));
        assert_eq!((world.cell.ledger_size(), world.cell.signers().len()), (size, 0));
    }
    let commands = world.tell(Event::SignersChanged(Box::new(good.clone())));
    assert!(!refused(&commands));
    let entry = world.entries.last().expect("posted");
    assert_eq!(entry.kind, EntryKind::SignersChanged { epoch: 1, set: good.set.cid() });
    assert_eq!(world.cell.signer_keys().expect("holds").group, node_id(1).0);
    // The same again does not follow itself; the next is signed by the new key.
    assert!(refused(&world.tell(Event::SignersChanged(Box::new(good.clone())))));
    let next = handover(&world.cell, &node_key(1), 2, 2, good.set.cid());
    assert!(!refused(&world.tell(Event::SignersChanged(Box::new(next)))));
    assert_eq!(world.cell.signers().len(), 2);
    let restored = Cell::restore(&world.cell.snapshot()).expect("restores");
    assert_eq!(restored.signers(), world.cell.signers());
    world.check_replay();
}

/// The record of another cell.
fn other_cell(number: u8, network: &str, founded_at: Timestamp) -> Signed<Founding> {
    let key = key(9, number);
    let founding = Founding {
        network: network.into(),
        coordinator: key.node_id(),
        owner: owner_key(number).account_id(),
        charter: charter(),
        founded_at,
    };
    Signed::seal(founding, &key)
}

#[test]
fn the_younger_of_two_cells_records_that_they_met_once_and_moves_no_credit() {
    let mut world = World::with_nodes(1);
    let own = world.cell.founding().expect("founded").clone();
    let (size, network) = (world.cell.ledger_size(), own.network.clone());
    let earlier = |hours: i64| Timestamp(own.founded_at.0 - hours * 3_600_000_000);
    let forged = Signed::seal(
        Founding { coordinator: node_id(7), ..(*other_cell(1, &network, earlier(1))).clone() },
        &key(9, 1),
    );
    // A copy of this very cell is not another one, nor is a cell of another network, a younger one, or one that nobody signed.
    let nothing =
        [own.clone(), other_cell(1, "elsewhere", earlier(1)), other_cell(1, &network, earlier(-1)), forged];
    for founding in nothing {
        world.tell(Event::CellMet(founding.witnessed()));
        assert_eq!((world.cell.ledger_size(), world.cell.parent()), (size, None));
    }
    let older = other_cell(1, &network, earlier(1));
    let parent = charter::cell_id(&older);
    for _ in 0..2 {
        world.tell(Event::CellMet(older.clone().witnessed()));
        assert_eq!(world.cell.ledger_size(), size + 1, "once is enough");
    }
    let entry = world.entries.last().expect("posted");
    assert_eq!(entry.kind, EntryKind::CellMet { parent, founded_at: earlier(1) });
    assert!(entry.postings.is_empty());
    let met = world.cell.parent().expect("met");
    assert_eq!((met.parent, met.founded_at, met.merged_at), (parent, earlier(1), entry.at));
    // A cell that is older still takes its place; one in between does not; and there is an end to it.
    world.tell(Event::CellMet(other_cell(2, &network, earlier(3)).witnessed()));
    world.tell(Event::CellMet(other_cell(3, &network, earlier(2)).witnessed()));
    assert_eq!(
        (world.cell.ledger_size(), world.cell.parent().expect("met").founded_at),
        (size + 2, earlier(3))
    );
    for number in 10..30 {
        world.tell(Event::CellMet(other_cell(number, &network, earlier(i64::from(number))).witnessed()));
    }
    assert_eq!(world.cell.ledger_size(), size + 8);
    assert_eq!(Cell::restore(&world.cell.snapshot()).expect("restores").parent(), world.cell.parent());
    world.check_replay();
}

#[test]
fn what_a_job_left_behind_is_let_go_once_when_its_time_is_over() {
    // Without an economy nothing else is ever due.
    let mut world = World::new(Charter { economy: None, ..charter() });
    world.join(0);
    world.want(0, 4);
    let manifest = manifest(vec![stage("only", 1, 1)]);
    let job = world.run(manifest.clone());
    let [leased] = world.take(0)[..] else { panic!("one lease") };
    world.report(0, world.result(0, leased, "x"));
    let retention = world.cell.charter().expect("founded").retention;
    let ended_at = world.cell.job(&job).expect("known").ended_at.expect("ended");
    assert_eq!(world.cell.next_deadline(), Some(ended_at.plus(retention)));
    let balance = world.cell.balance(&owner_key(0).account_id());
    let ledger = world.cell.ledger_root();

    world.pass(Millis(retention.0 - 1));
    assert_eq!(world.tell(Event::Tick), [], "a moment too early");
    assert!(!world.cell.job(&job).expect("known").forgotten);
    world.pass(Millis(1));
    assert_eq!(world.tell(Event::Tick), [Command::Forget { job, records: Vec::new() }]);
    assert!(world.cell.job(&job).expect("known").forgotten);
    world.pass(retention);
    assert_eq!(world.tell(Event::Tick), [], "only once");
    assert_eq!(world.cell.next_deadline(), None);

    // What was earned stays, and nobody who kept the manifest can run it again at its submitter's cost.
    assert_eq!(world.cell.balance(&owner_key(0).account_id()), balance);
    assert_eq!(world.cell.ledger_root(), ledger);
    let (again, refusals) = world.submit(manifest);
    assert_eq!(again, Some(job));
    assert_eq!(refusals[0].code, "WC-POLICY-003");
    world.check_replay();
}

#[test]
fn three_replicas_commit_then_reveal_then_agree() {
    let mut world = World::with_nodes(4);
    for number in 0..4 {
        world.want(number, 1);
    }
    let job = world.run(manifest(vec![stage("only", 1, 3)]));
    let leased: Vec<Held> =
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

/// A node and what it holds.
type Held = (u8, (TaskId, LeaseId));

/// A cell in which `nodes` nodes hold the replicas of one task of a job.
fn leased(nodes: u8, stages: Vec<manifest::Stage>) -> (World, JobId, Vec<Held>) {
    let mut world = World::with_nodes(nodes);
    let job = world.run(manifest(stages));
    for number in 0..nodes {
        world.want(number, 1);
    }
    let leased = collect(&mut world, nodes);
    (world, job, leased)
}

fn collect(world: &mut World, nodes: u8) -> Vec<Held> {
    (0..nodes).flat_map(|number| world.take(number).into_iter().map(move |at| (number, at))).collect()
}

/// Commits and reports a result of this name for each replica.
fn finish(world: &mut World, leased: &[Held], name: impl Fn(u8) -> &'static str) {
    for &(number, at) in leased {
        world.commit(number, &world.result(number, at, name(number)));
    }
    for &(number, at) in leased {
        world.report(number, world.result(number, at, name(number)));
    }
}

fn standing(world: &World, number: u8) -> Standing {
    world.cell.node(&node_id(number)).expect("known").standing
}

fn phase(world: &World, job: JobId) -> JobPhase {
    world.cell.job(&job).expect("known").phase
}

fn reason(world: &World, job: JobId) -> String {
    world.cell.job(&job).expect("known").reason.unwrap_or_default()
}

#[test]
fn a_lost_node_is_replaced_and_its_late_report_is_superseded() {
    let mut world = World::with_nodes(2);
    world.want(0, 1);
    let job = world.run(manifest(vec![stage("only", 1, 1)]));
    let [first] = world.take(0)[..] else { panic!("leased") };
    world.want(1, 1);
    world.tell(Event::NodeOffline { node: node_id(0) });
    assert_eq!(world.revoked, [(node_id(0), first.1)]);
    let [second] = world.take(1)[..] else { panic!("leased again") };
    assert!(second.1 > first.1);
    world.join(0);
    world.report(0, world.result(0, first, "x"));
    assert_eq!(phase(&world, job), JobPhase::Leased, "the old lease decides nothing");
    assert_eq!(world.settled, [(node_id(0), first.1)]);
    world.report(1, world.result(1, second, "x"));
    assert_eq!(phase(&world, job), JobPhase::Verified);
    assert_eq!(world.cell.balance(&owner_key(0).account_id()), MicroNcu(0));
    assert_eq!(world.cell.node(&node_id(0)).expect("known").dissented, 0, "no blame");
    world.check_replay();
}

#[test]
fn an_expired_lease_is_revoked_when_its_deadline_ticks() {
    let mut world = World::with_nodes(2);
    world.want(0, 1);
    let job = world.run(manifest(vec![stage("only", 1, 1)]));
    let deadline = world.cell.next_deadline().expect("a lease is out");
    assert_eq!(deadline, START.plus(Millis(300_000 + 3_600_000)));
    world.at = Timestamp(deadline.0 - 1);
    world.tell(Event::Tick);
    assert_eq!(world.revoked, []);
    world.at = deadline;
    world.tell(Event::Tick);
    assert_eq!(world.revoked.len(), 1);
    assert_eq!(world.cell.next_deadline(), Some(midnight()), "nothing but the day");
    world.want(0, 1);
    assert_eq!(world.take(0).len(), 1, "the first lease");
    assert!(world.grants.is_empty(), "the node that let it expire waits for the other");
    world.want(1, 1);
    assert_eq!(world.take(1).len(), 1);
    assert_eq!(phase(&world, job), JobPhase::Leased);
    world.check_replay();
}

#[test]
fn a_liar_is_outvoted_earns_nothing_and_is_quarantined_at_the_second_lie() {
    let (mut world, job, replicas) = leased(3, vec![stage("only", 2, 3)]);
    finish(&mut world, &replicas, |number| if number == 2 { "lie" } else { "x" });
    assert_eq!(standing(&world, 2), Standing::Good);
    for number in 0..3 {
        world.want(number, 2);
    }
    let replicas = collect(&mut world, 3);
    finish(&mut world, &replicas, |number| if number == 2 { "lie" } else { "x" });
    assert_eq!(phase(&world, job), JobPhase::Verified);
    assert_eq!(standing(&world, 2), Standing::Quarantined);
    assert_eq!(world.cell.balance(&owner_key(2).account_id()), MicroNcu(0));
    assert_eq!(world.cell.balance(&owner_key(0).account_id()), MicroNcu(10));
    let results: Vec<_> = world.cell.stage_results(&job, 0).collect();
    assert_eq!(results, [(0, record("x", 0)), (1, record("x", 1))]);
    let last = world.entries.iter().rev().find(|entry| matches!(entry.kind, EntryKind::NodeStanding { .. }));
    let expected = EntryKind::NodeStanding { node: node_id(2), standing: Standing::Quarantined };
    assert_eq!(last.map(|entry| &entry.kind), Some(&expected));
    world.run({
        let mut next = manifest(vec![stage("only", 1, 1)]);
        next.name = "next".into();
        next
    });
    world.want(2, 5);
    assert_eq!(world.take(2), [], "a quarantined node gets nothing");
    world.check_replay();
}

#[test]
fn a_copied_commitment_opens_for_nobody_but_its_author() {
    let (mut world, _, replicas) = leased(3, vec![stage("only", 1, 3)]);
    let honest = world.result(replicas[0].0, replicas[0].1, "x");
    let copied = outcome::Commitment::new(honest.result().expect("result"), &honest.salt, &honest.node);
    let (copier, at) = replicas[1];
    world.commit(replicas[0].0, &honest);
    world.tell(Event::Committed { node: node_id(copier), items: vec![(at.1, copied)] });
    world.commit(replicas[2].0, &world.result(replicas[2].0, replicas[2].1, "x"));
    let mut copy = world.result(copier, at, "x");
    copy.salt = honest.salt;
    world.report(copier, copy);
    assert_eq!(world.cell.node(&node_id(copier)).expect("known").dissented, 1);
    assert_eq!(world.settled, [(node_id(copier), at.1)]);
    for (number, at) in [replicas[0], replicas[2]] {
        world.report(number, world.result(number, at, "x"));
    }
    assert_eq!(world.cell.balance(&owner_key(copier).account_id()), MicroNcu(0));
    assert_eq!(world.cell.result(&at.0), Some(record("x", 0)));
    world.check_replay();
}

#[test]
fn a_result_without_commitment_or_against_it_is_refused() {
    let (mut world, _, replicas) = leased(3, vec![stage("only", 1, 3)]);
    world.report(replicas[0].0, world.result(replicas[0].0, replicas[0].1, "x"));
    assert_eq!(world.cell.node(&node_id(replicas[0].0)).expect("known").dissented, 1);
    let (fickle, at) = replicas[1];
    world.commit(fickle, &world.result(fickle, at, "x"));
    world.commit(fickle, &world.result(fickle, at, "y"));
    world.report(fickle, world.result(fickle, at, "y"));
    assert_eq!(world.cell.node(&node_id(fickle)).expect("known").dissented, 1);
    let view = world.cell.task(&at.0).expect("known");
    assert_eq!((view.phase, view.faults.len()), (TaskPhase::Running, 2));
    world.check_replay();
}

#[test]
fn a_majority_waits_a_little_for_a_slow_replica_and_then_reveals() {
    let (mut world, job, replicas) = leased(3, vec![stage("only", 1, 3)]);
    for &(number, at) in &replicas[..2] {
        world.commit(number, &world.result(number, at, "x"));
    }
    assert_eq!(world.reveals, []);
    let deadline = world.cell.next_deadline().expect("the grace");
    assert_eq!(deadline, START.plus(Millis(10_000)));
    world.at = deadline;
    world.tell(Event::Tick);
    assert_eq!(world.reveals.len(), 2);
    for &(number, at) in &replicas[..2] {
        world.report(number, world.result(number, at, "x"));
    }
    assert_eq!(phase(&world, job), JobPhase::Verified);
    let (slow, at) = replicas[2];
    world.commit(slow, &world.result(slow, at, "x"));
    assert_eq!(
        world.reveals.last(),
        Some(&(node_id(slow), at.1)),
        "asked at once: it is for its record only"
    );
    world.check_replay();
}

#[test]
fn two_of_three_may_decide_when_there_is_no_third_node() {
    let (mut world, job, replicas) = leased(2, vec![stage("only", 1, 3)]);
    assert_eq!(replicas.len(), 2);
    finish(&mut world, &replicas, |_| "x");
    assert_eq!(phase(&world, job), JobPhase::Verified);
    world.join(2);
    world.want(2, 4);
    assert_eq!(world.take(2), [], "nothing is left to do");
    world.check_replay();
}

#[test]
fn without_majority_the_task_goes_to_other_nodes_and_nobody_is_quarantined() {
    let (mut world, job, replicas) = leased(6, vec![stage("only", 1, 3)]);
    let first: Vec<u8> = replicas.iter().map(|replica| replica.0).collect();
    finish(&mut world, &replicas, |number| ["a", "b", "c", "d", "e", "f"][usize::from(number)]);
    assert_eq!(world.settled.len(), 3);
    for number in 0..6 {
        world.want(number, 1);
    }
    let again = collect(&mut world, 6);
    assert_eq!(again.len(), 3);
    assert!(again.iter().all(|replica| !first.contains(&replica.0)), "{again:?} after {first:?}");
    finish(&mut world, &again, |_| "x");
    assert_eq!(phase(&world, job), JobPhase::Verified);
    for number in 0..6 {
        assert_eq!(standing(&world, number), Standing::Good);
    }
    world.check_replay();
}

#[test]
fn a_task_on_which_nobody_ever_agrees_fails_after_its_retries() {
    let (mut world, job, mut replicas) = leased(3, vec![stage("only", 1, 3)]);
    for _ in 0..4 {
        assert_eq!(phase(&world, job), JobPhase::Leased);
        finish(&mut world, &replicas, |number| ["a", "b", "c"][usize::from(number)]);
        for number in 0..3 {
            world.want(number, 1);
        }
        replicas = collect(&mut world, 3);
    }
    assert_eq!(phase(&world, job), JobPhase::Failed);
    assert!(reason(&world, job).contains("no majority found the same result"), "{}", reason(&world, job));
    assert_eq!(replicas, []);
    world.check_replay();
}

#[test]
fn a_task_that_fails_everywhere_fails_its_job_and_names_each_machine() {
    let mut world = World::with_nodes(4);
    for number in 0..4 {
        world.want(number, 9);
    }
    let job = world.run(manifest(vec![stage("only", 1, 1)]));
    let mut tried = Vec::new();
    while let [(number, at)] = collect(&mut world, 4)[..] {
        tried.push(number);
        world.fail(number, at, Failure::InputMissing("bafy".into()));
    }
    assert_eq!(tried.len(), 4, "the first attempt and three retries");
    tried.sort_unstable();
    tried.dedup();
    assert_eq!(tried.len(), 4, "on different nodes");
    assert_eq!(phase(&world, job), JobPhase::Failed);
    for number in tried {
        assert!(reason(&world, job).contains(&node_id(number).to_string()));
    }
    let view = world.cell.job(&job).expect("known");
    assert_eq!((view.stages[0].failed, view.stages[0].pending), (1, 0));
    world.check_replay();
}

#[test]
fn a_lone_node_may_retry_what_it_failed() {
    let mut world = World::with_nodes(1);
    world.want(0, 9);
    let job = world.run(manifest(vec![stage("only", 1, 1)]));
    let [first] = world.take(0)[..] else { panic!("leased") };
    world.fail(0, first, Failure::SandboxUnavailable("busy".into()));
    let [second] = world.take(0)[..] else { panic!("leased again") };
    world.report(0, world.result(0, second, "x"));
    assert_eq!(phase(&world, job), JobPhase::Verified);
    world.check_replay();
}

#[test]
fn an_unsuccessful_exit_on_which_all_agree_fails_the_job() {
    let (mut world, job, replicas) = leased(3, vec![stage("only", 5, 3)]);
    world.want(0, 3);
    let extra = world.take(0);
    assert!(!extra.is_empty());
    for &(number, at) in &replicas {
        let outcome = world.outcome(number, at, Ending::Result { record: record("bad", 0), success: false });
        world.commit(number, &outcome);
    }
    for &(number, at) in &replicas {
        let outcome = world.outcome(number, at, Ending::Result { record: record("bad", 0), success: false });
        world.report(number, outcome);
    }
    assert_eq!(phase(&world, job), JobPhase::Failed);
    assert_eq!(reason(&world, job), "task 0 of stage only exits unsuccessfully on every replica");
    for (_, lease) in extra {
        assert!(world.revoked.contains(&(node_id(0), lease)));
    }
    assert_eq!(world.cell.balance(&owner_key(replicas[0].0).account_id()), MicroNcu(5), "the work was done");
    assert_eq!(world.cell.next_deadline(), Some(midnight()), "nothing but the day");
    world.check_replay();
}

#[test]
fn replicas_that_differ_only_in_success_do_not_agree() {
    let (mut world, job, replicas) = leased(3, vec![stage("only", 1, 3)]);
    let outcomes: Vec<_> = replicas
        .iter()
        .map(|&(number, at)| {
            let success = number != replicas[0].0;
            (number, world.outcome(number, at, Ending::Result { record: record("x", 0), success }))
        })
        .collect();
    for (number, outcome) in &outcomes {
        world.commit(*number, outcome);
    }
    for (number, outcome) in outcomes {
        world.report(number, outcome);
    }
    assert_eq!(phase(&world, job), JobPhase::Verified);
    assert_eq!(world.cell.node(&node_id(replicas[0].0)).expect("known").dissented, 1);
    world.check_replay();
}

#[test]
fn a_reduce_stage_starts_when_its_producers_are_complete_and_reads_their_list() {
    let mut world = World::with_nodes(2);
    let mut reduce = stage("reduce", 1, 1);
    reduce.inputs.push(Input { name: "parts".into(), source: InputSource::Stage(0) });
    let job = world.run(manifest(vec![stage("map", 3, 1), reduce]));
    world.want(0, 9);
    let parts = world.take(0);
    assert_eq!(parts.len(), 3, "the reduce task waits");
    let explanation = world.cell.explain(&job).expect("known");
    assert_eq!(explanation.stages[1].waits_for.as_deref(), Some("stage map"));
    let mut commands = Vec::new();
    for part in parts {
        commands = world.report(0, world.result(0, part, "part"));
    }
    let list = grant::GatherList { results: (0..3).map(|index| record("part", index)).collect() };
    assert!(commands.contains(&Command::Keep { job, record: to_canonical(&list) }));
    let granted = world.grants.last().expect("granted at once");
    assert_eq!((granted.stage, granted.gathers.len()), (1, 1));
    assert_eq!(granted.gathers[0].list, record_cid(&list));
    let [reduce] = world.take(0)[..] else { panic!("leased") };
    world.report(0, world.result(0, reduce, "sum"));
    assert_eq!(phase(&world, job), JobPhase::Verified);
    world.check_replay();
}

#[test]
fn only_the_submitter_cancels_and_its_reserve_comes_back() {
    let mut world = World::new(charter());
    // The submitter owns node 0 and earns first.
    let mut mine = enrolment(0, 0);
    let delegation =
        node::Delegation { owner: submitter_key().account_id(), node: node_id(0), issued_at: START };
    mine.delegation = Signed::seal(delegation, &submitter_key());
    world.enrol(mine, 0);
    world.want(0, 3);
    world.run(manifest(vec![stage("earn", 1, 1)]));
    let [earning] = world.take(0)[..] else { panic!("leased") };
    world.report(0, world.result(0, earning, "x"));
    let me = submitter_key().account_id();
    assert_eq!(world.cell.balance(&me), MicroNcu(5));

    let mut second = manifest(vec![stage("spend", 2, 1)]);
    second.max_total = Some(MicroNcu(3));
    let job = world.run(second);
    assert_eq!(world.cell.balance(&me), MicroNcu(2));
    assert_eq!(world.cell.job(&job).expect("known").reserved, MicroNcu(3));
    let stranger = owner_key(9).account_id();
    let commands = world.tell(Event::JobCancelled { job, by: stranger });
    assert!(
        matches!(&commands[..], [Command::Answer { refusals, .. }] if refusals[0].code == "WC-POLICY-015")
    );
    let [spending, other] = world.take(0)[..] else { panic!("leased") };
    world.report(0, world.result(0, spending, "x"));
    let view = world.cell.job(&job).expect("known");
    assert_eq!((view.charged, view.awarded, view.reserved), (MicroNcu(3), MicroNcu(5), MicroNcu(0)));

    let commands = world.tell(Event::JobCancelled { job, by: me });
    assert_eq!(commands[0], Command::Answer { refusals: vec![], job: Some(job) });
    assert_eq!(world.revoked, [(node_id(0), other.1)]);
    assert_eq!(phase(&world, job), JobPhase::Cancelled);
    let again = world.tell(Event::JobCancelled { job, by: me });
    assert!(matches!(&again[..], [Command::Answer { refusals, .. }] if refusals[0].code == "WC-POLICY-016"));

    let mut third = manifest(vec![stage("unused", 1, 1)]);
    third.name = "third".into();
    let job = world.run(third);
    assert_eq!(world.cell.balance(&me), MicroNcu(0), "all of it is set aside");
    world.tell(Event::JobCancelled { job, by: me });
    assert_eq!(world.cell.balance(&me), MicroNcu(7));
    world.check_replay();
}

#[test]
fn an_array_is_spread_over_the_nodes_that_wait() {
    let mut world = World::with_nodes(4);
    for number in 0..4 {
        world.want(number, 100);
    }
    let job = world.run(manifest(vec![stage("tiles", 64, 1)]));
    for number in 0..4 {
        assert_eq!(world.take(number).len(), 16);
    }
    let view = world.cell.job(&job).expect("known");
    assert_eq!((view.stages[0].active, view.stages[0].replicas_running), (64, 64));
    world.check_replay();
}

#[test]
fn a_node_gets_no_more_than_it_asked_for_and_no_task_twice() {
    let mut world = World::with_nodes(3);
    world.run(manifest(vec![stage("tiles", 1000, 3)]));
    world.want(0, 5);
    assert_eq!(world.take(0).len(), 5);
    world.want(0, 600);
    let more = world.take(0);
    assert_eq!(more.len(), 600);
    assert_eq!(more[0].0.index, 5);
    world.want(1, 10);
    let indices: Vec<u32> = world.take(1).iter().map(|at| at.0.index).collect();
    assert_eq!(indices, (0..10).collect::<Vec<_>>(), "tasks that were begun come first");
    world.check_replay();
}

#[test]
fn returned_leases_blame_nobody_and_wait_for_the_next_wish() {
    let mut world = World::with_nodes(1);
    world.want(0, 4);
    let job = world.run(manifest(vec![stage("tiles", 2, 1)]));
    let leases: Vec<LeaseId> = world.take(0).iter().map(|at| at.1).collect();
    world.tell(Event::Returned { node: node_id(0), leases });
    assert!(world.grants.is_empty(), "not handed straight back");
    assert_eq!(phase(&world, job), JobPhase::Queued);
    world.want(0, 1);
    assert_eq!(world.take(0).len(), 2);
    world.check_replay();
}

#[test]
fn a_paused_node_gets_nothing_until_it_resumes() {
    let mut world = World::with_nodes(1);
    world.want(0, 4);
    world.tell(Event::NodePaused { node: node_id(0), paused: true });
    let job = world.run(manifest(vec![stage("only", 1, 1)]));
    assert_eq!(world.take(0), []);
    let explanation = world.cell.explain(&job).expect("known");
    let against = &explanation.stages[0].waiting[0].nodes[0];
    assert_eq!(against.1.as_deref(), Some("is paused by its owner"));
    world.tell(Event::NodePaused { node: node_id(0), paused: false });
    assert_eq!(world.take(0).len(), 1);
    world.check_replay();
}

#[test]
fn explain_says_what_each_node_lacks() {
    let mut world = World::with_nodes(0);
    world.enrol(enrolment(0, 0), 0);
    world.enrol(enrolment(1, 0), 1);
    let mut choosy = enrolment(2, 2);
    choosy.consents = vec![manifest::WorkClass::Scientific];
    world.enrol(choosy, 2);
    for number in 0..3 {
        world.want(number, 1);
    }
    let job = world.run(manifest(vec![stage("only", 1, 3)]));
    let explanation = world.cell.explain(&job).expect("known");
    let said: Vec<String> = explanation.stages[0].waiting[0]
        .nodes
        .iter()
        .map(|(_, why)| why.clone().unwrap_or_default())
        .collect();
    let few = "needs 2 nodes apart from each other on its engine, the cell has 1";
    assert_eq!(said, [few, few, "does not consent to class general"]);
    world.enrol(enrolment(3, 3), 3);
    world.want(3, 1);
    assert_eq!(collect(&mut world, 4).len(), 2, "two owners: enough for a majority of three");
    let explanation = world.cell.explain(&job).expect("known");
    let said: Vec<String> = explanation.stages[0].waiting[0]
        .nodes
        .iter()
        .map(|(_, why)| why.clone().unwrap_or_default())
        .collect();
    assert!(
        said.contains(&"its owner already runs a replica; needs a node of another owner".to_owned()),
        "{said:?}"
    );
    world.check_replay();
}

#[test]
fn duplicates_and_junk_change_nothing() {
    let (mut world, job, replicas) = leased(3, vec![stage("only", 1, 3)]);
    let (refused, refusals) = world.submit(manifest(vec![stage("only", 1, 3)]));
    assert_eq!((refused, refusals[0].code.as_str()), (Some(job), "WC-POLICY-003"));
    finish(&mut world, &replicas, |_| "x");
    let before = world.cell.ledger_size();
    let settled = world.settled.len();
    for &(number, at) in &replicas {
        world.commit(number, &world.result(number, at, "x"));
        world.report(number, world.result(number, at, "x"));
    }
    assert_eq!(world.settled.len(), settled + 6, "settled again, so that nodes may forget");
    for event in [
        Event::JobStaged { job, listed: Vec::new() },
        Event::StagingFailed { job, reason: "late".into() },
        Event::JobStaged { job: JobId([9; 32]), listed: Vec::new() },
        Event::NodeOffline { node: node_id(77) },
        Event::WorkWanted { node: node_id(77), replicas: u32::MAX },
        Event::Returned { node: node_id(0), leases: vec![LeaseId(u64::MAX)] },
        Event::Tick,
    ] {
        world.tell(event);
    }
    // Somebody else signs for node 0, and node 0 reports on a lease of node 1.
    let forged = world.result(0, replicas[0].1, "lie");
    let forged = Signed::seal(forged, &node_key(9)).witnessed();
    world.tell(Event::Reported { outcomes: vec![forged] });
    assert_eq!(world.cell.ledger_size(), before);
    let last = world.facts.last().expect("facts").clone();
    let hash = world.cell.state_hash();
    world.cell.apply(&last, &mut Vec::new());
    assert_eq!(world.cell.state_hash(), hash, "a fact is applied once");
    world.check_replay();
}

#[test]
fn a_report_under_another_nodes_lease_is_nobodys() {
    let (mut world, _, replicas) = leased(3, vec![stage("only", 1, 3)]);
    let (thief, _) = replicas[0];
    let theirs = replicas[1].1;
    world.report(thief, world.result(thief, theirs, "lie"));
    assert_eq!(world.settled, [(node_id(thief), theirs.1)]);
    assert_eq!(world.cell.task(&theirs.0).expect("known").replicas.len(), 3);
    assert_eq!(world.cell.node(&node_id(thief)).expect("known").dissented, 0);
    world.check_replay();
}

#[test]
fn a_deadline_ends_a_job_that_is_not_done() {
    let mut world = World::with_nodes(1);
    let mut urgent = manifest(vec![stage("only", 1, 1)]);
    urgent.deadline = Some(START.plus(Millis(1000)));
    let job = world.run(urgent);
    assert_eq!(world.cell.next_deadline(), Some(START.plus(Millis(1000))));
    world.pass(Millis(1000));
    world.tell(Event::Tick);
    assert_eq!((phase(&world, job), reason(&world, job).as_str()), (JobPhase::Failed, "its deadline passed"));
    assert_eq!(world.cell.next_deadline(), Some(midnight()), "nothing but the day");
    world.check_replay();
}

#[test]
fn jobs_that_waited_too_long_get_their_share_whatever_their_score() {
    let mut world = World::with_nodes(1);
    let mut old = manifest(vec![stage("old", 100_000, 1)]);
    // Large, so that it ranks below everything else.
    old.stages[0].resources.wall_clock = Millis(24 * 3_600_000);
    let old = world.run(old);
    world.pass(Millis(8 * 3_600_000));
    let mut young = manifest(vec![stage("young", 100, 1)]);
    young.stages[0].resources.fuel = Some(Fuel(1));
    young.submitted_at = world.at;
    let young = world.run(young);
    world.want(0, 50);
    let leases = world.take(0);
    let of = |job: JobId| leases.iter().filter(|at| at.0.job == job).count();
    assert_eq!((of(old), of(young)), (10, 40));
    world.check_replay();
}

#[test]
fn an_untrusted_cell_wants_five_replicas() {
    let mut world = World::new(Charter::default());
    let (job, refusals) = world.submit(manifest(vec![stage("only", 1, 3)]));
    assert_eq!((job, refusals[0].code.as_str()), (None, "WC-POLICY-009"));
    let (job, refusals) = world.submit(manifest(vec![stage("only", 1, 5)]));
    assert!(job.is_some() && refusals.is_empty());
    world.check_replay();
}

#[test]
fn a_broken_snapshot_is_an_error() {
    let world = World::with_nodes(2);
    let bytes = world.cell.snapshot();
    assert!(Cell::restore(&bytes).is_ok());
    assert!(Cell::restore(&bytes[..bytes.len() - 1]).is_err());
    assert!(Cell::restore(&[]).is_err());
}

#[test]
fn a_node_that_joins_makes_work_possible_for_those_that_wait() {
    let mut world = World::new(charter());
    for number in 0..2 {
        world.enrol(enrolment(number, 0), number);
        world.want(number, 1);
    }
    world.run(manifest(vec![stage("only", 1, 3)]));
    assert!(world.grants.is_empty(), "one owner is no majority of three");
    world.enrol(enrolment(2, 2), 2);
    assert_eq!(collect(&mut world, 2).len(), 1, "granted to a node that asked before");
    world.check_replay();
}

#[test]
fn a_task_moves_to_another_engine_when_its_own_has_too_few_nodes_left() {
    let mut world = World::new(charter());
    for number in 0..6 {
        let mut enrolment = enrolment(number, number);
        enrolment.capabilities.engine = if number < 3 { "old".into() } else { "new".into() };
        world.enrol(enrolment, number);
    }
    let job = world.run(manifest(vec![stage("only", 1, 5)]));
    for number in 0..3 {
        world.want(number, 1);
    }
    let old = collect(&mut world, 6);
    assert_eq!(old.len(), 3);
    for &(number, at) in &old[..2] {
        world.commit(number, &world.result(number, at, "x"));
    }
    world.want(3, 1);
    assert_eq!(world.take(3), [], "three of five may still agree on the old engine");
    world.tell(Event::NodeOffline { node: node_id(2) });
    let first = world.take(3);
    assert_eq!(first.len(), 1, "now they cannot");
    assert!(old[..2].iter().all(|(number, at)| world.revoked.contains(&(node_id(*number), at.1))));
    world.want(4, 1);
    world.want(5, 1);
    let mut new: Vec<Held> = first.into_iter().map(|at| (3, at)).collect();
    new.extend(collect(&mut world, 6));
    assert_eq!(new.len(), 3);
    finish(&mut world, &new, |_| "x");
    assert_eq!(phase(&world, job), JobPhase::Verified);
    assert!((0..6).all(|number| world.cell.node(&node_id(number)).expect("known").dissented == 0));
    world.check_replay();
}

#[test]
fn who_commits_in_time_does_not_expire_while_others_are_missing() {
    let (mut world, job, replicas) = leased(2, vec![stage("only", 1, 5)]);
    assert_eq!(replicas, [], "two nodes are no majority of five");
    world.join(2);
    let replicas = collect(&mut world, 3);
    assert_eq!(replicas.len(), 2);
    for &(number, at) in &replicas {
        world.commit(number, &world.result(number, at, "x"));
    }
    for _ in 0..30 {
        world.at = world.cell.next_deadline().expect("leases are watched");
        world.tell(Event::Tick);
    }
    assert_eq!(world.revoked, []);
    world.want(2, 1);
    let third = collect(&mut world, 3);
    world.commit(2, &world.result(2, third[0].1, "x"));
    assert_eq!(world.reveals.len(), 3);
    for &(number, at) in replicas.iter().chain(&third) {
        world.report(number, world.result(number, at, "x"));
    }
    assert_eq!(phase(&world, job), JobPhase::Verified);
    world.check_replay();
}

#[test]
fn who_commits_and_does_not_reveal_is_replaced_soon() {
    let (mut world, job, replicas) = leased(3, vec![stage("only", 1, 3)]);
    for &(number, at) in &replicas {
        world.commit(number, &world.result(number, at, "x"));
    }
    let (number, at) = replicas[0];
    world.report(number, world.result(number, at, "x"));
    world.at = world.cell.next_deadline().expect("reveals are watched");
    assert_eq!(world.at, START.plus(Millis(300_000)), "not the hour that the task may run");
    world.tell(Event::Tick);
    assert_eq!(world.revoked.len(), 2);
    for number in 0..3 {
        world.want(number, 1);
    }
    let again = collect(&mut world, 3);
    assert_eq!(again.len(), 2, "in a cell of three, those who failed may try again");
    finish(&mut world, &again, |_| "x");
    assert_eq!(phase(&world, job), JobPhase::Verified);
    world.check_replay();
}

/// The coordinator's next word.
fn direct(world: &mut World, signer: &SigningKey, seq: u64, halt: bool, bans: &[u8]) -> Vec<Command> {
    let at = world.at;
    let mut bans: Vec<directive::Ban> = bans
        .iter()
        .map(|number| directive::Ban {
            node: node_id(*number),
            reason: directive::BanReason::ByzantineBehavior,
            at,
        })
        .collect();
    bans.sort_by_key(|ban| ban.node);
    let halt = halt.then(|| directive::Halt { reason: "a worm was seen in the lab".into(), at });
    let directives = directive::Directives { cell: world.cell.id(), seq, at, halt, bans };
    world.tell(Event::Directed(Box::new(Signed::seal(directives, signer).witnessed())))
}

fn is_refused(commands: &[Command]) -> bool {
    commands.iter().any(|command| matches!(command, Command::Answer { refusals, .. } if !refusals.is_empty()))
}

#[test]
fn a_halted_cell_grants_nothing_finishes_what_runs_and_goes_on_when_it_is_resumed() {
    let coordinator = key(4, 0);
    let mut world = World::with_nodes(2);
    world.want(0, 1);
    let job = world.run(manifest(vec![stage("tiles", 2, 1)]));
    let [running] = world.take(0)[..] else { panic!("leased") };
    assert!(!is_refused(&direct(&mut world, &coordinator, 1, true, &[])));
    world.want(0, 4);
    world.want(1, 4);
    world.join(2);
    world.want(2, 4);
    assert!(world.grants.is_empty(), "nothing new");
    let waits = world.cell.explain(&job).expect("known").stages[0].waits_for.clone();
    assert!(waits.expect("it waits").contains("a worm was seen in the lab"));
    world.report(0, world.result(0, running, "x"));
    assert_eq!(world.cell.result(&running.0), Some(record("x", 0)), "what ran counts");
    let restored = Cell::restore(&world.cell.snapshot()).expect("restores");
    assert_eq!(restored.directives(), world.cell.directives());
    // Said before, older, or said by somebody else: nothing changes.
    assert!(is_refused(&direct(&mut world, &coordinator, 1, false, &[])));
    assert!(is_refused(&direct(&mut world, &node_key(1), 2, false, &[])));
    assert!(world.grants.is_empty());
    assert!(!is_refused(&direct(&mut world, &coordinator, 2, false, &[])));
    assert_eq!(world.grants.len(), 1, "whoever asked meanwhile is answered");
    world.check_replay();
}

#[test]
fn a_banned_node_loses_its_lease_to_another_at_once_and_may_not_join() {
    let coordinator = key(4, 0);
    let mut world = World::with_nodes(2);
    world.want(0, 1);
    let job = world.run(manifest(vec![stage("only", 1, 1)]));
    let [first] = world.take(0)[..] else { panic!("leased") };
    world.want(1, 1);
    direct(&mut world, &coordinator, 1, false, &[0]);
    assert_eq!(world.revoked, [(node_id(0), first.1)]);
    let [second] = world.take(1)[..] else { panic!("leased again") };
    assert!(is_refused(&world.join(0)));
    world.want(0, 4);
    assert!(!world.cell.node(&node_id(0)).expect("known").online);
    let against = world.cell.explain(&job).expect("known").stages[0].waiting.first().cloned();
    assert!(against.is_none(), "it runs");
    world.report(1, world.result(1, second, "x"));
    assert_eq!(phase(&world, job), JobPhase::Verified);
    direct(&mut world, &coordinator, 2, false, &[]);
    assert!(!is_refused(&world.join(0)), "lifted");
    world.check_replay();
}
