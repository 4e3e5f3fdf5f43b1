//! The lab: an internet, routers at its edge, and machines behind them.
//!
//! Addresses look public where they are meant to be (`5.0.N.2`, `2a05:0:0:N::2`): programs treat the ranges that are
//! reserved for examples differently, and nothing here is connected to the real internet. Each port of the internet is a
//! subnet of its own; a router's inside is one Ethernet.

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tempfile::TempDir;

use crate::filter::Filter;
use crate::link::Link;
use crate::nat::{MAPPER, MAPPER_RULES, MAPPER_SETTINGS, Nat};
use crate::probe;
use crate::space::{Ground, Machine, Service};

/// Which protocols the internet of a lab speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Only IPv4.
    V4,
    /// Only IPv6.
    V6,
    /// Both.
    Both,
}

/// A small internet.
#[derive(Debug)]
pub struct Lab {
    // Fields are dropped in this order: wires, machines, the ground, the directory.
    wires: RefCell<Vec<Service>>,
    internet: Router,
    family: Family,
    ground: Ground,
    next: Cell<u32>,
    dir: TempDir,
}

/// A machine that forwards: the internet, a home router, a carrier.
#[derive(Debug)]
pub struct Router {
    /// The machine; its device `wan` is outside, all others are inside.
    pub machine: Machine,
    /// Its address outside; unspecified for the internet itself.
    pub address: Ipv4Addr,
    inside: Inside,
    ports: Cell<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Inside {
    /// Every port is a subnet of its own.
    Internet,
    /// One Ethernet with these first three bytes of an address.
    Ethernet([u8; 3]),
}

/// A machine at the edge.
#[derive(Debug)]
pub struct Host {
    /// The machine; its device is `wan`.
    pub machine: Machine,
    /// Its address; unspecified without IPv4.
    pub v4: Ipv4Addr,
    /// Its address; unspecified without IPv6.
    pub v6: Ipv6Addr,
}

struct Plugged {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

/// By what a router lets itself be asked for forwarded ports.
#[derive(Clone, Copy, Debug)]
pub enum Offers {
    /// PCP, NAT-PMP and UPnP.
    Everything,
    /// UPnP, as most routers that are sold.
    UpnpOnly,
}

impl Lab {
    /// Makes an internet without anybody, or says visibly why there is none.
    pub fn open(family: Family) -> Option<Self> {
        match Self::try_open(family) {
            Ok(lab) => Some(lab),
            Err(reason) => {
                println!("SKIP: no network lab here: {reason}");
                None
            }
        }
    }

    fn try_open(family: Family) -> Result<Self, String> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .map_err(|error| format!("/dev/net/tun: {error}"))?;
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let ground = Ground::new(dir.path())?;
        let checked = ground.workshop().try_run(&["nft", "list", "ruleset"], "");
        if !checked.status.success() {
            return Err(format!("nft: {}", String::from_utf8_lossy(&checked.stderr).trim()));
        }
        let machine = ground.machine("internet", dir.path())?;
        forward(&machine);
        let internet =
            Router { machine, address: Ipv4Addr::UNSPECIFIED, inside: Inside::Internet, ports: Cell::new(0) };
        let (wires, next) = (RefCell::default(), Cell::new(0));
        Ok(Self { wires, internet, family, ground, next, dir })
    }

    /// Returns the internet.
    pub fn internet(&self) -> &Router {
        &self.internet
    }

    /// Returns a directory that goes away with the lab.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Adds a machine behind `router`, over `link` if it is not to be a perfect one.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn host(&self, name: &str, router: &Router, link: Option<Link>) -> Host {
        let machine = self.machine(name);
        let Plugged { v4, v6 } = self.plug(&machine, router, link);
        Host { machine, v4, v6 }
    }

