//! Nodes of one LAN find each other (multicast DNS, RFC 6762, with the records of libp2p's mDNS specification).
//!
//! A name under `_p2p._udp.local` has TXT strings `dnsaddr=<address>/p2p/<node>`, as every libp2p program says it; ours
//! add `net=<digest of the network>`, and follow nobody who does not say that of their own network.
//!
//! Each says where it is when it starts, when it gets another address, every five minutes, and when somebody asks; the
//! first words also ask. IPv4 only: a LAN without it is rare, and link-local addresses are of no use to a dial.
//!
//! What is heard is a hint, never a proof: whoever is found is dialled and must show its key and its network. It is heard
//! on the group only, so from nobody beyond the LAN; one packet names one node, at addresses of its sender; and nothing
//! that was heard is kept here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, Query};
use hickory_resolver::proto::rr::rdata::{PTR, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use libp2p::Multiaddr;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::sync::{mpsc, watch};
use wc_types::NodeId;

use super::{News, Sighting, network_digest};
use crate::address::{node_of, peer_of, split_node, transport_of, with_node};
use crate::event::Via;
use crate::path::ip_of;

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;
const SERVICE: &str = "_p2p._udp.local.";
/// Longest packet, without the headers of UDP and IP: what Ethernet carries in one piece.
const PACKET_BYTES_MAX: usize = 1472;
/// Room for the addresses among them: the names take the rest.
const ADDRS_BYTES_MAX: usize = 1100;
/// Addresses that one packet names.
const ADDRS_MAX: usize = 8;
/// What an address is said with.
const ADDR_KEY: &str = "dnsaddr=";
/// Longest string of a record.
const STRING_BYTES_MAX: usize = 255;
/// Interfaces that are spoken on: the kernel lets one socket join twenty groups.
const INTERFACES_MAX: usize = 20;
/// How long others may believe it.
const LIFE_SECONDS: u32 = 360;

/// Pauses between the words at the start: what is lost in the air, and who was just starting.
const START_PAUSES: [Duration; 4] =
    [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(15)];
const PAUSE: Duration = Duration::from_secs(300);
/// Answers are at least this far apart, however many ask.
const ANSWER_PAUSE: Duration = Duration::from_millis(200);
/// An answer waits this long and up to [`ANSWER_SPREAD_MILLIS`] more, each node another time (RFC 6762 §6).
const ANSWER_AFTER: Duration = Duration::from_millis(20);
const ANSWER_SPREAD_MILLIS: u8 = 100;

/// What one packet says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// Where are you all?
    Question,
    /// A node is here.
    Here { network: [u8; 8], node: NodeId, addrs: Vec<Multiaddr> },
}

fn question() -> Option<Vec<u8>> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(SERVICE).ok()?, RecordType::PTR));
    message.to_vec().ok()
}

