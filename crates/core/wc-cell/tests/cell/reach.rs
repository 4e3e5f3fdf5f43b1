//! Whom a cell gives work when its nodes are reached by different paths (NET-34, NET-22).

use proptest::prelude::*;
use wc_cell::{Cell, Event, Fact};
use wc_types::manifest::{Input, InputSource, Manifest, Output, Stage};
use wc_types::node::{Path, Reach, TrustTier};
use wc_types::*;

use crate::fixture::*;

const FREE: u32 = 4;

fn reach(world: &mut World, number: u8, reach: Reach) {
    let path = Path { reach, rtt: None, inspected: false };
    world.tell(Event::NodeReached { node: node_id(number), path });
}

fn inspect(world: &mut World, number: u8, inspected: bool) {
    let path = Path { reach: Reach::Direct, rtt: None, inspected };
    world.tell(Event::NodeReached { node: node_id(number), path });
}

/// A cell whose nodes all wait for work, reached so.
fn reached(paths: &[Reach], wants: u32) -> World {
    let nodes = u8::try_from(paths.len()).expect("few");
    let mut world = World::with_nodes(nodes);
    for (number, path) in (0..nodes).zip(paths) {
        reach(&mut world, number, *path);
        world.want(number, wants);
    }
    world
}

fn heavy(mut stage: Stage) -> Stage {
    stage.outputs = vec![Output { name: "film".into(), bytes_max: Bytes(8 << 20) }];
    stage
}

/// How many leases each node has been given.
fn given(world: &mut World, nodes: u8) -> Vec<usize> {
    (0..nodes).map(|number| world.take(number).len()).collect()
}

#[test]
fn a_heavy_job_fills_the_lan_then_direct_donors_then_relayed_ones_and_a_light_one_all_alike() {
    let paths = [Reach::Relayed, Reach::Direct, Reach::Lan];
    for (tasks, expected) in
        [(4, [0, 0, 4]), (6, [0, 2, 4]), (10, [2, 4, 4]), (12, [4, 4, 4]), (18, [6, 6, 6])]
    {
        let mut world = reached(&paths, 8);
        world.run(manifest(vec![heavy(stage("film", tasks, 1))]));
        assert_eq!(given(&mut world, 3), expected, "{tasks} heavy tasks");
        world.check_replay();
        let mut world = reached(&paths, 8);
        world.run(manifest(vec![stage("sum", tasks, 1)]));
        let (given, share) = (given(&mut world, 3), tasks.div_ceil(3) as usize);
        assert!(given.iter().all(|leases| *leases <= share), "{tasks} light tasks: {given:?}");
    }
}

#[test]
fn with_relayed_donors_only_a_heavy_job_runs_as_before() {
    let mut world = reached(&[Reach::Relayed; 3], 8);
    let job = world.run(manifest(vec![heavy(stage("film", 2, 3))]));
    assert_eq!(given(&mut world, 3), [2, 2, 2]);
    let explained = world.cell.explain(&job).expect("known");
    assert!(explained.stages[0].is_heavy && explained.stages[0].replica_bytes > Bytes(8 << 20));
}

#[test]
fn a_relayed_donor_that_asks_while_nobody_better_does_gets_heavy_work_at_once() {
    let mut world = World::with_nodes(2);
    world.run(manifest(vec![heavy(stage("film", 4, 1))]));
    reach(&mut world, 0, Reach::Relayed);
    reach(&mut world, 1, Reach::Lan);
    world.want(0, 3);
    assert_eq!(world.take(0).len(), 3);
    world.want(1, 3);
    assert_eq!(world.take(1).len(), 1);
}

