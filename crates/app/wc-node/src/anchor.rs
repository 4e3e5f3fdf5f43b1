//! Anchoring: every ten minutes the newest checkpoint goes into a log outside of us.
//!
//! ```text
//! ledger size ──► Schedule ──Try──► checkpoint ──► request ──► log ──► entry ──verify──► kept, durable
//!                    ▲                               (a thread that may block)   │
//!                    └──────── anchored · failed · unverified ◄──────────────────┘
//! ```
//!
//! `wc-ledger` decides when to try and what to believe, `wc-anchor` speaks with the log, and this file keeps the records.
//! The ledger goes on whatever the log does (LED-10).

mod shelf;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use wc_anchor::{ClientConfig, ClientError, LogClient, TIMEOUT_DEFAULT, Taken};
use wc_ledger::anchor::{Alarm, AnchorPolicy, Schedule, Standing, Step};
use wc_ledger::rekor::{Api, bundle_of, checkpoint_size, entry_from_tiles};
use wc_ledger::threshold::handover::verify_chain;
use wc_ledger::{
    AnchorFile, AnchorKey, AnchorReport, LogEntry, RekorError, TrustedRoot, cell_key, verify_anchor,
};
use wc_proto::api::view::{AnchorView, AnchoringView};
use wc_types::Timestamp;

use crate::clock;
use crate::config::AnchoringConfig;
use crate::coordinator::{Coordinator, lock};
use crate::publish::Published;

use shelf::{Record, State};
pub(crate) use shelf::{Shelf, ShelfError};

/// Most, and least, time between two looks at the ledger's size.
const LOOK: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(50));
/// Anchors in one page.
const PAGE_ROWS: usize = 200;

/// What anchoring needs, besides the coordinator. Made before the node starts, so that a wrong address stops the start.
#[derive(Debug)]
pub(crate) struct Anchoring {
    config: AnchoringConfig,
    client: LogClient,
    key: AnchorKey,
    seen: Mutex<Seen>,
}

/// What people may ask for.
#[derive(Clone, Debug, Default)]
struct Seen {
    standing: Standing,
    alarm: Option<Alarm>,
    failures: u32,
    last_failure: Option<String>,
}

/// An entry as it came, with its id in v1.
struct Answer {
    entry: LogEntry,
    entry_id: Option<String>,
}

