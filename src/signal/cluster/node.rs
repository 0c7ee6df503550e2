//! This node's part in the cluster: what it tells, whom it knows, and whether its bus works. Events of the bus and the
//! time go in; what to do on the bus, and the next deadline, come out. Knows nothing of channels.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::bus_counts::BusCounts;
use super::bus_life::{BusAnswer, BusLife, BusStep};
use super::heard::BusNews;
use super::keys::ClusterKeys;
use super::messages::{self, BusMessage, NodeHello, NodeLoad, NodeState, Unread};
use super::node_lanes::NodeLanes;
use super::nodes::{LaneNews, Liveness, NodeNews, Nodes};
use super::own_state::{OwnState, SocketsInUse};
use super::seal::{BusSeal, Unopened};
use super::speaks::{Apart, Speaks};
use super::subjects::Subjects;
use crate::base::node_id::NodeId;
use crate::base::time::{Duration, Instant};

const HELLO_EVERY: Duration = Duration::from_secs(1);
/// The interval of warnings about messages that cannot be opened.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// What a node is called, and what it has.
#[derive(Clone, Debug)]
pub struct NodeProfile {
    pub name: String,
    pub region: String,
    pub url: Option<String>,
    pub release: String,
    pub shards: u64,
    pub speaks: Speaks,
    /// None: it has none.
    pub lanes: Option<NodeLanes>,
}

#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// Drawn at this start.
    pub node: NodeId,
    /// The name that the nodes of one cluster have in common.
    pub cluster: String,
    pub keys: ClusterKeys,
    pub profile: NodeProfile,
}

/// What comes from the bus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BusEvent {
    /// It is connected, for the first time or again; with a text that names the engine.
    Connected {
        engine: String,
    },
    Disconnected,
    Message {
        subject: String,
        reply: Option<String>,
        payload: Vec<u8>,
    },
    /// Nobody listens where a question went whose answers would come to this inbox.
    Nobody {
        inbox: String,
    },
    /// Messages were lost here, because they came faster than they were read.
    Behind,
}

/// What to do on the bus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BusOutput {
    Subscribe {
        subject: String,
    },
    Unsubscribe {
        subject: String,
    },
    /// `reply`: an inbox of this node, when answers are wanted.
    Publish {
        subject: String,
        reply: Option<String>,
        payload: Vec<u8>,
    },
    /// The connection looks alive and is not: have another one.
    ForceReconnect,
}

pub struct ClusterNode {
    pub(super) id: NodeId,
    pub(super) cluster: String,
    pub(super) profile: NodeProfile,
    pub(super) started: Instant,
    subjects: Subjects,
    pub(super) seal: BusSeal,
    pub(super) life: BusLife,
    pub(super) nodes: Nodes,
    /// Those that this node cannot speak with and would split channels with: they were here first.
    pub(super) apart: BTreeSet<NodeId>,
    /// What shards know of the lanes of the nodes is not so any more.
    pub(super) lanes_changed: bool,
    own: OwnState,
    pub(super) load: NodeLoad,
    hello_at: Instant,
    /// What the last hello said.
    told: NodeState,
    pub(super) engine: Option<String>,
    was_connected: bool,
    pub(super) round_trip: Option<Duration>,
    pub(super) counts: BusCounts,
    warned: Option<Instant>,
    left_out: u64,
    out: VecDeque<BusOutput>,
    heard: VecDeque<BusNews>,
    ended: bool,
}

impl ClusterNode {
    pub fn new(now: Instant, settings: ClusterSettings) -> ClusterNode {
        let ClusterSettings { node, cluster, keys, profile } = settings;
        let subjects = Subjects::new(&cluster, node);
        let listens = subjects.own_all();
        ClusterNode {
            id: node,
            cluster,
            profile,
            started: now,
            subjects,
            seal: BusSeal::new(node, keys),
            life: BusLife::new(now),
            nodes: Nodes::default(),
            apart: BTreeSet::new(),
            lanes_changed: true,
            own: OwnState::new(now),
            load: NodeLoad::default(),
            hello_at: now,
            told: NodeState::Starting,
            engine: None,
            was_connected: false,
            round_trip: None,
            counts: BusCounts::default(),
            warned: None,
            left_out: 0,
            out: listens.map(|subject| BusOutput::Subscribe { subject }).into(),
            heard: VecDeque::new(),
            ended: false,
        }
    }

    pub fn id(&self) -> NodeId {
        self.id
    }

    pub fn state(&self) -> NodeState {
        self.own.state()
    }

    pub fn bus_is_up(&self) -> bool {
        self.life.is_up()
    }

    /// The engine's name and release, while there is a connection to one.
    pub fn engine(&self) -> Option<&str> {
        self.engine.as_deref()
    }

    pub fn counts(&self) -> &BusCounts {
        &self.counts
    }

    /// Messages that were opened, by the ids of keys: those in use, and those that were.
    pub fn opened_by_key(&self) -> BTreeMap<u8, u64> {
        let unused = self.seal.keys().ids().map(|id| (id, 0));
        unused.chain(self.counts.opened_by_key()).collect()
    }

