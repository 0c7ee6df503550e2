//! The signalling hub against a reference model: an input chooses who joins, asks, floods and leaves and the events of
//! shards; the model predicts the reply to each request, exactly one, and the notifications. It knows docs/PROTOCOL.md
//! and nothing of the hub's inside. Used by the fuzz target `hub` and by `tests/reference.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};
use weirgate::base::id::{ConsumerId, Layers, PeerId, ProducerId, ShardId, ShardLabel, TransportId};
use weirgate::base::limits::{
    CONSUMERS_PER_PEER_AND_PRODUCER_MAX, FINGERPRINTS_PER_PEER_MAX, PRODUCERS_PER_PEER_MAX, STATS_PENDING_PER_PEER_MAX,
    TRANSPORTS_PER_PEER_MAX,
};
use weirgate::base::time::{Duration, Instant};
use weirgate::shard::command::{
    Closed, Command, Event, ProducerStats, Reply, RequestId, Speech, Stats, TransportState,
};
use weirgate::signal::{
    Candidate, Entrance, Grants, Hub, HubSettings, LastN, OpenError, Output, ReturnSettings, SessionId, Verification,
};

use crate::choices::Choices;

#[path = "hub_moderation.rs"]
mod moderation;
#[path = "hub_returns.rs"]
mod returns;

use moderation::{Changed, Hall, Mutes};
use returns::{Known, Returns};

const CHANNELS: [&str; 2] = ["room", "another room"];
const SESSIONS_MAX: usize = 24;
const OPS_MAX: usize = 600;
const SHARDS: u16 = 2;
/// Where all of them are: no quota counts them.
const CLIENTS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const STEP: Duration = Duration::from_millis(20);
const CHECK_WAIT: Duration = Duration::from_secs(30);
const FLOOD: usize = 700;
const STATS_WAIT: Duration = Duration::from_secs(5);
/// The time that a peer stays without its socket.
const STAYS: Duration = Duration::from_secs(5);
/// Sent when the observer of speech likes; the model only predicts to whom at most.
const OF_SPEECH: [&str; 2] = ["active-speaker", "audio-levels"];

/// The way of texts to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Socket(SessionId),
    /// The socket is gone, and the peer stays until then.
    Away(Instant),
    /// It never had a socket: it is answered, and told nothing.
    Nowhere,
}

/// As far as the grants of a peer decide what it is answered and who hears of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rights {
    publish: bool,
    subscribe: bool,
    hidden: bool,
    moderate: bool,
}

impl Rights {
    const ALL: [Rights; 4] = [
        Rights { publish: true, subscribe: true, hidden: false, moderate: false },
        Rights { publish: false, subscribe: true, hidden: false, moderate: false },
        Rights { publish: true, subscribe: false, hidden: false, moderate: false },
        Rights { publish: true, subscribe: true, hidden: true, moderate: false },
    ];

    /// Every third that joins has less than all of them, and every third moderates.
    fn of(session: usize) -> Rights {
        let rights = Rights::ALL[if session % 3 == 2 { 1 + session / 3 % 3 } else { 0 }];
        Rights { moderate: session.is_multiple_of(3), ..rights }
    }

    fn entrance(self, user: &str, channel: usize) -> Entrance {
        let Rights { publish, subscribe, hidden, moderate } = self;
        let grants = json!({ "join": true, "publish": publish, "subscribe": subscribe, "hidden": hidden,
            "moderate": moderate });
        let grants = Grants::read(&grants).expect("they are well-formed");
        Entrance { grants, ..Entrance::named(user, CHANNELS[channel]) }
    }

    fn produces(self) -> bool {
        self.publish && !self.hidden
    }
}

struct Session {
    rights: Rights,
    /// What moderators have given and taken of them.
    changed: Changed,
    peer: PeerId,
    /// None: it was not told yet.
    external: Option<String>,
    /// It waits to be let in.
    waits: bool,
    /// Its name and appData, and whether somebody else gave the name.
    profile: (Value, Value),
    name_given: bool,
    mutes: Mutes,
    way: Way,
    /// What it is to be told when a socket takes it up.
    missed: Vec<String>,
    channel: usize,
    user: String,
    open: bool,
    subscribed: bool,
    shard: Option<u16>,
    /// It has sent more than it may.
    flooded: bool,
    /// Announcements that name no transport, less those that found one.
    announcements: usize,
    returns: Returns,
    presence: Known,
}

struct Transport {
    session: usize,
    external: String,
    number: u64,
    open: bool,
    state: TransportState,
    connected: bool,
    named: bool,
    fingerprints: usize,
    /// It was announced, and is closed then unless a check has come.
    check_due: Option<Instant>,
    /// Names given to consumers on it.
    names: BTreeSet<String>,
}

impl Producer {
    fn is_withheld(&self) -> bool {
        self.paused || self.muted
    }
}

impl Transport {
    /// An announcement that names none may be its.
    fn awaits(&self) -> bool {
        self.open && !self.connected && !self.named && self.state != TransportState::Failed
    }
}

struct Producer {
    session: usize,
    external: String,
    number: u64,
    open: bool,
    paused: bool,
    muted: bool,
    silent: bool,
    transport: Option<usize>,
    ssrc: u64,
    mid: String,
}

