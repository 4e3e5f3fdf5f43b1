//! `ledger head|verify|evidence` (and `anchors`, in a file of its own): the published ledger, read as a stranger reads it.

mod anchors;

pub use anchors::standing;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use serde_json::{Value, json};
use wc_api::log::{LogReadError, LogReader};
use wc_ledger::threshold::SignerKeys;
use wc_ledger::threshold::handover::{open_kept, open_signed, verify_chain};
use wc_ledger::{
    AuditFault, Audited, Auditor, Checkpoint, Cosignature, Evidence, Finding, HashTile, Note, Tile,
    TileSource, cell_key, check_tile, consistency_proof, cosignatures, hash_from_tiles, origin, root_at,
    verify_consistency,
};
use wc_types::charter::{Founding, cell_id};
use wc_types::signers::Handover;
use wc_types::{CellId, Cid, Class, Code, Refusal, Signed, Timestamp, from_canonical, record_cid};

use crate::amount::{show_ago, show_ncu};
use crate::cli::LedgerCommand;
use crate::client::{Failure, Node};
use crate::command::replay;
use crate::config::Context;
use crate::exit::{self, Unproved, Unverified};
use crate::progress::{Bar, Progress};
use crate::{fields, identity, say};

/// A published ledger, or a checkpoint in a file, is not sound.
const UNSOUND: Code = Code::new("WC-CLI-010", Class::Peer);
/// The place that was named holds no ledger.
const NO_LEDGER: Code = Code::new("WC-CLI-012", Class::Caller);
/// How a fault of an audit begins.
const NOT_SOUND: &str = "the published ledger is not sound";
/// The ledger is of another cell than what it was compared with.
const OTHER_CELL: Code = Code::new("WC-CLI-013", Class::Caller);
/// Times that signers and checkpoint are read until they fit: a coordinator may be changing both.
const READS_MAX: u32 = 3;
/// Tiles of a log that are fetched for one proof, in rounds; more means that a source lies about its size.
const ROUNDS_MAX: usize = 4096;

/// Does what the command says.
pub async fn run(context: &Context, command: &LedgerCommand) -> anyhow::Result<()> {
    match command {
        LedgerCommand::Head { ledger, save } => head(context, ledger.as_deref(), save.as_deref()).await,
        LedgerCommand::Verify { ledger, checkpoint } => verify(context, ledger, checkpoint.as_deref()).await,
        LedgerCommand::Evidence { file } => evidence(context, file),
        LedgerCommand::Replay => replay::run(context),
        LedgerCommand::Anchors(args) => anchors::run(context, args).await,
    }
}

/// Something was checked and is not what it must be.
fn unsound(message: impl Into<String>) -> anyhow::Error {
    Unverified(vec![Refusal::new(UNSOUND, message)]).into()
}

/// A sentence with all that lies behind an error, under the error's own code.
fn sentence(code: Code, what: &str, error: &dyn std::error::Error) -> Refusal {
    let mut message = format!("{what}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        message += &format!(": {cause}");
        source = cause.source();
    }
    Refusal::new(code, message)
}

/// What was checked is not what it must be, by this error.
fn told(code: Code, what: &str, error: &dyn std::error::Error) -> anyhow::Error {
    Unverified(vec![sentence(code, what, error)]).into()
}

fn unread(error: &LogReadError) -> anyhow::Error {
    Failure(vec![sentence(error.code(), "the published ledger", error)]).into()
}

/// A checkpoint with everything that its note says.
pub struct Head {
    /// The cell's founding record.
    pub founding: Signed<Founding>,
    /// Its id.
    pub cell: CellId,
    /// Who signed.
    pub signers: SignerKeys,
    /// Size and root.
    pub checkpoint: Checkpoint,
    /// Who cosigned.
    pub witnesses: Vec<Cosignature>,
    /// Lines of keys that nobody here knows.
    pub unknown: Vec<String>,
    /// The hand-overs from the founding key to those who sign.
    pub chain: Vec<Handover>,
    note: Note,
}

impl Head {
    /// Checks a note under the key to which the chain leads from the one that the founding record names.
    fn read(founding: Signed<Founding>, chain: &[Handover], text: &str) -> anyhow::Result<Self> {
        let note = Note::parse(text).map_err(|error| told(error.code(), "the checkpoint", &error))?;
        let checkpoint = open_signed(&founding, chain, &note)
            .map_err(|error| told(error.code(), "the checkpoint", &error))?;
        Self::of(founding, chain, chain.len(), note, checkpoint)
    }

