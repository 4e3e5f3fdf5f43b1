//! `job submit|status|results|logs|explain|list|cancel|receipts`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::json;
use wc_proto::api::view::{ExplainView, JobView, LogView};
use wc_proto::api::{Cancel, CellRequest, Response};
use wc_types::{Class, Code, JobId, Refusal, Signed};

use crate::amount::{show_ago, show_duration, show_ncu};
use crate::cli::{JobCommand, SubmitArgs};
use crate::client::{Failure, Node, unexpected};
use crate::command::{direct, fetch, follow, receipt};
use crate::config::Context;
use crate::exit::Usage;
use crate::progress::Progress;
use crate::{identity, json, manifest, say};

/// A job ended, and not well.
const ENDED_BADLY: Code = Code::new("WC-CLI-003", Class::Caller);

/// Does what the command says.
pub async fn run(context: &Context, command: JobCommand) -> anyhow::Result<()> {
    match command {
        JobCommand::Submit(args) => match (&args.file, &args.executor, &args.workload) {
            (Some(file), ..) => submit(context, file, &args).await,
            (None, Some(executor), Some(workload)) => direct::run(context, executor, workload, &args).await,
            (None, ..) => Err(Usage {
                message: "nothing to submit".to_owned(),
                hint: "give a job file, or --executor with --workload".to_owned(),
            }
            .into()),
        },
        JobCommand::Status { job, watch } => status(context, &job, watch).await,
        JobCommand::Results { job, output, stage } => results(context, &job, &output, stage.as_deref()).await,
        JobCommand::Logs { job } => logs(context, &job).await,
        JobCommand::Explain { job } => explain(context, &job).await,
        JobCommand::List { limit } => list(context, limit).await,
        JobCommand::Cancel { job } => cancel(context, &job).await,
        JobCommand::Receipts { job, output } => receipts(context, &job, &output).await,
    }
}

async fn submit(context: &Context, file: &Path, args: &SubmitArgs) -> anyhow::Result<()> {
    let draft = manifest::load(file).map_err(Failure)?;
    let key = identity::owner_key(context)?;
    let mut node = Node::connect(&context.dir).await?;
    let progress = Progress::new();
    let blobs = manifest::upload(&draft, &mut node, &progress).await?;
    let manifest = Signed::seal(draft.manifest(&blobs, key.account_id(), identity::now()), &key);
    let tasks = manifest.tasks();
    let (job, cid) = node.submit(manifest, args.dry_run).await?;
    if args.dry_run {
        let value =
            json!({ "dry_run": true, "job": job.to_string(), "manifest": cid.to_string(), "tasks": tasks });
        if context.json {
            return Ok(say::json(&value)?);
        }
        say::talk(format!(
            "{} is sound: {}; nothing was submitted",
            file.display(),
            say::count(tasks, "task")
        ));
        return Ok(());
    }
    if !args.watch {
        return announce(context, job, &cid.to_string(), tasks);
    }
    // With --json one document, the job as it ended, goes to standard output.
    if context.json {
        say::talk(job.to_string());
    } else {
        announce(context, job, &cid.to_string(), tasks)?;
    }
    let view = follow::follow(context, job, &progress).await?;
    ended(context, &view)
}

/// Says that a job was accepted.
pub fn announce(context: &Context, job: JobId, manifest: &str, tasks: u64) -> anyhow::Result<()> {
    if context.json {
        let value = json!({ "job": job.to_string(), "manifest": manifest, "tasks": tasks });
        return Ok(say::json(&value)?);
    }
    say::data(job.to_string())?;
    say::talk(format!(
        "accepted: {}. The job goes on if this command ends; to follow it:",
        say::count(tasks, "task")
    ));
    say::talk(format!("  worldcompute job status {} --watch", short(job)));
    Ok(())
}

/// Enough of a job's id to type; the node takes any unambiguous beginning.
pub fn short(job: JobId) -> String {
    job.to_string().chars().take(16).collect()
}

async fn status(context: &Context, job: &str, watch: bool) -> anyhow::Result<()> {
    let mut node = Node::connect(&context.dir).await?;
    let mut view = node.job(job).await?;
    if watch {
        view = follow::follow(context, view.job, &Progress::new()).await?;
    }
    if context.json {
        say::json(&json::view(&view))?;
    } else {
        show(&view)?;
    }
    if watch { verdict(&view) } else { Ok(()) }
}

/// Shows how a job ended; an end that is not the wished one is an error.
fn ended(context: &Context, view: &JobView) -> anyhow::Result<()> {
    if context.json {
        say::json(&json::view(view))?;
    } else {
        show(view)?;
    }
    verdict(view)
}

