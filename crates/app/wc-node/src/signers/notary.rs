//! The coordinator's side of signing: checkpoints that enough signers have signed, and changes of the signers.
//!
//! One signer signs at once, when somebody asks. Several sign in the background, at most once a second unless a receipt
//! waits, so that no task ever does. While too few can be reached jobs go on; receipts wait, and the last checkpoint
//! still serves the results that it covers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_bytes::ByteArray;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use wc_cell::{AccountView, Event};
use wc_ledger::checkpoint::{Checkpoint as LogCheckpoint, origin};
use wc_ledger::note::Note;
use wc_ledger::proof::{consistency_proof, root_at};
use wc_ledger::threshold::handover::{link as link_of, next_keys, set_of_one, verify_chain, verify_order};
use wc_ledger::threshold::sign::{Assembly, Member};
use wc_ledger::threshold::{Seed, SignerKeys, ThresholdFault};
use wc_proto::api::view::{PendingSignersView, SignerView, SignersView};
use wc_proto::peer::signers::{Purpose, SignerRequest};
use wc_types::code::{Class, Code};
use wc_types::signers::{Handover, SignatureShare, SignedHead, SignerOrder};
use wc_types::{AccountId, NodeId, Refusal, Signed, record_cid};

use super::asking::{self, Taking};
use super::cabinet::{Cabinet, KeptCheckpoint, Pending};
use super::conduct::{Conducts, Failing};
use super::repeats::Repeats;
use super::signer::Signer;
use crate::brain::BrainError;
use crate::clock;
use crate::coordinator::{Coordinator, lock};
use crate::credits::CreditsError;

/// Longest that a signature waits for one signer while there are enough others. Then these sign without it.
const PROMPT: Duration = Duration::from_millis(500);
/// Longest that those who were not needed are listened to afterwards.
const SPARE_WAIT: Duration = Duration::from_secs(1);
/// Time between two checkpoints that nobody waits for.
const BEAT: Duration = Duration::from_secs(1);
/// Shortest time between two checkpoints, however many people wait: each takes a flush to disk of every signer.
const GAP: Duration = Duration::from_millis(100);
/// Longest pause after signers could not be reached.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Longest that a receipt waits for its checkpoint before its reader is told to come back.
const RECEIPT_WAIT: Duration = Duration::from_secs(10);
/// Accounts that wait for the next checkpoint. More than people who ask in one second.
const ACCOUNTS_MAX: usize = 256;
/// Time between two looks for machines that have to be told of a hand-over.
const TELL_EVERY: Duration = Duration::from_secs(2);

const TOO_FEW: Code = Code::new("WC-NODE-070", Class::Exhausted);
const NOT_CHANGED: Code = Code::new("WC-NODE-071", Class::Caller);
const UNFINISHED: Code = Code::new("WC-NODE-072", Class::Host);
const BUSY: Code = Code::new("WC-NODE-074", Class::Exhausted);
const UNSIGNED: Code = Code::new("WC-NODE-073", Class::Ours);
const PENDING: Code = Code::new("WC-NODE-075", Class::Conflict);

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

/// Too few signers took part, or something is wrong with the set.
#[derive(Debug)]
struct Unsigned {
    have: usize,
    need: usize,
    total: usize,
    left_out: BTreeMap<NodeId, Failing>,
}

impl Unsigned {
    fn say(&self) -> String {
        let Self { have, need, total, left_out } = self;
        let mut text = format!("{need} of {total} signers have to sign and {have} can");
        for (node, failing) in left_out {
            let verb = if matches!(failing, Failing::Refuses { .. }) { " refuses" } else { "" };
            let _ = write!(text, "; {node}{verb}: {}", failing.reason());
        }
        text
    }

    /// Returns who is left out and how, without words that differ each time.
    fn kind(&self) -> String {
        self.left_out.iter().map(|(node, failing)| format!("{node} {};", failing.state())).collect()
    }
}

/// A hand-over that is not finished.
struct Unfinished {
    pending: Pending,
    /// Why it was not finished when it was last tried.
    reason: Option<String>,
}

