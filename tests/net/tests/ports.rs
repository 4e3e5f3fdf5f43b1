//! A router that forwards ports, and the node that asks it to.

use std::path::Path;
use std::time::{Duration, Instant};

use wc_tests_net::Lab;
use wc_tests_net::filter::Filter;
use wc_tests_net::lab::{Family, Offers};
use wc_tests_net::nat::{MAPPER, Nat};
use wc_tests_net::node::Node;

#[test]
fn a_node_that_ends_gives_its_forwarded_ports_back_and_one_that_was_told_asks_for_none() {
    if !Path::new(MAPPER).exists() {
        println!("SKIP: no {MAPPER} here (apt-get install miniupnpd-nftables)");
        return;
    }
    let Some(lab) = Lab::open(Family::V4) else { return };
    let home = lab.router("home", Nat::PortRestricted, &Filter::Nothing, lab.internet(), None);
    let _mapper = lab.forward_ports(&home, Offers::Everything);
    let forwarded = || home.machine.run(&["nft", "list", "chain", "inet", "mapper", "mapped_in"]);
    let run = |name: &str, more: &[&str]| {
        let host = lab.host(name, &home, None);
        let mut node = Node::new(&host.machine, lab.dir());
        let words = ["node", "run", "--until-stdin-closes", "--network", "lab"];
        node.start(&words.iter().chain(more).map(|word| (*word).to_owned()).collect::<Vec<_>>(), &[]);
        node.id().expect("it runs");
        (node, host)
    };
    let wait = |what: &str, is_so: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}:\n{}", forwarded());
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    let (mut node, _host) = run("asks", &[]);
    // QUIC's and TCP's.
    wait("both ports are forwarded", &|| forwarded().matches("dport 19999 dnat").count() == 2);
    wait("the node says so", &|| node.log().matches("the router forwards a port to us").count() == 2);
    let found = node.ask(&["doctor"]).expect("it examines the network");
    let rows = found["findings"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["subject"] == "forwarding").expect("it asks the router");
    assert!(
        row["verdict"] == true && row["detail"].as_str().is_some_and(|what| what.contains("PCP")),
        "{row}"
    );
    assert!(found["nat"].is_string(), "{found}");
    node.end();
    // The router is told, and does not answer.
    wait("nothing is left behind", &|| !forwarded().contains("19999"));

    let (mut node, _host) = run("silent", &["--no-port-mapping"]);
    // Longer than the first one took.
    std::thread::sleep(Duration::from_secs(3));
    assert!(!forwarded().contains("19999"), "nobody asked:\n{}", forwarded());
    node.end();
}

#[test]
fn a_router_that_speaks_only_upnp_forwards_ports_and_gets_them_back() {
    if !Path::new(MAPPER).exists() {
        println!("SKIP: no {MAPPER} here (apt-get install miniupnpd-nftables)");
        return;
    }
    let Some(lab) = Lab::open(Family::V4) else { return };
    let home = lab.router("home", Nat::PortRestricted, &Filter::Nothing, lab.internet(), None);
    let _mapper = lab.forward_ports(&home, Offers::UpnpOnly);
    let host = lab.host("asks", &home, None);
    let mut node = Node::new(&host.machine, lab.dir());
    node.start(&["node", "run", "--until-stdin-closes", "--network", "lab"].map(str::to_owned), &[]);
    node.id().expect("it runs");
    let forwarded = || home.machine.run(&["nft", "list", "chain", "inet", "mapper", "mapped_in"]);
    let wait = |what: &str, is_so: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}:\n{}\n{}", forwarded(), node.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    wait("both ports are forwarded", &|| forwarded().matches("dport 19999 dnat").count() == 2);
    wait("the node says so", &|| node.log().matches("the router forwards a port to us").count() == 2);
    let found = node.ask(&["doctor"]).expect("it examines the network");
    let rows = found["findings"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["subject"] == "forwarding").expect("it asks the router");
    assert!(row["detail"].as_str().is_some_and(|what| what.contains("UPnP")), "{row}");
    node.end();
    let begun = Instant::now();
    while forwarded().contains("19999") {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing is left behind:\n{}", forwarded());
        std::thread::sleep(Duration::from_millis(200));
    }
}
