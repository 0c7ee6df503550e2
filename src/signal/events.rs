//! The events of shards about the objects of one channel, turned into notifications for the peers concerned. An event
//! about an object that is gone is no error: commands and events cross on the way.

use serde_json::json;

use crate::base::id::{ConsumerId, Layers, ProducerId, TransportId};
use crate::base::ranking::Ranking;
use crate::shard::command::{Event, TransportState};
use crate::signal::channel::Channel;
use crate::signal::closing::{self, Ending};
use crate::signal::cluster::RosterOp;
use crate::signal::desk::Desk;
use crate::signal::journal::Occurrence;

/// Takes one event. `channel` is that of the object's owner.
pub(super) fn take(channel: &mut Channel, desk: &mut Desk, event: &Event) {
    match *event {
        Event::TransportState { transport, state } => transport_state(channel, desk, transport, state),
        Event::TransportClosed { transport, why } => {
            closing::close_transport(channel, desk, transport, Ending::Told(why));
        }
        Event::ProducerBound { producer, transport } => producer_bound(channel, producer, transport),
        Event::ProducerSilent { producer, silent } => {
            if let Some(producer) = channel.producer_mut(producer).filter(|producer| producer.abroad.is_none()) {
                producer.silent = silent;
                let id = producer.external;
                channel.tell_abroad(&mut desk.post, || RosterOp::Silent { id, silent });
            }
        }
        Event::ProducerClosed { producer, why } => {
            closing::close_producer(channel, desk, producer, Ending::Told(why));
        }
        Event::ConsumerClosed { consumer, why } => {
            closing::close_consumer(channel, desk, consumer, Ending::Told(why));
        }
        Event::ConsumerLayers { consumer, layers, by_bandwidth } => {
            consumer_layers(channel, desk, consumer, layers, by_bandwidth);
        }
        Event::ProducerLayers { producer, watched, of, ref ranking } => {
            producer_layers(channel, desk, producer, watched, of, ranking);
        }
        Event::HandshakeFailed { transport, ref why } => handshake_failed(channel, desk, transport, why),
        // For the log alone, or not about an object.
        Event::TransportConnected { .. }
        | Event::FirstPacket { .. }
        | Event::TransportEnded { .. }
        | Event::Answer { .. }
        | Event::Speech { .. }
        | Event::Lane { .. }
        | Event::ImportLost { .. }
        | Event::ShardRestarted { .. } => {}
    }
}

fn handshake_failed(channel: &Channel, desk: &mut Desk, id: TransportId, why: &str) {
    desk.post.journal.note(Occurrence::TransportFailed, &channel.name, || {
        let peer = desk.owners.transports.get(&id).and_then(|owner| channel.peers.get(owner));
        let external = peer.and_then(|peer| peer.transports.get(&id)).map(|transport| transport.external.to_string());
        json!({
            "id": external,
            "peerId": peer.map(|peer| peer.external.to_string()),
            "reason": "handshake",
            "message": why,
        })
    });
}

fn producer_bound(channel: &mut Channel, id: ProducerId, transport: TransportId) {
    let owner = channel.producers.get(&id).and_then(|owner| channel.peers.get_mut(owner));
    if let Some(peer) = owner.filter(|peer| peer.transports.contains_key(&transport))
        && let Some(producer) = peer.producers.get_mut(&id)
    {
        producer.transport = Some(transport);
    }
}

fn consumer_layers(channel: &Channel, desk: &mut Desk, id: ConsumerId, layers: Option<Layers>, by_bandwidth: bool) {
    let Some(&owner) = desk.owners.consumers.get(&id) else { return };
    let Some(consumer) = channel.peers.get(&owner).and_then(|peer| peer.consumers.get(&id)) else { return };
    let mut data = json!({
        "id": consumer.external.to_string(),
        "producerId": consumer.producer_external.to_string(),
        "spatialLayer": layers.map(|layers| layers.spatial),
        "temporalLayer": layers.map(|layers| layers.temporal),
    });
    if by_bandwidth {
        data["reason"] = json!("bandwidth");
    }
    channel.tell(&mut desk.post, owner, "consumer-layers-changed", &data);
}

/// Tells the owner which layers are watched: by layer, and by encoding in the client's own order, which may differ.
fn producer_layers(channel: &Channel, desk: &mut Desk, id: ProducerId, watched: u8, of: u8, ranking: &Ranking) {
    let Some((owner, producer)) = channel.producer(id) else { return };
    let layers: Vec<bool> = (0..of).map(|layer| layer < watched).collect();
    let listed = &producer.plan.spec.encodings;
    let encodings = (0..).zip(listed).map(|(at, encoding)| {
        let layer = if listed.len() > 1 { ranking.layer(at) } else { 0 };
        json!({
            "rid": encoding.rid.map(|rid| rid.as_str().to_owned()),
            "spatialLayer": layer,
            "wanted": layer < watched,
        })
    });
    let encodings: Vec<_> = encodings.collect();
    let data = json!({ "id": producer.external.to_string(), "spatialLayers": layers, "encodings": encodings });
    channel.tell(&mut desk.post, owner, "producer-layers", &data);
}

