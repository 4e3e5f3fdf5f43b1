//! `ledger anchors`, and its verbs.

use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};
use wc_ledger::rekor::DOCUMENT_BYTES_MAX;
use wc_ledger::{AnchorFile, AnchorReport, RekorError, TrustedRoot, VerifierKey, verify_anchor};
use wc_proto::api::view::{AnchorView, AnchoringView};
use wc_proto::api::{CellRequest, Request, Response};
use wc_types::{Millis, Refusal, Timestamp};

use crate::amount::{show_ago, show_duration};
use crate::cli::{AnchorsArgs, AnchorsCommand};
use crate::client::{Failure, Node, unexpected};
use crate::config::{self, Context};
use crate::exit::{Undecided, Unverified, Usage};
use crate::{fields, identity, json, say};

/// Does what the command says.
pub async fn run(context: &Context, args: &AnchorsArgs) -> anyhow::Result<()> {
    match &args.command {
        None => list(context, args.limit).await,
        Some(AnchorsCommand::Verify { files, trusted_root, cell_key, at }) => {
            let root = config::trusted_root(trusted_root.as_deref())?;
            let signer = cell_key.as_deref().map(str::parse::<VerifierKey>).transpose();
            let signer = signer.map_err(|error| Usage {
                message: format!("--cell-key is not a key: {error}"),
                hint: "the line `key` of 'worldcompute ledger head'".to_owned(),
            })?;
            let at = at.as_deref().map(moment).transpose()?.unwrap_or_else(identity::now);
            verify(context, files, &root, signer.as_ref(), at)
        }
        Some(AnchorsCommand::Export { id, output }) => export(context, *id, output).await,
        Some(AnchorsCommand::Clear { id }) => {
            Node::connect(&context.dir).await?.tell(Request::ClearAnchor { id: *id }).await?;
            say::talk(format!("anchor {id} is cleared"));
            Ok(())
        }
    }
}

/// Returns one line on how anchoring stands.
pub fn standing(view: Option<&AnchoringView>) -> String {
    let Some(view) = view else { return "off".to_owned() };
    let mut text = match view.state.as_str() {
        "level" => "everything is anchored".to_owned(),
        "behind" => "something waits for the next anchor".to_owned(),
        "overdue" => "OVERDUE".to_owned(),
        "missed" => "MISSED (P1): three anchors in a row".to_owned(),
        other => say::harmless(other),
    };
    match view.anchored_at {
        Some(at) => {
            let ago = show_ago(at, identity::now());
            text += &format!("; the last covers {} entries, {ago}", view.anchored_size);
        }
        None => text += "; no anchor yet",
    }
    if view.failures > 0 {
        let why = view.last_failure.as_deref().map(say::harmless).unwrap_or_default();
        text += &format!("; {} in a row: {why}", say::count(u64::from(view.failures), "failure"));
    }
    if !view.flagged.is_empty() {
        let ids: Vec<String> = view.flagged.iter().map(u64::to_string).collect();
        text += &format!("; FLAGGED, look and clear: {}", ids.join(", "));
    }
    text
}

async fn list(context: &Context, limit: u32) -> anyhow::Result<()> {
    let mut node = Node::connect(&context.dir).await?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let (mut rows, mut standing_view, mut before): (Vec<AnchorView>, _, _) = (Vec::new(), None, None);
    loop {
        let (anchoring, page, next) = match node.cell(CellRequest::Anchors { before }).await? {
            Response::Anchors { anchoring, rows, next } => (anchoring, rows, next),
            other => return Err(unexpected("Anchors", &other)),
        };
        standing_view = standing_view.or(anchoring);
        // A page that does not advance would be asked for without end, and so would empty ones.
        before = match (next, before) {
            (Some(next), Some(last)) if next >= last => None,
            (Some(_), _) if page.is_empty() => None,
            (next, _) => next,
        };
        rows.extend(page);
        if before.is_none() || rows.len() >= limit {
            break;
        }
    }
    rows.truncate(limit);
    if context.json {
        let value = json!({ "anchoring": json::view(&standing_view), "anchors": json::view(&rows) });
        return Ok(say::json(&value)?);
    }
    if let Some(view) = &standing_view {
        let every = show_duration(Millis(view.interval_ms));
        say::pairs(&[
            ("log", format!("{} ({}), every {every}", say::harmless(&view.url), say::harmless(&view.api))),
            ("state", standing(Some(view))),
        ])?;
        say::data("")?;
    }
    let mut table = say::table(&["id", "state", "entries", "log index", "made", "log"]);
    for row in &rows {
        // A log of v2 keeps an order and no moments: what is shown then is only this cell's own word.
        let made = match row.integrated_at {
            Some(at) => show_ago(at, identity::now()),
            None => format!("{}, by the coordinator's clock", show_ago(row.at, identity::now())),
        };
        table.add_row([
            row.id.to_string(),
            say::harmless(&row.state),
            row.checkpoint_size.to_string(),
            row.log_index.map_or_else(|| "-".to_owned(), |index| index.to_string()),
            made,
            say::harmless(&row.log),
        ]);
    }
    let empty = match standing_view {
        Some(_) => "there are no anchors yet",
        None => "this cell has no anchors; turn anchoring on with 'worldcompute node run --anchor rekor-v1'",
    };
    say::rows(&table, empty)?;
    for row in rows.iter().filter(|row| row.state == "flagged") {
        let reason = row.reason.as_deref().map(say::harmless).unwrap_or_default();
        say::talk(format!("anchor {} is flagged: {reason}", row.id));
    }
    Ok(())
}

