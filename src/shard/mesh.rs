//! The shard's side of the mesh: sending relay messages, and acting on those that come.

use crate::base::buffer::Path;
use crate::base::id::{Layers, ProducerId, ShardId};
use crate::base::limits::{RELAY_WAIT, RELAYS_AWAITED_MAX};
use crate::base::ranking::Ranking;
use crate::base::seq::ExtSeq;
use crate::base::time::Now;
use crate::router::keys::SourceKey;
use crate::router::packet::Packet;
use crate::router::source::{Origin, Source};
use crate::shard::drops::Drop;
use crate::shard::relay::RelayMessage;
use crate::shard::shard::{Awaited, MeshMedia, Shard};
use crate::wire::codec::inspect;
use crate::wire::{Kind, classify};

impl Shard {
    pub(super) fn send_relay(&mut self, to: ShardId, message: &RelayMessage<'_>) {
        let mut record = Vec::new();
        message.encode(&mut record);
        self.mesh.push((to, record.into_boxed_slice()));
    }

    pub fn handle_mesh(&mut self, now: Now, from: ShardId, record: &[u8]) {
        let Some(message) = RelayMessage::decode(record) else { return self.drops.count(Drop::MalformedRelay) };
        match message {
            RelayMessage::Datagram { path, bytes } => self.handed_over(now, path, bytes),
            RelayMessage::Path { path, up: true } => self.path_elsewhere(now, path, from),
            RelayMessage::Claim { path, claim } => self.claimed(now, from, path, claim),
            RelayMessage::Path { path, up: false } => {
                if self.elsewhere.get(&path) == Some(&from) {
                    self.elsewhere.remove(&path);
                }
            }
            RelayMessage::Subscribe { producer } => self.subscribe(now, producer, from),
            RelayMessage::Unsubscribe { producer } => {
                self.awaited.retain(|relay| (relay.producer, relay.to) != (producer, from));
                if let Some(source) = self.source_keys.get(&producer).and_then(|key| self.sources.get_mut(*key)) {
                    source.relays.retain(|shard| *shard != from);
                }
                self.layers_watched_elsewhere(now, producer, from, 0);
            }
            RelayMessage::Watched { producer, layers } => {
                self.layers_watched_elsewhere(now, producer, from, layers);
            }
            RelayMessage::KeyFrame { producer, encoding, first } => {
                if let Some(key) = self.source_keys.get(&producer).copied() {
                    self.request_key_frame(now, key, encoding, first);
                }
            }
            RelayMessage::Media { producer, mut packet, epoch, parts } => {
                let Some(key) = self.relayed(producer, from) else {
                    // Nobody here wants it any more, and its home has not heard.
                    return self.send_relay(from, &RelayMessage::Unsubscribe { producer });
                };
                if let Some(source) = self.sources.get_mut(key) {
                    source.follow(packet.encoding, epoch);
                    if packet.legible && source.top != Layers::default() {
                        // A record holds what a plain stream needs.
                        let starts_keyframe = packet.info.starts_keyframe;
                        packet.info = inspect(source.codec, parts[2]);
                        // The relay messages before it matter, too, and its home knows that.
                        packet.info.starts_keyframe |= starts_keyframe;
                    }
                }
                self.publish(now, key, packet, parts);
            }
            RelayMessage::Skip { producer, encoding, ext } => {
                if let Some(key) = self.relayed(producer, from) {
                    self.skip(now, key, encoding, ext);
                }
            }
            RelayMessage::Clock { producer, encoding, ntp, rtp_timestamp } => {
                let Some(source) = self.relayed(producer, from).and_then(|key| self.sources.get_mut(key)) else {
                    return;
                };
                if let Some(encoding) = source.encodings.get_mut(usize::from(encoding)) {
                    encoding.clock.set_mapping(ntp, rtp_timestamp);
                }
            }
            RelayMessage::Paused { producer, paused } => {
                if let Some(key) = self.relayed(producer, from) {
                    self.set_source_paused(now, key, paused);
                }
            }
            RelayMessage::Withheld { producer, withheld } => {
                if let Some(source) = self.relayed(producer, from).and_then(|key| self.sources.get_mut(key)) {
                    source.set_withheld(withheld);
                }
            }
            RelayMessage::ParameterSets { producer, encoding, units } => {
                if let Some(key) = self.relayed(producer, from) {
                    self.take_parameter_sets(now, key, encoding, units);
                }
            }
            RelayMessage::Ranked { producer, ranking } => {
                if let Some(key) = self.relayed(producer, from) {
                    self.ranked(now, key, ranking);
                }
            }
            RelayMessage::Closed { producer } => {
                if let Some(key) = self.relayed(producer, from) {
                    self.close_source(now, key);
                }
            }
        }
        self.current = None;
    }

