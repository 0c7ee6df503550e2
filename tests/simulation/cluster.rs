//! Nodes of a cluster on one clock and a bus that loses, splits, hangs and comes back: who sees whom, and when.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weirgate::base::node_id::NodeId;
use weirgate::base::time::{Duration, Instant};
use weirgate::signal::cluster::{
    BusEvent, BusOutput, ClusterKeys, ClusterNode, ClusterSettings, LaneChange, LaneNews, Liveness, NodeLoad,
    NodeProfile, NodeState, SocketsInUse, Speaks,
};
use weirgate::sim::bus::{EngineState, FakeBus, FakeBusSettings};

struct Nodes {
    now: Instant,
    bus: FakeBus,
    nodes: BTreeMap<usize, ClusterNode>,
    started: u64,
}

fn profile(name: String, speaks: Speaks) -> NodeProfile {
    NodeProfile { name, region: "-".to_owned(), url: None, release: "0".to_owned(), shards: 1, speaks }
}

fn lossy(engines: usize, loss: f64, seed: u64) -> Nodes {
    let delay = Duration::from_millis(3);
    let settings = FakeBusSettings { seed, engines, delay, interest_delay: Duration::from_millis(10), loss };
    Nodes { now: Instant::ZERO, bus: FakeBus::new(settings), nodes: BTreeMap::new(), started: 0 }
}

fn clean(engines: usize) -> Nodes {
    lossy(engines, 0.0, 1)
}

impl Nodes {
    fn start_with(&mut self, place: usize, key: u8, speaks: Speaks) {
        self.started += 1;
        let settings = ClusterSettings {
            node: NodeId(self.started),
            cluster: "sim".to_owned(),
            keys: ClusterKeys::parse(&ClusterKeys::line(1, [key; 32])).unwrap(),
            profile: profile(format!("n{place}"), speaks),
        };
        self.nodes.insert(place, ClusterNode::new(self.now, settings));
        self.bus.join(self.now, place);
        self.carry_out(place);
    }

    fn start(&mut self, places: usize) {
        (0..places).for_each(|place| self.start_with(place, 1, Speaks::ours()));
    }

    fn kill(&mut self, place: usize) {
        self.nodes.remove(&place);
        self.bus.leave(place);
    }

    fn carry_out(&mut self, place: usize) {
        let Some(node) = self.nodes.get_mut(&place) else { return };
        while let Some(output) = node.poll_output() {
            self.bus.act(self.now, place, output);
        }
    }

    fn run(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        loop {
            let due = self.nodes.values().filter_map(ClusterNode::poll_timeout).chain(self.bus.deadline()).min();
            let Some(due) = due.filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            while let Some((place, event)) = self.bus.poll(self.now) {
                if let Some(node) = self.nodes.get_mut(&place) {
                    node.handle_bus(self.now, event);
                }
                self.carry_out(place);
            }
            let places: Vec<usize> = self.nodes.keys().copied().collect();
            for place in places {
                let node = self.nodes.get_mut(&place).unwrap();
                if node.poll_timeout().is_some_and(|at| at <= self.now) {
                    node.handle_timeout(self.now, NodeLoad::default(), SocketsInUse::default());
                    self.carry_out(place);
                }
            }
        }
        self.now = end;
    }

    fn sees(&self, place: usize, liveness: Liveness) -> usize {
        self.nodes[&place].seen_as(liveness)
    }

    fn whole(&self) -> bool {
        let all = self.nodes.len();
        let sees = |node: &ClusterNode| (node.seen_as(Liveness::Alive), node.others().count() + 1);
        self.nodes.values().all(|node| node.bus_is_up() && sees(node) == (all, all))
    }

    /// Time until this is so.
    fn until(&mut self, most: u64, is_so: impl Fn(&Nodes) -> bool) -> u64 {
        let started = self.now;
        while !is_so(self) {
            let took = self.now.since(started).as_millis() as u64;
            assert!(took < most, "not within {most} ms");
            self.run(10);
        }
        self.now.since(started).as_millis() as u64
    }
}

#[test]
fn nodes_that_start_together_see_each_other_and_serve() {
    let mut nodes = clean(3);
    nodes.start(8);
    // Interest may be too late for the first hellos; the next come when the start ends.
    nodes.until(300, Nodes::whole);
    nodes.until(300, |nodes| nodes.nodes.values().all(|node| node.state() == NodeState::Serving));
}

