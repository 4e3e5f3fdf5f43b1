//! The coordinator's side of signing: checkpoints that enough signers have signed, and changes of the signers.
//!
//! One signer signs at once, when somebody asks. Several sign in the background, at most once a second unless a receipt
//! waits, so that no task ever does. While too few can be reached jobs go on; receipts wait, and the last checkpoint
//! still serves the results that it covers.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_bytes::ByteArray;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use wc_cell::Event;
use wc_ledger::checkpoint::{Checkpoint as LogCheckpoint, origin};
use wc_ledger::note::Note;
use wc_ledger::proof::consistency_proof;
use wc_ledger::threshold::handover::{link as link_of, next_keys, set_of_one, verify_chain, verify_order};
use wc_ledger::threshold::sign::{Assembly, Member};
use wc_ledger::threshold::{Seed, SignerKeys, ThresholdFault};
use wc_proto::api::view::{SignerView, SignersView};
use wc_proto::limit::SIGNERS_BYTES_MAX;
use wc_proto::peer::signers::{Purpose, SignerAnswer, SignerRequest};
use wc_proto::version;
use wc_types::code::{Class, Code};
use wc_types::signers::{
    Handover, KeyCommitment, NonceCommitment, SealedShare, SignatureShare, SignedHead, SignerOrder, SignerSet,
};
use wc_types::{NodeId, Refusal, Signed, record_cid};

use super::cabinet::{Cabinet, KeptCheckpoint, Pending};
use super::signer::Signer;
use crate::brain::BrainError;
use crate::clock;
use crate::coordinator::{Coordinator, lock};
use crate::link;

/// Longest that one question to one signer takes. After it the others are asked without it.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Time between two checkpoints that nobody waits for.
const BEAT: Duration = Duration::from_secs(1);
/// Longest pause after signers could not be reached.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Longest that a receipt waits for its checkpoint before its reader is told to come back.
const RECEIPT_WAIT: Duration = Duration::from_secs(10);
/// Room in the pipe between the coordinator and its own signer.
const LOCAL_BYTES: usize = 64 << 10;

const TOO_FEW: Code = Code::new("WC-NODE-070", Class::Exhausted);
const NOT_CHANGED: Code = Code::new("WC-NODE-071", Class::Caller);
const UNFINISHED: Code = Code::new("WC-NODE-072", Class::Host);
const UNSIGNED: Code = Code::new("WC-NODE-073", Class::Ours);

/// A stream to a signer, whether it is in this process or not.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// The log's size, the note that the signers put under it, and how they came to be the signers.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    /// Number of leaves.
    pub size: u64,
    /// The note.
    pub note: String,
    /// The hand-overs from the founding to those who signed.
    pub signers: Arc<Vec<Handover>>,
}

/// The signers in force.
#[derive(Clone)]
struct Standing {
    chain: Arc<Vec<Handover>>,
    keys: SignerKeys,
}

/// How a signer did when it was last asked.
#[derive(Clone, Debug)]
enum Conduct {
    Signed,
    Spare,
    Absent(String),
    Wrong(String),
}

/// Too few signers took part, or something is wrong with the set.
#[derive(Debug)]
struct Unsigned {
    have: usize,
    need: usize,
    total: usize,
    reasons: BTreeMap<NodeId, String>,
}

impl Unsigned {
    fn say(&self) -> String {
        let Self { have, need, total, reasons } = self;
        let mut text = format!("{need} of {total} signers have to sign and {have} can");
        for (node, reason) in reasons {
            let _ = write!(text, "; {node}: {reason}");
        }
        text
    }
}

/// The coordinator's notary.
pub(crate) struct Notary {
    signer: Arc<Signer>,
    cabinet: Cabinet,
    standing: RwLock<Standing>,
    signed: watch::Sender<Option<Checkpoint>>,
    wanted: watch::Sender<u64>,
    conduct: Mutex<BTreeMap<NodeId, Conduct>>,
    problem: Mutex<Option<String>>,
    changing: tokio::sync::Mutex<()>,
    /// Whether a hand-over may be kept that is not in the journal yet.
    unfinished: AtomicBool,
}

