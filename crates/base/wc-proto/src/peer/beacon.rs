//! The datagram by which nodes on one machine find each other.
//!
//! ```text
//! magic "WCB1" · network 8 · boot 8 · node key 32 · count 1 · count × (transport 1 · port 2, big endian)
//! ```
//! A hint, never a proof: it is not signed, and whoever it names is dialled and must show its key and its network.

use wc_types::NodeId;

/// A node that listens on more loopback ports announces the first of them.
pub const PORTS_MAX: usize = 8;
/// Longest beacon.
pub const BEACON_BYTES_MAX: usize = HEADER_BYTES + 3 * PORTS_MAX;

const HEADER_BYTES: usize = 4 + 8 + 8 + 32 + 1;
const MAGIC: &[u8; 4] = b"WCB1";
/// Transports by the protocol number of what carries them.
const TCP: u8 = 6;
const QUIC: u8 = 17;

/// What one beacon says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// Beginning of the SHA-256 of the network's name.
    pub network: [u8; 8],
    /// Differs for each start of a node, so that a restarted one is greeted again.
    pub boot: u64,
    /// Who says so.
    pub node: NodeId,
    /// Where it listens; only the first [`PORTS_MAX`] are told.
    pub ports: Vec<Port>,
}

/// One loopback port that a node listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// TCP.
    Tcp(u16),
    /// QUIC over UDP.
    Quic(u16),
}

impl Beacon {
    /// Returns the datagram.
    pub fn encode(&self) -> Vec<u8> {
        let ports = &self.ports[..self.ports.len().min(PORTS_MAX)];
        let mut bytes = Vec::with_capacity(BEACON_BYTES_MAX);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.network);
        bytes.extend_from_slice(&self.boot.to_be_bytes());
        bytes.extend_from_slice(&self.node.0);
        bytes.push(ports.len() as u8);
        for port in ports {
            let (transport, port) = match *port {
                Port::Tcp(port) => (TCP, port),
                Port::Quic(port) => (QUIC, port),
            };
            bytes.push(transport);
            bytes.extend_from_slice(&port.to_be_bytes());
        }
        bytes
    }

    /// Parses exactly one beacon; anything else in the datagram makes it none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (network, rest) = rest.split_first_chunk::<8>()?;
        let (boot, rest) = rest.split_first_chunk::<8>()?;
        let (node, rest) = rest.split_first_chunk::<32>()?;
        let (&count, rest) = rest.split_first()?;
        let count = usize::from(count);
        if magic != MAGIC || count > PORTS_MAX || rest.len() != 3 * count {
            return None;
        }
        let ports = rest
            .chunks_exact(3)
            .map(|chunk| {
                let port = u16::from_be_bytes([chunk[1], chunk[2]]);
                match chunk[0] {
                    TCP => Some(Port::Tcp(port)),
                    QUIC => Some(Port::Quic(port)),
                    _ => None,
                }
            })
            .collect::<Option<Vec<Port>>>()?;
        Some(Self { network: *network, boot: u64::from_be_bytes(*boot), node: NodeId(*node), ports })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beacon() -> Beacon {
        Beacon {
            network: [1; 8],
            boot: 7,
            node: NodeId([2; 32]),
            ports: vec![Port::Tcp(19999), Port::Quic(4000)],
        }
    }

    #[test]
    fn a_beacon_survives_its_datagram() {
        assert_eq!(Beacon::decode(&beacon().encode()), Some(beacon()));
    }

    #[test]
    fn a_datagram_that_is_not_exactly_a_beacon_is_none() {
        let bytes = beacon().encode();
        for length in 0..bytes.len() {
            assert_eq!(Beacon::decode(&bytes[..length]), None, "cut to {length}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Beacon::decode(&longer), None);
        for (at, value) in [(0, b'X'), (HEADER_BYTES - 1, 9), (HEADER_BYTES, 1)] {
            let mut broken = bytes.clone();
            broken[at] = value;
            assert_eq!(Beacon::decode(&broken), None, "byte {at}");
        }
    }
}
