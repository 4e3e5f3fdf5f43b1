//! Nodes on one machine find each other without any network.
//!
//! Multicast DNS leaves out the loopback interface, so each node also sends a small datagram to a multicast group that
//! lives on 127.0.0.1 only (TTL 0): a few times at the start, once when it hears somebody new, then every 10 seconds.
//! Where loopback has no multicast, nodes take the first free port of a short range and send to all of them instead.
//!
//! A beacon is a hint, never a proof: whoever is found is dialled and must show its key and its network. What it says is
//! in [`wc_proto::peer::beacon`].

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use socket2::{Domain, Socket, Type};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use wc_proto::peer::beacon::{BEACON_BYTES_MAX, Beacon, Port};
use wc_types::NodeId;

use super::{News, Sighting, network_digest};
use crate::event::Via;

/// Administratively scoped group (RFC 2365), joined on loopback only.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 77, 67);
/// Port of the group; next to the default listen port so that one firewall note covers both.
const GROUP_PORT: u16 = 19998;
/// Ports tried where loopback has no multicast. One node each, so this is also how many nodes then find each other.
const FALLBACK_PORTS: std::ops::Range<u16> = 19_900..19_964;

/// Pauses between the beacons at the start: the second and third cover a neighbour that was just starting, too.
const START_PAUSES: [Duration; 3] =
    [Duration::from_millis(60), Duration::from_millis(200), Duration::from_millis(800)];
const PAUSE: Duration = Duration::from_secs(10);
/// Answers to newcomers are at least this far apart, so that a crowd that starts at once costs one beacon each.
const ANSWER_PAUSE: Duration = Duration::from_millis(20);
/// How long our own first beacon may take to come back before loopback counts as having no multicast.
const ECHO_TIMEOUT: Duration = Duration::from_millis(250);

/// Nodes whose last beacon is remembered; more than that on one machine is somebody playing.
const HEARD_MAX: usize = 1024;

/// Returns the loopback port behind a listen address, if it is one on 127.0.0.1.
pub(crate) fn port_of(addr: &Multiaddr) -> Option<Port> {
    let mut parts = addr.iter();
    match (parts.next()?, parts.next()?, parts.next()) {
        (Protocol::Ip4(Ipv4Addr::LOCALHOST), Protocol::Tcp(port), None) => Some(Port::Tcp(port)),
        (Protocol::Ip4(Ipv4Addr::LOCALHOST), Protocol::Udp(port), Some(_)) => Some(Port::Quic(port)),
        _ => None,
    }
}

fn addr_of(port: Port) -> Multiaddr {
    let local = Multiaddr::from(Ipv4Addr::LOCALHOST);
    match port {
        Port::Tcp(port) => local.with(Protocol::Tcp(port)),
        Port::Quic(port) => local.with(Protocol::Udp(port)).with(Protocol::QuicV1),
    }
}

/// Runs the beacon until `news` has no reader or `ports` no writer.
pub(crate) async fn run(
    node: NodeId,
    network: String,
    boot: u64,
    mut ports: watch::Receiver<Vec<Port>>,
    news: mpsc::Sender<News>,
) {
    let network = network_digest(&network);
    let degraded = |cause| News::Degraded { via: Via::Loopback, cause };
    let mut post = match Post::open(network, boot).await {
        Ok(post) => post,
        Err(error) => {
            let _ = news.send(degraded(format!("no beacon at all: {error}"))).await;
            return;
        }
    };
    if let Some(cause) = post.degraded.take() {
        let _ = news.send(degraded(cause)).await;
    }
    // Without an address there is nothing to announce yet, but others can already be heard.
    let mut heard: HashMap<NodeId, (u64, Instant)> = HashMap::new();
    let mut pauses = START_PAUSES.into_iter();
    let mut next_at = Instant::now();
    let mut sent_at: Option<Instant> = None;
    let mut buffer = [0; BEACON_BYTES_MAX + 1];
    loop {
        tokio::select! {
            received = post.socket.recv_from(&mut buffer) => {
                let Ok((length, SocketAddr::V4(source))) = received else {
                    // A socket that keeps failing must not spin.
                    tokio::time::sleep(ANSWER_PAUSE).await;
                    continue;
                };
                // The kernel drops 127.0.0.0/8 from the wire, so a loopback source is a process of this machine.
                let Some(beacon) = Beacon::decode(&buffer[..length]).filter(|_| source.ip().is_loopback()) else {
                    continue;
                };
                // One without ports is the probe of a node that is just starting.
                if beacon.network != network || beacon.node == node || beacon.ports.is_empty() {
                    continue;
                }
                let now = Instant::now();
                if heard.len() >= HEARD_MAX {
                    heard.retain(|_, (_, at)| now.duration_since(*at) < 3 * PAUSE);
                }
                let news_of = heard.get(&beacon.node).is_none_or(|(boot, _)| *boot != beacon.boot);
                if heard.len() < HEARD_MAX || !news_of {
                    heard.insert(beacon.node, (beacon.boot, now));
                }
                if news_of {
                    // Answer, or the newcomer waits for our next round.
                    let earliest = sent_at.map_or(now, |at| at + ANSWER_PAUSE);
                    next_at = next_at.min(earliest.max(now));
                }
                let addrs = beacon.ports.into_iter().map(addr_of).collect();
                let sighting = News::Sighting(Sighting { node: beacon.node, addrs, via: Via::Loopback });
                // A full queue loses a hint that comes again in ten seconds.
                if let Err(mpsc::error::TrySendError::Closed(_)) = news.try_send(sighting) {
                    return;
                }
            }
            changed = ports.changed() => {
                if changed.is_err() {
                    return;
                }
                next_at = Instant::now();
                pauses = START_PAUSES.into_iter();
            }
            () = tokio::time::sleep_until(next_at.into()) => {
                let listening = ports.borrow_and_update().clone();
                if !listening.is_empty() {
                    post.send(&Beacon { network, boot, node, ports: listening }.encode()).await;
                }
                let now = Instant::now();
                sent_at = Some(now);
                next_at = now + pauses.next().unwrap_or(PAUSE);
            }
        }
    }
}

