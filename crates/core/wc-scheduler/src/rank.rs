//! Which of the nodes that may run a stage are asked first?
//!
//! ```text
//! nodes that may ──order──► by standing of the path, then load, round trip, lot; unlike networks before like ones
//!                └─rounds─► free slots of those best reached ► free slots of more and more of them ► whoever wants more
//! ```
//!
//! A preference and never an exclusion: the last round has every node, so no task waits for a better path. Where all
//! are reached alike there is one round, and the order is that of their load alone. Independence of the replicas comes
//! first: what must differ is not decided here (`may_stand_beside`), and where networks only *should* differ, no round has
//! fewer of them than the replicas need and all rounds together can give.

use wc_types::Bytes;
use wc_types::manifest::Placement;
use wc_types::node::{Path, Reach};

/// From so many bytes of one replica on the path to a node counts (NET-34): module, inputs and outputs together.
///
/// It is what a relay with our limits passes on at once from one peer: a quarter of a second at 32 MiB per second. More
/// than that waits in the relay's bucket, and everybody behind the same relay with it.
pub const HEAVY_BYTES: Bytes = Bytes(8 << 20);

/// Returns whether a replica that moves so many bytes had better run where they travel well.
pub fn is_heavy(replica_bytes: Bytes) -> bool {
    replica_bytes >= HEAVY_BYTES
}

/// A node that may run a stage and asks for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taker<N> {
    /// The node.
    pub node: N,
    /// How it is reached, as far as anybody said; nothing said is not better than a relay.
    pub path: Option<Path>,
    /// Its network, 0 if unknown.
    pub network: u32,
    /// How much of its slots is taken; the emptiest is asked first.
    pub load: usize,
    /// Its lot in this draw, which breaks ties.
    pub lot: u64,
}

/// What is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Most bytes that one replica moves.
    pub replica_bytes: Bytes,
    /// Replicas of each task.
    pub replicas: u8,
    /// How far apart they run.
    pub placement: Placement,
}

/// Nodes among which work is spread evenly, before the next round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round<N> {
    /// The nodes, in order.
    pub nodes: Vec<N>,
    /// Whether each gets only what it has free slots for. What is beyond that would wait there.
    pub free_slots_only: bool,
}

/// Standings there are.
const STANDINGS: usize = 2 * Reach::ALL.len();

/// Returns the standing of a path, lower first.
///
/// An inspected one stands below every other, whatever is given out (NET-22); how bytes travel matters to heavy work only.
fn standing(path: Option<Path>, heavy: bool) -> u8 {
    let reach = match path {
        _ if !heavy => 0,
        None => Reach::Relayed as u8,
        Some(path) => path.reach as u8,
    };
    let inspected = path.is_some_and(|path| path.inspected);
    reach + if inspected { Reach::ALL.len() as u8 } else { 0 }
}

/// Returns the octave of a path's round trip where it matters: a shorter one moves more, and nothing finer is meant.
fn octave(path: Option<Path>, heavy: bool) -> u8 {
    match path.and_then(|path| path.rtt) {
        _ if !heavy => 0,
        None => u8::MAX,
        Some(rtt) => (u64::BITS - rtt.0.leading_zeros()) as u8,
    }
}

/// One node's place in the order: how many of its network are before it where that counts, then standing, load and
/// octave in one number, then its lot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place<N> {
    before: u32,
    weight: u64,
    lot: u64,
    node: N,
    network: u32,
}

impl<N> Place<N> {
    fn standing(&self) -> u8 {
        (self.weight >> 56) as u8
    }
}

