//! Why a job is where it is, in words.

use wc_scheduler::{Reason, is_heavy, may_run};
use wc_types::{Bytes, JobId, NodeId};

use crate::cell::Cell;
use crate::job::Job;
use crate::matching::may_join;
use crate::node::NodeNo;
use crate::pool::{able, count};
use crate::task::Task;
use crate::view::{JobView, StageView};

/// Most waiting tasks of one stage that are explained one by one.
const TASKS_EXPLAINED_MAX: usize = 8;

/// Why one task waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingTask {
    /// Its index.
    pub index: u32,
    /// Replicas that it lacks.
    pub missing: u8,
    /// What each node has against it; `None` for a node that could take it.
    pub nodes: Vec<(NodeId, Option<String>)>,
    /// Machines that tried it, and why they did not finish.
    pub faults: Vec<(NodeId, String)>,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageExplanation {
    /// It in numbers.
    pub counts: StageView,
    /// Most bytes that one replica moves, as far as it is known beforehand.
    pub replica_bytes: Bytes,
    /// Whether these are so many that nodes with better paths are asked first.
    pub is_heavy: bool,
    /// What it waits for as a whole, if it does.
    pub waits_for: Option<String>,
    /// Some of its waiting tasks, oldest first.
    pub waiting: Vec<WaitingTask>,
}

/// Why a job is where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The job.
    pub job: JobView,
    /// Its stages, in order.
    pub stages: Vec<StageExplanation>,
}

impl Cell {
    /// Explains a job.
    pub fn explain(&self, id: &JobId) -> Option<Explanation> {
        let job = self.job_by_id(id)?;
        let view = self.job(id)?;
        let stages = (0u16..).zip(view.stages.iter().cloned());
        let stages = stages.map(|(stage, counts)| self.explain_stage(job, stage, counts)).collect();
        Some(Explanation { job: view, stages })
    }

    fn explain_stage(&self, job: &Job, stage: u16, counts: StageView) -> StageExplanation {
        let mut waiting = Vec::new();
        let mut waits_for = None;
        if let (Some(spec), Some(tasks)) = (job.spec(stage), job.tasks(stage)) {
            let names = spec.dependencies().into_iter().filter_map(|earlier| {
                let done = job.tasks(earlier)?.results.accepted() >= job.spec(earlier)?.tasks;
                (!done).then(|| job.spec(earlier).map(|spec| spec.name.clone()))?
            });
            let names: Vec<String> = names.collect();
            if !job.has_ended() && !job.is_open() {
                waits_for = Some("its artifacts and inputs to be staged".to_owned());
            } else if !job.has_ended() && !names.is_empty() {
                waits_for = Some(format!("stage {}", names.join(", ")));
            } else if let (true, Some(halt)) = (job.is_open(), self.halt_reason()) {
                waits_for = Some(format!("the end of a halt of the whole cell: {halt}"));
            } else if job.is_open() {
                let open = tasks
                    .retries
                    .iter()
                    .chain(tasks.fresh.iter())
                    .filter(|index| tasks.live.get(index).is_some_and(|task| !task.accepted));
                let fresh = (tasks.cursor < spec.tasks).then_some(tasks.cursor);
                for index in open.chain(fresh).take(TASKS_EXPLAINED_MAX) {
                    let unstarted = Task::default();
                    let task = tasks.live.get(&index).unwrap_or(&unstarted);
                    waiting.push(self.explain_task(job, stage, index, task));
                }
            }
        }
        let replica_bytes = job.replica_bytes(stage);
        StageExplanation { counts, replica_bytes, is_heavy: is_heavy(replica_bytes), waits_for, waiting }
    }

    fn explain_task(&self, job: &Job, stage: u16, index: u32, task: &Task) -> WaitingTask {
        let replicas = job.spec(stage).map_or(0, |spec| spec.replicas);
        let held = u8::try_from(task.replicas.len()).unwrap_or(u8::MAX);
        let nodes = (0u32..).zip(&self.nodes).map(|(no, node)| {
            let banned = self.ban_refusal(&node.id).map(|refusal| refusal.message);
            let against =
                || self.against(job, stage, task, NodeNo(no)).err().map(|reason| reason.to_string());
            (node.id, banned.or_else(against))
        });
        let faults = task.faults.iter().map(|fault| (self.node_id(fault.node), fault.reason.clone()));
        WaitingTask {
            index,
            missing: replicas.saturating_sub(held),
            nodes: nodes.collect(),
            faults: faults.collect(),
        }
    }

    /// Returns what speaks against a node taking a task.
    fn against(&self, job: &Job, stage: u16, task: &Task, no: NodeNo) -> Result<(), Reason> {
        let (Some(spec), Some(charter), Some(node)) = (job.spec(stage), self.charter(), self.node_at(no))
        else {
            return Err(Reason::Offline);
        };
        let needs = job.requirement(spec, charter);
        may_run(&node.candidate(self.now), &needs)?;
        let counts = count(&needs, &self.nodes, self.now);
        let present = counts.get(&node.capabilities.engine).copied().unwrap_or(0);
        may_join(node, task, &self.nodes, &needs, able(&needs, &counts))?;
        let needed = wc_quorum::required(needs.replicas);
        if task.replicas.is_empty() && present < usize::from(needed) {
            return Err(Reason::TooFewPeers { needed, present: u8::try_from(present).unwrap_or(u8::MAX) });
        }
        if !self.hungry.contains(&no) {
            return Err(Reason::NotAsking);
        }
        Ok(())
    }
}
