//! Records from other shards and subscribers, each given to the mechanism that carries it out.

use crate::base::id::{ProducerId, ShardId};
use crate::base::time::{Duration, Now};
use crate::shard::closing;
use crate::shard::drops::ShardDrop;
use crate::shard::flow;
use crate::shard::keyframes;
use crate::shard::layers;
use crate::shard::parameter_sets;
use crate::shard::relay::{Feed, Handover, Order, Record};
use crate::shard::relaying;
use crate::shard::shard::Shard;
use crate::shard::skip;

impl Shard {
    /// Takes a record that came over the mesh and `waited` on its way.
    pub fn handle_mesh(&mut self, now: Now, from: ShardId, waited: Duration, record: &[u8]) {
        match Record::decode(record) {
            Some(Record::Handover(handover)) => self.handed_over(now, from, handover),
            Some(Record::Order(producer, order)) => self.ordered(now, from, producer, order),
            Some(Record::Feed(producer, feed)) => self.fed(now, from, waited, producer, feed),
            None => self.commons.ledger.drops.count(ShardDrop::MalformedRelay),
        }
        self.commons.current = None;
    }

    fn handed_over(&mut self, now: Now, from: ShardId, handover: Handover<'_>) {
        let Shard { commons, demux, .. } = self;
        match handover {
            Handover::Datagram { path, bytes } => self.take_handed_over(now, path, bytes),
            Handover::Path { path, up: true } => demux.path_elsewhere(commons, now, path, from),
            Handover::Path { path, up: false } => demux.is_elsewhere_no_more(&path, from),
            Handover::Claim { path, claim } => demux.claimed(commons, now, from, path, claim),
        }
    }

    /// Carries out a subscriber's order about a producer that lives here.
    fn ordered(&mut self, now: Now, from: ShardId, producer: ProducerId, order: Order) {
        let commons = &mut self.commons;
        match order {
            Order::Subscribe => relaying::subscribe(commons, now, producer, from),
            Order::Unsubscribe => relaying::unsubscribe(commons, now, producer, from),
            Order::Watched { layers } => layers::watched_elsewhere(commons, now, producer, from, layers),
            Order::KeyFrame { encoding, first } => {
                if let Some(key) = commons.registry.source_keys.get(&producer).copied() {
                    keyframes::request(commons, now, key, encoding, first);
                }
            }
        }
    }

    /// Takes what a producer's home sends to its stand-in here.
    fn fed(&mut self, now: Now, from: ShardId, waited: Duration, producer: ProducerId, feed: Feed<'_>) {
        let Shard { commons, intake, .. } = self;
        let Some(key) = relaying::stand_in(&commons.registry, producer, from) else {
            if matches!(feed, Feed::Media(_)) {
                // Nobody here wants it any more, and its home has not heard.
                commons.port.order(from, producer, Order::Unsubscribe);
            }
            return;
        };
        let Some(source) = commons.registry.sources.get_mut(key) else { return };
        match feed {
            Feed::Media(media) => {
                let packet = relaying::follow(source, now, waited, &media);
                intake.publish(commons, now, key, packet, media.parts);
            }
            Feed::Skip { encoding, ext } => skip::skip(commons, now, key, encoding, ext),
            Feed::Clock { encoding, ntp, rtp_timestamp } => {
                if let Some(encoding) = source.encodings.get_mut(usize::from(encoding)) {
                    encoding.clock.set_mapping(ntp, rtp_timestamp);
                }
            }
            Feed::Paused { paused } => flow::set_source_paused(commons, now, key, paused),
            Feed::Withheld { withheld } => source.set_withheld(withheld),
            Feed::ParameterSets { encoding, units } => parameter_sets::take(source, now, encoding, units),
            Feed::Ranked { ranking } => layers::ranked(commons, now, key, ranking),
            Feed::Closed => closing::close_source(commons, now, key),
        }
    }
}