fn transport_state(channel: &mut Channel, desk: &mut Desk, id: TransportId, state: TransportState) {
    let Some(&owner) = desk.owners.transports.get(&id) else { return };
    let Some(peer) = channel.peers.get_mut(&owner) else { return };
    let Some(transport) = peer.transports.get_mut(&id) else { return };
    if std::mem::replace(&mut transport.state, state) == state {
        return;
    }
    if state != TransportState::New {
        desk.accounts.transport_settled(id);
    }
    if state == TransportState::Connected && !std::mem::replace(&mut transport.connected, true) && !transport.named {
        peer.announcements_open = peer.announcements_open.saturating_sub(1);
    }
    let mut data = json!({ "id": transport.external.to_string(), "state": state.name() });
    channel.tell(&mut desk.post, owner, "transport-state", &data);
    desk.post.journal.note(Occurrence::TransportState, &channel.name, || {
        data["peerId"] = json!(channel.peers.get(&owner).map(|peer| peer.external.to_string()));
        data
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::PeerId;
    use crate::shard::command::MediaKind;
    use crate::signal::fixture::{ANNA, BERTA, CAMERA, WATCHING, call, heard, said, told};
    use crate::signal::ortc;

    const HERS: TransportId = TransportId(ANNA.0);

    #[test]
    fn a_state_is_told_once_and_only_to_its_owner() {
        let (mut channel, mut desk) = call();
        let mut state = |state| {
            take(&mut channel, &mut desk, &Event::TransportState { transport: HERS, state });
            said(&mut desk).0
        };
        assert_eq!(state(TransportState::Connected), [], "it was connected before");
        assert_eq!(state(TransportState::Disconnected), told(&[(ANNA.0, "transport-state ")]));
        assert_eq!(state(TransportState::Disconnected), []);
        let gone = Event::TransportState { transport: TransportId(99), state: TransportState::Failed };
        take(&mut channel, &mut desk, &gone);
        assert_eq!(said(&mut desk), (vec![], vec![]));
    }

    #[test]
    fn a_handshake_answers_an_announcement_that_named_no_transport_once() {
        let (mut channel, mut desk) = call();
        let mut connects = |named: bool, connected: bool| {
            let peer = channel.peers.get_mut(&ANNA).unwrap();
            peer.announcements_open = 2;
            let transport = peer.transports.get_mut(&HERS).unwrap();
            (transport.state, transport.named, transport.connected) = (TransportState::Connecting, named, connected);
            let event = Event::TransportState { transport: HERS, state: TransportState::Connected };
            take(&mut channel, &mut desk, &event);
            channel.peers[&ANNA].announcements_open
        };
        assert_eq!(connects(false, false), 1);
        assert_eq!(connects(false, true), 2, "it is back after a break");
        assert_eq!(connects(true, false), 2, "its announcement named it");
    }

    #[test]
    fn a_producer_binds_to_a_transport_of_its_own_peer_alone() {
        let (mut channel, mut desk) = call();
        let mut bound = |transport| {
            channel.producer_mut(CAMERA).unwrap().transport = None;
            take(&mut channel, &mut desk, &Event::ProducerBound { producer: CAMERA, transport });
            channel.producer_mut(CAMERA).unwrap().transport
        };
        assert_eq!(bound(HERS), Some(HERS));
        assert_eq!(bound(TransportId(BERTA.0)), None);
    }

    #[test]
    fn watched_layers_are_told_in_the_order_of_the_clients_list() {
        let (mut channel, mut desk) = call();
        let parameters = json!({
            "codecs": [{ "mimeType": "video/VP8", "payloadType": 96, "clockRate": 90_000 }],
            "encodings": [{ "rid": "full" }, { "rid": "half" }, { "rid": "quarter" }],
        });
        channel.producer_mut(CAMERA).unwrap().plan = ortc::plan_producer(MediaKind::Video, &parameters).unwrap();
        let ranking = Ranking::smallest_first([2, 1, 0]).unwrap();
        take(&mut channel, &mut desk, &Event::ProducerLayers { producer: CAMERA, watched: 1, of: 3, ranking });
        let [(to, text)] = &heard(&mut desk).0[..] else { panic!("one text") };
        assert_eq!(PeerId(*to), ANNA);
        assert_eq!(text["data"]["spatialLayers"], json!([true, false, false]));
        let encodings = json!([
            { "rid": "full", "spatialLayer": 2, "wanted": false },
            { "rid": "half", "spatialLayer": 1, "wanted": false },
            { "rid": "quarter", "spatialLayer": 0, "wanted": true },
        ]);
        assert_eq!(text["data"]["encodings"], encodings);
    }

    #[test]
    fn a_consumer_paused_by_bandwidth_is_told_with_the_reason() {
        let (mut channel, mut desk) = call();
        let mut layers = |layers, by_bandwidth| {
            take(&mut channel, &mut desk, &Event::ConsumerLayers { consumer: WATCHING, layers, by_bandwidth });
            said(&mut desk).0
        };
        assert_eq!(layers(None, true), told(&[(BERTA.0, "consumer-layers-changed bandwidth")]));
        assert_eq!(layers(Some(Layers::default()), false), told(&[(BERTA.0, "consumer-layers-changed ")]));
    }
}
