//! Reaching one node: its addresses tried in order of preference, each outcome kept and logged.
//!
//! ```text
//! queued ──next──► in flight ──established──► waiting for identify ──admitted──► done
//!   ▲                 │  │
//!   │ head start over │  └─ failed: next address; none left: every waiter learns all causes
//!   └─────────────────┘
//! ```

use std::collections::{HashSet, VecDeque};
use std::error::Error;
use std::time::{Duration, SystemTime};

use libp2p::core::transport::TransportError;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{self, ConnectionId};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;
use wc_types::NodeId;

use crate::address::{Transport, rank, transport_of};
use crate::event::{DialAttempt, DialOutcome};
use crate::path::{before_circuit, relay_of};
use crate::resolve::in_turns;
use crate::transport::{Disbelief, NamedError, ProxyError};

/// Head start of one transport over the next (RFC 8305 recommends 250 ms): QUIC needs one round trip and TCP three, so
/// what is preferred wins where it works (NET-20), and where it is blocked nobody waits for its failure.
const HEAD_START: Duration = Duration::from_millis(250);
/// Head start of one address over another one of the same transport.
const TURN: Duration = Duration::from_millis(50);
/// Pause of the higher and of the lower node before they dial again after their dials crossed.
pub(crate) const CROSSED_PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(150)];
/// Addresses of one node that are tried in one go.
pub(crate) const ADDRS_MAX: usize = 16;
/// First and longest pause before a node that should be connected is dialled again.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_secs(1);
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// A node could not be reached.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No address of the node is known.
    #[error("no address of {node} is known")]
    NoAddress {
        /// The node.
        node: NodeId,
    },
    /// Every address failed.
    #[error("no address answered: {}", causes(.attempts))]
    Unreachable {
        /// What was tried and how each attempt ended.
        attempts: Vec<DialAttempt>,
    },
    /// The node is of another network, or speaks another protocol.
    #[error("{node} is not of our network")]
    WrongNetwork {
        /// The node.
        node: NodeId,
        /// The network that it named, if it named one.
        network: Option<String>,
    },
    /// The connection ended before the node had said who it is.
    #[error("{node} left before it had identified itself: {cause}")]
    Unidentified {
        /// The node.
        node: NodeId,
        /// How the connection ended.
        cause: String,
    },
    /// The node is banned here.
    #[error("{node} is banned")]
    Banned {
        /// The node.
        node: NodeId,
    },
    /// The key at the other end is not an Ed25519 key, so it is no node of ours.
    #[error("the peer at {addr} has no Ed25519 key")]
    ForeignKey {
        /// Where it was met.
        addr: Multiaddr,
    },
    /// The target is this node.
    #[error("that is this node itself")]
    Ourselves,
    /// This mesh has stopped.
    #[error("the mesh has stopped")]
    Stopped,
}

fn causes(attempts: &[DialAttempt]) -> String {
    let mut text = String::new();
    for attempt in attempts {
        if !text.is_empty() {
            text.push_str("; ");
        }
        let cause = attempt.root_cause.as_deref().unwrap_or("connected, then lost");
        text.push_str(&format!("{}: {cause}", attempt.target_multiaddr));
    }
    text
}

/// Whoever waits for a node to be connected.
pub(crate) type Waiter = oneshot::Sender<Result<NodeId, DialError>>;

/// The attempts to reach one node.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    queued: VecDeque<Multiaddr>,
    tried: HashSet<Multiaddr>,
    pub(crate) in_flight: HashSet<ConnectionId>,
    pub(crate) attempts: Vec<DialAttempt>,
    pub(crate) waiters: Vec<Waiter>,
    /// An attempt met the peer's own dial and was queued again.
    pub(crate) crossed: bool,
    /// Relays that were tried over a connection that was there already.
    pub(crate) relays: HashSet<PeerId>,
    /// A Kademlia query for more addresses is under way.
    pub(crate) searching: bool,
    /// Circuits that wait for a connection to their relay.
    pub(crate) waiting: Vec<(PeerId, Multiaddr)>,
    /// Only circuits need the connection, which keep it while they last.
    pub(crate) passing: bool,
}

/// Returns how long after the dial of `addr` the one of `next` begins.
pub(crate) fn head_start(addr: &Multiaddr, next: &Multiaddr) -> Duration {
    if transport_of(addr) == transport_of(next) { TURN } else { HEAD_START }
}

impl Plan {
    /// Returns a plan of which, `passing`, only circuits need the connection.
    pub(crate) fn in_passing(passing: bool) -> Self {
        Self { passing, ..Self::default() }
    }

