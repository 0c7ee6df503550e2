//! The other nodes of the cluster, and which of them live: by their hellos, and by the lanes to them, which are a second
//! opinion. Reads no clock; what it finds out is told once.

use std::collections::{BTreeMap, BTreeSet};

use super::messages::NodeHello;
use crate::base::limits::{NODE_LANES_MAX, NODES_MAX};
use crate::base::node_id::NodeId;
use crate::base::time::{Duration, Instant};

/// Without a hello for so long a node is in doubt.
const SUSPECT_AFTER: Duration = Duration::from_secs(3);
/// Without a hello for so long it is dead, unless a lane to it lives.
const DEAD_AFTER: Duration = Duration::from_secs(6);

/// How a node is seen from here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Liveness {
    Alive,
    /// Silent for a moment.
    Suspect,
    /// Silent on the bus, while a lane to it lives: it has lost the bus, or we have.
    Detached,
}

impl Liveness {
    pub const ALL: [Liveness; 3] = [Liveness::Alive, Liveness::Suspect, Liveness::Detached];

    pub const fn name(self) -> &'static str {
        match self {
            Liveness::Alive => "alive",
            Liveness::Suspect => "suspect",
            Liveness::Detached => "detached",
        }
    }
}

/// What happened to a lane between a shard of this node and one of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LaneChange {
    Up,
    /// Nothing was heard on it.
    Dead,
    /// Nobody needed it.
    Closed,
}

/// Told by shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneNews {
    pub node: NodeId,
    /// The shard here and the one there.
    pub lane: (u16, u16),
    pub change: LaneChange,
}

#[derive(Debug)]
pub(super) struct KnownNode {
    pub(super) hello: NodeHello,
    /// When its last hello came, or when the bus came back since.
    pub(super) heard: Instant,
    seen: Liveness,
    lanes_up: BTreeSet<(u16, u16)>,
    lanes_dead: BTreeSet<(u16, u16)>,
    /// When the last of its lanes died.
    cut_off: Option<Instant>,
}

impl KnownNode {
    /// None: it is dead.
    fn liveness(&self, now: Instant, bus_is_up: bool) -> Option<Liveness> {
        let silent = now.since(self.heard);
        let lives = !self.lanes_up.is_empty();
        let cut_off = self.cut_off.filter(|_| !lives);
        if !bus_is_up {
            let dead = cut_off.is_some_and(|since| now.since(since) >= DEAD_AFTER);
            let seen = if self.seen == Liveness::Detached && lives { Liveness::Detached } else { Liveness::Alive };
            return (!dead).then_some(seen);
        }
        match silent {
            silent if silent < SUSPECT_AFTER => Some(Liveness::Alive),
            silent if silent < DEAD_AFTER && cut_off.is_none() => Some(Liveness::Suspect),
            _ if lives => Some(Liveness::Detached),
            _ => None,
        }
    }

    /// When that may be another.
    fn deadline(&self, bus_is_up: bool, now: Instant) -> Option<Instant> {
        let cut_off = self.cut_off.filter(|_| self.lanes_up.is_empty()).map(|since| since + DEAD_AFTER);
        if !bus_is_up {
            return cut_off;
        }
        [self.heard + SUSPECT_AFTER, self.heard + DEAD_AFTER].into_iter().find(|at| *at > now)
    }
}

/// What a node's hello, silence or end means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeNews {
    Joined(NodeId, String),
    /// It is seen as another than before.
    Seen(NodeId, String, Liveness),
    /// It said so.
    Left(NodeId, String),
    /// It is silent.
    Dead(NodeId, String),
}

#[derive(Debug, Default)]
pub(super) struct Nodes {
    known: BTreeMap<NodeId, KnownNode>,
    bus_is_up: bool,
    /// Earlier than or at the next moment at which a node may be seen as another.
    deadline: Option<Instant>,
}

