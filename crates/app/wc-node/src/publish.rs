//! Keeps the published ledger true: after the facts are durable, tiles first, the checkpoint last.
//!
//! ```text
//! journal durable ──► tiles durable ──► checkpoint signed ──► checkpoint renamed into place ──► witnesses add lines
//! ```
//!
//! At most once a second, and never on the path of a job: it reads what the archive already has and works on a thread
//! of its own. A coordinator that dies anywhere in the row goes on from what is published when it is back.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::MissedTickBehavior;
use wc_ledger::cosign::{check_cosignature, witness_name};
use wc_ledger::note::SIGNATURES_MAX;
use wc_ledger::proof::{consistency_proof, root_at};
use wc_ledger::threshold::handover::open_kept;
use wc_ledger::{Checkpoint, Hash, Note, cosignatures};
use wc_proto::api::PublishedCheckpoint;
use wc_types::entry::Standing;
use wc_types::signers::Handover;
use wc_types::{AccountId, NodeId, Timestamp, to_canonical};

use crate::archive::{Archive, ArchiveError};
use crate::coordinator::{Coordinator, lock};
use crate::logtree::{LogSource, LogTree, LogTreeError};

/// Shortest time between two checkpoints.
const EVERY: Duration = Duration::from_secs(1);
/// Checkpoints that witnesses may still cosign: they were asked for while newer ones came.
const RECENT_MAX: usize = 16;
/// Cosignatures on one checkpoint; leaves room for the cell's own lines.
const COSIGNATURES_MAX: usize = SIGNATURES_MAX - 4;

/// Cosignatures of one owner's machines on one checkpoint.
const COSIGNATURES_PER_OWNER_MAX: usize = 3;

/// A witness among those whose cosignatures compete for a place on a checkpoint. The one that has been in the cell for
/// longest comes first, and nobody can have been there earlier than it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seat {
    joined_at: Timestamp,
    witness: NodeId,
    owner: AccountId,
}

/// Decides whether the cosignature of `new` is kept beside those of `kept`, and whose has to go for it.
///
/// Places are few and keys cost nothing, so being first to cosign counts for nothing: the places belong to the machines
/// that have been in the cell for longest, at most three of one owner.
///
/// # Errors
/// Why it is not kept.
fn seat(kept: &[Seat], new: &Seat) -> Result<Option<NodeId>, String> {
    let siblings = || kept.iter().filter(|seat| seat.owner == new.owner);
    let (rivals, why) = if siblings().count() >= COSIGNATURES_PER_OWNER_MAX {
        (
            siblings().max(),
            format!("{COSIGNATURES_PER_OWNER_MAX} machines of one owner have cosigned already"),
        )
    } else if kept.len() >= COSIGNATURES_MAX {
        let why =
            format!("{COSIGNATURES_MAX} witnesses that have been here for longer have cosigned already");
        (kept.iter().max(), why)
    } else {
        return Ok(None);
    };
    match rivals {
        Some(last) if new < last => Ok(Some(last.witness)),
        Some(_) | None => Err(why),
    }
}

/// The ledger cannot be published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PublishError {
    /// The tree.
    #[error("the published ledger cannot be written")]
    Tree(#[from] LogTreeError),
    /// The checkpoint.
    #[error("the checkpoint cannot be signed: {reason}")]
    Sign {
        /// Why not.
        reason: String,
    },
    /// What was published is not what the journal says.
    #[error("{0}")]
    Contradiction(String),
}

/// A checkpoint and its note.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    /// Size and root.
    pub checkpoint: Checkpoint,
    /// The signed note, with cosignatures.
    pub note: Note,
    /// The hand-overs to those who signed.
    pub signers: Arc<Vec<Handover>>,
}

impl Published {
    fn witnesses(&self) -> Vec<NodeId> {
        let found = cosignatures(&self.note, &self.checkpoint.origin);
        found.map(|(found, _)| found.iter().map(|one| one.witness).collect()).unwrap_or_default()
    }
}

/// The published ledger of a coordinator.
pub(crate) struct Publication {
    tree: LogTree,
    /// Oldest first.
    recent: Mutex<VecDeque<Published>>,
    /// What keeps it from being published.
    alarm: Mutex<Option<String>>,
    /// Held while files change.
    writing: AsyncMutex<()>,
}

