//! Somebody who floods a node with messages that mean nothing, as fast as it is told to (NET-33).
//!
//! Each [`Kind`] is aimed at one listener or one protocol. What is sent is made from a counter: half of it begins as it
//! should, so that it is read further than the first byte.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tokio_rustls::TlsConnector;
use wc_mesh::{LanDiscovery, Mesh, MeshConfig, MeshEvents, MeshLimits, MeshStream, Multiaddr};
use wc_proto::api::view::Phase;
use wc_proto::api::{CellRequest, Request, Response};
use wc_proto::frame;
use wc_proto::limit::EXCHANGE_BYTES_MAX;
use wc_proto::peer::announce::{Announcement, Exchange};
use wc_proto::peer::beacon::{Beacon, Port};
use wc_proto::version;
use wc_types::cid::sha256;
use wc_types::{Millis, NodeId, Signed, SigningKey};

use crate::federation::{Federation, Node, guest, now};

/// Attackers that send at the same time.
const ATTACKERS: u32 = 16;
/// Messages are sent in bursts, so many a second.
const BURSTS_PER_SECOND: u32 = 100;
/// Longest that an attacker waits for a victim that does not listen.
const PATIENCE: Duration = Duration::from_secs(2);
/// Where beacons are heard.
const BEACONS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 77, 67), 19_998);
/// Streams that one attacker leaves open in the middle of a message.
const HELD_MAX: usize = 32;
/// Every protocol that a node accepts streams of, ours and the library's.
const PROTOCOLS: [&str; 14] = [
    version::SESSION,
    version::CONTROL,
    version::DISPATCH,
    version::HELLO,
    version::PEERS,
    version::BLOB,
    version::SIGNERS,
    "/worldcompute/kad/1.0.0",
    "/ipfs/id/push/1.0.0",
    "/ipfs/ping/1.0.0",
    "/libp2p/circuit/relay/0.2.0/stop",
    "/libp2p/dcutr",
    "/libp2p/autonat/2/dial-back",
    "/nobody/speaks/this/1.0.0",
];

/// What is flooded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The QUIC port, with datagrams.
    Quic,
    /// The TCP port, with connections that carry no handshake.
    Tcp,
    /// The port of the WebSocket listener, with connections that carry no TLS.
    Tls,
    /// The same, with TLS and heads that are no HTTP, or WebSockets that carry no handshake.
    Web,
    /// Every stream protocol, by peers of the network, with frames that do not decode.
    Streams,
    /// The exchange of peers, by peers of the network, with forged announcements and with nodes that are not there.
    Announcements,
    /// The loopback beacon, with noise, and with nodes that are not there.
    Beacons,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Quic, Self::Tcp, Self::Tls, Self::Web, Self::Streams, Self::Announcements, Self::Beacons];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "QUIC port",
            Self::Tcp => "TCP port",
            Self::Tls => "WebSocket port, no TLS",
            Self::Web => "WebSocket port, inside TLS",
            Self::Streams => "stream protocols, as a peer",
            Self::Announcements => "announcements, as a peer",
            Self::Beacons => "loopback beacons",
        })
    }
}

/// Who is flooded.
#[derive(Clone, Debug)]
pub struct Victim {
    /// Its QUIC port.
    pub quic: SocketAddr,
    /// Its TCP port.
    pub tcp: SocketAddr,
    /// Its WebSocket port.
    pub web: SocketAddr,
    /// Its network.
    pub network: String,
}

impl Victim {
    /// Finds the ports among the addresses that a node says it listens on.
    pub fn at(addresses: &[String], network: &str) -> Option<Self> {
        let port = |carrier: &str, ends: &dyn Fn(&[&str]) -> bool| {
            addresses.iter().find_map(|address| {
                let words: Vec<&str> = address.split('/').collect();
                let local = words.get(2) == Some(&"127.0.0.1") && words.get(3) == Some(&carrier);
                let port = words.get(4)?.parse().ok()?;
                (local && ends(&words[5..])).then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            })
        };
        Some(Self {
            quic: port("udp", &|rest| rest.first() == Some(&"quic-v1"))?,
            tcp: port("tcp", &|rest| rest.first() == Some(&"p2p"))?,
            web: port("tcp", &|rest| rest.first() == Some(&"tls"))?,
            network: network.to_owned(),
        })
    }
}

