//! What the mesh costs on loopback: round trips, raw streams and blobs between two processes, beside TCP with TLS.
//!
//! `cargo bench -p wc-mesh` or, for another size and one way only, `cargo bench -p wc-mesh -- 256 "tcp tls"` (in MiB).
//! `cargo bench -p wc-mesh -- idle` measures a node that has nothing to do, beside one neighbour.
//! Beside each rate stand the CPU seconds that both processes spent: the figure that a busy machine does not distort.

#[path = "../tests/support/memory.rs"]
mod memory;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use memory::Memory;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wc_mesh::blob::{FetchLimits, ServeLimits, fetch, serve};
use wc_mesh::{LanDiscovery, Mesh, MeshConfig, MeshEvents, Multiaddr, TcpSession, Transport};
use wc_types::NodeId;
use wc_types::cid::Cid;

const ECHO: &str = "/bench/echo/1.0.0";
const FLOOD: &str = "/bench/flood/1.0.0";
const CHUNK_BYTES: usize = 256 << 10;
const ROUNDS: usize = 5000;
const PIECE: usize = 64 << 10;

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Error> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().map_err(|_| "a provider is installed")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    match args.first().map(String::as_str) {
        Some("serve") => runtime.block_on(serve_all(args[1].parse()?)),
        Some("idle") => runtime.block_on(idle()),
        Some(mib) => runtime.block_on(measure(mib.parse()?, args.get(1).map_or("", String::as_str))),
        None => runtime.block_on(measure(1024, "")),
    }
}

fn config(id: u8, session: TcpSession) -> MeshConfig {
    MeshConfig {
        listen: vec![
            "/ip4/127.0.0.1/tcp/0".parse().expect("an address"),
            "/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("an address"),
        ],
        lan: LanDiscovery { mdns: false, loopback: false },
        tcp_session: session,
        ..MeshConfig::new([id; 32], "bench")
    }
}

// ---- the serving process

async fn serve_all(mib: usize) -> Result<(), Error> {
    let (mesh, _events) = Mesh::start(config(1, TcpSession::Noise)).await?;
    let blocks = Arc::new(Memory::default());
    let count = mib * (1 << 20) / CHUNK_BYTES;
    let root = blocks.add_dag((0..count as u64).map(|index| {
        let mut chunk = vec![index as u8; CHUNK_BYTES];
        chunk[..8].copy_from_slice(&index.to_be_bytes());
        chunk
    }));
    let _server = serve(&mesh, blocks, ServeLimits::default())?;
    let mut echoes = mesh.accept(ECHO)?;
    tokio::spawn(async move {
        while let Some((_, stream)) = echoes.recv().await {
            tokio::spawn(echo(stream));
        }
    });
    let mut floods = mesh.accept(FLOOD)?;
    tokio::spawn(async move {
        while let Some((_, stream)) = floods.recv().await {
            tokio::spawn(flood(stream));
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.key_pair.serialize_der()));
    let tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    println!("{root}");
    println!("{}", mesh.node_id());
    for addr in mesh.listen_addrs().await {
        println!("{addr}");
    }
    println!("tls {} {}", listener.local_addr()?, hex(certified.cert.der()));
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let stream = acceptor.accept(socket).await?;
            flood(stream).await
        });
    }
}

async fn echo(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) -> Result<(), Error> {
    let mut message = [0; 64];
    loop {
        stream.read_exact(&mut message).await?;
        stream.write_all(&message).await?;
        stream.flush().await?;
    }
}

/// Reads how many bytes are wanted, and sends that many.
async fn flood(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) -> Result<(), Error> {
    let mut left = stream.read_u64().await? as usize;
    let piece = vec![7; PIECE];
    while left > 0 {
        let next = left.min(PIECE);
        stream.write_all(&piece[..next]).await?;
        left -= next;
    }
    stream.flush().await?;
    stream.shutdown().await?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// ---- the measuring process

struct Server {
    child: Child,
    root: Cid,
    node: NodeId,
    addrs: Vec<Multiaddr>,
    tls_addr: String,
    tls_cert: Vec<u8>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(mib: usize) -> Result<Self, Error> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", &mib.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let mut line = || lines.next().ok_or("the server said too little")?.map_err(Error::from);
        let (root, node) = (line()?.parse()?, line()?.parse()?);
        let mut addrs = Vec::new();
        loop {
            let text = line()?;
            let Some(rest) = text.strip_prefix("tls ") else {
                addrs.push(text.parse()?);
                continue;
            };
            let (addr, cert) = rest.split_once(' ').ok_or("no certificate")?;
            let tls_cert = (0..cert.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&cert[at..at + 2], 16))
                .collect::<Result<_, _>>()?;
            return Ok(Self { child, root, node, addrs, tls_addr: addr.to_owned(), tls_cert });
        }
    }

    async fn connect(&self, id: u8, way: Way) -> Result<(Mesh, MeshEvents), Error> {
        let (mesh, events) = Mesh::start(config(id, way.session)).await?;
        let addr = self.addrs.iter().find(|addr| wc_mesh::address::transport_of(addr) == Some(way.transport));
        mesh.dial(addr.ok_or("no such listener")?.clone()).await?;
        Ok((mesh, events))
    }
}

/// Prints what a node costs while it only listens, announces itself and keeps one connection.
async fn idle() -> Result<(), Error> {
    const SECONDS: u64 = 60;
    let discovers = |id| MeshConfig {
        lan: LanDiscovery { mdns: true, loopback: true },
        ..MeshConfig::new([id; 32], format!("idle-{}", std::process::id()))
    };
    let (one, _one_events) = Mesh::start(discovers(1)).await?;
    let (_two, _two_events) = Mesh::start(discovers(2)).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("two nodes in one process, connected: {}", one.peers().await.len() == 1);
    let before = Meter::total(0);
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let spent = Meter::total(0) - before;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let resident = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    println!(
        "{spent:.2} cpu s in {SECONDS} s: {:.3} % of a core; {resident}",
        100.0 * spent / SECONDS as f64
    );
    Ok(())
}

