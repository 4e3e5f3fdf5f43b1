//! `admin firewall-diagnose`: evidence of how a network treats a node (NET-25), in a directory that can be sent to somebody.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use wc_proto::api::view::{DialView, PeerView, ReachView, TracePage, TraceRecord};
use wc_types::{Class, Code, Refusal, Timestamp};

use crate::cli::DiagnoseArgs;
use crate::client::Node;
use crate::command::doctor::{self, Found};
use crate::config::Context;
use crate::evidence::{self, Assertion, Bundle, Run};
use crate::exit::Unverified;
use crate::identity::now;
use crate::node::{self, Proxy, Recorder};
use crate::progress::Progress;
use crate::{json, say};

/// Where evidence goes unless somebody says otherwise (EVD-02).
const AREA: &str = "evidence/phase1/firewall-traversal";
/// How often what was recorded is fetched.
const FETCH_EVERY: Duration = Duration::from_millis(500);
/// Fetches between two syncs to the disk.
const FETCHES_PER_SYNC: u32 = 10;
/// Pages in one fetch; whoever says more than this in half a second is read on with the next.
const PAGES_PER_FETCH: u32 = 16;
/// Time for a dial that failed in the last moment to be told by both who know of it.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// Longest that a node may take to say how it stands: it asks its coordinator, which may be away.
const STATUS_WITHIN: Duration = Duration::from_secs(20);
/// Reasons of failed dials that the summary lists; the trace has all of them.
const CAUSES_SHOWN_MAX: usize = 20;
/// Reasons that are told apart.
const CAUSES_MAX: usize = 1000;
/// How the library beneath us begins its line about a dial that has failed: a second witness beside our own account.
const LIBRARY: (&str, &str) = ("libp2p_swarm", "Connection attempt to ");

/// A failed dial left no reason, or nothing was done about it.
const SILENT: Code = Code::new("WC-CLI-041", Class::Ours);

const UNDER_WAY: &str = "# How this network treats a node\n\nThe capture is under way. If nobody is running it any more, it was \
    interrupted: `run.log` and `trace.jsonl` have what was seen until then, and nothing was judged.\n";

/// Captures, judges, and says where the evidence is.
pub async fn run(context: &Context, args: &DiagnoseArgs, recorder: Recorder) -> anyhow::Result<()> {
    let transport = context.transport(&args.transport)?;
    node::check_targets(&args.target)?;
    let (network, mut seeds) = context.network_and_seeds();
    seeds.extend(args.target.iter().cloned());
    recorder.hide(transport.proxies.proxy.iter().flat_map(Proxy::secrets));
    let started = now();
    let dir = args.output.clone().unwrap_or_else(|| PathBuf::from(AREA).join(evidence::stamp(started)));
    let about = || format!("the evidence cannot be kept in {}", dir.display());
    let bundle = Bundle::create(&dir).with_context(about)?;
    bundle.put("index.md", UNDER_WAY).with_context(about)?;
    let mut capture = Capture::begin(bundle, recorder, Node::connect(&context.dir).await.ok());
    let before = capture.status().await;
    say::talk(match &before {
        Some(_) => format!("looking on for {} s while the node of this machine works", args.seconds),
        None => format!("no node runs in this data directory: looking around for {} s", args.seconds),
    });
    // Without a node somebody has to do what one does.
    let (enough, over) = oneshot::channel::<()>();
    let looking = before.is_none().then(|| {
        let (network, transport, recorder) = (network.clone(), transport.clone(), capture.recorder.clone());
        tokio::spawn(async move {
            // Either it is said, or whoever would say it is gone.
            let over = async { over.await.unwrap_or_default() };
            node::look_around(&network, transport, &seeds, recorder, over).await
        })
    });
    let found = capture.attend(context, args, transport.clone()).await.with_context(about)?;
    let _ = enough.send(());
    let stood = match looking {
        Some(looking) => {
            let (reach, peers) = looking.await??;
            Some(Standing { node: None, reach, peers })
        }
        None => capture.status().await,
    };
    tokio::time::sleep(LAST_WORDS).await;
    capture.fetch().await.with_context(about)?;
    let ended = now();
    if let Some(found) = &found {
        for (at, dial) in found.dials() {
            capture.dial("doctor", at, &dial).with_context(about)?;
        }
    }
    let Capture { mut bundle, tally, .. } = capture;
    bundle.sync().with_context(about)?;

    let wanted_s = u64::from(args.seconds);
    let captured_s = ended.since(started).0 / 1000;
    let whole = captured_s >= wanted_s && found.is_some();
    let assertions = assertions(&tally, found.as_ref(), bundle.left_out(), wanted_s, captured_s, whole);
    let overall = evidence::overall(&assertions);
    let proxy = transport.proxies.proxy.as_ref().map(ToString::to_string);
    let profile = found.as_ref().map_or_else(|| "not examined".to_owned(), |found| found.verdict.clone());
    let settings = json!({ "network": network, "proxy": proxy, "seconds": wanted_s });
    let run = Run { area: "firewall-traversal", spec: "NET-25", started, ended, profile, settings };
    let metadata = run.metadata(context.dir.path())?;
    let documents = [
        ("metadata.json", format!("{metadata:#}\n")),
        ("results.json", format!("{:#}\n", evidence::results(&assertions))),
        ("doctor.json", format!("{:#}\n", found.as_ref().map_or(Value::Null, Found::json))),
        ("node.json", format!("{:#}\n", json!({ "before": standing(&before), "after": standing(&stood) }))),
        // Last: it says that everything else is there.
        ("index.md", summary(&metadata, &assertions, &tally, found.as_ref(), stood.as_ref())),
    ];
    for (name, content) in documents {
        bundle.put(name, &content).with_context(about)?;
    }
    if context.json {
        say::json(&json!({
            "directory": dir.display().to_string(),
            "overall": overall,
            "verdict": found.as_ref().map(|found| &found.verdict),
            "dials": tally.dials,
            "dials_failed": tally.failed,
            "dials_failed_silently": tally.silent(),
            "results": evidence::results(&assertions),
        }))?;
    } else {
        for line in tally.sentences().iter().chain(found.as_ref().map(|found| &found.verdict)) {
            say::data(line)?;
        }
        say::data(format!("Everything is in {}: begin with index.md.", dir.display()))?;
    }
    if let Some(found) = &found {
        found.judge()?;
    }
    match tally.silent() {
        0 => Ok(()),
        silent => {
            let message = format!("{} failed silently", say::count(silent, "dial"));
            let hint = format!("report it, with {}", dir.display());
            Err(Unverified(vec![Refusal::new(SILENT, message).hint(hint)]).into())
        }
    }
}

