//! A packet of RTP that was opened, with everything that was read of it: once, while its transport was at hand.

use crate::base::seq::Seq;
use crate::base::time::Instant;
use crate::router::spec::ProducerSpec;
use crate::shard::drops::ShardDrop;
use crate::shard::elements::Extensions;
use crate::shard::wiring::Route;
use crate::transport::Transport;
use crate::wire::rtp::RtpHeader;

pub(super) struct Received<'a> {
    pub(super) route: Route,
    pub(super) arrived: Instant,
    pub(super) header: RtpHeader,
    pub(super) extensions: Extensions<'a>,
    /// Its transport estimates what its client may send by such packets (REMB).
    pub(super) estimated: bool,
    packet: &'a [u8],
}

/// What a packet is in its stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Content<'a> {
    pub(super) seq: Seq,
    pub(super) payload: &'a [u8],
    /// Of a payload type that is not the producer's (telephone events, comfort noise, another codec): one of its
    /// stream's numbers, and nobody's media.
    pub(super) foreign: bool,
}

impl<'a> Received<'a> {
    pub(super) fn read(
        transport: &Transport,
        route: Route,
        arrived: Instant,
        header: &RtpHeader,
        packet: &'a [u8],
    ) -> Received<'a> {
        let extensions = Extensions::read(header, packet, &transport.extensions, &transport.clock);
        Received { route, arrived, header: *header, extensions, estimated: transport.remb.is_some(), packet }
    }

    pub(super) fn wire_bytes(&self) -> usize {
        self.packet.len()
    }

    /// RTX is the packet it repeats (RFC 4588 section 4).
    pub(super) fn content(&self, spec: &ProducerSpec) -> Result<Content<'a>, ShardDrop> {
        let Received { route, header, packet, .. } = self;
        let payload = header.payload(packet).map_err(|_| ShardDrop::MalformedRtp)?;
        if !route.rtx {
            return Ok(Content { seq: header.seq, payload, foreign: header.payload_type != spec.payload_type });
        }
        // One without a payload is a bandwidth probe.
        let (osn, original) = payload.split_first_chunk::<2>().ok_or(ShardDrop::PaddingOnly)?;
        let foreign = spec.rtx_payload_type != Some(header.payload_type);
        Ok(Content { seq: Seq(u16::from_be_bytes(*osn)), payload: original, foreign })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::slab::Key;
    use crate::shard::fixture::{Fixture, rtp, video};

    #[test]
    fn rtx_is_the_packet_it_repeats_and_other_payload_types_are_foreign() {
        let mut fixture = Fixture::new();
        let key = fixture.transport(1);
        let transport = fixture.commons.registry.transports.get(key).unwrap();
        let content = |packet: &[u8], rtx| {
            let route = Route { producer: Key::from_parts(0, 0), stream: 0, rtx };
            let header = RtpHeader::parse(packet).unwrap();
            let received = Received::read(transport, route, Instant::ZERO, &header, packet);
            assert_eq!((received.wire_bytes(), received.estimated), (packet.len(), false));
            received.content(&video(100)).map(|Content { seq, payload, foreign }| (seq.0, payload.to_vec(), foreign))
        };
        assert_eq!(content(&rtp(100, 96, 7, None, b"vp8"), false), Ok((7, b"vp8".to_vec(), false)));
        assert_eq!(content(&rtp(100, 13, 7, None, b"cn"), false), Ok((7, b"cn".to_vec(), true)));
        assert_eq!(content(&rtp(101, 97, 9, None, b"\x00\x07vp8"), true), Ok((7, b"vp8".to_vec(), false)));
        assert_eq!(content(&rtp(101, 96, 9, None, b"\x00\x07vp8"), true), Ok((7, b"vp8".to_vec(), true)));
        assert_eq!(content(&rtp(101, 97, 9, None, b"\x00"), true), Err(ShardDrop::PaddingOnly));
        let mut padded = rtp(100, 96, 7, None, b"\x09");
        padded[0] |= 0x20;
        assert_eq!(content(&padded, false), Err(ShardDrop::MalformedRtp), "more padding than packet");
    }
}
