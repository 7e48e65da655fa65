//! What a YAML document says of itself at first glance, without a parser.
//!
//! Input: the text of one document. Output: the plain values of `apiVersion`, `kind`,
//! `metadata.namespace` and `metadata.name` where they stand in block style. Two uses: documents of
//! foreign kinds are passed over without parsing them, and one that does not parse can still be
//! named. Invariant: only a document that says exactly once that it is of a foreign kind is passed
//! over; a name found here never makes an object disappear.

use crate::source::objects::Identity;

/// The values that could be found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outline<'a> {
    /// `apiVersion`
    pub(super) api_version: Option<&'a str>,
    /// `kind`
    pub(super) kind: Option<&'a str>,
    /// `metadata.namespace`
    pub(super) namespace: Option<&'a str>,
    /// `metadata.name`
    pub(super) name: Option<&'a str>,
    /// Said more than once at the top level: then it says nothing for certain.
    repeated: bool,
}

impl<'a> Outline<'a> {
    /// Looks through a document.
    ///
    /// In a block mapping at the top level a line that starts in the first column is a key, an
    /// entry of a sequence, a comment or a marker; continued scalars are indented (YAML 1.2.2, 7.3).
    pub(super) fn of(text: &'a str) -> Self {
        let mut outline = Self::default();
        let mut metadata: Option<usize> = None;
        let mut inside = false;
        for line in text.lines() {
            let indent = line.len() - line.trim_start_matches(' ').len();
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            if indent == 0 {
                inside = line.trim_end() == "metadata:";
                outline.top_level(line);
            } else if inside && *metadata.get_or_insert(indent) == indent {
                outline.in_metadata(line.trim_start());
            }
        }
        outline
    }

    /// Whether this is certainly an object of a kind that is none of ours, nor a list.
    pub(super) fn is_none_of_ours(&self) -> bool {
        let (Some(api_version), Some(kind), false) = (self.api_version, self.kind, self.repeated)
        else {
            return false;
        };
        let identity = Identity {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            ..Identity::default()
        };
        !kind.ends_with("List") && matches!(identity.known_kind(), Ok(None))
    }

    fn top_level(&mut self, line: &'a str) {
        let field = if let Some(rest) = line.strip_prefix("kind:") {
            (&mut self.kind, rest)
        } else if let Some(rest) = line.strip_prefix("apiVersion:") {
            (&mut self.api_version, rest)
        } else {
            return;
        };
        self.repeated |= field.0.is_some();
        *field.0 = plain(field.1);
    }

    fn in_metadata(&mut self, line: &'a str) {
        if let Some(rest) = line.strip_prefix("name:") {
            self.name = self.name.or(plain(rest));
        } else if let Some(rest) = line.strip_prefix("namespace:") {
            self.namespace = self.namespace.or(plain(rest));
        }
    }
}

/// A scalar on one line, plain or simply quoted, made of the characters of names.
fn plain(rest: &str) -> Option<&str> {
    let value = rest.strip_prefix([' ', '\t'])?.trim();
    let value = value.split_once(" #").map_or(value, |(value, _)| value.trim_end());
    let unquoted = ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value);
    let names = |character: char| character.is_ascii_alphanumeric() || "./-_".contains(character);
    (!unquoted.is_empty() && unquoted.chars().all(names)).then_some(unquoted)
}
