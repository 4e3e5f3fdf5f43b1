//! What does this network let through? Asked by trying, with the transports that a node uses.
//!
//! Each kind of transport dials by itself, so that one that works does not hide one that does not. Reaching a node of
//! another network, or one that leaves without a word, counts: the way there is open.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::address::{Endpoint, Host, Transport, host_name, split_node, transport_of};
use crate::config::{LanDiscovery, MeshConfig, Reservations};
use crate::dial::DialError;
use crate::event::{DialAttempt, DialOutcome, Interception};
use crate::mesh::{Mesh, StartError};
use crate::resolve::Resolver;
use crate::transport::{Inspected, Outward, Trust, WireError};

/// Addresses of one kind that are tried; the first that answers ends it.
const TRIES_MAX: usize = 4;
/// Addresses that are looked at altogether.
const TARGETS_MAX: usize = 32;
/// Any public host: a socket is pointed there to learn whether there is a route, and nothing is sent.
const SOMEWHERE_V4: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
const SOMEWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888);

/// The answer to one question about this network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was asked: `ipv4`, `ipv6`, `dns`, `doh`, `proxy`, `udp`, `tcp`, `443`,
    /// `interception` or `forwarding`.
    pub subject: &'static str,
    /// Whether it is so; `None` where nothing could tell.
    pub verdict: Option<bool>,
    /// In a sentence, with the reason.
    pub detail: String,
}

/// What this network lets through.
#[derive(Debug, Clone)]
pub struct Examination {
    /// The answers, in the order of the questions.
    pub findings: Vec<Finding>,
    /// Every dial that was made.
    pub attempts: Vec<DialAttempt>,
    /// The best transport that got through.
    pub best: Option<Transport>,
}

/// Tries everything, at the same time where one does not disturb the other. Takes at most about half a minute.
///
/// - `config`: as of the node whose network is examined; it neither listens nor looks for others here
/// - `targets`: nodes to try to reach; without them there is no telling what UDP and TCP can do
///
/// # Errors
/// [`StartError`] if no mesh can be started.
pub async fn examine(config: MeshConfig, targets: Vec<Multiaddr>) -> Result<Examination, StartError> {
    let inspected = Inspected::default();
    let outward = Arc::new(Outward {
        proxies: config.transport.proxies.clone(),
        trust: Trust::new(config.transport.authorities_pem.clone(), config.transport.inspection.clone()),
        inspected: inspected.clone(),
    });
    let resolver = Resolver::new(config.transport.dns.clone(), outward.clone());
    let mut by_kind =
        [(Transport::Quic, Vec::new()), (Transport::Tcp, Vec::new()), (Transport::Wss, Vec::new())];
    for target in targets.iter().take(TARGETS_MAX) {
        let leads_to_list = matches!(target.iter().next(), Some(Protocol::Dnsaddr(_)));
        let addrs = if leads_to_list {
            resolver.listed(target).await.unwrap_or_default()
        } else {
            vec![target.clone()]
        };
        for addr in addrs {
            let kind = transport_of(&split_node(&addr).0);
            for (transport, list) in &mut by_kind {
                if kind == Some(*transport) && list.len() < TRIES_MAX && !list.contains(&addr) {
                    list.push(addr.clone());
                }
            }
        }
    }
    let [quic, tcp, wss] = by_kind;
    let (quic, tcp, wss, names, web, forwarding) = tokio::join!(
        reach(&config, quic.1),
        reach(&config, tcp.1),
        reach(&config, wss.1),
        names(&resolver, &targets),
        web(&config, &outward),
        forwarding()
    );
    let kinds =
        [("udp", Transport::Quic, quic?), ("tcp", Transport::Tcp, tcp?), ("443", Transport::Wss, wss?)];
    let mut findings = vec![
        route("ipv4", SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), SocketAddr::from((SOMEWHERE_V4, 53))),
        route("ipv6", SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), SocketAddr::from((SOMEWHERE_V6, 53))),
    ];
    findings.extend(names);
    findings.push(proxy(&config, &web, &kinds));
    let mut interceptors: Vec<String> = web.iter().filter_map(|site| site.interceptor.clone()).collect();
    let mut attempts = Vec::new();
    let mut best = None;
    for (subject, transport, tried) in kinds {
        if tried.iter().any(got_through) {
            best = best.or(Some(transport));
        }
        interceptors.extend(tried.iter().filter_map(|attempt| match &attempt.interception {
            Some(Interception::Refused { issuer } | Interception::Allowed { issuer }) => Some(issuer.clone()),
            None => None,
        }));
        findings.push(passage(subject, transport, &tried, &web));
        attempts.extend(tried);
    }
    interceptors.sort();
    interceptors.dedup();
    findings.push(interception(&interceptors, &web, &attempts));
    findings.push(forwarding);
    Ok(Examination { findings, attempts, best })
}

