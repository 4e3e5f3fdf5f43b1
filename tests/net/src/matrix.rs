//! The networks that a federation must work in, and what is measured in each.
//!
//! Every cell is a coordinator and two donors of different owners. It completes when a job with 1 MiB in and 1 MiB out
//! ran on both donors, its result is right, and its receipt verifies offline.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::filter::Filter;
use crate::lab::{Family, Host, Lab, Prober, Router};
use crate::link::{Link, Profile};
use crate::nat::Nat;
use crate::node::{Node, binary, guest};

/// Bytes that go in, and come out.
const PAYLOAD_BYTES: usize = 1024 * 1024;
/// Bytes that one donor fetches when throughput is measured.
const BULK_BYTES: usize = 16 * 1024 * 1024;

/// Where a node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    nat: Option<Nat>,
    carrier: bool,
    filter: Filter,
    link: Option<Link>,
    docker: bool,
}

impl Site {
    /// Returns a public address with a perfect wire.
    pub fn public() -> Self {
        Self { nat: None, carrier: false, filter: Filter::Nothing, link: None, docker: false }
    }

    /// Returns a home behind a router.
    pub fn behind(nat: Nat) -> Self {
        Self { nat: Some(nat), ..Self::public() }
    }

    /// Returns a home behind a router behind a carrier's translator.
    pub fn behind_carrier() -> Self {
        Self { carrier: true, ..Self::behind(Nat::PortRestricted) }
    }

    /// Returns an office that lets out only some things.
    pub fn office(filter: Filter) -> Self {
        Self { filter, ..Self::behind(Nat::PortRestricted) }
    }

    /// Returns the same behind this wire.
    pub fn over(self, link: Link) -> Self {
        Self { link: Some(link), ..self }
    }

    /// Returns the same with a bridge that has the same address on every such machine.
    pub fn with_docker(self) -> Self {
        Self { docker: true, ..self }
    }
}

/// What happens once the donors are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing.
    Nothing,
    /// The first donor goes from its home to a mobile carrier.
    Moves,
}

/// A network and what is expected of it.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Its row in the table.
    pub name: &'static str,
    family: Family,
    coordinator: Site,
    donors: [Site; 2],
    event: Event,
    /// How long each step may take before the cell counts as broken.
    patience: Duration,
}

impl Cell {
    fn new(name: &'static str, coordinator: Site, donor: Site) -> Self {
        let donors = [donor.clone(), donor];
        let patience = Duration::from_secs(90);
        Self { name, family: Family::V4, coordinator, donors, event: Event::Nothing, patience }
    }

    fn patient(self, seconds: u64) -> Self {
        Self { patience: Duration::from_secs(seconds), ..self }
    }
}

/// Returns every cell, in the order of the table.
pub fn cells() -> Vec<Cell> {
    let millis = |round_trip: u64| Profile::delay(Duration::from_millis(round_trip / 2));
    let public = Site::public;
    let both = |profile| public().over(Link::both(profile));
    let megabit = Link { up: millis(40).rate(1_000_000), down: millis(40).rate(20_000_000) };
    vec![
        Cell::new("no NAT", public(), public()),
        Cell::new("full cone", public(), Site::behind(Nat::FullCone)),
        Cell::new("restricted", public(), Site::behind(Nat::Restricted)),
        Cell::new("port-restricted", public(), Site::behind(Nat::PortRestricted)),
        Cell::new("symmetric", public(), Site::behind(Nat::Symmetric)),
        Cell::new("carrier-grade NAT", public(), Site::behind_carrier()),
        Cell::new("UDP blocked", public(), Site::office(Filter::Udp)),
        Cell::new("100 ms round trip", public(), both(millis(100))),
        Cell::new("300 ms round trip", public(), both(millis(300))),
        Cell::new("100 ms, 1 % lost each way", public(), both(millis(100).lossy(1))),
        Cell::new("100 ms, 5 % lost each way", public(), both(millis(100).lossy(5))).patient(240),
        Cell::new("1 Mbit/s up, 20 down, 40 ms", public(), public().over(megabit)).patient(240),
        Cell::new(
            "the same docker0 on every node",
            public().with_docker(),
            Site::behind(Nat::PortRestricted).with_docker(),
        ),
        Cell { family: Family::V6, ..Cell::new("IPv6 only", public(), public()) },
        Cell {
            event: Event::Moves,
            ..Cell::new("from Wi-Fi to mobile", public(), Site::behind(Nat::PortRestricted))
        },
    ]
}

/// What a cell showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// From the start of the donors until both were in the cell of the coordinator.
    pub joined: Duration,
    /// From submission to a verified result, 1 MiB in and 1 MiB out.
    pub job: Duration,
    /// How the donors are connected.
    pub path: String,
    /// What was measured beside it, if anything.
    pub bulk: Option<Bulk>,
}

/// How fast bytes get from the coordinator to a donor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bulk {
    /// Bytes a second of a job's input, from the difference between a large and a small job.
    pub job: f64,
    /// Bytes a second of one TCP connection on the same path at the same hour, by `iperf3`; nothing where there is no
    /// straight way.
    pub tcp: Option<f64>,
}