/// Somebody who asked for an account as it stands under a checkpoint.
struct Asked {
    account: AccountId,
    answer: oneshot::Sender<(AccountView, Checkpoint)>,
}

/// The coordinator's notary.
pub(crate) struct Notary {
    signer: Arc<Signer>,
    cabinet: Cabinet,
    standing: RwLock<Standing>,
    signed: watch::Sender<Option<Checkpoint>>,
    wanted: watch::Sender<u64>,
    conduct: Mutex<Conducts>,
    /// Why the last try to sign a checkpoint failed, until one is signed or none has to be.
    problem: Mutex<Option<String>>,
    /// Who waits for the next checkpoint and the account under it.
    accounts: Mutex<Vec<Asked>>,
    changing: tokio::sync::Mutex<()>,
    unfinished: Mutex<Option<Unfinished>>,
    /// Up to which hand-over each machine has confirmed that it knows the chain.
    told: Mutex<BTreeMap<NodeId, u64>>,
    /// What was said in the log.
    said: Mutex<Repeats>,
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
        let unfinished = cabinet.pending(&cell)?.map(|pending| Unfinished { pending, reason: None });
        let told = cabinet.told(&cell)?;
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
            accounts: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            unfinished: Mutex::new(unfinished),
            told: Mutex::new(told),
            said: Mutex::default(),
        })
    }

    fn standing(&self) -> Standing {
        self.standing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns this machine's own signer.
    pub(super) fn signer(&self) -> Arc<Signer> {
        self.signer.clone()
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
        let deadline = tokio::time::Instant::now() + RECEIPT_WAIT;
        let mut signed = self.signed.subscribe();
        self.wanted.send_if_modified(|wanted| {
            let more = need > *wanted;
            *wanted = (*wanted).max(need);
            more
        });
        loop {
            // Looked at each time: the signers may change while somebody waits.
            let Standing { chain, keys } = self.standing();
            if keys.is_alone() {
                let checkpoint = LogCheckpoint::new(&coordinator.cell, size, root);
                let signature = sign_alone(coordinator, &keys, checkpoint.to_text().as_bytes())
                    .map_err(|fault| Refusal::new(UNSIGNED, fault.to_string()))?;
                return self.note(&checkpoint, &keys, signature, chain);
            }
            let covering = signed.borrow_and_update().clone().filter(|checkpoint| checkpoint.size >= need);
            if let Some(checkpoint) = covering {
                return Ok(checkpoint);
            }
            if !matches!(tokio::time::timeout_at(deadline, signed.changed()).await, Ok(Ok(()))) {
                return Err(self.too_few());
            }
        }
    }

    /// Returns an account as it stands at a signed checkpoint, and that checkpoint. However fast the ledger grows, the
    /// two belong together: when several sign, the account is read in the moment whose ledger they sign next.
    ///
    /// # Errors
    /// A refusal when too few signers can be reached.
    pub async fn account(
        &self,
        coordinator: &Arc<Coordinator>,
        account: AccountId,
    ) -> Result<(AccountView, Checkpoint), CreditsError> {
        let deadline = tokio::time::Instant::now() + RECEIPT_WAIT;
        loop {
            if self.is_alone() {
                let found = coordinator.brain.query(move |cell, _| cell.account(&account)).await?;
                let (size, root) = (found.ledger_size, found.ledger_root);
                let checkpoint = self.checkpoint(coordinator, size, root, size).await;
                let checkpoint = checkpoint.map_err(CreditsError::Checkpoint)?;
                if checkpoint.size == size {
                    return Ok((found, checkpoint));
                }
                // The signers changed just now.
                continue;
            }
            let (answer, answered) = oneshot::channel();
            {
                let mut accounts = lock(&self.accounts);
                accounts.retain(|asked| !asked.answer.is_closed());
                if accounts.len() >= ACCOUNTS_MAX {
                    let busy = "too many ask for their accounts at this moment; try again in a moment";
                    return Err(CreditsError::Checkpoint(Refusal::new(BUSY, busy)));
                }
                accounts.push(Asked { account, answer });
            }
            self.wanted.send_modify(|_| {});
            match tokio::time::timeout_at(deadline, answered).await {
                Ok(Ok(found)) => return Ok(found),
                // One signs alone now.
                Ok(Err(_)) => {}
                Err(_) => return Err(CreditsError::Checkpoint(self.too_few())),
            }
        }
    }

    /// Says why there is no signed checkpoint of what somebody waited for.
    fn too_few(&self) -> Refusal {
        let why = lock(&self.problem).clone().unwrap_or_else(|| "the signers are slow".to_owned());
        let refusal = Refusal::new(TOO_FEW, format!("no signed checkpoint covers this yet: {why}"));
        refusal.hint(if self.alarms().is_empty() {
            "nothing is lost: results are safe, and receipts and accounts can be had as soon as enough signers are back \
             ('worldcompute cluster signers')"
        } else {
            "a signer refuses, and waiting does not help: the coordinator may have been restored from an old copy, or \
             somebody rewrites the ledger. Change nothing on the signers' machines, and read their reasons with \
             'worldcompute cluster signers'"
        })
    }

    /// Returns what an operator has to look at now, a sentence each.
    pub fn alarms(&self) -> Vec<String> {
        lock(&self.conduct).alarms()
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
        let Standing { keys, chain } = self.standing();
        let connected: Vec<NodeId> = coordinator.mesh.peers().await.iter().map(|peer| peer.node).collect();
        let (mut able, mut refusing) = (0, 0);
        let members: Vec<SignerView> = {
            let conduct = lock(&self.conduct);
            let member = |node: NodeId| {
                let here = node == coordinator.node() || connected.contains(&node);
                let (state, reason) = match keys.is_alone() {
                    true => ("signing", None),
                    false => conduct.tell(&node, here),
                };
                able += usize::from(matches!(state, "signing" | "connected" | "slow"));
                refusing += usize::from(state == "refuses");
                SignerView { node, state: state.to_owned(), reason }
            };
            keys.members.iter().map(|signer| signer.node).map(member).collect()
        };
        let need = usize::from(keys.threshold);
        // The last try knows the reasons; before there was one, those who are there are counted.
        let counted = || {
            let refusing = if refusing > 0 { format!("; {refusing} refuse") } else { String::new() };
            format!("{need} of {} signers have to sign and {able} can{refusing}", members.len())
        };
        let problem = lock(&self.problem).clone().or_else(|| (able < need).then(counted));
        let pending =
            lock(&self.unfinished).as_ref().map(|Unfinished { pending, reason }| PendingSignersView {
                epoch: pending.set.epoch,
                threshold: pending.set.threshold,
                members: pending.set.members.iter().map(|member| member.node).collect(),
                reason: reason.clone(),
            });
        let signed_size = self.signed.borrow().as_ref().map(|checkpoint| checkpoint.size);
        SignersView {
            epoch: keys.epoch,
            set: keys.id,
            threshold: keys.threshold,
            members,
            signed_size: signed_size.filter(|_| !keys.is_alone()),
            problem,
            pending,
            untold: self.untold(&chain, coordinator.node()),
        }
    }

    /// Returns the machines that held a share of an earlier set and have not confirmed that they know of its end.
    fn untold(&self, chain: &[Handover], own: NodeId) -> Vec<NodeId> {
        let told = lock(&self.told);
        let mut owed: BTreeMap<NodeId, u64> = BTreeMap::new();
        for link in chain.iter().rev().skip(1).rev() {
            for member in &link.set.members {
                owed.insert(member.node, link.set.epoch + 1);
            }
        }
        let owes = |(node, epoch): (NodeId, u64)| {
            let knows = node == own || told.get(&node).is_some_and(|known| *known >= epoch);
            (!knows).then_some(node)
        };
        owed.into_iter().filter_map(owes).collect()
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
            .map_err(|unsigned| {
                if let Some(times) = lock(&self.said).happened(&unsigned.kind(), Instant::now()) {
                    let reason = unsigned.say();
                    tracing::warn!(reason, times, "the checkpoint is not signed; receipts wait");
                }
                unsigned.say()
            })?;
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

    /// Answers those who asked for accounts, if what was found is what the newest checkpoint is about.
    fn answer_accounts(&self, size: u64, found: Vec<AccountView>) {
        let newest = self.signed.borrow().clone();
        let Some(checkpoint) = newest.filter(|checkpoint| checkpoint.size == size) else { return };
        let mut accounts = lock(&self.accounts);
        for found in found {
            for asked in accounts.extract_if(.., |asked| asked.account == found.account) {
                // Whoever has gone away has its answer, too.
                let _ = asked.answer.send((found.clone(), checkpoint.clone()));
            }
        }
    }

    /// Has `message` signed by enough members of `keys`. Whoever does not answer, refuses or answers wrongly is left
    /// out, whoever is slow is asked last, and the others begin anew with fresh nonces.
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
        if keys.is_alone() {
            return sign_alone(coordinator, keys, message).map_err(|fault| Unsigned {
                have: 0,
                need,
                total,
                left_out: [(coordinator.node(), Failing::Wrong(fault.to_string()))].into(),
            });
        }
        let commit = SignerRequest::Commit {
            founding: Box::new(coordinator.founding.clone()),
            chain: chain.to_vec(),
            purpose: purpose.clone(),
        };
        let mut left_out: BTreeMap<NodeId, Failing> = BTreeMap::new();
        let mut late: BTreeSet<NodeId> = BTreeSet::new();
        loop {
            let nodes = keys.members.iter().map(|member| member.node);
            let candidates: Vec<NodeId> = nodes.filter(|node| !left_out.contains_key(node)).collect();
            if candidates.len() < need {
                self.took_part(keys, &[], &late, &left_out);
                return Err(Unsigned { have: candidates.len(), need, total, left_out });
            }
            let last: BTreeSet<NodeId> = {
                let (conduct, now) = (lock(&self.conduct), Instant::now());
                let is_last = |node: &&NodeId| late.contains(node) || conduct.is_last(node, now);
                candidates.iter().filter(is_last).copied().collect()
            };
            let mut taking = self.choose(coordinator, keys, &candidates, &last, &commit, &mut left_out).await;
            if taking.len() < need {
                for node in candidates {
                    if !taking.iter().any(|part| part.commitment.node == node) {
                        let silent = || Failing::Absent("it did not answer".to_owned());
                        left_out.entry(node).or_insert_with(silent);
                    }
                }
                continue;
            }
            let signers: Vec<NodeId> = taking.iter().map(|part| part.commitment.node).collect();
            let commitments = taking.iter().map(|part| part.commitment.clone()).collect();
            let assembly = match Assembly::begin(keys, message, commitments) {
                Ok(assembly) => assembly,
                Err(fault) if self.blame(&fault, &mut left_out) => continue,
                Err(fault) => {
                    tracing::error!(%fault, "a signature cannot be begun");
                    return Err(Unsigned { have: 0, need, total, left_out });
                }
            };
            let mut signing = JoinSet::new();
            for part in taking.drain(..) {
                let consistency = proof(coordinator, &purpose, part.head, size);
                let sign = SignerRequest::Sign { request: assembly.request().clone(), consistency };
                let node = part.commitment.node;
                signing.spawn(async move { (node, asking::finish(part, &sign).await) });
            }
            // Enough others, and none of those that this signature waits for: then it does not wait for long.
            let prompt = tokio::time::Instant::now() + PROMPT;
            let others = |waiting: &BTreeSet<NodeId>| {
                let usable = |node: &&NodeId| {
                    !left_out.contains_key(node) && !last.contains(node) && !waiting.contains(node)
                };
                candidates.iter().filter(usable).count() >= need
            };
            let mut waiting: BTreeSet<NodeId> = signers.iter().copied().collect();
            let mut shares: Vec<SignatureShare> = Vec::with_capacity(need);
            let mut failed = None;
            while !waiting.is_empty() && failed.is_none() {
                let signed = if others(&waiting) {
                    tokio::time::timeout_at(prompt, signing.join_next()).await
                } else {
                    Ok(signing.join_next().await)
                };
                match signed {
                    Ok(Some(Ok((node, Ok(share))))) => {
                        waiting.remove(&node);
                        shares.push(share);
                    }
                    Ok(Some(Ok((node, Err(failing))))) => failed = Some((node, failing)),
                    Ok(Some(Err(_))) => {}
                    Ok(None) | Err(_) => break,
                }
            }
            if let Some((node, failing)) = failed {
                left_out.insert(node, failing);
                continue;
            }
            if shares.len() < need {
                tracing::debug!(signers = ?waiting, "these take long to sign; others are asked");
                let (mut conduct, now) = (lock(&self.conduct), Instant::now());
                for node in waiting {
                    conduct.late(node, now);
                    // Twice late in one signature: it is not waited for again.
                    if !late.insert(node) {
                        left_out.insert(node, Failing::Absent("it did not sign".to_owned()));
                    }
                }
                continue;
            }
            match assembly.finish(&shares) {
                Ok(signature) => {
                    self.took_part(keys, &signers, &late, &left_out);
                    return Ok(signature);
                }
                Err(fault) if self.blame(&fault, &mut left_out) => {}
                Err(fault) => {
                    tracing::error!(%fault, "a signature cannot be put together");
                    return Err(Unsigned { have: shares.len(), need, total, left_out });
                }
            }
        }
    }

    /// Asks all candidates at once to take part and returns those that sign: the first `threshold` that answer, rather
    /// none of `last`. The others are listened to for a moment more, so that people see how they do.
    async fn choose(
        &self,
        coordinator: &Arc<Coordinator>,
        keys: &SignerKeys,
        candidates: &[NodeId],
        last: &BTreeSet<NodeId>,
        commit: &SignerRequest,
        left_out: &mut BTreeMap<NodeId, Failing>,
    ) -> Vec<Taking> {
        let need = usize::from(keys.threshold);
        let mut answers = asking::begin(coordinator, candidates, commit);
        let mut silent: BTreeSet<NodeId> = candidates.iter().copied().collect();
        let mut taking: Vec<Taking> = Vec::with_capacity(candidates.len());
        let patience = tokio::time::Instant::now() + PROMPT;
        loop {
            let prompt = taking.iter().filter(|part| !last.contains(&part.commitment.node)).count();
            let better = silent.iter().any(|node| !last.contains(node));
            if prompt >= need || (taking.len() >= need && !better) {
                break;
            }
            let answered = if taking.len() >= need {
                tokio::time::timeout_at(patience, answers.recv()).await.unwrap_or(None)
            } else {
                answers.recv().await
            };
            let Some((node, answer)) = answered else { break };
            silent.remove(&node);
            match answer {
                Ok(part) => taking.push(part),
                Err(failing) => drop(left_out.insert(node, failing)),
            }
        }
        taking.sort_by_key(|part| last.contains(&part.commitment.node));
        // Those who are not needed forget their nonces with their streams.
        let spare = taking.split_off(need.min(taking.len()));
        if self.standing().keys.id == keys.id {
            let (coordinator, set) = (coordinator.clone(), keys.id);
            tokio::spawn(async move {
                let notary = &coordinator.notary;
                let heard = spare.into_iter().map(|part| (part.commitment.node, Ok(part))).collect();
                notary.heard(&coordinator, heard);
                let until = tokio::time::Instant::now() + SPARE_WAIT;
                while let Ok(Some((node, answer))) = tokio::time::timeout_at(until, answers.recv()).await {
                    silent.remove(&node);
                    if notary.standing().keys.id != set {
                        return;
                    }
                    notary.heard(&coordinator, vec![(node, answer)]);
                }
                for node in silent {
                    lock(&notary.conduct).late(node, Instant::now());
                }
            });
        }
        taking
    }

    /// Takes note of the answers of those whose part was not needed.
    fn heard(&self, coordinator: &Arc<Coordinator>, answers: Vec<(NodeId, Result<Taking, Failing>)>) {
        for (node, answer) in answers {
            let failing = match answer {
                Ok(part) => contradiction(coordinator, part.head),
                Err(failing) => Some(failing),
            };
            let mut conduct = lock(&self.conduct);
            match failing {
                Some(failing) => conduct.failed(node, failing, Instant::now()),
                None => conduct.ready(node),
            }
        }
    }

    /// Leaves out those whom a fault names. Returns whether it names somebody.
    fn blame(&self, fault: &ThresholdFault, left_out: &mut BTreeMap<NodeId, Failing>) -> bool {
        for node in fault.culprits() {
            if let Some(times) = lock(&self.said).happened(&format!("wrong {node}"), Instant::now()) {
                tracing::error!(%node, %fault, times, "a signer is wrong; going on without it");
            }
            left_out.insert(*node, Failing::Wrong(fault.to_string()));
        }
        !fault.culprits().is_empty()
    }

    /// Takes note of who signed and who was left out.
    fn took_part(
        &self,
        keys: &SignerKeys,
        signers: &[NodeId],
        late: &BTreeSet<NodeId>,
        left_out: &BTreeMap<NodeId, Failing>,
    ) {
        // How the members of a set to be do says nothing about those in force.
        if self.standing().keys.id != keys.id {
            return;
        }
        let mut conduct = lock(&self.conduct);
        conduct.retain(|node| keys.is_member(node));
        for node in signers {
            conduct.signed(*node, !late.contains(node));
        }
        for (node, failing) in left_out {
            conduct.failed(*node, failing.clone(), Instant::now());
        }
    }

    /// Changes the signers as the owner orders: makes a key, lets the new signers accept and the old ones hand over, and
    /// records it.
    ///
    /// # Errors
    /// A refusal that names who did not take part; then nothing has changed. A change that waits for the signers in force
    /// is not replaced by another: some of them may have promised it already, and they promise one only.
    pub async fn change(
        &self,
        coordinator: &Arc<Coordinator>,
        order: Signed<SignerOrder>,
    ) -> Result<(), Refusal> {
        let not_changed = |reason: String| Refusal::new(NOT_CHANGED, reason);
        let _changing = self.changing.lock().await;
        let pending = lock(&self.unfinished).as_ref().map(|unfinished| unfinished.pending.clone());
        if let Some(pending) = pending {
            let same = pending.set.threshold == order.threshold
                && pending.set.members.iter().map(|member| member.node).eq(order.members.iter().copied());
            let (threshold, total) = (pending.set.threshold, pending.set.members.len());
            return match self.finish_pending(coordinator).await {
                Ok(()) if same => Ok(()),
                Ok(()) => Err(Refusal::new(
                    PENDING,
                    format!("an earlier change, to {threshold} of {total} signers, was only finished now; this one was not made"),
                )
                .hint("give the same command again if you still want it")),
                Err(refusal) if same => Err(refusal),
                Err(refusal) => Err(Refusal::new(
                    PENDING,
                    format!(
                        "an earlier change, to {threshold} of {total} signers, waits to be finished, so this one was not \
                         made: {}",
                        refusal.message
                    ),
                )
                .hint("it cannot be replaced, for signers may have promised it; 'worldcompute cluster signers' shows whom it waits for")),
            };
        }
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
            asking::generate(coordinator, &chain, &order).await.map_err(not_changed)?
        };
        let next =
            next_keys(&keys, &coordinator.cell, &set).map_err(|reason| not_changed(reason.to_owned()))?;
        let purpose = Purpose::Accept { set: Box::new(set.clone()), order: Box::new(order.clone()) };
        let accepted = self
            .sign(coordinator, &next, &chain, &next.id.to_bytes(), purpose, 0)
            .await
            .map_err(|unsigned| not_changed(format!("the new signers cannot sign: {}", unsigned.say())))?;
        let pending = Pending { set, order, accepted: ByteArray::new(accepted) };
        self.cabinet
            .keep_pending(&coordinator.cell, &pending)
            .map_err(|error| Refusal::new(UNFINISHED, format!("the hand-over cannot be kept: {error}")))?;
        *lock(&self.unfinished) = Some(Unfinished { pending, reason: None });
        // From here on it goes on by itself, however this try ends.
        self.wanted.send_modify(|_| {});
        self.finish_pending(coordinator).await
    }

    /// Goes on with a hand-over that the new signers have accepted, if there is one.
    async fn finish_pending(&self, coordinator: &Arc<Coordinator>) -> Result<(), Refusal> {
        let pending = lock(&self.unfinished).as_ref().map(|unfinished| unfinished.pending.clone());
        let Some(pending) = pending else { return Ok(()) };
        match self.hand_over(coordinator, pending).await {
            Ok(()) => {
                *lock(&self.unfinished) = None;
                Ok(())
            }
            Err(reason) => {
                if let Some(unfinished) = lock(&self.unfinished).as_mut() {
                    unfinished.reason = Some(reason.clone());
                }
                let text = format!("the hand-over to the new signers is not finished: {reason}");
                Err(Refusal::new(UNFINISHED, text)
                    .hint("the coordinator goes on trying; the signers before them sign until then"))
            }
        }
    }

    async fn hand_over(&self, coordinator: &Arc<Coordinator>, pending: Pending) -> Result<(), String> {
        let Pending { set, order, accepted } = pending;
        let Standing { chain, keys } = self.standing();
        if set.epoch == keys.epoch + 1 {
            let purpose = Purpose::HandOver { set: Box::new(set.clone()), order: Box::new(order), accepted };
            let signature = self
                .sign(coordinator, &keys, &chain, &record_cid(&set).to_bytes(), purpose, 0)
                .await
                .map_err(|unsigned| unsigned.say())?;
            let handover = link_of(&set, keys.group, signature, accepted.into_array())
                .map_err(|error| error.to_string())?;
            let event = Event::SignersChanged(Box::new(handover));
            match coordinator.brain.ask(event, Vec::new()).await {
                Ok(Ok(_)) => {}
                Ok(Err(refusals)) => {
                    return Err(refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
                }
                Err(error) => return Err(error.to_string()),
            }
            let chain = coordinator.brain.query(|cell, _| cell.signers().to_vec()).await;
            let chain = chain.map_err(|error: BrainError| error.to_string())?;
            let keys = verify_chain(&coordinator.founding, &chain).map_err(|fault| fault.to_string())?;
            tracing::info!(
                epoch = keys.epoch,
                threshold = keys.threshold,
                members = keys.members.len(),
                "the signers have handed over"
            );
            *self.standing.write().unwrap_or_else(PoisonError::into_inner) =
                Standing { chain: Arc::new(chain), keys };
            *lock(&self.conduct) = Conducts::default();
            *lock(&self.problem) = None;
            // Whoever waits for a checkpoint looks again who signs it.
            self.signed.send_modify(|_| {});
            self.wanted.send_modify(|_| {});
        }
        self.learn_own(coordinator).await?;
        self.cabinet.drop_pending(&coordinator.cell).map_err(|error| error.to_string())
    }

    /// Lets this machine's own signer know the chain, so that it destroys its old shares, too.
    async fn learn_own(&self, coordinator: &Arc<Coordinator>) -> Result<(), String> {
        let (signer, founding, chain) =
            (self.signer.clone(), coordinator.founding.clone(), self.standing().chain);
        if chain.is_empty() {
            return Ok(());
        }
        let learned = tokio::task::spawn_blocking(move || signer.learn_own(&founding, &chain)).await;
        learned.map_err(|error| error.to_string())?.map(drop).map_err(|refusal| refusal.to_string())
    }

    /// Tells former signers that are connected of the hand-over, and remembers who has confirmed.
    async fn tell_former(&self, coordinator: &Arc<Coordinator>) {
        let chain = self.standing().chain;
        let untold = self.untold(&chain, coordinator.node());
        if untold.is_empty() {
            return;
        }
        let connected: BTreeSet<NodeId> =
            coordinator.mesh.peers().await.iter().map(|peer| peer.node).collect();
        for node in untold.into_iter().filter(|node| connected.contains(node)) {
            match asking::tell(coordinator, node, &chain).await {
                Ok(destroyed) => {
                    let told = {
                        let mut told = lock(&self.told);
                        told.insert(node, chain.len() as u64);
                        told.clone()
                    };
                    tracing::info!(%node, destroyed, "a former signer has destroyed its shares");
                    if let Err(error) = self.cabinet.keep_told(&coordinator.cell, &told) {
                        tracing::warn!(%error, "who knows of the hand-over cannot be kept; they are told again");
                    }
                }
                Err(reason) => {
                    if let Some(times) = lock(&self.said).happened(&format!("tell {node}"), Instant::now()) {
                        tracing::warn!(%node, reason, times, "a former signer does not confirm the hand-over");
                    }
                }
            }
        }
    }
}