struct Consumer {
    session: usize,
    external: String,
    number: u64,
    open: bool,
    paused: bool,
    transport: usize,
    producer: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Object {
    Transport(usize),
    Producer(usize),
    Consumer(usize),
}

struct Pending {
    session: usize,
    tag: u64,
    of: Object,
    deadline: Instant,
}

/// The cause of an end, as far as it decides who is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Asked,
    Left,
    Told(&'static str),
}

struct Model {
    hub: Hub,
    now: Instant,
    capabilities: Value,
    sessions: Vec<Session>,
    transports: Vec<Transport>,
    producers: Vec<Producer>,
    consumers: Vec<Consumer>,
    pending: BTreeMap<u64, Pending>,
    last_n: [Value; CHANNELS.len()],
    halls: [Hall; CHANNELS.len()],
    /// Who is put out by a moderator in this turn, with the code.
    put_out: Vec<(usize, &'static str)>,
    tag: u64,
    ids: BTreeSet<String>,
    numbers: BTreeSet<u64>,
    /// The messages since the last check, by session; and the commands.
    said: Vec<(usize, Value)>,
    /// All sockets so far, and those that were replaced while they were open.
    sockets: BTreeSet<SessionId>,
    replaced: BTreeSet<SessionId>,
    /// Sockets come and go, and some peers have none.
    restless: bool,
    commands: Vec<(u16, Command)>,
    question: Option<Verification>,
    cut_off: Vec<usize>,
    /// The messages that are due: session and key.
    due: Vec<(usize, String)>,
    told: usize,
}

fn settings() -> HubSettings {
    HubSettings {
        shards: (0..SHARDS).map(|n| (ShardId(n), ShardLabel([b'a', b'a' + n as u8]))).collect(),
        candidates: vec![Candidate { shard: None, ip: [192, 0, 2, 1].into(), port: 40_000, priority: 1 }],
        fingerprint_sha256: "AB:CD".to_owned(),
        spread: Default::default(),
        last_n: LastN::Peers,
        log: Default::default(),
        quotas: Default::default(),
        ice_servers: Default::default(),
        returns: ReturnSettings { grace: STAYS, ..Default::default() },
        seed: [1; 32],
    }
}

/// The number of messages that were due. Each input is played twice: with a socket for each peer as long as it is there,
/// and with sockets that come and go.
pub fn run(bytes: &[u8]) -> usize {
    play(bytes, false) + play(bytes, true)
}

fn play(bytes: &[u8], restless: bool) -> usize {
    let mut choices = Choices::new(bytes);
    let mut model = Model {
        hub: Hub::new(settings()),
        now: Instant::ZERO,
        capabilities: Value::Null,
        sessions: Vec::new(),
        transports: Vec::new(),
        producers: Vec::new(),
        consumers: Vec::new(),
        pending: BTreeMap::new(),
        last_n: Default::default(),
        halls: Default::default(),
        put_out: Vec::new(),
        tag: 0,
        ids: BTreeSet::new(),
        numbers: BTreeSet::new(),
        said: Vec::new(),
        sockets: BTreeSet::new(),
        replaced: BTreeSet::new(),
        restless,
        question: None,
        commands: Vec::new(),
        cut_off: Vec::new(),
        due: Vec::new(),
        told: 0,
    };
    model.begin();
    for _ in 0..OPS_MAX {
        if choices.is_empty() {
            break;
        }
        model.now = model.now + STEP;
        model.act(&mut choices);
        model.look();
    }
    model.finish()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("an id was expected, not {value}")).to_owned()
}

/// The content of a message, as far as the model predicts it.
fn key(message: &Value) -> String {
    let (kind, data) = (text(&message["type"]), &message["data"]);
    if let Some(tag) = message["requestId"].as_u64() {
        let code = if kind == "error" { &data["code"] } else { &Value::Null };
        return format!("reply {tag} {kind} {}", code.as_str().unwrap_or_default());
    }
    let part = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
    match kind.as_str() {
        "peer-joined" | "peer-left" | "peer-away" | "peer-back" | "peer-updated" | "peer-waiting" => {
            format!("{kind} {}", part("user"))
        }
        "waiting-ended" => format!("{kind} {} {}", part("user"), part("reason")),
        "producer-muted" | "producer-unmuted" => format!("{kind} {}", part("producerId")),
        "message" => format!("{kind} {}", data["data"]),
        "producer-closed" | "consumer-closed" => format!("{kind} {} {}", part("id"), part("reason")),
        "transport-state" => format!("{kind} {} {} {}", part("id"), part("state"), part("reason")),
        "consumer-paused" | "consumer-resumed" => format!("{kind} {} {}", part("id"), data["paused"]),
        "last-n-changed" => format!("{kind} {}", data["n"]),
        "error" => format!("{kind} {}", part("code")),
        _ => format!("{kind} {}", part("id")),
    }
}

/// Adds to what a peer without a socket missed, and removes the news that it makes old.
fn miss(missed: &mut Vec<String>, what: String) {
    let mut words = what.split(' ');
    let (kind, id) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut give_up = |kind: &str| {
        let before = missed.len();
        missed.retain(|known| !known.starts_with(&format!("{kind} {id}")));
        missed.len() < before
    };
    let begun = match kind {
        "peer-left" => {
            // One name may be a prefix of another.
            let [joined, updated] = ["joined", "updated"].map(|word| what.replacen("left", word, 1));
            missed.retain(|known| *known != updated);
            let before = missed.len();
            missed.retain(|known| *known != joined);
            missed.len() < before
        }
        "producer-closed" => {
            give_up("producer-paused");
            give_up("producer-resumed");
            give_up("new-producer")
        }
        "producer-paused" | "producer-resumed" => {
            give_up("producer-paused");
            give_up("producer-resumed");
            false
        }
        "waiting-ended" => {
            let waiting = what.replacen("waiting-ended", "peer-waiting", 1);
            let waiting = waiting.rsplit_once(' ').map(|(waiting, _)| waiting.to_owned());
            let before = missed.len();
            missed.retain(|known| Some(known) != waiting.as_ref());
            missed.len() < before
        }
        "peer-updated" => {
            missed.retain(|known| *known != what);
            false
        }
        "last-n-changed" | "channel-changed" => {
            missed.retain(|known| !known.starts_with(kind));
            false
        }
        _ => false,
    };
    if !begun {
        missed.push(what);
    }
}

impl Model {
    /// The first to join also asks for a receiver's capabilities.
    fn begin(&mut self) {
        self.join(0);
        self.look();
        self.hand_over(0, r#"{"type":"get-rtp-capabilities"}"#);
        let (_, mut reply) = self.said.pop().expect("it is answered");
        self.capabilities = reply["data"].take();
    }

    fn act(&mut self, choices: &mut Choices<'_>) {
        let what = choices.of(if self.restless { 36 } else { 28 });
        if what == 0 {
            return self.join(choices.of(CHANNELS.len()));
        }
        if what == 27 {
            return self.operate(choices);
        }
        if what == 30 {
            return self.join_without_socket(choices.of(CHANNELS.len()));
        }
        let open: Vec<usize> = (0..self.sessions.len()).filter(|at| self.sessions[*at].open).collect();
        let Some(me) = choices.one(open.len()).map(|at| open[at]) else { return };
        if let Way::Away(_) = self.sessions[me].way {
            return match what {
                1 => self.end(me),
                29 | 30 => self.resume(me, choices),
                31 => self.forge(choices),
                _ => self.attach(me),
            };
        }
        match what {
            1 => self.end(me),
            24..=26 => self.moderate(Some(me), self.sessions[me].channel, choices),
            28 => self.detach(me),
            29 => self.attach(me),
            31 => self.ask_for_token(me),
            32 => self.breaks(me),
            33 => self.resume(me, choices),
            34 => self.acknowledge(me, choices),
            35 => self.forge(choices),
            2 => self.subscribe(me),
            3 | 4 => self.create_transport(me, choices),
            5 => self.connect_transport(me, choices),
            6..=8 => self.produce(me, choices),
            9..=11 => self.consume(me, choices),
            12 => self.pause_producer(me, choices),
            13 => self.pause_consumer(me, choices),
            14 => self.close(me, choices),
            15 => self.restart_ice(me, choices),
            16 => self.get_stats(me, choices),
            17 => self.list(me),
            18 => self.wish(me, choices),
            19 => self.flood(me, choices),
            20 => self.garbage(me, choices),
            21 | 22 => self.event(choices),
            _ => self.wait(choices),
        }
    }

    fn join(&mut self, channel: usize) {
        if self.sessions.len() == SESSIONS_MAX {
            return;
        }
        let user = format!("user {}", self.sessions.len());
        let entrance = Rights::of(self.sessions.len()).entrance(&user, channel);
        let opened = self.hub.open(self.now, CLIENTS, &entrance);
        if let Some(why) = self.refuses(channel, &entrance) {
            return assert_eq!(opened, Err(why));
        }
        let id = opened.expect("there is room");
        assert!(self.sockets.insert(id), "{id:?} is given twice");
        let peer = self.hub.peer_of(id).expect("it has a peer");
        self.joined(channel, user, peer, Way::Socket(id));
    }

    fn join_without_socket(&mut self, channel: usize) {
        if self.sessions.len() < SESSIONS_MAX {
            let user = format!("user {}", self.sessions.len());
            let entrance = Rights::of(self.sessions.len()).entrance(&user, channel);
            if self.refuses(channel, &entrance).is_some() || self.halls[channel].locked && !entrance.grants.moderate {
                return;
            }
            let peer = self.hub.join(self.now, CLIENTS, &entrance).expect("there is room");
            self.joined(channel, user, peer, Way::Nowhere);
        }
    }

    fn joined(&mut self, channel: usize, user: String, peer: PeerId, way: Way) {
        assert!(self.numbers.insert(peer.0), "{peer:?} was given before");
        if !self.sessions.iter().any(|other| other.open && other.channel == channel) {
            self.last_n[channel] = Value::Null;
        }
        let rights = Rights::of(self.sessions.len());
        let waits = self.halls[channel].locked && !rights.moderate;
        if waits {
            self.tell_moderators(channel, format!("peer-waiting {user}"));
        } else if !rights.hidden {
            self.tell(channel, None, format!("peer-joined {user}"));
        }
        self.sessions.push(Session {
            rights,
            changed: Changed::default(),
            peer,
            external: None,
            waits,
            profile: Default::default(),
            name_given: false,
            mutes: Mutes::default(),
            way,
            missed: Vec::new(),
            channel,
            user,
            open: true,
            subscribed: false,
            shard: None,
            flooded: false,
            announcements: 0,
            returns: Returns::default(),
            presence: Known::default(),
        });
        self.learn_its_id(self.sessions.len() - 1);
    }

    fn end(&mut self, me: usize) {
        match self.sessions[me].way {
            Way::Socket(id) => self.hub.close(self.now, id),
            Way::Away(_) | Way::Nowhere => self.hub.end(self.now, self.sessions[me].peer, "ended"),
        }
        self.left(me);
    }

    fn detach(&mut self, me: usize) {
        if let Way::Socket(id) = self.sessions[me].way {
            assert_eq!(self.hub.detach(self.now, id, STAYS), Some(self.sessions[me].peer));
            assert_eq!(self.hub.peer_of(id), None);
            self.goes_away(me);
        }
    }

    /// Also where the old socket is still open, and where there never was one.
    fn attach(&mut self, me: usize) {
        let id = self.hub.attach(self.now, self.sessions[me].peer).expect("it is there");
        assert!(self.sockets.insert(id), "{id:?} is given twice");
        let before = std::mem::replace(&mut self.sessions[me].way, Way::Socket(id));
        if let Way::Socket(old) = before {
            self.replaced.insert(old);
        }
        self.sessions[me].returns.lose_all();
        if self.sessions[me].waits {
            self.due.push((me, "waiting ".to_owned()));
        }
        self.is_back(me);
        if before == Way::Nowhere && self.sessions[me].subscribed {
            // Who came meanwhile it was not told.
            self.subscribe(me);
        }
    }

    /// The peer is to be told, now or later or not at all.
    fn owe(&mut self, at: usize, what: String) {
        match self.sessions[at].way {
            Way::Socket(_) => self.due.push((at, what)),
            Way::Away(_) => miss(&mut self.sessions[at].missed, what),
            Way::Nowhere => {}
        }
    }

    /// To all subscribers of a channel but one.
    fn tell(&mut self, channel: usize, but: Option<usize>, what: String) {
        for at in 0..self.sessions.len() {
            let session = &self.sessions[at];
            if session.open && session.subscribed && session.channel == channel && Some(at) != but {
                self.owe(at, what.clone());
            }
        }
    }

    fn tell_one(&mut self, at: usize, what: String) {
        if self.sessions[at].open && self.sessions[at].subscribed {
            self.owe(at, what);
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.hub.poll_output() {
            match output {
                Output::Send { session, text, .. } => {
                    let mut message = serde_json::from_str(&text.to_string()).expect("the hub speaks JSON");
                    let at = self.whose(session).expect("it is somebody's");
                    self.named(&mut message);
                    self.sessions[at].returns.heard(&message);
                    self.said.push((at, message));
                }
                Output::Command { shard, command } => self.commands.push((shard.0, command)),
                Output::Verify(question) => self.question = Some(*question),
                Output::Disconnect { session, .. } if self.replaced.remove(&session) => {}
                Output::Disconnect { session, code: 4403, reason } => {
                    let of = self.whose(session).expect("it is somebody's");
                    let last = self.said.iter().rev().find(|(at, _)| *at == of).map(|(_, message)| key(message));
                    assert_eq!(last, Some(format!("error {reason}")), "it is told why, and nothing after it");
                    self.put_out.push((of, reason));
                }
                Output::Disconnect { session, .. } => {
                    self.cut_off.push(self.whose(session).expect("it is somebody's"));
                }
            }
        }
    }

    fn whose(&self, socket: SessionId) -> Option<usize> {
        self.sessions.iter().position(|known| known.way == Way::Socket(socket))
    }

    fn hand_over(&mut self, me: usize, text: &str) {
        match self.sessions[me].way {
            Way::Socket(id) => {
                self.sessions[me].returns.said();
                self.hub.handle_text(self.now, id, text);
            }
            _ => {
                let Some(reply) = self.hub.ask(self.now, self.sessions[me].peer, text) else { return self.drain() };
                let mut reply = serde_json::from_str(&reply.to_string()).expect("the hub speaks JSON");
                self.named(&mut reply);
                self.said.push((me, reply));
            }
        }
        self.drain();
    }

    /// Sends it; returns the reply's type or error code, and its data. It stays among the messages.
    fn say(&mut self, me: usize, kind: &str, data: Value) -> (String, Value) {
        self.tag += 1;
        let message = json!({ "type": kind, "requestId": self.tag, "data": data });
        self.hand_over(me, &message.to_string());
        let tag = self.tag;
        let replies: Vec<_> =
            self.said.iter().filter(|(at, message)| *at == me && message["requestId"] == tag).collect();
        match replies[..] {
            [(_, reply)] if reply["type"] == "error" => (text(&reply["data"]["code"]), Value::Null),
            [(_, reply)] => (text(&reply["type"]), reply["data"].clone()),
            // Statistics come later.
            [] => (String::new(), Value::Null),
            _ => panic!("{kind} is answered more than once: {replies:?}"),
        }
    }

    /// Sends it, and expects this reply: a type, or an error code. None: it was refused, as it had to be or because
    /// this client has flooded.
    fn ask(&mut self, me: usize, kind: &str, data: Value, expected: &str) -> Option<Value> {
        let expected = self.granted(me, kind).unwrap_or(expected);
        let (got, data) = self.say(me, kind, data);
        let fine = !matches!(
            expected,
            "not-found"
                | "wrong-step"
                | "limit"
                | "no-producer"
                | "bad-field"
                | "unsupported"
                | "unavailable"
                | "forbidden"
        );
        if self.cut_off.contains(&me) {
            return None;
        }
        // A refused message that is too long to be read is refused without its id.
        let nameless = |(at, message): &(usize, Value)| *at == me && key(message) == "error rate-limited";
        if got.is_empty() && self.sessions[me].flooded && self.said.iter().any(nameless) {
            self.due.push((me, "error rate-limited".to_owned()));
            return None;
        }
        if got == "rate-limited" && self.sessions[me].flooded {
            self.due.push((me, format!("reply {} error rate-limited", self.tag)));
            return None;
        }
        assert_eq!(got, expected, "{kind} of session {me}");
        let reply = if fine { format!("{got} ") } else { format!("error {got}") };
        self.due.push((me, format!("reply {} {reply}", self.tag)));
        fine.then_some(data)
    }

    fn fresh(&mut self, data: &Value) -> String {
        let id = text(&data["id"]);
        assert!(self.ids.insert(id.clone()), "{id} was given before");
        id
    }

    /// The number behind what was just made.
    fn made(&mut self, me: usize, number: impl Fn(&Command) -> Option<u64>) -> u64 {
        let found = self.commands.iter().find_map(|(shard, command)| number(command).map(|number| (*shard, number)));
        let (shard, number) = found.expect("a shard is told of it");
        assert_eq!(*self.sessions[me].shard.get_or_insert(shard), shard, "all of a peer is on one shard");
        assert!(self.numbers.insert(number), "{number} was given before");
        number
    }

    fn subscribe(&mut self, me: usize) {
        let channel = self.sessions[me].channel;
        let expected = if self.sessions[me].rights.subscribe { "subscribed" } else { "forbidden" };
        let Some(data) = self.ask(me, "subscribe", Value::Null, expected) else { return };
        let users: BTreeSet<String> =
            data["peers"].as_array().expect("a list").iter().map(|peer| text(&peer["user"])).collect();
        let seen = |other: &Session| other.open && other.channel == channel && !other.rights.hidden && !other.waits;
        let others = self.sessions.iter().enumerate().filter(|(at, other)| seen(other) && *at != me);
        assert_eq!(users, others.map(|(_, other)| other.user.clone()).collect());
        assert_eq!(data["lastN"], self.last_n[channel]);
        self.sessions[me].subscribed = true;
        self.is_listed(me, &data["peers"]);
    }

    fn transports_of(&self, me: usize) -> usize {
        self.transports.iter().filter(|transport| transport.open && transport.session == me).count()
    }

    fn create_transport(&mut self, me: usize, choices: &mut Choices<'_>) {
        let direction = [json!({}), json!({ "direction": "send" }), json!({ "direction": "recv" })];
        let full = self.transports_of(me) >= TRANSPORTS_PER_PEER_MAX;
        let expected = if full { "limit" } else { "transport-params" };
        let Some(data) = self.ask(me, "create-transport", direction[choices.of(3)].clone(), expected) else { return };
        let external = self.fresh(&data);
        let peer = self.sessions[me].peer.0;
        let number = self.made(me, |command| match command {
            Command::CreateTransport { transport, peer: of, .. } => (of.0 == peer).then_some(transport.0),
            _ => None,
        });
        self.transports.push(Transport {
            session: me,
            external,
            number,
            open: true,
            state: TransportState::New,
            connected: false,
            named: false,
            fingerprints: 0,
            check_due: None,
            names: BTreeSet::new(),
        });
    }

    /// One of all that ever were, whoever they belong to.
    fn any_transport(&self, choices: &mut Choices<'_>) -> Option<usize> {
        choices.one(self.transports.len())
    }

    fn my_transport(&self, me: usize, at: usize) -> bool {
        self.transports[at].open && self.transports[at].session == me
    }

    fn connect_transport(&mut self, me: usize, choices: &mut Choices<'_>) {
        let value = ["AB"; 32].join(":");
        let count = choices.of(8) + 1;
        let fingerprints = vec![json!({ "algorithm": "sha-256", "value": value }); count];
        let mut data = json!({ "dtlsParameters": { "role": "client", "fingerprints": fingerprints } });
        let named = if choices.yes() { self.any_transport(choices) } else { None };
        let targets: Vec<usize> = match named {
            Some(at) => vec![at],
            None => {
                let mine = |at: &usize| self.transports[*at].session == me && self.transports[*at].awaits();
                (0..self.transports.len()).filter(mine).collect()
            }
        };
        if let Some(at) = named {
            data["transportId"] = json!(self.transports[at].external);
        }
        let over = |at: &usize| self.transports[*at].fingerprints + count > FINGERPRINTS_PER_PEER_MAX;
        let expected = match named {
            Some(at) if !self.my_transport(me, at) => "not-found",
            Some(at) if self.transports[at].connected || self.transports[at].named => "wrong-step",
            None if targets.is_empty() => "wrong-step",
            _ if targets.iter().any(over) => "limit",
            _ => "transport-connected",
        };
        if self.ask(me, "connect-transport", data, expected).is_none() {
            return;
        }
        self.sessions[me].announcements += usize::from(named.is_none());
        let all_meant = named.is_some() || self.sessions[me].announcements >= targets.len();
        for at in targets {
            let due = self.transports[at].state == TransportState::New && all_meant;
            if due && self.transports[at].check_due.is_none() {
                self.transports[at].check_due = Some(self.now + CHECK_WAIT);
            }
            self.transports[at].named |= named.is_some();
            self.transports[at].fingerprints += count;
            let announced = TransportId(self.transports[at].number);
            let told =
                |command: &Command| matches!(command, Command::Announce { transport, .. } if *transport == announced);
            assert!(self.commands.iter().any(|(_, command)| told(command)));
        }
    }

    fn produce(&mut self, me: usize, choices: &mut Choices<'_>) {
        let what = choices.byte();
        let named = if what & 1 == 1 { self.any_transport(choices) } else { None };
        let mine = self.producers.iter().rev().filter(|producer| producer.session == me);
        let older = mine.map(|old| (old.ssrc, old.mid.clone())).next();
        let count = self.producers.len() as u64;
        let (mut ssrc, mut mid) = (10 + 10 * count, format!("m{count}"));
        if let Some((older_ssrc, older_mid)) = older {
            match what >> 1 & 7 {
                6 => ssrc = older_ssrc,
                7 => mid = older_mid,
                _ => {}
            }
        }
        let paused = what & 16 == 16;
        let mut data = audio(ssrc, &mid);
        data["paused"] = json!(paused);
        data["appData"] = json!({ "n": count });
        if let Some(at) = named {
            data["transportId"] = json!(self.transports[at].external);
        }
        let replaced: Vec<usize> = (0..self.producers.len())
            .filter(|at| {
                let old = &self.producers[*at];
                let together = named.is_some() && old.transport == named;
                let maybe = together || named.is_none() || old.transport.is_none();
                old.open && old.session == me && (old.ssrc == ssrc && maybe || old.mid == mid && together)
            })
            .collect();
        let mine = self.producers.iter().filter(|producer| producer.open && producer.session == me).count();
        let expected = match named {
            _ if !self.sessions[me].rights.produces() => "forbidden",
            Some(at) if !self.my_transport(me, at) => "not-found",
            _ if self.transports_of(me) == 0 => "wrong-step",
            _ if mine - replaced.len() >= PRODUCERS_PER_PEER_MAX => "limit",
            _ => "producer-id",
        };
        let Some(data) = self.ask(me, "produce", data, expected) else { return };
        for old in replaced {
            self.end_producer(old, Ending::Told("replaced"));
        }
        let external = self.fresh(&data);
        let peer = self.sessions[me].peer.0;
        let number = self.made(me, |command| match command {
            Command::Produce { producer, peer: of, .. } => (of.0 == peer).then_some(producer.0),
            _ => None,
        });
        self.tell(self.sessions[me].channel, Some(me), format!("new-producer {external}"));
        let (open, silent, transport, muted) = (true, false, named, self.sessions[me].mutes.hold());
        assert_eq!(data["muted"] == true, muted, "a mute stays until it is let go");
        self.producers.push(Producer {
            session: me,
            external,
            number,
            open,
            paused,
            muted,
            silent,
            transport,
            ssrc,
            mid,
        });
    }

    /// Consumers that a session has of one producer.
    fn copies(&self, me: usize, producer: usize) -> usize {
        let own = |known: &&Consumer| known.open && known.session == me && known.producer == producer;
        self.consumers.iter().filter(own).count()
    }

    fn consume(&mut self, me: usize, choices: &mut Choices<'_>) {
        let what = choices.byte();
        let on = if what & 1 == 1 { self.any_transport(choices) } else { None };
        let wanted = if what & 2 == 2 { choices.one(self.producers.len()) } else { None };
        let paused = what & 4 == 4;
        let mut data = json!({ "rtpCapabilities": self.capabilities, "paused": paused });
        if let Some(at) = on {
            data["transportId"] = json!(self.transports[at].external);
        }
        if let Some(at) = wanted {
            data["producerId"] = json!(self.producers[at].external);
        }
        let channel = self.sessions[me].channel;
        let here = |producer: &Producer| producer.open && self.sessions[producer.session].channel == channel;
        let oldest = (0..self.producers.len()).find(|at| {
            let producer = &self.producers[*at];
            here(producer) && producer.session != me && !producer.silent && self.copies(me, *at) == 0
        });
        let found = match wanted {
            Some(at) => here(&self.producers[at]).then_some(at),
            None => oldest,
        };
        let expected = match (on, found) {
            _ if !self.sessions[me].rights.subscribe => "forbidden",
            (Some(at), _) if !self.my_transport(me, at) => "not-found",
            (None, _) if self.transports_of(me) == 0 => "wrong-step",
            (_, None) if wanted.is_some() => "not-found",
            (_, None) => "no-producer",
            (_, Some(of)) if self.copies(me, of) >= CONSUMERS_PER_PEER_AND_PRODUCER_MAX => "limit",
            _ => "consumer-params",
        };
        let Some(data) = self.ask(me, "consume", data, expected) else { return };
        let producer = found.expect("it was expected to be found");
        let external = self.fresh(&data);
        assert_eq!(data["producerId"], self.producers[producer].external);
        assert_eq!(data["producerPaused"], self.producers[producer].is_withheld());
        let transport = self.transports.iter().position(|known| data["transportId"] == known.external);
        let transport = transport.expect("it is on a transport");
        assert!(self.my_transport(me, transport) && on.is_none_or(|on| on == transport));
        let parameters = &data["rtpParameters"];
        let ssrc = format!("ssrc {}", parameters["encodings"][0]["ssrc"]);
        for name in [ssrc, format!("mid {}", parameters["mid"])] {
            assert!(self.transports[transport].names.insert(name.clone()), "{name} was used on this transport");
        }
        let number = self.made(me, |command| match command {
            Command::Consume { consumer, .. } => Some(consumer.0),
            _ => None,
        });
        let source = &self.producers[producer];
        let home = self.sessions[source.session].shard;
        let told = self.commands.iter().any(|(_, command)| {
            matches!(command, Command::Consume { transport: on, producer: of, home: at, paused: still, .. }
                if on.0 == self.transports[transport].number && of.0 == source.number
                    && Some(at.0) == home && *still == paused)
        });
        assert!(told, "the shard is told of another consumer: {:?}", self.commands);
        self.consumers.push(Consumer { session: me, external, number, open: true, paused, transport, producer });
    }

    fn pause_producer(&mut self, me: usize, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.producers.len()) else { return };
        let paused = choices.yes();
        let Producer { session, open, external, .. } = &self.producers[at];
        let external = external.clone();
        let kind = if paused { "pause-producer" } else { "resume-producer" };
        let expected = if *open && *session == me { "ok" } else { "not-found" };
        if self.ask(me, kind, json!({ "producerId": external }), expected).is_some() {
            self.set_pause(at, paused, self.producers[at].muted);
        }
    }

    /// The pause and the mute of a producer, and who hears of what that changes.
    fn set_pause(&mut self, at: usize, own: bool, muted: bool) {
        let before = (self.producers[at].is_withheld(), self.producers[at].muted);
        (self.producers[at].paused, self.producers[at].muted) = (own, muted);
        let Producer { session: owner, ref external, number, .. } = self.producers[at];
        let (external, paused) = (external.clone(), self.producers[at].is_withheld());
        if before.1 != muted {
            self.owe(owner, format!("producer-{} {external}", if muted { "muted" } else { "unmuted" }));
        }
        let what = if paused { "paused" } else { "resumed" };
        if before != (paused, muted) {
            self.tell(self.sessions[owner].channel, Some(owner), format!("producer-{what} {external}"));
        }
        if before.0 == paused {
            return;
        }
        let told = |command: &Command| match command {
            Command::PauseProducer { producer } => paused && producer.0 == number,
            Command::ResumeProducer { producer } => !paused && producer.0 == number,
            _ => false,
        };
        assert!(self.commands.iter().any(|(_, command)| told(command)), "{:?}", self.commands);
        for consumer in 0..self.consumers.len() {
            let Consumer { producer, open, session, ref external, paused, .. } = self.consumers[consumer];
            if open && producer == at {
                self.tell_one(session, format!("consumer-{what} {external} {paused}"));
            }
        }
    }

    fn pause_consumer(&mut self, me: usize, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.consumers.len()) else { return };
        let paused = choices.yes();
        let consumer = &self.consumers[at];
        let kind = if paused { "pause-consumer" } else { "resume-consumer" };
        let expected = if consumer.open && consumer.session == me { "ok" } else { "not-found" };
        if self.ask(me, kind, json!({ "consumerId": consumer.external }), expected).is_some() {
            self.consumers[at].paused = paused;
        }
    }