#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    transport: Transport,
    session: TcpSession,
}

const WAYS: [Way; 3] = [
    Way { name: "tcp noise", transport: Transport::Tcp, session: TcpSession::Noise },
    Way { name: "tcp tls", transport: Transport::Tcp, session: TcpSession::Tls },
    Way { name: "quic", transport: Transport::Quic, session: TcpSession::Noise },
];

async fn measure(mib: usize, only: &str) -> Result<(), Error> {
    let server = Server::start(mib)?;
    let bytes = mib << 20;
    println!("{mib} MiB between two processes on loopback, {} cores", std::thread::available_parallelism()?);
    let meter = Meter::start(&server);
    // The faster of two, so that the shares below are not flattered by a hiccup.
    let yardstick = tls_flood(&server, bytes).await?.min(tls_flood(&server, bytes).await?);
    println!("raw tcp + tls 1.3, better of two     {} {meter} for both", speed(bytes, yardstick));
    let mut id = 10;
    for way in WAYS.into_iter().filter(|way| way.name.contains(only)) {
        id += 1;
        let (mesh, _events) = server.connect(id, way).await?;
        let mut times = round_trips(&mesh, server.node).await?;
        times.sort();
        println!(
            "{:<10} round trip of 64 bytes        median {:>6.1} us   p99 {:>6.1} us",
            way.name,
            times[ROUNDS / 2].as_secs_f64() * 1e6,
            times[ROUNDS * 99 / 100].as_secs_f64() * 1e6
        );
        for streams in [1, 4] {
            let meter = Meter::start(&server);
            let took = mesh_flood(&mesh, server.node, bytes, streams).await?;
            println!("{:<10} stream bytes, {streams} streams       {} {meter}", way.name, speed(bytes, took));
        }
        // The raw stream throws its bytes away, so the first three do, too, once they are checked. The last one keeps them.
        for (streams, forgets_leaves) in [(1, true), (2, true), (4, true), (4, false)] {
            let blocks = Arc::new(Memory { forgets_leaves, ..Memory::default() });
            let limits = FetchLimits { streams_per_holder: streams, ..FetchLimits::default() };
            let meter = Meter::start(&server);
            let started = Instant::now();
            let stats = fetch(&mesh, server.root, &[server.node], blocks.clone(), limits).await?;
            let took = started.elapsed();
            let share = 100.0 * yardstick.as_secs_f64() / took.as_secs_f64();
            let what = if forgets_leaves { "checked      " } else { "checked, kept" };
            println!(
                "{:<10} blob, {what}, {streams} streams {} {meter}  {share:>4.0} % of raw",
                way.name,
                speed(stats.bytes as usize, took)
            );
        }
        mesh.stop().await;
    }
    let meter = Meter::start(&server);
    let again = tls_flood(&server, bytes).await?;
    println!("raw tcp + tls 1.3, 1 stream, again   {} {meter}", speed(bytes, again));
    Ok(())
}

/// CPU seconds of both processes since the start; shown when printed.
struct Meter {
    server: u32,
    started: f64,
}

impl Meter {
    fn start(server: &Server) -> Self {
        let server = server.child.id();
        Self { server, started: Self::total(server) }
    }

    fn total(server: u32) -> f64 {
        let ticks = |path: &str| -> u64 {
            let stat = std::fs::read_to_string(path).unwrap_or_default();
            // The second field is a name in brackets, which may hold anything.
            let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
            fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
        };
        (ticks("/proc/self/stat") + ticks(&format!("/proc/{server}/stat"))) as f64 / 100.0
    }
}

impl std::fmt::Display for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>5.2} cpu s", Self::total(self.server) - self.started)
    }
}

fn speed(bytes: usize, took: Duration) -> String {
    format!("{:>7.0} MiB/s", bytes as f64 / (1 << 20) as f64 / took.as_secs_f64())
}

async fn drain(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, bytes: usize) -> Result<(), Error> {
    stream.write_u64(bytes as u64).await?;
    stream.flush().await?;
    let mut buffer = vec![0; PIECE];
    let mut left = bytes;
    while left > 0 {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Err("the stream ended early".into());
        }
        left -= count;
    }
    Ok(())
}

async fn tls_flood(server: &Server, bytes: usize) -> Result<Duration, Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(server.tls_cert.clone()))?;
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let socket = TcpStream::connect(&server.tls_addr).await?;
    socket.set_nodelay(true)?;
    let stream = connector.connect(ServerName::try_from("localhost")?, socket).await?;
    let started = Instant::now();
    tokio::spawn(drain(stream, bytes)).await??;
    Ok(started.elapsed())
}

async fn mesh_flood(mesh: &Mesh, node: NodeId, bytes: usize, streams: usize) -> Result<Duration, Error> {
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..streams {
        let stream = mesh.open(node, FLOOD).await?;
        tasks.spawn(drain(stream, bytes / streams));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(started.elapsed())
}

async fn round_trips(mesh: &Mesh, node: NodeId) -> Result<Vec<Duration>, Error> {
    let mut stream = mesh.open(node, ECHO).await?;
    tokio::spawn(async move {
        let mut message = [1; 64];
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let started = Instant::now();
            stream.write_all(&message).await?;
            stream.flush().await?;
            stream.read_exact(&mut message).await?;
            times.push(started.elapsed());
        }
        Ok(times)
    })
    .await?
}
