//! Reading a document field by field, collecting every fault instead of stopping at the first.

use std::fmt::Display;

use wc_types::{Class, Code, Refusal};

use crate::document::{Node, Place, SyntaxError, Value};

/// Text that is not in its format.
pub const SYNTAX: Code = Code::new("WC-FORM-001", Class::Caller);
/// A key that does not exist.
pub const UNKNOWN: Code = Code::new("WC-FORM-002", Class::Caller);
/// A key that must be there.
pub const MISSING: Code = Code::new("WC-FORM-003", Class::Caller);
/// A value of another type.
pub const MISTYPED: Code = Code::new("WC-FORM-004", Class::Caller);
/// A value that breaks its rule.
pub const OUT_OF_RANGE: Code = Code::new("WC-FORM-005", Class::Caller);
/// Stages that wait for each other.
pub const CYCLE: Code = Code::new("WC-FORM-006", Class::Caller);
/// A file that cannot be used.
pub const FILE: Code = Code::new("WC-FORM-007", Class::Caller);

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Stable code.
    pub code: Code,
    /// Path of the field, empty for the document itself.
    pub field: String,
    /// The rule that it breaks.
    pub constraint: String,
    /// What would make it right.
    pub hint: Option<String>,
    /// Where it stands.
    pub place: Option<Place>,
}

/// All that is wrong with one document.
#[derive(Debug, Default)]
pub struct Faults {
    faults: Vec<Fault>,
}

impl Faults {
    /// Adds a fault.
    pub fn add(&mut self, code: Code, field: impl Into<String>, constraint: impl Into<String>, at: &Node) {
        self.faults.push(Fault {
            code,
            field: field.into(),
            constraint: constraint.into(),
            hint: None,
            place: at.place,
        });
    }

    /// Adds the next step to the fault that was added last.
    pub fn hint(&mut self, hint: impl Into<String>) {
        if let Some(fault) = self.faults.last_mut() {
            fault.hint = Some(hint.into());
        }
    }

    /// Returns whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// Returns whether anything is wrong with the field at `path` or below it.
    pub fn concern(&self, path: &str) -> bool {
        self.faults.iter().any(|fault| fault.field.starts_with(path) || path.starts_with(&*fault.field))
    }

    /// Returns the faults as people see them, in the order of the document.
    pub fn into_refusals(mut self, file: &str) -> Vec<Refusal> {
        self.faults.sort_by_key(|fault| fault.place);
        self.faults.into_iter().map(|fault| fault.into_refusal(file)).collect()
    }
}

impl Fault {
    fn into_refusal(self, file: &str) -> Refusal {
        let subject = match self.field.rsplit('.').next() {
            Some(last) if !last.is_empty() => format!("`{last}` "),
            _ => String::new(),
        };
        let place = self.place.map(|place| format!(", {place}")).unwrap_or_default();
        let mut refusal = Refusal::new(self.code, format!("{file}{place}: {subject}{}", self.constraint));
        if !self.field.is_empty() {
            refusal = refusal.field(self.field);
        }
        refusal.hint = self.hint;
        refusal
    }
}

/// Returns a document's syntax error as people see it.
pub fn syntax_refusal(file: &str, format: &str, error: &SyntaxError) -> Refusal {
    let place = error.place.map(|place| format!(", {place}")).unwrap_or_default();
    Refusal::new(SYNTAX, format!("{file}{place}: not valid {format}: {}", error.message))
}

/// Returns the known name that `word` was probably meant to be.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let squash = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    let word = squash(word);
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&word, &squash(name)), *name))
        .filter(|(distance, name)| *distance <= (name.len() / 4).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// A map that is being read: every key that it may have is asked for by name, and the others are faults.
pub struct Fields<'a> {
    node: &'a Node,
    path: String,
}

