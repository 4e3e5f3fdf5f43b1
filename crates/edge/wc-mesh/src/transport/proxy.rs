//! The way out through an HTTP proxy (CONNECT, RFC 9110 §9.3.6), and which connections take it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use data_encoding::BASE64;
use futures::{AsyncRead, AsyncWriteExt};
use libp2p::tcp::tokio::TcpStream;

use super::http::{Head, HeadError};
use crate::address::{Host, host_name};

/// Time for a proxy to be connected and to answer; it makes a connection of its own in between.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(7);
/// Longest user name and password together.
const CREDENTIALS_BYTES_MAX: usize = 1024;
/// Patterns of `NO_PROXY` that count.
const EXCEPTIONS_MAX: usize = 256;

/// An HTTP proxy. Its `Debug` and `Display` leave the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    /// `user:password`.
    credentials: Option<String>,
}

/// A text names no proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not of the form http://[user:password@]host:port")]
pub struct ProxyAddressError;

impl Proxy {
    /// Reads `http://[user:password@]host:port`; the scheme may be missing, and `%` escapes are resolved in user and
    /// password.
    ///
    /// # Errors
    /// [`ProxyAddressError`] for everything else, without repeating the text: it may hold a password.
    pub fn parse(text: &str) -> Result<Self, ProxyAddressError> {
        let rest = match text.trim().split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(ProxyAddressError),
            None => text.trim(),
        };
        let rest = rest.trim_end_matches('/');
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((credentials, place)) => (Some(unescape(credentials).ok_or(ProxyAddressError)?), place),
            None => (None, rest),
        };
        if credentials.as_ref().is_some_and(|text| text.len() > CREDENTIALS_BYTES_MAX) {
            return Err(ProxyAddressError);
        }
        let (host, port) = match place.rsplit_once(':') {
            // A bare IPv6 address has colons and no port.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().map_err(|_| ProxyAddressError)?)
            }
            _ => (place, 80),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let host = match bare.parse::<IpAddr>() {
            Ok(ip) => ip.to_string(),
            Err(_) => host_name(host).ok_or(ProxyAddressError)?,
        };
        Ok(Self { host, port, credentials })
    }

    /// Returns what must not be shown to anybody: user and password as they are, and as HTTP sends them.
    pub fn secrets(&self) -> Vec<String> {
        let Some(credentials) = &self.credentials else { return Vec::new() };
        let mut secrets = vec![BASE64.encode(credentials.as_bytes()), credentials.clone()];
        secrets.extend(credentials.split_once(':').map(|(_, password)| password.to_owned()));
        secrets
    }

    /// Asks the proxy for a connection to `port` of `host`, which it looks up itself.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, ProxyError> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.ask(host, port)).await {
            Ok(result) => result,
            Err(_) => Err(ProxyError::Timeout { proxy: self.to_string(), target: authority(host, port) }),
        }
    }

    async fn ask(&self, host: &str, port: u16) -> Result<TcpStream, ProxyError> {
        let unreachable = |cause| ProxyError::Unreachable { proxy: self.to_string(), cause };
        let socket = tokio::net::TcpStream::connect((self.host.as_str(), self.port)).await;
        let socket = socket.map_err(|error| unreachable(error.to_string()))?;
        socket.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
        let mut socket = TcpStream(socket);
        let target = authority(host, port);
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(credentials) = &self.credentials {
            let encoded = BASE64.encode(credentials.as_bytes());
            request.push_str(&format!("Proxy-Authorization: Basic {encoded}\r\n"));
        }
        request.push_str("\r\n");
        socket.write_all(request.as_bytes()).await.map_err(|error| unreachable(error.to_string()))?;
        self.hear(&mut socket, target).await?;
        Ok(socket)
    }

    /// Reads the proxy's answer; what follows on `socket` is that of the target.
    pub(crate) async fn hear(
        &self,
        socket: &mut (impl AsyncRead + Unpin),
        target: String,
    ) -> Result<(), ProxyError> {
        let answer =
            |source: HeadError| ProxyError::Answer { proxy: self.to_string(), cause: source.to_string() };
        let head = Head::read(socket).await.map_err(answer)?;
        let (status, reason) = head.status().map_err(answer)?;
        let proxy = self.to_string();
        match status {
            200..=299 => Ok(()),
            407 => Err(ProxyError::Credentials { proxy, given: self.credentials.is_some() }),
            403 | 405 => Err(ProxyError::Refused { proxy, target, status, reason }),
            _ => Err(ProxyError::Failed { proxy, target, status, reason }),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&authority(&self.host, self.port))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self}{})", if self.credentials.is_some() { ", with credentials" } else { "" })
    }
}

/// A connection through a proxy could not be made. The text names the proxy, never the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("the proxy {proxy} cannot be reached: {cause}")]
    Unreachable { proxy: String, cause: String },
    #[error(
        "the proxy {proxy} {}: give http://user:password@host:port",
        if *.given { "refuses our user name and password (407)" } else { "asks for a user name and password (407)" }
    )]
    Credentials { proxy: String, given: bool },
    #[error("the proxy {proxy} refuses connections to {target} ({status} {reason})")]
    Refused { proxy: String, target: String, status: u16, reason: String },
    #[error("the proxy {proxy} could not connect to {target} ({status} {reason})")]
    Failed { proxy: String, target: String, status: u16, reason: String },
    #[error("the proxy {proxy} does not speak HTTP: {cause}")]
    Answer { proxy: String, cause: String },
    #[error("the proxy {proxy} did not answer in time about {target}: timed out")]
    Timeout { proxy: String, target: String },
}

