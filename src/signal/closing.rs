//! The end of a consumer, of a producer with its consumers, of a transport with all it carries, and of a peer with
//! everything. A client's request, a peer's leaving and a shard's event all lead here, so that each leaves nothing
//! behind.

use std::collections::btree_map::Entry;

use serde_json::{Value, json};

use crate::base::id::{ConsumerId, PeerId, ProducerId, TransportId};
use crate::shard::command::{Closed, Command, StatsOf};
use crate::signal::act::By;
use crate::signal::channel::Channel;
use crate::signal::desk::Desk;
use crate::signal::journal::Occurrence;
use crate::signal::landing;
use crate::signal::news::News;
use crate::signal::removal::told_of;

/// The cause of an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// Its own client asked: it is told by the reply alone, and the shard by a command.
    Asked,
    /// It ends with something that the shard ends together with it.
    With(Closed),
    /// The shard ended it by itself.
    Told(Closed),
    /// We end it because of something else, and the shard does not know yet.
    Ordered(Closed),
    /// It was announced, and no check has come for it in time.
    Unchecked,
    /// Its owner's grants do not allow it any more.
    Forbidden,
    /// The peer that owns it is gone.
    PeerLeft,
    /// The operator says so.
    Operator,
    /// The operator moves its peer to another shard.
    Moved,
    /// A moderator has stopped it.
    Stopped(By),
    /// Its node tells so.
    Abroad { reason: &'static str, by: Option<By> },
}

impl Ending {
    fn needs_command(self) -> bool {
        !matches!(self, Ending::With(_) | Ending::Told(_) | Ending::PeerLeft | Ending::Abroad { .. })
    }

    fn owner_knows(self) -> bool {
        matches!(self, Ending::Asked | Ending::PeerLeft)
    }

    /// Whether its owner is told even if it does not subscribe.
    fn concerns_owner(self) -> bool {
        matches!(self, Ending::Stopped(_) | Ending::Forbidden)
    }

    fn reason(self) -> &'static str {
        match self {
            Ending::Stopped(_) => "stopped",
            Ending::Asked => "closed",
            Ending::PeerLeft => "peer-left",
            Ending::Unchecked => "no-check",
            Ending::Operator => "operator",
            Ending::Moved => "moved",
            Ending::Forbidden => "forbidden",
            Ending::Abroad { reason, .. } => reason,
            Ending::With(why) | Ending::Told(why) | Ending::Ordered(why) => match why {
                Closed::Replaced => "replaced",
                Closed::TransportClosed => "transport-closed",
                Closed::ProducerClosed => "producer-closed",
                Closed::Limit(_) => "limit",
                Closed::Fault => "fault",
            },
        }
    }
}

pub(super) fn close_consumer(channel: &mut Channel, desk: &mut Desk, id: ConsumerId, ending: Ending) {
    let Some(owner) = desk.owners.consumers.remove(&id) else { return };
    let Some(peer) = channel.peers.get_mut(&owner) else { return };
    let Some(consumer) = peer.consumers.remove(&id) else { return };
    if let Entry::Occupied(mut of_it) = peer.consuming.entry(consumer.producer) {
        *of_it.get_mut() -= 1;
        if *of_it.get() == 0 {
            of_it.remove();
        }
    }
    if let Some(shard) = peer.place.shard().filter(|_| ending.needs_command()) {
        desk.post.command(shard, Command::CloseConsumer { consumer: id });
    }
    if let Some(source) = channel.producers.get(&consumer.producer).and_then(|owner| channel.peers.get_mut(owner))
        && let Some(producer) = source.producers.get_mut(&consumer.producer)
    {
        producer.consumers.remove(&id);
        landing::let_go(source, &mut desk.post, consumer.producer);
    }
    desk.stats.object_gone(&mut desk.post, StatsOf::Consumer(id));
    desk.post.journal.note(Occurrence::ConsumerClosed, &channel.name, || {
        let peer = channel.peers.get(&owner).map(|peer| peer.external.to_string());
        json!({ "id": consumer.external.to_string(), "peerId": peer, "reason": ending.reason() })
    });
    if !ending.owner_knows() {
        let data = json!({
            "id": consumer.external.to_string(),
            "producerId": consumer.producer_external.to_string(),
            "reason": ending.reason(),
        });
        tell_owner(channel, desk, owner, ending, "consumer-closed", &data);
    }
}

fn tell_owner(channel: &Channel, desk: &mut Desk, owner: PeerId, ending: Ending, kind: &str, data: &Value) {
    match ending.concerns_owner() {
        true => desk.post.notify(owner, kind, data),
        false => channel.tell(&mut desk.post, owner, kind, data),
    }
}

