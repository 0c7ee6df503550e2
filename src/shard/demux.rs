//! The demultiplexer: the owner of each datagram. A check is found by its ufrag, everything else by its path, which is
//! known once an authenticated check came by it. `rivals` decides who owns a path.

use std::collections::HashMap;

use crate::base::buffer::{Leg, LocalIndex, Path};
use crate::base::id::{ShardId, ShardLabel, ShortName};
use crate::base::limits::{PATHS_ELSEWHERE_MAX, TRANSPORTS_PER_SHARD_MAX};
use crate::base::slab::Key;
use crate::shard::paths::Paths;
use crate::shard::port::Port;
use crate::shard::relay::Handover;
use crate::transport::Transport;

pub(super) struct Demux {
    pub(super) id: ShardId,
    /// The labels of all shards, this one too.
    labels: Vec<(ShardId, ShardLabel)>,
    /// The kernel does not steer by path: the other shards are told which paths are ours.
    handover: bool,
    pub(super) ufrags: HashMap<ShortName, Key<Transport>>,
    pub(super) paths: Paths,
    /// The plain-RTP transports. What comes to these addresses is theirs or nobody's.
    pub(super) plain_rtp: HashMap<LocalIndex, Key<Transport>>,
    /// Paths that other shards own (only where the kernel does not steer).
    elsewhere: HashMap<Path, ShardId>,
}

/// The owner of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    Here(Key<Transport>),
    At(ShardId),
    /// From another source than this plain-RTP transport's, to whose address it came.
    Stranger(Key<Transport>),
    Nobody,
}

impl Demux {
    pub(super) fn new(id: ShardId, labels: Vec<(ShardId, ShardLabel)>, handover: bool) -> Demux {
        Demux {
            id,
            labels,
            handover,
            ufrags: HashMap::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            paths: Paths::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            plain_rtp: HashMap::new(),
            elsewhere: HashMap::new(),
        }
    }

    /// The plain-RTP transport whose address this is.
    pub(super) fn plain_rtp_at(&self, leg: Leg) -> Option<Key<Transport>> {
        match leg {
            Leg::Udp(local) if !self.plain_rtp.is_empty() => self.plain_rtp.get(&local).copied(),
            Leg::Udp(_) | Leg::Tcp(..) => None,
        }
    }

    /// Whether a plain-RTP transport may have the address.
    pub(super) fn is_free(&self, local: LocalIndex) -> bool {
        !self.plain_rtp.contains_key(&local) && !self.paths.is_used(local)
    }

    /// The owner of a datagram that needs a validated path.
    pub(super) fn owner(&mut self, path: &Path) -> Owner {
        match (self.paths.owner(path), self.plain_rtp_at(path.leg)) {
            (Some(key), _) => self.paths.holder(path).map_or(Owner::Here(key), Owner::At),
            (None, Some(plain)) => Owner::Stranger(plain),
            (None, None) => self.elsewhere.get(path).copied().map_or(Owner::Nobody, Owner::At),
        }
    }

    /// The owner of a check with this ufrag, whose label names the shard that made it.
    pub(super) fn owner_of_check(&self, ufrag: &[u8]) -> Owner {
        if let Some(key) = ShortName::new(ufrag).and_then(|name| self.ufrags.get(&name).copied()) {
            return Owner::Here(key);
        }
        let others = || self.labels.iter().filter(|(shard, _)| *shard != self.id);
        match others().find(|(_, label)| ufrag.starts_with(&label.0)) {
            Some((shard, _)) => Owner::At(*shard),
            None => Owner::Nobody,
        }
    }

    /// Tells the other shards whether this path is ours. What comes over a connection never reaches them.
    pub(super) fn announce(&self, port: &mut Port, path: Path, up: bool) {
        if self.handover && matches!(path.leg, Leg::Udp(_)) {
            for (shard, _) in self.labels.iter().filter(|(shard, _)| *shard != self.id) {
                port.hand_over(*shard, Handover::Path { path, up });
            }
        }
    }

    /// Notes that another shard owns the path. No transport here has passed a check on it.
    pub(super) fn is_elsewhere(&mut self, path: Path, at: ShardId) {
        debug_assert!(self.paths.peek(&path).is_none(), "a path of ours is held or contended, not elsewhere");
        if self.elsewhere.len() < PATHS_ELSEWHERE_MAX {
            self.elsewhere.insert(path, at);
        }
    }

    /// Forgets the path where that shard was its owner.
    pub(super) fn is_elsewhere_no_more(&mut self, path: &Path, at: ShardId) {
        if self.elsewhere.get(path) == Some(&at) {
            self.elsewhere.remove(path);
        }
    }

    pub(super) fn forget_elsewhere(&mut self, path: &Path) -> Option<ShardId> {
        self.elsewhere.remove(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::buffer::LocalIndex;

    const HERE: ShardId = ShardId(0);
    const THERE: ShardId = ShardId(1);

    fn demux() -> Demux {
        Demux::new(HERE, vec![(HERE, ShardLabel(*b"aa")), (THERE, ShardLabel(*b"bb"))], true)
    }

    fn path(port: u16) -> Path {
        Path::udp(LocalIndex(0), ([192, 0, 2, 1], port).into())
    }

    #[test]
    fn a_check_belongs_to_the_transport_of_its_ufrag_or_to_the_shard_of_its_label() {
        let (mut demux, key) = (demux(), Key::from_parts(3, 0));
        demux.ufrags.insert(ShortName::new(b"bbknown").unwrap(), key);
        assert_eq!(demux.owner_of_check(b"bbknown"), Owner::Here(key));
        assert_eq!(demux.owner_of_check(b"bbother"), Owner::At(THERE));
        assert_eq!(demux.owner_of_check(b"aaother"), Owner::Nobody, "it would be known here");
        assert_eq!(demux.owner_of_check(b""), Owner::Nobody);
    }

    #[test]
    fn a_path_belongs_to_the_shard_that_holds_it() {
        let (mut demux, key) = (demux(), Key::from_parts(3, 0));
        assert_eq!(demux.owner(&path(1)), Owner::Nobody);
        demux.is_elsewhere(path(1), THERE);
        assert_eq!(demux.owner(&path(1)), Owner::At(THERE));
        demux.is_elsewhere_no_more(&path(1), HERE);
        assert_eq!(demux.owner(&path(1)), Owner::At(THERE), "said by a shard that never had it");
        demux.is_elsewhere_no_more(&path(1), THERE);
        demux.paths.insert(path(1), key);
        assert_eq!(demux.owner(&path(1)), Owner::Here(key));
        demux.paths.hold_elsewhere(path(1), THERE);
        assert_eq!(demux.owner(&path(1)), Owner::At(THERE), "ours is only a rival");
    }

    #[test]
    fn every_other_shard_is_told_of_a_path_unless_the_kernel_steers() {
        let told = |handover| {
            let (mut port, mut told) = (Port::default(), Vec::new());
            Demux { handover, ..demux() }.announce(&mut port, path(1), true);
            port.poll(&mut |to, _| {
                told.push(to);
                true
            });
            told
        };
        assert_eq!((told(true), told(false)), (vec![THERE], vec![]));
    }
}
