//! The node behind the control socket, as commands see it: requests that return what they are about.

use std::path::Path;
use std::time::Duration;

use wc_api::Client;
use wc_host::DataDir;
use wc_proto::api::view::{ClusterView, DonorView, JobView, NodeView, PeerView, TracePage};
use wc_proto::api::{CellRequest, PublishedCheckpoint, Request, Response, ResultRow};
use wc_types::manifest::{BlobRef, Manifest};
use wc_types::receipt::ReceiptFile;
use wc_types::{CellId, Cid, JobId, Refusal, Signed};

/// The node refused.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(|refusal| refusal.message.as_str()).collect::<Vec<_>>().join("; "))]
pub struct Failure(pub Vec<Refusal>);

/// The node answered something that does not belong to the question.
pub fn unexpected(question: &str, answer: &Response) -> anyhow::Error {
    let text = format!("{answer:?}");
    let word = text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned();
    anyhow::anyhow!("the node answered {question} with {word}; do command and node have the same version?")
}

/// A connection to one's own node.
pub struct Node {
    client: Client,
    /// The cell that is asked, if it is not left to the node.
    about: Option<CellId>,
}

impl Node {
    /// Connects to the node of a data directory.
    ///
    /// # Errors
    /// When none runs there (API-43).
    pub async fn connect(dir: &DataDir) -> anyhow::Result<Self> {
        Ok(Self { client: Client::connect(dir.path()).await?, about: None })
    }

    /// Asks; a refusal is an error.
    pub async fn ask(&mut self, request: Request) -> anyhow::Result<Response> {
        match self.client.ask(request).await? {
            Response::Refused(refusals) => Err(Failure(refusals).into()),
            response => Ok(response),
        }
    }

    /// Asks the cell.
    pub async fn cell(&mut self, request: CellRequest) -> anyhow::Result<Response> {
        self.ask(match self.about {
            Some(cell) => Request::CellOf { cell, request: Box::new(request) },
            None => Request::Cell(request),
        })
        .await
    }

    /// Asks this cell from now on, one of those that the node knows; without one, the cell that the node's requests go
    /// to.
    pub fn about(&mut self, cell: Option<CellId>) {
        self.about = cell;
    }

    /// Asks for something that has no answer.
    pub async fn tell(&mut self, request: Request) -> anyhow::Result<()> {
        match self.ask(request).await? {
            Response::Done => Ok(()),
            other => Err(unexpected("the request", &other)),
        }
    }

    /// Returns one job.
    pub async fn job(&mut self, job: &str) -> anyhow::Result<JobView> {
        job_of(self.cell(CellRequest::Job { job: job.to_owned() }).await?)
    }

    /// Returns one job as soon as it is not as it was at revision `seen`, or after a while.
    pub async fn watch(&mut self, job: &str, seen: u64) -> anyhow::Result<JobView> {
        let begun = std::time::Instant::now();
        let view = job_of(self.cell(CellRequest::WatchJob { job: job.to_owned(), seen }).await?)?;
        // The node waits; should it not, asking again at once would only keep both busy.
        if view.revision == seen && !view.phase.is_final() && begun.elapsed() < Duration::from_millis(50) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(view)
    }

    /// Submits a manifest whose blobs this node has.
    pub async fn submit(
        &mut self,
        manifest: Signed<Manifest>,
        dry_run: bool,
    ) -> anyhow::Result<(JobId, Cid)> {
        let request = CellRequest::Submit { manifest: Box::new(manifest), holders: Vec::new(), dry_run };
        match self.cell(request).await? {
            Response::Submitted { job, manifest } => Ok((job, manifest)),
            other => Err(unexpected("Submit", &other)),
        }
    }

