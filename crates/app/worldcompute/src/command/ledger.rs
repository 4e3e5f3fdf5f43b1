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
    Auditor, Checkpoint, Cosignature, Evidence, Finding, Hash, HashTile, Note, Tile, TileSource, cell_key,
    consistency_proof, cosignatures, hash_from_tiles, verify_consistency,
};
use wc_types::charter::{Founding, cell_id};
use wc_types::signers::Handover;
use wc_types::{CellId, Cid, Class, Code, Refusal, Signed, Timestamp, from_canonical, record_cid};

use crate::amount::{show_ago, show_ncu};
use crate::cli::LedgerCommand;
use crate::client::{Failure, Node};
use crate::command::replay;
use crate::config::Context;
use crate::exit::Unproved;
use crate::progress::Progress;
use crate::{fields, identity, say};

/// A published ledger, or a checkpoint in a file, is not sound.
const UNSOUND: Code = Code::new("WC-CLI-010", Class::Peer);
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

fn unsound(message: impl Into<String>) -> anyhow::Error {
    Failure(vec![Refusal::new(UNSOUND, message)]).into()
}

/// A sentence with all that lies behind an error, under the error's own code.
pub fn told(code: Code, what: &str, error: &dyn std::error::Error) -> anyhow::Error {
    let mut message = format!("{what}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        message += &format!(": {cause}");
        source = cause.source();
    }
    Failure(vec![Refusal::new(code, message)]).into()
}

fn unread(error: &LogReadError) -> anyhow::Error {
    told(error.code(), "the published ledger", error)
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
    chain: Vec<Handover>,
    note: Note,
}

impl Head {
    /// Checks a note under the key to which the chain leads from the one that the founding record names. A note that the
    /// reader kept may be of an older set.
    pub fn read(
        founding: Signed<Founding>,
        chain: &[Handover],
        text: &str,
        kept: bool,
    ) -> anyhow::Result<Self> {
        let wrong =
            |error: &dyn std::error::Error| unsound(format!("the founding record is not one: {error}"));
        founding.signed_by(&founding.coordinator.0).map_err(|error| wrong(&error))?;
        let cell = cell_id(&founding);
        let note = Note::parse(text).map_err(|error| told(error.code(), "the checkpoint", &error))?;
        let (checkpoint, epoch) = if kept {
            open_kept(&founding, chain, &note)
        } else {
            open_signed(&founding, chain, &note).map(|checkpoint| (checkpoint, chain.len()))
        }
        .map_err(|error| told(error.code(), "the checkpoint", &error))?;
        let signers = verify_chain(&founding, chain.get(..epoch).unwrap_or_default())
            .map_err(|fault| told(fault.code(), "the signers", &fault))?;
        let (witnesses, others) = cosignatures(&note, &checkpoint.origin)
            .map_err(|error| told(error.code(), "the checkpoint", &error))?;
        let unknown = others.into_iter().map(|line| line.name.clone()).collect();
        Ok(Self { founding, cell, signers, checkpoint, witnesses, unknown, chain: chain.to_vec(), note })
    }

