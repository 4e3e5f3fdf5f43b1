use proptest::prelude::*;
use wc_types::cid::{CODEC_DAG_CBOR, cid_of};

use super::*;

fn result(name: u8) -> Cid {
    cid_of(CODEC_DAG_CBOR, &[name])
}

fn ballot(lease: u64, node: u8, name: u8) -> Ballot {
    Ballot { lease: LeaseId(lease), node: NodeId([node; 32]), result: result(name) }
}

/// Ballots of nodes 1, 2, 3… under leases 1, 2, 3…, one letter per result.
fn ballots(letters: &str) -> Vec<Ballot> {
    letters.bytes().zip(1u8..).map(|(letter, number)| ballot(u64::from(number), number, letter)).collect()
}

fn check(replicas: u8, outstanding: u8, letters: &str, expected: &str) {
    let said = match decide(replicas, outstanding, &ballots(letters)) {
        Decision::Wait => "wait".to_owned(),
        Decision::NoMajority => "none".to_owned(),
        Decision::Accepted { result: accepted, agreeing, dissenting } => {
            let letter =
                letters.bytes().find(|&letter| result(letter) == accepted).expect("one of the ballots");
            let list =
                |leases: Vec<LeaseId>| leases.iter().map(|lease| lease.0.to_string()).collect::<String>();
            format!("{} {} {}", char::from(letter), list(agreeing), list(dissenting))
        }
    };
    assert_eq!(said.trim_end(), expected, "R={replicas}, {outstanding} out, ballots {letters}");
}

#[test]
fn a_majority_of_the_replicas_is_required() {
    let table = [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4), (20, 11), (255, 128)];
    for (replicas, expected) in table {
        assert_eq!(required(replicas), expected, "R={replicas}");
    }
}

#[test]
fn one_replica_decides_alone() {
    check(1, 1, "", "wait");
    check(1, 0, "A", "A 1");
    check(1, 0, "", "none");
}

#[test]
fn two_of_three_close_the_question_while_the_third_is_still_out() {
    check(3, 3, "", "wait");
    check(3, 2, "A", "wait");
    check(3, 1, "AA", "A 12");
    check(3, 0, "AA", "A 12");
    check(3, 0, "AAA", "A 123");
}

#[test]
fn a_dissenter_is_named_and_does_not_stop_the_majority() {
    check(3, 1, "AB", "wait");
    check(3, 0, "ABA", "A 13 2");
    check(3, 0, "BAA", "A 23 1");
    check(5, 1, "ABAA", "A 134 2");
    check(5, 0, "ABCAA", "A 145 23");
}

#[test]
fn the_question_is_given_up_as_soon_as_no_result_can_win() {
    check(3, 0, "ABC", "none");
    check(3, 0, "A", "none");
    check(3, 1, "A", "wait");
    check(5, 1, "ABCD", "none");
    check(5, 1, "AABC", "wait");
    check(5, 1, "AABB", "wait");
    check(5, 2, "ABC", "wait");
    check(5, 0, "AABBC", "none");
}

#[test]
fn half_is_not_a_majority() {
    check(2, 0, "AB", "none");
    check(4, 0, "AABB", "none");
    check(4, 1, "AAB", "wait");
    check(4, 0, "AAAB", "A 123 4");
}

#[test]
fn more_voters_than_asked_for_raise_the_bar() {
    // Three were asked, four voted: two against two decides nothing, although two of three would have.
    check(3, 0, "AABB", "none");
    check(3, 1, "AABB", "wait");
    check(3, 0, "AABBA", "A 125 34");
}

#[test]
fn a_node_that_votes_twice_counts_once() {
    let twice = [ballot(1, 1, b'A'), ballot(2, 1, b'A')];
    assert_eq!(decide(3, 1, &twice), Decision::Wait);
    assert_eq!(decide(3, 0, &twice), Decision::NoMajority);
    // Its lowest lease is the one that counts, whatever it says later.
    let changed = [ballot(7, 1, b'B'), ballot(1, 1, b'A'), ballot(2, 2, b'A')];
    let Decision::Accepted { agreeing, dissenting, .. } = decide(3, 0, &changed) else { panic!("accepted") };
    assert_eq!((agreeing, dissenting), (vec![LeaseId(1), LeaseId(2)], vec![]));
}

/// Up to nine ballots of up to six nodes for up to three results, under different leases.
fn any_ballots() -> impl Strategy<Value = Vec<Ballot>> {
    prop::collection::vec((0u8..6, 0u8..3), 0..9).prop_map(|pairs| {
        pairs.into_iter().zip(0u64..).map(|((node, name), lease)| ballot(lease, node, name)).collect()
    })
}

proptest! {
    #[test]
    fn the_order_of_ballots_does_not_matter(
        (sorted, shuffled) in any_ballots().prop_flat_map(|list| (Just(list.clone()), Just(list).prop_shuffle())),
        replicas in 0u8..8,
        outstanding in 0u8..4,
    ) {
        prop_assert_eq!(decide(replicas, outstanding, &sorted), decide(replicas, outstanding, &shuffled));
    }

    #[test]
    fn an_accepted_result_has_more_than_half_of_everything(
        list in any_ballots(),
        replicas in 0u8..8,
        outstanding in 0u8..4,
    ) {
        let nodes: std::collections::BTreeSet<NodeId> = list.iter().map(|ballot| ballot.node).collect();
        if let Decision::Accepted { result, agreeing, dissenting } = decide(replicas, outstanding, &list) {
            prop_assert!(agreeing.len() >= usize::from(required(replicas)));
            prop_assert!(agreeing.len() > dissenting.len());
            prop_assert_eq!(agreeing.len() + dissenting.len(), nodes.len());
            prop_assert!(agreeing.is_sorted() && dissenting.is_sorted());
            for lease in agreeing {
                prop_assert!(list.iter().any(|ballot| ballot.lease == lease && ballot.result == result));
            }
        }
    }

    /// Whoever votes next, in whatever order, a question that was given up stays given up, and one that waits with
    /// nobody outstanding does not exist.
    #[test]
    fn giving_up_is_never_premature_nor_late(list in any_ballots(), replicas in 0u8..8, outstanding in 0u8..4) {
        prop_assert_ne!(decide(replicas, 0, &list), Decision::Wait);
        if decide(replicas, outstanding, &list) == Decision::NoMajority {
            for name in 0..4 {
                let mut more = list.clone();
                for number in 0..outstanding {
                    more.push(ballot(100 + u64::from(number), 100 + number, name));
                    let later = decide(replicas, outstanding - number - 1, &more);
                    prop_assert_eq!(later, Decision::NoMajority);
                }
            }
        }
    }

    /// Waiting is honest: if everybody still out agrees with the leader, the result is accepted.
    #[test]
    fn waiting_can_be_rewarded(list in any_ballots(), replicas in 0u8..8, outstanding in 1u8..4) {
        if decide(replicas, outstanding, &list) == Decision::Wait {
            let rewarded = (0..4).any(|name| {
                let mut more = list.clone();
                more.extend((0..outstanding).map(|number| ballot(100 + u64::from(number), 100 + number, name)));
                matches!(decide(replicas, 0, &more), Decision::Accepted { .. })
            });
            prop_assert!(rewarded);
        }
    }
}