/// An end that is not the wished one is an error.
pub fn verdict(view: &JobView) -> anyhow::Result<()> {
    use wc_proto::api::view::Phase;
    let how = match view.phase {
        Phase::Failed => "failed",
        Phase::Cancelled => "was cancelled",
        _ => return Ok(()),
    };
    let reason =
        view.reason.as_deref().map(|reason| format!(": {}", say::harmless(reason))).unwrap_or_default();
    let refusal = Refusal::new(ENDED_BADLY, format!("{} {how}{reason}", short(view.job)))
        .hint(format!("worldcompute job logs {}", short(view.job)));
    Err(refusal.into())
}

/// Returns the phase as its stable name.
pub fn phase(view: &JobView) -> String {
    json::view(&view.phase).as_str().unwrap_or_default().to_owned()
}

fn show(view: &JobView) -> anyhow::Result<()> {
    let now = identity::now();
    let took = view.ended_at.unwrap_or(now).since(view.submitted_at);
    say::pairs(&[
        ("job", view.job.to_string()),
        ("name", say::harmless(&view.name)),
        ("phase", phase(view)),
        ("submitted", show_ago(view.submitted_at, now)),
        (if view.phase.is_final() { "took" } else { "since" }, show_duration(took)),
        ("charged", show_ncu(i64::try_from(view.charged).unwrap_or(i64::MAX))),
        ("awarded", show_ncu(i64::try_from(view.awarded).unwrap_or(i64::MAX))),
    ])?;
    if let Some(reason) = &view.reason {
        say::pairs(&[("reason", say::harmless(reason))])?;
    }
    say::data("")?;
    let heading = ["stage", "tasks", "accepted", "active", "pending", "leases", "failed", "replicas"];
    let mut table = say::table(&heading);
    for stage in &view.stages {
        table.add_row([
            say::harmless(&stage.name),
            stage.tasks.to_string(),
            stage.accepted.to_string(),
            stage.active.to_string(),
            stage.pending.to_string(),
            stage.leases.to_string(),
            stage.failed.to_string(),
            stage.replicas.to_string(),
        ]);
    }
    Ok(say::rows(&table, "the job has no stages")?)
}

async fn results(context: &Context, job: &str, output: &Path, stage: Option<&str>) -> anyhow::Result<()> {
    let mut node = Node::connect(&context.dir).await?;
    let view = node.job(job).await?;
    let stage = match stage {
        None => u16::try_from(view.stages.len().saturating_sub(1)).unwrap_or(u16::MAX),
        Some(name) => {
            let found = view.stages.iter().position(|stage| stage.name == name);
            let names: Vec<&str> = view.stages.iter().map(|stage| stage.name.as_str()).collect();
            let found = found.ok_or_else(|| Usage {
                message: format!("job {} has no stage `{name}`", short(view.job)),
                hint: format!("stages: {}", names.join(", ")),
            })?;
            u16::try_from(found).unwrap_or(u16::MAX)
        }
    };
    let name = view.stages.get(usize::from(stage)).map_or("", |stage| stage.name.as_str());
    fetch::directory(output, &format!("results of stage {} of job {}", say::harmless(name), view.job))?;
    let total = view.stages.get(usize::from(stage)).map_or(0, |stage| u64::from(stage.accepted));
    let progress = Progress::new();
    let bar = progress.count("fetching", total);
    let place = |index: u32| fetch::Place {
        dir: output.join(format!("{index:08}")),
        stdout: output.join(format!("{index:08}/stdout")),
    };
    let fetched = fetch::fetch(&mut node, &view.job.to_string(), stage, &place, &bar).await?;
    bar.finish();
    if context.json {
        return Ok(say::json(&json::view(&fetched))?);
    }
    let files: usize = fetched.iter().map(|row| row.files.len()).sum();
    say::talk(format!(
        "{} with {} in {}",
        say::count(fetched.len() as u64, "result"),
        say::count(files as u64, "file"),
        output.display()
    ));
    if !view.phase.is_final() {
        say::talk(format!("the job is still {}: more results may come", phase(&view)));
    }
    Ok(())
}

async fn logs(context: &Context, job: &str) -> anyhow::Result<()> {
    let mut node = Node::connect(&context.dir).await?;
    let mut from = 0;
    let mut all = Vec::new();
    loop {
        let rows = match node.cell(CellRequest::Logs { job: job.to_owned(), from }).await? {
            Response::Logs(rows) => rows,
            other => return Err(unexpected("Logs", &other)),
        };
        let Some(last) = rows.iter().map(|row| row.position).max() else { break };
        // Positions grow; a page that does not would be asked for without end.
        if last < from {
            break;
        }
        from = last.saturating_add(1);
        for row in &rows {
            if !context.json {
                show_log(row)?;
            }
        }
        all.extend(rows);
    }
    if context.json {
        return Ok(say::json(&json::view(&all))?);
    }
    if all.is_empty() {
        say::talk("the log is empty: so far no replica has failed or written to standard error");
    }
    Ok(())
}

fn show_log(row: &LogView) -> anyhow::Result<()> {
    let heading = format!(
        "{} task {}/{} on {}: {}",
        row.at,
        row.stage,
        row.index,
        row.node,
        say::harmless(&row.ending)
    );
    say::data(heading)?;
    for line in say::harmless(&row.stderr).lines() {
        say::data(format!("    {line}"))?;
    }
    Ok(())
}

