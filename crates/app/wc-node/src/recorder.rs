//! Keeps what the network side does while somebody diagnoses it, and nothing otherwise.
//!
//! ```text
//! off ──page()──► on, until nobody has asked for half a minute ──► off, and forgotten
//! ```
//!
//! While it is off, log lines are refused by a filter without being made. While it is on, the newest few MiB are kept;
//! whoever reads too slowly is told how much it missed.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{Filtered, Targets};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::{Registry, reload};
use wc_mesh::{DialAttempt, Interception, MeshEvent};
use wc_proto::api::view::{DialView, TracePage, TraceRecord};

use crate::clock;
use crate::coordinator::lock;

/// How long the recorder goes on without being asked for what it has: a reader that was killed asks no more.
const KEPT_ON: Duration = Duration::from_secs(30);
/// Bytes of text that wait for the reader; a busy mesh says less than 1 MiB a second.
const BYTES_MAX: usize = 8 << 20;
/// Bytes of text in one page; leaves room in a frame for everything around them.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Longest text of one record.
const TEXT_BYTES_MAX: usize = 2 << 10;
/// What one record takes beside its text.
const RECORD_BYTES: usize = 128;
/// Stands for what must not be shown.
const HIDDEN: &str = "«hidden»";

/// The parts of the program that have to do with reaching others.
const TARGETS: [&str; 10] = [
    "libp2p",
    "multistream_select",
    "yamux",
    "quinn",
    "rustls",
    "hickory",
    "if_watch",
    "wc_mesh",
    "wc_node::finder",
    "wc_node::node",
];

/// The layer of the log that feeds a recorder.
pub type RecorderLayer = Filtered<Lines, reload::Layer<Targets, Registry>, Registry>;

/// Keeps what the network side does. Cloning is cheap; clones share everything.
#[derive(Clone)]
pub struct Recorder {
    kept: Arc<Mutex<Kept>>,
    filter: reload::Handle<Targets, Registry>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

/// Turns log lines into records.
pub struct Lines {
    kept: Arc<Mutex<Kept>>,
}

/// What is kept, and until when.
#[derive(Default)]
struct Kept {
    /// Set while the recorder is on.
    until: Option<Instant>,
    records: VecDeque<TraceRecord>,
    bytes: usize,
    /// Position of the first record that is kept.
    first: u64,
    secrets: Vec<String>,
}

impl Recorder {
    /// Returns a recorder that is off, and the layer to put directly on the registry of the log.
    pub fn new() -> (Self, RecorderLayer) {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let (filter, handle) = reload::Layer::new(Targets::new());
        let layer = Lines { kept: kept.clone() }.with_filter(filter);
        (Self { kept, filter: handle }, layer)
    }

    /// Never keeps any of these texts.
    pub fn hide(&self, secrets: impl IntoIterator<Item = String>) {
        let mut kept = lock(&self.kept);
        for secret in secrets {
            if !secret.is_empty() && !kept.secrets.contains(&secret) {
                kept.secrets.push(secret);
            }
        }
        // A secret may be part of another: the longer one goes first.
        kept.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    }

    /// Returns what happened from position `from` on, or from now on, and stays on for a while. Needs a tokio runtime.
    pub fn page(&self, from: Option<u64>) -> TracePage {
        let (page, was_off) = {
            let mut kept = lock(&self.kept);
            let was_off = kept.until.replace(Instant::now() + KEPT_ON).is_none();
            (kept.page(from), was_off)
        };
        // Outside of the lock: while the filter changes, other threads wait in the middle of a log line.
        if was_off {
            self.set(true);
            tokio::spawn(self.clone().turn_off_in_time());
        }
        page
    }

