//! The acts of moderation as data: who acts, and what is to be done to a channel, a peer or a producer. They are read
//! from a client's request and from the admin API's JSON alike; `moderation` does them.

use std::fmt;

use serde_json::Value;

use crate::base::id::PeerId;
use crate::base::limits::{
    APP_DATA_BYTES_MAX, BAN_MAX, NAME_BYTES_MAX, NOTICE_BYTES_MAX, PEERS_PER_CHANNEL_MAX, SAID_BYTES_MAX,
};
use crate::base::time::Duration;
use crate::shard::command::MediaKind;
use crate::signal::auth::{NameFault, fault_of};
use crate::signal::fields::{Fields, bad, missing, wrong};
use crate::signal::grants::{Grants, Publish};
use crate::signal::ids::ExternalId;
use crate::signal::message::{Code, Refusal};
use crate::signal::ortc::kind_named;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Actor {
    Peer(PeerId),
    /// By the admin API, with all rights.
    Operator,
}

/// The actor as clients are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum By {
    Operator,
    Peer(ExternalId),
    /// A peer that the others do not know of.
    Hidden,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            By::Operator => f.write_str("operator"),
            By::Peer(external) => external.fmt(f),
            By::Hidden => f.write_str("moderator"),
        }
    }
}

/// Ids are those that clients are shown.
#[derive(Clone, PartialEq, Debug)]
pub enum Act {
    MuteProducer {
        producer: String,
        muted: bool,
    },
    StopProducer {
        producer: String,
    },
    MutePeer {
        peer: String,
        kinds: Vec<MediaKind>,
        muted: bool,
    },
    RemovePeer {
        peer: String,
        reason: Option<String>,
        ban: Option<Duration>,
    },
    Unban {
        user: String,
    },
    SetChannel(ChannelChange),
    AdmitPeer {
        peer: String,
    },
    TurnAwayPeer {
        peer: String,
        reason: Option<String>,
    },
    SetGrants {
        peer: String,
        change: GrantsChange,
    },
    /// None: the peer itself; no name: it has none any more.
    Rename {
        peer: Option<String>,
        name: Option<String>,
    },
    SetAppData {
        peer: Option<String>,
        app_data: Value,
    },
    /// To one peer, or to all that subscribe.
    SendMessage {
        peer: Option<String>,
        data: Value,
    },
}

/// What is to change of a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChannelChange {
    pub locked: Option<bool>,
    pub waiting: Option<bool>,
    /// 0 lifts the bound.
    pub peers_max: Option<usize>,
}

/// What is to change of a peer's grants.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GrantsChange {
    publish: Option<Publish>,
    subscribe: Option<bool>,
    moderate: Option<bool>,
}

impl GrantsChange {
    /// A later change, which outweighs this one.
    pub(super) fn add(&mut self, later: GrantsChange) {
        self.publish = later.publish.or(self.publish.take());
        self.subscribe = later.subscribe.or(self.subscribe);
        self.moderate = later.moderate.or(self.moderate);
    }

    pub(super) fn apply(&self, grants: &Grants) -> Grants {
        Grants {
            publish: self.publish.clone().unwrap_or_else(|| grants.publish.clone()),
            subscribe: self.subscribe.unwrap_or(grants.subscribe),
            moderate: self.moderate.unwrap_or(grants.moderate),
            ..grants.clone()
        }
    }

    fn read(mut value: Value) -> Result<GrantsChange, Refusal> {
        without_nulls(&mut value);
        for fixed in ["join", "hidden"] {
            if value.get(fixed).is_some() {
                return Err(bad(format!("data.grants.{fixed}: it cannot be changed while the peer is here")));
            }
        }
        let read = Grants::read(&value).map_err(|why| bad(format!("data.{why}")))?;
        let given = |name| value.get(name).is_some();
        Ok(GrantsChange {
            publish: given("publish").then_some(read.publish),
            subscribe: given("subscribe").then_some(read.subscribe),
            moderate: given("moderate").then_some(read.moderate),
        })
    }
}

/// A field that is `null` counts as absent.
fn without_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(without_nulls);
    }
}

