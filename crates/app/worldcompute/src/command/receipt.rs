//! `receipt verify`, and everything else that is done with receipts: fetching, keeping and showing them.

use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};
use wc_ledger::{Anchors, ReceiptFault, ReceiptReport, decode_receipt, verify_receipt};
use wc_proto::api::view::JobView;
use wc_types::canonical::{RECORD_BYTES_MAX, to_canonical};
use wc_types::receipt::ReceiptFile;
use wc_types::{Class, Code, NodeId, Refusal, Signed};

use crate::amount::{show_ago, show_ncu};
use crate::cli::ReceiptCommand;
use crate::client::{Failure, Node};
use crate::command::ledger::{self, History, Published, Undecided};
use crate::config::Context;
use crate::exit::{self, Unproved, Unverified};
use crate::progress::Bar;
use crate::{fields, identity, json, say};

/// Whether a receipt's checkpoint and the one that was given are of one history.
enum Place {
    NotAsked,
    /// Proved, with the size of the one that was given.
    Proved(u64),
    /// Not decided: why, and what would decide it.
    Unproved(Undecided),
}

/// A receipt's ledger is another than the one that was seen.
const REWRITTEN: Code = Code::new("WC-CLI-011", Class::Peer);

/// Does what the command says. Needs no node, and no network unless `--ledger` names a URL.
pub async fn run(context: &Context, command: &ReceiptCommand) -> anyhow::Result<()> {
    let ReceiptCommand::Verify { files, checkpoint, ledger: log } = command;
    let mut published = match log {
        Some(log) => Some(Published::open(log).await?),
        None => None,
    };
    let (mut reports, mut refuted, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    let mut unproved: Vec<Undecided> = Vec::new();
    for path in files {
        match one(path, checkpoint.as_deref(), published.as_mut()).await {
            Ok((report, place)) => {
                if context.json {
                    reports.push(report_json(path, &report, &place));
                } else {
                    show(path, &report, &place)?;
                }
                if let Place::Unproved(why) = place {
                    unproved.push(why);
                }
            }
            Err(error) => {
                let refusals = exit::refusals(&error);
                reports.extend(refusals.iter().map(|refusal| {
                    json!({
                        "file": path.display().to_string(),
                        "valid": false,
                        "code": refusal.code,
                        "reason": refusal.message,
                    })
                }));
                if error.is::<Unverified>() { &mut refuted } else { &mut failed }.extend(refusals);
            }
        }
    }
    if context.json {
        say::json(&Value::Array(reports))?;
    }
    if !refuted.is_empty() {
        refuted.append(&mut failed);
        return Err(Unverified(refuted).into());
    }
    if !failed.is_empty() {
        return Err(Failure(failed).into());
    }
    let Some(Undecided { why, hint }) = unproved.pop() else { return Ok(()) };
    let (all, open) = (say::count(files.len() as u64, "receipt"), unproved.len() + 1);
    let message = format!(
        "{all} valid, but whether {open} of them and the checkpoint are of one history is open: {why}"
    );
    Err(Unproved { message, hint }.into())
}

/// Checks one receipt.
async fn one(
    path: &Path,
    checkpoint: Option<&Path>,
    published: Option<&mut Published>,
) -> anyhow::Result<(ReceiptReport, Place)> {
    let bytes = read(path).map_err(|refusal| Failure(vec![refusal]))?;
    let (file, report) = check(&bytes).map_err(|fault| Unverified(vec![refusal(path, &fault)]))?;
    let place =
        place(&file, &report, checkpoint, published).await.with_context(|| path.display().to_string())?;
    match place {
        Ok(place) => Ok((report, place)),
        Err(how) => {
            let message = format!("{}: history was rewritten: {how}", path.display());
            Err(Unverified(vec![Refusal::new(REWRITTEN, message)]).into())
        }
    }
}

/// Compares a receipt's checkpoint with the one that was given, or with that of a published ledger. Whoever signed the
/// one that was given may have taken over after the receipt was written, so the longer of the chains decides.
async fn place(
    file: &ReceiptFile,
    report: &ReceiptReport,
    checkpoint: Option<&Path>,
    published: Option<&mut Published>,
) -> anyhow::Result<Result<Place, String>> {
    let mut chain = file.signers.as_slice();
    let longer;
    if let Some(published) = &published {
        published.is_of(&report.cell)?;
        longer = ledger::longer(chain, &published.head.chain)?.to_vec();
        chain = &longer;
    }
    let seen = match (checkpoint, &published) {
        (Some(path), _) => match ledger::read_checkpoint(path, &file.founding, chain)? {
            Ok(seen) => seen,
            Err(why) => return Ok(Ok(Place::Unproved(why))),
        },
        (None, Some(published)) => published.head.checkpoint.clone(),
        (None, None) => return Ok(Ok(Place::NotAsked)),
    };
    Ok(match ledger::compare(&report.checkpoint, &seen, published).await? {
        History::One => Ok(Place::Proved(seen.size)),
        History::Two(how) => Err(how),
        History::Unknown(why) => Ok(Place::Unproved(why)),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(RECORD_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            let message = format!("the receipt {} cannot be read: {error}", path.display());
            Refusal::new(fields::FILE, message)
        })?;
    Ok(bytes)
}

fn check(bytes: &[u8]) -> Result<(ReceiptFile, ReceiptReport), ReceiptFault> {
    let file = decode_receipt(bytes)?;
    let report = verify_receipt(&file, &Anchors::default())?;
    Ok((file, report))
}

fn refusal(path: &Path, fault: &ReceiptFault) -> Refusal {
    let mut message = format!("{} is not a valid receipt: {fault}", path.display());
    let mut source = fault.source();
    while let Some(error) = source {
        message += &format!(": {error}");
        source = error.source();
    }
    Refusal::new(fault.code(), message)
}

fn show(path: &Path, report: &ReceiptReport, place: &Place) -> anyhow::Result<()> {
    say::data(format!("{}: VALID", path.display()))?;
    let votes = format!(
        "{} of {} replicas agree, {} had to; {} dissent",
        report.agreeing, report.replicas, report.required, report.dissenting
    );
    say::pairs(&[
        ("  task", report.task.to_string()),
        ("  result", report.result.to_string()),
        ("  guest", if report.success { "succeeded" } else { "failed, the same way everywhere" }.to_owned()),
        ("  votes", votes),
        ("  awarded", show_ncu(i64::try_from(report.awarded).unwrap_or(i64::MAX))),
        ("  cell", report.cell.to_string()),
        ("  ledger", format!("entry {} of {}", report.entry_index, report.tree_size)),
        ("  witnesses", report.witnesses.len().to_string()),
        ("  issued", format!("{} ({})", report.issued_at, show_ago(report.issued_at, identity::now()))),
    ])?;
    for step in &report.steps {
        say::data(format!("  proved   {}: {}", step.name, step.proved))?;
    }
    match place {
        Place::Proved(size) => {
            say::data(format!(
                "  proved   history: that ledger and the checkpoint of {size} entries are one history"
            ))?;
        }
        Place::Unproved(Undecided { why, .. }) => say::data(format!("  UNPROVED history: {why}"))?,
        Place::NotAsked => {}
    }
    for assumed in assumed(report, place) {
        say::data(format!("  assumed  {assumed}"))?;
    }
    Ok(())
}

/// What the receipt leaves open; that no other checkpoint was there to compare with, only if none was.
fn assumed<'a>(report: &'a ReceiptReport, place: &Place) -> Vec<&'a str> {
    let asked = !matches!(place, Place::NotAsked);
    report.assumed.iter().copied().filter(|text| !(asked && text.contains(NO_EARLIER))).collect()
}

