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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ShardId;
    use crate::base::node_id::NodeId;
    use crate::base::time::Duration;
    use crate::signal::cluster::{ClusterKeys, ClusterSettings, NodeProfile, NodeState, Speaks};
    use crate::signal::placement::ChannelSpread;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn clustered() -> Clustered {
        let profile = NodeProfile {
            name: "a".to_owned(),
            region: "-".to_owned(),
            url: None,
            release: "0".to_owned(),
            shards: 1,
            speaks: Speaks::ours(),
        };
        let keys = ClusterKeys::parse(&ClusterKeys::line(1, [1; 32])).unwrap();
        let settings = ClusterSettings { node: NodeId(1), cluster: "c".to_owned(), keys, profile };
        Clustered(Some(Box::new(ClusterNode::new(Instant::ZERO, settings))))
    }

    #[test]
    fn a_server_that_is_alone_has_no_deadline_and_no_load() {
        let mut alone = Clustered::default();
        alone.handle_timeout(at(0), &Placement::new(ChannelSpread::Auto, [ShardId(0)].into_iter()), 1, 1);
        assert!(alone.deadline().is_none() && alone.0.is_none());
    }

    #[test]
    fn the_load_of_the_shards_makes_a_node_full() {
        let mut clustered = clustered();
        let mut placement = Placement::new(ChannelSpread::Auto, [ShardId(0), ShardId(1)].into_iter());
        let mut state = |placement: &Placement, millis: u64, peers: usize| {
            clustered.handle_timeout(at(millis), placement, peers, 1);
            clustered.0.as_ref().unwrap().state()
        };
        assert_eq!(state(&placement, 3_000, 1), NodeState::Serving);
        // Both of them, so that their mean is above the bound; it has to be so for some seconds.
        [ShardId(0), ShardId(1)].into_iter().for_each(|shard| placement.measured(shard, 800));
        assert_eq!(
            [4_500, 6_000, 8_000].map(|millis| state(&placement, millis, 1)),
            [NodeState::Serving, NodeState::Serving, NodeState::Full]
        );
        placement.measured(ShardId(0), 0);
        assert_eq!(state(&placement, 9_500, 1), NodeState::Serving);
        assert_eq!(state(&placement, 11_000, SOCKETS_MAX), NodeState::Full, "of sockets");
        let view = clustered.0.as_ref().unwrap().view(at(11_000));
        assert_eq!(
            (&view["node"]["load"]["permille"], &view["node"]["load"]["peers"]),
            (&400.into(), &SOCKETS_MAX.into())
        );
    }
}