#[test]
fn what_counts_is_module_inputs_listed_inputs_earlier_stages_and_declared_outputs() {
    let bytes = |stages: Vec<Stage>, listed: Vec<Bytes>| {
        let mut world = World::with_nodes(1);
        let position = stages.len() - 1;
        let (job, refusals) = world.submit(manifest(stages));
        assert_eq!(refusals, []);
        world.tell(Event::JobStaged { job: job.expect("admitted"), listed });
        world.check_replay();
        world.cell.explain(&job.expect("admitted")).expect("known").stages[position].replica_bytes.0
    };
    let plain = || stage("only", 3, 1);
    let stdout = plain().resources.stdout.0;
    assert_eq!(bytes(vec![plain()], vec![]), 4 + stdout, "a default bound of undeclared files says nothing");
    let with = |source| {
        let mut stage = plain();
        stage.inputs.push(Input { name: "in".into(), source });
        stage
    };
    let blob = manifest::BlobRef { cid: record("blob", 0), bytes: Bytes(100) };
    let blob = manifest::BlobRef { cid: cid::cid_of(cid::CODEC_RAW, b"blob"), ..blob };
    assert_eq!(bytes(vec![with(InputSource::Blob(blob))], vec![]), 104 + stdout);
    let each = with(InputSource::Each(record("list", 0)));
    assert_eq!(bytes(vec![each.clone()], vec![Bytes(7)]), 11 + stdout);
    assert_eq!(bytes(vec![each], vec![Bytes(7), Bytes(9)]), 11 + stdout, "more stages than there are");
    let mut second = with(InputSource::Stage(0));
    second.name = "second".into();
    assert_eq!(
        bytes(vec![heavy(plain()), second], vec![]),
        4 + stdout + 3 * ((8 << 20) + stdout),
        "all that three tasks leave"
    );
}

#[test]
fn replicas_of_different_networks_go_before_a_better_path() {
    let mut world = World::new(charter());
    for (number, network) in [(0, 7), (1, 7), (2, 9)] {
        let mut terms = enrolment(number, number);
        terms.locality.prefix_24 = network;
        world.enrol(terms, number);
        reach(&mut world, number, if number == 2 { Reach::Relayed } else { Reach::Lan });
        world.want(number, 8);
    }
    world.run(manifest(vec![heavy(stage("film", 1, 2))]));
    let given = given(&mut world, 3);
    assert_eq!((given[2], given[0] + given[1]), (1, 1), "{given:?}");
    let mut world = reached(&[Reach::Lan, Reach::Lan, Reach::Relayed], 8);
    let apart =
        Manifest { placement: manifest::Placement::Disjoint, ..manifest(vec![heavy(stage("film", 2, 3))]) };
    world.run(apart);
    assert_eq!(self::given(&mut world, 3), [2, 2, 2], "three replicas need three owners");
}

#[test]
fn an_inspected_donor_is_believed_less_and_works_after_all_others() {
    let mut world = World::with_nodes(3);
    let score = |world: &World| world.cell.node(&node_id(0)).expect("known").score;
    let before = score(&world);
    inspect(&mut world, 0, true);
    let view = world.cell.node(&node_id(0)).expect("known");
    assert!(view.score < before && view.tier == TrustTier::T0, "{:?}", view.score);
    for number in 0..3 {
        world.want(number, 8);
    }
    world.run(manifest(vec![stage("sum", 8, 1)]));
    assert_eq!(given(&mut world, 3), [0, 4, 4], "while others have free slots");
    world.run(Manifest { name: "more".into(), ..manifest(vec![stage("sum", 4, 1)]) });
    assert_eq!(given(&mut world, 3), [4, 0, 0], "and no task waits for them");
    inspect(&mut world, 0, false);
    assert_eq!(score(&world), before, "nothing stays");
    world.check_replay();
}

