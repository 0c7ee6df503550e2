//! One RTP packet from the wire into its source's history and on to the consumers.

use crate::base::buffer::Path;
use crate::base::id::Layers;
use crate::base::slab::Key;
use crate::base::time::{Instant, Now};
use crate::media::history::StoredHeader;
use crate::router::forward::{Fanout, forward};
use crate::router::keys::SourceKey;
use crate::router::packet::Packet;
use crate::router::stream::{Gaps, StreamPacket, StreamPlace, Unplaced};
use crate::secure::SecureDrop;
use crate::shard::budget::Budget;
use crate::shard::command::{Event, MediaKind};
use crate::shard::commons::{Commons, note_arrival};
use crate::shard::drops::ShardDrop;
use crate::shard::hearing::Hearing;
use crate::shard::keyframes;
use crate::shard::layers;
use crate::shard::overload::Overload;
use crate::shard::parameter_sets;
use crate::shard::received::{Content, Received};
use crate::shard::registry::Registry;
use crate::shard::skip;
use crate::transport::Transport;
use crate::wire::codec::{Codec, PayloadInfo, inspect};
use crate::wire::rtp::RtpHeader;

/// What a packet's producer says about it.
#[derive(Clone, Copy)]
struct ProducerFacts {
    source: SourceKey,
    codec: Codec,
    video: bool,
    paused: bool,
}

/// The result of taking a datagram of RTP.
#[must_use]
pub(super) enum RtpTaken {
    Whole,
    /// Its transport has no keys yet.
    Early,
    /// It was opened, and has this length; its SSRC has no route yet.
    Unrouted(RtpHeader, usize),
}

/// The intake of RTP, with the state that it alone needs: load shedding, levels, the budget of histories.
#[derive(Default)]
pub(super) struct Intake {
    pub(super) overload: Overload,
    pub(super) hearing: Hearing,
    budget: Budget,
}

impl Intake {
    /// Opens one datagram of RTP. Err: it is not sealed with this transport's keys.
    pub(super) fn take_rtp(
        &mut self,
        commons: &mut Commons,
        now: Now,
        arrived: Instant,
        path: Path,
        key: Key<Transport>,
        bytes: &mut [u8],
    ) -> Result<RtpTaken, SecureDrop> {
        commons.current = Some(key);
        let Commons { registry, timers, ledger, .. } = &mut *commons;
        let Some(transport) = registry.transports.get_mut(key) else { return Ok(RtpTaken::Whole) };
        let Some(opener) = transport.kind.opener() else { return Ok(RtpTaken::Early) };
        let Ok(header) = RtpHeader::parse(bytes) else {
            ledger.drops.count(ShardDrop::MalformedRtp);
            return Ok(RtpTaken::Whole);
        };
        let wire_bytes = bytes.len();
        let len = opener.open_rtp(header.len(), header.ssrc, header.seq, bytes)?;
        transport.kind.heard(path, wire_bytes);
        transport.traffic.packets_received += 1;
        ledger.counters.received += 1;
        transport.traffic.bytes_received += wire_bytes as u64;
        if transport.traffic.packets_received == 1 {
            ledger.events.push_back(Event::FirstPacket { transport: transport.id, incoming: true });
        }

        let Some(route) = registry.wiring[key.slot()].route(header.ssrc) else {
            return Ok(RtpTaken::Unrouted(header, len));
        };
        let received = Received::read(transport, route, arrived, &header, &bytes[..len]);
        if let Some(seq) = received.extensions.transport_seq {
            note_arrival(timers, transport, arrived, key, seq);
        }
        self.receive(commons, now, key, &received);
        Ok(RtpTaken::Whole)
    }

