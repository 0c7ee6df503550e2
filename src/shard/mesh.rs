//! Records of other shards, each given to the mechanism that it is for.

use crate::base::id::{Layers, ShardId};
use crate::base::time::Now;
use crate::shard::closing;
use crate::shard::drops::Drop;
use crate::shard::flow;
use crate::shard::keyframes;
use crate::shard::layers;
use crate::shard::parameter_sets;
use crate::shard::relay::RelayMessage;
use crate::shard::relaying;
use crate::shard::shard::Shard;
use crate::shard::skip;
use crate::wire::codec::inspect;

impl Shard {
    pub fn handle_mesh(&mut self, now: Now, from: ShardId, record: &[u8]) {
        let Some(message) = RelayMessage::decode(record) else {
            return self.commons.ledger.drops.count(Drop::MalformedRelay);
        };
        match message {
            RelayMessage::Datagram { path, bytes } => self.take_handed_over(now, path, bytes),
            RelayMessage::Path { path, up: true } => self.demux.path_elsewhere(&mut self.commons, now, path, from),
            RelayMessage::Claim { path, claim } => self.demux.claimed(&mut self.commons, now, from, path, claim),
            RelayMessage::Path { path, up: false } => {
                self.demux.is_elsewhere_no_more(&path, from);
            }
            RelayMessage::Subscribe { producer } => relaying::subscribe(&mut self.commons, now, producer, from),
            RelayMessage::Unsubscribe { producer } => relaying::unsubscribe(&mut self.commons, now, producer, from),
            RelayMessage::Watched { producer, layers } => {
                layers::watched_elsewhere(&mut self.commons, now, producer, from, layers);
            }
            RelayMessage::KeyFrame { producer, encoding, first } => {
                if let Some(key) = self.commons.registry.source_keys.get(&producer).copied() {
                    keyframes::request(&mut self.commons, now, key, encoding, first);
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
        let Some(key) = relaying::stand_in(&self.commons.registry, producer, from) else {
            if matches!(message, RelayMessage::Media { .. }) {
                // Nobody here wants it any more, and its home has not heard.
                self.commons.port.send(from, &RelayMessage::Unsubscribe { producer });
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
                self.intake.publish(&mut self.commons, now, key, packet, parts);
            }
            RelayMessage::Skip { encoding, ext, .. } => skip::skip(&mut self.commons, now, key, encoding, ext),
            RelayMessage::Clock { encoding, ntp, rtp_timestamp, .. } => {
                if let Some(encoding) = source.encodings.get_mut(usize::from(encoding)) {
                    encoding.clock.set_mapping(ntp, rtp_timestamp);
                }
            }
            RelayMessage::Paused { paused, .. } => flow::set_source_paused(&mut self.commons, now, key, paused),
            RelayMessage::Withheld { withheld, .. } => source.set_withheld(withheld),
            RelayMessage::ParameterSets { encoding, units, .. } => parameter_sets::take(source, now, encoding, units),
            RelayMessage::Ranked { ranking, .. } => layers::ranked(&mut self.commons, now, key, ranking),
            RelayMessage::Closed { .. } => closing::close_source(&mut self.commons, now, key),
            _ => {}
        }
    }
}
