//! One RTP packet from the wire into its source's history and on to the consumers.

use crate::base::buffer::Path;
use crate::base::id::{Mid, PayloadType, Rid, Ssrc};
use crate::base::seq::{ExtSeq, Seq};
use crate::base::slab::Key;
use crate::base::time::{Instant, Now};
use crate::media::history::StoredHeader;
use crate::media::layers::Layers;
use crate::media::receive::Arrival;
use crate::router::forward::{Packet, forward};
use crate::router::producer::Producer;
use crate::router::source::Source;
use crate::secure::Dropped;
use crate::shard::command::{Event, MediaKind};
use crate::shard::drops::Drop;
use crate::shard::limbo::Waiting;
use crate::shard::shard::Shard;
use crate::shard::wiring::Route;
use crate::transport::Transport;
use crate::wire::codec::{Codec, PayloadInfo, inspect};
use crate::wire::extension::{AudioLevel, Extension, ExtensionIds};
use crate::wire::rtp::RtpHeader;

/// The header extensions that travel with a packet to its consumers, in one-byte form under the router's ids; MID,
/// abs-send-time and transport-cc belong to one hop and are written at egress.
const PROXIED: [Extension; 5] = [
    Extension::AudioLevel,
    Extension::VideoOrientation,
    Extension::TransmissionOffset,
    Extension::PlayoutDelay,
    Extension::AbsCaptureTime,
];
const ELEMENTS_MAX: usize = PROXIED.len() * 17;

/// What a packet's extensions say on this hop, and what of them travels on.
struct Extensions<'a> {
    mid: Option<Mid>,
    rid: Option<Rid>,
    repaired_rid: Option<Rid>,
    transport_seq: Option<u16>,
    level: Option<AudioLevel>,
    dependency_descriptor: &'a [u8],
    elements: [u8; ELEMENTS_MAX],
    elements_len: usize,
}

/// A media packet as it counts after RTX has been unwrapped.
struct MediaPacket<'a> {
    route: Route,
    arrived: Instant,
    seq: Seq,
    timestamp: u32,
    marker: bool,
    payload: &'a [u8],
    level: Option<AudioLevel>,
    elements: &'a [u8],
    descriptor: &'a [u8],
    wire_bytes: usize,
}

impl Shard {
    pub(super) fn handle_rtp(&mut self, now: Now, arrived: Instant, path: Path, bytes: &mut [u8]) {
        let Some(key) = self.owner(path, bytes) else { return };
        if self.paths.is_contested(&path) {
            return self.sort_out(now, arrived, path, key, bytes);
        }
        if let Err(why) = self.take_rtp(now, arrived, path, key, bytes) {
            self.drops.secure(why);
        }
    }

    /// An error says that it is not under this transport's keys.
    pub(super) fn take_rtp(
        &mut self,
        now: Now,
        arrived: Instant,
        path: Path,
        key: Key<Transport>,
        bytes: &mut [u8],
    ) -> Result<(), Dropped> {
        self.current = Some(key);
        let Some(transport) = self.transports.get_mut(key) else { return Ok(()) };
        let Some(up) = transport.link.up() else {
            self.keep_early(now, arrived, path, key, bytes);
            return Ok(());
        };
        let Ok(header) = RtpHeader::parse(bytes) else {
            self.drops.count(Drop::MalformedRtp);
            return Ok(());
        };
        let wire_bytes = bytes.len();
        let len = up.opener.open_rtp(header.len(), header.ssrc, header.seq, bytes)?;
        let packet = &bytes[..len];
        if transport.bounded {
            transport.proof.heard(path, wire_bytes);
        }
        transport.traffic.packets_received += 1;
        self.counters.received += 1;
        transport.traffic.bytes_received += wire_bytes as u64;

        let seq = read_extensions(&header, packet, &transport.extensions).transport_seq;
        if let Some(seq) = seq {
            self.note_arrival(arrived, key, seq);
        }
        if !self.accept(now, arrived, seq.is_some(), key, &header, packet) {
            let dropped = self.wiring[key.slot()].limbo.keep(arrived, seq.is_some(), packet);
            self.drops.add(Drop::UnknownSsrc, dropped);
        }
        Ok(())
    }

