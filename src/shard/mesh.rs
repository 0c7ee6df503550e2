//! The shard's side of the mesh: sending relay messages, and acting on those that come.

use crate::base::buffer::Path;
use crate::base::id::{Layers, ProducerId, ShardId};
use crate::base::ranking::Ranking;
use crate::base::time::Now;
use crate::router::keys::SourceKey;
use crate::router::source::Origin;
use crate::shard::drops::Drop;
use crate::shard::relay::RelayMessage;
use crate::shard::shard::Shard;
use crate::wire::codec::inspect;
use crate::wire::{Kind, classify};

impl Shard {
    pub(super) fn send_relay(&mut self, to: ShardId, message: &RelayMessage<'_>) {
        self.commons.port.send(to, message);
    }

    pub fn handle_mesh(&mut self, now: Now, from: ShardId, record: &[u8]) {
        let Some(message) = RelayMessage::decode(record) else {
            return self.commons.ledger.drops.count(Drop::MalformedRelay);
        };
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
                self.commons.port.await_no_more(producer, from);
                if let Some(source) = self
                    .commons
                    .registry
                    .source_keys
                    .get(&producer)
                    .and_then(|key| self.commons.registry.sources.get_mut(*key))
                {
                    source.relays.retain(|shard| *shard != from);
                }
                self.layers_watched_elsewhere(now, producer, from, 0);
            }
            RelayMessage::Watched { producer, layers } => {
                self.layers_watched_elsewhere(now, producer, from, layers);
            }
            RelayMessage::KeyFrame { producer, encoding, first } => {
                if let Some(key) = self.commons.registry.source_keys.get(&producer).copied() {
                    self.request_key_frame(now, key, encoding, first);
                }
            }
            message => self.told_by_home(now, from, message),
        }
        self.commons.current = None;
    }

    /// A message of a producer's home to its stand-in here.
    fn told_by_home(&mut self, now: Now, from: ShardId, message: RelayMessage<'_>) {
        let producer = match message {
            RelayMessage::Media { producer, .. }
            | RelayMessage::Skip { producer, .. }
            | RelayMessage::Clock { producer, .. }
            | RelayMessage::Paused { producer, .. }
            | RelayMessage::Withheld { producer, .. }
            | RelayMessage::ParameterSets { producer, .. }
            | RelayMessage::Ranked { producer, .. }
            | RelayMessage::Closed { producer } => producer,
            _ => return,
        };
        let Some(key) = self.relayed(producer, from) else {
            if matches!(message, RelayMessage::Media { .. }) {
                // Nobody here wants it any more, and its home has not heard.
                self.send_relay(from, &RelayMessage::Unsubscribe { producer });
            }
            return;
        };
        let Some(source) = self.commons.registry.sources.get_mut(key) else { return };
        match message {
            RelayMessage::Media { mut packet, epoch, parts, .. } => {
                source.follow(packet.encoding, epoch);
                if packet.legible && source.top != Layers::default() {
                    // A record holds what a plain stream needs.
                    let starts_keyframe = packet.info.starts_keyframe;
                    packet.info = inspect(source.codec, parts[2]);
                    // The relay messages before it matter, too, and its home knows that.
                    packet.info.starts_keyframe |= starts_keyframe;
                }
                self.publish(now, key, packet, parts);
            }
            RelayMessage::Skip { encoding, ext, .. } => self.skip(now, key, encoding, ext),
            RelayMessage::Clock { encoding, ntp, rtp_timestamp, .. } => {
                if let Some(encoding) = source.encodings.get_mut(usize::from(encoding)) {
                    encoding.clock.set_mapping(ntp, rtp_timestamp);
                }
            }
            RelayMessage::Paused { paused, .. } => self.set_source_paused(now, key, paused),
            RelayMessage::Withheld { withheld, .. } => source.set_withheld(withheld),
            RelayMessage::ParameterSets { encoding, units, .. } => {
                self.take_parameter_sets(now, key, encoding, units);
            }
            RelayMessage::Ranked { ranking, .. } => self.ranked(now, key, ranking),
            RelayMessage::Closed { .. } => self.close_source(now, key),
            _ => {}
        }
    }

    /// The local stand-in for a producer whose home is `from`.
    fn relayed(&self, producer: ProducerId, from: ShardId) -> Option<SourceKey> {
        let key = *self.commons.registry.source_keys.get(&producer)?;
        matches!(self.commons.registry.sources.get(key)?.origin, Origin::Relay(home) if home == from).then_some(key)
    }

    /// Signalling tells the home of a producer before it tells anyone of a consumer; but commands come by another way,
    /// and may still be waiting when the mesh has brought this.
    fn subscribe(&mut self, now: Now, producer: ProducerId, from: ShardId) {
        let Some(source) = self
            .commons
            .registry
            .source_keys
            .get(&producer)
            .and_then(|key| self.commons.registry.sources.get_mut(*key))
        else {
            if !self.commons.port.await_producer(now.mono, producer, from) {
                self.send_relay(from, &RelayMessage::Closed { producer });
            }
            return;
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
        for shard in self.commons.port.awaiting(producer) {
            self.subscribe(now, producer, shard);
        }
    }

    /// A datagram another shard got in our place. It is never handed over again: two shards that disagree must not play
    /// ping-pong.
    fn handed_over(&mut self, now: Now, path: Path, datagram: &[u8]) {
        self.commons.ledger.counters.taken_over += 1;
        let kind = classify(datagram);
        if kind == Kind::Stun {
            return self.handle_stun(now, path, datagram);
        }
        let Some(key) = self.paths.owner(&path) else { return self.commons.ledger.drops.count(Drop::UnknownPath) };
        let mut buffer = [0; crate::base::buffer::DATAGRAM_MAX];
        let Some(copy) = buffer.get_mut(..datagram.len()) else { return };
        copy.copy_from_slice(datagram);
        let taken = match kind {
            Kind::Dtls => self.take_dtls(now, path, key, datagram),
            Kind::Rtp => self.take_rtp(now, now.mono, path, key, copy),
            Kind::Rtcp => self.take_rtcp(now, now.mono, path, key, copy),
            Kind::Stun | Kind::Unknown => return self.commons.ledger.drops.count(Drop::UnknownProtocol),
        };
        match taken {
            // Its holder has tried it before.
            Err(why) if self.paths.holder(&path).is_some() => self.commons.ledger.drops.secure(why),
            Err(why) => self.try_rivals(now, now.mono, path, datagram, why),
            Ok(()) => {}
        }
    }
}
