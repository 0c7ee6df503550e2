//! Two ends of a lane over a link of the simulation, on virtual time.

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::base::buffer::{LocalIndex, Run};
use crate::base::seq::ExtSeq;
use crate::media::history::{Stored, StoredHeader};
use crate::secure::dtls::Keying;
use crate::secure::srtp::{MasterKey, SrtpProfile};
use crate::sim::link::{LinkModel, LinkSettings};
use crate::transport::lane::LanePacket;
use crate::transport::queued::StoredAt;
use crate::wire::lane::{EncodingEpoch, LaneHandle, LaneRecords, flags};

/// Packets by stream and number; their first bytes are both.
#[derive(Default)]
struct Store(BTreeMap<(u32, u64), (Instant, Vec<u8>)>);

impl PacketStore for Store {
    fn stored(&self, at: StoredAt) -> Option<Stored<'_>> {
        let (arrival, bytes) = self.0.get(&(at.slot, at.ext.0))?;
        let header = StoredHeader {
            marker: false,
            timestamp: at.ext.0 as u32,
            extension_len: 2,
            descriptor_len: 1,
            arrival: *arrival,
        };
        Some(Stored { header, bytes })
    }
}

/// What a flush made.
#[derive(Default)]
struct Sent(Vec<Vec<u8>>);

impl Transmit for Sent {
    fn transmit(&mut self, buffer: &[u8], runs: &[Run]) {
        self.0.extend(runs.iter().flat_map(|run| run.datagrams(buffer)).map(<[u8]>::to_vec));
    }
}

struct End {
    lane: Lane,
    link: LinkModel,
    store: Store,
    buffer: SendBuffer,
    /// Its monotonic clock is ahead of the world's by so much.
    ahead: Duration,
    orders: Vec<Box<[u8]>>,
    /// By stream and number, when the first copy came.
    came: BTreeMap<(u16, u32), Instant>,
    copies: u64,
    clocks: Vec<LaneClock>,
}

struct Pair {
    ends: [End; 2],
    /// Datagrams under way: when, to which end.
    way: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    number: u64,
    now: Instant,
    rng: SmallRng,
    /// The most that a datagram may have.
    mtu: usize,
    largest: usize,
}

