//! `cluster status|peers`.

use serde_json::json;
use wc_proto::api::{Request, Response};

use crate::amount::{show_ago, show_ncu, show_ppm};
use crate::cli::ClusterCommand;
use crate::client::{Node, unexpected};
use crate::command::{donor, ledger};
use crate::config::Context;
use crate::{identity, json, say};

/// Does what the command says.
pub async fn run(context: &Context, command: &ClusterCommand) -> anyhow::Result<()> {
    let mut node = Node::connect(&context.dir).await?;
    match command {
        ClusterCommand::Status => status(context, &mut node).await,
        ClusterCommand::Peers => peers(context, &mut node).await,
    }
}

async fn status(context: &Context, node: &mut Node) -> anyhow::Result<()> {
    let cluster = node.cluster().await?;
    let nodes = node.nodes().await?;
    // What this machine itself saw of the ledger does not pass through the coordinator's hands.
    let witness = node.donor().await?.witness;
    if context.json {
        let value = json!({
            "cluster": json::view(&cluster),
            "nodes": json::view(&nodes),
            "witness": json::view(&witness),
        });
        return Ok(say::json(&value)?);
    }
    say::pairs(&[
        ("cell", cluster.cell.to_string()),
        ("network", say::harmless(&cluster.network)),
        ("coordinator", cluster.coordinator.to_string()),
        ("founded", show_ago(cluster.founded_at, identity::now())),
        ("nodes", format!("{} joined, {} online, {} slots", cluster.nodes, cluster.online, cluster.slots)),
        ("trusted", if cluster.nodes_trusted { "yes, by the owner's word" } else { "no" }.to_owned()),
        ("jobs", format!("{} open, {} ended", cluster.jobs_open, cluster.jobs_ended)),
        ("ledger", format!("{} entries, root {}", cluster.ledger_size, cluster.ledger_root)),
        ("anchors", ledger::standing(cluster.anchoring.as_ref())),
        (
            "journal",
            format!(
                "{} facts, {} commits since the start, state {}",
                cluster.facts, cluster.commits, cluster.state_hash
            ),
        ),
        (
            "published",
            format!("{} entries, cosigned by {} witnesses", cluster.published_size, cluster.witnesses.len()),
        ),
    ])?;
    say::data("")?;
    let heading =
        ["node", "state", "slots", "leases", "tier", "trust", "agreed", "dissented", "balance", "version"];
    let mut table = say::table(&heading);
    for node in &nodes {
        table.add_row([
            node.node.to_string(),
            node.state.clone(),
            node.slots.to_string(),
            node.leases.to_string(),
            node.tier.clone(),
            show_ppm(node.trust_ppm),
            node.agreed.to_string(),
            node.dissented.to_string(),
            show_ncu(node.owner_balance),
            say::harmless(&node.agent_version),
        ]);
    }
    say::rows(&table, "no node has joined yet")?;
    for alarm in &cluster.log_alarms {
        say::data(format!("ALARM  {}", say::harmless(alarm)))?;
    }
    if let Some(witness) = witness.filter(|witness| !witness.alarms.is_empty()) {
        donor::show_witness(&witness)?;
    }
    Ok(())
}

async fn peers(context: &Context, node: &mut Node) -> anyhow::Result<()> {
    let peers = match node.ask(Request::Peers).await? {
        Response::Peers(peers) => peers,
        other => return Err(unexpected("Peers", &other)),
    };
    if context.json {
        return Ok(say::json(&json::view(&peers))?);
    }
    let mut table = say::table(&["peer", "transport", "round trip", "version", "address"]);
    for peer in &peers {
        let rtt = peer.rtt_micros.map(|rtt| format!("{}.{:03} ms", rtt / 1000, rtt % 1000));
        table.add_row([
            peer.node.to_string(),
            peer.transport.clone(),
            rtt.unwrap_or_else(|| "-".to_owned()),
            say::harmless(&peer.agent_version),
            say::harmless(&peer.address),
        ]);
    }
    Ok(say::rows(&table, "nobody is connected")?)
}
