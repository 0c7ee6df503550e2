//! Events of shards, turned into notifications for the peers concerned. An event about something that is gone already
//! is no error: commands and events cross on the way.

use std::collections::BTreeMap;

use serde_json::json;

use crate::base::id::{ConsumerId, Layers, PeerId, ProducerId, TransportId};
use crate::base::ranking::Ranking;
use crate::base::slab::Slab;
use crate::base::time::Instant;
use crate::shard::command::{Event, Reply, RequestId, Stats, TransportState};
use crate::signal::channel::Channel;
use crate::signal::closing::Ending;
use crate::signal::desk::Desk;
use crate::signal::hub::Hub;
use crate::signal::peer::Producer;
use crate::signal::session::{Session, SessionId};

fn channel_of<'a>(
    sessions: &BTreeMap<SessionId, Session>,
    channels: &'a mut Slab<Channel>,
    owner: Option<&PeerId>,
) -> Option<&'a mut Channel> {
    channels.get_mut(sessions.get(&SessionId(owner?.0))?.channel)
}

impl Hub {
    pub(super) fn event(&mut self, now: Instant, event: Event) {
        self.life_goes_on(now, &event);
        let Hub { desk, channels, sessions, .. } = self;
        match event {
            Event::Answer { request, reply: Reply::Stats(stats) } => self.stats_came(request, stats.as_ref()),
            Event::Speech { levels } => self.speech_came(now, &levels),
            // Answers for the metrics, and events for the log alone.
            Event::Answer { reply: Reply::Metrics(_), .. }
            | Event::TransportConnected { .. }
            | Event::FirstPacket { .. }
            | Event::HandshakeFailed { .. }
            | Event::TransportEnded { .. } => {}
            Event::TransportState { transport, state } => {
                if let Some(channel) = channel_of(sessions, channels, desk.owners.transports.get(&transport)) {
                    channel.transport_state(desk, transport, state);
                }
            }
            Event::TransportClosed { transport, why } => {
                if let Some(channel) = channel_of(sessions, channels, desk.owners.transports.get(&transport)) {
                    channel.close_transport(desk, transport, Ending::Told(why));
                }
            }
            Event::ProducerBound { producer, transport } => {
                if let Some(channel) = channel_of(sessions, channels, desk.owners.producers.get(&producer)) {
                    channel.producer_bound(producer, transport);
                }
            }
            Event::ProducerSilent { producer, silent } => {
                if let Some(channel) = channel_of(sessions, channels, desk.owners.producers.get(&producer))
                    && let Some(producer) = channel.producer_mut(producer)
                {
                    producer.silent = silent;
                }
            }
            Event::ProducerClosed { producer, why } => {
                if let Some(channel) = channel_of(sessions, channels, desk.owners.producers.get(&producer)) {
                    channel.close_producer(desk, producer, Ending::Told(why));
                }
            }
            Event::ConsumerClosed { consumer, why } => {
                if let Some(channel) = channel_of(sessions, channels, desk.owners.consumers.get(&consumer)) {
                    channel.close_consumer(desk, consumer, Ending::Told(why));
                }
            }
            Event::ConsumerLayers { consumer, layers, by_bandwidth } => {
                if let Some(channel) = channel_of(sessions, channels, desk.owners.consumers.get(&consumer)) {
                    channel.consumer_layers(desk, consumer, layers, by_bandwidth);
                }
            }
            Event::ProducerLayers { producer, watched, of, ranking } => {
                if let Some(channel) = channel_of(sessions, channels, desk.owners.producers.get(&producer)) {
                    channel.producer_layers(desk, producer, watched, of, &ranking);
                }
            }
            Event::ShardRestarted { shard } => {
                for (_, channel) in channels.iter_mut() {
                    let there = channel.peers.iter().filter(|(_, peer)| peer.shard == Some(shard));
                    let there: Vec<_> = there.map(|(id, _)| *id).collect();
                    for peer in there {
                        channel.shard_lost(desk, peer);
                    }
                }
            }
        }
    }

    fn stats_came(&mut self, request: RequestId, stats: Option<&Stats>) {
        let Some(peer) = self.desk.stats.asker(request) else { return };
        let transport = match stats {
            Some(Stats::Producer(stats)) => stats.transport,
            _ => None,
        };
        let external = transport.and_then(|transport| {
            let channel = self.channels.get(self.sessions.get(&SessionId(peer.0))?.channel)?;
            Some(channel.peers.get(&peer)?.transports.get(&transport)?.external.to_string())
        });
        self.desk.stats_answered(request, stats, external);
    }
}

impl Channel {
    fn producer_mut(&mut self, id: ProducerId) -> Option<&mut Producer> {
        self.peers.get_mut(self.producers.get(&id)?)?.producers.get_mut(&id)
    }

    fn producer_bound(&mut self, id: ProducerId, transport: TransportId) {
        let owner = self.producers.get(&id).and_then(|owner| self.peers.get_mut(owner));
        if let Some(peer) = owner.filter(|peer| peer.transports.contains_key(&transport))
            && let Some(producer) = peer.producers.get_mut(&id)
        {
            producer.transport = Some(transport);
        }
    }

    fn consumer_layers(&self, desk: &mut Desk, id: ConsumerId, layers: Option<Layers>, by_bandwidth: bool) {
        let Some(&owner) = desk.owners.consumers.get(&id) else { return };
        let Some(consumer) = self.peers.get(&owner).and_then(|peer| peer.consumers.get(&id)) else { return };
        let mut data = json!({
            "id": consumer.external.to_string(),
            "producerId": consumer.producer_external.to_string(),
            "spatialLayer": layers.map(|layers| layers.spatial),
            "temporalLayer": layers.map(|layers| layers.temporal),
        });
        if by_bandwidth {
            data["reason"] = json!("bandwidth");
        }
        self.tell(desk, owner, "consumer-layers-changed", &data);
    }

    /// By layer, and in the client's order: the encoding that it may stop is not the one in the layer's place.
    fn producer_layers(&self, desk: &mut Desk, id: ProducerId, watched: u8, of: u8, ranking: &Ranking) {
        let Some((owner, producer)) = self.producer(id) else { return };
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
        self.tell(desk, owner, "producer-layers", &data);
    }

    fn transport_state(&mut self, desk: &mut Desk, id: TransportId, state: TransportState) {
        let Some(&owner) = desk.owners.transports.get(&id) else { return };
        let Some(peer) = self.peers.get_mut(&owner) else { return };
        let Some(transport) = peer.transports.get_mut(&id) else { return };
        if std::mem::replace(&mut transport.state, state) == state {
            return;
        }
        if state != TransportState::New {
            desk.ledger.transport_settled(id);
        }
        if state == TransportState::Connected && !std::mem::replace(&mut transport.connected, true) && !transport.named
        {
            peer.announcements_open = peer.announcements_open.saturating_sub(1);
        }
        let data = json!({ "id": transport.external.to_string(), "state": state.name() });
        self.tell(desk, owner, "transport-state", &data);
    }
}