    /// Returns a page of accepted results and where the next begins.
    pub async fn results(
        &mut self,
        job: &str,
        stage: Option<u16>,
        from: u32,
    ) -> anyhow::Result<(Vec<ResultRow>, Option<u32>)> {
        match self.cell(CellRequest::Results { job: job.to_owned(), stage, from }).await? {
            // A page that does not advance would be asked for without end.
            Response::Results { rows, next } => Ok((rows, next.filter(|next| *next > from))),
            other => Err(unexpected("Results", &other)),
        }
    }

    /// Returns a page of receipts and where the next begins.
    pub async fn receipts(
        &mut self,
        job: &str,
        stage: u16,
        from: u32,
    ) -> anyhow::Result<(Vec<ReceiptFile>, Option<u32>)> {
        match self.cell(CellRequest::Receipts { job: job.to_owned(), stage, from }).await? {
            Response::Receipts { receipts, next } => Ok((receipts, next.filter(|next| *next > from))),
            other => Err(unexpected("Receipts", &other)),
        }
    }

    /// Returns the cell.
    pub async fn cluster(&mut self) -> anyhow::Result<ClusterView> {
        match self.cell(CellRequest::Cluster).await? {
            Response::Cluster(view) => Ok(*view),
            other => Err(unexpected("Cluster", &other)),
        }
    }

    /// Returns the newest published checkpoint, with the proof that it goes on from `since` entries.
    pub async fn checkpoint(&mut self, since: u64) -> anyhow::Result<PublishedCheckpoint> {
        match self.cell(CellRequest::Checkpoint { since }).await? {
            Response::Checkpoint(published) => Ok(*published),
            other => Err(unexpected("Checkpoint", &other)),
        }
    }

    /// Returns the cell's nodes.
    pub async fn nodes(&mut self) -> anyhow::Result<Vec<NodeView>> {
        match self.cell(CellRequest::Nodes).await? {
            Response::Nodes(nodes) => Ok(nodes),
            other => Err(unexpected("Nodes", &other)),
        }
    }

    /// Returns this machine.
    pub async fn donor(&mut self) -> anyhow::Result<DonorView> {
        match self.ask(Request::DonorStatus).await? {
            Response::Donor(view) => Ok(*view),
            other => Err(unexpected("DonorStatus", &other)),
        }
    }

    /// Returns the connected peers.
    pub async fn peers(&mut self) -> anyhow::Result<Vec<PeerView>> {
        match self.ask(Request::Peers).await? {
            Response::Peers(peers) => Ok(peers),
            other => Err(unexpected("Peers", &other)),
        }
    }

    /// Returns what the node's network side did since position `from`, or keeps what it does from now on.
    pub async fn trace(&mut self, from: Option<u64>) -> anyhow::Result<TracePage> {
        match self.ask(Request::Trace { from }).await? {
            Response::Trace(page) => Ok(page),
            other => Err(unexpected("Trace", &other)),
        }
    }

    /// Keeps a small record or file as a blob.
    pub async fn put_bytes(&mut self, codec: u64, bytes: Vec<u8>) -> anyhow::Result<BlobRef> {
        match self.ask(Request::PutBytes { codec, bytes }).await? {
            Response::Blob(blob) => Ok(blob),
            other => Err(unexpected("PutBytes", &other)),
        }
    }

    /// Returns a small blob.
    pub async fn read(&mut self, cid: Cid) -> anyhow::Result<Vec<u8>> {
        match self.ask(Request::Read { cid }).await? {
            Response::Bytes(bytes) => Ok(bytes),
            other => Err(unexpected("Read", &other)),
        }
    }

    /// Writes a blob to a file.
    pub async fn export(&mut self, cid: Cid, path: &Path) -> anyhow::Result<()> {
        let path = wc_api::path_text(path)?;
        match self.ask(Request::Export { cid, path }).await? {
            Response::Done | Response::Blob(_) => Ok(()),
            other => Err(unexpected("Export", &other)),
        }
    }
}

fn job_of(response: Response) -> anyhow::Result<JobView> {
    match response {
        Response::Job(view) => Ok(*view),
        other => Err(unexpected("Job", &other)),
    }
}
