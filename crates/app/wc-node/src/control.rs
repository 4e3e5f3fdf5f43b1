//! Requests about the cell, answered by its coordinator; the same words whether they come from this machine or over
//! the mesh.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use wc_cell::Cell;
use wc_mesh::{Mesh, MeshStream};
use wc_proto::api::view::{AnchoringView, ClusterView, JobView, LogView, NodeView};
use wc_proto::api::{CellRequest, Response, ResultRow};
use wc_proto::limit::{FRAME_BYTES_MAX, PAGE_ROWS_MAX};
use wc_proto::version;
use wc_types::canonical::RECORD_BYTES_MAX;
use wc_types::code::{Class, Code};
use wc_types::{Cid, JobId, NodeId, Refusal, TaskId, from_canonical};

use crate::anchor;
use crate::blobs;
use crate::brain::{BrainError, Watch};
use crate::coordinator::{Coordinator, lock};
use crate::credits::{self, CreditsError};
use crate::flow::{admit, receipt, report, submit};
use crate::link::{self, LinkError};
use crate::view;

/// Longest that a watcher is kept waiting before it is answered with the state as it is.
const WATCH_MAX: Duration = Duration::from_secs(20);
/// Longest that a coordinator may take to answer what it does not wait with.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Bytes of results or receipts in one page; leaves room in a frame.
const PAGE_BYTES_MAX: usize = FRAME_BYTES_MAX / 2;
/// Receipts in one page: each has a founding record, outcomes and proofs, together below 16 KiB.
const RECEIPTS_PER_PAGE: usize = 256;
/// Bytes of a receipt without the hand-overs of its signers.
const RECEIPT_BYTES: usize = 16 << 10;
/// Bytes of one hand-over with the most members.
const HANDOVER_BYTES_MAX: usize = 2 << 10;

/// Share of the deciding thread's time that digests of the whole state may take, however often somebody asks: one in so
/// many.
const STATE_HASH_SHARE: u32 = 20;

/// Longest request: a manifest, and who holds its blobs.
const REQUEST_BYTES_MAX: usize = RECORD_BYTES_MAX + (64 << 10);

const UNKNOWN_JOB: Code = Code::new("WC-NODE-030", Class::Caller);
const AMBIGUOUS_JOB: Code = Code::new("WC-NODE-031", Class::Caller);
const UNKNOWN_STAGE: Code = Code::new("WC-NODE-032", Class::Caller);
const UNREADABLE: Code = Code::new("WC-NODE-033", Class::Ours);
pub(crate) const STOPPED: Code = Code::new("WC-NODE-034", Class::Ours);
const UNPUBLISHED: Code = Code::new("WC-NODE-036", Class::Host);
const NOT_COSIGNED: Code = Code::new("WC-NODE-037", Class::Caller);
const FORGOTTEN: Code = Code::new("WC-NODE-038", Class::Caller);
const TOO_MUCH: Code = Code::new("WC-NODE-039", Class::Exhausted);
const UNREACHABLE: Code = Code::new("WC-NODE-035", Class::Host);

/// Either an answer or the refusal that takes its place.
type Answered = Result<Response, Refused>;

enum Refused {
    Refusal(Refusal),
    Brain(BrainError),
}

impl From<BrainError> for Refused {
    fn from(error: BrainError) -> Self {
        Self::Brain(error)
    }
}

