//! `cluster status|peers`.

use serde_json::json;
use wc_proto::api::view::{ClusterView, PathView, PendingSignersView, SignersView};
use wc_proto::api::{CellRequest, Request};
use wc_types::directive::Halt;
use wc_types::signers::SignerOrder;
use wc_types::{NodeId, Signed};

use crate::amount::{show_ago, show_ncu, show_ppm};
use crate::cli::{ClusterCommand, SignersCommand};
use crate::client::Node;
use crate::command::{donor, ledger};
use crate::config::Context;
use crate::exit::Usage;
use crate::{identity, json, say};

/// Does what the command says.
pub async fn run(context: &Context, command: &ClusterCommand) -> anyhow::Result<()> {
    let mut node = Node::connect(&context.dir).await?;
    match command {
        ClusterCommand::Status => status(context, &mut node).await,
        ClusterCommand::LedgerHead => ledger_head(context, &mut node).await,
        ClusterCommand::Peers => peers(context, &mut node).await,
        ClusterCommand::Signers { command: None } => signers(context, &mut node).await,
        ClusterCommand::Signers { command: Some(SignersCommand::Set { threshold, nodes }) } => {
            set_signers(context, &mut node, *threshold, nodes).await
        }
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
        (
            "cluster",
            format!("{} ({})", say::harmless(&cluster.name), say::count(u64::from(cluster.nodes), "node")),
        ),
        ("cell", cluster.cell.to_string()),
        ("DHT", show_dht(&cluster)),
        ("network", say::harmless(&cluster.network)),
        ("coordinator", cluster.coordinator.to_string()),
        ("founded", show_ago(cluster.founded_at, identity::now())),
        ("nodes", format!("{} joined, {} online, {} slots", cluster.nodes, cluster.online, cluster.slots)),
        ("trusted", if cluster.nodes_trusted { "yes, by the owner's word" } else { "no" }.to_owned()),
        ("dispatch", show_halt(cluster.halt.as_ref())),
        ("network size", format!("about {}", say::count(cluster.node_count, "node"))),
        ("jobs", format!("{} open, {} ended", cluster.jobs_open, cluster.jobs_ended)),
        ("ledger", format!("{} entries, root {}", cluster.ledger_size, cluster.ledger_root)),
        ("signers", show_signers(&cluster.signers)),
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
            format!(
                "{} entries, cosigned by {}",
                cluster.published_size,
                say::count(cluster.witnesses.len() as u64, "witness")
            ),
        ),
    ])?;
    say::data("")?;
    let heading = [
        "node",
        "state",
        "path",
        "slots",
        "leases",
        "tier",
        "trust",
        "agreed",
        "dissented",
        "balance",
        "version",
    ];
    let mut table = say::table(&heading);
    for node in &nodes {
        table.add_row([
            node.node.to_string(),
            node.state.clone(),
            say::path(node.path),
            node.slots.to_string(),
            node.leases.to_string(),
            node.tier.clone(),
            show_ppm(node.trust_ppm),
            node.agreed.to_string(),
            node.dissented.to_string(),
            show_ncu(node.owner_balance),
            say::version(&node.agent_version),
        ]);
    }
    say::rows(&table, "no node has joined yet")?;
    if !cluster.others.is_empty() {
        say::data("")?;
        let mut table = say::table(&["other cell", "state", "founded", "coordinator"]);
        for other in &cluster.others {
            let founded = show_ago(other.founded_at, identity::now());
            table.add_row([
                other.cell.to_string(),
                other.state.clone(),
                founded,
                other.coordinator.to_string(),
            ]);
        }
        say::rows(&table, "")?;
    }
    if !cluster.bans.is_empty() {
        say::data("")?;
        let mut table = say::table(&["banned node", "reason", "since"]);
        for ban in &cluster.bans {
            let since = show_ago(ban.at, identity::now());
            table.add_row([ban.node.to_string(), ban.reason.to_string(), since]);
        }
        say::rows(&table, "")?;
    }
    for alarm in &cluster.log_alarms {
        say::data(format!("ALARM  {}", say::harmless(alarm)))?;
    }
    if let Some(witness) = witness.filter(|witness| !witness.alarms.is_empty() || witness.problem.is_some()) {
        donor::show_witness(&witness)?;
    }
    Ok(())
}

