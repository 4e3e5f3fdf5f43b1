//! A machine with a share: what it is asked to sign, it judges first.
//!
//! It signs a checkpoint only if the log grew from the last one that it signed, or that others signed and it was told of; and a hand-over only if the cell's owner
//! ordered it, the new signers accepted it and it has promised no other. What it promises is durable before it signs.
//! Nonces live in [`State`], in the task of one stream: when the stream ends, or the process, they are gone, and the
//! coordinator has to ask for new ones.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use wc_ledger::note::Note;
use wc_ledger::threshold::generate::{Dealing, KeyGeneration};
use wc_ledger::threshold::growth::{GrowthFault, check_growth};
use wc_ledger::threshold::handover::{ChainFault, next_keys, open_kept, verify_chain, verify_order};
use wc_ledger::threshold::sign::{Member, Nonces};
use wc_ledger::threshold::{Seed, SignerKeys, ThresholdFault};
use wc_mesh::Mesh;
use wc_proto::limit::SIGNERS_BYTES_MAX;
use wc_proto::peer::signers::{Purpose, SignerAnswer, SignerRequest};
use wc_proto::version;
use wc_types::charter::{Founding, cell_id};
use wc_types::code::{Class, Code};
use wc_types::sign::verify_bytes;
use wc_types::signers::{Handover, SignedHead, SignerOrder, SignerSet, SigningRequest};
use wc_types::{CellId, Cid, NodeId, Refusal, Signed, SigningKey, record_cid};

use super::cabinet::{Cabinet, Memory, Promise};
use super::conduct::Failing;
use super::repeats::Repeats;
use crate::clock;
use crate::coordinator::lock;
use crate::link;

/// Longest that a conversation waits for its next message.
const PATIENCE: Duration = Duration::from_secs(30);

const NOT_ASKED: Code = Code::new("WC-NODE-060", Class::Caller);
const OTHER_CHAIN: Code = Code::new("WC-NODE-061", Class::Peer);
const OUT_OF_TURN: Code = Code::new("WC-NODE-062", Class::Peer);
const UNKEPT: Code = Code::new("WC-NODE-063", Class::Host);
const NO_SHARE: Code = Code::new("WC-NODE-064", Class::Host);
const NOT_ORDERED: Code = Code::new("WC-NODE-065", Class::Peer);
const NOT_SIGNED: Code = Code::new("WC-NODE-066", Class::Peer);

/// Why a request is refused.
struct Declined {
    refusal: Box<Refusal>,
    culprits: Vec<NodeId>,
}

impl Declined {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self { refusal: Box::new(Refusal::new(code, message)), culprits: Vec::new() }
    }
}

impl From<ThresholdFault> for Declined {
    fn from(fault: ThresholdFault) -> Self {
        Self { culprits: fault.culprits().to_vec(), ..Self::new(fault.code(), fault.to_string()) }
    }
}

impl From<ChainFault> for Declined {
    fn from(fault: ChainFault) -> Self {
        Self::new(fault.code(), fault.to_string())
    }
}

impl From<GrowthFault> for Declined {
    fn from(fault: GrowthFault) -> Self {
        Self::new(fault.code(), fault.to_string())
    }
}

impl From<io::Error> for Declined {
    fn from(error: io::Error) -> Self {
        tracing::error!(%error, "a signer's file cannot be used");
        Self::new(UNKEPT, format!("a file of this signer cannot be used: {error}"))
    }
}

/// A node that holds shares, or may.
pub(crate) struct Signer {
    key: Arc<SigningKey>,
    cabinet: Cabinet,
    /// Whether the owner of this machine lets others ask it.
    consents: bool,
    /// CID of the founding record of the cell that this node belongs to.
    belongs: watch::Receiver<Option<Cid>>,
    /// Held while what is remembered is read, judged and replaced.
    judging: Mutex<()>,
    /// What was said of refusals.
    refused: Mutex<Repeats>,
}

/// Where a conversation stands.
enum State {
    Fresh,
    Generating(Box<Making<KeyGeneration>>),
    Dealing(Box<Making<Dealing>>),
    Committed(Box<Committed>),
    Over,
}

