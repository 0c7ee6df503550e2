//! Numbers of a source that are not forwarded: padding, and payload types that were not negotiated. They must not show
//! as a loss to anybody.

use crate::base::seq::ExtSeq;
use crate::base::time::Now;
use crate::media::edit::Edit;
use crate::media::history::StoredHeader;
use crate::router::keys::SourceKey;
use crate::router::source::EncodingSource;
use crate::shard::shard::Shard;
use crate::transport::queued::{Queued, StoredAt, Urgency};

impl Shard {
    /// Its consumers' numbers close up over it. Where later ones have gone out already, a packet of padding takes the
    /// number that was left for it.
    pub(super) fn skip(&mut self, now: Now, key: SourceKey, encoding: u8, ext: ExtSeq) {
        let Some(source) = self.commons.registry.sources.get_mut(key) else { return };
        if let Some(sets) =
            source.encodings.get_mut(usize::from(encoding)).and_then(|encoding| encoding.parameter_sets.as_mut())
        {
            sets.on_skipped(ext);
        }
        let (slot, generation) = key.to_parts();
        let at = StoredAt { slot, generation, encoding, ext };
        let mut stands_in = None;
        for consumer in &source.consumers {
            let Some(consumer) = self.commons.registry.consumers.get_mut(*consumer) else { continue };
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
            let Some(transport) = self.commons.registry.transports.get_mut(consumer.transport) else { continue };
            let was_empty = transport.egress.is_empty();
            let outgoing = consumer.outgoing;
            let queued = Queued { outgoing, at, index, timestamp, retransmission: false };
            if transport.egress.push(now.mono, queued, Urgency::FrameContinues) {
                transport.edit(outgoing, index, Edit::default());
                if was_empty {
                    self.commons.outlet.dirty.push(consumer.transport);
                }
            }
        }
        if !source.relays.is_empty() {
            self.commons.port.media.skip(source, encoding, ext);
        }
    }
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
