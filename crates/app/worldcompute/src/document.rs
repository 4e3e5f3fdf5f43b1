//! YAML, JSON and TOML as one tree that remembers where each value stands.
//!
//! The three formats end in the same [`Node`], so what a key means is written once and its errors name line and column
//! whichever format the author chose.
//!
//! YAML is read with `serde-saphyr`: it is maintained (serde_yaml, the habit of years, is archived), pure and safe Rust,
//! bounds nesting and alias expansion, refuses duplicate keys, and gives the position of every value. JSON is checked by
//! `serde_json`, which knows what JSON is, and then read by the same code, since JSON is a subset of YAML; so its values
//! have positions too.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Largest document, in bytes. A record can be at most this long, and a document says less per byte.
pub const DOCUMENT_BYTES_MAX: usize = wc_types::canonical::RECORD_BYTES_MAX;
/// Deepest nesting. The schema needs six levels.
const DEPTH_MAX: usize = 32;

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub place: Option<Place>,
    /// What it is.
    pub value: Value,
}

/// What a document can hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Flag(bool),
    /// A whole number.
    Whole(i128),
    /// Another number.
    Real(f64),
    /// Text, and TOML's dates in their own notation.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in the author's order.
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Where it stands.
    pub place: Option<Place>,
    /// Its text.
    pub text: String,
}

impl Node {
    /// Says what kind of value this is, for people.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Flag(_) => "true or false",
            Value::Whole(_) => "a whole number",
            Value::Real(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// Returns the value of a key, if this is a map that has it.
    pub fn child(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(name, _)| name.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// Returns the node at a path such as `spec.stages[0].replicas`, or its nearest ancestor that exists.
    pub fn nearest(&self, path: &str) -> &Node {
        let mut node = self;
        for part in path.split('.') {
            let (key, index) = match part.split_once('[') {
                Some((key, rest)) => (key, rest.trim_end_matches(']').parse::<usize>().ok()),
                None => (part, None),
            };
            let Some(child) = node.child(key) else { return node };
            node = match (&child.value, index) {
                (Value::List(items), Some(index)) => items.get(index).unwrap_or(child),
                _ => child,
            };
        }
        node
    }
}

/// A document that is not in its format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// What the parser said, in one line.
    pub message: String,
    /// Where.
    pub place: Option<Place>,
}

/// The notation of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// TOML.
    Toml,
    /// YAML.
    Yaml,
}

impl Format {
    /// Chooses by the file's extension, or by what the text begins with when that says nothing.
    pub fn of(extension: Option<&str>, text: &str) -> Self {
        match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("json") => Self::Json,
            Some("toml") => Self::Toml,
            Some("yaml" | "yml") => Self::Yaml,
            _ if text.trim_start().starts_with('{') => Self::Json,
            _ if looks_like_toml(text) => Self::Toml,
            _ => Self::Yaml,
        }
    }

    /// Returns the format's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Toml => "TOML",
            Self::Yaml => "YAML",
        }
    }
}

/// The first line that is neither empty nor a comment is `[table]` or `key = value`.
fn looks_like_toml(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| {
        (line.starts_with('[') && line.ends_with(']'))
            || line.split_once('=').is_some_and(|(key, _)| !key.contains([':', '"', '{']))
    })
}

/// Reads a document.
///
/// # Errors
/// [`SyntaxError`] when the text is not in its format, repeats a key, nests too deep or is too long.
pub fn parse(text: &str, format: Format) -> Result<Node, SyntaxError> {
    if text.len() > DOCUMENT_BYTES_MAX {
        let message = format!("the document has {} bytes, more than {DOCUMENT_BYTES_MAX}", text.len());
        return Err(SyntaxError { message, place: None });
    }
    let node = match format {
        Format::Yaml => parse_yaml(text)?,
        Format::Json => {
            serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| {
                let place = Place { line: error.line() as u64, column: error.column() as u64 };
                // serde_json repeats the position at the end of its message.
                let message = error.to_string();
                let message = message.rsplit_once(" at line ").map_or(&*message, |(head, _)| head).to_owned();
                SyntaxError { message, place: Some(place) }
            })?;
            parse_yaml(text)?
        }
        Format::Toml => parse_toml(text)?,
    };
    check_depth(&node, 0)?;
    Ok(node)
}

fn check_depth(node: &Node, depth: usize) -> Result<(), SyntaxError> {
    if depth > DEPTH_MAX {
        let message = format!("nested deeper than {DEPTH_MAX} levels");
        return Err(SyntaxError { message, place: node.place });
    }
    match &node.value {
        Value::List(items) => items.iter().try_for_each(|item| check_depth(item, depth + 1)),
        Value::Map(entries) => entries.iter().try_for_each(|(_, item)| check_depth(item, depth + 1)),
        _ => Ok(()),
    }
}

fn parse_yaml(text: &str) -> Result<Node, SyntaxError> {
    let options = serde_saphyr::options! {
        // YAML 1.1 reads `no` and `on` as false and true; nobody who writes a country code expects it.
        strict_booleans: true,
        // Each level takes a few frames of the stack, so the reader has to stop before we can look at the tree.
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX + 4 },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map(place_of);
        let message = error.without_snippet().to_string();
        let message = match place {
            Some(place) => message.replace(&format!(" at {place}"), ""),
            None => message,
        };
        let message = message.lines().next().unwrap_or_default().to_owned();
        SyntaxError { message, place }
    })
}

