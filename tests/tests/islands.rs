//! Cells of one network that meet: each keeps its ledger, and their donors work for both (NET-06, NET-08, NET-09).

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use wc_host::{DataDir, KeyFile};
use wc_proto::api::view::{ClusterView, DonorView, NodeView, Phase};
use wc_proto::api::{CellRequest, Request, Response};
use wc_tests::federation::{Federation, Node, binary, guest};
use wc_tests::port::free_port;
use wc_types::{AccountId, NodeId};

/// The longest that islands may take to merge (NET-06).
const MERGED_WITHIN: Duration = Duration::from_secs(60);

/// A coordinator that lends nothing and `donors` donors with a slot each, who find nobody by themselves.
async fn island(network: Option<&str>, donors: usize) -> (Federation, String) {
    let mut island = Federation::empty(binary());
    if let Some(network) = network {
        island.network = network.to_owned();
    }
    // It comes back at the same address.
    let address = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    let how = ["--no-lan", "--coordinate", "always", "--trusted", "--slots", "0", "--listen", &address];
    island.add(&how);
    for _ in 0..donors {
        donor(&mut island, &[&address]);
    }
    island.joined(donors).await;
    (island, address)
}

fn donor<'a>(island: &'a mut Federation, seeds: &[&str]) -> &'a mut Node {
    island.add_hidden(seeds, &["--coordinate", "never", "--consent", "all", "--slots", "1"])
}

fn id(node: &Node) -> NodeId {
    let dir = DataDir::new(&node.dir).expect("data directory");
    KeyFile::load(&dir.node_key()).expect("it has one").node_id()
}

async fn nodes(island: &Federation) -> Vec<NodeView> {
    match island.coordinator().cell(CellRequest::Nodes).await {
        Response::Nodes(nodes) => nodes,
        other => panic!("{other:?}"),
    }
}

/// Returns whether these machines have done work for the cell that others agreed with.
async fn have_worked(island: &Federation, machines: &[&Node]) -> bool {
    let nodes = nodes(island).await;
    machines.iter().all(|machine| {
        let id = id(machine);
        nodes.iter().any(|node| node.node == id && node.agreed > 0)
    })
}

/// Checks that a cell's ledger is sound, that its journal gives it, and that the credit in it is what receipts award:
/// nothing lost, nothing doubled. Returns what each account has there.
async fn audited(island: &mut Federation) -> BTreeMap<AccountId, i64> {
    let nodes = nodes(island).await;
    let awarded: i64 = match island.coordinator().cell(CellRequest::Jobs { limit: 100 }).await {
        Response::Jobs(jobs) => jobs.iter().map(|job| i64::try_from(job.awarded).expect("small")).sum(),
        other => panic!("{other:?}"),
    };
    let balances: BTreeMap<AccountId, i64> =
        nodes.iter().map(|node| (node.owner, node.owner_balance)).collect();
    assert_eq!(balances.values().sum::<i64>(), awarded, "credit appeared or vanished");
    assert!(awarded > 0);
    let stopped = island.coordinator().command(&["node", "stop"]);
    assert!(stopped.status.success());
    assert!(island.nodes[0].ended(MERGED_WITHIN), "it ends");
    let log = island.nodes[0].dir.join("log").display().to_string();
    let verified = Command::new(binary()).args(["--json", "ledger", "verify", &log]).output().expect("runs");
    let text = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success(), "{text}{}", String::from_utf8_lossy(&verified.stderr));
    let verified: serde_json::Value = serde_json::from_str(&text).expect("json");
    assert_eq!(verified["issued_micro_ncu"], awarded, "the ledger says the same");
    let replayed = island.coordinator().command(&["ledger", "replay"]);
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    balances
}

