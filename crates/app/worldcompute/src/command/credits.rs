//! `donor credits`: what the owner has, how it came about, and whether the ledger says the same.
//!
//! Verification is a list of named checks, in order. Each says what it found; one that needs an earlier one that failed
//! is skipped. Nothing here believes the coordinator: every check is against a key or a number that this machine holds,
//! or against what it saw before.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wc_ledger::threshold::handover::{open_kept, open_signed};
use wc_ledger::{
    AnchorFile, Audit, Checkpoint, Hash, HistoryReport, Note, RekorError, Remembered, verify_anchor,
    verify_consistency,
};
use wc_proto::api::view::{AccountView, AnchorView};
use wc_proto::api::{AccountStatement, CellRequest, CreditRow, Response};
use wc_types::charter::cell_id;
use wc_types::code::{Class, Code};
use wc_types::entry::{EntryKind, Holder, Posting};
use wc_types::receipt::Verdict;
use wc_types::{AccountId, CellId, MicroNcu, Refusal, Timestamp};

use crate::amount::{show_ago, show_ncu};
use crate::cli::CreditsArgs;
use crate::client::{Failure, Node, unexpected};
use crate::config::{self, Context};
use crate::exit::{Undecided, Unverified, Usage};
use crate::progress::Progress;
use crate::{identity, json, say};

const UNVERIFIED: Code = Code::new("WC-CLI-020", Class::Peer);
const NO_CELL: Code = Code::new("WC-CLI-021", Class::Caller);
const MEMORY: Code = Code::new("WC-CLI-022", Class::Host);

/// Pages of anchors that are looked through for one that was made. The newest is at the beginning, unless the log outside
/// was away for weeks.
const ANCHOR_PAGES_MAX: u32 = 64;