    /// Keeps what the mesh told, if somebody wants to know.
    pub fn note(&self, event: &MeshEvent) {
        let mut kept = lock(&self.kept);
        if kept.until.is_none() {
            return;
        }
        let at = clock::now();
        let change =
            |event: &str, detail: String| TraceRecord::Change { at, event: event.to_owned(), detail };
        let record = match event {
            MeshEvent::DialAttempt(attempt) => TraceRecord::Dial { at, dial: dial_view(attempt) },
            MeshEvent::Listening { addr } => change("listening", addr.to_string()),
            MeshEvent::ListenFailed { wanted, cause, instead } => {
                let instead = instead.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
                change("listen_failed", format!("{wanted}: {cause}; instead: {instead}"))
            }
            MeshEvent::DiscoveryUnavailable { via, cause } => {
                change("discovery_unavailable", format!("{via}: {cause}"))
            }
            MeshEvent::Discovered { node, addrs, via } => {
                change("discovered", format!("{node} by {via} at {addrs:?}"))
            }
            MeshEvent::Connected { node, addr, transport, direction } => {
                change("connected", format!("{node} at {addr} by {transport}, {direction:?}"))
            }
            MeshEvent::Disconnected { node, cause } => change("disconnected", format!("{node}: {cause}")),
            MeshEvent::WrongNetwork { node, network } => {
                change("wrong_network", format!("{node} is of {network:?}"))
            }
            other => change("other", format!("{other:?}")),
        };
        kept.push(record);
    }

    async fn turn_off_in_time(self) {
        loop {
            let until = {
                let mut kept = lock(&self.kept);
                match kept.until {
                    Some(until) if until > Instant::now() => until,
                    _ => {
                        kept.forget();
                        break;
                    }
                }
            };
            tokio::time::sleep_until(until.into()).await;
        }
        self.set(false);
        // Asked in this very moment: that call found it off and has turned it on, before or after us.
        if lock(&self.kept).until.is_some() {
            self.set(true);
        }
    }

    fn set(&self, on: bool) {
        let targets = if on {
            Targets::new().with_targets(TARGETS.map(|target| (target, LevelFilter::DEBUG)))
        } else {
            Targets::new()
        };
        // Fails when no log was started with our layer: then there are no lines, and everything else goes on.
        let _ = self.filter.reload(targets);
    }
}

impl Kept {
    fn page(&mut self, from: Option<u64>) -> TracePage {
        let end = self.first + self.records.len() as u64;
        let from = from.unwrap_or(end).min(end);
        // What the reader has is no longer needed here.
        while self.first < from {
            self.pop();
        }
        let mut bytes = 0;
        let fits = |record: &&TraceRecord| {
            bytes += bytes_of(record);
            bytes <= PAGE_BYTES_MAX
        };
        let records: Vec<_> = self.records.iter().take_while(fits).cloned().collect();
        TracePage { next: self.first + records.len() as u64, missed: self.first - from, records }
    }

    fn pop(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.bytes -= bytes_of(&record);
        }
        self.first += 1;
    }

    fn push(&mut self, mut record: TraceRecord) {
        for text in texts(&mut record) {
            for secret in &self.secrets {
                if text.contains(secret.as_str()) {
                    *text = text.replace(secret.as_str(), HIDDEN);
                }
            }
            if text.len() > TEXT_BYTES_MAX {
                text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
                text.push('…');
            }
        }
        self.bytes += bytes_of(&record);
        self.records.push_back(record);
        while self.bytes > BYTES_MAX {
            self.pop();
        }
    }

    fn forget(&mut self) {
        self.until = None;
        self.first += self.records.len() as u64;
        self.bytes = 0;
        self.records = VecDeque::new();
    }
}

/// Every text of a record that somebody else may have a hand in.
fn texts(record: &mut TraceRecord) -> Vec<&mut String> {
    match record {
        TraceRecord::Log { text, .. } => vec![text],
        TraceRecord::Change { detail, .. } => vec![detail],
        TraceRecord::Dial { dial, .. } => {
            let mut texts = vec![&mut dial.target_multiaddr];
            texts.extend(&mut dial.root_cause);
            texts.extend(&mut dial.intercepted_by);
            texts
        }
    }
}

fn bytes_of(record: &TraceRecord) -> usize {
    RECORD_BYTES
        + match record {
            TraceRecord::Log { target, text, .. } => target.len() + text.len(),
            TraceRecord::Change { event, detail, .. } => event.len() + detail.len(),
            TraceRecord::Dial { dial, .. } => {
                let some = |text: &Option<String>| text.as_ref().map_or(0, String::len);
                dial.target_multiaddr.len()
                    + some(&dial.root_cause)
                    + some(&dial.follow_up)
                    + some(&dial.intercepted_by)
            }
        }
}

