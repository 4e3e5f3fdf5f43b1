//! The networks that a federation must work in, and what is measured in each.
//!
//! Every cell is a coordinator and two donors of different owners. It completes when a job with 1 MiB in and 1 MiB out
//! ran on both donors, its result is right, and its receipt verifies offline.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::filter::{Filter, READER_PORT};
use crate::lab::{Family, Host, Lab, Prober, Router};
use crate::link::{Link, Profile};
use crate::middle::READER;
use crate::nat::Nat;
use crate::node::{Node, binary, guest};
use crate::space::Service;

/// The coordinator's name, where it has one.
const NAME: &str = "coordinator.lab";
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
    middle: Middle,
}

/// Who stands in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Middle {
    Nobody,
    /// A proxy that wants a password is the only way out.
    Proxy,
    /// Somebody opens the TLS of port 443, which is the only way out; and whether the donor was told to put up with it.
    Reader {
        allowed: bool,
    },
}

impl Site {
    /// Returns a public address with a perfect wire.
    pub fn public() -> Self {
        Self {
            nat: None,
            carrier: false,
            filter: Filter::Nothing,
            link: None,
            docker: false,
            middle: Middle::Nobody,
        }
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

    /// Returns an office whose only way out is a proxy that wants a password.
    pub fn with_proxy() -> Self {
        Self { middle: Middle::Proxy, ..Self::behind(Nat::PortRestricted) }
    }

    /// Returns a school that reads along; `allowed` says whether the donor was told to put up with it.
    pub fn with_reader(allowed: bool) -> Self {
        Self { middle: Middle::Reader { allowed }, ..Self::office(Filter::Reads443) }
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

/// How the donors look up the coordinator's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// They are told addresses.
    Needless,
    /// Their name server does this (a word of [`dns::Manner`](crate::dns::Manner)); one over HTTPS works.
    Broken(&'static str),
}

/// What must come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// The job completes.
    Job,
    /// The donors refuse to connect, and name whoever reads along.
    Refusal,
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
    names: Names,
    expect: Expect,
    /// How long each step may take before the cell counts as broken.
    patience: Duration,
}

impl Cell {
    fn new(name: &'static str, coordinator: Site, donor: Site) -> Self {
        let donors = [donor.clone(), donor];
        let patience = Duration::from_secs(45);
        Self {
            name,
            family: Family::V4,
            coordinator,
            donors,
            event: Event::Nothing,
            names: Names::Needless,
            expect: Expect::Job,
            patience,
        }
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
        Cell::new("only TCP 443", public(), Site::office(Filter::AllBut443)),
        Cell::new("only a proxy with a password", public(), Site::with_proxy()),
        Cell {
            expect: Expect::Refusal,
            ..Cell::new("443 read along, refused", public(), Site::with_reader(false))
        },
        Cell::new("443 read along, allowed", public(), Site::with_reader(true)),
        Cell { names: Names::Broken("denies"), ..Cell::new("DNS denies, DoH works", public(), public()) },
        Cell { names: Names::Broken("silent"), ..Cell::new("DNS silent, DoH works", public(), public()) },
        Cell { names: Names::Broken("10.11.12.13"), ..Cell::new("DNS lies, DoH works", public(), public()) },
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
        if let Some(keep) = std::env::var_os("WC_NET_LOGS") {
            run.nodes().for_each(|node| node.keep_log(Path::new(&keep)));
        }
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
    _others: Vec<Host>,
    /// Whoever stands in the middle: prints what goes through its hands.
    _middle: Vec<Service>,
    /// What the node's operator has to say because of where it stands.
    words: Vec<String>,
    variables: Vec<(String, String)>,
}

/// The name servers of a cell.
struct NameServers {
    words: Vec<String>,
    resolv: String,
    _services: [Service; 2],
    _host: Host,
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
        let words = ["node", "run", "--until-stdin-closes", "--network", "lab"];
        words.iter().chain(more).map(|word| (*word).to_owned()).collect()
    }

    fn go(&mut self, bulk: bool) -> Result<Row, String> {
        let mut words = self.words(&["--coordinate", "always", "--trusted", "--slots", "0", "--wss-listen"]);
        if self.cell.family == Family::V6 {
            let listen = ["--listen", "/ip6/::/udp/19999/quic-v1", "--listen", "/ip6/::/tcp/19999"];
            words.extend(listen.map(str::to_owned));
        }
        words.extend(self.coordinator.words.clone());
        self.coordinator.node.start(&words, &self.coordinator.variables);
        self.coordinator.node.id()?;
        let seeds = self.seeds()?;
        let names = self.names();
        let begun = Instant::now();
        for number in 0..self.donors.len() {
            let mut more = vec!["--coordinate", "never", "--consent", "all", "--slots", "1"];
            more.extend(seeds.iter().flat_map(|seed| ["--join", seed.as_str()]));
            let mut words = self.words(&more);
            words.extend(names.iter().flat_map(|names| names.words.clone()));
            let donor = &mut self.donors[number];
            words.extend(donor.words.clone());
            if let Some(names) = &names {
                donor.host.machine.resolv(&names.resolv);
            }
            donor.node.start(&words, &donor.variables);
        }
        if self.cell.expect == Expect::Refusal {
            return self.refused(begun);
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

    /// Returns the addresses that donors are told: those that the coordinator says, on the internet's side.
    fn seeds(&self) -> Result<Vec<String>, String> {
        let host = &self.coordinator.host;
        let address = match self.cell.family {
            Family::V6 => format!("/ip6/{}/", host.v6),
            _ => format!("/ip4/{}/", host.v4),
        };
        let status = self.coordinator.node.ask(&["donor", "status"])?;
        let told = status["addresses"].as_array().ok_or("no addresses")?;
        let mut seeds: Vec<String> = told
            .iter()
            .filter_map(Value::as_str)
            .filter(|told| told.starts_with(&address))
            .map(str::to_owned)
            .collect();
        if self.cell.names != Names::Needless {
            for seed in &mut seeds {
                *seed = seed.replacen(&address, &format!("/dns4/{NAME}/"), 1);
            }
        }
        if seeds.is_empty() {
            return Err(format!("the coordinator listens at none of {address}: {status}"));
        }
        Ok(seeds)
    }

    /// Starts the name servers of the cell, if it has any.
    fn names(&self) -> Option<NameServers> {
        let Names::Broken(manner) = self.cell.names else { return None };
        let host = self.lab.host("names", self.lab.internet(), None);
        let record = format!("{NAME}={}", self.coordinator.host.v4);
        let words = ["dns".to_owned(), format!("{}:53", host.v4), manner.to_owned(), record.clone()];
        let system = host.machine.serve(&words);
        let pem = self.lab.dir().join("doh.pem").display().to_string();
        let words = ["doh".to_owned(), format!("{}:443", host.v4), "doh.lab".to_owned(), pem.clone(), record];
        let https = host.machine.serve(&words);
        let doh = format!("https://doh.lab/dns-query@{}", host.v4);
        Some(NameServers {
            words: vec!["--doh".to_owned(), doh, "--tls-authorities".to_owned(), pem],
            resolv: format!("nameserver {}\n", host.v4),
            _services: [system, https],
            _host: host,
        })
    }

    /// Waits until the donors have said who reads along, and checks that they stayed away.
    fn refused(&self, begun: Instant) -> Result<Row, String> {
        for donor in &self.donors {
            while !donor.node.last_words(400).contains(READER) {
                if begun.elapsed() > self.cell.patience {
                    return Err(format!("{} does not name {READER}", donor.node.name));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        let joined = begun.elapsed();
        // The cell may be younger than the refusal.
        let online = self.coordinator.node.until(&["cluster", "status"], self.cell.patience, |status| {
            status["cluster"]["online"].as_u64()
        })?;
        if online > 0 {
            return Err("donors joined although somebody reads along".to_owned());
        }
        Ok(Row { joined, job: Duration::ZERO, path: format!("refused: {READER}"), bulk: None })
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
        let peers = peers.as_array().ok_or(format!("no list: {peers}"))?;
        let mut kinds = std::collections::BTreeSet::new();
        for address in peers.iter().flat_map(|peer| addresses_of(peer)) {
            let marks = [
                ("/p2p-circuit", "relayed"),
                ("/ws", "WSS"),
                ("/quic-v1", "direct QUIC"),
                ("/tcp/", "direct TCP"),
            ];
            kinds.extend(marks.iter().find(|(mark, _)| address.contains(mark)).map(|(_, kind)| *kind));
        }
        let kinds: Vec<&str> = kinds.into_iter().collect();
        Ok(kinds.join(", "))
    }
}

/// Builds a site and proves that it is what it says.
fn place(lab: &Lab, name: &str, site: &Site, prober: Option<&Prober>) -> Placed {
    let (mut routers, mut others) = (Vec::new(), Vec::new());
    let (mut middle, mut words, mut variables) = (Vec::new(), Vec::new(), Vec::new());
    let mut filter = site.filter.clone();
    if site.middle == Middle::Proxy {
        let proxy = lab.host(&format!("{name}-proxy"), lab.internet(), None);
        filter = Filter::AllButProxy { address: proxy.v4, port: 3128 };
        let listen = format!("{}:3128", proxy.v4);
        middle.push(proxy.machine.serve(&["proxy".to_owned(), listen.clone(), "ann:secret".to_owned()]));
        others.push(proxy);
        variables.push(("HTTPS_PROXY".to_owned(), format!("http://ann:secret@{listen}")));
    }
    let host = match site.nat {
        None => lab.host(name, lab.internet(), site.link),
        Some(nat) => {
            if site.carrier {
                routers.push(lab.carrier(&format!("{name}-carrier"), Nat::PortRestricted));
            }
            let outside = routers.last().filter(|_| site.carrier).unwrap_or(lab.internet());
            let home = lab.router(&format!("{name}-home"), nat, &filter, outside, site.link);
            let host = lab.host(name, &home, None);
            routers.push(home);
            host
        }
    };
    if let (Some(prober), Filter::Nothing) = (prober, &filter)
        && site.link.is_none()
    {
        prober.check(&host.machine, site.nat);
    }
    if let (Middle::Reader { allowed }, Some(home)) = (site.middle, routers.last()) {
        let pem = lab.dir().join(format!("{name}-reader.pem")).display().to_string();
        let listen = format!("0.0.0.0:{READER_PORT}");
        middle.push(home.machine.serve(&["reader".to_owned(), listen, pem.clone()]));
        if allowed {
            words.extend(["--allow-ssl-inspection".to_owned(), "--inspection-authorities".to_owned(), pem]);
        }
    }
    if site.docker {
        host.machine
            .ip("link add docker0 type bridge\naddr add 172.17.0.1/16 dev docker0\nlink set docker0 up\n");
    }
    let node = Node::new(&host.machine, lab.dir());
    Placed { node, host, _routers: routers, _others: others, _middle: middle, words, variables }
}

/// Returns every address in a value.
fn addresses_of(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) if text.starts_with('/') => vec![text],
        Value::Array(items) => items.iter().flat_map(addresses_of).collect(),
        Value::Object(fields) => fields.values().flat_map(addresses_of).collect(),
        _ => Vec::new(),
    }
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
