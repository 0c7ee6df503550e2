//! A call of two for the unit tests of this room, and what its peers and shards hear, without a `Hub`.

use serde_json::Value;

use crate::base::id::{ConsumerId, PeerId, ProducerId, ShardId, ShardLabel, TransportId};
use crate::shard::command::{Command, MediaKind, TransportState};
use crate::signal::channel::Channel;
use crate::signal::desk::{Desk, HubSettings};
use crate::signal::entrance::Entrance;
use crate::signal::ortc;
use crate::signal::peer::{Consumer, Peer, Producer, Transport};
use crate::signal::place::PeerPlace;
use crate::signal::post::Output;
use crate::signal::session::SessionId;

pub(super) const ANNA: PeerId = PeerId(1);
pub(super) const BERTA: PeerId = PeerId(2);
pub(super) const CAMERA: ProducerId = ProducerId(10);
pub(super) const WATCHING: ConsumerId = ConsumerId(20);

/// Of a hub with one shard.
pub(crate) fn settings() -> HubSettings {
    HubSettings {
        shards: vec![(ShardId(0), ShardLabel(*b"aa"))],
        candidates: vec![],
        fingerprint_sha256: String::new(),
        spread: Default::default(),
        last_n: Default::default(),
        log: Default::default(),
        quotas: Default::default(),
        ice_servers: Default::default(),
        returns: Default::default(),
        seed: [1; 32],
    }
}

/// Anna sends on a transport of hers, Berta receives it on one of hers; both subscribe.
pub(super) fn call() -> (Channel, Desk) {
    let (mut channel, mut desk) = (Channel::new("room".into()), Desk::new(settings()));
    // The numbers above are taken.
    (0..WATCHING.0).for_each(|_| _ = desk.ids.number());
    for (id, user) in [(ANNA, "anna"), (BERTA, "berta")] {
        let mut peer = Peer::new(desk.ids.external(), &Entrance::named(user, "room"));
        peer.place = PeerPlace::Here(desk.placement.place(&mut channel.spread));
        let transport = Transport {
            external: desk.ids.external(),
            direction: None,
            state: TransportState::Connected,
            connected: true,
            named: true,
            fingerprints: 1,
            carried_consumers: false,
            names: desk.ids.names(),
        };
        peer.transports.insert(TransportId(id.0), transport);
        desk.owners.transports.insert(TransportId(id.0), id);
        channel.insert(id, peer);
        channel.subscribers.insert(id);
        desk.post.mailboxes.attach(id, SessionId(id.0));
    }
    let parameters = serde_json::json!({
        "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2 }],
        "encodings": [{ "ssrc": 7 }],
    });
    let producer = Producer {
        external: desk.ids.external(),
        plan: ortc::plan_producer(MediaKind::Audio, &parameters).expect("it is Opus"),
        app_data: Value::Null,
        app_data_bytes: 4,
        pause: Default::default(),
        silent: false,
        transport: Some(TransportId(ANNA.0)),
        abroad: None,
        consumers: [(WATCHING, BERTA)].into(),
    };
    let consumer = Consumer {
        external: desk.ids.external(),
        transport: TransportId(BERTA.0),
        producer: CAMERA,
        producer_external: producer.external,
        paused: false,
    };
    channel.producers.insert(CAMERA, ANNA);
    channel.by_external.insert(producer.external, CAMERA);
    channel.peers.get_mut(&ANNA).expect("she is there").producers.insert(CAMERA, producer);
    let berta = channel.peers.get_mut(&BERTA).expect("she is there");
    berta.consumers.insert(WATCHING, consumer);
    berta.consuming.insert(CAMERA, 1);
    desk.owners.producers.insert(CAMERA, ANNA);
    desk.owners.consumers.insert(WATCHING, BERTA);
    desk.placement.producer_added(&mut channel.spread, MediaKind::Audio);
    (channel, desk)
}

/// What each socket was told, and the commands.
pub(super) fn heard(desk: &mut Desk) -> (Vec<(u64, Value)>, Vec<Command>) {
    let (mut told, mut commands) = (Vec::new(), Vec::new());
    for output in desk.post.output.drain(..) {
        match output {
            Output::Send { session, text, .. } => {
                told.push((session.0, serde_json::from_str(&text.to_string()).expect("JSON")));
            }
            Output::Command { command, .. } => commands.push(command),
            Output::Disconnect { .. } | Output::Verify(_) => {}
        }
    }
    (told, commands)
}

/// The same with each text as its type and reason.
pub(super) fn said(desk: &mut Desk) -> (Vec<(u64, String)>, Vec<Command>) {
    let (told, commands) = heard(desk);
    let word = |text: &Value, path| text.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let short = |(session, text)| (session, format!("{} {}", word(&text, "/type"), word(&text, "/data/reason")));
    (told.into_iter().map(short).collect(), commands)
}

pub(super) fn told(of: &[(u64, &str)]) -> Vec<(u64, String)> {
    of.iter().map(|(session, text)| (*session, (*text).to_owned())).collect()
}
