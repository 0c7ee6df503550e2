//! The work that a turn owes to many objects, done once for each before the flush: consumers checked because their
//! producer was paused, bandwidth allocated, consumers opened. Commands and feedback only note it here: an allocation
//! is work for each consumer of a client, and one for each consumer and each message would be work by their square.
//! Work beyond one turn's share waits for the next, which is due at once; media goes first.

use std::collections::VecDeque;

use crate::base::limits::SETTLED_PER_TURN_MAX;
use crate::base::slab::Key;
use crate::base::time::Now;
use crate::router::keys::{ConsumerKey, SourceKey};
use crate::shard::shard::Shard;
use crate::shard::wiring::Share;
use crate::transport::Transport;

#[derive(Default)]
pub(super) struct Settling {
    sources: VecDeque<SourceKey>,
    transports: VecDeque<Key<Transport>>,
    /// To be opened once their transports' bandwidth has been allocated.
    consumers: VecDeque<ConsumerKey>,
}

impl Settling {
    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.transports.is_empty() && self.consumers.is_empty()
    }
}

impl Shard {
    /// Allocates the transport's bandwidth before anything more is sent.
    pub(super) fn share_later(&mut self, key: Key<Transport>, how: Share) {
        if self.registry.transports.get(key).is_none_or(|transport| transport.bandwidth.is_none()) {
            return;
        }
        let asked = &mut self.registry.wiring[key.slot()].share;
        if asked.replace(asked.map_or(how, |before| before.max(how))).is_none() {
            self.settling.transports.push_back(key);
        }
    }

    /// A consumer that is to flow: its allocation comes first.
    pub(super) fn open_later(&mut self, now: Now, key: ConsumerKey) {
        let Some(transport) = self.registry.consumers.get(key).map(|consumer| consumer.transport) else { return };
        if self.registry.transports.get(transport).is_some_and(|transport| transport.bandwidth.is_some()) {
            self.share_later(transport, Share::Anew);
            self.settling.consumers.push_back(key);
        } else {
            self.reopen(now, key);
        }
    }

    /// Opens or closes all consumers of the source by its state.
    pub(super) fn look_at_consumers_later(&mut self, key: SourceKey) {
        if let Some(source) = self.registry.sources.get_mut(key)
            && !std::mem::replace(&mut source.unsettled, true)
        {
            self.settling.sources.push_back(key);
        }
    }

    pub(super) fn settle(&mut self, now: Now) {
        if self.settling.is_empty() {
            return;
        }
        while let Some(key) = self.settling.sources.pop_front() {
            self.note_consumers(key);
        }
        let mut left = SETTLED_PER_TURN_MAX;
        while left > 0
            && let Some(key) = self.settling.transports.pop_front()
        {
            self.current = Some(key);
            left = left.saturating_sub(1 + self.share_now(now, key));
        }
        while left > 0
            && let Some(key) = self.settling.consumers.pop_front()
        {
            self.current = self.registry.consumers.get(key).map(|consumer| consumer.transport);
            self.reopen(now, key);
            left -= 1;
        }
        self.current = None;
    }

    fn note_consumers(&mut self, key: SourceKey) {
        let Some(source) = self.registry.sources.get_mut(key) else { return };
        source.unsettled = false;
        for consumer in source.consumers.clone() {
            if let Some(transport) = self.registry.consumers.get(consumer).map(|consumer| consumer.transport) {
                self.share_later(transport, Share::Anew);
                self.settling.consumers.push_back(consumer);
            }
        }
    }

    /// The number of consumers that were checked.
    fn share_now(&mut self, now: Now, key: Key<Transport>) -> usize {
        let Some(transport) = self.registry.transports.get(key) else { return 0 };
        let Some(how) = self.registry.wiring[key.slot()].share.take() else { return 0 };
        let due = transport.bandwidth.as_ref().is_some_and(|bandwidth| bandwidth.is_due(now.mono));
        match how {
            Share::Anew => self.share_bandwidth(now, key),
            Share::IfDue => self.share_if_due(now, key),
        }
        if due || how == Share::Anew { self.registry.wiring[key.slot()].consumers.len() } else { 0 }
    }
}
