//! What shards are told of the lanes of all nodes.

use super::node::ClusterNode;
use crate::shard::command::{LaneNode, LaneNodes};

impl ClusterNode {
    /// When it is another than they were told last.
    pub(in crate::signal) fn take_lane_nodes(&mut self) -> Option<LaneNodes> {
        std::mem::take(&mut self.lanes_changed).then(|| self.lane_nodes())
    }

    /// The same for a shard that has been told nothing.
    pub(in crate::signal) fn lane_nodes(&self) -> LaneNodes {
        let others = self.nodes.iter().filter_map(|(id, known, _)| {
            let lanes = known.hello.lanes.as_ref()?;
            let shards = known.hello.shards.try_into().unwrap_or(u16::MAX);
            Some(LaneNode { node: *id, address: lanes.address, shards, fingerprint: lanes.parsed()? })
        });
        LaneNodes { own: self.id, bus_up: self.bus_is_up(), others: others.collect() }
    }
}
