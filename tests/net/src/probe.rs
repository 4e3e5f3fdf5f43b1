//! What kind of NAT is this? A server with two addresses and two ports, and a client that asks it, after RFC 5780.
//!
//! Mapping: which endpoint do three of the server's endpoints see? Filtering: does an answer arrive from an endpoint
//! that the client has not sent to?

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

/// The server's ports.
pub const PORTS: [u16; 2] = [3478, 3479];
/// How often a question is asked again before silence is an answer, and how long each time.
const ATTEMPTS: u32 = 4;
const PATIENCE: Duration = Duration::from_millis(250);

/// On what a port outside, or permission to come in, depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependence {
    /// On nothing but the endpoint inside.
    Endpoint,
    /// On the address outside too.
    Address,
    /// On the address and the port outside too.
    AddressAndPort,
}

/// What a client found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The client's own endpoint.
    pub local: SocketAddr,
    /// As what three endpoints of the server see one UDP socket: first port, second port, second address.
    pub udp: [SocketAddr; 3],
    /// The same over TCP, from one local port.
    pub tcp: [SocketAddr; 3],
    /// Whether an answer came in from another port of an address that was asked.
    pub other_port: bool,
    /// Whether an answer came in from another address.
    pub other_address: bool,
}

impl Report {
    /// Returns on what the port outside depends, over UDP.
    pub fn mapping(&self) -> Dependence {
        dependence(&self.udp)
    }

    /// Returns on what the port outside depends, over TCP.
    pub fn tcp_mapping(&self) -> Dependence {
        dependence(&self.tcp)
    }

    /// Returns on what permission to come in depends.
    pub fn filtering(&self) -> Dependence {
        match (self.other_address, self.other_port) {
            (true, _) => Dependence::Endpoint,
            (false, true) => Dependence::Address,
            (false, false) => Dependence::AddressAndPort,
        }
    }

    /// Says whether there is a NAT at all.
    pub fn translated(&self) -> bool {
        self.udp[0].ip() != self.local.ip()
    }
}

fn dependence([first, other_port, other_address]: &[SocketAddr; 3]) -> Dependence {
    if first != other_port {
        Dependence::AddressAndPort
    } else if first != other_address {
        Dependence::Address
    } else {
        Dependence::Endpoint
    }
}

/// What became of numbered datagrams that were sent at a steady pace and sent back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Echoes {
    /// Mean round trip, in milliseconds; 0 when nothing came back.
    pub mean_ms: f64,
    /// Longest round trip, in milliseconds.
    pub max_ms: f64,
    /// Share that did not come back, of 1.
    pub lost: f64,
    /// Share that came back after one that was sent later, of 1.
    pub late: f64,
}

/// Sends `count` datagrams to a server and listens for a second after the last.
///
/// # Errors
/// When nothing can be sent.
pub fn echoes(server: IpAddr, count: u32, every: Duration) -> io::Result<Echoes> {
    let any: IpAddr = if server.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((server, PORTS[0]))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let receiver = socket.try_clone()?;
    let begun = Instant::now();
    let listening = std::thread::spawn(move || {
        let (mut trips, mut late, mut newest) = (Vec::new(), 0u32, 0u32);
        let mut answer = [0; 128];
        while let Ok(length) = receiver.recv(&mut answer) {
            let text = String::from_utf8_lossy(&answer[..length]);
            let mut words = text.split(' ').next().unwrap_or_default().split('.');
            let mut word = || words.next().and_then(|word| word.parse::<u32>().ok());
            let (Some(number), Some(sent_us)) = (word(), word()) else { continue };
            trips.push(begun.elapsed().as_secs_f64() * 1e3 - f64::from(sent_us) / 1e3);
            late += u32::from(number < newest);
            newest = newest.max(number);
            if trips.len() == count as usize {
                break;
            }
        }
        (trips, late)
    });
    for number in 0..count {
        let question = format!("{number}.{}", begun.elapsed().as_micros());
        socket.send(&[&[0], question.as_bytes()].concat())?;
        std::thread::sleep(every);
    }
    let (trips, late) = listening.join().map_err(|_| io::Error::other("the listener panicked"))?;
    let share = |some: f64| some / f64::from(count);
    let came = trips.len() as f64;
    Ok(Echoes {
        mean_ms: if trips.is_empty() { 0.0 } else { trips.iter().sum::<f64>() / came },
        max_ms: trips.iter().copied().fold(0.0, f64::max),
        lost: 1.0 - share(came),
        late: share(f64::from(late)),
    })
}

