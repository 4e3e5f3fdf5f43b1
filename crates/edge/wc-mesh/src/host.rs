//! The one task that owns the swarm: it dials, admits, times out and tells.
//!
//! ```text
//! a connection:  established ──identify names our network──► admitted ──last one closes──► gone
//!                     │  └─ another network: closed, avoided for ten minutes
//!                     └─ no identify in time: closed
//! ```

mod book;
mod company;
mod fallback;
mod news;
mod peers;
mod reach;
mod regions;
mod seeds;
mod servers;
mod timers;
mod vitality;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::{ListenerId, PortUse};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, identity, kad, relay};
use socket2::{Domain, Socket, Type};
use tokio::sync::{mpsc, watch};
use wc_proto::peer::announce::Announcement;
use wc_proto::peer::beacon::Port;
use wc_proto::peer::gossip::PresenceState;
use wc_types::{NodeId, Signed, SigningKey};

use crate::address::{
    Transport, is_circuit, is_loopback, node_of, peer_of, split_node, transport_of, with_node,
};
use crate::behaviour::{
    Behaviour, BehaviourEvent, Built, KADEMLIA_PROTOCOL, PROTOCOL_VERSION, build, parse_agent,
};
use crate::config::MeshConfig;
use crate::dial::{
    BACKOFF_FIRST, BACKOFF_MAX, CROSSED_PAUSES, DialError, Plan, Waiter, answer, conclude, interceptor_of,
    log, may_have_crossed, outcome_of, root_cause,
};
use crate::discovery::beacon::{self, port_of};
use crate::discovery::{News, Sighting, dial_delay, mdns};
use crate::event::{
    DialAttempt, DialOutcome, Direction, EventSender, FollowUp, Interception, MeshEvent, Via,
};
use crate::exchange::table::{Faults, Table};
use crate::exchange::{self, Heard, Window};
use crate::gossip::judge::Judge;
use crate::gossip::{Told, Topics};
use crate::mapping::PortMapping;
use crate::mesh::{Command, PeerInfo, StartError};
use crate::nat::Evidence;
use crate::path::{
    before_circuit, ip_of, is_dialable, is_foreign, is_neighbour, is_scoped, region_of, relay_of,
};
use crate::pulse::Life;
use crate::relay::keeper::Keeper;
use crate::relay::shape::Shaper;
use crate::relay::{Granted, Rates, RelayCounters};
use crate::stream::{Refused, Registry};
use crate::transport::Ways;
use book::Book;
use regions::Regions;
use seeds::{LOOKED_UP_QUEUED_MAX, LookedUp};
use servers::{Server, Servers};
use timers::Timers;

/// Longest pause before a seed is dialled again: a LAN that gets the internet is to be part of the network within a minute,
/// and a dial that was under way then has to time out first (NET-06).
const SEED_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long a node that was turned away, or that we left, is not sought by ourselves.
const AVOID: Duration = Duration::from_secs(600);
/// Nodes that are avoided at the same time; one more forgets those whose time is over.
const AVOIDED_MAX: usize = 4096;
/// Nodes and seeds that are kept connected; `connect` beyond that dials once.
const KEPT_MAX: usize = 4096;
/// Attempts to reach a node that mDNS found: it tells of a node once, so one lost packet must not be the end.
const MDNS_TRIES: u8 = 6;
/// Longest agent version kept from a peer, in characters.
const AGENT_CHARS_MAX: usize = 128;
/// Beacon sightings that wait for the swarm task.
const NEWS_QUEUED_MAX: usize = 64;
/// Nodes announced nearby that are looked at at once, and per minute after that. Each costs a dial, and nobody signs what
/// is announced; the real ones are announced again.
const SIGHTINGS: (u32, u32) = (256, 300);
/// What one host may say of how we look from outside at once, and per minute after that: each new address is tested.
const OBSERVATIONS: (u32, u32) = (16, 6);
/// Pause between two complaints that there are more.
const CROWDED_PAUSE: Duration = Duration::from_secs(600);
/// Time that `Mesh::start` gives its listeners to find their addresses.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Something that falls due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// A discovered node that nobody has connected yet.
    Dial(PeerId),
    /// The next address of a plan gets its chance.
    Stagger(PeerId),
    /// A connection must be identified by now.
    Identify(PeerId, ConnectionId),
    /// A node that is kept, and not connected.
    Retry(PeerId),
    /// A seed whose node we do not know.
    Seed(usize),
    /// The reservations want looking after.
    Reach,
    /// Our own announcement may have to change.
    Announce,
    /// Our own announcement may have become old.
    Renew,
    /// Time to look for somebody to meet.
    Mingle,
    /// News waits to be passed on.
    Spread,
    /// Time to ask some peer what it knows.
    Ask,
    /// A peer that is connected through a relay only.
    Improve(PeerId),
    /// This machine's addresses have changed.
    Network,
    /// The next address that may be better than a circuit gets its chance.
    ImproveNext(PeerId),
    /// A circuit beside a direct path.
    Retire(PeerId, ConnectionId),
    /// Time to leave those whom we came to and do not need.
    Leave,
}

/// One dial under way.
#[derive(Debug)]
struct Dialling {
    addr: Multiaddr,
    peer: Option<PeerId>,
    /// Whether TCP is dialled from the port that we listen on.
    port: PortUse,
    seed: Option<usize>,
    waiters: Vec<Waiter>,
}

impl Dialling {
    fn to(peer: PeerId, addr: Multiaddr) -> Self {
        Self { addr, peer: Some(peer), port: PortUse::Reuse, seed: None, waiters: Vec::new() }
    }
}

/// A configured seed.
#[derive(Debug)]
struct Seed {
    addr: Multiaddr,
    peer: Option<PeerId>,
    backoff: Duration,
}

/// A node that is dialled again when it is gone.
#[derive(Debug)]
struct Kept {
    backoff: Duration,
    /// `None`: for ever.
    tries_left: Option<u8>,
}

/// A connected peer.
#[derive(Debug)]
struct Peer {
    links: Vec<Link>,
    admitted: bool,
    agent_version: String,
    rtt: Option<Duration>,
    since: SystemTime,
    /// Whether it offers to relay.
    relays: bool,
    /// Why we are about to close the last connection, if it was our decision.
    farewell: Option<String>,
}

#[derive(Debug)]
struct Link {
    id: ConnectionId,
    /// The peer's address, or that of the relay between us.
    addr: Multiaddr,
    /// Our end, as the connection names it.
    local: Multiaddr,
    /// The address of this machine that it goes out from, as far as that is known.
    source: Option<std::net::IpAddr>,
    life: Arc<Life>,
    /// Dialled from the port that we listen on.
    reused: bool,
    round_trip_at: Option<Instant>,
    transport: Transport,
    direction: Direction,
    inspected: Option<String>,
    fallback: Option<String>,
}