    /// Reads the checkpoint of a published ledger.
    pub async fn of_log(reader: &mut LogReader) -> anyhow::Result<Self> {
        let founding = required(reader, "founding").await?;
        let founding = from_canonical(&founding)
            .map_err(|error| unsound(format!("the founding record of the log is not one: {error}")))?;
        let chain = match reader.read("signers").await.map_err(|error| unread(&error))? {
            Some(bytes) => from_canonical::<Vec<Handover>>(&bytes)
                .map_err(|error| unsound(format!("the chain of signers of the log is not one: {error}")))?,
            None => Vec::new(),
        };
        let text = String::from_utf8(required(reader, "checkpoint").await?)
            .map_err(|_| unsound("the checkpoint is not text"))?;
        Self::read(founding, &chain, &text, false)
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
            ("last entry", entry.map_or_else(|| "none".to_owned(), |cid| cid.to_string())),
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

async fn required(reader: &mut LogReader, path: &str) -> anyhow::Result<Vec<u8>> {
    let read = reader.read(path).await.map_err(|error| unread(&error))?;
    read.ok_or_else(|| unsound(format!("the published ledger has no {path}")))
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
            (Head::of_log(&mut reader).await?, None)
        }
        None => {
            let published = Node::connect(&context.dir).await?.checkpoint(0).await?;
            (Head::read(published.founding, &published.signers, &published.note, false)?, published.head)
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

/// Makes the consistency proof between two sizes of the log that `reader` publishes at `size`.
async fn prove(reader: &mut LogReader, first: u64, second: u64, size: u64) -> anyhow::Result<Vec<Hash>> {
    let fetched = Fetched::default();
    // A pure proof says which hash it lacks; each round fetches the tile that holds it.
    for _ in 0..ROUNDS_MAX {
        let source = |level, index| hash_from_tiles(&fetched, size, level, index);
        if let Ok(path) = consistency_proof(first, second, source) {
            return Ok(path);
        }
        let missing = fetched.missing.lock().ok().and_then(|mut missing| missing.take());
        let Some(tile) = missing else { break };
        let bytes = tile_bytes(reader, tile).await?;
        let read = HashTile::read(tile, &bytes).map_err(|error| told(error.code(), "the ledger", &error))?;
        if let Ok(mut tiles) = fetched.tiles.lock() {
            tiles.insert(tile, Arc::new(read));
        }
    }
    Err(unsound(format!("the published ledger cannot prove anything between {first} and {second} entries")))
}

/// What is known of two checkpoints of one cell.
pub enum History {
    /// The smaller is the beginning of the larger.
    One,
    /// They are of different histories; how that shows.
    Two(String),
    /// Nothing here decides it.
    Unknown,
}

/// Finds out whether two checkpoints are of one history, with a proof from a published ledger where one is needed.
pub async fn compare(one: &Checkpoint, other: &Checkpoint, log: Option<&str>) -> anyhow::Result<History> {
    let (early, late) = if one.size <= other.size { (one, other) } else { (other, one) };
    if early.size == late.size {
        return Ok(if early.root == late.root {
            History::One
        } else {
            History::Two(format!("two different ledgers of {} entries are signed by one cell", early.size))
        });
    }
    let Some(log) = log else { return Ok(History::Unknown) };
    let mut reader = LogReader::new(log).map_err(|error| unread(&error))?;
    let published = Head::of_log(&mut reader).await?;
    if published.checkpoint.origin != one.origin {
        return Err(unsound("the published ledger is of another cell"));
    }
    let size = published.checkpoint.size;
    if size < late.size {
        return Ok(History::Unknown);
    }
    let path = prove(&mut reader, early.size, late.size, size).await?;
    Ok(match verify_consistency(early.size, late.size, &path, &early.root, &late.root) {
        Ok(()) => History::One,
        Err(_) => History::Two(format!(
            "the ledger of {} entries does not begin with the one of {}, by the proof of {log}",
            late.size, early.size
        )),
    })
}

/// Reads a checkpoint file of a known cell.
pub fn read_checkpoint(path: &Path, founding: &Signed<Founding>, chain: &[Handover]) -> anyhow::Result<Head> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("the checkpoint {} cannot be read: {error}", path.display());
        Failure(vec![Refusal::new(fields::FILE, message)])
    })?;
    Head::read(founding.clone(), chain, &text, true).with_context(|| path.display().to_string())
}

async fn verify(context: &Context, log: &str, seen: Option<&Path>) -> anyhow::Result<()> {
    let mut reader = LogReader::new(log).map_err(|error| unread(&error))?;
    let head = Head::of_log(&mut reader).await?;
    let size = head.checkpoint.size;
    let fault =
        |error: wc_ledger::AuditFault| told(error.code(), "the published ledger is not sound", &error);
    let mut auditor = Auditor::new(&head.founding, &head.chain, head.checkpoint.clone(), identity::latest()).map_err(fault)?;
    let progress = Progress::new();
    let bar = progress.count("entries", size);
    while let Some(bundle) = auditor.next() {
        let width = usize::from(bundle.width());
        let entries =
            partial_or_full(&mut reader, &bundle.to_string(), |full| cut_bundle(full, width)).await?;
        let hashes = tile_bytes(&mut reader, bundle.tile()).await?;
        auditor.read(bundle, &entries, &hashes).map_err(fault)?;
        bar.set(bundle.leaves().end, size, "");
    }
    for tile in auditor.upper_tiles() {
        let bytes = tile_bytes(&mut reader, tile).await?;
        auditor.compare(tile, &bytes).map_err(fault)?;
    }
    let audited = auditor.finish().map_err(fault)?;
    bar.finish();
    let mut history = None;
    if let Some(path) = seen {
        let seen = read_checkpoint(path, &head.founding, &head.chain)?;
        history = Some(seen.checkpoint.size);
        match compare(&seen.checkpoint, &head.checkpoint, Some(log)).await? {
            History::One => {}
            History::Two(how) => return Err(unsound(format!("history was rewritten: {how}"))),
            History::Unknown => {
                return Err(unsound(format!(
                    "the ledger has {size} entries and the checkpoint {} has {}: it shrank",
                    path.display(),
                    seen.checkpoint.size
                )));
            }
        }
    }
    let last = audited.last.as_ref().map(record_cid);
    if context.json {
        let mut value = head.to_json(last);
        if let Some(fields) = value.as_object_mut() {
            fields.insert("sound".to_owned(), true.into());
            fields.insert("files".to_owned(), audited.files.into());
            fields.insert("accounts".to_owned(), audited.accounts.into());
            fields.insert("issued_micro_ncu".to_owned(), audited.issued.into());
            fields.insert("continues_size".to_owned(), history.into());
        }
        return Ok(say::json(&value)?);
    }
    say::data(format!("{log}: SOUND"))?;
    head.show(last)?;
    say::data(format!(
        "proved   {} entries, each naming the one before it, in {} files whose every hash is right",
        audited.entries, audited.files
    ))?;
    say::data(format!(
        "proved   every entry's postings sum to zero and nobody was ever overdrawn; {} accounts, {} issued",
        audited.accounts,
        show_ncu(audited.issued)
    ))?;
    say::data("proved   the root over them is the one that the cell's key signed")?;
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
