//! `demo`: a whole federation on this machine, two real jobs, and something to look at.

mod federation;
mod kmer;
mod picture;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use wc_proto::api::view::{JobView, Phase};
use wc_types::manifest::WorkClass;
use wc_types::{JobId, Millis, Signed};

use crate::amount::{show_duration, show_ncu};
use crate::cli::DemoArgs;
use crate::client::{Failure, Node};
use crate::command::{follow, job, receipt};
use crate::config::Context;
use crate::manifest::{self, Draft};
use crate::progress::Progress;
use crate::{identity, json, say};
use federation::Federation;

/// Rows of the table of words that are shown.
const WORDS_SHOWN: usize = 15;
/// Time between two looks at a job whose node did not answer.
const RETRY_EVERY: Duration = Duration::from_millis(300);
/// Longest silence of the coordinator before the demo gives up.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Somebody wants the demo to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; the federation was stopped and removed")]
struct Interrupted;

/// Runs the demo; whatever happens, the federation is stopped and removed unless it is to be kept.
pub async fn run(context: &Context, args: &DemoArgs) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let begun = Instant::now();
    fs::create_dir_all(&args.out).with_context(|| format!("could not make {}", args.out.display()))?;
    let mut federation = Federation::new(args.donors, args.keep)?;
    let shown = tokio::select! {
        shown = show(context, args, &mut federation, begun) => shown,
        _ = interrupt.recv() => Err(Interrupted.into()),
        _ = terminate.recv() => Err(Interrupted.into()),
    };
    match shown {
        Ok(()) if args.keep => {
            federation.leave_running();
            Ok(())
        }
        Ok(()) => {
            federation.stop().await;
            Ok(())
        }
        Err(error) => {
            // Whoever ends the demo knows why it ended; after anything else the logs may tell.
            let log = if error.is::<Interrupted>() { String::new() } else { federation.last_words() };
            federation.stop().await;
            if !log.is_empty() {
                say::talk(log);
            }
            Err(error)
        }
    }
}

async fn show(
    context: &Context,
    args: &DemoArgs,
    federation: &mut Federation,
    begun: Instant,
) -> anyhow::Result<()> {
    let progress = Progress::new();
    progress.say(&format!(
        "Starting one coordinator and {} donors, each a process of its own, in {}",
        args.donors,
        federation.dir().display()
    ));
    let spinner = progress.wait("federation");
    federation.start()?;
    let formed = Instant::now();
    federation.wait(&spinner).await?;
    spinner.finish();
    progress.say(&format!(
        "They found each other by themselves in {}. Every task runs on 3 donors, and 2 must agree.",
        elapsed(formed)
    ));

    let mut node = federation.connect().await?;
    let picture = submit(federation, &mut node, &picture::draft(), &progress).await?;
    let census = submit(federation, &mut node, &kmer::draft()?, &progress).await?;
    let (picture, census) =
        tokio::try_join!(watch(federation, picture, &progress), watch(federation, census, &progress))?;
    for view in [&picture, &census] {
        job::verdict(view)?;
    }

    let image = args.out.join("fractal.png");
    picture::assemble(&mut node, &picture.job.to_string(), &image).await?;
    let table = args.out.join("kmers.tsv");
    let words = kmer::fetch(&mut node, &census.job.to_string(), &table).await?;
    let receipts = args.out.join("receipts");
    let bar = progress.count("receipts", 0);
    let mut verified = 0;
    let mut written = 0;
    for view in [&picture, &census] {
        let fetched = receipt::fetch(&mut node, view, &receipts.join(&view.name), &bar).await?;
        if !fetched.refusals.is_empty() {
            return Err(Failure(fetched.refusals).into());
        }
        verified += fetched.verified;
        written += fetched.written.len();
    }
    bar.finish();
    let report = Report { image: &image, table: &table, receipts: &receipts, written, verified };
    report.print(context, &picture, &census, &words, begun)?;
    if args.keep {
        keep(federation);
    }
    Ok(())
}

async fn submit(
    federation: &Federation,
    node: &mut Node,
    draft: &Draft,
    progress: &Progress,
) -> anyhow::Result<JobId> {
    let faults = manifest::check(draft, &draft.name);
    if !faults.is_empty() {
        return Err(Failure(faults).into());
    }
    let key = federation.submitter()?;
    let blobs = manifest::upload(draft, node, progress).await?;
    let manifest = Signed::seal(draft.manifest(&blobs, key.account_id(), identity::now()), &key);
    let (job, _) = node.submit(manifest, false).await?;
    Ok(job)
}