pub(crate) struct Host {
    config: MeshConfig,
    node: NodeId,
    local: PeerId,
    swarm: Swarm<Behaviour>,
    registry: Registry,
    events: EventSender,
    commands: mpsc::Receiver<Command>,
    sightings: Rates<Via>,
    observers: Rates<std::net::IpAddr>,
    crowded_at: Option<Instant>,
    news: Option<mpsc::Receiver<News>>,
    ports: watch::Sender<Vec<Port>>,
    places: watch::Sender<Vec<Multiaddr>>,
    listeners: HashMap<ListenerId, bool>,
    _port_guards: Vec<Socket>,
    peers: HashMap<PeerId, Peer>,
    dialling: HashMap<ConnectionId, Dialling>,
    plans: HashMap<PeerId, Plan>,
    searches: HashMap<kad::QueryId, PeerId>,
    servers: Servers,
    seeds: Vec<Seed>,
    kept: HashMap<PeerId, Kept>,
    avoided: HashMap<PeerId, Instant>,
    banned: HashSet<PeerId>,
    book: Book,
    timers: Timers<Due>,
    ways: Ways,
    looked_up: mpsc::Receiver<LookedUp>,
    looking_up: mpsc::Sender<LookedUp>,
    key: SigningKey,
    keeper: Keeper,
    evidence: Evidence,
    /// Addresses at which everybody can dial us.
    external: Vec<Multiaddr>,
    mapping: Option<PortMapping>,
    forwarded: HashMap<Transport, Multiaddr>,
    contacted: HashSet<std::net::IpAddr>,
    contacts_forgotten: bool,
    /// Addresses that may be better than the circuits we have.
    improving: HashMap<PeerId, VecDeque<Multiaddr>>,
    upgrades: reach::Upgrades,
    shaper: Option<Shaper>,
    relayed: RelayCounters,
    granted: Granted,
    table: Table,
    faults: Faults,
    topics: Topics,
    judge: Judge,
    /// What this node has said of its presence, until somebody has heard it.
    unheard: Option<PresenceState>,
    own: Option<Signed<Announcement>>,
    regions: Regions,
    window: Window,
    heard: mpsc::Receiver<Heard>,
    heard_sender: mpsc::Sender<Heard>,
    fresh: Vec<(NodeId, NodeId)>,
    asked: usize,
    mingle_pause: Duration,
    /// The listeners know their first addresses; others mean that the network has changed.
    settled: bool,
}