/// Shows balance and history, or verifies them, in the home cell and in every other cell that this machine works for.
///
/// # Errors
/// When the cell cannot be asked; [`Unverified`] when something does not verify.
pub async fn run(context: &Context, node: &mut Node, args: &CreditsArgs) -> anyhow::Result<()> {
    let account = identity::owner_key(context)?.account_id();
    let donor = node.donor().await?;
    let mut cells: Vec<CellId> = donor.cells.iter().map(|cell| cell.cell).collect();
    if cells.is_empty() {
        cells.extend(donor.cell);
    }
    if let Some(text) = &args.cell {
        let wanted = text.parse::<CellId>().ok().filter(|cell| cells.contains(cell));
        let unknown = || Usage {
            message: format!("`{}` is not a cell that this machine knows", say::harmless(text)),
            hint: "'worldcompute donor status' lists them".to_owned(),
        };
        cells = vec![wanted.ok_or_else(unknown)?];
    }
    let Some((&first, others)) = cells.split_first() else {
        let refusal = Refusal::new(NO_CELL, "this machine belongs to no cell yet");
        return Err(Failure(vec![refusal.hint("wait until 'worldcompute donor status' names one")]).into());
    };
    let one = cells.len() == 1;
    let mut found = Vec::new();
    // Pages are of one log.
    let others = if args.before.is_some() { &[] } else { others };
    for &cell in std::iter::once(&first).chain(others) {
        node.about(Some(cell));
        let told = if args.verify {
            verify(context, node, cell, account, args.trusted_root.as_deref()).await.map(Told::Verified)
        } else {
            history(node, account, args).await.map(Told::History)
        };
        match told {
            Ok(told) => found.push((cell, told)),
            // Another cell may be away for good; what is earned there is in its ledger, not lost.
            Err(error) if cell != first && error.is::<Failure>() => {
                say::talk(format!("{cell} cannot be asked now: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    if context.json {
        let mut values = found.iter().map(|(cell, told)| {
            let mut value = told.json(account);
            if let Some(value) = value.as_object_mut() {
                value.insert("cell".to_owned(), Value::String(cell.to_string()));
            }
            value
        });
        let mut value = values.next().unwrap_or_default();
        let others: Vec<Value> = values.collect();
        if let (false, Some(value)) = (others.is_empty(), value.as_object_mut()) {
            value.insert("others".to_owned(), Value::Array(others));
        }
        say::json(&value)?;
    } else {
        for (number, (cell, told)) in found.iter().enumerate() {
            if !one {
                let role = if number == 0 { "the home cell" } else { "another cell of the network" };
                say::data(format!("{}{cell}, {role}", if number == 0 { "" } else { "\n" }))?;
            }
            told.show(account)?;
        }
    }
    conclude(found.into_iter().filter_map(|(_, told)| match told {
        Told::History(_) => None,
        Told::Verified(verified) => Some(verified.checks),
    }))
}

/// What was found out in one cell.
enum Told {
    History(History),
    Verified(Verified),
}

impl Told {
    fn json(&self, account: AccountId) -> Value {
        match self {
            Self::History(history) => history.json(account),
            Self::Verified(verified) => verified.json(),
        }
    }

    fn show(&self, account: AccountId) -> anyhow::Result<()> {
        match self {
            Self::History(history) => history.show(account),
            Self::Verified(verified) => verified.show(),
        }
    }
}

/// Fails when something is wrong in one of the cells, or nothing is and not everything could be decided.
fn conclude(cells: impl Iterator<Item = Checks>) -> anyhow::Result<()> {
    let cells: Vec<Checks> = cells.collect();
    if cells.iter().all(Checks::hold) {
        return Ok(());
    }
    let failed = cells.iter().any(Checks::fail);
    let checks = cells.into_iter().flat_map(|checks| checks.0);
    if !failed {
        let open = checks.filter_map(|check| {
            let message = format!("{}: {}", check.name, check.detail);
            check.open.map(|hint| Refusal::new(check.code, message).hint(hint))
        });
        return Err(Undecided(open.collect()).into());
    }
    let failed = checks.filter(|check| check.held == Some(false));
    let refusals = failed.map(|check| Refusal::new(check.code, format!("{}: {}", check.name, check.detail)));
    Err(Unverified(refusals.collect()).into())
}

async fn statement(node: &mut Node, account: AccountId, since: u64) -> anyhow::Result<AccountStatement> {
    match node.cell(CellRequest::Account { account, since }).await? {
        Response::Account(statement) => Ok(*statement),
        other => Err(unexpected("Account", &other)),
    }
}

// What the owner has and how it came about.

/// The newest entries of an account, and how it stands.
struct History {
    view: AccountView,
    rows: Vec<CreditRow>,
    next: Option<u64>,
}

async fn history(node: &mut Node, account: AccountId, args: &CreditsArgs) -> anyhow::Result<History> {
    let view = statement(node, account, 0).await?.view;
    let request = CellRequest::Credits { account, before: args.before, limit: args.limit };
    match node.cell(request).await? {
        Response::Credits { rows, next } => Ok(History { view, rows, next }),
        other => Err(unexpected("Credits", &other)),
    }
}

impl History {
    fn json(&self, account: AccountId) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(|row| row_json(row, account)).collect();
        json!({ "account": json::view(&self.view), "entries": rows, "next_before": self.next })
    }

    fn show(&self, account: AccountId) -> anyhow::Result<()> {
        show_account(&self.view)?;
        say::data("")?;
        let mut table = say::table(&["entry", "when", "what", "NCU", "job", "class", "verification"]);
        let now = identity::now();
        for row in &self.rows {
            let (what, amount) = movement(row, account);
            table.add_row([
                row.entry.index.to_string(),
                show_ago(row.entry.at, now),
                what.to_owned(),
                show_ncu(amount),
                row.job.as_ref().map_or_else(String::new, |job| say::harmless(&job.name)),
                row.job.as_ref().map_or("", |job| job.class.name()).to_owned(),
                outcome(row),
            ]);
        }
        say::rows(&table, "nothing was earned or spent yet")?;
        if let Some(next) = self.next {
            let cell =
                self.rows.first().map_or_else(String::new, |row| format!(" --cell {}", row.entry.cell));
            say::talk(format!("there is more: worldcompute donor credits{cell} --before {next}"));
        }
        Ok(())
    }
}

fn show_account(view: &AccountView) -> anyhow::Result<()> {
    let amount = |micro: u64| show_ncu(i64::try_from(micro).unwrap_or(i64::MAX));
    let mut pairs = vec![
        ("account", view.identity_id.to_string()),
        ("balance", amount(view.balance_micro_ncu)),
        (
            "earned",
            format!("{} in all, {} a day of late", amount(view.earned), amount(view.trailing_30d_earn_rate)),
        ),
        ("spent", format!("{}, with what is set aside now", amount(view.spent))),
        ("faded", format!("{}, by decay, reversal or expiry", amount(view.lost))),
        ("floor", format!("{}: decay takes no balance below it", amount(view.decay_floor_micro_ncu))),
    ];
    if let Some(class) = view.caliber_class {
        pairs.push(("earned with", format!("hardware of class {class:?}")));
    }
    pairs.push((
        "fades next",
        view.next_decay_at.map_or_else(|| "never: this cell has no decay".to_owned(), |at| at.to_string()),
    ));
    if view.acceleration_ppm > 1_000_000 {
        let percent = view.acceleration_ppm / 10_000;
        pairs.push(("speed", format!("{percent} % of the usual: more is outstanding than is spent")));
    }
    if let Some(at) = view.expires_at {
        pairs.push(("expires", at.to_string()));
    }
    Ok(say::pairs(&pairs)?)
}

/// Returns what an entry did to an account, in a word, and by how much.
fn movement(row: &CreditRow, account: AccountId) -> (&'static str, i64) {
    let sum = |wanted: fn(&Posting, AccountId) -> bool| {
        let postings = row.entry.postings.iter().filter(|posting| wanted(posting, account));
        postings.fold(0i64, |sum, posting| sum.saturating_add(posting.amount))
    };
    let own = sum(|posting, account| posting.holder == Holder::Account(account));
    match row.entry.kind {
        EntryKind::TaskAccepted { .. } if own != 0 => ("earned", own),
        EntryKind::TaskAccepted { .. } => {
            ("spent from reserve", sum(|posting, _| matches!(posting.holder, Holder::Reserve(_))))
        }
        EntryKind::JobAdmitted { .. } => ("reserved", own),
        EntryKind::JobEnded { .. } => ("refunded", own),
        EntryKind::CreditDecayed { .. } => ("decayed", own),
        EntryKind::CreditReversed { .. } => ("reversed", own),
        EntryKind::CreditExpired { .. } => ("expired", own),
        EntryKind::CellFounded { .. }
        | EntryKind::NodeJoined { .. }
        | EntryKind::NodeStanding { .. }
        | EntryKind::SignersChanged { .. }
        | EntryKind::CellMet { .. }
        | EntryKind::NodeLeft { .. } => ("", own),
    }
}

/// Returns how a task was checked.
fn outcome(row: &CreditRow) -> String {
    let told = |verdict: &Verdict| {
        let (agreed, dissented) = (verdict.agreeing.len(), verdict.dissenting.len());
        match (verdict.replicas, dissented) {
            (1, _) => "not compared: one replica was asked for".to_owned(),
            (asked, 0) => format!("{agreed} of {asked} agreed"),
            (asked, _) => format!("{agreed} of {asked} agreed, {dissented} did not"),
        }
    };
    match (&row.verdict, &row.entry.kind) {
        (Some(verdict), _) => told(verdict),
        (None, EntryKind::JobEnded { end, .. }) => format!("job {end:?}").to_lowercase(),
        (None, EntryKind::CreditReversed { node, .. }) => format!("{node} was convicted"),
        (None, _) => String::new(),
    }
}

fn row_json(row: &CreditRow, account: AccountId) -> Value {
    let (what, amount) = movement(row, account);
    json!({
        "entry": row.entry.index,
        "at": row.entry.at.to_string(),
        "type": what,
        "amount_micro_ncu": amount,
        "job": row.job.as_ref().map(|job| job.job.to_string()),
        "job_name": row.job.as_ref().map(|job| &job.name),
        "job_class": row.job.as_ref().map(|job| job.class.name()),
        "verification": outcome(row),
        "replicas": row.verdict.as_ref().map(|verdict| verdict.replicas),
        "agreed": row.verdict.as_ref().map(|verdict| verdict.agreeing.len()),
        "dissented": row.verdict.as_ref().map(|verdict| verdict.dissenting.len()),
    })
}

// Whether the ledger says the same.

/// What one check found.
struct Check {
    /// Its name, in a word or two.
    name: &'static str,
    /// Whether it held; `None` when it was skipped or is open.
    held: Option<bool>,
    /// What would decide it, if it is open.
    open: Option<&'static str>,
    /// What was found.
    detail: String,
    /// The entry that is wrong, if it is one.
    entry: Option<u64>,
    /// Code of the refusal.
    code: Code,
}

/// The checks so far. A check that needs what a failed one would have found is skipped.
#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    /// Notes what a check found, and returns it if it held.
    fn note<T>(&mut self, name: &'static str, found: Result<(T, String), Fault>) -> Option<T> {
        let (held, detail, value) = match found {
            Ok((value, detail)) => (Some(true), detail, Some(value)),
            Err(fault) => {
                self.0.push(Check {
                    name,
                    held: if fault.open.is_some() { None } else { Some(false) },
                    detail: fault.what,
                    entry: fault.entry,
                    code: fault.code,
                    open: fault.open,
                });
                return None;
            }
        };
        self.0.push(Check { name, held, detail, entry: None, code: UNVERIFIED, open: None });
        value
    }

    fn skip(&mut self, name: &'static str) {
        let detail = "skipped: needs a check that failed".to_owned();
        self.0.push(Check { name, held: None, detail, entry: None, code: UNVERIFIED, open: None });
    }

    fn hold(&self) -> bool {
        self.0.iter().all(|check| check.held == Some(true))
    }

    /// Whether one is wrong; if none is and not all hold, something is open.
    fn fail(&self) -> bool {
        self.0.iter().any(|check| check.held == Some(false))
    }
}

/// Why a check did not hold.
struct Fault {
    what: String,
    entry: Option<u64>,
    code: Code,
    /// What would decide it, if nothing is wrong and it is only not known.
    open: Option<&'static str>,
}

impl Fault {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), entry: None, code: UNVERIFIED, open: None }
    }

    fn caused(code: Code, error: &dyn std::error::Error) -> Self {
        let mut what = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            what += &format!(": {cause}");
            source = cause.source();
        }
        Self { what, entry: None, code, open: None }
    }
}

