//! Ports that the router forwards to us, when it is asked by PCP, NAT-PMP or UPnP (NET-10).
//!
//! One task per transport asks the router as long as this node listens on a private address, renews what it got before
//! it runs out, and gives it back when the node stops. Whether strangers really get through to a forwarded port is for
//! peers to say: until one has dialled it, it is no address of ours.
//!
//! PCP and NAT-PMP are the library's; UPnP, of which the library believes answers of any length, is ours ([`upnp`]).

mod upnp;

use std::net::SocketAddrV4;
use std::num::NonZeroU16;
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use portmapper::{Client, Config};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::address::{Transport, transport_of};
use crate::path::{is_near, socket_of};
use upnp::Carrier;

/// Pause before a router that forwarded nothing is asked again; somebody may have switched it on.
const ASK_AGAIN: Duration = Duration::from_secs(300);
/// Longest wait for the router to take a mapping back when the node stops.
const GIVE_BACK: Duration = Duration::from_secs(1);
/// News that wait for the host; each transport has one mapping.
const NEWS_MAX: usize = 4;

/// What a router forwards for one transport now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forwarded {
    /// QUIC or TCP.
    pub(crate) transport: Transport,
    /// The address outside, if there is one.
    pub(crate) at: Option<SocketAddrV4>,
}

impl Forwarded {
    /// Returns the address at which others may reach us.
    pub(crate) fn addr(&self) -> Option<Multiaddr> {
        let at = self.at?;
        let ip = Multiaddr::from(*at.ip());
        Some(match self.transport {
            Transport::Quic => ip.with(Protocol::Udp(at.port())).with(Protocol::QuicV1),
            _ => ip.with(Protocol::Tcp(at.port())),
        })
    }
}

/// Ports of ours to be forwarded, by the transports that are asked for.
type Ports = [Option<NonZeroU16>; 2];

const TRANSPORTS: [Transport; 2] = [Transport::Quic, Transport::Tcp];

/// Asks the router.
#[derive(Debug)]
pub(crate) struct PortMapping {
    ports: watch::Sender<Ports>,
    news: mpsc::Receiver<Forwarded>,
    tasks: JoinSet<()>,
}

impl PortMapping {
    /// Starts to ask, once there is something to forward.
    pub(crate) fn start() -> Self {
        let (told, news) = mpsc::channel(NEWS_MAX);
        let ports = watch::Sender::new(Ports::default());
        let mut tasks = JoinSet::new();
        for number in 0..TRANSPORTS.len() {
            tasks.spawn(ask(number, ports.subscribe(), told.clone()));
        }
        Self { ports, news, tasks }
    }

    /// Takes note of where this node listens: ports on private addresses are to be forwarded. One with a public address
    /// of its own needs no router.
    pub(crate) fn listening<'a>(&self, addrs: impl Iterator<Item = &'a Multiaddr>) {
        let wanted = ports(addrs);
        self.ports.send_if_modified(|ports| std::mem::replace(ports, wanted) != wanted);
    }

    /// Returns the next change of what is forwarded.
    pub(crate) async fn news(&mut self) -> Option<Forwarded> {
        self.news.recv().await
    }

    /// Gives everything back.
    pub(crate) async fn stop(self) {
        let Self { ports, news, mut tasks } = self;
        drop((ports, news));
        while tasks.join_next().await.is_some() {}
    }
}

fn ports<'a>(addrs: impl Iterator<Item = &'a Multiaddr>) -> Ports {
    let mut ports = Ports::default();
    let mut public = false;
    for addr in addrs {
        let (Some(socket), Some(transport)) = (socket_of(addr), transport_of(addr)) else { continue };
        if !socket.is_ipv4() || socket.ip().is_loopback() {
            continue;
        }
        public |= !is_near(addr);
        if let Some(number) = TRANSPORTS.iter().position(|known| *known == transport) {
            ports[number] = ports[number].or(NonZeroU16::new(socket.port()));
        }
    }
    if public { Ports::default() } else { ports }
}