    /// Takes a packet whose producer is known, and whose arrival is noted.
    pub(super) fn receive(&mut self, commons: &mut Commons, now: Now, key: Key<Transport>, received: &Received<'_>) {
        let Received { route, arrived, ref header, estimated, .. } = *received;
        let Some(producer) = commons.registry.producers.get_mut(route.producer) else { return };
        let content = match received.content(&producer.spec) {
            Ok(content) => content,
            Err(why) => return commons.ledger.drops.count(why),
        };
        let Content { seq, payload, foreign } = content;
        let (spoke_again, id) = (producer.heard(now.mono), producer.id);
        let video = producer.spec.kind == MediaKind::Video;
        let of = ProducerFacts { source: producer.source, codec: producer.spec.codec, video, paused: producer.paused };
        let gaps = match producer.spec.feedback.nack {
            true if self.overload.shed_lately(now.mono) => Gaps::GivenUp,
            true => Gaps::AskedFor,
            false => Gaps::Left,
        };
        let Some(stream) = producer.streams.get_mut(usize::from(route.stream)) else { return };
        let wire_bytes = received.wire_bytes();
        let incoming = StreamPacket { arrived, seq, timestamp: header.timestamp, wire_bytes, rtx: route.rtx, foreign };
        let placed = match stream.place(now.mono, &incoming, gaps) {
            Ok(placed) => placed,
            Err(Unplaced::Duplicate) => return commons.ledger.drops.count(ShardDrop::DuplicateRtp),
            Err(Unplaced::Unconfirmed) => return commons.ledger.drops.count(ShardDrop::UnconfirmedJump),
        };
        //= RFC 7741 section 4.1, and alike for all video codecs: the marker is on the last packet of a picture.
        stream.frames += u64::from(video && header.marker && !foreign);
        if spoke_again {
            commons.ledger.events.push_back(Event::ProducerSilent { producer: id, silent: false });
        }
        if estimated
            && let Some(remb) = commons.registry.transports.get_mut(key).and_then(|transport| transport.remb.as_mut())
        {
            remb.on_packet(wire_bytes, arrived);
        }
        if let Some(at) = placed.nack_due {
            commons.arm(key, at);
        }
        if placed.restarted
            && let Some(source) = commons.registry.sources.get_mut(of.source)
        {
            source.restart(route.stream);
        }
        if foreign || payload.is_empty() {
            commons.ledger.drops.count(if foreign { ShardDrop::WrongPayloadType } else { ShardDrop::PaddingOnly });
            return skip::skip(commons, now, of.source, route.stream, placed.ext);
        }
        self.pass_on(commons, now, received, payload, placed, of);
    }

    /// Passes on a packet of media that has its place in its stream.
    fn pass_on(
        &mut self,
        commons: &mut Commons,
        now: Now,
        received: &Received<'_>,
        payload: &[u8],
        placed: StreamPlace,
        of: ProducerFacts,
    ) {
        let Received { route, arrived, ref header, ref extensions, .. } = *received;
        let StreamPlace { ext, timestamp, .. } = placed;
        let mut info = if of.video { inspect(of.codec, payload) } else { PayloadInfo::default() };
        let Commons { registry, port, .. } = &mut *commons;
        let Some(source) = registry.sources.get_mut(of.source) else { return };
        if of.codec == Codec::H264 {
            let at = (ext, timestamp, arrived);
            parameter_sets::read(source, port, route.stream, at, payload, &mut info);
        }
        let withheld = source.withheld;
        if of.paused {
            return commons.ledger.drops.count(ShardDrop::ProducerPaused);
        }
        if !of.video {
            let (registry, events) = (&mut commons.registry, &mut commons.ledger.events);
            self.hearing.hear(registry, events, now, route.producer, extensions.level, payload);
        }
        if withheld {
            return commons.ledger.drops.count(ShardDrop::BeyondLastN);
        }
        if info.starts_keyframe
            && let Some(stream) = commons.registry.stream_mut(route.producer, route.stream)
        {
            stream.key_frames += 1;
        }
        let marker = header.marker;
        let packet = Packet { encoding: route.stream, ext, arrived, timestamp, marker, legible: true, info };
        // The others say all of it in their payloads' own descriptors.
        let descriptor =
            if matches!(of.codec, Codec::Av1 | Codec::H264) { extensions.dependency_descriptor } else { &[] };
        self.publish(commons, now, of.source, packet, [extensions.passed(), descriptor, payload]);
    }

    /// Puts a packet into the history, sends it to the shards that subscribe, and forwards it; a relayed packet, too.
    /// `parts`: header-extension elements, dependency descriptor, payload.
    pub(super) fn publish(
        &mut self,
        commons: &mut Commons,
        now: Now,
        key: SourceKey,
        mut packet: Packet,
        parts: [&[u8]; 3],
    ) {
        let Some(source) = commons.registry.sources.get_mut(key) else { return };
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
        let fits = |part: &[u8]| part.len() <= usize::from(u8::MAX);
        debug_assert!(fits(elements) && fits(descriptor), "bounded where they are read");
        let header = StoredHeader {
            marker: packet.marker,
            timestamp: packet.timestamp,
            extension_len: elements.len() as u8,
            descriptor_len: descriptor.len() as u8,
            arrival: packet.arrived,
        };
        let held = encoding.history.bytes_held();
        if !encoding.history.push(now.mono, packet.ext, header, &parts) {
            return commons.ledger.drops.count(ShardDrop::NotStored);
        }
        let layers = Layers { spatial: packet.info.spatial, temporal: packet.info.temporal };
        encoding.rates.on_packet(now.mono, layers, parts.iter().map(|part| part.len()).sum());
        let grown = encoding.history.bytes_held().saturating_sub(held);
        let epoch = encoding.epoch;
        if !source.subscribers.is_empty() {
            commons.port.media.publish(now.mono, source, &packet, epoch, parts);
        }
        if !source.exports.is_empty() {
            commons.port.lanes.publish(key, source, &packet, epoch);
        }
        let fanout = Fanout {
            consumers: &mut commons.registry.consumers,
            transports: &mut commons.registry.transports,
            dirty: &mut commons.outlet.dirty,
            layers_changed: &mut commons.layer_changes.consumers,
            counts: &mut commons.ledger.forwarded,
        };
        let wanted = forward(now.mono, key, source, &packet, frame.as_ref(), fanout);
        let ranking = source.measure(now.mono, &packet, parts[2]);
        if !commons.layer_changes.consumers.is_empty() {
            commons.layer_changes.gather(now.mono);
        }
        if grown > 0 && self.budget.grow(grown, key, &mut commons.registry.sources) {
            commons.ledger.counters.histories_given_up += 1;
        }
        for encoding in (0..8u8).filter(|encoding| wanted & 1 << encoding != 0) {
            keyframes::request_wanted(commons, now, key, encoding);
        }
        if let Some(ranking) = ranking {
            layers::ranked(commons, now, key, ranking);
        }
    }
}