/// What the checks found in one cell.
struct Verified {
    checks: Checks,
    checkpoint: Option<Checkpoint>,
    report: Option<HistoryReport>,
    unsigned: Option<u64>,
}

async fn verify(
    context: &Context,
    node: &mut Node,
    cell: CellId,
    account: AccountId,
    trusted_root: Option<&Path>,
) -> anyhow::Result<Verified> {
    let memory = Memory::file(context.dir.path(), &cell, &account);
    let remembered = Memory::load(&memory)?;
    let since = remembered.as_ref().map_or(0, |memory| memory.size);
    let statement = statement(node, account, since).await?;
    let mut checks = Checks::default();

    let founding = checks.note("founding", check_founding(&statement, &cell));
    let checkpoint = match founding {
        Some(()) => checks.note("checkpoint", check_checkpoint(&statement)),
        None => None,
    };
    let mut report = None;
    if let Some(checkpoint) = &checkpoint {
        checks.note("same log as before", check_consistency(&statement, checkpoint, remembered.as_ref()));
        let seen = remembered.as_ref().map(Memory::remembered).transpose()?;
        let found = audit(node, account, &cell, &statement, checkpoint, seen).await?;
        report = checks.note("entries and balance", found);
        checks.note("anchor", check_anchor(node, &statement, checkpoint, trusted_root).await?);
    } else {
        checks.skip("same log as before");
        checks.skip("entries and balance");
        checks.skip("anchor");
    }

    // What was seen is remembered, also where only its age is open.
    if let (false, Some(report)) = (checks.fail(), &report) {
        Memory::new(&statement, &report.seen).save(&memory)?;
    }
    let unsigned =
        checkpoint.as_ref().map(|checkpoint| statement.view.ledger_size.saturating_sub(checkpoint.size));
    Ok(Verified { checks, checkpoint, report, unsigned })
}