    fn of(
        founding: Signed<Founding>,
        chain: &[Handover],
        epoch: usize,
        note: Note,
        checkpoint: Checkpoint,
    ) -> anyhow::Result<Self> {
        founding
            .signed_by(&founding.coordinator.0)
            .map_err(|error| unsound(format!("the founding record is not one: {error}")))?;
        let cell = cell_id(&founding);
        let signers = verify_chain(&founding, chain.get(..epoch).unwrap_or_default())
            .map_err(|fault| told(fault.code(), "the signers", &fault))?;
        let (witnesses, others) = cosignatures(&note, &checkpoint.origin)
            .map_err(|error| told(error.code(), "the checkpoint", &error))?;
        let unknown = others.into_iter().map(|line| line.name.clone()).collect();
        Ok(Self { founding, cell, signers, checkpoint, witnesses, unknown, chain: chain.to_vec(), note })
    }

    /// Reads the checkpoint of the published ledger at `log`.
    async fn of_log(log: &str, reader: &mut LogReader) -> anyhow::Result<Self> {
        let missing = |what: &str| {
            let message = format!("{log} is not a published ledger: there is no {what}");
            let hint = "give the directory log/ of a coordinator's data directory or a copy of it, or http://host:port";
            Failure(vec![Refusal::new(NO_LEDGER, message).hint(hint)])
        };
        let founding = reader.read("founding").await.map_err(|error| unread(&error))?;
        let founding: Signed<Founding> = from_canonical(&founding.ok_or_else(|| missing("founding record"))?)
            .map_err(|error| unsound(format!("the founding record of the log is not one: {error}")))?;
        let mut tries = 0;
        loop {
            let chain = match reader.read("signers").await.map_err(|error| unread(&error))? {
                Some(bytes) => from_canonical::<Vec<Handover>>(&bytes).map_err(|error| {
                    unsound(format!("the chain of signers of the log is not one: {error}"))
                })?,
                None => Vec::new(),
            };
            let text = reader.read("checkpoint").await.map_err(|error| unread(&error))?;
            let text = String::from_utf8(text.ok_or_else(|| missing("checkpoint"))?)
                .map_err(|_| unsound("the checkpoint is not text"))?;
            let read = Self::read(founding.clone(), &chain, &text);
            tries += 1;
            match read {
                // The signers may have changed between the two files.
                Err(_) if tries < READS_MAX => continue,
                Err(error) => return Err(Self::mismatched(log, &founding, &chain, &text).unwrap_or(error)),
                Ok(head) => return Ok(head),
            }
        }
    }

    /// Says so if a ledger's checkpoint is a sound one of other signers than its chain leads to.
    fn mismatched(
        log: &str,
        founding: &Signed<Founding>,
        chain: &[Handover],
        text: &str,
    ) -> Option<anyhow::Error> {
        // Hand-overs that do not hold are damage, whoever signed the checkpoint.
        if let Err(fault) = verify_chain(founding, chain) {
            let what = format!("the file `signers` of {log} is damaged or forged");
            let hint = "if this is a mirror, copy that file again";
            return Some(Unverified(vec![sentence(fault.code(), &what, &fault).hint(hint)]).into());
        }
        let note = Note::parse(text).ok()?;
        let chain_ends = chain.len();
        let set = match open_kept(founding, chain, &note) {
            Ok((_, epoch)) => format!("set {epoch} of signers"),
            Err(_) if signed_by_strangers(founding, chain, &note) => {
                "a key that the file `signers` does not lead to".to_owned()
            }
            Err(_) => return None,
        };
        let message = format!(
            "the checkpoint of {log} is signed by {set}, its file `signers` leads to set {chain_ends}: \
             the two are not of one moment"
        );
        let hint = "if this is a mirror, copy signers and checkpoint again, signers first";
        Some(Unverified(vec![Refusal::new(UNSOUND, message).hint(hint)]).into())
    }