    /// Whether it is RTP of a video producer that is known here, as far as can be told without opening it.
    pub(super) fn is_video(&mut self, path: Path, bytes: &[u8]) -> bool {
        let route = self.paths.owner(&path).zip(RtpHeader::parse(bytes).ok());
        let route = route.and_then(|(key, header)| self.wiring[key.slot()].route(header.ssrc));
        let producer = route.and_then(|route| self.producers.get(route.producer));
        producer.is_some_and(|producer| producer.spec.kind == MediaKind::Video)
    }

    /// A producer has come that the packets in limbo may belong to.
    pub(super) fn leave_limbo(&mut self, now: Now, key: Key<Transport>) {
        let (waiting, dropped) = self.wiring[key.slot()].limbo.take(now.mono);
        self.drops.add(Drop::UnknownSsrc, dropped);
        for Waiting { arrived, noted, packet } in waiting {
            let Ok(header) = RtpHeader::parse(&packet) else { continue };
            if !self.accept(now, arrived, noted, key, &header, &packet) {
                let dropped = self.wiring[key.slot()].limbo.keep(arrived, noted, &packet);
                self.drops.add(Drop::UnknownSsrc, dropped);
            }
        }
    }

    /// A decrypted packet. False when nobody knows its SSRC.
    fn accept(
        &mut self,
        now: Now,
        arrived: Instant,
        noted: bool,
        key: Key<Transport>,
        header: &RtpHeader,
        packet: &[u8],
    ) -> bool {
        let route = self.wiring[key.slot()].route(header.ssrc).or_else(|| self.bind(now, key, header, packet));
        let Some(route) = route else { return false };
        let Some(transport) = self.transports.get(key) else { return true };
        let extensions = read_extensions(header, packet, &transport.extensions);
        if let (Some(seq), false) = (extensions.transport_seq, noted) {
            self.note_arrival(arrived, key, seq);
        }
        self.unwrap(now, arrived, key, route, header, packet, &extensions);
        true
    }

    /// RTX becomes the packet it repeats (RFC 4588 section 4).
    #[expect(clippy::too_many_arguments, reason = "plain arguments: what was read of the packet so far")]
    fn unwrap(
        &mut self,
        now: Now,
        arrived: Instant,
        key: Key<Transport>,
        route: Route,
        header: &RtpHeader,
        packet: &[u8],
        extensions: &Extensions<'_>,
    ) {
        let wire_bytes = packet.len();
        let Ok(payload) = header.payload(packet) else { return self.drops.count(Drop::MalformedRtp) };
        let Some(producer) = self.producers.get(route.producer) else { return };

        let (seq, payload) = if route.rtx {
            if Some(header.payload_type) != producer.spec.rtx_payload_type {
                return self.drops.count(Drop::WrongPayloadType);
            }
            // One without a payload is a bandwidth probe.
            let Some((osn, original)) = payload.split_first_chunk::<2>() else {
                return self.drops.count(Drop::PaddingOnly);
            };
            (Seq(u16::from_be_bytes(*osn)), original)
        } else {
            if header.payload_type != producer.spec.payload_type {
                return self.drops.count(Drop::WrongPayloadType);
            }
            (header.seq, payload)
        };
        let media = MediaPacket {
            route,
            arrived,
            seq,
            timestamp: header.timestamp,
            marker: header.marker,
            payload,
            level: extensions.level,
            elements: &extensions.elements[..extensions.elements_len],
            descriptor: extensions.dependency_descriptor,
            wire_bytes,
        };
        self.receive_media(now, key, media);
    }

    /// Transport-wide feedback counts every packet with a number, RTX and padding too.
    fn note_arrival(&mut self, arrived: Instant, key: Key<Transport>, seq: u16) {
        let Some(transport) = self.transports.get_mut(key) else { return };
        transport.arrivals.on_packet(arrived, seq);
        if let Some(deadline) = transport.arrivals.next_deadline() {
            self.arm_patient(key, deadline);
        }
    }