/// The founding record is signed by the coordinator that it names, and founds the cell that this machine belongs to.
fn check_founding(statement: &AccountStatement, cell: &CellId) -> Result<((), String), Fault> {
    let founding = &statement.founding;
    founding.signed_by(&founding.coordinator.0).map_err(|error| Fault::caused(UNVERIFIED, &error))?;
    let actual = cell_id(founding);
    if actual != *cell {
        return Err(Fault::new(format!("the record founds {actual}, this machine belongs to {cell}")));
    }
    Ok(((), format!("signed by {}", founding.coordinator)))
}

/// The checkpoint is signed by the cell, and is the one that the account's numbers belong to, or the last one before them
/// where too few signers can be reached.
fn check_checkpoint(statement: &AccountStatement) -> Result<(Checkpoint, String), Fault> {
    let note = Note::parse(&statement.checkpoint).map_err(|error| Fault::caused(error.code(), &error))?;
    let checkpoint = open_signed(&statement.founding, &statement.signers, &note)
        .map_err(|error| Fault::caused(error.code(), &error))?;
    let claimed = statement.view.ledger_size;
    if checkpoint.size > claimed {
        let what = format!("it is of {} entries, the balance is of {claimed}", checkpoint.size);
        return Err(Fault::new(what));
    }
    let mut detail = format!("{} entries, signed by the cell", checkpoint.size);
    if checkpoint.size < claimed {
        detail += &format!(
            "; the newest {} wait for the cell's signers and are not checked now",
            say::count(claimed - checkpoint.size, "entry")
        );
    }
    Ok((checkpoint, detail))
}