impl Host {
    /// Builds the host and binds its listeners. Nothing moves until it is polled.
    pub(crate) fn new(
        config: MeshConfig,
        registry: Registry,
        events: EventSender,
        commands: mpsc::Receiver<Command>,
    ) -> Result<Self, StartError> {
        let key = identity::Keypair::ed25519_from_bytes(config.secret)
            .expect("every 32 bytes are the seed of an Ed25519 key");
        let local = PeerId::from(key.public());
        let node = node_of(&local).expect("the peer id of an Ed25519 key is a node id");
        let Built { swarm, ways, shaper } = build(&config, key, registry.clone())?;
        let (heard_sender, heard) = mpsc::channel(exchange::HEARD_QUEUED_MAX);
        let (looking_up, looked_up) = mpsc::channel(LOOKED_UP_QUEUED_MAX);
        let seeds = config.seeds.iter().map(|addr| Seed {
            addr: addr.clone(),
            peer: split_node(addr).1,
            backoff: BACKOFF_FIRST,
        });
        let mut host = Self {
            seeds: seeds.collect(),
            node,
            local,
            swarm,
            registry,
            events,
            commands,
            sightings: Rates::new(SIGHTINGS.0, SIGHTINGS.1),
            observers: Rates::new(OBSERVATIONS.0, OBSERVATIONS.1),
            crowded_at: None,
            news: None,
            ports: watch::channel(Vec::new()).0,
            places: watch::channel(Vec::new()).0,
            listeners: HashMap::new(),
            _port_guards: Vec::new(),
            peers: HashMap::new(),
            dialling: HashMap::new(),
            plans: HashMap::new(),
            searches: HashMap::new(),
            servers: Servers::default(),
            kept: HashMap::new(),
            avoided: HashMap::new(),
            banned: HashSet::new(),
            book: Book::default(),
            timers: Timers::default(),
            ways,
            looked_up,
            looking_up,
            key: SigningKey::from_seed(&config.secret),
            keeper: Keeper::default(),
            evidence: Evidence::default(),
            external: Vec::new(),
            mapping: config.reach.port_mapping.then(PortMapping::start),
            forwarded: HashMap::new(),
            contacted: HashSet::new(),
            contacts_forgotten: false,
            improving: HashMap::new(),
            upgrades: reach::Upgrades::default(),
            shaper,
            relayed: RelayCounters::default(),
            granted: Granted::default(),
            table: Table::new(config.network.clone(), node),
            faults: Faults::default(),
            topics: Topics::new(&config.network),
            judge: Judge::new(config.network.clone(), node),
            unheard: None,
            own: None,
            regions: Regions::default(),
            window: Window::default(),
            heard,
            heard_sender,
            fresh: Vec::new(),
            asked: usize::from(node.0[0]),
            mingle_pause: peers::MINGLE.0,
            settled: false,
            config,
        };
        host.listen()?;
        host.start_reach();
        host.start_peers();
        let lan = host.config.lan;
        let (news, queue) = mpsc::channel(NEWS_QUEUED_MAX);
        host.news = (lan.loopback || lan.mdns).then_some(queue);
        if lan.mdns {
            let network = host.config.network.clone();
            tokio::spawn(mdns::run(node, network, host.places.subscribe(), news.clone()));
        }
        if lan.loopback {
            // Distinguishes two starts of one node; the clock of the edge is good enough for that.
            let boot = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_nanos() as u64);
            let network = host.config.network.clone();
            tokio::spawn(beacon::run(node, network, boot, host.ports.subscribe(), news));
        }
        Ok(host)
    }

    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// Runs until every listener knows an address, or two seconds have passed; then dials the seeds.
    pub(crate) async fn settle(&mut self) {
        self.find_listeners().await;
        self.settled = true;
        // Not before: only who knows its listeners can dial from their ports, which is what holes are punched with. And all
        // addresses of a node before the first of them is dialled, so that the best one is.
        for seed in &self.seeds {
            if let (bare, Some(peer)) = split_node(&seed.addr) {
                self.book.add(peer, [bare]);
            }
        }
        for seed in 0..self.seeds.len() {
            self.dial_seed(seed);
        }
    }

    async fn find_listeners(&mut self) {
        let deadline = tokio::time::Instant::now() + SETTLE_TIMEOUT;
        while self.listeners.values().any(|ready| !ready) {
            match tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await {
                Ok(event) => self.on_swarm(event),
                Err(_) => return,
            }
        }
    }

    /// Runs until the last handle is gone or one says stop.
    pub(crate) async fn run(mut self) {
        let stopper = loop {
            let due = self.timers.next();
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm(event),
                command = self.commands.recv() => match command {
                    Some(Command::Stop(reply)) => break Some(reply),
                    Some(command) => self.on_command(command),
                    None => break None,
                },
                Some(heard) = self.heard.recv() => self.on_heard(heard),
                Some(news) = async { self.news.as_mut()?.recv().await }, if self.news.is_some() => self.on_news(news),
                Some(looked_up) = self.looked_up.recv() => self.on_looked_up(looked_up),
                Some(forwarded) = async { self.mapping.as_mut()?.news().await }, if self.mapping.is_some() =>
                    self.on_forwarded(forwarded),
                () = sleep_until(due) => {
                    for due in self.timers.take_due(Instant::now()) {
                        self.on_due(due);
                    }
                }
            }
        };
        // A peer that is told learns at once; one that is not learns from a timeout.
        for peer in self.swarm.connected_peers().copied().collect::<Vec<_>>() {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let _ = tokio::time::timeout(Duration::from_millis(200), async {
            while self.swarm.connected_peers().next().is_some() {
                let _ = self.swarm.select_next_some().await;
            }
        })
        .await;
        self.registry.stop();
        if let Some(mapping) = self.mapping.take() {
            mapping.stop().await;
        }
        drop(self);
        if let Some(reply) = stopper {
            let _ = reply.send(());
        }
    }

    // ---- listening

    fn listen(&mut self) -> Result<(), StartError> {
        // UDP first: its bind is exclusive. TCP listeners share their port for hole punching (SO_REUSEPORT), so two
        // nodes of one user would both succeed on 19999 and the kernel would deal connections out between them. A UDP
        // socket of the same number, QUIC's or a guard of ours, decides whose port it is.
        let mut wanted = self.config.listen.clone();
        if wanted.iter().any(|addr| !is_any_v6(addr)) && !speaks_ipv6() {
            wanted.retain(|addr| !is_any_v6(addr));
            tracing::debug!("this machine does not speak IPv6");
        }
        wanted.sort_by_key(|addr| transport_of(addr) != Some(Transport::Quic));
        let mut ours = HashSet::new();
        let mut last_cause = None;
        for addr in &wanted {
            let attempt = match self.claim(addr, &mut ours) {
                Ok(()) => self.swarm.listen_on(addr.clone()).map_err(|error| root_cause(&error)),
                Err(error) => Err(root_cause(&error)),
            };
            match attempt {
                Ok(id) => {
                    self.listeners.insert(id, false);
                }
                Err(cause) => {
                    let other = with_port_zero(addr).filter(|other| other != addr);
                    let instead = other.and_then(|other| {
                        let id = self.swarm.listen_on(other.clone()).ok()?;
                        self.listeners.insert(id, false);
                        Some(other)
                    });
                    let fallback = if instead.is_some() { "a free port" } else { "nothing" };
                    tracing::warn!(addr = %addr, cause, fallback, "cannot listen there");
                    self.events.send(MeshEvent::ListenFailed {
                        wanted: addr.clone(),
                        cause: cause.clone(),
                        instead,
                    });
                    last_cause = Some(cause);
                }
            }
        }
        match last_cause {
            Some(cause) if self.listeners.is_empty() => {
                Err(StartError::Listen { count: wanted.len(), cause })
            }
            _ => Ok(()),
        }
    }

    /// Makes sure that nobody else holds the port of `addr`. Ports that we hold are noted in `ours`.
    fn claim(
        &mut self,
        addr: &Multiaddr,
        ours: &mut HashSet<(std::net::IpAddr, u16)>,
    ) -> std::io::Result<()> {
        let mut parts = addr.iter();
        let ip = match parts.next() {
            Some(Protocol::Ip4(ip)) => ip.into(),
            Some(Protocol::Ip6(ip)) => ip.into(),
            _ => return Ok(()),
        };
        match parts.next() {
            Some(Protocol::Udp(port)) if port != 0 => {
                // Bound and let go: QUIC binds it next, and fails itself if somebody was faster.
                guard(ip, port, Type::DGRAM)?;
                ours.insert((ip, port));
                Ok(())
            }
            Some(Protocol::Tcp(port)) if port != 0 => {
                if ours.insert((ip, port)) {
                    self._port_guards.push(guard(ip, port, Type::DGRAM)?);
                }
                guard(ip, port, Type::STREAM).map(drop)
            }
            _ => Ok(()),
        }
    }

    fn announce_ports(&mut self) {
        let mut ports: Vec<Port> = self.swarm.listeners().filter_map(port_of).collect();
        ports.dedup();
        replace(&self.ports, ports);
        let near = |addr: &&Multiaddr| !is_circuit(addr) && !is_loopback(addr);
        replace(&self.places, self.swarm.listeners().filter(near).cloned().collect());
    }

    // ---- commands

    fn on_command(&mut self, command: Command) {
        match command {
            Command::ListenAddrs(reply) => {
                // What everybody can use comes first: whoever passes our addresses on may pass on the first ones only.
                let mut addrs = self.external.clone();
                addrs.extend(self.keeper.circuits());
                let own = self.swarm.listeners().filter(|addr| !is_circuit(addr) && !is_scoped(addr));
                let (inside, outside): (Vec<_>, Vec<_>) = own.cloned().partition(is_loopback);
                addrs.extend(outside.into_iter().chain(inside));
                let mut seen = HashSet::new();
                addrs.retain(|addr| seen.insert(addr.clone()));
                let addrs = addrs.into_iter().map(|addr| with_node(addr, self.local)).collect();
                let _ = reply.send(addrs);
            }
            Command::Peers(reply) => {
                let mut peers: Vec<PeerInfo> =
                    self.peers.keys().filter_map(|peer| self.peer_info(peer)).collect();
                peers.sort_by_key(|peer| peer.node);
                let _ = reply.send(peers);
            }
            Command::Peer(node, reply) => {
                let _ = reply.send(self.peer_info(&peer_of(node)));
            }
            Command::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Command::Known(reply) => {
                let _ = reply.send(self.remembered());
            }
            Command::Dial { addr, waiter } => self.dial_address(addr, waiter),
            Command::Connect { node, addrs } => {
                let peer = peer_of(node);
                if peer == self.local {
                    return;
                }
                self.avoided.remove(&peer);
                self.book.add(peer, addrs.into_iter().map(|addr| split_node(&addr).0));
                if self.kept.len() < KEPT_MAX || self.kept.contains_key(&peer) {
                    self.kept.insert(peer, Kept { backoff: BACKOFF_FIRST, tries_left: None });
                }
                self.seek(peer, None);
            }
            Command::Reach { node, waiter } => {
                let peer = peer_of(node);
                self.avoided.remove(&peer);
                self.seek(peer, Some(waiter));
            }
            Command::Disconnect(node) => {
                let peer = peer_of(node);
                self.kept.remove(&peer);
                self.avoid(peer);
                self.part(peer, "we left");
            }
            Command::Ban(node) => self.ban(node),
            Command::Unban(node) => self.unban(node),
            Command::Say(gossip) => self.publish(&gossip),
            Command::Present(state) => self.present(state),
            // Handled where the loop ends.
            Command::Stop(_) => {}
        }
    }

    /// Closes every connection to `peer`.
    fn part(&mut self, peer: PeerId, why: &str) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.farewell = Some(why.to_owned());
        }
        // An error means that there is no connection.
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    fn avoid(&mut self, peer: PeerId) {
        if self.avoided.len() >= AVOIDED_MAX {
            let now = Instant::now();
            self.avoided.retain(|_, until| *until > now);
        }
        if self.avoided.len() < AVOIDED_MAX {
            self.avoided.insert(peer, Instant::now() + AVOID);
        }
    }

    fn is_avoided(&self, peer: &PeerId) -> bool {
        self.banned.contains(peer) || self.avoided.get(peer).is_some_and(|until| *until > Instant::now())
    }

    // ---- dialling

    /// Dials exactly `addr`.
    fn dial_address(&mut self, addr: Multiaddr, waiter: Waiter) {
        match split_node(&addr) {
            (bare, Some(peer)) => {
                self.avoided.remove(&peer);
                self.seek_at(peer, Some(vec![bare]), Some(waiter));
            }
            (bare, None) => self.dial_unknown(bare, None, vec![waiter], PortUse::Reuse),
        }
    }

    /// Dials an address without knowing who is there.
    fn dial_unknown(&mut self, addr: Multiaddr, seed: Option<usize>, waiters: Vec<Waiter>, port: PortUse) {
        let opts = DialOpts::unknown_peer_id().address(addr.clone());
        let opts = if port == PortUse::New { opts.allocate_new_port() } else { opts }.build();
        let id = opts.connection_id();
        self.on_contact(&addr);
        self.dialling.insert(id, Dialling { addr, peer: None, port, seed, waiters });
        if let Err(error) = self.swarm.dial(opts) {
            self.on_dial_failed(id, None, &error);
        }
    }

    /// Notes the addresses of a seed again: it stays one, however often they have failed.
    fn book_seeds_of(&mut self, peer: &PeerId) {
        for seed in self.seeds.iter().filter(|seed| seed.peer.as_ref() == Some(peer)) {
            self.book.add(*peer, [split_node(&seed.addr).0]);
        }
    }

    fn dial_seed(&mut self, index: usize) {
        let Some(seed) = self.seeds.get(index) else { return };
        let (bare, _) = split_node(&seed.addr);
        if self.look_up_seed(index) {
            return;
        }
        let Some(seed) = self.seeds.get(index) else { return };
        match seed.peer {
            Some(peer) => {
                if let Some(node) = node_of(&peer).filter(|_| !self.peers.contains_key(&peer)) {
                    self.events.send(MeshEvent::Discovered {
                        node,
                        addrs: vec![bare.clone()],
                        via: Via::Seed,
                    });
                }
                self.book.add(peer, [bare]);
                self.seek(peer, None);
            }
            None => self.dial_unknown(bare, Some(index), Vec::new(), PortUse::Reuse),
        }
    }

    /// Makes a connection to `peer` at whatever address is known, or tells the waiter why there is none.
    fn seek(&mut self, peer: PeerId, waiter: Option<Waiter>) {
        self.seek_at(peer, None, waiter);
    }

    /// As `seek`, at `only` these addresses if there are some.
    fn seek_at(&mut self, peer: PeerId, only: Option<Vec<Multiaddr>>, waiter: Option<Waiter>) {
        let refusal = match node_of(&peer) {
            _ if peer == self.local => Some(DialError::Ourselves),
            Some(node) if self.banned.contains(&peer) => Some(DialError::Banned { node }),
            Some(node)
                if self.is_reached(&peer) && self.peers.get(&peer).is_some_and(|state| state.admitted) =>
            {
                return answer(waiter.into_iter().collect(), &Ok(node));
            }
            Some(_) => None,
            None => {
                Some(DialError::ForeignKey { addr: self.book.first(&peer).unwrap_or_else(Multiaddr::empty) })
            }
        };
        if let Some(refusal) = refusal {
            return answer(waiter.into_iter().collect(), &Err(refusal));
        }
        let connected = self.is_reached(&peer);
        let asked_for = only.is_some();
        let addrs = only.unwrap_or_else(|| self.book.addrs(&peer));
        let addrs = if asked_for { addrs } else { self.without_false_neighbours(addrs) };
        let can_search = addrs.is_empty() && !connected;
        let plan = self.plans.entry(peer).or_default();
        plan.passing &= waiter.is_none() && asked_for;
        plan.waiters.extend(waiter);
        if connected {
            // Its identification is on the way.
            return;
        }
        plan.extend(addrs);
        if !asked_for {
            plan.put_last(is_foreign);
        }
        if can_search && !plan.searching && self.fill_table() {
            let query = self.swarm.behaviour_mut().kad.get_closest_peers(peer);
            self.searches.insert(query, peer);
            if let Some(plan) = self.plans.get_mut(&peer) {
                plan.searching = true;
            }
        }
        let idle = self.plans.get(&peer).is_some_and(|plan| plan.in_flight.is_empty());
        if idle {
            self.dial_next(peer);
        }
    }

    /// Returns the addresses of one node without its loopback ones, unless it may be on this machine.
    fn without_false_neighbours(&self, mut addrs: Vec<Multiaddr>) -> Vec<Multiaddr> {
        let ours = |addr: &Multiaddr| self.swarm.listeners().any(|own| ip_of(own) == ip_of(addr));
        let elsewhere = addrs.iter().any(|addr| !is_loopback(addr) && !is_circuit(addr));
        let beside = addrs.iter().any(|addr| !is_loopback(addr) && !is_circuit(addr) && ours(addr));
        if elsewhere && !beside {
            addrs.retain(|addr| !is_loopback(addr));
        }
        addrs
    }

    /// Starts the next attempt of a plan, or ends the plan.
    fn dial_next(&mut self, peer: PeerId) {
        let asked = self.is_asked(&peer);
        let mut refused = Vec::new();
        let under_way = self.start_next(peer, &mut refused);
        if !under_way {
            self.end_if_exhausted(peer);
        }
        for mut attempt in refused {
            attempt.follow_up = Some(self.follow_up(&peer, asked));
            self.tell_of(attempt);
        }
    }

    /// Starts the next attempt of a plan; returns whether there is one. What cannot even be begun goes to `refused`.
    fn start_next(&mut self, peer: PeerId, refused: &mut Vec<DialAttempt>) -> bool {
        while let Some(addr) = self.plans.get_mut(&peer).and_then(Plan::next) {
            if let Some(relay) = relay_of(&addr).filter(|relay| *relay != peer) {
                // All addresses of a relay lead over one connection to it: one try is enough.
                let again = self.plans.get_mut(&peer).is_some_and(|plan| !plan.relays.insert(relay));
                if !self.has_direct_link(&relay) {
                    self.call_relay(peer, relay, addr, again);
                    continue;
                }
                if again {
                    continue;
                }
            }
            self.on_contact(&addr);
            let opts = DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(vec![addr.clone()])
                .build();
            let id = opts.connection_id();
            let dialling = Dialling::to(peer, addr.clone());
            match self.swarm.dial(opts) {
                Ok(()) => {
                    self.dialling.insert(id, dialling);
                    if let Some(plan) = self.plans.get_mut(&peer) {
                        plan.in_flight.insert(id);
                    }
                    if let Some(pause) = self.plans.get(&peer).and_then(|plan| plan.head_start(&addr)) {
                        self.timers.after(pause, Due::Stagger(peer));
                    }
                    return true;
                }
                Err(error) => {
                    let (outcome, cause) = outcome_of(&error, Some(peer));
                    let attempt = conclude(dialling.addr, outcome, Some(cause));
                    self.note_attempt(peer, &attempt);
                    refused.push(attempt);
                }
            }
        }
        false
    }

    /// Ends a plan of which nothing is under way and nothing is left to try.
    fn end_if_exhausted(&mut self, peer: PeerId) {
        let Some(plan) = self.plans.get(&peer).filter(|plan| plan.is_exhausted()) else { return };
        if self.is_reached(&peer) {
            return;
        }
        let error = match node_of(&peer) {
            Some(node) if plan.attempts.is_empty() => DialError::NoAddress { node },
            Some(_) | None => DialError::Unreachable { attempts: plan.attempts.clone() },
        };
        self.give_up(peer, error);
    }

    /// Returns whether circuits can be opened at `relay` now.
    fn has_direct_link(&self, relay: &PeerId) -> bool {
        self.peers.get(relay).is_some_and(|state| {
            state.links.iter().any(|link| link.transport != Transport::Relay && !link.life.is_doubted())
        })
    }

    /// Connects to `relay`, because `circuit` leads through it to `peer`. The library would do that with one address only,
    /// and give the circuit up if we are dialling the relay already.
    fn call_relay(&mut self, peer: PeerId, relay: PeerId, circuit: Multiaddr, again: bool) {
        let mut ways: Vec<Multiaddr> = before_circuit(&circuit).into_iter().collect();
        if let Some(plan) = self.plans.get_mut(&peer) {
            ways.extend(plan.ways_to(&relay));
            if !again {
                plan.waiting.push((relay, circuit));
            }
        }
        ways.extend(self.book.addrs(&relay).into_iter().filter(|addr| !is_circuit(addr)));
        if !self.plans.contains_key(&relay) {
            self.plans.insert(relay, Plan::in_passing(!self.is_sought(&relay)));
        }
        self.seek_at(relay, Some(ways), None);
        // Whoever may not be dialled has no plan that could end.
        if self.plans.get(&relay).is_none_or(Plan::is_exhausted) && !self.has_direct_link(&relay) {
            self.plans.remove(&relay);
            self.on_relay_failed(relay);
        }
    }

    /// Opens the circuits that waited for a connection to `relay`.
    fn on_relay_there(&mut self, relay: PeerId) {
        for peer in self.waiting_for(&relay) {
            let Some(plan) = self.plans.get_mut(&peer) else { continue };
            let (there, waiting) =
                std::mem::take(&mut plan.waiting).into_iter().partition(|(of, _)| *of == relay);
            plan.waiting = waiting;
            let there: Vec<(PeerId, Multiaddr)> = there;
            plan.relays.remove(&relay);
            plan.put_first(there.into_iter().map(|(_, circuit)| circuit));
            self.dial_next(peer);
        }
    }

    /// Gives up the circuits that waited for a connection to `relay`.
    fn on_relay_failed(&mut self, relay: PeerId) {
        for peer in self.waiting_for(&relay) {
            let Some(plan) = self.plans.get_mut(&peer) else { continue };
            let (lost, waiting): (Vec<_>, Vec<_>) =
                std::mem::take(&mut plan.waiting).into_iter().partition(|(of, _)| *of == relay);
            plan.waiting = waiting;
            let mut attempts = Vec::new();
            for (_, circuit) in lost {
                let cause = "its relay is not reached".to_owned();
                let outcome = DialOutcome::TransportError(cause.clone());
                let attempt = conclude(circuit, outcome, Some(cause));
                self.note_attempt(peer, &attempt);
                attempts.push(attempt);
            }
            let asked = self.is_asked(&peer);
            self.dial_next(peer);
            for mut attempt in attempts {
                attempt.follow_up = Some(self.follow_up(&peer, asked));
                self.tell_of(attempt);
            }
        }
    }

    fn waiting_for(&self, relay: &PeerId) -> Vec<PeerId> {
        let waits = |plan: &Plan| plan.waiting.iter().any(|(of, _)| of == relay);
        self.plans.iter().filter(|(_, plan)| waits(plan)).map(|(peer, _)| *peer).collect()
    }

    /// Keeps an attempt for whoever waits for the node.
    fn note_attempt(&mut self, peer: PeerId, attempt: &DialAttempt) {
        if let Some(plan) = self.plans.get_mut(&peer) {
            plan.attempts.push(attempt.clone());
        }
    }

    /// Says how a dial ended. Comes after whatever is done about a failure, so that it can say that, too.
    fn tell_of(&self, attempt: DialAttempt) {
        log(&attempt);
        self.events.send(MeshEvent::DialAttempt(attempt));
    }

    /// Returns whether somebody waits for `peer`.
    fn is_asked(&self, peer: &PeerId) -> bool {
        self.plans.get(peer).is_some_and(|plan| !plan.waiters.is_empty())
    }

    /// Returns what is done about a dial to `peer` that has failed.
    ///
    /// - `asked`: whether somebody waited for the node before it failed
    fn follow_up(&self, peer: &PeerId, asked: bool) -> FollowUp {
        if self.is_reached(peer) {
            FollowUp::Connected
        } else if self.plans.get(peer).is_some_and(|plan| !plan.is_exhausted()) {
            FollowUp::Fallback
        } else if let Some(after) = self.timers.pause(&Due::Retry(*peer)) {
            FollowUp::Retry { after }
        } else if self.peers.contains_key(peer) {
            // In doubt; its end would bring us back.
            FollowUp::Connected
        } else if asked {
            FollowUp::Told
        } else {
            FollowUp::Unneeded
        }
    }

    /// Ends a plan without a connection, and comes back to it later if the node is kept.
    fn give_up(&mut self, peer: PeerId, error: DialError) {
        let comes_back =
            self.kept.contains_key(&peer) || self.seeds.iter().any(|seed| seed.peer == Some(peer));
        if let (true, DialError::Unreachable { attempts }) = (comes_back, &error) {
            tracing::info!(%peer, tried = attempts.len(), "every transport to this node is exhausted; trying again later");
        }
        if let Some(plan) = self.plans.remove(&peer) {
            answer(plan.waiters, &Err(error));
        }
        // Where there is a connection in doubt, its end brings us back.
        if !self.peers.contains_key(&peer) {
            self.retry_later(peer);
        }
        self.on_relay_failed(peer);
    }

    fn retry_later(&mut self, peer: PeerId) {
        if self.is_avoided(&peer) {
            return;
        }
        // Nodes that lost the same coordinator must not all come back in the same millisecond.
        let spread = Duration::from_millis(u64::from(self.node.0[0]));
        let seeds = self.seeds.iter_mut().filter(|seed| seed.peer == Some(peer));
        if let Some(seed) = seeds.into_iter().next() {
            self.timers.after(seed.backoff + spread, Due::Retry(peer));
            seed.backoff = (2 * seed.backoff).min(SEED_BACKOFF_MAX);
            return;
        }
        let Some(kept) = self.kept.get_mut(&peer) else { return };
        match &mut kept.tries_left {
            Some(0) => {
                self.kept.remove(&peer);
                return;
            }
            Some(tries) => *tries -= 1,
            None => {}
        }
        self.timers.after(kept.backoff + spread, Due::Retry(peer));
        kept.backoff = (2 * kept.backoff).min(BACKOFF_MAX);
    }

    fn on_dial_failed(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &libp2p::swarm::DialError) {
        let dialling = self.dialling.remove(&id);
        let expected = dialling.as_ref().and_then(|dialling| dialling.peer).or(peer);
        let (outcome, cause) = outcome_of(error, expected);
        let Some(dialling) = dialling else {
            // A dial of Kademlia's own: reported all the same.
            let mut addrs = dialled_addrs(error);
            if addrs.is_empty() {
                addrs.extend(peer.map(|peer| Multiaddr::from(Protocol::P2p(peer))));
            }
            for addr in addrs {
                let bare = Some(split_node(&addr).0).filter(|bare| !bare.is_empty()).unwrap_or(addr);
                let mut attempt = conclude(bare, outcome.clone(), Some(cause.clone()));
                attempt.follow_up = Some(FollowUp::Elsewhere);
                self.tell_of(attempt);
            }
            return;
        };
        let mut attempt = conclude(dialling.addr, outcome, Some(cause));
        attempt.interception = interceptor_of(error).map(|issuer| Interception::Refused { issuer });
        let ourselves = matches!(error, libp2p::swarm::DialError::LocalPeerId { .. });
        match dialling.peer {
            Some(peer) => {
                let timed_out = attempt.outcome == DialOutcome::Timeout;
                let crossed = may_have_crossed(&attempt, error);
                // A relay may be back before its addresses are told again.
                if !crossed && !timed_out && !is_circuit(&attempt.target_multiaddr) {
                    self.book.remove(&peer, &attempt.target_multiaddr, self.kept.contains_key(&peer));
                }
                if let Some(plan) = self.plans.get_mut(&peer) {
                    plan.in_flight.remove(&id);
                    if crossed && plan.retry_crossed(attempt.target_multiaddr.clone()) {
                        let higher = node_of(&peer).is_some_and(|node| self.node > node);
                        let [first, second] = CROSSED_PAUSES;
                        let after = if higher { first } else { second };
                        self.timers.after(after, Due::Stagger(peer));
                        self.note_attempt(peer, &attempt);
                        attempt.follow_up = Some(FollowUp::Retry { after });
                        return self.tell_of(attempt);
                    }
                }
                self.note_attempt(peer, &attempt);
                let asked = self.is_asked(&peer);
                self.dial_next(peer);
                attempt.follow_up = Some(self.follow_up(&peer, asked));
                self.tell_of(attempt);
            }
            // From a port of its own a dial crosses no other.
            None if dialling.port == PortUse::Reuse && may_have_crossed(&attempt, error) => {
                attempt.follow_up = Some(FollowUp::Retry { after: Duration::ZERO });
                let addr = attempt.target_multiaddr.clone();
                self.tell_of(attempt);
                self.dial_unknown(addr, dialling.seed, dialling.waiters, PortUse::New);
            }
            None => {
                let asked = !dialling.waiters.is_empty();
                let error = if ourselves {
                    DialError::Ourselves
                } else {
                    DialError::Unreachable { attempts: vec![attempt.clone()] }
                };
                if let Some(seed) = dialling.seed.filter(|_| !ourselves) {
                    self.retry_seed(seed);
                }
                let pause = dialling.seed.and_then(|seed| self.timers.pause(&Due::Seed(seed)));
                attempt.follow_up = Some(match pause {
                    Some(after) => FollowUp::Retry { after },
                    None if asked => FollowUp::Told,
                    None => FollowUp::Unneeded,
                });
                self.tell_of(attempt);
                answer(dialling.waiters, &Err(error));
            }
        }
    }

    fn retry_seed(&mut self, index: usize) {
        if let Some(seed) = self.seeds.get_mut(index) {
            let again_s = seed.backoff.as_secs();
            tracing::info!(addr = %seed.addr, again_s, "a seed is not reached; trying again later");
            self.timers.after(seed.backoff, Due::Seed(index));
            seed.backoff = (2 * seed.backoff).min(SEED_BACKOFF_MAX);
        }
    }

    // ---- discovery

    fn on_news(&mut self, news: News) {
        match news {
            News::Sighting(Sighting { node, addrs, via }) => self.on_sighting(peer_of(node), addrs, via),
            News::Degraded { via, cause } => {
                tracing::warn!(%via, cause, "a way to find neighbours does not work as it should");
                self.events.send(MeshEvent::DiscoveryUnavailable { via, cause });
            }
        }
    }

    /// Somebody nearby, or whoever speaks in its name, has said where a node is.
    fn on_sighting(&mut self, peer: PeerId, addrs: Vec<Multiaddr>, via: Via) {
        if peer == self.local || self.is_avoided(&peer) {
            return;
        }
        let now = Instant::now();
        let known = self.peers.contains_key(&peer) || self.plans.contains_key(&peer);
        if known || self.sightings.spend(via, now) {
            self.book.hint(peer, addrs.iter().cloned());
            return self.on_discovered(peer, addrs, via);
        }
        if self.crowded_at.is_none_or(|at| now.duration_since(at) > CROWDED_PAUSE) {
            self.crowded_at = Some(now);
            let cause =
                "so many nodes are announced that most of them cannot be real; some are not looked at";
            tracing::warn!(%via, cause, "a way to find neighbours does not work as it should");
            self.events.send(MeshEvent::DiscoveryUnavailable { via, cause: cause.to_owned() });
        }
    }

    fn on_discovered(&mut self, peer: PeerId, addrs: Vec<Multiaddr>, via: Via) {
        let Some(node) = node_of(&peer) else { return };
        if peer == self.local || self.is_avoided(&peer) {
            return;
        }
        if self.peers.contains_key(&peer) || self.plans.contains_key(&peer) {
            return;
        }
        tracing::debug!(node_id = %node, %via, count = addrs.len(), "discovered");
        self.events.send(MeshEvent::Discovered { node, addrs, via });
        if via == Via::Mdns && self.kept.len() < KEPT_MAX {
            self.kept.entry(peer).or_insert(Kept { backoff: BACKOFF_FIRST, tries_left: Some(MDNS_TRIES) });
        }
        let delay = dial_delay(self.node, node);
        if delay.is_zero() {
            self.seek(peer, None);
        } else if !self.timers.contains(&Due::Dial(peer)) {
            self.timers.after(delay, Due::Dial(peer));
        }
    }

    fn on_due(&mut self, due: Due) {
        match due {
            Due::Dial(peer) | Due::Retry(peer) => {
                self.book_seeds_of(&peer);
                if !self.peers.contains_key(&peer) && !self.is_avoided(&peer) {
                    self.seek(peer, None);
                }
            }
            Due::Stagger(peer) => {
                if !self.is_reached(&peer) && self.plans.contains_key(&peer) {
                    self.dial_next(peer);
                }
            }
            Due::Identify(peer, id) => {
                let waiting = |state: &Peer| !state.admitted && state.links.iter().any(|link| link.id == id);
                if let Some(state) = self.peers.get_mut(&peer).filter(|state| waiting(state)) {
                    state.farewell = Some("did not identify itself in time".to_owned());
                    self.swarm.close_connection(id);
                }
            }
            Due::Seed(index) => self.dial_seed(index),
            Due::Reach => self.reach_turn(),
            Due::Announce | Due::Renew => self.announce(),
            Due::Mingle => self.mingle(),
            Due::Spread => self.spread(),
            Due::Ask => self.ask_around(),
            Due::Improve(peer) => self.improve(peer),
            Due::ImproveNext(peer) => self.improve_next(peer),
            Due::Network => self.on_network(),
            Due::Retire(peer, id) => self.retire(peer, id),
            Due::Leave => self.leave_strangers(),
        }
    }

    // ---- the swarm

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                let cause = cause.map(|cause| root_cause(&cause));
                self.on_closed(peer_id, connection_id, num_established == 0, cause);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(addr = %send_back_addr, cause = root_cause(&error), "inbound connection failed");
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                if self.on_circuit_listening(listener_id, &address) {
                    return;
                }
                self.on_listeners_changed(false);
                self.listeners.insert(listener_id, true);
                tracing::debug!(addr = %address, "listening");
                if self.settled && !is_loopback(&address) && !is_scoped(&address) {
                    self.network_soon();
                }
                self.events.send(MeshEvent::Listening { addr: with_node(address.clone(), self.local) });
                self.on_public_address(&address);
                self.announce_ports();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                if is_circuit(&address) {
                    return;
                }
                // An address of this machine is gone: what others saw was seen on another network.
                self.on_listeners_changed(true);
                tracing::info!(addr = %address, "no longer listening");
                self.on_address_lost(&address);
                self.announce_ports();
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                let cause = reason.as_ref().err().map(|error| root_cause(error));
                if self.on_circuit_closed(listener_id, cause.as_deref()) {
                    return;
                }
                self.listeners.remove(&listener_id);
                if let (Some(addr), Err(error)) = (addresses.first(), &reason) {
                    let cause = root_cause(error);
                    tracing::warn!(addr = %addr, cause, "listener closed");
                    self.events.send(MeshEvent::ListenFailed { wanted: addr.clone(), cause, instead: None });
                }
                self.announce_ports();
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::debug!(cause = root_cause(&error), "listener met an error");
            }
            SwarmEvent::ExternalAddrConfirmed { address } => self.on_external(address, true),
            SwarmEvent::ExternalAddrExpired { address } => self.on_external(address, false),
            // Dials are reported when they end.
            _ => {}
        }
    }

    fn on_established(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let (addr, local, direction) = match endpoint {
            ConnectedPoint::Dialer { address, .. } => {
                (split_node(address).0, Multiaddr::empty(), Direction::Outbound)
            }
            // A circuit tells the relay's address as our end, and of the peer's only its name.
            ConnectedPoint::Listener { local_addr, .. } if is_circuit(local_addr) => {
                (local_addr.clone(), local_addr.clone(), Direction::Inbound)
            }
            ConnectedPoint::Listener { send_back_addr, local_addr } => {
                (split_node(send_back_addr).0, local_addr.clone(), Direction::Inbound)
            }
        };
        let reused = matches!(endpoint, ConnectedPoint::Dialer { port_use: PortUse::Reuse, .. });
        let circuit = is_circuit(&addr);
        if direction == Direction::Inbound && !circuit {
            self.on_inbound(&peer, &addr, &local);
        }
        let dialling = self.dialling.remove(&id);
        let (mut inspected, mut fallback) = (None, None);
        if direction == Direction::Outbound {
            let mut attempt = conclude(addr.clone(), DialOutcome::Success, None);
            inspected = self.ways.inspected.at(&addr);
            attempt.interception = inspected.clone().map(|issuer| Interception::Allowed { issuer });
            fallback = self.fallback_reason(peer, attempt.transport);
            self.note_attempt(peer, &attempt);
            self.tell_of(attempt);
        }
        // Of our own plan only: the library's own dials punch holes, or answer who asked us to dial back.
        let duplicate = dialling.is_some()
            && self.peers.get(&peer).is_some_and(|state| {
                let as_good =
                    |link: &Link| !link.life.is_doubted() && (circuit || link.transport != Transport::Relay);
                state.links.iter().any(|link| link.direction == Direction::Outbound && as_good(link))
            });
        let replaces_circuit = !circuit
            && self
                .peers
                .get(&peer)
                .is_some_and(|state| state.links.iter().any(|link| link.transport == Transport::Relay));
        let known = self.peers.contains_key(&peer);
        let plan = self.plans.entry(peer).or_default();
        plan.in_flight.remove(&id);
        plan.settle();
        let mut wanted = direction == Direction::Inbound || replaces_circuit;
        if let Some(dialling) = dialling {
            wanted = !plan.passing;
            plan.waiters.extend(dialling.waiters);
            if let Some(seed) = dialling.seed.and_then(|index| self.seeds.get_mut(index)) {
                seed.peer = Some(peer);
                self.book.add(peer, [addr.clone()]);
            }
        }
        let Some(node) = node_of(&peer) else {
            let error = DialError::ForeignKey { addr };
            if let Some(plan) = self.plans.remove(&peer) {
                answer(plan.waiters, &Err(error));
            }
            self.swarm.close_connection(id);
            self.on_relay_failed(peer);
            return;
        };
        if duplicate {
            // Two addresses of our own plan answered. The peer sees both, so only we may choose.
            self.swarm.close_connection(id);
        } else if !wanted {
            self.swarm.behaviour_mut().streams.release(peer, id);
        }
        let transport = transport_of(&addr).unwrap_or(Transport::Tcp);
        let source = vitality::source(&addr, &local);
        let life = self.registry.life(&peer, id);
        let state = self.peers.entry(peer).or_insert_with(|| Peer {
            links: Vec::new(),
            admitted: false,
            agent_version: String::new(),
            rtt: None,
            since: SystemTime::now(),
            relays: false,
            farewell: None,
        });
        state.links.push(Link {
            id,
            addr,
            local,
            source,
            life,
            reused,
            round_trip_at: None,
            transport,
            direction,
            inspected,
            fallback,
        });
        if !duplicate {
            self.compare_links(&peer, id);
        }
        if replaces_circuit && !duplicate {
            self.leave_circuits(peer);
        }
        if !circuit && !duplicate {
            self.on_relay_there(peer);
        }
        let Some(state) = self.peers.get(&peer) else { return };
        if !known {
            self.timers.after(self.config.limits.identify_timeout, Due::Identify(peer, id));
        } else if state.admitted
            && let Some(plan) = self.plans.remove(&peer)
        {
            answer(plan.waiters, &Ok(node));
        }
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId, last: bool, cause: Option<String>) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.links.retain(|link| link.id != id);
        if !last {
            return;
        }
        let Some(state) = self.peers.remove(&peer) else { return };
        self.granted.leave(&peer);
        let Some(node) = node_of(&peer) else { return };
        let cause = state.farewell.or(cause).unwrap_or_else(|| "closed".to_owned());
        if state.admitted {
            tracing::info!(node_id = %node, cause, "disconnected");
            self.events.send(MeshEvent::Disconnected { node, cause: cause.clone() });
        }
        if let Some(plan) = self.plans.remove(&peer) {
            answer(plan.waiters, &Err(DialError::Unidentified { node, cause }));
        }
        self.retry_later(peer);
        self.on_relay_failed(peer);
        self.mingle_soon();
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, connection_id, info }) => {
                self.on_identified(peer_id, connection_id, info);
            }
            BehaviourEvent::Identify(identify::Event::Error { peer_id, error, .. }) => {
                tracing::debug!(%peer_id, cause = root_cause(&error), "identify failed");
            }
            BehaviourEvent::Identify(_) => {}
            BehaviourEvent::Pulse(event) => self.on_pulse(event),
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result: kad::QueryResult::GetClosestPeers(result),
                step,
                ..
            }) => {
                if step.last {
                    self.on_search_ended(id, result);
                }
            }
            BehaviourEvent::Kad(_) => {}
            BehaviourEvent::Gossip(Told::Gossip(event)) => self.on_gossip(event),
            BehaviourEvent::Gossip(Told::Flood(peer)) => {
                if let Some(node) = node_of(&peer) {
                    self.on_fault(node, "gossip", "it sends more than anybody may");
                }
            }
            BehaviourEvent::Circuits(event) => self.on_circuits(event),
            BehaviourEvent::Relay(event) => self.on_relay(event),
            BehaviourEvent::Reachable(event) => self.on_dialled_back(event),
            BehaviourEvent::DialBack(event) => {
                tracing::debug!(client = %event.client, addr = %event.tested_addr, "dialled back for a peer");
            }
            BehaviourEvent::Punch(event) => self.on_punched(event),
            BehaviourEvent::Streams(Refused { peer, protocol, reason }) => {
                let Some(node) = node_of(&peer) else { return };
                tracing::debug!(node_id = %node, %protocol, ?reason, "stream refused");
                self.events.send(MeshEvent::StreamRefused { node, protocol: protocol.to_string(), reason });
            }
        }
    }

    fn on_identified(&mut self, peer: PeerId, id: ConnectionId, info: identify::Info) {
        let Some(node) = node_of(&peer) else { return };
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let (agent_version, network) = parse_agent(&info.agent_version);
        if info.protocol_version != PROTOCOL_VERSION || network != Some(self.config.network.as_str()) {
            let network = network.map(str::to_owned);
            tracing::info!(node_id = %node, ?network, "turned away a node that is not of our network");
            state.admitted = false;
            self.avoid(peer);
            self.part(peer, "not of our network");
            self.events.send(MeshEvent::WrongNetwork { node, network: network.clone() });
            if let Some(plan) = self.plans.remove(&peer) {
                answer(plan.waiters, &Err(DialError::WrongNetwork { node, network }));
            }
            return;
        }
        state.agent_version = agent_version.chars().take(AGENT_CHARS_MAX).collect();
        let Some(link) = state.links.iter().find(|link| link.id == id) else { return };
        let local_link = is_loopback(&link.addr);
        // Addresses on the peer's own loopback help only those on the same machine.
        let local = self.local;
        let usable = |addr: &Multiaddr| {
            transport_of(addr).is_some()
                && (local_link || !is_loopback(addr))
                && is_dialable(addr, &local)
                && !is_scoped(addr)
        };
        let observed = info.observed_addr.clone();
        state.relays = info.protocols.contains(&relay::HOP_PROTOCOL_NAME);
        let relays = state.relays;
        let circuit = link.transport == Transport::Relay;
        // Whoever is met through a relay stands for the region of the relay: a crowd behind one is still a crowd.
        let region = region_of(&link.addr);
        let listen_addrs: Vec<Multiaddr> = info
            .listen_addrs
            .iter()
            .map(|addr| split_node(addr).0)
            .filter(usable)
            .take(book::ADDRS_MAX)
            .collect();
        let newly = !state.admitted;
        state.admitted = true;
        let connected = newly.then(|| MeshEvent::Connected {
            node,
            addr: link.addr.clone(),
            transport: link.transport,
            direction: link.direction,
        });
        if info.protocols.iter().any(|protocol| protocol.as_ref() == KADEMLIA_PROTOCOL) {
            self.on_server(Server { peer, region, addrs: listen_addrs.clone() });
        }
        self.book.add(peer, listen_addrs);
        self.swarm.behaviour_mut().streams.admit(peer);
        if let Some(kept) = self.kept.get_mut(&peer) {
            kept.backoff = BACKOFF_FIRST;
            kept.tries_left = kept.tries_left.map(|_| MDNS_TRIES);
        }
        for seed in self.seeds.iter_mut().filter(|seed| seed.peer == Some(peer)) {
            seed.backoff = BACKOFF_FIRST;
        }
        if let Some(event) = connected {
            tracing::info!(node_id = %node, "connected");
            self.events.send(event);
        }
        if let Some(plan) = self.plans.remove(&peer) {
            answer(plan.waiters, &Ok(node));
        }
        self.on_observed(peer, id, &observed);
        if newly {
            self.judge.met(&node);
            self.greet(node);
            self.mingle_soon();
            self.leave_later();
        }
        if circuit {
            self.improve_soon(peer);
        }
        if relays {
            self.reach_soon();
        }
    }

    fn on_search_ended(&mut self, id: kad::QueryId, result: kad::GetClosestPeersResult) {
        let Some(target) = self.searches.remove(&id) else { return };
        let found = match result {
            Ok(found) => found.peers,
            Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
        };
        if let Some(plan) = self.plans.get_mut(&target) {
            plan.searching = false;
        }
        for peer in found.into_iter().filter(|peer| peer.peer_id == target) {
            let addrs: Vec<Multiaddr> = peer.addrs.into_iter().map(|addr| split_node(&addr).0).collect();
            if let Some(node) = node_of(&target) {
                self.events.send(MeshEvent::Discovered { node, addrs: addrs.clone(), via: Via::Kademlia });
            }
            self.book.hint(target, addrs.iter().cloned());
            if let Some(plan) = self.plans.get_mut(&target) {
                plan.extend(addrs);
            }
        }
        if self.plans.contains_key(&target) && !self.peers.contains_key(&target) {
            self.dial_next(target);
        }
    }
}

