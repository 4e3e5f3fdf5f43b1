//! What a node makes of what it hears of cells.

use wc_types::charter::{Charter, Founding, cell_id};
use wc_types::{AccountId, Signed, SigningKey};

use super::*;

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

/// The cell that machine `number` founded and coordinates.
fn cell(number: u8) -> CellBrief {
    let founding = Founding {
        network: "net".to_owned(),
        coordinator: key(number).node_id(),
        owner: AccountId([number; 32]),
        charter: Charter::default(),
        founded_at: Timestamp(i64::from(number)),
    };
    let founding = Signed::seal(founding, &key(number));
    CellBrief {
        cell: cell_id(&founding),
        founding,
        coordinator: key(number).node_id(),
        addresses: vec![format!("/ip4/192.0.2.{number}/tcp/1")],
        has_jobs: true,
    }
}

fn hello(cell: Option<CellBrief>, others: Vec<CellBrief>) -> Hello {
    Hello { network: "net".to_owned(), cell, coordinates: true, others }
}

fn names(known: &Known) -> Vec<CellId> {
    known.places().iter().map(|place| place.brief.cell).collect()
}

const NOBODY: fn(CellId) -> bool = |_| false;

#[test]
fn only_the_coordinator_itself_shows_that_a_cell_is_there() {
    let now = Instant::now();
    let mut known = Known::of(vec![cell(1)]);
    let neighbour = key(9).node_id();
    assert!(known.hear(neighbour, &hello(Some(cell(1)), vec![cell(2)]), None, NOBODY, now));
    assert_eq!(names(&known), [cell(1).cell, cell(2).cell]);
    assert!(known.places().iter().all(|place| !place.is_fresh(now)), "hearsay");
    assert!(!known.hear(key(2).node_id(), &hello(Some(cell(2)), vec![]), None, NOBODY, now));
    assert!(known.get(cell(2).cell).expect("known").is_fresh(now));
    assert!(!known.get(cell(2).cell).expect("known").is_fresh(now + FRESH));
    // The same cell again, also under another address, is the same cell.
    let mut moved = cell(2);
    moved.addresses = vec!["/ip4/192.0.2.77/tcp/1".to_owned()];
    assert!(known.hear(key(2).node_id(), &hello(Some(moved.clone()), vec![]), None, NOBODY, now));
    assert_eq!(names(&known).len(), 2);
    // Who has it from others does not know better than its coordinator, unless that has been silent.
    known.hear(neighbour, &hello(None, vec![cell(2)]), None, NOBODY, now);
    assert_eq!(known.get(moved.cell).expect("known").brief.addresses, moved.addresses);
    known.hear(neighbour, &hello(None, vec![cell(2)]), None, NOBODY, now + FRESH);
    assert_eq!(known.get(moved.cell).expect("known").brief.addresses, cell(2).addresses);
    // A coordinator never meets its own cell.
    let mut known = Known::of(vec![cell(1)]);
    assert!(!known.hear(neighbour, &hello(Some(cell(1)), vec![]), Some(cell(1).cell), NOBODY, now));
}

#[test]
fn a_full_list_gives_a_place_only_to_who_is_there_and_never_that_of_home_or_of_what_is_needed() {
    let now = Instant::now();
    let mut known = Known::of((1..=4).map(cell).collect());
    known.hear(key(9).node_id(), &hello(None, vec![cell(5)]), None, NOBODY, now);
    assert!(known.get(cell(5).cell).is_none(), "hearsay takes nobody's place");
    for number in [2, 3] {
        known.hear(key(number).node_id(), &hello(Some(cell(number)), vec![]), None, NOBODY, now);
    }
    let needed = |wanted: CellId| wanted == cell(4).cell;
    known.hear(key(5).node_id(), &hello(Some(cell(5)), vec![]), None, needed, now);
    assert!(known.get(cell(5).cell).is_none(), "home is silent, and something is held for the last");
    known.hear(key(5).node_id(), &hello(Some(cell(5)), vec![]), None, NOBODY, now);
    assert_eq!(names(&known), [1, 2, 3, 5].map(|number| cell(number).cell));
}

