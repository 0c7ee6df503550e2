//! The port of a shard to the others. Orders keep their sequence and wait where a ring is full; media does not wait.
//! The port also keeps subscriptions that came before their producer did.

use std::collections::VecDeque;

use crate::base::id::{ProducerId, ShardId};
use crate::base::limits::{MESH_ORDERS_MAX, RELAY_WAIT, RELAYS_AWAITED_MAX};
use crate::base::seq::ExtSeq;
use crate::base::time::Instant;
use crate::router::packet::Packet;
use crate::router::source::{Source, SourceOrigin};
use crate::shard::lane_out::LaneOut;
use crate::shard::relay::{Feed, Handover, Order, Published, Record};

#[derive(Default)]
pub(super) struct Port {
    orders: Vec<(ShardId, Box<[u8]>)>,
    pub(super) media: MediaOut,
    pub(super) lanes: LaneOut,
    awaited: VecDeque<Awaited>,
}

/// Media for other shards, gathered in one reusable buffer.
#[derive(Default)]
pub(super) struct MediaOut {
    bytes: Vec<u8>,
    records: Vec<(ShardId, usize, usize)>,
}

/// Another shard's subscription to a producer that is not here yet.
struct Awaited {
    producer: ProducerId,
    to: ShardId,
    until: Instant,
}

impl Port {
    pub(super) fn hand_over(&mut self, to: ShardId, handover: Handover<'_>) {
        self.send(to, &Record::Handover(handover));
    }

    /// Sends an order to the producer's home.
    pub(super) fn order(&mut self, to: ShardId, producer: ProducerId, order: Order) {
        self.send(to, &Record::Order(producer, order));
    }

    /// Sends an order to the home of a stand-in's producer, wherever that is.
    pub(super) fn order_home(&mut self, source: &Source, order: Order) {
        match source.origin {
            SourceOrigin::Relay(home) => self.order(home, source.producer, order),
            SourceOrigin::Lane => self.lanes.order_home(source.producer, order),
            SourceOrigin::Local(_) => debug_assert!(false, "its home is here"),
        }
    }

    /// Sends a piece of the feed to one subscriber; it keeps its place, and waits where the ring is full.
    pub(super) fn feed(&mut self, to: ShardId, producer: ProducerId, feed: Feed<'_>) {
        self.send(to, &Record::Feed(producer, feed));
    }

    /// Sends a piece of the feed to every subscriber.
    pub(super) fn feed_all(&mut self, source: &Source, feed: Feed<'_>) {
        for to in &source.subscribers {
            self.feed(*to, source.producer, feed);
        }
        self.lanes.feed_all(source, feed);
    }

    /// Sends parameter sets to every subscriber, in their place among its packets.
    pub(super) fn parameter_sets(&mut self, source: &Source, encoding: u8, units: &[u8]) {
        let feed = Feed::ParameterSets { encoding, units };
        if !source.subscribers.is_empty() {
            self.media.push(source, feed);
        }
        self.lanes.feed_all(source, feed);
    }

    fn send(&mut self, to: ShardId, record: &Record<'_>) {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        self.orders.push((to, bytes.into_boxed_slice()));
    }

    /// Gives every record to `sink`, which says whether there was room for it. Orders that found none wait for the next
    /// call, in their order (a lost one would leave a relay dead or running for ever); media does not. Returns the
    /// number of records that are lost.
    pub(super) fn poll(&mut self, sink: &mut dyn FnMut(ShardId, &[u8]) -> bool) -> u64 {
        let mut full: Vec<ShardId> = Vec::new();
        let (mut waiting, mut lost) = (0, 0);
        self.orders.retain(|(to, record)| {
            if !full.contains(to) && sink(*to, record) {
                return false;
            }
            if Record::is_datagram(record) || waiting >= MESH_ORDERS_MAX {
                lost += 1;
                return false;
            }
            if !full.contains(to) {
                full.push(*to);
            }
            waiting += 1;
            true
        });
        for (to, start, end) in self.media.records.drain(..) {
            lost += u64::from(!sink(to, &self.media.bytes[start..end]));
        }
        self.media.bytes.clear();
        lost
    }