/// Opens the checkpoint that this machine keeps, which earlier signers may have signed.
fn open_memory(note: &str, statement: &AccountStatement) -> Result<Checkpoint, Fault> {
    let note = Note::parse(note).map_err(|error| Fault::caused(error.code(), &error))?;
    open_kept(&statement.founding, &statement.signers, &note)
        .map(|(checkpoint, _)| checkpoint)
        .map_err(|error| Fault::caused(error.code(), &error))
}

/// The log continues the one that this machine saw the last time.
fn check_consistency(
    statement: &AccountStatement,
    checkpoint: &Checkpoint,
    memory: Option<&Memory>,
) -> Result<((), String), Fault> {
    let Some(memory) = memory else {
        return Ok(((), "first look: from now on this machine remembers".to_owned()));
    };
    let seen = open_memory(&memory.checkpoint, statement).map_err(|fault| {
        Fault::new(format!("what this machine remembers does not verify: {}", fault.what))
    })?;
    if checkpoint.size < seen.size {
        let what = format!(
            "the log has shrunk: {} entries were seen on this machine, now it has {}",
            seen.size, checkpoint.size
        );
        return Err(Fault::new(what));
    }
    if checkpoint.size == seen.size {
        if checkpoint.root != seen.root {
            let what = format!("two different logs of {} entries: the history was rewritten", seen.size);
            return Err(Fault::new(what));
        }
        return Ok(((), format!("still the {} entries that were seen before", seen.size)));
    }
    let proof =
        hashes(&statement.consistency).ok_or_else(|| Fault::new("the proof has a hash that is none"))?;
    verify_consistency(seen.size, checkpoint.size, &proof, &seen.root, &checkpoint.root).map_err(
        |error| {
            let what = format!(
                "the history was rewritten since entry {} was the last: {error}",
                seen.size.saturating_sub(1)
            );
            Fault { code: error.code(), ..Fault::new(what) }
        },
    )?;
    Ok(((), format!("continues the {} entries that were seen before", seen.size)))
}

