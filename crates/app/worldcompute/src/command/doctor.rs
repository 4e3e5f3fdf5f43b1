//! `doctor`: what this network lets through, which path is in use, and why not a better one.

use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use wc_proto::api::view::{DialView, PeerView};
use wc_types::{Class, Code, Refusal, Timestamp};

use crate::cli::DoctorArgs;
use crate::client::Node;
use crate::config::Context;
use crate::exit::Exhausted;
use crate::node::{self, Examination, Finding, TransportConfig};
use crate::{json, say};

/// Nothing got through.
const NO_WAY_OUT: Code = Code::new("WC-CLI-040", Class::Exhausted);

/// What is asked, in the words of people.
const QUESTIONS: [(&str, &str); 10] = [
    ("ipv4", "IPv4?"),
    ("ipv6", "IPv6?"),
    ("dns", "names?"),
    ("doh", "names over HTTPS?"),
    ("proxy", "proxy?"),
    ("udp", "UDP (QUIC)?"),
    ("tcp", "TCP, any port?"),
    ("443", "web port (443)?"),
    ("interception", "does somebody read along?"),
    ("forwarding", "does the router forward ports?"),
];

/// What an examination of this network found.
pub struct Found {
    seen: Examination,
    peers: Option<Vec<PeerView>>,
    /// What stands between this machine's node and the internet, as its peers see it; if a node runs.
    nat: Option<String>,
    /// Which transport a node would use here, and what kept it from a better one.
    pub verdict: String,
}

/// Examines, and says what was found.
pub async fn run(context: &Context, args: &DoctorArgs) -> anyhow::Result<()> {
    let transport = context.transport(&args.transport)?;
    node::check_targets(&args.target)?;
    say::talk("looking at this network; this takes up to half a minute");
    let found = examine(context, transport, &args.target).await?;
    if context.json {
        say::json(&found.json())?;
    } else {
        let mut table = say::table_of_sentences(&["question", "answer", "because"]);
        for [question, answer, detail] in found.answers() {
            table.add_row([question, answer, detail]);
        }
        say::rows(&table, "nothing was asked")?;
        say::data("")?;
        say::data(&found.verdict)?;
        if let Some(nat) = &found.nat {
            say::data(format!("Between this machine's node and the internet, as its peers see it: {nat}."))?;
        }
        show_paths(found.peers.as_deref())?;
    }
    found.judge()
}

/// Examines this network by trying to reach `targets`, or, if there are none, the peers of this machine's node, and the
/// seeds.
pub async fn examine(
    context: &Context,
    transport: TransportConfig,
    targets: &[String],
) -> anyhow::Result<Found> {
    let (peers, nat) = (peers(context).await, nat(context).await);
    let (network, mut others) = context.network_and_seeds();
    others.splice(0..0, targets.iter().cloned());
    if targets.is_empty() {
        // Where a peer dialled us from is not where it listens.
        let dialled = peers.iter().flatten().filter(|peer| peer.outbound);
        others.extend(dialled.map(|peer| format!("{}/p2p/{}", peer.address, peer.node)));
    }
    let seen = node::examine(&network, transport, &others).await?;
    let verdict = verdict(seen.best.map(|best| best.to_string()), &seen.findings, seen.attempts.len());
    Ok(Found { seen, peers, nat, verdict })
}

impl Found {
    /// Returns whether something got through; `None` if there was nobody to try.
    pub fn gets_through(&self) -> Option<bool> {
        (!self.seen.attempts.is_empty()).then_some(self.seen.best.is_some())
    }

    /// Returns each question with its answer and the reason, in the words of people.
    pub fn answers(&self) -> impl Iterator<Item = [String; 3]> {
        self.seen.findings.iter().map(|finding| {
            let question = QUESTIONS.iter().find(|(subject, _)| *subject == finding.subject);
            let answer = match finding.verdict {
                Some(true) => "yes",
                Some(false) => "no",
                None => "?",
            };
            let question = question.map_or(finding.subject, |(_, question)| question);
            [question.to_owned(), answer.to_owned(), say::harmless(&finding.detail)]
        })
    }

    /// Returns the dials that were made.
    pub fn dials(&self) -> impl Iterator<Item = (Timestamp, DialView)> {
        self.seen.attempts.iter().map(|attempt| {
            let since = attempt.timestamp.duration_since(UNIX_EPOCH).unwrap_or_default();
            let at = Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
            (at, node::dial_view(attempt))
        })
    }

