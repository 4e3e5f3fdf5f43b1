//! `relay status`, what `relay run` says, and how a node says how it is reached.

use wc_proto::api::view::{ReachView, RelayView, ReservationView};
use wc_types::Millis;

use crate::amount::{show_duration, show_size};
use crate::client::Node;
use crate::config::{Context, Settings};
use crate::{json, say};

/// Shows what the node of the data directory does as a relay, and how it is reached itself.
pub async fn status(context: &Context) -> anyhow::Result<()> {
    let view = Node::connect(&context.dir).await?.donor().await?;
    if context.json {
        let mut shown = json::view(&view.reach);
        shown["node"] = json::view(&view.node);
        shown["addresses"] = json::view(&view.addresses);
        shown["uptime_s"] = json::view(&view.uptime_s);
        return Ok(say::json(&shown)?);
    }
    say::pairs(&[
        ("node", view.node.to_string()),
        ("addresses", view.addresses.join("\n")),
        ("up for", show_duration(Millis(view.uptime_s.saturating_mul(1000)))),
    ])?;
    show(&view.reach)
}

/// Says to the person who starts a relay what it gives away.
pub fn greet(context: &Context, settings: &Settings) {
    let reach = settings.reach();
    let Some(limits) = &reach.relay else { return };
    let rate = |bytes: u64| match bytes {
        0 => "any rate".to_owned(),
        bytes => format!("{}/s", show_size(bytes)),
    };
    say::talk(format!("Relaying for the network `{}`. Thank you!", settings.network));
    say::talk(format!(
        "  at most:           {} nodes, {} circuits, {} altogether, {} from one peer",
        limits.reservations_max,
        limits.circuits_max,
        rate(limits.total_bytes_per_second),
        rate(limits.peer_bytes_per_second)
    ));
    match reach.external.as_slice() {
        [] => say::talk(
            "  reached at:        what peers find out. Until one has got through, nobody is offered a place; \
             --external-address says where everybody can dial this machine",
        ),
        external => say::talk(format!("  reached at:        {}", external.join(", "))),
    }
    say::talk(format!("  data directory:    {}", context.dir.path().display()));
    say::talk("Ctrl-C stops. In another terminal: worldcompute relay status");
}

/// Shows how a node is reached.
pub fn show(reach: &ReachView) -> anyhow::Result<()> {
    let ReachView { reachable, reachable_via, open, nat, external, reservations, relay, punches, .. } = reach;
    let lines = |texts: &[String]| match texts {
        [] => "none".to_owned(),
        texts => texts.join("\n"),
    };
    let via = match (reachable, open) {
        (true, _) => format!("yes, in the last minute at {}", lines(reachable_via)),
        (false, true) => "nobody has tried in the last minute; strangers can".to_owned(),
        (false, false) => "nobody has got through in the last minute".to_owned(),
    };
    let (successes, attempts) =
        punches.iter().fold((0, 0), |sum, punch| (sum.0 + punch.successes, sum.1 + punch.attempts));
    let mut pairs = vec![
        ("reachable", via),
        ("nat", nat.clone()),
        ("external", lines(external)),
        ("known", format!("{}, {} of them relay", say::count(reach.known_nodes, "node"), reach.known_relays)),
        ("holes punched", format!("{successes} of {attempts}")),
    ];
    if let Some(relay) = relay {
        pairs.push(("relays", show_relay(relay)));
    }
    say::pairs(&pairs)?;
    if reservations.is_empty() {
        return Ok(());
    }
    say::data("")?;
    let mut table = say::table(&["reservation", "for", "at", "why it ended"]);
    for ReservationView { address, state, for_s, cause, .. } in reservations {
        table.add_row([
            state.clone(),
            for_s.map_or_else(
                || "-".to_owned(),
                |seconds| show_duration(Millis(seconds.saturating_mul(1000))),
            ),
            say::harmless(address),
            cause.as_deref().map(say::harmless).unwrap_or_default(),
        ]);
    }
    Ok(say::rows(&table, "no reservations")?)
}

fn show_relay(relay: &RelayView) -> String {
    let offered = if relay.offered { "" } else { " (not offered: no external address is known)" };
    format!(
        "{} and {} now, {} carried since the start; refused {} and {}{offered}",
        say::count(relay.reservations, "reservation"),
        say::count(relay.circuits, "circuit"),
        show_size(relay.carried_bytes),
        say::count(relay.reservations_denied, "reservation"),
        say::count(relay.circuits_denied, "circuit"),
    )
}