    /// The other nodes, and how they are seen.
    pub fn others(&self) -> impl Iterator<Item = (NodeId, Liveness)> {
        self.nodes.iter().map(|(id, _, seen)| (*id, seen))
    }

    /// This node is among those that are alive.
    pub fn seen_as(&self, liveness: Liveness) -> usize {
        let own = usize::from(liveness == Liveness::Alive);
        own + self.others().filter(|(_, seen)| *seen == liveness).count()
    }

    pub fn poll_output(&mut self) -> Option<BusOutput> {
        self.out.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let own = [self.nodes.deadline(), self.own.deadline()].into_iter().flatten();
        own.chain([self.life.deadline(), self.hello_at]).min()
    }

    pub fn handle_bus(&mut self, now: Instant, event: BusEvent) {
        if self.ended {
            return;
        }
        match event {
            BusEvent::Connected { engine } => {
                if std::mem::replace(&mut self.was_connected, true) {
                    self.counts.reconnects += 1;
                    self.heard.push_back(BusNews::BusBack);
                }
                tracing::info!(engine, "the bus of the cluster is connected");
                self.engine = Some(engine);
                self.life.connected(now);
                self.hello_at = now;
            }
            BusEvent::Disconnected => {
                if self.engine.take().is_some() {
                    tracing::warn!("the bus of the cluster is not connected: it is tried again");
                }
            }
            BusEvent::Behind => {
                tracing::warn!("messages of the cluster were lost, because they came faster than they were read");
                self.hello_at = now;
                self.heard.push_back(BusNews::BusBack);
            }
            BusEvent::Nobody { inbox } => self.nobody(now, inbox),
            BusEvent::Message { subject, reply, payload } => self.message(now, subject, reply, payload),
        }
        self.act(now);
    }

    /// With the present load, which decides what this node says it is.
    pub fn handle_timeout(&mut self, now: Instant, load: NodeLoad, sockets: SocketsInUse) {
        self.load = load;
        self.own.look(now, &load, sockets);
        self.act(now);
    }

    pub fn lane(&mut self, now: Instant, news: LaneNews) {
        self.nodes.lane(now, news);
        self.act(now);
    }

    /// Takes keys that were read again.
    pub fn use_keys(&mut self, keys: ClusterKeys) {
        if *self.seal.keys() != keys {
            let ids: Vec<u8> = keys.ids().collect();
            tracing::info!(keys = ?ids, "messages of the cluster are sealed with the first of these keys from now on");
            self.seal.use_keys(keys);
        }
    }

    /// Says goodbye, and nothing after it.
    pub fn end(&mut self) {
        if self.ended {
            return;
        }
        self.publish(self.subjects.nodes(), &BusMessage::Bye);
        self.ended = true;
        self.out.extend(self.subjects.own_all().map(|subject| BusOutput::Unsubscribe { subject }));
    }

    /// What time alone brings, and what follows from the last input.
    fn act(&mut self, now: Instant) {
        if self.ended {
            return;
        }
        while let Some(step) = self.life.poll(now) {
            match step {
                BusStep::Ask(number) => {
                    self.counts.sent("echo");
                    let (subject, reply) = (self.subjects.echo(), Some(self.subjects.echo_inbox(number)));
                    self.out.push_back(BusOutput::Publish { subject, reply, payload: Vec::new() });
                }
                BusStep::WentDown => {
                    tracing::warn!("the bus of the cluster does not answer: calls go on, and it is connected anew");
                    self.nodes.bus_is(now, false);
                    self.lanes_changed = true;
                }
                BusStep::Force => self.out.push_back(BusOutput::ForceReconnect),
            }
        }
        for news in self.nodes.age(now) {
            self.note(&news);
        }
        if self.hello_at <= now || self.own.state() != self.told {
            self.hello_at = now + HELLO_EVERY;
            self.told = self.own.state();
            let hello = self.hello(now);
            self.publish(self.subjects.nodes(), &hello);
        }
    }

    fn hello(&self, now: Instant) -> BusMessage {
        let NodeProfile { name, region, url, release, shards, speaks, lanes } = self.profile.clone();
        let (state, up) = (self.own.state(), now.since(self.started).as_secs());
        let load = self.load;
        BusMessage::Hello(Box::new(NodeHello { name, region, release, url, state, up, speaks, load, shards, lanes }))
    }

    fn publish(&mut self, subject: String, message: &BusMessage) {
        self.publish_text(subject, None, message.kind(), &messages::write(message));
    }

    /// A message of this type, for the subject of all or of one.
    pub(super) fn publish_text(&mut self, subject: String, reply: Option<String>, kind: &str, text: &str) {
        if self.ended {
            return;
        }
        self.counts.sent(kind);
        let payload = self.seal.seal(&subject, text.as_bytes());
        self.out.push_back(BusOutput::Publish { subject, reply, payload });
    }

    pub(super) fn publish_to(&mut self, subject: String, message: &BusMessage) {
        self.publish(subject, message);
    }

    pub(super) fn subscribe(&mut self, subject: String) {
        self.out.push_back(BusOutput::Subscribe { subject });
    }

    pub(super) fn unsubscribe(&mut self, subject: String) {
        self.out.push_back(BusOutput::Unsubscribe { subject });
    }

