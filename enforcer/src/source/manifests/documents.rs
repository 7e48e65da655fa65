//! From the text of a manifest file to objects.
//!
//! Input: the text of one file. Output: its documents ([`split`]), and what each one says
//! ([`Document::read`]). Invariant: documents are read one by one, so that an error in one hides
//! none of the others; a document that may hold any object, because it cannot be read at all, says
//! so ([`Document::opaque`]).

use enforcer_policy::problem::Problem;
use serde_json::Value;

use super::{
    outline::Outline,
    yaml::{self, YamlError},
};
use crate::source::objects::{Identity, Object, Undecodable, decode};

/// What one document of a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Document {
    /// The objects of known kinds, lists unrolled.
    pub(super) objects: Vec<Object>,
    /// What could not be decoded.
    pub(super) failures: Vec<Undecodable>,
    /// Set where it cannot be told which objects are meant by what could not be decoded.
    pub(super) opaque: bool,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notation {
    /// YAML, which JSON is a part of.
    Yaml,
    /// One or more JSON values, one after the other.
    Json,
}

/// A document's place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section<'a> {
    /// Its text.
    pub(super) text: &'a str,
    /// Lines of the file before it.
    pub(super) lines_before: u64,
}

/// Cuts a file into documents; those without content are left out.
pub(super) fn split(text: &str, notation: Notation) -> Vec<Section<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match notation {
        Notation::Json => vec![Section { text, lines_before: 0 }],
        Notation::Yaml => split_yaml(text),
    }
}

impl Document {
    /// Reads one document.
    pub(super) fn read(section: Section<'_>, notation: Notation) -> Self {
        let mut document = Self::default();
        match notation {
            Notation::Json => document.read_json(section.text),
            Notation::Yaml => document.read_yaml(section),
        }
        document
    }

    fn read_yaml(&mut self, Section { text, lines_before }: Section<'_>) {
        let outline = Outline::of(text);
        if outline.is_none_of_ours() {
            return;
        }
        // serde_json is ten times faster; what it refuses may still be YAML in flow style.
        let body = text.trim_start();
        let body = body.strip_prefix("---").unwrap_or(body).trim_start();
        let json = body.starts_with('{').then(|| serde_json::from_str(body).ok());
        match json.flatten().map_or_else(|| yaml::read(text), Ok) {
            Ok(value) => self.unroll(value, ""),
            Err(YamlError { reason, line, column }) => {
                let at = lines_before.saturating_add(line);
                let reason = format!("line {at}, column {column}: {reason}");
                self.fail_to_parse(*outline.identity().undecodable("", "", &reason));
            }
        }
    }

    fn read_json(&mut self, text: &str) {
        for value in serde_json::Deserializer::from_str(text).into_iter() {
            match value {
                Ok(value) => self.unroll(value, ""),
                Err(error) => {
                    let reason = error.to_string();
                    self.fail_to_parse(*Identity::default().undecodable("", "", &reason));
                }
            }
        }
    }

    /// Adds the objects of a value; `at` is its path in the document.
    fn unroll(&mut self, value: Value, at: &str) {
        match value {
            Value::Null => {}
            Value::Object(mut map) => match take_items(&mut map) {
                Items::None => self.add(&Value::Object(map), at),
                Items::Some(items) => {
                    for (position, mut item) in items.into_iter().enumerate() {
                        inherit_type(&map, &mut item);
                        self.unroll(item, &format!("{at}items[{position}]."));
                    }
                }
            },
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let field = at.trim_end_matches('.');
                let reason = "not a Kubernetes object";
                self.fail_to_parse(*Identity::default().undecodable(field, &value, reason));
            }
        }
    }

    fn add(&mut self, value: &Value, at: &str) {
        match decode(value) {
            Ok(Some(object)) => self.objects.push(object),
            Ok(None) => {}
            Err(failure) if failure.object.is_some() => self.failures.push(*failure),
            Err(mut failure) => {
                failure.field.insert_str(0, at);
                self.fail_to_parse(*failure);
            }
        }
    }

    fn fail_to_parse(&mut self, failure: Undecodable) {
        self.opaque = true;
        self.failures.push(failure);
    }
}

enum Items {
    None,
    Some(Vec<Value>),
}

/// The elements of a list (`List`, and typed ones such as `ClusterList`).
fn take_items(map: &mut serde_json::Map<String, Value>) -> Items {
    let is_list =
        map.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    match map.get_mut("items") {
        Some(Value::Array(items)) if is_list => Items::Some(std::mem::take(items)),
        Some(Value::Null) if is_list => Items::Some(Vec::new()),
        Some(_) | None => Items::None,
    }
}

/// The API leaves `kind` and `apiVersion` out of the elements of typed lists.
fn inherit_type(list: &serde_json::Map<String, Value>, item: &mut Value) {
    let Value::Object(item) = item else { return };
    let kind = list.get("kind").and_then(Value::as_str).and_then(|kind| kind.strip_suffix("List"));
    if let Some(kind) = kind.filter(|kind| !kind.is_empty())
        && !item.contains_key("kind")
    {
        item.insert("kind".to_owned(), Value::String(kind.to_owned()));
        if let Some(version) = list.get("apiVersion") {
            item.entry("apiVersion").or_insert_with(|| version.clone());
        }
    }
}

/// A line that starts with `---` starts a document wherever it stands, block scalars and quoted
/// scalars included (YAML 1.2.2, 9.1.2, `c-forbidden`), so that cutting needs no parser.
fn split_yaml(text: &str) -> Vec<Section<'_>> {
    let mut sections = Vec::new();
    let mut open = Open::default();
    let mut at = 0;
    for (number, line) in (0..).zip(text.split_inclusive('\n')) {
        let next = at + line.len();
        if let Some(rest) = after_marker(line, "---") {
            if open.marker || open.content {
                sections.extend(open.close(text, at));
                open = Open { start: at, lines_before: number, ..Open::default() };
            }
            open.marker = true;
            open.content = !is_blank(rest);
        } else if after_marker(line, "...").is_some() {
            sections.extend(open.close(text, next));
            open = Open { start: next, lines_before: number + 1, ..Open::default() };
        } else {
            let directive = !open.marker && line.starts_with('%');
            open.content |= !directive && !is_blank(line);
        }
        at = next;
    }
    sections.extend(open.close(text, at));
    sections
}

/// The document that is being cut out.
#[derive(Default)]
struct Open {
    start: usize,
    lines_before: u64,
    marker: bool,
    content: bool,
}

impl Open {
    fn close<'a>(&self, text: &'a str, end: usize) -> Option<Section<'a>> {
        let text = text.get(self.start..end).filter(|_| self.content)?;
        Some(Section { text, lines_before: self.lines_before })
    }
}

fn after_marker<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    line.strip_prefix(marker)
        .filter(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// Nothing but white space and a comment.
fn is_blank(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

impl Outline<'_> {
    fn identity(&self) -> Identity {
        let shorten = |text: Option<&str>| Problem::shorten(text.unwrap_or_default());
        Identity {
            api_version: shorten(self.api_version),
            kind: shorten(self.kind),
            namespace: shorten(self.namespace),
            name: shorten(self.name),
        }
    }
}

#[cfg(test)]
mod tests;