    fn receive_media(&mut self, now: Now, key: Key<Transport>, media: MediaPacket<'_>) {
        let MediaPacket { route, arrived, seq, timestamp, marker, payload, level, elements, descriptor, wire_bytes } =
            media;
        let Some(producer) = self.producers.get_mut(route.producer) else { return };
        let spoke_again = producer.heard(now.mono);
        let (id, paused, source_key) = (producer.id, producer.paused, producer.source);
        let video = producer.spec.kind == MediaKind::Video;
        let asks = producer.spec.feedback.nack;
        let Some(stream) = producer.streams.get_mut(usize::from(route.stream)) else { return };
        stream.bytes += wire_bytes as u64;
        stream.packets += 1;
        stream.said_bye = false;
        stream.retransmitted += u64::from(route.rtx);
        let arrival = match route.rtx {
            true => stream.receiver.on_retransmission(arrived, seq, timestamp, wire_bytes),
            false => stream.receiver.on_packet(arrived, seq, timestamp, wire_bytes),
        };
        let mut restarted = false;
        let mut nack_due = None;
        let ext = match arrival {
            Arrival::InOrder(ext) => ext,
            Arrival::Late(ext) => {
                stream.nack.on_packet(ext);
                if route.rtx {
                    stream.repaired += 1;
                    stream.receiver.repaired(1);
                }
                ext
            }
            Arrival::Gap { packet, missing_from } => {
                if asks {
                    match self.overload.shed_lately(now.mono) {
                        true => stream.nack.give_up(now.mono),
                        false => stream.nack.on_gap(missing_from, packet, now.mono),
                    }
                    nack_due = stream.nack.next_deadline();
                }
                packet
            }
            Arrival::Restarted(ext) => {
                restarted = true;
                stream.nack.clear();
                ext
            }
            Arrival::Duplicate => {
                stream.discarded += 1;
                return self.drops.count(Drop::DuplicateRtp);
            }
            Arrival::Unconfirmed => {
                stream.discarded += 1;
                return self.drops.count(Drop::UnconfirmedJump);
            }
        };
        //= RFC 7741 section 4.1, and alike for all video codecs: the marker is on the last packet of a picture.
        stream.frames += u64::from(video && marker);
        if spoke_again {
            self.events.push_back(Event::ProducerSilent { producer: id, silent: false });
        }
        if let Some(remb) = self.transports.get_mut(key).and_then(|transport| transport.remb.as_mut()) {
            remb.on_packet(wire_bytes, arrived);
        }
        if let Some(at) = nack_due {
            self.arm(key, at);
        }
        if restarted && let Some(source) = self.sources.get_mut(source_key) {
            source.restart(route.stream);
        }
        if payload.is_empty() {
            self.drops.count(Drop::PaddingOnly);
            return self.skip(source_key, route.stream, ext);
        }
        if paused {
            return self.drops.count(Drop::ProducerPaused);
        }
        if !video {
            self.hear(now, route.producer, level, payload);
        }
        let codec = match self.sources.get(source_key) {
            Some(source) if source.withheld => return self.drops.count(Drop::BeyondLastN),
            Some(source) => source.codec,
            None => return,
        };
        let info = if video { inspect(codec, payload) } else { PayloadInfo::default() };
        if info.starts_keyframe
            && let Some(stream) = self.stream_mut(route.producer, route.stream)
        {
            stream.key_frames += 1;
        }
        let packet = Packet { encoding: route.stream, ext, arrived, timestamp, marker, legible: true, info };
        // The others say all of it in their payloads' own descriptors.
        let descriptor = if matches!(codec, Codec::Av1 | Codec::H264) { descriptor } else { &[] };
        self.publish(now, source_key, packet, [elements, descriptor, payload]);
    }

