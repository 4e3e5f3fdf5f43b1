//! DNS over HTTPS (RFC 8484), for networks whose own name servers are broken or filtered.
//!
//! The servers' addresses are shipped (E-32): looking them up would need what is broken. Certificates are judged as those
//! of relays are, and a proxy is used where one must be.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio_util::compat::FuturesAsyncReadCompatExt;

use super::system::answer_of;
use super::{Answer, DnsConfig, Question};
use crate::address::{Endpoint, Family, Host, Way, host_name};
use crate::transport::{Outward, WireError, authority};

const MEDIA_TYPE: &str = "application/dns-message";
/// Longest answer of a server; one over UDP has at most 4 KiB.
const ANSWER_BYTES_MAX: usize = 32 << 10;
/// Addresses of one server that are tried.
const ADDRESSES_MAX: usize = 4;

/// A server that answers DNS over HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DohUpstream {
    host: String,
    port: u16,
    path: String,
    addresses: Vec<IpAddr>,
}

/// A text names no server for DNS over HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not of the form https://host[:port]/path@address[+address]; the addresses are needed to ask it without asking"
)]
pub struct DohUpstreamError;

impl DohUpstream {
    /// Reads `https://host[:port]/path@address+address`. The addresses may be missing where the host is one, or is one
    /// of the public servers that this build knows.
    ///
    /// # Errors
    /// [`DohUpstreamError`] for everything else.
    pub fn parse(text: &str) -> Result<Self, DohUpstreamError> {
        let rest = text.trim().strip_prefix("https://").ok_or(DohUpstreamError)?;
        let (url, addresses) = rest.split_once('@').unwrap_or((rest, ""));
        let (place, path) = url
            .split_once('/')
            .map_or((url, "/dns-query".to_owned()), |(place, path)| (place, format!("/{path}")));
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(DohUpstreamError);
        }
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().map_err(|_| DohUpstreamError)?)
            }
            _ => (place, 443),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let mut addresses: Vec<IpAddr> = addresses
            .split('+')
            .filter(|text| !text.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| DohUpstreamError)?;
        addresses.truncate(ADDRESSES_MAX);
        let host = match bare.parse::<IpAddr>() {
            Ok(ip) => {
                if addresses.is_empty() {
                    addresses.push(ip);
                }
                ip.to_string()
            }
            Err(_) => host_name(host).ok_or(DohUpstreamError)?,
        };
        if addresses.is_empty() {
            let public = Self::public();
            let known = public.iter().find(|known| known.host == host).ok_or(DohUpstreamError)?;
            addresses.clone_from(&known.addresses);
        }
        Ok(Self { host, port, path, addresses })
    }

    /// Returns the server's name.
    pub(crate) fn name(&self) -> &str {
        &self.host
    }

    /// Returns its name and port.
    pub(crate) fn place(&self) -> String {
        authority(&self.host, self.port)
    }

    /// Connects and makes the TLS handshake, no more. The inner error is that of the handshake.
    pub(crate) async fn visit(&self, outward: &Outward) -> Result<(), Result<WireError, String>> {
        let socket = outward.connect_first(&hosts(self), self.port).await.map_err(Err)?;
        outward.tls(socket, &self.host, &self.place(), Vec::new()).await.map(drop).map_err(Ok)
    }

    /// Returns the public servers that are asked unless others are named (NET-23, E-32).
    pub fn public() -> [Self; 2] {
        let upstream = |host: &str, addresses: [[u8; 4]; 2]| Self {
            host: host.to_owned(),
            port: 443,
            path: "/dns-query".to_owned(),
            addresses: addresses.map(IpAddr::from).to_vec(),
        };
        [
            upstream("cloudflare-dns.com", [[1, 1, 1, 1], [1, 0, 0, 1]]),
            upstream("dns.google", [[8, 8, 8, 8], [8, 8, 4, 4]]),
        ]
    }
}

/// Asks the configured servers one after the other.
pub(super) async fn ask(
    config: &DnsConfig,
    outward: &Arc<Outward>,
    name: &str,
    question: Question,
) -> Result<Vec<Answer>, String> {
    if config.upstreams.is_empty() {
        return Err("no server is configured".to_owned());
    }
    // Half a second of head start each: the first one is usually the only one that is asked.
    let asked: FuturesUnordered<_> = (0..)
        .zip(&config.upstreams)
        .map(|(turn, upstream)| async move {
            tokio::time::sleep(turn * config.timeout / 10).await;
            let asked = tokio::time::timeout(config.timeout, ask_one(upstream, outward, name, question));
            asked.await.unwrap_or_else(|_| Err("timed out".to_owned())).map_err(|cause| {
                tracing::debug!(server = upstream.host, cause, "a name server over https did not help");
                format!("{}: {cause}", upstream.host)
            })
        })
        .collect();
    let mut asked = asked;
    let mut causes = Vec::new();
    while let Some(result) = asked.next().await {
        match result {
            Ok(answers) => return Ok(answers),
            Err(cause) => causes.push(cause),
        }
    }
    Err(causes.join("; "))
}

