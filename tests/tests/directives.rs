//! What a coordinator's operator orders the whole cell: a halt, and a ban (INC-06, INC-07, CLI-06).

use std::time::Instant;

use wc_host::{DataDir, KeyFile};
use wc_proto::api::view::{NodeView, Phase};
use wc_proto::api::{CellRequest, Response};
use wc_tests::federation::{Federation, Node, binary, guest, stage};
use wc_tests::peer::Peer;
use wc_tests::port::free_port;
use wc_types::cid::{CODEC_RAW, cid_of};
use wc_types::manifest::{BlobRef, Stage};
use wc_types::{Bytes, NodeId, Signed};

const REASON: &str = "guests were seen outside their sandbox";

/// A coordinator that lends nothing, always at one address, and `donors` donors with a slot each.
async fn cell(donors: usize) -> (Federation, String) {
    let mut cell = Federation::empty(binary());
    let address = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    let how = ["--no-lan", "--coordinate", "always", "--trusted", "--slots", "0", "--listen", &address];
    cell.add(&how);
    for _ in 0..donors {
        donor(&mut cell, &address);
    }
    cell.joined(donors).await;
    (cell, address)
}

fn donor(cell: &mut Federation, address: &str) {
    cell.add_hidden(&[address], &["--coordinate", "never", "--consent", "all", "--slots", "1"]);
}

fn id(node: &Node) -> NodeId {
    let dir = DataDir::new(&node.dir).expect("data directory");
    KeyFile::load(&dir.node_key()).expect("it has one").node_id()
}

async fn nodes(cell: &Federation) -> Vec<NodeView> {
    match cell.coordinator().cell(CellRequest::Nodes).await {
        Response::Nodes(nodes) => nodes,
        other => panic!("{other:?}"),
    }
}

/// Tasks that one node each runs; 1000 take about a tenth of a second on a fast core.
fn work(tasks: u32, size: &'static str) -> impl FnOnce(&mut Stage) {
    move |stage| {
        stage.tasks = tasks;
        stage.replicas = 1;
        stage.command = vec![size.into()];
    }
}

