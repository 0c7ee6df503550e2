//! Producers and consumers as signalling describes them to the media plane: checked plain values. Part of the door
//! (`shard::command` re-exports it); it lives here because the router obeys it.

use crate::base::id::{Layers, Mid, PayloadType, Rid, Ssrc};
use crate::base::ranking::Ranking;
use crate::wire::codec::Codec;
use crate::wire::extension::{ExtensionIds, ExtensionSet};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MediaKind {
    Audio,
    Video,
}

/// The negotiated RTCP feedback of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FeedbackSpec {
    pub nack: bool,
    pub pli: bool,
    pub fir: bool,
    pub transport_cc: bool,
    pub remb: bool,
}

/// One encoding of a producer: named by ssrc, or by rid when the browser does not state the ssrc.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EncodingSpec {
    pub ssrc: Option<Ssrc>,
    pub rtx_ssrc: Option<Ssrc>,
    pub rid: Option<Rid>,
}

/// A producer as the media plane needs it: checked by signalling, in the publisher's own payload types and ids.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProducerSpec {
    pub kind: MediaKind,
    pub codec: Codec,
    pub clock_rate: u32,
    pub payload_type: PayloadType,
    pub rtx_payload_type: Option<PayloadType>,
    pub mid: Option<Mid>,
    /// At least one, in the client's order; more than one is simulcast.
    pub encodings: Vec<EncodingSpec>,
    /// The layer of each encoding.
    pub ranking: Ranking,
    /// Its client states the order; else it is measured.
    pub ranked: bool,
    /// The highest layers to choose from: of the encodings, or of the one scalable encoding.
    pub top: Layers,
    pub extensions: ExtensionIds,
    pub feedback: FeedbackSpec,
}

/// A consumer as the media plane needs it: in the router's payload types and ids, with SSRCs that signalling never
/// gives twice on one transport.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerSpec {
    pub codec: Codec,
    pub clock_rate: u32,
    /// The number of the producer's encodings.
    pub encodings: usize,
    /// As in [`ProducerSpec::top`]; (0, 0): there is nothing to choose.
    pub top: Layers,
    pub payload_type: PayloadType,
    pub ssrc: Ssrc,
    /// Payload type and SSRC of retransmissions (RFC 4588); None: no RTX, and then no generic NACK either.
    pub rtx: Option<(PayloadType, Ssrc)>,
    pub mid: Mid,
    pub cname: String,
    pub extensions: ExtensionSet,
    pub feedback: FeedbackSpec,
}
