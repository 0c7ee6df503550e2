//! The other nodes, as the control tower last told: whose an address is, and by which certificate a node is known.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::base::id::ShardId;
use crate::base::limits::LANE_NODES_MAX;
use crate::base::node_id::NodeId;
use crate::secure::certificate::{Fingerprint, matches};
use crate::shard::command::{LaneNode, LaneNodes};

#[derive(Default)]
pub(super) struct KnownNodes {
    /// None: this shard is in no cluster.
    pub(super) own: Option<NodeId>,
    pub(super) bus_up: bool,
    known: HashMap<NodeId, LaneNode>,
    addresses: HashMap<SocketAddr, (NodeId, ShardId)>,
}

impl KnownNodes {
    pub(super) fn set(&mut self, nodes: LaneNodes) {
        let LaneNodes { own, bus_up, others } = nodes;
        (self.own, self.bus_up) = (Some(own), bus_up);
        self.known = others.into_iter().take(LANE_NODES_MAX).map(|node| (node.node, node)).collect();
        self.addresses.clear();
        for node in self.known.values() {
            let shards = (0..node.shards).map(ShardId);
            self.addresses.extend(shards.filter_map(|shard| Some((address(node, shard)?, (node.node, shard)))));
        }
    }

    pub(super) fn at(&self, remote: SocketAddr) -> Option<(NodeId, ShardId)> {
        self.addresses.get(&remote).copied()
    }

    pub(super) fn address(&self, node: NodeId, shard: ShardId) -> Option<SocketAddr> {
        self.known.get(&node).filter(|node| shard.0 < node.shards).and_then(|node| address(node, shard))
    }

    /// Whether this certificate (DER) is the one that the node has told.
    pub(super) fn is_of(&self, node: NodeId, certificate: &[u8]) -> bool {
        let told = self.known.get(&node).map(|node| -> &Fingerprint { &node.fingerprint });
        told.is_some_and(|told| matches(std::slice::from_ref(told), certificate))
    }
}

/// Each shard has the port after the one before it.
fn address(node: &LaneNode, shard: ShardId) -> Option<SocketAddr> {
    Some(SocketAddr::new(node.address.ip(), node.address.port().checked_add(shard.0)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::script::fingerprint;

    #[test]
    fn an_address_is_of_one_shard_of_a_node_that_was_told_last() {
        let of = |certificate: &[u8]| Fingerprint::parse("sha-256", &fingerprint(certificate)).unwrap();
        let node = |id, port| LaneNode {
            node: NodeId(id),
            address: ([10, 0, 0, 1], port).into(),
            shards: 2,
            fingerprint: of(b"theirs"),
        };
        let mut nodes = KnownNodes::default();
        let told = |others| LaneNodes { own: NodeId(1), bus_up: true, others };
        nodes.set(told(vec![node(7, 41_000), node(8, u16::MAX)]));
        let at =
            |nodes: &KnownNodes, port| nodes.at(([10, 0, 0, 1], port).into()).map(|(node, shard)| (node.0, shard.0));
        assert_eq!(
            [40_999, 41_000, 41_001, 41_002].map(|port| at(&nodes, port)),
            [None, Some((7, 0)), Some((7, 1)), None]
        );
        assert_eq!(nodes.address(NodeId(7), ShardId(1)), Some(([10, 0, 0, 1], 41_001).into()));
        assert_eq!((nodes.address(NodeId(7), ShardId(2)), nodes.address(NodeId(8), ShardId(1))), (None, None));
        assert!(nodes.is_of(NodeId(7), b"theirs") && !nodes.is_of(NodeId(7), b"another"));
        nodes.set(told(Vec::new()));
        assert!(at(&nodes, 41_000).is_none() && !nodes.is_of(NodeId(7), b"theirs"));
    }
}