fn order(node: &Node, args: &[&str]) {
    let mut whole = vec!["admin"];
    whole.extend(args);
    let done = node.command(&whole);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn refusal(node: &Node, args: &[&str]) -> String {
    let done = node.command(args);
    assert!(!done.status.success(), "{args:?} was done");
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// What a node's owner is told of the halt of its cell.
fn halt_seen(node: &Node) -> Option<String> {
    let status = node.json(&["donor", "status"]);
    status["cells"][0]["halt"]["reason"].as_str().map(str::to_owned)
}

async fn leases(cell: &Federation) -> u64 {
    nodes(cell).await.iter().map(|node| u64::from(node.leases)).sum()
}

#[tokio::test]
async fn a_halt_stops_new_leases_everywhere_survives_a_restart_and_a_resume_lets_the_job_finish() {
    let (mut cell, address) = cell(2).await;
    let job = cell.submit(&guest("kernels/integer"), work(200, "200")).await;
    cell.until("the job is under way", async || cell.job(job).await.stages[0].active > 0).await;

    assert!(refusal(cell.coordinator(), &["admin", "halt", "--reason", "too short"]).contains("20"));
    let elsewhere = refusal(&cell.nodes[1], &["admin", "halt", "--reason", REASON]);
    assert!(elsewhere.contains("WC-NODE-043"), "{elsewhere}");
    assert!(refusal(cell.coordinator(), &["admin", "resume"]).contains("not halted"));

    let begun = Instant::now();
    order(cell.coordinator(), &["halt", "--reason", REASON]);
    cell.until("both donors have heard", async || {
        cell.nodes[1..].iter().all(|donor| halt_seen(donor).as_deref() == Some(REASON))
    })
    .await;
    println!("both donors knew of the halt after {:?}", begun.elapsed());
    // More orders than gossip passes on of one author: the last one counts all the same.
    for number in 1..24 {
        order(cell.coordinator(), &["halt", "--reason", &format!("{REASON}, {number}")]);
    }
    order(cell.coordinator(), &["halt", "--reason", REASON]);
    cell.until("both donors have heard the last order", async || {
        cell.nodes[1..].iter().all(|donor| halt_seen(donor).as_deref() == Some(REASON))
    })
    .await;
    // What ran is finished, and what had not begun is given back.
    cell.until("nothing is held any more", async || leases(&cell).await == 0).await;
    println!("the last lease had ended after {:?}", begun.elapsed());
    let halted = cell.job(job).await;
    assert!(halted.stages[0].accepted < 200, "it was over before it could be halted");

    // Somebody who joins during the halt is told, and gets nothing; a restart changes nothing.
    donor(&mut cell, &address);
    cell.joined(3).await;
    let late = &cell.nodes[3];
    cell.until("the newcomer knows", async || halt_seen(late).as_deref() == Some(REASON)).await;
    cell.nodes[0].kill();
    cell.nodes[0].start();
    cell.joined(3).await;
    let cluster = cell.cluster().await;
    assert_eq!(cluster.halt.as_ref().map(|halt| &*halt.reason), Some(REASON));
    let shown = cell.coordinator().command(&["cluster", "status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("HALTED") && shown.contains(REASON), "{shown}");
    let second = cell.submit(&guest("hello"), |stage| stage.replicas = 1).await;
    cell.until("the second job waits", async || cell.job(second).await.phase == Phase::Queued).await;
    let explained = cell.coordinator().command(&["job", "explain", &second.to_string()]);
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains(REASON), "{explained}");
    let now = cell.job(job).await;
    assert_eq!((leases(&cell).await, now.stages[0].accepted), (0, halted.stages[0].accepted), "nothing new");

    order(cell.coordinator(), &["resume"]);
    for job in [job, second] {
        assert_eq!(cell.finished(job).await.phase, Phase::Verified, "{}", cell.logs());
    }
    cell.until("the halt is over for everybody", async || {
        cell.nodes[1..].iter().all(|donor| halt_seen(donor).is_none())
    })
    .await;
    cell.credited_once().await;
}

#[tokio::test]
async fn a_ban_moves_the_lease_to_another_node_survives_a_restart_and_can_be_lifted() {
    let (mut cell, _) = cell(2).await;
    let job = cell.submit(&guest("kernels/integer"), work(1, "9000")).await;
    cell.until("somebody runs it", async || leases(&cell).await > 0).await;
    let holder = nodes(&cell).await.into_iter().find(|node| node.leases > 0).expect("somebody").node;
    let number = (1..3).find(|number| id(&cell.nodes[*number]) == holder).expect("a donor");
    let own = id(cell.coordinator()).to_string();
    assert!(
        refusal(cell.coordinator(), &["admin", "ban", &own, "--reason", "SANDBOX_ESCAPE"]).contains("own")
    );

    let begun = Instant::now();
    order(cell.coordinator(), &["ban", &holder.to_string(), "--reason", "BYZANTINE_BEHAVIOR"]);
    let moved = async || {
        let nodes = nodes(&cell).await;
        nodes.iter().any(|node| node.node != holder && node.leases > 0)
            && nodes.iter().all(|node| node.node != holder || node.leases == 0)
    };
    cell.until("another node has the lease", moved).await;
    println!("the lease had moved after {:?}", begun.elapsed());
    let is_connected = |node: &Node, peer: NodeId| {
        let peers = node.json(&["cluster", "peers"]);
        peers.as_array().expect("a list").iter().any(|row| row["node"] == peer.to_string())
    };
    cell.until("nobody is connected with it", async || {
        let others = cell.nodes.iter().enumerate().filter(|(other, _)| *other != number);
        others.into_iter().all(|(_, other)| !is_connected(other, holder))
    })
    .await;
    println!("it was cut off after {:?}", begun.elapsed());
    assert_eq!(cell.finished(job).await.phase, Phase::Verified, "{}", cell.logs());

    cell.nodes[0].kill();
    cell.nodes[0].start();
    cell.joined(1).await;
    let cluster = cell.cluster().await;
    assert_eq!(cluster.bans.iter().map(|ban| ban.node).collect::<Vec<_>>(), [holder]);
    let shown = cell.coordinator().command(&["cluster", "status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("banned node") && shown.contains("BYZANTINE_BEHAVIOR"), "{shown}");
    let second = cell.submit(&guest("hello"), |stage| stage.replicas = 1).await;
    assert_eq!(cell.finished(second).await.phase, Phase::Verified, "{}", cell.logs());
    let banned = cell.member(holder).await.expect("it was a member");
    assert_eq!((&*banned.state, banned.leases), ("offline", 0), "it stays out");

    order(cell.coordinator(), &["unban", &holder.to_string()]);
    cell.joined(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_banned_node_that_another_cell_keeps_connected_neither_works_nor_submits_nor_fills_the_journal() {
    let (cell, address) = cell(0).await;
    let mut other = Federation::empty(binary());
    other.network = cell.network().to_owned();
    other.add(&["--no-lan", "--coordinate", "always", "--trusted", "--slots", "0", "--join", &address]);
    cell.until("the cells know each other", async || cell.cluster().await.others.len() == 1).await;
    let peer = Peer::connect(&cell, 1).await;
    drop(peer.enrol().await);
    let ban = ["ban", &peer.node().to_string(), "--reason", "ACCEPTABLE_USE_VIOLATION"];
    order(cell.coordinator(), &ban);

    let before = cell.cluster().await;
    let workload = BlobRef { cid: cid_of(CODEC_RAW, b"a module"), bytes: Bytes(8) };
    let manifest = Box::new(cell.manifest(vec![stage(workload)]));
    for _ in 0..5 {
        let delegation = Signed::seal(peer.delegation(), &peer.owner);
        let enrolment = Signed::seal(peer.enrolment(delegation), &peer.key);
        let refusal = peer.enrol_with(enrolment).await.err().expect("it is banned");
        assert_eq!(refusal.code, "WC-CELL-013", "{refusal}");
        let submit = CellRequest::Submit { manifest: manifest.clone(), holders: Vec::new(), dry_run: false };
        match peer.ask(&submit).await {
            Response::Refused(refusals) => assert_eq!(refusals[0].code, "WC-CELL-013", "{refusals:?}"),
            other => panic!("{other:?}"),
        }
    }
    let after = cell.cluster().await;
    assert_eq!(
        (after.facts, after.ledger_size),
        (before.facts, before.ledger_size),
        "nothing is written down"
    );

    order(cell.coordinator(), &["unban", &peer.node().to_string()]);
    drop(peer.enrol().await);
}

#[tokio::test]
async fn who_pauses_and_who_withdraws_is_known_to_peers_that_have_no_session_with_it() {
    let (mut cell, coordinator_at) = cell(0).await;
    // The first donor can be dialled; the second knows both, and has a session with the coordinator only.
    let first_at = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    let lends = ["--coordinate", "never", "--consent", "all", "--slots", "1"];
    let known = ["--no-lan", "--join", &coordinator_at, "--listen", &first_at];
    cell.add(&[&known[..], &lends].concat());
    cell.add_hidden(&[&coordinator_at, &first_at], &lends);
    cell.joined(2).await;
    let [coordinator, first, second] = &cell.nodes[..] else { panic!("three nodes") };
    let peer = id(second);
    let size = |node: &Node| node.json(&["cluster", "status"])["cluster"]["node_count"].as_u64();
    cell.until("all are counted", async || size(coordinator) == Some(3)).await;
    let state = |node: &Node| {
        let peers = node.json(&["cluster", "peers"]);
        let row = peers.as_array()?.iter().find(|row| row["node"] == peer.to_string())?.clone();
        row["presence"].as_str().map(str::to_owned)
    };
    let seen = async |state_seen: &str| {
        cell.until(state_seen, async || {
            [coordinator, first].iter().all(|node| state(node).as_deref() == Some(state_seen))
        })
        .await;
    };
    seen("here").await;
    assert!(second.command(&["donor", "pause"]).status.success());
    seen("paused").await;
    assert!(second.command(&["donor", "resume"]).status.success());
    seen("here").await;
    assert!(second.command(&["donor", "leave"]).status.success());
    cell.until("it is counted no more", async || size(coordinator) == Some(2)).await;
}
