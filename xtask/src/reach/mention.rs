//! Which names a piece of source mentions, and in what manner.
//!
//! Names, not meanings: without a type checker we cannot know which `open` a call means, so it counts for all of them.
//! The manner of the mention narrows it down: `.open(` is a method, a bare `open` is not, `open:` names a field.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, Literal, TokenStream, TokenTree};

/// Names that a piece of source mentions.
#[derive(Default, Debug, Clone, PartialEq, Eq)]
pub struct Mentions {
    /// Seen bare or at the start of a path: a type, function, constant, macro.
    pub free: BTreeSet<String>,
    /// Seen behind `.` and called, or behind `::`: a method or something associated.
    pub member: BTreeSet<String>,
}

impl Mentions {
    /// Returns the names in `tokens`.
    pub fn of(tokens: TokenStream) -> Self {
        let mut mentions = Self::default();
        mentions.read(tokens);
        mentions
    }

    /// Adds the names in `tokens`.
    pub fn read(&mut self, tokens: TokenStream) {
        let trees: Vec<TokenTree> = tokens.into_iter().collect();
        for (position, tree) in trees.iter().enumerate() {
            match tree {
                TokenTree::Group(group) => {
                    let attribute = group.delimiter() == Delimiter::Bracket
                        && (is_punct(before(&trees, position, 1), '#')
                            || is_punct(before(&trees, position, 1), '!')
                                && is_punct(before(&trees, position, 2), '#'));
                    if attribute { self.read_attribute(group.stream()) } else { self.read(group.stream()) }
                }
                TokenTree::Ident(ident) => {
                    let name = ident.to_string();
                    let name = name.strip_prefix("r#").unwrap_or(&name).to_owned();
                    self.read_name(name, &trees, position);
                }
                TokenTree::Literal(literal) => self.read_format_arguments(literal),
                TokenTree::Punct(_) => {}
            }
        }
    }

    fn read_name(&mut self, name: String, trees: &[TokenTree], position: usize) {
        let behind = |distance| before(trees, position, distance);
        let ahead = |distance: usize| trees.get(position + distance);
        let after_path = is_punct(behind(1), ':') && is_punct(behind(2), ':');
        // `a..b` and `a...b` are ranges, not members.
        let after_dot = is_punct(behind(1), '.') && !is_punct(behind(2), '.');
        let before_path = is_punct(ahead(1), ':') && is_punct(ahead(2), ':');
        if after_dot {
            let called = matches!(ahead(1), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis);
            if called || before_path {
                self.member.insert(name);
            }
        } else if after_path {
            self.member.insert(name.clone());
            self.free.insert(name);
        } else if !is_punct(ahead(1), ':') || before_path {
            self.free.insert(name);
        }
    }

    /// `"{NAME} {value:?}"` mentions what stands between the braces.
    fn read_format_arguments(&mut self, literal: &Literal) {
        let text = literal.to_string();
        for piece in text.split('{').skip(1) {
            let name: String = piece.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
                self.free.insert(name);
            }
        }
    }

    /// Attributes name functions and modules in strings (`#[serde(with = "hex")]`); documentation mentions nothing.
    fn read_attribute(&mut self, tokens: TokenStream) {
        let mut trees = tokens.clone().into_iter();
        if matches!(trees.next(), Some(TokenTree::Ident(ident)) if ident == "doc") {
            return;
        }
        self.read_attribute_strings(tokens.clone());
        self.read(tokens);
    }

    fn read_attribute_strings(&mut self, tokens: TokenStream) {
        let mut key = String::new();
        for tree in tokens {
            match tree {
                TokenTree::Group(group) => self.read_attribute_strings(group.stream()),
                TokenTree::Ident(ident) => key = ident.to_string(),
                TokenTree::Literal(literal) => {
                    let text = literal.to_string();
                    for name in text.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
                        self.free.insert(name.to_owned());
                        self.member.insert(name.to_owned());
                    }
                    if key == "with" {
                        self.free.extend(["serialize".to_owned(), "deserialize".to_owned()]);
                    }
                }
                TokenTree::Punct(_) => {}
            }
        }
    }

    /// Adds everything that `other` mentions.
    pub fn extend(&mut self, other: Self) {
        self.free.extend(other.free);
        self.member.extend(other.member);
    }
}

fn before(trees: &[TokenTree], position: usize, distance: usize) -> Option<&TokenTree> {
    trees.get(position.checked_sub(distance)?)
}

fn is_punct(tree: Option<&TokenTree>, wanted: char) -> bool {
    matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, free: &[&str], member: &[&str]) {
        let mentions = Mentions::of(source.parse().expect("the sample is made of tokens"));
        assert_eq!(mentions.free.iter().map(String::as_str).collect::<Vec<_>>(), free, "free in {source}");
        assert_eq!(
            mentions.member.iter().map(String::as_str).collect::<Vec<_>>(),
            member,
            "member in {source}"
        );
    }

    #[test]
    fn the_manner_of_a_mention_tells_a_method_from_a_function() {
        check("open(a.close().size)", &["a", "open"], &["close"]);
        check("store::open", &["open", "store"], &["open"]);
        check("parts.map::<u8>(f)", &["f", "parts", "u8"], &["map"]);
        check("low..high", &["high", "low"], &[]);
    }

    #[test]
    fn a_field_name_is_no_mention() {
        check("Lease { id: next }", &["Lease", "next"], &[]);
    }

    #[test]
    fn strings_mention_only_what_the_compiler_reads_in_them() {
        check(r#"f("{LIMIT} of limit {{x")"#, &["LIMIT", "f", "x"], &[]);
        check(r#"#[doc = "see Lease"]"#, &[], &[]);
        check(
            r#"#[serde(with = "hex")]"#,
            &["", "deserialize", "hex", "serde", "serialize", "with"],
            &["", "hex"],
        );
    }
}
