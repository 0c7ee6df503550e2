//! The hub as the bus of a cluster sees it: events come in, and what to do on the bus is drained after each call.

use crate::base::time::Instant;
use crate::signal::cluster::{BusEvent, BusOutput, ClusterKeys, ClusterNode, ClusterSettings};
use crate::signal::hub::Hub;

impl Hub {
    /// Makes this server a node of a cluster.
    pub fn join_cluster(&mut self, now: Instant, settings: ClusterSettings) {
        self.cluster.0 = Some(Box::new(ClusterNode::new(now, settings)));
    }

    /// Says goodbye to the others.
    pub fn leave_cluster(&mut self) {
        if let Some(node) = &mut self.cluster.0 {
            node.end();
        }
    }

    /// None: it is alone, and there is no cluster.
    pub fn cluster(&self) -> Option<&ClusterNode> {
        self.cluster.0.as_deref()
    }

    pub fn use_cluster_keys(&mut self, keys: ClusterKeys) {
        if let Some(node) = &mut self.cluster.0 {
            node.use_keys(keys);
        }
    }

    pub fn handle_bus(&mut self, now: Instant, event: BusEvent) {
        if let Some(node) = &mut self.cluster.0 {
            node.handle_bus(now, event);
        }
    }

    /// Drained after each call, as [`Hub::poll_output`] is.
    pub fn poll_bus(&mut self) -> Option<BusOutput> {
        self.cluster.0.as_mut()?.poll_output()
    }
}
