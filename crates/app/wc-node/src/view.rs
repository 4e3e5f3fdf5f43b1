//! The cell's values in the words of the API.

use std::hash::{DefaultHasher, Hash, Hasher};

use wc_cell::{Cell, Explanation, JobPhase, ReplicaPhase, TaskPhase};
use wc_proto::api::view::{
    AccountView, ExplainView, JobView, NodeReason, NodeView, Phase, ReplicaView, StageView, TaskView,
};
use wc_types::Cid;
use wc_types::entry::Standing;
use wc_types::outcome::Exit;

/// Characters of a guest's ending that a job's reason repeats: enough for every limit and the name of a file.
const ENDING_CHARS_MAX: usize = 300;

/// Returns lower-case hexadecimal text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn phase(phase: JobPhase) -> Phase {
    match phase {
        JobPhase::Staging => Phase::Staging,
        JobPhase::Queued => Phase::Queued,
        JobPhase::Leased => Phase::Leased,
        JobPhase::Running => Phase::Running,
        JobPhase::Verifying => Phase::Verifying,
        JobPhase::Verified => Phase::Verified,
        JobPhase::Failed => Phase::Failed,
        JobPhase::Cancelled => Phase::Cancelled,
    }
}

/// Returns a number that differs when anything differs that a watcher would show.
pub(crate) fn revision(job: &wc_cell::JobView) -> u64 {
    let mut hasher = DefaultHasher::new();
    phase(job.phase).hash(&mut hasher);
    job.awarded.hash(&mut hasher);
    for stage in &job.stages {
        (stage.pending, stage.active, stage.accepted, stage.failed, stage.replicas_running).hash(&mut hasher);
    }
    hasher.finish()
}

/// Returns a job, and the record that says how its guest ended if that is what failed it.
pub(crate) fn job(job: wc_cell::JobView, cell: &Cell) -> (JobView, Option<Cid>) {
    let failed_result = job.failed_result;
    let revision = revision(&job);
    let replicas: Vec<u8> = cell
        .manifest(&job.id)
        .map(|manifest| manifest.stages.iter().map(|stage| stage.replicas).collect())
        .unwrap_or_default();
    let view = JobView {
        job: job.id,
        name: job.name,
        manifest: job.manifest,
        submitter: job.submitter,
        phase: phase(job.phase),
        revision,
        stages: job.stages.into_iter().zip(replicas).map(|(view, replicas)| stage(view, replicas)).collect(),
        submitted_at: job.submitted_at,
        ended_at: job.ended_at,
        reason: job.reason,
        charged: job.charged.0,
        awarded: job.awarded.0,
    };
    (view, failed_result)
}

/// Adds to a job's reason how its guest ended, in at most [`ENDING_CHARS_MAX`] characters. The words come from a
/// stranger's guest, so they are read for each answer and never become part of the cell.
pub(crate) fn add_ending(job: &mut JobView, exit: &Exit) {
    let told = exit.to_string();
    let mut ending: String = told
        .chars()
        .map(|letter| if letter.is_control() { '\u{fffd}' } else { letter })
        .take(ENDING_CHARS_MAX)
        .collect();
    if told.chars().nth(ENDING_CHARS_MAX).is_some() {
        ending.push('…');
    }
    job.reason =
        Some(job.reason.take().map_or_else(|| ending.clone(), |reason| format!("{reason}: {ending}")));
}

fn stage(stage: wc_cell::StageView, replicas: u8) -> StageView {
    StageView {
        name: stage.name,
        replicas,
        tasks: stage.tasks,
        pending: stage.pending,
        active: stage.active,
        accepted: stage.accepted,
        failed: stage.failed,
        leases: stage.replicas_running,
    }
}