async fn ask_one(
    upstream: &DohUpstream,
    outward: &Arc<Outward>,
    name: &str,
    question: Question,
) -> Result<Vec<Answer>, String> {
    let name = Name::from_ascii(format!("{name}.")).map_err(|error| error.to_string())?;
    let place = authority(&upstream.host, upstream.port);
    let socket = outward.connect_first(&hosts(upstream), upstream.port).await?;
    let stream =
        outward.tls(socket, &upstream.host, &place, Vec::new()).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(ANSWER_BYTES_MAX)
        .handshake(TokioIo::new(stream.compat()))
        .await
        .map_err(|error| error.to_string())?;
    let connection = async move {
        // Its end shows in the answer that is missing.
        let _ = connection.await;
    };
    let types: &[RecordType] = match question {
        Question::Addresses => &[RecordType::A, RecordType::AAAA],
        Question::Texts => &[RecordType::TXT],
    };
    let asking = async move {
        let mut answers = Vec::new();
        for record_type in types {
            let body = query(&name, *record_type)?;
            let request = Request::builder()
                .method(Method::POST)
                .uri(&upstream.path)
                .header(HOST, &place)
                .header(ACCEPT, MEDIA_TYPE)
                .header(CONTENT_TYPE, MEDIA_TYPE)
                .body(Full::new(Bytes::from(body)))
                .map_err(|error| error.to_string())?;
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            if !answer.status().is_success() {
                return Err(format!("it answered {}", answer.status()));
            }
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            answers.extend(read_answer(&body)?);
        }
        if answers.is_empty() { Err("it has no answer".to_owned()) } else { Ok(answers) }
    };
    tokio::select! {
        answers = asking => answers,
        () = connection => Err("it closed the connection".to_owned()),
    }
}

/// Reads the body of a server's answer.
pub(super) fn read_answer(body: &[u8]) -> Result<Vec<Answer>, String> {
    let message = Message::from_vec(body).map_err(|error| error.to_string())?;
    match message.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return Err("it says that there is no such name".to_owned()),
        code => return Err(format!("it answered {code}")),
    }
    Ok(message.answers.iter().filter_map(|record| answer_of(&record.data)).collect())
}

/// Returns where to connect: by name where a proxy looks it up, else at the addresses that are known.
fn hosts(upstream: &DohUpstream) -> Vec<Host> {
    let named = Host::Name(upstream.host.clone(), Family::Any);
    let known = upstream.addresses.iter().map(|ip| Host::Ip(*ip));
    std::iter::once(named).chain(known).collect()
}

fn query(name: &Name, record_type: RecordType) -> Result<Vec<u8>, String> {
    let mut message = Message::query();
    // Nothing identifies the asker, and caches can share answers (RFC 8484 §4.1).
    message.metadata.id = 0;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), record_type));
    message.to_vec().map_err(|error| error.to_string())
}

impl Outward {
    /// Connects to the first of `hosts` that answers: by a name only through a proxy, and to addresses only without one
    /// where there is a name that it can look up.
    pub(crate) async fn connect_first(
        &self,
        hosts: &[Host],
        port: u16,
    ) -> Result<libp2p::tcp::tokio::TcpStream, String> {
        let mut causes = Vec::new();
        for host in hosts {
            let proxied = self.is_proxied(host);
            if matches!(host, Host::Name(..)) && !proxied {
                continue;
            }
            let endpoint = Endpoint { host: host.clone(), port, way: Way::Tcp };
            match self.connect_plain(&endpoint).await {
                Ok(socket) => return Ok(socket),
                Err(error) => causes.push(error.to_string()),
            }
            if proxied {
                break;
            }
        }
        Err(causes.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_read_with_the_addresses_to_ask_it_at() {
        let [cloudflare, google] = DohUpstream::public();
        assert_eq!(DohUpstream::parse("https://cloudflare-dns.com/dns-query"), Ok(cloudflare));
        assert_eq!(DohUpstream::parse("https://dns.google"), Ok(google));
        let own = DohUpstream::parse("https://doh.example:8443/q@192.0.2.1+2001:db8::1").unwrap();
        assert_eq!((own.host.as_str(), own.port, own.path.as_str()), ("doh.example", 8443, "/q"));
        assert_eq!(own.addresses.len(), 2);
        assert_eq!(DohUpstream::parse("https://127.0.0.1:1/q").unwrap().addresses.len(), 1);
        for text in
            ["http://doh.example/q@192.0.2.1", "https://doh.example/q", "https://doh.example/a b@1.1.1.1", ""]
        {
            assert_eq!(DohUpstream::parse(text), Err(DohUpstreamError), "{text}");
        }
    }
}
