//! The levels of the producers that live here, reported to signalling while it listens, and the producers that are
//! withheld (last-N). Audio packets alone drive it: it has no timer, so a shard without audio is never woken for it,
//! and signalling takes an unreported producer for silent.

use std::collections::VecDeque;

use crate::base::id::ProducerId;
use crate::base::time::{Duration, Instant, Now};
use crate::media::loudness::Loudness;
use crate::router::keys::ProducerKey;
use crate::shard::command::{Event, MediaKind};
use crate::shard::port::Port;
use crate::shard::registry::Registry;
use crate::shard::relay::RelayMessage;
use crate::wire::codec::Codec;
use crate::wire::codec::opus::is_dtx;
use crate::wire::extension::AudioLevel;

/// The interval of two reports of one shard.
const REPORT_GAP: Duration = Duration::from_millis(250);
/// The same when one that is withheld begins to speak: each syllable counts until it is let through.
const BEGIN_GAP: Duration = Duration::from_millis(40);

#[derive(Default)]
pub(super) struct Hearing {
    /// Audible, or reported as audible last.
    heard: Vec<ProducerKey>,
    told_at: Instant,
}

impl Hearing {
    /// Takes an audio packet of a producer that is not paused. `level` is the one in its header; a packet without one
    /// changes nothing.
    pub(super) fn hear(
        &mut self,
        registry: &mut Registry,
        events: &mut VecDeque<Event>,
        now: Now,
        key: ProducerKey,
        level: Option<AudioLevel>,
        payload: &[u8],
    ) {
        let Some(producer) = registry.producers.get_mut(key) else { return };
        let (Some(loudness), Some(level)) = (&mut producer.loudness, level) else { return };
        let comfort_noise = producer.spec.codec == Codec::Opus && is_dtx(payload);
        loudness.on_packet(now.mono, (!comfort_noise).then_some(level.level));
        if !loudness.queued && loudness.speech(now.mono).is_audible() {
            loudness.queued = true;
            self.heard.push(key);
        }
        let waited = now.mono.since(self.told_at);
        let begins = || {
            let withheld = registry.sources.get(producer.source).is_some_and(|source| source.withheld);
            withheld && loudness.begins(now.mono)
        };
        if !self.heard.is_empty() && (waited >= REPORT_GAP || waited >= BEGIN_GAP && begins()) {
            events.push_back(self.levels(registry, now));
        }
    }

    fn levels(&mut self, registry: &mut Registry, now: Now) -> Event {
        self.told_at = now.mono;
        let mut levels = Vec::with_capacity(self.heard.len());
        self.heard.retain(|key| {
            let Some(producer) = registry.producers.get_mut(*key) else { return false };
            let Some(loudness) = &mut producer.loudness else { return false };
            let speech = Loudness::tell(loudness, now.mono);
            levels.push((producer.id, speech));
            loudness.queued = speech.is_audible();
            loudness.queued
        });
        Event::Speech { levels }
    }
}

pub(super) fn listen(registry: &mut Registry, id: ProducerId, listen: bool) {
    let Some(producer) = registry.producer_keys.get(&id).and_then(|key| registry.producers.get_mut(*key)) else {
        return;
    };
    match listen && producer.spec.kind == MediaKind::Audio {
        true => _ = producer.loudness.get_or_insert_default(),
        false => producer.loudness = None,
    }
}

/// Its packets go to nobody, or to everybody again: only the source knows, its consumers stay as they are.
pub(super) fn withhold(registry: &mut Registry, port: &mut Port, id: ProducerId, withheld: bool) {
    let Some(source) = registry.source_keys.get(&id).and_then(|key| registry.sources.get_mut(*key)) else {
        return;
    };
    source.set_withheld(withheld);
    for shard in source.relays.clone() {
        port.send(shard, &RelayMessage::Withheld { producer: id, withheld });
    }
}