/// Returns an account.
pub(crate) fn account(account: &wc_cell::AccountView) -> AccountView {
    AccountView {
        identity_id: account.account,
        balance_micro_ncu: account.balance.0,
        as_of_entry_id: account.as_of,
        as_of_timestamp: account.at,
        ledger_size: account.ledger_size,
        caliber_class: account.caliber,
        trailing_30d_earn_rate: account.floor.0 / 30,
        decay_floor_micro_ncu: account.floor.0,
        last_decay_applied_at: account.faded_at,
        next_decay_at: account.fades_at,
        acceleration_ppm: account.acceleration.0,
        earned: account.earned.0,
        spent: account.spent.0,
        lost: account.lost.0,
        expires_at: account.expires_at,
    }
}

/// Returns why a job is not further, and the record that says how its guest ended if that is what failed it.
pub(crate) fn explained(explanation: Explanation, cell: &Cell) -> (ExplainView, Option<Cid>) {
    let mut reasons = Vec::new();
    let mut nodes = Vec::new();
    for stage in &explanation.stages {
        let name = &stage.counts.name;
        if let Some(waits_for) = &stage.waits_for {
            reasons.push(format!("stage {name} waits for {waits_for}"));
        }
        if stage.is_heavy && !stage.waiting.is_empty() {
            let mebibytes = stage.replica_bytes.0 >> 20;
            reasons.push(format!(
                "a replica of stage {name} moves up to {mebibytes} MiB: free nodes of the coordinator's own network are \
                 asked first, then those reached directly, then those behind relays"
            ));
        }
        for task in &stage.waiting {
            reasons.push(format!("task {name}/{} lacks {} replica(s)", task.index, task.missing));
            for (node, fault) in &task.faults {
                reasons.push(format!("task {name}/{} did not finish on {node}: {fault}", task.index));
            }
            if nodes.is_empty() {
                nodes.extend(task.nodes.iter().map(|(node, reason)| NodeReason {
                    node: *node,
                    path: cell.node(node).and_then(|node| node.path),
                    reason:
                        reason.clone().unwrap_or_else(|| "could take it as soon as it asks for work".into()),
                }));
            }
        }
    }
    let (job, failed_result) = job(explanation.job, cell);
    (ExplainView { job, reasons, nodes }, failed_result)
}

/// Returns a task.
pub(crate) fn task(task: wc_cell::TaskView) -> TaskView {
    let state = match task.phase {
        TaskPhase::Pending => "pending",
        TaskPhase::Running => "running",
        TaskPhase::Verifying => "verifying",
        TaskPhase::Accepted => "accepted",
        TaskPhase::Failed => "failed",
    };
    let replica = |replica: &wc_cell::ReplicaView| ReplicaView {
        lease: replica.lease,
        node: replica.node,
        state: match replica.phase {
            ReplicaPhase::Leased => "leased",
            ReplicaPhase::Committed => "committed",
            ReplicaPhase::Reported => "reported",
        }
        .to_owned(),
    };
    TaskView {
        stage: task.id.stage,
        index: task.id.index,
        state: state.to_owned(),
        replicas: task.replicas.iter().map(replica).collect(),
        result: task.result,
    }
}

/// Returns a node.
pub(crate) fn node(node: wc_cell::NodeView, cell: &Cell) -> NodeView {
    let state = match (node.standing, node.online, node.paused) {
        (Standing::Quarantined, ..) => "quarantined",
        (Standing::Good, false, _) if node.left => "left",
        (Standing::Good, false, _) => "offline",
        (Standing::Good, true, true) => "paused",
        (Standing::Good, true, false) => "online",
    };
    NodeView {
        node: node.id,
        owner: node.owner,
        state: state.to_owned(),
        slots: node.capabilities.slots,
        leases: node.leases,
        trust_ppm: node.score.0,
        tier: format!("{:?}", node.tier),
        path: node.path,
        agreed: node.agreed,
        dissented: node.dissented,
        owner_balance: i64::try_from(cell.balance(&node.owner).0).unwrap_or(i64::MAX),
        consents: node.consents,
        agent_version: node.agent_version,
    }
}