    fn to_json(&self, entry: Option<Cid>) -> Value {
        let witnesses = self
            .witnesses
            .iter()
            .map(|one| json!({ "node": one.witness.to_string(), "at": moment(one).to_string() }));
        json!({
            "cell": self.cell.to_string(),
            "origin": self.checkpoint.origin,
            "size": self.checkpoint.size,
            "root": data_encoding::BASE64.encode(&self.checkpoint.root),
            "head_entry": entry.map(|cid| cid.to_string()),
            "signers": {
                "set": self.signers.epoch,
                "required": self.signers.threshold,
                "of": self.signers.members.len(),
            },
            "key": cell_key(&self.cell, self.signers.group).to_string(),
            "witnesses": witnesses.collect::<Vec<_>>(),
            "unknown_signers": self.unknown,
            "checkpoint": self.note.to_string(),
        })
    }

    fn signed_by(&self) -> String {
        let SignerKeys { epoch, threshold, members, .. } = &self.signers;
        match members.as_slice() {
            [only] => format!("1 of 1 signers, {}", only.node),
            several => format!("{threshold} of {} signers, set {epoch}", several.len()),
        }
    }

    fn show(&self, entry: Option<Cid>) -> anyhow::Result<()> {
        say::pairs(&[
            ("cell", self.cell.to_string()),
            ("entries", self.checkpoint.size.to_string()),
            ("root", data_encoding::BASE64.encode(&self.checkpoint.root)),
        ])?;
        // A published tree does not say which one it is; an audit that has read it does.
        if let Some(entry) = entry {
            say::pairs(&[("last entry", entry.to_string())])?;
        }
        say::pairs(&[
            ("signed by", self.signed_by()),
            ("key", cell_key(&self.cell, self.signers.group).to_string()),
            ("witnesses", self.witnesses.len().to_string()),
        ])?;
        for one in &self.witnesses {
            say::data(format!("  {}  {}", one.witness, show_ago(moment(one), identity::now())))?;
        }
        for name in &self.unknown {
            say::data(format!("  also signed by {}, whose key is not known here", say::harmless(name)))?;
        }
        Ok(())
    }
}

fn moment(one: &Cosignature) -> Timestamp {
    Timestamp(i64::try_from(one.at_s.saturating_mul(1_000_000)).unwrap_or(i64::MAX))
}

/// Whether a note has lines of its cell's name, and none of them is of a key that the chain leads over.
fn signed_by_strangers(founding: &Signed<Founding>, chain: &[Handover], note: &Note) -> bool {
    let cell = cell_id(founding);
    let groups = chain.iter().map(|link| link.set.group);
    let known: Vec<[u8; 4]> = std::iter::once(founding.coordinator.0)
        .chain(groups)
        .map(|group| cell_key(&cell, group).id())
        .collect();
    let name = origin(&cell);
    let mut own = note.signatures().iter().filter(|line| line.name == name).peekable();
    own.peek().is_some() && own.all(|line| !known.contains(&line.key_id))
}

/// Reads the bytes of a file of the tree; where a partial one is gone, those of its full one.
async fn partial_or_full(
    reader: &mut LogReader,
    path: &str,
    cut: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>,
) -> anyhow::Result<Vec<u8>> {
    if let Some(bytes) = reader.read(path).await.map_err(|error| unread(&error))? {
        return Ok(bytes);
    }
    let missing = || unsound(format!("the published ledger has no {path}"));
    let (full, _) = path.split_once(".p/").ok_or_else(missing)?;
    let bytes = reader.read(full).await.map_err(|error| unread(&error))?.ok_or_else(missing)?;
    cut(bytes).ok_or_else(missing)
}

async fn tile_bytes(reader: &mut LogReader, tile: Tile) -> anyhow::Result<Vec<u8>> {
    let width = usize::from(tile.width()) * 32;
    partial_or_full(reader, &tile.to_string(), |full| full.get(..width).map(<[u8]>::to_vec)).await
}

async fn head(context: &Context, log: Option<&str>, save: Option<&Path>) -> anyhow::Result<()> {
    let (head, entry) = match log {
        Some(log) => {
            let mut reader = LogReader::new(log).map_err(|error| unread(&error))?;
            (Head::of_log(log, &mut reader).await?, None)
        }
        None => {
            let published = Node::connect(&context.dir).await?.checkpoint(0).await?;
            (Head::read(published.founding, &published.signers, &published.note)?, published.head)
        }
    };
    if let Some(path) = save {
        std::fs::write(path, head.note.to_string())
            .with_context(|| format!("could not write {}", path.display()))?;
    }
    if context.json { Ok(say::json(&head.to_json(entry))?) } else { head.show(entry) }
}

