//! The published ledger over plain HTTP, and reading one from a directory or a URL.
//!
//! The tree is static: `checkpoint`, `founding` and `tile/…` (C2SP `tlog-tiles`). Full tiles never change, so caches may
//! keep them for ever; the checkpoint must be asked for each time. Nothing here needs to be believed by whoever reads it,
//! which is why there is no encryption: put a proxy in front where a name and a certificate are wanted.
//!
//! Deliberately absent: whether what is read is right. `wc-ledger` decides that from the bytes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Readers that are served at once; more wait in the kernel's queue.
pub const READERS_MAX: usize = 256;
/// Readers that are served at once of one address, or of one network of 64 bits; one more is hung up on. Eight crowds
/// have to conspire to keep others out.
pub const READERS_OF_ADDRESS_MAX: usize = 32;
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Time for a request's head to come, and for a connection to say something again.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// Longest that one connection is served; an audit opens another.
const CONNECTION_MAX: Duration = Duration::from_secs(120);
/// Time for the answer that is on its way then.
const LAST_ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Largest file that is served: a full bundle of the longest entries.
const FILE_BYTES_MAX: u64 = 256 * (0xffff + 2);
/// Time for a whole answer to come.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Pause after the kernel refused an accept, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the tree in `dir` until the returned future is dropped.
pub async fn serve(listener: TcpListener, dir: PathBuf) {
    let dir: Arc<Path> = dir.into();
    let permits = Arc::new(Semaphore::new(READERS_MAX));
    let crowds = Arc::new(Crowds::default());
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, address)) => match crowds.clone().enter(address.ip()) {
                Some(place) => (stream, place),
                None => continue,
            },
            Err(error) => {
                tracing::warn!(%error, "a reader of the log cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (stream, place) = stream;
        let dir = dir.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let dir = dir.clone();
                async move { Ok::<_, Infallible>(answer(&dir, &request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), answer);
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => Ok(ended),
                () = tokio::time::sleep(CONNECTION_MAX) => {
                    // The answer that is on its way still gets there; a reader that goes on opens another connection.
                    connection.as_mut().graceful_shutdown();
                    tokio::time::timeout(LAST_ANSWER_WITHIN, connection).await
                }
            };
            if let Ok(Err(error)) = ended {
                tracing::debug!(%error, "a reader of the log went away");
            }
            drop((permit, place));
        });
    }
}

/// How many readers there are of each address.
#[derive(Debug, Default)]
struct Crowds(Mutex<HashMap<IpAddr, usize>>);

/// A reader's seat among those of its address, until it is dropped.
#[derive(Debug)]
struct Seat {
    crowds: Arc<Crowds>,
    address: IpAddr,
}

