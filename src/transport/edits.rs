//! The edits of the newest packets of one outgoing stream, by outgoing number: set when a packet is queued, read when
//! it is sent and when it is resent. Streams without layers have none.

use crate::media::edit::Edit;
use crate::wire::codec::Codec;

/// As many as can wait or be requested again.
const KEPT: usize = 1_024;

pub struct Edits {
    pub codec: Codec,
    kept: Box<[Edit]>,
}

impl Edits {
    pub fn new(codec: Codec) -> Edits {
        Edits { codec, kept: vec![Edit::default(); KEPT].into_boxed_slice() }
    }

    pub fn set(&mut self, index: u64, edit: Edit) {
        self.kept[index as usize % KEPT] = edit;
    }

    pub fn of(&self, index: u64) -> Edit {
        self.kept[index as usize % KEPT]
    }
}