    fn close(&mut self, me: usize, choices: &mut Choices<'_>) {
        let Some(object) = self.any_object(choices) else { return };
        let (mine, external) = self.owned(me, object);
        let expected = if mine { "ok" } else { "not-found" };
        let (kind, field) = match object {
            Object::Transport(_) => ("close-transport", "transportId"),
            Object::Producer(_) => ("close-producer", "producerId"),
            Object::Consumer(_) => ("close-consumer", "consumerId"),
        };
        if self.ask(me, kind, json!({ field: external }), expected).is_none() {
            return;
        }
        match object {
            Object::Transport(at) => self.end_transport(at, Ending::Asked),
            Object::Producer(at) => self.end_producer(at, Ending::Asked),
            Object::Consumer(at) => self.end_consumer(at, Ending::Asked),
        }
    }

    fn any_object(&self, choices: &mut Choices<'_>) -> Option<Object> {
        match choices.of(3) {
            0 => choices.one(self.transports.len()).map(Object::Transport),
            1 => choices.one(self.producers.len()).map(Object::Producer),
            _ => choices.one(self.consumers.len()).map(Object::Consumer),
        }
    }

    fn owned(&self, me: usize, object: Object) -> (bool, String) {
        let (open, session, external) = match object {
            Object::Transport(at) => {
                (self.transports[at].open, self.transports[at].session, &self.transports[at].external)
            }
            Object::Producer(at) => (self.producers[at].open, self.producers[at].session, &self.producers[at].external),
            Object::Consumer(at) => (self.consumers[at].open, self.consumers[at].session, &self.consumers[at].external),
        };
        (open && session == me, external.clone())
    }