/// A socket and where to send to.
struct Post {
    socket: tokio::net::UdpSocket,
    targets: Vec<SocketAddrV4>,
    degraded: Option<String>,
}

impl Post {
    async fn open(network: [u8; 8], boot: u64) -> io::Result<Self> {
        let multicast = match Self::multicast() {
            Ok(post) if post.hears_itself(network, boot).await => return Ok(post),
            Ok(_) => "multicast on loopback does not come back".to_owned(),
            Err(error) => format!("no multicast on loopback: {error}"),
        };
        let mut post = Self::unicast()?;
        post.degraded = Some(format!("{multicast}; using ports {FALLBACK_PORTS:?} of 127.0.0.1"));
        Ok(post)
    }

    /// Returns a socket that hears exactly the group on loopback, shared with the other nodes of this machine.
    fn multicast() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.set_reuse_address(true)?;
        // BSD and macOS share a multicast port only with this one too. On Linux it would tie the port to one user.
        #[cfg(all(unix, not(target_os = "linux")))]
        socket.set_reuse_port(true)?;
        #[cfg(unix)]
        socket.bind(&SocketAddrV4::new(GROUP, GROUP_PORT).into())?;
        #[cfg(not(unix))]
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, GROUP_PORT).into())?;
        socket.join_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST)?;
        socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST)?;
        socket.set_multicast_ttl_v4(0)?;
        socket.set_multicast_loop_v4(true)?;
        Self::from_socket(socket.into(), vec![SocketAddrV4::new(GROUP, GROUP_PORT)])
    }

    /// Returns a socket on the first free port of the fallback range.
    fn unicast() -> io::Result<Self> {
        let mut last = io::ErrorKind::AddrInUse.into();
        for port in FALLBACK_PORTS {
            match UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
                Ok(socket) => {
                    let targets =
                        FALLBACK_PORTS.map(|port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).collect();
                    return Self::from_socket(socket, targets);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn from_socket(socket: UdpSocket, targets: Vec<SocketAddrV4>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket: tokio::net::UdpSocket::from_std(socket)?, targets, degraded: None })
    }

    /// Sends a beacon of nobody and waits until it comes back.
    async fn hears_itself(&self, network: [u8; 8], boot: u64) -> bool {
        let probe = Beacon { network, boot, node: NodeId([0; 32]), ports: Vec::new() }.encode();
        self.send(&probe).await;
        let echo = async {
            let mut buffer = [0; BEACON_BYTES_MAX + 1];
            loop {
                match self.socket.recv_from(&mut buffer).await {
                    Ok((length, _)) if buffer[..length] == probe[..] => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        timeout(ECHO_TIMEOUT, echo).await.unwrap_or(false)
    }

    /// Sends to everyone. A beacon that is lost is sent again in ten seconds, so errors are not news.
    async fn send(&self, bytes: &[u8]) {
        for target in &self.targets {
            if let Err(error) = self.socket.send_to(bytes, SocketAddr::V4(*target)).await {
                tracing::trace!(%target, %error, "beacon not sent");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_listeners_are_announced() {
        let port = |text: &str| port_of(&text.parse().unwrap());
        assert_eq!(port("/ip4/127.0.0.1/tcp/5"), Some(Port::Tcp(5)));
        assert_eq!(port("/ip4/127.0.0.1/udp/6/quic-v1"), Some(Port::Quic(6)));
        assert_eq!(port("/ip4/192.0.2.2/tcp/5"), None);
    }

    #[tokio::test]
    async fn the_port_range_stands_in_for_multicast() {
        let one = Post::unicast().unwrap();
        let two = Post::unicast().unwrap();
        one.send(b"hello").await;
        let mut buffer = [0; 16];
        let (length, _) =
            timeout(Duration::from_secs(5), two.socket.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer[..length], b"hello");
    }
}