impl LogSource for Archive {
    fn leaf(&self, index: u64) -> Result<Option<Vec<u8>>, ArchiveError> {
        self.entry_bytes(index)
    }

    fn hash(&self, level: u8, index: u64) -> Result<Option<Hash>, ArchiveError> {
        self.tree_hash(level, index)
    }
}

impl Publication {
    /// Opens the directory. Nothing in it is believed before [`resume`](Self::resume).
    pub fn open(dir: &Path) -> Result<Self, LogTreeError> {
        Ok(Self {
            tree: LogTree::open(dir)?,
            recent: Mutex::default(),
            alarm: Mutex::default(),
            writing: AsyncMutex::default(),
        })
    }

    /// Returns the newest published checkpoint.
    pub fn latest(&self) -> Option<Published> {
        lock(&self.recent).back().cloned()
    }

    /// Returns the newest cosigned checkpoint that covers entry `index`.
    pub fn cosigned(&self, index: u64) -> Option<Published> {
        let recent = lock(&self.recent);
        let covers = |published: &&Published| published.checkpoint.size > index;
        recent.iter().rev().filter(covers).find(|published| !published.witnesses().is_empty()).cloned()
    }

    /// Returns who cosigned the newest checkpoint, its size, and what is wrong.
    pub fn view(&self) -> (u64, Vec<NodeId>, Vec<String>) {
        let latest = self.latest();
        let size = latest.as_ref().map_or(0, |published| published.checkpoint.size);
        let witnesses = latest.map(|published| published.witnesses()).unwrap_or_default();
        (size, witnesses, lock(&self.alarm).iter().cloned().collect())
    }

    fn published_size(&self) -> u64 {
        lock(&self.recent).back().map_or(0, |published| published.checkpoint.size)
    }

    /// Finds out what is published already. A checkpoint that contradicts the journal stops publication: going on would
    /// sign a second history.
    fn resume(&self, coordinator: &Coordinator, size: u64) -> Result<(), PublishError> {
        let founding = to_canonical(coordinator.founding.sealed());
        self.tree.put_founding(&founding)?;
        let Some(text) = self.tree.checkpoint()? else { return Ok(()) };
        let chain = coordinator.notary.chain();
        let opened = Note::parse(&text).map_err(|error| error.to_string()).and_then(|note| {
            let (checkpoint, epoch) =
                open_kept(&coordinator.founding, &chain, &note).map_err(|error| error.to_string())?;
            let signers = Arc::new(chain.get(..epoch).unwrap_or_default().to_vec());
            Ok(Published { checkpoint, note, signers })
        });
        let published = match opened {
            Ok(published) => published,
            Err(reason) => {
                tracing::warn!(reason, "what is published is not a checkpoint of ours; published anew");
                return Ok(());
            }
        };
        let (there, root) = (published.checkpoint.size, published.checkpoint.root);
        if there > size {
            return Err(PublishError::Contradiction(format!(
                "the published ledger has {there} entries and the journal only {size}: was an old copy restored?"
            )));
        }
        let ours = root_at(there, |level, index| coordinator.archive.tree_hash(level, index).ok().flatten());
        if ours.as_ref() != Ok(&root) {
            return Err(PublishError::Contradiction(format!(
                "the published ledger of {there} entries is another than the journal's"
            )));
        }
        // Lines that nobody can check stay where they are published only until the next checkpoint.
        lock(&self.recent).push_back(published);
        Ok(())
    }