    pub(super) const fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    /// Something waits for [`ClusterNode::poll_heard`] or for the shards.
    pub(in crate::signal) fn has_news(&self) -> bool {
        !self.heard.is_empty() || self.lanes_changed
    }

    /// What is for the channels, in order; drained after each call.
    pub(in crate::signal) fn poll_heard(&mut self) -> Option<BusNews> {
        self.heard.pop_front()
    }

    fn nobody(&mut self, now: Instant, inbox: String) {
        let Some(number) = self.subjects.echo_number(&inbox) else {
            return self.heard.push_back(BusNews::Nobody { inbox });
        };
        self.counts.received("echo");
        let took = match self.life.nobody(now, number) {
            BusAnswer::Stray => return,
            BusAnswer::Again(took) => took,
            BusAnswer::CameUp(took) => {
                tracing::info!("the bus of the cluster answers");
                self.own.bus_answered(now);
                self.nodes.bus_is(now, true);
                self.lanes_changed = true;
                self.hello_at = now;
                self.heard.push_back(BusNews::BusBack);
                took
            }
        };
        self.counts.round_trip(took);
        self.round_trip = Some(took);
    }

    fn message(&mut self, now: Instant, subject: String, reply: Option<String>, mut payload: Vec<u8>) {
        let opened = match self.seal.open(&subject, &mut payload) {
            Ok(opened) => opened,
            Err(why) => return self.unopened(now, why),
        };
        self.counts.opened(opened.key);
        let from = opened.from;
        let message = match messages::read(opened.text) {
            Ok((message, unknown)) => {
                self.counts.fields_unknown += unknown as u64;
                message
            }
            Err(Unread::Unknown) => return self.counts.received("other"),
            Err(Unread::Malformed) => return self.counts.received("malformed"),
        };
        self.counts.received(message.kind());
        match message {
            BusMessage::Hello(hello) => self.hello_came(now, from, *hello),
            BusMessage::Bye => {
                if let Some(news) = self.nodes.left(from) {
                    self.note(&news);
                }
            }
            // Of a node that is not known nobody would see the end.
            _ if !self.nodes.knows(from) => {}
            message @ (BusMessage::Held(_) | BusMessage::Channel(_)) => {
                self.heard.push_back(BusNews::Said { from, subject, reply, message });
            }
        }
    }

    fn unopened(&mut self, now: Instant, why: Unopened) {
        self.counts.unopened(why);
        if self.warned.is_some_and(|at| now.since(at) < WARN_EVERY) {
            self.left_out += 1;
            return;
        }
        self.warned = Some(now);
        let left_out = std::mem::take(&mut self.left_out);
        tracing::warn!(
            why = why.name(),
            left_out,
            "a message of the cluster was not opened: another key than --cluster-key's, or nothing of ours"
        );
    }

    fn hello_came(&mut self, now: Instant, from: NodeId, hello: NodeHello) {
        let serves = matches!(hello.state, NodeState::Serving | NodeState::Full);
        let apart = self.profile.speaks.apart(&hello.speaks).filter(|_| serves);
        let (name, release) = (hello.name.clone(), hello.release.clone());
        let of_our_name = name == self.profile.name;
        self.lanes_changed |= self.nodes.lanes_of(from) != Some(&hello.lanes);
        let news = self.nodes.heard(now, from, hello);
        match apart {
            Some(Apart::WeAreNewer(protocol)) if self.nodes.knows(from) => {
                if self.apart.insert(from) {
                    tracing::warn!(
                        name,
                        release,
                        protocol,
                        "this node takes no sockets: it has no version of a protocol in common with a node that serves"
                    );
                }
            }
            _ => drop(self.apart.remove(&from)),
        }
        self.own.is_apart(!self.apart.is_empty());
        let Some(news) = news else { return };
        if let NodeNews::Joined(..) = news {
            if of_our_name {
                tracing::warn!(node = %from, "another node has the name of this one: give each its own with --node-name");
            }
            // It need not wait a second for who is here.
            let hello = self.hello(now);
            self.publish(self.subjects.of(from), &hello);
        }
        self.note(&news);
    }

    fn note(&mut self, news: &NodeNews) {
        match news {
            NodeNews::Joined(node, name) => tracing::info!(%node, name, "a node is in the cluster"),
            NodeNews::Seen(node, name, seen) => tracing::info!(%node, name, "a node is seen as {}", seen.name()),
            NodeNews::Left(node, name) => tracing::info!(%node, name, "a node has left the cluster"),
            NodeNews::Dead(node, name) => tracing::warn!(%node, name, "a node of the cluster is dead"),
        }
        if let NodeNews::Left(node, _) | NodeNews::Dead(node, _) = news {
            self.apart.remove(node);
            self.lanes_changed = true;
            self.heard.push_back(BusNews::NodeGone { node: *node, fault: matches!(news, NodeNews::Dead(..)) });
        }
        if let NodeNews::Joined(node, _) = news {
            self.heard.push_back(BusNews::NodeJoined(*node));
        }
        self.own.is_apart(!self.apart.is_empty());
    }
}
