//! Station 7: signed outcomes come back, and the bytes they name are here before the cell hears of them.
//!
//! So an accepted result is always one that the coordinator holds: no donor can take it away by leaving.

use std::collections::BTreeSet;
use std::sync::Arc;

use wc_cell::Event;
use wc_proto::limit::{INLINE_BYTES_MAX, REPORTS_MAX, STDERR_BYTES_MAX};
use wc_proto::peer::session::Report;
use wc_store::{BlobError, Store};
use wc_types::code::{Class, Code};
use wc_types::outcome::{Ending, FAILURE_BYTES_MAX, Outcome, ResultRecord};
use wc_types::{Cid, JobId, LeaseId, NodeId, Refusal, Signed, TaskId, from_canonical};

use crate::archive::LogRow;
use crate::blobs;
use crate::clock;
use crate::coordinator::{Coordinator, SessionError, lock};

/// Largest result record: exit, standard output and the names of all files.
const RESULT_RECORD_BYTES_MAX: usize = 1 << 20;

const FORGED: Code = Code::new("WC-NODE-020", Class::Peer);
const OVERSIZED: Code = Code::new("WC-NODE-021", Class::Peer);

/// Takes reports in: checks whose they are, keeps their bytes, fetches what is not inline, then tells the cell.
pub(crate) async fn ingest(
    coordinator: &Arc<Coordinator>,
    node: NodeId,
    reports: Vec<Report>,
) -> Result<(), SessionError> {
    if reports.len() > REPORTS_MAX {
        return Err(refused(OVERSIZED, format!("more than {REPORTS_MAX} reports in one message")));
    }
    let mut whole = Vec::with_capacity(reports.len());
    for report in &reports {
        check(coordinator, node, report)?;
        for blob in &report.blobs {
            match coordinator.store.blobs().put_block(&blob.cid, &blob.bytes) {
                Ok(_) => {}
                Err(BlobError::Mismatch { .. }) => {
                    return Err(refused(FORGED, format!("inline blob {} has other bytes", blob.cid)));
                }
                Err(error) => tracing::error!(%error, cid = %blob.cid, "a result cannot be kept"),
            }
        }
        whole.push(is_complete(&coordinator.store, &report.outcome));
    }
    let held = held(coordinator, node, &reports, &whole).await?;
    let mut outcomes = Vec::with_capacity(reports.len());
    for (report, whole) in reports.into_iter().zip(whole) {
        let held = held.contains(&report.outcome.lease);
        if held && has_log(&report) {
            keep_log(coordinator, node, &report);
        }
        if whole || !held {
            outcomes.push(report.outcome.witnessed());
        } else {
            let coordinator = coordinator.clone();
            tokio::spawn(async move { fetch_then_tell(&coordinator, node, report.outcome).await });
        }
    }
    if !outcomes.is_empty() {
        coordinator.brain.events(vec![Event::Reported { outcomes }]).await?;
    }
    Ok(())
}

/// Returns the leases, among those whose reports leave a log or need a fetch, that the node holds for the task that it
/// names. Others are none of the job's business: nobody writes into its log or fills our disk under a lease that it
/// never had. Reports that are whole and say nothing else skip this look; the cell looks at every one.
async fn held(
    coordinator: &Coordinator,
    node: NodeId,
    reports: &[Report],
    whole: &[bool],
) -> Result<BTreeSet<LeaseId>, SessionError> {
    let doubtful: Vec<(LeaseId, TaskId)> = reports
        .iter()
        .zip(whole)
        .filter(|&(report, whole)| !whole || has_log(report))
        .map(|(report, _)| (report.outcome.lease, report.outcome.task()))
        .collect();
    if doubtful.is_empty() {
        return Ok(BTreeSet::new());
    }
    let held = coordinator.brain.query(move |cell, _| {
        let holds = |lease: LeaseId, task: &TaskId| {
            let replicas = cell.task(task).map(|task| task.replicas).unwrap_or_default();
            replicas.iter().any(|replica| replica.lease == lease && replica.node == node)
        };
        doubtful.into_iter().filter(|(lease, task)| holds(*lease, task)).map(|(lease, _)| lease).collect()
    });
    Ok(held.await?)
}

/// Returns whether a report has something to say that the result does not.
fn has_log(report: &Report) -> bool {
    !matches!(report.outcome.ending, Ending::Result { success: true, .. }) || !report.stderr.is_empty()
}

fn refused(code: Code, message: impl Into<String>) -> SessionError {
    SessionError::Refused(Refusal::new(code, message))
}

