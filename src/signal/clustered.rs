//! The hub's place for its part in a cluster, which it has where the server runs with `--cluster`: brings the cluster the
//! load that it tells of. Costs nothing where there is none.

use crate::base::limits::SOCKETS_MAX;
use crate::base::time::Instant;
use crate::signal::cluster::{ClusterNode, NodeLoad, SocketsInUse};
use crate::signal::placement::Placement;

#[derive(Default)]
pub(super) struct Clustered(pub(super) Option<Box<ClusterNode>>);

impl Clustered {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.as_ref().and_then(|node| node.poll_timeout())
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, placement: &Placement, peers: usize, channels: usize) {
        let Some(node) = self.0.as_mut().filter(|node| node.poll_timeout().is_some_and(|at| at <= now)) else { return };
        let (expected, capacity, permille) = placement.totals();
        let load = NodeLoad { peers: peers as u64, channels: channels as u64, expected, capacity, permille };
        node.handle_timeout(now, load, SocketsInUse { open: peers as u64, most: SOCKETS_MAX as u64 });
    }
}
