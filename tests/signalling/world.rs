//! A hub with scripted clients: every message costs 20 ms of virtual time, every output is sorted as it comes.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};
use weirgate::base::id::{ProducerId, ShardId, ShardLabel, TransportId};
use weirgate::base::time::{Duration, Instant};
use weirgate::shard::command::{Command, Event, TransportState};
use weirgate::signal::{Candidate, Entrance, Hub, HubSettings, LastN, Output, SessionId, Verification};

/// Where all of them are, unless a test says otherwise: no quota counts them.
pub(crate) const CLIENTS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) const FINGERPRINT: &str = "11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:\
                               11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00";

const NOTIFICATIONS: [&str; 26] = [
    "admitted",
    "channel-changed",
    "grants-changed",
    "message",
    "messages-missed",
    "peer-updated",
    "peer-waiting",
    "producer-muted",
    "producer-unmuted",
    "waiting",
    "waiting-ended",
    "active-speaker",
    "audio-levels",
    "last-n-changed",
    "consumer-layers-changed",
    "producer-layers",
    "peer-joined",
    "peer-left",
    "new-producer",
    "producer-closed",
    "producer-paused",
    "producer-resumed",
    "consumer-closed",
    "consumer-paused",
    "consumer-resumed",
    "transport-state",
];

pub(crate) struct World {
    pub(crate) hub: Hub,
    pub(crate) now: Instant,
    pub(crate) inbox: BTreeMap<SessionId, VecDeque<Value>>,
    pub(crate) commands: Vec<(ShardId, Command)>,
    pub(crate) disconnected: Vec<(SessionId, u16)>,
    pub(crate) questions: Vec<Verification>,
    /// A receiver's, for `consume`.
    capabilities: Option<Value>,
}

pub(crate) fn settings(shards: u16) -> HubSettings {
    let candidate = |port| Candidate { shard: None, ip: [192, 0, 2, 1].into(), port, priority: 2_130_706_431 };
    HubSettings {
        shards: (0..shards).map(|n| (ShardId(n), ShardLabel([b'a', b'a' + n as u8]))).collect(),
        candidates: vec![candidate(40_000)],
        fingerprint_sha256: FINGERPRINT.to_owned(),
        spread: Default::default(),
        last_n: LastN::Peers,
        log: Default::default(),
        quotas: Default::default(),
        ice_servers: Default::default(),
        returns: Default::default(),
        seed: [7; 32],
    }
}

impl World {
    pub(crate) fn new(shards: u16) -> World {
        World {
            hub: Hub::new(settings(shards)),
            now: Instant::ZERO,
            inbox: BTreeMap::new(),
            commands: Vec::new(),
            disconnected: Vec::new(),
            questions: Vec::new(),
            capabilities: None,
        }
    }

    pub(crate) fn drain(&mut self) {
        while let Some(output) = self.hub.poll_output() {
            match output {
                Output::Send { session, text, .. } => {
                    let message = serde_json::from_str(&text.to_string()).expect("the hub speaks JSON");
                    self.inbox.entry(session).or_default().push_back(message);
                }
                Output::Disconnect { session, code, .. } => self.disconnected.push((session, code)),
                Output::Command { shard, command } => self.commands.push((shard, command)),
                Output::Verify(question) => self.questions.push(*question),
            }
        }
    }

    pub(crate) fn join(&mut self, user: &str, channel: &str) -> SessionId {
        let session = self.hub.open(self.now, CLIENTS, &Entrance::named(user, channel)).expect("let in");
        self.drain();
        session
    }

    /// With a moderator's rights.
    pub(crate) fn moderator(&mut self, user: &str, channel: &str) -> SessionId {
        let mut entrance = Entrance::named(user, channel);
        entrance.grants.moderate = true;
        let session = self.hub.open(self.now, CLIENTS, &entrance).expect("let in");
        self.drain();
        session
    }

    /// Subscribes, and returns the peer's id.
    pub(crate) fn subscribe(&mut self, session: SessionId) -> String {
        let reply = self.get(session, "subscribe", Value::Null, "subscribed");
        reply["peerId"].as_str().expect("a peer has an id").to_owned()
    }

    pub(crate) fn leave(&mut self, session: SessionId) {
        self.hub.close(self.now, session);
        self.drain();
        self.inbox.remove(&session);
    }

    pub(crate) fn text(&mut self, session: SessionId, text: &str) {
        self.now = self.now + Duration::from_millis(20);
        self.hub.handle_text(self.now, session, text);
        self.drain();
    }

    pub(crate) fn heard(&mut self, session: SessionId) -> Vec<Value> {
        self.inbox.remove(&session).unwrap_or_default().into()
    }

    /// The messages of one type that came, taking all out.
    pub(crate) fn heard_of(&mut self, session: SessionId, kind: &str) -> Vec<Value> {
        let messages = self.heard(session).into_iter().filter(|message| message["type"] == kind);
        messages.map(|message| message["data"].clone()).collect()
    }

    /// Sends it without any id, and takes the one reply; notifications stay in the inbox.
    pub(crate) fn say(&mut self, session: SessionId, kind: &str, data: Value) -> Value {
        self.heard(session);
        let message = if data.is_null() { json!({ "type": kind }) } else { json!({ "type": kind, "data": data }) };
        self.text(session, &message.to_string());
        let is_notification = |message: &Value| NOTIFICATIONS.contains(&message["type"].as_str().unwrap_or_default());
        let (told, mut replies): (Vec<_>, Vec<_>) = self.heard(session).into_iter().partition(is_notification);
        assert_eq!(replies.len(), 1, "one reply to {kind}: {replies:?}");
        if !told.is_empty() {
            self.inbox.insert(session, told.into());
        }
        replies.remove(0)
    }

