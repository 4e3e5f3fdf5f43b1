//! Station 3: everything a job names is made local, checked and pinned, before anybody is asked to run it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use wc_cell::Event;
use wc_store::Store;
use wc_types::manifest::{InputList, InputSource, Manifest, Stage};
use wc_types::{Bytes, Cid, JobId, NodeId, from_canonical};

use crate::blobs;
use crate::coordinator::{Coordinator, lock};

/// Attempts at fetching one job's blobs before its submitter is told that they cannot be had.
const ATTEMPTS_MAX: u32 = 5;

/// Jobs on their way into the store: who has their blobs, and which are wanted now.
pub(crate) struct Staging {
    holders: Mutex<HashMap<JobId, Expected>>,
    wanted: mpsc::UnboundedSender<JobId>,
}

struct Expected {
    holders: Vec<NodeId>,
    /// Everything was local at submission; its `JobStaged` follows the submission in the same batch.
    here: bool,
}

impl Staging {
    /// Returns the register and the end at which wanted jobs come out.
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<JobId>) {
        let (wanted, jobs) = mpsc::unbounded_channel();
        (Arc::new(Self { holders: Mutex::default(), wanted }), jobs)
    }

    /// Notes who has the blobs of a job that is about to be submitted.
    pub fn expect(&self, job: JobId, holders: Vec<NodeId>, here: bool) {
        lock(&self.holders).insert(job, Expected { holders, here });
    }

    /// The cell wants the job's blobs. Bounded by the cell's limit on open jobs.
    pub fn wanted(&self, job: JobId) {
        if lock(&self.holders).get(&job).is_some_and(|expected| expected.here) {
            return;
        }
        let _ = self.wanted.send(job);
    }

    /// The job has ended; nobody will ask for its blobs again.
    pub fn ended(&self, job: &JobId) {
        lock(&self.holders).remove(job);
    }

    fn holders_of(&self, job: &JobId) -> Vec<NodeId> {
        lock(&self.holders).get(job).map(|expected| expected.holders.clone()).unwrap_or_default()
    }
}

/// Stages every job that the cell wants, each in its own task, until the node stops.
pub(crate) async fn run(coordinator: Arc<Coordinator>, mut jobs: mpsc::UnboundedReceiver<JobId>) {
    while let Some(job) = jobs.recv().await {
        let coordinator = coordinator.clone();
        tokio::spawn(async move {
            let event = match stage(&coordinator, job).await {
                Ok(listed) => Event::JobStaged { job, listed },
                Err(reason) => {
                    tracing::warn!(%job, reason, "job cannot be staged");
                    Event::StagingFailed { job, reason }
                }
            };
            // The brain only stops with the node.
            let _ = coordinator.brain.events(vec![event]).await;
        });
    }
}

async fn stage(coordinator: &Coordinator, job: JobId) -> Result<Vec<Bytes>, String> {
    let manifest = coordinator
        .archive
        .manifest(&job)
        .map_err(|error| error.to_string())?
        .ok_or("the job's manifest is not in the archive")?;
    for list in lists(&manifest) {
        fetch(coordinator, &job, list).await?;
    }
    for (position, stage) in manifest.stages.iter().enumerate() {
        for input in &stage.inputs {
            let InputSource::Each(list) = &input.source else { continue };
            let items = read_list(&coordinator.store, list)?.items.len();
            if items != stage.tasks as usize {
                return Err(format!(
                    "stages[{position}] has {} tasks but its input `{}` lists {items} items",
                    stage.tasks, input.name
                ));
            }
        }
    }
    for cid in named(&coordinator.store, &manifest)? {
        fetch(coordinator, &job, cid).await?;
    }
    pin(&coordinator.store, &job, &manifest);
    Ok(listed(&coordinator.store, &manifest))
}

async fn fetch(coordinator: &Coordinator, job: &JobId, cid: Cid) -> Result<(), String> {
    let mut cause = String::new();
    for attempt in 0..ATTEMPTS_MAX {
        if blobs::has(&coordinator.store, &cid) {
            return Ok(());
        }
        let mut holders = coordinator.staging.holders_of(job);
        if holders.is_empty() {
            // After a restart nobody remembers who submitted: ask whoever is connected.
            holders = coordinator.mesh.peers().await.into_iter().map(|peer| peer.node).take(16).collect();
        }
        match blobs::fetch(&coordinator.mesh, &coordinator.store, cid, &holders).await {
            Ok(()) => return Ok(()),
            Err(error) => cause = error,
        }
        tokio::time::sleep(std::time::Duration::from_millis(200 << attempt)).await;
    }
    Err(format!("blob {cid} cannot be fetched from the submitter: {cause}"))
}

