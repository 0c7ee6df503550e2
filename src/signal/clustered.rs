//! The hub's place for its part in a cluster, which it has where the server runs with `--cluster`: brings the cluster the
//! load that it tells of. Costs nothing where there is none.

use std::sync::Arc;

use crate::base::id::ShardId;
use crate::base::limits::SOCKETS_MAX;
use crate::base::time::Instant;
use crate::shard::command::{Command, Event, LaneState};
use crate::signal::cluster::{ClusterNode, LaneChange, LaneNews, NodeLoad, SocketsInUse, Spans};
use crate::signal::desk::Desk;
use crate::signal::placement::Placement;
use crate::signal::waiting::TextsWaiting;

pub(super) struct ClusterDesk {
    pub(super) node: ClusterNode,
    pub(super) spans: Spans,
    pub(super) waiting: TextsWaiting,
}

impl ClusterDesk {
    pub(super) fn new(node: ClusterNode) -> Box<ClusterDesk> {
        Box::new(ClusterDesk { node, spans: Spans::default(), waiting: TextsWaiting::default() })
    }
}

#[derive(Default)]
pub(super) struct Clustered(pub(super) Option<Box<ClusterDesk>>);

impl Clustered {
    pub(super) fn deadline(&self) -> Option<Instant> {
        let cluster = self.0.as_ref()?;
        // None: it has said goodbye, and nothing comes after it.
        let own = match cluster.node.has_news() {
            true => Instant::ZERO,
            false => cluster.node.poll_timeout()?,
        };
        cluster.spans.deadline().into_iter().chain([own]).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, placement: &Placement, peers: usize, channels: usize) {
        let Some(cluster) = &mut self.0 else { return };
        let ClusterDesk { node, spans, .. } = &mut **cluster;
        if node.poll_timeout().is_some_and(|at| at <= now) {
            let (expected, capacity, permille) = placement.totals();
            let load = NodeLoad { peers: peers as u64, channels: channels as u64, expected, capacity, permille };
            node.handle_timeout(now, load, SocketsInUse { open: peers as u64, most: SOCKETS_MAX as u64 });
        }
        if node.poll_timeout().is_some() && spans.deadline().is_none_or(|at| at <= now) {
            spans.handle_timeout(now, node);
        }
    }

    /// A shard has told of one of its lanes.
    pub(super) fn lane_changed(&mut self, now: Instant, event: &Event) {
        let (Some(cluster), Event::Lane { node, shards: (here, there), state, .. }) = (&mut self.0, event) else {
            return;
        };
        let change = match state {
            LaneState::Opening => return,
            LaneState::Up => LaneChange::Up,
            LaneState::Closed => LaneChange::Closed,
            LaneState::Dead => LaneChange::Dead,
        };
        cluster.node.lane(now, LaneNews { node: *node, lane: (here.0, there.0), change });
    }

    /// Shards know the lanes of all nodes. `newborn`: a shard that knows nothing.
    pub(super) fn tell_shards(&mut self, desk: &mut Desk, newborn: Option<ShardId>) {
        let Some(cluster) = &mut self.0 else { return };
        if let Some(nodes) = cluster.node.take_lane_nodes() {
            for (shard, _) in &desk.settings.shards {
                desk.post.command(*shard, Command::Nodes { nodes: Box::new(nodes.clone()) });
            }
        } else if let Some(shard) = newborn {
            desk.post.command(shard, Command::Nodes { nodes: Box::new(cluster.node.lane_nodes()) });
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
            lanes: None,
        };
        let keys = ClusterKeys::parse(&ClusterKeys::line(1, [1; 32])).unwrap();
        let settings = ClusterSettings { node: NodeId(1), cluster: "c".to_owned(), keys, profile };
        Clustered(Some(ClusterDesk::new(ClusterNode::new(Instant::ZERO, settings))))
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
            clustered.0.as_ref().unwrap().node.state()
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
        let view = clustered.0.as_ref().unwrap().node.view(at(11_000));
        assert_eq!(
            (&view["node"]["load"]["permille"], &view["node"]["load"]["peers"]),
            (&400.into(), &SOCKETS_MAX.into())
        );
    }
}
