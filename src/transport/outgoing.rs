//! One outgoing RTP stream of a transport: what its headers say and what has been sent. A consumer owns one; RTCP that
//! comes back is routed by its SSRCs (feedback names the media source; receivers share sender SSRCs).

use crate::base::id::{ConsumerId, Mid, PayloadType, Ssrc};
use crate::media::edit::Edit;
use crate::transport::edits::Edits;
use crate::wire::extension::ExtensionSet;

/// In the order of use: a packet needs the first lines of this.
#[repr(C)]
pub struct Outgoing {
    pub sent: Sent,
    pub ssrc: Ssrc,
    pub payload_type: PayloadType,
    /// It never waits for the pacer.
    pub audio: bool,
    pub extensions: ExtensionSet,
    /// A report or feedback has named our SSRC: MID is sent on every packet until then, because nothing else ties the
    /// SSRC to its media section (RFC 8843 section 9.2).
    pub acknowledged: bool,
    /// Only of a stream with layers.
    pub edits: Option<Box<Edits>>,
    pub rtx: Option<Rtx>,
    pub mid: Mid,
    pub consumer: ConsumerId,
    pub cname: Box<str>,
}

/// The retransmission stream (RFC 4588): its own SSRC, payload type and numbering.
pub struct Rtx {
    pub payload_type: PayloadType,
    pub ssrc: Ssrc,
    pub next_index: u64,
}

#[derive(Default, Clone, Copy)]
pub struct Sent {
    pub packets: u64,
    /// Payload bytes of the media stream, as its sender reports count them (RFC 3550 section 6.4.1).
    pub octets: u64,
    /// Of the last packet of the media stream.
    pub timestamp: u32,
    pub bytes: u64,
    pub retransmitted: u64,
    pub retransmitted_bytes: u64,
}

impl Outgoing {
    /// How the packet with this number goes out.
    pub fn edit(&self, index: u64) -> Edit {
        self.edits.as_ref().map_or(Edit::default(), |edits| edits.of(index))
    }

    pub fn has_ssrc(&self, ssrc: Ssrc) -> bool {
        self.ssrc == ssrc || self.rtx.as_ref().is_some_and(|rtx| rtx.ssrc == ssrc)
    }
}