impl Act {
    /// The type of its request.
    pub const fn name(&self) -> &'static str {
        match self {
            Act::MuteProducer { muted: true, .. } => "mute-producer",
            Act::MuteProducer { muted: false, .. } => "unmute-producer",
            Act::StopProducer { .. } => "stop-producer",
            Act::MutePeer { muted: true, .. } => "mute-peer",
            Act::MutePeer { muted: false, .. } => "unmute-peer",
            Act::RemovePeer { .. } => "remove-peer",
            Act::Unban { .. } => "unban",
            Act::SetChannel(_) => "set-channel",
            Act::AdmitPeer { .. } => "admit-peer",
            Act::TurnAwayPeer { .. } => "turn-away-peer",
            Act::SetGrants { .. } => "set-grants",
            Act::Rename { .. } => "rename",
            Act::SetAppData { .. } => "set-app-data",
            Act::SendMessage { .. } => "send-message",
        }
    }

    /// Reads the act of a request of this type, whose fields are those of docs/PROTOCOL.md.
    pub fn parse(kind: &str, data: Value) -> Result<Act, Refusal> {
        let unknown = || Refusal::new(Code::UnknownType, "there is no act of moderation of this type");
        Act::read(kind, &mut Fields::of("data", Some(data))?)?.ok_or_else(unknown)
    }

    /// None: the type is not one of moderation.
    pub(super) fn read(kind: &str, data: &mut Fields) -> Result<Option<Act>, Refusal> {
        let act = match kind {
            "mute-producer" => Act::MuteProducer { producer: data.needed_string("producerId")?, muted: true },
            "unmute-producer" => Act::MuteProducer { producer: data.needed_string("producerId")?, muted: false },
            "stop-producer" => Act::StopProducer { producer: data.needed_string("producerId")? },
            "mute-peer" => Act::MutePeer { peer: data.needed_string("peerId")?, kinds: kinds(data)?, muted: true },
            "unmute-peer" => Act::MutePeer { peer: data.needed_string("peerId")?, kinds: kinds(data)?, muted: false },
            "remove-peer" => Act::RemovePeer {
                peer: data.needed_string("peerId")?,
                reason: notice(data)?,
                ban: data.count("banSeconds", 1..=BAN_MAX.as_secs() as usize)?.map(|s| Duration::from_secs(s as u64)),
            },
            "unban" => Act::Unban { user: data.needed_string("user")? },
            "set-channel" => Act::SetChannel(ChannelChange {
                locked: data.boolean("locked")?,
                waiting: data.boolean("waiting")?,
                peers_max: data.count("peersMax", 0..=PEERS_PER_CHANNEL_MAX)?,
            }),
            "admit-peer" => Act::AdmitPeer { peer: data.needed_string("peerId")? },
            "turn-away-peer" => Act::TurnAwayPeer { peer: data.needed_string("peerId")?, reason: notice(data)? },
            "set-grants" => Act::SetGrants {
                peer: data.needed_string("peerId")?,
                change: GrantsChange::read(data.needed_object("grants")?)?,
            },
            "rename" => Act::Rename { peer: data.string("peerId")?, name: name(data)? },
            "set-app-data" => Act::SetAppData {
                peer: data.string("peerId")?,
                app_data: bounded(data.take("appData").unwrap_or(Value::Null), "data.appData", APP_DATA_BYTES_MAX)?.0,
            },
            "send-message" => {
                let value = data.take("data").ok_or_else(|| missing("data.data", "a value"))?;
                let (value, _) = bounded(value, "data.data", SAID_BYTES_MAX)?;
                Act::SendMessage { peer: data.string("peerId")?, data: value }
            }
            _ => return Ok(None),
        };
        Ok(Some(act))
    }
}

/// Any JSON, and its bytes.
pub(super) fn bounded(value: Value, path: &str, max: usize) -> Result<(Value, usize), Refusal> {
    let bytes = value.to_string().len();
    match bytes <= max {
        true => Ok((value, bytes)),
        false => Err(Refusal::new(Code::Limit, format!("{path}: at most {max} bytes of JSON are kept"))),
    }
}

/// Without the field: both.
fn kinds(data: &mut Fields) -> Result<Vec<MediaKind>, Refusal> {
    const PATH: &str = "data.kinds";
    let Some(value) = data.take("kinds") else { return Ok(vec![MediaKind::Audio, MediaKind::Video]) };
    let Value::Array(list) = value else { return Err(wrong(PATH, "an array", &value)) };
    let kinds = list.iter().take(3).map(|value| value.as_str().and_then(kind_named)).collect::<Option<Vec<_>>>();
    match kinds.filter(|kinds| (1..=2).contains(&kinds.len())) {
        Some(kinds) => Ok(kinds),
        None => Err(bad(format!("{PATH}: a list of \"audio\" and \"video\" wanted"))),
    }
}

/// What a moderator says to who is removed, and to the others.
fn notice(data: &mut Fields) -> Result<Option<String>, Refusal> {
    printable(data, "reason", NOTICE_BYTES_MAX)
}

fn name(data: &mut Fields) -> Result<Option<String>, Refusal> {
    printable(data, "name", NAME_BYTES_MAX)
}

