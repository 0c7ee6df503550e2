//! Reads fields out of a client's JSON, and names the path of each in every error. It knows JSON, not the protocol;
//! `request` is its caller.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::base::limits::{JSON_DEPTH_MAX, JSON_VALUES_MAX};
use crate::signal::message::{Code, Refusal};

/// The fault of a text that opens more than [`JSON_DEPTH_MAX`] brackets inside each other, or holds more than
/// [`JSON_VALUES_MAX`] values. Checked before the parser, which recurses and allocates, sees it.
pub(super) fn misshapen(text: &str) -> Option<&'static str> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut values = 0_usize;
    for byte in text.bytes() {
        if in_string {
            (in_string, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => (depth, values) = (depth + 1, values + 1),
            b',' => values += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > JSON_DEPTH_MAX {
            return Some("the message is nested too deeply");
        }
        if values > JSON_VALUES_MAX {
            return Some("the message holds too many values");
        }
    }
    None
}

/// The kind of a value, in words for an error.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// One object and its path in the message. A field that is `null` counts as absent.
pub(super) struct Fields {
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    pub(super) fn of(path: impl Into<String>, value: Option<Value>) -> Result<Fields, Refusal> {
        let path = path.into();
        match value {
            None | Some(Value::Null) => Ok(Fields { path, map: Map::new() }),
            Some(Value::Object(map)) => Ok(Fields { path, map }),
            Some(other) => Err(wrong(&path, "an object", &other)),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn boolean(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong(&self.path(name), "true or false", &other)),
        }
    }

    /// A whole number within the range.
    pub(super) fn count(&mut self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, Refusal> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let given = value.as_u64().and_then(|number| usize::try_from(number).ok());
        match given.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let wanted = format!("a whole number from {} to {} wanted", range.start(), range.end());
                Err(bad(format!("{}: {wanted}, {} given", self.path(name), excerpt(&value.to_string()))))
            }
        }
    }

    pub(super) fn string(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(wrong(&self.path(name), "a string", &other)),
        }
    }

    pub(super) fn needed_string(&mut self, name: &str) -> Result<String, Refusal> {
        self.string(name)?.ok_or_else(|| missing(&self.path(name), "a string"))
    }

    /// An object that another module reads.
    pub(super) fn needed_object(&mut self, name: &str) -> Result<Value, Refusal> {
        match self.take(name) {
            None => Err(missing(&self.path(name), "an object")),
            Some(value @ Value::Object(_)) => Ok(value),
            Some(other) => Err(wrong(&self.path(name), "an object", &other)),
        }
    }

    pub(super) fn needed_fields(&mut self, name: &str) -> Result<Fields, Refusal> {
        let value = self.needed_object(name)?;
        Fields::of(self.path(name), Some(value))
    }

    pub(super) fn needed_array(&mut self, name: &str) -> Result<Vec<Value>, Refusal> {
        match self.take(name) {
            None => Err(missing(&self.path(name), "an array")),
            Some(Value::Array(values)) => Ok(values),
            Some(other) => Err(wrong(&self.path(name), "an array", &other)),
        }
    }

    /// One of a few words; `None` when the field is absent.
    pub(super) fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Refusal> {
        let Some(text) = self.string(name)? else { return Ok(None) };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*value));
        }
        let choices = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
        Err(bad(format!("{}: {choices} wanted, \"{}\" given", self.path(name), excerpt(&text))))
    }

    pub(super) fn needed_word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<T, Refusal> {
        self.word(name, words)?.ok_or_else(|| missing(&self.path(name), "a string"))
    }
}

/// The start of a client's text, short enough to be quoted back.
pub(super) fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

pub(super) fn bad(message: String) -> Refusal {
    Refusal::new(Code::BadField, message)
}

pub(super) fn wrong(path: &str, wanted: &str, given: &Value) -> Refusal {
    bad(format!("{path}: {wanted} wanted, {} given", kind_of(given)))
}

pub(super) fn missing(path: &str, wanted: &str) -> Refusal {
    bad(format!("{path} is missing: {wanted} is needed here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_and_values_are_counted_outside_of_strings_only() {
        let too_deep = |text: &str| misshapen(text) == Some("the message is nested too deeply");
        assert_eq!(misshapen(&format!("[{}0]", "0,".repeat(JSON_VALUES_MAX - 1))), None);
        assert!(misshapen(&format!("[{}0]", "0,".repeat(JSON_VALUES_MAX))).is_some());
        assert!(misshapen(&format!("[{}0]", "[],".repeat(JSON_VALUES_MAX / 2))).is_some());
        assert_eq!(misshapen(&format!("\"{}\"", ",".repeat(2 * JSON_VALUES_MAX))), None);
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(!too_deep(&nested(JSON_DEPTH_MAX)));
        assert!(too_deep(&nested(JSON_DEPTH_MAX + 1)));
        assert!(!too_deep(&format!("\"{}\"", "[".repeat(99))));
        assert!(!too_deep(&format!(r#""\"{}""#, "[".repeat(99))));
        assert!(too_deep(&format!(r#"["\\",{}"#, "[".repeat(99))));
        assert!(!too_deep(&"[]".repeat(1_000)));
    }

    #[test]
    fn complaints_name_the_path() {
        let value = serde_json::json!({ "a": { "b": 7 }, "n": null });
        let mut data = Fields::of("data", Some(value)).unwrap();
        assert_eq!(data.string("n").unwrap(), None);
        let mut inner = data.needed_fields("a").unwrap();
        assert_eq!(inner.string("b").unwrap_err().message, "data.a.b: a string wanted, a number given");
        assert_eq!(inner.needed_array("c").unwrap_err().message, "data.a.c is missing: an array is needed here");
    }

    #[test]
    fn an_excerpt_is_cut_between_characters() {
        assert_eq!(excerpt("short"), "short");
        let cut = excerpt(&"ä".repeat(1_000));
        assert_eq!(cut.chars().count(), 65);
    }
}