/// Returns the proof that the log grew from the head that a signer signed last; empty where there is none, and then the
/// signer says itself what is wrong.
fn proof(
    coordinator: &Arc<Coordinator>,
    purpose: &Purpose,
    head: Option<SignedHead>,
    size: u64,
) -> Vec<ByteArray<32>> {
    let (Purpose::Checkpoint, Some(head)) = (purpose, head) else { return Vec::new() };
    let hash = |level, index| coordinator.archive.tree_hash(level, index).ok().flatten();
    let proof = consistency_proof(head.size, size, hash);
    proof.unwrap_or_default().into_iter().map(ByteArray::new).collect()
}

/// Returns what is wrong when a signer has signed a head that is not one of this log.
fn contradiction(coordinator: &Arc<Coordinator>, head: Option<SignedHead>) -> Option<Failing> {
    let head = head.filter(|head| head.size > 0)?;
    let hash = |level, index| coordinator.archive.tree_hash(level, index).ok().flatten();
    // Entries are published after they are durable, so the archive may be a moment behind: then nothing is known.
    let ours = root_at(head.size, hash).ok()?;
    (ours != head.root).then(|| Failing::Refuses {
        reason: format!("it has signed {} entries that are not the beginning of this ledger", head.size),
        alarm: true,
    })
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

/// Has checkpoints signed whenever the log grew, while several sign; finishes what a crash interrupted.
pub(crate) async fn run(coordinator: Arc<Coordinator>) {
    let notary = &coordinator.notary;
    if let Err(reason) = notary.learn_own(&coordinator).await {
        tracing::error!(reason, "this coordinator's own signer does not take the chain of signers");
    }
    let mut wanted = notary.wanted.subscribe();
    let mut pause = BEAT;
    let mut begun = tokio::time::Instant::now();
    loop {
        tokio::time::sleep_until(begun + GAP).await;
        begun = tokio::time::Instant::now();
        let unfinished = lock(&notary.unfinished).is_some();
        if unfinished
            && let Ok(_changing) = notary.changing.try_lock()
            && let Err(refusal) = notary.finish_pending(&coordinator).await
            && let Some(times) = lock(&notary.said).happened("hand-over", Instant::now())
        {
            tracing::warn!(%refusal, times, "going on with the hand-over later");
        }
        let mut failed = false;
        if notary.is_alone() {
            // Whoever waits for several signers asks again, of one.
            lock(&notary.accounts).clear();
        } else {
            let asked: Vec<AccountId> = lock(&notary.accounts).iter().map(|asked| asked.account).collect();
            let looked = coordinator.brain.query(move |cell, _| {
                let found: Vec<AccountView> = asked.iter().map(|account| cell.account(account)).collect();
                (cell.ledger_size(), cell.ledger_root(), found)
            });
            let Ok((size, root, found)) = looked.await else { return };
            let signed = notary.signed.borrow().as_ref().map_or(0, |checkpoint| checkpoint.size);
            let outcome =
                if size > signed { notary.notarise(&coordinator, size, root).await } else { Ok(()) };
            failed = outcome.is_err();
            notary.answer_accounts(size, found);
            // What failed under signers that have handed over meanwhile is no problem of those in force.
            *lock(&notary.problem) = outcome.err().filter(|_| !notary.is_alone());
        }
        if failed {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        } else {
            pause = BEAT / 4;
            // One signer signs when it is asked, so there is nothing to do until there are several.
            let idle = notary.is_alone() && lock(&notary.unfinished).is_none();
            let wait = if idle { Duration::MAX } else { BEAT };
            let _ = tokio::time::timeout(wait, wanted.changed()).await;
        }
    }
}

/// Tells former signers of hand-overs, whenever they are there, until each has destroyed its shares.
pub(crate) async fn tell_former(coordinator: Arc<Coordinator>) {
    loop {
        coordinator.notary.tell_former(&coordinator).await;
        tokio::time::sleep(TELL_EVERY).await;
    }
}