    /// Publishes the ledger as it is now, if it has grown.
    async fn advance(self: &Arc<Self>, coordinator: &Arc<Coordinator>) -> Result<(), PublishError> {
        let _writing = self.writing.lock().await;
        let now = coordinator.brain.query(|cell, _| (cell.ledger_size(), cell.ledger_root())).await;
        let Ok((size, root)) = now else { return Ok(()) };
        let from = self.published_size();
        if size <= from {
            return Ok(());
        }
        // Several signers sign at their own pace; what they have signed is what there is to publish.
        let together = if coordinator.notary.is_alone() {
            None
        } else {
            match coordinator.notary.latest() {
                Some(signed) if signed.size > from => Some(signed),
                Some(_) | None => return Ok(()),
            }
        };
        let size = together.as_ref().map_or(size, |signed| signed.size);
        self.on_disk(coordinator, move |tree, archive| tree.extend(from, size, archive)).await?;
        let signed = match together {
            Some(signed) => signed,
            None => {
                let signed = coordinator.notary.checkpoint(coordinator, size, root, size).await;
                let signed = signed.map_err(|refusal| PublishError::Sign { reason: refusal.to_string() })?;
                if signed.size != size {
                    // The signers changed just now; the next look publishes what they sign.
                    return Ok(());
                }
                signed
            }
        };
        let (text, signers) = (signed.note, signed.signers);
        let sign = |error: String| PublishError::Sign { reason: error };
        let note = Note::parse(&text).map_err(|error| sign(error.to_string()))?;
        let checkpoint = Checkpoint::parse_text(note.text()).map_err(|error| sign(error.to_string()))?;
        let chain = (!signers.is_empty()).then(|| to_canonical(&*signers));
        self.on_disk(coordinator, move |tree, _| {
            if let Some(chain) = chain {
                tree.put_signers(&chain)?;
            }
            tree.publish(&text)
        })
        .await?;
        {
            let mut recent = lock(&self.recent);
            recent.push_back(Published { checkpoint, note, signers });
            if recent.len() > RECENT_MAX {
                recent.pop_front();
            }
        }
        self.on_disk(coordinator, move |tree, _| tree.prune(from, size)).await
    }

    async fn on_disk(
        &self,
        coordinator: &Coordinator,
        work: impl FnOnce(&LogTree, &Archive) -> Result<(), LogTreeError> + Send + 'static,
    ) -> Result<(), PublishError> {
        let (tree, archive) = (self.tree.clone(), coordinator.archive.clone());
        let done = tokio::task::spawn_blocking(move || work(&tree, &archive)).await;
        Ok(done.map_err(|error| PublishError::Sign { reason: error.to_string() })??)
    }

    /// Publishes once more, before the brain stops.
    pub async fn finish(self: &Arc<Self>, coordinator: &Arc<Coordinator>) {
        if lock(&self.alarm).is_none()
            && let Err(error) = self.advance(coordinator).await
        {
            self.raise(&error);
        }
    }

    /// Takes the cosignature of `size` entries in `line`, by a witness that is a node of the cell, and publishes it if
    /// there is a place for it ([`seat`]).
    pub async fn take(
        self: &Arc<Self>,
        coordinator: &Arc<Coordinator>,
        size: u64,
        line: &str,
    ) -> Result<(), String> {
        let line = line.parse::<wc_ledger::NoteSignature>().map_err(|error| error.to_string())?;
        // Nobody else adds a line while this one finds its place.
        let _writing = self.writing.lock().await;
        let Some(published) =
            lock(&self.recent).iter().find(|published| published.checkpoint.size == size).cloned()
        else {
            return Err(format!("no checkpoint of {size} entries waits for cosignatures"));
        };
        let found = check_cosignature(published.note.text(), &line).map_err(|error| error.to_string())?;
        let Some(found) = found else { return Err("only nodes cosign here".to_owned()) };
        let witnesses = published.witnesses();
        // One line of each is enough; taking every newer one would let a node keep the disk busy.
        if witnesses.contains(&found.witness) {
            return Ok(());
        }
        let seats = coordinator.brain.query(move |cell, _| {
            let seat = |witness: NodeId| {
                let node = cell.node(&witness)?;
                let good = node.standing == Standing::Good;
                good.then_some(Seat { joined_at: node.joined_at, witness, owner: node.owner })
            };
            // Whoever is no node of good standing any more makes room for anybody who is.
            let nobody =
                |witness| Seat { joined_at: Timestamp(i64::MAX), witness, owner: AccountId([0; 32]) };
            let kept: Vec<Seat> = witnesses.into_iter().map(|one| seat(one).unwrap_or(nobody(one))).collect();
            (seat(found.witness), kept)
        });
        let Ok((Some(new), kept)) = seats.await else {
            return Err(format!("{} is no node of good standing of this cell", found.witness));
        };
        let note = match seat(&kept, &new)? {
            Some(gone) => published.note.retaining(|line| line.name != witness_name(&gone)),
            None => published.note,
        };
        let note = note.with(line).map_err(|error| error.to_string())?;
        let text = {
            let mut recent = lock(&self.recent);
            let newest = recent.back().is_some_and(|published| published.checkpoint.size == size);
            let Some(published) = recent.iter_mut().find(|published| published.checkpoint.size == size)
            else {
                return Ok(());
            };
            published.note = note;
            newest.then(|| published.note.to_string())
        };
        let Some(text) = text else { return Ok(()) };
        self.on_disk(coordinator, move |tree, _| tree.publish(&text)).await.map_err(|error| error.to_string())
    }