    /// Returns where the circuits that are still to be tried say that `relay` is.
    pub(crate) fn ways_to(&self, relay: &PeerId) -> Vec<Multiaddr> {
        let through = self.queued.iter().filter(|addr| relay_of(addr).as_ref() == Some(relay));
        through.filter_map(before_circuit).collect()
    }

    /// Adds addresses that were not tried yet, best first.
    pub(crate) fn extend(&mut self, addrs: impl IntoIterator<Item = Multiaddr>) {
        for addr in addrs {
            if self.tried.len() < ADDRS_MAX && self.tried.insert(addr.clone()) {
                self.queued.push_back(addr);
            }
        }
        let queued = self.queued.make_contiguous();
        queued.sort_by_key(rank);
        for equals in queued.chunk_by_mut(|a, b| rank(a) == rank(b)) {
            take_turns(equals);
        }
    }

    /// Moves addresses behind all others: they are of a network that this machine is not in.
    pub(crate) fn put_last(&mut self, foreign: impl Fn(&Multiaddr) -> bool) {
        self.queued.make_contiguous().sort_by_key(foreign);
    }

    /// Returns how long after the dial of `addr` the next one begins; nothing if there is none.
    pub(crate) fn head_start(&self, addr: &Multiaddr) -> Option<Duration> {
        self.queued.front().map(|next| head_start(addr, next))
    }

    /// Returns the next address to try.
    pub(crate) fn next(&mut self) -> Option<Multiaddr> {
        self.queued.pop_front()
    }

    /// Puts an address that was tried back, once per plan. Returns whether it will be tried again.
    pub(crate) fn retry_crossed(&mut self, addr: Multiaddr) -> bool {
        if self.crossed {
            return false;
        }
        self.crossed = true;
        self.queued.push_front(addr);
        true
    }

    /// Puts addresses whose turn has come before all others.
    pub(crate) fn put_first(&mut self, addrs: impl Iterator<Item = Multiaddr>) {
        for addr in addrs {
            self.queued.push_front(addr);
        }
    }

    /// Forgets the addresses that are no longer needed.
    pub(crate) fn settle(&mut self) {
        self.queued.clear();
        self.waiting.clear();
    }

    /// Returns whether nothing that is under way can still succeed.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.queued.is_empty() && self.in_flight.is_empty() && self.waiting.is_empty() && !self.searching
    }
}

/// Lets IPv6 and IPv4 take turns among addresses of one rank (RFC 8305): where one of them does not work, it costs one
/// head start and not all of them.
fn take_turns(addrs: &mut [Multiaddr]) {
    let is_v6 = |addr: &Multiaddr| matches!(addr.iter().next(), Some(Protocol::Ip6(_)));
    let (v6, others): (Vec<_>, Vec<_>) = addrs.iter().cloned().partition(is_v6);
    for (slot, addr) in addrs.iter_mut().zip(in_turns(v6, others)) {
        *slot = addr;
    }
}

/// Tells everyone who waits.
pub(crate) fn answer(waiters: Vec<Waiter>, result: &Result<NodeId, DialError>) {
    for waiter in waiters {
        // A waiter that gave up is no error.
        let _ = waiter.send(result.clone());
    }
}

/// Describes one dial that has ended just now.
pub(crate) fn conclude(addr: Multiaddr, outcome: DialOutcome, root_cause: Option<String>) -> DialAttempt {
    DialAttempt {
        timestamp: SystemTime::now(),
        transport: transport_of(&addr),
        target_multiaddr: addr,
        outcome,
        root_cause,
        follow_up: None,
        interception: None,
    }
}

/// Logs an ended dial (NET-24: every outcome at info; a cause and what is done about it exactly when it failed).
pub(crate) fn log(attempt: &DialAttempt) {
    let DialAttempt { target_multiaddr, outcome, .. } = attempt;
    let transport = attempt.transport.map_or_else(|| "none".to_owned(), |transport| transport.to_string());
    match (&attempt.root_cause, attempt.follow_up) {
        (Some(root_cause), Some(follow_up)) => {
            tracing::info!(%target_multiaddr, transport, %outcome, root_cause, %follow_up, "dial ended");
        }
        (root_cause, _) => tracing::info!(%target_multiaddr, transport, %outcome, root_cause, "dial ended"),
    }
}

