//! What happens in channels, noted for the operator's listeners: the event stream of the admin API and the webhooks. Its
//! entries name ids and users, never media, tokens or appData. Nothing is made while nobody listens.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

/// How much the listeners want, all together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Interest {
    #[default]
    Nothing,
    /// Channels, peers and producers.
    Milestones,
    Everything,
}

/// The kinds of entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Occurrence {
    ChannelStarted,
    ChannelEnded,
    PeerWaiting,
    WaitingEnded,
    PeerJoined,
    PeerAway,
    PeerBack,
    PeerLeft,
    ProducerCreated,
    ProducerChanged,
    ProducerClosed,
    ConsumerCreated,
    ConsumerClosed,
    TransportCreated,
    TransportState,
    TransportFailed,
    TransportClosed,
    ShardRestarted,
}

impl Occurrence {
    pub const ALL: [Occurrence; 18] = [
        Occurrence::ChannelStarted,
        Occurrence::ChannelEnded,
        Occurrence::PeerWaiting,
        Occurrence::WaitingEnded,
        Occurrence::PeerJoined,
        Occurrence::PeerAway,
        Occurrence::PeerBack,
        Occurrence::PeerLeft,
        Occurrence::ProducerCreated,
        Occurrence::ProducerChanged,
        Occurrence::ProducerClosed,
        Occurrence::ConsumerCreated,
        Occurrence::ConsumerClosed,
        Occurrence::TransportCreated,
        Occurrence::TransportState,
        Occurrence::TransportFailed,
        Occurrence::TransportClosed,
        Occurrence::ShardRestarted,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Occurrence::ChannelStarted => "channel.started",
            Occurrence::ChannelEnded => "channel.ended",
            Occurrence::PeerWaiting => "peer.waiting",
            Occurrence::WaitingEnded => "peer.waiting_ended",
            Occurrence::PeerJoined => "peer.joined",
            Occurrence::PeerAway => "peer.away",
            Occurrence::PeerBack => "peer.back",
            Occurrence::PeerLeft => "peer.left",
            Occurrence::ProducerCreated => "producer.created",
            Occurrence::ProducerChanged => "producer.changed",
            Occurrence::ProducerClosed => "producer.closed",
            Occurrence::ConsumerCreated => "consumer.created",
            Occurrence::ConsumerClosed => "consumer.closed",
            Occurrence::TransportCreated => "transport.created",
            Occurrence::TransportState => "transport.state",
            Occurrence::TransportFailed => "transport.failed",
            Occurrence::TransportClosed => "transport.closed",
            Occurrence::ShardRestarted => "shard.restarted",
        }
    }

    /// The least interest that includes it.
    pub const fn interest(self) -> Interest {
        match self {
            Occurrence::ChannelStarted
            | Occurrence::ChannelEnded
            | Occurrence::PeerWaiting
            | Occurrence::WaitingEnded
            | Occurrence::PeerJoined
            | Occurrence::PeerLeft
            | Occurrence::ProducerCreated
            | Occurrence::ProducerClosed => Interest::Milestones,
            _ => Interest::Everything,
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct JournalEntry {
    pub what: Occurrence,
    /// None: it is about no channel.
    pub channel: Option<Arc<str>>,
    /// An object, with the channel's name among its fields.
    pub data: Value,
}

#[derive(Default)]
pub(super) struct Journal {
    interest: Interest,
    entries: VecDeque<JournalEntry>,
    /// Why the peer that is being removed goes.
    pub(super) leaving: &'static str,
}

impl Journal {
    pub(super) fn set_interest(&mut self, interest: Interest) {
        self.interest = interest;
    }

    pub(super) fn note(&mut self, what: Occurrence, channel: &Arc<str>, data: impl FnOnce() -> Value) {
        if self.interest >= what.interest() {
            let mut data = data();
            data["channel"] = (&**channel).into();
            self.entries.push_back(JournalEntry { what, channel: Some(channel.clone()), data });
        }
    }

    /// About no channel.
    pub(super) fn note_elsewhere(&mut self, what: Occurrence, data: impl FnOnce() -> Value) {
        if self.interest >= what.interest() {
            self.entries.push_back(JournalEntry { what, channel: None, data: data() });
        }
    }

    pub(super) fn poll(&mut self) -> Option<JournalEntry> {
        self.entries.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_is_made_that_nobody_wants() {
        let (mut journal, channel) = (Journal::default(), Arc::from("room"));
        journal.note(Occurrence::PeerJoined, &channel, || panic!("nobody listens"));
        journal.note_elsewhere(Occurrence::ShardRestarted, || panic!("nobody listens"));
        journal.set_interest(Interest::Milestones);
        journal.note(Occurrence::TransportState, &channel, || panic!("nobody wants so much"));
        journal.note(Occurrence::PeerJoined, &channel, || json!({ "id": 1 }));
        let entry = journal.poll().expect("it was noted");
        assert_eq!((entry.what, entry.data), (Occurrence::PeerJoined, json!({ "id": 1, "channel": "room" })));
        journal.set_interest(Interest::Everything);
        for what in Occurrence::ALL {
            journal.note(what, &channel, || json!({}));
            assert_eq!(journal.poll().map(|entry| entry.what), Some(what));
        }
        assert_eq!(journal.poll(), None);
    }
}