/// Every entry of the account is in the log, says what it must, and all of them add up to the balance.
async fn audit(
    node: &mut Node,
    account: AccountId,
    cell: &CellId,
    statement: &AccountStatement,
    checkpoint: &Checkpoint,
    seen: Option<Remembered>,
) -> anyhow::Result<Result<(HistoryReport, String), Fault>> {
    let economy = statement.founding.charter.economy.clone();
    let mut audit =
        Audit::new(account, *cell, economy, (checkpoint.size, checkpoint.root), identity::latest(), seen);
    let progress = Progress::new();
    let bar = progress.count("verifying", checkpoint.size);
    let mut from = 0;
    loop {
        let request = CellRequest::CreditProofs { account, from, size: checkpoint.size };
        let (rows, next) = match node.cell(request).await? {
            Response::Credits { rows, next } => (rows, next),
            other => return Err(unexpected("CreditProofs", &other)),
        };
        for row in &rows {
            let index = row.entry.index;
            let Some(path) = hashes(&row.path) else {
                bar.finish();
                let what = format!("entry {index} has a path with a hash that is none");
                return Ok(Err(Fault { entry: Some(index), ..Fault::new(what) }));
            };
            if let Err(fault) = audit.take(&row.entry, row.verdict.as_ref(), &path) {
                bar.finish();
                let entry = fault.entry();
                return Ok(Err(Fault { entry, ..Fault::caused(fault.code(), &fault) }));
            }
            bar.set(index, checkpoint.size, "entries of the ledger");
        }
        match page_after(next, rows.last().map(|row| row.entry.index), checkpoint.size) {
            Ok(Some(next)) => from = next,
            Ok(None) => break,
            Err(what) => {
                bar.finish();
                return Ok(Err(Fault::new(what)));
            }
        }
    }
    bar.finish();
    // A balance of a longer log than the one that was signed is not what these entries add up to.
    let current = checkpoint.size == statement.view.ledger_size;
    let claimed = current.then_some(MicroNcu(statement.view.balance_micro_ncu));
    Ok(match audit.finish(claimed) {
        Ok(report) => {
            let detail = format!(
                "{} in the log, {} and {} recomputed, adding up to {}",
                say::count(report.seen.entries, "entry"),
                say::count(report.verdicts, "verdict"),
                say::count(report.decays, "decay"),
                show_ncu(i64::try_from(report.balance.0).unwrap_or(i64::MAX)),
            );
            Ok((report, detail))
        }
        Err(fault) => Err(Fault::caused(fault.code(), &fault)),
    })
}

/// Returns where the next page of proofs begins. Each page must bring us on, or a coordinator could keep us asking
/// without end: entries rise and none is beyond the log, so there is an end.
///
/// - `last`: the last entry of the page
fn page_after(next: Option<u64>, last: Option<u64>, size: u64) -> Result<Option<u64>, String> {
    match (next, last) {
        (None, _) => Ok(None),
        (Some(next), Some(last)) if next > last && next <= size => Ok(Some(next)),
        (Some(next), last) => {
            let last = last.map_or_else(|| "none".to_owned(), |last| last.to_string());
            Err(format!(
                "the cell answers pages without end: after entry {last} of {size} comes a page from entry {next}"
            ))
        }
    }
}

/// Returns where the next older page of anchors begins. Each page must bring us on, and the newest anchor that was made
/// is not behind many that were not.
///
/// - `lowest`: the oldest anchor of the page
/// - `before`: where the page began
fn page_before(
    next: Option<u64>,
    lowest: Option<u64>,
    before: Option<u64>,
    pages: u32,
) -> Result<Option<u64>, String> {
    let Some(next) = next else { return Ok(None) };
    let on = lowest.is_some_and(|lowest| next <= lowest) && before.is_none_or(|before| next < before);
    if on && pages < ANCHOR_PAGES_MAX {
        return Ok(Some(next));
    }
    Err(format!("{pages} pages of anchors hold none that covers this ledger, and there is no end of them"))
}