impl Crowds {
    /// Lets a reader in, if there are not too many of its address.
    fn enter(self: Arc<Self>, address: IpAddr) -> Option<Seat> {
        let address = match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            // Whoever has one address of a network of 64 bits has all of them.
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        };
        {
            let mut crowds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let crowd = crowds.entry(address).or_default();
            if *crowd >= READERS_OF_ADDRESS_MAX {
                return None;
            }
            *crowd += 1;
        }
        Some(Seat { crowds: self, address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut crowds = self.crowds.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(crowd) = crowds.get_mut(&self.address) {
            *crowd -= 1;
            if *crowd == 0 {
                crowds.remove(&self.address);
            }
        }
    }
}

async fn answer(dir: &Path, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let head = request.method() == Method::HEAD;
    if request.method() != Method::GET && !head {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let path = request.uri().path().trim_start_matches('/');
    let Some((kind, lifetime)) = kind_of(path) else { return plain(StatusCode::NOT_FOUND) };
    let file = dir.join(path);
    let read = tokio::task::spawn_blocking(move || read_file(&file, FILE_BYTES_MAX)).await;
    let bytes = match read {
        Ok(Ok(Some(bytes))) => bytes,
        Ok(Ok(None)) => return plain(StatusCode::NOT_FOUND),
        Ok(Err(error)) => {
            tracing::warn!(%error, path, "a file of the log cannot be read");
            return plain(StatusCode::INTERNAL_SERVER_ERROR);
        }
        Err(_) => return plain(StatusCode::INTERNAL_SERVER_ERROR),
    };
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(lifetime));
    // hyper leaves the body of an answer to HEAD out by itself and keeps its length.
    response
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{status}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Returns type and lifetime of a file of the tree; `None` for a path that no tree has.
fn kind_of(path: &str) -> Option<(&'static str, &'static str)> {
    const FOR_EVER: &str = "public, max-age=31536000, immutable";
    match path {
        // Both change, the second when the signers do.
        "checkpoint" => return Some(("text/plain; charset=utf-8", "no-cache")),
        "signers" => return Some(("application/octet-stream", "no-cache")),
        "founding" => return Some(("application/octet-stream", FOR_EVER)),
        _ => {}
    }
    let rest = path.strip_prefix("tile/")?;
    let plain = |part: &str| {
        let digits = part.strip_suffix(".p").unwrap_or(part);
        let digits = digits.strip_prefix('x').unwrap_or(digits);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let (level, place) = rest.split_once('/')?;
    let known = (level == "entries" || plain(level)) && place.split('/').all(plain);
    // A partial tile does not change either, but goes away once its full one is there.
    let lifetime = if place.contains(".p/") { "public, max-age=60" } else { FOR_EVER };
    known.then_some(("application/octet-stream", lifetime))
}

/// Returns a file's bytes; `None` if there is none.
fn read_file(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than any file of a log"));
    }
    Ok(Some(bytes))
}

/// A published log cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogReadError {
    /// The address is not one.
    #[error("`{text}` is not the address of a log: {reason}")]
    Address {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file cannot be read.
    #[error("could not read {path} of the log: {reason}")]
    Read {
        /// Which.
        path: String,
        /// Why not.
        reason: String,
    },
}

impl LogReadError {
    /// Returns the stable code.
    pub fn code(&self) -> wc_types::Code {
        match self {
            Self::Address { .. } => wc_types::Code::new("WC-API-020", wc_types::Class::Caller),
            Self::Read { .. } => wc_types::Code::new("WC-API-021", wc_types::Class::Host),
        }
    }
}

/// Reads a published log, from a directory or over HTTP.
pub struct LogReader {
    place: Place,
}

enum Place {
    Dir(PathBuf),
    Http { host: String, base: String, connection: Option<SendRequest<Empty<Bytes>>> },
}

impl LogReader {
    /// Names a log: `http://host[:port][/path]`, or a directory.
    ///
    /// # Errors
    /// [`LogReadError::Address`].
    pub fn new(place: &str) -> Result<Self, LogReadError> {
        let fault = |reason| LogReadError::Address { text: place.to_owned(), reason };
        if place.starts_with("https://") {
            return Err(fault(
                "https is not spoken here; copy the log with another tool and name the directory",
            ));
        }
        let Some(rest) = place.strip_prefix("http://") else {
            return Ok(Self { place: Place::Dir(PathBuf::from(place)) });
        };
        let (host, base) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() || host.contains('@') {
            return Err(fault("expected http://host:port/path"));
        }
        let base = base.trim_matches('/');
        let base = if base.is_empty() { "/".to_owned() } else { format!("/{base}/") };
        Ok(Self { place: Place::Http { host: host.to_owned(), base, connection: None } })
    }

    /// Returns a file of the log; `None` if it has no such file.
    ///
    /// # Errors
    /// [`LogReadError::Read`].
    pub async fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, LogReadError> {
        let fault = |reason: String| LogReadError::Read { path: path.to_owned(), reason };
        match &mut self.place {
            Place::Dir(dir) => {
                read_file(&dir.join(path), FILE_BYTES_MAX).map_err(|error| fault(error.to_string()))
            }
            Place::Http { host, base, connection } => {
                let url = format!("{base}{path}");
                let asked = tokio::time::timeout(ANSWER_WITHIN, get(host, &url, connection)).await;
                asked.map_err(|_| fault("no answer in time".to_owned()))?.map_err(fault)
            }
        }
    }
}

async fn get(
    host: &str,
    url: &str,
    connection: &mut Option<SendRequest<Empty<Bytes>>>,
) -> Result<Option<Vec<u8>>, String> {
    // A server may close a connection between two requests: then the second try has a fresh one.
    for fresh in [false, true] {
        let mut sender = match connection.take() {
            Some(sender) if !fresh && !sender.is_closed() => sender,
            _ => connect(host).await?,
        };
        let request = Request::get(url).header(HOST, host).body(Empty::new());
        let request = request.map_err(|error| error.to_string())?;
        if sender.ready().await.is_err() && !fresh {
            continue;
        }
        let response = match sender.send_request(request).await {
            Ok(response) => response,
            Err(_) if !fresh => continue,
            Err(error) => return Err(error.to_string()),
        };
        let status = response.status();
        let limit = usize::try_from(FILE_BYTES_MAX).unwrap_or(usize::MAX);
        let body = Limited::new(response.into_body(), limit).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        *connection = Some(sender);
        return match status {
            StatusCode::OK => Ok(Some(body.into())),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            other => Err(format!("the server answered {other}")),
        };
    }
    Err("the server closes every connection".to_owned())
}

async fn connect(host: &str) -> Result<SendRequest<Empty<Bytes>>, String> {
    let text = |error: io::Error| error.to_string();
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let name = if has_port { host.to_owned() } else { format!("{host}:80") };
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(name).await.map_err(text)?.collect();
    let stream = TcpStream::connect(addresses.as_slice()).await.map_err(text)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to a log broke");
        }
    });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn only_paths_of_a_log_are_served() {
        for path in
            ["checkpoint", "founding", "signers", "tile/0/000", "tile/0/x001/067.p/9", "tile/entries/000.p/1"]
        {
            assert!(kind_of(path).is_some(), "{path}");
        }
        for path in [
            "",
            "tile",
            "tile/",
            "tile/0",
            "tile/0/",
            "tile//000",
            "tile/../keys/node.key",
            "../keys/node.key",
            "tile/0/..",
            "tile/0/.p",
            "tile/0/000/../../..",
            "tile/entries/a",
            "keys/node.key",
            "checkpoint/x",
            "tile/%2e%2e/000",
            "tile/0/000.tmp",
        ] {
            assert!(kind_of(path).is_none(), "{path}");
        }
        assert!(kind_of("tile/0/000").is_some_and(|(_, lifetime)| lifetime.contains("immutable")));
        assert!(kind_of("checkpoint").is_some_and(|(_, lifetime)| lifetime == "no-cache"));
    }

    async fn serving(dir: &Path) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(serve(listener, dir.to_owned()));
        address
    }

    async fn raw(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn what_is_served_is_what_is_read_and_nothing_else() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir_all(dir.path().join("tile/0")).expect("creates");
        std::fs::write(dir.path().join("checkpoint"), "text").expect("writes");
        std::fs::write(dir.path().join("tile/0/000"), [7; 8192]).expect("writes");
        std::fs::write(dir.path().join("secret"), "secret").expect("writes");
        let address = serving(dir.path()).await;
        let mut reader = LogReader::new(&format!("http://{address}/")).expect("an address");
        for _ in 0..3 {
            assert_eq!(reader.read("checkpoint").await.expect("reads"), Some(b"text".to_vec()));
            assert_eq!(reader.read("tile/0/000").await.expect("reads"), Some(vec![7; 8192]));
            assert_eq!(reader.read("secret").await.expect("answers"), None);
            assert_eq!(reader.read("tile/0/001").await.expect("answers"), None);
        }
        let answer = raw(address, "GET /tile/0/000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(answer.to_ascii_lowercase().contains("immutable"), "{answer:.300}");
        let answer = raw(address, "GET /../secret HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer:.300}");
        let answer = raw(
            address,
            "POST /checkpoint HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer:.300}");
        let head = raw(address, "HEAD /checkpoint HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(head.contains("content-length: 4") && head.ends_with("\r\n\r\n"), "{head:.300}");
        let long = format!("GET /checkpoint HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(64 << 10));
        assert!(!raw(address, &long).await.starts_with("HTTP/1.1 200"), "a huge head");
    }

    #[tokio::test]
    async fn a_crowd_from_one_address_does_not_keep_others_out() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("checkpoint"), "text").expect("writes");
        let address = serving(dir.path()).await;
        // They connect and say nothing. The kernel takes them all; those beyond the limit are hung up on.
        let mut crowd = Vec::new();
        for _ in 0..READERS_MAX + 10 {
            crowd.push(TcpStream::connect(address).await.expect("connects"));
        }
        let from = |ip: [u8; 4]| async move {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind((ip, 0).into()).expect("all of 127/8 is ours");
            let mut stream = socket.connect(address).await.expect("connects");
            let ask = b"GET /checkpoint HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(ask).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        };
        assert!(from([127, 0, 0, 2]).await.starts_with("HTTP/1.1 200"), "another address is served");
        assert_eq!(from([127, 0, 0, 1]).await, "", "one more of the crowd is not");
        // With the crowd gone its address is served again.
        drop(crowd);
        let begun = std::time::Instant::now();
        while !from([127, 0, 0, 1]).await.starts_with("HTTP/1.1 200") {
            assert!(begun.elapsed() < Duration::from_secs(30), "the places are never given back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[test]
    fn a_network_of_64_bits_is_one_address() {
        let crowds = Arc::new(Crowds::default());
        let one = |text: &str| crowds.clone().enter(text.parse().expect("an address"));
        let crowd: Vec<_> = (0..READERS_OF_ADDRESS_MAX).map(|i| one(&format!("2001:db8::{i:x}"))).collect();
        assert!(crowd.iter().all(Option::is_some));
        assert!(one("2001:db8::ffff:1").is_none());
        assert!(one("2001:db8:0:1::1").is_some());
        assert!(one("::ffff:192.0.2.1").is_some() && one("192.0.2.1").is_some());
        drop(crowd);
        assert!(crowds.0.lock().expect("ours").is_empty());
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused() {
        assert!(LogReader::new("http://").is_err());
        assert!(LogReader::new("https://example.org/log").is_err());
        let mut nobody = LogReader::new("http://127.0.0.1:1").expect("an address");
        assert!(nobody.read("checkpoint").await.is_err());
    }
}