/// Returns the packet that says where `node` is: as many of `addrs` as fit.
fn here(network: [u8; 8], node: NodeId, addrs: &[&Multiaddr]) -> Option<Vec<u8>> {
    let mut strings = vec![format!("net={:016x}", u64::from_be_bytes(network))];
    let mut room = ADDRS_BYTES_MAX;
    for addr in addrs.iter().take(ADDRS_MAX) {
        let text = format!("{ADDR_KEY}{}", with_node((*addr).clone(), peer_of(node)));
        if text.len() <= STRING_BYTES_MAX && text.len() < room {
            room -= text.len() + 1;
            strings.push(text);
        }
    }
    let service = Name::from_ascii(SERVICE).ok()?;
    // The specification wants 32 characters or more.
    let label: String = node.0[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let instance = Name::from_ascii(format!("{label}.{SERVICE}")).ok()?;
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.authoritative = true;
    message.add_answer(Record::from_rdata(service, LIFE_SECONDS, RData::PTR(PTR(instance.clone()))));
    message.add_additional(Record::from_rdata(instance, LIFE_SECONDS, RData::TXT(TXT::new(strings))));
    message.to_vec().ok().filter(|packet| packet.len() <= PACKET_BYTES_MAX)
}

/// Reads a packet of `source`; anything else that DNS carries on a LAN is nothing.
fn read(packet: &[u8], source: Ipv4Addr) -> Option<Said> {
    let message = Message::from_vec(packet).ok()?;
    let service = Name::from_ascii(SERVICE).ok()?;
    if message.metadata.message_type == MessageType::Query {
        return message.queries.iter().any(|query| *query.name() == service).then_some(Said::Question);
    }
    let text = message
        .answers
        .iter()
        .chain(&message.additionals)
        .filter(|record| record.name.num_labels() > service.num_labels() && service.zone_of(&record.name))
        .find_map(|record| match &record.data {
            RData::TXT(text) => Some(text),
            _ => None,
        })?;
    let strings: Vec<&str> = text
        .txt_data
        .iter()
        .take(1 + ADDRS_MAX)
        .filter_map(|string| std::str::from_utf8(string).ok())
        .collect();
    let network = strings.iter().find_map(|string| string.strip_prefix("net="))?;
    let network = u64::from_str_radix(network, 16).ok()?.to_be_bytes();
    let mut told = strings
        .iter()
        .filter_map(|string| string.strip_prefix(ADDR_KEY)?.parse::<Multiaddr>().ok())
        .filter_map(|addr| match split_node(&addr) {
            (bare, Some(peer)) => Some((bare, node_of(&peer)?)),
            (_, None) => None,
        })
        .peekable();
    let node = told.peek()?.1;
    let addrs = told
        .filter(|(addr, of)| *of == node && transport_of(addr).is_some())
        .map(|(addr, _)| addr)
        // Or whoever is on the LAN could have us dial the whole world.
        .filter(|addr| ip_of(addr) == Some(IpAddr::V4(source)))
        .collect();
    Some(Said::Here { network, node, addrs })
}

/// Speaks and listens until `news` has no reader or `addrs`, where this node listens, no writer.
pub(crate) async fn run(
    node: NodeId,
    network: String,
    mut addrs: watch::Receiver<Vec<Multiaddr>>,
    news: mpsc::Sender<News>,
) {
    let network = network_digest(&network);
    let socket = match open() {
        Ok(socket) => socket,
        Err(error) => {
            let _ = news.send(News::Degraded { via: Via::Mdns, cause: error.to_string() }).await;
            return;
        }
    };
    let answer_after = ANSWER_AFTER + Duration::from_millis(u64::from(node.0[31] % ANSWER_SPREAD_MILLIS));
    let mut pauses = START_PAUSES.into_iter();
    let mut speak_at = Instant::now();
    let mut answer_at: Option<Instant> = None;
    let mut said_at: Option<Instant> = None;
    let mut buffer = [0; PACKET_BYTES_MAX + 1];
    loop {
        let due = answer_at.map_or(speak_at, |at| at.min(speak_at));
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, SocketAddr::V4(source))) = received else {
                    // A socket that keeps failing must not spin.
                    tokio::time::sleep(ANSWER_PAUSE).await;
                    continue;
                };
                match read(&buffer[..length], *source.ip()) {
                    Some(Said::Question) => {
                        let earliest = said_at.map_or_else(Instant::now, |at| at + ANSWER_PAUSE);
                        answer_at.get_or_insert(earliest.max(Instant::now() + answer_after));
                    }
                    Some(Said::Here { network: of, node: who, addrs })
                        if of == network && who != node && !addrs.is_empty() =>
                    {
                        let sighting = Sighting { node: who, addrs, via: Via::Mdns };
                        if news.send(News::Sighting(sighting)).await.is_err() {
                            return;
                        }
                    }
                    Some(Said::Here { .. }) | None => {}
                }
            }
            changed = addrs.changed() => {
                if changed.is_err() {
                    return;
                }
                speak_at = Instant::now();
                pauses = START_PAUSES.into_iter();
            }
            () = tokio::time::sleep_until(due.into()) => {
                let now = Instant::now();
                let asks = speak_at <= now;
                let listening = addrs.borrow_and_update().clone();
                speak(&socket, network, node, &listening, asks).await;
                said_at = Some(now);
                answer_at = None;
                if asks {
                    speak_at = now + pauses.next().unwrap_or(PAUSE);
                }
            }
        }
    }
}

fn open() -> io::Result<tokio::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // Shared with the other nodes of this machine, and with its own responder.
    socket.set_reuse_address(true)?;
    #[cfg(all(unix, not(target_os = "linux")))]
    socket.set_reuse_port(true)?;
    // The group, not this machine: what is sent to the port from anywhere else does not come in.
    #[cfg(unix)]
    socket.bind(&SocketAddrV4::new(GROUP, PORT).into())?;
    #[cfg(not(unix))]
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT).into())?;
    socket.set_multicast_ttl_v4(255)?;
    socket.set_multicast_loop_v4(true)?;
    socket.set_nonblocking(true)?;
    tokio::net::UdpSocket::from_std(socket.into())
}

