//! The coordinator's side of signing: checkpoints that enough signers have signed, and changes of the signers.
//!
//! One signer signs at once, when somebody asks. Several sign in the background, at most once a second unless a receipt
//! waits, so that no task ever does. While too few can be reached jobs go on; receipts wait, and the last checkpoint
//! still serves the results that it covers.
//!
//! Before it signs anything after a start the notary asks every member whether the ledger continues what that member
//! remembers, and after each checkpoint those who did not sign it are told of it, so that all remember the same. As long as one
//! of them remembers something else nothing is signed, whoever else would: this coordinator may be an old copy of itself.

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
use wc_types::{AccountId, CellId, NodeId, Refusal, Signed, record_cid};

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
/// Longest that the first checkpoint after a start waits for members that have not said what they remember. Shorter than a
/// receipt waits.
const START_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for the archive to have what is to be signed.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(5);
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

/// What is known of whether the members remember the history that this coordinator has.
#[derive(Default)]
struct Accord {
    /// Members that agreed, and know of all that was signed.
    settled: BTreeSet<NodeId>,
    /// Whether all members of a set have agreed since this process began.
    complete: bool,
    /// Members that answer again and have not been asked yet.
    back: BTreeSet<NodeId>,
    /// Members that answered again, and then were silent when they were asked: they wait until their turn.
    tired: BTreeSet<NodeId>,
    /// Members that remember another history, and their words. Survives a restart.
    disputes: BTreeMap<NodeId, String>,
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
    accord: Mutex<Accord>,
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
        let mut disputes = cabinet.disputes(&cell)?;
        disputes.retain(|node, _| keys.is_member(node));
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
            accord: Mutex::new(Accord { disputes, ..Accord::default() }),
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
        refusal.hint(if lock(&self.accord).disputes.is_empty() {
            "nothing is lost: results are safe, and receipts and accounts can be had as soon as enough signers are back \
             ('worldcompute cluster signers')"
        } else {
            "a signer refuses, and waiting does not help: the coordinator may have been restored from an old copy, or \
             somebody rewrites the ledger, or the signer lies. Change nothing on the signers' machines, and read their reasons \
             with 'worldcompute cluster signers'"
        })
    }

    /// Returns what an operator has to look at now, a sentence each.
    pub fn alarms(&self) -> Vec<String> {
        let refuses = |(node, reason): (&NodeId, &String)| {
            format!(
                "SIGNER REFUSES: {node} remembers another history of this ledger than it is shown now, so nothing is signed: \
                 {reason}"
            )
        };
        let mut alarms: Vec<String> = lock(&self.accord).disputes.iter().map(refuses).collect();
        alarms.extend(lock(&self.conduct).alarms());
        alarms
    }

    /// Takes note that a member remembers what this coordinator has.
    fn agrees(&self, cell: &CellId, node: NodeId) {
        let mut accord = lock(&self.accord);
        accord.settled.insert(node);
        accord.tired.remove(&node);
        if accord.disputes.remove(&node).is_some() {
            tracing::info!(%node, "a signer that remembered another history agrees again");
            self.keep_disputes(cell, &accord.disputes);
        }
        drop(accord);
        lock(&self.conduct).ready(node);
    }

    /// Takes note of a member that did not do its part in a checkpoint.
    fn failed(&self, cell: &CellId, node: NodeId, failing: Failing) {
        let mut accord = lock(&self.accord);
        accord.settled.remove(&node);
        if failing.is_alarm() {
            let reason = failing.reason().to_owned();
            if let Some(times) = lock(&self.said).happened(&format!("dispute {node}"), Instant::now()) {
                tracing::error!(
                    %node, reason, times,
                    "SIGNER ALARM: a signer remembers another history; nothing is signed until it agrees or is replaced"
                );
            }
            if accord.disputes.insert(node, reason).is_none() {
                self.keep_disputes(cell, &accord.disputes);
            }
        }
        drop(accord);
        lock(&self.conduct).failed(node, failing, Instant::now());
    }

    fn keep_disputes(&self, cell: &CellId, disputes: &BTreeMap<NodeId, String>) {
        if let Err(error) = self.cabinet.keep_disputes(cell, disputes) {
            tracing::warn!(%error, "who remembers another history cannot be kept; it is asked again after a restart");
        }
    }

    /// Says why nothing is signed while a member remembers another history.
    fn disputed(&self) -> Result<(), String> {
        let accord = lock(&self.accord);
        if accord.disputes.is_empty() {
            return Ok(());
        }
        let mut text = "nothing is signed while a signer remembers another history".to_owned();
        for (node, reason) in &accord.disputes {
            let _ = write!(text, "; {node} refuses: {reason}");
        }
        text.push_str(
            "; if this coordinator was restored from an old copy, stop it and bring back its newest data; if the signer is \
             wrong, name signers without it ('worldcompute cluster signers set')",
        );
        Err(text)
    }

    /// Lets those members that have not done so yet say whether the log continues what they remember, and tells those who
    /// were away of the last checkpoint.
    ///
    /// # Errors
    /// When one of them remembers something else, or, soon after the start (before `heard_until`), not all have answered.
    async fn settle(
        &self,
        coordinator: &Arc<Coordinator>,
        size: u64,
        root: [u8; 32],
        heard_until: Instant,
    ) -> Result<(), String> {
        let Standing { chain, keys } = self.standing();
        let here = self.connected(coordinator, &keys).await;
        let asked: Vec<(NodeId, Duration)> = {
            let (mut accord, mut conduct, now) = (lock(&self.accord), lock(&self.conduct), Instant::now());
            let back = std::mem::take(&mut accord.back);
            for signer in keys.members.iter().filter(|signer| !here.contains(&signer.node)) {
                // Whoever went away is asked as soon as it is here again.
                accord.settled.remove(&signer.node);
                accord.tired.remove(&signer.node);
                conduct.away(&signer.node);
            }
            // One that died a moment ago still counts as connected: it does not hold up the others beyond the start.
            let left = heard_until.saturating_duration_since(now);
            let longest =
                if left.is_zero() { asking::ANSWER_MAX } else { left.clamp(PROMPT, asking::ANSWER_MAX) };
            let patience = |node: &NodeId| {
                if !conduct.is_last(node, now) {
                    return Some(longest);
                }
                (accord.disputes.contains_key(node) || back.contains(node)).then_some(PROMPT)
            };
            let unsettled = here.iter().filter(|node| !accord.settled.contains(node));
            unsettled.filter_map(|node| Some((*node, patience(node)?))).collect()
        };
        if !asked.is_empty() {
            archived(coordinator, size, root).await?;
            let commit = commit(coordinator, &chain, Purpose::Checkpoint);
            let text = LogCheckpoint::new(&coordinator.cell, size, root).to_text();
            let mut asking = JoinSet::new();
            for (node, patience) in asked {
                let (coordinator, commit, text) = (coordinator.clone(), commit.clone(), text.clone());
                let latest = self.latest();
                asking.spawn(async move {
                    let agreed = compare(&coordinator, node, &commit, text, size, latest);
                    (node, patience, tokio::time::timeout(patience, agreed).await)
                });
            }
            while let Some(asked) = asking.join_next().await {
                let Ok((node, patience, agreed)) = asked else { continue };
                if agreed.is_err() && patience <= PROMPT {
                    lock(&self.accord).tired.insert(node);
                }
                // The owner may have changed the signers meanwhile.
                if self.standing().keys.id == keys.id {
                    self.answered(&coordinator.cell, node, agreed);
                }
            }
        }
        self.disputed()?;
        let mut accord = lock(&self.accord);
        let members = keys.members.iter().map(|signer| signer.node);
        let missing: Vec<String> =
            members.filter(|node| !accord.settled.contains(node)).map(|node| node.to_string()).collect();
        accord.complete |= missing.is_empty();
        if Instant::now() < heard_until && !accord.complete {
            let missing = missing.join(", ");
            return Err(format!("the signers are asked what they remember first; not heard yet: {missing}"));
        }
        Ok(())
    }

    /// Takes note of what came of asking a member outside a signature.
    fn answered<E>(&self, cell: &CellId, node: NodeId, answer: Result<Result<(), Failing>, E>) {
        match answer {
            Ok(Ok(())) => self.agrees(cell, node),
            Ok(Err(failing)) => self.failed(cell, node, failing),
            Err(_) => {
                self.failed(cell, node, Failing::Absent("it does not answer".to_owned()));
                lock(&self.conduct).late(node, Instant::now());
            }
        }
    }

    /// Returns the members that are connected, this machine among them.
    async fn connected(&self, coordinator: &Arc<Coordinator>, keys: &SignerKeys) -> BTreeSet<NodeId> {
        let peers = coordinator.mesh.peers().await;
        let here = peers.iter().map(|peer| peer.node).chain([coordinator.node()]);
        here.filter(|node| keys.is_member(node)).collect()
    }

    /// Tells those members that are connected and did not sign that others did. Waits for a moment, so that as a rule all
    /// remember a checkpoint before anybody sees it.
    async fn remind(
        &self,
        coordinator: &Arc<Coordinator>,
        keys: &SignerKeys,
        signers: &BTreeSet<NodeId>,
        checkpoint: &Checkpoint,
    ) {
        let mut here = self.connected(coordinator, keys).await;
        here.retain(|node| !signers.contains(node));
        let commit = commit(coordinator, &checkpoint.signers, Purpose::Checkpoint);
        let mut telling = JoinSet::new();
        let mut waiting = BTreeSet::new();
        for node in here {
            // Until it has confirmed.
            lock(&self.accord).settled.remove(&node);
            if !lock(&self.conduct).is_last(&node, Instant::now()) {
                waiting.insert(node);
            }
            let (coordinator, commit) = (coordinator.clone(), commit.clone());
            let (checkpoint, set) = (checkpoint.clone(), keys.id);
            telling.spawn(async move {
                let told = tell_signed(&coordinator, node, &commit, &checkpoint);
                let told = tokio::time::timeout(asking::ANSWER_MAX, told).await;
                if coordinator.notary.standing().keys.id == set {
                    coordinator.notary.answered(&coordinator.cell, node, told);
                }
                node
            });
        }
        let until = tokio::time::Instant::now() + PROMPT;
        while !waiting.is_empty()
            && let Ok(Some(told)) = tokio::time::timeout_at(until, telling.join_next()).await
        {
            if let Ok(node) = told {
                waiting.remove(&node);
            }
        }
        for node in waiting {
            lock(&self.conduct).late(node, Instant::now());
        }
        telling.detach_all();
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
            let disputes = lock(&self.accord).disputes.clone();
            let conduct = lock(&self.conduct);
            let member = |node: NodeId| {
                let here = node == coordinator.node() || connected.contains(&node);
                let (state, reason) = match disputes.get(&node) {
                    _ if keys.is_alone() => ("signing", None),
                    Some(reason) => ("refuses", Some(reason.clone())),
                    None => conduct.tell(&node, here),
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
        // What signers before these signed is no measure of how far these have come.
        let signed = self.latest().filter(|checkpoint| checkpoint.signers.len() == chain.len());
        let signed_size = signed.map(|checkpoint| checkpoint.size);
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
        archived(coordinator, size, root).await?;
        let text = checkpoint.to_text();
        let (signature, signers) = self
            .sign(coordinator, &keys, &chain, text.as_bytes(), Purpose::Checkpoint, size)
            .await
            .map_err(|unsigned| {
                if let Some(times) = lock(&self.said).happened(&unsigned.kind(), Instant::now()) {
                    let reason = unsigned.say();
                    tracing::warn!(reason, times, "the checkpoint is not signed; receipts wait");
                }
                self.disputed().err().unwrap_or_else(|| unsigned.say())
            })?;
        let checkpoint =
            self.note(&checkpoint, &keys, signature, chain).map_err(|refusal| refusal.to_string())?;
        self.remind(coordinator, &keys, &signers, &checkpoint).await;
        self.disputed()?;
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
    /// out, whoever is slow is asked last, and the others begin anew with fresh nonces. Returns the signature and who took
    /// part. A checkpoint that contradicts what one of them remembers is not signed with the others.
    async fn sign(
        &self,
        coordinator: &Arc<Coordinator>,
        keys: &SignerKeys,
        chain: &Arc<Vec<Handover>>,
        message: &[u8],
        purpose: Purpose,
        size: u64,
    ) -> Result<([u8; 64], BTreeSet<NodeId>), Unsigned> {
        let need = usize::from(keys.threshold);
        let total = keys.members.len();
        if keys.is_alone() {
            let signed = sign_alone(coordinator, keys, message).map_err(|fault| Unsigned {
                have: 0,
                need,
                total,
                left_out: [(coordinator.node(), Failing::Wrong(fault.to_string()))].into(),
            });
            return signed.map(|signature| (signature, [coordinator.node()].into()));
        }
        let commit = commit(coordinator, chain, purpose.clone());
        let ordinary = purpose == Purpose::Checkpoint;
        let mut left_out: BTreeMap<NodeId, Failing> = BTreeMap::new();
        let mut late: BTreeSet<NodeId> = BTreeSet::new();
        loop {
            let nodes = keys.members.iter().map(|member| member.node);
            let candidates: Vec<NodeId> = nodes.filter(|node| !left_out.contains_key(node)).collect();
            let disputed = ordinary && left_out.values().any(Failing::is_alarm);
            if candidates.len() < need || disputed {
                if ordinary {
                    self.took_part(coordinator, keys, &BTreeSet::new(), &late, &left_out);
                }
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
            let signers: BTreeSet<NodeId> = taking.iter().map(|part| part.commitment.node).collect();
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
                let consistency = if ordinary { proof(coordinator, part.head, size) } else { Vec::new() };
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
            let mut waiting = signers.clone();
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
                    if ordinary {
                        self.took_part(coordinator, keys, &signers, &late, &left_out);
                    }
                    return Ok((signature, signers));
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
            if let Some(failing) = failing {
                self.failed(&coordinator.cell, node, failing);
                continue;
            }
            lock(&self.conduct).ready(node);
            let mut accord = lock(&self.accord);
            if !accord.settled.contains(&node) && !accord.tired.contains(&node) {
                accord.back.insert(node);
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
        coordinator: &Arc<Coordinator>,
        keys: &SignerKeys,
        signers: &BTreeSet<NodeId>,
        late: &BTreeSet<NodeId>,
        left_out: &BTreeMap<NodeId, Failing>,
    ) {
        // How the members of a set to be do says nothing about those in force.
        if self.standing().keys.id != keys.id {
            return;
        }
        for node in signers {
            self.agrees(&coordinator.cell, *node);
        }
        {
            let mut conduct = lock(&self.conduct);
            conduct.retain(|node| keys.is_member(node));
            for node in signers {
                conduct.signed(*node, !late.contains(node));
            }
        }
        for (node, failing) in left_out {
            self.failed(&coordinator.cell, *node, failing.clone());
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
        let (accepted, _) = self
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
            let (signature, _) = self
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
            {
                // Whoever remembers another history and stays is still in the way.
                let mut accord = lock(&self.accord);
                let members = self.standing().keys;
                (accord.settled, accord.back, accord.tired) = Default::default();
                accord.disputes.retain(|node, _| members.is_member(node));
                self.keep_disputes(&coordinator.cell, &accord.disputes);
            }
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

fn commit(coordinator: &Arc<Coordinator>, chain: &Arc<Vec<Handover>>, purpose: Purpose) -> SignerRequest {
    let founding = Box::new(coordinator.founding.clone());
    SignerRequest::Commit { founding, chain: chain.to_vec(), purpose }
}

/// Waits until the archive has the log that is to be signed, so that a proof that cannot be made means that the log is another.
async fn archived(coordinator: &Arc<Coordinator>, size: u64, root: [u8; 32]) -> Result<(), String> {
    let begun = Instant::now();
    let hash = |level, index| coordinator.archive.tree_hash(level, index).ok().flatten();
    loop {
        match root_at(size, hash) {
            Ok(ours) if ours == root => return Ok(()),
            Ok(_) => return Err("the archive holds another ledger than the journal".to_owned()),
            Err(_) if begun.elapsed() < ARCHIVED_WITHIN => tokio::time::sleep(GAP / 4).await,
            Err(error) => return Err(format!("the ledger cannot be read from the archive: {error}")),
        }
    }
}

/// Asks one member whether the log of `size` entries continues what it remembers, and has it remember what was signed last.
async fn compare(
    coordinator: &Arc<Coordinator>,
    node: NodeId,
    commit: &SignerRequest,
    text: String,
    size: u64,
    latest: Option<Checkpoint>,
) -> Result<(), Failing> {
    let mut part = asking::take(coordinator, node, commit).await?;
    let head = part.head;
    // It says itself what is wrong, in its own log, too.
    asking::agree(&mut part, text, proof(coordinator, head, size)).await?;
    if let Some(failing) = contradiction(coordinator, head) {
        return Err(failing);
    }
    match latest.filter(|latest| head.is_none_or(|head| head.size < latest.size)) {
        Some(latest) => {
            let consistency = proof(coordinator, head, latest.size);
            asking::remember(part, latest.note, consistency).await
        }
        None => Ok(()),
    }
}

/// Has one member remember a checkpoint that others have just signed.
async fn tell_signed(
    coordinator: &Arc<Coordinator>,
    node: NodeId,
    commit: &SignerRequest,
    checkpoint: &Checkpoint,
) -> Result<(), Failing> {
    let part = asking::take(coordinator, node, commit).await?;
    let consistency = proof(coordinator, part.head, checkpoint.size);
    asking::remember(part, checkpoint.note.clone(), consistency).await
}

/// Returns the proof that the log grew from the head that a signer remembers; empty where there is none, and then the
/// signer says itself what is wrong.
fn proof(coordinator: &Arc<Coordinator>, head: Option<SignedHead>, size: u64) -> Vec<ByteArray<32>> {
    let Some(head) = head else { return Vec::new() };
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
        reason: format!(
            "it remembers {} signed entries that are not the beginning of this ledger",
            head.size
        ),
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
    let heard_until = Instant::now() + START_WAIT;
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
            let mut outcome = notary.settle(&coordinator, size, root, heard_until).await;
            if size > signed && outcome.is_ok() {
                outcome = notary.notarise(&coordinator, size, root).await;
            }
            failed = outcome.is_err();
            notary.answer_accounts(size, found);
            // What failed under signers that have handed over meanwhile is no problem of those in force.
            *lock(&notary.problem) = outcome.err().filter(|_| !notary.is_alone());
        }
        if failed {
            let left = heard_until.saturating_duration_since(Instant::now());
            tokio::time::sleep(if left.is_zero() { pause } else { pause.min(left) }).await;
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
