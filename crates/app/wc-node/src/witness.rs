//! A witness: remembers the last checkpoint of its cell's ledger, and cosigns only what continues it.
//!
//! ```text
//! ask for the newest checkpoint and a proof from ours ──► check ──► our new head durable ──► cosignature sent
//!                                                           └──► does not fit: error log, alarm, evidence file
//! ```
//!
//! `<data dir>/witness/<cell>/head` is the note that was cosigned last, with our own line, so that it says itself what
//! was promised and when. It stays when the owner leaves: a witness that forgets can be made to cosign anything.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use wc_ledger::threshold::handover::open_kept;
use wc_ledger::{
    Checkpoint, Evidence, Finding, Hash, Note, WitnessFault, check_signers, consider, cosign, cosignatures,
    witness_key_text,
};
use wc_mesh::Mesh;
use wc_proto::api::view::{AlarmView, WitnessView};
use wc_proto::api::{CellRequest, PublishedCheckpoint, Response};
use wc_types::charter::{Founding, cell_id};
use wc_types::signers::Handover;
use wc_types::{Code, NodeId, Signed, SigningKey, Timestamp, from_canonical, to_canonical};

use crate::coordinator::lock;
use crate::node::Role;
use crate::{clock, control};

/// Time between two looks at the cell's ledger.
const EVERY: Duration = Duration::from_secs(2);
/// Alarms that are kept; the first ones say most.
const ALARMS_MAX: usize = 16;
/// A clock that is this far behind its own last cosignature is worth a word.
const BACKWARDS_S: u64 = 60;
/// Hashes in a consistency proof of any log; one more is garbage.
const PATH_MAX: usize = 130;

/// What was cosigned last.
struct Head {
    checkpoint: Checkpoint,
    note: Note,
    /// The hand-overs to those who signed it.
    signers: Vec<Handover>,
    at_s: u64,
}

#[derive(Default)]
struct State {
    /// The cell's directory, once it is known.
    dir: Option<PathBuf>,
    head: Option<Head>,
    alarms: Vec<AlarmView>,
    /// Set once there is proof against the cell's key: from then on nothing of it is cosigned.
    convicted: bool,
    /// Why what was seen before cannot be used.
    problem: Option<String>,
}

/// The witness of this machine.
pub(crate) struct Witness {
    dir: PathBuf,
    key: Arc<SigningKey>,
    state: Mutex<State>,
}

impl Witness {
    /// Returns a witness that keeps what it saw below `dir`.
    pub fn new(dir: PathBuf, key: Arc<SigningKey>) -> Arc<Self> {
        Arc::new(Self { dir, key, state: Mutex::default() })
    }

    /// Returns what it has seen, for the status.
    pub fn view(&self) -> WitnessView {
        let state = lock(&self.state);
        let at =
            |head: &Head| Timestamp(i64::try_from(head.at_s.saturating_mul(1_000_000)).unwrap_or(i64::MAX));
        WitnessView {
            key: witness_key_text(&self.key.node_id()),
            size: state.head.as_ref().map_or(0, |head| head.checkpoint.size),
            cosigned_at: state.head.as_ref().map(at),
            alarms: state.alarms.clone(),
            problem: state.problem.clone(),
        }
    }

