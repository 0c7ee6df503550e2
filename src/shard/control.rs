//! Signalling's commands, each carried out on the objects it names. Ids that are not here any more are no error: the
//! object closed by itself and the event about it is on its way.

use rand::Rng;

use crate::base::id::{ConsumerId, PeerId, ProducerId, ShardId, ShortName, TransportId};
use crate::base::limits::{
    CONSUMERS_PER_PRODUCER_MAX, CONSUMERS_PER_TRANSPORT_MAX, SILENCE_MAX, SOURCES_PER_SHARD_MAX,
};
use crate::base::time::Now;
use crate::media::layers::{Allowance, Layers};
use crate::media::ordering::Ordering;
use crate::media::rewrite::Rewriter;
use crate::media::sampled::Sampled;
use crate::router::consumer::{Consumer, Flow, Resent};
use crate::router::keys::SourceKey;
use crate::router::layered::Layered;
use crate::router::producer::Producer;
use crate::router::source::{Origin, Source};
use crate::secure::srtp::SealPlace;
use crate::shard::command::{Announcement, Closed, Command, ConsumerSpec, Event, IceCredentials, ProducerSpec};
use crate::shard::relay::RelayMessage;
use crate::shard::shard::Shard;
use crate::shard::wiring::Share;
use crate::transport::Transport;
use crate::transport::edits::Edits;
use crate::transport::ice_lite::IceLite;
use crate::transport::outgoing::{Outgoing, Rtx, Sent};
use crate::wire::extension::Extension;

impl Shard {
    pub fn handle_command(&mut self, now: Now, command: Command) {
        match command {
            Command::CreateTransport { transport, peer, ice } => self.create_transport(now, transport, peer, ice),
            Command::Announce { transport, announcement } => self.announce(now, transport, announcement),
            Command::RestartIce { transport, ice } => self.restart_ice(transport, ice),
            Command::CloseTransport { transport } => {
                if let Some(key) = self.commons.registry.transport_keys.get(&transport).copied() {
                    self.close_transport(now, key, None);
                }
            }
            Command::Produce { producer, peer, transport, spec, paused } => {
                self.produce(now, producer, peer, transport, spec, paused);
            }
            Command::PauseProducer { producer } => self.pause_producer(now, producer, true),
            Command::ResumeProducer { producer } => self.pause_producer(now, producer, false),
            Command::Listen { producer, listen } => self.listen(producer, listen),
            Command::Withhold { producer, withheld } => self.withhold(producer, withheld),
            Command::CloseProducer { producer } => {
                if let Some(key) = self.commons.registry.producer_keys.get(&producer).copied() {
                    self.close_producer(now, key, None);
                }
            }
            Command::Consume { consumer, transport, producer, home, spec, paused } => {
                self.consume(now, consumer, transport, producer, home, *spec, paused);
            }
            Command::PauseConsumer { consumer } => self.pause_consumer(now, consumer, true),
            Command::ResumeConsumer { consumer } => self.pause_consumer(now, consumer, false),
            Command::CloseConsumer { consumer } => {
                if let Some(key) = self.commons.registry.consumer_keys.get(&consumer).copied() {
                    self.close_consumer(now, key, None);
                }
            }
            Command::SetPreferredLayers { consumer, layers } => self.set_preferred_layers(now, consumer, layers),
            Command::RequestKeyFrame { consumer } => {
                if let Some(key) = self.commons.registry.consumer_keys.get(&consumer).copied() {
                    self.ask_key_frame(now, key, false);
                }
            }
            Command::SetPriority { consumer, priority } => self.set_priority(consumer, priority),
            Command::SetMaxBitrate { transport, incoming, outgoing } => {
                self.set_max_bitrate(now, transport, incoming, outgoing);
            }
            Command::GetStats { request, of } => {
                let reply = self.stats(now, of);
                self.commons.ledger.events.push_back(Event::Answer { request, reply });
            }
            Command::GetMetrics { request } => {
                let reply = self.metrics(now);
                self.commons.ledger.events.push_back(Event::Answer { request, reply });
            }
            Command::Shutdown => self.shut_down(now),
        }
        self.commons.current = None;
    }

    fn create_transport(&mut self, now: Now, id: TransportId, peer: PeerId, ice: IceCredentials) {
        let name = ShortName::new(ice.ufrag.as_bytes());
        let transport = Transport::new(id, peer, IceLite::new(now.mono, ice));
        let added = name.and_then(|name| Some((name, self.commons.registry.add_transport(transport)?)));
        let Some((name, key)) = added else {
            let why = Closed::Limit("transports per shard");
            self.commons.ledger.events.push_back(Event::TransportClosed { transport: id, why });
            return;
        };
        self.commons.registry.wiring[key.slot()].ufrags.push(name);
        self.ufrags.insert(name, key);
    }

