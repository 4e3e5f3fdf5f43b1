//! From names to addresses: the system's name servers first, DNS over HTTPS when they fail or lie (NET-23).
//!
//! ```text
//! /dnsaddr ──TXT──► multiaddrs, of which some are names again
//! /dns4 …  ──A, AAAA──► addresses of one endpoint
//! each look-up:  memory ──► system (5 s) ──fails, says no, or something that cannot be──► HTTPS (5 s)
//! ```
//!
//! Names that only the local network knows are never asked of anybody else.

mod https;
mod system;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::address::{Endpoint, Family, Host, Way, host_name, split_node};
use crate::transport::Outward;

pub use https::{DohUpstream, DohUpstreamError};

/// Longest wait for the system's name servers, and then for those over HTTPS.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Answers of one look-up that count.
const ANSWERS_MAX: usize = 32;
/// Longest multiaddr in a TXT record.
const RECORD_BYTES_MAX: usize = 1024;
/// How deep `/dnsaddr` records may name each other, and how many look-ups one address may cost.
const DNSADDR_DEPTH_MAX: u8 = 4;
const DNSADDR_LOOKUPS_MAX: u32 = 16;
/// Addresses that one name may come to.
pub(crate) const ENDPOINTS_MAX: usize = 16;
/// Answers that are remembered, and for how long: long enough for one round of dials, short enough to follow a relay
/// that moves.
const REMEMBERED_MAX: usize = 256;
const REMEMBERED: Duration = Duration::from_secs(60);

/// How names are looked up.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Servers that answer over HTTPS, asked one after the other.
    pub upstreams: Vec<DohUpstream>,
    /// Ask nobody else.
    pub https_only: bool,
    /// Longest wait for each kind of server.
    pub timeout: Duration,
    /// Name servers to ask instead of the system's.
    pub servers: Vec<SocketAddr>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            upstreams: DohUpstream::public().to_vec(),
            https_only: false,
            timeout: TIMEOUT_DEFAULT,
            servers: Vec::new(),
        }
    }
}

/// A name could not be looked up.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("looking up {name} failed: {system}; over https: {https}")]
    Both { name: String, system: String, https: String },
    #[error("looking up {name} failed: {cause}")]
    Failed { name: String, cause: String },
    #[error("{name} names no address that we can dial{wanted}")]
    Empty { name: String, wanted: &'static str },
    #[error("{0} is no name")]
    Malformed(String),
}

/// What is asked about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Question {
    Addresses,
    Texts,
}

/// What a name server said.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Address(IpAddr),
    Text(String),
}

/// Looks names up. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<Inner>);

/// What was said about a name, and when.
type Memory = HashMap<(String, Question), (Instant, Vec<Answer>)>;

struct Inner {
    config: DnsConfig,
    outward: Arc<Outward>,
    system: system::System,
    memory: Mutex<Memory>,
    /// Whether the last look-up needed HTTPS: told once, not at every name.
    engaged: AtomicBool,
}

/// Returns the address in a record of a `/dnsaddr` list, if it is one.
fn listed_in(text: &str) -> Option<Multiaddr> {
    let record = text.strip_prefix("dnsaddr=").filter(|text| text.len() <= RECORD_BYTES_MAX)?;
    record.trim().parse().ok()
}

/// Reads what a server over HTTPS answered: the addresses, and the entries of a list, that would be used.
pub(crate) fn read_answer(body: &[u8]) -> Result<(Vec<IpAddr>, Vec<Multiaddr>), String> {
    let (mut addresses, mut listed) = (Vec::new(), Vec::new());
    for answer in believable(https::read_answer(body)?, false)? {
        match answer {
            Answer::Address(ip) => addresses.push(ip),
            Answer::Text(text) => listed.extend(listed_in(&text)),
        }
    }
    Ok((addresses, listed))
}

impl Resolver {
    pub(crate) fn new(config: DnsConfig, outward: Arc<Outward>) -> Self {
        let system = system::System::new(config.servers.clone(), config.timeout);
        Self(Arc::new(Inner {
            config,
            outward,
            system,
            memory: Mutex::default(),
            engaged: AtomicBool::new(false),
        }))
    }

    /// Returns the addresses without names that `addr` stands for; itself, if there is no name in it. Names that a proxy
    /// looks up stay.
    pub(crate) async fn endpoints(&self, addr: &Multiaddr) -> Result<Vec<Multiaddr>, ResolveError> {
        let (bare, peer) = split_node(addr);
        if let Some(Protocol::Dnsaddr(name)) = bare.iter().next() {
            let name = host_name(&name).ok_or_else(|| ResolveError::Malformed(addr.to_string()))?;
            let mut found = Vec::new();
            for addr in self.dnsaddr(&name, peer).await? {
                // One record that leads nowhere must not hide the others.
                let more = self.named(&split_node(&addr).0).await.unwrap_or_default();
                found.extend(more);
                found.truncate(ENDPOINTS_MAX);
            }
            return match found.is_empty() {
                true => Err(ResolveError::Empty { name, wanted: wanted(peer) }),
                false => Ok(found),
            };
        }
        self.named(&bare).await
    }

