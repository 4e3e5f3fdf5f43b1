//! Two LANs without the internet are two islands; when they get it, they merge (J5, NET-06).

use std::time::{Duration, Instant};

use serde_json::Value;
use wc_tests_net::Lab;
use wc_tests_net::filter::Filter;
use wc_tests_net::lab::{Family, Host, Router};
use wc_tests_net::nat::Nat;
use wc_tests_net::node::{Node, guest};

/// Long enough for anything that should take a moment, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// A LAN behind a home router, without the internet: a coordinator and a donor that find each other by themselves.
struct Island {
    router: Router,
    nodes: Vec<Node>,
    _hosts: Vec<Host>,
}

impl Island {
    fn new(lab: &Lab, name: &str, seed: &str) -> Self {
        let router = lab.router(name, Nat::PortRestricted, &Filter::Nothing, lab.internet(), None);
        let rule =
            "chain cut {\n type filter hook forward priority -200;\n oifname wan drop\n iifname wan drop\n }";
        router.machine.nft(&format!("table inet cut {{\n {rule}\n}}\n"));
        let roles = [
            ("head", ["--coordinate", "always", "--slots", "1"]),
            ("hand", ["--coordinate", "never", "--slots", "1"]),
        ];
        let mut island = Self { router, nodes: Vec::new(), _hosts: Vec::new() };
        for (role, words) in roles {
            let host = lab.host(&format!("{name}-{role}"), &island.router, None);
            let mut node = Node::new(&host.machine, lab.dir());
            let common =
                ["node", "run", "--until-stdin-closes", "--network", "lab", "--trusted", "--join", seed];
            node.start(&common.iter().chain(&words).map(|word| (*word).to_owned()).collect::<Vec<_>>(), &[]);
            node.id().expect("it runs");
            island.nodes.push(node);
            island._hosts.push(host);
        }
        island
    }

    fn connect_internet(&self) {
        self.router.machine.run(&["nft", "delete", "table", "inet", "cut"]);
    }

    /// Waits until what the cell says of itself is so.
    fn until(&self, patience: Duration, is_so: impl Fn(&Value) -> bool) -> Value {
        let found = |status: &Value| is_so(&status["cluster"]).then(|| status["cluster"].clone());
        self.nodes[0].until(&["cluster", "status"], patience, found).unwrap_or_else(|error| {
            let logs: Vec<String> = self.nodes.iter().map(|node| node.last_words(12)).collect();
            panic!("{error}\n{}", logs.join("\n--\n"))
        })
    }

    /// Runs a job of ten tasks with two replicas each to its end.
    fn work(&self, lab: &Lab, name: &str) {
        let inputs = lab.dir().join("inputs");
        std::fs::create_dir_all(&inputs).expect("a directory");
        for number in 0..10 {
            std::fs::write(inputs.join(format!("{number}.txt")), format!("{name} {number}")).expect("a file");
        }
        let (module, out) = (guest("hello"), lab.dir().join(format!("out-{name}")));
        let text = |path: &std::path::Path| path.to_str().expect("utf-8").to_owned();
        let words = ["map", &text(&module), &text(&inputs), "--replicas", "2", "--output", &text(&out)];
        let done = self.nodes[0].command(&words);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert!(out.exists());
    }
}

#[test]
fn two_lans_that_get_the_internet_become_one_network_and_keep_two_ledgers() {
    let Some(lab) = Lab::open(Family::V4) else { return };
    let seed_host = lab.host("seed", lab.internet(), None);
    let seed_at = format!("/ip4/{}/tcp/19999", seed_host.v4);
    let mut seed = Node::new(&seed_host.machine, lab.dir());
    let words = ["relay", "run", "--until-stdin-closes", "--network", "lab"];
    seed.start(&words.map(str::to_owned), &[]);
    seed.id().expect("it runs");

    let islands = ["one", "two"].map(|name| Island::new(&lab, name, &seed_at));
    for (island, name) in islands.iter().zip(["first", "second"]) {
        let alone = island.until(SOON, |cluster| cluster["online"] == 2);
        assert_eq!(
            (&alone["dht"], alone["others"].as_array().map(Vec::len)),
            (&Value::from("island"), Some(0))
        );
        island.work(&lab, name);
    }

    let begun = Instant::now();
    islands.iter().for_each(Island::connect_internet);
    let merged = islands.each_ref().map(|island| {
        island.until(SOON, |cluster| cluster["dht"] == "merged (global)" && cluster["online"] == 4)
    });
    println!("the islands merged {:.1} s after they got the internet", begun.elapsed().as_secs_f64());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let parent = islands[1].until(SOON, |cluster| !cluster["parent_cluster_id"].is_null());
    assert_eq!(parent["parent_cluster_id"], merged[0]["cell"]);
    for (island, name) in islands.iter().zip(["third", "fourth"]) {
        island.work(&lab, name);
        for node in &island.nodes {
            let told = node.ask(&["donor", "credits", "--verify"]).expect("it verifies");
            assert_eq!(
                (&told["verification"], &told["others"][0]["verification"]),
                (&"PASS".into(), &"PASS".into())
            );
        }
    }
}