/// Returns whether the way was open, whatever came of the connection.
fn got_through(attempt: &DialAttempt) -> bool {
    attempt.outcome == DialOutcome::Success
}

/// Dials `addrs`, one after the other until one answers, by a mesh of its own.
async fn reach(config: &MeshConfig, addrs: Vec<Multiaddr>) -> Result<Vec<DialAttempt>, StartError> {
    if addrs.is_empty() {
        return Ok(Vec::new());
    }
    let mut config = config.clone();
    config.listen = Vec::new();
    config.seeds = Vec::new();
    config.lan = LanDiscovery { mdns: false, loopback: false };
    config.reach.reservations = Reservations::Never;
    config.reach.port_mapping = false;
    config.reach.relay = None;
    let (mesh, mut events) = Mesh::start(config).await?;
    let told = tokio::spawn(async move {
        let mut attempts = Vec::new();
        while let Some(event) = events.recv().await {
            if let crate::event::MeshEvent::DialAttempt(attempt) = event {
                attempts.push(attempt);
            }
        }
        attempts
    });
    for addr in addrs {
        match mesh.dial(addr).await {
            Ok(_) | Err(DialError::WrongNetwork { .. } | DialError::Unidentified { .. }) => break,
            Err(_) => {}
        }
    }
    mesh.stop().await;
    drop(mesh);
    Ok(told.await.unwrap_or_default())
}