    /// Reads what was seen of a cell before.
    fn recall(&self, founding: &Signed<Founding>) -> io::Result<()> {
        let cell = cell_id(founding);
        let dir = self.dir.join(cell.to_string());
        if lock(&self.state).dir.as_ref() == Some(&dir) {
            return Ok(());
        }
        fs::create_dir_all(&dir)?;
        // The evidence counts and is shown, whatever became of the head.
        let (alarms, convicted) = read_evidence(&dir)?;
        let (head, problem) = match self.read_seen(founding, &dir) {
            Ok(head) => (head, None),
            Err(error) => (
                None,
                Some(format!(
                    "{error}, so nothing is cosigned: put back `head` and `signers` of {} from a copy of today; if there is \
                     none, move both away, and this witness begins anew, without knowing what it cosigned before (keep the \
                     files *.evidence)",
                    dir.display()
                )),
            ),
        };
        let mut state = lock(&self.state);
        if let Some(problem) = problem {
            if state.problem.as_ref() != Some(&problem) {
                tracing::error!(%cell, "WITNESS STOPPED: {problem}");
            }
            *state = State { alarms, convicted, problem: Some(problem.clone()), ..State::default() };
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        *state = State { dir: Some(dir), head, alarms, convicted, problem: None };
        Ok(())
    }

    /// Reads what was cosigned last.
    fn read_seen(&self, founding: &Signed<Founding>, dir: &Path) -> io::Result<Option<Head>> {
        let chain: Vec<Handover> = match fs::read(dir.join("signers")) {
            Ok(bytes) => from_canonical(&bytes).map_err(|error| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "the file `signers`, which says who signed what was seen last, is damaged: {error}"
                    ),
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        match fs::read_to_string(dir.join("head")) {
            Ok(text) => self.read_head(founding, &chain, &text).map(Some).ok_or_else(|| {
                // Beginning anew would be what a forger wishes for.
                let damaged = "the file `head`, which says what was cosigned last, is damaged";
                io::Error::new(io::ErrorKind::InvalidData, damaged)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                let damaged =
                    format!("the file `head`, which says what was cosigned last, cannot be read: {error}");
                Err(io::Error::new(error.kind(), damaged))
            }
        }
    }

    fn read_head(&self, founding: &Signed<Founding>, chain: &[Handover], text: &str) -> Option<Head> {
        let note = Note::parse(text).ok()?;
        let (checkpoint, epoch) = open_kept(founding, chain, &note).ok()?;
        let signers = chain.get(..epoch)?.to_vec();
        let (lines, _) = cosignatures(&note, &checkpoint.origin).ok()?;
        let own = lines.iter().find(|line| line.witness == self.key.node_id())?;
        Some(Head { at_s: own.at_s, checkpoint, note, signers })
    }

    /// Looks at an offered checkpoint; returns its size and our line if it may have one.
    fn look(
        &self,
        founding: &Signed<Founding>,
        offer: &PublishedCheckpoint,
        now_s: u64,
    ) -> Option<(u64, String)> {
        let mut state = lock(&self.state);
        let note = match Note::parse(&offer.note) {
            Ok(note) => note,
            Err(error) => {
                let fault = WitnessFault::Foreign(error.into());
                self.alarm(&mut state, founding, &fault, offer);
                return None;
            }
        };
        let path: Option<Vec<Hash>> = (offer.consistency.len() <= PATH_MAX)
            .then(|| offer.consistency.iter().map(|hash| Hash::try_from(hash.as_slice()).ok()).collect())
            .flatten();
        let path = path.unwrap_or_default();
        let seen = state.head.as_ref().map(|head| &head.checkpoint);
        let continued = match &state.head {
            Some(head) => check_signers(&head.signers, &offer.signers),
            None => Ok(()),
        };
        let considered = consider(founding, &offer.signers, seen, &note, &path);
        let checkpoint = match considered.and_then(|checkpoint| continued.map(|()| checkpoint)) {
            Ok(checkpoint) => checkpoint,
            Err(fault) => {
                self.alarm(&mut state, founding, &fault, offer);
                return None;
            }
        };
        if state.convicted || checkpoint.size == 0 {
            return None;
        }
        let own = self.key.node_id();
        let carried = cosignatures(&note, &checkpoint.origin)
            .is_ok_and(|(lines, _)| lines.iter().any(|line| line.witness == own));
        let last_s = state.head.as_ref().map_or(0, |head| head.at_s);
        let same = state.head.as_ref().is_some_and(|head| head.checkpoint.size == checkpoint.size);
        if carried && same {
            return None;
        }
        // A clock that went back must not make a later promise look earlier.
        let at_s = now_s.max(last_s);
        if now_s.saturating_add(BACKWARDS_S) < last_s {
            tracing::warn!(behind_s = last_s - now_s, "this machine's clock is behind its last cosignature");
        }
        let line = cosign(note.text(), &self.key, at_s);
        // Only the cell's lines and ours: the head says what we promised, not what others did.
        let kept = note.retaining(|other| other.name == checkpoint.origin).with(line.clone());
        let kept =
            kept.inspect_err(|error| tracing::error!(%error, "a cosigned note cannot be kept")).ok()?;
        let dir = state.dir.clone()?;
        // First who signs, then what they signed: a head is never there without the chain to its key.
        let known = state.head.as_ref().is_some_and(|head| head.signers == offer.signers);
        let signers = if known || offer.signers.is_empty() {
            Ok(())
        } else {
            put(&dir.join("signers"), &to_canonical(&offer.signers))
        };
        if let Err(error) = signers.and_then(|()| put(&dir.join("head"), kept.to_string().as_bytes())) {
            tracing::error!(%error, "what is cosigned cannot be remembered, so it is not cosigned");
            return None;
        }
        let size = checkpoint.size;
        state.head = Some(Head { checkpoint, note: kept, signers: offer.signers.clone(), at_s });
        Some((size, line.to_string()))
    }

    /// Tells whoever can hear it, and keeps what proves it.
    fn alarm(
        &self,
        state: &mut State,
        founding: &Signed<Founding>,
        fault: &WitnessFault,
        offer: &PublishedCheckpoint,
    ) {
        let mut message = fault.to_string();
        let mut source = std::error::Error::source(fault);
        while let Some(cause) = source {
            message += &format!(": {cause}");
            source = cause.source();
        }
        let mut code = fault.code();
        let mut proves = false;
        let evidence = match &state.head {
            Some(head) if !matches!(fault, WitnessFault::Foreign(_)) => {
                let evidence = Evidence {
                    founding: founding.clone(),
                    seen: head.note.to_string(),
                    offered: offer.note.clone(),
                    prefix_root: offer.since_root.clone().into(),
                    path: offer.consistency.iter().take(PATH_MAX).cloned().collect(),
                    seen_signers: head.signers.clone(),
                    offered_signers: offer.signers.clone(),
                };
                if let Ok((_, finding)) = evidence.check() {
                    code = code_of_proof(&finding).unwrap_or(code);
                    proves = !matches!(finding, Finding::Inconclusive { .. });
                }
                Some((head.checkpoint.size, evidence))
            }
            Some(_) | None => None,
        };
        let known = state.alarms.iter().any(|alarm| alarm.message == message);
        let room = state.alarms.len() < ALARMS_MAX;
        // The first proof is always told; after it there is nothing worse to say.
        if state.convicted || !(proves || (room && !known)) {
            return;
        }
        state.convicted = proves;
        let mut kept = None;
        if let (Some((size, evidence)), Some(dir)) = (evidence, &state.dir) {
            let path = dir.join(format!("{size}-{}.evidence", clock::now().0));
            match put(&path, &to_canonical(&evidence)) {
                Ok(()) => kept = Some(path.display().to_string()),
                Err(error) => tracing::error!(%error, "evidence cannot be kept"),
            }
        }
        tracing::error!(
            cell = %cell_id(founding), code = code.name, evidence = kept.as_deref().unwrap_or("none"),
            "WITNESS ALARM: {message}; this checkpoint is not cosigned"
        );
        let code = code.name.to_owned();
        state.alarms.push(AlarmView { code, message, at: clock::now(), evidence: kept });
    }

    async fn visit(
        &self,
        mesh: &Mesh,
        coordinator: NodeId,
        founding: &Signed<Founding>,
    ) -> Result<(), String> {
        self.recall(founding).map_err(|error| error.to_string())?;
        let since = lock(&self.state).head.as_ref().map_or(0, |head| head.checkpoint.size);
        let offer = match control::forward(mesh, coordinator, &CellRequest::Checkpoint { since }).await {
            Response::Checkpoint(offer) => offer,
            Response::Refused(refusals) => return Err(say(&refusals)),
            _ => return Err("the coordinator answers with something else".to_owned()),
        };
        let now_s = u64::try_from(clock::now().0 / 1_000_000).unwrap_or(0);
        let Some((size, line)) = self.look(founding, &offer, now_s) else { return Ok(()) };
        match control::forward(mesh, coordinator, &CellRequest::Cosign { size, line }).await {
            Response::Refused(refusals) => Err(say(&refusals)),
            _ => Ok(()),
        }
    }
}

/// Reads the evidence of earlier runs. Returns what it says, and whether some of it proves something.
fn read_evidence(dir: &Path) -> io::Result<(Vec<AlarmView>, bool)> {
    let mut alarms = Vec::new();
    let mut convicted = false;
    for entry in fs::read_dir(dir)?.take(1024) {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "evidence") {
            continue;
        }
        let Ok(evidence) = Evidence::decode(&fs::read(&path)?) else { continue };
        let Ok((_, finding)) = evidence.check() else { continue };
        convicted |= !matches!(finding, Finding::Inconclusive { .. });
        let modified = fs::metadata(&path)?.modified().ok();
        let since = modified.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        alarms.push(AlarmView {
            code: code_of(&finding).to_owned(),
            message: format!("{}, found in an earlier run", words(&finding)),
            at: Timestamp(since.map_or(0, |at| i64::try_from(at.as_micros()).unwrap_or(i64::MAX))),
            evidence: Some(path.display().to_string()),
        });
    }
    Ok((alarms, convicted))
}

/// Witnesses while the node is a member of a cell.
pub(crate) async fn run(witness: Arc<Witness>, mesh: Mesh, mut role: watch::Receiver<Role>) {
    loop {
        let now = role.borrow_and_update().clone();
        match now {
            Role::Member { coordinator, founding } => {
                if let Err(reason) = witness.visit(&mesh, coordinator, &founding).await {
                    tracing::debug!(reason, "the ledger could not be witnessed this time");
                }
                tokio::time::sleep(EVERY).await;
            }
            Role::Coordinating(_) => {
                tracing::warn!("a coordinator does not witness its own ledger; let other machines do it");
                return;
            }
            Role::Searching => {
                if role.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

fn say(refusals: &[wc_types::Refusal]) -> String {
    refusals.iter().map(|refusal| refusal.message.as_str()).collect::<Vec<_>>().join("; ")
}

fn code_of_proof(finding: &Finding) -> Option<Code> {
    match *finding {
        Finding::SplitView { size } => Some(WitnessFault::Split { size }.code()),
        Finding::Rewritten { seen, offered } => Some(WitnessFault::Rewritten { seen, offered }.code()),
        Finding::Inconclusive { .. } => None,
    }
}

fn code_of(finding: &Finding) -> &'static str {
    code_of_proof(finding).map_or(WitnessFault::Shrunk { seen: 0, offered: 0 }.code().name, |code| code.name)
}

fn words(finding: &Finding) -> String {
    match finding {
        Finding::SplitView { size } => WitnessFault::Split { size: *size }.to_string(),
        Finding::Rewritten { seen, offered } => {
            WitnessFault::Rewritten { seen: *seen, offered: *offered }.to_string()
        }
        Finding::Inconclusive { reason } => format!("two checkpoints that may not fit: {reason}"),
    }
}

/// Writes a file so that it is there wholly or not at all, whatever happens.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("tmp");
    let mut file = File::create(&draft)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&draft, path)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wc_ledger::Tree;
    use wc_types::charter::Charter;

    fn key(name: u8) -> Arc<SigningKey> {
        Arc::new(SigningKey::from_seed(&[name; 32]))
    }

    fn founding() -> Signed<Founding> {
        let founding = Founding {
            network: "test".to_owned(),
            coordinator: key(1).node_id(),
            owner: key(2).account_id(),
            charter: Charter::default(),
            founded_at: Timestamp(0),
        };
        Signed::seal(founding, &key(1))
    }

    /// The log of `size` leaves, the last of them `last`, as its coordinator offers it to whoever saw `since`.
    fn offer(size: u64, last: u8, since: u64) -> PublishedCheckpoint {
        let (mut tree, mut hashes) = (Tree::new(), std::collections::HashMap::new());
        for leaf in 0..size {
            let leaf = if leaf + 1 == size { last } else { 0 };
            tree.push_with([leaf; 32], |level, index, hash| {
                hashes.insert((level, index), *hash);
            });
        }
        let source = |level, index| hashes.get(&(level, index)).copied();
        let founding = founding();
        let note = Checkpoint::new(&cell_id(&founding), size, tree.root()).sign(&key(1)).expect("signs");
        let (mut since_root, mut consistency) = (Vec::new(), Vec::new());
        if since > 0 && since <= size {
            since_root = wc_ledger::root_at(since, source).expect("all hashes").to_vec();
            let path = wc_ledger::consistency_proof(since, size, source).expect("all hashes");
            consistency = path.into_iter().map(|hash| hash.to_vec().into()).collect();
        }
        PublishedCheckpoint {
            founding,
            signers: Vec::new(),
            note: note.to_string(),
            head: None,
            since_root,
            consistency,
        }
    }

    fn witness(dir: &Path) -> Arc<Witness> {
        let witness = Witness::new(dir.to_owned(), key(3));
        witness.recall(&founding()).expect("a directory");
        witness
    }

    fn at_s(line: &str) -> u64 {
        let line: wc_ledger::NoteSignature = line.parse().expect("a line");
        u64::from_be_bytes(*line.signature.first_chunk().expect("a time"))
    }

    #[test]
    fn the_new_head_is_on_disk_before_the_cosignature_leaves() {
        let dir = tempfile::tempdir().expect("tempdir");
        let witness = witness(dir.path());
        let (size, line) = witness.look(&founding(), &offer(4, 0, 0), 100).expect("cosigned");
        assert_eq!(size, 4);
        let head = dir.path().join(cell_id(&founding()).to_string()).join("head");
        assert!(fs::read_to_string(&head).expect("kept").ends_with(&format!("{line}\n")));
        // Where it cannot be kept, nothing is handed out.
        fs::remove_file(&head).expect("there");
        fs::create_dir(&head).expect("in the way");
        assert_eq!(witness.look(&founding(), &offer(5, 0, 4), 101), None);
        assert_eq!(witness.view().size, 4);
    }

    #[test]
    fn a_clock_that_goes_back_does_not_make_a_later_cosignature_look_earlier() {
        let dir = tempfile::tempdir().expect("tempdir");
        let first = witness(dir.path());
        let (_, line) = first.look(&founding(), &offer(4, 0, 0), 1_000).expect("cosigned");
        assert_eq!(at_s(&line), 1_000);
        let (_, line) = first.look(&founding(), &offer(5, 0, 4), 10).expect("cosigned");
        assert_eq!(at_s(&line), 1_000);
        // Not even after a restart.
        let (_, line) = witness(dir.path()).look(&founding(), &offer(6, 0, 5), 20).expect("cosigned");
        assert_eq!(at_s(&line), 1_000);
        assert!(first.view().alarms.is_empty());
    }

    #[test]
    fn a_restarted_witness_still_knows_what_it_cosigned() {
        let dir = tempfile::tempdir().expect("tempdir");
        witness(dir.path()).look(&founding(), &offer(4, 0, 0), 1).expect("cosigned");
        let again = witness(dir.path());
        assert_eq!(again.look(&founding(), &offer(4, 7, 0), 2), None, "another ledger of the same size");
        assert_eq!(again.view().alarms.len(), 1);
        assert_eq!(again.view().alarms[0].code, "WC-LEDGER-122");
        assert_eq!(again.look(&founding(), &offer(5, 0, 4), 3), None, "the cell is convicted");
        let third = witness(dir.path());
        assert_eq!(third.view().alarms.len(), 1, "the evidence is still there");
        assert_eq!(third.look(&founding(), &offer(5, 0, 4), 4), None, "and counts");
    }

    #[test]
    fn a_damaged_head_is_not_taken_for_a_fresh_start() {
        let dir = tempfile::tempdir().expect("tempdir");
        witness(dir.path()).look(&founding(), &offer(4, 0, 0), 1).expect("cosigned");
        let head = dir.path().join(cell_id(&founding()).to_string()).join("head");
        let text = fs::read_to_string(&head).expect("kept");
        fs::write(&head, &text[..text.len() - 10]).expect("writes");
        let forgetful = Witness::new(dir.path().to_owned(), key(3));
        assert!(forgetful.recall(&founding()).is_err());
        let view = forgetful.view();
        assert!(view.problem.is_some_and(|problem| problem.contains("`head`")), "it says what is damaged");
        assert_eq!((view.size, view.alarms.len()), (0, 0));
        // Put right, it goes on by itself.
        fs::write(&head, text).expect("writes");
        forgetful.recall(&founding()).expect("whole again");
        assert_eq!((forgetful.view().size, forgetful.view().problem), (4, None));
    }

    #[test]
    fn a_damaged_head_does_not_hide_the_evidence_beside_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let first = witness(dir.path());
        first.look(&founding(), &offer(4, 0, 0), 1).expect("cosigned");
        assert_eq!(first.look(&founding(), &offer(4, 7, 0), 2), None, "another ledger of the same size");
        let head = dir.path().join(cell_id(&founding()).to_string()).join("head");
        let mut bytes = fs::read(&head).expect("kept");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&head, bytes).expect("writes");
        let again = Witness::new(dir.path().to_owned(), key(3));
        assert!(again.recall(&founding()).is_err());
        let view = again.view();
        assert!(view.problem.is_some() && view.alarms.len() == 1, "{view:?}");
        assert_eq!(view.alarms[0].code, "WC-LEDGER-122");
        assert!(view.alarms[0].evidence.is_some());
    }

    #[test]
    fn alarms_are_bounded_however_long_a_coordinator_misbehaves() {
        let dir = tempfile::tempdir().expect("tempdir");
        let witness = witness(dir.path());
        witness.look(&founding(), &offer(40, 0, 0), 1).expect("cosigned");
        for size in 1..40 {
            assert_eq!(witness.look(&founding(), &offer(size, 0, 0), 2), None, "a shorter ledger");
        }
        let mut broken = offer(41, 0, 40);
        broken.note = "no note".to_owned();
        for _ in 0..40 {
            assert_eq!(witness.look(&founding(), &broken, 3), None);
        }
        assert!(witness.view().alarms.len() <= ALARMS_MAX);
        assert!(
            fs::read_dir(dir.path().join(cell_id(&founding()).to_string())).expect("there").count()
                <= 1 + ALARMS_MAX
        );
        witness.look(&founding(), &offer(41, 0, 40), 4).expect("an honest growth is still cosigned");
    }
}
