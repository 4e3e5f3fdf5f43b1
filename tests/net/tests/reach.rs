//! How a donor is reached decides where heavy work goes, and where light work goes it does not matter (NET-34).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use wc_tests_net::Lab;
use wc_tests_net::filter::Filter;
use wc_tests_net::lab::{Family, Host};
use wc_tests_net::nat::Nat;
use wc_tests_net::node::{Node, guest};

/// Long enough for anything that should take a moment, on a busy machine.
const SOON: Duration = Duration::from_secs(90);
/// Slots of each donor, and tasks of the heavy job.
const SLOTS: usize = 4;

/// Starts a node on a machine.
fn start(lab: &Lab, host: &Host, words: &[&str]) -> Node {
    let mut node = Node::new(&host.machine, lab.dir());
    node.start(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), &[]);
    node.id().expect("it runs");
    node
}

/// Runs one task for each of so many files of so many bytes, none of which is like another.
fn work(lab: &Lab, head: &Node, name: &str, files: usize, bytes: usize) {
    let inputs = lab.dir().join(name);
    std::fs::create_dir_all(&inputs).expect("a directory");
    for number in 0..files {
        let mut content = vec![number as u8; bytes];
        content.extend(name.bytes());
        std::fs::write(inputs.join(format!("{number}.bin")), content).expect("a file");
    }
    let (module, out) = (guest("noop"), lab.dir().join(format!("{name}-out")));
    let text = |path: &std::path::Path| path.to_str().expect("utf-8").to_owned();
    let words = ["map", &text(&module), &text(&inputs), "--replicas", "1", "--output", &text(&out)];
    let done = head.command(&words);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Returns how many replicas of each node agreed so far.
fn agreed(head: &Node) -> BTreeMap<String, u64> {
    let status = head.ask(&["cluster", "status"]).expect("it answers");
    let nodes = status["nodes"].as_array().expect("nodes");
    nodes
        .iter()
        .filter_map(|node| Some((node["node"].as_str()?.to_owned(), node["agreed"].as_u64()?)))
        .collect()
}

#[test]
fn a_heavy_job_goes_to_the_donor_on_the_lan_and_a_light_one_to_the_relayed_donor_too() {
    let Some(lab) = Lab::open(Family::V4) else { return };
    let relay_host = lab.host("relay", lab.internet(), None);
    let seed = format!("/ip4/{}/tcp/19999", relay_host.v4);
    let _relay = start(&lab, &relay_host, &["relay", "run", "--until-stdin-closes", "--network", "lab"]);

    // Between two symmetric NATs no hole can be punched.
    let homes = ["near", "far"].map(|name| {
        lab.router(&format!("{name}-home"), Nat::Symmetric, &Filter::Nothing, lab.internet(), None)
    });
    let hosts = [("head", 0), ("near", 0), ("far", 1)].map(|(name, home)| lab.host(name, &homes[home], None));
    let run = ["node", "run", "--until-stdin-closes", "--network", "lab", "--join", &seed];
    let roles: [&[&str]; 3] = [
        &["--coordinate", "always", "--trusted", "--slots", "0"],
        &["--coordinate", "never", "--consent", "all", "--slots", "4"],
        &["--coordinate", "never", "--consent", "all", "--slots", "4"],
    ];
    let mut nodes: Vec<Node> = hosts
        .iter()
        .zip(roles)
        .map(|(host, role)| start(&lab, host, &[run.as_slice(), role].concat()))
        .collect();
    let (near, far) = (nodes[1].id().expect("runs"), nodes[2].id().expect("runs"));
    let head = &nodes[0];

    let reached = |status: &Value| {
        let reach = |node: &str| {
            let nodes = status["nodes"].as_array()?;
            nodes.iter().find(|view| view["node"] == *node)?["path"]["reach"].as_str()
        };
        (reach(&near) == Some("lan") && reach(&far) == Some("relayed")).then_some(())
    };
    head.until(&["cluster", "status"], SOON, reached).unwrap_or_else(|error| {
        let logs: Vec<String> = nodes.iter().map(|node| node.last_words(12)).collect();
        panic!("{error}\n{}", logs.join("\n--\n"))
    });
    let peers = head.ask(&["cluster", "peers"]).expect("it answers");
    let peer = peers.as_array().expect("peers").iter().find(|peer| peer["node"] == far).expect("far");
    assert_eq!(peer["reach"], "relayed");

    work(&lab, head, "heavy", SLOTS, 9 << 20);
    let given = agreed(head);
    assert_eq!((given[&near], given[&far]), (SLOTS as u64, 0), "the heavy job");
    work(&lab, head, "light", 2 * SLOTS, 1000);
    let given = agreed(head);
    assert!(given[&far] > 0, "the light job: {given:?}");
    println!("heavy: {SLOTS} tasks near; light: {} near, {} far", given[&near] - SLOTS as u64, given[&far]);

    // A preference and no more: alone, the relayed donor runs what is heavy.
    nodes[1].end();
    let head = &nodes[0];
    work(&lab, head, "alone", 2, 9 << 20);
    assert_eq!(agreed(head)[&far], given[&far] + 2);
}