    /// Returns what `addr` stands for according to DNS over HTTPS, where the system's name servers said something else
    /// that led nowhere.
    pub(crate) async fn second_opinion(&self, addr: &Multiaddr) -> Option<Vec<Multiaddr>> {
        let endpoint = Endpoint::parse(addr)?;
        let Host::Name(name, family) = &endpoint.host else { return None };
        if self.0.config.https_only || is_local(name) || self.0.outward.is_proxied(&endpoint.host) {
            return None;
        }
        let before = self.remembered(&(name.clone(), Question::Addresses))?;
        let answers = https::ask(&self.0.config, &self.0.outward, name, Question::Addresses).await.ok()?;
        let answers = believable(answers, false).ok()?;
        let others: Vec<Answer> = answers.into_iter().filter(|answer| !before.contains(answer)).collect();
        if others.is_empty() {
            return None;
        }
        tracing::info!(
            name,
            "the system's name servers named other addresses, and none answered; trying those over https"
        );
        self.remember((name.clone(), Question::Addresses), others);
        let addresses = self.addresses(name, *family).await.ok()?;
        Some(addresses.into_iter().map(|ip| at_address(addr, name, ip)).collect())
    }

    /// Returns the addresses that the list `addr` names, names in them left alone.
    pub(crate) async fn listed(&self, addr: &Multiaddr) -> Result<Vec<Multiaddr>, ResolveError> {
        let (bare, peer) = split_node(addr);
        match bare.iter().next() {
            Some(Protocol::Dnsaddr(name)) => {
                let name = host_name(&name).ok_or_else(|| ResolveError::Malformed(addr.to_string()))?;
                self.dnsaddr(&name, peer).await
            }
            _ => Ok(vec![addr.clone()]),
        }
    }

    /// Returns a name that can be asked about although nobody named one.
    pub(crate) fn known_name(&self) -> Option<String> {
        let names = self.0.config.upstreams.iter().map(DohUpstream::name);
        names.into_iter().find(|name| name.parse::<IpAddr>().is_err()).map(str::to_owned)
    }

    /// Asks the system's name servers only; returns how many answers can be true.
    pub(crate) async fn ask_system(&self, name: &str, is_list: bool) -> Result<usize, String> {
        let (name, question) = asked_about(name, is_list);
        let answers = self.0.system.ask(&name, question).await?;
        Ok(believable(answers, is_local(&name))?.len())
    }

    /// Asks the servers over HTTPS only.
    pub(crate) async fn ask_https(&self, name: &str, is_list: bool) -> Result<usize, String> {
        let (name, question) = asked_about(name, is_list);
        if is_local(&name) {
            return Err("only the local network can know it".to_owned());
        }
        let answers = https::ask(&self.0.config, &self.0.outward, &name, question).await?;
        Ok(believable(answers, false)?.len())
    }

    /// As `endpoints`, for `/dns`, `/dns4` and `/dns6` only.
    async fn named(&self, addr: &Multiaddr) -> Result<Vec<Multiaddr>, ResolveError> {
        let Some(endpoint) = Endpoint::parse(addr) else { return Ok(vec![addr.clone()]) };
        let Host::Name(name, family) = &endpoint.host else { return Ok(vec![addr.clone()]) };
        if endpoint.way != Way::Quic && self.0.outward.is_proxied(&endpoint.host) {
            return Ok(vec![addr.clone()]);
        }
        let addresses = self.addresses(name, *family).await?;
        Ok(addresses.into_iter().map(|ip| at_address(addr, name, ip)).collect())
    }