impl Host {
    fn peer_info(&self, peer: &PeerId) -> Option<PeerInfo> {
        let mut info = self.peers.get(peer)?.info(peer, self.presence_of(peer))?;
        if let Some(relay) = relay_of(&info.addr).filter(|_| info.transport == Transport::Relay) {
            info.inspected =
                self.peers.get(&relay).and_then(|state| state.info(&relay, PresenceState::Here)?.inspected);
        }
        Some(info)
    }
}

impl Peer {
    fn info(&self, peer: &PeerId, presence: PresenceState) -> Option<PeerInfo> {
        // Streams leave a circuit as soon as there is a straight path; it only stays for those that began there.
        let used = self
            .links
            .iter()
            .filter(|_| self.admitted)
            .min_by_key(|link| link.transport == Transport::Relay)?;
        Some(PeerInfo {
            node: node_of(peer)?,
            addr: used.addr.clone(),
            transport: used.transport,
            direction: used.direction,
            lan: used.transport != Transport::Relay && is_neighbour(&used.addr, used.source),
            rtt_micros: self.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            agent_version: self.agent_version.clone(),
            since: self.since,
            presence,
            inspected: used.inspected.clone(),
            fallback: used.fallback.clone(),
        })
    }
}

/// Returns the addresses that an error of a dial names.
fn dialled_addrs(error: &libp2p::swarm::DialError) -> Vec<Multiaddr> {
    match error {
        libp2p::swarm::DialError::Transport(errors) => errors.iter().map(|(addr, _)| addr.clone()).collect(),
        libp2p::swarm::DialError::WrongPeerId { address, .. }
        | libp2p::swarm::DialError::LocalPeerId { address } => vec![address.clone()],
        _ => Vec::new(),
    }
}

