//! The client: one agent, one address.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use ureq::http::{Response, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Body, Proxy};
use wc_types::Millis;

use crate::error::ClientError;

/// Longest answer that is read. An entry with its proof has about 4 KiB, a whole tile 8 KiB, a bundle of 256 entries
/// with certificates at most 64 KiB each and in practice 1 MiB in all.
pub const ANSWER_BYTES_MAX: u64 = 2 << 20;
/// How long one request may take. A log of v2 answers only after its next checkpoint, and asks for 20 s at least.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(45);
/// Longest header of an answer.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// What is shown of a refusal.
const REFUSAL_CHARS_MAX: usize = 300;
/// Hashes in a whole tile.
const TILE_WIDTH: u16 = 256;

/// How to reach a log.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Its address, such as `https://rekor.sigstore.dev`.
    pub url: String,
    /// Certificates in PEM that the log's certificate must come from, instead of the public authorities.
    pub authorities_pem: Option<Vec<u8>>,
    /// An HTTP proxy to go through, such as `http://proxy.example:3128`.
    pub proxy: Option<String>,
    /// How long one request may take.
    pub timeout: Duration,
}

/// What became of an entry of v2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in the log: the entry with its proof.
    Now(Vec<u8>),
    /// It has been in the log before, under this number.
    Before(u64),
}

/// Speaks with one log.
#[derive(Clone, Debug)]
pub struct LogClient {
    agent: Agent,
    base: String,
}

impl LogClient {
    /// Prepares a client; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Address`] unless the address is HTTPS or on this machine, [`ClientError::Certificates`].
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let fault = |reason| ClientError::Address { url: config.url.clone(), reason };
        let uri: Uri = config.url.parse().map_err(|_| fault("it is not a URL"))?;
        let host = uri.host().ok_or(fault("it names no host"))?;
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if is_this_machine(host) => false,
            Some("http") => return Err(fault("plain HTTP is for logs on this machine only")),
            _ => return Err(fault("it does not begin with https://")),
        };
        if uri.query().is_some() || uri.authority().is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(fault("it holds more than host and path"));
        }
        let roots = match &config.authorities_pem {
            Some(pem) => RootCerts::Specific(Arc::new(authorities(pem)?)),
            None => RootCerts::WebPki,
        };
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(roots)
            .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
            .build();
        let proxy = config.proxy.as_deref().map(Proxy::new).transpose();
        let proxy = proxy.map_err(|_| ClientError::Address {
            url: config.proxy.clone().unwrap_or_default(),
            reason: "it is not the address of a proxy",
        })?;
        let agent = Agent::config_builder()
            .tls_config(tls)
            .https_only(is_https)
            // A log on this machine is never reached through somebody else's.
            .proxy(proxy.filter(|_| is_https))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(HEADER_BYTES_MAX)
            .max_idle_connections(1)
            .timeout_global(Some(config.timeout))
            .timeout_connect(Some(config.timeout.min(Duration::from_secs(10))))
            .user_agent(concat!("worldcompute/", env!("CARGO_PKG_VERSION")))
            .accept("application/json")
            .build()
            .new_agent();
        Ok(Self { agent, base: config.url.trim_end_matches('/').to_owned() })
    }

    /// Asks a log of v1 to take an entry, and returns its answer. An entry that is there already is fetched.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn submit_v1(&self, request: &[u8]) -> Result<Vec<u8>, ClientError> {
        let answer = self.post("/api/v1/log/entries", request)?;
        if answer.status().as_u16() != 409 {
            return expect_success(answer);
        }
        // The path of the entry that is there. Only its id is taken from it, never the address.
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
        let id = location.and_then(|location| location.rsplit('/').next()).filter(|id| is_entry_id(id));
        let id = id.ok_or(ClientError::Incomplete { what: "the id of the entry that it says it has" })?;
        self.entry_v1(id)
    }

    /// Fetches an entry of v1 by its id.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn entry_v1(&self, id: &str) -> Result<Vec<u8>, ClientError> {
        if !is_entry_id(id) {
            return Err(ClientError::Incomplete { what: "an id of 64 or 80 hexadecimal digits" });
        }
        self.get(&format!("/api/v1/log/entries/{id}"))
    }

    /// Asks a log of v2 to take an entry.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn submit_v2(&self, request: &[u8]) -> Result<Taken, ClientError> {
        let answer = self.post("/api/v2/log/entries", request)?;
        if answer.status().as_u16() != 409 {
            return expect_success(answer).map(Taken::Now);
        }
        let index = answer.headers().get("x-log-index").and_then(|value| value.to_str().ok());
        let index = index.and_then(|text| text.parse().ok());
        index
            .map(Taken::Before)
            .ok_or(ClientError::Incomplete { what: "the number of the entry that it says it has" })
    }

    /// Fetches the checkpoint of a log of v2.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn checkpoint_v2(&self) -> Result<Vec<u8>, ClientError> {
        self.get("/api/v2/checkpoint")
    }

    /// Fetches a tile of hashes of a log of v2.
    ///
    /// - `level`: 0 for the leaves, one more for each eight levels of the tree
    /// - `width`: hashes in it; 256 for a whole tile
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn tile_v2(&self, level: u8, index: u64, width: u16) -> Result<Vec<u8>, ClientError> {
        self.get(&format!("/api/v2/tile/{level}/{}", tile_name(index, width)))
    }

    /// Fetches a bundle of entries of a log of v2: each with its length before it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn bundle_v2(&self, index: u64, width: u16) -> Result<Vec<u8>, ClientError> {
        self.get(&format!("/api/v2/tile/entries/{}", tile_name(index, width)))
    }

    fn post(&self, path: &str, body: &[u8]) -> Result<Response<Body>, ClientError> {
        let url = format!("{}{path}", self.base);
        self.agent.post(url).content_type("application/json").send(body).map_err(unreachable)
    }

    fn get(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        let answer = self.agent.get(format!("{}{path}", self.base)).call().map_err(unreachable)?;
        expect_success(answer)
    }
}

