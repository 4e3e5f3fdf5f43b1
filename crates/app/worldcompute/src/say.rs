//! Data on standard output, talk on standard error.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use wc_types::node::Path;

/// Writes a line of data. An error when the reader has gone, so that the command ends there.
///
/// # Errors
/// When standard output is closed.
pub fn data(line: impl AsRef<str>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line.as_ref().as_bytes())?;
    out.write_all(b"\n")
}

/// Writes one JSON document as data.
///
/// # Errors
/// When standard output is closed.
pub fn json(value: &Value) -> io::Result<()> {
    data(format!("{value:#}"))
}

/// Writes a line of talk.
pub fn talk(line: impl AsRef<str>) {
    // Nobody is left to be told when standard error is closed.
    let _ = writeln!(io::stderr(), "{}", line.as_ref());
}

/// Returns an empty table with a heading.
pub fn table(heading: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(heading.to_vec());
    table
}

/// Returns an empty table whose sentences are broken into lines where somebody looks on, and whole lines where a program
/// reads.
pub fn table_of_sentences(heading: &[&str]) -> Table {
    let mut table = table(heading);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// Writes a table as data, or a sentence as talk if it is empty.
///
/// # Errors
/// When standard output is closed.
pub fn rows(table: &Table, empty: &str) -> io::Result<()> {
    if table.is_empty() {
        talk(empty);
        return Ok(());
    }
    for line in table.lines() {
        // The preset without borders still pads each cell.
        data(line.strip_prefix(' ').unwrap_or(&line).trim_end())?;
    }
    Ok(())
}

/// Writes pairs of name and value as data, aligned, further lines of a value beneath the first.
///
/// # Errors
/// When standard output is closed.
pub fn pairs(pairs: &[(&str, String)]) -> io::Result<()> {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in pairs {
        let indent = format!("\n{:width$}  ", "");
        data(format!("{name:width$}  {}", value.replace('\n', &indent)))?;
    }
    Ok(())
}

/// Says how a node is reached: `lan`, `direct`, `relayed`, and whether somebody reads along.
pub fn path(path: Option<Path>) -> String {
    match path {
        None => "-".to_owned(),
        Some(path) if path.inspected => format!("{}, inspected", path.reach.name()),
        Some(path) => path.reach.name().to_owned(),
    }
}

/// Says which version a node runs; only of another program its name as well.
pub fn version(agent: &str) -> String {
    harmless(agent.strip_prefix("worldcompute/").unwrap_or(agent))
}

/// Writes a number with its noun: `1 task`, `3 tasks`, `2 entries`, `2 witnesses`.
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        return format!("1 {noun}");
    }
    match noun.strip_suffix('y') {
        Some(stem) if stem.ends_with(|c| !"aeiou".contains(c)) => format!("{number} {stem}ies"),
        _ if noun.ends_with('s') => format!("{number} {noun}es"),
        _ => format!("{number} {noun}s"),
    }
}

/// Makes text of a stranger safe for a terminal: control characters become visible.
pub fn harmless(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => safe.push(c),
            c if c.is_control() => safe.extend(c.escape_default()),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_move_the_cursor() {
        assert_eq!(harmless("ok\n\x1b[2Jgone\u{9b}x"), "ok\n\\u{1b}[2Jgone\\u{9b}x");
    }
}