/// Tells whoever watches, if there is something new to tell.
fn replace<T: PartialEq>(watched: &watch::Sender<T>, value: T) {
    watched.send_if_modified(|known| {
        let changed = *known != value;
        *known = value;
        changed
    });
}

/// Returns whether `addr` is every IPv6 address of this machine.
fn is_any_v6(addr: &Multiaddr) -> bool {
    matches!(addr.iter().next(), Some(Protocol::Ip6(ip)) if ip.is_unspecified())
}

fn speaks_ipv6() -> bool {
    std::net::UdpSocket::bind((std::net::Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// Binds a port of this machine, of IPv6 without IPv4: the other family has listeners of its own.
fn guard(ip: std::net::IpAddr, port: u16, kind: Type) -> std::io::Result<Socket> {
    let addr = std::net::SocketAddr::new(ip, port);
    let socket = Socket::new(Domain::for_address(addr), kind, None)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // As the listeners do: what a connection that ended left behind does not hold the port.
    #[cfg(unix)]
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&addr.into())?;
    if kind == Type::STREAM {
        socket.listen(1)?;
    }
    Ok(socket)
}

/// Returns `addr` with a port that the system picks.
fn with_port_zero(addr: &Multiaddr) -> Option<Multiaddr> {
    let mut changed = false;
    let other = addr
        .iter()
        .map(|part| match part {
            Protocol::Tcp(_) => {
                changed = true;
                Protocol::Tcp(0)
            }
            Protocol::Udp(_) => {
                changed = true;
                Protocol::Udp(0)
            }
            part => part,
        })
        .collect();
    changed.then_some(other)
}

/// Sleeps until `due`, for ever if nothing is due.
async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