/// Shows one job's progress until it ends, on a connection of its own.
async fn watch(federation: &Federation, id: JobId, progress: &Progress) -> anyhow::Result<JobView> {
    let mut node = federation.connect().await?;
    let mut seen = 0;
    let mut bar = None;
    let mut heard = Instant::now();
    loop {
        match node.watch(&id.to_string(), seen).await {
            Ok(view) => {
                heard = Instant::now();
                seen = view.revision;
                let bar = bar.get_or_insert_with(|| progress.count(&view.name, 0));
                // What nodes found against the majority is counted by node, over both jobs.
                let dissents: u64 = match node.nodes().await {
                    Ok(nodes) => nodes.iter().map(|node| node.dissented).sum(),
                    Err(_) => 0,
                };
                follow::show(bar, &view, &format!(", {dissents} dissents"));
                if view.phase.is_final() {
                    bar.stand();
                    return Ok(view);
                }
            }
            Err(error) => {
                if heard.elapsed() > SILENCE_MAX {
                    return Err(error);
                }
                federation.check()?;
                tokio::time::sleep(RETRY_EVERY).await;
                if let Ok(again) = federation.connect().await {
                    node = again;
                }
            }
        }
    }
}

struct Report<'a> {
    image: &'a Path,
    table: &'a Path,
    receipts: &'a Path,
    written: usize,
    verified: usize,
}

impl Report<'_> {
    fn print(
        &self,
        context: &Context,
        picture: &JobView,
        census: &JobView,
        words: &kmer::Census,
        begun: Instant,
    ) -> anyhow::Result<()> {
        if self.verified != self.written
            || picture.phase != Phase::Verified
            || census.phase != Phase::Verified
        {
            bail!("{} of {} receipts verified", self.verified, self.written);
        }
        if context.json {
            let rows: Vec<_> =
                words.top.iter().map(|(word, count)| json!({ "word": word, "count": count })).collect();
            return Ok(say::json(&json!({
                "picture": self.image.display().to_string(),
                "kmers": self.table.display().to_string(),
                "kmers_top": rows,
                "kmers_distinct": words.distinct,
                "receipts": self.receipts.display().to_string(),
                "receipts_verified": self.verified,
                "jobs": [json::view(picture), json::view(census)],
                "took_ms": u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            }))?);
        }
        say::data("")?;
        say::data(format!(
            "The {} most frequent of {} different 11-letter words in the genome of phage lambda:",
            words.top.len().min(WORDS_SHOWN),
            words.distinct
        ))?;
        let mut rows = say::table(&["  word", "count"]);
        for (word, count) in words.top.iter().take(WORDS_SHOWN) {
            rows.add_row([format!("  {word}"), count.to_string()]);
        }
        say::rows(&rows, "")?;
        say::data("")?;
        let awarded = i64::try_from(picture.awarded.saturating_add(census.awarded)).unwrap_or(i64::MAX);
        say::pairs(&[
            ("picture", self.image.display().to_string()),
            ("all words", self.table.display().to_string()),
            ("receipts", format!("{} in {}, all verified offline", self.verified, self.receipts.display())),
            ("credits", format!("{} earned by the donors", show_ncu(awarded))),
            (
                "time",
                format!("fractal {}, census {}, everything {}", took(picture), took(census), elapsed(begun)),
            ),
        ])?;
        Ok(())
    }
}

fn took(view: &JobView) -> String {
    show_duration(view.ended_at.unwrap_or(view.submitted_at).since(view.submitted_at))
}

fn elapsed(since: Instant) -> String {
    show_duration(Millis(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)))
}

fn keep(federation: &Federation) {
    let exe =
        std::env::current_exe().map_or_else(|_| "worldcompute".to_owned(), |exe| exe.display().to_string());
    let dir = federation.coordinator_dir().display();
    say::talk("");
    say::talk("The federation goes on. To talk to it:");
    for command in ["cluster status", "job list", "map MODULE.wasm INPUTS/ --output RESULTS"] {
        say::talk(format!("  {exe} --data-dir {dir} {command}"));
    }
    if let Some(donor) = federation.donor_dir() {
        say::talk(format!("  {exe} --data-dir {} donor status", donor.display()));
    }
    say::talk("To end it:");
    for dir in federation.dirs() {
        say::talk(format!("  {exe} --data-dir {} node stop", dir.display()));
    }
    say::talk(format!("  rm -r {}", federation.dir().display()));
}

/// The class of both jobs.
const CLASS: WorkClass = WorkClass::Scientific;
