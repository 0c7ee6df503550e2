//! The hub's place for its part in a cluster, which it has where the server runs with `--cluster`: brings the cluster the
//! load that it tells of. Costs nothing where there is none.

use std::sync::Arc;

use crate::base::limits::SOCKETS_MAX;
use crate::base::time::Instant;
use crate::signal::cluster::{ClusterNode, NodeLoad, SocketsInUse, Spans};
use crate::signal::placement::Placement;
use crate::signal::waiting::Waiting;

pub(super) struct Cluster {
    pub(super) node: ClusterNode,
    pub(super) spans: Spans,
    pub(super) waiting: Waiting,
}

#[derive(Default)]
pub(super) struct Clustered(pub(super) Option<Box<Cluster>>);

impl Clustered {
    pub(super) fn deadline(&self) -> Option<Instant> {
        let cluster = self.0.as_ref()?;
        [cluster.node.poll_timeout(), cluster.spans.deadline()].into_iter().flatten().min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, placement: &Placement, peers: usize, channels: usize) {
        let Some(cluster) = &mut self.0 else { return };
        let Cluster { node, spans, .. } = &mut **cluster;
        if node.poll_timeout().is_some_and(|at| at <= now) {
            let (expected, capacity, permille) = placement.totals();
            let load = NodeLoad { peers: peers as u64, channels: channels as u64, expected, capacity, permille };
            node.handle_timeout(now, load, SocketsInUse { open: peers as u64, most: SOCKETS_MAX as u64 });
        }
        if node.poll_timeout().is_some() && spans.deadline().is_none_or(|at| at <= now) {
            spans.handle_timeout(now, node);
        }
    }

    /// A channel has its first peer.
    pub(super) fn come(&mut self, now: Instant, channel: &Arc<str>) {
        if let Some(cluster) = &mut self.0 {
            cluster.spans.come(now, &mut cluster.node, channel);
        }
    }

    /// A channel has no peer any more. `told`: what happened last.
    pub(super) fn leave(&mut self, now: Instant, channel: &Arc<str>, told: Option<Vec<String>>) {
        if let Some(cluster) = &mut self.0 {
            if let Some(told) = told {
                cluster.spans.tell(now, &mut cluster.node, channel, told);
            }
            cluster.spans.leave(now, &mut cluster.node, channel);
            cluster.waiting.release(channel);
        }
    }
}
