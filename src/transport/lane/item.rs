//! What waits for a lane's flush, and what a sent datagram carried: references, and what a record needs beside the packet.

use crate::base::time::Instant;
use crate::transport::queued::StoredAt;
use crate::wire::lane::{EncodingEpoch, LaneHandle, LaneSkip};

/// A packet of a history, for one export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LanePacket {
    pub at: StoredAt,
    pub handle: LaneHandle,
    /// As in `wire::lane::flags`.
    pub flags: u8,
    pub epoch: EncodingEpoch,
    pub layers: Option<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LaneItem {
    Packet(LanePacket),
    Skip(LaneSkip),
}

/// An item on its way, and how often it was sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LaneQueued {
    pub(super) item: LaneItem,
    pub(super) resent: u8,
    /// When it was queued first.
    pub(super) since: Instant,
    pub(super) audio: bool,
}
