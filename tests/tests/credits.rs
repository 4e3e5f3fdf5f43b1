//! A donor's credit with real processes: earned, listed, proved, and found out when somebody changes it.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use serde_json::Value;
use wc_host::{DataDir, KeyFile};
use wc_ledger::Checkpoint;
use wc_proto::api::view::Phase;
use wc_store::{Store, StoreConfig, Table};
use wc_tests::federation::{Federation, Node, SOON, guest};
use wc_types::entry::{Entry, Holder};
use wc_types::{from_canonical, to_canonical};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Stops the coordinator as its owner would, so that it leaves a snapshot.
fn stop(node: &mut Node) {
    let stopped = node.command(&["node", "stop"]);
    assert!(stopped.status.success(), "{}", text(&stopped.stderr));
    assert!(node.ended(SOON), "the node ends\n{}", node.logged());
}

/// Opens a table of a store that no node uses, changes it and closes it.
fn with_entries(node: &Node, change: impl FnOnce(&Table)) {
    let dir = DataDir::new(&node.dir).expect("data directory");
    let store = Store::open(StoreConfig::new(dir.store(), u64::MAX, Arc::new(|| 0))).expect("a free store");
    change(&store.table("entries").expect("the table"));
    store.sync().expect("durable");
}

/// Pays the account one micro-NCU more than was decided, and returns the entry as it was.
fn forge(table: &Table, index: u64, account: Holder) -> Vec<u8> {
    let key = index.to_be_bytes();
    let honest = table.get(&key).expect("readable").expect("the entry");
    let mut entry: Entry = from_canonical(&honest).expect("an entry");
    for posting in &mut entry.postings {
        if posting.holder == account {
            posting.amount += 1;
        } else if posting.holder == Holder::Issuance {
            posting.amount -= 1;
        }
    }
    table.put(&key, &to_canonical(&entry)).expect("written");
    honest
}

/// The three lines of a verification, and how it ended.
fn verified(output: &Output, verdict: &str, code: i32) {
    let (out, talk) = (text(&output.stdout), text(&output.stderr));
    let lines: Vec<&str> = out.lines().collect();
    let [root, depth, last] = lines[..] else { panic!("three lines: {out}{talk}") };
    assert!(root.starts_with("Ledger root: sha256:"), "{out}{talk}");
    assert!(depth.starts_with("Proof depth: "), "{out}{talk}");
    assert_eq!(last, format!("Verification: {verdict}"), "{talk}");
    assert_eq!(output.status.code(), Some(code), "{talk}");
}

fn memory(node: &Node) -> PathBuf {
    let mut files = std::fs::read_dir(node.dir.join("seen")).expect("something is remembered");
    files.next().expect("a file").expect("readable").path()
}

/// Makes the coordinator's own key vouch for another log of the size that was seen.
fn fork(memory: &Path, coordinator: &Node) {
    let mut seen: Value = serde_json::from_slice(&std::fs::read(memory).expect("memory")).expect("JSON");
    let note = wc_ledger::Note::parse(seen["checkpoint"].as_str().expect("a note")).expect("a note");
    let honest = Checkpoint::parse_text(note.text()).expect("a checkpoint");
    let dir = DataDir::new(&coordinator.dir).expect("data directory");
    let key = KeyFile::load_or_create(&dir.node_key()).expect("node key");
    let other = Checkpoint { root: [7; 32], ..honest };
    seen["checkpoint"] = other.sign(&key).expect("signed").to_string().into();
    std::fs::write(memory, seen.to_string()).expect("written");
}