async fn export(context: &Context, id: u64, output: &Path) -> anyhow::Result<()> {
    let mut node = Node::connect(&context.dir).await?;
    let bytes = match node.cell(CellRequest::Anchor { id }).await? {
        Response::Bytes(bytes) => bytes,
        other => return Err(unexpected("Anchor", &other)),
    };
    fs::write(output, &bytes).with_context(|| format!("could not write {}", output.display()))?;
    if context.json {
        say::json(&json!({ "id": id, "file": output.display().to_string(), "bytes": bytes.len() }))?;
    } else {
        say::talk(format!("anchor {id} is in {}", output.display()));
    }
    Ok(())
}

fn verify(
    context: &Context,
    files: &[std::path::PathBuf],
    root: &TrustedRoot,
    signer: Option<&VerifierKey>,
    at: Timestamp,
) -> anyhow::Result<()> {
    let (mut reports, mut refusals, mut refuted, mut open) = (Vec::new(), Vec::new(), false, false);
    for path in files {
        let checked = read(path).and_then(|bytes| {
            let anchor = AnchorFile::from_json(&bytes);
            anchor.and_then(|anchor| verify_anchor(&anchor, root, at, signer)).map_err(|error| {
                // A log that the trusted root does not name says nothing against the anchor.
                let unknown = matches!(error, RekorError::UnknownLog { .. } | RekorError::KeyNotValid { .. });
                (refuted, open) = (refuted || !unknown, open || unknown);
                refusal(path, &error)
            })
        });
        match checked {
            Ok(report) if context.json => reports.push(report_json(path, &report)),
            Ok(report) => show(path, &report)?,
            Err(refusal) => {
                reports.push(json!({
                    "file": path.display().to_string(),
                    "valid": false,
                    "code": refusal.code,
                    "reason": refusal.message,
                }));
                refusals.push(refusal);
            }
        }
    }
    if context.json {
        say::json(&Value::Array(reports))?;
    }
    match refusals.is_empty() {
        true => Ok(()),
        false if refuted => Err(Unverified(refusals).into()),
        false if open => Err(Undecided(refusals).into()),
        false => Err(Failure(refusals).into()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(DOCUMENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            Refusal::new(fields::FILE, format!("the anchor {} cannot be read: {error}", path.display()))
        })?;
    Ok(bytes)
}

fn refusal(path: &Path, error: &RekorError) -> Refusal {
    let mut message = format!("{} is not a valid anchor: {error}", path.display());
    let mut source = error.source();
    while let Some(error) = source {
        message += &format!(": {error}");
        source = error.source();
    }
    let refusal = Refusal::new(error.code(), message);
    match error {
        RekorError::UnknownLog { .. } => refusal.hint("name the logs to believe with --trusted-root FILE"),
        RekorError::KeyNotValid { .. } => refusal
            .hint("entries of rekor-v2 hold no moment: say with --at when this one is known to have existed"),
        _ => refusal,
    }
}

fn show(path: &Path, report: &AnchorReport) -> anyhow::Result<()> {
    say::data(format!("{}: VALID", path.display()))?;
    let log = &report.log;
    let moment = match log.integrated_at {
        Some(at) => format!("{at} ({}), by the log's signature", show_ago(at, identity::now())),
        None => "the log does not say; it keeps the order of its entries only".to_owned(),
    };
    say::pairs(&[
        ("  ledger", say::harmless(&report.checkpoint.origin)),
        ("  entries", report.checkpoint.size.to_string()),
        ("  root", root_hex(report)),
        ("  log", format!("{} ({}), entry {}", say::harmless(&log.log), log.api.name(), log.log_index)),
        ("  moment", moment),
    ])?;
    let path =
        format!("{} to the root of {} entries", say::count(log.proof_hashes as u64, "hash"), log.tree_size);
    say::data(format!("  proved   inclusion: {path}, which the log signed"))?;
    say::data(
        "  proved   binding: the entry holds the digest of this checkpoint, signed by the anchor key in the file",
    )?;
    if report.signer_checked {
        say::data("  proved   checkpoint: signed by the cell's key that was given")?;
    } else {
        say::data(
            "  assumed  checkpoint: its signature was not checked; give the cell's key with --cell-key",
        )?;
    }
    Ok(())
}

fn report_json(path: &Path, report: &AnchorReport) -> Value {
    json!({
        "file": path.display().to_string(),
        "valid": true,
        "origin": report.checkpoint.origin,
        "checkpoint_size": report.checkpoint.size,
        "checkpoint_root": root_hex(report),
        "signer_checked": report.signer_checked,
        "log": report.log.log,
        "api": report.log.api.name(),
        "log_index": report.log.log_index,
        "tree_size": report.log.tree_size,
        "integrated_at": report.log.integrated_at.map(|at| at.to_string()),
    })
}

fn root_hex(report: &AnchorReport) -> String {
    data_encoding::HEXLOWER.encode(&report.checkpoint.root)
}

fn moment(text: &str) -> Result<Timestamp, Usage> {
    let moment = text.parse::<jiff::Timestamp>().map_err(|error| Usage {
        message: format!("--at is not a moment: {error}"),
        hint: "such as 2026-08-20T12:00:00Z".to_owned(),
    })?;
    Ok(Timestamp(moment.as_microsecond()))
}