    fn restart_ice(&mut self, me: usize, choices: &mut Choices<'_>) {
        let named = if choices.yes() { self.any_transport(choices) } else { None };
        let mut data = json!({});
        if let Some(at) = named {
            data["transportId"] = json!(self.transports[at].external);
        }
        let expected = match (named, self.transports_of(me)) {
            (Some(at), _) if !self.my_transport(me, at) => "not-found",
            (Some(_), _) | (None, 1) => "ice-parameters",
            (None, 0) => "wrong-step",
            (None, _) => "bad-field",
        };
        self.ask(me, "restart-ice", data, expected);
    }

    fn get_stats(&mut self, me: usize, choices: &mut Choices<'_>) {
        let Some(object) = self.any_object(choices) else { return };
        let (mine, external) = self.owned(me, object);
        let field = match object {
            Object::Transport(_) => "transportId",
            Object::Producer(_) => "producerId",
            Object::Consumer(_) => "consumerId",
        };
        let waiting = self.pending.values().filter(|pending| pending.session == me).count();
        let (got, _) = self.say(me, "get-stats", json!({ field: external }));
        let tag = self.tag;
        let expected = match mine {
            false if self.sessions[me].waits => "forbidden",
            false => "not-found",
            true if waiting >= STATS_PENDING_PER_PEER_MAX => "limit",
            true => "",
        };
        if self.cut_off.contains(&me) {
            return;
        }
        if got == "rate-limited" && self.sessions[me].flooded {
            return self.due.push((me, format!("reply {tag} error rate-limited")));
        }
        assert_eq!(got, expected, "get-stats of session {me}");
        if !got.is_empty() {
            return self.due.push((me, format!("reply {tag} error {got}")));
        }
        let request = self.commands.iter().find_map(|(_, command)| match command {
            Command::GetStats { request, .. } => Some(request.0),
            _ => None,
        });
        let request = request.expect("the shard is asked");
        assert!(self.numbers.insert(request), "{request} was given before");
        self.pending.insert(request, Pending { session: me, tag, of: object, deadline: self.now + STATS_WAIT });
    }