/// A part in making a key.
struct Making<T> {
    part: T,
    cell: CellId,
    order: Signed<SignerOrder>,
}

/// A promise to take part in one signature.
struct Committed {
    member: Member,
    nonces: Nonces,
    cell: CellId,
    purpose: Purpose,
    /// What was remembered when the promise was made: proofs are made from there.
    head: Option<SignedHead>,
}

impl Signer {
    /// A signer with these files.
    pub fn new(
        key: Arc<SigningKey>,
        cabinet: Cabinet,
        consents: bool,
        belongs: watch::Receiver<Option<Cid>>,
    ) -> Self {
        Self { key, cabinet, consents, belongs, judging: Mutex::default(), refused: Mutex::default() }
    }

    /// Serves one conversation. `peer` is who the transport says it is.
    pub async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin>(
        self: Arc<Self>,
        peer: NodeId,
        mut stream: S,
    ) {
        let mut state = State::Fresh;
        loop {
            let Ok(Ok(request)) =
                tokio::time::timeout(PATIENCE, link::read(&mut stream, SIGNERS_BYTES_MAX)).await
            else {
                return;
            };
            let signer = self.clone();
            // Signatures and flushed files take milliseconds: not on a thread that others wait for.
            let answered = tokio::task::spawn_blocking(move || signer.answer(peer, state, request)).await;
            let answer = match answered {
                Ok(Ok((next, answer))) => {
                    state = next;
                    answer
                }
                Ok(Err(Declined { refusal, culprits })) => {
                    self.tell_refusal(peer, &refusal);
                    state = State::Over;
                    SignerAnswer::Refused { refusal: *refusal, culprits }
                }
                Err(_) => return,
            };
            if link::write(&mut stream, &answer, SIGNERS_BYTES_MAX).await.is_err()
                || matches!(state, State::Over)
            {
                return;
            }
        }
    }

    /// Says that this signer refuses: at once, and then at growing intervals, however often it is asked.
    fn tell_refusal(&self, peer: NodeId, refusal: &Refusal) {
        let Some(times) = lock(&self.refused).happened(&refusal.code, Instant::now()) else { return };
        if Failing::refused(refusal, &[]).is_alarm() {
            tracing::error!(
                %peer, %refusal, times,
                "SIGNER ALARM: this signer is shown another history than it has signed, and does not sign it"
            );
        } else {
            tracing::warn!(%peer, %refusal, times, "this signer does not sign");
        }
    }