/// Tiles that were fetched, and the one that was missing last.
#[derive(Default)]
struct Fetched {
    tiles: Mutex<BTreeMap<Tile, Arc<HashTile>>>,
    missing: Mutex<Option<Tile>>,
}

impl TileSource for Fetched {
    fn tile(&self, tile: Tile) -> Option<Arc<HashTile>> {
        let found = self.tiles.lock().ok()?.get(&tile).cloned();
        if found.is_none()
            && let Ok(mut missing) = self.missing.lock()
        {
            *missing = Some(tile);
        }
        found
    }
}

impl Fetched {
    /// Computes something of the log that `reader` publishes, fetching the tiles that it takes.
    async fn compute<T, E>(
        &self,
        reader: &mut LogReader,
        what: impl Fn(&Self) -> Result<T, E>,
    ) -> anyhow::Result<Result<T, E>> {
        // A pure proof says which hash it lacks; each round fetches the tile that holds it.
        for _ in 0..ROUNDS_MAX {
            let found = what(self);
            let missing = self.missing.lock().ok().and_then(|mut missing| missing.take());
            let Some(tile) = missing.filter(|_| found.is_err()) else { return Ok(found) };
            let bytes = tile_bytes(reader, tile).await?;
            let read =
                HashTile::read(tile, &bytes).map_err(|error| told(error.code(), "the ledger", &error))?;
            if let Ok(mut tiles) = self.tiles.lock() {
                tiles.insert(tile, Arc::new(read));
            }
        }
        Err(unsound("the published ledger asks for more tiles than a log of its size has"))
    }

