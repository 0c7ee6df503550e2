//! One outgoing RTP stream of a transport: its header fields and its counters. A consumer owns one; RTCP that comes
//! back is routed by its SSRCs (feedback names the media source; receivers share sender SSRCs).

use std::mem::offset_of;

use crate::base::id::{ConsumerId, Mid, PayloadType, Ssrc};
use crate::base::limits::CONSUMERS_PER_PEER_MAX;
use crate::base::prefetch::LINE;
use crate::base::slab::{Key, SLOT_HEAD};
use crate::media::congestion::sent_log::{Purpose, StreamTag};
use crate::media::edit::Edit;
use crate::secure::srtp::SealPlace;
use crate::transport::edits::Edits;
use crate::wire::extension::ExtensionSet;

/// In the order of use: a packet needs the first line of this, up to the beginning of `sent`.
#[repr(C)]
pub struct Outgoing {
    pub ssrc: Ssrc,
    pub seal_place: SealPlace,
    pub extensions: ExtensionSet,
    pub payload_type: PayloadType,
    /// Exempt from the pacer.
    pub audio: bool,
    /// A report or feedback has named our SSRC: MID is sent on every packet until then, because nothing else ties the
    /// SSRC to its media section (RFC 8843 section 9.2).
    pub acknowledged: bool,
    /// Only for a stream with layers.
    pub edits: Option<Box<Edits>>,
    pub sent: Sent,
    pub rtx: Option<Rtx>,
    pub mid: Mid,
    pub consumer: ConsumerId,
    pub cname: Box<str>,
}

const _: () = assert!(SLOT_HEAD + Outgoing::HOT <= LINE);
const _: () = assert!(CONSUMERS_PER_PEER_MAX <= 1 << 16, "places of streams are of 16 bits");

/// The retransmission stream (RFC 4588): its own SSRC, payload type and numbering.
pub struct Rtx {
    pub payload_type: PayloadType,
    pub ssrc: Ssrc,
    pub next_index: u64,
}

#[derive(Default, Clone, Copy)]
#[repr(C)]
pub struct Sent {
    pub packets: u64,
    /// Payload bytes of the media stream, as its sender reports count them (RFC 3550 section 6.4.1).
    pub octets: u64,
    pub bytes: u64,
    /// The timestamp of the last packet of the media stream.
    pub timestamp: u32,
    pub retransmitted: u64,
    pub retransmitted_bytes: u64,
}

impl Outgoing {
    /// The length, from its beginning, that a packet needs.
    pub const HOT: usize = offset_of!(Outgoing, sent) + offset_of!(Sent, retransmitted);

    /// The edits of the packet with this number.
    pub fn edit(&self, index: u64) -> Edit {
        self.edits.as_ref().map_or(Edit::default(), |edits| edits.of(index))
    }

    /// The purpose of its media.
    pub fn purpose(&self) -> Purpose {
        if self.audio { Purpose::Audio } else { Purpose::Video }
    }

    /// Its name in the log of sent packets; `key` is its own.
    pub fn tag(&self, key: Key<Outgoing>) -> StreamTag {
        StreamTag { place: Self::place(key), acknowledged: self.acknowledged }
    }

    /// A packet of `len` bytes has left for the first time, `payload` of them the publisher's.
    pub(super) fn count(&mut self, timestamp: u32, len: usize, payload: u16) {
        self.sent.packets += 1;
        self.sent.octets += u64::from(payload);
        self.sent.timestamp = timestamp;
        self.sent.bytes += len as u64;
    }

    /// A retransmission of `len` bytes has left.
    pub(super) fn count_retransmission(&mut self, len: usize) {
        self.sent.packets += 1;
        self.sent.retransmitted_bytes += len as u64;
        self.sent.bytes += len as u64;
    }

    pub fn place(key: Key<Outgoing>) -> u16 {
        key.slot() as u16
    }
}