    fn answer(
        &self,
        peer: NodeId,
        state: State,
        request: SignerRequest,
    ) -> Result<(State, SignerAnswer), Declined> {
        Ok(match (state, request) {
            (State::Fresh, SignerRequest::Begin { founding, chain, order }) => {
                let (cell, keys) = self.asked(peer, &founding, &chain)?;
                verify_order(&founding, &keys, &order)
                    .map_err(|reason| Declined::new(NOT_ORDERED, reason))?;
                let (part, commitment) = KeyGeneration::begin(&order, &self.key, Seed::new(clock::random()))?;
                tracing::info!(epoch = order.epoch, "taking part in making a signing key");
                let answer = SignerAnswer::Commitment { commitment: Box::new(commitment) };
                (State::Generating(Box::new(Making { part, cell, order: *order })), answer)
            }
            (State::Generating(making), SignerRequest::Commitments { commitments }) => {
                let Making { part, cell, order } = *making;
                let (part, shares) = part.deal(&commitments)?;
                (State::Dealing(Box::new(Making { part, cell, order })), SignerAnswer::Shares { shares })
            }
            (State::Dealing(making), SignerRequest::Shares { shares }) => {
                let Making { part, cell, order } = *making;
                let share = part.collect(&shares)?;
                let set = Box::new(share.set(&order)?);
                self.cabinet.keep_share(&cell, &share)?;
                (State::Over, SignerAnswer::Ready { set })
            }
            (State::Fresh, SignerRequest::Commit { founding, chain, purpose }) => {
                let (cell, keys) = self.asked(peer, &founding, &chain)?;
                let member = self.member(&founding, &cell, keys, &chain, &purpose)?;
                let (nonces, commitment) = member.commit(Seed::new(clock::random()));
                let head = self.cabinet.memory(&cell)?.and_then(|memory| memory.head);
                let committed = Committed { member, nonces, cell, purpose, head };
                (State::Committed(Box::new(committed)), SignerAnswer::Committed { commitment, head })
            }
            (State::Committed(committed), SignerRequest::Sign { request, consistency }) => {
                let consistency: Vec<[u8; 32]> =
                    consistency.into_iter().map(|hash| hash.into_array()).collect();
                self.judge(&committed, &request, &consistency)?;
                let Committed { member, nonces, .. } = *committed;
                (State::Over, SignerAnswer::Signed { share: member.sign(nonces, &request)? })
            }
            (State::Committed(committed), SignerRequest::Agree { checkpoint, consistency })
                if committed.purpose == Purpose::Checkpoint =>
            {
                let consistency: Vec<[u8; 32]> =
                    consistency.into_iter().map(|hash| hash.into_array()).collect();
                check_growth(&committed.cell, committed.head.as_ref(), &checkpoint, &consistency)?;
                (State::Committed(committed), SignerAnswer::Agreed)
            }
            (State::Committed(committed), SignerRequest::Remember { note, consistency })
                if committed.purpose == Purpose::Checkpoint =>
            {
                let consistency: Vec<[u8; 32]> =
                    consistency.into_iter().map(|hash| hash.into_array()).collect();
                self.remember(&committed, &note, &consistency)?;
                (State::Over, SignerAnswer::Remembered)
            }
            (State::Fresh, SignerRequest::Learn { founding, chain }) => {
                from_coordinator(peer, &founding)?;
                // Whoever remembers nothing of the cell holds nothing of it, and strangers leave no files here.
                let known = self.cabinet.memory(&cell_id(&founding))?.is_some();
                let destroyed = if known { self.learn(&founding, &chain)?.2 } else { 0 };
                (State::Over, SignerAnswer::Learned { destroyed })
            }
            _ => return Err(Declined::new(OUT_OF_TURN, "this message does not belong here")),
        })
    }

    /// Takes note of the coordinator's own chain, as others are told of it.
    ///
    /// # Errors
    /// When this machine has seen another chain, or its files cannot be used.
    pub fn learn_own(&self, founding: &Signed<Founding>, chain: &[Handover]) -> Result<u32, Refusal> {
        self.learn(founding, chain).map(|(_, _, destroyed)| destroyed).map_err(|declined| *declined.refusal)
    }

    /// Checks who asks and for which cell, learns of hand-overs, and returns the signers in force.
    fn asked(
        &self,
        peer: NodeId,
        founding: &Signed<Founding>,
        chain: &[Handover],
    ) -> Result<(CellId, SignerKeys), Declined> {
        if peer != self.key.node_id() && !self.consents {
            let refusal = Refusal::new(NOT_ASKED, "this node does not sign for others")
                .hint("its owner starts it with --cosigner");
            return Err(Declined { refusal: Box::new(refusal), culprits: Vec::new() });
        }
        from_coordinator(peer, founding)?;
        let belongs = *self.belongs.borrow();
        // Right after a start it does not know where it belongs; for whom it signs is on disk.
        let signs = || Ok::<_, Declined>(self.cabinet.memory(&cell_id(founding))?.is_some());
        if belongs != Some(founding.cid()) && (belongs.is_some() || !signs()?) {
            return Err(Declined::new(NOT_ASKED, "this node belongs to another cell"));
        }
        let (cell, keys, _) = self.learn(founding, chain)?;
        Ok((cell, keys))
    }

