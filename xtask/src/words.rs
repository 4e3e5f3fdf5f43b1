//! Words that mean unfinished work have no place in the product (REL-01, erratum E-38).

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Whole words refused in product sources, in any case. Spelled in halves so that this file passes its own check.
const WORDS: &[&str] = &[concat!("place", "holder"), concat!("st", "ub"), concat!("to", "do")];
/// Macros that admit that a path is not written.
const MACROS: &[&str] = &[concat!("to", "do!"), concat!("unimple", "mented!")];
/// A test that is switched off proves nothing: assert today's behaviour and say why it is wrong.
const SWITCHED_OFF: &str = concat!("#[ig", "nore");

/// `cargo xtask words`
pub fn command(_arguments: &[String]) -> Result<()> {
    check()
}

/// Fails with every place where such a word stands.
pub fn check() -> Result<()> {
    let root = workspace::root()?;
    let mut count = 0;
    for (folder, product) in [("crates", true), ("tests", false), ("fuzz", false), ("benches", false)] {
        for path in workspace::files_below(&root.join(folder), "rs")? {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let shown = path.strip_prefix(&root).unwrap_or(&path).display();
            for (line_number, line) in text.lines().enumerate() {
                if let Some(reason) = complaint(line, product) {
                    eprintln!("{shown}:{}: {reason}\n    {}", line_number + 1, line.trim());
                    count += 1;
                }
            }
        }
    }
    if count > 0 {
        bail!("{count} line(s) speak of unfinished work: finish it, or name the thing by what it is");
    }
    Ok(())
}

/// Returns what is wrong with one line, if anything is. Words count in `product` sources only; a switched-off test and
/// an unwritten path count everywhere.
fn complaint(line: &str, product: bool) -> Option<String> {
    let folded = line.to_ascii_lowercase();
    if folded.contains(SWITCHED_OFF) {
        return Some("a test that is switched off proves nothing".to_owned());
    }
    if let Some(name) = MACROS.iter().find(|name| has_word(&folded, name)) {
        return Some(format!("`{name}` is a panic waiting for a user"));
    }
    let word = WORDS.iter().find(|word| product && has_word(&folded, word))?;
    Some(format!("`{word}` usually means unfinished work"))
}

/// Says whether `word` stands in `line` with no letter, digit or underscore before it, nor after it.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        !before.is_some_and(part_of_a_word) && (word.ends_with('!') || !after.is_some_and(part_of_a_word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_work_is_found_in_words_macros_and_switched_off_tests() {
        for (line, product, found) in [
            (format!("// {}: later", "TODO"), true, true),
            (format!("// {}: later", "TODO"), false, false),
            (format!("    {}(\"x\")", MACROS[1]), false, true),
            (format!("{}]", SWITCHED_OFF), false, true),
            ("let stubborn = autodoc;".to_owned(), true, false),
            (format!("let a_{} = 1;", WORDS[0]), true, false),
            (format!("fn x() {{ a({}) }}", WORDS[1]), true, true),
        ] {
            assert_eq!(complaint(&line, product).is_some(), found, "{line}");
        }
    }
}