pub(super) fn close_producer(channel: &mut Channel, desk: &mut Desk, id: ProducerId, ending: Ending) {
    let Some(owner) = desk.owners.producers.remove(&id) else { return };
    channel.producers.remove(&id);
    let Some(peer) = channel.peers.get_mut(&owner) else { return };
    let Some(producer) = peer.producers.remove(&id) else { return };
    channel.by_external.remove(&producer.external);
    // Nobody else tells the consumers' transports on other shards.
    for &consumer in producer.consumers.keys() {
        close_consumer(channel, desk, consumer, Ending::Ordered(Closed::ProducerClosed));
    }
    let Some(peer) = channel.peers.get_mut(&owner) else { return };
    landing::ended(peer, &mut desk.post, id, &producer);
    if let Some(shard) = peer.place.shard().filter(|_| ending.needs_command()) {
        desk.post.command(shard, Command::CloseProducer { producer: id });
    }
    desk.placement.producer_removed(&mut channel.spread, producer.plan.kind);
    desk.stats.object_gone(&mut desk.post, StatsOf::Producer(id));
    let mut data = json!({
        "id": producer.external.to_string(),
        "peerId": peer.external.to_string(),
        "reason": ending.reason(),
    });
    if let Ending::Stopped(by) | Ending::Abroad { by: Some(by), .. } = ending {
        data["by"] = json!(by.to_string());
    }
    if !ending.owner_knows() {
        tell_owner(channel, desk, owner, ending, "producer-closed", &data);
    }
    channel.tell_others(&mut desk.post, owner, &News::producer_closed(id), &data);
    if producer.abroad.is_some() {
        desk.ghosts.producers -= 1;
        channel.abroad.iter_mut().for_each(|abroad| abroad.producers -= 1);
    } else {
        desk.post.journal.note(Occurrence::ProducerClosed, &channel.name, || data);
    }
    channel.voices.remove(&mut desk.post, &channel.subscribers, id);
}

pub(super) fn close_transport(channel: &mut Channel, desk: &mut Desk, id: TransportId, ending: Ending) {
    let Some(owner) = desk.owners.transports.remove(&id) else { return };
    let Some(peer) = channel.peers.get_mut(&owner) else { return };
    let Some(transport) = peer.transports.remove(&id) else { return };
    desk.accounts.transport_settled(id);
    if let Some(carried) = peer.place.shard().and_then(|shard| desk.carried.get_mut(&shard)) {
        *carried = carried.saturating_sub(1);
    }
    let waiting = peer.transports.values().filter(|transport| transport.awaits_announcement()).count();
    peer.announcements_open = peer.announcements_open.min(waiting);
    if let Some(shard) = peer.place.shard().filter(|_| ending.needs_command() || ending == Ending::PeerLeft) {
        desk.post.command(shard, Command::CloseTransport { transport: id });
    }
    // Objects on it end with it on the shard too; its owner is told of each, also when it asked.
    let with = match ending {
        Ending::PeerLeft => Ending::PeerLeft,
        Ending::Told(Closed::Fault) | Ending::Ordered(Closed::Fault) => Ending::With(Closed::Fault),
        _ => Ending::With(Closed::TransportClosed),
    };
    let carried = peer.consumers.iter().filter(|(_, consumer)| consumer.transport == id);
    let consumers: Vec<_> = carried.map(|(consumer, _)| *consumer).collect();
    let carried = peer.producers.iter().filter(|(_, producer)| producer.transport == Some(id));
    let producers: Vec<_> = carried.map(|(producer, _)| *producer).collect();
    for consumer in consumers {
        close_consumer(channel, desk, consumer, with);
    }
    for producer in producers {
        close_producer(channel, desk, producer, with);
    }
    desk.stats.object_gone(&mut desk.post, StatsOf::Transport(id));
    if !ending.owner_knows() {
        let data = json!({
            "id": transport.external.to_string(), "state": "closed", "reason": ending.reason(),
        });
        channel.tell(&mut desk.post, owner, "transport-state", &data);
    }
    desk.post.journal.note(Occurrence::TransportClosed, &channel.name, || {
        let peer = channel.peers.get(&owner).map(|peer| peer.external.to_string());
        json!({ "id": transport.external.to_string(), "peerId": peer, "reason": ending.reason() })
    });
}