/// Whether a transport's packet belongs to a known video producer, by its SSRC alone and without opening it.
pub(super) fn is_video(registry: &Registry, key: Key<Transport>, bytes: &[u8]) -> bool {
    let route = RtpHeader::parse(bytes).ok().and_then(|header| registry.wiring[key.slot()].route(header.ssrc));
    let producer = route.and_then(|route| registry.producers.get(route.producer));
    producer.is_some_and(|producer| producer.spec.kind == MediaKind::Video)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ProducerId;
    use crate::secure::srtp::{Sealer, SrtpProfile};
    use crate::shard::fixture::{Fixture, HERE, keys, path, rtp, video};
    use crate::shard::wiring::Route;

    fn arrive(fixture: &mut Fixture, key: Key<Transport>, packet: &[u8], rtx: bool) {
        let header = RtpHeader::parse(packet).unwrap();
        let producer = fixture.commons.registry.producer_keys[&ProducerId(7)];
        let (route, now) = (Route { producer, stream: 0, rtx }, fixture.now);
        let transport = fixture.commons.registry.transports.get(key).unwrap();
        let received = Received::read(transport, route, now.mono, &header, packet);
        fixture.intake.receive(&mut fixture.commons, now, key, &received);
    }

    /// The first packet of a keyframe of VP8.
    const KEYFRAME: [u8; 12] = [0x10, 0x50, 0, 0, 0x9d, 1, 0x2a, 64, 1, 240, 0, 0];

    #[test]
    fn a_packet_goes_into_the_history_and_on_to_the_consumers_and_its_repeat_nowhere() {
        let mut fixture = Fixture::new();
        let (publisher, watcher) = (fixture.connected(1), fixture.connected(2));
        fixture.producer(7, 1, video(100));
        fixture.consumer(3, 2, 7, HERE);
        arrive(&mut fixture, publisher, &rtp(100, 96, 1_000, None, &KEYFRAME), false);
        // RTX of it: its number, then the same payload.
        let repeat = [&1_000u16.to_be_bytes()[..], &KEYFRAME].concat();
        arrive(&mut fixture, publisher, &rtp(101, 97, 5, None, &repeat), true);
        arrive(&mut fixture, publisher, &rtp(101, 97, 6, None, &[]), true);
        arrive(&mut fixture, publisher, &rtp(100, 13, 1_001, None, b"noise"), false);
        let drops = &fixture.commons.ledger.drops;
        let counted =
            [ShardDrop::DuplicateRtp, ShardDrop::PaddingOnly, ShardDrop::WrongPayloadType].map(|why| drops.of(why));
        assert_eq!((counted, fixture.commons.ledger.forwarded.forwarded), ([1, 1, 1], 1));
        assert_eq!(fixture.commons.outlet.dirty, [watcher]);
    }

    #[test]
    fn what_it_cannot_do_alone_it_returns() {
        let mut fixture = Fixture::new();
        let (keyless, key) = (fixture.transport(1), fixture.connected(2));
        let plain = rtp(100, 96, 1, None, &KEYFRAME);
        let take = |fixture: &mut Fixture, key, bytes: &mut [u8]| {
            let Fixture { commons, intake, now, .. } = fixture;
            intake.take_rtp(commons, *now, now.mono, path(1), key, bytes)
        };
        assert!(matches!(take(&mut fixture, keyless, &mut plain.clone()), Ok(RtpTaken::Early)));
        assert!(take(&mut fixture, key, &mut plain.clone()).is_err(), "not under its keys");
        let mut sealed = [&plain[..], &[0; 16]].concat();
        let mut sealer = Sealer::new(SrtpProfile::AeadAes128Gcm, &keys());
        let len = sealer.seal_rtp(1, &mut sealed, 12, plain.len()).unwrap();
        let Ok(RtpTaken::Unrouted(header, len)) = take(&mut fixture, key, &mut sealed[..len]) else { panic!() };
        assert_eq!((header.ssrc.0, &sealed[..len]), (100, &plain[..]), "opened, and nobody's yet");
    }
}