async fn explain(context: &Context, job: &str) -> anyhow::Result<()> {
    let mut node = Node::connect(&context.dir).await?;
    let view: ExplainView = match node.cell(CellRequest::Explain { job: job.to_owned() }).await? {
        Response::Explain(view) => view,
        other => return Err(unexpected("Explain", &other)),
    };
    if context.json {
        return Ok(say::json(&json::view(&view))?);
    }
    say::data(format!(
        "{} ({}) is {}",
        short(view.job.job),
        say::harmless(&view.job.name),
        phase(&view.job)
    ))?;
    if let Some(reason) = &view.job.reason {
        say::data(format!("  {}", say::harmless(reason)))?;
    }
    for reason in &view.reasons {
        say::data(format!("  {}", say::harmless(reason)))?;
    }
    if !view.nodes.is_empty() {
        say::data("For the first waiting task:")?;
        let mut table = say::table(&["  node", "path", "why not there"]);
        for node in &view.nodes {
            table.add_row([format!("  {}", node.node), say::path(node.path), say::harmless(&node.reason)]);
        }
        say::rows(&table, "")?;
    }
    Ok(())
}

async fn list(context: &Context, limit: u32) -> anyhow::Result<()> {
    let mut node = Node::connect(&context.dir).await?;
    let jobs = match node.cell(CellRequest::Jobs { limit }).await? {
        Response::Jobs(jobs) => jobs,
        other => return Err(unexpected("Jobs", &other)),
    };
    if context.json {
        return Ok(say::json(&json::view(&jobs))?);
    }
    let now = identity::now();
    let mut table =
        say::table(&["job", "name", "phase", "tasks", "accepted", "failed", "submitted", "awarded"]);
    for job in &jobs {
        let sum = |count: fn(&wc_proto::api::view::StageView) -> u32| -> u64 {
            job.stages.iter().map(|stage| u64::from(count(stage))).sum()
        };
        table.add_row([
            short(job.job),
            say::harmless(&job.name),
            phase(job),
            sum(|stage| stage.tasks).to_string(),
            sum(|stage| stage.accepted).to_string(),
            sum(|stage| stage.failed).to_string(),
            show_ago(job.submitted_at, now),
            show_ncu(i64::try_from(job.awarded).unwrap_or(i64::MAX)),
        ]);
    }
    Ok(say::rows(&table, "no job yet")?)
}

async fn cancel(context: &Context, job: &str) -> anyhow::Result<()> {
    let key = identity::owner_key(context)?;
    let mut node = Node::connect(&context.dir).await?;
    let view = node.job(job).await?;
    let wish = Cancel { job: view.job, submitter: key.account_id(), at: identity::now() };
    let answer = node.cell(CellRequest::Cancel(Box::new(Signed::seal(wish, &key)))).await?;
    if !matches!(answer, Response::Done | Response::Job(_)) {
        return Err(unexpected("Cancel", &answer));
    }
    if context.json {
        return Ok(say::json(&json!({ "cancelled": view.job.to_string() }))?);
    }
    say::talk(format!("cancelled {}", short(view.job)));
    Ok(())
}

async fn receipts(context: &Context, job: &str, output: &Path) -> anyhow::Result<()> {
    let mut node = Node::connect(&context.dir).await?;
    let view = node.job(job).await?;
    fetch::directory(output, &format!("receipts of job {}", view.job))?;
    let progress = Progress::new();
    let bar = progress.count("receipts", 0);
    let fetched = receipt::fetch(&mut node, &view, output, &bar).await?;
    bar.finish();
    let files: Vec<PathBuf> = fetched.written;
    // What was accepted before we asked, and is under no signed checkpoint yet.
    let accepted: u64 = view.stages.iter().map(|stage| u64::from(stage.accepted)).sum();
    let unsigned = accepted.saturating_sub(files.len() as u64);
    if context.json {
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        say::json(&json!({ "files": files, "verified": fetched.verified, "not_yet_signed": unsigned }))?;
    } else {
        say::talk(format!(
            "{} in {}, {} verified",
            say::count(files.len() as u64, "receipt"),
            output.display(),
            fetched.verified
        ));
    }
    if !fetched.refusals.is_empty() {
        return Err(Failure(fetched.refusals).into());
    }
    if unsigned > 0 {
        say::talk(format!(
            "{} not yet under a signed checkpoint: give the same command again in a moment",
            match unsigned {
                1 => "1 accepted task is".to_owned(),
                several => format!("{several} accepted tasks are"),
            }
        ));
    }
    if files.is_empty() && unsigned == 0 {
        bail!("no task of job {} has been accepted yet", short(view.job));
    }
    Ok(())
}

/// Connects again, for commands that outlive a connection.
pub async fn reconnect(context: &Context) -> anyhow::Result<Node> {
    Node::connect(&context.dir).await.context("lost the node")
}
