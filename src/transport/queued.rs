//! A queued packet: a reference to its bytes, and its numbers for one receiver. The hot loop makes them, `egress` keeps
//! them, `packet` writes them out.

use crate::base::seq::ExtSeq;
use crate::base::slab::Key;
use crate::media::history::Stored;
use crate::transport::outgoing::Outgoing;

/// The place of a packet's bytes until it is flushed: an opaque slot of the router's and the packet in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredAt {
    pub slot: u32,
    pub generation: u32,
    pub encoding: u8,
    pub ext: ExtSeq,
}

/// The router's histories, as egress reads them.
pub trait PacketStore {
    fn stored(&self, at: StoredAt) -> Option<Stored<'_>>;
}

/// One queued packet.
#[derive(Clone, Copy, Debug)]
pub struct Queued {
    pub outgoing: Key<Outgoing>,
    pub at: StoredAt,
    /// Extended outgoing sequence number of the media stream.
    pub index: u64,
    pub timestamp: u32,
    pub retransmission: bool,
}

/// The departure that a packet wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Urgency {
    /// Audio, retransmissions, the last packet of a frame: flush with what has gathered.
    Now,
    /// More of the same frame is about to come: hold up to `RUN_HOLD_MAX`.
    FrameContinues,
}
