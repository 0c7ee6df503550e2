//! A JSON value together with its path, so that every refusal names the field. A field that is `null` counts as absent
//! everywhere, as it does for JavaScript clients.

use super::error::OrtcError;
use serde_json::Value;
use std::fmt;
use std::ops::RangeInclusive;

#[derive(Clone, Copy)]
enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

/// Lives on the stack of the reader: a path costs nothing until an error needs it.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    value: &'a Value,
    step: Step<'a>,
    parent: Option<&'a At<'a>>,
}

impl<'a> At<'a> {
    pub(super) fn root(name: &'a str, value: &'a Value) -> At<'a> {
        At { value, step: Step::Name(name), parent: None }
    }

    pub(super) fn error(&self, expected: impl Into<String>) -> OrtcError {
        OrtcError::Invalid { path: self.to_string(), expected: expected.into() }
    }

    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    pub(super) fn is_absent(&self) -> bool {
        self.value.is_null()
    }

    /// The field of an object; absent where there is none.
    pub(super) fn field<'b>(&'b self, name: &'b str) -> At<'b> {
        At { value: self.value.get(name).unwrap_or(&Value::Null), step: Step::Name(name), parent: Some(self) }
    }

    pub(super) fn object(&self) -> Result<(), OrtcError> {
        if self.value.is_object() { Ok(()) } else { Err(self.error("must be an object")) }
    }

    /// The elements of an array of at most `max`; none where it is absent.
    pub(super) fn elements<'b>(&'b self, max: usize) -> Result<impl Iterator<Item = At<'b>>, OrtcError> {
        let elements = match self.value {
            Value::Null => &[][..],
            Value::Array(elements) => elements,
            _ => return Err(self.error("must be an array")),
        };
        if elements.len() > max {
            return Err(self.error(format!("must have at most {max} elements")));
        }
        let parent = Some(self);
        Ok(elements.iter().enumerate().map(move |(index, value)| At { value, step: Step::Index(index), parent }))
    }

    /// A string of 1 to `max` bytes. Control characters are refused because such strings end up as lines of other
    /// clients' SDP.
    pub(super) fn text(&self, max: usize) -> Result<&'a str, OrtcError> {
        match self.value {
            Value::String(text) if text.is_empty() => Err(self.error("must not be empty")),
            Value::String(text) if text.len() > max => Err(self.error(format!("must be at most {max} bytes long"))),
            Value::String(text) if text.chars().any(char::is_control) => {
                Err(self.error("must not contain control characters"))
            }
            Value::String(text) => Ok(text),
            _ => Err(self.error("must be a string")),
        }
    }

    /// As [`At::text`], but absent and empty are none.
    pub(super) fn optional_text(&self, max: usize) -> Result<Option<&'a str>, OrtcError> {
        if self.is_absent() || self.value == "" { Ok(None) } else { self.text(max).map(Some) }
    }

    pub(super) fn integer(&self, range: RangeInclusive<u32>) -> Result<u32, OrtcError> {
        let number = self.value.as_u64().and_then(|number| u32::try_from(number).ok());
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.error(format!("must be an integer in {}..={}", range.start(), range.end())))
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Name(name) if self.parent.is_some() => write!(f, ".{name}"),
            Step::Name(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_refusal_names_the_way_to_the_field() {
        let value = json!({ "encodings": [{ "ssrc": 1 }, { "ssrc": -1 }] });
        let root = At::root("rtpParameters", &value);
        let encodings = root.field("encodings");
        let second = encodings.elements(8).unwrap().nth(1).unwrap();
        let error = second.field("ssrc").integer(1..=u32::MAX).unwrap_err();
        assert_eq!(error.to_string(), "rtpParameters.encodings[1].ssrc: must be an integer in 1..=4294967295");
        assert_eq!(root.field("mid").text(9).unwrap_err().to_string(), "rtpParameters.mid: must be a string");
    }

    #[test]
    fn text_is_bounded_and_without_control_characters() {
        let check = |value| At::root("x", &value).text(4).map(str::to_owned);
        assert_eq!(check(json!("four")).unwrap(), "four");
        for bad in [json!(""), json!("fiver"), json!("a\r\n"), json!(4), json!(null)] {
            assert!(check(bad).is_err());
        }
        assert_eq!(At::root("x", &json!("")).optional_text(4), Ok(None));
        assert!(At::root("x", &json!(0)).optional_text(4).is_err());
    }
}