#[test]
fn a_node_that_comes_later_need_not_wait_for_hellos() {
    let mut nodes = clean(1);
    nodes.start(3);
    nodes.run(5_500);
    nodes.start_with(3, 1, Speaks::ours());
    let took = nodes.until(500, Nodes::whole);
    assert!(took <= 30, "{took}");
}

#[test]
fn one_that_is_killed_is_dead_after_six_seconds_and_one_that_leaves_is_gone_at_once() {
    let mut nodes = clean(1);
    nodes.start(4);
    nodes.run(10_000);
    nodes.kill(3);
    nodes.run(2_900);
    assert_eq!((nodes.sees(0, Liveness::Alive), nodes.sees(0, Liveness::Suspect)), (3, 1));
    let took = nodes.until(9_000, Nodes::whole);
    assert!((2_000..=3_200).contains(&took), "{took}");
    nodes.nodes.get_mut(&2).unwrap().end();
    nodes.carry_out(2);
    nodes.kill(2);
    assert!(nodes.until(100, Nodes::whole) <= 10);
}

#[test]
fn a_restarted_node_is_another_one() {
    let mut nodes = clean(1);
    nodes.start(2);
    nodes.run(3_000);
    nodes.kill(1);
    nodes.start_with(1, 1, Speaks::ours());
    nodes.run(500);
    assert_eq!(nodes.sees(0, Liveness::Alive), 3, "the old one is not dead yet");
    nodes.until(7_000, Nodes::whole);
}

#[test]
fn a_hanging_engine_is_left_for_another() {
    let mut nodes = clean(2);
    nodes.start(4);
    nodes.run(5_000);
    let engine = nodes.bus.engine_of(0).unwrap();
    nodes.bus.set(nodes.now, engine, EngineState::Hanging);
    let elsewhere = |nodes: &Nodes| (0..4).all(|place| nodes.bus.engine_of(place) != Some(engine));
    let took = nodes.until(8_000, |nodes| elsewhere(nodes) && nodes.whole());
    assert!(took <= 4_500, "{took}");
    assert!(nodes.nodes.values().all(|node| node.counts().reconnects() <= 1));
}

#[test]
fn without_an_engine_nobody_is_dead_and_nothing_is_lost() {
    let mut nodes = clean(1);
    nodes.start(4);
    nodes.run(5_000);
    nodes.bus.set(nodes.now, 0, EngineState::Dead);
    for _ in 0..60 {
        nodes.run(1_000);
        assert!((0..4).all(|place| nodes.sees(place, Liveness::Alive) == 4));
    }
    assert!(nodes.nodes.values().all(|node| !node.bus_is_up() && node.state() == NodeState::Serving));
    nodes.bus.set(nodes.now, 0, EngineState::Running);
    let took = nodes.until(5_000, Nodes::whole);
    assert!(took <= 500, "{took}");
}

#[test]
fn a_node_starts_without_an_engine_too() {
    let mut nodes = clean(1);
    nodes.bus.set(nodes.now, 0, EngineState::Dead);
    nodes.start(2);
    nodes.run(1_990);
    assert!(nodes.nodes.values().all(|node| node.state() == NodeState::Starting));
    nodes.run(20);
    assert!(nodes.nodes.values().all(|node| node.state() == NodeState::Serving && !node.bus_is_up()));
}

#[test]
fn halves_of_a_split_engine_end_each_other_and_find_each_other_again() {
    let mut nodes = clean(2);
    nodes.start(4);
    nodes.run(1_000);
    for place in 0..4 {
        nodes.bus.move_to(nodes.now, place, place % 2);
    }
    nodes.run(3_000);
    let lane = LaneNews { node: nodes.nodes[&1].id(), lane: (0, 0), change: LaneChange::Up };
    let now = nodes.now;
    nodes.nodes.get_mut(&0).unwrap().lane(now, lane);
    nodes.bus.cut(1, true);
    nodes.run(7_500);
    assert_eq!(
        (nodes.sees(0, Liveness::Alive), nodes.sees(0, Liveness::Detached)),
        (2, 1),
        "a lane lives to one of them"
    );
    assert_eq!((nodes.sees(1, Liveness::Alive), nodes.sees(1, Liveness::Detached)), (2, 0));
    assert!(nodes.nodes.values().all(ClusterNode::bus_is_up));
    nodes.bus.cut(1, false);
    assert!(nodes.until(3_000, Nodes::whole) <= 1_100);
}

