//! Hubs of several nodes on one clock and a faulty bus, each with clients that follow a script. Every client keeps what it
//! was told, and holds it to what may be told: nobody comes twice, and nobody goes who was not there.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};
use weirgate::base::id::{ShardId, ShardLabel};
use weirgate::base::node_id::NodeId;
use weirgate::base::time::{Duration, Instant};
use weirgate::shard::command::Command;
use weirgate::signal::cluster::{ClusterKeys, ClusterSettings, NodeProfile, Speaks};
use weirgate::signal::{Entrance, Hub, HubSettings, Output, SessionId};
use weirgate::sim::bus::{FakeBus, FakeBusSettings};

/// A peer as one client sees it, or as it is.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Seen {
    pub user: String,
    pub name: Value,
    pub app_data: Value,
    /// By id: whether it is paused.
    pub producers: BTreeMap<String, bool>,
}

pub struct Client {
    pub channel: String,
    /// None before it has subscribed.
    pub id: Option<String>,
    pub own: Seen,
    pub others: BTreeMap<String, Seen>,
    pub messages: Vec<Value>,
    /// Requests without a reply so far.
    asked: VecDeque<(String, Value)>,
    pub replies: Vec<Value>,
    /// Notifications that are not about the roster.
    pub heard: Vec<Value>,
}

pub struct Node {
    pub hub: Hub,
    pub clients: BTreeMap<SessionId, Client>,
    pub commands: Vec<(ShardId, Command)>,
}

pub struct Cluster {
    pub now: Instant,
    pub bus: FakeBus,
    pub nodes: BTreeMap<usize, Node>,
    started: u64,
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn listed(entry: &Value) -> Seen {
    let producers = entry["producers"].as_array().map(Vec::as_slice).unwrap_or_default();
    Seen {
        user: text(&entry["user"]),
        name: entry["name"].clone(),
        app_data: entry["appData"].clone(),
        producers: producers.iter().map(|p| (text(&p["id"]), p["paused"] == true)).collect(),
    }
}

impl Client {
    fn told(&mut self, message: Value) {
        if message.get("requestId").is_some() {
            self.replied(&message);
            return self.replies.push(message);
        }
        let data = &message["data"];
        let id = || text(&data["id"]);
        match message["type"].as_str().unwrap_or_default() {
            "peer-joined" => {
                let before = self.others.insert(id(), listed(data));
                assert!(before.is_none(), "{message} twice");
            }
            "peer-left" => {
                let gone = self.others.remove(&id()).unwrap_or_else(|| panic!("{message} of nobody"));
                assert!(gone.producers.is_empty(), "{message} before its producers");
            }
            "peer-updated" if Some(id()) == self.id => {
                self.own = Seen { producers: self.own.producers.clone(), ..listed(data) }
            }
            "peer-updated" => {
                let peer = self.others.get_mut(&id()).unwrap_or_else(|| panic!("{message} of nobody"));
                *peer = Seen { producers: std::mem::take(&mut peer.producers), ..listed(data) };
            }
            "new-producer" => {
                let peer = self.others.get_mut(&text(&data["peerId"])).unwrap_or_else(|| panic!("{message} of nobody"));
                let before = peer.producers.insert(id(), data["paused"] == true);
                assert!(before.is_none(), "{message} twice");
            }
            "producer-closed" if Some(text(&data["peerId"])) == self.id => _ = self.own.producers.remove(&id()),
            "producer-closed" => {
                let peer = self.others.get_mut(&text(&data["peerId"])).unwrap_or_else(|| panic!("{message} of nobody"));
                assert!(peer.producers.remove(&id()).is_some(), "{message} of none");
            }
            kind @ ("producer-paused" | "producer-resumed") => {
                let peer = self.others.get_mut(&text(&data["peerId"])).unwrap_or_else(|| panic!("{message} of nobody"));
                *peer.producers.get_mut(&id()).unwrap_or_else(|| panic!("{message} of none")) =
                    kind == "producer-paused";
            }
            "producer-muted" => drop(self.own.producers.insert(text(&data["producerId"]), true)),
            "message" => self.messages.push(message["data"].clone()),
            _ => {}
        }
        self.heard.push(message);
    }