impl Nodes {
    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.known.contains_key(&node)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &KnownNode, Liveness)> {
        self.known.iter().map(|(id, node)| (id, node, node.seen))
    }

    /// None: there are too many already, or it is heard as before.
    pub(super) fn heard(&mut self, now: Instant, from: NodeId, hello: NodeHello) -> Option<NodeNews> {
        if let Some(node) = self.known.get_mut(&from) {
            node.hello = hello;
            node.heard = now;
            let before = std::mem::replace(&mut node.seen, Liveness::Alive);
            let name = || node.hello.name.clone();
            return (before != Liveness::Alive).then(|| NodeNews::Seen(from, name(), Liveness::Alive));
        }
        if self.known.len() == NODES_MAX {
            return None;
        }
        let name = hello.name.clone();
        let node = KnownNode {
            hello,
            heard: now,
            seen: Liveness::Alive,
            lanes_up: BTreeSet::new(),
            lanes_dead: BTreeSet::new(),
            cut_off: None,
        };
        self.known.insert(from, node);
        let due = now + SUSPECT_AFTER;
        self.deadline = Some(self.deadline.map_or(due, |at| at.min(due)));
        Some(NodeNews::Joined(from, name))
    }

    pub(super) fn left(&mut self, from: NodeId) -> Option<NodeNews> {
        self.known.remove(&from).map(|node| NodeNews::Left(from, node.hello.name))
    }

    pub(super) fn lane(&mut self, now: Instant, news: LaneNews) {
        let Some(node) = self.known.get_mut(&news.node) else { return };
        node.lanes_up.remove(&news.lane);
        node.lanes_dead.remove(&news.lane);
        let into = match news.change {
            LaneChange::Up => Some(&mut node.lanes_up),
            LaneChange::Dead => Some(&mut node.lanes_dead),
            LaneChange::Closed => None,
        };
        if let Some(into) = into.filter(|into| into.len() < NODE_LANES_MAX) {
            into.insert(news.lane);
        }
        let cut_off = node.lanes_up.is_empty() && !node.lanes_dead.is_empty();
        node.cut_off = if cut_off { node.cut_off.or(Some(now)) } else { None };
        self.deadline = Some(now);
    }

    /// Hellos age only while they could come. When they can again, everybody has the whole time for one.
    pub(super) fn bus_is(&mut self, now: Instant, up: bool) {
        if up && !self.bus_is_up {
            self.known.values_mut().for_each(|node| node.heard = now);
        }
        self.bus_is_up = up;
        self.deadline = Some(now);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Looks at everybody, when it may be time for it.
    pub(super) fn age(&mut self, now: Instant) -> Vec<NodeNews> {
        if self.deadline.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let mut news = Vec::new();
        for (id, node) in &mut self.known {
            match node.liveness(now, self.bus_is_up) {
                None => news.push(NodeNews::Dead(*id, node.hello.name.clone())),
                Some(seen) if seen != node.seen => {
                    node.seen = seen;
                    news.push(NodeNews::Seen(*id, node.hello.name.clone(), seen));
                }
                Some(_) => {}
            }
        }
        for dead in &news {
            if let NodeNews::Dead(id, _) = dead {
                self.known.remove(id);
            }
        }
        self.deadline = self.known.values().filter_map(|node| node.deadline(self.bus_is_up, now)).min();
        news
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{NodeLoad, NodeState};
    use super::super::speaks::Speaks;
    use super::*;

    const OTHER: NodeId = NodeId(7);
    const LANE: (u16, u16) = (0, 1);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn hello() -> NodeHello {
        NodeHello {
            name: "b".to_owned(),
            region: "-".to_owned(),
            release: "0".to_owned(),
            url: None,
            state: NodeState::Serving,
            up: 0,
            speaks: Speaks::ours(),
            load: NodeLoad::default(),
            shards: 1,
        }
    }

    /// Heard at zero over a bus that is up.
    fn nodes() -> Nodes {
        let mut nodes = Nodes::default();
        nodes.bus_is(at(0), true);
        assert!(matches!(nodes.heard(at(0), OTHER, hello()), Some(NodeNews::Joined(OTHER, _))));
        nodes
    }

    /// What is found out up to this time, each at the time at which it is.
    fn found(nodes: &mut Nodes, from: u64, to: u64) -> Vec<(u64, NodeNews)> {
        let mut found = Vec::new();
        for millis in (from..=to).step_by(100) {
            found.extend(nodes.age(at(millis)).into_iter().map(|news| (millis, news)));
        }
        found
    }

    fn seen(liveness: Liveness) -> NodeNews {
        NodeNews::Seen(OTHER, "b".to_owned(), liveness)
    }

    fn dead() -> NodeNews {
        NodeNews::Dead(OTHER, "b".to_owned())
    }

    fn lane(nodes: &mut Nodes, millis: u64, change: LaneChange) {
        nodes.lane(at(millis), LaneNews { node: OTHER, lane: LANE, change });
    }

    #[test]
    fn a_silent_node_is_suspect_and_then_dead() {
        let mut nodes = nodes();
        assert_eq!(found(&mut nodes, 0, 9_000), [(3_000, seen(Liveness::Suspect)), (6_000, dead())]);
        assert_eq!((nodes.known.len(), nodes.deadline()), (0, None));
    }

    #[test]
    fn one_that_speaks_lives() {
        let mut nodes = nodes();
        for second in 1..20 {
            assert_eq!(found(&mut nodes, second * 1_000 - 900, second * 1_000), []);
            assert_eq!(nodes.heard(at(second * 1_000), OTHER, hello()), None);
        }
        assert_eq!(found(&mut nodes, 19_100, 22_500), [(22_000, seen(Liveness::Suspect))]);
        assert_eq!(nodes.heard(at(22_500), OTHER, hello()), Some(seen(Liveness::Alive)));
        assert_eq!(found(&mut nodes, 22_600, 25_400), []);
    }

    #[test]
    fn dead_lanes_confirm_a_silence_early() {
        let mut nodes = nodes();
        lane(&mut nodes, 0, LaneChange::Up);
        lane(&mut nodes, 1_000, LaneChange::Dead);
        assert_eq!(found(&mut nodes, 1_000, 9_000), [(3_000, dead())]);
    }

    #[test]
    fn a_lane_that_lives_keeps_a_silent_node() {
        let mut nodes = nodes();
        lane(&mut nodes, 0, LaneChange::Up);
        let expected = [(3_000, seen(Liveness::Suspect)), (6_000, seen(Liveness::Detached))];
        assert_eq!(found(&mut nodes, 0, 60_000), expected);
        lane(&mut nodes, 60_000, LaneChange::Dead);
        assert_eq!(found(&mut nodes, 60_000, 60_200), [(60_000, dead())]);
    }

    #[test]
    fn a_lane_that_nobody_needed_says_nothing() {
        let mut nodes = nodes();
        lane(&mut nodes, 0, LaneChange::Up);
        lane(&mut nodes, 1_000, LaneChange::Closed);
        assert_eq!(found(&mut nodes, 1_000, 9_000), [(3_000, seen(Liveness::Suspect)), (6_000, dead())]);
    }

    #[test]
    fn hellos_do_not_age_while_none_could_come() {
        let mut nodes = nodes();
        nodes.bus_is(at(1_500), false);
        assert_eq!(found(&mut nodes, 1_500, 60_000), []);
        nodes.bus_is(at(60_000), true);
        assert_eq!(found(&mut nodes, 60_000, 70_000), [(63_000, seen(Liveness::Suspect)), (66_000, dead())]);
    }

    #[test]
    fn without_a_bus_a_node_is_dead_by_its_lanes_alone() {
        let mut nodes = nodes();
        lane(&mut nodes, 0, LaneChange::Up);
        nodes.bus_is(at(1_000), false);
        assert_eq!(found(&mut nodes, 1_000, 20_000), []);
        lane(&mut nodes, 20_000, LaneChange::Dead);
        assert_eq!(found(&mut nodes, 20_000, 30_000), [(26_000, dead())]);
    }

    #[test]
    fn one_that_was_detached_stays_so_without_the_bus() {
        let mut nodes = nodes();
        lane(&mut nodes, 0, LaneChange::Up);
        found(&mut nodes, 0, 7_000);
        nodes.bus_is(at(7_000), false);
        assert_eq!(found(&mut nodes, 7_000, 20_000), []);
        nodes.bus_is(at(20_000), true);
        assert_eq!(found(&mut nodes, 20_000, 20_100), [(20_000, seen(Liveness::Alive))]);
    }

    #[test]
    fn one_that_says_it_goes_is_gone() {
        let mut nodes = nodes();
        assert_eq!(nodes.left(OTHER), Some(NodeNews::Left(OTHER, "b".to_owned())));
        assert_eq!((nodes.left(OTHER), found(&mut nodes, 0, 9_000)), (None, vec![]));
    }

    #[test]
    fn there_are_only_so_many() {
        let mut nodes = nodes();
        for id in 100..100 + NODES_MAX as u64 {
            nodes.heard(at(0), NodeId(id), hello());
        }
        assert_eq!(nodes.known.len(), NODES_MAX);
        for shard in 0..=u16::MAX {
            nodes.lane(at(0), LaneNews { node: OTHER, lane: (shard, 0), change: LaneChange::Up });
        }
        assert_eq!(nodes.known[&OTHER].lanes_up.len(), NODE_LANES_MAX);
    }
}