    /// Remembers a chain that goes on from the one that was seen before, and destroys what this machine holds of sets that
    /// have handed over. Returns the signers in force, and how many shares were destroyed.
    fn learn(
        &self,
        founding: &Signed<Founding>,
        chain: &[Handover],
    ) -> Result<(CellId, SignerKeys, u32), Declined> {
        let keys = verify_chain(founding, chain)?;
        let cell = cell_id(founding);
        let _judging = lock(&self.judging);
        let known = self.cabinet.memory(&cell)?;
        let before = known.as_ref().map_or(&[][..], |memory| &memory.chain);
        let same = before.iter().zip(chain).all(|(old, new)| old.set.cid() == new.set.cid());
        if !same || chain.len() < before.len() {
            tracing::error!(%cell, "the coordinator shows another chain of signers than before");
            return Err(Declined::new(
                OTHER_CHAIN,
                format!(
                    "another chain of signers was seen before, of {} hand-overs; this one has {}",
                    before.len(),
                    chain.len()
                ),
            ));
        }
        // What earlier sets held signs nothing any more, nor what was made for a set that never came to be. A share that
        // is kept for the next set was made after this chain was shown, so it stays.
        let order = |link: &Handover| link.set.order.to_string();
        let in_force = chain.last().map(order);
        let earlier: Vec<String> = chain.iter().rev().skip(1).map(order).collect();
        let grown = chain.len() > before.len();
        let destroyed = self.cabinet.drop_shares(&cell, |order| {
            if grown { Some(order) != in_force.as_deref() } else { earlier.iter().any(|old| old == order) }
        })?;
        if destroyed > 0 {
            tracing::info!(%cell, destroyed, "shares of earlier sets of signers are destroyed");
        }
        if known.is_none() || grown {
            let (head, promised) = known.as_ref().map_or((None, None), |known| (known.head, known.promised));
            let memory = Memory { founding: founding.clone(), chain: chain.to_vec(), head, promised };
            self.cabinet.keep_memory(&memory)?;
        }
        Ok((cell, keys, destroyed))
    }

    /// Returns this machine as a member of the set that has to sign.
    fn member(
        &self,
        founding: &Signed<Founding>,
        cell: &CellId,
        keys: SignerKeys,
        chain: &[Handover],
        purpose: &Purpose,
    ) -> Result<Member, Declined> {
        let order = match purpose {
            Purpose::Checkpoint => chain.last().map(|link| link.set.order),
            Purpose::Accept { set, order } => {
                let next = checked_next(founding, cell, &keys, set, order)?;
                return self.member_of(cell, next, Some(order.cid()));
            }
            Purpose::HandOver { set, order, accepted } => {
                let next = checked_next(founding, cell, &keys, set, order)?;
                verify_bytes(&next.group, &next.id.to_bytes(), accepted)
                    .map_err(|_| Declined::new(NOT_ORDERED, "the new signers have not accepted"))?;
                chain.last().map(|link| link.set.order)
            }
        };
        self.member_of(cell, keys, order)
    }

    fn member_of(&self, cell: &CellId, keys: SignerKeys, order: Option<Cid>) -> Result<Member, Declined> {
        if keys.is_alone() {
            return Ok(Member::alone(keys, &self.key)?);
        }
        let share = match order {
            Some(order) => self.cabinet.share(cell, &order)?,
            None => None,
        };
        let share = share.ok_or_else(|| Declined::new(NO_SHARE, "this node has no share of that key"))?;
        Ok(Member::with_share(keys, &share)?)
    }

    /// Remembers what others signed as if this machine had.
    fn remember(&self, committed: &Committed, note: &str, consistency: &[[u8; 32]]) -> Result<(), Declined> {
        let cell = &committed.cell;
        let not_signed = |reason: String| Declined::new(NOT_SIGNED, reason);
        let note = Note::parse(note).map_err(|error| not_signed(error.to_string()))?;
        let _judging = lock(&self.judging);
        let memory = self.cabinet.memory(cell)?;
        let mut memory =
            memory.ok_or_else(|| Declined::new(NO_SHARE, "nothing is remembered of this cell"))?;
        // Any set of the chain: what was signed before a hand-over holds after it.
        open_kept(&memory.founding, &memory.chain, &note).map_err(|error| not_signed(error.to_string()))?;
        self.grow(committed, &mut memory, note.text(), consistency)
    }