/// Says in a line whether work is given out.
fn show_halt(halt: Option<&Halt>) -> String {
    match halt {
        None => "running".to_owned(),
        Some(halt) => {
            let since = show_ago(halt.at, identity::now());
            format!("HALTED {since}: {}; nothing new is given out", say::harmless(&halt.reason))
        }
    }
}

/// Says in a line whether the cell is alone, and whom it has met.
fn show_dht(cluster: &ClusterView) -> String {
    let reachable = cluster.others.iter().filter(|other| other.state == "connected").count() as u64;
    let known = cluster.others.len() as u64;
    let mut text = say::harmless(&cluster.dht);
    if let (Some(parent), Some(at)) = (cluster.parent_cluster_id, cluster.merged_at) {
        text.push_str(&format!(", met the older {parent} {}", show_ago(at, identity::now())));
    }
    match (known, reachable) {
        (0, _) => text.push_str("; knows no other cell of this network"),
        (1, 1) => text.push_str("; knows 1 other cell, which can be reached now"),
        (1, _) => text.push_str("; knows 1 other cell, which cannot be reached now"),
        _ => text.push_str(&format!("; knows {known} other cells, {reachable} of them can be reached now")),
    }
    text
}

async fn ledger_head(context: &Context, node: &mut Node) -> anyhow::Result<()> {
    let cluster = node.cluster().await?;
    if context.json {
        let value = json!({ "cell": cluster.cell.to_string(), "hash": cluster.ledger_root, "height": cluster.ledger_size });
        return Ok(say::json(&value)?);
    }
    Ok(say::pairs(&[
        ("cell", cluster.cell.to_string()),
        ("hash", cluster.ledger_root.clone()),
        ("height", say::count(cluster.ledger_size, "entry")),
    ])?)
}

/// Says in a line who signs and, plainly, when nobody can.
fn show_signers(signers: &SignersView) -> String {
    let SignersView { epoch, threshold, members, signed_size, problem, .. } = signers;
    let mut text = match members.len() {
        1 => "the coordinator alone".to_owned(),
        count => format!("{threshold} of {count} have to sign together (set {epoch})"),
    };
    if let Some(size) = signed_size {
        text.push_str(&format!(", {size} entries signed"));
    }
    if let Some(problem) = problem {
        text.push_str(&format!(
            "; NO NEW CHECKPOINT CAN BE SIGNED: {}; jobs go on, receipts wait",
            say::harmless(problem)
        ));
    }
    text
}

async fn signers(context: &Context, node: &mut Node) -> anyhow::Result<()> {
    let signers = node.cluster().await?.signers;
    if context.json {
        return Ok(say::json(&json::view(&signers))?);
    }
    let mut pairs = vec![("signers", show_signers(&signers)), ("set", signers.set.to_string())];
    if let Some(pending) = &signers.pending {
        pairs.push(("pending", show_pending(pending)));
    }
    say::pairs(&pairs)?;
    say::data("")?;
    let mut table = say::table(&["signer", "state", "reason"]);
    for signer in &signers.members {
        table.add_row([
            signer.node.to_string(),
            signer.state.clone(),
            signer.reason.as_deref().map(say::harmless).unwrap_or_default(),
        ]);
    }
    for node in &signers.untold {
        let reason = "it has not confirmed yet that its share of an earlier set is destroyed; it is told when it is there";
        table.add_row([node.to_string(), "former".to_owned(), reason.to_owned()]);
    }
    say::rows(&table, "nobody signs")?;
    for member in signers.members.iter().filter(|member| member.state == "refuses") {
        let reason = member.reason.as_deref().map(say::harmless).unwrap_or_default();
        say::data(format!("ALARM  {} REFUSES TO SIGN: {reason}", member.node))?;
    }
    Ok(())
}

