//! One RTP packet from the wire into its source's history and on to the consumers.

use crate::base::buffer::Path;
use crate::base::seq::Seq;
use crate::base::slab::Key;
use crate::base::time::{Instant, Now};
use crate::media::history::StoredHeader;
use crate::media::layers::Layers;
use crate::router::forward::{Fanout, forward};
use crate::router::keys::{ProducerKey, SourceKey};
use crate::router::packet::Packet;
use crate::router::stream::{Gaps, Incoming, Placed, Unplaced};
use crate::secure::Dropped;
use crate::shard::command::{Event, MediaKind};
use crate::shard::drops::Drop;
use crate::shard::elements::Extensions;
use crate::shard::shard::Shard;
use crate::shard::wiring::Route;
use crate::transport::Transport;
use crate::wire::codec::{Codec, PayloadInfo, inspect};
use crate::wire::extension::AudioLevel;
use crate::wire::rtp::RtpHeader;

/// A media packet as it counts after RTX has been unwrapped.
struct MediaPacket<'a> {
    route: Route,
    arrived: Instant,
    seq: Seq,
    timestamp: u32,
    marker: bool,
    payload: &'a [u8],
    /// Of a payload type that is not the producer's (telephone events, comfort noise, another codec): one of its stream's
    /// numbers, and nobody's media.
    foreign: bool,
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
            self.commons.ledger.drops.secure(why);
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
        self.commons.current = Some(key);
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return Ok(()) };
        let Some(up) = transport.link.up() else {
            self.keep_early(now, arrived, path, key, bytes);
            return Ok(());
        };
        let Ok(header) = RtpHeader::parse(bytes) else {
            self.commons.ledger.drops.count(Drop::MalformedRtp);
            return Ok(());
        };
        let wire_bytes = bytes.len();
        let len = up.opener.open_rtp(header.len(), header.ssrc, header.seq, bytes)?;
        let packet = &bytes[..len];
        if transport.bounded {
            transport.proof.heard(path, wire_bytes);
        }
        transport.traffic.packets_received += 1;
        self.commons.ledger.counters.received += 1;
        transport.traffic.bytes_received += wire_bytes as u64;
        if transport.traffic.packets_received == 1 {
            self.commons.ledger.events.push_back(Event::FirstPacket { transport: transport.id, incoming: true });
        }

        match self.commons.registry.wiring[key.slot()].route(header.ssrc) {
            Some(route) => self.routed(now, arrived, key, route, &header, packet, false),
            None => self.unknown(now, arrived, key, &header, packet),
        }
        Ok(())
    }

    /// Whether it is RTP of a video producer that is known here, as far as can be told without opening it.
    pub(super) fn is_video(&mut self, path: Path, bytes: &[u8]) -> bool {
        let route = self.paths.owner(&path).zip(RtpHeader::parse(bytes).ok());
        let route = route.and_then(|(key, header)| self.commons.registry.wiring[key.slot()].route(header.ssrc));
        let producer = route.and_then(|route| self.commons.registry.producers.get(route.producer));
        producer.is_some_and(|producer| producer.spec.kind == MediaKind::Video)
    }

    /// A decrypted packet whose producer is known. `noted`: so is its arrival.
    #[expect(clippy::too_many_arguments, reason = "plain arguments: what is known of the packet so far")]
    pub(super) fn routed(
        &mut self,
        now: Now,
        arrived: Instant,
        key: Key<Transport>,
        route: Route,
        header: &RtpHeader,
        packet: &[u8],
        noted: bool,
    ) {
        let Some(transport) = self.commons.registry.transports.get(key) else { return };
        let extensions = Extensions::read(header, packet, &transport.extensions, &transport.clock);
        if let (Some(seq), false) = (extensions.transport_seq, noted) {
            self.note_arrival(arrived, key, seq);
        }
        self.unwrap(now, arrived, key, route, header, packet, &extensions);
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
        let Ok(payload) = header.payload(packet) else { return self.commons.ledger.drops.count(Drop::MalformedRtp) };
        let Some(producer) = self.commons.registry.producers.get(route.producer) else { return };

        let agreed = |theirs| header.payload_type == theirs;
        let (seq, payload, foreign) = if route.rtx {
            // One without a payload is a bandwidth probe.
            let Some((osn, original)) = payload.split_first_chunk::<2>() else {
                return self.commons.ledger.drops.count(Drop::PaddingOnly);
            };
            (Seq(u16::from_be_bytes(*osn)), original, !producer.spec.rtx_payload_type.is_some_and(agreed))
        } else {
            (header.seq, payload, !agreed(producer.spec.payload_type))
        };
        let media = MediaPacket {
            route,
            arrived,
            seq,
            timestamp: header.timestamp,
            marker: header.marker,
            payload,
            foreign,
            level: extensions.level,
            elements: extensions.passed(),
            descriptor: extensions.dependency_descriptor,
            wire_bytes,
        };
        self.receive_media(now, key, media);
    }

    /// Transport-wide feedback counts every packet with a number, RTX and padding too.
    pub(super) fn note_arrival(&mut self, arrived: Instant, key: Key<Transport>, seq: u16) {
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        transport.arrivals.on_packet(arrived, seq);
        if let Some(deadline) = transport.arrivals.next_deadline() {
            self.commons.arm_patient(key, deadline);
        }
    }

    fn receive_media(&mut self, now: Now, key: Key<Transport>, media: MediaPacket<'_>) {
        let MediaPacket { route, arrived, seq, timestamp, marker, payload, foreign, wire_bytes, .. } = media;
        let Some(producer) = self.commons.registry.producers.get_mut(route.producer) else { return };
        let spoke_again = producer.heard(now.mono);
        let (id, source_key) = (producer.id, producer.source);
        let video = producer.spec.kind == MediaKind::Video;
        let gaps = match producer.spec.feedback.nack {
            true if self.overload.shed_lately(now.mono) => Gaps::GivenUp,
            true => Gaps::AskedFor,
            false => Gaps::Left,
        };
        let Some(stream) = producer.streams.get_mut(usize::from(route.stream)) else { return };
        let incoming = Incoming { arrived, seq, timestamp, wire_bytes, rtx: route.rtx, foreign };
        let placed = match stream.place(now.mono, &incoming, gaps) {
            Ok(placed) => placed,
            Err(Unplaced::Duplicate) => return self.commons.ledger.drops.count(Drop::DuplicateRtp),
            Err(Unplaced::Unconfirmed) => return self.commons.ledger.drops.count(Drop::UnconfirmedJump),
        };
        //= RFC 7741 section 4.1, and alike for all video codecs: the marker is on the last packet of a picture.
        stream.frames += u64::from(video && marker && !foreign);
        if spoke_again {
            self.commons.ledger.events.push_back(Event::ProducerSilent { producer: id, silent: false });
        }
        if let Some(remb) = self.commons.registry.transports.get_mut(key).and_then(|transport| transport.remb.as_mut())
        {
            remb.on_packet(wire_bytes, arrived);
        }
        if let Some(at) = placed.nack_due {
            self.commons.arm(key, at);
        }
        if placed.restarted
            && let Some(source) = self.commons.registry.sources.get_mut(source_key)
        {
            source.restart(route.stream);
        }
        if foreign || payload.is_empty() {
            self.commons.ledger.drops.count(if foreign { Drop::WrongPayloadType } else { Drop::PaddingOnly });
            return self.skip(now, source_key, route.stream, placed.ext);
        }
        self.pass_on(now, source_key, placed, media);
    }

    /// A packet of media that has its place in its stream.
    fn pass_on(&mut self, now: Now, source_key: SourceKey, placed: Placed, media: MediaPacket<'_>) {
        let MediaPacket { route, arrived, marker, payload, level, elements, descriptor, .. } = media;
        let Placed { ext, timestamp, .. } = placed;
        let Some(producer) = self.commons.registry.producers.get(route.producer) else { return };
        let (paused, codec, video) = (producer.paused, producer.spec.codec, producer.spec.kind == MediaKind::Video);
        let mut info = if video { inspect(codec, payload) } else { PayloadInfo::default() };
        if codec == Codec::H264 {
            self.read_parameter_sets(source_key, route.stream, (ext, timestamp, arrived), payload, &mut info);
        }
        if paused {
            return self.commons.ledger.drops.count(Drop::ProducerPaused);
        }
        if !video {
            self.hear(now, route.producer, level, payload);
        }
        if self.commons.registry.sources.get(source_key).is_none_or(|source| source.withheld) {
            return self.commons.ledger.drops.count(Drop::BeyondLastN);
        }
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
    pub(super) fn publish(&mut self, now: Now, key: SourceKey, mut packet: Packet, parts: [&[u8]; 3]) {
        let Some(source) = self.commons.registry.sources.get_mut(key) else { return };
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
            return self.commons.ledger.drops.count(Drop::NotStored);
        }
        let layers = Layers { spatial: packet.info.spatial, temporal: packet.info.temporal };
        encoding.rates.on_packet(now.mono, layers, parts.iter().map(|part| part.len()).sum());
        let grown = encoding.history.bytes_held().saturating_sub(held);
        let epoch = encoding.epoch;
        if !source.relays.is_empty() {
            self.commons.port.media.publish(source, &packet, epoch, parts);
        }
        let fanout = Fanout {
            consumers: &mut self.commons.registry.consumers,
            transports: &mut self.commons.registry.transports,
            dirty: &mut self.commons.outlet.dirty,
            news: &mut self.commons.news.consumers,
            counts: &mut self.commons.ledger.forwarded,
        };
        let wanted = forward(now.mono, key, source, &packet, frame.as_ref(), fanout);
        let ranking = source.measure(now.mono, &packet, parts[2]);
        if !self.commons.news.consumers.is_empty() {
            self.commons.news.gather(now.mono);
        }
        if grown > 0 && self.budget.grow(grown, key, &mut self.commons.registry.sources) {
            self.commons.ledger.counters.histories_given_up += 1;
        }
        for encoding in (0..8u8).filter(|encoding| wanted & 1 << encoding != 0) {
            self.request_wanted(now, key, encoding);
        }
        if let Some(ranking) = ranking {
            self.ranked(now, key, ranking);
        }
    }

    pub(super) fn stream_mut(
        &mut self,
        producer: ProducerKey,
        stream: u8,
    ) -> Option<&mut crate::router::stream::Stream> {
        self.commons.registry.producers.get_mut(producer)?.streams.get_mut(usize::from(stream))
    }
}