/// How the subject is reached, and whom it reaches.
struct Standing {
    node: Option<String>,
    reach: ReachView,
    peers: Vec<PeerView>,
}

fn standing(standing: &Option<Standing>) -> Value {
    standing.as_ref().map_or(Value::Null, |standing| {
        json!({
            "node": standing.node,
            "reach": json::view(&standing.reach),
            "peers": json::view(&standing.peers),
        })
    })
}

/// Who is recorded beside this command.
enum Subject {
    /// The node of this machine.
    Node(Box<Node>),
    /// It ran, and does not answer now.
    Gone,
    /// Nobody.
    Ourselves,
}

/// A capture under way.
struct Capture {
    bundle: Bundle,
    recorder: Recorder,
    /// Where to go on reading our own recorder.
    own: u64,
    subject: Subject,
    /// Where to go on reading the node's.
    theirs: Option<u64>,
    tally: Tally,
}

impl Capture {
    fn begin(bundle: Bundle, recorder: Recorder, node: Option<Node>) -> Self {
        let own = recorder.page(None).next;
        let subject = node.map_or(Subject::Ourselves, |node| Subject::Node(Box::new(node)));
        Self { bundle, recorder, own, subject, theirs: None, tally: Tally::default() }
    }

    /// Returns how the node of this machine stands, if it runs.
    async fn status(&mut self) -> Option<Standing> {
        let Subject::Node(node) = &mut self.subject else { return None };
        let asked = timeout(STATUS_WITHIN, async {
            let donor = node.donor().await?;
            let peers = node.peers().await?;
            anyhow::Ok(Standing { node: Some(donor.node.to_string()), reach: donor.reach, peers })
        });
        match asked.await {
            Ok(Ok(standing)) => Some(standing),
            // An answer that was not waited for would be taken for that to the next question.
            Ok(Err(_)) | Err(_) => {
                self.subject = Subject::Gone;
                None
            }
        }
    }