impl Cell {
    /// Builds the network, runs the job, and returns what was measured; nothing where there is no lab, which is said
    /// visibly.
    ///
    /// # Errors
    /// What did not work, with the end of the nodes' logs.
    ///
    /// # Panics
    /// When the network is not what the cell says.
    pub fn run(&self, bulk: bool) -> Result<Option<Row>, String> {
        let Some(lab) = Lab::open(self.family) else { return Ok(None) };
        let mut run = Run::new(self, &lab);
        let row = run.go(bulk);
        row.map(Some).map_err(|error| {
            let ends: Vec<String> =
                run.nodes().map(|node| format!("--- {}\n{}", node.name, node.last_words(12))).collect();
            format!("{}: {error}\n{}", self.name, ends.join("\n"))
        })
    }
}

/// A node and where it stands.
struct Placed {
    node: Node,
    host: Host,
    _routers: Vec<Router>,
}

struct Run<'lab> {
    cell: &'lab Cell,
    lab: &'lab Lab,
    coordinator: Placed,
    donors: Vec<Placed>,
    /// Kept until the end.
    mobile: Option<Router>,
}

impl<'lab> Run<'lab> {
    fn new(cell: &'lab Cell, lab: &'lab Lab) -> Self {
        // IPv4 alone is translated, so only there is something to prove.
        let prober = (cell.family != Family::V6).then(|| lab.prober());
        let coordinator = place(lab, "coordinator", &cell.coordinator, prober.as_ref());
        let donors = cell.donors.iter().zip(["donor1", "donor2"]);
        let donors = donors.map(|(site, name)| place(lab, name, site, prober.as_ref())).collect();
        Self { cell, lab, coordinator, donors, mobile: None }
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        std::iter::once(&self.coordinator).chain(&self.donors).map(|placed| &placed.node)
    }

    fn words(&self, more: &[&str]) -> Vec<String> {
        let mut words = vec!["node", "run", "--until-stdin-closes", "--network", "lab"];
        if self.cell.family == Family::V6 {
            words.extend(["--listen", "/ip6/::/udp/19999/quic-v1", "--listen", "/ip6/::/tcp/19999"]);
        }
        words.iter().chain(more).map(|word| (*word).to_owned()).collect()
    }

    fn go(&mut self, bulk: bool) -> Result<Row, String> {
        let words = self.words(&["--coordinate", "always", "--trusted", "--slots", "0"]);
        self.coordinator.node.start(&words, &[]);
        let id = self.coordinator.node.id()?;
        let seeds = self.seeds(&id);
        let begun = Instant::now();
        for number in 0..self.donors.len() {
            let mut more = vec!["--coordinate", "never", "--consent", "all", "--slots", "1"];
            more.extend(seeds.iter().flat_map(|seed| ["--join", seed.as_str()]));
            let words = self.words(&more);
            self.donors[number].node.start(&words, &[]);
        }
        self.wait_for_donors()?;
        let joined = begun.elapsed();

        if self.cell.event == Event::Moves {
            let mobile = self.lab.carrier("mobile", Nat::Symmetric);
            self.lab.move_to(&mut self.donors[0].host, &mobile, None);
            self.mobile = Some(mobile);
        }

        let job = self.job(PAYLOAD_BYTES, self.donors.len(), None)?;
        let path = self.path()?;
        let bulk = if bulk { Some(self.bulk()?) } else { None };
        Ok(Row { joined, job, path, bulk })
    }

    fn bulk(&self) -> Result<Bulk, String> {
        // The module is there and compiled, so that what differs between the two jobs is the bytes.
        let small = self.job(1000, 1, Some(1))?;
        let large = self.job(BULK_BYTES, 1, Some(1))?;
        let seconds = large.saturating_sub(small).as_secs_f64().max(0.001);
        Ok(Bulk { job: BULK_BYTES as f64 / seconds, tcp: self.iperf() })
    }

    /// Returns how many bytes a second of TCP get from the coordinator to the first donor.
    fn iperf(&self) -> Option<f64> {
        let words = ["keep", "iperf3", "--server", "--port", "443"].map(str::to_owned);
        let _server = self.coordinator.host.machine.serve(&words);
        let to = match self.cell.family {
            Family::V6 => self.coordinator.host.v6.to_string(),
            _ => self.coordinator.host.v4.to_string(),
        };
        let words = [
            "iperf3",
            "--json",
            "--reverse",
            "--connect-timeout",
            "3000",
            "--time",
            "8",
            "--port",
            "443",
            "--client",
            &to,
        ];
        (0..5).find_map(|_| {
            let output = self.donors[0].host.machine.try_run(&words, "");
            let value: Value = serde_json::from_slice(&output.stdout).ok()?;
            Some(value["end"]["sum_received"]["bits_per_second"].as_f64()? / 8.0)
        })
    }

    /// Returns the addresses that donors are told.
    fn seeds(&self, id: &str) -> Vec<String> {
        let host = &self.coordinator.host;
        let address = match self.cell.family {
            Family::V6 => format!("/ip6/{}", host.v6),
            _ => format!("/ip4/{}", host.v4),
        };
        ["udp/19999/quic-v1", "tcp/19999"].map(|port| format!("{address}/{port}/p2p/{id}")).to_vec()
    }

