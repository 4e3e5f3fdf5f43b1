//! `map`: one module over many inputs, with no job file.

use std::collections::BTreeSet;
use std::path::Path;

use wc_types::manifest::{Placement, WorkClass};
use wc_types::{Bytes, Millis, Refusal, Signed};

use crate::amount;
use crate::cli::MapArgs;
use crate::client::{Failure, Node};
use crate::command::{fetch, follow, job};
use crate::config::{self, Context};
use crate::exit::Usage;
use crate::manifest::{
    self, Draft, EACH_NAME_DEFAULT, InputDraft, InputFrom, Source, StageDraft, list_files,
};
use crate::progress::Progress;
use crate::{fields, identity, json, say};

/// Does what the command says.
pub async fn run(context: &Context, args: &MapArgs) -> anyhow::Result<()> {
    let draft = draft(args)?;
    let faults = manifest::check(&draft, "map");
    if !faults.is_empty() {
        return Err(Failure(faults).into());
    }
    // Before anything is charged: a result that has nowhere to go is paid for all the same.
    if !args.detach {
        std::fs::create_dir_all(&args.output).map_err(|error| {
            let message = format!("--output {} is no directory: {error}", args.output.display());
            Failure(vec![
                Refusal::new(fields::FILE, message).hint("name a directory, or one that can be made"),
            ])
        })?;
    }
    let names = names(&draft);
    let key = identity::owner_key(context)?;
    let mut node = Node::connect(&context.dir).await?;
    let progress = Progress::new();
    let blobs = manifest::upload(&draft, &mut node, &progress).await?;
    let manifest = Signed::seal(draft.manifest(&blobs, key.account_id(), identity::now()), &key);
    let tasks = manifest.tasks();
    let (id, cid) = node.submit(manifest, false).await?;
    if args.detach {
        return job::announce(context, id, &cid.to_string(), tasks);
    }
    say::talk(format!("{id}: {}, {} replicas each", say::count(tasks, "task"), args.replicas));
    let view = follow::follow(context, id, &progress).await?;

    // A job that failed may still have results worth keeping.
    let mut node = Node::connect(&context.dir).await?;
    let bar = progress.count("fetching", tasks);
    let place = |index: u32| {
        let name = names.get(index as usize).cloned().unwrap_or_else(|| format!("{index:08}"));
        fetch::Place { dir: args.output.join(&name), stdout: args.output.join(format!("{name}.out")) }
    };
    let fetched = fetch::fetch(&mut node, &id.to_string(), 0, &place, &bar).await?;
    bar.finish();
    if context.json {
        say::json(&serde_json::json!({ "job": json::view(&view), "results": json::view(&fetched) }))?;
    } else {
        let failed = fetched.iter().filter(|row| !row.exit.is_success()).count();
        let failed =
            if failed > 0 { format!(", {failed} of them failures of the module") } else { String::new() };
        say::talk(format!(
            "{} in {}{failed}",
            say::count(fetched.len() as u64, "result"),
            args.output.display()
        ));
    }
    job::verdict(&view)
}

fn draft(args: &MapArgs) -> anyhow::Result<Draft> {
    let wrong = |name: &'static str, text: &str| {
        let text = text.to_owned();
        move |rule: String| Usage {
            message: format!("--{name} {rule}, but is `{text}`"),
            hint: "see worldcompute map --help".to_owned(),
        }
    };
    let class: WorkClass = config::class(&args.class).map_err(wrong("class", &args.class))?;
    let memory: Bytes = amount::size(&args.memory).map_err(wrong("memory", &args.memory))?;
    let wall_clock: Millis =
        amount::duration(&args.wall_time).map_err(wrong("wall-time", &args.wall_time))?;
    let placement = match &*args.placement {
        "lan" => Placement::Lan,
        "disjoint" => Placement::Disjoint,
        "machines" => Placement::Machines,
        other => return Err(wrong("placement", other)("must be lan, disjoint or machines".to_owned()).into()),
    };
    let mut files = Vec::new();
    for input in &args.inputs {
        let listed = list_files(input).map_err(|reason| {
            Refusal::new(fields::FILE, format!("the input {reason}"))
                .hint("name files, a directory, or a pattern in quotes")
        })?;
        files.extend(listed.into_iter().map(|(name, path)| (name, Source::File(path))));
    }
    let mut seen = BTreeSet::new();
    if let Some((name, _)) = files.iter().find(|(name, _)| !seen.insert(name.as_str())) {
        let hint = "results are named after inputs: rename one, or map each directory by itself".to_owned();
        return Err(Usage { message: format!("two inputs are called `{name}`"), hint }.into());
    }
    if !args.module.is_file() {
        let message = format!("the module {} is not a file", args.module.display());
        return Err(Refusal::new(fields::FILE, message).hint("name a WebAssembly module").into());
    }

    let mut stage = StageDraft::new("map", Source::File(args.module.clone()));
    stage.tasks = u32::try_from(files.len()).unwrap_or(u32::MAX);
    stage.command.clone_from(&args.args);
    for pair in &args.envs {
        let (name, value) = pair.split_once('=').ok_or_else(|| Usage {
            message: format!("--env must be NAME=VALUE, but is `{pair}`"),
            hint: "such as --env LANG=C".to_owned(),
        })?;
        stage.env.insert(name.to_owned(), value.to_owned());
    }
    stage.inputs = vec![InputDraft { name: EACH_NAME_DEFAULT.to_owned(), from: InputFrom::Each(files) }];
    stage.replicas = args.replicas;
    stage.resources.memory = memory;
    stage.resources.wall_clock = wall_clock;
    let mut draft = Draft::single(&name(args), stage);
    draft.class = class;
    draft.placement = placement;
    Ok(draft)
}

/// The job's name: the one that was given, or the module's with what a name may not hold left out.
fn name(args: &MapArgs) -> String {
    if let Some(name) = &args.name {
        return name.clone();
    }
    let stem = args.module.file_stem().unwrap_or_default().to_string_lossy();
    let plain: String = stem.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).collect();
    let plain: String = plain.trim_start_matches('.').chars().take(64).collect();
    if plain.is_empty() { "map".to_owned() } else { plain }
}

/// Names of the inputs, in task order.
fn names(draft: &Draft) -> Vec<String> {
    let inputs = draft.stages.iter().flat_map(|stage| &stage.inputs);
    inputs
        .filter_map(|input| match &input.from {
            InputFrom::Each(files) => Some(files.iter().map(|(name, _)| name.clone())),
            InputFrom::All(_) | InputFrom::Stage(_) => None,
        })
        .flatten()
        .filter(|name| Path::new(name).file_name().is_some())
        .collect()
}