    /// Keeps what happens until the time is over and the network was examined, or somebody interrupts it. Returns what the
    /// examination found, if it came to an end.
    async fn attend(
        &mut self,
        context: &Context,
        args: &DiagnoseArgs,
        transport: node::TransportConfig,
    ) -> anyhow::Result<Option<Found>> {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let seconds = u64::from(args.seconds);
        let begun = Instant::now();
        let deadline = begun + Duration::from_secs(seconds);
        let progress = Progress::new();
        let bar = progress.count("seconds", seconds);
        let mut ticks = interval(FETCH_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut examining = pin!(doctor::examine(context, transport, &args.target));
        let mut found = None;
        let mut fetches = 0;
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() && found.is_some() {
                break;
            }
            tokio::select! {
                examined = &mut examining, if found.is_none() => found = Some(examined?),
                _ = ticks.tick() => {
                    self.fetch().await?;
                    fetches += 1;
                    if fetches % FETCHES_PER_SYNC == 0 {
                        self.bundle.sync()?;
                    }
                    let tally = &self.tally;
                    let message = format!("{}, {} failed", say::count(tally.dials, "dial"), tally.failed);
                    bar.set(begun.elapsed().as_secs().min(seconds), seconds, &message);
                }
                () = sleep_until(deadline), if !rest.is_zero() => {}
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
            }
        }
        bar.finish();
        Ok(found)
    }