#[test]
fn who_has_another_key_is_no_node() {
    let mut nodes = clean(1);
    nodes.start(2);
    nodes.start_with(2, 9, Speaks::ours());
    nodes.run(5_000);
    assert_eq!([0, 1, 2].map(|place| nodes.sees(place, Liveness::Alive)), [2, 2, 1]);
    let forged = |node: &ClusterNode| {
        node.counts().unopened_by_reason().find(|(why, _)| *why == "forged").map(|(_, count)| count)
    };
    assert!(nodes.nodes.values().all(|node| forged(node) >= Some(4)));
}

#[test]
fn of_two_releases_without_a_common_version_the_newer_waits() {
    let mut nodes = clean(1);
    nodes.start(2);
    nodes.start_with(2, 1, Speaks::of("bus", 2, 2));
    nodes.run(10_000);
    let states = [0, 1, 2].map(|place| nodes.nodes[&place].state());
    assert_eq!(states, [NodeState::Serving, NodeState::Serving, NodeState::Starting]);
    let shown = nodes.nodes[&2].view(nodes.now);
    assert!(shown["nodes"].as_array().unwrap().iter().all(|node| node["apart"] == true), "{shown}");
    nodes.kill(0);
    nodes.kill(1);
    nodes.until(7_000, |nodes| nodes.nodes[&2].state() == NodeState::Serving);
    let mut wide = clean(1);
    wide.start(1);
    wide.start_with(1, 1, Speaks::of("bus", 1, 2));
    wide.run(1_000);
    assert!(wide.nodes.values().all(|node| node.state() == NodeState::Serving));
}

/// Faults are drawn for a minute; some time after the last of them everybody sees everybody, and nobody else.
fn chaos(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut nodes = lossy(3, rng.random_range(0.0..0.2), seed);
    nodes.start(5);
    for _ in 0..30 {
        let (engine, place) = (rng.random_range(0..3), rng.random_range(0..5));
        match rng.random_range(0..8) {
            0 => nodes.bus.set(nodes.now, engine, EngineState::Dead),
            1 => nodes.bus.set(nodes.now, engine, EngineState::Hanging),
            2 | 3 => nodes.bus.set(nodes.now, engine, EngineState::Running),
            4 => nodes.bus.cut(engine, true),
            5 => nodes.bus.cut(engine, false),
            6 => nodes.kill(place),
            _ => {
                nodes.kill(place);
                nodes.start_with(place, 1, Speaks::ours());
            }
        }
        nodes.run(rng.random_range(0..4_000));
    }
    for engine in 0..3 {
        nodes.bus.set(nodes.now, engine, EngineState::Running);
        nodes.bus.cut(engine, false);
    }
    // With a fifth lost one may be missing at any moment: at some moment within this time nobody is.
    nodes.until(60_000, Nodes::whole);
}

#[test]
fn after_any_faults_everybody_sees_everybody() {
    for seed in 0..50 {
        chaos(seed);
    }
}

#[test]
fn whatever_a_hostile_engine_sends_changes_nothing() {
    let mut nodes = clean(1);
    nodes.start(2);
    nodes.run(2_000);
    let mut heard = Vec::new();
    let now = nodes.now;
    // Whatever node 1 says is kept, to be said again.
    let one = nodes.nodes.get_mut(&1).unwrap();
    one.handle_timeout(now + Duration::from_secs(1), NodeLoad::default(), SocketsInUse::default());
    while let Some(output) = one.poll_output() {
        if let BusOutput::Publish { subject, payload, .. } = output {
            heard.push((subject, payload));
        }
    }
    let (subject, hello) = heard.into_iter().find(|(_, payload)| !payload.is_empty()).unwrap();
    let zero = nodes.nodes.get_mut(&0).unwrap();
    let message =
        |subject: &str, payload: Vec<u8>| BusEvent::Message { subject: subject.to_owned(), reply: None, payload };
    zero.handle_bus(now, message(&subject, hello.clone()));
    let before = zero.view(now);
    for (place, payload) in
        [hello.clone(), hello[..20].to_vec(), vec![0; 300_000], vec![1; 50], Vec::new()].into_iter().enumerate()
    {
        zero.handle_bus(now, message(&subject, payload.clone()));
        zero.handle_bus(now, message("wg.other.nodes", payload));
        assert_eq!(zero.view(now)["nodes"], before["nodes"], "{place}");
    }
    zero.handle_bus(now, BusEvent::Nobody { inbox: "wg.sim.in.0000000000000001.echo.x".to_owned() });
    zero.handle_bus(now, BusEvent::Nobody { inbox: String::new() });
    let refused: u64 = zero.counts().unopened_by_reason().map(|(_, count)| count).sum();
    assert_eq!(refused, 10);
}