/// Floods until `time` is over, with at most `rate` messages a second, and returns how many were sent.
pub async fn flood(kind: Kind, victim: &Victim, rate: u32, time: Duration) -> u64 {
    // A second flood in the same process finds it installed, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let sent = Arc::new(AtomicU64::new(0));
    let mut attackers = JoinSet::new();
    let end = Instant::now() + time;
    let per_burst = (rate / ATTACKERS / BURSTS_PER_SECOND).max(1);
    for number in 0..ATTACKERS {
        let pace = Pace {
            end,
            due: Instant::now(),
            left: 0,
            per_burst,
            pause: Duration::from_secs(1) * per_burst * ATTACKERS / rate.max(1),
            sent: sent.clone(),
        };
        let (victim, noise) =
            (victim.clone(), Noise(u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        attackers.spawn(async move {
            let ended = match kind {
                Kind::Quic => datagrams(victim, noise, pace).await,
                Kind::Tcp => connections(victim.tcp, noise, pace, tcp_words).await,
                Kind::Tls => connections(victim.web, noise, pace, tls_words).await,
                Kind::Web => web(victim, noise, pace).await,
                Kind::Streams => streams(victim, noise, pace).await,
                Kind::Announcements => announcements(victim, noise, pace).await,
                Kind::Beacons => beacons(victim, noise, pace).await,
            };
            if let Err(error) = ended {
                println!("an attacker of the {kind} ended: {error}");
            }
        });
    }
    while attackers.join_next().await.is_some() {}
    sent.load(Ordering::Relaxed)
}

/// How fast, and until when.
struct Pace {
    end: Instant,
    due: Instant,
    left: u32,
    per_burst: u32,
    pause: Duration,
    sent: Arc<AtomicU64>,
}

impl Pace {
    /// Returns when the next message may go, and whether the time is not over.
    async fn next(&mut self) -> bool {
        if self.left == 0 {
            sleep_until(self.due.into()).await;
            self.left = self.per_burst;
            // Whoever is late does not catch up: the rate is a maximum.
            self.due = (self.due + self.pause).max(Instant::now());
        }
        self.left -= 1;
        Instant::now() < self.end
    }

    /// Counts a message, if it was sent.
    fn count(&self, sent: bool) {
        self.sent.fetch_add(u64::from(sent), Ordering::Relaxed);
    }
}

/// Bytes that repeat with the seed (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        std::iter::from_fn(|| Some(self.next() as u8)).take(count).collect()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

async fn datagrams(victim: Victim, mut noise: Noise, mut pace: Pace) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(victim.quic).await?;
    while pace.next().await {
        let bytes = match noise.below(4) {
            0 => {
                let length = 1 + noise.below(1400);
                noise.bytes(length)
            }
            // The first packet of a connection, as it should be but for what is sealed in it.
            1 => {
                let mut bytes = vec![0xc3, 0, 0, 0, 1, 8];
                bytes.extend(noise.bytes(8));
                bytes.push(8);
                bytes.extend(noise.bytes(8));
                bytes.extend([0, 0x44, 0x90]);
                bytes.extend(noise.bytes(0x490));
                bytes
            }
            // Of a version that nobody has.
            2 => {
                let mut bytes = vec![0xc0, 0xba, 0xba, 0xba, 0xba, 20];
                bytes.extend(noise.bytes(1194));
                bytes
            }
            // Of a connection that nobody has.
            _ => {
                let mut bytes = noise.bytes(60);
                bytes[0] = 0x40 | bytes[0] & 0x3f;
                bytes
            }
        };
        pace.count(socket.send(&bytes).await.is_ok());
    }
    Ok(())
}

async fn connections(
    at: SocketAddr,
    mut noise: Noise,
    mut pace: Pace,
    words: fn(&mut Noise) -> Vec<u8>,
) -> io::Result<()> {
    let mut held = VecDeque::new();
    while pace.next().await {
        let bytes = words(&mut noise);
        let Ok(Ok(mut socket)) = timeout(PATIENCE, TcpStream::connect(at)).await else { continue };
        // Closed by a reset, or this machine would run out of ports.
        let _ = socket.set_zero_linger();
        let sent = socket.write_all(&bytes).await.is_ok();
        // Some stay, and say nothing more.
        if noise.below(16) == 0 {
            held.push_back(socket);
            if held.len() > HELD_MAX {
                held.pop_front();
            }
        }
        pace.count(sent);
    }
    Ok(())
}

fn tcp_words(noise: &mut Noise) -> Vec<u8> {
    let length = 1 + noise.below(600);
    let tail = noise.bytes(length);
    let begin: &[u8] = match noise.below(5) {
        0 => b"",
        1 => b"\x13/multistream/1.3.0\n",
        2 => b"\x13/multistream/1.3.0\n\x07/noise\n",
        3 => b"\x13/multistream/1.3.0\n\x0b/tls/1.0.0\n\x16\x03\x01\x02\x00\x01",
        _ => b"\xff\xff\xff\xff\x7f",
    };
    [begin, &tail].concat()
}

fn tls_words(noise: &mut Noise) -> Vec<u8> {
    let length = 1 + noise.below(600);
    let tail = noise.bytes(length);
    let begin: &[u8] = match noise.below(4) {
        0 => b"",
        1 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        2 => b"\x16\x03\x03\xff\xff",
        _ => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    };
    [begin, &tail].concat()
}

/// Believes every certificate: an attacker does not mind, and a test looks by itself.
#[derive(Debug)]
pub struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
    }
}

