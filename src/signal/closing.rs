//! The end of a consumer, of a producer with its consumers, of a transport with all it carries, and of a peer with
//! everything. A client's request, a peer's leaving and a shard's event all lead here, so that each leaves nothing
//! behind.

use std::collections::btree_map::Entry;

use serde_json::json;

use crate::base::id::{ConsumerId, PeerId, ProducerId, TransportId};
use crate::shard::command::{Closed, Command, StatsOf};
use crate::signal::channel::{Channel, News};
use crate::signal::desk::Desk;

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
    /// Its peer's socket is gone.
    PeerLeft,
}

impl Ending {
    fn needs_command(self) -> bool {
        matches!(self, Ending::Asked | Ending::Ordered(_) | Ending::Unchecked)
    }

    fn owner_knows(self) -> bool {
        matches!(self, Ending::Asked | Ending::PeerLeft)
    }

    fn reason(self) -> &'static str {
        match self {
            Ending::Asked => "closed",
            Ending::PeerLeft => "peer-left",
            Ending::Unchecked => "no-check",
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

impl Channel {
    pub(super) fn close_consumer(&mut self, desk: &mut Desk, id: ConsumerId, ending: Ending) {
        let Some(owner) = desk.owners.consumers.remove(&id) else { return };
        let Some(peer) = self.peers.get_mut(&owner) else { return };
        let Some(consumer) = peer.consumers.remove(&id) else { return };
        if let Entry::Occupied(mut of_it) = peer.consuming.entry(consumer.producer) {
            *of_it.get_mut() -= 1;
            if *of_it.get() == 0 {
                of_it.remove();
            }
        }
        if let Some(shard) = peer.shard.filter(|_| ending.needs_command()) {
            desk.command(shard, Command::CloseConsumer { consumer: id });
        }
        if let Some(source) = self.producers.get(&consumer.producer).and_then(|owner| self.peers.get_mut(owner))
            && let Some(producer) = source.producers.get_mut(&consumer.producer)
        {
            producer.consumers.remove(&id);
        }
        desk.stats_object_gone(StatsOf::Consumer(id));
        if !ending.owner_knows() {
            let data = json!({
                "id": consumer.external.to_string(),
                "producerId": consumer.producer_external.to_string(),
                "reason": ending.reason(),
            });
            self.tell(desk, owner, "consumer-closed", &data);
        }
    }

    pub(super) fn close_producer(&mut self, desk: &mut Desk, id: ProducerId, ending: Ending) {
        let Some(owner) = desk.owners.producers.remove(&id) else { return };
        self.producers.remove(&id);
        let Some(peer) = self.peers.get_mut(&owner) else { return };
        let Some(producer) = peer.producers.remove(&id) else { return };
        self.by_external.remove(&producer.external);
        // On other shards nobody else tells the consumers' transports.
        for &consumer in producer.consumers.keys() {
            self.close_consumer(desk, consumer, Ending::Ordered(Closed::ProducerClosed));
        }
        let Some(peer) = self.peers.get(&owner) else { return };
        if let Some(shard) = peer.shard.filter(|_| ending.needs_command()) {
            desk.command(shard, Command::CloseProducer { producer: id });
        }
        desk.placement.producer_removed(&mut self.spread, producer.plan.kind);
        desk.stats_object_gone(StatsOf::Producer(id));
        let data = json!({
            "id": producer.external.to_string(),
            "peerId": peer.external.to_string(),
            "reason": ending.reason(),
        });
        if !ending.owner_knows() {
            self.tell(desk, owner, "producer-closed", &data);
        }
        self.tell_others(desk, owner, &News::producer_closed(id), &data);
        self.voice_removed(desk, id, (ending == Ending::PeerLeft).then_some(owner));
    }

    pub(super) fn close_transport(&mut self, desk: &mut Desk, id: TransportId, ending: Ending) {
        let Some(owner) = desk.owners.transports.remove(&id) else { return };
        let Some(peer) = self.peers.get_mut(&owner) else { return };
        let Some(transport) = peer.transports.remove(&id) else { return };
        desk.ledger.transport_settled(id);
        if let Some(carried) = peer.shard.and_then(|shard| desk.carried.get_mut(&shard)) {
            *carried = carried.saturating_sub(1);
        }
        let waiting = peer.transports.values().filter(|transport| transport.awaits_announcement()).count();
        peer.announcements_open = peer.announcements_open.min(waiting);
        if let Some(shard) = peer.shard.filter(|_| ending.needs_command() || ending == Ending::PeerLeft) {
            desk.command(shard, Command::CloseTransport { transport: id });
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
            self.close_consumer(desk, consumer, with);
        }
        for producer in producers {
            self.close_producer(desk, producer, with);
        }
        desk.stats_object_gone(StatsOf::Transport(id));
        if !ending.owner_knows() {
            let data = json!({
                "id": transport.external.to_string(), "state": "closed", "reason": ending.reason(),
            });
            self.tell(desk, owner, "transport-state", &data);
        }
    }

    /// The socket is gone: everything of its peer ends, and the others are told.
    pub(super) fn remove_peer(&mut self, desk: &mut Desk, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let shard = peer.shard;
        let transports: Vec<_> = peer.transports.keys().copied().collect();
        let producers: Vec<_> = peer.producers.iter().map(|(id, producer)| (*id, producer.transport)).collect();
        for transport in transports {
            self.close_transport(desk, transport, Ending::PeerLeft);
        }
        // Producers without a known transport: the shard keeps them by peer.
        for (producer, _) in producers.into_iter().filter(|(_, transport)| transport.is_none()) {
            if let Some(shard) = shard {
                desk.command(shard, Command::CloseProducer { producer });
            }
            self.close_producer(desk, producer, Ending::PeerLeft);
        }
        if let Some(shard) = shard {
            desk.placement.remove(&mut self.spread, shard);
        }
        if let Some(peer) = self.peers.remove(&id) {
            self.subscribers.remove(&id);
            self.listen_where_wanted(desk);
            desk.stats_session_gone(id);
            self.tell_others(
                desk,
                id,
                &News::peer_left(id),
                &json!({ "id": peer.external.to_string(), "user": peer.user }),
            );
        }
    }

    /// The peer's shard lost everything. The commands go out all the same: what was created after the restart, but
    /// before we knew of it, must go as well.
    pub(super) fn shard_lost(&mut self, desk: &mut Desk, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let transports: Vec<_> = peer.transports.keys().copied().collect();
        let producers: Vec<_> = peer.producers.keys().copied().collect();
        for producer in producers {
            self.close_producer(desk, producer, Ending::Ordered(Closed::Fault));
        }
        for transport in transports {
            self.close_transport(desk, transport, Ending::Ordered(Closed::Fault));
        }
    }
}