/// A text by the rules of names.
fn printable(data: &mut Fields, field: &str, max: usize) -> Result<Option<String>, Refusal> {
    let Some(text) = data.string(field)? else { return Ok(None) };
    match fault_of(&text, max) {
        None => Ok(Some(text)),
        Some(NameFault::Empty) => Err(bad(format!("data.{field}: it is empty: leave it out instead"))),
        Some(NameFault::TooLong) => Err(bad(format!("data.{field}: at most {max} bytes"))),
        Some(NameFault::Unprintable) => {
            Err(bad(format!("data.{field}: it holds control characters or nothing that is seen")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(kind: &str, data: Value) -> (Code, String) {
        let refusal = Act::parse(kind, data).unwrap_err();
        (refusal.code, refusal.message)
    }

    #[test]
    fn an_act_knows_its_request() {
        let needed = json!({ "producerId": "p", "peerId": "q", "user": "anna", "data": 7, "grants": {} });
        for kind in [
            "mute-producer",
            "unmute-producer",
            "stop-producer",
            "mute-peer",
            "unmute-peer",
            "remove-peer",
            "unban",
            "set-channel",
            "admit-peer",
            "turn-away-peer",
            "set-grants",
            "rename",
            "set-app-data",
            "send-message",
        ] {
            assert_eq!(Act::parse(kind, needed.clone()).map(|act| act.name()), Ok(kind));
        }
        assert_eq!(refused("produce", needed).0, Code::UnknownType);
    }

    #[test]
    fn texts_of_moderators_follow_the_rules_of_names() {
        let of = |reason: String| refused("remove-peer", json!({ "peerId": "p", "reason": reason }));
        for (reason, why) in [
            ("x".repeat(NOTICE_BYTES_MAX + 1), "at most"),
            ("two\nlines".to_owned(), "control characters"),
            ("\u{200b}".to_owned(), "nothing that is seen"),
            (" ".to_owned(), "empty"),
        ] {
            let (code, message) = of(reason);
            assert!(
                code == Code::BadField && message.starts_with("data.reason: ") && message.contains(why),
                "{message}"
            );
        }
        assert!(refused("rename", json!({ "name": "\u{7}" })).1.starts_with("data.name: "));
        assert_eq!(Act::parse("rename", json!({ "name": null })), Ok(Act::Rename { peer: None, name: None }));
    }

    #[test]
    fn what_may_be_long_is_bounded() {
        let data = |of: usize| json!({ "data": "x".repeat(of), "appData": "x".repeat(of) });
        assert_eq!(refused("send-message", data(SAID_BYTES_MAX)).0, Code::Limit);
        assert!(Act::parse("send-message", data(SAID_BYTES_MAX - 2)).is_ok());
        assert_eq!(refused("set-app-data", data(APP_DATA_BYTES_MAX)).0, Code::Limit);
        assert_eq!(refused("send-message", json!({})).1, "data.data is missing: a value is needed here");
        let ban = |seconds: u64| json!({ "peerId": "p", "banSeconds": seconds });
        assert_eq!(refused("remove-peer", ban(0)).0, Code::BadField);
        assert_eq!(refused("remove-peer", ban(BAN_MAX.as_secs() + 1)).0, Code::BadField);
        assert_eq!(refused("set-channel", json!({ "peersMax": PEERS_PER_CHANNEL_MAX + 1 })).0, Code::BadField);
        for kinds in [json!([]), json!("audio"), json!(["smell"]), json!(["audio", "video", "audio"])] {
            assert!(refused("mute-peer", json!({ "peerId": "p", "kinds": kinds })).1.starts_with("data.kinds: "));
        }
    }

    #[test]
    fn a_change_of_grants_keeps_what_it_does_not_name() {
        let change = |grants: Value| match Act::parse("set-grants", json!({ "peerId": "p", "grants": grants })) {
            Ok(Act::SetGrants { change, .. }) => Ok(change.apply(&Grants::everyday())),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal.message),
        };
        assert_eq!(change(json!({})), Ok(Grants::everyday()));
        assert_eq!(
            change(json!({ "moderate": true, "publish": null })),
            Ok(Grants { moderate: true, ..Grants::everyday() })
        );
        let sources = Publish::Only { kinds: None, sources: Some(vec!["mic".to_owned()]) };
        let changed = Grants { publish: sources, subscribe: false, ..Grants::everyday() };
        assert_eq!(
            change(json!({ "publish": { "sources": ["mic"], "kinds": null }, "subscribe": false })),
            Ok(changed)
        );
        for grants in
            [json!({ "hidden": true }), json!({ "join": false }), json!({ "sing": true }), json!({ "publish": 1 })]
        {
            assert!(change(grants).unwrap_err().starts_with("data.grants"));
        }
    }
}