async fn web(victim: Victim, mut noise: Noise, mut pace: Pace) -> io::Result<()> {
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("flood.example").map_err(io::Error::other)?;
    while pace.next().await {
        let bytes = web_words(&mut noise);
        let sending = async {
            let socket = TcpStream::connect(victim.web).await?;
            socket.set_zero_linger()?;
            let mut stream = connector.connect(name.clone(), socket).await?;
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            // An answer, or the end: whichever comes first.
            let mut answer = [0; 256];
            let _ = timeout(Duration::from_millis(50), stream.read(&mut answer)).await;
            io::Result::Ok(())
        };
        pace.count(matches!(timeout(PATIENCE, sending).await, Ok(Ok(()))));
    }
    Ok(())
}

fn web_words(noise: &mut Noise) -> Vec<u8> {
    const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let length = 1 + noise.below(600);
    let tail = noise.bytes(length);
    match noise.below(5) {
        0 => tail,
        1 => [b"GET / HTTP/1.1\r\n", "A: b\r\n".repeat(3000).as_bytes()].concat(),
        2 => b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n".to_vec(),
        3 => [UPGRADE, &tail].concat(),
        // A frame of eight exbibytes, and pings.
        _ => [UPGRADE, b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x01\x02\x03\x04", &tail].concat(),
    }
}

/// Joins the victim's network as a node does.
async fn join(victim: &Victim, seed: [u8; 32]) -> io::Result<(Mesh, MeshEvents, NodeId)> {
    let config = MeshConfig {
        listen: Vec::new(),
        lan: LanDiscovery { mdns: false, loopback: false },
        limits: MeshLimits { idle_timeout: Duration::from_secs(600), ..MeshLimits::default() },
        ..MeshConfig::new(seed, victim.network.as_str())
    };
    let (mesh, events) = Mesh::start(config).await.map_err(io::Error::other)?;
    let address: Multiaddr =
        format!("/ip4/127.0.0.1/tcp/{}", victim.tcp.port()).parse().map_err(io::Error::other)?;
    let node = mesh.dial(address).await.map_err(io::Error::other)?;
    Ok((mesh, events, node))
}

/// Goes on with a stream to the victim, or as somebody else when it is no longer welcome.
struct Intruder {
    victim: Victim,
    noise: Noise,
    mesh: Option<(Mesh, MeshEvents, NodeId)>,
}

impl Intruder {
    async fn open(&mut self, protocol: &str) -> Option<MeshStream> {
        if self.mesh.is_none() {
            let seed = self.noise.array();
            self.mesh = timeout(PATIENCE, join(&self.victim, seed)).await.ok().and_then(Result::ok);
        }
        let (mesh, _, node) = self.mesh.as_ref()?;
        match timeout(PATIENCE, mesh.open(*node, protocol)).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(wc_mesh::OpenError::UnsupportedProtocol { .. })) => None,
            Ok(Err(_)) | Err(_) => {
                // Turned away: another name is made in no time.
                if let Some((mesh, ..)) = self.mesh.take() {
                    mesh.stop().await;
                }
                None
            }
        }
    }
}

