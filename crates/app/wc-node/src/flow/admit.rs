//! Station 2: the cell admits a job or says why not.

use std::sync::Arc;

use wc_cell::Event;
use wc_proto::api::{Cancel, Response};
use wc_types::code::{Class, Code};
use wc_types::manifest::Manifest;
use wc_types::{NodeId, Refusal, Signed};

use crate::brain::BrainError;
use crate::clock;
use crate::coordinator::Coordinator;
use crate::flow::stage;

/// Most machines that a submission may name as holders of its blobs.
const HOLDERS_MAX: usize = 16;

const NOT_THE_SUBMITTER: Code = Code::new("WC-NODE-010", Class::Caller);
const ARCHIVE_FAILED: Code = Code::new("WC-NODE-011", Class::Ours);

/// Admits a job. Its blobs are fetched from `holders`; when they are all here already, staging costs no second commit.
pub(crate) async fn submit(
    coordinator: &Arc<Coordinator>,
    manifest: Signed<Manifest>,
    mut holders: Vec<NodeId>,
    dry_run: bool,
) -> Result<Response, BrainError> {
    if manifest.signed_by(&manifest.submitter.0).is_err() {
        return Ok(Response::Refused(vec![
            Refusal::new(NOT_THE_SUBMITTER, "the manifest is not signed by the submitter that it names")
                .field("submitter"),
        ]));
    }
    let cid = manifest.cid();
    let job = manifest.job_id(&cid);
    // What the cell refuses leaves no trace, so that nobody fills the journal or the archive with jobs that never were.
    let manifest = manifest.witnessed();
    let found = manifest.clone();
    let refusals = coordinator.brain.peek(move |cell| cell.submission_refusals(&found, clock::now())).await?;
    if !refusals.is_empty() {
        return Ok(Response::Refused(refusals));
    }
    if dry_run {
        return Ok(Response::Submitted { job, manifest: cid });
    }
    // A job's manifest is kept before the cell hears of it: whatever the cell then commands can find it.
    if let Err(error) = coordinator.archive.put_manifest(&job, &manifest) {
        tracing::error!(%error, %job, "manifest cannot be kept");
        return Ok(Response::Refused(vec![Refusal::new(
            ARCHIVE_FAILED,
            "the coordinator cannot keep the manifest",
        )]));
    }
    holders.truncate(HOLDERS_MAX);
    let here = stage::is_here(&coordinator.store, &manifest);
    coordinator.staging.expect(job, holders, here);
    if here {
        stage::pin(&coordinator.store, &job, &manifest);
    }
    let then = if here {
        vec![Event::JobStaged { job, listed: stage::listed(&coordinator.store, &manifest) }]
    } else {
        Vec::new()
    };
    let answer = coordinator.brain.ask(Event::JobSubmitted(manifest), then).await?;
    Ok(match answer {
        Ok(_) => Response::Submitted { job, manifest: cid },
        Err(refusals) => Response::Refused(refusals),
    })
}

/// Cancels a job on behalf of its submitter.
pub(crate) async fn cancel(
    coordinator: &Arc<Coordinator>,
    cancel: Signed<Cancel>,
) -> Result<Response, BrainError> {
    if cancel.signed_by(&cancel.submitter.0).is_err() {
        return Ok(Response::Refused(vec![
            Refusal::new(NOT_THE_SUBMITTER, "the cancellation is not signed by the submitter that it names")
                .field("submitter"),
        ]));
    }
    let (job, by) = (cancel.job, cancel.submitter);
    if let Some(refusal) = coordinator.brain.peek(move |cell| cell.cancellation_refusal(&job, by)).await? {
        return Ok(Response::Refused(vec![refusal]));
    }
    let event = Event::JobCancelled { job: cancel.job, by: cancel.submitter };
    Ok(match coordinator.brain.ask(event, Vec::new()).await? {
        Ok(_) => Response::Done,
        Err(refusals) => Response::Refused(refusals),
    })
}
