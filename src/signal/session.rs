//! One socket: its channel, and its rate limit.

use crate::base::slab::Key;
use crate::base::time::Instant;
use crate::signal::channel::Channel;
use crate::signal::meter::Meter;
use crate::signal::quota::Holder;

/// One open socket. One socket is one peer of one channel, and both carry the same number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

pub(super) struct Session {
    pub(super) channel: Key<Channel>,
    /// The account for its cost and its objects.
    pub(super) holder: Holder,
    pub(super) meter: Meter,
}

impl Session {
    pub(super) fn new(now: Instant, channel: Key<Channel>, holder: Holder) -> Session {
        Session { channel, holder, meter: Meter::new(now, 1) }
    }
}