/// What `donor credits --verify` says of the cells in which this machine's owner has an account.
fn credits(node: &Node) -> (usize, BTreeMap<String, i64>) {
    let value = node.json(&["donor", "credits", "--verify"]);
    let others = value["others"].as_array().cloned().unwrap_or_default();
    let all = std::iter::once(value).chain(others);
    let mut found = BTreeMap::new();
    for one in all {
        assert_eq!(one["verification"], "PASS", "{one}");
        let cell = one["cell"].as_str().expect("a cell").to_owned();
        found.insert(cell, one["balance_micro_ncu"].as_i64().expect("a number"));
    }
    (found.len(), found)
}

#[tokio::test]
async fn two_islands_with_jobs_in_flight_merge_within_a_minute_and_nothing_is_lost_or_doubled() {
    let (mut older, older_at) = island(None, 3).await;
    let (mut younger, younger_at) = island(Some(older.network()), 3).await;
    // Both have done a job, and neither knows of the other.
    for island in [&older, &younger] {
        let job = island.submit(&guest("hello"), |stage| stage.tasks = 4).await;
        assert_eq!(island.finished(job).await.phase, Phase::Verified, "{}", island.logs());
        let cluster = island.cluster().await;
        assert_eq!((&*cluster.dht, cluster.others.len(), cluster.nodes), ("island", 0, 3));
        let status = island.coordinator().command(&["cluster", "status"]);
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(said.contains("wc-lan-") && said.contains("3 nodes") && said.contains("island"), "{said}");
    }
    // Both are in the midst of a long one.
    let kernel = guest("kernels/integer");
    let work = |tasks| {
        move |stage: &mut wc_types::manifest::Stage| {
            stage.tasks = tasks;
            stage.command = vec!["200".into()];
        }
    };
    let long = [older.submit(&kernel, work(60)).await, younger.submit(&kernel, work(20)).await];
    older.until("the job is under way", async || older.job(long[0]).await.stages[0].active > 0).await;
    younger.until("the job is under way", async || younger.job(long[1]).await.stages[0].active > 0).await;

    // Somebody comes who is in both networks.
    let begun = Instant::now();
    donor(&mut younger, &[&younger_at, &older_at]);
    let met = |cluster: &ClusterView| cluster.dht == "merged (global)";
    older
        .until("the islands have merged", async || {
            let (one, two) = (older.cluster().await, younger.cluster().await);
            met(&one) && met(&two) && two.parent_cluster_id.is_some() && one.online == 7 && two.online == 7
        })
        .await;
    let took = begun.elapsed();
    println!("the islands merged after {:.1} s", took.as_secs_f64());
    assert!(took < MERGED_WITHIN, "{took:?}");
    let (one, two) = (older.cluster().await, younger.cluster().await);
    assert_eq!((two.parent_cluster_id, one.parent_cluster_id), (Some(one.cell), None));
    assert!(two.merged_at.is_some() && one.merged_at.is_none());

    // A donor and a coordinator die in the middle and come back.
    older.nodes[1].kill();
    younger.nodes[0].kill();
    tokio::time::sleep(Duration::from_millis(500)).await;
    younger.nodes[0].start();
    older.nodes[1].start();

    is_back(&younger).await;
    let more = younger.submit(&kernel, work(6)).await;
    for (island, job) in [(&older, long[0]), (&younger, long[1]), (&younger, more)] {
        let view = island.finished(job).await;
        assert_eq!(view.phase, Phase::Verified, "{view:?}\n{}", island.logs());
        assert_eq!(view.stages[0].accepted, view.stages[0].tasks);
        let receipts = island.dir.path().join(format!("receipts-{job}"));
        let receipts = receipts.to_str().expect("utf-8 path");
        island.coordinator().json(&["job", "receipts", &job.to_string(), "--output", receipts]);
        let mut files = Vec::new();
        collect(receipts.as_ref(), &mut files);
        assert_eq!(files.len(), view.stages[0].tasks as usize);
        for file in files {
            let verify = Command::new(binary()).args(["receipt", "verify"]).arg(file).output().expect("runs");
            assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stderr));
        }
    }
    // Donors of each work for both: while there is something to do in the other cell and nothing at home.
    let mut rounds = 0;
    loop {
        let [of_older, of_younger] =
            [&older, &younger].map(|island| island.nodes[1..].iter().collect::<Vec<_>>());
        if have_worked(&older, &of_younger).await && have_worked(&younger, &of_older).await {
            break;
        }
        rounds += 1;
        assert!(rounds < 10, "somebody never works for the other cell\n{}{}", older.logs(), younger.logs());
        for island in [&older, &younger] {
            let job = island.submit(&kernel, work(12)).await;
            assert_eq!(island.finished(job).await.phase, Phase::Verified);
        }
    }
    // Every donor sees its account in both, home first, and both verify.
    let mut told: Vec<(AccountId, BTreeMap<String, i64>)> = Vec::new();
    for node in older.nodes[1..].iter().chain(&younger.nodes[1..]) {
        let (cells, found) = credits(node);
        assert_eq!(cells, 2, "{found:?}");
        told.push((node.owner().account_id(), found));
    }
    let shown = older.nodes[2].json(&["donor", "status"]);
    let cells = shown["cells"].as_array().expect("cells");
    assert_eq!(cells[0]["cell"], one.cell.to_string(), "home first: {shown}");
    assert!(cells.len() == 2 && cells.iter().all(|cell| cell["state"] == "working"), "{shown}");
    // What the donors were told is what the two ledgers say, each by itself.
    for (island, cell) in [(&mut older, one.cell), (&mut younger, two.cell)] {
        let balances = audited(island).await;
        for (account, found) in &told {
            assert_eq!(found[&cell.to_string()], balances[account], "{account} in {cell}");
        }
    }
    let met = Command::new(binary())
        .args(["--json", "ledger", "verify"])
        .arg(younger.nodes[0].dir.join("log"))
        .output()
        .expect("runs");
    let met: serde_json::Value = serde_json::from_slice(&met.stdout).expect("json");
    assert_eq!(met["parent_cluster_id"], one.cell.to_string());
}