    fn replied(&mut self, reply: &Value) {
        let (asked, with) = self.asked.pop_front().expect("it was asked");
        assert_eq!(reply["requestId"], asked.as_str());
        let data = &reply["data"];
        match reply["type"].as_str().unwrap_or_default() {
            "subscribed" => {
                self.id = Some(text(&data["peerId"]));
                let peers = data["peers"].as_array().expect("a list");
                self.others = peers.iter().map(|peer| (text(&peer["id"]), listed(peer))).collect();
            }
            "producer-id" => drop(self.own.producers.insert(text(&data["id"]), false)),
            "ok" => match data["request"].as_str().unwrap_or_default() {
                "rename" if with["peerId"].is_null() => self.own.name = with["name"].clone(),
                "set-app-data" if with["peerId"].is_null() => self.own.app_data = with["appData"].clone(),
                "close-producer" => drop(self.own.producers.remove(data["id"].as_str().unwrap_or_default())),
                "pause-producer" => drop(self.own.producers.insert(text(&data["id"]), true)),
                "resume-producer" => drop(self.own.producers.insert(text(&data["id"]), false)),
                _ => {}
            },
            _ => {}
        }
    }
}

fn settings(seed: u8) -> HubSettings {
    HubSettings {
        shards: [0, 1].map(|n| (ShardId(n), ShardLabel([b'a', b'a' + n as u8]))).into(),
        candidates: vec![],
        fingerprint_sha256: String::new(),
        spread: Default::default(),
        last_n: Default::default(),
        log: Default::default(),
        quotas: Default::default(),
        ice_servers: Default::default(),
        returns: Default::default(),
        seed: [seed; 32],
    }
}

impl Cluster {
    pub fn new(engines: usize, seed: u64) -> Cluster {
        let (delay, interest_delay) = (Duration::from_millis(3), Duration::from_millis(10));
        let bus = FakeBus::new(FakeBusSettings { seed, engines, delay, interest_delay, loss: 0.0 });
        Cluster { now: Instant::ZERO + Duration::from_secs(1), bus, nodes: BTreeMap::new(), started: 0 }
    }

    pub fn started(engines: usize, nodes: usize) -> Cluster {
        let mut cluster = Cluster::new(engines, 1);
        (0..nodes).for_each(|place| cluster.start(place));
        cluster.run(1_000);
        cluster
    }

    pub fn start(&mut self, place: usize) {
        self.started += 1;
        let mut hub = Hub::new(settings(self.started as u8));
        let profile = NodeProfile {
            name: format!("n{place}"),
            region: "-".to_owned(),
            url: None,
            release: "0".to_owned(),
            shards: 2,
            speaks: Speaks::ours(),
        };
        let keys = ClusterKeys::parse(&ClusterKeys::line(1, [1; 32])).unwrap();
        let settings = ClusterSettings { node: NodeId(self.started), cluster: "sim".to_owned(), keys, profile };
        hub.join_cluster(self.now, settings);
        self.nodes.insert(place, Node { hub, clients: BTreeMap::new(), commands: vec![] });
        self.bus.join(self.now, place);
        self.drain(place);
    }

    pub fn kill(&mut self, place: usize) {
        self.nodes.remove(&place);
        self.bus.leave(place);
    }

    pub fn join(&mut self, place: usize, user: &str, channel: &str) -> SessionId {
        self.come(place, &Entrance::named(user, channel)).expect("there is room")
    }

    pub fn moderator(&mut self, place: usize, user: &str, channel: &str) -> SessionId {
        let mut entrance = Entrance::named(user, channel);
        entrance.grants.moderate = true;
        self.come(place, &entrance).expect("there is room")
    }

    /// It subscribes with its first message. None: it may not come in.
    pub fn come(&mut self, place: usize, entrance: &Entrance) -> Option<SessionId> {
        let node = self.nodes.get_mut(&place)?;
        let session = node.hub.open(self.now, [127, 0, 0, 1].into(), entrance).ok()?;
        let own = Seen { user: entrance.user.to_string(), ..Seen::default() };
        let channel = entrance.channel.to_string();
        let (others, messages) = (BTreeMap::new(), vec![]);
        let asked = VecDeque::new();
        let client = Client { channel, id: None, own, others, messages, asked, replies: vec![], heard: vec![] };
        node.clients.insert(session, client);
        self.ask(place, session, "subscribe", Value::Null);
        Some(session)
    }

    pub fn leave(&mut self, place: usize, session: SessionId) {
        let Some(node) = self.nodes.get_mut(&place) else { return };
        node.clients.remove(&session);
        node.hub.close(self.now, session);
        self.drain(place);
    }