    fn announce(&mut self, now: Now, id: TransportId, announcement: Announcement) {
        let Some(key) = self.commons.registry.transport_keys.get(&id).copied() else { return };
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        if transport.link.is_up() {
            return;
        }
        transport.announce(announcement);
        self.start_as_client(now, key);
    }

    fn restart_ice(&mut self, id: TransportId, ice: IceCredentials) {
        let Some(key) = self.commons.registry.transport_keys.get(&id).copied() else { return };
        let Some(name) = ShortName::new(ice.ufrag.as_bytes()) else { return };
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        transport.ice.restart(ice);
        let wiring = &mut self.commons.registry.wiring[key.slot()];
        wiring.ufrags.push(name);
        self.ufrags.insert(name, key);
        // Of earlier restarts only the set that is still in use stays valid.
        wiring.ufrags.retain(|known| {
            let valid = transport.ice.ufrags().any(|ufrag| ufrag.as_bytes() == known.as_bytes());
            if !valid {
                self.ufrags.remove(known);
            }
            valid
        });
    }

    fn produce(
        &mut self,
        now: Now,
        id: ProducerId,
        peer: PeerId,
        transport: Option<TransportId>,
        spec: Box<ProducerSpec>,
        paused: bool,
    ) {
        let home = match transport {
            Some(transport) => match self.commons.registry.transport_keys.get(&transport).copied() {
                Some(key) => Some(key),
                None => {
                    let why = Closed::TransportClosed;
                    return self.commons.ledger.events.push_back(Event::ProducerClosed { producer: id, why });
                }
            },
            None => None,
        };
        if self.commons.registry.sources.len() >= SOURCES_PER_SHARD_MAX {
            let why = Closed::Limit("sources per shard");
            return self.commons.ledger.events.push_back(Event::ProducerClosed { producer: id, why });
        }
        let placeholder = Origin::Relay(self.settings.id);
        let mut source = Source::new(
            now.mono,
            id,
            placeholder,
            spec.kind,
            spec.codec,
            spec.clock_rate,
            spec.encodings.len(),
            spec.top,
        );
        source.paused = paused;
        source.active.ranking = spec.ranking;
        if spec.encodings.len() > 1 && !spec.ranked {
            source.ordering = Some(Box::new(Ordering::new(spec.encodings.len(), spec.ranking)));
        }
        let source_key = self.commons.registry.sources.insert(source);
        let producer = Producer::new(now.mono, id, peer, home, spec, paused, source_key);
        let key = self.commons.registry.add_producer(producer);
        if let Some(source) = self.commons.registry.sources.get_mut(source_key) {
            source.origin = Origin::Local(key);
            if let Some(watched) = &mut source.watched {
                // A publisher begins with all of them.
                watched.told = source.top.spatial.saturating_add(1);
            }
        }
        self.commons.registry.source_keys.insert(id, source_key);
        if let Some(home) = home {
            self.commons.registry.wiring[home.slot()].producers.push(key);
            self.commons.arm(home, now.mono + Shard::FIRST_REPORT);
        }
        for transport in
            self.commons.registry.peers.get(&peer).map(|entry| entry.transports.clone()).unwrap_or_default()
        {
            self.claim_ssrcs(now, transport, key);
            self.leave_limbo(now, transport, key);
            self.commons.arm(transport, now.mono + SILENCE_MAX);
        }
        self.relay_to_awaiting(now, id);
        self.layers_watched(now, source_key);
    }

