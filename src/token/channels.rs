//! The channels of a token: names, in which `*` stands for any characters.

use serde_json::Value;

use crate::base::limits::{NAME_BYTES_MAX, TOKEN_CHANNELS_MAX};

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Channels(Vec<String>);

impl Channels {
    /// From a string, or a list of them. None: it is neither, or too many.
    pub(super) fn read(value: &Value) -> Option<Channels> {
        let name = |value: &Value| {
            value.as_str().filter(|name| !name.is_empty() && name.len() <= NAME_BYTES_MAX).map(str::to_owned)
        };
        match value {
            Value::Array(names) if (1..=TOKEN_CHANNELS_MAX).contains(&names.len()) => {
                names.iter().map(name).collect::<Option<_>>().map(Channels)
            }
            single => Some(Channels(vec![name(single)?])),
        }
    }

    pub fn hold(&self, channel: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, channel))
    }
}

/// In time that grows with both lengths, not with their product: each piece between stars is looked for once, and the
/// first place that it is found at is as good as any later one.
fn matches(pattern: &str, channel: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == channel };
    let Some(mut left) = channel.strip_prefix(first) else { return false };
    let (between, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in between.split('*') {
        let Some(at) = left.find(piece) else { return false };
        left = &left[at + piece.len()..];
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, channel, wanted) in [
            ("room", "room", true),
            ("room", "rooms", false),
            ("room", "Room", false),
            ("*", "", true),
            ("*", "anything", true),
            ("school-*", "school-7", true),
            ("school-*", "school-", true),
            ("school-*", "my-school-7", false),
            ("*-7", "school-7", true),
            ("*-7", "school-77", false),
            ("a*b*c", "a--b--c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("a*bc*c", "abc", false),
            ("a**c", "ac", true),
            ("ab*ba", "aba", false),
            ("é*", "éa", true),
            ("a.c", "abc", false),
            ("[ab]", "a", false),
        ] {
            assert_eq!(matches(pattern, channel), wanted, "{pattern} {channel}");
        }
    }

    #[test]
    fn a_name_or_a_list_of_names() {
        let holds = |value: Value, channel: &str| Channels::read(&value).map(|channels| channels.hold(channel));
        assert_eq!(holds(json!("a"), "a"), Some(true));
        assert_eq!(holds(json!(["a", "b-*"]), "b-1"), Some(true));
        assert_eq!(holds(json!(["a", "b-*"]), "c"), Some(false));
        for wrong in [
            json!(null),
            json!(""),
            json!(7),
            json!([]),
            json!(["a", 7]),
            json!({ "a": 1 }),
            json!("x".repeat(NAME_BYTES_MAX + 1)),
            json!(vec!["a"; TOKEN_CHANNELS_MAX + 1]),
        ] {
            assert_eq!(Channels::read(&wrong), None, "{wrong}");
        }
    }
}