#[test]
fn members_go_along_when_their_coordinator_gives_its_cell_up() {
    let now = Instant::now();
    let mut known = Known::of(vec![cell(1), cell(2)]);
    // It says nothing while it starts, and its own cell afterwards.
    assert!(!known.hear(key(1).node_id(), &hello(None, vec![]), None, NOBODY, now));
    assert!(!known.hear(key(1).node_id(), &hello(Some(cell(1)), vec![]), None, NOBODY, now));
    // Another member's word moves nobody.
    known.hear(key(9).node_id(), &hello(Some(cell(2)), vec![]), None, NOBODY, now);
    assert_eq!(names(&known), [cell(1).cell, cell(2).cell]);
    assert!(known.hear(key(1).node_id(), &hello(Some(cell(2)), vec![]), None, NOBODY, now));
    assert_eq!(names(&known), [cell(2).cell]);
}

#[test]
fn requests_go_home_unless_home_is_away_and_somebody_else_is_there() {
    let now = Instant::now();
    let mut known = Known::of(vec![cell(1), cell(2)]);
    let goes_to = |known: &Known, own, now| known.acting(own, now).map(|place| place.brief.cell);
    assert_eq!(goes_to(&known, None, now), Some(cell(1).cell), "nobody is there");
    known.hear(key(2).node_id(), &hello(Some(cell(2)), vec![]), None, NOBODY, now);
    assert_eq!(goes_to(&known, None, now), Some(cell(2).cell));
    known.hear(key(1).node_id(), &hello(Some(cell(1)), vec![]), None, NOBODY, now);
    assert_eq!(goes_to(&known, None, now), Some(cell(1).cell), "home is back");
    assert_eq!(goes_to(&known, Some(cell(2).cell), now), Some(cell(2).cell), "a coordinator asks itself");
}

#[test]
fn a_node_that_belongs_to_a_cell_beside_its_home_keeps_its_home_first() {
    let mut known = Known::of((1..=4).map(cell).collect());
    known.belong(cell(7), Instant::now());
    assert_eq!(names(&known), [1, 2, 3, 7].map(|number| cell(number).cell));
    known.belong(cell(7), Instant::now());
    assert_eq!(names(&known).len(), 4);
}

#[test]
fn of_those_who_are_cut_off_the_lowest_founds_the_island() {
    let now = Instant::now();
    let mut castaways = Castaways::default();
    let own = NodeId([5; 32]);
    castaways.hear(NodeId([6; 32]), &hello(None, vec![]), now);
    assert!(castaways.is_lowest(own, now));
    castaways.hear(NodeId([4; 32]), &hello(None, vec![]), now);
    assert!(!castaways.is_lowest(own, now));
    assert!(castaways.is_lowest(own, now + FRESH), "it has not been heard for long");
    let mut never = hello(None, vec![]);
    never.coordinates = false;
    castaways.hear(NodeId([4; 32]), &never, now);
    assert!(castaways.is_lowest(own, now), "it may not found one");
}

#[test]
fn what_was_kept_is_read_again_and_what_is_of_another_network_is_not() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("cells");
    put(&path, &to_canonical(&vec![cell(1), cell(2)])).expect("written");
    assert_eq!(names(&Cells::load(path.clone(), "net", 4).known()), [cell(1).cell, cell(2).cell]);
    assert!(names(&Cells::load(path.clone(), "other", 4).known()).is_empty());
    // Neither a forged record nor a torn file is believed.
    let mut forged = cell(1);
    forged.coordinator = key(2).node_id();
    put(&path, &to_canonical(&vec![forged])).expect("written");
    assert!(names(&Cells::load(path.clone(), "net", 4).known()).is_empty());
    std::fs::write(&path, b"torn").expect("written");
    assert!(names(&Cells::load(path, "net", 4).known()).is_empty());
}