    fn wait_for_donors(&self) -> Result<(), String> {
        let wanted = self.donors.len() as u64;
        self.coordinator.node.until(&["cluster", "status"], self.cell.patience, |status| {
            (status["cluster"]["online"].as_u64()? >= wanted).then_some(())
        })
    }

    /// Runs the job and returns how long it took from submission to verified results.
    fn job(&self, bytes: usize, replicas: usize, wanted: Option<usize>) -> Result<Duration, String> {
        let dir = self.lab.dir().join(format!("job-{bytes}"));
        let (input, output) = (dir.join("in"), dir.join("out"));
        let failed = |error: std::io::Error| error.to_string();
        fs::create_dir_all(&input).map_err(failed)?;
        let payload = noise(bytes);
        fs::write(input.join("data"), &payload).map_err(failed)?;
        let text = |path: &Path| path.display().to_string();
        let words = [
            "map".to_owned(),
            text(&guest("invert")),
            text(&input),
            "--output".to_owned(),
            text(&output),
            "--replicas".to_owned(),
            replicas.to_string(),
        ];
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        let wanted_text = wanted.map(|wanted| wanted.to_string());
        if let Some(wanted) = &wanted_text {
            words.extend(["--arg", wanted]);
        }
        let node = &self.coordinator.node;
        let begun = Instant::now();
        let answer = self.within(&words)?;
        let took = begun.elapsed();

        let made = fs::read(output.join("data").join("output")).map_err(failed)?;
        let right: Vec<u8> = payload.iter().take(wanted.unwrap_or(bytes)).map(|byte| !byte).collect();
        if made != right {
            return Err(format!("the result is wrong: {} bytes of {}", made.len(), right.len()));
        }
        let job = answer["job"]["job"].as_str().ok_or(format!("no job in {answer}"))?.to_owned();
        let receipts = dir.join("receipts");
        node.ask(&["job", "receipts", &job, "--output", &text(&receipts)])?;
        verify(&receipts)?;
        Ok(took)
    }

    /// Runs a command of the coordinator, but not for ever.
    fn within(&self, words: &[&str]) -> Result<Value, String> {
        let seconds = self.cell.patience.as_secs().to_string();
        let node = &self.coordinator.node;
        let output = Command::new("timeout")
            .arg(&seconds)
            .arg(binary())
            .arg("--data-dir")
            .arg(&node.dir)
            .arg("--json")
            .args(words)
            .env("HOME", &node.dir)
            .output()
            .map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("{words:?} ended with {} within {seconds} s: {said}", output.status));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| format!("{words:?}: {error}: {said}"))
    }

    /// Returns how the coordinator is connected with its donors.
    fn path(&self) -> Result<String, String> {
        let peers = self.coordinator.node.ask(&["cluster", "peers"])?;
        let text = peers.to_string();
        let mut kinds = Vec::new();
        for (mark, kind) in [
            ("p2p-circuit", "relayed"),
            ("quic-v1", "direct QUIC"),
            ("/tls/ws", "WSS"),
            ("/tcp/", "direct TCP"),
        ] {
            if text.contains(mark) {
                kinds.push(kind);
            }
        }
        Ok(kinds.join(", "))
    }
}

/// Builds a site and proves that it is what it says.
fn place(lab: &Lab, name: &str, site: &Site, prober: Option<&Prober>) -> Placed {
    let mut routers = Vec::new();
    let host = match site.nat {
        None => lab.host(name, lab.internet(), site.link),
        Some(nat) => {
            if site.carrier {
                routers.push(lab.carrier(&format!("{name}-carrier"), Nat::PortRestricted));
            }
            let outside = routers.last().unwrap_or(lab.internet());
            let home = lab.router(&format!("{name}-home"), nat, &site.filter, outside, site.link);
            let host = lab.host(name, &home, None);
            routers.push(home);
            host
        }
    };
    if let (Some(prober), Filter::Nothing) = (prober, &site.filter)
        && site.link.is_none()
    {
        prober.check(&host.machine, site.nat);
    }
    if site.docker {
        host.machine
            .ip("link add docker0 type bridge\naddr add 172.17.0.1/16 dev docker0\nlink set docker0 up\n");
    }
    Placed { node: Node::new(&host.machine, lab.dir()), host, _routers: routers }
}

/// Checks every receipt of a directory without a node.
fn verify(receipts: &Path) -> Result<(), String> {
    let files: Vec<PathBuf> = fs::read_dir(receipts)
        .map_err(|error| error.to_string())?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "receipt"))
        .collect();
    if files.is_empty() {
        return Err("the job has no receipt".to_owned());
    }
    for file in files {
        let output = Command::new(binary())
            .args(["receipt", "verify"])
            .arg(&file)
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("{}: {}", file.display(), String::from_utf8_lossy(&output.stderr)));
        }
    }
    Ok(())
}

/// Returns bytes that nothing can compress.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..bytes).map(|_| next()).collect()
}