impl Notary {
    /// The notary of a cell whose signers are at the end of `chain`.
    ///
    /// # Errors
    /// When the kept checkpoint cannot be read.
    pub fn new(
        signer: Arc<Signer>,
        cabinet: Cabinet,
        founding: &Signed<wc_types::charter::Founding>,
        chain: Vec<Handover>,
    ) -> io::Result<Self> {
        let cell = wc_types::charter::cell_id(founding);
        let keys = verify_chain(founding, &chain).map_err(io::Error::other)?;
        let kept = cabinet.checkpoint(&cell)?.and_then(|kept| {
            let signers = chain.get(..usize::try_from(kept.epoch).ok()?)?.to_vec();
            Some(Checkpoint { size: kept.size, note: kept.note, signers: Arc::new(signers) })
        });
        Ok(Self {
            signer,
            cabinet,
            standing: RwLock::new(Standing { chain: Arc::new(chain), keys }),
            signed: watch::Sender::new(kept),
            wanted: watch::Sender::new(0),
            conduct: Mutex::default(),
            problem: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            unfinished: AtomicBool::new(true),
        })
    }

    fn standing(&self) -> Standing {
        self.standing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns whether one key, held whole by this node, signs.
    pub fn is_alone(&self) -> bool {
        self.standing().keys.is_alone()
    }

    /// Returns the hand-overs to the signers in force.
    pub fn chain(&self) -> Arc<Vec<Handover>> {
        self.standing().chain
    }

    /// Returns the newest checkpoint that several signed.
    pub fn latest(&self) -> Option<Checkpoint> {
        self.signed.borrow().clone()
    }

    /// Returns a checkpoint of at least `need` entries.
    ///
    /// - `size`, `root`: the log as it stands
    ///
    /// # Errors
    /// A refusal when too few signers can be reached: the caller comes back later, and nothing is lost.
    pub async fn checkpoint(
        &self,
        coordinator: &Arc<Coordinator>,
        size: u64,
        root: [u8; 32],
        need: u64,
    ) -> Result<Checkpoint, Refusal> {
        let Standing { chain, keys } = self.standing();
        if keys.is_alone() {
            let checkpoint = LogCheckpoint::new(&coordinator.cell, size, root);
            let signature = sign_alone(coordinator, &keys, checkpoint.to_text().as_bytes())
                .map_err(|fault| Refusal::new(UNSIGNED, fault.to_string()))?;
            return self.note(&checkpoint, &keys, signature, chain);
        }
        let covers = |checkpoint: &Option<Checkpoint>| {
            checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.size >= need)
        };
        let mut signed = self.signed.subscribe();
        self.wanted.send_if_modified(|wanted| {
            let more = need > *wanted;
            *wanted = (*wanted).max(need);
            more
        });
        let waited = tokio::time::timeout(RECEIPT_WAIT, signed.wait_for(covers)).await;
        if let Ok(Ok(checkpoint)) = waited
            && let Some(checkpoint) = checkpoint.clone()
        {
            return Ok(checkpoint);
        }
        let why = lock(&self.problem).clone().unwrap_or_else(|| "the signers are slow".to_owned());
        Err(Refusal::new(TOO_FEW, format!("no signed checkpoint covers these results yet: {why}")).hint(
            "the results are safe; their receipts can be fetched as soon as enough signers are back \
             ('worldcompute cluster signers')",
        ))
    }

    fn note(
        &self,
        checkpoint: &LogCheckpoint,
        keys: &SignerKeys,
        signature: [u8; 64],
        signers: Arc<Vec<Handover>>,
    ) -> Result<Checkpoint, Refusal> {
        Note::with_signature(checkpoint.to_text(), checkpoint.origin.clone(), &keys.group, signature)
            .map(|note| Checkpoint { size: checkpoint.size, note: note.to_string(), signers })
            .map_err(|error| Refusal::new(UNSIGNED, error.to_string()))
    }

