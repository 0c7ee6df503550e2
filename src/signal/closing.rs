//! The end of a consumer, of a producer with its consumers, of a transport with all it carries, and of a peer with
//! everything. A client's request, a peer's leaving and a shard's event all lead here, so that each leaves nothing
//! behind.

use std::collections::btree_map::Entry;

use serde_json::json;

use crate::base::id::{ConsumerId, PeerId, ProducerId, TransportId};
use crate::shard::command::{Closed, Command, StatsOf};
use crate::signal::channel::Channel;
use crate::signal::desk::Desk;
use crate::signal::news::News;

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
    /// The peer that owns it is gone.
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
    if let Some(shard) = peer.shard.filter(|_| ending.needs_command()) {
        desk.post.command(shard, Command::CloseConsumer { consumer: id });
    }
    if let Some(source) = channel.producers.get(&consumer.producer).and_then(|owner| channel.peers.get_mut(owner))
        && let Some(producer) = source.producers.get_mut(&consumer.producer)
    {
        producer.consumers.remove(&id);
    }
    desk.stats.object_gone(&mut desk.post, StatsOf::Consumer(id));
    if !ending.owner_knows() {
        let data = json!({
            "id": consumer.external.to_string(),
            "producerId": consumer.producer_external.to_string(),
            "reason": ending.reason(),
        });
        channel.tell(&mut desk.post, owner, "consumer-closed", &data);
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
    let Some(peer) = channel.peers.get(&owner) else { return };
    if let Some(shard) = peer.shard.filter(|_| ending.needs_command()) {
        desk.post.command(shard, Command::CloseProducer { producer: id });
    }
    desk.placement.producer_removed(&mut channel.spread, producer.plan.kind);
    desk.stats.object_gone(&mut desk.post, StatsOf::Producer(id));
    let data = json!({
        "id": producer.external.to_string(),
        "peerId": peer.external.to_string(),
        "reason": ending.reason(),
    });
    if !ending.owner_knows() {
        channel.tell(&mut desk.post, owner, "producer-closed", &data);
    }
    channel.tell_others(&mut desk.post, owner, &News::producer_closed(id), &data);
    channel.voices.remove(&mut desk.post, &channel.subscribers, id);
}

