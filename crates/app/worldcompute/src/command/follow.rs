//! Following a job until it ends, through restarts of the node and the coordinator.

use std::time::{Duration, Instant};

use wc_proto::api::view::{JobView, StageView};
use wc_types::{Class, JobId};

use crate::amount::show_ncu;
use crate::client::Node;
use crate::command::job::{phase, reconnect};
use crate::config::Context;
use crate::exit::refusals;
use crate::progress::{Bar, Progress};

/// How long a node or a coordinator may be gone before following gives up.
const GONE_MAX: Duration = Duration::from_secs(120);
/// Time between two attempts to reach it.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Shows a job's progress until it ends.
pub async fn follow(context: &Context, job: JobId, progress: &Progress) -> anyhow::Result<JobView> {
    let mut node = reconnect(context).await?;
    let id = job.to_string();
    let mut seen = 0;
    let mut bar: Option<Bar> = None;
    let mut gone_since: Option<Instant> = None;
    loop {
        match node.watch(&id, seen).await {
            Ok(view) => {
                gone_since = None;
                seen = view.revision;
                let bar = bar.get_or_insert_with(|| progress.count(&crate::say::harmless(&view.name), 0));
                show(bar, &view, "");
                if view.phase.is_final() {
                    bar.stand();
                    return Ok(view);
                }
            }
            Err(error) => {
                let since = *gone_since.get_or_insert_with(Instant::now);
                if !may_pass(&error) || since.elapsed() > GONE_MAX {
                    return Err(error);
                }
                if let Some(bar) = &bar {
                    bar.message("out of reach; the job goes on without us");
                }
                tokio::time::sleep(RETRY_EVERY).await;
                if let Ok(again) = Node::connect(&context.dir).await {
                    node = again;
                }
            }
        }
    }
}

/// Whether an error may be gone in a moment: nobody answers, or nobody can be reached.
fn may_pass(error: &anyhow::Error) -> bool {
    refusals(error).iter().all(|refusal| {
        refusal.code.starts_with("WC-API-")
            || matches!(refusal.class, Class::Peer | Class::Exhausted | Class::Host)
    })
}

/// Shows one state of a job on its bar; `extra` goes behind it.
pub fn show(bar: &Bar, view: &JobView, extra: &str) {
    let sum = |count: fn(&StageView) -> u32| -> u64 {
        view.stages.iter().map(|stage| u64::from(count(stage))).sum()
    };
    let accepted = sum(|stage| stage.accepted);
    let awarded = show_ncu(i64::try_from(view.awarded).unwrap_or(i64::MAX));
    let message = format!(
        "{}, {} running, {accepted} agreed, {} failed, {awarded}{extra}",
        phase(view),
        sum(|stage| stage.leases),
        sum(|stage| stage.failed),
    );
    bar.set(accepted, sum(|stage| stage.tasks), &message);
}