    /// Returns the addresses of `name`, IPv6 and IPv4 in turns.
    async fn addresses(&self, name: &str, family: Family) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(ip) = name.parse() {
            return Ok(vec![ip]);
        }
        let all: Vec<IpAddr> = if name == "localhost" || name.ends_with(".localhost") {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        } else {
            let answers = self.look_up(name, Question::Addresses).await?;
            answers
                .into_iter()
                .filter_map(|answer| match answer {
                    Answer::Address(ip) => Some(ip),
                    Answer::Text(_) => None,
                })
                .collect()
        };
        let (v6, v4): (Vec<IpAddr>, Vec<IpAddr>) = all.into_iter().partition(IpAddr::is_ipv6);
        let found = match family {
            Family::V4 => v4,
            Family::V6 => v6,
            Family::Any => in_turns(v6, v4),
        };
        let wanted = match family {
            Family::V4 => " (IPv4 is wanted)",
            Family::V6 => " (IPv6 is wanted)",
            Family::Any => "",
        };
        match found.is_empty() {
            true => Err(ResolveError::Empty { name: name.to_owned(), wanted }),
            false => Ok(found.into_iter().take(ENDPOINTS_MAX).collect()),
        }
    }

    /// Returns what the TXT records of `name` say, each address ending in its peer; only those of `peer` if it is given.
    pub(crate) async fn dnsaddr(
        &self,
        name: &str,
        peer: Option<PeerId>,
    ) -> Result<Vec<Multiaddr>, ResolveError> {
        let mut lookups_left = DNSADDR_LOOKUPS_MAX;
        let found = self.dnsaddr_within(name.to_owned(), peer, DNSADDR_DEPTH_MAX, &mut lookups_left).await?;
        match found.is_empty() {
            true => Err(ResolveError::Empty { name: name.to_owned(), wanted: wanted(peer) }),
            false => Ok(found),
        }
    }

    fn dnsaddr_within<'a>(
        &'a self,
        name: String,
        peer: Option<PeerId>,
        depth_left: u8,
        lookups_left: &'a mut u32,
    ) -> BoxFuture<'a, Result<Vec<Multiaddr>, ResolveError>> {
        async move {
            *lookups_left = lookups_left.saturating_sub(1);
            let answers = self.look_up(&format!("_dnsaddr.{name}"), Question::Texts).await?;
            let mut found = Vec::new();
            for answer in answers {
                let Answer::Text(text) = answer else { continue };
                let Some(addr) = listed_in(&text) else { continue };
                let (bare, named) = split_node(&addr);
                if peer.is_some() && named.is_some() && named != peer {
                    continue;
                }
                match bare.iter().next() {
                    Some(Protocol::Dnsaddr(next)) => {
                        let Some(next) = host_name(&next) else { continue };
                        if depth_left > 0 && *lookups_left > 0 {
                            let below =
                                self.dnsaddr_within(next, named.or(peer), depth_left - 1, lookups_left);
                            found.extend(below.await.unwrap_or_default());
                        }
                    }
                    // Without a peer it says nothing about whom we would reach.
                    _ if named.is_some() => found.push(addr),
                    _ => {}
                }
                if found.len() >= ENDPOINTS_MAX {
                    found.truncate(ENDPOINTS_MAX);
                    break;
                }
            }
            Ok(found)
        }
        .boxed()
    }

    async fn look_up(&self, name: &str, question: Question) -> Result<Vec<Answer>, ResolveError> {
        let key = (name.to_owned(), question);
        if let Some(known) = self.remembered(&key) {
            return Ok(known);
        }
        let answers = self.ask(name, question).await?;
        self.remember(key, answers.clone());
        Ok(answers)
    }

    fn remember(&self, key: (String, Question), answers: Vec<Answer>) {
        let mut memory = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.len() >= REMEMBERED_MAX {
            memory.clear();
        }
        memory.insert(key, (Instant::now(), answers));
    }

    fn remembered(&self, key: &(String, Question)) -> Option<Vec<Answer>> {
        let memory = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, answers) = memory.get(key)?;
        (at.elapsed() < REMEMBERED).then(|| answers.clone())
    }

    async fn ask(&self, name: &str, question: Question) -> Result<Vec<Answer>, ResolveError> {
        let inner = &*self.0;
        let local = is_local(name);
        let system = if inner.config.https_only && !local {
            None
        } else {
            match inner.system.ask(name, question).await.and_then(|answers| believable(answers, local)) {
                Ok(answers) => {
                    inner.engaged.store(false, Ordering::Relaxed);
                    return Ok(answers);
                }
                Err(cause) if local => return Err(ResolveError::Failed { name: name.to_owned(), cause }),
                Err(cause) => Some(cause),
            }
        };
        if let Some(cause) = &system {
            let first = !inner.engaged.swap(true, Ordering::Relaxed);
            if first {
                tracing::info!(name, cause, "the system's name servers are of no help; asking over https");
            } else {
                tracing::debug!(name, cause, "asking over https");
            }
        }
        let https = https::ask(&inner.config, &inner.outward, name, question).await;
        https.and_then(|answers| believable(answers, false)).map_err(|https| match system {
            Some(system) => ResolveError::Both { name: name.to_owned(), system, https },
            None => ResolveError::Failed { name: name.to_owned(), cause: https },
        })
    }
}