/// What a start would pass over in silence, a replay names.
fn damaged_copies_are_named(coordinator: &Node) {
    let newest_snapshot = || {
        let snapshots = std::fs::read_dir(coordinator.dir.join("store/snapshots")).expect("snapshots");
        snapshots.flatten().map(|file| file.path()).max().expect("one at least")
    };
    let log = coordinator.dir.join("log");
    let partials = |dir: &Path| {
        let files = std::fs::read_dir(dir).expect("partial tiles").flatten();
        let mut paths: Vec<PathBuf> = files.map(|file| file.path()).collect();
        paths.sort_by_key(|path| path.file_name()?.to_str()?.parse::<u16>().ok());
        paths
    };
    let partial = |dir: &Path| partials(dir).pop().expect("one at least");
    let older = |dir: &Path| {
        let paths = partials(dir);
        assert!(paths.len() > 1, "checkpoints came one after the other: {paths:?}");
        paths[0].clone()
    };
    let files = [
        (newest_snapshot(), "is damaged"),
        (coordinator.dir.join("store/journal.mark"), "journal.mark is damaged"),
        (partial(&log.join("tile/0/000.p")), "tile/0/000.p/"),
        (partial(&log.join("tile/entries/000.p")), "tile/entries/000.p/"),
        // Older checkpoints need these, and they are served.
        (older(&log.join("tile/0/000.p")), "tile/0/000.p/"),
        (older(&log.join("tile/entries/000.p")), "tile/entries/000.p/"),
        (log.join("checkpoint"), "checkpoint of the published ledger"),
        (log.join("founding"), "founding of the published ledger"),
    ];
    for (path, named) in files {
        let bytes = std::fs::read(&path).expect("reads");
        let mut changed = bytes.clone();
        // Behind the length and number of each: the digest of a slot, the body of a snapshot, a hash, a leaf.
        changed[12] ^= 1;
        std::fs::write(&path, changed).expect("writes");
        let output = coordinator.command(&["ledger", "replay"]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{}: {told}", path.display());
        assert!(told.contains(named), "{}: {told}", path.display());
        std::fs::write(&path, bytes).expect("writes");
    }
    for (name, told) in [
        ("tile/0/000.p/notes.txt", "tile/0/000.p/notes.txt does not belong"),
        ("tile/0/007", "tile/0/007 of the published ledger"),
    ] {
        std::fs::write(log.join(name), [0; 256 * 32]).expect("writes");
        let output = coordinator.command(&["ledger", "replay"]);
        assert_eq!(output.status.code(), Some(4), "{name}");
        assert!(text(&output.stderr).contains(told), "{}", text(&output.stderr));
        std::fs::remove_file(log.join(name)).expect("removes");
    }
}

#[tokio::test]
async fn a_donor_sees_what_it_earned_and_notices_whoever_changes_it() {
    let mut federation = Federation::start(3).await;
    let job = federation.submit(&guest("hello"), |stage| stage.tasks = 6).await;
    assert_eq!(federation.finished(job).await.phase, Phase::Verified, "{}", federation.logs());

    // Two of three are paid for each task: whoever was never late earned something.
    let earns =
        |node: &Node| node.json(&["donor", "credits"])["account"]["balance_micro_ncu"].as_u64() > Some(0);
    let number = (1..=3).find(|&number| earns(&federation.nodes[number])).expect("somebody earned");
    let donor = &federation.nodes[number];
    let credits = donor.json(&["donor", "credits", "--limit", "1"]);
    let newest = &credits["entries"][0];
    assert_eq!((&newest["type"], &newest["job_class"]), (&"earned".into(), &"general".into()), "{credits}");
    assert_eq!(newest["job_name"], "test");
    assert!(newest["verification"].as_str().is_some_and(|told| told.ends_with("of 3 agreed")), "{newest}");
    assert!(newest["amount_micro_ncu"].as_i64() > Some(0));
    assert_eq!(credits["account"]["caliber_class"], "C1");
    assert_eq!(credits["account"]["balance_micro_ncu"], credits["account"]["decay_floor_micro_ncu"]);
    let table = text(&donor.command(&["donor", "credits"]).stdout);
    assert!(table.contains("general") && table.contains("of 3 agreed"), "{table}");

    verified(&donor.command(&["donor", "credits", "--verify"]), "PASS", 0);
    let again = federation.submit(&guest("hello"), |stage| stage.replicas = 1).await;
    federation.finished(again).await;
    let output = donor.command(&["donor", "credits", "--verify"]);
    verified(&output, "PASS", 0);
    assert!(text(&output.stderr).contains("continues the"), "{}", text(&output.stderr));
    let checked = donor.json(&["donor", "credits", "--verify"]);
    assert_eq!(checked["verification"], "PASS");
    assert!(checked["proof_depth"].as_u64() > Some(2), "{checked}");

    // A coordinator that runs cannot be replayed beside.
    let busy = federation.coordinator().command(&["ledger", "replay"]);
    assert_eq!(busy.status.code(), Some(1));
    assert!(text(&busy.stderr).contains("node stop"), "{}", text(&busy.stderr));

    // Somebody with access to the coordinator's disk pays the donor one more.
    let index = newest["entry"].as_u64().expect("an index");
    let account = Holder::Account(donor.owner().account_id());
    stop(&mut federation.nodes[0]);
    let sound = federation.nodes[0].json(&["ledger", "replay"]);
    assert_eq!(
        (&sound["replay"], &sound["differences"]),
        (&"PASS".into(), &Value::Array(Vec::new())),
        "{sound}"
    );
    assert!(sound["snapshot_fact"].is_u64(), "the snapshot was compared: {sound}");
    let mut honest = Vec::new();
    with_entries(&federation.nodes[0], |table| honest = forge(table, index, account));
    let forged = federation.nodes[0].command(&["ledger", "replay"]);
    assert_eq!(forged.status.code(), Some(4), "{}", text(&forged.stdout));
    let told = text(&forged.stderr);
    assert!(told.contains(&format!("entry {index} is not what the journal says")), "{told}");
    damaged_copies_are_named(&federation.nodes[0]);
    federation.nodes[0].start();
    federation.joined(3).await;
    let donor = &federation.nodes[number];
    let output = donor.command(&["donor", "credits", "--verify"]);
    verified(&output, "FAIL", 4);
    let told = text(&output.stderr);
    assert!(told.contains(&format!("entry {index} is not in the log")), "{told}");

    // The entry is put back, but the cell has signed another history of the same length before.
    stop(&mut federation.nodes[0]);
    with_entries(&federation.nodes[0], |table| table.put(&index.to_be_bytes(), &honest).expect("written"));
    federation.nodes[0].start();
    federation.joined(3).await;
    let donor = &federation.nodes[number];
    verified(&donor.command(&["donor", "credits", "--verify"]), "PASS", 0);
    fork(&memory(donor), &federation.nodes[0]);
    let output = donor.command(&["donor", "credits", "--verify"]);
    verified(&output, "FAIL", 4);
    assert!(text(&output.stderr).contains("the history was rewritten"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn only_a_coordinator_has_something_to_replay() {
    let federation = Federation::start(1).await;
    let donor = &federation.nodes[1];
    donor.command(&["node", "stop"]);
    federation
        .until("the donor's store is free", async || {
            let output = donor.command(&["ledger", "replay"]);
            output.status.code() == Some(1) && text(&output.stderr).contains("has no journal")
        })
        .await;
}
