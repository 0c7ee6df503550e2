//! One packet of a source for forwarding: its place, its time, the reading of its payload. Not its bytes, which are in
//! the history.

use crate::base::seq::ExtSeq;
use crate::base::time::Instant;
use crate::wire::codec::PayloadInfo;

/// The fields of a packet that the loop needs beside its place in the history.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub encoding: u8,
    pub ext: ExtSeq,
    /// The arrival at this machine, whichever shard received it.
    pub arrived: Instant,
    pub timestamp: u32,
    pub marker: bool,
    /// The reading of its payload can be believed.
    pub legible: bool,
    pub info: PayloadInfo,
}
