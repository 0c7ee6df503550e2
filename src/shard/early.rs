//! Early media, which came before its keys: a peer sends as soon as it has ours, while the end of its own handshake may
//! still be worked on. Nothing of it is authenticated: few packets wait, shortly, in order of arrival, as they came. No
//! timer expires them; they make room for the next.

use std::collections::VecDeque;

use crate::base::buffer::{DATAGRAM_MAX, Path};
use crate::base::limits::{EARLY_MAX, EARLY_PACKETS_MAX, EARLY_PACKETS_PER_SHARD_MAX};
use crate::base::slab::Key;
use crate::base::time::{Instant, Now};
use crate::shard::drops::Drop;
use crate::shard::shard::Shard;
use crate::transport::Transport;
use crate::transport::link::Link;
use crate::wire::{Kind, classify};

#[derive(Default)]
pub(super) struct Early {
    waiting: VecDeque<EarlyPacket>,
}

struct EarlyPacket {
    of: Key<Transport>,
    path: Path,
    arrived: Instant,
    bytes: Box<[u8]>,
}

impl Shard {
    /// Keeps it if keys are on their way and there is room.
    pub(super) fn keep_early(&mut self, now: Now, arrived: Instant, path: Path, key: Key<Transport>, bytes: &[u8]) {
        while self.early.waiting.front().is_some_and(|first| now.mono.since(first.arrived) > EARLY_MAX) {
            if let Some(first) = self.early.waiting.pop_front() {
                self.give_up_early(first.of);
            }
        }
        let awaits = |transport: &Transport| matches!(transport.link, Link::Handshaking(_) | Link::Unannounced(_));
        let count = &mut self.commons.registry.wiring[key.slot()].early;
        let room = *count < EARLY_PACKETS_MAX && self.early.waiting.len() < EARLY_PACKETS_PER_SHARD_MAX;
        if !room || !self.commons.registry.transports.get(key).is_some_and(awaits) {
            return self.commons.ledger.drops.count(Drop::NoKeys);
        }
        *count += 1;
        self.early.waiting.push_back(EarlyPacket { of: key, path, arrived, bytes: bytes.into() });
    }

    /// One is gone. Its transport may be, too, and its slot another's, which has a count of its own.
    fn give_up_early(&mut self, key: Key<Transport>) {
        if self.commons.registry.transports.get(key).is_some() {
            let count = &mut self.commons.registry.wiring[key.slot()].early;
            *count = count.saturating_sub(1);
        }
        self.commons.ledger.drops.count(Drop::NoKeys);
    }

    /// The keys are there: packets that are young enough arrive now.
    pub(super) fn take_early(&mut self, now: Now, key: Key<Transport>) {
        if std::mem::take(&mut self.commons.registry.wiring[key.slot()].early) == 0 {
            return;
        }
        let (mine, others) = std::mem::take(&mut self.early.waiting).into_iter().partition(|packet| packet.of == key);
        self.early.waiting = others;
        let mine: VecDeque<EarlyPacket> = mine;
        for EarlyPacket { path, arrived, bytes, .. } in mine {
            if now.mono.since(arrived) > EARLY_MAX {
                self.commons.ledger.drops.count(Drop::NoKeys);
                continue;
            }
            let mut buffer = [0; DATAGRAM_MAX];
            let Some(copy) = buffer.get_mut(..bytes.len()) else { continue };
            copy.copy_from_slice(&bytes);
            let taken = match classify(copy) {
                Kind::Rtp => self.take_rtp(now, arrived, path, key, copy),
                _ => self.take_rtcp(now, arrived, path, key, copy),
            };
            if let Err(why) = taken {
                self.commons.ledger.drops.secure(why);
            }
        }
    }
}