    fn list(&mut self, me: usize) {
        let channel = self.sessions[me].channel;
        let expected = if self.sessions[me].rights.subscribe { "producers" } else { "forbidden" };
        let Some(data) = self.ask(me, "get-producers", Value::Null, expected) else { return };
        let listed: Vec<(String, bool)> = data["producers"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|entry| (text(&entry["id"]), entry["paused"] == true))
            .collect();
        let there = self.producers.iter().filter(|producer| {
            producer.open && producer.session != me && self.sessions[producer.session].channel == channel
        });
        assert_eq!(listed, there.map(|known| (known.external.clone(), known.is_withheld())).collect::<Vec<_>>());
    }

    /// Requests that are only passed on to the shard.
    fn wish(&mut self, me: usize, choices: &mut Choices<'_>) {
        let what = choices.of(6);
        if what == 5 {
            return self.renew(me, choices);
        }
        if what == 4 {
            let n = if choices.yes() { json!(choices.of(9) + 1) } else { Value::Null };
            if self.ask(me, "set-last-n", json!({ "n": n }), "last-n").is_some() {
                let channel = self.sessions[me].channel;
                if self.last_n[channel] != n {
                    self.tell(channel, Some(me), format!("last-n-changed {n}"));
                }
                self.last_n[channel] = n;
            }
            return;
        }
        if what == 3 {
            let Some(at) = self.any_transport(choices) else { return };
            let expected = if self.my_transport(me, at) { "ok" } else { "not-found" };
            let data = json!({ "transportId": self.transports[at].external, "maxOutgoingBitrate": 100_000 });
            self.ask(me, "set-max-bitrate", data, expected);
            return;
        }
        let Some(at) = choices.one(self.consumers.len()) else { return };
        let consumer = &self.consumers[at];
        let expected = if consumer.open && consumer.session == me { "ok" } else { "not-found" };
        let id = &consumer.external;
        let (kind, data) = match what {
            0 => ("set-preferred-layers", json!({ "consumerId": id, "spatialLayer": 1 })),
            1 => ("set-priority", json!({ "consumerId": id, "priority": 7 })),
            _ => ("request-key-frame", json!({ "consumerId": id })),
        };
        self.ask(me, kind, data, expected);
    }

