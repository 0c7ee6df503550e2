//! The server's messages: replies, notifications and errors as JSON text. Clients' messages are in `request`; `hub` and
//! the files around it decide when each is sent.

use serde::Serialize;
use serde_json::{Number, Value, json};

use crate::base::time::Duration;

/// A client's `requestId`, given back as it came.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum RequestTag {
    Number(Number),
    Text(String),
}

/// Every error code. `docs/PROTOCOL.md` has a line for each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Code {
    /// A binary frame: the protocol is JSON text.
    NotText,
    BadJson,
    UnknownType,
    BadField,
    WrongStep,
    /// No such object, or not one this client may touch: the answer is the same.
    NotFound,
    /// The peer's grants do not allow it.
    Forbidden,
    /// For a peer that has to go, or may not come in: a moderator has banned its user, has removed it, or has locked
    /// the channel, or the channel is full.
    Banned,
    Removed,
    Locked,
    Full,
    /// Nothing here vouches for the token, or not any more.
    Unauthorized,
    /// The token is good no more.
    Expired,
    /// Well formed, but this server or the other end cannot do it.
    Unsupported,
    /// consume without producerId, and nothing is left to consume.
    NoProducer,
    Limit,
    RateLimited,
    /// The server cannot do it now.
    Unavailable,
    /// The same user has joined the channel anew, in place of this peer.
    Replaced,
}

impl Code {
    pub const ALL: [Code; 19] = [
        Code::NotText,
        Code::BadJson,
        Code::UnknownType,
        Code::BadField,
        Code::WrongStep,
        Code::NotFound,
        Code::Forbidden,
        Code::Banned,
        Code::Removed,
        Code::Locked,
        Code::Full,
        Code::Unauthorized,
        Code::Expired,
        Code::Unsupported,
        Code::NoProducer,
        Code::Limit,
        Code::RateLimited,
        Code::Unavailable,
        Code::Replaced,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Code::NotText => "not-text",
            Code::BadJson => "bad-json",
            Code::UnknownType => "unknown-type",
            Code::BadField => "bad-field",
            Code::WrongStep => "wrong-step",
            Code::NotFound => "not-found",
            Code::Forbidden => "forbidden",
            Code::Banned => "banned",
            Code::Removed => "removed",
            Code::Locked => "locked",
            Code::Full => "full",
            Code::Unauthorized => "unauthorized",
            Code::Expired => "expired",
            Code::Unsupported => "unsupported",
            Code::NoProducer => "no-producer",
            Code::Limit => "limit",
            Code::RateLimited => "rate-limited",
            Code::Unavailable => "unavailable",
            Code::Replaced => "replaced",
        }
    }
}

/// Why a request was refused, in a code for programs and a sentence for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub code: Code,
    pub message: String,
    /// For `rate-limited`: when a message passes again.
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into(), retry_after: None }
    }

    pub(super) fn rate_limited(wait: Duration) -> Refusal {
        let message = "too much for now: slow down";
        Refusal { retry_after: Some(wait), ..Refusal::new(Code::RateLimited, message) }
    }

    /// The one answer for ids that never were, are no more, or belong to another peer.
    pub(super) fn not_found(path: &str) -> Refusal {
        Refusal::new(Code::NotFound, format!("{path}: there is nothing with this id here (any more)"))
    }

    pub(super) fn limit(what: &str, max: usize) -> Refusal {
        Refusal::new(Code::Limit, format!("no more than {max} {what}: close some first"))
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    r#type: &'a str,
    #[serde(rename = "requestId", skip_serializing_if = "Option::is_none")]
    tag: Option<&'a RequestTag>,
    #[serde(skip_serializing_if = "Value::is_null")]
    data: &'a Value,
}

/// A reply; `data` null leaves the field out.
pub(super) fn reply(kind: &str, tag: Option<&RequestTag>, data: &Value) -> String {
    to_text(&Envelope { r#type: kind, tag, data })
}

/// A reply with a resume token beside its data.
pub(super) fn reply_with_token(kind: &str, tag: Option<&RequestTag>, data: &Value, token: &Value) -> String {
    let mut text = reply(kind, tag, data);
    text.pop();
    text + ",\"resume\":" + &token.to_string() + "}"
}

/// A reply up to its data, which follows together with the closing brace.
pub(super) fn reply_head(kind: &str, tag: Option<&RequestTag>) -> String {
    let mut head = reply(kind, tag, &Value::Null);
    head.pop();
    head.push_str(",\"data\":");
    head
}

pub(super) fn notification(kind: &str, data: &Value) -> String {
    reply(kind, None, data)
}

/// `request` is the type of the refused message, where it could be read.
pub(super) fn error(refusal: &Refusal, request: Option<&str>, tag: Option<&RequestTag>) -> String {
    let mut data = json!({ "code": refusal.code.name(), "message": refusal.message, "request": request });
    if let Some(wait) = refusal.retry_after {
        data["retryAfterMs"] = json!(wait.as_nanos().div_ceil(1_000_000) as u64);
    }
    reply("error", tag, &data)
}

fn to_text(envelope: &Envelope<'_>) -> String {
    serde_json::to_string(envelope).expect("strings, numbers and JSON values always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_documented_shape() {
        let tag = RequestTag::Number(7.into());
        assert_eq!(reply("ok", Some(&tag), &json!({ "id": "x" })), r#"{"type":"ok","requestId":7,"data":{"id":"x"}}"#);
        assert_eq!(reply("transport-connected", None, &Value::Null), r#"{"type":"transport-connected"}"#);
        let refusal = Refusal::new(Code::BadJson, "no");
        assert_eq!(
            error(&refusal, None, Some(&RequestTag::Text("a".into()))),
            r#"{"type":"error","requestId":"a","data":{"code":"bad-json","message":"no","request":null}}"#
        );
    }

    #[test]
    fn codes_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
    }
}
