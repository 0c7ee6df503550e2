//! A publisher and its viewers, and their packets byte by byte.

use weirgate::base::id::{PayloadType, PeerId, ProducerId, Ssrc};
use weirgate::base::seq::Seq;
use weirgate::shard::command::{Command, ConsumerSpec, MediaKind, ProducerSpec};
use weirgate::wire::codec::Codec;
use weirgate::wire::feedback::Feedback;
use weirgate::wire::rtcp::{self, Rtcp};
use weirgate::wire::rtcp_write::RtcpWriter;
use weirgate::wire::rtp::{ExtensionWriter, HeaderFields, RtpHeader, write_fixed_header};

use crate::shard_rig::{Rig, VIDEO, consumer_spec, millis, producer_spec};

pub(crate) const PUBLISHED: u32 = 1_000;
pub(crate) const CONSUMED: u32 = 70_000;
/// The publisher's ids in what the rig produces.
pub(crate) const TRANSPORT_CC: u8 = 3;
pub(crate) const MID: u8 = 4;

/// A packet as a publisher writes it.
#[derive(Clone, Copy)]
pub(crate) struct Rtp<'a> {
    pub(crate) ssrc: u32,
    pub(crate) payload_type: PayloadType,
    pub(crate) seq: u16,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    pub(crate) elements: &'a [(u8, &'a [u8])],
    pub(crate) payload: &'a [u8],
    /// Behind the payload.
    pub(crate) padding: u8,
}

impl Default for Rtp<'_> {
    fn default() -> Self {
        Rtp {
            ssrc: PUBLISHED,
            payload_type: VIDEO,
            seq: 500,
            timestamp: 90_000,
            marker: true,
            elements: &[],
            payload: &[],
            padding: 0,
        }
    }
}

impl Rtp<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut packet = vec![0; 1_500];
        let (fixed, rest) = packet.split_at_mut(12);
        let fields = HeaderFields {
            marker: self.marker,
            has_padding: self.padding > 0,
            payload_type: self.payload_type,
            seq: Seq(self.seq),
            timestamp: self.timestamp,
            ssrc: Ssrc(self.ssrc),
        };
        let two_byte = self.elements.iter().any(|(id, value)| ExtensionWriter::needs_two_byte(*id, value.len()));
        write_fixed_header(fixed.try_into().expect("12 bytes"), fields, !self.elements.is_empty());
        let mut writer = ExtensionWriter::new(rest, two_byte);
        for (id, value) in self.elements {
            assert!(writer.push(*id, value));
        }
        let header = 12 + writer.finish();
        packet.truncate(header);
        packet.extend_from_slice(self.payload);
        if self.padding > 0 {
            packet.resize(packet.len() + usize::from(self.padding) - 1, 0);
            packet.push(self.padding);
        }
        packet
    }
}

pub(crate) fn opus() -> (ProducerSpec, ConsumerSpec) {
    let (mut produced, mut consumed) = (producer_spec(PUBLISHED), consumer_spec(CONSUMED));
    (produced.kind, produced.codec, produced.clock_rate) = (MediaKind::Audio, Codec::Opus, 48_000);
    (produced.rtx_payload_type, produced.encodings[0].rtx_ssrc, produced.feedback.nack) = (None, None, false);
    (consumed.codec, consumed.clock_rate) = (Codec::Opus, 48_000);
    (consumed.rtx, consumed.feedback.nack) = (None, false);
    (produced, consumed)
}

/// Transport 1 of peer 1 publishes producer 1; transport 2 of peer 2 consumes it, on the last of so many shards.
pub(crate) struct Call {
    pub(crate) rig: Rig,
    pub(crate) publisher: usize,
    pub(crate) viewer: usize,
    shards: usize,
}

impl Call {
    pub(crate) fn new(shards: usize, produced: ProducerSpec, consumed: ConsumerSpec) -> Call {
        let mut call = Call::unproduced(shards);
        call.produce(produced);
        call.consume(consumed);
        call.rig.run(millis(10));
        call
    }

