//! The libp2p host: the behaviours that ride on its transports.

use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::core::Transport as _;
use libp2p::core::upgrade::Version;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    PeerId, StreamProtocol, Swarm, allow_block_list, autonat, connection_limits, dcutr, identify, identity,
    kad, memory_connection_limits, relay,
};

use crate::config::{DhtRole, MeshConfig};
use crate::hooked::hooked;
use crate::relay::shape::Shaper;
use crate::stream::{self, Registry};
use crate::transport::{BuildError, Ways};
use crate::{gate, gossip, lazy, observe, pulse};

/// Protocol id that identify carries; nodes that say anything else are not ours.
pub const PROTOCOL_VERSION: &str = wc_proto::version::IDENTIFY;
/// Our own Kademlia table: never the public IPFS one.
pub const KADEMLIA_PROTOCOL: &str = "/worldcompute/kad/1.0.0";

/// Streams that one connection may have half negotiated.
const STREAMS_NEGOTIATING_MAX: usize = 128;
/// Share of this machine's memory beyond which this process takes no new connections.
const MEMORY_SHARE_MAX: f64 = 0.5;
/// One Kademlia query; the catalogue's figure.
const KADEMLIA_QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two refreshes of the table. Each dials most nodes of a small network, only to be disconnected from them a
/// minute later; who is where is heard from exchanges, and asked when somebody is sought.
const KADEMLIA_REFRESH: Duration = Duration::from_secs(60 * 60);
/// Paths of one Kademlia query. With twenty nodes to a bucket each path has two to begin with.
const DISJOINT_PATHS: NonZeroUsize = NonZeroUsize::new(10).expect("ten is not zero");

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    // Gates first: a connection that they deny reaches none of the others.
    pub(crate) banned: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    gate: gate::Behaviour,
    pub(crate) identify: observe::Behaviour,
    pub(crate) kad: kad::Behaviour<MemoryStore>,
    pub(crate) streams: stream::Behaviour,
    pub(crate) gossip: gossip::Behaviour,
    // After the streams, which make what it looks at.
    pulse: pulse::Behaviour,
    circuits: relay::client::Behaviour,
    relay: Toggle<relay::Behaviour>,
    reachable: autonat::v2::client::Behaviour,
    dial_back: Toggle<autonat::v2::server::Behaviour>,
    // Last: it counts a connection as there before the others have agreed to it.
    punch: dcutr::Behaviour,
}

/// A swarm, and what the host needs beside it.
pub(crate) struct Built {
    pub(crate) swarm: Swarm<Behaviour>,
    /// What its transports know.
    pub(crate) ways: Ways,
    /// Counts what a relay carries.
    pub(crate) shaper: Option<Shaper>,
}

/// Builds the swarm of `config`.
pub(crate) fn build(
    config: &MeshConfig,
    key: identity::Keypair,
    registry: Registry,
) -> Result<Built, BuildError> {
    let (circuits_transport, circuits) = relay::client::new(key.public().to_peer_id());
    let mut behaviour = behaviour(config, &key, registry, circuits);
    behaviour.kad.set_mode(Some(match config.dht {
        DhtRole::Client => kad::Mode::Client,
        DhtRole::Server => kad::Mode::Server,
    }));
    let (mut transport, ways) = crate::transport::build(config, &key, circuits_transport)?;
    let shaper = config
        .reach
        .relay
        .as_ref()
        .map(|limits| Shaper::new(limits.total_bytes_per_second, limits.peer_bytes_per_second));
    if let Some(shaper) = shaper.clone() {
        transport = transport.map(move |(peer, muxer), _| (peer, shaper.meter(peer, muxer))).boxed();
    }
    let transport = transport.map(|(peer, muxer), _| (peer, hooked(muxer, || lazy::Lazy))).boxed();
    let swarm_config = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(config.limits.idle_timeout)
        .with_max_negotiating_inbound_streams(STREAMS_NEGOTIATING_MAX)
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    let swarm = Swarm::new(transport, behaviour, key.public().to_peer_id(), swarm_config);
    Ok(Built { swarm, ways, shaper })
}

