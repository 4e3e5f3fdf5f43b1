//! One large blob on its way between two real nodes with their stores on disk, beside one TCP stream with TLS.
//!
//! `cargo bench -p wc-benches --bench blob`. `WC_MIB` (1024), `WC_RUNS` (3).
//!
//! A donor takes a file of random bytes into its store; a job that needs it is submitted through that donor, and the
//! coordinator, which has nothing of it, fetches it into its own store. Timed is what the coordinator calls staging: from
//! the submission until every block is there, checked, and the job may start.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wc_benches::{federation, median, print_machine, setting};
use wc_proto::api::view::Phase;
use wc_proto::api::{CellRequest, Request, Response};
use wc_tests::federation::{guest, stage};
use wc_types::manifest::{Input, InputSource};

/// Bytes handed to the socket at once.
const PIECE: usize = 64 << 10;

#[tokio::main]
async fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("the first of this process");
    let (mib, runs) = (setting("WC_MIB", 1024), setting("WC_RUNS", 3));
    print_machine();
    println!("{mib} MiB, {runs} runs");
    let mut shares = Vec::new();
    for _ in 0..runs {
        let raw = tls_stream(mib << 20).await;
        let dir = tempfile::tempdir().expect("room for a directory");
        let file = dir.path().join("random");
        let written = write_random(&file, mib);
        let (put, staged) = between_nodes(&file).await;
        let rate = |took: Duration| mib as f64 / took.as_secs_f64();
        shares.push(100.0 * rate(staged) / rate(raw));
        println!(
            "TLS stream {:>5.0} MiB/s   file to disk and synchronised {:>5.0} MiB/s   into the donor's store {:>5.0} MiB/s   \
             between the stores {:>5.0} MiB/s = {:>3.0} % of the TLS stream",
            rate(raw),
            rate(written),
            rate(put),
            rate(staged),
            shares.last().copied().unwrap_or_default()
        );
    }
    println!("median: {:.0} % of one TLS stream", median(shares));
}

/// Writes random bytes and makes them durable; returns how long that took without making them.
fn write_random(path: &Path, mib: usize) -> Duration {
    let mut random = std::fs::File::open("/dev/urandom").expect("Linux");
    let mut file = std::fs::File::create(path).expect("the disk can be written");
    let mut piece = vec![0; 1 << 20];
    let mut took = Duration::ZERO;
    for _ in 0..mib {
        random.read_exact(&mut piece).expect("random bytes never end");
        let begun = Instant::now();
        file.write_all(&piece).expect("the disk has room");
        took += begun.elapsed();
    }
    let begun = Instant::now();
    file.sync_all().expect("the disk can be synchronised");
    took + begun.elapsed()
}

/// Returns how long a donor took to put a file into its store, and a coordinator to fetch it from there.
async fn between_nodes(file: &Path) -> (Duration, Duration) {
    let federation = federation(1, 1).await;
    let donor = &federation.nodes[1];
    let mut client = donor.client().await;
    let mut put = async |path: &Path| {
        let path = path.display().to_string();
        match client.ask(Request::PutFile { path }).await.expect("the node answers") {
            Response::Blob(blob) => blob,
            other => panic!("the file cannot be put: {other:?}"),
        }
    };
    let module = put(&guest("noop")).await;
    let begun = Instant::now();
    let blob = put(file).await;
    let put = begun.elapsed();
    let mut stage = stage(module);
    stage.replicas = 1;
    stage.inputs = vec![Input { name: "random".into(), source: InputSource::Blob(blob) }];
    stage.resources.scratch = wc_types::Bytes(4 << 30);
    let manifest = Box::new(federation.manifest(vec![stage]));
    let begun = Instant::now();
    let submit = CellRequest::Submit { manifest, holders: Vec::new(), dry_run: false };
    let job = match client.ask(Request::Cell(submit)).await.expect("the node answers") {
        Response::Submitted { job, .. } => job,
        other => panic!("{other:?}"),
    };
    loop {
        let request = CellRequest::Job { job: job.to_string() };
        let view = match client.ask(Request::Cell(request)).await.expect("the node answers") {
            Response::Job(view) => view,
            other => panic!("{other:?}\n{}", federation.logs()),
        };
        match view.phase {
            Phase::Staging => tokio::time::sleep(Duration::from_millis(2)).await,
            Phase::Failed => panic!("{:?}\n{}", view.reason, federation.logs()),
            _ => return (put, begun.elapsed()),
        }
    }
}

/// Returns how long one TCP stream with TLS 1.3 takes on loopback; the bytes are thrown away.
async fn tls_stream(bytes: usize) -> Duration {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.key_pair.serialize_der()));
    let server = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("a key that fits");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let sending = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.expect("our own client");
        socket.set_nodelay(true).expect("a TCP option");
        let mut stream = acceptor.accept(socket).await.expect("handshake");
        let piece = vec![7; PIECE];
        let mut left = bytes;
        while left > 0 {
            let count = left.min(PIECE);
            stream.write_all(&piece[..count]).await.expect("sent");
            left -= count;
        }
        stream.shutdown().await.expect("ends");
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).expect("a certificate");
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let socket = TcpStream::connect(address).await.expect("our own server");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = connector.connect(name, socket).await.expect("handshake");
    let begun = Instant::now();
    let mut piece = vec![0; PIECE];
    let mut got = 0;
    while let Ok(count @ 1..) = stream.read(&mut piece).await {
        got += count;
    }
    let took = begun.elapsed();
    assert_eq!(got, bytes);
    sending.await.expect("the sender ends");
    took
}