    /// Returns everything, for programs.
    pub fn json(&self) -> Value {
        let findings = self.seen.findings.iter().map(
            |finding| json!({ "subject": finding.subject, "verdict": finding.verdict, "detail": finding.detail }),
        );
        json!({
            "findings": findings.collect::<Vec<_>>(),
            "attempts": self.dials().map(|(_, dial)| json::view(&dial)).collect::<Vec<_>>(),
            "best": self.seen.best.map(|best| best.to_string()),
            "verdict": self.verdict,
            "nat": self.nat,
            "node_runs": self.peers.is_some(),
            "peers": json::view(self.peers.as_deref().unwrap_or_default()),
        })
    }

    /// Fails if others were tried and none was reached.
    pub fn judge(&self) -> anyhow::Result<()> {
        if self.gets_through() == Some(false) {
            let hint =
                "ask whoever runs this network for a proxy (--proxy), or for a way to port 443 of a relay";
            return Err(Exhausted(Refusal::new(NO_WAY_OUT, self.verdict.clone()).hint(hint)).into());
        }
        Ok(())
    }
}

/// Returns the peers of this machine's node, if one runs.
async fn peers(context: &Context) -> Option<Vec<PeerView>> {
    let mut node = Node::connect(&context.dir).await.ok()?;
    node.peers().await.ok()
}

/// Returns the kind of NAT that this machine's node is behind, if one runs.
async fn nat(context: &Context) -> Option<String> {
    let mut node = Node::connect(&context.dir).await.ok()?;
    Some(node.donor().await.ok()?.reach.nat)
}

/// Says which transport a node would use here, and what kept it from a better one.
fn verdict(best: Option<String>, findings: &[Finding], tried: usize) -> String {
    let blocked: Vec<&str> = [("udp", "quic"), ("tcp", "tcp"), ("443", "wss")]
        .iter()
        .filter(|(subject, _)| {
            findings.iter().any(|finding| finding.subject == *subject && finding.verdict == Some(false))
        })
        .map(|(_, transport)| *transport)
        .collect();
    match best {
        Some(best) if blocked.is_empty() => format!("Nodes are reached by {best}."),
        Some(best) if blocked.contains(&"quic") || blocked.contains(&"tcp") => {
            let verb = if blocked.len() == 1 { "does" } else { "do" };
            format!(
                "Nodes are reached by {best}; {} would be better and {verb} not get through.",
                blocked.join(" and ")
            )
        }
        Some(best) => format!("Nodes are reached by {best}; {} does not get through.", blocked.join(" and ")),
        None if tried == 0 => {
            "No node is known to try: name one with --target, or start a node that finds some.".to_owned()
        }
        None => format!("No node is reached. Tried: {}.", blocked.join(", ")),
    }
}

fn show_paths(peers: Option<&[PeerView]>) -> anyhow::Result<()> {
    let Some(peers) = peers else {
        say::talk("no node runs in this data directory, so no path is in use");
        return Ok(());
    };
    say::data("")?;
    let mut table = say::table_of_sentences(&["peer", "path in use", "address", "why not a better one"]);
    for peer in peers {
        let path = match &peer.inspected {
            Some(issuer) => format!("{}, inspected by {}", peer.transport, say::harmless(issuer)),
            None => peer.transport.clone(),
        };
        let why = peer.fallback.as_deref().unwrap_or("");
        table.add_row([peer.node.to_string(), path, peer.address.clone(), say::harmless(why)]);
    }
    Ok(say::rows(&table, "this machine's node is connected to nobody")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_names_what_is_used_and_what_is_not() {
        let finding = |subject, verdict| Finding { subject, verdict, detail: String::new() };
        let findings = [finding("udp", Some(false)), finding("tcp", Some(false)), finding("443", Some(true))];
        let text = verdict(Some("wss".to_owned()), &findings, 3);
        assert_eq!(text, "Nodes are reached by wss; quic and tcp would be better and do not get through.");
        assert_eq!(
            verdict(Some("quic".to_owned()), &[finding("udp", Some(true))], 1),
            "Nodes are reached by quic."
        );
        assert!(verdict(None, &[], 0).starts_with("No node is known to try"));
        assert!(verdict(None, &findings, 2).contains("Tried: quic, tcp."));
    }
}