    /// Fetches what was recorded, here and by the node.
    async fn fetch(&mut self) -> io::Result<()> {
        for _ in 0..PAGES_PER_FETCH {
            let page = self.recorder.page(Some(self.own));
            self.own = page.next;
            if page.records.is_empty() {
                break;
            }
            self.keep("here", page)?;
        }
        for _ in 0..PAGES_PER_FETCH {
            let Subject::Node(node) = &mut self.subject else { break };
            match node.trace(self.theirs).await {
                Ok(page) => {
                    let first = self.theirs.replace(page.next).is_none();
                    let read = page.records.is_empty();
                    self.keep("node", page)?;
                    if first || read {
                        break;
                    }
                }
                Err(error) => {
                    self.subject = Subject::Gone;
                    self.tally.interruptions += 1;
                    self.change("here", now(), "node_gone", &format!("{error:#}"))?;
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, by: &str, page: TracePage) -> io::Result<()> {
        self.tally.missed += page.missed;
        for record in page.records {
            match record {
                TraceRecord::Log { at, level, target, text } => {
                    self.tally.lines += 1;
                    if target == LIBRARY.0 && text.starts_with(LIBRARY.1) {
                        self.tally.library_failed += 1;
                    }
                    let text = say::harmless(&text).replace('\n', "\\n");
                    self.bundle.log(&format!("{at} {level:>5} {by} {target}: {text}"))?;
                }
                TraceRecord::Dial { at, dial } => self.dial(by, at, &dial)?,
                TraceRecord::Change { at, event, detail } => self.change(by, at, &event, &detail)?,
            }
        }
        Ok(())
    }

    fn dial(&mut self, by: &str, at: Timestamp, dial: &DialView) -> io::Result<()> {
        self.tally.add(dial);
        let mut event = json!({ "ts": at.to_string(), "event": "dial_attempt", "by": by });
        if let (Some(event), Value::Object(dial)) = (event.as_object_mut(), json::view(dial)) {
            event.extend(dial);
        }
        self.bundle.trace(&event)
    }

    fn change(&mut self, by: &str, at: Timestamp, event: &str, detail: &str) -> io::Result<()> {
        self.bundle.trace(&json!({ "ts": at.to_string(), "event": event, "by": by, "detail": detail }))
    }
}

/// What was counted.
#[derive(Default)]
struct Tally {
    dials: u64,
    /// Dials that reached a node, by transport.
    reached: BTreeMap<String, u64>,
    failed: u64,
    /// Dials that failed, by transport, root cause and what was done about it.
    causes: BTreeMap<(String, String, String), u64>,
    /// Of those, dials that say no cause, or not what was done.
    wordless: u64,
    /// Dials that failed as the library beneath us tells it.
    library_failed: u64,
    interceptors: BTreeMap<String, u64>,
    lines: u64,
    missed: u64,
    interruptions: u64,
}

impl Tally {
    fn add(&mut self, dial: &DialView) {
        self.dials += 1;
        let transport = dial.transport.clone().unwrap_or_else(|| "none".to_owned());
        if let Some(issuer) = &dial.intercepted_by
            && (self.interceptors.len() < CAUSES_MAX || self.interceptors.contains_key(issuer))
        {
            *self.interceptors.entry(issuer.clone()).or_default() += 1;
        }
        if dial.outcome == "success" {
            *self.reached.entry(transport).or_default() += 1;
            return;
        }
        self.failed += 1;
        let said = |text: &Option<String>| text.as_deref().unwrap_or("").trim().to_owned();
        let (cause, follow_up) = (said(&dial.root_cause), said(&dial.follow_up));
        if cause.is_empty() || follow_up.is_empty() {
            self.wordless += 1;
        }
        // "retry in 4.1 s" and "retry in 8.2 s" are one thing.
        let kind = follow_up.split(" in ").next().unwrap_or_default().to_owned();
        let key = (transport, cause, kind);
        if self.causes.len() < CAUSES_MAX || self.causes.contains_key(&key) {
            *self.causes.entry(key).or_default() += 1;
        }
    }

    /// Returns how many dials failed and left no word, as far as either account tells.
    fn silent(&self) -> u64 {
        self.wordless + self.library_failed.saturating_sub(self.failed)
    }

    /// Says it in sentences.
    fn sentences(&self) -> Vec<String> {
        let reached: u64 = self.reached.values().sum();
        let by: Vec<String> =
            self.reached.iter().map(|(transport, count)| format!("{count} by {transport}")).collect();
        let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
        let mut sentences = vec![
            format!(
                "{}: {reached} reached somebody{by}, {} failed.",
                say::count(self.dials, "dial"),
                self.failed
            ),
            match (self.failed, self.silent()) {
                (0, 0) => "No dial failed.".to_owned(),
                (_, 0) => "Every failure says why and what was done about it; none was silent.".to_owned(),
                (_, silent) => {
                    format!("{} failed silently: that is a fault of ours.", say::count(silent, "dial"))
                }
            },
        ];
        for (issuer, count) in &self.interceptors {
            sentences.push(format!(
                "Somebody opens web connections on this network: {} showed a certificate issued by {}.",
                say::count(*count, "connection"),
                say::harmless(issuer)
            ));
        }
        sentences
    }
}

fn assertions(
    tally: &Tally,
    found: Option<&Found>,
    left_out: u64,
    wanted_s: u64,
    captured_s: u64,
    whole: bool,
) -> [Assertion; 3] {
    let gets_through = found.and_then(Found::gets_through);
    [
        Assertion {
            name: "no_silent_dial_failure",
            expected: "0 dials that failed without a cause and what was done about it".to_owned(),
            observed: format!(
                "{} of {} failed dials; the library tells of {}",
                tally.silent(),
                tally.failed,
                tally.library_failed
            ),
            pass: Some(tally.silent() == 0),
        },
        Assertion {
            name: "some_transport_gets_through",
            expected: "a node is reached by quic, tcp or wss".to_owned(),
            observed: found.map_or_else(|| "not examined".to_owned(), |found| found.verdict.clone()),
            pass: gets_through,
        },
        Assertion {
            name: "the_capture_is_whole",
            expected: format!("{wanted_s} s and the examination, without a gap"),
            observed: format!(
                "{captured_s} s, {}; {} too late to be read, {} without room, the node was gone {}",
                if found.is_some() { "examined" } else { "not examined" },
                say::count(tally.missed, "record"),
                say::count(left_out, "line"),
                say::count(tally.interruptions, "time"),
            ),
            pass: (whole && tally.missed + left_out + tally.interruptions == 0).then_some(true),
        },
    ]
}

fn summary(
    metadata: &Value,
    assertions: &[Assertion],
    tally: &Tally,
    found: Option<&Found>,
    stood: Option<&Standing>,
) -> String {
    let word = |name: &str| metadata[name].as_str().unwrap_or_default().to_owned();
    let mut page = vec![
        "# How this network treats a node".to_owned(),
        format!(
            "Outcome: **{}**. Run {}, {} to {}, {}.",
            evidence::overall(assertions),
            word("run_id"),
            word("started_at"),
            word("ended_at"),
            word("software_version")
        ),
    ];
    let mut sentences: Vec<String> = found.map(|found| found.verdict.clone()).into_iter().collect();
    sentences.extend(tally.sentences());
    page.push(sentences.join("\n"));
    if let Some(found) = found {
        page.push("## What the network lets through".to_owned());
        page.push(evidence::table(["question", "answer", "because"], found.answers()));
    }
    page.push("## Dials that failed".to_owned());
    let mut causes: Vec<_> = tally.causes.iter().collect();
    causes.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let shown = causes.iter().take(CAUSES_SHOWN_MAX).map(|((transport, cause, follow_up), count)| {
        [count.to_string(), transport.clone(), cause.clone(), follow_up.clone()]
    });
    page.push(match causes.len() {
        0 => "None.".to_owned(),
        _ => evidence::table(["how often", "transport", "why", "what was done"], shown),
    });
    if causes.len() > CAUSES_SHOWN_MAX {
        page.push(format!("{} more kinds are in `trace.jsonl`.", causes.len() - CAUSES_SHOWN_MAX));
    }
    if let Some(Standing { node, reach, peers }) = stood {
        page.push("## How the node stood in the end".to_owned());
        let who = match node {
            Some(node) => format!("Node {node}."),
            None => {
                "No node ran: this command looked for the network itself, under a name of its own.".to_owned()
            }
        };
        let held =
            reach.reservations.iter().filter(|place| ["active", "renewing"].contains(&place.state.as_str()));
        page.push(format!(
            "{who} Reached by others in the last minute: {}. NAT: {}. Places on relays: {}. Known: {}.",
            if reach.reachable { "yes" } else { "no" },
            reach.nat,
            held.count(),
            say::count(reach.known_nodes, "node"),
        ));
        let rows = peers.iter().map(|peer| {
            let why = peer.fallback.clone().unwrap_or_default();
            [peer.node.to_string(), peer.transport.clone(), peer.address.clone(), why]
        });
        page.push(match peers.len() {
            0 => "It was connected to nobody.".to_owned(),
            _ => evidence::table(["peer", "path", "address", "why not a better one"], rows),
        });
    }
    page.push("## What was checked".to_owned());
    let rows = assertions.iter().map(|assertion| {
        let pass = match assertion.pass {
            Some(true) => "pass",
            Some(false) => "fail",
            None => "undecided",
        };
        [assertion.name.to_owned(), assertion.expected.clone(), assertion.observed.clone(), pass.to_owned()]
    });
    page.push(evidence::table(["what", "expected", "observed", ""], rows));
    page.push("## The machine".to_owned());
    let machine = &metadata["machines"][0];
    let rows = ["hostname", "os", "kernel", "cpu_model", "memory_gb", "network_profile"].map(|name| {
        let value = machine[name].as_str().map_or_else(|| machine[name].to_string(), str::to_owned);
        [name.to_owned(), value]
    });
    page.push(evidence::table(["", ""], rows));
    page.push("## The files".to_owned());
    page.push(format!(
        "`run.log`: {} of the network side's debugging log. `trace.jsonl`: every dial and every change of connections, one \
         JSON document a line. `doctor.json`, `node.json`: what was found, and how the node stood before and after. \
         `results.json`, `metadata.json`: the tables above.\n\nPasswords and keys are not in here. Addresses, node ids and \
         the name of the machine are: show this to nobody who must not see them.",
        say::count(tally.lines, "line")
    ));
    page.join("\n\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dial(outcome: &str, cause: Option<&str>, follow_up: Option<&str>) -> DialView {
        DialView {
            target_multiaddr: "/ip4/192.0.2.1/tcp/1".to_owned(),
            transport: Some("tcp".to_owned()),
            outcome: outcome.to_owned(),
            root_cause: cause.map(str::to_owned),
            follow_up: follow_up.map(str::to_owned),
            intercepted_by: None,
        }
    }

    #[test]
    fn a_failure_without_a_word_is_a_fault_and_so_is_one_that_only_the_library_tells_of() {
        let mut tally = Tally::default();
        tally.add(&dial("success", None, None));
        tally.add(&dial("timeout", Some("timed out"), Some("retry in 1.0 s")));
        tally.add(&dial("timeout", Some("timed out"), Some("retry in 2.0 s")));
        assert_eq!((tally.dials, tally.failed, tally.silent(), tally.causes.len()), (3, 2, 0, 1));
        assert!(tally.sentences()[1].contains("none was silent"));
        tally.library_failed = 3;
        assert_eq!(tally.silent(), 1);
        tally.add(&dial("denied", Some("refused"), None));
        assert_eq!(tally.silent(), 1, "that is the one that the library told of");
        tally.add(&dial("denied", None, Some("fallback")));
        assert!(tally.sentences()[1].contains("silently"));
        let judged = assertions(&tally, None, 0, 5, 5, false);
        assert_eq!(evidence::overall(&judged), "fail");
        assert_eq!(judged.map(|assertion| assertion.pass), [Some(false), None, None]);
    }
}
