//! Signalling's commands, each given to the mechanism that carries it out. An id that is gone is no error: the object
//! closed by itself, and the event about it is on its way.

use crate::base::id::TransportId;
use crate::base::limits::SILENCE_MAX;
use crate::base::time::Now;
use crate::router::keys::ProducerKey;
use crate::router::producer::Producer;
use crate::shard::bandwidth;
use crate::shard::binding;
use crate::shard::closing;
use crate::shard::command::{Announcement, Command, Event};
use crate::shard::creating::{self, Of};
use crate::shard::flow;
use crate::shard::hearing;
use crate::shard::keyframes;
use crate::shard::layers;
use crate::shard::plain;
use crate::shard::relaying;
use crate::shard::shard::Shard;
use crate::shard::stats;

impl Shard {
    pub fn handle_command(&mut self, now: Now, command: Command) {
        let Shard { commons, demux, rng, .. } = self;
        match command {
            Command::CreateTransport { transport, peer, ice } => {
                let made = creating::transport(commons, demux, now, transport, peer, ice);
                commons.ledger.tell_refused(transport, made);
            }
            Command::CreatePlainTransport { transport, peer, plain } => {
                let made = plain::create(commons, demux, now, (transport, peer), &plain);
                commons.ledger.tell_refused(transport, made);
            }
            Command::Announce { transport, announcement } => self.announce(now, transport, announcement),
            Command::RestartIce { transport, ice } => creating::restart_ice(commons, demux, transport, ice),
            Command::CloseTransport { transport } => {
                if let Some(key) = commons.registry.transport_keys.get(&transport).copied() {
                    closing::close_transport(commons, demux, now, key, None);
                }
            }
            Command::Produce { producer, peer, transport, spec, paused } => {
                match creating::producer(commons, now, (producer, peer), transport, spec, paused) {
                    Ok(key) => self.producer_came(now, key),
                    Err(why) => commons.ledger.events.push_back(Event::ProducerClosed { producer, why }),
                }
            }
            Command::PauseProducer { producer } => flow::pause_producer(commons, now, producer, true),
            Command::ResumeProducer { producer } => flow::pause_producer(commons, now, producer, false),
            Command::Listen { producer, listen } => hearing::listen(&mut commons.registry, producer, listen),
            Command::Withhold { producer, withheld } => {
                hearing::withhold(&mut commons.registry, &mut commons.port, producer, withheld);
            }
            Command::CloseProducer { producer } => {
                if let Some(key) = commons.registry.producer_keys.get(&producer).copied() {
                    closing::close_producer(commons, now, key, None);
                }
            }
            Command::Consume { consumer, transport, producer, home, spec, paused } => {
                let of = Of { producer, home, here: demux.id };
                if let Err(why) = creating::consumer(commons, rng, now, (consumer, transport), of, *spec, paused) {
                    commons.ledger.events.push_back(Event::ConsumerClosed { consumer, why });
                }
            }
            Command::PauseConsumer { consumer } => flow::pause_consumer(commons, now, consumer, true),
            Command::ResumeConsumer { consumer } => flow::pause_consumer(commons, now, consumer, false),
            Command::CloseConsumer { consumer } => {
                if let Some(key) = commons.registry.consumer_keys.get(&consumer).copied() {
                    closing::close_consumer(commons, now, key, None);
                }
            }
            Command::SetPreferredLayers { consumer, layers } => layers::set_preferred(commons, now, consumer, layers),
            Command::RequestKeyFrame { consumer } => {
                if let Some(key) = commons.registry.consumer_keys.get(&consumer).copied() {
                    keyframes::ask_for_consumer(commons, now, key, false);
                }
            }
            Command::SetPriority { consumer, priority } => bandwidth::set_priority(commons, consumer, priority),
            Command::SetMaxBitrate { transport, incoming, outgoing } => {
                bandwidth::set_max_bitrate(commons, now, transport, incoming, outgoing);
            }
            Command::GetStats { request, of } => {
                let reply = stats::stats(&mut commons.registry, now, of);
                commons.ledger.events.push_back(Event::Answer { request, reply });
            }
            Command::GetMetrics { request } => {
                let reply = stats::metrics(commons, now, demux.paths.len(), self.connecting.waiting());
                commons.ledger.events.push_back(Event::Answer { request, reply });
            }
            Command::Shutdown => self.shut_down(now),
        }
        self.commons.current = None;
    }

    fn announce(&mut self, now: Now, id: TransportId, announcement: Announcement) {
        let registry = &mut self.commons.registry;
        let Some(key) = registry.transport_keys.get(&id).copied() else { return };
        let Some(web_rtc) = registry.web_rtc(key).filter(|web_rtc| !web_rtc.link.is_up()) else { return };
        web_rtc.announce(announcement);
        self.start_as_client(now, key);
    }

    /// Takes in what came before the producer: its packets, and other shards' subscriptions.
    fn producer_came(&mut self, now: Now, key: ProducerKey) {
        let registry = &self.commons.registry;
        let Some(Producer { id, peer, source, .. }) = registry.producers.get(key) else { return };
        let (id, source) = (*id, *source);
        for transport in registry.peers.get(peer).map(|entry| entry.transports.clone()).unwrap_or_default() {
            binding::claim_ssrcs(&mut self.commons, now, transport, key);
            self.leave_limbo(now, transport, key);
            self.commons.arm(transport, now.mono + SILENCE_MAX);
        }
        relaying::subscribe_awaiting(&mut self.commons, now, id);
        layers::note_watched(&mut self.commons, now, source);
    }

    fn shut_down(&mut self, now: Now) {
        let keys: Vec<_> = self.commons.registry.transports.iter().map(|(key, _)| key).collect();
        for key in keys {
            closing::close_transport(&mut self.commons, &mut self.demux, now, key, None);
        }
        self.stopped = true;
    }
}
