//! Progress on standard error: bars where a person looks on, a plain line now and then where a file or a pipe does.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use wc_types::Millis;

use crate::amount::show_duration;

/// Time between two plain lines about the same thing.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Where progress is shown.
pub struct Progress {
    bars: Option<MultiProgress>,
}

/// Progress of one thing.
pub struct Bar {
    label: String,
    bar: Option<ProgressBar>,
    begun: Instant,
    line: Mutex<Line>,
}

struct Line {
    last: Instant,
    shown: String,
    position: u64,
    total: u64,
    message: String,
}

impl Progress {
    /// Shows bars if standard error is a terminal, lines otherwise.
    pub fn new() -> Self {
        Self { bars: std::io::stderr().is_terminal().then(MultiProgress::new) }
    }

    /// Begins to count to `total`.
    pub fn count(&self, label: &str, total: u64) -> Bar {
        const TEMPLATE: &str = "{prefix:>16} {bar:32.cyan/blue} {pos:>5}/{len:<5} {msg}";
        self.bar(label, total, TEMPLATE)
    }

    /// Begins to wait for something of unknown length.
    pub fn wait(&self, label: &str) -> Bar {
        self.bar(label, 0, "{prefix:>16} {spinner} {elapsed} {msg}")
    }

    fn bar(&self, label: &str, total: u64, template: &str) -> Bar {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(total));
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar.set_prefix(label.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        let now = Instant::now();
        let line = Line { last: now, shown: String::new(), position: 0, total, message: String::new() };
        Bar { label: label.to_owned(), bar, begun: now, line: Mutex::new(line) }
    }

    /// Writes a line that stays, above the bars.
    pub fn say(&self, text: &str) {
        match &self.bars {
            Some(bars) => {
                let _ = bars.println(text);
            }
            None => eprintln!("{text}"),
        }
    }
}

impl Bar {
    /// Sets how much is done, out of how much.
    pub fn set(&self, position: u64, total: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(position);
            bar.set_message(message.to_owned());
        }
        if let Ok(mut line) = self.line.lock() {
            line.position = position;
            line.total = total;
            message.clone_into(&mut line.message);
            if self.bar.is_none() && line.last.elapsed() >= LINE_EVERY {
                self.write(&mut line);
            }
        }
    }

    /// Counts one more.
    pub fn step(&self) {
        let (position, total, message) = match self.line.lock() {
            Ok(line) => (line.position + 1, line.total, line.message.clone()),
            Err(_) => return,
        };
        self.set(position, total, &message);
    }

    /// Changes the message.
    pub fn message(&self, message: &str) {
        let (position, total) = match self.line.lock() {
            Ok(line) => (line.position, line.total),
            Err(_) => return,
        };
        self.set(position, total, message);
    }

    /// Ends, leaving nothing behind on a terminal.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Ends, leaving the bar as it is.
    pub fn stand(&self) {
        match (&self.bar, self.line.lock()) {
            (Some(bar), _) => bar.abandon(),
            (None, Ok(mut line)) => self.write(&mut line),
            (None, Err(_)) => {}
        }
    }

    fn write(&self, line: &mut Line) {
        let elapsed =
            show_duration(Millis(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)));
        let count = if line.total > 0 { format!(" {}/{}", line.position, line.total) } else { String::new() };
        let message = if line.message.is_empty() { String::new() } else { format!(", {}", line.message) };
        let text = format!("{}{count}{message}", self.label);
        line.last = Instant::now();
        if text != line.shown {
            eprintln!("{text} ({elapsed})");
            line.shown = text;
        }
    }
}