    /// A token, which says other rights or is refused.
    fn renew(&mut self, me: usize, choices: &mut Choices<'_>) {
        let rights = choices.one(Rights::ALL.len() + 1).and_then(|at| Rights::ALL.get(at).copied());
        let Session { channel, ref user, .. } = self.sessions[me];
        let says = rights.map(|rights| rights.entrance(user, channel)).ok_or(OpenError::Expired);
        let (got, _) = self.say(me, "authenticate", json!({ "token": "a.b.c" }));
        let Some(question) = self.question.take() else {
            if !self.cut_off.contains(&me) {
                assert!(got == "rate-limited" && self.sessions[me].flooded, "{got}");
                self.due.push((me, format!("reply {} error rate-limited", self.tag)));
            }
            return;
        };
        assert_eq!((question.peer, &*question.channel), (self.sessions[me].peer, CHANNELS[channel]));
        self.hub.verified(self.now, question.peer, &question.tag, says);
        self.drain();
        let Some(rights) = rights else {
            // It is charged as much as many messages.
            self.sessions[me].flooded = true;
            return self.owe(me, format!("reply {} error expired", self.tag));
        };
        self.owe(me, format!("reply {} authenticated ", self.tag));
        self.regrant(me, self.sessions[me].changed.over(rights));
    }

    /// The peer has these rights from now on.
    fn regrant(&mut self, me: usize, rights: Rights) {
        let before = std::mem::replace(&mut self.sessions[me].rights, rights);
        let channel = self.sessions[me].channel;
        if self.sessions[me].waits {
            return;
        }
        for consumer in 0..self.consumers.len() {
            if !rights.subscribe && self.consumers[consumer].session == me {
                self.end_consumer(consumer, Ending::Told("forbidden"));
            }
        }
        for producer in 0..self.producers.len() {
            if !rights.produces() && self.producers[producer].session == me {
                self.end_producer(producer, Ending::Told("forbidden"));
            }
        }
        self.sessions[me].subscribed &= rights.subscribe;
        if before.hidden != rights.hidden {
            let what = if rights.hidden { "left" } else { "joined" };
            self.tell(channel, Some(me), format!("peer-{what} {}", self.sessions[me].user));
        }
        if rights.moderate && !before.moderate {
            for comer in self.comers(channel) {
                self.tell_one(me, format!("peer-waiting {}", self.sessions[comer].user));
            }
        }
    }

    /// More than anybody may send; each is answered all the same, until the client is cut off.
    fn flood(&mut self, me: usize, choices: &mut Choices<'_>) {
        if self.sessions[me].way == Way::Nowhere {
            // Nobody would be told of its end.
            return;
        }
        self.sessions[me].flooded = true;
        for _ in 0..choices.of(FLOOD / 4) * 4 {
            let before = self.said.len();
            let (got, _) = self.say(me, "ping", Value::Null);
            if self.cut_off.contains(&me) {
                break;
            }
            assert!(got == "pong" || got == "rate-limited", "{got}");
            assert_eq!(self.said.len(), before + 1, "one reply");
            self.said.truncate(before);
        }
    }

