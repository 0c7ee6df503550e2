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
use crate::shard::lanes::Work;
use crate::shard::layers;
use crate::shard::plain_rtp;
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
                let made = plain_rtp::create(commons, demux, now, (transport, peer), &plain);
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
                commons.ledger.answer(request, stats::stats(&mut commons.registry, now, of));
            }
            Command::GetMetrics { request } => {
                let reply = stats::metrics(commons, now, demux.paths.len(), self.connecting.waiting(), &self.lanes);
                commons.ledger.answer(request, reply);
            }
            Command::Shutdown => self.shut_down(now),
            of_cluster => self.handle_cluster_command(now, of_cluster),
        }
        self.commons.current = None;
    }

    /// Obeys what only a cluster's control tower orders.
    fn handle_cluster_command(&mut self, now: Now, command: Command) {
        let Shard { commons, intake, connecting, lanes, .. } = self;
        match command {
            Command::Nodes { nodes } => lanes.set_nodes(*nodes),
            Command::Publish { producer, uuid } if commons.registry.source_keys.contains_key(&producer) => {
                commons.registry.names.insert(uuid, producer);
                lanes.named(&mut Work { commons, intake, engine: connecting.engine(), now }, uuid);
            }
            Command::Import { producer, uuid, from, spec } => {
                if let Err(why) = lanes.import(commons, now, (producer, uuid), from, *spec) {
                    commons.ledger.events.push_back(Event::ImportLost { producer, why });
                }
            }
            Command::DropImport { producer } => lanes.drop_import(commons, now, producer),
            _ => {}
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ConsumerId, Layers, PeerId, ProducerId};
    use crate::shard::command::{Closed, IceCredentials, StatsOf};
    use crate::shard::fixture::{HERE, THERE, of_video, records, shard, video};
    use crate::shard::relay::{Order, Record};

    const TRANSPORT: TransportId = TransportId(1);
    const PRODUCER: ProducerId = ProducerId(7);
    const CONSUMER: ConsumerId = ConsumerId(9);

    fn create() -> Command {
        let ice = IceCredentials { ufrag: "aa000001".into(), pwd: "a password of twenty-four".into() };
        Command::CreateTransport { transport: TRANSPORT, peer: PeerId(1), ice }
    }

    fn produce() -> Command {
        let (peer, spec) = (PeerId(1), Box::new(video(100)));
        Command::Produce { producer: PRODUCER, peer, transport: Some(TRANSPORT), spec, paused: false }
    }

    fn consume() -> Command {
        let (consumer, spec) = (CONSUMER, Box::new(of_video(9_000)));
        Command::Consume { consumer, transport: TRANSPORT, producer: PRODUCER, home: HERE, spec, paused: false }
    }

    fn obey(shard: &mut Shard, commands: impl IntoIterator<Item = Command>) -> Vec<Event> {
        commands.into_iter().for_each(|command| shard.handle_command(Now::default(), command));
        std::iter::from_fn(|| shard.poll_event()).collect()
    }

    #[test]
    fn what_is_gone_is_no_error_and_what_cannot_be_made_is_told() {
        let mut shard = shard();
        let gone = [
            Command::CloseTransport { transport: TRANSPORT },
            Command::SetMaxBitrate { transport: TRANSPORT, incoming: None, outgoing: None },
            Command::PauseProducer { producer: PRODUCER },
            Command::Withhold { producer: PRODUCER, withheld: true },
            Command::CloseProducer { producer: PRODUCER },
            Command::PauseConsumer { consumer: CONSUMER },
            Command::SetPreferredLayers { consumer: CONSUMER, layers: Layers::ALL },
            Command::RequestKeyFrame { consumer: CONSUMER },
            Command::CloseConsumer { consumer: CONSUMER },
        ];
        assert_eq!(obey(&mut shard, gone), []);
        let producer = Event::ProducerClosed { producer: PRODUCER, why: Closed::TransportClosed };
        let consumer = Event::ConsumerClosed { consumer: CONSUMER, why: Closed::TransportClosed };
        assert_eq!(obey(&mut shard, [produce(), consume()]), [producer, consumer]);
    }

    #[test]
    fn a_producer_takes_in_the_subscription_that_came_before_it() {
        let mut shard = shard();
        let mut record = Vec::new();
        Record::Order(PRODUCER, Order::Subscribe).encode(&mut record);
        shard.handle_mesh(Now::default(), THERE, Default::default(), &record);
        obey(&mut shard, [create()]);
        assert_eq!(records(&mut shard.commons.port), [""; 0]);
        obey(&mut shard, [produce()]);
        let said = records(&mut shard.commons.port);
        assert!(said.iter().any(|record| record.contains("Paused { paused: false }")), "{said:?}");
    }

    #[test]
    fn a_question_is_answered_once_and_the_end_takes_everything() {
        let mut shard = shard();
        obey(&mut shard, [create(), produce(), consume()]);
        let request = crate::shard::command::RequestId(5);
        let [Event::Answer { request: answered, .. }] =
            obey(&mut shard, [Command::GetStats { request, of: StatsOf::Producer(PRODUCER) }])[..]
        else {
            panic!("one answer")
        };
        assert_eq!(answered, request);
        obey(&mut shard, [Command::Shutdown]);
        let registry = &shard.commons.registry;
        assert_eq!((registry.transports.len(), registry.producers.len(), registry.consumers.len()), (0, 0, 0));
        assert!(shard.is_stopped());
    }
}
