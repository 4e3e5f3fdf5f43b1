//! What handlers, the swarm task and `Mesh` handles share about streams: accepted protocols, links, budgets.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use libp2p::swarm::ConnectionId;
use libp2p::{PeerId, StreamProtocol};
use tokio::sync::{mpsc, oneshot};

use super::{AcceptError, Incoming, MeshStream};
use crate::address::node_of;
use crate::config::StreamLimits;
use crate::event::StreamRefusal;
use crate::pulse::Life;

/// Streams that wait to be opened on one connection. Openers beyond that wait in `Mesh::open`.
const OPENS_QUEUED_MAX: usize = 64;
/// Peers whose budgets are remembered per protocol before full ones are forgotten.
const BUDGETS_MAX: usize = 4096;

/// Counts one stream for as long as it lives.
#[derive(Debug)]
pub(super) struct Permit(Arc<AtomicU32>);

impl Permit {
    fn take(counter: &Arc<AtomicU32>) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter.clone())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A wish for one outbound stream, travelling to the handler of a connection.
pub(super) struct OpenRequest {
    pub(super) protocol: StreamProtocol,
    /// The peer's consent is waited for.
    pub(super) agreed: bool,
    pub(super) reply: oneshot::Sender<Result<MeshStream, LinkError>>,
}

impl std::fmt::Debug for OpenRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenRequest({})", self.protocol)
    }
}

/// Why a connection could not give a stream.
#[derive(Debug)]
pub(crate) enum LinkError {
    /// There is no admitted connection.
    NoLink,
    UnsupportedProtocol,
    Timeout,
    Io(std::io::Error),
}

/// Shared by the behaviour, its handlers and every `Mesh` handle; locked for moments only, never across an await.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    accepted: HashMap<StreamProtocol, Accepted>,
    peers: HashMap<PeerId, Peer>,
    /// Set when the swarm task ends.
    stopped: bool,
}

#[derive(Debug)]
struct Accepted {
    queue: mpsc::Sender<(wc_types::NodeId, MeshStream)>,
    limits: StreamLimits,
    budgets: HashMap<PeerId, Budget>,
}

/// A token bucket and a counter for one peer under one protocol.
#[derive(Debug)]
struct Budget {
    open: Arc<AtomicU32>,
    tokens: f64,
    filled_at: Instant,
}

#[derive(Debug, Default)]
struct Peer {
    admitted: bool,
    links: Vec<Link>,
}

#[derive(Debug)]
struct Link {
    id: ConnectionId,
    requests: mpsc::Sender<OpenRequest>,
    life: Arc<Life>,
    /// Lower is better: whatever costs others less, and is faster, comes first.
    cost: u8,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics between two writes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn accept(&self, protocol: &str, limits: StreamLimits) -> Result<Incoming, AcceptError> {
        let id = super::protocol_id(protocol)
            .ok_or_else(|| AcceptError::Malformed { protocol: protocol.to_owned() })?;
        let mut inner = self.lock();
        if inner.accepted.get(&id).is_some_and(|accepted| !accepted.queue.is_closed()) {
            return Err(AcceptError::Taken { protocol: protocol.to_owned() });
        }
        let (sender, queue) = mpsc::channel(limits.queued_max.max(1));
        if !inner.stopped {
            inner.accepted.insert(id, Accepted { queue: sender, limits, budgets: HashMap::new() });
        }
        Ok(Incoming { queue })
    }

    /// Returns the protocols that a peer may negotiate now.
    pub(super) fn accepted(&self) -> Vec<StreamProtocol> {
        let mut inner = self.lock();
        inner.accepted.retain(|_, accepted| !accepted.queue.is_closed());
        inner.accepted.keys().cloned().collect()
    }

    /// Returns whether streams of `peer` may be delivered: its network is known to be ours.
    pub(super) fn is_admitted(&self, peer: &PeerId) -> bool {
        self.lock().peers.get(peer).is_some_and(|peer| peer.admitted)
    }

    /// Marks `peer` as one of ours and returns its connections.
    pub(super) fn admit(&self, peer: &PeerId) -> Vec<ConnectionId> {
        let mut inner = self.lock();
        let Some(peer) = inner.peers.get_mut(peer) else { return Vec::new() };
        peer.admitted = true;
        peer.links.iter().map(|link| link.id).collect()
    }

    /// Notes a connection and returns what its handler needs: the queue of wishes and what shows whether the
    /// peer is there.
    pub(super) fn link(
        &self,
        peer: PeerId,
        id: ConnectionId,
        cost: u8,
    ) -> (mpsc::Receiver<OpenRequest>, Arc<Life>) {
        let (requests, queue) = mpsc::channel(OPENS_QUEUED_MAX);
        let life = Arc::new(Life::default());
        self.lock().peers.entry(peer).or_default().links.push(Link {
            id,
            requests,
            life: life.clone(),
            cost,
        });
        (queue, life)
    }

    /// Returns the signs of life of a connection; those of a new one if it is not known.
    pub(crate) fn life(&self, peer: &PeerId, id: ConnectionId) -> Arc<Life> {
        let inner = self.lock();
        let links = inner.peers.get(peer).map_or(&[][..], |peer| &peer.links);
        links.iter().find(|link| link.id == id).map(|link| link.life.clone()).unwrap_or_default()
    }

    pub(super) fn unlink(&self, peer: &PeerId, id: ConnectionId) {
        let mut inner = self.lock();
        let Some(entry) = inner.peers.get_mut(peer) else { return };
        entry.links.retain(|link| link.id != id);
        if entry.links.is_empty() {
            inner.peers.remove(peer);
        }
    }