/// Turns the library's error into an outcome and its root cause.
pub(crate) fn outcome_of(error: &swarm::DialError, expected: Option<PeerId>) -> (DialOutcome, String) {
    match error {
        swarm::DialError::Transport(errors) => match errors.first() {
            Some((_, TransportError::MultiaddrNotSupported(_))) => {
                let cause = "this build cannot dial such an address".to_owned();
                (DialOutcome::TransportError(cause.clone()), cause)
            }
            Some((_, TransportError::Other(error))) => {
                let cause = root_cause(error);
                let lower = cause.to_lowercase();
                if intercepted(error).is_some() {
                    (DialOutcome::Denied(cause.clone()), cause)
                } else if error.kind() == std::io::ErrorKind::TimedOut
                    || lower.contains("timed out")
                    || lower.contains("timeout")
                {
                    (DialOutcome::Timeout, cause)
                } else {
                    (DialOutcome::TransportError(cause.clone()), cause)
                }
            }
            None => {
                let cause = "no transport tried it".to_owned();
                (DialOutcome::TransportError(cause.clone()), cause)
            }
        },
        swarm::DialError::WrongPeerId { obtained, .. } => {
            let expected = expected.map_or_else(|| "another node".to_owned(), |peer| peer.to_string());
            let cause = format!("{obtained} answered where {expected} was expected");
            (DialOutcome::Denied(cause.clone()), cause)
        }
        swarm::DialError::LocalPeerId { .. } => {
            let cause = "we reached ourselves".to_owned();
            (DialOutcome::Denied(cause.clone()), cause)
        }
        swarm::DialError::Denied { cause } => {
            let cause = root_cause(cause);
            (DialOutcome::Denied(cause.clone()), cause)
        }
        swarm::DialError::NoAddresses
        | swarm::DialError::DialPeerConditionFalse(_)
        | swarm::DialError::Aborted => {
            let cause = error.to_string();
            (DialOutcome::Denied(cause.clone()), cause)
        }
    }
}

/// Returns whether the connection was there and the handshake on it failed.
///
/// Two nodes that dial each other in the same moment, both from the port they listen on, make one TCP connection of which
/// both believe that they opened it (RFC 9293 §3.5), and no handshake can succeed on that.
pub(crate) fn may_have_crossed(attempt: &DialAttempt, error: &swarm::DialError) -> bool {
    let swarm::DialError::Transport(errors) = error else { return false };
    let Some((_, TransportError::Other(error))) = errors.first() else { return false };
    if attempt.outcome == DialOutcome::Timeout {
        return false;
    }
    let system = deepest(error).downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    transport_of(&attempt.target_multiaddr) == Some(Transport::Tcp)
        && system.is_none()
        && !is_before_handshake(error)
}

/// Returns who issued the certificate because of which a dial was given up, if that is why.
pub(crate) fn interceptor_of(error: &swarm::DialError) -> Option<String> {
    let swarm::DialError::Transport(errors) = error else { return None };
    errors.iter().find_map(|(_, error)| match error {
        TransportError::Other(error) => intercepted(error),
        TransportError::MultiaddrNotSupported(_) => None,
    })
}

/// Returns who issued the certificate that `error` is about.
pub(crate) fn intercepted(error: &(dyn Error + 'static)) -> Option<String> {
    chain(error).find_map(|error| match (error.downcast_ref(), error.downcast_ref()) {
        (Some(Disbelief { issuer, .. }), _) => Some(issuer.clone()),
        (_, Some(NamedError::All { interceptor, .. })) => interceptor.clone(),
        _ => None,
    })
}

/// Returns whether there was no connection to shake hands on.
fn is_before_handshake(error: &(dyn Error + 'static)) -> bool {
    let named = |error: &(dyn Error + 'static)| {
        matches!(error.downcast_ref(), Some(NamedError::Resolve(_) | NamedError::All { .. }))
    };
    chain(error).any(|error| named(error) || error.is::<ProxyError>())
}

/// Returns the deepest message of an error's chain.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    deepest(error).to_string()
}

fn deepest<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    chain(error).last().unwrap_or(error)
}

/// Returns `error` and everything below it.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        let error = *error;
        // `io::Error` hides the error it wraps from `source`, and gives that error's source instead.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(|io| io.get_ref())
            .map(|inner| inner as &(dyn Error + 'static));
        inner.or_else(|| error.source())
    })
}

#[cfg(test)]
mod tests {
    use libp2p::core::transport::timeout::TransportTimeoutError;

    use super::*;
    use crate::resolve::ResolveError;

