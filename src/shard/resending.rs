//! Retransmission: a packet that a receiver asked for again goes from the source's history into the transport's queue,
//! as RTX.

use crate::base::seq::Seq;
use crate::base::slab::Key;
use crate::base::time::Now;
use crate::media::rewrite::SentEntry;
use crate::router::consumer::{Consumer, Flow};
use crate::router::keys::ConsumerKey;
use crate::router::source::Source;
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
    let mut repairs = transport.bandwidth.as_mut().and_then(|bandwidth| bandwidth.repairs.as_mut());
    if repairs.is_some() && is_overtaken(consumer, source, &entry) {
        return commons.ledger.drops.count(ShardDrop::Overtaken);
    }
    let mut room = |bytes| match &mut repairs {
        Some(repairs) => repairs.admit(now.mono, bytes),
        None => true,
    };
    let Some(stored) = stored.filter(|stored| room(stored.bytes.len())) else {
        match stored {
            Some(_) => commons.ledger.drops.count(ShardDrop::BeyondBandwidth),
            None => commons.ledger.counters.nacks_unanswered += 1,
        }
        // The receiver waits in vain: what follows depends on this packet, until a keyframe.
        if is_from_keyframe_on(source, &entry) == Some(true) {
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

/// Whether a keyframe has been sent after the packet, or has to come before anything else. The receiver goes on from the
/// keyframe, so that where bandwidth is short the packet would only delay it.
fn is_overtaken(consumer: &Consumer, source: &Source, entry: &SentEntry) -> bool {
    match consumer.flow {
        Flow::Closed => false,
        Flow::KeyFrame => true,
        Flow::Open { encoding, .. } => encoding != entry.encoding || is_from_keyframe_on(source, entry) == Some(false),
    }
}

/// Whether the packet belongs to the newest keyframe of its encoding or came after it. None: no keyframe is known.
fn is_from_keyframe_on(source: &Source, entry: &SentEntry) -> Option<bool> {
    let (first, _) = source.encodings.get(usize::from(entry.encoding))?.keyframe?;
    Some(entry.ext >= first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::Bitrate;
    use crate::media::repairs::Repairs;
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
        let outgoing = fixture.commons.registry.consumers.get(consumer).unwrap().outgoing;
        let egress = &mut fixture.commons.registry.transports.get_mut(watcher).unwrap().egress;
        assert_eq!(
            (egress.give_up_repairs(Key::from_parts(9, 9)), egress.give_up_repairs(outgoing), egress.len()),
            (0, 1, before)
        );
    }

    /// The retransmissions of the first of two packets, and those dropped as overtaken. The second one is a keyframe or
    /// not, or is still waited for; `short`: so is the watcher's bandwidth.
    fn repaired(short: bool, second: Option<bool>) -> (usize, u64) {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        let watcher = fixture.connected(2);
        fixture.producer(7, 1, video(100));
        let consumer = fixture.consumer(3, 2, 7, HERE);
        fixture.publish(7, 10, true);
        let rewriter = &fixture.commons.registry.consumers.get(consumer).unwrap().rewriter;
        let first = (0..=u16::MAX).map(Seq).find(|seq| rewriter.source_of(*seq).is_some()).unwrap();
        fixture.wait(20);
        match second {
            Some(starts_keyframe) => fixture.publish(7, 11, starts_keyframe),
            None => fixture.commons.registry.consumers.get_mut(consumer).unwrap().begin_anew(fixture.now.mono),
        }
        let now = fixture.now.mono;
        let transport = fixture.commons.registry.transports.get_mut(watcher).unwrap();
        let repairs = short.then(|| Repairs::new(now, Bitrate::kbps(300), Bitrate::kbps(250)));
        transport.bandwidth.get_or_insert_default().repairs = repairs;
        let before = transport.egress.len();
        resend(&mut fixture.commons, fixture.now, watcher, consumer, first);
        let queued = fixture.commons.registry.transports.get(watcher).unwrap().egress.len() - before;
        (queued, fixture.commons.ledger.drops.of(ShardDrop::Overtaken))
    }

    #[test]
    fn where_bandwidth_is_short_what_a_keyframe_has_overtaken_is_not_repaired() {
        assert_eq!(repaired(true, Some(false)), (1, 0));
        assert_eq!(repaired(true, Some(true)), (0, 1));
        assert_eq!(repaired(true, None), (0, 1));
        assert_eq!(repaired(false, Some(true)), (1, 0), "with room it is one picture more");
        assert_eq!(repaired(false, None), (1, 0));
    }
}