    /// The same, and the reply's data; panics when it is of another type.
    pub(crate) fn get(&mut self, session: SessionId, kind: &str, data: Value, expected: &str) -> Value {
        let mut reply = self.say(session, kind, data);
        assert_eq!(reply["type"], expected, "{reply}");
        reply["data"].take()
    }

    /// The error's code and message.
    pub(crate) fn refused(&mut self, session: SessionId, kind: &str, data: Value) -> (String, String) {
        let reply = self.say(session, kind, data);
        assert_eq!(reply["type"], "error", "{reply}");
        assert_eq!(reply["data"]["request"], kind);
        let text = |name: &str| reply["data"][name].as_str().expect("an error has it").to_owned();
        (text("code"), text("message"))
    }

    pub(crate) fn create(&mut self, session: SessionId, data: Value) -> (String, TransportId) {
        let reply = self.get(session, "create-transport", data, "transport-params");
        let Some((_, Command::CreateTransport { transport, .. })) = self.commands.last() else {
            panic!("no command for a transport: {:?}", self.commands.last());
        };
        (reply["id"].as_str().expect("a transport has an id").to_owned(), *transport)
    }

    pub(crate) fn produce(&mut self, session: SessionId, data: Value) -> (String, ProducerId) {
        let reply = self.get(session, "produce", data, "producer-id");
        let produced = self.commands.iter().rev().find_map(|(_, command)| match command {
            Command::Produce { producer, .. } => Some(*producer),
            _ => None,
        });
        (reply["id"].as_str().expect("a producer has an id").to_owned(), produced.expect("a command for a producer"))
    }

    pub(crate) fn capabilities(&mut self, session: SessionId) -> Value {
        self.get(session, "get-rtp-capabilities", Value::Null, "rtp-capabilities")
    }

    pub(crate) fn consume(&mut self, session: SessionId, mut data: Value) -> Value {
        let mut capabilities = self.capabilities.take().unwrap_or_else(|| self.capabilities(session));
        // Opus, and VP8 with its RTX.
        let offered = ["audio/opus", "video/VP8", "video/rtx"].map(|wanted| {
            let codecs = capabilities["codecs"].as_array().expect("there are codecs");
            codecs.iter().find(|codec| codec["mimeType"] == wanted).cloned().expect("it is among them")
        });
        capabilities["codecs"] = json!(offered);
        data["rtpCapabilities"] = capabilities.clone();
        self.capabilities = Some(capabilities);
        self.get(session, "consume", data, "consumer-params")
    }

    /// A whole consume as text, of which only whether it was granted is of interest.
    pub(crate) fn hub_consumes(&mut self, session: SessionId, message: &str) -> bool {
        self.heard(session);
        self.text(session, message);
        self.heard(session).iter().any(|reply| reply["type"] == "consumer-params")
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.hub.handle_event(self.now, event);
        self.drain();
    }

    pub(crate) fn connected(&mut self, transport: TransportId) {
        self.event(Event::TransportState { transport, state: TransportState::Connected });
    }

    pub(crate) fn take_commands(&mut self) -> Vec<Command> {
        self.commands.drain(..).map(|(_, command)| command).collect()
    }

    /// A peer that sends one audio stream, on one transport.
    pub(crate) fn publisher(&mut self, user: &str, channel: &str, ssrc: u32) -> (SessionId, String, ProducerId) {
        let session = self.join(user, channel);
        self.create(session, Value::Null);
        let (external, producer) = self.produce(session, audio(ssrc, "0"));
        (session, external, producer)
    }
}

pub(crate) fn connect() -> Value {
    json!({ "dtlsParameters": { "role": "client", "fingerprints": [{ "algorithm": "sha-256", "value": FINGERPRINT }] } })
}

/// A microphone as mediasoup-client sends it in Chromium.
pub(crate) fn audio(ssrc: u32, mid: &str) -> Value {
    json!({
        "kind": "audio",
        "rtpParameters": {
            "mid": mid,
            "codecs": [{
                "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2,
                "parameters": { "minptime": 10, "useinbandfec": 1 },
                "rtcpFeedback": [{ "type": "transport-cc", "parameter": "" }, { "type": "nack", "parameter": "" }],
            }],
            "headerExtensions": [
                { "uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "id": 4, "encrypt": false, "parameters": {} },
                { "uri": "urn:ietf:params:rtp-hdrext:ssrc-audio-level", "id": 1, "encrypt": false, "parameters": {} },
            ],
            "encodings": [{ "ssrc": ssrc, "dtx": false }],
            "rtcp": { "cname": format!("cname-{ssrc}"), "reducedSize": true },
        },
    })
}

pub(crate) fn video(ssrc: u32, mid: &str) -> Value {
    json!({
        "kind": "video",
        "rtpParameters": {
            "mid": mid,
            "codecs": [
                {
                    "mimeType": "video/VP8", "payloadType": 96, "clockRate": 90000, "parameters": {},
                    "rtcpFeedback": [
                        { "type": "goog-remb", "parameter": "" }, { "type": "transport-cc", "parameter": "" },
                        { "type": "ccm", "parameter": "fir" }, { "type": "nack", "parameter": "" },
                        { "type": "nack", "parameter": "pli" },
                    ],
                },
                {
                    "mimeType": "video/rtx", "payloadType": 97, "clockRate": 90000,
                    "parameters": { "apt": 96 }, "rtcpFeedback": [],
                },
            ],
            "headerExtensions": [
                { "uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "id": 4, "encrypt": false, "parameters": {} },
            ],
            "encodings": [{ "ssrc": ssrc, "rtx": { "ssrc": ssrc + 1 } }],
            "rtcp": { "cname": format!("cname-{ssrc}"), "reducedSize": true },
            "msid": "stream track",
        },
    })
}
