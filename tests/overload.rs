//! A shard under twice the load that its core can forward, on virtual time: a socket that holds the unread datagrams,
//! and a core that takes so long for each packet. Audio comes whole, and once the load is gone all is as before within
//! 2 s.

#[expect(dead_code, reason = "what other tests need of it")]
mod shard_rig;

use std::collections::VecDeque;

use shard_rig::{AUDIO, Rig, Stream, at, audio_consumer_spec, audio_producer_spec, millis};
use weirgate::base::buffer::{Batch, LocalIndex, Path};
use weirgate::base::time::{Duration, Instant};
use weirgate::sim::world::SentDatagrams;
use weirgate::wire::rtp::RtpHeader;

/// The time to read a datagram, and to forward one.
const READ: Duration = Duration::from_micros(50);
const FORWARD: Duration = Duration::from_micros(450);
/// The capacity in packets a second: half of it is an easy load, twice of it an overload.
const CAPACITY: u64 = 2_000;
/// The capacity of the socket: about two seconds of the overload.
const SOCKET: usize = 8_000;
const BATCH: usize = 64;
const AUDIO_EVERY: Duration = Duration::from_millis(20);

const VIDEO_SENT: u32 = 1_000;
const AUDIO_SENT: u32 = 2_000;

struct Machine {
    rig: Rig,
    publisher: usize,
    viewer: usize,
    video: Stream,
    audio: Stream,
    socket: VecDeque<(Instant, Vec<u8>)>,
    /// When the next packet of each comes.
    next_video: Instant,
    next_audio: Instant,
    batch: Batch,
    sent: [u64; 2],
    overflowed: usize,
}

/// Audio and video sent and received, and the longest wait of a packet.
#[derive(Default, Debug)]
struct Phase {
    sent: [u64; 2],
    came: [u64; 2],
    longest: Duration,
}

impl Machine {
    fn new() -> Machine {
        let mut rig = Rig::new(1);
        let publisher = rig.connected(0, 1, 1);
        let viewer = rig.connected(0, 2, 2);
        rig.produce(0, 1, 1, VIDEO_SENT);
        rig.produce_as(0, 2, 1, audio_producer_spec(AUDIO_SENT));
        rig.consume(0, 1, 2, 1, 0, 70_000);
        rig.consume_as(0, 2, 2, 2, 0, audio_consumer_spec(80_000));
        rig.run(millis(20));
        let now = rig.now.mono;
        Machine {
            rig,
            publisher,
            viewer,
            video: Stream::new(VIDEO_SENT),
            audio: Stream::new(AUDIO_SENT),
            socket: VecDeque::new(),
            next_video: now,
            next_audio: now,
            batch: Batch::new(BATCH),
            sent: [0; 2],
            overflowed: 0,
        }
    }

    /// The publisher's packets so far lie in the socket.
    fn arrive(&mut self, rate: u64) {
        let now = self.rig.now.mono;
        while self.next_video.min(self.next_audio) <= now {
            let sound = self.next_audio <= self.next_video;
            let (at, packet) = if sound {
                self.audio.seq = self.audio.seq.wrapping_add(1);
                let at = self.next_audio;
                self.next_audio = at + AUDIO_EVERY;
                (at, self.audio.packet(AUDIO_SENT, AUDIO, self.audio.seq, &[1; 80]))
            } else {
                let at = self.next_video;
                self.next_video = at + Duration::from_nanos(1_000_000_000 / rate);
                // A keyframe twice a second, whoever asks for one.
                let key = self.sent[1].is_multiple_of(rate / 2);
                (at, self.video.frame(key, 300))
            };
            self.sent[usize::from(!sound)] += 1;
            let client = &mut self.rig.clients[self.publisher];
            assert!(client.peer.send_rtp(&packet));
            let datagram = client.peer.poll_transmit().expect("it was sent just now").bytes;
            match self.socket.len() < SOCKET {
                true => self.socket.push_back((at, datagram)),
                false => self.overflowed += 1,
            }
        }
    }

