//! Numbers of a source that are not forwarded: padding, and payload types that were not negotiated. They must not look
//! like a loss to anybody.

use crate::base::seq::ExtSeq;
use crate::base::time::Now;
use crate::media::edit::Edit;
use crate::media::history::StoredHeader;
use crate::router::keys::SourceKey;
use crate::router::source::EncodingSource;
use crate::shard::commons::Commons;
use crate::transport::queued::{Queued, StoredAt, Urgency};

/// Skips a number of a source: its consumers' numbers close up over it. Where later packets have gone out already, a
/// packet of padding takes the number that was left for it.
pub(super) fn skip(commons: &mut Commons, now: Now, key: SourceKey, encoding: u8, ext: ExtSeq) {
    let Some(source) = commons.registry.sources.get_mut(key) else { return };
    if let Some(sets) =
        source.encodings.get_mut(usize::from(encoding)).and_then(|encoding| encoding.parameter_sets.as_mut())
    {
        sets.on_skipped(ext);
    }
    let (slot, generation) = key.to_parts();
    let at = StoredAt { slot, generation, encoding, ext };
    let mut stands_in = None;
    for consumer in &source.consumers {
        let Some(consumer) = commons.registry.consumers.get_mut(*consumer) else { continue };
        if !consumer.is_attached_to(encoding) {
            continue;
        }
        let Some(index) = consumer.rewriter.skip(ext) else { continue };
        let Some(read) = source.encodings.get_mut(usize::from(encoding)) else { return };
        let (Some(timestamp), true) =
            (consumer.rewriter.last_timestamp(), *stands_in.get_or_insert_with(|| keep_empty(now, read, ext)))
        else {
            continue;
        };
        let Some(transport) = commons.registry.transports.get_mut(consumer.transport) else { continue };
        let was_empty = transport.egress.is_empty();
        let outgoing = consumer.outgoing;
        let queued = Queued { outgoing, at, index, timestamp, retransmission: false };
        if transport.egress.push(now.mono, queued, Urgency::FrameContinues) {
            transport.edit(outgoing, index, Edit::default());
            if was_empty {
                commons.outlet.dirty.push(consumer.transport);
            }
        }
    }
    if !source.subscribers.is_empty() {
        commons.port.media.skip(source, encoding, ext);
    }
    commons.port.lanes.skip(source, encoding, ext);
}

/// A packet without a payload, which goes out as padding.
fn keep_empty(now: Now, encoding: &mut EncodingSource, ext: ExtSeq) -> bool {
    let header = StoredHeader {
        marker: false,
        timestamp: encoding.clock.newest_timestamp().unwrap_or(0),
        extension_len: 0,
        descriptor_len: 0,
        arrival: now.mono,
    };
    encoding.history.push(now.mono, ext, header, &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::fixture::{Fixture, HERE, THERE, video};

    #[test]
    fn a_number_that_nobody_is_sent_leaves_no_gap_and_late_ones_go_out_as_padding() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        let watcher = fixture.connected(2);
        fixture.producer(7, 1, video(100));
        fixture.consumer(3, 2, 7, HERE);
        let source = fixture.source(7);
        fixture.commons.registry.sources.get_mut(source).unwrap().subscribers.push(THERE);
        fixture.publish(7, 10, true);
        let queued = |fixture: &Fixture| fixture.commons.registry.transports.get(watcher).unwrap().egress.len();
        let before = queued(&fixture);
        skip(&mut fixture.commons, fixture.now, source, 0, ExtSeq(11));
        assert_eq!(queued(&fixture), before, "numbers close up");
        // Number 12 is left for a packet that has yet to come, and turns out to be nothing.
        fixture.publish(7, 13, false);
        skip(&mut fixture.commons, fixture.now, source, 0, ExtSeq(12));
        assert_eq!(queued(&fixture), before + 2, "a packet and what stands in for the one before it");
        let said = fixture.said();
        assert_eq!(said.iter().filter(|said| said.contains("Skip")).count(), 2, "{said:?}");
    }
}