    /// Returns whether every tile that was fetched so far belongs to the root of the checkpoint.
    async fn are_of(&self, checkpoint: &Checkpoint, reader: &mut LogReader) -> anyhow::Result<bool> {
        let (size, root) = (checkpoint.size, &checkpoint.root);
        let used: Vec<Arc<HashTile>> =
            self.tiles.lock().map(|tiles| tiles.values().cloned().collect()).unwrap_or_default();
        let computed = self.compute(reader, |tiles| {
            root_at(size, |level, index| hash_from_tiles(tiles, size, level, index))
        });
        if computed.await?.as_ref() != Ok(root) {
            return Ok(false);
        }
        for tile in used {
            let bytes = tile.hashes().concat();
            let checked = self.compute(reader, |tiles| check_tile(tile.tile(), &bytes, size, root, tiles));
            if checked.await?.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A published ledger that was opened.
pub struct Published {
    log: String,
    reader: LogReader,
    /// What it is signed to be.
    pub head: Head,
}

impl Published {
    /// Opens the ledger at a directory or a URL.
    ///
    /// # Errors
    /// When it cannot be read, or its checkpoint is not signed as its founding record and its signers say.
    pub async fn open(log: &str) -> anyhow::Result<Self> {
        let mut reader = LogReader::new(log).map_err(|error| unread(&error))?;
        let head = Head::of_log(log, &mut reader).await?;
        Ok(Self { log: log.to_owned(), reader, head })
    }

    /// Checks that this is the ledger of `cell`.
    ///
    /// # Errors
    /// When it is of another one.
    pub fn is_of(&self, cell: &CellId) -> anyhow::Result<()> {
        if self.head.cell == *cell {
            return Ok(());
        }
        let message =
            format!("{} is the ledger of another cell, {}, not of {cell}", self.log, self.head.cell);
        Err(Unverified(vec![Refusal::new(OTHER_CELL, message)]).into())
    }

    /// Reads the whole ledger and checks it.
    async fn audit(&mut self, bar: &Bar) -> anyhow::Result<Audited> {
        let Self { reader, head, .. } = self;
        let size = head.checkpoint.size;
        let fault = |error: AuditFault| told(error.code(), NOT_SOUND, &error);
        let mut auditor =
            Auditor::new(&head.founding, &head.chain, head.checkpoint.clone(), identity::latest())
                .map_err(fault)?;
        while let Some(bundle) = auditor.next() {
            let width = usize::from(bundle.width());
            let entries =
                partial_or_full(reader, &bundle.to_string(), |full| cut_bundle(full, width)).await?;
            let hashes = tile_bytes(reader, bundle.tile()).await?;
            auditor.read(bundle, &entries, &hashes).map_err(|error| match error {
                AuditFault::TileHash { .. } => fault(error),
                // Which of its files an entry is in, the entry does not say.
                _ => told(error.code(), &format!("{NOT_SOUND}, at {bundle}"), &error),
            })?;
            bar.set(bundle.leaves().end, size, "");
        }
        for tile in auditor.upper_tiles() {
            let bytes = tile_bytes(reader, tile).await?;
            auditor.compare(tile, &bytes).map_err(fault)?;
        }
        auditor.finish().map_err(fault)
    }

    /// Names the file that keeps this ledger from being what it is signed to be.
    async fn damage(&mut self) -> anyhow::Error {
        let progress = Progress::new();
        let bar = progress.count("looking for the damage", self.head.checkpoint.size);
        let audited = self.audit(&bar).await;
        bar.finish();
        let refusals = match audited {
            Err(error) if error.is::<Unverified>() => exit::refusals(&error),
            Err(error) => return error,
            Ok(_) => {
                let message = format!("{} was another one each time it was read", self.log);
                vec![Refusal::new(UNSOUND, message)]
            }
        };
        let hint = "this says nothing about the history: copy the ledger again, or give another copy of it";
        Unverified(refusals.into_iter().map(|refusal| refusal.hint(hint)).collect()).into()
    }
}

/// What is known of two checkpoints of one cell.
pub enum History {
    /// The smaller is the beginning of the larger.
    One,
    /// They are of different histories; how that shows.
    Two(String),
    /// Nothing here decides it: why, and what would.
    Unknown(Undecided),
}

/// Why something is not decided, and what would decide it.
pub struct Undecided {
    /// Why.
    pub why: String,
    /// What to give.
    pub hint: String,
}

/// Finds out whether two checkpoints are of one history, with a proof from a published ledger where one is needed.
pub async fn compare(
    one: &Checkpoint,
    other: &Checkpoint,
    published: Option<&mut Published>,
) -> anyhow::Result<History> {
    let (early, late) = if one.size <= other.size { (one, other) } else { (other, one) };
    if early.size == late.size {
        return Ok(if early.root == late.root {
            History::One
        } else {
            History::Two(format!("two different ledgers of {} entries are signed by one cell", early.size))
        });
    }
    let Some(published) = published else {
        return Ok(History::Unknown(Undecided {
            why: format!("nothing here ties a ledger of {} entries to one of {}", late.size, early.size),
            hint: "give --ledger with the published ledger, as a directory or http://…".to_owned(),
        }));
    };
    let size = published.head.checkpoint.size;
    if size < late.size {
        return Ok(History::Unknown(Undecided {
            why: format!(
                "the published ledger {} has {size} entries, {} fewer than the {} that are to be compared",
                published.log,
                late.size - size,
                late.size
            ),
            hint: "it is published about a second after the entries; try again, or copy the mirror again"
                .to_owned(),
        }));
    }
    let fetched = Fetched::default();
    let path = fetched.compute(&mut published.reader, |tiles| {
        consistency_proof(early.size, late.size, |level, index| hash_from_tiles(tiles, size, level, index))
    });
    let path = path.await?.map_err(|error| told(error.code(), "the published ledger", &error))?;
    Ok(match verify_consistency(early.size, late.size, &path, &early.root, &late.root) {
        Ok(()) => History::One,
        // A copy with a damaged tile proves nothing against anybody: first it has to be what it is signed to be.
        Err(_) if !fetched.are_of(&published.head.checkpoint, &mut published.reader).await? => {
            return Err(published.damage().await);
        }
        Err(_) => History::Two(format!(
            "the ledger of {} entries does not begin with the one of {}, by the proof of {}",
            late.size, early.size, published.log
        )),
    })
}

/// Returns the longer of two chains of signers of one cell, of which the shorter must be the beginning.
///
/// # Errors
/// When they part: then a set of signers has handed over twice.
pub fn longer<'a>(one: &'a [Handover], other: &'a [Handover]) -> anyhow::Result<&'a [Handover]> {
    let parted =
        (1u64..).zip(one.iter().zip(other)).find(|(_, (one, other))| one.set.cid() != other.set.cid());
    if let Some((epoch, _)) = parted {
        return Err(unsound(format!(
            "the signers of the receipt and those of the published ledger part at set {epoch}: whoever signed before it \
             has handed over twice"
        )));
    }
    Ok(if one.len() >= other.len() { one } else { other })
}

/// Reads a checkpoint file of a known cell, which any of the sets of the chain may have signed.
///
/// # Errors
/// When it cannot be read, is of another cell or is signed by nobody who may.
pub fn read_checkpoint(
    path: &Path,
    founding: &Signed<Founding>,
    chain: &[Handover],
) -> anyhow::Result<Result<Checkpoint, Undecided>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("the checkpoint {} cannot be read: {error}", path.display());
        Failure(vec![Refusal::new(fields::FILE, message)])
    })?;
    let what = format!("the checkpoint {}", path.display());
    let note = Note::parse(&text).map_err(|error| told(error.code(), &what, &error))?;
    let said = Checkpoint::parse_text(note.text()).map_err(|error| told(error.code(), &what, &error))?;
    let cell = cell_id(founding);
    if said.origin != origin(&cell) {
        let message = format!("{what} is of another ledger, {}, not of {cell}", say::harmless(&said.origin));
        return Err(Unverified(vec![Refusal::new(OTHER_CELL, message)]).into());
    }
    match open_kept(founding, chain, &note) {
        Ok((checkpoint, _)) => Ok(Ok(checkpoint)),
        Err(_) if signed_by_strangers(founding, chain, &note) => Ok(Err(Undecided {
            why: format!(
                "{what} is signed by a set of signers that is not known here; {} of the cell are",
                say::count(chain.len() as u64 + 1, "set")
            ),
            hint: "give --ledger with the newest published ledger, whose signers may lead to that set"
                .to_owned(),
        })),
        Err(error) => Err(told(error.code(), &what, &error)),
    }
}

