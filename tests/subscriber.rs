//! A subscriber that is no shard: a counter at an end of the mesh takes a producer's feed beside a shard, and misses
//! nothing that the producer sends.

#[expect(dead_code, reason = "what other tests need of it")]
mod shard_rig;

use shard_rig::{Mesh, Rig, Stream, millis};
use weirgate::base::id::{ProducerId, ShardId};
use weirgate::base::limits::MESH_RING_BYTES;
use weirgate::base::time::{Duration, Instant};
use weirgate::net::doorbell::Doorbell;
use weirgate::net::threads::mesh::{self, MeshEnd};
use weirgate::shard::command::Command;
use weirgate::shard::relay::{Feed, Order, Record};

const PRODUCER: ProducerId = ProducerId(1);
const HOME: ShardId = ShardId(0);
const PUBLISHED: u32 = 100;
const CONSUMED: u32 = 2_000;

/// The rings that shards have in a process.
struct Rings(Vec<MeshEnd>);

impl Mesh for Rings {
    fn push(&mut self, from: usize, to: ShardId, now: Instant, record: &[u8]) {
        assert!(self.0[from].sender.push(to, now, record), "there is room, and somebody with this number");
    }

    fn pop(&mut self, at: usize, take: &mut dyn FnMut(ShardId, Instant, &[u8])) {
        self.0[at].receiver.pop(usize::MAX, take);
    }
}

/// Shards on their rings, and the end of one more.
fn rig(shards: u16) -> (Rig, Counter) {
    let bells = (0..=shards).map(|at| (ShardId(at), Doorbell::new().unwrap()));
    let mut ends = mesh::build(&bells.collect::<Vec<_>>(), MESH_RING_BYTES);
    let counter = Counter::new(ends.pop().unwrap());
    let mut rig = Rig::new(usize::from(shards));
    rig.mesh = Box::new(Rings(ends));
    (rig, counter)
}

/// Counts the packets of one producer.
struct Counter {
    end: MeshEnd,
    packets: u64,
    bytes: usize,
    /// Numbers that were neither a packet nor said to be none.
    missed: u64,
    expected: Option<u64>,
    keyframes: usize,
    oldest: Duration,
    paused: Option<bool>,
    closed: bool,
}

impl Counter {
    fn new(end: MeshEnd) -> Counter {
        let (packets, bytes, missed, keyframes) = (0, 0, 0, 0);
        let (expected, oldest, paused, closed) = (None, Duration::ZERO, None, false);
        Counter { end, packets, bytes, missed, expected, keyframes, oldest, paused, closed }
    }

    fn order(&mut self, rig: &mut Rig, order: Order) {
        let mut record = Vec::new();
        Record::Order(PRODUCER, order).encode(&mut record);
        assert!(self.end.sender.push(HOME, rig.now.mono, &record));
        rig.run(millis(5));
    }

    fn number(&mut self, ext: u64) {
        self.missed += self.expected.map_or(0, |expected| ext.abs_diff(expected));
        self.expected = Some(ext + 1);
    }

    fn take(&mut self, feed: Feed<'_>) {
        match feed {
            Feed::Media(packet) => {
                self.number(packet.ext.0);
                self.packets += 1;
                self.bytes += packet.parts[2].len();
                self.keyframes += usize::from(packet.info.starts_keyframe);
                self.oldest = self.oldest.max(packet.age);
            }
            Feed::Skip { ext, .. } => self.number(ext.0),
            Feed::Paused { paused } => self.paused = Some(paused),
            Feed::Closed => self.closed = true,
            Feed::Clock { .. } | Feed::Withheld { .. } | Feed::ParameterSets { .. } | Feed::Ranked { .. } => {}
        }
    }

    /// Takes what has come.
    fn look(&mut self) {
        let mut records = Vec::new();
        self.end.receiver.pop(usize::MAX, |from, _, record| records.push((from, record.to_vec())));
        for (from, record) in records {
            let Some(Record::Feed(PRODUCER, feed)) = Record::decode(&record) else { panic!("{record:?}") };
            assert_eq!(from, HOME);
            self.take(feed);
        }
    }
}

/// One frame of one packet.
fn send(rig: &mut Rig, publisher: usize, stream: &mut Stream, key: bool) {
    let packet = stream.frame(key, 500);
    rig.clients[publisher].peer.send_rtp(&packet);
    rig.run(millis(5));
}

#[test]
fn a_counter_beside_a_shard_counts_every_packet_of_a_producer() {
    let (mut rig, mut counter) = rig(2);
    let (publisher, viewer) = (rig.connected(0, 1, 1), rig.connected(1, 2, 2));
    rig.produce(0, 1, 1, PUBLISHED);
    rig.consume(1, 1, 2, 1, 0, CONSUMED);
    rig.run(millis(10));
    let mut stream = Stream::new(PUBLISHED);
    counter.order(&mut rig, Order::Subscribe);
    // Packets wait in the socket for three milliseconds.
    rig.late = millis(3);
    for n in 0..100 {
        send(&mut rig, publisher, &mut stream, n == 0);
        if n % 10 == 9 {
            // Padding takes one of the stream's numbers and is forwarded to nobody.
            stream.seq += 1;
            let padding = stream.packet(PUBLISHED, shard_rig::VIDEO, stream.seq, &[]);
            rig.clients[publisher].peer.send_rtp(&padding);
        }
    }
    rig.run(millis(5));
    counter.look();
    assert_eq!((counter.packets, counter.missed, counter.keyframes), (100, 0, 1));
    assert_eq!((counter.paused, counter.oldest), (Some(false), millis(3)), "an age, whatever the clock says");
    let media = |packet: &&Vec<u8>| packet[1] & 0x7f == shard_rig::VIDEO.0;
    assert_eq!(rig.clients[viewer].rtp.iter().filter(media).count(), 100, "the shard has them all too");

    // A keyframe and the end of the subscription: the orders that a shard can give, too.
    let plis = |rig: &mut Rig| rig.counter(0, "key_frames_requested");
    let before = plis(&mut rig);
    rig.run(millis(1_000));
    counter.order(&mut rig, Order::KeyFrame { encoding: None, first: true });
    assert_eq!(plis(&mut rig) - before, 1);
    counter.order(&mut rig, Order::Unsubscribe);
    send(&mut rig, publisher, &mut stream, true);
    counter.look();
    assert_eq!((counter.packets, counter.closed), (100, false), "it has had enough");
}

#[test]
fn a_counter_alone_keeps_a_producer_flowing_and_hears_of_its_end() {
    let (mut rig, mut counter) = rig(1);
    let publisher = rig.connected(0, 1, 1);
    // Before there is such a producer.
    counter.order(&mut rig, Order::Subscribe);
    rig.produce(0, 1, 1, PUBLISHED);
    rig.run(millis(5));
    let mut stream = Stream::new(PUBLISHED);
    for n in 0..10 {
        send(&mut rig, publisher, &mut stream, n == 0);
    }
    rig.command(0, Command::PauseProducer { producer: PRODUCER });
    rig.run(millis(5));
    counter.look();
    assert_eq!((counter.packets, counter.missed, counter.paused, counter.closed), (10, 0, Some(true), false));
    assert!(counter.bytes > 10 * 400, "payloads, opened: {}", counter.bytes);
    rig.command(0, Command::CloseProducer { producer: PRODUCER });
    rig.run(millis(5));
    counter.look();
    assert!(counter.closed);
}