    /// Adds a router behind `router`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn router(
        &self,
        name: &str,
        nat: Nat,
        filter: &Filter,
        outside: &Router,
        link: Option<Link>,
    ) -> Router {
        let machine = self.machine(name);
        let inside = [192, 168, self.number() as u8];
        self.router_of(machine, inside, nat, filter, outside, link)
    }

    /// Adds a carrier's translator behind the internet; the routers of its customers are plugged into it.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn carrier(&self, name: &str, nat: Nat) -> Router {
        let machine = self.machine(name);
        let inside = [100, 64, self.number() as u8];
        self.router_of(machine, inside, nat, &Filter::Nothing, &self.internet, None)
    }

    fn router_of(
        &self,
        machine: Machine,
        inside: [u8; 3],
        nat: Nat,
        filter: &Filter,
        outside: &Router,
        link: Option<Link>,
    ) -> Router {
        forward(&machine);
        let [a, b, c] = inside;
        let Plugged { v4, .. } = self.plug(&machine, outside, link);
        machine
            .ip(&format!("link add lan type bridge\naddr add {a}.{b}.{c}.1/24 dev lan\nlink set lan up\n"));
        machine.nft(&nat.rules(filter));
        Router { machine, address: v4, inside: Inside::Ethernet(inside), ports: Cell::new(0) }
    }

    /// Lets a router forward ports to whoever inside asks for that by PCP, NAT-PMP or UPnP.
    ///
    /// # Panics
    /// When it cannot be done.
    pub fn forward_ports(&self, router: &Router, offers: Offers) -> Service {
        router.machine.nft(MAPPER_RULES);
        let file = |kind: &str| self.dir.path().join(format!("{}.{kind}", router.machine.name));
        let settings = match offers {
            Offers::Everything => MAPPER_SETTINGS.to_owned(),
            Offers::UpnpOnly => MAPPER_SETTINGS.replace("enable_natpmp=yes", "enable_natpmp=no"),
        };
        std::fs::write(file("mapper"), settings).expect("a file in the lab's directory");
        let (settings, number) = (file("mapper").display().to_string(), file("pid").display().to_string());
        router.machine.serve(&["keep", MAPPER, "-d", "-f", &settings, "-P", &number].map(str::to_owned))
    }

    /// Takes a machine off its network and puts it behind another router, as a laptop that leaves its desk.
    ///
    /// # Panics
    /// When it cannot be done.
    pub fn move_to(&self, host: &mut Host, router: &Router, link: Option<Link>) {
        host.machine.ip("link del wan\n");
        let Plugged { v4, v6 } = self.plug(&host.machine, router, link);
        (host.v4, host.v6) = (v4, v6);
    }

    /// Adds a server that tells machines what their NAT does, and returns it with its two addresses.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn prober(&self) -> Prober {
        let host = self.host("prober", &self.internet, None);
        let [a, b, c, _] = host.v4.octets();
        let second = Ipv4Addr::new(a, b, c, 3);
        host.machine.ip(&format!("addr add {second}/24 dev wan\n"));
        let addresses = [host.v4.into(), second.into()];
        let words = ["probe-server".to_owned(), host.v4.to_string(), second.to_string()];
        let service = host.machine.serve(&words);
        Prober { _service: service, _host: host, addresses }
    }

    fn machine(&self, name: &str) -> Machine {
        self.ground.machine(name, self.dir.path()).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn number(&self) -> u32 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    /// Connects a machine's `wan` with a new port of a router, addresses and default route included.
    fn plug(&self, machine: &Machine, router: &Router, link: Option<Link>) -> Plugged {
        let n = router.ports.get() + 1;
        router.ports.set(n);
        let port = format!("p{n}");
        match link {
            None => machine
                .ip(&format!("link add wan type veth peer name {port} netns {}\n", router.machine.pid())),
            Some(link) => self.wire(machine, &router.machine, &port, link),
        }
        match router.inside {
            Inside::Internet => {
                let mut near = String::new();
                let mut far = String::new();
                let mut routes = String::new();
                let mut plugged = Plugged { v4: Ipv4Addr::UNSPECIFIED, v6: Ipv6Addr::UNSPECIFIED };
                if self.family != Family::V6 {
                    plugged.v4 = Ipv4Addr::new(5, 0, n, 2);
                    near += &format!("addr add 5.0.{n}.2/24 dev wan\n");
                    far += &format!("addr add 5.0.{n}.1/24 dev {port}\n");
                    routes += &format!("route add default via 5.0.{n}.1\n");
                }
                if self.family != Family::V4 {
                    plugged.v6 = Ipv6Addr::new(0x2a05, 0, 0, n.into(), 0, 0, 0, 2);
                    near += &format!("addr add 2a05:0:0:{n:x}::2/64 dev wan nodad\n");
                    far += &format!("addr add 2a05:0:0:{n:x}::1/64 dev {port} nodad\n");
                    routes += &format!("route add default via 2a05:0:0:{n:x}::1\n");
                }
                router.machine.ip(&format!("{far}link set {port} up\n"));
                machine.ip(&format!("{near}link set wan up\n{routes}"));
                plugged
            }
            Inside::Ethernet([a, b, c]) => {
                assert!(link.is_none(), "an emulated wire has no Ethernet to be bridged");
                let v4 = Ipv4Addr::new(a, b, c, n + 1);
                router.machine.ip(&format!("link set {port} master lan up\n"));
                machine.ip(&format!(
                    "addr add {v4}/24 dev wan\nlink set wan up\nroute add default via {a}.{b}.{c}.1\n"
                ));
                Plugged { v4, v6: Ipv6Addr::UNSPECIFIED }
            }
        }
    }

    /// Makes an emulated wire between a machine's `wan` and a router's `port`.
    fn wire(&self, machine: &Machine, router: &Machine, port: &str, link: Link) {
        let number = self.number();
        let (near, far) = (format!("near{number}"), format!("far{number}"));
        let link = serde_json::to_string(&link).expect("numbers");
        let words = ["link".to_owned(), near.clone(), far.clone(), link, number.to_string()];
        let service = self.ground.workshop().serve(&words);
        self.ground.workshop().ip(&format!(
            "link set {near} netns {} name wan\nlink set {far} netns {} name {port}\n",
            machine.pid(),
            router.pid()
        ));
        self.wires.borrow_mut().push(service);
    }
}

