//! The query of `/socket?auth=…&channelId=…`, decoded as browsers encode it (application/x-www-form-urlencoded). Other
//! names in it are ignored. The hub checks the values.

use std::borrow::Cow;

#[derive(PartialEq, Eq, Debug)]
pub(super) struct Query {
    pub(super) auth: String,
    pub(super) channel: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BadQuery {
    name: &'static str,
    why: Why,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    Missing,
    Empty,
    Repeated,
    Encoding,
}

impl BadQuery {
    pub(super) fn code(self) -> &'static str {
        match (self.name, self.why) {
            ("auth", Why::Missing | Why::Empty) => "missing-auth",
            ("auth", _) => "bad-auth",
            (_, Why::Missing | Why::Empty) => "missing-channel-id",
            _ => "bad-channel-id",
        }
    }

    pub(super) fn message(self) -> String {
        let why = match self.why {
            Why::Missing => "is missing",
            Why::Empty => "is empty",
            Why::Repeated => "is given twice",
            Why::Encoding => "is no percent-encoded UTF-8",
        };
        format!("the query parameter `{}` {why}: connect to /socket?auth=USER_ID&channelId=CHANNEL_ID", self.name)
    }
}

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Result<Query, BadQuery> {
        let query = query.unwrap_or_default();
        Ok(Query { auth: parameter(query, "auth")?, channel: parameter(query, "channelId")? })
    }
}

fn parameter(query: &str, name: &'static str) -> Result<String, BadQuery> {
    let bad = |why| BadQuery { name, why };
    let mut values = query.split('&').filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key).as_deref() == Some(name)).then_some(value)
    });
    let value = values.next().ok_or(bad(Why::Missing))?;
    if values.next().is_some() {
        return Err(bad(Why::Repeated));
    }
    let value = decode(value).ok_or(bad(Why::Encoding))?;
    if value.is_empty() { Err(bad(Why::Empty)) } else { Ok(value.into_owned()) }
}

/// None when a `%` is not followed by two hex digits or the bytes are no UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(query: &str) -> &'static str {
        Query::parse(Some(query)).expect_err("it must be refused").code()
    }

    #[test]
    fn names_are_decoded() {
        let query = Query::parse(Some("x=1&channelId=caf%C3%A9+%2B1&auth=user%40example")).unwrap();
        assert_eq!(query, Query { auth: "user@example".into(), channel: "café +1".into() });
        assert!(Query::parse(Some("%61uth=a&channelId=c")).is_ok(), "a name may be encoded too");
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(Query::parse(None).unwrap_err().code(), "missing-auth");
        assert_eq!(code("channelId=c"), "missing-auth");
        assert_eq!(code("auth=&channelId=c"), "missing-auth");
        assert_eq!(code("auth&channelId=c"), "missing-auth");
        assert_eq!(code("auth=a"), "missing-channel-id");
        assert_eq!(code("auth=a&channelId="), "missing-channel-id");
        assert_eq!(code("auth=a&auth=b&channelId=c"), "bad-auth");
        assert_eq!(code("auth=%zz&channelId=c"), "bad-auth");
        assert_eq!(code("auth=%4&channelId=c"), "bad-auth");
        assert_eq!(code("auth=%FF&channelId=c"), "bad-auth");
        assert_eq!(code("auth=a&channelId=c&channelId=c"), "bad-channel-id");
    }
}