    /// Makes durable that the log has grown to what `text` says.
    fn grow(
        &self,
        committed: &Committed,
        memory: &mut Memory,
        text: &str,
        consistency: &[[u8; 32]],
    ) -> Result<(), Declined> {
        if memory.head != committed.head {
            return Err(Declined::new(OUT_OF_TURN, "something else was signed since this was asked"));
        }
        let head = check_growth(&committed.cell, memory.head.as_ref(), text, consistency)?;
        if memory.head != Some(head) {
            memory.head = Some(head);
            self.cabinet.keep_memory(memory)?;
        }
        Ok(())
    }

    /// Decides whether to sign, and makes durable what follows from having signed.
    fn judge(
        &self,
        committed: &Committed,
        request: &SigningRequest,
        consistency: &[[u8; 32]],
    ) -> Result<(), Declined> {
        let Committed { member, cell, purpose, .. } = committed;
        let over_record = |set: &SignerSet| -> Result<Cid, Declined> {
            let cid = record_cid(set);
            if request.message == cid.to_bytes() {
                Ok(cid)
            } else {
                Err(Declined::new(OUT_OF_TURN, "what is to be signed is not the record that was shown"))
            }
        };
        let _judging = lock(&self.judging);
        let memory = self.cabinet.memory(cell)?;
        let mut memory =
            memory.ok_or_else(|| Declined::new(NO_SHARE, "nothing is remembered of this cell"))?;
        let in_force = memory.chain.last().map_or(memory.founding.cid(), |link| link.set.cid());
        if !matches!(purpose, Purpose::Accept { .. }) && member.keys().id != in_force {
            return Err(Declined::new(OTHER_CHAIN, "these signers have handed over to others"));
        }
        match purpose {
            Purpose::Checkpoint => {
                let text = std::str::from_utf8(&request.message)
                    .map_err(|_| Declined::new(OUT_OF_TURN, "a checkpoint is text"))?;
                self.grow(committed, &mut memory, text, consistency)?;
            }
            Purpose::Accept { set, .. } => drop(over_record(set)?),
            Purpose::HandOver { set, .. } => {
                let promise = Promise { epoch: set.epoch, set: over_record(set)? };
                if memory.promised.is_some_and(|old| old.epoch == promise.epoch && old != promise) {
                    return Err(Declined::new(
                        OTHER_CHAIN,
                        "this signer has already handed over to other signers",
                    ));
                }
                memory.promised = Some(promise);
                self.cabinet.keep_memory(&memory)?;
            }
        }
        Ok(())
    }
}

/// Checks that the founding record names whoever asks.
fn from_coordinator(peer: NodeId, founding: &Signed<Founding>) -> Result<(), Declined> {
    if founding.coordinator != peer || founding.signed_by(&peer.0).is_err() {
        return Err(Declined::new(NOT_ASKED, "only the coordinator of the cell asks its signers"));
    }
    Ok(())
}

fn checked_next(
    founding: &Signed<Founding>,
    cell: &CellId,
    keys: &SignerKeys,
    set: &SignerSet,
    order: &Signed<SignerOrder>,
) -> Result<SignerKeys, Declined> {
    let not_ordered = |reason| Declined::new(NOT_ORDERED, reason);
    verify_order(founding, keys, order).map_err(not_ordered)?;
    let ordered = set.order == order.cid()
        && set.threshold == order.threshold
        && set.members.iter().map(|member| member.node).eq(order.members.iter().copied());
    if !ordered {
        return Err(not_ordered("the set is not the one that the owner ordered"));
    }
    next_keys(keys, cell, set).map_err(not_ordered)
}

/// Answers coordinators over the mesh, until it stops.
pub(crate) async fn serve(mesh: Mesh, signer: Arc<Signer>) {
    let Ok(mut incoming) = mesh.accept(version::SIGNERS) else {
        tracing::error!("requests to sign cannot be accepted");
        return;
    };
    while let Some((node, stream)) = incoming.recv().await {
        tokio::spawn(signer.clone().serve(node, stream));
    }
}