    /// The local stand-in for a producer whose home is `from`.
    fn relayed(&self, producer: ProducerId, from: ShardId) -> Option<SourceKey> {
        let key = *self.source_keys.get(&producer)?;
        matches!(self.sources.get(key)?.origin, Origin::Relay(home) if home == from).then_some(key)
    }

    /// Signalling tells the home of a producer before it tells anyone of a consumer; but commands come by another way,
    /// and may still be waiting when the mesh has brought this.
    fn subscribe(&mut self, now: Now, producer: ProducerId, from: ShardId) {
        let Some(source) = self.source_keys.get(&producer).and_then(|key| self.sources.get_mut(*key)) else {
            if self.awaited.len() >= RELAYS_AWAITED_MAX {
                return self.send_relay(from, &RelayMessage::Closed { producer });
            }
            return self.awaited.push_back(Awaited { producer, to: from, until: now.mono + RELAY_WAIT });
        };
        if !source.relays.contains(&from) {
            source.relays.push(from);
        }
        let (paused, withheld, ranking) = (source.paused, source.withheld, source.active.ranking);
        let clocks: Vec<_> = source.encodings.iter().map(|encoding| encoding.clock.mapping()).collect();
        self.send_relay(from, &RelayMessage::Paused { producer, paused });
        if withheld {
            self.send_relay(from, &RelayMessage::Withheld { producer, withheld });
        }
        if ranking != Ranking::default() {
            self.send_relay(from, &RelayMessage::Ranked { producer, ranking });
        }
        for (encoding, clock) in clocks.into_iter().enumerate() {
            if let Some((ntp, rtp_timestamp)) = clock {
                let encoding = encoding as u8;
                self.send_relay(from, &RelayMessage::Clock { producer, encoding, ntp, rtp_timestamp });
            }
        }
    }

    /// The producer has come that other shards may have subscribed to.
    pub(super) fn relay_to_awaiting(&mut self, now: Now, producer: ProducerId) {
        let shards: Vec<_> = self.awaited.iter().filter(|relay| relay.producer == producer).map(|r| r.to).collect();
        self.awaited.retain(|relay| relay.producer != producer);
        for shard in shards {
            self.subscribe(now, producer, shard);
        }
    }

    /// Tells the subscribers of a producer that never came.
    pub(super) fn give_up_awaited(&mut self, now: Now) {
        while let Some(Awaited { producer, to, .. }) = self.awaited.pop_front_if(|relay| relay.until <= now.mono) {
            self.send_relay(to, &RelayMessage::Closed { producer });
        }
    }

    /// A datagram another shard got in our place. It is never handed over again: two shards that disagree must not play
    /// ping-pong.
    fn handed_over(&mut self, now: Now, path: Path, datagram: &[u8]) {
        self.counters.taken_over += 1;
        let kind = classify(datagram);
        if kind == Kind::Stun {
            return self.handle_stun(now, path, datagram);
        }
        let Some(key) = self.paths.owner(&path) else { return self.drops.count(Drop::UnknownPath) };
        let mut buffer = [0; crate::base::buffer::DATAGRAM_MAX];
        let Some(copy) = buffer.get_mut(..datagram.len()) else { return };
        copy.copy_from_slice(datagram);
        let taken = match kind {
            Kind::Dtls => self.take_dtls(now, path, key, datagram),
            Kind::Rtp => self.take_rtp(now, now.mono, path, key, copy),
            Kind::Rtcp => self.take_rtcp(now, now.mono, path, key, copy),
            Kind::Stun | Kind::Unknown => return self.drops.count(Drop::UnknownProtocol),
        };
        match taken {
            // Its holder has tried it before.
            Err(why) if self.paths.holder(&path).is_some() => self.drops.secure(why),
            Err(why) => self.try_rivals(now, now.mono, path, datagram, why),
            Ok(()) => {}
        }
    }
}

impl MeshMedia {
    /// Encoded once, sent to each shard that has consumers.
    pub(super) fn publish(&mut self, source: &Source, packet: &Packet, epoch: u32, parts: [&[u8]; 3]) {
        let producer = source.producer;
        self.push(source, &RelayMessage::Media { producer, packet: *packet, epoch, parts });
    }

    pub(super) fn skip(&mut self, source: &Source, encoding: u8, ext: ExtSeq) {
        self.push(source, &RelayMessage::Skip { producer: source.producer, encoding, ext });
    }

    pub(super) fn parameter_sets(&mut self, source: &Source, encoding: u8, units: &[u8]) {
        self.push(source, &RelayMessage::ParameterSets { producer: source.producer, encoding, units });
    }

    fn push(&mut self, source: &Source, message: &RelayMessage<'_>) {
        let start = self.bytes.len();
        message.encode(&mut self.bytes);
        let end = self.bytes.len();
        self.records.extend(source.relays.iter().map(|shard| (*shard, start, end)));
    }
}