    /// Any bytes at all: one error, and nothing else.
    fn garbage(&mut self, me: usize, choices: &mut Choices<'_>) {
        let len = usize::from(choices.byte());
        let bytes = choices.take(len);
        // The input itself can make no request: a request has an id of the model's.
        let text = format!("#{}", String::from_utf8_lossy(bytes));
        match (len & 1, self.sessions[me].way) {
            (1, Way::Socket(id)) => self.hub.handle_binary(self.now, id, text.len()),
            (1, _) => return,
            _ => self.hand_over(me, &text),
        }
        self.drain();
        if self.cut_off.contains(&me) {
            return;
        }
        let (at, said) = self.said.last().expect("it is answered");
        assert!(*at == me && said["type"] == "error", "{said}");
        let code = said["data"]["code"].as_str().unwrap_or_default();
        let expected = if len & 1 == 0 { "bad-json" } else { "not-text" };
        assert!(code == expected || code == "rate-limited" && self.sessions[me].flooded, "{code}");
        self.due.push((me, format!("error {code}")));
    }

    fn wait(&mut self, choices: &mut Choices<'_>) {
        let seconds = [0, 1, 3, 6, 30][choices.of(5)];
        self.now = self.now + Duration::from_secs(seconds);
        self.hub.handle_timeout(self.now);
        // It ends a few a turn.
        while self.hub.poll_timeout().is_some_and(|due| due <= self.now) {
            self.hub.handle_timeout(self.now);
        }
        let late: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.deadline <= self.now)
            .map(|(request, _)| *request)
            .collect();
        for request in late {
            let Some(pending) = self.pending.remove(&request) else { continue };
            self.owe(pending.session, format!("reply {} error unavailable", pending.tag));
        }
        let due = |at: usize| self.transports[at].check_due.filter(|due| *due <= self.now).map(|due| (due, at));
        let mut unchecked: Vec<_> = (0..self.transports.len()).filter_map(due).collect();
        unchecked.sort_unstable();
        for (_, at) in unchecked {
            self.end_transport(at, Ending::Told("no-check"));
        }
        self.wait_for_the_away();
    }
}

/// The events of shards, and their consequences.
impl Model {
    fn event(&mut self, choices: &mut Choices<'_>) {
        let what = choices.of(13);
        match what {
            0..=3 => {
                let Some(at) = choices.one(self.transports.len()) else { return };
                self.transport_event(at, what);
            }
            4 => {
                let (Some(at), Some(on)) = (choices.one(self.producers.len()), self.any_transport(choices)) else {
                    return;
                };
                let producer = &self.producers[at];
                if self.transports[on].session == producer.session {
                    let (producer, transport) = (ProducerId(producer.number), TransportId(self.transports[on].number));
                    self.tell_hub(Event::ProducerBound { producer, transport });
                    if self.producers[at].open && self.transports[on].open {
                        self.producers[at].transport = Some(on);
                    }
                }
            }
            5 | 6 => {
                let Some(at) = choices.one(self.producers.len()) else { return };
                let producer = ProducerId(self.producers[at].number);
                if what == 5 {
                    let silent = choices.yes();
                    self.producers[at].silent = silent;
                    self.tell_hub(Event::ProducerSilent { producer, silent });
                } else {
                    self.tell_hub(Event::ProducerClosed { producer, why: Closed::Limit("sources per shard") });
                    self.end_producer(at, Ending::Told("limit"));
                }
            }
            7 | 8 => {
                let Some(at) = choices.one(self.consumers.len()) else { return };
                let consumer = ConsumerId(self.consumers[at].number);
                if what == 7 {
                    self.tell_hub(Event::ConsumerClosed { consumer, why: Closed::ProducerClosed });
                    self.end_consumer(at, Ending::Told("producer-closed"));
                } else {
                    let layers = Some(Layers { spatial: 1, temporal: 2 });
                    self.tell_hub(Event::ConsumerLayers { consumer, layers, by_bandwidth: true });
                    let Consumer { open, session, ref external, .. } = self.consumers[at];
                    if open {
                        self.tell_one(session, format!("consumer-layers-changed {external}"));
                    }
                }
            }
            9 => {
                let Some(at) = choices.one(self.producers.len()) else { return };
                let producer = ProducerId(self.producers[at].number);
                let speech = Speech { level: choices.byte(), immediate: 13, medium: 5, long: 10 };
                self.tell_hub(Event::Speech { levels: vec![(producer, speech)] });
            }
            10 => {
                let Some(at) = choices.one(self.producers.len()) else { return };
                let Producer { open, session, ref external, number, .. } = self.producers[at];
                if open {
                    self.tell_one(session, format!("producer-layers {external}"));
                }
                self.tell_hub(Event::ProducerLayers {
                    producer: ProducerId(number),
                    watched: 1,
                    of: 2,
                    ranking: Default::default(),
                });
            }
            11 => self.answer(choices),
            _ => self.restarted(choices),
        }
    }

    fn tell_hub(&mut self, event: Event) {
        self.hub.handle_event(self.now, event);
    }

    fn transport_event(&mut self, at: usize, what: usize) {
        let transport = TransportId(self.transports[at].number);
        let state = [TransportState::Connecting, TransportState::Connected, TransportState::Disconnected];
        let Some(&state) = state.get(what) else {
            self.tell_hub(Event::TransportClosed { transport, why: Closed::TransportClosed });
            return self.end_transport(at, Ending::Told("transport-closed"));
        };
        self.tell_hub(Event::TransportState { transport, state });
        let known = &mut self.transports[at];
        if known.open && std::mem::replace(&mut known.state, state) != state {
            known.check_due = None;
            let (session, first) = (known.session, state == TransportState::Connected && !known.connected);
            known.connected |= first;
            if first && !known.named {
                let open = &mut self.sessions[session].announcements;
                *open = open.saturating_sub(1);
            }
            let known = &self.transports[at];
            let what = format!("transport-state {} {} ", known.external, state.name());
            self.tell_one(session, what);
        }
    }

    fn answer(&mut self, choices: &mut Choices<'_>) {
        let requests: Vec<u64> = self.pending.keys().copied().collect();
        // Now and then to what nobody asked.
        let request = choices.one(requests.len() + 1).and_then(|at| requests.get(at).copied()).unwrap_or(u64::MAX);
        let stats = choices.yes().then(|| Stats::Producer(ProducerStats::default()));
        let kind = if stats.is_some() { "stats " } else { "error not-found" };
        self.tell_hub(Event::Answer { request: RequestId(request), reply: Reply::Stats(stats) });
        if let Some(pending) = self.pending.remove(&request) {
            self.owe(pending.session, format!("reply {} {kind}", pending.tag));
        }
    }

    fn restarted(&mut self, choices: &mut Choices<'_>) {
        let shard = choices.of(usize::from(SHARDS)) as u16;
        self.tell_hub(Event::ShardRestarted { shard: ShardId(shard) });
        let there: Vec<usize> = (0..self.sessions.len())
            .filter(|at| self.sessions[*at].open && self.sessions[*at].shard == Some(shard))
            .collect();
        // Channel by channel, in the order in which their peers came.
        for channel in 0..CHANNELS.len() {
            for &session in &there {
                if self.sessions[session].channel != channel {
                    continue;
                }
                for producer in 0..self.producers.len() {
                    if self.producers[producer].session == session {
                        self.end_producer(producer, Ending::Told("fault"));
                    }
                }
                for transport in 0..self.transports.len() {
                    if self.transports[transport].session == session {
                        self.end_transport(transport, Ending::Told("fault"));
                    }
                }
            }
        }
    }

