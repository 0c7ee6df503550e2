//! The edits of one packet for one consumer beyond sequence number and timestamp: decided when it is forwarded, applied
//! when it is copied out of the history. Plain values.

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Edit {
    /// Sets the marker: the rest of this picture is not for the consumer.
    pub ends_picture: bool,
    pub change: Change,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Change {
    #[default]
    Nothing,
    /// VP8 and VP9.
    Picture { picture: u16, tl0_picture_index: u8 },
    /// Edits of a dependency descriptor: the offset of the frame number, and which of how many decode targets are
    /// active.
    Frame { number_shift: u16, targets: u8, active: u32 },
    /// Padding in place of a packet that is not for the consumer and whose number can no longer be closed up.
    Hollow,
}
