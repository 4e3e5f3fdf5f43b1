//! The real binary behind relays: nodes that listen nowhere meet, work and go on when a relay is lost.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use wc_proto::api::view::Phase;
use wc_proto::api::{CellRequest, Request, Response};
use wc_tests::federation::{Federation, Node, SOON, binary, guest};
use wc_types::cid::CODEC_RAW;
use wc_types::manifest::{Input, InputSource};

const MIB: usize = 1 << 20;
const COORDINATOR: [&str; 5] = ["--coordinate", "always", "--trusted", "--slots", "0"];
const DONOR: [&str; 7] = ["--coordinate", "never", "--consent", "all", "--slots", "2", "--accept-direct"];

/// Starts a coordinator and a donor that listen nowhere and know some relays' addresses, and waits until they met.
async fn hidden(relays: usize) -> (Federation, Vec<(Node, String)>) {
    let mut federation = Federation::empty(binary());
    let relays: Vec<(Node, String)> = (0..relays).map(|number| federation.relay(number, &[])).collect();
    let seeds: Vec<&str> = relays.iter().map(|(_, address)| address.as_str()).collect();
    let begun = Instant::now();
    federation.add_hidden(&seeds, &COORDINATOR);
    federation.add_hidden(&seeds, &DONOR);
    met(&federation).await;
    println!("the donor had joined {:?} after the start", begun.elapsed());
    (federation, relays)
}

async fn met(federation: &Federation) {
    federation
        .until("the donor joins through a relay", async || {
            let nodes = federation.coordinator().client().await.ask(Request::Cell(CellRequest::Nodes)).await;
            matches!(nodes, Ok(Response::Nodes(nodes)) if nodes.iter().any(|node| node.state == "online"))
        })
        .await;
}

/// A job with a mebibyte in and a mebibyte out, and its receipt checked without a network.
async fn large_job(federation: &Federation, name: &str) {
    let coordinator = federation.coordinator();
    let mut state = 88_172_645_463_325_252u64;
    let random = std::iter::from_fn(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(state as u8)
    });
    let bytes: Vec<u8> = random.take(MIB).collect();
    let mut client = coordinator.client().await;
    let put = Request::PutBytes { codec: CODEC_RAW, bytes };
    let Response::Blob(blob) = client.ask(put).await.expect("the node answers") else { panic!("no blob") };
    let begun = Instant::now();
    let job = federation
        .submit(&guest("fractal"), |stage| {
            stage.replicas = 1;
            stage.inputs = vec![Input { name: "data".to_owned(), source: InputSource::Blob(blob) }];
            // 592 x 592 pixels of three bytes.
            stage.command = ["--size", "592", "--tiles", "1"].map(str::to_owned).to_vec();
        })
        .await;
    let view = federation.finished(job).await;
    assert_eq!(view.phase, Phase::Verified, "{view:?}\n{}", federation.logs());
    let out = federation.dir.path().join(format!("{name}-results"));
    let path = |path: &Path| path.to_str().expect("utf-8 path").to_owned();
    let id = job.to_string();
    coordinator.json(&["job", "results", &id, "--output", &path(&out)]);
    let tile =
        files(&out).iter().find(|file| file.ends_with("tile.rgb")).and_then(|file| file.metadata().ok());
    let tile = tile.expect("the picture").len();
    assert_eq!(tile, 592 * 592 * 3);
    println!("{name}: 1 MiB in and {tile} bytes out took {:?}", begun.elapsed());
    let receipts = federation.dir.path().join(format!("{name}-receipts"));
    coordinator.json(&["job", "receipts", &id, "--output", &path(&receipts)]);
    let mut verified = 0;
    for file in files(&receipts) {
        if file.extension().is_some_and(|kind| kind == "receipt") {
            let output = coordinator.command(&["receipt", "verify", &path(&file)]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            verified += 1;
        }
    }
    assert_eq!(verified, 1);
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("directory").flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|item| Some(item.as_str()?.to_owned())).collect()
}

