//! The first message of a socket that came without a credential, and the answer when it is let in.

use serde_json::json;

use crate::base::secret::Secret;
use crate::base::time::Instant;
use crate::signal::message::{self, RequestTag};
use crate::signal::request::{self, Request};

/// What a first message may be.
#[derive(Debug)]
pub enum EntryMessage {
    Authenticate {
        token: Secret,
        /// Where the answer goes.
        tag: EntryTag,
    },
    Resume {
        token: Secret,
        /// The number of texts that the client had when its last socket ended.
        received: Option<u64>,
    },
}

/// The `requestId` of an `authenticate`.
#[derive(Clone, PartialEq, Debug)]
pub struct EntryTag(pub(super) Option<RequestTag>);

impl EntryMessage {
    /// None: it is something else, or cannot be read.
    pub fn parse(text: &str) -> Option<EntryMessage> {
        let parsed = request::parse(text);
        match parsed.request.ok()? {
            Request::Authenticate { token } => Some(EntryMessage::Authenticate { token, tag: EntryTag(parsed.tag) }),
            Request::Resume { token, received } => Some(EntryMessage::Resume { token, received }),
            _ => None,
        }
    }
}

impl EntryTag {
    /// The answer to who is let in until then.
    pub fn authenticated(&self, now: Instant, expires: Option<Instant>) -> String {
        let seconds = expires.map(|expires| expires.since(now).as_secs());
        message::reply("authenticated", self.0.as_ref(), &json!({ "expiresIn": seconds }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Duration;

    #[test]
    fn only_two_messages_open_a_door() {
        let text = r#"{"type":"authenticate","requestId":7,"data":{"token":"abc"}}"#;
        let Some(EntryMessage::Authenticate { token, tag }) = EntryMessage::parse(text) else { panic!("not read") };
        assert_eq!(token.expose(), "abc");
        let (now, later) = (Instant::ZERO, Instant::ZERO + Duration::from_millis(60_500));
        let answer = r#"{"type":"authenticated","requestId":7,"data":{"expiresIn":60}}"#;
        assert_eq!(tag.authenticated(now, Some(later)), answer);
        let text = r#"{"type":"resume","data":{"token":"abc","received":9}}"#;
        assert!(matches!(EntryMessage::parse(text), Some(EntryMessage::Resume { received: Some(9), .. })));
        for other in [
            "",
            "{}",
            r#"{"type":"ping"}"#,
            r#"{"type":"authenticate"}"#,
            r#"{"type":"authenticate","data":{"token":7}}"#,
            r#"{"type":"resume","data":{"token":"abc","received":-1}}"#,
        ] {
            assert!(EntryMessage::parse(other).is_none(), "{other}");
        }
    }
}