    /// One turn of the shard; returns its duration.
    fn turn(&mut self, longest: &mut Duration) -> Duration {
        let now = self.rig.now;
        let path = |machine: &Machine, client: usize| Path::udp(LocalIndex(0), machine.rig.clients[client].address);
        self.batch.clear();
        let from = path(self, self.publisher);
        let mut oldest = now.mono;
        while self.batch.room() > 0
            && let Some((at, datagram)) = self.socket.pop_front()
        {
            oldest = oldest.min(at);
            self.batch.push(from, at, &datagram);
        }
        let read = self.batch.len() as u32;
        let shard = &mut self.rig.shards[0];
        shard.handle_batch(now, &mut self.batch);
        shard.handle_timeout(now);
        let mut sent = SentDatagrams::default();
        shard.flush(now, &mut sent);
        while shard.poll_event().is_some() {}
        let forwarded = sent.0.iter().filter(|(to, _)| *to == path(self, self.viewer)).count() as u32;
        if forwarded > 0 {
            *longest = (*longest).max(now.mono.since(oldest));
        }
        for (to, mut datagram) in sent.0 {
            self.rig.deliver(to, &mut datagram);
        }
        (READ * read + FORWARD * forwarded).max(millis(1))
    }

    fn run(&mut self, span: Duration, rate: u64) -> Phase {
        let mut phase = Phase::default();
        let sent = self.sent;
        self.rig.clients[self.viewer].rtp.clear();
        let end = self.rig.now.mono + span;
        while self.rig.now.mono < end {
            self.arrive(rate);
            let took = self.turn(&mut phase.longest);
            self.rig.now = at(self.rig.now.mono + took);
            // Consent goes on beside all that.
            self.consent();
        }
        phase.sent = [0, 1].map(|kind| self.sent[kind] - sent[kind]);
        for packet in &self.rig.clients[self.viewer].rtp {
            let header = RtpHeader::parse(packet).expect("the server wrote it");
            phase.came[usize::from(header.payload_type != AUDIO)] += 1;
        }
        phase
    }

    fn consent(&mut self) {
        let now = self.rig.now;
        for client in [self.publisher, self.viewer] {
            let checks = self.rig.checks_due(client);
            for check in checks {
                self.batch.clear();
                self.batch.push(Path::udp(LocalIndex(0), self.rig.clients[client].address), now.mono, &check);
                self.rig.shards[0].handle_batch(now, &mut self.batch);
                let mut sent = SentDatagrams::default();
                self.rig.shards[0].flush(now, &mut sent);
                for (to, mut datagram) in sent.0 {
                    self.rig.deliver(to, &mut datagram);
                }
            }
        }
    }
}

#[test]
fn at_twice_its_core_sound_comes_whole_and_all_is_well_two_seconds_later() {
    let mut machine = Machine::new();
    // The first keyframe, and all that comes with it.
    machine.run(millis(1_000), CAPACITY / 2);
    let easy = machine.run(millis(3_000), CAPACITY / 2);
    assert_eq!(easy.came, easy.sent, "the control: everything comes");
    let over = machine.run(millis(10_000), CAPACITY * 2);
    // Two seconds in which the queue is worked off.
    let after = machine.run(millis(2_000), CAPACITY / 2);
    let again = machine.run(millis(3_000), CAPACITY / 2);
    assert_eq!(machine.overflowed, 0, "no queue grew until it broke");
    let sound = |phase: &Phase| (phase.sent[0], phase.came[0]);
    let (sent, came) = [&over, &after].map(sound).into_iter().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
    assert!(sent > 500 && came >= sent - 1, "{came} of {sent} audio packets, the last of which may be under way");
    let share = over.came[1] as f64 / over.sent[1] as f64;
    assert!((0.25..0.75).contains(&share), "it was an overload, and the core was not idle: {share}");
    assert_eq!(again.came[1], again.sent[1], "video is whole again: {again:?}");
    assert!(again.longest <= easy.longest * 5, "and as quick as before: {easy:?} {over:?} {again:?}");
    assert!(over.longest < millis(1_000), "nothing that came was stale: {over:?}");
}