/// Returns the relays that a node holds reservations on, by address.
fn reservations(node: &Node) -> Vec<String> {
    let status = node.json(&["relay", "status"]);
    let held = status["reservations"].as_array().expect("a list").iter();
    held.filter(|reservation| reservation["state"] == "active")
        .map(|reservation| reservation["address"].as_str().expect("text").to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_listen_nowhere_work_together_through_a_relay() {
    let (federation, relays) = hidden(1).await;
    let (relay, address) = &relays[0];
    large_job(&federation, "relayed").await;
    large_job(&federation, "relayed-again").await;

    let [coordinator, donor] = [&federation.nodes[0], &federation.nodes[1]];
    for node in [coordinator, donor] {
        assert_eq!(reservations(node), std::slice::from_ref(address));
        for peer in node.json(&["cluster", "peers"]).as_array().expect("a list") {
            let transports: Vec<&str> = peer["paths"]
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(|path| path["transport"].as_str())
                .collect();
            let relayed = peer["address"].as_str().expect("text").contains("/p2p-circuit");
            assert_eq!(transports, [if relayed { "relay" } else { "tcp" }], "{peer}");
        }
        assert_eq!(node.json(&["relay", "status"])["open"], false);
    }
    // One of them dialled the other, which thereby knows that it is reached, and how.
    federation
        .until("one of them is reached", async || {
            [coordinator, donor].iter().any(|node| {
                let reach = &node.json(&["donor", "status"])["reach"];
                reach["reachable"] == true
                    && texts(&reach["reachable_via"])
                        .iter()
                        .any(|via| via.contains(address) && via.contains("/p2p-circuit"))
            })
        })
        .await;
    let text = donor.command(&["donor", "status"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("reachable") && text.contains("active") && text.contains("p2p-circuit"), "{text}");

    let status = relay.json(&["relay", "status"]);
    println!("the relay says: {}", status["relay"]);
    assert_eq!(status["relay"]["offered"], true);
    assert_eq!(status["relay"]["reservations"], 2);
    assert!(status["relay"]["carried_bytes"].as_u64().expect("a number") > 2 * MIB as u64);
    assert_eq!(relay.json(&["donor", "status"])["state"], "relaying");

    // A stranger with the circuit's address gives the donor work.
    let status = donor.json(&["donor", "status"]);
    let executor = texts(&status["addresses"])
        .into_iter()
        .find(|text| text.contains("/p2p-circuit"))
        .expect("a circuit");
    let module = guest("hello");
    let output = coordinator.command(&[
        "job",
        "submit",
        "--network",
        federation.network(),
        "--executor",
        &executor,
        "--workload",
        module.to_str().expect("utf-8 path"),
    ]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("hello from task"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_lost_is_replaced_and_work_goes_on() {
    let (mut federation, mut relays) = hidden(2).await;
    federation
        .until("both hold two reservations", async || {
            federation.nodes.iter().all(|node| reservations(node).len() == 2)
        })
        .await;
    let donor = federation.nodes[1].json(&["donor", "status"])["node"].clone();
    let peers = federation.coordinator().json(&["cluster", "peers"]);
    let peer =
        peers.as_array().expect("a list").iter().find(|peer| peer["node"] == donor).expect("the donor");
    let path = peer["address"].as_str().expect("text").to_owned();
    let used =
        relays.iter().position(|(_, address)| path.starts_with(&format!("{address}/"))).expect("a relay");
    let other = relays[1 - used].1.clone();
    let lost = Instant::now();
    relays[used].0.kill();
    federation
        .until("the donor is back over the other relay", async || {
            let peers = federation.coordinator().json(&["cluster", "peers"]);
            let back = peers.as_array().expect("a list").iter().any(|peer| {
                peer["node"] == donor
                    && peer["address"].as_str().is_some_and(|path| path.starts_with(&format!("{other}/")))
            });
            let online = matches!(
                federation.coordinator().cell(CellRequest::Nodes).await,
                Response::Nodes(nodes) if nodes.iter().any(|node| node.state == "online")
            );
            back && online
        })
        .await;
    println!("the donor was back over the other relay {:?} after the first was killed", lost.elapsed());
    assert!(lost.elapsed() < SOON);
    large_job(&federation, "after-the-loss").await;
    for node in &federation.nodes {
        assert_eq!(reservations(node), std::slice::from_ref(&other));
    }

    // What the donor knows lies on its disk: it comes back without a seed.
    let donor = &mut federation.nodes[1];
    donor.command(&["node", "stop"]);
    assert!(donor.ended(SOON));
    donor.forget("--join");
    donor.start();
    donor.client().await;
    federation
        .until("the donor is back", async || {
            federation.nodes[1].json(&["donor", "status"])["state"] != "searching"
                && reservations(&federation.nodes[1]) == std::slice::from_ref(&other)
        })
        .await;
    met(&federation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_finds_no_cell_stops_when_told() {
    let mut federation = Federation::empty(binary());
    let (mut relay, address) = federation.relay(0, &[]);
    federation.add_hidden(&[&address], &["--coordinate", "never", "--slots", "0"]);
    for node in [&mut relay, &mut federation.nodes[0]] {
        node.client().await;
        let output = node.command(&["node", "stop"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(node.ended(Duration::from_secs(20)), "{}", node.logged());
    }
}
