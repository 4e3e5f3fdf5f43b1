//! `donor status|pause|resume|leave|credits`.

use serde_json::json;
use wc_proto::api::Request;
use wc_proto::api::view::{DonorCellView, DonorView, WitnessView};
use wc_types::Millis;

use crate::amount::{show_ago, show_duration, show_ncu, show_ppm, show_size};
use crate::cli::DonorCommand;
use crate::client::Node;
use crate::command::{credits, relay};
use crate::config::Context;
use crate::{identity, json, say};

/// Does what the command says.
pub async fn run(context: &Context, command: &DonorCommand) -> anyhow::Result<()> {
    let mut node = Node::connect(&context.dir).await?;
    let done = match command {
        DonorCommand::Status => return status(context, &mut node).await,
        DonorCommand::Credits(args) => return credits::run(context, &mut node, args).await,
        DonorCommand::Pause => {
            node.tell(Request::Pause).await?;
            "paused: guests are frozen, and no more work is taken"
        }
        DonorCommand::Resume | DonorCommand::Join(_) => {
            node.tell(Request::Resume).await?;
            "resumed: work is taken again"
        }
        DonorCommand::Leave => {
            node.tell(Request::Leave).await?;
            "left: what jobs left here is removed, and the node stops"
        }
    };
    if context.json {
        return Ok(say::json(&json!({ "done": done }))?);
    }
    say::talk(done);
    Ok(())
}

async fn status(context: &Context, node: &mut Node) -> anyhow::Result<()> {
    let view = node.donor().await?;
    if context.json {
        return Ok(say::json(&json::view(&view))?);
    }
    show(&view)?;
    say::data("")?;
    relay::show(&view.reach)?;
    if let Some(witness) = &view.witness {
        show_witness(witness)?;
    }
    Ok(())
}

/// Shows what this machine witnesses; alarms are the last thing on screen.
pub fn show_witness(witness: &WitnessView) -> anyhow::Result<()> {
    say::data("")?;
    let since = witness.cosigned_at.map(|at| show_ago(at, identity::now()));
    say::pairs(&[
        ("witness", witness.key.clone()),
        (
            "cosigned",
            since.map_or_else(
                || if witness.problem.is_some() { "nothing now" } else { "nothing yet" }.to_owned(),
                |at| format!("{} entries, {at}", witness.size),
            ),
        ),
        ("alarms", witness.alarms.len().to_string()),
    ])?;
    if let Some(problem) = &witness.problem {
        say::data(format!("WITNESS STOPPED  {}", say::harmless(problem)))?;
    }
    for alarm in &witness.alarms {
        let at = show_ago(alarm.at, identity::now());
        say::data(format!("ALARM  {} [{}] {at}", say::harmless(&alarm.message), say::harmless(&alarm.code)))?;
        if let Some(evidence) = &alarm.evidence {
            say::data(format!(
                "       check it with: worldcompute ledger evidence {}",
                say::harmless(evidence)
            ))?;
        }
    }
    Ok(())
}

/// Says for which cells the machine works, and how much it did for each.
fn show_cells(view: &DonorView) -> String {
    let line = |cell: &DonorCellView| {
        let home = if cell.home { ", home" } else { "" };
        let DonorCellView { cell, state, halt, leases, replicas_run, replicas_settled, .. } = cell;
        let halted = halt.as_ref().map_or_else(String::new, |halt| {
            format!("; HALTED {}: {}", show_ago(halt.at, identity::now()), say::harmless(&halt.reason))
        });
        format!(
            "{cell}: {}{home}{halted}; {replicas_run} replicas run, {replicas_settled} settled, {leases} held",
            say::harmless(state)
        )
    };
    let lines: Vec<String> = view.cells.iter().map(line).collect();
    if lines.is_empty() { "none yet".to_owned() } else { lines.join("\n") }
}

fn show(view: &DonorView) -> anyhow::Result<()> {
    let unknown = || "unknown".to_owned();
    let classes: Vec<&str> = view.consents.iter().map(|class| class.name()).collect();
    say::pairs(&[
        ("state", view.state.clone()),
        ("node", view.node.to_string()),
        ("owner", view.owner.to_string()),
        ("cell", view.cell.map_or_else(|| "none yet".to_owned(), |cell| cell.to_string())),
        ("coordinator", view.coordinator.map_or_else(|| "none yet".to_owned(), |node| node.to_string())),
        ("addresses", view.addresses.join("\n")),
        ("up for", show_duration(Millis(view.uptime_s.saturating_mul(1000)))),
        ("guests", format!("{} of {}", view.guests, view.slots)),
        ("cells", show_cells(view)),
        ("replicas", format!("{} run, {} settled", view.replicas_run, view.replicas_settled)),
        ("balance", view.owner_balance.map_or_else(unknown, show_ncu)),
        ("trust", view.trust_ppm.map_or_else(unknown, show_ppm)),
        ("path", say::path(view.path)),
        (
            "inspected",
            view.inspected
                .as_ref()
                .map_or_else(|| "no".to_owned(), |issuer| format!("by {}", say::harmless(issuer))),
        ),
        ("load", format!("processor {}, memory {}", show_ppm(view.cpu_ppm), show_ppm(view.memory_ppm))),
        ("blobs", format!("{} of {}", show_size(view.stored_bytes), show_size(view.storage_cap))),
        ("consents", if classes.is_empty() { "none".to_owned() } else { classes.join(", ") }),
        ("version", view.agent_version.clone()),
    ])?;
    say::data("")?;
    let mut table = say::table(&["defence", "active", "what it does, or why it is missing"]);
    for defence in &view.defences {
        table.add_row([&*defence.name, if defence.active { "yes" } else { "NO" }, &*defence.detail]);
    }
    Ok(say::rows(&table, "no sandbox is set up: this node runs no guests")?)
}