/// Returns who is asked in which order.
pub fn rounds<N: Copy + Ord>(takers: &[Taker<N>], load: &Load) -> Vec<Round<N>> {
    let heavy = is_heavy(load.replica_bytes);
    let place = |taker: &Taker<N>| {
        let standing = u64::from(standing(taker.path, heavy)) << 56;
        let load = (taker.load as u64).min(u64::from(u32::MAX)) << 8;
        let weight = standing | load | u64::from(octave(taker.path, heavy));
        Place { before: 0, weight, lot: taker.lot, node: taker.node, network: taker.network }
    };
    let mut order: Vec<Place<N>> = takers.iter().map(place).collect();
    order.sort_unstable();
    if load.replicas > 1 && load.placement != Placement::Machines {
        // Ranked within each network, in the order so far.
        order.sort_by_key(|place| place.network);
        for network in order.chunk_by_mut(|one, other| one.network == other.network) {
            (0u32..).zip(network).for_each(|(before, place)| place.before = before);
        }
        order.sort_unstable();
    }
    let nodes =
        |worst: u8| order.iter().filter(move |place| place.standing() <= worst).map(|place| place.node);
    // Nodes of each standing, and how many places for one task they add: networks where these count, or nodes.
    let mut present = [(0usize, 0usize); STANDINGS];
    for place in &order {
        let (count, places) = &mut present[usize::from(place.standing())];
        *count += 1;
        *places += usize::from(place.before == 0);
    }
    let needed = usize::from(load.replicas).min(present.iter().map(|(_, places)| places).sum());
    let mut places = 0;
    let mut rounds = Vec::new();
    for (standing, (count, added)) in (0u8..).zip(present) {
        places += added;
        if count > 0 && places >= needed {
            rounds.push(Round { nodes: nodes(standing).collect(), free_slots_only: true });
        }
    }
    // The last of these has every node.
    match rounds.as_mut_slice() {
        [only] => only.free_slots_only = false,
        [] => {}
        [.., last] => {
            let nodes = last.nodes.clone();
            rounds.push(Round { nodes, free_slots_only: false });
        }
    }
    rounds
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use wc_types::Millis;

    use super::*;

    const LIGHT: Load = Load { replica_bytes: Bytes(1 << 20), replicas: 1, placement: Placement::Lan };
    const HEAVY: Load = Load { replica_bytes: HEAVY_BYTES, ..LIGHT };

    fn taker(node: u32, reach: Reach) -> Taker<u32> {
        let path = Some(Path { reach, rtt: None, inspected: false });
        Taker { node, path, network: node, load: 0, lot: u64::from(node) }
    }

    fn inspected(taker: Taker<u32>) -> Taker<u32> {
        Taker { path: taker.path.map(|path| Path { inspected: true, ..path }), ..taker }
    }

    fn asked(takers: &[Taker<u32>], load: &Load) -> Vec<(Vec<u32>, bool)> {
        rounds(takers, load).into_iter().map(|round| (round.nodes, round.free_slots_only)).collect()
    }

    #[test]
    fn heavy_work_goes_to_the_lan_then_straight_then_over_relays_and_then_to_whoever_wants_more() {
        let takers = [taker(1, Reach::Relayed), taker(2, Reach::Direct), taker(3, Reach::Lan)];
        assert_eq!(
            asked(&takers, &HEAVY),
            [(vec![3], true), (vec![3, 2], true), (vec![3, 2, 1], true), (vec![3, 2, 1], false)]
        );
        assert_eq!(asked(&takers, &LIGHT), [(vec![1, 2, 3], false)]);
    }

    #[test]
    fn the_boundary_is_eight_mebibytes() {
        assert!(is_heavy(Bytes(8 << 20)) && !is_heavy(Bytes((8 << 20) - 1)));
    }

    #[test]
    fn relayed_nodes_alone_are_asked_as_any_others() {
        let takers = [taker(1, Reach::Relayed), taker(2, Reach::Relayed)];
        assert_eq!(asked(&takers, &HEAVY), [(vec![1, 2], false)]);
        assert_eq!(asked(&[], &HEAVY), []);
    }

    #[test]
    fn a_node_of_which_nothing_was_said_is_no_better_than_one_behind_a_relay() {
        let unknown = Taker { path: None, ..taker(1, Reach::Lan) };
        assert_eq!(asked(&[unknown, taker(2, Reach::Relayed)], &HEAVY), [(vec![1, 2], false)]);
        assert_eq!(asked(&[unknown, taker(2, Reach::Direct)], &HEAVY)[0], (vec![2], true));
    }

    #[test]
    fn a_shorter_round_trip_breaks_a_tie_of_heavy_work_only_and_load_goes_before_it() {
        let rtt = |node, millis| {
            let mut taker = taker(node, Reach::Direct);
            taker.path = taker.path.map(|path| Path { rtt: Some(Millis(millis)), ..path });
            taker
        };
        let takers = [rtt(1, 300), rtt(2, 20), rtt(3, 29)];
        assert_eq!(asked(&takers, &HEAVY)[0].0, [2, 3, 1]);
        assert_eq!(asked(&takers, &LIGHT)[0].0, [1, 2, 3]);
        let busy = [rtt(1, 300), Taker { load: 500, ..rtt(2, 20) }];
        assert_eq!(asked(&busy, &HEAVY)[0].0, [1, 2]);
    }

    #[test]
    fn replicas_of_different_networks_go_before_a_better_path() {
        let near = |node| Taker { network: 7, ..taker(node, Reach::Lan) };
        let takers = [near(1), near(2), near(3), taker(4, Reach::Relayed)];
        let two = Load { replicas: 2, ..HEAVY };
        assert_eq!(
            asked(&takers, &two),
            [(vec![1, 4, 2, 3], false)],
            "the relayed one is the only other network"
        );
        let mut more = takers.to_vec();
        more.push(taker(5, Reach::Direct));
        let asked_now = asked(&more, &two);
        assert_eq!(asked_now[0], (vec![1, 5, 2, 3], true), "two networks without a relay are enough for two");
        assert_eq!(asked_now.last(), Some(&(vec![1, 5, 4, 2, 3], false)));
        let anywhere = Load { placement: Placement::Machines, ..two };
        assert_eq!(asked(&takers, &anywhere)[0], (vec![1, 2, 3], true));
    }

    #[test]
    fn an_inspected_path_stands_below_every_other_for_any_work() {
        let takers = [inspected(taker(1, Reach::Lan)), taker(2, Reach::Relayed)];
        for load in [LIGHT, HEAVY] {
            assert_eq!(asked(&takers, &load), [(vec![2], true), (vec![2, 1], true), (vec![2, 1], false)]);
        }
        let alone = [inspected(taker(1, Reach::Direct)), inspected(taker(2, Reach::Direct))];
        assert_eq!(asked(&alone, &LIGHT), [(vec![1, 2], false)], "they run what nobody else is there for");
    }

    fn any_taker() -> impl Strategy<Value = Taker<u32>> {
        let path = (0usize..3, prop::option::of(0u64..2000), any::<bool>());
        (path, 0u32..4, 0usize..3, any::<u64>()).prop_map(|((reach, rtt, inspected), network, load, lot)| {
            let path = Path { reach: Reach::ALL[reach], rtt: rtt.map(Millis), inspected };
            Taker { node: 0, path: Some(path), network, load: load * 500, lot }
        })
    }

    fn takers() -> impl Strategy<Value = Vec<Taker<u32>>> {
        prop::collection::vec(any_taker(), 0..12).prop_map(|mut takers| {
            (0u32..).zip(&mut takers).for_each(|(number, taker)| taker.node = number);
            takers
        })
    }

    fn any_load() -> impl Strategy<Value = Load> {
        let placements = [Placement::Disjoint, Placement::Lan, Placement::Machines];
        (0u64..(16 << 20), 1u8..6, prop::sample::select(placements.to_vec())).prop_map(
            |(bytes, replicas, placement)| Load { replica_bytes: Bytes(bytes), replicas, placement },
        )
    }

    proptest! {
        /// Nobody is left out, and the rounds only grow.
        #[test]
        fn the_last_round_has_everybody_and_no_limit(takers in takers(), load in any_load()) {
            let rounds = rounds(&takers, &load);
            prop_assert_eq!(rounds.is_empty(), takers.is_empty());
            for pair in rounds.windows(2) {
                prop_assert!(pair[0].free_slots_only);
                prop_assert!(pair[0].nodes.iter().all(|node| pair[1].nodes.contains(node)));
            }
            if let Some(last) = rounds.last() {
                let mut nodes = last.nodes.clone();
                nodes.sort_unstable();
                prop_assert_eq!(nodes, (0..takers.len() as u32).collect::<Vec<_>>());
                prop_assert!(!last.free_slots_only);
            }
        }

        /// Whoever is reached worse is asked only after the free slots of all who are reached better, as long as those are
        /// in as many networks as the replicas need.
        #[test]
        fn a_worse_path_waits_for_the_free_slots_of_better_ones(takers in takers(), load in any_load()) {
            let heavy = is_heavy(load.replica_bytes);
            let apart = load.replicas > 1 && load.placement != Placement::Machines;
            for worse in &takers {
                let better: Vec<_> =
                    takers.iter().filter(|other| standing(other.path, heavy) < standing(worse.path, heavy)).collect();
                let networks = better.iter().map(|other| other.network).collect::<BTreeSet<_>>().len();
                let enough = if apart { networks } else { better.len() } >= usize::from(load.replicas);
                let rounds = rounds(&takers, &load);
                let first = rounds.iter().position(|round| round.nodes.contains(&worse.node));
                if enough {
                    let before = &rounds[first.expect("everybody is asked") - 1];
                    prop_assert!(better.iter().all(|other| before.nodes.contains(&other.node)));
                }
            }
        }

        /// How a node is reached changes nothing for light work.
        #[test]
        fn light_work_does_not_look_at_the_path(takers in takers(), load in any_load(), reaches in prop::collection::vec(0usize..3, 12)) {
            let light = Load { replica_bytes: Bytes(load.replica_bytes.0 % HEAVY_BYTES.0), ..load };
            let moved: Vec<_> = takers
                .iter()
                .zip(reaches)
                .map(|(taker, reach)| Taker {
                    path: taker.path.map(|path| Path { reach: Reach::ALL[reach], rtt: None, ..path }),
                    ..*taker
                })
                .collect();
            prop_assert_eq!(rounds(&takers, &light), rounds(&moved, &light));
        }
    }
}
