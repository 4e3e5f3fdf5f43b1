//! The networks that a federation must work in, and what is measured in each.
//!
//! Every cell is a coordinator and two donors of different owners. It completes when a job with 1 MiB in and 1 MiB out
//! ran on both donors, its result is right, and its receipt verifies offline.

mod run;

use std::path::Path;
use std::time::Duration;

use crate::filter::Filter;
use crate::lab::{Family, Lab};
use crate::link::{Link, Profile};
use crate::nat::{MAPPER, Nat};
use run::Run;

/// Where a node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    nat: Option<Nat>,
    carrier: bool,
    filter: Filter,
    link: Option<Link>,
    docker: bool,
    forwards: bool,
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
            forwards: false,
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

    /// Returns the same with a router that forwards ports to whoever asks for that.
    pub fn that_forwards(self) -> Self {
        Self { forwards: true, ..self }
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
    DonorMoves,
    /// The relay that the donors are reached through dies.
    RelayDies,
    /// The same, in the middle of the job.
    RelayDiesAmid,
    /// The first relay comes back with another address.
    RelayMoves,
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
    /// Public relays, which are all that anybody is told of, if there are any.
    relays: u8,
    coordinator: Site,
    donors: [Site; 2],
    event: Event,
    names: Names,
    expect: Expect,
    /// How long each step may take before the cell counts as broken.
    patience: Duration,
    /// Bytes that one donor fetches when throughput is measured.
    bulk_bytes: usize,
}

impl Cell {
    fn new(name: &'static str, coordinator: Site, donor: Site) -> Self {
        let donors = [donor.clone(), donor];
        let patience = Duration::from_secs(45);
        Self {
            name,
            family: Family::V4,
            relays: 0,
            coordinator,
            donors,
            event: Event::Nothing,
            names: Names::Needless,
            expect: Expect::Job,
            patience,
            bulk_bytes: 16 << 20,
        }
    }

    /// Returns a cell in which everybody is behind something and knows two relays.
    fn relayed(name: &'static str, coordinator: Site, donor: Site) -> Self {
        Self { relays: 2, ..Self::new(name, coordinator, donor) }
    }

    fn patient(self, seconds: u64) -> Self {
        Self { patience: Duration::from_secs(seconds), ..self }
    }
}

/// Returns every cell, in the order of the table.
pub fn cells() -> Vec<Cell> {
    let millis = |round_trip: u64| Profile::delay(Duration::from_millis(round_trip / 2));
    let public = Site::public;
    let home = || Site::behind(Nat::PortRestricted);
    let far = Link::both(millis(100));
    let broad = Link::both(millis(20).rate(100_000_000));
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
        Cell::relayed("full cone to full cone", Site::behind(Nat::FullCone), Site::behind(Nat::FullCone)),
        Cell::relayed(
            "restricted to restricted",
            Site::behind(Nat::Restricted),
            Site::behind(Nat::Restricted),
        ),
        Cell::relayed("port-restricted to port-restricted", home(), home()),
        Cell::relayed("symmetric to full cone", Site::behind(Nat::Symmetric), Site::behind(Nat::FullCone)),
        Cell::relayed("symmetric to port-restricted", Site::behind(Nat::Symmetric), home()),
        Cell::relayed("symmetric to symmetric", Site::behind(Nat::Symmetric), Site::behind(Nat::Symmetric)),
        Cell::relayed(
            "symmetric to symmetric, routers forward ports",
            Site::behind(Nat::Symmetric).that_forwards(),
            Site::behind(Nat::Symmetric).that_forwards(),
        ),
        Cell::relayed("carrier to carrier", Site::behind_carrier(), Site::behind_carrier()),
        Cell::relayed("UDP blocked on both sides", Site::office(Filter::Udp), Site::office(Filter::Udp)),
        Cell::relayed("only TCP 443 on one side", home(), Site::office(Filter::AllBut443)),
        Cell::relayed(
            "only TCP 443 on both sides",
            Site::office(Filter::AllBut443),
            Site::office(Filter::AllBut443),
        ),
        Cell::relayed("only a proxy on both sides", Site::with_proxy(), Site::with_proxy()),
        Cell::relayed(
            "relayed, 100 ms round trip",
            Site::behind(Nat::Symmetric).over(far),
            Site::behind(Nat::Symmetric),
        ),
        Cell::new("100 Mbit/s, 20 ms round trip", public().over(broad), public()),
        Cell::relayed(
            "100 Mbit/s, 20 ms round trip, relayed",
            Site::behind(Nat::Symmetric).over(broad),
            Site::behind(Nat::Symmetric),
        ),
        Cell {
            event: Event::RelayDies,
            ..Cell::relayed("a relay dies", Site::behind(Nat::Symmetric), Site::behind(Nat::Symmetric))
        },
        Cell {
            event: Event::RelayDiesAmid,
            ..Cell::relayed(
                "a relay dies amid a job, 100 ms round trip",
                Site::behind(Nat::Symmetric).over(far),
                Site::behind(Nat::Symmetric),
            )
        },
        Cell {
            event: Event::RelayMoves,
            ..Cell::relayed(
                "a relay's address changes",
                Site::behind(Nat::Symmetric),
                Site::behind(Nat::Symmetric),
            )
        },
        Cell::new("100 ms round trip", public(), both(millis(100))),
        Cell::new("300 ms round trip", public(), both(millis(300))),
        Cell::new("100 ms, 1 % lost each way", public(), both(millis(100).lossy(1))).patient(240),
        Cell {
            bulk_bytes: 2 << 20,
            ..Cell::new("100 ms, 5 % lost each way", public(), both(millis(100).lossy(5))).patient(240)
        },
        Cell::new("1 Mbit/s up, 20 down, 40 ms", public(), public().over(megabit)).patient(240),
        Cell::new(
            "the same docker0 on every node",
            public().with_docker(),
            Site::behind(Nat::PortRestricted).with_docker(),
        ),
        Cell { family: Family::V6, ..Cell::new("IPv6 only", public(), public()) },
        Cell {
            event: Event::DonorMoves,
            ..Cell::new("from Wi-Fi to mobile", public(), Site::behind(Nat::PortRestricted))
        },
    ]
}

/// What a cell showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// From the start of the coordinator until a relay held a place for it; nothing where there is no relay.
    pub reserved: Option<Duration>,
    /// From the start of the donors until both were in the cell of the coordinator.
    pub joined: Duration,
    /// From submission to a verified result, 1 MiB in and 1 MiB out.
    pub job: Duration,
    /// How the donors are connected at the end.
    pub path: String,
    /// From the moment when both had joined until no donor was reached through a relay any more; nothing if that did not
    /// happen.
    pub direct: Option<Duration>,
    /// What was measured beside it, if anything.
    pub bulk: Option<Bulk>,
}

/// How fast bytes get from the coordinator to a donor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bulk {
    /// How long a job of one small task takes, on one donor, once its module is there.
    pub trivial: Duration,
    /// Bytes a second of a job's input, from the difference between a large and a small job.
    pub job: f64,
    /// Bytes a second of one TCP connection on the same path at the same hour, by `iperf3`; nothing where there is no
    /// straight way.
    pub tcp: Option<f64>,
    /// Bytes a second of `sendme` on the same path, if there is one to measure; nothing where there is no straight way.
    pub sendme: Option<f64>,
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
        let sites = [&self.coordinator, &self.donors[0], &self.donors[1]];
        if sites.iter().any(|site| site.forwards) && !Path::new(MAPPER).exists() {
            println!("SKIP: {}: no {MAPPER} here (apt-get install miniupnpd-nftables)", self.name);
            return Ok(None);
        }
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