fn lists(manifest: &Manifest) -> Vec<Cid> {
    let inputs = manifest.stages.iter().flat_map(|stage| &stage.inputs);
    inputs
        .filter_map(|input| match &input.source {
            InputSource::Each(list) => Some(*list),
            InputSource::Blob(_) | InputSource::Stage(_) => None,
        })
        .collect()
}

/// Reads an input list.
pub(crate) fn read_list(store: &Store, list: &Cid) -> Result<InputList, String> {
    let bytes = blobs::read(store, list, wc_types::canonical::RECORD_BYTES_MAX)?;
    from_canonical(&bytes).map_err(|error| format!("input list {list}: {error}"))
}

/// Returns for each stage the most bytes that one task reads from lists of inputs, whose sizes the manifest does not say;
/// nothing when no stage has a list.
pub(crate) fn listed(store: &Store, manifest: &Manifest) -> Vec<Bytes> {
    if lists(manifest).is_empty() {
        return Vec::new();
    }
    let largest = |list: &Cid| {
        let items = read_list(store, list).map(|list| list.items).unwrap_or_default();
        items.iter().map(|item| item.blob.bytes.0).max().unwrap_or(0)
    };
    let of_stage = |stage: &Stage| {
        let lists = stage.inputs.iter().filter_map(|input| match &input.source {
            InputSource::Each(list) => Some(largest(list)),
            InputSource::Blob(_) | InputSource::Stage(_) => None,
        });
        Bytes(lists.fold(0, u64::saturating_add))
    };
    manifest.stages.iter().map(of_stage).collect()
}

/// Every blob that the manifest names, once its lists are here.
fn named(store: &Store, manifest: &Manifest) -> Result<Vec<Cid>, String> {
    let mut cids = lists(manifest);
    for stage in &manifest.stages {
        cids.push(stage.workload.cid);
        for input in &stage.inputs {
            match &input.source {
                InputSource::Blob(blob) => cids.push(blob.cid),
                InputSource::Each(list) => {
                    cids.extend(read_list(store, list)?.items.iter().map(|item| item.blob.cid));
                }
                InputSource::Stage(_) => {}
            }
        }
    }
    cids.sort_unstable();
    cids.dedup();
    Ok(cids)
}

/// Returns whether everything that the manifest names is here and its lists have the right length.
pub(crate) fn is_here(store: &Store, manifest: &Manifest) -> bool {
    let lengths = manifest.stages.iter().all(|stage| {
        stage.inputs.iter().all(|input| match &input.source {
            InputSource::Each(list) => {
                read_list(store, list).is_ok_and(|list| list.items.len() == stage.tasks as usize)
            }
            InputSource::Blob(_) | InputSource::Stage(_) => true,
        })
    });
    lengths && named(store, manifest).is_ok_and(|cids| cids.iter().all(|cid| blobs::has(store, cid)))
}

/// Who pins what a job reads; what it produces is pinned under the job's own name and stays.
fn inputs_of(job: &JobId) -> String {
    format!("{job}/in")
}

/// Pins what the manifest names while the job runs.
pub(crate) fn pin(store: &Store, job: &JobId, manifest: &Manifest) {
    let owner = inputs_of(job);
    for cid in named(store, manifest).unwrap_or_default() {
        if let Err(error) = blobs::pin(store, &cid, &owner) {
            tracing::warn!(%job, %cid, %error, "blob cannot be pinned");
        }
    }
}

/// Lets go of what the manifest names once the job has ended; it stays until room is needed.
pub(crate) fn unpin(store: &Store, job: &JobId, manifest: &Manifest) {
    let owner = inputs_of(job);
    for cid in named(store, manifest).unwrap_or_default() {
        if let Err(error) = blobs::unpin(store, &cid, &owner) {
            tracing::warn!(%job, %cid, %error, "blob cannot be unpinned");
        }
    }
}