/// Shows a dial.
pub fn dial_view(attempt: &DialAttempt) -> DialView {
    DialView {
        target_multiaddr: attempt.target_multiaddr.to_string(),
        transport: attempt.transport.map(|transport| transport.to_string()),
        outcome: attempt.outcome.to_string(),
        root_cause: attempt.root_cause.clone(),
        follow_up: attempt.follow_up.map(|follow_up| follow_up.to_string()),
        intercepted_by: attempt.interception.as_ref().map(|interception| match interception {
            Interception::Refused { issuer } | Interception::Allowed { issuer } => issuer.clone(),
        }),
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut words = Words::default();
        event.record(&mut words);
        let metadata = event.metadata();
        let record = TraceRecord::Log {
            at: clock::now(),
            level: metadata.level().to_string(),
            target: metadata.target().to_owned(),
            text: words.0,
        };
        let mut kept = lock(&self.kept);
        if kept.until.is_some() {
            kept.push(record);
        }
    }
}

/// The message of an event and its fields, as one text.
#[derive(Default)]
struct Words(String);

impl Words {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Longer texts are cut anyway; a string is a sink that never fails.
        if self.0.len() > TEXT_BYTES_MAX {
            return;
        }
        let _ = match field.name() {
            "message" if self.0.is_empty() => self.0.write_fmt(value),
            "message" => {
                let fields = std::mem::take(&mut self.0);
                write!(self.0, "{value} {fields}")
            }
            name => {
                let gap = if self.0.is_empty() { "" } else { " " };
                write!(self.0, "{gap}{name}={value}")
            }
        };
    }
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;
    use wc_types::Timestamp;

    use super::*;

    fn texts_of(page: &TracePage) -> Vec<String> {
        let text = |record: &TraceRecord| match record {
            TraceRecord::Log { text, .. } => text.clone(),
            TraceRecord::Change { event, .. } => event.clone(),
            TraceRecord::Dial { dial, .. } => dial.target_multiaddr.clone(),
        };
        page.records.iter().map(text).collect()
    }

    #[tokio::test]
    async fn nothing_is_recorded_unless_somebody_asks_and_no_secret_ever() {
        let (recorder, layer) = Recorder::new();
        recorder.hide(["ann:pa ss".to_owned(), "pa ss".to_owned()]);
        let _log = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        tracing::debug!(target: "wc_mesh", "too early");
        recorder.note(&MeshEvent::Lagged { missed: 1 });
        let begin = recorder.page(None);
        assert!(begin.records.is_empty());
        tracing::debug!(target: "wc_mesh::dial", with = "ann:pa ss", "dialling");
        tracing::debug!(target: "wc_store", "of another part");
        tracing::trace!(target: "wc_mesh", "too much");
        let page = recorder.page(Some(begin.next));
        assert_eq!(texts_of(&page), [format!("dialling with={HIDDEN}")]);
        assert!(recorder.page(Some(page.next)).records.is_empty());
    }

    #[tokio::test]
    async fn a_reader_that_went_away_ends_it_and_one_that_is_slow_knows_what_it_missed() {
        let (recorder, _) = Recorder::new();
        let begin = recorder.page(None).next;
        let detail = "x".repeat(TEXT_BYTES_MAX);
        for _ in 0..2 * BYTES_MAX / TEXT_BYTES_MAX {
            let record =
                TraceRecord::Change { at: Timestamp(0), event: "flood".to_owned(), detail: detail.clone() };
            lock(&recorder.kept).push(record);
        }
        assert!(lock(&recorder.kept).bytes <= BYTES_MAX);
        let page = recorder.page(Some(begin));
        assert!(page.missed > 0 && !page.records.is_empty());
        assert_eq!(page.missed + page.records.len() as u64, page.next - begin);
        lock(&recorder.kept).until = Some(Instant::now());
        recorder.clone().turn_off_in_time().await;
        let kept = lock(&recorder.kept);
        assert!(kept.until.is_none() && kept.records.is_empty());
    }
}