    /// Keeps the subscription of a shard until its producer comes; false: there is no room.
    pub(super) fn await_producer(&mut self, now: Instant, producer: ProducerId, to: ShardId) -> bool {
        let room = self.awaited.len() < RELAYS_AWAITED_MAX;
        if room {
            self.awaited.push_back(Awaited { producer, to, until: now + RELAY_WAIT });
        }
        room
    }

    pub(super) fn await_no_more(&mut self, producer: ProducerId, to: ShardId) {
        self.awaited.retain(|awaited| (awaited.producer, awaited.to) != (producer, to));
    }

    /// The shards that wait for this producer, which has come.
    pub(super) fn awaiting(&mut self, producer: ProducerId) -> Vec<ShardId> {
        let shards =
            self.awaited.iter().filter(|awaited| awaited.producer == producer).map(|awaited| awaited.to).collect();
        self.awaited.retain(|awaited| awaited.producer != producer);
        shards
    }

    /// Tells the subscribers of producers that never came.
    pub(super) fn give_up_awaited(&mut self, now: Instant) {
        while let Some(Awaited { producer, to, .. }) = self.awaited.pop_front_if(|awaited| awaited.until <= now) {
            self.feed(to, producer, Feed::Closed);
        }
    }

    /// When [`Port::give_up_awaited`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.awaited.front().map(|awaited| awaited.until)
    }
}

impl MediaOut {
    /// Sends a packet to all subscribers, encoded once.
    pub(super) fn publish(&mut self, now: Instant, source: &Source, packet: &Packet, epoch: u32, parts: [&[u8]; 3]) {
        self.push(source, Feed::Media(Published::new(now, packet, epoch, parts)));
    }

    pub(super) fn skip(&mut self, source: &Source, encoding: u8, ext: ExtSeq) {
        self.push(source, Feed::Skip { encoding, ext });
    }

    fn push(&mut self, source: &Source, feed: Feed<'_>) {
        let start = self.bytes.len();
        Record::Feed(source.producer, feed).encode(&mut self.bytes);
        let end = self.bytes.len();
        self.records.extend(source.subscribers.iter().map(|shard| (*shard, start, end)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::buffer::{LocalIndex, Path};
    use crate::base::time::Duration;

    const A: ShardId = ShardId(1);
    const B: ShardId = ShardId(2);

    /// What arrives where, while `full` takes nothing.
    fn poll(port: &mut Port, full: Option<ShardId>) -> (Vec<ShardId>, u64) {
        let mut taken = Vec::new();
        let lost = port.poll(&mut |to, _| {
            let room = Some(to) != full;
            taken.extend(room.then_some(to));
            room
        });
        (taken, lost)
    }

    #[test]
    fn orders_wait_for_a_full_ring_and_datagrams_do_not() {
        let mut port = Port::default();
        let path = Path::udp(LocalIndex(0), ([192, 0, 2, 1], 1).into());
        port.order(A, ProducerId(1), Order::Unsubscribe);
        port.order(B, ProducerId(2), Order::Unsubscribe);
        port.hand_over(A, Handover::Datagram { path, bytes: &[0; 20] });
        assert_eq!(poll(&mut port, Some(A)), (vec![B], 1), "the datagram is lost");
        assert_eq!(poll(&mut port, None), (vec![A], 0));
        assert_eq!(poll(&mut port, None), (vec![], 0));
    }

    #[test]
    fn a_producer_is_awaited_for_a_while_and_by_few() {
        let (mut port, now) = (Port::default(), Instant::from_nanos(1));
        for at in 0..RELAYS_AWAITED_MAX as u64 {
            assert!(port.await_producer(now, ProducerId(at % 2), A));
        }
        assert!(!port.await_producer(now, ProducerId(7), B));
        assert_eq!(port.awaiting(ProducerId(0)).len(), RELAYS_AWAITED_MAX / 2);
        assert_eq!(port.next_deadline(), Some(now + RELAY_WAIT));
        port.give_up_awaited(now + RELAY_WAIT - Duration::from_nanos(1));
        assert_eq!(poll(&mut port, None), (vec![], 0));
        port.give_up_awaited(now + RELAY_WAIT);
        assert_eq!(poll(&mut port, None).0.len(), RELAYS_AWAITED_MAX / 2);
        assert_eq!(port.next_deadline(), None);
    }
}