    /// Returns the newest checkpoint and the proof that it goes on from `since` entries.
    pub fn answer(&self, coordinator: &Coordinator, since: u64) -> Result<PublishedCheckpoint, String> {
        let published = self.latest().ok_or_else(|| match &*lock(&self.alarm) {
            Some(alarm) => alarm.clone(),
            None => "nothing has been published yet; try again in a second".to_owned(),
        })?;
        let size = published.checkpoint.size;
        let source = |level, index| coordinator.archive.tree_hash(level, index).ok().flatten();
        let (since_root, consistency) = if since > 0 && since <= size {
            let root = root_at(since, source).map_err(|error| error.to_string())?;
            let path = consistency_proof(since, size, source).map_err(|error| error.to_string())?;
            (root.to_vec(), path.into_iter().map(|hash| hash.to_vec().into()).collect())
        } else {
            (Vec::new(), Vec::new())
        };
        let last = size.checked_sub(1).and_then(|index| coordinator.archive.entry(index).ok().flatten());
        Ok(PublishedCheckpoint {
            founding: coordinator.founding.clone(),
            signers: published.signers.to_vec(),
            note: published.note.to_string(),
            head: last.as_ref().map(wc_types::record_cid),
            since_root,
            consistency,
        })
    }

    fn raise(&self, error: &dyn std::error::Error) {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message += &format!(": {cause}");
            source = cause.source();
        }
        let mut alarm = lock(&self.alarm);
        if alarm.as_ref() != Some(&message) {
            tracing::error!(message, "the ledger cannot be published");
            *alarm = Some(message);
        }
    }
}

/// Publishes while the coordinator runs.
pub(crate) async fn run(coordinator: Arc<Coordinator>) {
    let publication = coordinator.publication.clone();
    let Ok(size) = coordinator.brain.query(|cell, _| cell.ledger_size()).await else { return };
    let resumed = {
        let (publication, coordinator) = (publication.clone(), coordinator.clone());
        tokio::task::spawn_blocking(move || publication.resume(&coordinator, size)).await
    };
    match resumed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return publication.raise(&error),
        Err(error) => return publication.raise(&error),
    }
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match publication.advance(&coordinator).await {
            Ok(()) => *lock(&publication.alarm) = None,
            Err(error) => publication.raise(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(joined: u8, owner: u8) -> Seat {
        let witness = NodeId([joined; 32]);
        Seat { joined_at: Timestamp(i64::from(joined)), witness, owner: AccountId([owner; 32]) }
    }

    #[test]
    fn strangers_that_cosign_first_do_not_keep_older_witnesses_out() {
        // A full house of newcomers, each with a key of its own.
        let mut kept: Vec<Seat> = (100..).map(|number| at(number, number)).take(COSIGNATURES_MAX).collect();
        for witness in 1..=5 {
            let gone = seat(&kept, &at(witness, witness)).expect("it has been here for longer");
            let gone = gone.expect("somebody has to go");
            assert_eq!(kept.iter().max().map(|last| last.witness), Some(gone), "the newest");
            kept.retain(|seat| seat.witness != gone);
            kept.push(at(witness, witness));
        }
        assert!(seat(&kept, &at(200, 200)).is_err(), "one newcomer more");
        assert_eq!(kept.len(), COSIGNATURES_MAX);
    }

    #[test]
    fn one_owner_has_few_places_and_its_oldest_machines_take_them() {
        let mut kept = vec![at(1, 9), at(5, 9), at(7, 9)];
        assert!(seat(&kept, &at(8, 9)).is_err());
        assert_eq!(seat(&kept, &at(2, 9)), Ok(Some(NodeId([7; 32]))));
        assert_eq!(seat(&kept, &at(8, 3)), Ok(None), "others are not concerned");
        kept.clear();
        assert_eq!(seat(&kept, &at(8, 9)), Ok(None));
    }
}