pub(super) fn close_transport(channel: &mut Channel, desk: &mut Desk, id: TransportId, ending: Ending) {
    let Some(owner) = desk.owners.transports.remove(&id) else { return };
    let Some(peer) = channel.peers.get_mut(&owner) else { return };
    let Some(transport) = peer.transports.remove(&id) else { return };
    desk.accounts.transport_settled(id);
    if let Some(carried) = peer.shard.and_then(|shard| desk.carried.get_mut(&shard)) {
        *carried = carried.saturating_sub(1);
    }
    let waiting = peer.transports.values().filter(|transport| transport.awaits_announcement()).count();
    peer.announcements_open = peer.announcements_open.min(waiting);
    if let Some(shard) = peer.shard.filter(|_| ending.needs_command() || ending == Ending::PeerLeft) {
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
}

/// Ends everything of the peer, and tells the others.
pub(super) fn remove_peer(channel: &mut Channel, desk: &mut Desk, id: PeerId) {
    let Some(peer) = channel.peers.get(&id) else { return };
    channel.subscribers.remove(&id);
    let shard = peer.shard;
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
    if let Some(peer) = channel.peers.remove(&id) {
        channel.voices.listen_where_wanted(&mut desk.post, &channel.subscribers);
        desk.stats.peer_gone(id);
        let data = json!({ "id": peer.external.to_string(), "user": &*peer.user });
        channel.tell_others(&mut desk.post, id, &News::peer_left(id), &data);
    }
}

/// Ends everything of a peer whose shard lost its objects. The commands go out all the same: what was created after the
/// restart, but before we knew of it, must go as well.
pub(super) fn shard_lost(channel: &mut Channel, desk: &mut Desk, id: PeerId) {
    let Some(peer) = channel.peers.get(&id) else { return };
    let transports: Vec<_> = peer.transports.keys().copied().collect();
    let producers: Vec<_> = peer.producers.keys().copied().collect();
    for producer in producers {
        close_producer(channel, desk, producer, Ending::Ordered(Closed::Fault));
    }
    for transport in transports {
        close_transport(channel, desk, transport, Ending::Ordered(Closed::Fault));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ShardId, ShardLabel};
    use crate::shard::command::{MediaKind, TransportState};
    use crate::signal::desk::HubSettings;
    use crate::signal::ortc;
    use crate::signal::peer::{Consumer, Peer, Producer, Transport};
    use crate::signal::post::Output;
    use crate::signal::session::SessionId;

    const ANNA: PeerId = PeerId(1);
    const BERTA: PeerId = PeerId(2);
    const CAMERA: ProducerId = ProducerId(10);
    const WATCHING: ConsumerId = ConsumerId(20);

    fn desk() -> Desk {
        Desk::new(HubSettings {
            shards: vec![(ShardId(0), ShardLabel(*b"aa"))],
            candidates: vec![],
            fingerprint_sha256: String::new(),
            spread: Default::default(),
            last_n: Default::default(),
            log: Default::default(),
            quotas: Default::default(),
            seed: [1; 32],
        })
    }

    /// Anna sends on a transport of hers, Berta receives it on one of hers; both subscribe.
    fn call() -> (Channel, Desk) {
        let (mut channel, mut desk) = (Channel::new("room".into()), desk());
        for (id, user) in [(ANNA, "anna"), (BERTA, "berta")] {
            let mut peer = Peer::new(desk.ids.external(), user.into());
            peer.shard = desk.placement.place(&mut channel.spread);
            let transport = Transport {
                external: desk.ids.external(),
                direction: None,
                state: TransportState::Connected,
                connected: true,
                named: true,
                fingerprints: 1,
                carried_consumers: false,
                names: desk.ids.names(),
            };
            peer.transports.insert(TransportId(id.0), transport);
            desk.owners.transports.insert(TransportId(id.0), id);
            channel.peers.insert(id, peer);
            channel.subscribers.insert(id);
            desk.post.mailboxes.attach(id, SessionId(id.0));
        }
        let parameters = serde_json::json!({
            "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2 }],
            "encodings": [{ "ssrc": 7 }],
        });
        let producer = Producer {
            external: desk.ids.external(),
            plan: ortc::plan_producer(MediaKind::Audio, &parameters).expect("it is Opus"),
            app_data: serde_json::Value::Null,
            app_data_bytes: 4,
            paused: false,
            silent: false,
            transport: Some(TransportId(ANNA.0)),
            consumers: [(WATCHING, BERTA)].into(),
        };
        let consumer = Consumer {
            external: desk.ids.external(),
            transport: TransportId(BERTA.0),
            producer: CAMERA,
            producer_external: producer.external,
            paused: false,
        };
        channel.producers.insert(CAMERA, ANNA);
        channel.by_external.insert(producer.external, CAMERA);
        channel.peers.get_mut(&ANNA).expect("she is there").producers.insert(CAMERA, producer);
        let berta = channel.peers.get_mut(&BERTA).expect("she is there");
        berta.consumers.insert(WATCHING, consumer);
        berta.consuming.insert(CAMERA, 1);
        desk.owners.producers.insert(CAMERA, ANNA);
        desk.owners.consumers.insert(WATCHING, BERTA);
        desk.placement.producer_added(&mut channel.spread, MediaKind::Audio);
        (channel, desk)
    }

    /// What each socket was told, and the commands.
    fn said(desk: &mut Desk) -> (Vec<(u64, String)>, Vec<Command>) {
        let (mut told, mut commands) = (Vec::new(), Vec::new());
        for output in desk.post.output.drain(..) {
            match output {
                Output::Send { session, text, .. } => {
                    let text: serde_json::Value = serde_json::from_str(&text.to_string()).expect("JSON");
                    let reason = text["data"]["reason"].as_str().unwrap_or_default();
                    told.push((session.0, format!("{} {reason}", text["type"].as_str().unwrap_or_default())));
                }
                Output::Command { command, .. } => commands.push(command),
                Output::Disconnect { .. } => {}
            }
        }
        (told, commands)
    }

    fn told(of: &[(u64, &str)]) -> Vec<(u64, String)> {
        of.iter().map(|(session, text)| (*session, (*text).to_owned())).collect()
    }

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