    pub fn ask(&mut self, place: usize, session: SessionId, kind: &str, data: Value) {
        let message = json!({ "type": kind, "data": data, "requestId": kind });
        let Some(node) = self.nodes.get_mut(&place) else { return };
        let Some(client) = node.clients.get_mut(&session) else { return };
        client.asked.push_back((kind.to_owned(), data));
        node.hub.handle_text(self.now, session, &message.to_string());
        self.drain(place);
    }

    pub fn produce(&mut self, place: usize, session: SessionId, ssrc: u32) {
        let parameters = json!({
            "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2 }],
            "encodings": [{ "ssrc": ssrc }],
        });
        self.ask(place, session, "create-transport", Value::Null);
        self.ask(place, session, "produce", json!({ "kind": "audio", "rtpParameters": parameters }));
    }

    pub fn client(&self, place: usize, session: SessionId) -> &Client {
        &self.nodes[&place].clients[&session]
    }

    /// Forgets what came so far.
    pub fn clear(&mut self) {
        for client in self.nodes.values_mut().flat_map(|node| node.clients.values_mut()) {
            (client.heard, client.replies) = (vec![], vec![]);
        }
    }

    /// Types of what came, without replies.
    pub fn heard(&self, place: usize, session: SessionId) -> Vec<&str> {
        self.client(place, session).heard.iter().map(|message| message["type"].as_str().unwrap_or_default()).collect()
    }

    fn drain(&mut self, place: usize) {
        let Some(node) = self.nodes.get_mut(&place) else { return };
        while let Some(output) = node.hub.poll_output() {
            match output {
                Output::Send { session, text, .. } => {
                    if let Some(client) = node.clients.get_mut(&session) {
                        client.told(serde_json::from_str(&text.to_string()).expect("JSON"));
                    }
                }
                Output::Disconnect { session, .. } => drop(node.clients.remove(&session)),
                Output::Command { shard, command } => node.commands.push((shard, command)),
                Output::Verify(_) => {}
            }
        }
        while let Some(output) = node.hub.poll_bus() {
            self.bus.act(self.now, place, output);
        }
    }

    pub fn run(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        loop {
            let due = self.nodes.values().filter_map(|node| node.hub.poll_timeout()).chain(self.bus.deadline()).min();
            let Some(due) = due.filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            while let Some((place, event)) = self.bus.poll(self.now) {
                if let Some(node) = self.nodes.get_mut(&place) {
                    node.hub.handle_bus(self.now, event);
                }
                self.drain(place);
            }
            for place in self.nodes.keys().copied().collect::<Vec<_>>() {
                let node = self.nodes.get_mut(&place).unwrap();
                if node.hub.poll_timeout().is_some_and(|at| at <= self.now) {
                    node.hub.handle_timeout(self.now);
                    self.drain(place);
                }
            }
        }
        self.now = end;
    }

    /// What a client should see: all others of its channel, on whatever node.
    fn truth(&self, channel: &str, but: SessionId, place: usize) -> BTreeMap<String, Seen> {
        let of = |(at, node): (&usize, &Node)| {
            let clients = node
                .clients
                .iter()
                .filter(|(session, client)| client.channel == channel && (*at, **session) != (place, but));
            clients.map(|(_, client)| (client.id.clone().expect("subscribed"), client.own.clone())).collect::<Vec<_>>()
        };
        self.nodes.iter().flat_map(of).collect()
    }

    /// The first client whose view is not the truth, and the difference.
    pub fn differs(&self) -> Option<String> {
        for (place, node) in &self.nodes {
            for (session, client) in &node.clients {
                let truth = self.truth(&client.channel, *session, *place);
                if client.others != truth {
                    let (sees, is) = (&client.others, &truth);
                    let who = (&client.own.user, &client.channel);
                    return Some(format!("{who:?} on node {place}\nsees {sees:#?}\nof   {is:#?}"));
                }
            }
        }
        None
    }

    #[track_caller]
    pub fn agree(&self) {
        if let Some(difference) = self.differs() {
            panic!("{difference}");
        }
    }

    /// Time until they agree.
    pub fn until_agreed(&mut self, most: u64) -> u64 {
        let started = self.now;
        while let Some(difference) = self.differs() {
            let took = self.now.since(started).as_millis() as u64;
            assert!(took < most, "not within {most} ms: {difference}");
            self.run(5);
        }
        self.now.since(started).as_millis() as u64
    }
}