fn keying(swapped: bool, secret: u8) -> Keying {
    let profile = SrtpProfile::AeadAes128Gcm;
    let key = |byte: u8| MasterKey::new(profile, &[byte; 16], &[byte; 12]).unwrap();
    let (local, remote) = if swapped { (key(2), key(secret)) } else { (key(secret), key(2)) };
    Keying { profile, suite: "test", local, remote, peer_certificate: Vec::new() }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Long after the zero of any clock.
const START: Instant = Instant::from_nanos(5_000_000_000_000);
const WALL: u64 = 7 << 40;

impl Pair {
    fn new(link: LinkSettings, mtu: usize) -> Pair {
        let end = |swapped, ahead: Duration| End {
            lane: Lane::new(START + ahead, LaneKeys::new(&keying(swapped, 1), 0)),
            link: LinkModel::new(link),
            store: Store::default(),
            buffer: SendBuffer::default(),
            ahead,
            orders: Vec::new(),
            came: BTreeMap::new(),
            copies: 0,
            clocks: Vec::new(),
        };
        let mut pair = Pair {
            ends: [end(false, Duration::ZERO), end(true, ms(1_234_567))],
            way: BTreeMap::new(),
            number: 0,
            now: START,
            rng: SmallRng::seed_from_u64(7),
            mtu,
            largest: 0,
        };
        for at in [0, 1] {
            let now = pair.clock(at);
            pair.ends[at].lane.set_in_use(now.mono, true);
            let zero = pair.clock(1 - at);
            let zero = zero.wall.offset_nanos(-(zero.mono.as_nanos() as i64));
            pair.ends[at].lane.set_zero(zero);
        }
        pair
    }

    /// Both have the right time of day, and monotonic zeros of their own.
    fn clock(&self, at: usize) -> Now {
        let wall = NtpTime(WALL).offset_nanos(self.now.as_nanos() as i64);
        Now { mono: self.now + self.ends[at].ahead, wall }
    }

    /// Packet `number` of a stream at end 0.
    fn publish(&mut self, stream: u16, number: u64, len: usize, audio: bool, urgency: Urgency) {
        let End { lane, store, .. } = &mut self.ends[0];
        let mut bytes = vec![stream as u8; len.max(12)];
        bytes[3..7].copy_from_slice(&(number as u32).to_be_bytes());
        store.0.insert((stream.into(), number), (self.now, bytes));
        let at = StoredAt { slot: stream.into(), generation: 0, encoding: 0, ext: ExtSeq(number) };
        let handle = LaneHandle { index: stream, generation: 1 };
        let epoch = EncodingEpoch::new(0, 3);
        let packet = LanePacket { at, handle, flags: flags::LEGIBLE, epoch, layers: None };
        assert!(lane.push(self.now, LaneItem::Packet(packet), (!audio).then_some(0), urgency));
    }

    fn run_until(&mut self, until: Instant) {
        // The owner of a dead one lets it go.
        while !self.ends[0].lane.is_dead(self.now) && !self.ends[1].lane.is_dead(self.clock(1).mono) {
            let arrival = self.way.first_key_value().map(|((at, _), _)| *at);
            let due = [0, 1]
                .map(|at| self.ends[at].lane.deadline().map(|due| due.max(self.clock(at).mono) - self.ends[at].ahead));
            let next = due.into_iter().flatten().chain(arrival).min().filter(|next| *next <= until);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            while let Some(entry) = self.way.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (to, mut bytes) = entry.remove();
                self.arrive(to, &mut bytes);
            }
            self.flush(0);
            self.flush(1);
        }
        self.now = until;
    }

    fn flush(&mut self, at: usize) {
        let (now, mut out) = (self.clock(at).mono, Sent::default());
        let path = Path::udp(LocalIndex(0), ([10, 0, 0, 1], 41_000).into());
        let End { lane, link, store, buffer, .. } = &mut self.ends[at];
        lane.flush(now, path, store, buffer, &mut out);
        buffer.finish(&mut out);
        for datagram in out.0 {
            self.largest = self.largest.max(datagram.len());
            if datagram.len() > self.mtu {
                continue;
            }
            for arrival in link.send(self.now, datagram.len(), &mut self.rng).into_iter().flatten() {
                self.number += 1;
                self.way.insert((arrival, self.number), (1 - at, datagram.clone()));
            }
        }
    }

    fn arrive(&mut self, to: usize, datagram: &mut [u8]) {
        let now = self.clock(to);
        let End { lane, orders, came, copies, clocks, .. } = &mut self.ends[to];
        let Ok(records) = lane.open(now.mono, datagram) else { return };
        let at = self.now;
        let mut media = |handle: u16, number: u32, payload: &[u8]| {
            assert_eq!(payload.first_chunk().map(|name| u32::from_be_bytes(*name)), Some(number));
            *copies += 1;
            came.entry((handle, number)).or_insert(at);
        };
        for record in LaneRecords(records) {
            match lane.take(now, &record.unwrap()) {
                LaneHeard::Media(read) => media(read.head.handle.index, read.head.number, read.parts[2]),
                LaneHeard::Whole(bytes) => {
                    let read = LaneMedia::parse(&bytes).unwrap();
                    media(read.head.handle.index, read.head.number, read.parts[2]);
                }
                LaneHeard::Clock(clock) => clocks.push(clock),
                LaneHeard::Skip(_) | LaneHeard::Nothing => {}
            }
        }
        while let Some(order) = lane.next_order() {
            orders.push(order);
        }
    }
}

/// Ten microphones and three cameras for `seconds`; the delay of each packet that came, and the number of those sent.
fn call(pair: &mut Pair, seconds: u64) -> (Vec<Duration>, usize) {
    let mut sent = BTreeMap::new();
    let mut next = 0u64;
    for millis in 0..seconds * 1_000 {
        let at = START + ms(millis);
        pair.run_until(at);
        let mut send = |pair: &mut Pair, stream: u16, number, len, audio, urgency| {
            pair.publish(stream, number, len, audio, urgency);
            sent.insert((stream, number as u32), at);
        };
        if millis % 20 == 0 {
            (0..10).for_each(|stream| send(pair, stream, millis / 20, 90, true, Urgency::Now));
        }
        if millis % 33 == 0 {
            for stream in 10..13 {
                for part in 0..5 {
                    let urgency = if part == 4 { Urgency::Now } else { Urgency::FrameContinues };
                    send(pair, stream, next * 5 + part, 1_150, false, urgency);
                }
            }
            next += 1;
        }
    }
    pair.run_until(START + ms(seconds * 1_000 + 1_500));
    let came = &pair.ends[1].came;
    let delays = sent.iter().filter_map(|(packet, at)| Some(came.get(packet)?.since(*at)));
    (delays.collect(), sent.len())
}