#[test]
fn what_a_replay_reads_is_in_the_journal() {
    let place = |told: bool| {
        let mut world = World::with_nodes(3);
        for number in 0..3 {
            if told {
                reach(&mut world, number, Reach::ALL[usize::from(number)]);
            }
            world.want(number, 8);
        }
        world.run(manifest(vec![heavy(stage("film", 4, 1))]));
        world.check_replay();
        given(&mut world, 3)
    };
    assert_eq!(place(true), [4, 0, 0]);
    assert_ne!(place(false), [4, 0, 0], "without what was told the decision would be another");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Heavy work never goes over a relay while free slots without one are enough; light work is spread over all.
    #[test]
    fn relays_carry_heavy_work_only_when_the_others_are_full(
        paths in prop::collection::vec(0usize..3, 1..8),
        tasks in 1u32..30,
        busy in prop::collection::vec(0u32..=FREE, 8),
    ) {
        let paths: Vec<Reach> = paths.into_iter().map(|reach| Reach::ALL[reach]).collect();
        let nodes = u8::try_from(paths.len()).expect("few");
        let mut world = World::with_nodes(nodes);
        let mut free = Vec::new();
        for (number, reach_of) in (0..nodes).zip(&paths) {
            reach(&mut world, number, *reach_of);
            // What it holds already.
            let held = busy[usize::from(number)];
            if held > 0 {
                world.want(number, held);
                let name = format!("before{number}");
                world.run(Manifest { name, ..manifest(vec![stage("sum", held, 1)]) });
                prop_assert_eq!(world.take(number).len() as u32, held);
            }
            free.push(FREE - held);
        }
        for number in 0..nodes {
            world.want(number, 8);
        }
        let mut light = world.clone();
        world.run(manifest(vec![heavy(stage("film", tasks, 1))]));
        let heavy_given = given(&mut world, nodes);
        let room = |worst: Reach| -> u32 {
            paths.iter().zip(&free).filter(|(reach, _)| **reach <= worst).map(|(_, free)| free).sum()
        };
        for (limit, worse) in [(Reach::Lan, Reach::Direct), (Reach::Direct, Reach::Relayed)] {
            let over: usize =
                paths.iter().zip(&heavy_given).filter(|(reach, _)| **reach >= worse).map(|(_, given)| given).sum();
            let needed = tasks.saturating_sub(room(limit));
            if tasks <= room(Reach::Relayed) {
                prop_assert_eq!(over as u32, needed, "{:?} of {} given {:?}, free {:?}", paths, tasks, heavy_given, free);
            }
        }
        prop_assert_eq!(heavy_given.iter().sum::<usize>() as u32, tasks.min(8 * u32::from(nodes)));
        light.run(manifest(vec![stage("sum", tasks, 1)]));
        let given = given(&mut light, nodes);
        // Whom the rest of an uneven division goes to is the only difference that light work may show.
        let share = tasks.div_ceil(u32::from(nodes)) as usize;
        prop_assert!(given.iter().all(|leases| *leases <= share.min(8)), "{given:?}");
        world.check_replay();
    }
}

#[test]
fn what_was_written_before_there_were_paths_and_orders_is_still_read() {
    // A fact as it was: no list of sizes. It is read as one without, and written again as it was.
    #[derive(serde::Serialize)]
    #[serde(rename_all = "kebab-case")]
    enum Former {
        JobStaged { job: JobId },
    }
    #[derive(serde::Serialize)]
    struct FormerFact {
        seq: u64,
        at: Timestamp,
        #[serde(with = "serde_bytes")]
        seed: [u8; 32],
        event: Former,
    }
    let job = JobId([7; 32]);
    let former = FormerFact { seq: 9, at: Timestamp(5), seed: [3; 32], event: Former::JobStaged { job } };
    let bytes = to_canonical(&former);
    let fact: Fact = from_canonical(&bytes).expect("it is read");
    assert_eq!(fact.event, Event::JobStaged { job, listed: Vec::new() });
    assert_eq!(to_canonical(&fact), bytes);
    // A state without them has none of their keys, so that its bytes are those of before.
    let mut world = World::with_nodes(2);
    world.want(0, 1);
    world.run(manifest(vec![stage("only", 1, 1)]));
    let snapshot = world.cell.snapshot();
    // Keys are short texts: a byte with their length, then they.
    for key in ["\u{64}path", "\u{66}listed", "\u{6a}directives"] {
        assert!(!snapshot.windows(key.len()).any(|window| window == key.as_bytes()), "{key}");
    }
    let restored = Cell::restore(&snapshot).expect("it is read");
    assert_eq!(restored.state_hash(), world.cell.state_hash());
}
