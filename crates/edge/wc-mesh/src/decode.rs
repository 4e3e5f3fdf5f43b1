//! The readers of this crate that strangers' bytes come to before anybody has shown a key, for those who attack them.
//!
//! Each takes what a stranger sends from the first byte to the end, and returns what was made of it. They are the very code
//! that a connection runs; nothing in the product calls them from here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::executor::block_on;
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use libp2p::Multiaddr;
use wc_proto::peer::announce::Exchange;
use wc_proto::peer::gossip::Topic;
use wc_types::{NodeId, Timestamp};

use crate::discovery::mdns;
use crate::exchange::table::Table;
use crate::gossip::judge::{Judge, Verdict};
use crate::mapping::upnp;
use crate::transport::{Proxy, accept, connect_with};

/// What a stranger says, and room for what it is answered.
struct Talk<'a> {
    said: &'a [u8],
    answered: usize,
}

impl AsyncRead for Talk<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.said).poll_read(cx, buf)
    }
}

impl AsyncWrite for Talk<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.answered += buf.len();
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What came of a WebSocket.
#[derive(Debug)]
pub struct Payload {
    /// Bytes that it carried.
    pub bytes: Vec<u8>,
    /// Bytes that went back: an answer, and pongs.
    pub answered: usize,
}

/// Reads a proxy's answer to CONNECT; returns how many bytes are left for the connection behind it.
///
/// # Errors
/// What the log would say.
pub fn proxy_answer(bytes: &[u8]) -> Result<usize, String> {
    let proxy = Proxy::parse("ann:secret@proxy.example:3128").map_err(|error| error.to_string())?;
    let mut rest = bytes;
    block_on(proxy.hear(&mut rest, "relay.example:443".to_owned())).map_err(|error| error.to_string())?;
    Ok(rest.len())
}

/// Reads what a client says to a WebSocket listener.
///
/// # Errors
/// What the log would say.
pub fn web_client(bytes: &[u8]) -> Result<Payload, String> {
    let mut talk = Talk { said: bytes, answered: 0 };
    let payload = block_on(async {
        let mut socket = accept(&mut talk).await.map_err(|error| error.to_string())?;
        let mut payload = Vec::new();
        socket.read_to_end(&mut payload).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(payload)
    })?;
    Ok(Payload { bytes: payload, answered: talk.answered })
}

/// Reads what a server answers to our wish for a WebSocket, made with `key`.
///
/// # Errors
/// What the log would say.
pub fn web_server(bytes: &[u8], key: [u8; 16]) -> Result<Payload, String> {
    let mut talk = Talk { said: bytes, answered: 0 };
    let payload = block_on(async {
        let socket = connect_with(&mut talk, "relay.example", key).await;
        let mut socket = socket.map_err(|error| error.to_string())?;
        let mut payload = Vec::new();
        socket.read_to_end(&mut payload).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(payload)
    })?;
    Ok(Payload { bytes: payload, answered: talk.answered })
}

/// Reads the body of a DNS server's answer over HTTPS: addresses, and entries of a list.
///
/// # Errors
/// What the log would say.
pub fn dns_answer(body: &[u8]) -> Result<(Vec<IpAddr>, Vec<Multiaddr>), String> {
    crate::resolve::read_answer(body)
}

/// Reads a packet of multicast DNS from a machine on the LAN, and returns at how many addresses it says that it is; none
/// if it only asks.
pub fn neighbour(packet: &[u8], source: Ipv4Addr) -> Option<usize> {
    Some(match mdns::read(packet, source)? {
        mdns::Said::Question => 0,
        mdns::Said::Here { addrs, .. } => addrs.len(),
    })
}

/// Reads what a machine on the LAN says to whoever looks for a router: where its description is, and, in the description,
/// where it takes calls.
pub fn router(text: &str, source: Ipv4Addr) -> (Option<String>, Option<String>) {
    let place = upnp::location(text, IpAddr::V4(source)).map(|(_, path)| path);
    let calls = upnp::service_in(text, SocketAddrV4::new(source, 80)).map(|(_, path)| path);
    (place, calls)
}

/// What a table of announcements came to.
#[derive(Debug)]
pub struct Learned {
    /// Nodes that it knows.
    pub nodes: usize,
    /// Relays among them.
    pub relays: usize,
    /// Announcements that it tells others in one exchange.
    pub told: usize,
}

/// Has a table of the network `lab` learn each announcement of an exchange.
pub fn learn(exchange: Exchange, now: Timestamp) -> Learned {
    let mut table = Table::new("lab".to_owned(), NodeId([0; 32]));
    for announcement in exchange.announcements {
        // What counts for nothing is refused, as it should be.
        let _ = table.learn(announcement, now);
    }
    let (nodes, relays) = table.counts();
    Learned { nodes, relays, told: table.told(None, now).len() }
}

/// Judges a message of gossip in the network `lab`, as if its author had published it; returns whether it would be used and
/// passed on.
///
/// # Errors
/// Why whoever brought it would be blamed.
pub fn hear(topic: Topic, author: NodeId, bytes: &[u8], now: Timestamp) -> Result<bool, String> {
    let nobody = NodeId([0; 32]);
    let mut table = Table::new("lab".to_owned(), nobody);
    let mut judge = Judge::new("lab".to_owned(), nobody);
    match judge.judge(topic, author, bytes, &mut table, (now, Instant::now())) {
        Verdict::Accept(_) => Ok(true),
        Verdict::Ignore => Ok(false),
        Verdict::Reject(why) => Err(why),
    }
}
