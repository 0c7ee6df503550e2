//! Records from other shards and subscribers, each given to the mechanism that carries it out.

use crate::base::id::{ProducerId, ShardId};
use crate::base::time::{Duration, Now};
use crate::router::source::Elsewhere;
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
            Order::Watched { layers } => {
                layers::watched_elsewhere(commons, now, producer, Elsewhere::Shard(from), layers)
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::buffer::{Batch, LocalIndex, Path};
    use crate::base::seq::ExtSeq;
    use crate::base::time::NtpTime;
    use crate::router::packet::Packet;
    use crate::shard::fixture::{THERE, records, shard};
    use crate::shard::relay::Published;
    use crate::wire::codec::PayloadInfo;

    const PRODUCER: ProducerId = ProducerId(7);

    fn receive(shard: &mut Shard, record: &Record<'_>) -> Vec<String> {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        shard.handle_mesh(Now::default(), THERE, Duration::ZERO, &bytes);
        records(&mut shard.commons.port)
    }

    #[test]
    fn what_is_no_record_is_counted_and_nothing_else() {
        let mut shard = shard();
        shard.handle_mesh(Now::default(), THERE, Duration::ZERO, &[0xFF, 1, 2]);
        shard.handle_mesh(Now::default(), THERE, Duration::ZERO, &[]);
        assert_eq!(shard.commons.ledger.drops.of(ShardDrop::MalformedRelay), 2);
        assert!(shard.poll_event().is_none() && records(&mut shard.commons.port).is_empty());
    }

    #[test]
    fn media_that_nobody_wants_any_more_is_unsubscribed_at_its_home() {
        let mut shard = shard();
        let clock = Feed::Clock { encoding: 0, ntp: NtpTime::default(), rtp_timestamp: 1 };
        assert_eq!(receive(&mut shard, &Record::Feed(PRODUCER, clock)), [""; 0], "it passes by itself");
        let packet = Packet {
            encoding: 0,
            ext: ExtSeq(1 << 16),
            arrived: Now::default().mono,
            timestamp: 0,
            marker: true,
            legible: true,
            info: PayloadInfo::default(),
        };
        let media = Published::new(Now::default().mono, &packet, 0, [&[], &[], &[1; 9]]);
        assert_eq!(
            receive(&mut shard, &Record::Feed(PRODUCER, Feed::Media(media))),
            ["1 Order(ProducerId(7), Unsubscribe)"]
        );
    }

    #[test]
    fn a_path_of_another_shard_is_handed_over_until_that_shard_gives_it_up() {
        let mut shard = shard();
        let path = Path::udp(LocalIndex(0), ([198, 51, 100, 1], 9).into());
        let media = [0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7];
        let arrives = |shard: &mut Shard| {
            let mut batch = Batch::new(1);
            batch.push(path, Now::default().mono, &media);
            shard.handle_batch(Now::default(), &mut batch);
            records(&mut shard.commons.port).len()
        };
        assert_eq!(arrives(&mut shard), 0, "it is nobody's");
        receive(&mut shard, &Record::Handover(Handover::Path { path, up: true }));
        assert_eq!(arrives(&mut shard), 1);
        receive(&mut shard, &Record::Handover(Handover::Path { path, up: false }));
        assert_eq!(arrives(&mut shard), 0);
    }
}