/// The newest anchor is in a log that this machine trusts, the cell's signers signed what it holds, and the log in front
/// of us continues that. A cell that does not anchor passes, and the words say that nobody outside vouches for it.
async fn check_anchor(
    node: &mut Node,
    statement: &AccountStatement,
    checkpoint: &Checkpoint,
    trusted_root: Option<&Path>,
) -> anyhow::Result<Result<((), String), Fault>> {
    // A file that was named is read, whether or not there is anything to check with it.
    let root = trusted_root.map(|path| config::trusted_root(Some(path))).transpose()?;
    let mut before = None;
    let mut pages = 0;
    let newest = loop {
        let (anchoring, rows, next) = match node.cell(CellRequest::Anchors { before }).await? {
            Response::Anchors { anchoring, rows, next } => (anchoring, rows, next),
            other => return Err(unexpected("Anchors", &other)),
        };
        let lowest = rows.iter().map(|row| row.id).min();
        let covered = |row: &AnchorView| row.state == "anchored" && row.checkpoint_size <= checkpoint.size;
        if let Some(row) = rows.into_iter().find(covered) {
            break row;
        }
        pages += 1;
        match page_before(next, lowest, before, pages) {
            Err(what) => return Ok(Err(Fault::new(what))),
            Ok(Some(next)) => before = Some(next),
            Ok(None) => {
                let why = match anchoring {
                    None => "this cell does not anchor its ledger: no outside log vouches for its age",
                    Some(_) => "no anchor has been made yet: no outside log vouches for the ledger's age",
                };
                return Ok(Ok(((), why.to_owned())));
            }
        }
    };
    let root = match root {
        Some(root) => root,
        None => config::trusted_root(None)?,
    };
    let bytes = match node.cell(CellRequest::Anchor { id: newest.id }).await? {
        Response::Bytes(bytes) => bytes,
        other => return Err(unexpected("Anchor", &other)),
    };
    let verified = AnchorFile::from_json(&bytes).and_then(|anchor| {
        verify_anchor(&anchor, &root, identity::now(), None).map(|report| (anchor, report))
    });
    let (anchor, report) = match verified {
        Ok(verified) => verified,
        // As for `ledger anchors verify`: a log that this machine does not know says nothing against the anchor.
        Err(error @ (RekorError::UnknownLog { .. } | RekorError::KeyNotValid { .. })) => {
            let hint = "name the logs to believe with --trusted-root FILE";
            return Ok(Err(Fault { open: Some(hint), ..Fault::caused(error.code(), &error) }));
        }
        Err(error) => return Ok(Err(Fault::caused(error.code(), &error))),
    };
    let signed = match open_memory(&anchor.checkpoint, statement) {
        Ok(signed) => signed,
        Err(fault) => {
            return Ok(Err(Fault::new(format!("what was anchored is not the cell's: {}", fault.what))));
        }
    };
    if signed.size > checkpoint.size || (signed.size == checkpoint.size && signed.root != checkpoint.root) {
        return Ok(Err(Fault::new(format!("the anchored log of {} entries is another one", signed.size))));
    }
    if signed.size < checkpoint.size {
        let request = CellRequest::Consistency { from: signed.size, to: checkpoint.size };
        let path = match node.cell(request).await? {
            Response::Hashes(path) => hashes(&path),
            other => return Err(unexpected("Consistency", &other)),
        };
        let Some(path) = path else {
            return Ok(Err(Fault::new("the proof from the anchor has a hash that is none")));
        };
        let proved = verify_consistency(signed.size, checkpoint.size, &path, &signed.root, &checkpoint.root);
        if let Err(error) = proved {
            let what = format!(
                "the history was rewritten after it was anchored at {} entries: {error}",
                signed.size
            );
            return Ok(Err(Fault { code: error.code(), ..Fault::new(what) }));
        }
    }
    let index = report.log.log_index;
    Ok(Ok((
        (),
        format!(
            "{} entries are in {} as number {index}, and this log continues them",
            signed.size, report.log.log
        ),
    )))
}

fn hashes(bytes: &[impl AsRef<[u8]>]) -> Option<Vec<Hash>> {
    bytes.iter().map(|hash| hash.as_ref().try_into().ok()).collect()
}

impl Verified {
    fn root(&self) -> String {
        let root = |checkpoint: &Checkpoint| HEXLOWER.encode(&checkpoint.root);
        self.checkpoint.as_ref().map_or_else(|| "unknown".to_owned(), root)
    }

    fn verdict(&self) -> &'static str {
        match () {
            () if self.checks.hold() => "PASS",
            () if self.checks.fail() => "FAIL",
            () => "UNDECIDED",
        }
    }

    /// How deep the tree is; a check that failed has not measured it.
    fn depth(&self) -> Option<usize> {
        self.report.as_ref().map(|report| report.depth)
    }

    fn json(&self) -> Value {
        let check = |check: &Check| {
            let state = match check.held {
                Some(true) => "pass",
                Some(false) => "fail",
                None if check.open.is_some() => "undecided",
                None => "skipped",
            };
            json!({ "check": check.name, "outcome": state, "detail": check.detail, "entry": check.entry })
        };
        let list: Vec<Value> = self.checks.0.iter().map(check).collect();
        let report = self.report.as_ref();
        json!({
            "ledger_root": format!("sha256:{}", self.root()),
            "ledger_size": self.checkpoint.as_ref().map(|checkpoint| checkpoint.size),
            "entries_unsigned": self.unsigned,
            "proof_depth": self.depth(),
            "verification": self.verdict(),
            "entries": report.map(|report| report.seen.entries),
            "balance_micro_ncu": report.map(|report| report.balance.0),
            "checks": list,
        })
    }

    fn show(&self) -> anyhow::Result<()> {
        for check in &self.checks.0 {
            let state = match check.held {
                Some(true) => "ok",
                Some(false) => "WRONG",
                None if check.open.is_some() => "open",
                None => "-",
            };
            say::talk(format!("{state:>5}  {}: {}", check.name, say::harmless(&check.detail)));
        }
        say::data(format!("Ledger root: sha256:{}", self.root()))?;
        let depth = self.depth().map_or_else(|| "unknown".to_owned(), |depth| depth.to_string());
        say::data(format!("Proof depth: {depth}"))?;
        Ok(say::data(format!("Verification: {}", self.verdict()))?)
    }
}

