//! Where a peer is: on this node, or on another one.

use crate::base::id::ShardId;
use crate::base::node_id::NodeId;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PeerPlace {
    /// With the shard of all its transports, so that a producer without one binds where its packets come.
    Here(Option<ShardId>),
    /// A ghost. `landing`: the shard here that gets its producers from there, while something of them is consumed.
    There { node: NodeId, landing: Option<ShardId> },
}

impl PeerPlace {
    /// The shard of what it has made. A ghost has made nothing here.
    pub(super) const fn shard(self) -> Option<ShardId> {
        match self {
            PeerPlace::Here(shard) => shard,
            PeerPlace::There { .. } => None,
        }
    }

    pub(super) const fn node(self) -> Option<NodeId> {
        match self {
            PeerPlace::Here(_) => None,
            PeerPlace::There { node, .. } => Some(node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ghost_has_no_shard_whatever_it_lands_on() {
        let there = PeerPlace::There { node: NodeId(4), landing: Some(ShardId(2)) };
        assert_eq!((there.shard(), there.node()), (None, Some(NodeId(4))));
        assert_eq!((PeerPlace::Here(Some(ShardId(2))).shard(), PeerPlace::Here(None).node()), (Some(ShardId(2)), None));
    }
}
