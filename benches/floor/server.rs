//! The least work of a server: receive, open, and for each receiver copy, rewrite, seal and send; a frame as one run.
//! No router, no connections, no reports, no timers.

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
    /// Frames and audio packets that have left for everyone.
    pub done: &'a AtomicU64,
}

/// The received part of a frame, opened, with room for its tags: per publisher.
#[derive(Default, Clone)]
struct Frame {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Server<'_> {
    /// Serves until a datagram comes that is too short for a packet; returns the CPU time it took.
    pub fn run(&self) -> Duration {
        let mut inbox = Inbox::new();
        let mut frames = vec![Frame::default(); self.openers.len()];
        let mut run = Vec::new();
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
                    continue;
                }
                let frame = &mut frames[publisher];
                frame.bytes.extend_from_slice(packet);
                frame.ends.push(frame.bytes.len());
                if packet::is_last_of_frame(packet) {
                    self.send(publisher, &frame.bytes, &frame.ends, &mut run);
                    frame.bytes.clear();
                    frame.ends.clear();
                }
            }
        }
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