    fn end_consumer(&mut self, at: usize, ending: Ending) {
        let Consumer { open, session, ref external, .. } = self.consumers[at];
        if !open {
            return;
        }
        let external = external.clone();
        self.consumers[at].open = false;
        self.gone(Object::Consumer(at));
        if let Ending::Told(why) = ending {
            self.tell_owner(session, format!("consumer-closed {external} {why}"), why);
        }
    }

    fn end_producer(&mut self, at: usize, ending: Ending) {
        let Producer { open, session, ref external, .. } = self.producers[at];
        if !open {
            return;
        }
        let external = external.clone();
        self.producers[at].open = false;
        for consumer in 0..self.consumers.len() {
            if self.consumers[consumer].producer == at {
                self.end_consumer(consumer, Ending::Told("producer-closed"));
            }
        }
        self.gone(Object::Producer(at));
        let why = match ending {
            Ending::Asked => "closed",
            Ending::Left => "peer-left",
            Ending::Told(why) => why,
        };
        if matches!(ending, Ending::Told(_)) {
            self.tell_owner(session, format!("producer-closed {external} {why}"), why);
        }
        self.tell(self.sessions[session].channel, Some(session), format!("producer-closed {external} {why}"));
    }

    fn end_transport(&mut self, at: usize, ending: Ending) {
        let Transport { open, session, ref external, .. } = self.transports[at];
        if !open {
            return;
        }
        let external = external.clone();
        self.transports[at].open = false;
        let waiting = self.transports.iter().filter(|other| other.session == session && other.awaits()).count();
        let announcements = &mut self.sessions[session].announcements;
        *announcements = (*announcements).min(waiting);
        // Objects on it go with it, and its owner is told of each, also when it asked.
        let with = match ending {
            Ending::Left => Ending::Left,
            Ending::Told("fault") => Ending::Told("fault"),
            _ => Ending::Told("transport-closed"),
        };
        for consumer in 0..self.consumers.len() {
            if self.consumers[consumer].transport == at {
                self.end_consumer(consumer, with);
            }
        }
        for producer in 0..self.producers.len() {
            if self.producers[producer].transport == Some(at) {
                self.end_producer(producer, with);
            }
        }
        self.gone(Object::Transport(at));
        if let Ending::Told(why) = ending {
            self.tell_one(session, format!("transport-state {external} closed {why}"));
        }
    }

    /// A client that waits for statistics of it hears that it is gone.
    fn gone(&mut self, object: Object) {
        let those: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| pending.of == object).map(|(request, _)| *request).collect();
        for request in those {
            let Some(Pending { session, tag, .. }) = self.pending.remove(&request) else { continue };
            if self.sessions[session].open {
                self.owe(session, format!("reply {tag} error not-found"));
            }
        }
    }

    fn left(&mut self, me: usize) {
        self.left_for(me, "left");
    }

    /// `reason`: told of one that waited.
    fn left_for(&mut self, me: usize, reason: &str) {
        self.sessions[me].open = false;
        if self.sessions[me].waits {
            let Session { channel, ref user, .. } = self.sessions[me];
            self.tell_moderators(channel, format!("waiting-ended {user} {reason}"));
            return self.hall_ended(channel);
        }
        self.pending.retain(|_, pending| pending.session != me);
        for transport in 0..self.transports.len() {
            if self.transports[transport].session == me {
                self.end_transport(transport, Ending::Left);
            }
        }
        for producer in 0..self.producers.len() {
            if self.producers[producer].session == me {
                self.end_producer(producer, Ending::Left);
            }
        }
        let Session { channel, ref user, .. } = self.sessions[me];
        if !self.sessions[me].rights.hidden {
            self.tell(channel, None, format!("peer-left {user}"));
        }
        self.hall_ended(channel);
    }

    /// Compares the messages with those that were due.
    fn look(&mut self) {
        self.drain();
        for me in std::mem::take(&mut self.cut_off) {
            assert!(self.sessions[me].flooded, "session {me} is cut off");
            self.said.retain(|(at, _)| *at != me);
            self.due.retain(|(at, _)| *at != me);
            self.left(me);
        }
        let mut said = Vec::new();
        for (at, message) in std::mem::take(&mut self.said) {
            let Session { open, subscribed, .. } = self.sessions[at];
            let kind = text(&message["type"]);
            if OF_SPEECH.contains(&kind.as_str()) {
                assert!(open && subscribed, "session {at}: {message}");
                self.of_speech(at, &message["data"]);
            } else if open {
                said.push((at, key(&message)));
            }
        }
        let mut due: Vec<_> = std::mem::take(&mut self.due);
        due.retain(|(at, _)| self.sessions[*at].open);
        assert!(self.put_out.is_empty(), "{:?} are put out", self.put_out);
        said.sort();
        due.sort();
        assert_eq!(said, due, "what was said, and what had to be");
        self.told += due.len();
        for (shard, command) in std::mem::take(&mut self.commands) {
            self.judge_command(shard, &command);
        }
        assert!(self.replaced.is_empty(), "{:?} are not closed", self.replaced);
        assert!(self.hub.poll_timeout().is_none_or(|due| due > Instant::ZERO));
    }

    /// A speaker is somebody of the same channel.
    fn of_speech(&self, at: usize, data: &Value) {
        if let Some(id) = data["producerId"].as_str() {
            let producer = self.producers.iter().find(|known| known.external == id).expect("it is known");
            assert_eq!(self.sessions[producer.session].channel, self.sessions[at].channel, "another channel's speaker");
        }
    }

    /// Nothing is ordered of what belongs to another shard, or is still there and is closed.
    fn judge_command(&self, shard: u16, command: &Command) {
        let shard_of = |session: usize| self.sessions[session].shard;
        match command {
            Command::CloseTransport { transport } => {
                let known = self.transports.iter().find(|known| known.number == transport.0).expect("it is known");
                assert!(!known.open && shard_of(known.session) == Some(shard), "{command:?}");
            }
            Command::CloseProducer { producer } | Command::Withhold { producer, .. } => {
                let known = self.producers.iter().find(|known| known.number == producer.0).expect("it is known");
                let closes = matches!(command, Command::CloseProducer { .. });
                assert!(!(closes && known.open) && shard_of(known.session) == Some(shard), "{command:?}");
            }
            Command::CloseConsumer { consumer } => {
                let known = self.consumers.iter().find(|known| known.number == consumer.0).expect("it is known");
                assert!(!known.open && shard_of(known.session) == Some(shard), "{command:?}");
            }
            _ => {}
        }
    }

    fn finish(mut self) -> usize {
        for me in 0..self.sessions.len() {
            if self.sessions[me].open {
                self.end(me);
                self.look();
            }
        }
        let counts = self.hub.counts();
        let left = counts.transports + counts.producers + counts.consumers + counts.stats_pending;
        assert_eq!((counts.channels, counts.peers, left), (0, 0, 0));
        assert!(counts.expected_load.iter().all(|(_, load)| *load == 0), "{:?}", counts.expected_load);
        self.told
    }
}

fn audio(ssrc: u64, mid: &str) -> Value {
    json!({
        "kind": "audio",
        "rtpParameters": {
            "mid": mid,
            "codecs": [{
                "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2,
                "parameters": {}, "rtcpFeedback": [{ "type": "transport-cc", "parameter": "" }],
            }],
            "headerExtensions": [{ "uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "id": 4 }],
            "encodings": [{ "ssrc": ssrc }],
            "rtcp": { "cname": format!("cname-{ssrc}"), "reducedSize": true },
        },
    })
}