async fn verify(context: &Context, log: &str, seen: Option<&Path>) -> anyhow::Result<()> {
    let verified = audit(context, log, seen).await;
    if let (true, Err(error)) = (context.json, &verified) {
        let refusals = exit::refusals(error);
        say::json(&json!({
            "ok": false,
            "ledger": log,
            "undecided": error.is::<Unproved>(),
            "failed": refusals.first().map(|refusal| refusal.message.clone()),
            "code": refusals.first().map(|refusal| refusal.code.to_string()),
        }))?;
    }
    verified
}

async fn audit(context: &Context, log: &str, seen: Option<&Path>) -> anyhow::Result<()> {
    let mut published = Published::open(log).await?;
    let size = published.head.checkpoint.size;
    let progress = Progress::new();
    let bar = progress.count("entries", size);
    let audited = published.audit(&bar).await?;
    bar.finish();
    let mut history = None;
    if let Some(path) = seen {
        let undecided = |Undecided { why, hint }| Unproved { message: why, hint };
        let (founding, now) = (&published.head.founding, published.head.checkpoint.clone());
        let seen = read_checkpoint(path, founding, &published.head.chain)?.map_err(undecided)?;
        history = Some(seen.size);
        if seen.size > size {
            return Err(unsound(format!(
                "the ledger has {size} entries and the checkpoint {} has {}: it shrank, or is an old copy",
                path.display(),
                seen.size
            )));
        }
        match compare(&seen, &now, Some(&mut published)).await? {
            History::One => {}
            History::Two(how) => return Err(unsound(format!("history was rewritten: {how}"))),
            History::Unknown(why) => return Err(undecided(why).into()),
        }
    }
    let head = &published.head;
    let last = audited.last.as_ref().map(record_cid);
    if context.json {
        let mut value = head.to_json(last);
        if let Some(fields) = value.as_object_mut() {
            fields.insert("ok".to_owned(), true.into());
            fields.insert("sound".to_owned(), true.into());
            fields.insert("files".to_owned(), audited.files.into());
            fields.insert("accounts".to_owned(), audited.accounts.into());
            fields.insert("issued_micro_ncu".to_owned(), audited.issued.into());
            fields.insert("handovers".to_owned(), audited.handovers.into());
            fields.insert("handover_pending".to_owned(), audited.handover_pending.into());
            fields.insert("continues_size".to_owned(), history.into());
            let parent = audited.parent.map(|(cell, _)| cell.to_string());
            let merged_at = audited.parent.map(|(_, at)| at.to_string());
            fields.insert("parent_cluster_id".to_owned(), parent.into());
            fields.insert("merged_at".to_owned(), merged_at.into());
        }
        return Ok(say::json(&value)?);
    }
    say::data(format!("{log}: SOUND"))?;
    head.show(last)?;
    say::data(format!(
        "proved   {} entries, each naming the one before it, in the {} files under this checkpoint, whose every hash is \
         right",
        audited.entries, audited.files
    ))?;
    say::data(format!(
        "proved   every entry moves only what its kind may, by the charter, and nobody was ever overdrawn; {} accounts, \
         {} issued",
        audited.accounts,
        show_ncu(audited.issued)
    ))?;
    say::data("proved   the root over them is the one that the cell's key signed")?;
    if audited.handovers > 0 || audited.handover_pending {
        let tail = if audited.handover_pending {
            "; one more has signed, and its entry comes with a later checkpoint"
        } else {
            ""
        };
        say::data(format!(
            "proved   the log hands its signature over {}, each time to whom the file `signers` says{tail}",
            say::count(audited.handovers, "time")
        ))?;
    }
    if let Some((parent, at)) = audited.parent {
        let at = show_ago(at, identity::now());
        say::data(format!("told     it met the older {parent} {at}; each of the two keeps its own ledger"))?;
    }
    say::data(
        "not read partial tiles of earlier checkpoints, which this one does not need: 'ledger replay' compares those",
    )?;
    say::data(
        "assumed  that the verdicts behind accepted tasks are as the votes were: receipts and donors check those",
    )?;
    match history {
        Some(size) => {
            say::data(format!("proved   it continues the checkpoint of {size} entries that you gave"))?
        }
        None => say::data(
            "assumed  that nobody was shown another ledger: give --checkpoint with one seen before",
        )?,
    }
    if head.witnesses.is_empty() {
        say::data("assumed  that the cell shows everybody the same: no witness cosigned this checkpoint")?;
    }
    Ok(())
}

