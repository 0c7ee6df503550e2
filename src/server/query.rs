//! The query of `/socket?auth=…&channelId=…`, decoded as browsers encode it (application/x-www-form-urlencoded). Other
//! names in it are ignored. [`super::entry`] says which are needed, and the hub checks the values.

use std::borrow::Cow;

pub(super) struct Query {
    pub(super) auth: Option<String>,
    pub(super) channel: Option<String>,
    pub(super) resume: Option<String>,
    /// The number of texts that a client that comes back has got.
    pub(super) received: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BadQuery {
    name: &'static str,
    why: Why,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    Missing,
    Repeated,
    Encoding,
    NoNumber,
    /// A token for a server that asks for none.
    NoTokens,
}

impl BadQuery {
    pub(super) fn new(name: &'static str, why: Why) -> BadQuery {
        BadQuery { name, why }
    }

    pub(super) fn code(self) -> &'static str {
        match (self.name, self.why) {
            ("auth", Why::Missing) => "missing-auth",
            ("auth", _) => "bad-auth",
            ("resume", _) => "bad-resume",
            ("received", _) => "bad-received",
            (_, Why::Missing) => "missing-channel-id",
            _ => "bad-channel-id",
        }
    }

    pub(super) fn message(self) -> String {
        let why = match self.why {
            Why::Missing => "is missing or empty",
            Why::Repeated => "is given twice",
            Why::Encoding => "is no percent-encoded UTF-8",
            Why::NoNumber => "is no whole number",
            Why::NoTokens => "names the user here, and weirgate.auth in a subprotocol does not",
        };
        format!("the query parameter `{}` {why}: connect to /socket?auth=USER_ID&channelId=CHANNEL_ID", self.name)
    }
}

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Result<Query, BadQuery> {
        let query = query.unwrap_or_default();
        Ok(Query {
            auth: parameter(query, "auth")?,
            channel: parameter(query, "channelId")?,
            resume: parameter(query, "resume")?,
            received: parameter(query, "received")?.map(|text| number("received", &text)).transpose()?,
        })
    }
}

fn parameter(query: &str, name: &'static str) -> Result<Option<String>, BadQuery> {
    let bad = |why| BadQuery { name, why };
    let mut values = query.split('&').filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key).as_deref() == Some(name)).then_some(value)
    });
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad(Why::Repeated));
    }
    Ok(Some(decode(value).ok_or(bad(Why::Encoding))?.into_owned()))
}

fn number(name: &'static str, text: &str) -> Result<u64, BadQuery> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(BadQuery { name, why: Why::NoNumber })
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
        Query::parse(Some(query)).err().expect("it must be refused").code()
    }

    #[test]
    fn names_are_decoded() {
        let query = Query::parse(Some("x=1&channelId=caf%C3%A9+%2B1&auth=user%40example&resume")).unwrap();
        let values = [query.auth, query.channel, query.resume];
        assert_eq!(values, ["user@example", "café +1", ""].map(|value| Some(value.to_owned())));
        assert!(Query::parse(Some("%61uth=a&channelId=c")).unwrap().auth.is_some(), "a name may be encoded too");
        assert!(Query::parse(None).unwrap().auth.is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(code("auth=a&auth=b&channelId=c"), "bad-auth");
        assert_eq!(code("auth=%zz&channelId=c"), "bad-auth");
        assert_eq!(code("auth=%4&channelId=c"), "bad-auth");
        assert_eq!(code("auth=%FF&channelId=c"), "bad-auth");
        assert_eq!(code("auth=a&channelId=c&channelId=c"), "bad-channel-id");
        assert_eq!(code("resume=a&resume=b"), "bad-resume");
        for number in ["", "x", "-1", "%2B1", "1.5", "99999999999999999999"] {
            assert_eq!(code(&format!("resume=a&received={number}")), "bad-received");
        }
        assert_eq!(Query::parse(Some("resume=a&received=007")).unwrap().received, Some(7));
    }
}