/// Returns the body of an answer that says yes.
fn expect_success(mut answer: Response<Body>) -> Result<Vec<u8>, ClientError> {
    let status = answer.status().as_u16();
    match status {
        200..=299 => {
            answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(unreachable)
        }
        429 | 500..=599 => {
            let wait = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
            let seconds = wait.and_then(|text| text.parse::<u64>().ok());
            Err(ClientError::Busy { status, wait: seconds.map(|s| Millis(s.saturating_mul(1000))) })
        }
        _ => {
            let text = answer.body_mut().with_config().limit(4096).read_to_vec().unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REFUSAL_CHARS_MAX);
            Err(ClientError::Refused { status, text: text.collect::<String>().trim().to_owned() })
        }
    }
}

fn unreachable(error: ureq::Error) -> ClientError {
    match error {
        ureq::Error::BodyExceedsLimit(limit) => ClientError::TooLarge { limit },
        error => ClientError::Unreachable { reason: error.to_string() },
    }
}

fn authorities(pem: &[u8]) -> Result<Vec<Certificate<'static>>, ClientError> {
    let fault = |reason: String| ClientError::Certificates { reason };
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| fault(error.to_string()))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() { Err(fault("there is none".to_owned())) } else { Ok(certificates) }
}

fn is_this_machine(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_entry_id(id: &str) -> bool {
    [64, 80].contains(&id.len()) && id.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns the name of a tile in the C2SP layout: groups of three digits, all but the last with an `x`, and `.p/` with
/// the width when it is not whole.
fn tile_name(index: u64, width: u16) -> String {
    let mut name = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        name = format!("x{:03}/{name}", rest % 1000);
        rest /= 1000;
    }
    if width < TILE_WIDTH { format!("{name}.p/{width}") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_have_the_names_of_the_layout() {
        assert_eq!(tile_name(0, 256), "000");
        assert_eq!(tile_name(5, 112), "005.p/112");
        assert_eq!(tile_name(1_234_067, 256), "x001/x234/067");
        assert_eq!(tile_name(1000, 1), "x001/000.p/1");
    }
}