async fn streams(victim: Victim, noise: Noise, mut pace: Pace) -> io::Result<()> {
    let mut intruder = Intruder { victim, noise, mesh: None };
    let mut held = VecDeque::new();
    while pace.next().await {
        let protocol = PROTOCOLS[intruder.noise.below(PROTOCOLS.len())];
        let Some(mut stream) = intruder.open(protocol).await else { continue };
        let noise = &mut intruder.noise;
        let length = 1 + noise.below(2000);
        let tail = noise.bytes(length);
        let framed = |length: u32| [&length.to_be_bytes()[..], &tail].concat();
        let bytes = match noise.below(5) {
            0 => tail,
            1 => framed(u32::try_from(tail.len()).unwrap_or(0)),
            2 => framed(u32::MAX),
            // More than comes.
            3 => framed(100_000),
            _ => [&1000_u32.to_be_bytes()[..], &[0x81; 1000]].concat(),
        };
        let sending = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        let sent = matches!(timeout(PATIENCE, sending).await, Ok(Ok(())));
        if noise.below(8) == 0 {
            held.push_back(stream);
            if held.len() > HELD_MAX {
                held.pop_front();
            }
        }
        pace.count(sent);
    }
    Ok(())
}

async fn announcements(victim: Victim, noise: Noise, mut pace: Pace) -> io::Result<()> {
    let network = victim.network.clone();
    let mut intruder = Intruder { victim, noise, mesh: None };
    while pace.next().await {
        let Some(mut stream) = intruder.open(version::PEERS).await else { continue };
        let noise = &mut intruder.noise;
        let forged = noise.below(2) == 0;
        let announcements = (0..4).map(|_| {
            let (key, other) = (SigningKey::from_seed(&noise.array()), SigningKey::from_seed(&[1; 32]));
            let port = 1 + noise.below(65_000);
            let announcement = Announcement {
                network: network.clone(),
                node: key.node_id(),
                addresses: vec![format!("/ip4/127.{}.1.1/tcp/{port}", noise.below(250))],
                relay: None,
                at: now(),
                until: now().plus(Millis(3_600_000)),
            };
            Signed::seal(announcement, if forged { &other } else { &key })
        });
        let exchange = Exchange { announcements: announcements.collect(), asks: noise.below(2) == 0 };
        let Ok(bytes) = frame::encode(&exchange, EXCHANGE_BYTES_MAX) else { continue };
        let sending = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        pace.count(matches!(timeout(PATIENCE, sending).await, Ok(Ok(()))));
    }
    Ok(())
}

async fn beacons(victim: Victim, mut noise: Noise, mut pace: Pace) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.set_multicast_ttl_v4(0)?;
    let digest = sha256(victim.network.as_bytes());
    let network = std::array::from_fn(|at| digest[at]);
    while pace.next().await {
        let bytes = match noise.below(4) {
            0 => {
                let length = 1 + noise.below(120);
                noise.bytes(length)
            }
            1 => [b"WCB1", &noise.bytes(90)[..]].concat(),
            // A node of the network that is not there, or one that is there under another name.
            kind => {
                let port = if kind == 2 { victim.tcp.port() } else { 1 + noise.next() as u16 % 1000 };
                let node = SigningKey::from_seed(&noise.array()).node_id();
                Beacon { network, boot: noise.next(), node, ports: vec![Port::Tcp(port)] }.encode()
            }
        };
        pace.count(socket.send_to(&bytes, BEACONS).await.is_ok());
    }
    Ok(())
}

/// A coordinator and a donor that listen on everything, and work while they are flooded.
pub struct Siege {
    /// The two nodes.
    pub federation: Federation,
    victims: Vec<Victim>,
}

/// What came of one flood.
#[derive(Debug)]
pub struct Survived {
    /// Messages that were sent to each victim.
    pub sent: u64,
    /// Jobs that were submitted, run and verified meanwhile.
    pub jobs: u64,
    /// Longest that one of them took.
    pub slowest: Duration,
    /// Memory of the coordinator and of the donor before it, in KiB.
    pub before_kib: [u64; 2],
    /// The most that was seen of it.
    pub peak_kib: [u64; 2],
    /// Processor time of both together, while it lasted.
    pub busy: Duration,
}

/// Returns whether a process has nothing to do soon after it was left alone: nobody's last word keeps it busy.
async fn calms_down(process: u32) -> bool {
    const WINDOW: Duration = Duration::from_millis(500);
    let mut before = busy_ticks(process);
    for _ in 0..8 {
        tokio::time::sleep(WINDOW).await;
        let now = busy_ticks(process);
        // A tick is 10 ms: a fifth of one core.
        if now.saturating_sub(before) < 10 {
            return true;
        }
        before = now;
    }
    false
}