    /// Returns who signs and how that goes.
    pub async fn view(&self, coordinator: &Arc<Coordinator>) -> SignersView {
        let Standing { keys, .. } = self.standing();
        let connected: Vec<NodeId> = coordinator.mesh.peers().await.iter().map(|peer| peer.node).collect();
        let conduct = lock(&self.conduct).clone();
        let mut reachable = 0;
        let member = |node: NodeId| {
            let here = node == coordinator.node() || connected.contains(&node);
            let (state, reason) = match conduct.get(&node) {
                Some(Conduct::Wrong(reason)) => ("wrong", Some(reason.clone())),
                _ if !here => ("unreachable", Some("not connected".to_owned())),
                _ if keys.is_alone() => ("signing", None),
                Some(Conduct::Absent(reason)) => ("unreachable", Some(reason.clone())),
                Some(Conduct::Signed) => ("signing", None),
                Some(Conduct::Spare) | None => ("connected", None),
            };
            reachable += usize::from(matches!(state, "signing" | "connected"));
            SignerView { node, state: state.to_owned(), reason }
        };
        let members: Vec<SignerView> = keys.members.iter().map(|signer| signer.node).map(member).collect();
        let need = usize::from(keys.threshold);
        let problem = if reachable < need {
            Some(format!("{need} of {} signers have to sign and {reachable} can be reached", members.len()))
        } else {
            lock(&self.problem).clone()
        };
        let signed_size = self.signed.borrow().as_ref().map(|checkpoint| checkpoint.size);
        SignersView {
            epoch: keys.epoch,
            set: keys.id,
            threshold: keys.threshold,
            members,
            signed_size: signed_size.filter(|_| !keys.is_alone()),
            problem,
        }
    }

