//! One cell from beginning to end: the network, the nodes, the job, and what was measured.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Bulk, Cell, Event, Expect, Middle, Names, Row, Site};
use crate::filter::{Filter, READER_PORT};
use crate::lab::{Family, Host, Lab, Offers, Prober, Router};
use crate::middle::READER;
use crate::nat::Nat;
use crate::node::{Node, binary, guest};
use crate::space::Service;

/// The coordinator's name, where it has one.
const NAME: &str = "coordinator.lab";
/// Bytes that go in, and come out.
const PAYLOAD_BYTES: usize = 1024 * 1024;
/// QUIC, TCP and WebSocket: how many addresses a node tells at least that everybody is to be able to reach.
const LISTENERS: usize = 3;
/// Where iperf3 listens: where only port 443 is let out, the node itself is there, and nothing is measured beside it.
const IPERF_PORT: &str = "5201";
/// How long a direct path may take before a circuit counts as the end of it.
const DIRECT_WITHIN: Duration = Duration::from_secs(10);

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

/// A cell at work.
pub(super) struct Run<'lab> {
    cell: &'lab Cell,
    lab: &'lab Lab,
    relays: Vec<Placed>,
    coordinator: Placed,
    donors: Vec<Placed>,
    /// Kept until the end.
    mobile: Option<Router>,
}

impl<'lab> Run<'lab> {
    /// Builds the network and proves that it is what the cell says.
    pub(super) fn new(cell: &'lab Cell, lab: &'lab Lab) -> Self {
        // IPv4 alone is translated, so only there is something to prove.
        let prober = (cell.family != Family::V6).then(|| lab.prober());
        let coordinator = place(lab, "coordinator", &cell.coordinator, prober.as_ref());
        let relays =
            (1..=cell.relays).map(|number| place(lab, &format!("relay{number}"), &Site::public(), None));
        let relays = relays.collect();
        let donors = cell.donors.iter().zip(["donor1", "donor2"]);
        let donors = donors.map(|(site, name)| place(lab, name, site, prober.as_ref())).collect();
        Self { cell, lab, relays, coordinator, donors, mobile: None }
    }