/// Returns whether an address cannot be used towards the internet. IPv4 is translated on the way, IPv6 is not.
fn is_local_only(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

fn route(subject: &'static str, from: SocketAddr, to: SocketAddr) -> Finding {
    let local = UdpSocket::bind(from).and_then(|socket| {
        socket.connect(to)?;
        socket.local_addr()
    });
    let (verdict, detail) = match local {
        Ok(local) if is_local_only(local.ip()) => {
            (false, format!("only the local network has it: our address is {}", local.ip()))
        }
        Ok(local) => (true, format!("there is a route to the internet, from {}", local.ip())),
        Err(error) => (false, format!("no route to the internet: {error}")),
    };
    Finding { subject, verdict: Some(verdict), detail }
}

/// Asks the router whether it forwards ports. Nothing is forwarded by that.
async fn forwarding() -> Finding {
    let (verdict, detail) = match crate::mapping::offered().await {
        Ok(protocols) if protocols.is_empty() => {
            (Some(false), "the router does not answer PCP, NAT-PMP or UPnP".to_owned())
        }
        Ok(protocols) => (Some(true), format!("the router offers {}", protocols.join(", "))),
        Err(error) => (None, format!("no router can be asked: {error}")),
    };
    Finding { subject: "forwarding", verdict, detail }
}

/// One server for DNS over HTTPS, seen as a web site.
struct Site {
    place: String,
    /// Why no TCP connection could be had.
    unreachable: Option<String>,
    interceptor: Option<String>,
    /// Why TLS failed otherwise.
    broken: Option<String>,
}

/// Visits the configured servers for DNS over HTTPS.
async fn web(config: &MeshConfig, outward: &Arc<Outward>) -> Vec<Site> {
    let visits = config.transport.dns.upstreams.iter().map(|upstream| async move {
        let place = upstream.place();
        let mut site = Site { place: place.clone(), unreachable: None, interceptor: None, broken: None };
        let visit = tokio::time::timeout(config.limits.dial_timeout, upstream.visit(outward));
        match visit.await {
            Err(_) => site.unreachable = Some("timed out".to_owned()),
            Ok(Err(Ok(WireError::Intercepted(disbelief)))) => site.interceptor = Some(disbelief.issuer),
            Ok(Err(Ok(other))) => site.broken = Some(other.to_string()),
            Ok(Err(Err(cause))) => site.unreachable = Some(cause),
            Ok(Ok(())) => site.interceptor = outward.inspected.of(&place),
        }
        site
    });
    futures::future::join_all(visits).await
}

/// Asks the system's name servers, and those over HTTPS, about the names in `targets`.
async fn names(resolver: &Resolver, targets: &[Multiaddr]) -> [Finding; 2] {
    let name = targets.iter().find_map(|target| match target.iter().next() {
        Some(Protocol::Dnsaddr(name)) => Some((host_name(&name)?, true)),
        _ => match Endpoint::parse(target)?.host {
            Host::Name(name, _) => Some((name, false)),
            Host::Ip(_) => None,
        },
    });
    // Without a name of ours, that of a server whose addresses we know anyway.
    let Some((name, is_list)) = name.or_else(|| Some((resolver.known_name()?, false))) else {
        let none =
            |subject| Finding { subject, verdict: None, detail: "there is no name to look up".to_owned() };
        return [none("dns"), none("doh")];
    };
    let (system, https) =
        tokio::join!(resolver.ask_system(&name, is_list), resolver.ask_https(&name, is_list));
    let finding = |subject, who: &str, result: Result<usize, String>| match result {
        Ok(count) => Finding {
            subject,
            verdict: Some(true),
            detail: format!("{who} know {name} ({count} answer{})", if count == 1 { "" } else { "s" }),
        },
        Err(cause) => Finding {
            subject,
            verdict: Some(false),
            detail: format!("{who} are of no help with {name}: {cause}"),
        },
    };
    [finding("dns", "this machine's name servers", system), finding("doh", "name servers over https", https)]
}

fn proxy(config: &MeshConfig, web: &[Site], kinds: &[(&str, Transport, Vec<DialAttempt>)]) -> Finding {
    let subject = "proxy";
    let Some(proxy) = &config.transport.proxies.proxy else {
        let detail = "none is configured: not by --proxy, and not by the environment".to_owned();
        return Finding { subject, verdict: None, detail };
    };
    let named = |cause: &&str| cause.starts_with("the proxy ");
    let causes =
        kinds.iter().flat_map(|(.., tried)| tried).filter_map(|attempt| attempt.root_cause.as_deref());
    let mut complaints =
        web.iter().filter_map(|site| site.unreachable.as_deref()).chain(causes).filter(named);
    let works = web.iter().any(|site| site.unreachable.is_none());
    match (works, complaints.next()) {
        (true, None) => {
            Finding { subject, verdict: Some(true), detail: format!("{proxy} takes us to the web") }
        }
        (_, Some(complaint)) => Finding { subject, verdict: Some(works), detail: complaint.to_owned() },
        (false, None) => Finding {
            subject,
            verdict: None,
            detail: format!("{proxy} is configured; nothing went through it"),
        },
    }
}

fn passage(subject: &'static str, transport: Transport, tried: &[DialAttempt], web: &[Site]) -> Finding {
    if let Some(attempt) = tried.iter().find(|attempt| got_through(attempt)) {
        let detail = format!("{transport} gets through, to {}", attempt.target_multiaddr);
        return Finding { subject, verdict: Some(true), detail };
    }
    let causes: Vec<String> = tried
        .iter()
        .filter_map(|attempt| {
            Some(format!("{}: {}", attempt.target_multiaddr, attempt.root_cause.as_deref()?))
        })
        .collect();
    if !causes.is_empty() {
        let detail = format!("{transport} does not get through; {}", causes.join("; "));
        return Finding { subject, verdict: Some(false), detail };
    }
    let open =
        (transport == Transport::Wss).then(|| web.iter().find(|site| site.unreachable.is_none())).flatten();
    match open {
        Some(site) => {
            let detail = format!(
                "web sites are reached ({}); no node with a {transport} address is known",
                site.place
            );
            Finding { subject, verdict: Some(true), detail }
        }
        None => {
            let detail =
                format!("no node with a {transport} address is known to try; name one with --target");
            Finding { subject, verdict: None, detail }
        }
    }
}

fn interception(interceptors: &[String], web: &[Site], attempts: &[DialAttempt]) -> Finding {
    let subject = "interception";
    if !interceptors.is_empty() {
        let detail = format!(
            "somebody opens the TLS of this network's connections, with certificates of {}",
            interceptors.join(", ")
        );
        return Finding { subject, verdict: Some(true), detail };
    }
    let seen = web.iter().filter(|site| site.unreachable.is_none() && site.broken.is_none()).count()
        + attempts
            .iter()
            .filter(|attempt| got_through(attempt) && attempt.transport == Some(Transport::Wss))
            .count();
    if seen > 0 {
        let detail = format!("nobody shows a certificate of their own ({seen} handshakes)");
        return Finding { subject, verdict: Some(false), detail };
    }
    let broken: Vec<&str> = web.iter().filter_map(|site| site.broken.as_deref()).collect();
    let detail = match broken.is_empty() {
        true => "no TLS handshake could be made, so nobody could show a certificate".to_owned(),
        false => broken.join("; "),
    };
    Finding { subject, verdict: None, detail }
}