    pub(crate) fn unproduced(shards: usize) -> Call {
        let mut rig = Rig::new(shards);
        let publisher = rig.connected(0, 1, 1);
        let viewer = rig.connected(shards - 1, 2, 2);
        Call { rig, publisher, viewer, shards }
    }

    pub(crate) fn produce(&mut self, spec: ProducerSpec) {
        let (producer, peer, spec) = (ProducerId(1), PeerId(1), Box::new(spec));
        self.rig.command(0, Command::Produce { producer, peer, transport: None, spec, paused: false });
    }

    pub(crate) fn consume(&mut self, spec: ConsumerSpec) {
        self.rig.consume_as(self.shards - 1, 1, 2, 1, 0, spec);
    }

    /// The publisher sends this, and it arrives.
    pub(crate) fn send(&mut self, packet: Rtp<'_>) {
        self.send_bytes(&packet.bytes());
    }

    pub(crate) fn send_bytes(&mut self, packet: &[u8]) {
        assert!(self.rig.clients[self.publisher].peer.send_rtp(packet));
        self.rig.run(millis(5));
    }

    pub(crate) fn ask_again(&mut self, seqs: &[Seq]) {
        let mut compound = Vec::new();
        RtcpWriter::new(&mut compound).nack(Ssrc(1), Ssrc(CONSUMED), seqs);
        assert!(self.rig.clients[self.viewer].peer.send_rtcp(compound));
        self.rig.run(millis(10));
    }

    pub(crate) fn media(&self) -> Vec<Heard> {
        self.heard(CONSUMED)
    }

    pub(crate) fn repairs(&self) -> Vec<Heard> {
        self.heard(CONSUMED + 1)
    }

    pub(crate) fn heard(&self, ssrc: u32) -> Vec<Heard> {
        let heard = self.rig.clients[self.viewer].rtp.iter().map(|packet| Heard::read(packet));
        heard.filter(|heard| heard.ssrc == ssrc).collect()
    }

    /// The publisher's feedback, packet by packet.
    pub(crate) fn told<T>(&self, read: impl FnMut(Rtcp<'_>) -> Option<T>) -> Vec<T> {
        let compounds = self.rig.clients[self.publisher].rtcp.iter();
        compounds.flat_map(|(_, compound)| rtcp::parse(compound).flatten()).filter_map(read).collect()
    }

    pub(crate) fn plis(&self) -> usize {
        self.told(|packet| matches!(packet, Rtcp::Feedback(Feedback::Pli(_))).then_some(())).len()
    }

    pub(crate) fn drops(&mut self, why: &str) -> u64 {
        let drops = self.rig.metrics(0).drops;
        drops.iter().find(|(known, _)| *known == why).map(|(_, count)| *count).expect("it exists")
    }
}

/// A packet as a viewer reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Heard {
    ssrc: u32,
    pub(crate) seq: u16,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    pub(crate) elements: Vec<(u8, Vec<u8>)>,
    pub(crate) payload: Vec<u8>,
}

impl Heard {
    pub(crate) fn read(packet: &[u8]) -> Heard {
        let header = RtpHeader::parse(packet).expect("it is RTP");
        Heard {
            ssrc: header.ssrc.0,
            seq: header.seq.0,
            timestamp: header.timestamp,
            marker: header.marker,
            elements: header.extensions(packet).map(|(id, value)| (id, value.to_vec())).collect(),
            payload: header.payload(packet).expect("its padding is right").to_vec(),
        }
    }

    pub(crate) fn element(&self, id: u8) -> Option<&[u8]> {
        self.elements.iter().find(|(known, _)| *known == id).map(|(_, value)| &value[..])
    }
}

/// No number is missing and none comes twice.
pub(crate) fn assert_no_gap(heard: &[Heard]) {
    let mut seqs: Vec<u16> = heard.iter().map(|heard| heard.seq).collect();
    seqs.sort_unstable();
    for pair in seqs.windows(2) {
        assert_eq!(pair[1], pair[0] + 1, "{seqs:?}");
    }
}
