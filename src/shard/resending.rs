//! Retransmission: a packet that a receiver asked for again goes from the source's history into the transport's queue,
//! as RTX.

use crate::base::seq::Seq;
use crate::base::slab::Key;
use crate::base::time::Now;
use crate::router::keys::ConsumerKey;
use crate::router::verdict;
use crate::shard::commons::Commons;
use crate::shard::drops::ShardDrop;
use crate::shard::keyframes;
use crate::transport::Transport;
use crate::transport::queued::{PacketStore, Queued, StoredAt, Urgency};

/// Queues a packet again, as RTX (RFC 4588): on its own SSRC and numbers, so that no packet is sealed twice under one
/// (key, IV). A consumer without RTX was never told that it may ask.
pub(super) fn resend(commons: &mut Commons, now: Now, key: Key<Transport>, consumer_key: ConsumerKey, seq: Seq) {
    let Some(consumer) = commons.registry.consumers.get_mut(consumer_key) else { return };
    if !consumer.nack {
        return;
    }
    let Some(entry) = consumer.rewriter.source_of(seq) else {
        commons.ledger.counters.nacks_unanswered += 1;
        return;
    };
    let interval = consumer.resend_interval();
    if !consumer.resent.admit(now.mono, seq, interval) {
        return;
    }
    let (slot, generation) = consumer.source.to_parts();
    let (Some(source), Some(transport)) =
        (commons.registry.sources.get(consumer.source), commons.registry.transports.get_mut(key))
    else {
        return;
    };
    let history = source.encodings.get(usize::from(entry.encoding)).map(|encoding| &encoding.history);
    let at = StoredAt { slot, generation, encoding: entry.encoding, ext: entry.ext };
    let at = entry.led.map_or(at, |name| at.parameter_set(name));
    let stored = match (entry.led, entry.is_replayed()) {
        (Some(_), _) => commons.registry.sources.stored(at),
        // A replayed packet may be old, and has just been sent all the same.
        (None, true) => history.and_then(|history| history.get(entry.ext)),
        (None, false) => history.and_then(|history| history.get_fresh(now.mono, entry.ext)),
    };
    let mut room = |bytes| match transport.bandwidth.as_mut().and_then(|bandwidth| bandwidth.repairs.as_mut()) {
        Some(repairs) => repairs.admit(now.mono, bytes),
        None => true,
    };
    let Some(stored) = stored.filter(|stored| room(stored.bytes.len())) else {
        match stored {
            Some(_) => commons.ledger.drops.count(ShardDrop::BeyondBandwidth),
            None => commons.ledger.counters.nacks_unanswered += 1,
        }
        // The receiver waits in vain: what follows depends on this packet, until a keyframe.
        let lost = history.and_then(|history| history.get(entry.ext)).map(|lost| lost.header.arrival);
        let keyframe = verdict::last_keyframe(consumer, source);
        if keyframe.is_some() && lost > keyframe {
            keyframes::ask_for_consumer(commons, now, consumer_key, false);
        }
        return;
    };
    let queued = Queued {
        outgoing: consumer.outgoing,
        at,
        index: entry.index,
        timestamp: entry.timestamp(stored.header.timestamp),
        retransmission: true,
    };
    let was_empty = transport.egress.is_empty();
    if !transport.egress.push(now.mono, queued, Urgency::Now) {
        commons.ledger.drops.count(ShardDrop::EgressFull);
    } else if was_empty {
        commons.outlet.dirty.push(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::fixture::{Fixture, HERE, video};

    #[test]
    fn a_packet_that_was_sent_is_queued_once_more_and_no_other() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        let watcher = fixture.connected(2);
        fixture.producer(7, 1, video(100));
        let consumer = fixture.consumer(3, 2, 7, HERE);
        fixture.publish(7, 10, true);
        let queued = |fixture: &Fixture| fixture.commons.registry.transports.get(watcher).unwrap().egress.len();
        let before = queued(&fixture);
        // A fixed seed: the consumer's numbers begin where the random start was.
        let rewriter = &fixture.commons.registry.consumers.get(consumer).unwrap().rewriter;
        let sent = (0..=u16::MAX).map(Seq).find(|seq| rewriter.source_of(*seq).is_some()).unwrap();
        resend(&mut fixture.commons, fixture.now, watcher, consumer, sent);
        resend(&mut fixture.commons, fixture.now, watcher, consumer, sent);
        assert_eq!(queued(&fixture), before + 1, "asked for twice in one moment is once");
        resend(&mut fixture.commons, fixture.now, watcher, consumer, Seq(sent.0.wrapping_add(1)));
        assert_eq!((queued(&fixture), fixture.commons.ledger.counters.nacks_unanswered), (before + 1, 1));
    }
}
