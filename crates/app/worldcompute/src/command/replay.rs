//! `ledger replay`: the journal from its first fact, compared with everything that was kept beside it.

use serde_json::json;
use wc_node::{ReplayError, ReplayReport, replay};
use wc_types::code::{Class, Code};
use wc_types::{Millis, Refusal};

use crate::amount::{show_duration, show_ncu};
use crate::client::Failure;
use crate::config::Context;
use crate::exit::Unverified;
use crate::progress::Progress;
use crate::say;

const DIFFERS: Code = Code::new("WC-CLI-030", Class::Host);
const UNREADABLE: Code = Code::new("WC-CLI-031", Class::Host);

/// Replays the journal of this data directory, whose node must not run.
///
/// # Errors
/// When the journal cannot be read, or something is not what it says.
pub fn run(context: &Context) -> anyhow::Result<()> {
    let progress = Progress::new();
    let bar = progress.count("replay", 0);
    let log = context.dir.path().join("log");
    let report = replay(&context.dir.store(), &log, |done, total| bar.set(done, total, "facts"));
    bar.finish();
    let report = report.map_err(|error| Failure(vec![refusal(&error)]))?;
    show(context, &report)?;
    if report.differences.is_empty() {
        return Ok(());
    }
    let refusals = report.differences.iter().map(|what| Refusal::new(DIFFERS, what.clone())).collect();
    Err(Unverified(refusals).into())
}

fn refusal(error: &ReplayError) -> Refusal {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message += &format!(": {cause}");
        source = cause.source();
    }
    let refusal = Refusal::new(UNREADABLE, message);
    match error.hint() {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}

fn show(context: &Context, report: &ReplayReport) -> anyhow::Result<()> {
    let rate = report.facts as f64 / report.replayed_in.as_secs_f64().max(1e-9);
    let verdict = if report.differences.is_empty() { "PASS" } else { "FAIL" };
    if context.json {
        return Ok(say::json(&json!({
            "cell": report.cell.to_string(),
            "facts": report.facts,
            "facts_per_second": rate as u64,
            "entries": report.entries,
            "ledger_root": format!("sha256:{}", report.ledger_root),
            "state_hash": format!("sha256:{}", report.state_hash),
            "accounts": report.accounts,
            "outstanding_micro_ncu": report.outstanding,
            "snapshot_fact": report.snapshot,
            "published_size": report.published,
            "published_files": report.published_files,
            "differences": report.differences,
            "differences_untold": report.untold,
            "replay": verdict,
        }))?);
    }
    let took = Millis(u64::try_from(report.replayed_in.as_millis()).unwrap_or(u64::MAX));
    let snapshot = report.snapshot.map_or_else(
        || "none to compare with".to_owned(),
        |seq| format!("after fact {seq}, is the state that the journal gives"),
    );
    say::pairs(&[
        ("cell", report.cell.to_string()),
        ("facts", format!("{} replayed in {}, {rate:.0} per second", report.facts, show_duration(took))),
        ("entries", report.entries.to_string()),
        ("accounts", report.accounts.to_string()),
        ("outstanding", show_ncu(report.outstanding)),
        ("snapshot", if report.differences.is_empty() { snapshot } else { "see below".to_owned() }),
        (
            "published",
            report.published.map_or_else(
                || "nothing to compare with".to_owned(),
                |size| {
                    let files = report.published_files;
                    format!("{}, all of its {files} files compared", say::count(size, "entry"))
                },
            ),
        ),
        ("state", format!("sha256:{}", report.state_hash)),
    ])?;
    say::data(format!("Ledger root: sha256:{}", report.ledger_root))?;
    Ok(say::data(format!("Replay: {verdict}"))?)
}