/// What this machine remembers of one account in one cell, in a file of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memory {
    /// The signed checkpoint that was seen.
    checkpoint: String,
    /// Its size.
    size: u64,
    /// Entries of the account then.
    entries: u64,
    /// Digest of those, in hexadecimal.
    digest: String,
    /// When that was, by the cell's time.
    at: Timestamp,
}

impl Memory {
    fn new(statement: &AccountStatement, seen: &Remembered) -> Self {
        Self {
            checkpoint: statement.checkpoint.clone(),
            size: seen.size,
            entries: seen.entries,
            digest: HEXLOWER.encode(&seen.digest),
            at: statement.view.as_of_timestamp,
        }
    }

    fn file(dir: &Path, cell: &CellId, account: &AccountId) -> PathBuf {
        dir.join("seen").join(format!("{cell}-{account}.json"))
    }

    fn load(path: &Path) -> anyhow::Result<Option<Self>> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(forgotten(path, &error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| forgotten(path, &error))
    }

    fn remembered(&self) -> anyhow::Result<Remembered> {
        let digest = HEXLOWER.decode(self.digest.as_bytes()).ok().and_then(|digest| digest.try_into().ok());
        let digest = digest.ok_or_else(|| anyhow::anyhow!("the remembered digest is not 32 bytes"))?;
        Ok(Remembered { size: self.size, entries: self.entries, digest })
    }

    /// Writes the file beside itself, makes it durable and puts it in place, so that it is never half there.
    fn save(&self, path: &Path) -> anyhow::Result<()> {
        let write = || -> io::Result<()> {
            let dir = path.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(dir)?;
            let fresh = path.with_extension("new");
            let mut file = File::create(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&fresh, path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|error| forgotten(path, &error))
    }
}

fn forgotten(path: &Path, error: &dyn std::fmt::Display) -> anyhow::Error {
    let message =
        format!("what this machine remembers of the ledger, {}, cannot be used: {error}", path.display());
    Failure(vec![Refusal::new(MEMORY, message)]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_proofs_bring_us_on_or_are_the_last() {
        assert_eq!(page_after(None, None, 10), Ok(None), "nothing, and no more");
        assert_eq!(page_after(None, Some(3), 10), Ok(None));
        assert_eq!(page_after(Some(4), Some(3), 10), Ok(Some(4)));
        assert_eq!(page_after(Some(10), Some(9), 10), Ok(Some(10)));
        let wrong = [(5, None), (3, Some(3)), (2, Some(3)), (11, Some(3)), (u64::MAX, Some(3))];
        for (next, last) in wrong {
            assert!(page_after(Some(next), last, 10).is_err(), "{next} after {last:?}");
        }
    }

    #[test]
    fn pages_of_anchors_have_an_end() {
        assert_eq!(page_before(None, Some(7), None, 1), Ok(None));
        assert_eq!(page_before(Some(7), Some(7), None, 1), Ok(Some(7)));
        assert_eq!(page_before(Some(5), Some(6), Some(7), 2), Ok(Some(5)));
        let wrong = [(7, None, None), (7, Some(6), None), (7, Some(7), Some(7)), (9, Some(9), Some(7))];
        for (next, lowest, before) in wrong {
            assert!(page_before(Some(next), lowest, before, 2).is_err(), "{next} {lowest:?} {before:?}");
        }
        // A coordinator that invents anchors that were never made, one page after the other.
        let mut before = None;
        let asked = (1..).take_while(|pages| {
            let id = u64::MAX - u64::from(*pages);
            let next = page_before(Some(id), Some(id), before, *pages);
            before = next.clone().ok().flatten();
            next.is_ok()
        });
        assert!(asked.count() < ANCHOR_PAGES_MAX as usize);
    }
}