fn check(coordinator: &Coordinator, node: NodeId, report: &Report) -> Result<(), SessionError> {
    let outcome = &report.outcome;
    if outcome.signed_by(&node.0).is_err() || outcome.node != node {
        return Err(refused(FORGED, "an outcome is not signed by the machine that reports it"));
    }
    if outcome.cell != coordinator.cell {
        return Err(refused(FORGED, "an outcome is about another cell"));
    }
    let inline: usize = report.blobs.iter().map(|blob| blob.bytes.len()).sum();
    if let Ending::Failed(failure) = &outcome.ending
        && failure.text().is_some_and(|text| text.len() > FAILURE_BYTES_MAX)
    {
        return Err(refused(OVERSIZED, format!("a failure is told in more than {FAILURE_BYTES_MAX} bytes")));
    }
    if inline > INLINE_BYTES_MAX || report.stderr.len() > STDERR_BYTES_MAX {
        return Err(refused(OVERSIZED, "a report carries more bytes than it may"));
    }
    Ok(())
}

fn keep_log(coordinator: &Coordinator, node: NodeId, report: &Report) {
    let outcome = &report.outcome;
    let ending = match &outcome.ending {
        Ending::Result { success: true, .. } => "succeeded".to_owned(),
        Ending::Result { record, success: false } => report
            .blobs
            .iter()
            .find(|blob| blob.cid == *record)
            .and_then(|blob| from_canonical::<ResultRecord>(&blob.bytes).ok())
            .map_or_else(|| "ended unsuccessfully".to_owned(), |record| record.exit.to_string()),
        Ending::Failed(failure) => failure.to_string(),
    };
    let row = LogRow {
        at: clock::now(),
        stage: outcome.stage,
        index: outcome.index,
        node,
        ending,
        stderr: String::from_utf8_lossy(&report.stderr).into_owned(),
    };
    let mut positions = lock(&coordinator.log_positions);
    let position = positions
        .entry(outcome.job)
        .or_insert_with(|| coordinator.archive.log_rows(&outcome.job).unwrap_or(0));
    match coordinator.archive.put_log(&outcome.job, *position, &row) {
        Ok(()) => *position += 1,
        Err(error) => tracing::warn!(%error, "a log row cannot be kept"),
    }
}

/// Returns the record and the blobs in it, if the record is here and consistent with the outcome.
pub(crate) fn result_record(store: &Store, record: &Cid, success: bool) -> Option<ResultRecord> {
    let bytes = blobs::read(store, record, RESULT_RECORD_BYTES_MAX).ok()?;
    let record: ResultRecord = from_canonical(&bytes).ok()?;
    (record.exit.is_success() == success).then_some(record)
}

fn result_blobs(record: &ResultRecord) -> impl Iterator<Item = &Cid> {
    std::iter::once(&record.stdout.cid).chain(record.outputs.values().map(|blob| &blob.cid))
}

fn is_complete(store: &Store, outcome: &Outcome) -> bool {
    match &outcome.ending {
        Ending::Failed(_) => true,
        Ending::Result { record, success } => result_record(store, record, *success)
            .is_some_and(|record| result_blobs(&record).all(|cid| blobs::has(store, cid))),
    }
}

/// Fetches what an outcome names from the node that ran it. A node that cannot deliver what it signed loses its
/// session, and with it the lease.
async fn fetch_then_tell(coordinator: &Arc<Coordinator>, node: NodeId, outcome: Signed<Outcome>) {
    let fetched = async {
        let Ending::Result { record, success } = &outcome.ending else { return Ok(()) };
        blobs::fetch(&coordinator.mesh, &coordinator.store, *record, &[node]).await?;
        let record = result_record(&coordinator.store, record, *success)
            .ok_or("the result record contradicts the outcome")?;
        for cid in result_blobs(&record) {
            blobs::fetch(&coordinator.mesh, &coordinator.store, *cid, &[node]).await?;
        }
        Ok::<(), String>(())
    };
    let event = match fetched.await {
        Ok(()) => Event::Reported { outcomes: vec![outcome.witnessed()] },
        Err(reason) => {
            tracing::warn!(%node, lease = %outcome.lease, reason, "a reported result cannot be fetched");
            Event::Returned { node, leases: vec![outcome.lease] }
        }
    };
    let _ = coordinator.brain.events(vec![event]).await;
}

/// Pins an accepted result, so that collection never removes it.
pub(crate) fn pin_result(store: &Store, job: &JobId, result: &Cid) {
    let owner = job.to_string();
    let pin = |cid: &Cid| {
        if let Err(error) = blobs::pin(store, cid, &owner) {
            tracing::error!(%job, %cid, %error, "an accepted result cannot be pinned");
        }
    };
    pin(result);
    let record = result_record(store, result, true).or_else(|| result_record(store, result, false));
    for cid in record.iter().flat_map(result_blobs) {
        pin(cid);
    }
}

/// Lets go of a result that was pinned for a job; it stays until room is needed.
pub(crate) fn unpin_result(store: &Store, job: &JobId, result: &Cid) {
    let owner = job.to_string();
    let record = result_record(store, result, true).or_else(|| result_record(store, result, false));
    for cid in record.iter().flat_map(result_blobs).chain([result]) {
        if let Err(error) = blobs::unpin(store, cid, &owner) {
            tracing::warn!(%job, %cid, %error, "an old result cannot be unpinned");
        }
    }
}
