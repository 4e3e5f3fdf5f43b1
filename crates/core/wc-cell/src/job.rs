//! One submitted workflow.
//!
//! ```text
//! Staging ──staged──► Open ──every stage complete──► Ended(completed)
//!    │                  │
//!    └──────────────────┴── failed, cancelled ──► Ended
//! ```

use serde::{Deserialize, Serialize};
use wc_scheduler::Requirement;
use wc_types::charter::Charter;
use wc_types::entry::JobEnd;
use wc_types::manifest::{InputSource, Manifest, Stage};
use wc_types::{AccountId, Bytes, Cid, JobId, MicroNcu, Timestamp};

use crate::stage::StageTasks;

/// Number of a job inside the cell, in order of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct JobNo(pub(crate) u32);

/// Where a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum JobState {
    /// Its artifacts and inputs are being made local.
    Staging,
    /// Its tasks run.
    Open,
    /// It is over.
    Ended {
        /// How.
        end: JobEnd,
        /// When.
        at: Timestamp,
        /// Why, when it was not completed.
        reason: Option<String>,
    },
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) no: JobNo,
    pub(crate) id: JobId,
    pub(crate) manifest: Manifest,
    pub(crate) manifest_cid: Cid,
    pub(crate) admitted_at: Timestamp,
    pub(crate) state: JobState,
    pub(crate) stages: Vec<StageTasks>,
    /// What it is expected to cost at most.
    pub(crate) estimate: MicroNcu,
    /// What the submitter paid so far.
    pub(crate) charged: MicroNcu,
    /// What donors earned so far.
    pub(crate) awarded: MicroNcu,
    /// Its score while it waits in the queue.
    pub(crate) rank: Option<u32>,
    /// The task that failed for good.
    pub(crate) failed: Option<(u16, u32)>,
    /// Whether its results, verdicts and logs are kept no longer. The job itself stays, so that it cannot be submitted
    /// again.
    #[serde(default)]
    pub(crate) forgotten: bool,
    /// For each stage the most bytes that one task reads from lists of inputs; empty when no stage has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) listed: Vec<Bytes>,
}

impl Job {
    pub(crate) fn submitter(&self) -> AccountId {
        self.manifest.submitter
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state == JobState::Open
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, JobState::Ended { .. })
    }

    /// Returns a stage as the submitter described it.
    pub(crate) fn spec(&self, stage: u16) -> Option<&Stage> {
        self.manifest.stages.get(usize::from(stage))
    }

    pub(crate) fn tasks(&self, stage: u16) -> Option<&StageTasks> {
        self.stages.get(usize::from(stage))
    }

    pub(crate) fn tasks_mut(&mut self, stage: u16) -> Option<&mut StageTasks> {
        self.stages.get_mut(usize::from(stage))
    }

    /// Returns the stages in which some node might take something.
    pub(crate) fn working(&self) -> impl Iterator<Item = u16> {
        let open = self.is_open();
        let stages = (0u16..).zip(self.stages.iter().zip(&self.manifest.stages));
        stages.filter(move |(_, (tasks, spec))| open && tasks.has_work(spec.tasks)).map(|(number, _)| number)
    }

    /// Returns the most bytes that a machine which has nothing of the job yet moves for one replica, as far as it is
    /// known beforehand: module, inputs, declared outputs, standard output. What a guest leaves undeclared is not counted:
    /// its bound is the same for every job, and says nothing of this one.
    pub(crate) fn replica_bytes(&self, stage: u16) -> Bytes {
        let declared = |spec: &Stage| {
            let files = spec.outputs.iter().map(|output| output.bytes_max.0);
            files.fold(spec.resources.stdout.0, u64::saturating_add)
        };
        let Some(spec) = self.spec(stage) else { return Bytes(0) };
        let inputs = spec.inputs.iter().map(|input| match input.source {
            InputSource::Blob(blob) => blob.bytes.0,
            // In the sum of its lists, below.
            InputSource::Each(_) => 0,
            InputSource::Stage(earlier) => {
                self.spec(earlier).map_or(0, |spec| declared(spec).saturating_mul(u64::from(spec.tasks)))
            }
        });
        let listed = self.listed.get(usize::from(stage)).map_or(0, |bytes| bytes.0);
        let fixed = [spec.workload.bytes.0, listed, declared(spec)];
        Bytes(inputs.chain(fixed).fold(0, u64::saturating_add))
    }

    /// Returns what a stage requires of a node.
    pub(crate) fn requirement(&self, stage: &Stage, charter: &Charter) -> Requirement {
        Requirement {
            class: self.manifest.class,
            memory: stage.resources.memory,
            cpu_millicores: stage.resources.cpu_millicores,
            replicas: stage.replicas,
            placement: self.manifest.placement,
            caliber_min: stage.resources.caliber.filter(|wish| !wish.lower_accepted).map(|wish| wish.class),
            t0_replicas_min: if charter.nodes_trusted { 1 } else { charter.t0_replicas_min },
        }
    }
}