/// Returns the first `width` entries of a full bundle.
fn cut_bundle(full: Vec<u8>, width: usize) -> Option<Vec<u8>> {
    let mut end = 0;
    for _ in 0..width {
        let length = full.get(end..end + 2)?;
        end += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
    }
    full.get(..end).map(<[u8]>::to_vec)
}

fn evidence(context: &Context, path: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(path).map_err(|error| {
        let message = format!("the evidence {} cannot be read: {error}", path.display());
        Failure(vec![Refusal::new(fields::FILE, message)])
    })?;
    let wrong = |error: wc_ledger::EvidenceError| {
        told(error.code(), &format!("{} is no evidence", path.display()), &error)
    };
    let evidence = Evidence::decode(&bytes).map_err(wrong)?;
    let (cell, finding) = evidence.check().map_err(wrong)?;
    let (word, proved) = match &finding {
        Finding::SplitView { size } => {
            ("split-view", format!("the key of {cell} signed two different ledgers of {size} entries"))
        }
        Finding::Rewritten { seen, offered } => (
            "rewritten",
            format!(
                "the key of {cell} signed a ledger of {seen} entries, and one of {offered} that begins differently"
            ),
        ),
        Finding::Inconclusive { reason } => ("inconclusive", format!("nothing follows for {cell}: {reason}")),
    };
    if context.json {
        say::json(&json!({
            "file": path.display().to_string(),
            "cell": cell.to_string(),
            "finding": word,
            "proved": proved,
            "seen": evidence.seen,
            "offered": evidence.offered,
        }))?;
    } else {
        say::data(&proved)?;
    }
    match finding {
        Finding::SplitView { .. } | Finding::Rewritten { .. } => Ok(()),
        Finding::Inconclusive { reason } => Err(Unproved {
            message: format!("the evidence proves nothing yet: {reason}"),
            hint: "keep it: with a later checkpoint of the same log it may".to_owned(),
        }
        .into()),
    }
}