impl From<CreditsError> for Refused {
    fn from(error: CreditsError) -> Self {
        match error {
            CreditsError::Brain(error) => Self::Brain(error),
            CreditsError::Checkpoint(refusal) => Self::Refusal(refusal),
            error => {
                let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
                Self::Refusal(unreadable(format!("{error}{cause}")))
            }
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

/// Answers one request.
pub(crate) async fn answer(coordinator: &Arc<Coordinator>, request: CellRequest) -> Response {
    match route(coordinator, request).await {
        Ok(response) => response,
        Err(Refused::Refusal(refusal)) => Response::Refused(vec![refusal]),
        Err(Refused::Brain(error)) => Response::Refused(vec![
            Refusal::new(STOPPED, error.to_string()).hint("read the coordinator's log for the first error"),
        ]),
    }
}

async fn route(coordinator: &Arc<Coordinator>, request: CellRequest) -> Answered {
    let brain = &coordinator.brain;
    Ok(match request {
        CellRequest::Submit { manifest, holders, dry_run } => {
            admit::submit(coordinator, *manifest, holders, dry_run).await?
        }
        CellRequest::Cancel(cancel) => admit::cancel(coordinator, *cancel).await?,
        CellRequest::Job { job } => {
            let job = find_or_trust(coordinator, job).await?;
            Response::Job(Box::new(job_now(coordinator, job).await?))
        }
        CellRequest::WatchJob { job, seen } => {
            let job = find_or_trust(coordinator, job).await?;
            let (changed, change) = oneshot::channel();
            brain.watch(Watch { job, seen, changed }).await?;
            let view = match tokio::time::timeout(WATCH_MAX, change).await {
                Ok(Ok(Some((view, failed)))) => told(coordinator, view, failed),
                Ok(Ok(None)) => return Err(unknown_job(&job.to_string()).into()),
                Ok(Err(_)) | Err(_) => job_now(coordinator, job).await?,
            };
            Response::Job(Box::new(view))
        }
        CellRequest::Jobs { limit } => {
            let limit = (limit as usize).min(PAGE_ROWS_MAX / 10);
            let jobs: Vec<_> = brain
                .query(move |cell, _| cell.jobs().take(limit).map(|found| view::job(found, cell)).collect())
                .await?;
            Response::Jobs(jobs.into_iter().map(|(job, failed)| told(coordinator, job, failed)).collect())
        }
        CellRequest::Explain { job } => {
            let job = find(coordinator, job).await?;
            let explained = brain
                .query(move |cell, _| cell.explain(&job).map(|found| view::explained(found, cell)))
                .await?;
            let (mut explained, failed) = explained.ok_or_else(|| unknown_job(&job.to_string()))?;
            explained.job = told(coordinator, explained.job, failed);
            Response::Explain(explained)
        }
        CellRequest::Results { job, stage, from } => results(coordinator, &job, stage, from).await?,
        CellRequest::Task { job, stage, index } => {
            let job = find(coordinator, job).await?;
            let task = TaskId { job, stage, index };
            let view = brain.query(move |cell, _| cell.task(&task).map(view::task)).await?;
            Response::Task(view.ok_or_else(|| {
                Refusal::new(UNKNOWN_STAGE, format!("the job has no task {stage}/{index}")).field("stage")
            })?)
        }
        CellRequest::Logs { job, from } => {
            let job = find(coordinator, job).await?;
            still_kept(coordinator, job).await?;
            let rows = coordinator.archive.logs(&job, from, PAGE_BYTES_MAX).map_err(unreadable)?;
            Response::Logs(
                rows.into_iter()
                    .map(|(position, row)| LogView {
                        position,
                        at: row.at,
                        stage: row.stage,
                        index: row.index,
                        node: row.node,
                        ending: row.ending,
                        stderr: row.stderr,
                    })
                    .collect(),
            )
        }
        CellRequest::Receipts { job, stage, from } => {
            let job = find_or_trust(coordinator, job).await?;
            let found = brain
                .query(move |cell, _| {
                    let view = cell.job(&job).filter(|view| !view.forgotten)?;
                    let tasks = view.stages.get(usize::from(stage))?.tasks;
                    Some((tasks, cell.ledger_size(), cell.ledger_root()))
                })
                .await?;
            let Some((tasks, size, root)) = found else {
                return Err(no_job_or_stage(coordinator, job, stage).await);
            };
            // One signer signs what is there; several are asked for no more than this page needs.
            let (some, all) = if coordinator.notary.is_alone() {
                (size, size)
            } else {
                receipt::needed(coordinator, job, stage, from, tasks, RECEIPTS_PER_PAGE)
                    .map_err(unreadable)?
            };
            let checkpoint = match coordinator.notary.checkpoint(coordinator, size, root, all).await {
                Ok(checkpoint) => checkpoint,
                // What the last checkpoint covers is served while there is no newer one.
                Err(refusal) => {
                    let latest = coordinator.notary.latest();
                    latest.filter(|checkpoint| checkpoint.size >= some).ok_or(refusal)?
                }
            };
            let chain_bytes = checkpoint.signers.len() * HANDOVER_BYTES_MAX;
            let limit = (PAGE_BYTES_MAX / (RECEIPT_BYTES + chain_bytes)).min(RECEIPTS_PER_PAGE);
            let (receipts, next) = receipt::page(coordinator, job, stage, from, tasks, limit, &checkpoint)
                .map_err(unreadable)?;
            Response::Receipts { receipts, next }
        }
        CellRequest::ChangeSigners(order) => {
            coordinator.notary.change(coordinator, *order).await?;
            Response::Done
        }
        CellRequest::Checkpoint { since } => {
            let publication = coordinator.publication.clone();
            let coordinator = coordinator.clone();
            let answered = tokio::task::spawn_blocking(move || publication.answer(&coordinator, since)).await;
            match answered.map_err(unreadable)? {
                Ok(published) => Response::Checkpoint(Box::new(published)),
                Err(reason) => return Err(Refusal::new(UNPUBLISHED, reason).into()),
            }
        }
        CellRequest::Cosign { size, line } => {
            let taken = coordinator.publication.take(coordinator, size, &line).await;
            taken.map_err(|reason| Refusal::new(NOT_COSIGNED, reason))?;
            Response::Done
        }
        CellRequest::Cluster => Response::Cluster(Box::new(cluster(coordinator).await?)),
        CellRequest::Nodes => {
            let nodes =
                brain.query(move |cell, _| cell.nodes().map(|node| view::node(node, cell)).collect()).await?;
            Response::Nodes(as_connected(coordinator, nodes))
        }
        CellRequest::Node { node } => {
            let found =
                brain.query(move |cell, _| cell.node(&node).map(|found| view::node(found, cell))).await?;
            Response::Nodes(as_connected(coordinator, found.into_iter().collect()))
        }
        CellRequest::Anchors { before } => {
            let (rows, next) = anchor::page(&coordinator.anchors, before).map_err(unreadable)?;
            Response::Anchors { anchoring: anchoring(coordinator)?, rows, next }
        }
        CellRequest::Anchor { id } => Response::Bytes(coordinator.anchors.file(id).map_err(unreadable)??),
        CellRequest::Balance { account } => {
            let balance = brain.query(move |cell, _| cell.balance(&account)).await?;
            Response::Balance(i64::try_from(balance.0).unwrap_or(i64::MAX))
        }
        CellRequest::Account { account, since } => credits::statement(coordinator, account, since).await?,
        CellRequest::Consistency { from, to } => credits::consistency(coordinator, from, to)?,
        CellRequest::Credits { account, before, limit } => {
            credits::history(coordinator, account, before, limit).await?
        }
        CellRequest::CreditProofs { account, from, size } => {
            credits::proofs(coordinator, account, from, size).await?
        }
    })
}

/// Marks the nodes that are not connected now, though the cell has not given them up yet.
fn as_connected(coordinator: &Coordinator, mut nodes: Vec<NodeView>) -> Vec<NodeView> {
    for node in &mut nodes {
        if node.state == "online" && !coordinator.sessions.is_live(&node.node) {
            "offline".clone_into(&mut node.state);
        }
    }
    nodes
}

fn unknown_job(text: &str) -> Refusal {
    Refusal::new(UNKNOWN_JOB, format!("this cell has no job `{text}`"))
        .field("job")
        .hint("list the jobs with 'worldcompute job list'")
}

/// Returns what is missing: the whole job, what was kept of it, or this stage of it.
async fn no_job_or_stage(coordinator: &Arc<Coordinator>, job: JobId, stage: u16) -> Refused {
    let kept = match job_now(coordinator, job).await {
        Ok(_) => still_kept(coordinator, job).await,
        Err(refused) => Err(refused),
    };
    match kept {
        Ok(()) => Refusal::new(UNKNOWN_STAGE, format!("the job has no stage {stage}")).field("stage").into(),
        Err(refused) => refused,
    }
}

fn unreadable(error: impl std::fmt::Display) -> Refusal {
    tracing::error!(%error, "the archive cannot be read");
    Refusal::new(UNREADABLE, error.to_string())
}

/// Like [`find`], but takes a whole id at its word: the caller's next look at the state tells whether there is such a job.
async fn find_or_trust(coordinator: &Arc<Coordinator>, text: String) -> Result<JobId, Refused> {
    match text.parse() {
        Ok(whole) => Ok(whole),
        Err(_) => find(coordinator, text).await,
    }
}

/// Finds a job by its id or an unambiguous beginning of it.
async fn find(coordinator: &Arc<Coordinator>, text: String) -> Result<JobId, Refused> {
    let wanted = text.clone();
    let matches = coordinator.brain.query(move |cell, _| cell.job_prefix(&wanted)).await?;
    match matches.as_slice() {
        [job] => Ok(*job),
        [] => Err(unknown_job(&text).into()),
        _ => Err(Refusal::new(AMBIGUOUS_JOB, format!("more than one job begins with `{text}`"))
            .field("job")
            .hint("give more characters of the id")
            .into()),
    }
}

async fn job_now(coordinator: &Arc<Coordinator>, job: JobId) -> Result<JobView, Refused> {
    let view =
        coordinator.brain.query(move |cell, _| cell.job(&job).map(|found| view::job(found, cell))).await?;
    let (view, failed) = view.ok_or_else(|| unknown_job(&job.to_string()))?;
    Ok(told(coordinator, view, failed))
}

/// Refuses when what a job left behind is not kept any longer.
async fn still_kept(coordinator: &Arc<Coordinator>, job: JobId) -> Result<(), Refused> {
    let forgotten =
        coordinator.brain.query(move |cell, _| cell.job(&job).is_some_and(|job| job.forgotten)).await?;
    if !forgotten {
        return Ok(());
    }
    let hours = coordinator.founding.charter.retention.0 / 3_600_000;
    Err(Refusal::new(
        FORGOTTEN,
        format!("{job} has ended, and this cell keeps results and logs for {hours} hours"),
    )
    .field("job")
    .hint("receipts and results that you fetched before stay valid; the ledger keeps what was earned")
    .into())
}

/// Completes a job's reason with how its guest ended, where a record says so and is still here.
fn told(coordinator: &Coordinator, mut job: JobView, failed_result: Option<Cid>) -> JobView {
    let record = failed_result.and_then(|cid| report::result_record(&coordinator.store, &cid, false));
    if let Some(record) = record {
        view::add_ending(&mut job, &record.exit);
    }
    job
}

async fn results(
    coordinator: &Arc<Coordinator>,
    job: &str,
    stage: Option<u16>,
    from: u32,
) -> Result<Response, Refused> {
    let job = find_or_trust(coordinator, job.to_owned()).await?;
    let page = coordinator
        .brain
        .query(move |cell, _| {
            let stages = cell.job(&job).filter(|view| !view.forgotten)?.stages.len();
            let stage = stage.unwrap_or_else(|| u16::try_from(stages.saturating_sub(1)).unwrap_or(0));
            (usize::from(stage) < stages).then(|| {
                let accepted = cell.stage_results(&job, stage).skip_while(|(index, _)| *index < from);
                accepted.take(PAGE_ROWS_MAX / 10).collect::<Vec<_>>()
            })
        })
        .await?;
    let Some(page) = page else {
        return Err(no_job_or_stage(coordinator, job, stage.unwrap_or(0)).await);
    };
    let full = page.len() == PAGE_ROWS_MAX / 10;
    let mut rows = Vec::with_capacity(page.len());
    let mut bytes = 0;
    let mut next = None;
    for (index, cid) in page {
        let record = blobs::read(&coordinator.store, &cid, 1 << 20).map_err(unreadable)?;
        bytes += record.len() + 64;
        if bytes > PAGE_BYTES_MAX {
            next = Some(index);
            break;
        }
        let record = from_canonical(&record).map_err(unreadable)?;
        rows.push(ResultRow { index, cid, record });
    }
    if next.is_none() && full {
        next = rows.last().map(|row| row.index + 1);
    }
    Ok(Response::Results { rows, next })
}

async fn cluster(coordinator: &Arc<Coordinator>) -> Result<ClusterView, Refused> {
    let founding = coordinator.founding.clone();
    let signers = coordinator.notary.view(coordinator).await;
    let (cell, node, online) = (coordinator.cell, coordinator.node(), coordinator.sessions.count());
    let anchoring = anchoring(coordinator)?;
    let commits = coordinator.brain.commits();
    let node_count = coordinator.mesh.status().await.map_or(1, |status| status.node_count as u64);
    let others = coordinator.cells.others(cell);
    // Nobody else asks for a digest while this one is made.
    let mut kept = coordinator.state_hash.lock().await;
    let known = kept.clone().filter(|kept| Instant::now() < kept.until);
    let (published_size, witnesses, mut log_alarms) = coordinator.publication.view();
    log_alarms.extend(coordinator.notary.alarms());
    let (view, digest) = coordinator
        .brain
        .query(move |state, facts| {
            let counts = state.counts();
            let parent = state.parent();
            let has_met = parent.is_some() || others.iter().any(|other| other.state == "connected");
            let digest = known.unwrap_or_else(|| StateHash::of(state, facts));
            let view = ClusterView {
                cell,
                name: format!("wc-lan-{}", view::hex(&cell.0[..4])),
                network: founding.network.clone(),
                coordinator: node,
                nodes_trusted: founding.charter.nodes_trusted,
                nodes: counts.nodes,
                online: u32::try_from(online).unwrap_or(u32::MAX),
                slots: slots(state),
                jobs_open: counts.jobs_open,
                jobs_ended: counts.jobs - counts.jobs_open,
                ledger_size: state.ledger_size(),
                ledger_root: view::hex(&state.ledger_root()),
                facts: digest.facts,
                commits,
                state_hash: digest.text.clone(),
                founded_at: founding.founded_at,
                anchoring,
                signers,
                published_size,
                witnesses,
                log_alarms,
                dht: if has_met { "merged (global)" } else { "island" }.to_owned(),
                parent_cluster_id: parent.map(|met| met.parent),
                merged_at: parent.map(|met| met.merged_at),
                halt: state.directives().and_then(|standing| standing.halt.clone()),
                bans: state.directives().map(|standing| standing.bans.clone()).unwrap_or_default(),
                node_count,
                others,
            };
            (view, digest)
        })
        .await?;
    *kept = Some(digest);
    Ok(view)
}

/// A digest of the whole state after so many facts, and until when it is good enough. Its computing takes as long as the
/// state is large, and keeps everybody else waiting; so nobody makes us do it again and again.
#[derive(Clone)]
pub(crate) struct StateHash {
    facts: u64,
    text: String,
    until: Instant,
}

impl StateHash {
    fn of(state: &Cell, facts: u64) -> Self {
        let begun = Instant::now();
        let text = view::hex(&state.state_hash());
        Self { facts, text, until: Instant::now() + begun.elapsed() * STATE_HASH_SHARE }
    }
}

/// Returns how anchoring stands, if this cell anchors.
fn anchoring(coordinator: &Coordinator) -> Result<Option<AnchoringView>, Refusal> {
    let Some(anchoring) = &coordinator.anchoring else { return Ok(None) };
    let flagged = coordinator.anchors.flagged().map_err(unreadable)?;
    Ok(Some(anchoring.view(flagged.into_iter().collect())))
}

/// Takes note that the operator of this machine has looked at a flagged anchor.
pub(crate) fn clear_anchor(coordinator: &Coordinator, id: u64) -> Response {
    match coordinator.anchors.clear(id) {
        Ok(Ok(())) => Response::Done,
        Ok(Err(refusal)) => Response::Refused(vec![refusal]),
        Err(error) => Response::Refused(vec![unreadable(error)]),
    }
}

/// Guests that the connected nodes can run at the same time.
fn slots(cell: &Cell) -> u32 {
    cell.nodes().filter(|node| node.online).map(|node| u32::from(node.capabilities.slots)).sum()
}

/// Serves requests that come over the mesh, until it stops.
pub(crate) async fn serve(mesh: Mesh, coordinator: Arc<Coordinator>) {
    let Ok(mut incoming) = mesh.accept(version::CONTROL) else {
        tracing::error!("control requests cannot be accepted");
        return;
    };
    while let Some((node, stream)) = incoming.recv().await {
        let coordinator = coordinator.clone();
        tokio::spawn(async move { serve_one(&coordinator, node, stream).await });
    }
}

async fn serve_one(coordinator: &Arc<Coordinator>, node: NodeId, mut stream: MeshStream) {
    loop {
        let request = match link::read(&mut stream, REQUEST_BYTES_MAX).await {
            Ok(request) => request,
            Err(error) => {
                if error.is_misbehaviour() {
                    coordinator.mesh.report_misbehaviour(node, error.to_string());
                }
                return;
            }
        };
        let refusal = match &request {
            CellRequest::Submit { manifest, dry_run: false, .. } => {
                admission(coordinator, node, manifest.sealed().record.len()).await
            }
            _ => None,
        };
        let response = match refusal {
            Some(refusal) => Response::Refused(vec![refusal]),
            None => answer(coordinator, submit::pass_on(request, node)).await,
        };
        if link::write(&mut stream, &response, FRAME_BYTES_MAX).await.is_err() {
            return;
        }
    }
}

/// Waits until a node may submit a manifest of this many bytes; returns why it may not, if that is so.
async fn admission(coordinator: &Coordinator, node: NodeId, bytes: usize) -> Option<Refusal> {
    match coordinator.sessions.pace.submitted(node, bytes, Instant::now()) {
        Ok(wait) => tokio::time::sleep(wait).await,
        Err(wait) => {
            return Some(
                Refusal::new(TOO_MUCH, "this machine submits more than the cell can write down")
                    .hint(format!("try again in {} s", wait.as_secs().max(1))),
            );
        }
    }
    // Also one that was banned while it waited.
    match coordinator.brain.peek(move |cell| cell.ban_refusal(&node)).await {
        Ok(banned) => banned,
        Err(error) => Some(Refusal::new(STOPPED, error.to_string())),
    }
}

/// Streams to the coordinator that may wait for their next request. A stream that is opened for each would meet the
/// coordinator's limit on new ones as soon as somebody's script asks often.
const IDLE_STREAMS_MAX: usize = 4;
/// Streams on which a question that may be asked twice is asked.
const ASK_TRIES: u32 = 3;

/// Passes requests on to the coordinator of this node's cell.
pub(crate) struct Messenger {
    mesh: Mesh,
    idle: Mutex<Vec<(NodeId, MeshStream)>>,
}

impl Messenger {
    pub fn new(mesh: Mesh) -> Self {
        Self { mesh, idle: Mutex::default() }
    }

    /// Asks the coordinator and returns its answer, or the refusal that takes its place.
    pub async fn ask(&self, coordinator: NodeId, request: &CellRequest) -> Response {
        // Asking twice is harmless for what only looks, and one manifest is one job.
        let is_repeatable = !matches!(request, CellRequest::Cancel(_) | CellRequest::Cosign { .. });
        // A watcher is kept waiting, and so is who submits more than is taken in at once, and who has a key made.
        let patience = match request {
            CellRequest::WatchJob { .. } | CellRequest::Submit { .. } | CellRequest::ChangeSigners(_) => {
                WATCH_MAX * 2
            }
            _ => ANSWER_MAX,
        };
        // A stream that has waited may have ended meanwhile.
        let mut is_first = true;
        if let Some(stream) = is_repeatable.then(|| self.waiting(coordinator)).flatten() {
            if let Ok(Ok(response)) =
                tokio::time::timeout(patience, self.converse(coordinator, stream, request)).await
            {
                return response;
            }
            is_first = false;
        }
        let asked = async {
            let mut tries = if is_repeatable { ASK_TRIES } else { 1 };
            loop {
                tries -= 1;
                let stream = self
                    .mesh
                    .open_lazily(coordinator, version::CONTROL)
                    .await
                    .map_err(|error| error.to_string())?;
                match self.converse(coordinator, stream, request).await {
                    // The path may have ended under it; there may be another one.
                    Err(LinkError::Io(_) | LinkError::Closed) if tries > 0 => is_first = false,
                    Ok(response) if !is_first => return Ok(not_twice(request, response)),
                    answer => return answer.map_err(|error| error.to_string()),
                }
            }
        };
        match tokio::time::timeout(patience, asked).await {
            Ok(Ok(response)) => response,
            Ok(Err(cause)) => unreachable_coordinator(coordinator, &cause),
            Err(_) => unreachable_coordinator(coordinator, "no answer in time"),
        }
    }

    fn waiting(&self, coordinator: NodeId) -> Option<MeshStream> {
        let mut idle = lock(&self.idle);
        idle.retain(|(node, _)| *node == coordinator);
        idle.pop().map(|(_, stream)| stream)
    }

    async fn converse(
        &self,
        coordinator: NodeId,
        mut stream: MeshStream,
        request: &CellRequest,
    ) -> Result<Response, LinkError> {
        link::write(&mut stream, request, FRAME_BYTES_MAX).await?;
        let response = link::read(&mut stream, FRAME_BYTES_MAX).await?;
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_STREAMS_MAX {
            idle.push((coordinator, stream));
        }
        Ok(response)
    }
}

/// Returns what a submission that was sent again comes to: refused because the first one got through, it was accepted.
fn not_twice(request: &CellRequest, response: Response) -> Response {
    let CellRequest::Submit { manifest, dry_run: false, .. } = request else { return response };
    match &response {
        Response::Refused(refusals) if matches!(&refusals[..], [refusal] if refusal.code == wc_policy::code::DUPLICATE.name) =>
        {
            let cid = manifest.cid();
            Response::Submitted { job: manifest.job_id(&cid), manifest: cid }
        }
        _ => response,
    }
}

/// Asks the coordinator once.
pub(crate) async fn forward(mesh: &Mesh, coordinator: NodeId, request: &CellRequest) -> Response {
    Messenger::new(mesh.clone()).ask(coordinator, request).await
}

fn unreachable_coordinator(coordinator: NodeId, cause: &str) -> Response {
    Response::Refused(vec![
        Refusal::new(UNREACHABLE, format!("the cell's coordinator {coordinator} cannot be reached: {cause}"))
            .hint(
                "accepted work is not lost; try again when it is back, or see 'worldcompute cluster peers'",
            ),
    ])
}

#[cfg(test)]
mod tests;