/// The share of packets that came within 250 ms.
fn in_time(pair: &mut Pair, seconds: u64) -> f64 {
    let (delays, sent) = call(pair, seconds);
    delays.iter().filter(|delay| **delay <= ms(250)).count() as f64 / sent as f64
}

#[test]
fn a_clean_path_loses_nothing_and_sends_nothing_twice() {
    let mut pair = Pair::new(LinkSettings::clean(ms(20)), 1_452);
    let (delays, sent) = call(&mut pair, 10);
    assert_eq!((delays.len(), pair.ends[1].copies), (sent, sent as u64));
    assert!(delays.iter().all(|delay| *delay <= ms(22)), "{:?}", delays.iter().max());
    let counts = pair.ends[0].lane.counts();
    assert_eq!((counts.lost, counts.resent, pair.largest), (0, 0, 1_452));
    let rtt = pair.ends[0].lane.rtt();
    assert!((ms(40)..ms(43)).contains(&rtt), "{rtt:?}");
}

#[test]
fn of_two_in_a_hundred_lost_nearly_all_come_in_time() {
    for (reordering, mtu) in [(0.0, 1_452), (0.02, 1_232)] {
        let link = LinkSettings { reordering, ..LinkSettings::lossy(ms(20), 0.02) };
        let mut pair = Pair::new(link, mtu);
        let share = in_time(&mut pair, 60);
        assert!(share >= 0.999, "{share} with {reordering} reordered, {:?}", pair.ends[0].lane.counts());
        let counts = pair.ends[0].lane.counts();
        let sent = counts.records_out as f64;
        assert!((counts.resent as f64) < 0.05 * sent, "{counts:?}");
    }
}

#[test]
fn repeated_and_reordered_datagrams_bring_each_packet_once_and_forgeries_none() {
    let link = LinkSettings { duplication: 0.1, jitter: ms(5), ..LinkSettings::clean(ms(20)) };
    let mut pair = Pair::new(link, 1_452);
    let (delays, sent) = call(&mut pair, 5);
    assert_eq!((delays.len(), pair.ends[1].copies), (sent, sent as u64));
    let mut forged = vec![0xC1; 60];
    let now = pair.clock(1).mono;
    assert_eq!(pair.ends[1].lane.open(now, &mut forged), Err(LaneUnopened::Phase));
    forged[1] = 0;
    assert_eq!(pair.ends[1].lane.open(now, &mut forged), Err(LaneUnopened::BadTag));
}

#[test]
fn packets_that_no_datagram_holds_go_in_parts() {
    let mut pair = Pair::new(LinkSettings::lossy(ms(5), 0.05), 1_232);
    for number in 0..200 {
        pair.publish(1, number, 1_440, false, Urgency::Now);
        let at = pair.now + ms(10);
        pair.run_until(at);
    }
    let end = pair.now + ms(1_000);
    pair.run_until(end);
    assert!(pair.ends[1].came.len() >= 198, "{}", pair.ends[1].came.len());
    assert!(pair.largest <= 1_452, "a probe, at the most");
}

#[test]
fn orders_come_in_their_sequence_over_a_path_that_loses_a_fifth() {
    let mut pair = Pair::new(LinkSettings { reordering: 0.1, ..LinkSettings::lossy(ms(20), 0.2) }, 1_452);
    let order = |index: u16| LaneOrder::Unsubscribe { handle: LaneHandle { index, generation: 0 } };
    for index in 0..300 {
        pair.ends[0].lane.order(&order(index));
        let at = pair.now + ms(3);
        pair.run_until(at);
    }
    let end = pair.now + ms(3_000);
    pair.run_until(end);
    let expected: Vec<Box<[u8]>> = (0..300).map(|index| crate::wire::lane::order_bytes(&order(index)).into()).collect();
    assert!(pair.ends[1].orders == expected, "{}", pair.ends[1].orders.len());
}

