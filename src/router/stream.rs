//! One encoding as it arrives: which number each packet has in its stream, what is missing, and the counts of both. Not its
//! packets, which go to the `source`.

use crate::base::id::Ssrc;
use crate::base::seq::{ExtSeq, Seq};
use crate::base::time::Instant;
use crate::media::nack::NackGenerator;
use crate::media::receive::{Arrival, Receiver};
use crate::media::sampled::Sampled;

/// One encoding as it arrives.
pub struct Stream {
    pub ssrc: Option<Ssrc>,
    pub rtx_ssrc: Option<Ssrc>,
    pub receiver: Receiver,
    pub nack: NackGenerator,
    pub bytes: u64,
    pub packets: u64,
    pub nacks_sent: u64,
    pub plis_sent: u64,
    pub firs_sent: u64,
    pub fir_sequence: u8,
    pub key_frames: u64,
    pub repaired: u64,
    /// Packets that came as retransmissions, needed or not.
    pub retransmitted: u64,
    /// Repeated, or impossible to place.
    pub discarded: u64,
    pub nacked_packets: u64,
    /// Pictures whose last packet came; none for audio.
    pub frames: u64,
    /// The fraction last reported to the publisher, in 1/256.
    pub fraction_lost: u8,
    pub rate: Sampled,
    pub frame_rate: Sampled,
    pub said_bye: bool,
}

/// A packet of the stream, after RTX is unwrapped.
#[derive(Clone, Copy, Debug)]
pub struct StreamPacket {
    pub arrived: Instant,
    pub seq: Seq,
    pub timestamp: u32,
    pub wire_bytes: usize,
    pub rtx: bool,
    /// Of another payload type, whose clock says nothing about this stream's.
    pub foreign: bool,
}

/// What becomes of missing packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gaps {
    AskedFor,
    /// There is no time for them.
    GivenUp,
    /// The publisher answers no NACK.
    Left,
}

/// The place of a packet in its stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamPlace {
    pub ext: ExtSeq,
    pub timestamp: u32,
    /// The stream began anew with it.
    pub restarted: bool,
    /// When missing packets are to be asked for.
    pub nack_due: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unplaced {
    Duplicate,
    /// Far from all others, until its successor confirms it (RFC 3550 appendix A.1).
    Unconfirmed,
}

impl Stream {
    pub fn new(ssrc: Option<Ssrc>, rtx_ssrc: Option<Ssrc>, clock_rate: u32) -> Stream {
        Stream {
            ssrc,
            rtx_ssrc,
            receiver: Receiver::new(clock_rate),
            nack: NackGenerator::default(),
            bytes: 0,
            packets: 0,
            nacks_sent: 0,
            plis_sent: 0,
            firs_sent: 0,
            fir_sequence: 0,
            key_frames: 0,
            repaired: 0,
            retransmitted: 0,
            discarded: 0,
            nacked_packets: 0,
            frames: 0,
            fraction_lost: 0,
            rate: Sampled::default(),
            frame_rate: Sampled::default(),
            said_bye: false,
        }
    }

    pub fn place(&mut self, now: Instant, packet: &StreamPacket, gaps: Gaps) -> Result<StreamPlace, Unplaced> {
        let &StreamPacket { arrived, seq, wire_bytes, rtx, foreign, .. } = packet;
        self.bytes += wire_bytes as u64;
        self.packets += 1;
        self.said_bye = false;
        self.retransmitted += u64::from(rtx);
        let timestamp = if foreign { self.receiver.steady_timestamp(arrived) } else { packet.timestamp };
        let arrival = match rtx {
            true => self.receiver.on_retransmission(arrived, seq, timestamp),
            false => self.receiver.on_packet(arrived, seq, timestamp),
        };
        let mut placed = StreamPlace { ext: ExtSeq(0), timestamp, restarted: false, nack_due: None };
        placed.ext = match arrival {
            Arrival::InOrder(ext) => ext,
            Arrival::Late(ext) => {
                self.nack.on_packet(ext);
                if rtx {
                    self.repaired += 1;
                    self.receiver.repaired(1);
                }
                ext
            }
            Arrival::Gap { packet, missing_from } => {
                match gaps {
                    Gaps::AskedFor => self.nack.on_gap(missing_from, packet, now),
                    Gaps::GivenUp => self.nack.give_up(now),
                    Gaps::Left => {}
                }
                if gaps != Gaps::Left {
                    placed.nack_due = self.nack.next_deadline();
                }
                packet
            }
            Arrival::Restarted(ext) => {
                placed.restarted = true;
                self.nack.clear();
                ext
            }
            Arrival::Duplicate => {
                self.discarded += 1;
                return Err(Unplaced::Duplicate);
            }
            Arrival::Unconfirmed => {
                self.discarded += 1;
                return Err(Unplaced::Unconfirmed);
            }
        };
        Ok(placed)
    }

    pub fn look_at_rates(&mut self, now: Instant) {
        self.rate.look(now, self.bytes);
        self.frame_rate.look(now, self.frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(seq: u16) -> StreamPacket {
        let arrived = Instant::from_nanos(u64::from(seq) * 20_000_000);
        let timestamp = u32::from(seq) * 960;
        StreamPacket { arrived, seq: Seq(seq), timestamp, wire_bytes: 100, rtx: false, foreign: false }
    }

    fn place(stream: &mut Stream, packet: StreamPacket, gaps: Gaps) -> Result<StreamPlace, Unplaced> {
        stream.place(packet.arrived, &packet, gaps)
    }

    #[test]
    fn what_is_missing_is_asked_for_where_that_is_of_use() {
        for (gaps, asks) in [(Gaps::AskedFor, true), (Gaps::Left, false)] {
            let mut stream = Stream::new(Some(Ssrc(1)), None, 48_000);
            let first = place(&mut stream, packet(10), gaps).unwrap();
            let third = place(&mut stream, packet(12), gaps).unwrap();
            assert_eq!((third.ext.0 - first.ext.0, third.nack_due.is_some()), (2, asks));
            let late = place(&mut stream, StreamPacket { rtx: true, ..packet(11) }, gaps).unwrap();
            assert_eq!((late.ext.0 - first.ext.0, stream.repaired, stream.retransmitted), (1, 1, 1));
            assert_eq!(stream.nack.next_deadline(), None);
        }
    }

    #[test]
    fn duplicates_and_lonely_jumps_have_no_place() {
        let mut stream = Stream::new(Some(Ssrc(1)), None, 48_000);
        place(&mut stream, packet(10), Gaps::AskedFor).unwrap();
        assert_eq!(place(&mut stream, packet(10), Gaps::AskedFor), Err(Unplaced::Duplicate));
        assert_eq!(place(&mut stream, packet(30_000), Gaps::AskedFor), Err(Unplaced::Unconfirmed));
        let next = place(&mut stream, packet(30_001), Gaps::AskedFor).unwrap();
        assert!(next.restarted);
        assert_eq!((stream.discarded, stream.packets), (2, 4));
    }
}
