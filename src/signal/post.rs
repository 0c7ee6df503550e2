//! The outputs of signalling, for the edge to carry out in this order, and what they cost: replies and notifications
//! for peers, commands for shards. All of signalling speaks through it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use crate::base::id::{PeerId, ShardId};
use crate::base::secret::Secret;
use crate::shard::command::Command;
use crate::signal::entry_message::EntryTag;
use crate::signal::journal::Journal;
use crate::signal::mailbox::Mailboxes;
use crate::signal::message::{self, Code, Refusal, RequestTag};
use crate::signal::meter::Cost;
use crate::signal::news::News;
use crate::signal::outbox::AbroadMail;
use crate::signal::session::SessionId;
use crate::signal::text::{About, Text};

#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    Send {
        session: SessionId,
        text: Text,
        /// The rule by which a later text makes this one old. None: always delivered.
        about: Option<About>,
    },
    /// Close the socket with this WebSocket status (RFC 6455 section 7.4). Its session is over already.
    Disconnect {
        session: SessionId,
        code: u16,
        reason: &'static str,
    },
    Command {
        shard: ShardId,
        command: Command,
    },
    /// Say by [`Hub::verified`](crate::signal::Hub::verified) what this token of a peer says.
    Verify(Box<Verification>),
}

/// A token that a peer on an open socket has sent.
#[derive(Clone, PartialEq, Debug)]
pub struct Verification {
    pub peer: PeerId,
    /// The peer's channel, which the token has to be for.
    pub channel: Arc<str>,
    pub token: Secret,
    pub tag: EntryTag,
}

/// A text that is shorter has no long appData.
const LONG: usize = 1_024;

/// None: it has none.
fn without_app_data(kind: &str, data: &Value) -> Option<Text> {
    data.get("appData")?;
    let mut data = data.clone();
    data["appData"] = Value::Null;
    Some(message::notification(kind, &data).into())
}

#[derive(Default)]
pub(super) struct Post {
    pub(super) output: VecDeque<Output>,
    pub(super) mailboxes: Mailboxes,
    /// The cost of the present input so far.
    pub(super) work: Cost,
    /// What of it the peer has said, for its user's account.
    pub(super) said: Cost,
    pub(super) refusals: BTreeMap<Code, u64>,
    pub(super) journal: Journal,
    /// Empty without a cluster.
    pub(super) abroad: AbroadMail,
}

impl Post {
    pub(super) fn command(&mut self, shard: ShardId, command: Command) {
        self.output.push_back(Output::Command { shard, command });
    }

    pub(super) fn reply(&mut self, peer: PeerId, text: impl Into<Text>) {
        self.send(peer, text.into(), None);
    }

    fn send(&mut self, peer: PeerId, text: Text, about: Option<About>) {
        if let Some((session, about)) = self.mailboxes.socket_or_keep(peer, &text, about) {
            self.output.push_back(Output::Send { session, text, about });
        }
    }

    pub(super) fn notify(&mut self, peer: PeerId, kind: &str, data: &Value) {
        let text = Text::from(message::notification(kind, data));
        self.work.add(Cost::told(1, text.len()));
        self.send(peer, text, None);
    }

    /// Sends one text to many peers; it is made once. Who is away and has missed much already gets it without long
    /// appData, as the later entries of a list are: appData may be long at no cost, and ends nobody.
    pub(super) fn notify_all<'a>(&mut self, peers: impl Iterator<Item = &'a PeerId>, news: &News, data: &Value) {
        let (mut text, mut lean) = (None, None);
        let mut receivers = 0;
        for peer in peers {
            let text = text.get_or_insert_with(|| Text::from(message::notification(news.kind, data)));
            let text = match text.len() > LONG && self.mailboxes.has_missed_much(*peer) {
                true => lean.get_or_insert_with(|| without_app_data(news.kind, data).unwrap_or(text.clone())),
                false => text,
            };
            let text = text.clone();
            self.send(*peer, text, news.about);
            receivers += 1;
        }
        self.work.add(Cost::told(receivers, text.map_or(0, |text| text.len())));
    }

    /// The text of a refusal, which is counted.
    pub(super) fn refusal(&mut self, refusal: &Refusal, request: Option<&str>, tag: Option<&RequestTag>) -> String {
        *self.refusals.entry(refusal.code).or_default() += 1;
        message::error(refusal, request, tag)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::id::ProducerId;

    #[test]
    fn a_text_for_many_is_made_once_and_charged_for_each() {
        let mut post = Post::default();
        let peers = [PeerId(1), PeerId(2), PeerId(3)];
        for (peer, session) in peers.iter().zip([11, 12]) {
            post.mailboxes.attach(*peer, SessionId(session));
        }
        post.notify_all(peers.iter(), &News::producer_closed(ProducerId(9)), &json!({ "id": 9 }));
        let sent: Vec<_> = post.output.drain(..).collect();
        let [Output::Send { session: one, text: first, about }, Output::Send { session: two, text: second, .. }] =
            &sent[..]
        else {
            panic!("two have a socket: {sent:?}")
        };
        assert_eq!([*one, *two], [SessionId(11), SessionId(12)]);
        let place = |text: &Text| text.pieces().next().map(str::as_ptr);
        assert!(place(first) == place(second) && about.is_some());
        assert_eq!(post.work, Cost::told(3, first.len()));
    }
}