/// What a node says of itself.
async fn status(node: &Node) -> DonorView {
    match node.client().await.ask(Request::DonorStatus).await {
        Ok(Response::Donor(view)) => *view,
        other => panic!("{other:?}"),
    }
}

async fn is_back(island: &Federation) {
    island.until("the coordinator is back", async || cluster_of(island.coordinator()).await.is_some()).await;
}

async fn cluster_of(node: &Node) -> Option<ClusterView> {
    match node.cell(CellRequest::Cluster).await {
        Response::Cluster(view) => Some(*view),
        _ => None,
    }
}

#[tokio::test]
async fn a_donor_holds_its_report_while_the_coordinator_is_away_and_nothing_is_run_twice() {
    let (mut island, _) = island(None, 1).await;
    let job = island
        .submit(&guest("kernels/integer"), |stage| {
            stage.replicas = 1;
            stage.command = vec!["1500".into()];
        })
        .await;
    island.until("the task runs", async || status(&island.nodes[1]).await.guests > 0).await;
    island.nodes[0].kill();
    island
        .until("the task has been run, and its report waits", async || {
            let cells = status(&island.nodes[1]).await.cells;
            cells.first().is_some_and(|cell| (cell.replicas_run, cell.leases) == (1, 1))
        })
        .await;
    // Longer than the donor waits between its tries, and than the usual grace.
    tokio::time::sleep(Duration::from_secs(6)).await;
    island.nodes[0].start();
    is_back(&island).await;
    let view = island.finished(job).await;
    assert_eq!(view.phase, Phase::Verified, "{view:?}\n{}", island.logs());
    let cells = status(&island.nodes[1]).await.cells;
    assert_eq!((cells[0].replicas_run, cells[0].leases), (1, 0), "once, and settled");
    island.credited_once().await;
    audited(&mut island).await;
}

