//! The least work of a server: receive, open, and for each receiver copy, rewrite, seal and send; a frame as one run.
//! Beside it the duties that no server can leave out, at the rate of ours: the receivers' feedback is read and opened,
//! each receiver gets a report, each publisher feedback. No router, no connections, no timers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ring::aead::LessSafeKey;
use socket2::{SockAddr, Socket};

use crate::cpu::thread_cpu;
use crate::packet::{self, HEADER, TAG};
use crate::socket::{Inbox, send_run};

pub struct Server<'a> {
    pub socket: Socket,
    /// Per publisher.
    pub openers: Vec<LessSafeKey>,
    pub routes: Vec<Vec<usize>>,
    /// Per receiver.
    pub sealers: Vec<LessSafeKey>,
    pub addresses: Vec<SockAddr>,
    /// Where the receivers' feedback comes. It wakes nobody: it is read when media has come.
    pub duties: Socket,
    /// Per receiver.
    pub feedback_openers: Vec<LessSafeKey>,
    /// Frames and audio packets of a publisher in the time of one feedback.
    pub frames_per_feedback: u32,
    /// Where all publishers are.
    pub publishers: SockAddr,
    /// Frames and audio packets that have left for everyone.
    pub done: &'a AtomicU64,
}

/// A report is due every second.
const FEEDBACK_PER_REPORT: u32 = 10;

/// The received part of a frame, opened, with room for its tags: per publisher.
#[derive(Default, Clone)]
struct Frame {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// What is counted for the duties.
struct Duties {
    inbox: Inbox,
    /// Feedback of each receiver.
    heard: Vec<u32>,
    /// Frames and audio packets of each publisher.
    seen: Vec<u32>,
    numbers: u32,
}

impl Server<'_> {
    /// Serves until a datagram comes that is too short for a packet; returns the CPU time it took.
    pub fn run(&self) -> Duration {
        let mut inbox = Inbox::new();
        let mut frames = vec![Frame::default(); self.openers.len()];
        let mut run = Vec::new();
        let mut duties = Duties {
            inbox: Inbox::new(),
            heard: vec![0; self.addresses.len()],
            seen: vec![0; self.openers.len()],
            numbers: 0,
        };
        let start = thread_cpu();
        loop {
            for at in 0..inbox.receive(&self.socket) {
                let packet = inbox.packet(at);
                if packet.len() < HEADER + TAG {
                    return thread_cpu() - start;
                }
                let publisher = packet::publisher(packet);
                if !packet::open(&self.openers[publisher], packet) {
                    continue;
                }
                if is_audio(packet) {
                    self.send(publisher, packet, &[packet.len()], &mut run);
                    self.tell_publisher(publisher, &mut duties);
                    continue;
                }
                let frame = &mut frames[publisher];
                frame.bytes.extend_from_slice(packet);
                frame.ends.push(frame.bytes.len());
                if packet::is_last_of_frame(packet) {
                    self.send(publisher, &frame.bytes, &frame.ends, &mut run);
                    frame.bytes.clear();
                    frame.ends.clear();
                    self.tell_publisher(publisher, &mut duties);
                }
            }
            self.hear_receivers(&mut duties);
        }
    }

    fn hear_receivers(&self, duties: &mut Duties) {
        for at in 0..duties.inbox.receive(&self.duties) {
            let packet = duties.inbox.packet(at);
            let receiver = packet::publisher(packet);
            if !packet::open(&self.feedback_openers[receiver], packet) {
                continue;
            }
            duties.heard[receiver] += 1;
            if duties.heard[receiver].is_multiple_of(FEEDBACK_PER_REPORT) {
                let key = &self.sealers[receiver];
                self.tell(key, &self.addresses[receiver], receiver, &mut duties.numbers);
            }
        }
    }

    /// Feedback for a publisher, of as many frames as come in its time.
    fn tell_publisher(&self, publisher: usize, duties: &mut Duties) {
        duties.seen[publisher] += 1;
        if duties.seen[publisher].is_multiple_of(self.frames_per_feedback) {
            let key = &self.openers[publisher];
            self.tell(key, &self.publishers, publisher, &mut duties.numbers);
        }
    }

    fn tell(&self, key: &LessSafeKey, to: &SockAddr, whom: usize, numbers: &mut u32) {
        let mut packet = [0; packet::FEEDBACK_BYTES + TAG];
        // Numbers that no media has.
        packet::set_header(&mut packet, whom, u32::MAX - *numbers, false);
        *numbers += 1;
        packet::seal(key, &mut packet);
        send_run(&self.socket, to, &packet, packet.len()).expect("loopback takes it");
    }

    fn send(&self, publisher: usize, frame: &[u8], ends: &[usize], run: &mut Vec<u8>) {
        for &receiver in &self.routes[publisher] {
            run.clear();
            run.extend_from_slice(frame);
            let mut start = 0;
            for &end in ends {
                rewrite(&mut run[start..end], receiver);
                packet::seal(&self.sealers[receiver], &mut run[start..end]);
                start = end;
            }
            send_run(&self.socket, &self.addresses[receiver], run, ends[0]).expect("loopback takes it");
        }
        self.done.fetch_add(1, Ordering::Release);
    }
}

/// Audio of a publisher must not end its video frame.
fn is_audio(packet: &[u8]) -> bool {
    packet.len() < crate::loads::VIDEO_BYTES
}

/// Stands for payload type, timestamp and extensions of the receiver's own.
fn rewrite(packet: &mut [u8], receiver: usize) {
    packet[24..32].copy_from_slice(&receiver.to_be_bytes());
}