/// Returns the processor time of a process so far, in ticks of the kernel.
fn busy_ticks(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name of the program stands in brackets, and may hold anything.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

impl Siege {
    /// Starts the two.
    ///
    /// # Panics
    /// When they do not listen where they should.
    pub async fn start(binary: PathBuf) -> Self {
        let mut federation = Federation::empty(binary);
        let open = ["--wss-listen", "127.0.0.1:0", "--accept-direct", "--log", "warn"];
        federation.add(&[&["--coordinate", "always", "--trusted", "--slots", "0"], &open[..]].concat());
        federation.add(&[&["--coordinate", "never", "--consent", "all", "--slots", "2"], &open[..]].concat());
        federation.joined(1).await;
        let mut victims = Vec::new();
        for node in &federation.nodes {
            let Response::Donor(view) =
                node.client().await.ask(Request::DonorStatus).await.expect("the node answers")
            else {
                panic!("a node says how it does")
            };
            let victim = Victim::at(&view.addresses, federation.network());
            victims.push(victim.unwrap_or_else(|| panic!("it listens on everything: {:?}", view.addresses)));
        }
        Self { federation, victims }
    }

    /// Floods both nodes with `rate` messages a second each while jobs run.
    ///
    /// # Panics
    /// When a node ends, leaves the cell, or a job fails.
    pub async fn endure(&self, kind: Kind, rate: u32, time: Duration) -> Survived {
        let before_kib = self.resident_kib();
        let pids: Vec<u32> = self.federation.nodes.iter().map(Node::process).collect();
        let mut survived = Survived {
            sent: 0,
            jobs: 0,
            slowest: Duration::ZERO,
            before_kib,
            peak_kib: before_kib,
            busy: Duration::ZERO,
        };
        let ticks = || pids.iter().map(|process| busy_ticks(*process)).sum::<u64>();
        let ticks_before = ticks();
        let floods: JoinSet<u64> = self
            .victims
            .iter()
            .cloned()
            .map(|victim| async move { flood(kind, &victim, rate, time).await })
            .collect();
        let over = AtomicBool::new(false);
        let flooding = async {
            let sent = floods.join_all().await;
            over.store(true, Ordering::Relaxed);
            sent
        };
        let looking = async {
            let mut peak_kib = before_kib;
            while !over.load(Ordering::Relaxed) {
                for (peak, now) in peak_kib.iter_mut().zip(self.resident_kib()) {
                    *peak = now.max(*peak);
                }
                let nodes = self.federation.coordinator().cell(CellRequest::Nodes).await;
                let Response::Nodes(nodes) = nodes else { panic!("{kind}: the coordinator lists its nodes") };
                let donors: Vec<_> = nodes.iter().map(|node| node.state.as_str()).collect();
                assert_eq!(donors, ["online"], "{kind}: the donor dropped out\n{}", self.federation.logs());
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            peak_kib
        };
        let working = async {
            let (mut jobs, mut slowest) = (0, Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let job = self
                    .federation
                    .submit(&guest("hello"), |stage| {
                        stage.tasks = 4;
                        stage.replicas = 1;
                    })
                    .await;
                let view = self.federation.finished(job).await;
                assert_eq!(view.phase, Phase::Verified, "{kind}: {:?}", view.reason);
                jobs += 1;
                slowest = slowest.max(begun.elapsed());
            }
            (jobs, slowest)
        };
        let (sent, peak_kib, (jobs, slowest)) = tokio::join!(flooding, looking, working);
        survived.busy = Duration::from_millis(10 * ticks().saturating_sub(ticks_before));
        for (node, process) in self.federation.nodes.iter().zip(&pids) {
            assert!(
                calms_down(*process).await,
                "{kind}: {} is still busy\n{}",
                node.dir.display(),
                node.logged()
            );
        }
        survived.sent = sent.into_iter().min().unwrap_or(0);
        (survived.jobs, survived.slowest, survived.peak_kib) = (jobs, slowest, peak_kib);
        assert_eq!(pids, self.federation.nodes.iter().map(Node::process).collect::<Vec<_>>());
        survived
    }

    fn resident_kib(&self) -> [u64; 2] {
        std::array::from_fn(|at| {
            let process = self.federation.nodes[at].process();
            let path = format!("/proc/{process}/status");
            let status = std::fs::read_to_string(path)
                .unwrap_or_else(|_| panic!("node {at} is gone\n{}", self.federation.logs()));
            let line = status.lines().find(|line| line.starts_with("VmRSS:"));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            // A process that has ended and was not waited for has no memory any more.
            number.and_then(|kib| kib.parse().ok()).unwrap_or_else(|| {
                panic!("node {at} has ended\n{}", self.federation.logs());
            })
        })
    }
}