/// What the report says when it was given no earlier checkpoint.
const NO_EARLIER: &str = "no earlier checkpoint was given";

fn report_json(path: &Path, report: &ReceiptReport, place: &Place) -> Value {
    let (history, seen_size) = match place {
        Place::NotAsked => (None, None),
        Place::Proved(size) => (Some("proved"), Some(size)),
        Place::Unproved(_) => (Some("unproved"), None),
    };
    let witnesses = report.witnesses.iter().map(|one| one.witness.to_string()).collect::<Vec<_>>();
    let steps = report.steps.iter().map(|step| json!({ "name": step.name, "proved": step.proved }));
    json!({
        "file": path.display().to_string(),
        "valid": true,
        "task": report.task.to_string(),
        "job": report.task.job.to_string(),
        "stage": report.task.stage,
        "index": report.task.index,
        "manifest": report.manifest.to_string(),
        "result": report.result.to_string(),
        "success": report.success,
        "replicas": report.replicas,
        "required": report.required,
        "agreeing": report.agreeing,
        "dissenting": report.dissenting,
        "charged_micro_ncu": report.charged.0,
        "awarded_micro_ncu": u64::try_from(report.awarded).unwrap_or(u64::MAX),
        "cell": report.cell.to_string(),
        "entry_index": report.entry_index,
        "tree_size": report.tree_size,
        "root": report.root,
        "issued_at": report.issued_at.to_string(),
        "witnesses": witnesses,
        "history": history,
        "seen_size": seen_size,
        "steps": steps.collect::<Vec<_>>(),
        "assumed": assumed(report, place),
    })
}