/// Returns `host:port` as HTTP writes it.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Which way a connection over TCP takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Direct,
    Proxy,
    /// First directly, as it may be a neighbour, then through the proxy.
    Either,
}

/// The proxy of this machine and the destinations that are reached without it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// The proxy, if there is one.
    pub proxy: Option<Proxy>,
    /// Destinations that do not need it, as in the variable `NO_PROXY`: `*`, `example.org` (with everything below it),
    /// an address, or a network such as `10.0.0.0/8`.
    pub exceptions: Vec<String>,
}

impl ProxyConfig {
    pub(crate) fn route(&self, host: &Host) -> Route {
        if self.proxy.is_none() || self.exceptions.iter().take(EXCEPTIONS_MAX).any(|one| excepts(one, host)) {
            return Route::Direct;
        }
        match host {
            Host::Ip(ip) if ip.is_loopback() => Route::Direct,
            Host::Ip(IpAddr::V4(ip)) if ip.is_private() || ip.is_link_local() => Route::Either,
            Host::Ip(IpAddr::V6(ip)) if ip.is_unique_local() || ip.is_unicast_link_local() => Route::Either,
            Host::Ip(_) => Route::Proxy,
            Host::Name(name, _) if name == "localhost" => Route::Direct,
            Host::Name(..) => Route::Proxy,
        }
    }
}

fn excepts(pattern: &str, host: &Host) -> bool {
    let pattern = pattern.trim().to_ascii_lowercase();
    if pattern == "*" {
        return true;
    }
    match host {
        Host::Ip(ip) => match pattern.split_once('/') {
            Some((base, bits)) => match (base.parse(), bits.parse()) {
                (Ok(base), Ok(bits)) => in_network(*ip, base, bits),
                _ => false,
            },
            None => pattern.trim_matches(['[', ']']).parse() == Ok(*ip),
        },
        Host::Name(name, _) => {
            let pattern = pattern.trim_start_matches("*.").trim_start_matches('.');
            let below = || name.strip_suffix(pattern).is_some_and(|above| above.ends_with('.'));
            !pattern.is_empty() && (name == pattern || below())
        }
    }
}

fn in_network(ip: IpAddr, base: IpAddr, bits: u32) -> bool {
    let same =
        |ip: u128, base: u128, width: u32| bits <= width && (bits == 0 || (ip ^ base) >> (width - bits) == 0);
    match (ip, base) {
        (IpAddr::V4(ip), IpAddr::V4(base)) => same(ip.to_bits().into(), base.to_bits().into(), 32),
        (IpAddr::V6(ip), IpAddr::V6(base)) => same(ip.to_bits(), base.to_bits(), 128),
        _ => false,
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(16 * high + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains(['\r', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Family;

    #[test]
    fn a_proxy_is_read_from_what_people_write() {
        let table = [
            ("http://proxy.example:3128", Some(("proxy.example", 3128, None))),
            ("proxy.example:3128/", Some(("proxy.example", 3128, None))),
            ("http://10.0.0.1", Some(("10.0.0.1", 80, None))),
            ("HTTP://[2001:db8::1]:8080", Some(("2001:db8::1", 8080, None))),
            ("http://ann:p%40ss@proxy:1", Some(("proxy", 1, Some("ann:p@ss")))),
            ("socks5://proxy:1", None),
            ("https://proxy:1", None),
            ("http://proxy:port", None),
            ("http://a%0d%0ab:c@proxy:1", None),
            ("http://pro xy:1", None),
            ("", None),
        ];
        for (text, expected) in table {
            let proxy = Proxy::parse(text).ok();
            let seen =
                proxy.as_ref().map(|proxy| (proxy.host.as_str(), proxy.port, proxy.credentials.as_deref()));
            assert_eq!(seen, expected, "{text}");
        }
    }

    #[test]
    fn a_proxys_password_is_never_printed() {
        let proxy = Proxy::parse("http://ann:secret@proxy.example:3128").unwrap();
        let printed =
            format!("{proxy} {proxy:?} {:?}", ProxyConfig { proxy: Some(proxy.clone()), exceptions: vec![] });
        assert!(!printed.contains("secret") && !printed.contains("ann"), "{printed}");
    }

    #[test]
    fn exceptions_and_neighbours_are_reached_without_the_proxy() {
        let config = ProxyConfig {
            proxy: Proxy::parse("proxy:1").ok(),
            exceptions: ["example.org", ".internal", "203.0.113.0/24", "2001:db8::7", "0.0.0.0/99"]
                .map(str::to_owned)
                .to_vec(),
        };
        let name = |text: &str| Host::Name(text.to_owned(), Family::Any);
        let ip = |text: &str| Host::Ip(text.parse().unwrap());
        let table = [
            (name("example.org"), Route::Direct),
            (name("relay.example.org"), Route::Direct),
            (name("notexample.org"), Route::Proxy),
            (name("a.internal"), Route::Direct),
            (name("localhost"), Route::Direct),
            (ip("203.0.113.9"), Route::Direct),
            (ip("203.0.114.9"), Route::Proxy),
            (ip("2001:db8::7"), Route::Direct),
            (ip("127.0.0.1"), Route::Direct),
            (ip("192.168.1.1"), Route::Either),
        ];
        for (host, route) in table {
            assert_eq!(config.route(&host), route, "{host:?}");
        }
        let everything = ProxyConfig { exceptions: vec!["*".to_owned()], ..config };
        assert_eq!(everything.route(&name("a.example")), Route::Direct);
        assert_eq!(ProxyConfig::default().route(&name("a.example")), Route::Direct);
    }
}
