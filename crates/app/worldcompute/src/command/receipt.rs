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
use wc_types::{NodeId, Refusal, Signed};

use crate::amount::{show_ago, show_ncu};
use crate::cli::ReceiptCommand;
use crate::client::{Failure, Node};
use crate::config::Context;
use crate::progress::Bar;
use crate::{fields, identity, json, say};

/// Does what the command says. Needs no node and no network.
pub fn run(context: &Context, command: &ReceiptCommand) -> anyhow::Result<()> {
    let ReceiptCommand::Verify { files } = command;
    let mut refusals = Vec::new();
    let mut reports = Vec::new();
    for path in files {
        let checked = read(path).and_then(|bytes| check(&bytes).map_err(|fault| refusal(path, &fault)));
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
    if refusals.is_empty() { Ok(()) } else { Err(Failure(refusals).into()) }
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

fn check(bytes: &[u8]) -> Result<ReceiptReport, ReceiptFault> {
    verify_receipt(&decode_receipt(bytes)?, &Anchors::default())
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

fn show(path: &Path, report: &ReceiptReport) -> anyhow::Result<()> {
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
        ("  issued", format!("{} ({})", report.issued_at, show_ago(report.issued_at, identity::now()))),
    ])?;
    for step in &report.steps {
        say::data(format!("  proved   {}: {}", step.name, step.proved))?;
    }
    for assumed in &report.assumed {
        say::data(format!("  assumed  {assumed}"))?;
    }
    Ok(())
}

fn report_json(path: &Path, report: &ReceiptReport) -> Value {
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
        "awarded_micro_ncu": report.awarded.to_string(),
        "cell": report.cell.to_string(),
        "entry_index": report.entry_index,
        "tree_size": report.tree_size,
        "root": report.root,
        "issued_at": report.issued_at.to_string(),
        "steps": steps.collect::<Vec<_>>(),
        "assumed": report.assumed,
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
