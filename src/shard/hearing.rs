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
use crate::shard::relay::Feed;
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
    let Some(producer) = registry.producer_mut(id) else { return };
    match listen && producer.spec.kind == MediaKind::Audio {
        true => _ = producer.loudness.get_or_insert_default(),
        false => producer.loudness = None,
    }
}

/// Withholds a source's packets from everybody, or lets them through again. Its consumers stay as they are.
pub(super) fn withhold(registry: &mut Registry, port: &mut Port, id: ProducerId, withheld: bool) {
    let Some(source) = registry.source_mut(id) else { return };
    source.set_withheld(withheld);
    port.feed_all(source, Feed::Withheld { withheld });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::command::ProducerSpec;
    use crate::shard::fixture::{Fixture, THERE, video};

    fn audio(ssrc: u32) -> ProducerSpec {
        ProducerSpec { kind: MediaKind::Audio, codec: Codec::Opus, ..video(ssrc) }
    }

    fn hear(fixture: &mut Fixture, key: ProducerKey, level: u8) -> Vec<Event> {
        let level = AudioLevel::parse(&[0x80 | level]);
        let Fixture { commons, intake, now, .. } = fixture;
        intake.hearing.hear(&mut commons.registry, &mut commons.ledger.events, *now, key, level, &[0x78; 60]);
        fixture.wait(20);
        fixture.events()
    }

    #[test]
    fn one_that_is_listened_to_is_told_while_it_is_audible_and_once_after() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        let key = fixture.producer(7, 1, audio(100));
        fixture.events();
        assert_eq!((0..50).map(|_| hear(&mut fixture, key, 20).len()).sum::<usize>(), 0, "nobody listens");
        listen(&mut fixture.commons.registry, ProducerId(7), true);
        let told: usize = (0..50).map(|_| hear(&mut fixture, key, 20).len()).sum();
        assert!((3..=5).contains(&told), "{told} in a second");
        let silence: Vec<Event> = (0..250).flat_map(|_| hear(&mut fixture, key, 127)).collect();
        let Some(Event::Speech { levels }) = silence.last() else { panic!("{silence:?}") };
        assert!(!levels[0].1.is_audible(), "the last word");
        assert_eq!((0..50).map(|_| hear(&mut fixture, key, 127).len()).sum::<usize>(), 0);
    }

    #[test]
    fn other_shards_hear_that_one_is_withheld() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        fixture.producer(7, 1, audio(100));
        let source = fixture.source(7);
        fixture.commons.registry.sources.get_mut(source).unwrap().subscribers.push(THERE);
        let Fixture { commons, .. } = &mut fixture;
        withhold(&mut commons.registry, &mut commons.port, ProducerId(7), true);
        assert!(commons.registry.sources.get(source).unwrap().withheld);
        assert!(fixture.said()[0].contains("withheld: true"));
    }
}
