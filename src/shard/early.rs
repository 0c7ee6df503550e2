//! Early media, which came before its keys: a peer sends as soon as it has ours, while the end of its own handshake may
//! still be worked on. None of it is authenticated, so few packets wait, shortly, undecrypted, in order of arrival. No
//! timer expires them; they make room for the next.

use std::collections::VecDeque;

use crate::base::buffer::Path;
use crate::base::limits::{EARLY_MAX, EARLY_PACKETS_MAX, EARLY_PACKETS_PER_SHARD_MAX};
use crate::base::slab::Key;
use crate::base::time::{Instant, Now};
use crate::shard::drops::{Drops, ShardDrop};
use crate::shard::registry::Registry;
use crate::transport::Transport;
use crate::transport::link::Link;
use crate::transport::web_rtc::WebRtc;

#[derive(Default)]
pub(super) struct Early {
    waiting: VecDeque<(Key<Transport>, EarlyPacket)>,
}

/// RTP or RTCP that its keys have yet to open.
pub(super) struct EarlyPacket {
    pub path: Path,
    pub arrived: Instant,
    pub bytes: Box<[u8]>,
}

impl Early {
    /// Keeps it if keys are on their way and there is room.
    pub(super) fn keep(
        &mut self,
        registry: &mut Registry,
        drops: &mut Drops,
        now: Now,
        key: Key<Transport>,
        packet: EarlyPacket,
    ) {
        while self.waiting.front().is_some_and(|(_, first)| now.mono.since(first.arrived) > EARLY_MAX) {
            if let Some((of, _)) = self.waiting.pop_front() {
                give_up(registry, drops, of);
            }
        }
        let awaits = |web_rtc: &mut WebRtc| matches!(web_rtc.link, Link::Handshaking(_) | Link::Unannounced(_));
        if !registry.web_rtc(key).is_some_and(awaits) {
            return drops.count(ShardDrop::NoKeys);
        }
        let count = &mut registry.wiring[key.slot()].early;
        if *count >= EARLY_PACKETS_MAX || self.waiting.len() >= EARLY_PACKETS_PER_SHARD_MAX {
            return drops.count(ShardDrop::NoKeys);
        }
        *count += 1;
        self.waiting.push_back((key, packet));
    }

    /// Takes the packets that are young enough, in order of arrival, once the keys are there.
    pub(super) fn take(
        &mut self,
        registry: &mut Registry,
        drops: &mut Drops,
        now: Now,
        key: Key<Transport>,
    ) -> VecDeque<EarlyPacket> {
        if registry.transports.get(key).is_none() || std::mem::take(&mut registry.wiring[key.slot()].early) == 0 {
            return VecDeque::new();
        }
        let mut mine = VecDeque::new();
        for (of, packet) in std::mem::take(&mut self.waiting) {
            if of != key {
                self.waiting.push_back((of, packet));
            } else if now.mono.since(packet.arrived) > EARLY_MAX {
                drops.count(ShardDrop::NoKeys);
            } else {
                mine.push_back(packet);
            }
        }
        mine
    }
}

/// Counts a packet that is dropped. Its transport may be gone as well, and its slot another's with its own count.
fn give_up(registry: &mut Registry, drops: &mut Drops, key: Key<Transport>) {
    if registry.transports.get(key).is_some() {
        let count = &mut registry.wiring[key.slot()].early;
        debug_assert!(*count > 0, "it was counted when it came");
        *count = count.saturating_sub(1);
    }
    drops.count(ShardDrop::NoKeys);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Duration;
    use crate::secure::dtls::{SecureEngine, SessionTag, Side};
    use crate::shard::fixture::{Fixture, engine, path};

    fn keep(early: &mut Early, fixture: &mut Fixture, key: Key<Transport>, byte: u8) {
        let Fixture { commons, now, .. } = fixture;
        let packet = EarlyPacket { path: path(1), arrived: now.mono, bytes: [byte].into() };
        early.keep(&mut commons.registry, &mut commons.ledger.drops, *now, key, packet);
    }

    fn take(early: &mut Early, fixture: &mut Fixture, key: Key<Transport>) -> Vec<u8> {
        let Fixture { commons, now, .. } = fixture;
        let taken = early.take(&mut commons.registry, &mut commons.ledger.drops, *now, key);
        taken.iter().map(|packet| packet.bytes[0]).collect()
    }

    #[test]
    fn few_packets_wait_for_keys_that_are_on_their_way_and_not_for_long() {
        let (mut early, mut fixture) = (Early::default(), Fixture::new());
        let (one, other) = (fixture.transport(1), fixture.transport(2));
        keep(&mut early, &mut fixture, one, 0);
        assert_eq!(fixture.commons.ledger.drops.of(ShardDrop::NoKeys), 1, "nobody has begun a handshake");
        for key in [one, other] {
            let session = engine().open(fixture.now.mono, Side::Server, SessionTag(1));
            fixture.commons.registry.web_rtc(key).unwrap().link = Link::Handshaking(session);
        }
        for n in 0..=EARLY_PACKETS_MAX {
            keep(&mut early, &mut fixture, one, n);
        }
        keep(&mut early, &mut fixture, other, 77);
        assert_eq!(fixture.commons.ledger.drops.of(ShardDrop::NoKeys), 2, "one too many");
        assert_eq!(take(&mut early, &mut fixture, one), (0..EARLY_PACKETS_MAX).collect::<Vec<_>>());
        assert_eq!(take(&mut early, &mut fixture, one), [0u8; 0], "once");
        keep(&mut early, &mut fixture, one, 5);
        fixture.now = fixture.now.advanced_to(fixture.now.mono + EARLY_MAX + Duration::from_millis(1));
        assert_eq!(take(&mut early, &mut fixture, other), [0u8; 0], "too old");
        keep(&mut early, &mut fixture, other, 6);
        assert_eq!((take(&mut early, &mut fixture, one), take(&mut early, &mut fixture, other)), (vec![], vec![6]));
        assert_eq!(fixture.commons.ledger.drops.of(ShardDrop::NoKeys), 4);
    }
}
