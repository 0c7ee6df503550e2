//! What a plain-RTP transport has: an address of its own, one source that it talks to, and keys from whoever created
//! it, or none. There is no ICE and no handshake. RTP and RTCP share the address (RFC 5761). Only a command ends it.

use std::net::SocketAddr;

use crate::base::buffer::{LocalIndex, Path};
use crate::secure::srtp::SrtpContext;

pub struct PlainRtp {
    /// No other transport gets datagrams there.
    local: LocalIndex,
    /// None: awaited, and learned from the first packet that is recognised.
    remote: Option<SocketAddr>,
    pub srtp: Box<SrtpContext>,
}

impl PlainRtp {
    pub fn new(local: LocalIndex, remote: Option<SocketAddr>, srtp: SrtpContext) -> PlainRtp {
        PlainRtp { local, remote, srtp: Box::new(srtp) }
    }

    pub fn local(&self) -> LocalIndex {
        self.local
    }

    /// The only path on which anything comes and goes, once its other end is known.
    pub fn path(&self) -> Option<Path> {
        self.remote.map(|remote| Path::udp(self.local, remote))
    }

    /// A packet from there was opened. The first one decides, for good.
    pub fn heard(&mut self, path: Path) {
        self.remote.get_or_insert(path.remote);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_source_is_the_only_one() {
        let path = |port| Path::udp(LocalIndex(3), ([192, 0, 2, 1], port).into());
        let mut awaiting = PlainRtp::new(LocalIndex(3), None, SrtpContext::clear());
        assert_eq!(awaiting.path(), None);
        awaiting.heard(path(1));
        awaiting.heard(path(2));
        assert_eq!(awaiting.path(), Some(path(1)));
        let mut fixed = PlainRtp::new(LocalIndex(3), Some(path(9).remote), SrtpContext::clear());
        fixed.heard(path(1));
        assert_eq!(fixed.path(), Some(path(9)));
    }
}