/// Says in a line what the signers will be, and what that waits for.
fn show_pending(pending: &PendingSignersView) -> String {
    let PendingSignersView { epoch, threshold, members, reason } = pending;
    let names: Vec<String> = members.iter().map(ToString::to_string).collect();
    let reason = reason.as_deref().map_or_else(String::new, |why| format!("; waits: {}", say::harmless(why)));
    format!("set {epoch}, {threshold} of {}: {}{reason}", members.len(), names.join(", "))
}

async fn set_signers(
    context: &Context,
    node: &mut Node,
    threshold: u16,
    nodes: &[String],
) -> anyhow::Result<()> {
    let owner = identity::owner_key(context)?;
    let cluster = node.cluster().await?;
    let mut members = vec![cluster.coordinator];
    for text in nodes {
        let member = text.parse::<NodeId>().map_err(|error| Usage {
            message: format!("`{text}` is not the id of a node: {error}"),
            hint: "`worldcompute cluster status` lists them".to_owned(),
        })?;
        let doubled = match () {
            () if member == cluster.coordinator => "is the coordinator, which is one of the signers anyway",
            () if members.contains(&member) => "is named twice",
            () => "",
        };
        if !doubled.is_empty() {
            let message = format!("{member} {doubled}");
            let hint = "name each of the other signers once".to_owned();
            return Err(Usage { message, hint }.into());
        }
        members.push(member);
    }
    members.sort();
    let order = SignerOrder {
        cell: cluster.cell,
        epoch: cluster.signers.epoch + 1,
        previous: cluster.signers.set,
        threshold,
        members,
        owner: owner.account_id(),
        at: identity::now(),
    };
    order.check().map_err(|reason| Usage {
        message: reason.to_owned(),
        hint: "such as --threshold 2 and two nodes beside the coordinator, or 3 and four".to_owned(),
    })?;
    if usize::from(threshold) == order.members.len() && threshold > 1 {
        say::talk(format!(
            "warning: all {threshold} signers have to sign, so the loss of any one of them stops new checkpoints and receipts \
             for good; name more nodes, or lower --threshold"
        ));
    }
    // Two groups of `threshold` that have only the coordinator in common can each be shown a history of their own.
    if threshold > 1 && usize::from(threshold) * 2 < order.members.len() + 2 {
        say::talk(format!(
            "note: {threshold} of {} protect against the loss of a machine, but a coordinator that means harm can show \
             different histories to different signers; {} of {} would exclude that",
            order.members.len(),
            order.members.len() / 2 + 1 + order.members.len() % 2,
            order.members.len()
        ));
    }
    let order = Box::new(Signed::seal(order, &owner));
    node.tell(Request::Cell(CellRequest::ChangeSigners(order))).await?;
    signers(context, node).await
}

async fn peers(context: &Context, node: &mut Node) -> anyhow::Result<()> {
    let peers = node.peers().await?;
    if context.json {
        return Ok(say::json(&json::view(&peers))?);
    }
    let mut table = say::table(&["peer", "state", "reach", "transport", "round trip", "version", "address"]);
    for peer in &peers {
        let rtt = peer.rtt_micros.map(|rtt| format!("{}.{:03} ms", rtt / 1000, rtt % 1000));
        table.add_row([
            peer.node.to_string(),
            say::harmless(&peer.presence),
            peer.reach.name().to_owned(),
            peer.inspected.as_ref().map_or_else(
                || peer.transport.clone(),
                |issuer| format!("{}, inspected by {}", peer.transport, say::harmless(issuer)),
            ),
            rtt.unwrap_or_else(|| "-".to_owned()),
            say::version(&peer.agent_version),
            say::harmless(&peer.address),
        ]);
        let others = peer.paths.iter().filter(|path| path.address != peer.address);
        for PathView { address, transport, .. } in others {
            let [also, transport, address] = ["  also by", transport, address].map(say::harmless);
            table.add_row([
                also,
                String::new(),
                String::new(),
                transport,
                String::new(),
                String::new(),
                address,
            ]);
        }
    }
    Ok(say::rows(&table, "nobody is connected")?)
}