fn forward(machine: &Machine) {
    let script = "echo 1 >/proc/sys/net/ipv4/ip_forward && \
        { [ ! -e /proc/sys/net/ipv6 ] || echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; }";
    machine.run(&["sh", "-c", script]);
}

/// The server that tells machines what their NAT does.
#[derive(Debug)]
pub struct Prober {
    _service: Service,
    _host: Host,
    addresses: [IpAddr; 2],
}

impl Prober {
    /// Asks from a machine.
    ///
    /// # Panics
    /// When the server is out of reach, three times in a row: on a busy machine one answer may come too late.
    pub fn ask(&self, machine: &Machine) -> probe::Report {
        let [first, second] = self.addresses.map(|address| address.to_string());
        let words = ["probe", &first, &second];
        let early = (0..2).map(|_| machine.try_netbox(&words)).find(|output| output.status.success());
        let said = early.map_or_else(
            || machine.run_netbox(&words),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        );
        serde_json::from_str(&said).expect("a report")
    }

    /// Sends datagrams from a machine to the server and back.
    pub fn echoes(&self, machine: &Machine, count: u32, every: Duration) -> probe::Echoes {
        let words = [self.addresses[0].to_string(), count.to_string(), every.as_millis().to_string()];
        let said = machine.run_netbox(&["echoes", &words[0], &words[1], &words[2]]);
        serde_json::from_str(&said).expect("a report")
    }

    /// Checks that a machine is behind a NAT of this kind; `None` is no NAT.
    ///
    /// # Panics
    /// When it is not.
    pub fn check(&self, machine: &Machine, nat: Option<Nat>) -> probe::Report {
        use probe::Dependence::{Address, AddressAndPort, Endpoint};
        let report = self.ask(machine);
        let (mapping, filtering) = match nat {
            None | Some(Nat::FullCone) => (Endpoint, Endpoint),
            Some(Nat::Restricted) => (Endpoint, Address),
            Some(Nat::PortRestricted) => (Endpoint, AddressAndPort),
            Some(Nat::Symmetric) => (AddressAndPort, AddressAndPort),
        };
        assert_eq!(
            (report.translated(), report.mapping(), report.tcp_mapping(), report.filtering()),
            (nat.is_some(), mapping, mapping, filtering),
            "{} is not behind {nat:?}: {report:?}",
            machine.name
        );
        report
    }
}
