//! Is the other end of a connection still there?
//!
//! Neither QUIC's idle timeout nor TCP's retransmissions tell soon enough for somebody who waits for a job: thirty seconds
//! and a quarter of an hour. So every connection is pinged, with the protocol that every libp2p node answers: rarely
//! while nobody needs it, within eight seconds while a relay holds a place for us at its other end, within four while
//! streams use it, and within two where an answer is awaited. Bytes that come are as good as an answer, and so are pings
//! of the peer's own; a machine that is busy sending is not taken for a dead one.
//!
//! A late answer makes the swarm task look for another path ([`Sign::Late`]); what is to happen then is decided there.

mod beat;
mod life;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    Stream, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, StreamProtocol};
use tokio::time::Sleep;

use crate::stream::Registry;
use beat::{Beat, Step};
pub(crate) use life::Life;

/// What libp2p calls its ping; 32 bytes go there and come back.
const PROTOCOL: StreamProtocol = StreamProtocol::new("/ipfs/ping/1.0.0");
const PING_BYTES: usize = 32;
/// Streams of pings that a peer may hold; one more ends the oldest.
const ANSWERING_MAX: usize = 2;
/// Pause before a stream for pings that broke is opened again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// What became known about one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// The peer answered.
    Answer {
        /// How long that took.
        round_trip: Duration,
    },
    /// The answer is late.
    Late,
    /// The connection is as good as dead.
    Silence,
}

/// A sign of one connection.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) peer: PeerId,
    pub(crate) connection: ConnectionId,
    pub(crate) sign: Sign,
}

/// Feels the pulse of every connection. Must come after the streams' behaviour, which makes the [`Life`] of each.
pub(crate) struct Behaviour {
    registry: Registry,
    outbox: VecDeque<Event>,
}

impl Behaviour {
    pub(crate) fn new(registry: Registry) -> Self {
        Self { registry, outbox: VecDeque::new() }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.registry.life(&peer, id)))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.registry.life(&peer, id)))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        sign: THandlerOutEvent<Self>,
    ) {
        self.outbox.push_back(Event { peer, connection, sign });
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // Whatever fills the outbox is called by the swarm, which polls again afterwards: no waker is needed.
        self.outbox.pop_front().map_or(Poll::Pending, |event| Poll::Ready(ToSwarm::GenerateEvent(event)))
    }
}

/// Our own pings on one connection.
enum Asking {
    /// There is no stream for them.
    Nowhere,
    Opening,
    Ready(Stream),
    /// One is on its way.
    Waiting(BoxFuture<'static, io::Result<Stream>>),
    /// The stream broke; a new one is opened after a pause.
    Broken(BoxFuture<'static, ()>),
    /// The peer does not know the protocol.
    Unsupported,
}

/// Pings, and answers pings, on one connection.
pub(crate) struct Handler {
    life: Arc<Life>,
    beat: Beat,
    asking: Asking,
    /// A ping is to be sent as soon as there is a stream.
    due: bool,
    answering: VecDeque<BoxFuture<'static, ()>>,
    timer: Option<std::pin::Pin<Box<Sleep>>>,
    given_up: bool,
}

impl Handler {
    fn new(life: Arc<Life>) -> Self {
        Self {
            life,
            beat: Beat::default(),
            asking: Asking::Nowhere,
            due: false,
            answering: VecDeque::new(),
            timer: None,
            given_up: false,
        }
    }

    /// Moves our own pings on. Returns whether a stream is to be opened, or the peer has answered.
    fn ask(&mut self, cx: &mut Context<'_>) -> Poll<Asked> {
        loop {
            match std::mem::replace(&mut self.asking, Asking::Nowhere) {
                Asking::Nowhere if self.due => {
                    self.asking = Asking::Opening;
                    return Poll::Ready(Asked::Open);
                }
                Asking::Ready(stream) if self.due => {
                    self.due = false;
                    self.asking = Asking::Waiting(ping(stream).boxed());
                }
                Asking::Waiting(mut waiting) => match waiting.poll_unpin(cx) {
                    Poll::Pending => {
                        self.asking = Asking::Waiting(waiting);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(stream)) => {
                        self.asking = Asking::Ready(stream);
                        return Poll::Ready(Asked::Answered);
                    }
                    // Silence, not this, decides about the connection.
                    Poll::Ready(Err(_)) => self.broken(),
                },
                Asking::Broken(mut pause) => match pause.poll_unpin(cx) {
                    Poll::Pending => {
                        self.asking = Asking::Broken(pause);
                        return Poll::Pending;
                    }
                    Poll::Ready(()) => self.asking = Asking::Nowhere,
                },
                other => {
                    self.asking = other;
                    return Poll::Pending;
                }
            }
        }
    }

    fn broken(&mut self) {
        self.due = true;
        self.asking = Asking::Broken(tokio::time::sleep(REOPEN_PAUSE).boxed());
    }
}

/// What became of our own pings.
enum Asked {
    Open,
    Answered,
}

async fn ping(mut stream: Stream) -> io::Result<Stream> {
    let mut sent = [0; PING_BYTES];
    getrandom::fill(&mut sent).map_err(io::Error::other)?;
    stream.write_all(&sent).await?;
    stream.flush().await?;
    let mut came = [0; PING_BYTES];
    stream.read_exact(&mut came).await?;
    if came == sent { Ok(stream) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Answers pings until the peer ends the stream.
async fn answer(mut stream: Stream, life: Arc<Life>) {
    let mut bytes = [0; PING_BYTES];
    while stream.read_exact(&mut bytes).await.is_ok() {
        life.seen();
        if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = std::convert::Infallible;
    type ToBehaviour = Sign;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        self.answering.retain_mut(|answering| answering.poll_unpin(cx).is_pending());
        loop {
            match self.ask(cx) {
                Poll::Ready(Asked::Open) => {
                    return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                        protocol: SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ()),
                    });
                }
                Poll::Ready(Asked::Answered) => {
                    let round_trip = self.beat.answered(Instant::now());
                    self.life.answered();
                    let sign = Sign::Answer { round_trip };
                    return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(sign));
                }
                Poll::Pending => {}
            }
            if self.given_up || matches!(self.asking, Asking::Unsupported) {
                return Poll::Pending;
            }
            let now = Instant::now();
            // Before the look at what it says, or else a use between the two wakes nobody.
            self.life.wake(cx.waker(), self.life.need(now));
            let at_once = self.life.take_asked();
            match self.beat.step(now, self.life.heard_at(), self.life.need(now), at_once) {
                Step::Ping => self.due = true,
                Step::Doubt => {
                    self.life.doubt(true);
                    return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Sign::Late));
                }
                Step::Believe => self.life.doubt(false),
                Step::GiveUp => {
                    self.given_up = true;
                    self.life.doubt(true);
                    return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Sign::Silence));
                }
                Step::Rest(until) => {
                    let until = tokio::time::Instant::from_std(until);
                    let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
                    timer.as_mut().reset(until);
                    if timer.poll_unpin(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: mut stream, ..
            }) => {
                stream.ignore_for_keep_alive();
                if self.answering.len() == ANSWERING_MAX {
                    self.answering.pop_front();
                }
                self.answering.push_back(answer(stream, self.life.clone()).boxed());
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: mut stream,
                ..
            }) => {
                stream.ignore_for_keep_alive();
                self.asking = Asking::Ready(stream);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => match error {
                StreamUpgradeError::NegotiationFailed => self.asking = Asking::Unsupported,
                _ => self.broken(),
            },
            _ => {}
        }
    }
}