impl<'a> Fields<'a> {
    /// Begins to read a map whose keys must be among `known`. A node that is no map is a fault.
    pub fn open(node: &'a Node, path: &str, known: &[&str], faults: &mut Faults) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            faults.add(MISTYPED, path, format!("must be a map, but is {}", node.kind()), node);
            return None;
        };
        let fields = Self { node, path: path.to_owned() };
        for (key, value) in entries {
            if known.contains(&&*key.text) {
                continue;
            }
            let at = Node { place: key.place.or(value.place), value: Value::Null };
            faults.add(UNKNOWN, fields.path_of(&key.text), "is not a known key", &at);
            match nearest(&key.text, known) {
                Some(name) => faults.hint(format!("did you mean `{name}`?")),
                None => faults.hint(format!("known here: {}", known.join(", "))),
            }
        }
        Some(fields)
    }

    /// Returns the map itself, as the place of faults that concern several keys.
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// Returns the path of this map.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the path of a key of this map.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Returns a key's value; a key without a value counts as absent.
    pub fn find(&self, key: &str) -> Option<&'a Node> {
        self.node.child(key).filter(|node| node.value != Value::Null)
    }

    /// Returns a key's value; its absence is a fault.
    pub fn demand(&self, key: &str, faults: &mut Faults) -> Option<&'a Node> {
        let found = self.find(key);
        if found.is_none() {
            faults.add(MISSING, self.path_of(key), "must be given", self.node);
        }
        found
    }

    fn mistyped(&self, key: &str, expected: &str, node: &Node, faults: &mut Faults) {
        faults.add(
            MISTYPED,
            self.path_of(key),
            format!("must be {expected}, but is {}", describe(node)),
            node,
        );
    }

    /// Reads text.
    pub fn text(&self, key: &str, faults: &mut Faults) -> Option<&'a str> {
        let node = self.find(key)?;
        match &node.value {
            Value::Text(text) => Some(text),
            _ => {
                self.mistyped(key, "text", node, faults);
                None
            }
        }
    }

    /// Reads true or false.
    pub fn flag(&self, key: &str, faults: &mut Faults) -> Option<bool> {
        let node = self.find(key)?;
        match node.value {
            Value::Flag(flag) => Some(flag),
            _ => {
                self.mistyped(key, "true or false", node, faults);
                None
            }
        }
    }

    /// Reads a whole number from `range`.
    pub fn whole<T>(&self, key: &str, range: std::ops::RangeInclusive<T>, faults: &mut Faults) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        let node = self.find(key)?;
        let Value::Whole(number) = node.value else {
            self.mistyped(key, "a whole number", node, faults);
            return None;
        };
        match T::try_from(number) {
            Ok(value) if range.contains(&value) => Some(value),
            _ => {
                let rule = format!("must be {} to {}, but is {number}", range.start(), range.end());
                faults.add(OUT_OF_RANGE, self.path_of(key), rule, node);
                None
            }
        }
    }

    /// Reads text or a number with `parse`, which explains what it wants.
    pub fn amount<T, E: Display>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
        faults: &mut Faults,
    ) -> Option<T> {
        let node = self.find(key)?;
        let Some(text) = scalar(node) else {
            self.mistyped(key, "text or a number", node, faults);
            return None;
        };
        match parse(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                faults.add(
                    OUT_OF_RANGE,
                    self.path_of(key),
                    format!("{error}, but is {}", describe(node)),
                    node,
                );
                None
            }
        }
    }

    /// Reads one word out of a list of words.
    pub fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)], faults: &mut Faults) -> Option<T> {
        let node = self.find(key)?;
        let Value::Text(word) = &node.value else {
            self.mistyped(key, "text", node, faults);
            return None;
        };
        if let Some((_, value)) = choices.iter().find(|(name, _)| name == word) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let rule = format!("must be one of {}, but is `{word}`", names.join(", "));
        faults.add(OUT_OF_RANGE, self.path_of(key), rule, node);
        if let Some(name) = nearest(word, &names) {
            faults.hint(format!("did you mean `{name}`?"));
        }
        None
    }

    /// Reads a list; each item with its path.
    pub fn list(&self, key: &str, faults: &mut Faults) -> Vec<(String, &'a Node)> {
        let Some(node) = self.find(key) else { return Vec::new() };
        match &node.value {
            Value::List(items) => {
                let path = self.path_of(key);
                items.iter().enumerate().map(|(index, item)| (format!("{path}[{index}]"), item)).collect()
            }
            _ => {
                self.mistyped(key, "a list", node, faults);
                Vec::new()
            }
        }
    }

    /// Reads a list of text; numbers and flags count as their text.
    pub fn words(&self, key: &str, faults: &mut Faults) -> Vec<String> {
        let mut words = Vec::new();
        for (path, item) in self.list(key, faults) {
            match scalar(item) {
                Some(word) => words.push(word),
                None => faults.add(MISTYPED, path, format!("must be text, but is {}", item.kind()), item),
            }
        }
        words
    }
}

/// Returns a scalar as its text.
pub fn scalar(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Whole(number) => Some(number.to_string()),
        Value::Real(number) => Some(number.to_string()),
        Value::Flag(flag) => Some(flag.to_string()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

/// Shows a value in an error: what it is, and its text when it is short.
fn describe(node: &Node) -> String {
    match (&node.value, scalar(node)) {
        (Value::Text(_), Some(text)) if text.chars().count() <= 40 => format!("the text `{text}`"),
        (_, Some(text)) if text.chars().count() <= 40 => format!("`{text}`"),
        _ => node.kind().to_owned(),
    }
}
