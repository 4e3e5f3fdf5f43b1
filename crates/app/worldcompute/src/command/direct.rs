//! `job submit --executor`: one module on one named peer, and that peer's signed word about it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::bail;
use serde_json::json;
use wc_proto::limit::DISPATCH_BYTES_MAX;
use wc_proto::peer::dispatch::DispatchRequest;
use wc_types::cid::{CODEC_RAW, cid_of};
use wc_types::manifest::Resources;
use wc_types::{Class, Code, Millis, Refusal, Signed};

use crate::amount::show_duration;
use crate::cli::SubmitArgs;
use crate::client::Node;
use crate::config::{self, Context};
use crate::exit::Usage;
use crate::node::DirectRun;
use crate::{fields, identity, json, node, say};

/// The guest ran and failed.
const GUEST_FAILED: Code = Code::new("WC-CLI-004", Class::Caller);

/// Runs the module and shows what came back.
pub async fn run(
    context: &Context,
    executor: &str,
    workload: &Path,
    args: &SubmitArgs,
) -> anyhow::Result<()> {
    let class = config::class(&args.class).map_err(|rule| Usage {
        message: format!("--class {rule}, but is `{}`", args.class),
        hint: "leave it out for `general`".to_owned(),
    })?;
    let module = read(workload)?;
    let key = identity::owner_key(context)?;
    let request = DispatchRequest {
        submitter: key.account_id(),
        at: identity::now(),
        class,
        command: args.args.clone(),
        env: std::collections::BTreeMap::new(),
        resources: Resources::default(),
        module: cid_of(CODEC_RAW, &module),
    };
    let request = Signed::seal(request, &key);
    let network = match &args.network {
        Some(network) => network.clone(),
        None => network_here(context).await,
    };
    let transport = context.transport(&args.transport)?;
    let begun = Instant::now();
    // What comes back is checked against the peer's signature before it is returned.
    let run = node::dispatch(executor, &network, transport, request, module).await?;
    let took = Millis(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
    let DirectRun { executor, outcome, exit, stdout, stderr } = run;
    if context.json {
        say::json(&json!({
            "node": executor.to_string(),
            "exit": json::view(&exit),
            "stdout": String::from_utf8_lossy(&stdout),
            "stderr": String::from_utf8_lossy(&stderr),
            "result": outcome.result().map(ToString::to_string),
            "outcome": outcome.cid().to_string(),
            "receipt_verified": true,
            "usage": json::view(&outcome.usage),
            "took_ms": took.0,
        }))?;
    } else {
        std::io::stdout().lock().write_all(&stdout)?;
        let text = say::harmless(&String::from_utf8_lossy(&stderr));
        if !text.is_empty() {
            say::talk(text.trim_end());
        }
        say::talk(format!(
            "ran on {} in {}; its signature over the outcome {} is valid",
            executor,
            show_duration(took),
            outcome.cid()
        ));
    }
    if exit.is_success() {
        return Ok(());
    }
    Err(Refusal::new(GUEST_FAILED, format!("the module did not succeed: {}", json::view(&exit))).into())
}

/// The network of this machine's node: of the one that runs, which a flag may have told, or the one in its settings.
async fn network_here(context: &Context) -> String {
    match Node::connect(&context.dir).await {
        Ok(mut node) => node.cluster().await.map_or_else(|_| context.network(), |cluster| cluster.network),
        Err(_) => context.network(),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut module = Vec::new();
    File::open(path)
        .and_then(|file| file.take(DISPATCH_BYTES_MAX as u64 + 1).read_to_end(&mut module))
        .map_err(|error| {
            Refusal::new(fields::FILE, format!("the module {} cannot be read: {error}", path.display()))
        })?;
    if module.len() > DISPATCH_BYTES_MAX {
        bail!(
            "{} is larger than the {DISPATCH_BYTES_MAX} bytes of a direct submission; use a job",
            path.display()
        );
    }
    if module.is_empty() {
        bail!("{} is empty", path.display());
    }
    Ok(module)
}