#[tokio::test]
async fn members_that_are_cut_off_found_an_island_and_serve_both_cells_when_home_is_back() {
    let mut all = Federation::empty(binary());
    all.add(&["--coordinate", "always", "--trusted", "--slots", "0"]);
    for _ in 0..2 {
        let how = [
            "--coordinate",
            "auto",
            "--trusted",
            "--consent",
            "all",
            "--slots",
            "1",
            "--island-after",
            "30s",
        ];
        all.add(&how);
    }
    all.joined(2).await;
    let home = all.cluster().await;
    let hello = |stage: &mut wc_types::manifest::Stage| {
        stage.tasks = 4;
        stage.replicas = 2;
    };
    let job = all.submit(&guest("hello"), hello).await;
    assert_eq!(all.finished(job).await.phase, Phase::Verified);

    all.nodes[0].kill();
    all.until("the lowest of the two founds an island, and the other one finds it", async || {
        let seen = [cluster_of(&all.nodes[1]).await, cluster_of(&all.nodes[2]).await];
        seen.iter().all(|view| view.as_ref().is_some_and(|view| view.cell != home.cell && view.online == 2))
    })
    .await;
    let island = cluster_of(&all.nodes[1]).await.expect("an island");
    assert_eq!(island.dht, "island");
    let founder = if id(&all.nodes[1]) == island.coordinator { 1 } else { 2 };
    // It keeps serving its LAN.
    all.nodes.swap(0, founder);
    let job = all.submit(&guest("hello"), hello).await;
    assert_eq!(all.finished(job).await.phase, Phase::Verified, "{}", all.logs());
    all.nodes.swap(0, founder);

    all.nodes[0].start();
    all.until("home is back, everybody serves both, and the island has met it", async || {
        let mut serving = 0;
        for node in &all.nodes[1..] {
            let cells = status(node).await.cells;
            let both = cells.len() == 2 && cells.iter().all(|cell| cell.state == "working");
            serving += usize::from(both && cells[0].cell == home.cell && cells[0].home);
        }
        let met = cluster_of(&all.nodes[founder]).await.is_some_and(|view| view.parent_cluster_id.is_some());
        serving == 2
            && met
            && cluster_of(&all.nodes[3 - founder]).await.is_some_and(|view| view.cell == home.cell)
    })
    .await;
    let met = cluster_of(&all.nodes[founder]).await.expect("the island");
    assert_eq!((met.cell, met.parent_cluster_id), (island.cell, Some(home.cell)));
    assert_eq!(met.dht, "merged (global)");
    // Both cells have work done, by both machines.
    let job = all.submit(&guest("hello"), hello).await;
    assert_eq!(all.finished(job).await.phase, Phase::Verified, "{}", all.logs());
    all.nodes.swap(0, founder);
    let job = all.submit(&guest("hello"), hello).await;
    assert_eq!(all.finished(job).await.phase, Phase::Verified, "{}", all.logs());
    all.nodes.swap(0, founder);
    for node in &all.nodes[1..] {
        let (cells, found) = credits(node);
        assert!(cells == 2 && found.values().all(|balance| *balance > 0), "{found:?}");
    }
    // Whoever restarts finds its home again, and the other cell.
    let member = 3 - founder;
    all.nodes[member].kill();
    all.nodes[member].start();
    all.until("the member is back in both", async || {
        let view = status(&all.nodes[member]).await;
        view.cell == Some(home.cell)
            && view.cells.len() == 2
            && view.cells.iter().all(|cell| cell.state == "working")
    })
    .await;
    // And the founder coordinates its island still.
    all.nodes[founder].kill();
    all.nodes[founder].start();
    all.until("the island goes on", async || {
        let view = cluster_of(&all.nodes[founder]).await;
        view.is_some_and(|view| {
            view.cell == island.cell && view.parent_cluster_id == Some(home.cell) && view.online == 2
        })
    })
    .await;
}

fn collect(dir: &std::path::Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("directory").flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), files);
        } else if entry.path().extension().is_some_and(|kind| kind == "receipt") {
            files.push(entry.path());
        }
    }
}