fn asked_about(name: &str, is_list: bool) -> (String, Question) {
    if is_list {
        (format!("_dnsaddr.{name}"), Question::Texts)
    } else {
        (name.to_owned(), Question::Addresses)
    }
}

fn wanted(peer: Option<PeerId>) -> &'static str {
    if peer.is_some() { " and is of the wanted peer" } else { "" }
}

/// Returns `addr` with the name in it replaced by `ip`; under TLS the name stays as what the certificate must say.
fn at_address(addr: &Multiaddr, name: &str, ip: IpAddr) -> Multiaddr {
    let mut parts: Vec<Protocol<'_>> = vec![ip.into()];
    let rest: Vec<Protocol<'_>> = addr.iter().skip(1).collect();
    let has_sni = rest.iter().any(|part| matches!(part, Protocol::Sni(_)));
    for part in rest {
        match part {
            Protocol::Tls if !has_sni => {
                parts.extend([Protocol::Tls, Protocol::Sni(name.to_owned().into())]);
            }
            Protocol::Wss(path) if !has_sni => {
                let sni = Protocol::Sni(name.to_owned().into());
                parts.extend([Protocol::Tls, sni, Protocol::Ws(path)]);
            }
            part => parts.push(part),
        }
    }
    parts.into_iter().collect()
}

/// Returns the items of both, in turns, beginning with `first`.
pub(crate) fn in_turns<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
    let mut all = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        match (first.next(), second.next()) {
            (None, None) => return all,
            (a, b) => all.extend(a.into_iter().chain(b)),
        }
    }
}

/// Returns whether only the local network can know `name`.
fn is_local(name: &str) -> bool {
    const LOCAL: [&str; 9] =
        ["localhost", "local", "localdomain", "lan", "home", "corp", "internal", "intranet", "home.arpa"];
    let name = name.strip_prefix("_dnsaddr.").unwrap_or(name);
    !name.contains('.')
        || LOCAL.iter().any(|zone| name.strip_suffix(zone).is_some_and(|above| above.ends_with('.')))
}

/// What filters like to answer with.
const ONESELF: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Returns the answers that can be true, or why none is: filters answer with addresses that nobody on the internet has.
fn believable(answers: Vec<Answer>, local: bool) -> Result<Vec<Answer>, String> {
    let count = answers.len();
    let possible = |answer: &Answer| match answer {
        Answer::Address(ip) => local || !(ip.is_unspecified() || ONESELF.contains(ip)),
        Answer::Text(_) => true,
    };
    let answers: Vec<Answer> = answers.into_iter().filter(possible).take(ANSWERS_MAX).collect();
    match (answers.is_empty(), count) {
        (false, _) => Ok(answers),
        (true, 0) => Err("the answer is empty".to_owned()),
        (true, _) => Err("the answer is this machine itself, as filters say".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_becomes_an_address_and_stays_the_name_of_the_certificate() {
        let table = [
            ("/dns4/relay.example/tcp/7", "/ip4/192.0.2.1/tcp/7"),
            ("/dns/relay.example/udp/7/quic-v1", "/ip4/192.0.2.1/udp/7/quic-v1"),
            ("/dns4/relay.example/tcp/443/wss", "/ip4/192.0.2.1/tcp/443/tls/sni/relay.example/ws"),
            ("/dns4/relay.example/tcp/443/tls/ws", "/ip4/192.0.2.1/tcp/443/tls/sni/relay.example/ws"),
            ("/dns4/relay.example/tcp/443/tls/sni/other/ws", "/ip4/192.0.2.1/tcp/443/tls/sni/other/ws"),
        ];
        for (named, at) in table {
            assert_eq!(at_address(&addr(named), "relay.example", [192, 0, 2, 1].into()), addr(at));
        }
    }

    #[test]
    fn names_of_the_local_network_are_recognised() {
        for name in ["printer", "nas.local", "a.b.home.arpa", "_dnsaddr.relay", "x.corp"] {
            assert!(is_local(name), "{name}");
        }
        for name in ["relay.example", "locale.example", "_dnsaddr.bootstrap.worldcompute.org"] {
            assert!(!is_local(name), "{name}");
        }
    }

    #[test]
    fn answers_that_filters_give_are_not_believed() {
        let ip = |text: &str| Answer::Address(text.parse().unwrap());
        assert!(believable(vec![ip("0.0.0.0"), ip("::1")], false).unwrap_err().contains("filters"));
        assert!(believable(vec![], false).unwrap_err().contains("empty"));
        assert_eq!(believable(vec![ip("127.0.0.1"), ip("192.0.2.1")], false), Ok(vec![ip("192.0.2.1")]));
        assert_eq!(believable(vec![ip("127.0.0.1")], true), Ok(vec![ip("127.0.0.1")]));
    }
}