    #[test]
    fn a_plan_tries_each_address_once_and_the_best_first() {
        let addr = |text: &str| text.parse::<Multiaddr>().unwrap();
        let mut plan = Plan::default();
        plan.extend([addr("/ip4/8.8.8.8/tcp/1"), addr("/ip4/127.0.0.1/tcp/1")]);
        assert_eq!(plan.next(), Some(addr("/ip4/127.0.0.1/tcp/1")));
        plan.extend([addr("/ip4/127.0.0.1/tcp/1"), addr("/ip4/10.0.0.1/tcp/1")]);
        assert_eq!(plan.next(), Some(addr("/ip4/10.0.0.1/tcp/1")));
        assert_eq!(plan.next(), Some(addr("/ip4/8.8.8.8/tcp/1")));
        assert!(plan.next().is_none() && plan.is_exhausted());
        plan.extend((0..100).map(|port| addr(&format!("/ip4/10.0.0.2/tcp/{port}"))));
        assert_eq!(
            std::iter::from_fn(|| plan.next()).count(),
            ADDRS_MAX - 3,
            "addresses of one node are bounded"
        );
    }

    #[test]
    fn a_transport_has_a_head_start_and_an_address_of_the_same_only_a_turn() {
        let addr = |text: &str| text.parse::<Multiaddr>().unwrap();
        let mut plan = Plan::default();
        plan.extend(
            ["/ip4/8.8.8.8/tcp/443/tls/ws", "/ip4/8.8.8.8/udp/1/quic-v1", "/ip4/8.8.4.4/udp/1/quic-v1"]
                .map(addr),
        );
        plan.extend([addr("/ip4/192.168.7.7/tcp/1")]);
        plan.put_last(|addr| addr.to_string().contains("192.168"));
        let mut starts = vec![];
        let mut at = Duration::ZERO;
        while let Some(next) = plan.next() {
            starts.push((next.to_string(), at.as_millis()));
            at += plan.head_start(&next).unwrap_or_default();
        }
        let starts: Vec<(&str, u128)> = starts.iter().map(|(addr, at)| (addr.as_str(), *at)).collect();
        assert_eq!(
            starts,
            [
                ("/ip4/8.8.8.8/udp/1/quic-v1", 0),
                ("/ip4/8.8.4.4/udp/1/quic-v1", 50),
                ("/ip4/8.8.8.8/tcp/443/tls/ws", 300),
                ("/ip4/192.168.7.7/tcp/1", 550),
            ]
        );
    }

    #[test]
    fn dials_may_have_crossed_where_a_handshake_failed_and_the_system_names_no_reason() {
        let ended = |addr: &str, cause: NamedError| {
            let addr: Multiaddr = addr.parse().unwrap();
            let cause = TransportError::Other(std::io::Error::other(cause));
            let error = swarm::DialError::Transport(vec![(addr.clone(), cause)]);
            let (outcome, cause) = outcome_of(&error, None);
            may_have_crossed(&conclude(addr, outcome, Some(cause)), &error)
        };
        let failed = |addr: &str, cause: std::io::Error| ended(addr, NamedError::Dial(cause));
        let handshake = || std::io::Error::other("got ClientHello when expecting ServerHello");
        assert!(failed("/ip4/10.0.0.1/tcp/1", handshake()));
        assert!(!failed("/ip4/10.0.0.1/udp/1/quic-v1", handshake()), "QUIC connections do not cross");
        assert!(!failed("/ip4/10.0.0.1/tcp/1", std::io::Error::from_raw_os_error(111)), "refused");
        let silence = TransportTimeoutError::<std::io::Error>::Timeout;
        assert!(!failed("/ip4/10.0.0.1/tcp/1", std::io::Error::other(silence)), "nobody answers");
        let nowhere = NamedError::Resolve(ResolveError::Malformed("-".to_owned()));
        assert!(!ended("/dns4/-/tcp/1", nowhere), "there was nobody to shake hands with");
    }

    #[test]
    fn families_take_turns_within_a_transport() {
        let addr = |text: &str| text.parse::<Multiaddr>().unwrap();
        let mut plan = Plan::default();
        plan.extend(
            [
                "/ip4/8.8.8.8/tcp/1",
                "/ip4/8.8.4.4/tcp/1",
                "/ip6/2001:db8::1/tcp/1",
                "/ip6/2001:db8::1/udp/1/quic-v1",
            ]
            .map(addr),
        );
        let order: Vec<String> = std::iter::from_fn(|| plan.next()).map(|addr| addr.to_string()).collect();
        assert_eq!(
            order,
            [
                "/ip6/2001:db8::1/udp/1/quic-v1",
                "/ip6/2001:db8::1/tcp/1",
                "/ip4/8.8.8.8/tcp/1",
                "/ip4/8.8.4.4/tcp/1"
            ]
        );
    }

    #[test]
    fn the_root_cause_is_the_deepest_message() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let wrapped = std::io::Error::other(std::io::Error::other(refused));
        assert_eq!(root_cause(&wrapped), "connection refused");
    }
}
