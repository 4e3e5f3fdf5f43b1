//! Every error code means one thing: it is made in one place of the product.
//!
//! A code is *defined* where `Code::new` makes it, which is the only way there is to make one. Tests, documents and
//! messages mention codes, and may do so as often as they like.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Where a code begins to be made. Spelled in halves so that this file passes its own check.
const MADE: &str = concat!("Code::", "new(");
/// Where a file's own tests begin.
const TESTS: &str = "#[cfg(test)]\nmod tests {";

/// `cargo xtask codes`
pub fn command(_arguments: &[String]) -> Result<()> {
    println!("{} codes, each made in one place", check()?);
    Ok(())
}

/// Fails with every code that is made in more than one place; returns how many there are.
pub fn check() -> Result<usize> {
    let root = workspace::root()?;
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in workspace::files_below(&root.join("crates"), "rs")? {
        let shown = path.strip_prefix(&root).unwrap_or(&path);
        let tests = shown.iter().any(|part| part == "tests" || part == "tests.rs" || part == "benches");
        if tests {
            continue;
        }
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for (line, code) in definitions(&text) {
            places.entry(code).or_default().push(format!("{}:{line}", shown.display()));
        }
    }
    let twice: Vec<_> = places.iter().filter(|(_, places)| places.len() > 1).collect();
    for (code, places) in &twice {
        eprintln!("{code} is made in {}", places.join(" and "));
    }
    if !twice.is_empty() {
        bail!("{} code(s) mean more than one thing: give each its own", twice.len());
    }
    Ok(places.len())
}

/// Returns the codes that a source file makes outside its tests, with their lines.
fn definitions(text: &str) -> Vec<(usize, String)> {
    let product = text.find(TESTS).map_or(text, |end| &text[..end]);
    let made = product.match_indices(MADE).filter_map(|(start, _)| {
        let literal = product[start + MADE.len()..].trim_start().strip_prefix('"')?;
        let code = literal.split('"').next()?;
        Some((product[..start].lines().count().max(1), code.to_owned()))
    });
    made.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_where_it_is_made_and_not_where_it_is_mentioned() {
        let made = |code: &str| format!("{MADE}\"{code}\", Class::Ours)");
        let text = format!(
            "const A: Code = {};\n// see WC-A-009\nlet b = {MADE}\n    \"WC-A-002\", Class::Peer);\n{TESTS}\n  {}\n",
            made("WC-A-001"),
            made("WC-A-003"),
        );
        let found: Vec<String> = definitions(&text).into_iter().map(|(_, code)| code).collect();
        assert_eq!(found, ["WC-A-001", "WC-A-002"]);
    }

    #[test]
    fn no_code_of_the_product_means_two_things() {
        assert!(check().expect("each is made once") > 100);
    }
}
