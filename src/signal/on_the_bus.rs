//! The hub as the bus of a cluster sees it: events come in, and what to do on the bus is drained after each call.

use serde_json::{Value, json};

use crate::base::node_id::NodeId;
use crate::base::time::Instant;
use crate::signal::cluster::{BusEvent, BusOutput, ClusterKeys, ClusterNode, ClusterSettings, SpanCounts};
use crate::signal::clustered::ClusterDesk;
use crate::signal::hub::Hub;

/// Channels in one view.
const CHANNELS_SHOWN: usize = 200;

impl Hub {
    /// Makes this server a node of a cluster.
    pub fn join_cluster(&mut self, now: Instant, settings: ClusterSettings) {
        self.desk.node = Some(settings.node);
        self.cluster.0 = Some(ClusterDesk::new(ClusterNode::new(now, settings)));
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

    /// What there is of the cluster, for people. None: this server is alone.
    pub fn view_cluster(&self, now: Instant) -> Option<Value> {
        let cluster = self.cluster.0.as_ref()?;
        let mut view = cluster.node.view(now);
        let entry = |(name, rank, members): (&str, u64, Vec<NodeId>)| {
            let members: Vec<String> = members.iter().map(|node| node.to_string()).collect();
            json!({ "name": name, "rank": rank, "members": members })
        };
        view["shared"] = json!(cluster.spans.shared().count());
        view["channels"] = cluster.spans.shared().take(CHANNELS_SHOWN).map(entry).collect();
        Some(view)
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