/// Looks after one mapping until the host is gone.
async fn ask(number: usize, mut ports: watch::Receiver<Ports>, told: mpsc::Sender<Forwarded>) {
    let transport = TRANSPORTS[number];
    let mut wanted = None;
    while wanted.is_none() {
        if ports.changed().await.is_err() {
            return;
        }
        wanted = ports.borrow_and_update()[number];
    }
    let (protocol, carrier) = match transport {
        Transport::Quic => (portmapper::Protocol::Udp, Carrier::Udp),
        _ => (portmapper::Protocol::Tcp, Carrier::Tcp),
    };
    let client = Client::new(Config { protocol, ..config() });
    let mut forwarded = client.watch_external_address();
    let mut asked = None;
    let mut lease: Option<Lease> = None;
    loop {
        // What the router speaks may have changed since.
        let probe = client.probe();
        let mut spoken = false;
        if let Ok(Ok(found)) = probe.await {
            spoken = found.pcp || found.nat_pmp;
            tracing::debug!(%transport, router = %found, "the router was asked what it offers");
        }
        match wanted {
            Some(port) if asked == wanted => {
                tracing::debug!(%transport, port, "the router is asked once more");
                client.procure_mapping();
            }
            Some(port) => client.update_local_port(port),
            None => {}
        }
        asked = wanted;
        let before = lease.as_ref().map(|lease| lease.at);
        if let Some(over) = lease.take_if(|lease| spoken || Some(lease.port) != wanted) {
            over.give_back(carrier).await;
        }
        let unserved = !spoken && forwarded.borrow().is_none();
        if let Some(port) = wanted.filter(|_| unserved) {
            lease = tokio::select! {
                renewed = Lease::get(lease.take(), carrier, port) => renewed,
                other = ports.wait_for(|ports| ports[number] != wanted) => {
                    if other.is_err() {
                        return;
                    }
                    None
                }
            };
        }
        let at = lease.as_ref().map(|lease| lease.at);
        if at != before && told.send(Forwarded { transport, at }).await.is_err() {
            return;
        }
        let now = ports.borrow()[number];
        if now != wanted {
            wanted = now;
            continue;
        }
        let pause = tokio::time::sleep(if lease.is_some() { upnp::RENEW_AFTER } else { ASK_AGAIN });
        tokio::pin!(pause);
        loop {
            let holds = forwarded.borrow().is_some();
            tokio::select! {
                changed = ports.changed() => {
                    if changed.is_err() {
                        if let Some(lease) = lease {
                            lease.give_back(carrier).await;
                        }
                        return give_back(&client, holds).await;
                    }
                    wanted = ports.borrow_and_update()[number];
                    if wanted.is_none() {
                        client.deactivate();
                    }
                    break;
                }
                changed = forwarded.changed() => {
                    let at = *forwarded.borrow_and_update();
                    if changed.is_err() || told.send(Forwarded { transport, at }).await.is_err() {
                        return give_back(&client, at.is_some()).await;
                    }
                }
                () = &mut pause, if !holds => break,
            }
        }
    }
}

/// Returns what the library is to speak.
fn config() -> Config {
    Config { enable_upnp: false, ..Config::default() }
}

/// A port that a router forwards by UPnP.
#[derive(Debug)]
struct Lease {
    router: upnp::Router,
    port: NonZeroU16,
    at: SocketAddrV4,
}

impl Lease {
    /// Gets a lease, or renews one of the same port.
    async fn get(before: Option<Self>, carrier: Carrier, port: NonZeroU16) -> Option<Self> {
        let outer = before.as_ref().map(|lease| lease.at.port());
        let router = match before {
            Some(lease) => lease.router,
            None => upnp::find().await?,
        };
        match router.forward(carrier, port, outer).await {
            Ok(at) => Some(Self { router, port, at }),
            Err(error) => {
                tracing::debug!(?router, %error, "no port is forwarded by UPnP");
                None
            }
        }
    }

    async fn give_back(self, carrier: Carrier) {
        // It runs out by itself.
        let _ = tokio::time::timeout(GIVE_BACK, self.router.give_back(carrier, self.at.port())).await;
    }
}

/// Asks this network's router which protocols it has for forwarding ports. Takes about a second.
///
/// # Errors
/// Why no router could be asked.
pub(crate) async fn offered() -> Result<Vec<&'static str>, String> {
    let client = Client::new(config());
    let (found, router) = tokio::join!(client.probe(), upnp::find());
    let found = found.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let protocols = [("PCP", found.pcp), ("NAT-PMP", found.nat_pmp), ("UPnP", router.is_some())];
    Ok(protocols.into_iter().filter_map(|(name, offered)| offered.then_some(name)).collect())
}

async fn give_back(client: &Client, held: bool) {
    if held {
        client.deactivate();
        // Messages are answered in turn: whatever the answer, the mapping was given back before it.
        let _ = tokio::time::timeout(GIVE_BACK, client.probe()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(addrs: &[&str]) -> [u16; 2] {
        let addrs: Vec<Multiaddr> = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
        ports(addrs.iter()).map(|port| port.map_or(0, NonZeroU16::get))
    }

    #[test]
    fn ports_on_private_addresses_are_forwarded_and_no_others() {
        let loopback = "/ip4/127.0.0.1/tcp/1";
        let (udp, tcp) = ("/ip4/192.168.1.2/udp/19999/quic-v1", "/ip4/192.168.1.2/tcp/2");
        let wss = "/ip4/192.168.1.2/tcp/443/tls/ws";
        let v6 = "/ip6/fd00::1/tcp/5";
        assert_eq!(wanted(&[loopback, v6]), [0, 0]);
        assert_eq!(wanted(&[loopback, wss, udp, tcp, "/ip4/10.0.0.2/tcp/3"]), [19999, 2]);
        assert_eq!(wanted(&[udp, tcp, "/ip4/8.8.8.8/tcp/4"]), [0, 0], "it is reached without a router");
    }

    #[test]
    fn a_forwarded_port_is_an_address_of_its_transport() {
        let at = Some("203.0.113.9:4000".parse().unwrap());
        let addr = |transport| Forwarded { transport, at }.addr().unwrap().to_string();
        assert_eq!(addr(Transport::Quic), "/ip4/203.0.113.9/udp/4000/quic-v1");
        assert_eq!(addr(Transport::Tcp), "/ip4/203.0.113.9/tcp/4000");
        assert_eq!(Forwarded { transport: Transport::Tcp, at: None }.addr(), None);
    }
}