/// Ends everything of the peer, and tells the others.
pub(super) fn remove_peer(channel: &mut Channel, desk: &mut Desk, id: PeerId) {
    let Some(peer) = channel.peers.get(&id) else { return };
    channel.subscribers.remove(&id);
    let shard = peer.place.shard();
    let transports: Vec<_> = peer.transports.keys().copied().collect();
    let producers: Vec<_> = peer.producers.iter().map(|(id, producer)| (*id, producer.transport)).collect();
    for transport in transports {
        close_transport(channel, desk, transport, Ending::PeerLeft);
    }
    // Producers without a known transport: the shard keeps them by peer.
    for (producer, _) in producers.into_iter().filter(|(_, transport)| transport.is_none()) {
        if let Some(shard) = shard {
            desk.post.command(shard, Command::CloseProducer { producer });
        }
        close_producer(channel, desk, producer, Ending::PeerLeft);
    }
    if let Some(shard) = shard {
        desk.placement.remove(&mut channel.spread, shard);
    }
    if let Some(peer) = channel.remove(id) {
        channel.voices.listen_where_wanted(&mut desk.post, &channel.subscribers);
        desk.stats.peer_gone(id);
        let why = desk.post.journal.leaving;
        if peer.place.node().is_none() {
            desk.post.journal.note(Occurrence::PeerLeft, &channel.name, || {
                let mut data = peer.introduce();
                data["reason"] = why.into();
                told_of(&peer, data)
            });
        }
        if peer.grants.hidden {
            return;
        }
        let data = told_of(&peer, json!({ "id": peer.external.to_string(), "user": &*peer.user }));
        channel.tell_others(&mut desk.post, id, &News::peer_left(id), &data);
    }
}

/// Ends everything of a peer whose shard lost its objects. The commands go out all the same: what was created after the
/// restart, but before we knew of it, must go as well.
pub(super) fn shard_lost(channel: &mut Channel, desk: &mut Desk, id: PeerId) {
    close_all(channel, desk, id, Ending::Ordered(Closed::Fault));
}

/// Ends everything of a peer that stays.
pub(super) fn close_all(channel: &mut Channel, desk: &mut Desk, id: PeerId, ending: Ending) {
    let Some(peer) = channel.peers.get(&id) else { return };
    let transports: Vec<_> = peer.transports.keys().copied().collect();
    let producers: Vec<_> = peer.producers.keys().copied().collect();
    for producer in producers {
        close_producer(channel, desk, producer, ending);
    }
    for transport in transports {
        close_transport(channel, desk, transport, ending);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::fixture::{ANNA, BERTA, CAMERA, WATCHING, call, said, told};

    #[test]
    fn a_peer_that_goes_takes_everything_with_it_and_is_told_nothing() {
        let (mut channel, mut desk) = call();
        remove_peer(&mut channel, &mut desk, ANNA);
        let (heard, commands) = said(&mut desk);
        let expected = [(2, "consumer-closed producer-closed"), (2, "producer-closed peer-left"), (2, "peer-left ")];
        assert_eq!(heard, told(&expected));
        let expected =
            [Command::CloseTransport { transport: TransportId(ANNA.0) }, Command::CloseConsumer { consumer: WATCHING }];
        assert_eq!(commands, expected, "the producer ends with its transport");
        let owners = &desk.owners;
        assert_eq!((owners.transports.len(), owners.producers.len(), owners.consumers.len()), (1, 0, 0));
        assert!(channel.by_external.is_empty() && channel.peers[&BERTA].consuming.is_empty());
        remove_peer(&mut channel, &mut desk, BERTA);
        assert!(channel.peers.is_empty() && desk.placement.expected().all(|(_, load)| load == 0));
    }

    #[test]
    fn who_asked_hears_the_reply_alone_and_who_did_not_hears_why() {
        let (mut channel, mut desk) = call();
        close_producer(&mut channel, &mut desk, CAMERA, Ending::Asked);
        let expected = [(2, "consumer-closed producer-closed"), (2, "producer-closed closed")];
        assert_eq!(said(&mut desk).0, told(&expected));
        close_producer(&mut channel, &mut desk, CAMERA, Ending::Asked);
        assert_eq!(said(&mut desk), (vec![], vec![]), "it is gone");

        let (mut channel, mut desk) = call();
        close_transport(&mut channel, &mut desk, TransportId(ANNA.0), Ending::Told(Closed::Limit("paths")));
        let (heard, commands) = said(&mut desk);
        let expected = [
            (2, "consumer-closed producer-closed"),
            (1, "producer-closed transport-closed"),
            (2, "producer-closed transport-closed"),
            (1, "transport-state limit"),
        ];
        assert_eq!(heard, told(&expected));
        assert_eq!(commands, [Command::CloseConsumer { consumer: WATCHING }], "the shard ended the rest by itself");
    }
}