    fn pause_producer(&mut self, now: Now, id: ProducerId, paused: bool) {
        let Some(producer) =
            self.commons.registry.producer_keys.get(&id).and_then(|key| self.commons.registry.producers.get_mut(*key))
        else {
            return;
        };
        producer.paused = paused;
        let source_key = producer.source;
        self.set_source_paused(now, source_key, paused);
        let Some(source) = self.commons.registry.sources.get(source_key) else { return };
        for shard in source.relays.clone() {
            self.send_relay(shard, &RelayMessage::Paused { producer: id, paused });
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one command")]
    fn consume(
        &mut self,
        now: Now,
        id: ConsumerId,
        transport_id: TransportId,
        producer: ProducerId,
        home: ShardId,
        spec: ConsumerSpec,
        paused: bool,
    ) {
        let Some(transport_key) = self.commons.registry.transport_keys.get(&transport_id).copied() else {
            return self
                .commons
                .ledger
                .events
                .push_back(Event::ConsumerClosed { consumer: id, why: Closed::TransportClosed });
        };
        let source_key = match self.source_for(now, producer, home, &spec) {
            Ok(key) => key,
            Err(why) => return self.commons.ledger.events.push_back(Event::ConsumerClosed { consumer: id, why }),
        };
        let (Some(source), Some(transport)) = (
            self.commons.registry.sources.get_mut(source_key),
            self.commons.registry.transports.get_mut(transport_key),
        ) else {
            return;
        };
        let full = match (source.consumers.len(), self.commons.registry.wiring[transport_key.slot()].consumers.len()) {
            (CONSUMERS_PER_PRODUCER_MAX.., _) => Some("consumers of one producer"),
            (_, CONSUMERS_PER_TRANSPORT_MAX..) => Some("consumers of one transport"),
            _ => None,
        };
        if let Some(what) = full {
            return self
                .commons
                .ledger
                .events
                .push_back(Event::ConsumerClosed { consumer: id, why: Closed::Limit(what) });
        }
        let ssrcs = std::iter::once(spec.ssrc).chain(spec.rtx.map(|(_, ssrc)| ssrc));
        let described = spec.extensions.contains(Extension::DependencyDescriptor);
        let layered = (spec.top != Layers::default() || source.encodings.len() > 1)
            .then(|| Box::new(Layered::new(spec.codec, source.encodings.len(), described)));
        let nack = spec.feedback.nack && spec.rtx.is_some();
        // RFC 3550 section 5.1 wants a random start; below 2^15 a lost first packet cannot look like a wrap.
        let first_seq = self.rng.random_range(1_000..=32_767u16);
        let rewriter = Rewriter::new(first_seq, self.rng.random(), spec.clock_rate, nack);
        let codec = spec.codec;
        let outgoing = transport.outgoing.insert(outgoing(id, spec, layered.is_some(), &mut self.rng));
        let key = self.commons.registry.consumers.insert(Consumer {
            id,
            producer,
            source: source_key,
            transport: transport_key,
            outgoing,
            codec,
            nack,
            paused,
            paused_at: now.mono,
            priority: 1,
            flow: Flow::Closed,
            flow_since: now.mono,
            allowance: Allowance::default(),
            layered,
            rewriter,
            opened: None,
            resent: Resent::default(),
            reports: Box::default(),
            rate: Sampled::default(),
        });
        source.consumers.push(key);
        self.commons.registry.consumer_keys.insert(id, key);
        self.commons.registry.wiring[transport_key.slot()].add_consumer(key, ssrcs);
        self.commons.arm(transport_key, now.mono + Shard::FIRST_REPORT);
        self.open_later(now, key);
    }

    /// The source of a producer, which is here already or begins with this consumer.
    fn source_for(
        &mut self,
        now: Now,
        producer: ProducerId,
        home: ShardId,
        spec: &ConsumerSpec,
    ) -> Result<SourceKey, Closed> {
        match self.commons.registry.source_keys.get(&producer).copied() {
            Some(key) => Ok(key),
            None if home == self.settings.id => Err(Closed::ProducerClosed),
            None if self.commons.registry.sources.len() >= SOURCES_PER_SHARD_MAX => {
                Err(Closed::Limit("sources per shard"))
            }
            None => Ok(self.open_relay(now, producer, home, spec)),
        }
    }

    /// A source for a producer whose home is another shard, and the subscription at that shard.
    fn open_relay(&mut self, now: Now, producer: ProducerId, home: ShardId, spec: &ConsumerSpec) -> SourceKey {
        let (origin, ConsumerSpec { kind, codec, clock_rate, encodings, top, .. }) = (Origin::Relay(home), spec);
        let source = Source::new(now.mono, producer, origin, *kind, *codec, *clock_rate, *encodings, *top);
        let key = self.commons.registry.sources.insert(source);
        self.commons.registry.source_keys.insert(producer, key);
        self.send_relay(home, &RelayMessage::Subscribe { producer });
        key
    }

    fn pause_consumer(&mut self, now: Now, id: ConsumerId, paused: bool) {
        let Some(key) = self.commons.registry.consumer_keys.get(&id).copied() else { return };
        if let Some(consumer) = self.commons.registry.consumers.get_mut(key) {
            consumer.set_paused(now.mono, paused);
            let transport = consumer.transport;
            if paused {
                self.reopen(now, key);
                self.commons.settling.share(&mut self.commons.registry, transport, Share::Anew);
            } else {
                self.open_later(now, key);
            }
        }
    }

    fn shut_down(&mut self, now: Now) {
        let keys: Vec<_> = self.commons.registry.transports.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.close_transport(now, key, None);
        }
        self.stopped = true;
    }
}

/// The stream of a consumer on its transport.
fn outgoing(id: ConsumerId, spec: ConsumerSpec, layered: bool, rng: &mut impl Rng) -> Outgoing {
    Outgoing {
        consumer: id,
        ssrc: spec.ssrc,
        seal_place: SealPlace::default(),
        payload_type: spec.payload_type,
        rtx: spec.rtx.map(|(payload_type, ssrc)| Rtx {
            payload_type,
            ssrc,
            next_index: u64::from(rng.random_range(1_000..=32_767u16)),
        }),
        mid: spec.mid,
        cname: spec.cname.into_boxed_str(),
        audio: !spec.codec.is_video(),
        extensions: spec.extensions,
        acknowledged: false,
        sent: Sent::default(),
        edits: layered.then(|| Box::new(Edits::new(spec.codec))),
    }
}
