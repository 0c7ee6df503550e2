//! The input and output of a codec's model: packets, faults, strictness.

use crate::base::seq::Seq;
use crate::base::time::{Duration, Instant};
use crate::sim::payload::{Encryption, Inside};

/// A fault; a receiver's log would name it so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FaultKind {
    /// Sequence numbers that never came; the only fault that a network can cause.
    Gap,
    /// A sequence number at or before the newest.
    SequenceBack,
    /// A picture with a timestamp at or before the one before it.
    TimestampBack,
    /// The timestamp is away from the time of capture by more than allowed, counted from the first picture.
    OffTime,
    /// A sender report does not map timestamps to the wall clock as the pictures do.
    ReportAstray,
    /// A picture ended without the marker bit.
    NoMarker,
    /// The same, but a keyframe follows: a publisher started over, or forwarding stopped, in the middle of it.
    Truncated,
    /// The marker bit stood before the end of a picture, or a frame's own end bit is not on its last packet.
    WrongEnd,
    /// The start, a middle or the end of a frame is not there though no sequence number is missing.
    Cut,
    /// Packets of two frames in one.
    Mixed,
    /// No descriptor of this codec.
    Unreadable,
    /// The first picture is no keyframe, or begins in its middle.
    BadStart,
    /// Picture ids or frame numbers skip where they must not.
    NumberGap,
    /// Picture ids or frame numbers go back.
    NumberBack,
    /// The index of the lowest temporal layer does not follow.
    Tl0,
    /// A temporal layer begins at a frame that does not allow it.
    UpWithoutSync,
    /// A reference was never received or could not be decoded.
    MissingReference,
    /// A chain that protects the decode target is broken.
    BrokenChain,
    /// The picture's place in the group of pictures contradicts its layer.
    Misplaced,
    /// A frame of a layer that is announced as inactive.
    InactiveLayer,
    /// A layer that is announced as active is not there.
    MissingLayer,
    /// A frame that came before.
    Repeat,
    /// A frame captured before the one last shown.
    StepBack,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub at: Instant,
    pub seq: Seq,
    pub kind: FaultKind,
    pub detail: String,
}

/// How strict to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Strictness {
    /// Picture ids, frame numbers and TL0PICIDX go on where the source changes, too; otherwise they may jump at a keyframe.
    pub one_numbering: bool,
    /// How far a picture's timestamp may be from its time of capture.
    pub time_slack: Duration,
    /// How far sender reports may be from the pictures: by the way to the forwarder, whose clock they are in.
    pub report_slack: Duration,
    /// The first packets may be lost.
    pub rough_start: bool,
    /// Where content is encrypted, only the inside tells whether a frame is a keyframe.
    pub encryption: Encryption,
}

impl Strictness {
    pub const FULL: Strictness = Strictness {
        one_numbering: true,
        time_slack: Duration::from_millis(5),
        report_slack: Duration::from_millis(100),
        rough_start: false,
        encryption: Encryption::None,
    };
}

/// One packet in order.
#[derive(Clone, Copy)]
pub struct DecoderPacket<'a> {
    pub seq: Seq,
    pub timestamp: u32,
    pub marker: bool,
    pub payload: &'a [u8],
    pub descriptor: Option<&'a [u8]>,
}

/// A picture that could be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    pub at: Instant,
    pub timestamp: u32,
    pub key: bool,
    /// The highest spatial layer of it; with simulcast always 0.
    pub spatial: u8,
    pub temporal: u8,
    /// None: not a source of ours.
    pub inside: Option<Inside>,
}

/// The descriptor of one packet, of whatever codec.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Part {
    pub(super) starts: bool,
    /// None: the marker alone says it.
    pub(super) ends: Option<bool>,
    pub(super) key: bool,
    pub(super) spatial: u8,
    pub(super) temporal: u8,
}

pub(super) type Found = (FaultKind, String);

/// A codec's judge.
pub(super) trait Model {
    /// Err: it cannot be read. A packet that starts a frame is kept for [`Model::judge`].
    fn read(&mut self, packet: &DecoderPacket<'_>, opens_picture: bool, strictness: &Strictness)
    -> Result<Part, Found>;
    /// The frame that was read last is whole: its faults. `faults` stays empty for one that can be decoded.
    fn judge(&mut self, strictness: &Strictness, faults: &mut Vec<Found>);
    /// Packets are missing before the next one.
    fn lost(&mut self);
    /// A picture has ended, with this layer as its highest.
    fn end_picture(&mut self, _spatial: u8, _faults: &mut Vec<Found>) {}
}