/// Serves on two addresses until the process ends.
///
/// A datagram is one digit and a nonce: the digit's bits say whether to answer from the other port (1) and from the
/// other address (2).
///
/// # Errors
/// When an endpoint is taken.
pub fn serve(addresses: [IpAddr; 2]) -> io::Result<()> {
    let mut sockets = Vec::new();
    for address in addresses {
        for port in PORTS {
            sockets.push(UdpSocket::bind((address, port))?);
            let listener = TcpListener::bind((address, port))?;
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    if let Ok(peer) = stream.peer_addr() {
                        let _ = stream.write_all(peer.to_string().as_bytes());
                    }
                }
            });
        }
    }
    for own in 0..sockets.len() {
        let sockets = sockets.iter().map(UdpSocket::try_clone).collect::<io::Result<Vec<_>>>()?;
        std::thread::spawn(move || {
            let mut question = [0; 64];
            while let Ok((length, from)) = sockets[own].recv_from(&mut question) {
                let [change, nonce @ ..] = &question[..length] else { continue };
                let answer = [nonce, b" ", from.to_string().as_bytes()].concat();
                let _ = sockets[own ^ usize::from(change & 3)].send_to(&answer, from);
            }
        });
    }
    Ok(())
}

/// Asks the server and says what was found.
///
/// # Errors
/// When the server does not answer at all.
pub fn client(server: [IpAddr; 2]) -> io::Result<Report> {
    let [first, second] = server;
    let endpoints = [(first, PORTS[0]), (first, PORTS[1]), (second, PORTS[0])].map(SocketAddr::from);
    let any: IpAddr = if first.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };

    // Permission first, from a socket that has sent to one endpoint only.
    let shy = UdpSocket::bind((any, 0))?;
    seen(&shy, endpoints[0], 0)?.ok_or(io::ErrorKind::TimedOut)?;
    let other_port = seen(&shy, endpoints[0], 1)?.is_some();
    let other_address = seen(&shy, endpoints[0], 3)?.is_some();

    let open = UdpSocket::bind((any, 0))?;
    let mut udp = Vec::new();
    let mut tcp = Vec::new();
    let mut tcp_local = SocketAddr::from((any, 0));
    let mut held = Vec::new();
    for endpoint in endpoints {
        udp.push(seen(&open, endpoint, 0)?.ok_or(io::ErrorKind::TimedOut)?);
        let mut stream = connect(tcp_local, endpoint)?;
        tcp_local = stream.local_addr()?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        tcp.push(text.parse().map_err(io::Error::other)?);
        held.push(stream);
    }
    open.connect(endpoints[0])?;
    let all = |seen: Vec<SocketAddr>| seen.try_into().expect("three endpoints were asked");
    Ok(Report { local: open.local_addr()?, udp: all(udp), tcp: all(tcp), other_port, other_address })
}

fn connect(local: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&local.into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
    Ok(socket.into())
}

/// Returns as what `to` sees the socket, or nothing when no answer comes.
fn seen(socket: &UdpSocket, to: SocketAddr, change: u8) -> io::Result<Option<SocketAddr>> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut answer = [0; 128];
    // An answer from where it was asked always comes in the end; that others do not come is what is asked.
    let attempts = if change == 0 { 10 * ATTEMPTS } else { ATTEMPTS };
    for attempt in 0..attempts {
        let nonce = format!("{change}.{}.{attempt}", to);
        socket.send_to(&[&[change], nonce.as_bytes()].concat(), to)?;
        while let Ok((length, _)) = socket.recv_from(&mut answer) {
            let text = String::from_utf8_lossy(&answer[..length]);
            if let Some((of, seen)) = text.split_once(' ')
                && of == nonce
            {
                return seen.parse().map(Some).map_err(io::Error::other);
            }
        }
    }
    Ok(None)
}
