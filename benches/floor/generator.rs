//! Publishers and receivers on one thread: sends what is due, and every 10 ms empties the receivers' queues, so that no
//! wake of a receiver counts for the server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use socket2::{SockAddr, Socket};

use crate::loads::{Load, Pace, Stream};
use crate::packet::{self, TAG};
use crate::socket::Inbox;

/// A receiver's feedback is due ten times a second.
pub const FEEDBACK_EVERY: Duration = Duration::from_millis(100);
const DRAIN_EVERY: Duration = Duration::from_millis(10);
/// A sleep ends this much late: the rest is spun.
const SLEEP_SLACK: Duration = Duration::from_micros(60);

pub struct Generator<'a> {
    pub load: Load,
    pub server: SockAddr,
    /// Where feedback goes.
    pub duties: SockAddr,
    pub sender: Socket,
    pub receivers: Vec<Socket>,
    pub done: &'a AtomicU64,
}

#[derive(Default)]
pub struct Seen {
    pub delivered: u64,
    pub expected: u64,
    pub delays: Vec<Duration>,
    pub took: Duration,
}

impl Generator<'_> {
    pub fn run(&self, length: Duration) -> Seen {
        let mut seen = Seen::default();
        let mut inbox = Inbox::new();
        let mut streams = self.load.streams();
        let routes = self.load.routes();
        let keys: Vec<_> = (0..self.load.publishers()).map(packet::key).collect();
        let mut numbers = vec![0; self.load.publishers()];
        let mut feedback = Feedback::new(self.receivers.len());
        let (start, mut drained) = (Instant::now(), Instant::now());
        let mut sent = 0;
        while start.elapsed() < length {
            let stream = streams.iter_mut().min_by_key(|stream| stream.due).expect("every load has a stream");
            while self.must_wait(start, stream.due, sent) {
                if drained.elapsed() >= DRAIN_EVERY {
                    drained += DRAIN_EVERY;
                    self.drain(&mut inbox, &mut seen);
                    continue;
                }
                self.rest(start + stream.due, drained + DRAIN_EVERY);
            }
            feedback.send_due(start.elapsed(), &self.receivers, &self.duties);
            self.send(&self.sender, &keys[stream.publisher], stream, &mut numbers[stream.publisher]);
            stream.due += stream.interval;
            sent += 1;
            seen.expected += (stream.packets * routes[stream.publisher].len()) as u64;
        }
        seen.took = start.elapsed();
        while self.done.load(Ordering::Acquire) < sent && start.elapsed() < 2 * length {
            self.drain(&mut inbox, &mut seen);
        }
        self.drain(&mut inbox, &mut seen);
        self.sender.send_to(&[0], &self.server).expect("loopback takes it");
        seen
    }

    fn must_wait(&self, start: Instant, due: Duration, sent: u64) -> bool {
        match self.load.pace {
            Pace::RealTime => start.elapsed() < due,
            Pace::Saturated { ahead } => sent - self.done.load(Ordering::Acquire) >= ahead,
        }
    }

    fn rest(&self, due: Instant, drain: Instant) {
        let left = due.min(drain).saturating_duration_since(Instant::now());
        match self.load.pace {
            Pace::RealTime if left > SLEEP_SLACK => std::thread::sleep(left - SLEEP_SLACK),
            _ => std::hint::spin_loop(),
        }
    }

    fn send(&self, sender: &Socket, key: &ring::aead::LessSafeKey, stream: &Stream, number: &mut u32) {
        let mut packet = vec![0xAB; stream.bytes + TAG];
        for at in 1..=stream.packets {
            packet::set_header(&mut packet, stream.publisher, *number, at == stream.packets);
            packet::set_sent_at(&mut packet, since_1970());
            *number += 1;
            packet::seal(key, &mut packet);
            sender.send_to(&packet, &self.server).expect("loopback takes it");
        }
    }

    fn drain(&self, inbox: &mut Inbox, seen: &mut Seen) {
        while inbox.receive(&self.sender) > 0 {}
        for receiver in &self.receivers {
            loop {
                let came = inbox.receive(receiver);
                for at in 0..came {
                    if inbox.packet(at).len() == packet::FEEDBACK_BYTES + TAG {
                        continue;
                    }
                    let arrived = inbox.arrived(at);
                    seen.delays.push(arrived.saturating_sub(packet::sent_at(inbox.packet(at))));
                    seen.delivered += 1;
                }
                if !inbox.is_full(came) {
                    break;
                }
            }
        }
    }
}

/// The receivers' feedback, theirs spread evenly over its interval.
struct Feedback {
    keys: Vec<ring::aead::LessSafeKey>,
    sent: u32,
}

impl Feedback {
    fn new(receivers: usize) -> Feedback {
        Feedback { keys: (0..receivers).map(packet::feedback_key).collect(), sent: 0 }
    }

    fn send_due(&mut self, now: Duration, receivers: &[Socket], to: &SockAddr) {
        let due = now.as_micros() * receivers.len() as u128 / FEEDBACK_EVERY.as_micros();
        while u128::from(self.sent) < due {
            let receiver = self.sent as usize % receivers.len();
            let mut packet = [0; packet::FEEDBACK_BYTES + TAG];
            packet::set_header(&mut packet, receiver, self.sent, false);
            packet::seal(&self.keys[receiver], &mut packet);
            receivers[receiver].send_to(&packet, to).expect("loopback takes it");
            self.sent += 1;
        }
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set")
}
