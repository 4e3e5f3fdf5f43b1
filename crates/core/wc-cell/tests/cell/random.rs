//! Whatever is told in whatever order, a cell stays sound and replays to the same bytes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use wc_cell::{Command, Event};
use wc_types::entry::Holder;
use wc_types::outcome::{Ending, Failure};
use wc_types::*;

use crate::fixture::*;

const NODES: u8 = 5;

/// One thing that happens, in small numbers.
#[derive(Clone, Debug)]
enum Step {
    Join(u8),
    Gone(u8),
    Pause(u8, bool),
    Reached(u8, usize, bool),
    Submit { tasks: u32, replicas: u8, stages: u8, heavy: bool },
    Cancel(usize),
    Want(u8, u32),
    Commit { pick: usize, lie: bool },
    Report { pick: usize, lie: bool },
    Fail(usize),
    Return(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES;
    prop_oneof![
        2 => node.clone().prop_map(Step::Join),
        1 => node.clone().prop_map(Step::Gone),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, paused)| Step::Pause(node, paused)),
        2 => (node.clone(), 0usize..3, any::<bool>())
            .prop_map(|(node, reach, inspected)| Step::Reached(node, reach, inspected)),
        2 => (1u32..6, 1u8..6, 1u8..3, any::<bool>())
            .prop_map(|(tasks, replicas, stages, heavy)| Step::Submit { tasks, replicas, stages, heavy }),
        1 => (0usize..8).prop_map(Step::Cancel),
        6 => (node, 0u32..8).prop_map(|(node, replicas)| Step::Want(node, replicas)),
        10 => (any::<usize>(), prop::bool::weighted(0.1)).prop_map(|(pick, lie)| Step::Commit { pick, lie }),
        10 => (any::<usize>(), prop::bool::weighted(0.1)).prop_map(|(pick, lie)| Step::Report { pick, lie }),
        1 => any::<usize>().prop_map(Step::Fail),
        1 => any::<usize>().prop_map(Step::Return),
        2 => (0u64..4_000_000).prop_map(Step::Pass),
    ]
}

/// Everything that any node was ever granted, so that stale and strange reports happen too.
fn granted(world: &World) -> Vec<(u8, (TaskId, LeaseId))> {
    let number = |id: NodeId| (0..NODES).find(|&number| node_id(number) == id).expect("known");
    let mut all = Vec::new();
    for grant in &world.grants {
        for term in &grant.leases {
            let task = TaskId { job: grant.job, stage: grant.stage, index: term.index };
            all.push((number(grant.node), (task, term.lease)));
        }
    }
    all
}

fn perform(world: &mut World, jobs: &mut Vec<JobId>, step: Step) {
    let all = granted(world);
    let pick = |pick: usize| all.get(pick % all.len().max(1)).copied();
    let name = |lie: bool| if lie { "lie" } else { "truth" };
    match step {
        Step::Join(number) => drop(world.join(number)),
        Step::Gone(number) => drop(world.tell(Event::NodeOffline { node: node_id(number) })),
        Step::Pause(number, paused) => {
            world.tell(Event::NodePaused { node: node_id(number), paused });
        }
        Step::Reached(number, reach, inspected) => {
            let path = node::Path { reach: node::Reach::ALL[reach], rtt: None, inspected };
            world.tell(Event::NodeReached { node: node_id(number), path });
        }
        Step::Submit { tasks, replicas, stages, heavy } => {
            let mut list = vec![stage("map", tasks, replicas)];
            if heavy {
                list[0].workload.bytes = Bytes(9 << 20);
            }
            if stages == 2 {
                let mut reduce = stage("reduce", 1, replicas);
                let source = manifest::InputSource::Stage(0);
                reduce.inputs.push(manifest::Input { name: "parts".into(), source });
                list.push(reduce);
            }
            let mut manifest = manifest(list);
            manifest.submitted_at = world.at;
            manifest.name = format!("job{}", jobs.len());
            jobs.push(world.run(manifest));
        }
        Step::Cancel(pick) => {
            if let Some(&job) = jobs.get(pick) {
                world.tell(Event::JobCancelled { job, by: submitter_key().account_id() });
            }
        }
        Step::Want(number, replicas) => drop(world.want(number, replicas)),
        Step::Commit { pick: at, lie } => {
            if let Some((number, at)) = pick(at) {
                world.commit(number, &world.result(number, at, name(lie)));
            }
        }
        Step::Report { pick: at, lie } => {
            if let Some((number, at)) = pick(at) {
                world.report(number, world.result(number, at, name(lie)));
            }
        }
        Step::Fail(at) => {
            if let Some((number, at)) = pick(at) {
                world.report(number, world.outcome(number, at, Ending::Failed(Failure::Preempted)));
            }
        }
        Step::Return(at) => {
            if let Some((number, (_, lease))) = pick(at) {
                world.tell(Event::Returned { node: node_id(number), leases: vec![lease] });
            }
        }
        Step::Pass(millis) => {
            world.pass(Millis(millis));
            world.tell(Event::Tick);
        }
    }
}

fn check(world: &World) -> Result<(), TestCaseError> {
    let mut balances: BTreeMap<Holder, i64> = BTreeMap::new();
    for (position, entry) in world.entries.iter().enumerate() {
        prop_assert_eq!(entry.index, position as u64);
        prop_assert_eq!(entry.postings.iter().map(|posting| posting.amount).sum::<i64>(), 0);
        for posting in &entry.postings {
            let balance = balances.entry(posting.holder).or_default();
            *balance += posting.amount;
            prop_assert!(*balance >= 0 || posting.holder == Holder::Issuance);
        }
    }
    let mut leases = BTreeSet::new();
    for grant in &world.grants {
        prop_assert!(!grant.leases.is_empty() && grant.leases.len() <= grant::LEASES_MAX);
        prop_assert!(grant.leases.iter().all(|term| leases.insert(term.lease)), "numbers never repeat");
    }
    for command in &world.commands {
        if let Command::Decide { verdict, entry, outcomes } = command {
            prop_assert!(verdict.agreeing.len() >= usize::from(verdict.required));
            prop_assert_eq!(outcomes.len(), verdict.agreeing.len() + verdict.dissenting.len());
            let entry = &world.entries[usize::try_from(*entry).expect("small")];
            let parts = wc_ledger::ReceiptParts {
                cell: world.cell.id(),
                manifest: world.cell.job(&verdict.job).expect("known").manifest,
                verdict: verdict.clone(),
                entry,
                issued_at: world.at,
            };
            prop_assert!(wc_ledger::issue(parts).is_ok());
        }
    }
    prop_assert_eq!(world.cell.ledger_size(), world.entries.len() as u64);
    let mut tree = wc_ledger::Tree::new();
    world.entries.iter().for_each(|entry| tree.push(wc_ledger::leaf_hash(entry)));
    prop_assert_eq!(world.cell.ledger_root(), tree.root());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_facts_leaves_a_sound_cell(steps in prop::collection::vec(step(), 0..150)) {
        let mut world = World::with_nodes(3);
        let mut jobs = Vec::new();
        for step in steps {
            perform(&mut world, &mut jobs, step);
            for job in &jobs {
                let _ = world.cell.explain(job);
            }
        }
        check(&world)?;
        world.check_replay();
    }
}