    /// Ends every queue: openers and acceptors learn that the mesh has stopped.
    pub(crate) fn stop(&self) {
        let mut inner = self.lock();
        inner.stopped = true;
        inner.accepted.clear();
        inner.peers.clear();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Opens a stream on the best admitted connection to `peer` that is not in doubt, the least busy among equals. May be
    /// dropped at any await.
    ///
    /// - `agreed`: wait until the peer has said that it speaks the protocol
    pub(crate) async fn open(
        &self,
        peer: &PeerId,
        protocol: StreamProtocol,
        agreed: bool,
    ) -> Result<MeshStream, LinkError> {
        let requests = {
            let inner = self.lock();
            let links =
                inner.peers.get(peer).filter(|peer| peer.admitted).map_or(&[][..], |peer| &peer.links);
            links
                .iter()
                .filter(|link| !link.requests.is_closed())
                .min_by_key(|link| {
                    let life = &link.life;
                    (life.is_doubted(), link.cost, life.is_questioned(), life.load.load(Ordering::Relaxed))
                })
                .map(|link| {
                    link.life.used();
                    link.requests.clone()
                })
                .ok_or(LinkError::NoLink)?
        };
        let (reply, answer) = oneshot::channel();
        requests.send(OpenRequest { protocol, agreed, reply }).await.map_err(|_| LinkError::NoLink)?;
        // The handler drops the reply when its connection ends before the stream is open.
        answer.await.unwrap_or_else(|_| Err(LinkError::Io(std::io::ErrorKind::ConnectionReset.into())))
    }

    /// Wraps a stream that we opened.
    pub(super) fn outbound(peer: &PeerId, pipe: libp2p::Stream, life: &Arc<Life>) -> Option<MeshStream> {
        Some(MeshStream::new(pipe, node_of(peer)?, life.clone(), None))
    }

    /// Hands a stream that `peer` opened to whoever accepts `protocol`, or says why not; a refused stream is reset.
    pub(super) fn deliver(
        &self,
        peer: &PeerId,
        pipe: libp2p::Stream,
        protocol: &StreamProtocol,
        life: &Arc<Life>,
    ) -> Result<(), StreamRefusal> {
        let node = node_of(peer).ok_or(StreamRefusal::Closed)?;
        let mut inner = self.lock();
        let accepted = inner.accepted.get_mut(protocol).ok_or(StreamRefusal::Closed)?;
        let budget = accepted.spend(peer)?;
        let stream = MeshStream::new(pipe, node, life.clone(), Some(budget));
        accepted.queue.try_send((node, stream)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StreamRefusal::QueueFull,
            mpsc::error::TrySendError::Closed(_) => StreamRefusal::Closed,
        })
    }
}

impl Accepted {
    fn spend(&mut self, peer: &PeerId) -> Result<Permit, StreamRefusal> {
        let now = Instant::now();
        let limits = self.limits;
        if self.budgets.len() >= BUDGETS_MAX && !self.budgets.contains_key(peer) {
            self.budgets.retain(|_, budget| {
                budget.fill(now, limits);
                budget.open.load(Ordering::Relaxed) > 0 || budget.tokens < f64::from(limits.per_peer_burst)
            });
        }
        let budget = self.budgets.entry(*peer).or_insert_with(|| Budget {
            open: Arc::new(AtomicU32::new(0)),
            tokens: f64::from(limits.per_peer_burst),
            filled_at: now,
        });
        budget.fill(now, limits);
        if budget.tokens < 1.0 {
            return Err(StreamRefusal::TooFast);
        }
        budget.tokens -= 1.0;
        if budget.open.load(Ordering::Relaxed) >= limits.per_peer_max {
            return Err(StreamRefusal::TooMany);
        }
        Ok(Permit::take(&budget.open))
    }
}

impl Budget {
    fn fill(&mut self, now: Instant, limits: StreamLimits) {
        let seconds = now.saturating_duration_since(self.filled_at).as_secs_f64();
        let gained = seconds * f64::from(limits.per_peer_rate_per_second);
        self.tokens = (self.tokens + gained).min(f64::from(limits.per_peer_burst));
        self.filled_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(limits: StreamLimits) -> Accepted {
        Accepted { queue: mpsc::channel(1).0, limits, budgets: HashMap::new() }
    }

    #[test]
    fn a_peer_that_opens_streams_too_fast_is_held_to_its_rate() {
        let limits =
            StreamLimits { per_peer_max: 100, per_peer_rate_per_second: 1, per_peer_burst: 3, queued_max: 1 };
        let mut accepted = accepted(limits);
        let (fast, other) = (PeerId::random(), PeerId::random());
        let granted = (0..10).filter(|_| accepted.spend(&fast).is_ok()).count();
        assert_eq!(granted, 3);
        assert_eq!(accepted.spend(&fast).err(), Some(StreamRefusal::TooFast));
        assert!(accepted.spend(&other).is_ok(), "the budget of one peer is not that of another");
        accepted.budgets.get_mut(&fast).unwrap().filled_at -= std::time::Duration::from_secs(2);
        assert!(accepted.spend(&fast).is_ok(), "time refills the budget");
    }

    #[test]
    fn a_closed_stream_makes_room_for_the_next() {
        let limits = StreamLimits {
            per_peer_max: 1,
            per_peer_rate_per_second: 100,
            per_peer_burst: 100,
            queued_max: 1,
        };
        let mut accepted = accepted(limits);
        let peer = PeerId::random();
        let held = accepted.spend(&peer).unwrap();
        assert_eq!(accepted.spend(&peer).err(), Some(StreamRefusal::TooMany));
        drop(held);
        assert!(accepted.spend(&peer).is_ok());
    }
}
