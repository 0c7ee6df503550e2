//! What of one packet differs for one consumer from what its source sent, beyond its sequence number and timestamp:
//! decided when it is forwarded, carried out when it is copied out of the history. Plain values.

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Edit {
    /// The marker is set: what the source sends of this picture beyond this packet is not for the consumer.
    pub ends_picture: bool,
    pub change: Change,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Change {
    #[default]
    Nothing,
    /// VP8 and VP9.
    Picture { picture: u16, tl0_picture_index: u8 },
    /// What a dependency descriptor says: so much is added to the frame number, and of so many decode targets these
    /// are active.
    Frame { number_shift: u16, targets: u8, active: u32 },
    /// Padding goes in the place of a packet that is not for the consumer and whose number cannot be closed up any more.
    Hollow,
}