    /// Signs the log as it stands with the others, keeps the checkpoint and hands it to whoever waits.
    async fn notarise(
        &self,
        coordinator: &Arc<Coordinator>,
        size: u64,
        root: [u8; 32],
    ) -> Result<(), String> {
        let begun = Instant::now();
        let Standing { chain, keys } = self.standing();
        let checkpoint = LogCheckpoint::new(&coordinator.cell, size, root);
        debug_assert_eq!(checkpoint.origin, origin(&coordinator.cell));
        let text = checkpoint.to_text();
        let signature = self
            .sign(coordinator, &keys, &chain, text.as_bytes(), Purpose::Checkpoint, size)
            .await
            .map_err(|unsigned| unsigned.say())?;
        let checkpoint =
            self.note(&checkpoint, &keys, signature, chain).map_err(|refusal| refusal.to_string())?;
        let kept = KeptCheckpoint { size, epoch: keys.epoch, note: checkpoint.note.clone() };
        let (cabinet, cell) = (self.cabinet.clone(), coordinator.cell);
        tokio::task::spawn_blocking(move || cabinet.keep_checkpoint(&cell, &kept))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("the checkpoint cannot be kept: {error}"))?;
        self.signed.send_replace(Some(checkpoint));
        tracing::debug!(size, micros = begun.elapsed().as_micros(), "checkpoint signed together");
        Ok(())
    }

    /// Has `message` signed by enough members of `keys`. Whoever does not answer, refuses or answers wrongly is left
    /// out, and the others begin anew with fresh nonces.
    async fn sign(
        &self,
        coordinator: &Arc<Coordinator>,
        keys: &SignerKeys,
        chain: &Arc<Vec<Handover>>,
        message: &[u8],
        purpose: Purpose,
        size: u64,
    ) -> Result<[u8; 64], Unsigned> {
        let need = usize::from(keys.threshold);
        let total = keys.members.len();
        let mut left_out: BTreeMap<NodeId, String> = BTreeMap::new();
        if keys.is_alone() {
            return sign_alone(coordinator, keys, message).map_err(|fault| Unsigned {
                have: 0,
                need,
                total,
                reasons: [(coordinator.node(), fault.to_string())].into(),
            });
        }
        let commit = SignerRequest::Commit {
            founding: Box::new(coordinator.founding.clone()),
            chain: chain.to_vec(),
            purpose: purpose.clone(),
        };
        loop {
            let candidates: Vec<NodeId> = keys
                .members
                .iter()
                .map(|member| member.node)
                .filter(|node| !left_out.contains_key(node))
                .collect();
            if candidates.len() < need {
                self.note_conduct(keys, &[], &left_out);
                return Err(Unsigned { have: candidates.len(), need, total, reasons: left_out });
            }
            let mut asked = JoinSet::new();
            for node in candidates.iter().copied() {
                let (coordinator, commit) = (coordinator.clone(), commit.clone());
                asked.spawn(async move { (node, begin(&coordinator, node, &commit).await) });
            }
            let mut taking: Vec<Taking> = Vec::with_capacity(need);
            while taking.len() < need {
                match asked.join_next().await {
                    Some(Ok((_, Ok(part)))) => taking.push(part),
                    Some(Ok((node, Err(reason)))) => drop(left_out.insert(node, reason)),
                    Some(Err(_)) => {}
                    None => break,
                }
            }
            // Those who were not needed forget their nonces with their streams.
            drop(asked);
            if taking.len() < need {
                for node in candidates {
                    if !taking.iter().any(|part| part.commitment.node == node) {
                        left_out.entry(node).or_insert_with(|| "it did not answer".to_owned());
                    }
                }
                continue;
            }
            let commitments = taking.iter().map(|part| part.commitment.clone()).collect();
            let assembly = match Assembly::begin(keys, message, commitments) {
                Ok(assembly) => assembly,
                Err(fault) => {
                    if self.blame(&fault, &mut left_out) {
                        continue;
                    }
                    return Err(Unsigned { have: 0, need, total, reasons: left_out });
                }
            };
            let mut signing = JoinSet::new();
            for part in taking {
                let node = part.commitment.node;
                match self.proof(coordinator, &purpose, part.head, size) {
                    Ok(consistency) => {
                        let sign = SignerRequest::Sign { request: assembly.request().clone(), consistency };
                        signing.spawn(async move { (node, finish(part, &sign).await) });
                    }
                    Err(reason) => drop(left_out.insert(node, reason)),
                }
            }
            let mut shares: Vec<SignatureShare> = Vec::with_capacity(need);
            while let Some(signed) = signing.join_next().await {
                match signed {
                    Ok((_, Ok(share))) => shares.push(share),
                    Ok((node, Err(reason))) => drop(left_out.insert(node, reason)),
                    Err(_) => {}
                }
            }
            let signers: Vec<NodeId> =
                assembly.request().commitments.iter().map(|commitment| commitment.node).collect();
            if shares.len() < need {
                for node in signers {
                    if !shares.iter().any(|share| share.node == node) {
                        left_out.entry(node).or_insert_with(|| "it did not sign".to_owned());
                    }
                }
                continue;
            }
            match assembly.finish(&shares) {
                Ok(signature) => {
                    self.note_conduct(keys, &signers, &left_out);
                    return Ok(signature);
                }
                Err(fault) => {
                    if !self.blame(&fault, &mut left_out) {
                        return Err(Unsigned { have: shares.len(), need, total, reasons: left_out });
                    }
                }
            }
        }
    }

    /// Leaves out those whom a fault names. Returns whether it names somebody.
    fn blame(&self, fault: &ThresholdFault, left_out: &mut BTreeMap<NodeId, String>) -> bool {
        for node in fault.culprits() {
            tracing::error!(%node, %fault, "a signer is wrong; going on without it");
            left_out.insert(*node, fault.to_string());
            lock(&self.conduct).insert(*node, Conduct::Wrong(fault.to_string()));
        }
        !fault.culprits().is_empty()
    }

    fn note_conduct(&self, keys: &SignerKeys, signers: &[NodeId], left_out: &BTreeMap<NodeId, String>) {
        let mut conduct = lock(&self.conduct);
        conduct.retain(|node, _| keys.is_member(node));
        for node in keys.members.iter().map(|member| member.node) {
            let now = match left_out.get(&node) {
                // Whoever was wrong stays so until it signs rightly.
                Some(_) if matches!(conduct.get(&node), Some(Conduct::Wrong(_))) => continue,
                Some(reason) => Conduct::Absent(reason.clone()),
                None if signers.contains(&node) => Conduct::Signed,
                None => Conduct::Spare,
            };
            conduct.insert(node, now);
        }
    }

    /// Returns the proof that the log grew from the head that a signer signed last.
    fn proof(
        &self,
        coordinator: &Arc<Coordinator>,
        purpose: &Purpose,
        head: Option<SignedHead>,
        size: u64,
    ) -> Result<Vec<ByteArray<32>>, String> {
        let (Purpose::Checkpoint, Some(head)) = (purpose, head) else { return Ok(Vec::new()) };
        if head.size > size {
            return Err(format!("it has signed a log of {} entries; this one has {size}", head.size));
        }
        let proof = consistency_proof(head.size, size, |level, index| {
            coordinator.archive.tree_hash(level, index).ok().flatten()
        });
        proof
            .map(|hashes| hashes.into_iter().map(ByteArray::new).collect())
            .map_err(|error| format!("no proof of growth can be made: {error}"))
    }

    /// Changes the signers as the owner orders: makes a key, lets the new signers accept and the old ones hand over, and
    /// records it.
    ///
    /// # Errors
    /// A refusal that names who did not take part; then nothing has changed.
    pub async fn change(
        &self,
        coordinator: &Arc<Coordinator>,
        order: Signed<SignerOrder>,
    ) -> Result<(), Refusal> {
        let not_changed = |reason: String| Refusal::new(NOT_CHANGED, reason);
        let _changing = self.changing.lock().await;
        self.finish_pending(coordinator).await?;
        let Standing { chain, keys } = self.standing();
        verify_order(&coordinator.founding, &keys, &order)
            .map_err(|reason| not_changed(reason.to_owned()))?;
        if !order.members.contains(&coordinator.node()) {
            return Err(
                not_changed("the coordinator has to be one of the signers".to_owned()).field("members")
            );
        }
        let set = if order.members.len() == 1 {
            set_of_one(&order, coordinator.node())
        } else {
            generate(coordinator, &chain, &order).await.map_err(not_changed)?
        };
        let next =
            next_keys(&keys, &coordinator.cell, &set).map_err(|reason| not_changed(reason.to_owned()))?;
        let purpose = Purpose::Accept { set: Box::new(set.clone()), order: Box::new(order.clone()) };
        let accepted = self
            .sign(coordinator, &next, &chain, &next.id.to_bytes(), purpose, 0)
            .await
            .map_err(|unsigned| not_changed(format!("the new signers cannot sign: {}", unsigned.say())))?;
        let pending = Pending { set, order, accepted: ByteArray::new(accepted) };
        self.unfinished.store(true, Ordering::Relaxed);
        self.cabinet
            .keep_pending(&coordinator.cell, &pending)
            .map_err(|error| Refusal::new(UNFINISHED, format!("the hand-over cannot be kept: {error}")))?;
        self.finish_pending(coordinator).await
    }

    /// Goes on with a hand-over that the new signers have accepted, if there is one.
    async fn finish_pending(&self, coordinator: &Arc<Coordinator>) -> Result<(), Refusal> {
        let unfinished = |reason: String| {
            Refusal::new(UNFINISHED, format!("the hand-over to the new signers is not finished: {reason}"))
                .hint("the coordinator goes on trying; the signers before them sign until then")
        };
        let kept = self.cabinet.pending(&coordinator.cell).map_err(|error| unfinished(error.to_string()))?;
        let Some(Pending { set, order, accepted }) = kept else {
            self.unfinished.store(false, Ordering::Relaxed);
            return Ok(());
        };
        let Standing { chain, keys } = self.standing();
        if set.epoch == keys.epoch + 1 {
            let purpose = Purpose::HandOver { set: Box::new(set.clone()), order: Box::new(order), accepted };
            let signature = self
                .sign(coordinator, &keys, &chain, &record_cid(&set).to_bytes(), purpose, 0)
                .await
                .map_err(|unsigned| unfinished(unsigned.say()))?;
            let handover = link_of(&set, keys.group, signature, accepted.into_array())
                .map_err(|error| unfinished(error.to_string()))?;
            let event = Event::SignersChanged(Box::new(handover));
            match coordinator.brain.ask(event, Vec::new()).await {
                Ok(Ok(_)) => {}
                Ok(Err(refusals)) => {
                    let text = refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                    return Err(unfinished(text));
                }
                Err(error) => return Err(unfinished(error.to_string())),
            }
            let before = keys;
            let chain = coordinator.brain.query(|cell, _| cell.signers().to_vec()).await;
            let chain = chain.map_err(|error: BrainError| unfinished(error.to_string()))?;
            let keys =
                verify_chain(&coordinator.founding, &chain).map_err(|fault| unfinished(fault.to_string()))?;
            tracing::info!(
                epoch = keys.epoch,
                threshold = keys.threshold,
                members = keys.members.len(),
                "the signers have handed over"
            );
            // Those who are no longer asked learn of it once, and destroy their shares.
            let farewell = SignerRequest::Commit {
                founding: Box::new(coordinator.founding.clone()),
                chain: chain.clone(),
                purpose: Purpose::Checkpoint,
            };
            for node in before.members.iter().map(|member| member.node).filter(|node| !keys.is_member(node)) {
                let (coordinator, farewell) = (coordinator.clone(), farewell.clone());
                tokio::spawn(async move { begin(&coordinator, node, &farewell).await.is_ok() });
            }
            *self.standing.write().unwrap_or_else(PoisonError::into_inner) =
                Standing { chain: Arc::new(chain), keys };
            lock(&self.conduct).clear();
            self.wanted.send_modify(|_| {});
        }
        self.cabinet.drop_pending(&coordinator.cell).map_err(|error| unfinished(error.to_string()))?;
        self.unfinished.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// Signs with the one key that this node holds whole.
fn sign_alone(
    coordinator: &Coordinator,
    keys: &SignerKeys,
    message: &[u8],
) -> Result<[u8; 64], ThresholdFault> {
    let member = Member::alone(keys.clone(), &coordinator.key)?;
    let (nonces, commitment) = member.commit(Seed::new(clock::random()));
    let assembly = Assembly::begin(keys, message, vec![commitment])?;
    let share = member.sign(nonces, assembly.request())?;
    assembly.finish(&[share])
}

/// One signer's part in a signature, between its two messages.
struct Taking {
    wire: Box<dyn Wire>,
    commitment: NonceCommitment,
    head: Option<SignedHead>,
}

async fn open(coordinator: &Arc<Coordinator>, node: NodeId) -> Result<Box<dyn Wire>, String> {
    if node == coordinator.node() {
        let (ours, theirs) = tokio::io::duplex(LOCAL_BYTES);
        tokio::spawn(coordinator.notary.signer.clone().serve(node, theirs));
        return Ok(Box::new(ours));
    }
    match tokio::time::timeout(ANSWER_MAX, coordinator.mesh.open(node, version::SIGNERS)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it cannot be reached".to_owned()),
    }
}

/// Asks one question and returns the answer; a refusal is an error.
async fn ask(wire: &mut Box<dyn Wire>, request: &SignerRequest) -> Result<SignerAnswer, String> {
    let asked = async {
        link::write(wire, request, SIGNERS_BYTES_MAX).await?;
        link::read(wire, SIGNERS_BYTES_MAX).await
    };
    match tokio::time::timeout(ANSWER_MAX, asked).await {
        Ok(Ok(SignerAnswer::Refused { refusal, culprits })) => {
            let names: Vec<String> = culprits.iter().map(NodeId::to_string).collect();
            let blames =
                if names.is_empty() { String::new() } else { format!(" (it blames {})", names.join(", ")) };
            Err(format!("{refusal}{blames}"))
        }
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", ANSWER_MAX.as_secs())),
    }
}

const UNEXPECTED: &str = "it answered something else";

async fn begin(
    coordinator: &Arc<Coordinator>,
    node: NodeId,
    commit: &SignerRequest,
) -> Result<Taking, String> {
    let mut wire = open(coordinator, node).await?;
    match ask(&mut wire, commit).await? {
        SignerAnswer::Committed { commitment, head } if commitment.node == node => {
            Ok(Taking { wire, commitment, head })
        }
        _ => Err(UNEXPECTED.to_owned()),
    }
}

async fn finish(mut part: Taking, sign: &SignerRequest) -> Result<SignatureShare, String> {
    match ask(&mut part.wire, sign).await? {
        SignerAnswer::Signed { share } if share.node == part.commitment.node => Ok(share),
        _ => Err(UNEXPECTED.to_owned()),
    }
}

/// Asks every one of `wires` its own question at once. The first failure, by name, is the whole answer.
async fn ask_all(
    wires: Vec<(NodeId, Box<dyn Wire>, SignerRequest)>,
) -> Result<Vec<(NodeId, Box<dyn Wire>, SignerAnswer)>, String> {
    let mut asked = JoinSet::new();
    for (node, mut wire, request) in wires {
        asked.spawn(async move {
            let answer = ask(&mut wire, &request).await;
            (node, wire, answer)
        });
    }
    let mut answers = Vec::new();
    while let Some(answered) = asked.join_next().await {
        let (node, wire, answer) = answered.map_err(|error| error.to_string())?;
        let answer = answer.map_err(|reason| format!("{node} does not take part: {reason}"))?;
        answers.push((node, wire, answer));
    }
    answers.sort_by_key(|(node, ..)| *node);
    Ok(answers)
}

/// Lets the members of an order make a key, and returns the record of their set, on which they all agree.
async fn generate(
    coordinator: &Arc<Coordinator>,
    chain: &Arc<Vec<Handover>>,
    order: &Signed<SignerOrder>,
) -> Result<SignerSet, String> {
    let unexpected = |node: NodeId| format!("{node} does not take part: {UNEXPECTED}");
    let mut wires = Vec::new();
    for node in order.members.iter().copied() {
        let wire =
            open(coordinator, node).await.map_err(|reason| format!("{node} cannot be asked: {reason}"))?;
        let begin = SignerRequest::Begin {
            founding: Box::new(coordinator.founding.clone()),
            chain: chain.to_vec(),
            order: Box::new(order.clone()),
        };
        wires.push((node, wire, begin));
    }
    let mut commitments: Vec<Signed<KeyCommitment>> = Vec::new();
    let mut next = Vec::new();
    for (node, wire, answer) in ask_all(wires).await? {
        let SignerAnswer::Commitment { commitment } = answer else { return Err(unexpected(node)) };
        commitments.push(*commitment);
        next.push((node, wire));
    }
    let all = next
        .into_iter()
        .map(|(node, wire)| (node, wire, SignerRequest::Commitments { commitments: commitments.clone() }))
        .collect();
    let mut shares: Vec<Signed<SealedShare>> = Vec::new();
    let mut next = Vec::new();
    for (node, wire, answer) in ask_all(all).await? {
        let SignerAnswer::Shares { shares: own } = answer else { return Err(unexpected(node)) };
        shares.extend(own);
        next.push((node, wire));
    }
    let all = next
        .into_iter()
        .map(|(node, wire)| {
            let own = shares.iter().filter(|share| share.to == node).cloned().collect();
            (node, wire, SignerRequest::Shares { shares: own })
        })
        .collect();
    let mut agreed: Option<SignerSet> = None;
    for (node, _, answer) in ask_all(all).await? {
        let SignerAnswer::Ready { set } = answer else { return Err(unexpected(node)) };
        if agreed.as_ref().is_some_and(|agreed| *agreed != *set) {
            return Err(format!("{node} has made another key than the others"));
        }
        agreed = Some(*set);
    }
    agreed.ok_or_else(|| "the order names nobody".to_owned())
}

/// Has checkpoints signed whenever the log grew, while several sign; finishes what a crash interrupted.
pub(crate) async fn run(coordinator: Arc<Coordinator>) {
    let notary = &coordinator.notary;
    let mut wanted = notary.wanted.subscribe();
    let mut pause = BEAT;
    loop {
        if notary.unfinished.load(Ordering::Relaxed)
            && let Ok(_changing) = notary.changing.try_lock()
            && let Err(refusal) = notary.finish_pending(&coordinator).await
        {
            tracing::warn!(%refusal, "going on with the hand-over later");
        }
        let mut failed = false;
        if !notary.is_alone() {
            let Ok((size, root)) =
                coordinator.brain.query(|cell, _| (cell.ledger_size(), cell.ledger_root())).await
            else {
                return;
            };
            let signed = notary.signed.borrow().as_ref().map_or(0, |checkpoint| checkpoint.size);
            if size > signed {
                match notary.notarise(&coordinator, size, root).await {
                    Ok(()) => *lock(&notary.problem) = None,
                    Err(reason) => {
                        failed = true;
                        let before = lock(&notary.problem).replace(reason.clone());
                        if before.as_ref() != Some(&reason) {
                            tracing::warn!(reason, "the checkpoint is not signed; receipts wait");
                        }
                    }
                }
            }
        }
        if failed {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        } else {
            pause = BEAT / 4;
            // One signer signs when it is asked, so there is nothing to do until there are several.
            let idle = notary.is_alone() && !notary.unfinished.load(Ordering::Relaxed);
            let wait = if idle { Duration::MAX } else { BEAT };
            let _ = tokio::time::timeout(wait, wanted.changed()).await;
        }
    }
}
