//! The hub as the bus of a cluster sees it: events come in, and what to do on the bus is drained after each call.

use crate::base::id::ShardId;
use crate::base::time::Instant;
use crate::shard::command::{Command, Event, LaneState};
use crate::signal::cluster::{
    BusEvent, BusOutput, ClusterKeys, ClusterNode, ClusterSettings, LaneChange, LaneNews, SpanCounts,
};
use crate::signal::clustered::Cluster;
use crate::signal::hub::Hub;

impl Hub {
    /// Makes this server a node of a cluster.
    pub fn join_cluster(&mut self, now: Instant, settings: ClusterSettings) {
        self.desk.node = Some(settings.node);
        self.cluster.0 = Some(Cluster::new(ClusterNode::new(now, settings)));
    }

    /// Says goodbye to the others.
    pub fn leave_cluster(&mut self) {
        if let Some(cluster) = &mut self.cluster.0 {
            cluster.node.end();
        }
    }

    /// None: it is alone, and there is no cluster.
    pub fn cluster(&self) -> Option<&ClusterNode> {
        self.cluster.0.as_ref().map(|cluster| &cluster.node)
    }

    pub fn use_cluster_keys(&mut self, keys: ClusterKeys) {
        if let Some(cluster) = &mut self.cluster.0 {
            cluster.node.use_keys(keys);
        }
    }

    pub fn handle_bus(&mut self, now: Instant, event: BusEvent) {
        if let Some(cluster) = &mut self.cluster.0 {
            cluster.node.handle_bus(now, event);
        }
        self.heed_others(now);
    }

    /// A shard has told of one of its lanes.
    pub(super) fn lane_changed(&mut self, now: Instant, event: &Event) {
        let (Some(cluster), Event::Lane { node, shards: (here, there), state, .. }) = (&mut self.cluster.0, event)
        else {
            return;
        };
        let change = match state {
            LaneState::Opening => return,
            LaneState::Up => LaneChange::Up,
            LaneState::Closed => LaneChange::Closed,
            LaneState::Dead => LaneChange::Dead,
        };
        cluster.node.lane(now, LaneNews { node: *node, lane: (here.0, there.0), change });
        self.heed_others(now);
    }

    /// Shards know the lanes of all nodes. `newborn`: a shard that knows nothing.
    pub(super) fn tell_shards_of_nodes(&mut self, newborn: Option<ShardId>) {
        let Some(cluster) = &mut self.cluster.0 else { return };
        let post = &mut self.desk.post;
        if let Some(nodes) = cluster.node.take_lane_nodes() {
            for (shard, _) in &self.desk.settings.shards {
                post.command(*shard, Command::Nodes { nodes: Box::new(nodes.clone()) });
            }
        } else if let Some(shard) = newborn {
            post.command(shard, Command::Nodes { nodes: Box::new(cluster.node.lane_nodes()) });
        }
    }

    /// What was mended of what other nodes have of the channels here.
    pub fn span_counts(&self) -> SpanCounts {
        self.cluster.0.as_ref().map(|cluster| cluster.spans.counts).unwrap_or_default()
    }

    /// Channels that this node listens to on the bus.
    pub fn channels_listened(&self) -> usize {
        self.cluster.0.as_ref().map_or(0, |cluster| cluster.spans.len())
    }

    /// Drained after each call, as [`Hub::poll_output`] is.
    pub fn poll_bus(&mut self) -> Option<BusOutput> {
        self.cluster.0.as_mut()?.node.poll_output()
    }
}