    /// Into the history, to the other shards that want it, and through the hot loop. Also the way of a relayed packet.
    /// Its parts: header-extension elements, dependency descriptor, payload.
    pub(super) fn publish(&mut self, now: Now, key: Key<Source>, mut packet: Packet, parts: [&[u8]; 3]) {
        let Some(source) = self.sources.get_mut(key) else { return };
        let [elements, descriptor, _] = parts;
        let frame = match descriptor {
            [] => None,
            value => source.read_descriptor(packet.ext, packet.encoding, value, &mut packet.info),
        };
        source.note(now, &mut packet);
        if source.is_unused() && !source.codec.is_video() {
            return;
        }
        let Some(encoding) = source.encodings.get_mut(usize::from(packet.encoding)) else { return };
        let header = StoredHeader {
            marker: packet.marker,
            timestamp: packet.timestamp,
            extension_len: elements.len() as u8,
            descriptor_len: descriptor.len() as u8,
            arrival: packet.arrived,
        };
        let held = encoding.history.bytes_held();
        if !encoding.history.push(now.mono, packet.ext, header, &parts) {
            return self.drops.count(Drop::NotStored);
        }
        let layers = Layers { spatial: packet.info.spatial, temporal: packet.info.temporal };
        encoding.rates.on_packet(now.mono, layers, parts.iter().map(|part| part.len()).sum());
        let grown = encoding.history.bytes_held().saturating_sub(held);
        let epoch = encoding.epoch;
        if !source.relays.is_empty() {
            self.mesh_media.publish(source, &packet, epoch, parts);
        }
        let wanted = forward(
            now.mono,
            key,
            source,
            &packet,
            frame.as_ref(),
            &mut self.consumers,
            &mut self.transports,
            &mut self.dirty,
            &mut self.layer_news.consumers,
            &mut self.forwarded,
        );
        if !self.layer_news.consumers.is_empty() {
            self.layer_news.gather(now.mono);
        }
        if grown > 0 && self.budget.grow(grown, key, &mut self.sources) {
            self.counters.histories_given_up += 1;
        }
        for encoding in (0..8u8).filter(|encoding| wanted & 1 << encoding != 0) {
            self.request_wanted(now, key, encoding);
        }
    }

    /// A packet that is not forwarded must not show as a loss.
    pub(super) fn skip(&mut self, key: Key<Source>, encoding: u8, ext: ExtSeq) {
        let Some(source) = self.sources.get(key) else { return };
        for consumer in &source.consumers {
            if let Some(consumer) = self.consumers.get_mut(*consumer)
                && consumer.is_attached_to(encoding)
            {
                consumer.rewriter.skip(ext);
            }
        }
        if !source.relays.is_empty() {
            self.mesh_media.skip(source, encoding, ext);
        }
    }

    pub(super) fn stream_mut(
        &mut self,
        producer: Key<Producer>,
        stream: u8,
    ) -> Option<&mut crate::router::producer::Stream> {
        self.producers.get_mut(producer)?.streams.get_mut(usize::from(stream))
    }
}

fn read_extensions<'a>(header: &RtpHeader, packet: &'a [u8], ids: &ExtensionIds) -> Extensions<'a> {
    let mut read = Extensions {
        mid: None,
        rid: None,
        repaired_rid: None,
        transport_seq: None,
        level: None,
        dependency_descriptor: &[],
        elements: [0; ELEMENTS_MAX],
        elements_len: 0,
    };
    for (id, data) in header.extensions(packet) {
        let Some(extension) = ids.find(id) else { continue };
        match extension {
            Extension::Mid => read.mid = Mid::new(data),
            Extension::Rid => read.rid = Rid::new(data),
            Extension::RepairedRid => read.repaired_rid = Rid::new(data),
            Extension::TransportCc => read.transport_seq = data.try_into().ok().map(u16::from_be_bytes),
            Extension::DependencyDescriptor if data.len() <= usize::from(u8::MAX) => read.dependency_descriptor = data,
            _ if PROXIED.contains(&extension) && (1..=16).contains(&data.len()) => {
                if extension == Extension::AudioLevel {
                    read.level = AudioLevel::parse(data);
                }
                let end = read.elements_len + 1 + data.len();
                if let Some(room) = read.elements.get_mut(read.elements_len..end) {
                    room[0] = extension.id() << 4 | (data.len() - 1) as u8;
                    room[1..].copy_from_slice(data);
                    read.elements_len = end;
                }
            }
            _ => {}
        }
    }
    read
}

/// The names by which a packet of an unknown SSRC can be recognised, read with one producer's ids.
pub(super) struct Names {
    pub ssrc: Ssrc,
    pub payload_type: PayloadType,
    pub mid: Option<Mid>,
    pub rid: Option<Rid>,
    pub repaired_rid: Option<Rid>,
}

pub(super) fn names(header: &RtpHeader, packet: &[u8], ids: &ExtensionIds) -> Names {
    let read = read_extensions(header, packet, ids);
    Names {
        ssrc: header.ssrc,
        payload_type: header.payload_type,
        mid: read.mid,
        rid: read.rid,
        repaired_rid: read.repaired_rid,
    }
}