    /// Returns every node.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.relays.iter().chain([&self.coordinator]).chain(&self.donors).map(|placed| &placed.node)
    }

    fn words(&self, more: &[&str]) -> Vec<String> {
        let words = ["node", "run", "--until-stdin-closes", "--network", "lab"];
        words.iter().chain(more).map(|word| (*word).to_owned()).collect()
    }

    /// Starts the nodes, lets happen what happens in this cell, runs the job, and returns what was measured.
    pub(super) fn go(&mut self, bulk: bool) -> Result<Row, String> {
        let names = self.names();
        for number in 0..self.relays.len() {
            self.start_relay(number)?;
        }
        let relays = self.told_by(&self.relays)?;
        let begun = Instant::now();
        self.start_coordinator(&relays);
        self.coordinator.node.id()?;
        let reserved = if self.relays.is_empty() {
            None
        } else {
            self.wait_for_reservations(1)?;
            Some(begun.elapsed())
        };

        let seeds = if relays.is_empty() { self.told_by([&self.coordinator])? } else { relays };
        let begun = Instant::now();
        for number in 0..self.donors.len() {
            self.start_donor(number, &seeds, names.as_ref());
        }
        if self.cell.expect == Expect::Refusal {
            return self.refused(begun);
        }
        self.wait_for_donors()?;
        let joined = begun.elapsed();
        self.wait_for_marks()?;
        let begun = Instant::now();

        self.happen()?;
        let job = if self.cell.event == Event::RelayDiesAmid {
            self.job_without_its_relay()?
        } else {
            self.job(PAYLOAD_BYTES, self.donors.len(), None)?
        };
        let direct = if self.relays.is_empty() { None } else { self.wait_for_direct(begun)? };
        let path = self.path()?.join(", ");
        let bulk = if bulk { Some(self.bulk()?) } else { None };
        Ok(Row { reserved, joined, job, path, direct, bulk })
    }

    /// Starts a relay, which tells the others about itself.
    fn start_relay(&mut self, number: usize) -> Result<(), String> {
        let others = self.told_by(&self.relays[..number])?;
        let relay = &mut self.relays[number];
        let words = ["relay", "run", "--until-stdin-closes", "--network", "lab", "--wss-listen"];
        let mut words = words.map(str::to_owned).to_vec();
        words.extend(others.iter().flat_map(|other| ["--join".to_owned(), other.clone()]));
        relay.node.start(&words, &[]);
        relay.node.id().map(|_| ())
    }

    fn start_coordinator(&mut self, relays: &[String]) {
        let mut words = self.words(&["--coordinate", "always", "--trusted", "--slots", "0"]);
        words.extend(relays.iter().flat_map(|relay| ["--join".to_owned(), relay.clone()]));
        if relays.is_empty() {
            words.push("--wss-listen".to_owned());
        }
        words.extend(self.coordinator.words.clone());
        self.coordinator.node.start(&words, &self.coordinator.variables);
    }

    fn start_donor(&mut self, number: usize, seeds: &[String], names: Option<&NameServers>) {
        let mut more = vec!["--coordinate", "never", "--consent", "all", "--slots", "1"];
        more.extend(seeds.iter().flat_map(|seed| ["--join", seed.as_str()]));
        let mut words = self.words(&more);
        let donor = &mut self.donors[number];
        words.extend(donor.words.clone());
        if let Some(names) = names {
            words.extend(names.words.clone());
            donor.host.machine.resolv(&names.resolv);
        }
        donor.node.start(&words, &donor.variables);
    }

    /// Lets happen what happens in this cell while the donors are there.
    fn happen(&mut self) -> Result<(), String> {
        match self.cell.event {
            Event::Nothing | Event::RelayDiesAmid => {}
            Event::DonorMoves => {
                let mobile = self.lab.carrier("mobile", Nat::Symmetric);
                self.lab.move_to(&mut self.donors[0].host, &mobile, None);
                self.mobile = Some(mobile);
            }
            Event::RelayDies => {
                let number = self.relay_in_use()?;
                self.relays[number].node.stop();
            }
            Event::RelayMoves => {
                self.relays[0].node.stop();
                self.lab.move_to(&mut self.relays[0].host, self.lab.internet(), None);
                // It knows the other relay, as a relay that was restarted does.
                self.relays.swap(0, 1);
                self.start_relay(1)?;
                self.wait_for_reservations(2)?;
            }
        }
        Ok(())
    }

    /// Runs the job and has the relay that it goes through die a second after its beginning.
    fn job_without_its_relay(&mut self) -> Result<Duration, String> {
        let number = self.relay_in_use()?;
        let mut relays = std::mem::take(&mut self.relays);
        let relay = &mut relays[number].node;
        let job = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_secs(1));
                relay.stop();
            });
            self.job(PAYLOAD_BYTES, self.donors.len(), None)
        });
        self.relays = relays;
        job
    }

    /// Returns which relay the coordinator reaches a donor through.
    fn relay_in_use(&self) -> Result<usize, String> {
        let peers = self.coordinator.node.ask(&["cluster", "peers"])?;
        let donors = self.donors.iter().map(|donor| donor.node.id()).collect::<Result<Vec<_>, _>>()?;
        let of_donors = peers
            .as_array()
            .into_iter()
            .flatten()
            .filter(|peer| donors.iter().any(|donor| peer["node"] == **donor));
        let circuits: Vec<&str> = of_donors.filter_map(|peer| peer["address"].as_str()).collect();
        let leads = |relay: &Placed| {
            let host = format!("/ip4/{}/", relay.host.v4);
            circuits.iter().any(|circuit| circuit.starts_with(&host) && circuit.contains("/p2p-circuit"))
        };
        self.relays.iter().position(leads).ok_or(format!("no donor is reached through a relay: {peers}"))
    }

    /// Waits until the coordinator knows whose way to it is read along (NET-22): only the donor sees that.
    fn wait_for_marks(&self) -> Result<(), String> {
        for (donor, site) in self.donors.iter().zip(&self.cell.donors) {
            if site.middle != (Middle::Reader { allowed: true }) {
                continue;
            }
            let id = donor.node.id()?;
            self.coordinator.node.until(&["cluster", "status"], self.cell.patience, |status| {
                let node = status["nodes"].as_array()?.iter().find(|node| node["node"] == *id)?;
                (node["path"]["inspected"] == true && node["tier"] == "T0").then_some(())
            })?;
        }
        Ok(())
    }

    /// Waits until so many relays hold a place for the coordinator.
    fn wait_for_reservations(&self, wanted: usize) -> Result<(), String> {
        self.coordinator.node.until(&["donor", "status"], self.cell.patience, |status| {
            let told = status["addresses"].as_array()?.iter().filter_map(Value::as_str);
            let circuits = told.filter_map(|told| told.split_once("/p2p-circuit"));
            let relays: BTreeSet<&str> = circuits
                .filter_map(|(relay, _)| relay.rsplit_once("/p2p/"))
                .map(|(_, relay)| relay)
                .collect();
            (relays.len() >= wanted).then_some(())
        })
    }

    /// Waits until the coordinator reaches no donor through a relay any more, and says how long that took since `begun`.
    fn wait_for_direct(&self, begun: Instant) -> Result<Option<Duration>, String> {
        while begun.elapsed() < DIRECT_WITHIN {
            if !self.path()?.iter().any(|kind| kind == "relay") {
                return Ok(Some(begun.elapsed()));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(None)
    }

    fn bulk(&self) -> Result<Bulk, String> {
        // The module is there and compiled, so that what differs between the two jobs is the bytes.
        let small = self.job(1000, 1, Some(1))?;
        let large = self.job(self.cell.bulk_bytes, 1, Some(1))?;
        let seconds = large.saturating_sub(small).as_secs_f64().max(0.001);
        Ok(Bulk {
            trivial: small,
            job: self.cell.bulk_bytes as f64 / seconds,
            tcp: self.iperf(),
            sendme: self.sendme(),
        })
    }

    /// Returns how many bytes a second `sendme` brings from the coordinator to the first donor, from the difference
    /// between a large and a small file. `WC_SENDME` names it.
    fn sendme(&self) -> Option<f64> {
        let program = std::env::var("WC_SENDME").ok()?;
        let small = self.sent_by(&program, 1000)?;
        let large = self.sent_by(&program, self.cell.bulk_bytes)?;
        Some(self.cell.bulk_bytes as f64 / large.saturating_sub(small).as_secs_f64().max(0.001))
    }

    fn sent_by(&self, program: &str, bytes: usize) -> Option<Duration> {
        let dir = self.lab.dir().join(format!("sendme-{bytes}"));
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::create_dir_all(&from).ok()?;
        fs::create_dir_all(&to).ok()?;
        fs::write(from.join("data"), noise(bytes)).ok()?;
        let mut sender = self
            .coordinator
            .host
            .machine
            .command("sh")
            .args([
                "-c",
                "cd \"$1\" && exec \"$0\" send --no-progress --relay disabled --ticket-type addresses data",
                program,
            ])
            .arg(&from)
            .env("HOME", &from)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let lines = BufReader::new(sender.stdout.take()?).lines().map_while(Result::ok);
        let mut tickets =
            lines.filter_map(|line| Some(line.split_once("sendme receive ")?.1.trim().to_owned()));
        let took = tickets.next().and_then(|ticket| {
            let seconds = self.cell.patience.as_secs().to_string();
            let script =
                "cd \"$1\" && exec timeout \"$2\" \"$0\" receive --no-progress --relay disabled \"$3\"";
            let begun = Instant::now();
            let to = to.to_str()?;
            let words = ["env", &format!("HOME={to}"), "sh", "-c", script, program, to, &seconds, &ticket];
            let output = self.donors[0].host.machine.try_run(&words, "");
            let came = fs::metadata(Path::new(to).join("data")).is_ok_and(|data| data.len() == bytes as u64);
            (output.status.success() && came).then(|| begun.elapsed())
        });
        let _ = sender.kill();
        let _ = sender.wait();
        took
    }

    /// Returns how many bytes a second of TCP get from the coordinator to the first donor.
    fn iperf(&self) -> Option<f64> {
        let words = ["keep", "iperf3", "--server", "--port", IPERF_PORT].map(str::to_owned);
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
            IPERF_PORT,
            "--client",
            &to,
        ];
        (0..5).find_map(|_| {
            let output = self.donors[0].host.machine.try_run(&words, "");
            let value: Value = serde_json::from_slice(&output.stdout).ok()?;
            Some(value["end"]["sum_received"]["bits_per_second"].as_f64()? / 8.0)
        })
    }

    /// Returns the addresses that these nodes have on the internet, by their own account.
    fn told_by<'nodes>(
        &self,
        nodes: impl IntoIterator<Item = &'nodes Placed>,
    ) -> Result<Vec<String>, String> {
        let mut seeds = Vec::new();
        for placed in nodes {
            let address = match self.cell.family {
                Family::V6 => format!("/ip6/{}/", placed.host.v6),
                _ => format!("/ip4/{}/", placed.host.v4),
            };
            let told = placed.node.until(&["donor", "status"], self.cell.patience, |status| {
                let told = status["addresses"].as_array()?.iter().filter_map(Value::as_str);
                let told = told.filter(|told| told.starts_with(&address) && !told.contains("/p2p-circuit"));
                // A listener that could not have its port says another one.
                let usual = |told: &&str| told.contains("/19999") || told.contains("/tcp/443/");
                let told: Vec<String> = told.filter(usual).map(str::to_owned).collect();
                (told.len() >= LISTENERS).then_some(told)
            })?;
            seeds.extend(told.into_iter().map(|told| match self.cell.names {
                Names::Needless => told,
                Names::Broken(_) => told.replacen(&address, &format!("/dns4/{NAME}/"), 1),
            }));
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
        let path = format!("refused: {READER}");
        Ok(Row { reserved: None, joined, job: Duration::ZERO, path, direct: None, bulk: None })
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
    fn path(&self) -> Result<Vec<String>, String> {
        let peers = self.coordinator.node.ask(&["cluster", "peers"])?;
        let donors = self.donors.iter().map(|donor| donor.node.id()).collect::<Result<Vec<_>, _>>()?;
        let mut kinds = BTreeSet::new();
        for peer in peers.as_array().into_iter().flatten() {
            let is_donor = donors.iter().any(|donor| peer["node"] == **donor);
            if let (true, Some(kind)) = (is_donor, peer["transport"].as_str()) {
                kinds.insert(kind.to_owned());
            }
        }
        Ok(kinds.into_iter().collect())
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
    if let (true, Some(home)) = (site.forwards, routers.last()) {
        middle.push(lab.forward_ports(home, Offers::Everything));
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