/// What was fetched.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Receipts that were written.
    pub written: Vec<PathBuf>,
    /// How many of them were verified after they were written.
    pub verified: usize,
    /// What is wrong with the others.
    pub refusals: Vec<Refusal>,
}

/// Fetches every receipt of a job into `dir`, as `<stage>-<index>.receipt` with a JSON view beside it, and verifies
/// each from the bytes on disk.
pub async fn fetch(node: &mut Node, job: &JobView, dir: &Path, bar: &Bar) -> anyhow::Result<Fetched> {
    fs::create_dir_all(dir).with_context(|| format!("could not make {}", dir.display()))?;
    let total = job.stages.iter().map(|stage| u64::from(stage.accepted)).sum();
    let mut fetched = Fetched::default();
    for stage in 0..job.stages.len() {
        let stage = u16::try_from(stage).unwrap_or(u16::MAX);
        let mut from = Some(0);
        while let Some(first) = from {
            let (receipts, next) = node.receipts(&job.job.to_string(), stage, first).await?;
            for receipt in &receipts {
                keep(receipt, dir, &mut fetched)?;
                bar.set(fetched.written.len() as u64, total, "");
            }
            from = next;
        }
    }
    Ok(fetched)
}

fn keep(receipt: &ReceiptFile, dir: &Path, fetched: &mut Fetched) -> anyhow::Result<()> {
    let verdict = &receipt.receipt.verdict;
    let path = dir.join(format!("{}-{:08}.receipt", verdict.stage, verdict.index));
    let write = |path: &Path, bytes: &[u8]| {
        fs::write(path, bytes).with_context(|| format!("could not write {}", path.display()))
    };
    write(&path, &to_canonical(receipt))?;
    write(&path.with_extension("json"), format!("{:#}\n", receipt_json(receipt)).as_bytes())?;
    match read(&path).and_then(|bytes| check(&bytes).map_err(|fault| refusal(&path, &fault))) {
        Ok(_) => fetched.verified += 1,
        Err(refusal) => fetched.refusals.push(refusal),
    }
    fetched.written.push(path);
    Ok(())
}

fn receipt_json(file: &ReceiptFile) -> Value {
    json!({
        "founding": signed(&file.founding),
        "receipt": signed(&file.receipt),
        "outcomes": file.outcomes.iter().map(signed).collect::<Vec<_>>(),
        "entry": json::view(&file.entry),
        "inclusion": json::view(&file.inclusion),
    })
}

fn signed<T: serde::Serialize>(record: &Signed<T>) -> Value {
    json!({
        "cid": record.cid().to_string(),
        "signer": NodeId(record.signer()).to_string(),
        "record": json::view(&**record),
    })
}