#[test]
fn a_moment_is_the_same_at_both_ends_whatever_their_zeros() {
    let mut pair = Pair::new(LinkSettings { jitter: ms(8), ..LinkSettings::clean(ms(20)) }, 1_452);
    let mut said = Vec::new();
    for n in 0..30u32 {
        let (now, ntp) = (pair.now, pair.clock(0).wall);
        said.push(ntp);
        let clock = LaneClock { handle: LaneHandle::default(), encoding: 0, ntp, rtp_timestamp: n };
        pair.ends[0].lane.clock(now, clock);
        pair.publish(1, u64::from(n), 100, true, Urgency::Now);
        pair.run_until(now + ms(1_000));
    }
    let heard = &pair.ends[1].clocks;
    assert_eq!(heard.len(), 30);
    for (said, heard) in said.iter().zip(heard).skip(5) {
        // By the shortest way, which no end can know.
        let off = heard.ntp.nanos_since(*said);
        assert!((20_000_000..24_000_000).contains(&off), "{off} ns");
    }
}

#[test]
fn keys_change_without_a_gap() {
    let mut pair = Pair::new(LinkSettings::lossy(ms(20), 0.02), 1_452);
    let mut number = 0;
    for phase in 1..4u8 {
        pair.ends[1].lane.renew(START, LaneKeys::new(&keying(true, phase + 10), phase), false);
        let at = pair.now + ms(50);
        pair.run_until(at);
        pair.ends[0].lane.renew(START, LaneKeys::new(&keying(false, phase + 10), phase), true);
        for _ in 0..100 {
            pair.publish(1, number, 100, true, Urgency::Now);
            number += 1;
            let at = pair.now + ms(10);
            pair.run_until(at);
        }
    }
    let came: BTreeSet<u32> = pair.ends[1].came.keys().map(|(_, number)| *number).collect();
    assert!(came.len() >= 298, "{}", came.len());
    assert_eq!((pair.ends[0].lane.phase(), pair.ends[1].lane.phase()), (3, 3));
    assert!(pair.ends[0].lane.wants_keys(START).is_none());
    assert_eq!(pair.ends[0].lane.wants_keys(START + Duration::from_secs(90_000)), Some(4));
}

#[test]
fn silence_ends_a_lane_in_use_and_an_unused_one_is_idle() {
    let mut pair = Pair::new(LinkSettings::clean(ms(20)), 1_452);
    pair.run_until(START + ms(10_000));
    assert!(!pair.ends[0].lane.is_dead(pair.now), "pings keep it");
    let pings = pair.ends[0].lane.counts().datagrams_out;
    assert!(pings < 200, "{pings} in ten seconds");
    pair.mtu = 0;
    pair.run_until(START + ms(10_800));
    assert!(!pair.ends[0].lane.is_dead(pair.now));
    pair.run_until(START + ms(11_300));
    assert!(pair.ends[0].lane.is_dead(pair.now) && pair.ends[1].lane.is_dead(pair.clock(1).mono));
    pair.mtu = 2_000;
    for at in [0, 1] {
        let now = pair.clock(at).mono;
        pair.ends[at].lane.set_in_use(now, false);
        assert!(!pair.ends[at].lane.is_idle(now + ms(59_999)) && pair.ends[at].lane.is_idle(now + ms(60_000)));
        assert!(!pair.ends[at].lane.is_dead(now + ms(59_000)));
    }
}

#[test]
fn a_full_queue_leaves_upper_encodings_out_first_and_audio_last() {
    let mut lane = Lane::new(START, LaneKeys::new(&keying(false, 1), 0));
    let skip = LaneSkip { handle: LaneHandle::default(), at: EncodingEpoch(0), first: 1, last: 1 };
    let mut fill = |layer| (0..).take_while(|_| lane.push(START, LaneItem::Skip(skip), layer, Urgency::Now)).count();
    assert_eq!((fill(Some(1)), fill(Some(2)), fill(Some(0)), fill(None)), (3_072, 0, 512, 512));
}