fn place_of(location: serde_saphyr::Location) -> Place {
    Place { line: location.line(), column: location.column() }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<Value>::deserialize(deserializer)?;
        let place = place_of(spanned.referenced);
        Ok(Self { place: (place.line > 0).then_some(place), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Flag(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Whole(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Whole(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Real(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = entries.next_entry::<Node, Node>()? {
            let text = match key.value {
                Value::Text(text) => text,
                Value::Whole(number) => number.to_string(),
                Value::Flag(flag) => flag.to_string(),
                Value::Null | Value::Real(_) | Value::List(_) | Value::Map(_) => {
                    return Err(serde::de::Error::custom("keys must be text"));
                }
            };
            map.push((Key { place: key.place, text }, value));
        }
        Ok(Value::Map(map))
    }
}

fn parse_toml(text: &str) -> Result<Node, SyntaxError> {
    let at = |offset: usize| toml_place(text, offset);
    let table = toml::de::DeTable::parse(text).map_err(|error| SyntaxError {
        message: error.message().to_owned(),
        place: error.span().map(|span| at(span.start)),
    })?;
    Ok(Node { place: Some(at(0)), value: toml_table(text, table.into_inner()) })
}

fn toml_place(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Place { line: line as u64, column: column as u64 }
}

fn toml_table(text: &str, table: toml::de::DeTable<'_>) -> Value {
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let entries = entries.into_iter().map(|(key, value)| {
        let place = Some(toml_place(text, key.span().start));
        (Key { place, text: key.into_inner().into_owned() }, toml_node(text, value))
    });
    Value::Map(entries.collect())
}

fn toml_node(text: &str, value: toml::Spanned<toml::de::DeValue<'_>>) -> Node {
    use toml::de::DeValue;
    let place = Some(toml_place(text, value.span().start));
    let value = match value.into_inner() {
        DeValue::String(value) => Value::Text(value.into_owned()),
        DeValue::Integer(value) => {
            i128::from_str_radix(value.as_str(), value.radix()).map_or(Value::Real(f64::NAN), Value::Whole)
        }
        DeValue::Float(value) => Value::Real(value.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Flag(value),
        DeValue::Datetime(value) => Value::Text(value.to_string()),
        DeValue::Array(items) => Value::List(items.into_iter().map(|item| toml_node(text, item)).collect()),
        DeValue::Table(table) => toml_table(text, table),
    };
    Node { place, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_places(node: &mut Node) {
        node.place = None;
        match &mut node.value {
            Value::List(items) => items.iter_mut().for_each(without_places),
            Value::Map(entries) => {
                for (key, item) in entries.iter_mut() {
                    key.place = None;
                    without_places(item);
                }
                entries.sort_by(|a, b| a.0.text.cmp(&b.0.text));
            }
            _ => {}
        }
    }

    #[test]
    fn the_three_formats_give_one_tree() {
        let yaml = "a: 1\nb:\n  c: [x, true, 2.5]\n  d: 'no'\n";
        let json = r#"{"a": 1, "b": {"c": ["x", true, 2.5], "d": "no"}}"#;
        let toml = "a = 1\n[b]\nc = [\"x\", true, 2.5]\nd = \"no\"\n";
        let trees =
            [(yaml, Format::Yaml), (json, Format::Json), (toml, Format::Toml)].map(|(text, format)| {
                assert_eq!(Format::of(None, text), format);
                let mut node = parse(text, format).expect("parses");
                without_places(&mut node);
                node
            });
        assert_eq!(trees[0], trees[1]);
        assert_eq!(trees[0], trees[2]);
    }

    #[test]
    fn every_value_knows_its_place() {
        for (text, format, line, column) in [
            ("a:\n  - b: 5\n", Format::Yaml, 2, 8),
            ("{\"a\": [\n {\"b\": 5}]}", Format::Json, 2, 8),
            ("[[a]]\nb = 5\n", Format::Toml, 2, 5),
        ] {
            let node = parse(text, format).expect("parses");
            let found = node.nearest("a[0].b");
            assert_eq!(found.value, Value::Whole(5));
            assert_eq!(found.place, Some(Place { line, column }), "{}", format.name());
        }
    }

    #[test]
    fn a_broken_document_says_where() {
        let cases = [
            ("a: 1\na: 2\n", Format::Yaml, Some(2)),
            ("a: [1\n", Format::Yaml, None),
            ("a:\n\t- 1\n", Format::Yaml, Some(2)),
            ("a: *x\n", Format::Yaml, Some(1)),
            ("{\"a\": 1,}", Format::Json, Some(1)),
            ("{\"a\": 1, \"a\": 2}", Format::Json, Some(1)),
            ("a: 1", Format::Json, Some(1)),
            ("a = 1\na = 2\n", Format::Toml, Some(2)),
            ("a = \n", Format::Toml, Some(1)),
        ];
        for (text, format, line) in cases {
            let error = parse(text, format).expect_err(text);
            if line.is_some() {
                assert_eq!(error.place.map(|place| place.line), line, "{text}: {error}");
            }
            assert!(!error.message.contains('\n'), "{error}");
        }
        let deep = "[".repeat(1000) + &"]".repeat(1000);
        assert!(parse(&deep, Format::Json).is_err());
        assert!(parse(&"a: b\n".repeat(DOCUMENT_BYTES_MAX), Format::Yaml).is_err());
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned()
            + "b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
            + "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n"
            + "f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
        assert!(parse(&bomb, Format::Yaml).is_err(), "aliases do not multiply without end");
    }

    #[test]
    fn no_is_a_word() {
        let node = parse("country: no\n", Format::Yaml).expect("parses");
        assert_eq!(node.nearest("country").value, Value::Text("no".to_owned()));
    }
}