fn behaviour(
    config: &MeshConfig,
    key: &identity::Keypair,
    registry: Registry,
    circuits: relay::client::Behaviour,
) -> Behaviour {
    let local = PeerId::from(key.public());
    let limits = &config.limits;
    let connection_limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.connections_pending_max))
        .with_max_pending_outgoing(Some(limits.connections_pending_max))
        // A quarter stays free for connections that we make ourselves, so that strangers cannot shut us in.
        .with_max_established_incoming(Some(limits.connections_max - limits.connections_max / 4))
        .with_max_established(Some(limits.connections_max))
        .with_max_established_per_peer(Some(limits.connections_per_peer_max));
    let identify = identify::Config::new(PROTOCOL_VERSION.to_owned(), key.public())
        .with_agent_version(agent_string(&config.agent_version, &config.network))
        // We keep our own address book.
        .with_cache_size(0)
        // A new circuit, or a new network, is of no use to those who do not hear of it (NET-16).
        .with_push_listen_addr_updates(true);
    Behaviour {
        banned: allow_block_list::Behaviour::default(),
        limits: connection_limits::Behaviour::new(connection_limits),
        memory: memory_connection_limits::Behaviour::with_max_percentage(MEMORY_SHARE_MAX),
        gate: gate::Behaviour::new(
            limits.connections_per_prefix_max,
            // One network that opens and says nothing leaves room for the others.
            limits.connections_pending_max / 4,
            limits.connections_per_prefix_burst,
            limits.connections_per_prefix_per_minute,
        ),
        identify: observe::Behaviour::new(identify::Behaviour::new(identify)),
        kad: kademlia(local),
        streams: stream::Behaviour::new(registry.clone()),
        gossip: gossip::build(&config.network, key),
        pulse: pulse::Behaviour::new(registry),
        circuits,
        relay: Toggle::from(
            config.reach.relay.as_ref().map(|limits| relay::Behaviour::new(local, limits.to_config())),
        ),
        reachable: autonat::v2::client::Behaviour::default(),
        // From behind a NAT of our own we could not tell whether theirs lets strangers in.
        dial_back: Toggle::from(
            (config.reach.relay.is_some() || !config.reach.external.is_empty())
                .then(autonat::v2::server::Behaviour::default),
        ),
        punch: dcutr::Behaviour::new(local),
    }
}

/// Returns a Kademlia that finds peers and stores nothing: records of ours travel elsewhere.
fn kademlia(local: PeerId) -> kad::Behaviour<MemoryStore> {
    let mut config = kad::Config::new(StreamProtocol::new(KADEMLIA_PROTOCOL));
    config
        .set_query_timeout(KADEMLIA_QUERY_TIMEOUT)
        // Paths that share no node: whoever holds some of the nodes near a target holds some of the answers only (NET-32).
        .disjoint_query_paths(true)
        .set_parallelism(DISJOINT_PATHS)
        .set_periodic_bootstrap_interval(Some(KADEMLIA_REFRESH))
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_record_ttl(None)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        // Only nodes whose network was checked enter the table; the swarm task inserts them.
        .set_kbucket_inserts(kad::BucketInserts::Manual);
    let store = MemoryStoreConfig { max_records: 0, max_provided_keys: 0, ..MemoryStoreConfig::default() };
    kad::Behaviour::with_config(local, MemoryStore::with_config(local, store), config)
}

/// Returns the agent string that identify sends: who we are and which network we belong to.
pub(crate) fn agent_string(agent_version: &str, network: &str) -> String {
    format!("{agent_version}{NETWORK_MARK}{network}")
}

/// Splits an agent string into the agent's own words and its network.
pub(crate) fn parse_agent(agent: &str) -> (&str, Option<&str>) {
    match agent.rsplit_once(NETWORK_MARK) {
        Some((version, network)) if crate::config::is_network_name(network) => (version, Some(network)),
        _ => (agent, None),
    }
}

const NETWORK_MARK: &str = " net=";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_string_carries_the_network_and_nothing_else_does() {
        let agent = agent_string("worldcompute/0.1.0", "lab-7");
        assert_eq!(parse_agent(&agent), ("worldcompute/0.1.0", Some("lab-7")));
        assert_eq!(parse_agent("kubo/0.30"), ("kubo/0.30", None));
        assert_eq!(parse_agent("x net="), ("x net=", None));
        assert_eq!(parse_agent("x net=a net=B b"), ("x net=a net=B b", None));
    }
}