/// Why a try came to nothing.
#[derive(Debug, thiserror::Error)]
enum TryError {
    /// The log did not answer, or not with an entry.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// What it answered is not to be believed.
    #[error("the log's answer does not verify: {}", chain(.0))]
    Answer(#[from] RekorError),
    /// The entry is there; its proof is not yet.
    #[error("the log has the entry and no proof of it yet")]
    NoProof,
    /// A thread was lost.
    #[error("the request was dropped")]
    Dropped,
}

/// Why anchoring itself stops.
#[derive(Debug, thiserror::Error)]
enum StopError {
    #[error(transparent)]
    Shelf(#[from] ShelfError),
}

fn chain(error: &RekorError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

impl Anchoring {
    /// Prepares anchoring.
    ///
    /// # Errors
    /// [`ClientError`] when the address or the certificates cannot be used.
    pub fn new(config: AnchoringConfig, key: AnchorKey) -> Result<Self, ClientError> {
        let client = LogClient::new(&ClientConfig {
            url: config.url.clone(),
            authorities_pem: config.authorities_pem.clone(),
            proxy: config.proxy.clone(),
            timeout: TIMEOUT_DEFAULT,
        })?;
        for passed_over in config.trusted_root.passed_over() {
            tracing::warn!(
                log = passed_over,
                "a log of the trusted root has a key of a kind that is not checked"
            );
        }
        Ok(Self { config, client, key, seen: Mutex::default() })
    }

    /// Returns how anchoring stands.
    pub fn view(&self, flagged: Vec<u64>) -> AnchoringView {
        let seen = lock(&self.seen).clone();
        let state = match (seen.alarm, seen.standing.behind_since) {
            (Some(alarm), _) => alarm.name(),
            (None, Some(_)) => "behind",
            (None, None) => "level",
        };
        AnchoringView {
            state: state.to_owned(),
            api: self.config.api.name().to_owned(),
            url: self.config.url.clone(),
            interval_ms: self.config.interval.0,
            anchored_size: seen.standing.anchored_size,
            anchored_at: seen.standing.anchored_at,
            behind_since: seen.standing.behind_since,
            failures: seen.failures,
            last_failure: seen.last_failure,
            flagged,
        }
    }

    /// Takes note of the schedule, and says so when the alarm changes.
    fn observe(&self, schedule: &mut Schedule, now: Timestamp) {
        let alarm = schedule.alarm(now);
        let standing = schedule.standing();
        let mut seen = lock(&self.seen);
        if alarm != seen.alarm {
            let url = &self.config.url;
            match alarm {
                Some(Alarm::Missed) => {
                    tracing::error!(%url, severity = "P1", "three anchors were missed; the ledger is not anchored");
                }
                Some(Alarm::Overdue) => tracing::warn!(%url, "anchor overdue"),
                None => tracing::info!(%url, "anchoring has caught up"),
            }
        }
        seen.alarm = alarm;
        seen.standing = standing;
        seen.failures = schedule.failures();
        if seen.failures == 0 {
            seen.last_failure = None;
        }
    }
}

/// Anchors until the node stops.
pub(crate) async fn run(coordinator: Arc<Coordinator>, anchoring: Arc<Anchoring>) {
    if let Err(error) = keep_anchoring(&coordinator, &anchoring).await {
        tracing::error!(%error, "anchoring stops");
    }
}

async fn keep_anchoring(coordinator: &Arc<Coordinator>, anchoring: &Arc<Anchoring>) -> Result<(), StopError> {
    let policy = AnchorPolicy::every(anchoring.config.interval);
    let shelf = &coordinator.anchors;
    let mut kept = shelf.standing()?;
    let mut schedule = Schedule::new(policy, kept, clock::now());
    let look = Duration::from_millis(policy.interval.0 / 10).clamp(LOOK.1, LOOK.0);
    tracing::info!(api = anchoring.config.api.name(), url = anchoring.config.url, "checkpoints are anchored");
    loop {
        let now = clock::now();
        // What is anchored is what is published: a stranger finds both, and the same signers vouch for it.
        let published = coordinator.publication.latest();
        if let Some(published) = &published {
            schedule.offer(published.checkpoint.size, now);
        }
        let step = schedule.step(now);
        if let (Step::Try, Some(published)) = (step, published) {
            attempt(coordinator, anchoring, &mut schedule, published).await?;
        }
        anchoring.observe(&mut schedule, clock::now());
        if schedule.standing() != kept {
            kept = schedule.standing();
            shelf.set_standing(&kept)?;
        }
        let wait = match step {
            Step::Try => Duration::ZERO,
            Step::Rest => look,
            Step::Wait(wait) => look.min(Duration::from_millis(wait.0.max(1))),
        };
        tokio::time::sleep(wait).await;
    }
}

/// Tries once, and keeps what came of it.
async fn attempt(
    coordinator: &Arc<Coordinator>,
    anchoring: &Arc<Anchoring>,
    schedule: &mut Schedule,
    published: Published,
) -> Result<(), StopError> {
    let Published { checkpoint, note, signers } = published;
    let (size, root, note) = (checkpoint.size, checkpoint.root, note.to_string());
    // Whoever signs for the cell now, by the chain of hand-overs: it changes while the cell goes on.
    let group = match verify_chain(&coordinator.founding, &signers) {
        Ok(keys) => keys.group,
        Err(fault) => {
            tracing::error!(%fault, "the published signers do not verify; nothing is anchored");
            tokio::time::sleep(LOOK.0).await;
            return Ok(());
        }
    };
    let signer = cell_key(&coordinator.cell, group);
    let asked = {
        let (anchoring, note) = (anchoring.clone(), note.clone());
        tokio::task::spawn_blocking(move || ask(&anchoring, &note)).await.unwrap_or(Err(TryError::Dropped))
    };
    let now = clock::now();
    let verified = asked.and_then(|answer| {
        let file = AnchorFile {
            checkpoint: note.clone(),
            key: anchoring.key.public().clone(),
            signature: anchoring.key.sign(&note),
            entry: answer.entry,
        };
        let report = verify_anchor(&file, &anchoring.config.trusted_root, now, Some(&signer))?;
        Ok((file, report, answer.entry_id))
    });
    let seed = u64::from_be_bytes(clock::random());
    let failure = match verified {
        Ok((file, report, entry_id)) => {
            let id = keep(coordinator, &file, &report, entry_id, now)?;
            tracing::info!(id, size, log_index = report.log.log_index, log = report.log.log, "anchored");
            schedule.anchored(size, now);
            return Ok(());
        }
        Err(failure) => failure,
    };
    let text = failure.to_string();
    let failures = schedule.failures().saturating_add(1);
    // An outage of a day is hundreds of failures and is told about ten times; the alarms are apart from this.
    if failures.is_power_of_two() {
        tracing::warn!(failure = text, failures, size, "the checkpoint is not anchored yet");
    } else {
        tracing::debug!(failure = text, failures, size, "the checkpoint is not anchored yet");
    }
    match &failure {
        TryError::Client(error) => schedule.failed(now, seed, error.wait()),
        TryError::NoProof | TryError::Dropped => schedule.failed(now, seed, None),
        TryError::Answer(_) => {
            if schedule.unverified(now, seed) {
                let record = Record {
                    state: State::Flagged,
                    size,
                    root,
                    at: now,
                    api: anchoring.config.api.name().to_owned(),
                    log: anchoring.config.url.clone(),
                    log_index: None,
                    entry_id: None,
                    integrated_at: None,
                    reason: Some(text.clone()),
                    file: Vec::new(),
                };
                let id = coordinator.anchors.flag(record)?;
                tracing::error!(
                    id,
                    "the log's answers do not verify; an operator has to look at this anchor"
                );
            }
        }
    }
    lock(&anchoring.seen).last_failure = Some(text);
    Ok(())
}

fn keep(
    coordinator: &Coordinator,
    file: &AnchorFile,
    report: &AnchorReport,
    entry_id: Option<String>,
    now: Timestamp,
) -> Result<u64, ShelfError> {
    coordinator.anchors.put(&Record {
        state: State::Anchored,
        size: report.checkpoint.size,
        root: report.checkpoint.root,
        at: now,
        api: report.log.api.name().to_owned(),
        log: report.log.log.clone(),
        log_index: Some(report.log.log_index),
        entry_id,
        integrated_at: report.log.integrated_at,
        reason: None,
        file: file.to_json(),
    })
}

/// Asks the log, in a thread that may block.
fn ask(anchoring: &Anchoring, note: &str) -> Result<Answer, TryError> {
    let client = &anchoring.client;
    let request = anchoring.key.request(anchoring.config.api, note);
    match anchoring.config.api {
        Api::V1 => {
            let (id, entry) = LogEntry::from_v1_answer(&client.submit_v1(&request)?)?;
            let entry = match entry {
                Some(entry) => entry,
                // An entry that was just taken in may have no proof yet.
                None => LogEntry::from_v1_answer(&client.entry_v1(&id)?)?.1.ok_or(TryError::NoProof)?,
            };
            Ok(Answer { entry, entry_id: Some(id) })
        }
        Api::V2 => {
            let entry = match client.submit_v2(&request)? {
                Taken::Now(entry) => LogEntry::from_json(&entry)?,
                Taken::Before(index) => recover(client, &anchoring.config.trusted_root, index)?,
            };
            Ok(Answer { entry, entry_id: None })
        }
    }
}

/// Puts an entry together that a log of v2 has had before: its answer was lost on the way, and it gives it only once.
fn recover(client: &LogClient, root: &TrustedRoot, index: u64) -> Result<LogEntry, TryError> {
    let checkpoint = String::from_utf8(client.checkpoint_v2()?)
        .map_err(|_| ClientError::Incomplete { what: "a checkpoint that is text" })?;
    let size = checkpoint_size(&checkpoint)?;
    if index >= size {
        return Err(TryError::NoProof);
    }
    let (number, width) = bundle_of(index, size)?;
    let bundle = client.bundle_v2(number, width)?;
    let mut last = None;
    // Which of the trusted logs it is only the checkpoint's signature tells: the one whose id it bears.
    for log in root.logs() {
        let tile = |level, index, width| client.tile_v2(level, index, width).ok();
        let entry = entry_from_tiles(log.key_id, index, &checkpoint, &bundle, tile)?;
        match wc_ledger::verify_entry(&entry, root, clock::now()) {
            Ok(_) => return Ok(entry),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or(TryError::NoProof, TryError::Answer))
}

/// Returns a page of anchors, newest first, and where to go on.
pub(crate) fn page(shelf: &Shelf, before: Option<u64>) -> Result<(Vec<AnchorView>, Option<u64>), ShelfError> {
    let rows = shelf.newest(before, PAGE_ROWS)?;
    let next =
        if rows.len() == PAGE_ROWS { rows.last().map(|(id, _)| *id).filter(|id| *id > 0) } else { None };
    Ok((rows.into_iter().map(|(id, record)| record.view(id)).collect(), next))
}
