//! Holds a reservation for a while and prints, as Markdown, what that costs: `hold [--minutes 10] [--peers 50]`.
//!
//! One node with default settings stands behind a port-restricted router and knows two relays; so many donors stand on
//! the internet. Counted is what the node itself does: its memory, its processor time, the bytes on its wire, and how its
//! dials ended. `WC_BIN` names the binary to measure; the logs are left in `WC_NET_LOGS`, if that names a directory.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;
use wc_tests_net::filter::Filter;
use wc_tests_net::lab::{Family, Host, Lab, Router};
use wc_tests_net::nat::Nat;
use wc_tests_net::node::Node;

/// How long everybody may take until all know each other.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between the end of the beginning and the first measure.
const SETTLE: Duration = Duration::from_secs(60);
/// Time between two looks at the reservations.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Ticks of the processor clock in a second (`getconf CLK_TCK`), 100 on every Linux that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() -> ExitCode {
    let setting = |name: &str, default: u64| -> u64 {
        let mut words = std::env::args().skip_while(|word| word != name);
        words.nth(1).and_then(|word| word.parse().ok()).unwrap_or(default)
    };
    let (minutes, peers) = (setting("--minutes", 10), setting("--peers", 50));
    let Some(lab) = Lab::open(Family::V4) else { return ExitCode::SUCCESS };
    match Federation::start(&lab, peers).and_then(|federation| federation.hold(minutes)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Everybody, and the node that is looked at. Nodes end before their machines.
struct Federation {
    watched: Node,
    others: Vec<Node>,
    home: Host,
    _hosts: Vec<Host>,
    _router: Router,
}

/// What a process has used so far.
#[derive(Clone, Copy)]
struct Used {
    at: Instant,
    processor: f64,
    wire_bytes: u64,
}

impl Federation {
    fn start(lab: &Lab, peers: u64) -> Result<Self, String> {
        let (mut others, mut hosts) = (Vec::new(), Vec::new());
        let mut relays: Vec<String> = Vec::new();
        let words = |words: &[&str], known: &[String]| -> Vec<String> {
            let words = words.iter().map(|word| (*word).to_owned());
            words.chain(known.iter().flat_map(|known| ["--join".to_owned(), known.clone()])).collect()
        };
        let base = ["--until-stdin-closes", "--network", "lab"];
        let mut public = |name: &str, more: &[&str], known: &[String]| -> Result<(String, String), String> {
            let host = lab.host(name, lab.internet(), None);
            let mut node = Node::new(&host.machine, lab.dir());
            node.start(&words(&[more, &base].concat(), known), &[]);
            let id = node.id()?;
            let address = format!("/ip4/{}/udp/19999/quic-v1/p2p/{id}", host.v4);
            others.push(node);
            hosts.push(host);
            Ok((id, address))
        };
        for name in ["relay1", "relay2"] {
            let (_, address) = public(name, &["relay", "run"], &relays)?;
            relays.push(address);
        }
        let coordinate = ["node", "run", "--coordinate", "always", "--trusted", "--slots", "0"];
        public("coordinator", &coordinate, &relays)?;
        for number in 1..=peers {
            let donate = ["node", "run", "--coordinate", "never", "--consent", "all", "--slots", "1"];
            public(&format!("peer{number}"), &donate, &relays)?;
            eprint!("\r{number} of {peers} peers");
        }
        eprintln!();
        let router = lab.router("home", Nat::PortRestricted, &Filter::Nothing, lab.internet(), None);
        let home = lab.host("watched", &router, None);
        let mut watched = Node::new(&home.machine, lab.dir());
        let donate = ["node", "run", "--coordinate", "never", "--consent", "all"];
        watched.start(&words(&[&donate[..], &base].concat(), &relays), &[]);
        let federation = Self { watched, others, home, _hosts: hosts, _router: router };
        let begun = Instant::now();
        federation
            .watched
            .until(&["donor", "status"], PATIENCE, |status| (!circuits(status).is_empty()).then_some(()))?;
        println!("first reservation: {:.1} s after the start", begun.elapsed().as_secs_f64());
        federation
            .watched
            .until(&["donor", "status"], PATIENCE, |status| (circuits(status).len() >= 2).then_some(()))?;
        println!("second reservation: {:.1} s after the start", begun.elapsed().as_secs_f64());
        Ok(federation)
    }

    fn hold(&self, minutes: u64) -> Result<(), String> {
        std::thread::sleep(SETTLE);
        let dials_before = dials(&self.watched.log());
        let (before, begun) = (self.used()?, Instant::now());
        let (mut looks, mut held) = (0, 0);
        let mut resident = Vec::new();
        while begun.elapsed() < Duration::from_secs(60 * minutes) {
            std::thread::sleep(LOOK_EVERY);
            looks += 1;
            held += usize::from(circuits(&self.watched.ask(&["donor", "status"])?).len() >= 2);
            resident.push(self.resident_mib()?);
            eprint!("\r{} of {} s", begun.elapsed().as_secs(), 60 * minutes);
        }
        eprintln!();
        let after = self.used()?;
        let seconds = (after.at - before.at).as_secs_f64();
        let peers = self.watched.ask(&["cluster", "peers"])?;
        let connected = peers.as_array().map_or(0, Vec::len);
        let log = self.watched.log();
        let lost = log.lines().filter(|line| line.contains("reservation lost")).count();
        let all = dials(&log);
        let now =
            Dials { ended: all.ended - dials_before.ended, failed: all.failed - dials_before.failed, ..all };
        println!("| measured over {seconds:.0} s | |");
        println!("|---|---|");
        println!("| other nodes running, connected with | {}, {connected} |", self.others.len());
        println!("| looks that found two reservations | {held} of {looks} |");
        println!("| reservations lost | {lost} |");
        println!("| dials ended in that time, failed | {}, {} |", now.ended, now.failed);
        println!(
            "| dials ended since the start, failed, failed without a cause | {}, {}, {} |",
            all.ended, all.failed, all.silent
        );
        println!(
            "| resident memory, median and largest, MiB | {:.1}, {:.1} |",
            median(&mut resident),
            resident.last().copied().unwrap_or_default()
        );
        println!(
            "| processor, % of a core | {:.3} |",
            100.0 * (after.processor - before.processor) / seconds
        );
        println!(
            "| bytes a second on the wire, both ways | {:.0} |",
            (after.wire_bytes - before.wire_bytes) as f64 / seconds
        );
        if let Some(keep) = std::env::var_os("WC_NET_LOGS") {
            self.watched.keep_log(Path::new(&keep));
            self.others.iter().for_each(|node| node.keep_log(Path::new(&keep)));
        }
        if held < looks || lost > 0 || all.silent > 0 {
            return Err("a reservation was not held, or a dial failed silently".to_owned());
        }
        Ok(())
    }

    fn used(&self) -> Result<Used, String> {
        let processor = self.processes()?.iter().map(|pid| processor_seconds(*pid)).sum();
        let output = self.home.machine.run(&["ip", "-s", "-j", "link", "show", "wan"]);
        let links: Value = serde_json::from_str(&output).map_err(|error| error.to_string())?;
        let bytes = |way: &str| links[0]["stats64"][way]["bytes"].as_u64().unwrap_or_default();
        Ok(Used { at: Instant::now(), processor, wire_bytes: bytes("rx") + bytes("tx") })
    }

    /// Resident memory of the node and its workers.
    fn resident_mib(&self) -> Result<f64, String> {
        let resident = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok())
                .unwrap_or_default()
        };
        Ok(self.processes()?.iter().map(resident).sum::<f64>() / 1024.0)
    }

    /// The node's process and all below it.
    fn processes(&self) -> Result<Vec<u32>, String> {
        let mut all = vec![self.watched.pid().ok_or("the watched node does not run")?];
        let mut at = 0;
        while let Some(pid) = all.get(at) {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
            let more: Vec<u32> = children
                .flat_map(|line| {
                    line.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
                })
                .collect();
            all.extend(more);
            at += 1;
        }
        Ok(all)
    }
}

/// Returns the relays at which a node says it can be reached.
fn circuits(status: &Value) -> BTreeSet<String> {
    let told = status["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let relays = told.filter_map(|told| told.split_once("/p2p-circuit")?.0.rsplit_once("/p2p/"));
    relays.map(|(_, relay)| relay.to_owned()).collect()
}

/// How the dials in a log ended.
#[derive(Clone, Copy)]
struct Dials {
    ended: usize,
    failed: usize,
    /// Failed, and no cause is told.
    silent: usize,
}

fn dials(log: &str) -> Dials {
    let mut dials = Dials { ended: 0, failed: 0, silent: 0 };
    for line in log.lines().filter(|line| line.contains("dial ended")) {
        dials.ended += 1;
        if !line.contains("outcome=success") {
            dials.failed += 1;
            dials.silent += usize::from(!line.contains("root_cause="));
        }
    }
    dials
}

fn processor_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields 14 and 15 of proc(5); the name before them may hold spaces.
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields).unwrap_or_default();
    let ticks = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

/// Sorts and returns the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