/// Says on each interface where this node is there, and asks where others are if it `asks`.
async fn speak(
    socket: &tokio::net::UdpSocket,
    network: [u8; 8],
    node: NodeId,
    listening: &[Multiaddr],
    asks: bool,
) {
    let mut interfaces: Vec<Ipv4Addr> = Vec::new();
    for addr in listening {
        if let Some(IpAddr::V4(ip)) = ip_of(addr).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
            && !interfaces.contains(&ip)
            && interfaces.len() < INTERFACES_MAX
        {
            interfaces.push(ip);
        }
    }
    for ip in interfaces {
        let own = SockRef::from(socket);
        // An error says that it is joined already. Again each time: an interface that was away has forgotten it.
        let _ = own.join_multicast_v4(&GROUP, &ip);
        if let Err(error) = own.set_multicast_if_v4(&ip) {
            tracing::debug!(%ip, %error, "no multicast on this interface");
            continue;
        }
        let here_addrs: Vec<&Multiaddr> =
            listening.iter().filter(|addr| ip_of(addr) == Some(IpAddr::V4(ip))).collect();
        let packets = [asks.then(question).flatten(), here(network, node, &here_addrs)];
        for packet in packets.into_iter().flatten() {
            // What is lost is said again.
            if let Err(error) = socket.send_to(&packet, (GROUP, PORT)).await {
                tracing::trace!(%ip, %error, "not said on the LAN");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use wc_types::SigningKey;

    use super::*;

    const SENDER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 7);

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn node() -> NodeId {
        SigningKey::from_seed(&[7; 32]).node_id()
    }

    #[test]
    fn what_a_node_says_on_the_lan_is_understood_by_the_others() {
        assert_eq!(read(&question().unwrap(), SENDER), Some(Said::Question));
        let addrs = [addr("/ip4/192.168.1.7/tcp/19999"), addr("/ip4/192.168.1.7/udp/19999/quic-v1")];
        let packet = here([9; 8], node(), &addrs.iter().collect::<Vec<_>>()).unwrap();
        let said = Said::Here { network: [9; 8], node: node(), addrs: addrs.to_vec() };
        assert_eq!(read(&packet, SENDER), Some(said));
    }

    #[test]
    fn nobody_on_the_lan_sends_us_to_somebody_else() {
        let addrs = ["/ip4/8.8.8.8/tcp/53", "/dns4/bank.example/tcp/443", "/ip4/192.168.1.9/tcp/1"].map(addr);
        let packet = here([9; 8], node(), &addrs.iter().collect::<Vec<_>>()).unwrap();
        let said = read(&packet, SENDER);
        assert!(matches!(&said, Some(Said::Here { addrs, .. }) if addrs.is_empty()), "{said:?}");
    }

    #[test]
    fn a_packet_fits_however_many_addresses_there_are() {
        let hash = "tls/ws/certhash/uEiDuT6aO45IY_l6jtPrXPgrlGT_gsLrg2JtandYvOiEojA";
        let many: Vec<Multiaddr> = (1..100)
            .map(|port| addr(&format!("/ip4/192.168.1.7/tcp/{port}/{hash}/{}", &hash[7..])))
            .collect();
        let packet = here([9; 8], node(), &many.iter().collect::<Vec<_>>()).unwrap();
        let Some(Said::Here { addrs, .. }) = read(&packet, SENDER) else { panic!("it is read") };
        assert!((4..=ADDRS_MAX).contains(&addrs.len()), "{addrs:?}");
    }

    #[test]
    fn what_is_no_packet_of_ours_is_nothing() {
        let mut packet = here([9; 8], node(), &[&addr("/ip4/192.168.1.7/tcp/1")]).unwrap();
        for length in 0..packet.len() {
            assert_eq!(read(&packet[..length], SENDER), None, "cut at {length}");
        }
        for at in 0..packet.len() {
            packet[at] ^= 0x5a;
            let _ = read(&packet, SENDER);
            packet[at] ^= 0x5a;
        }
        // A printer.
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        let name = Name::from_ascii("laser._ipp._tcp.local.").unwrap();
        message.add_answer(Record::from_rdata(name, 9, RData::TXT(TXT::new(vec!["net=00".to_owned()]))));
        assert_eq!(read(&message.to_vec().unwrap(), SENDER), None);
    }
}
