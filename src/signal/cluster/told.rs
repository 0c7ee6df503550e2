//! What a member tells of its part of a channel: its peers, its producers, and what happens to them. A roster is a list of
//! these, and so is a change. Each is read as a client's request is: within the same bounds.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::base::id::ShardId;
use crate::base::limits::{
    APP_DATA_BYTES_MAX, BAN_MAX, NAME_BYTES_MAX, NOTICE_BYTES_MAX, PEERS_PER_CHANNEL_MAX, SAID_BYTES_MAX,
};
use crate::base::node_id::NodeId;
use crate::signal::act::{By, bounded};
use crate::signal::auth::fault_of;
use crate::signal::fields::{Fields, bad, missing};
use crate::signal::ids::ExternalId;
use crate::signal::message::Refusal;
use crate::signal::ortc::{ProducerPlan, read_plan, write_plan};
use crate::signal::pause::Pause;

#[derive(Clone, PartialEq, Debug)]
pub(in crate::signal) enum RosterOp {
    Peer {
        entry: GhostEntry,
        /// The peer of the same user that it takes the place of.
        replaces: Option<ExternalId>,
        /// Who changed it, if not the peer itself.
        by: Option<By>,
    },
    PeerEnded {
        id: ExternalId,
        parting: Option<Parting>,
    },
    Away {
        id: ExternalId,
        away: bool,
    },
    Producer(Box<ProducerEntry>),
    ProducerEnded {
        id: ExternalId,
        reason: &'static str,
        by: Option<By>,
    },
    Paused {
        id: ExternalId,
        pause: Pause,
        by: Option<By>,
    },
    Silent {
        id: ExternalId,
        silent: bool,
    },
    /// A message from a peer, or from the operator, to one peer or to all.
    Said {
        from: By,
        to: Option<ExternalId>,
        data: Value,
    },
    Settings {
        settings: ChannelSettings,
        by: Option<By>,
    },
    /// None of this user may be in the channel for so long.
    Banned {
        user: Arc<str>,
        seconds: u64,
        by: By,
        notice: Option<String>,
    },
    Unbanned {
        user: Arc<str>,
    },
}

#[derive(Clone, PartialEq, Debug)]
pub(in crate::signal) struct GhostEntry {
    pub(in crate::signal) id: ExternalId,
    pub(in crate::signal) user: Arc<str>,
    pub(in crate::signal) name: Option<Arc<str>>,
    pub(in crate::signal) app_data: Value,
    pub(in crate::signal) away: bool,
    pub(in crate::signal) moderates: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub(in crate::signal) struct ProducerEntry {
    pub(in crate::signal) id: ExternalId,
    pub(in crate::signal) peer: ExternalId,
    /// Of its node.
    pub(in crate::signal) shard: ShardId,
    /// With the cname of its peer.
    pub(in crate::signal) plan: ProducerPlan,
    pub(in crate::signal) app_data: Value,
    pub(in crate::signal) pause: Pause,
    pub(in crate::signal) silent: bool,
}

/// What is said of a peer's end, once a moderator has ended it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::signal) struct Parting {
    pub(in crate::signal) reason: String,
    pub(in crate::signal) by: By,
    pub(in crate::signal) message: Option<String>,
}

impl Parting {
    /// From what clients are told, and back.
    pub(in crate::signal) fn of(data: &Value) -> Option<Parting> {
        let text = |name: &str| data.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Parting { reason: text("reason")?, by: By::parse(&text("by")?)?, message: text("message") })
    }

    pub(in crate::signal) fn describe(&self) -> Value {
        let mut data = json!({ "reason": self.reason, "by": self.by.to_string() });
        if let Some(message) = &self.message {
            data["message"] = json!(message);
        }
        data
    }
}

/// What moderators have set of a channel. Of two the one with the higher counter holds, then that of the higher node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::signal) struct ChannelSettings {
    pub(in crate::signal) counter: u64,
    pub(in crate::signal) node: NodeId,
    pub(in crate::signal) locked: bool,
    pub(in crate::signal) waiting: bool,
    pub(in crate::signal) peers_max: Option<usize>,
}

/// Why a producer has ended, in the words for clients.
const REASONS: [&str; 12] = [
    "closed",
    "stopped",
    "peer-left",
    "no-check",
    "operator",
    "moved",
    "forbidden",
    "replaced",
    "transport-closed",
    "producer-closed",
    "limit",
    "fault",
];

impl RosterOp {
    /// The word for clients; one that is not known stands for an end that nobody has caused.
    pub(in crate::signal) fn reason(word: &str) -> &'static str {
        REASONS.into_iter().find(|known| *known == word).unwrap_or(REASONS[0])
    }

    pub(in crate::signal) fn write(&self) -> String {
        self.to_json().to_string()
    }

    fn to_json(&self) -> Value {
        match self {
            RosterOp::Peer { entry, replaces, by } => {
                let mut data = json!({ "op": "peer", "id": entry.id.to_string(), "user": &*entry.user });
                add(&mut data, "name", entry.name.as_deref());
                add(&mut data, "appData", Some(&entry.app_data).filter(|value| !value.is_null()));
                add(&mut data, "away", entry.away.then_some(true));
                add(&mut data, "moderates", entry.moderates.then_some(true));
                add(&mut data, "replaces", replaces.map(|id| id.to_string()));
                add(&mut data, "by", by.map(|by| by.to_string()));
                data
            }
            RosterOp::PeerEnded { id, parting } => {
                let mut data = json!({ "op": "peer-ended", "id": id.to_string() });
                add(&mut data, "parting", parting.as_ref().map(Parting::describe));
                data
            }
            RosterOp::Away { id, away } => json!({ "op": "away", "id": id.to_string(), "away": away }),
            RosterOp::Producer(entry) => entry.to_json(),
            RosterOp::ProducerEnded { id, reason, by } => {
                let mut data = json!({ "op": "producer-ended", "id": id.to_string(), "reason": reason });
                add(&mut data, "by", by.map(|by| by.to_string()));
                data
            }
            RosterOp::Paused { id, pause, by } => {
                let mut data =
                    json!({ "op": "paused", "id": id.to_string(), "paused": pause.own, "muted": pause.muted });
                add(&mut data, "by", by.map(|by| by.to_string()));
                data
            }
            RosterOp::Silent { id, silent } => json!({ "op": "silent", "id": id.to_string(), "silent": silent }),
            RosterOp::Said { from, to, data: said } => {
                let mut data = json!({ "op": "said", "from": from.to_string(), "data": said });
                add(&mut data, "to", to.map(|to| to.to_string()));
                data
            }
            RosterOp::Settings { settings, by } => {
                let mut data = settings.to_json();
                add(&mut data, "by", by.map(|by| by.to_string()));
                data
            }
            RosterOp::Banned { user, seconds, by, notice } => {
                let mut data = json!({ "op": "banned", "user": &**user, "seconds": seconds, "by": by.to_string() });
                add(&mut data, "message", notice.as_deref());
                data
            }
            RosterOp::Unbanned { user } => json!({ "op": "unbanned", "user": &**user }),
        }
    }

    pub(in crate::signal) fn read(value: Value) -> Result<RosterOp, Refusal> {
        let mut data = Fields::of("told", Some(value))?;
        let told = match data.needed_string("op")?.as_str() {
            "peer" => {
                RosterOp::Peer { replaces: id(&mut data, "replaces")?, by: by(&mut data)?, entry: peer(&mut data)? }
            }
            "peer-ended" => {
                let parting = data.take("parting").map(|parting| Fields::of("told.parting", Some(parting)));
                RosterOp::PeerEnded {
                    id: needed_id(&mut data, "id")?,
                    parting: parting.transpose()?.map(read_parting).transpose()?,
                }
            }
            "away" => RosterOp::Away { id: needed_id(&mut data, "id")?, away: truth(&mut data, "away")? },
            "producer" => RosterOp::Producer(Box::new(producer(&mut data)?)),
            "producer-ended" => {
                // It may be a word of a later release.
                let reason = RosterOp::reason(&data.needed_string("reason")?);
                RosterOp::ProducerEnded { id: needed_id(&mut data, "id")?, reason, by: by(&mut data)? }
            }
            "paused" => {
                let pause = Pause { own: truth(&mut data, "paused")?, muted: truth(&mut data, "muted")? };
                RosterOp::Paused { id: needed_id(&mut data, "id")?, pause, by: by(&mut data)? }
            }
            "silent" => RosterOp::Silent { id: needed_id(&mut data, "id")?, silent: truth(&mut data, "silent")? },
            "said" => {
                let said = data.take("data").unwrap_or(Value::Null);
                let (said, _) = bounded(said, "told.data", SAID_BYTES_MAX)?;
                RosterOp::Said { from: needed_by(&mut data, "from")?, to: id(&mut data, "to")?, data: said }
            }
            "settings" => RosterOp::Settings { settings: settings(&mut data)?, by: by(&mut data)? },
            "banned" => {
                let longest = BAN_MAX.as_secs() as usize;
                let seconds = data.count("seconds", 1..=longest)?.unwrap_or(longest) as u64;
                let notice = text(&mut data, "message", NOTICE_BYTES_MAX)?.map(|notice| notice.to_string());
                RosterOp::Banned { user: user(&mut data)?, seconds, by: needed_by(&mut data, "by")?, notice }
            }
            "unbanned" => RosterOp::Unbanned { user: user(&mut data)? },
            other => return Err(bad(format!("told.op: {} means nothing here", crate::signal::fields::excerpt(other)))),
        };
        Ok(told)
    }
}

impl ProducerEntry {
    fn to_json(&self) -> Value {
        let mut data = json!({
            "op": "producer", "id": self.id.to_string(), "peer": self.peer.to_string(), "shard": self.shard.0,
            "plan": write_plan(&self.plan),
        });
        add(&mut data, "appData", Some(&self.app_data).filter(|value| !value.is_null()));
        add(&mut data, "paused", self.pause.own.then_some(true));
        add(&mut data, "muted", self.pause.muted.then_some(true));
        add(&mut data, "silent", self.silent.then_some(true));
        data
    }
}

impl ChannelSettings {
    fn to_json(self) -> Value {
        let ChannelSettings { counter, node, locked, waiting, peers_max } = self;
        let mut data = json!({
            "op": "settings", "counter": counter, "node": node.to_string(), "locked": locked, "waiting": waiting,
        });
        add(&mut data, "peersMax", peers_max);
        data
    }
}

fn add(data: &mut Value, name: &str, value: Option<impl serde::Serialize>) {
    if let (Some(value), Value::Object(data)) = (value, data) {
        data.insert(name.to_owned(), json!(value));
    }
}

fn truth(data: &mut Fields, name: &str) -> Result<bool, Refusal> {
    data.boolean(name).map(Option::unwrap_or_default)
}

fn id(data: &mut Fields, name: &str) -> Result<Option<ExternalId>, Refusal> {
    let Some(text) = data.string(name)? else { return Ok(None) };
    ExternalId::parse(&text).map(Some).ok_or_else(|| bad(format!("told.{name}: an id is needed here")))
}

fn needed_id(data: &mut Fields, name: &str) -> Result<ExternalId, Refusal> {
    id(data, name)?.ok_or_else(|| missing(&format!("told.{name}"), "an id"))
}

fn by(data: &mut Fields) -> Result<Option<By>, Refusal> {
    let Some(text) = data.string("by")? else { return Ok(None) };
    By::parse(&text).map(Some).ok_or_else(|| bad("told.by: nobody is called so".to_owned()))
}

fn needed_by(data: &mut Fields, name: &str) -> Result<By, Refusal> {
    let text = data.needed_string(name)?;
    By::parse(&text).ok_or_else(|| bad(format!("told.{name}: nobody is called so")))
}

/// A text by the rules of names.
fn text(data: &mut Fields, name: &str, max: usize) -> Result<Option<Arc<str>>, Refusal> {
    let Some(text) = data.string(name)? else { return Ok(None) };
    match fault_of(&text, max) {
        None => Ok(Some(text.into())),
        Some(_) => Err(bad(format!("told.{name}: it is empty, too long or unprintable"))),
    }
}

fn user(data: &mut Fields) -> Result<Arc<str>, Refusal> {
    text(data, "user", NAME_BYTES_MAX)?.ok_or_else(|| missing("told.user", "a string"))
}

fn app_data(data: &mut Fields) -> Result<Value, Refusal> {
    let value = data.take("appData").unwrap_or(Value::Null);
    bounded(value, "told.appData", APP_DATA_BYTES_MAX).map(|(value, _)| value)
}

fn peer(data: &mut Fields) -> Result<GhostEntry, Refusal> {
    Ok(GhostEntry {
        id: needed_id(data, "id")?,
        user: user(data)?,
        name: text(data, "name", NAME_BYTES_MAX)?,
        app_data: app_data(data)?,
        away: truth(data, "away")?,
        moderates: truth(data, "moderates")?,
    })
}

fn producer(data: &mut Fields) -> Result<ProducerEntry, Refusal> {
    let shard = data.count("shard", 0..=usize::from(u16::MAX))?.ok_or_else(|| missing("told.shard", "a number"))?;
    Ok(ProducerEntry {
        id: needed_id(data, "id")?,
        peer: needed_id(data, "peer")?,
        // The range makes the cast exact.
        shard: ShardId(shard as u16),
        plan: read_plan(&data.needed_object("plan")?).map_err(|why| bad(format!("told.{why}")))?,
        app_data: app_data(data)?,
        pause: Pause { own: truth(data, "paused")?, muted: truth(data, "muted")? },
        silent: truth(data, "silent")?,
    })
}

fn read_parting(mut data: Fields) -> Result<Parting, Refusal> {
    Ok(Parting {
        reason: text(&mut data, "reason", NAME_BYTES_MAX)?
            .ok_or_else(|| missing("told.reason", "a string"))?
            .to_string(),
        by: needed_by(&mut data, "by")?,
        message: text(&mut data, "message", NOTICE_BYTES_MAX)?.map(|message| message.to_string()),
    })
}

fn settings(data: &mut Fields) -> Result<ChannelSettings, Refusal> {
    let counter = data.take("counter").and_then(|value| value.as_u64());
    let node = NodeId::parse(&data.needed_string("node")?);
    Ok(ChannelSettings {
        counter: counter
            .filter(|counter| *counter <= u64::MAX / 2)
            .ok_or_else(|| missing("told.counter", "a number"))?,
        node: node.ok_or_else(|| bad("told.node: a node is needed here".to_owned()))?,
        locked: truth(data, "locked")?,
        waiting: truth(data, "waiting")?,
        peers_max: data.count("peersMax", 1..=PEERS_PER_CHANNEL_MAX)?,
    })
}

/// A list of these, and how many of its entries say nothing.
pub(super) fn read_all(list: Vec<Value>) -> (Vec<RosterOp>, usize) {
    let before = list.len();
    let told: Vec<RosterOp> = list.into_iter().filter_map(|value| RosterOp::read(value).ok()).collect();
    let refused = before - told.len();
    (told, refused)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::Map;

    use crate::shard::command::MediaKind;
    use crate::signal::ids::Ids;
    use crate::signal::ortc::plan_producer;

    pub(in crate::signal) fn ids() -> [ExternalId; 3] {
        let mut ids = Ids::new([9; 32]);
        [ids.external(), ids.external(), ids.external()]
    }

    pub(in crate::signal) fn peer_entry() -> GhostEntry {
        let app_data = json!({ "hand": true });
        GhostEntry { id: ids()[0], user: "anna".into(), name: None, app_data, away: false, moderates: true }
    }

    pub(in crate::signal) fn producer_entry() -> ProducerEntry {
        let parameters = json!({
            "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2 }],
            "encodings": [{ "ssrc": 7 }], "rtcp": { "cname": "anna" },
        });
        let plan = plan_producer(MediaKind::Audio, &parameters).expect("it is Opus");
        // As it is read on another node.
        let plan = read_plan(&write_plan(&plan)).expect("it was written just now");
        let (pause, app_data) = (Pause { own: true, muted: false }, json!({ "source": "mic" }));
        ProducerEntry { id: ids()[1], peer: ids()[0], shard: ShardId(3), plan, app_data, pause, silent: true }
    }

    fn samples() -> Vec<RosterOp> {
        let [anna, camera, berta] = ids();
        let by = Some(By::Peer(berta));
        let parting = Parting { reason: "removed".into(), by: By::Hidden, message: Some("be kind".into()) };
        let named = GhostEntry { name: Some("Anna".into()), away: true, moderates: false, ..peer_entry() };
        let settings =
            ChannelSettings { counter: 4, node: NodeId(7), locked: true, waiting: false, peers_max: Some(9) };
        vec![
            RosterOp::Peer { entry: peer_entry(), replaces: Some(berta), by: None },
            RosterOp::Peer { entry: named, replaces: None, by },
            RosterOp::PeerEnded { id: anna, parting: Some(parting) },
            RosterOp::PeerEnded { id: anna, parting: None },
            RosterOp::Away { id: anna, away: true },
            RosterOp::Producer(Box::new(producer_entry())),
            RosterOp::ProducerEnded { id: camera, reason: "stopped", by },
            RosterOp::Paused { id: camera, pause: Pause { own: false, muted: true }, by: Some(By::Operator) },
            RosterOp::Silent { id: camera, silent: true },
            RosterOp::Said { from: By::Peer(anna), to: Some(berta), data: json!(null) },
            RosterOp::Said { from: By::Operator, to: None, data: json!({ "text": "hi" }) },
            RosterOp::Settings { settings, by: None },
            RosterOp::Settings { settings: ChannelSettings { peers_max: None, ..settings }, by },
            RosterOp::Banned { user: "mallory".into(), seconds: 60, by: By::Operator, notice: None },
            RosterOp::Unbanned { user: "mallory".into() },
        ]
    }

    #[test]
    fn what_is_written_is_read_back() {
        let list: Vec<Value> = samples().iter().map(|told| serde_json::from_str(&told.write()).unwrap()).collect();
        assert_eq!(read_all(list), (samples(), 0));
    }

    #[test]
    fn what_lacks_something_or_has_too_much_says_nothing() {
        let whole = |told: &RosterOp| serde_json::from_str::<Map<String, Value>>(&told.write()).unwrap();
        let mut broken = vec![json!(null), json!([]), json!({}), json!({ "op": "sing" })];
        for told in samples() {
            for (name, value) in whole(&told) {
                let mut wrong = vec![json!([]), json!(-1)];
                if value.is_string() {
                    wrong.push(json!("x".repeat(2_000) + "\n"));
                    // Beside the word for an end, which a later release may add to.
                }
                for wrong in wrong {
                    let free = (name == "data" || name == "appData") || (name == "reason" && wrong.is_string());
                    if !free {
                        let mut data = whole(&told);
                        data.insert(name.clone(), wrong);
                        broken.push(Value::Object(data));
                    }
                }
            }
        }
        let mut long = whole(&samples()[0]);
        long.insert("appData".to_owned(), json!("x".repeat(APP_DATA_BYTES_MAX)));
        broken.push(Value::Object(long));
        for data in broken {
            assert!(RosterOp::read(data.clone()).is_err(), "{}", &data.to_string()[..data.to_string().len().min(300)]);
        }
        let (told, refused) = read_all(vec![json!(1), serde_json::from_str(&samples()[4].write()).unwrap()]);
        assert_eq!((told, refused), (vec![samples()[4].clone()], 1));
    }

    #[test]
    fn a_later_setting_holds_and_of_two_at_once_one_for_all() {
        let of = |counter, node| ChannelSettings {
            counter,
            node: NodeId(node),
            locked: node == 1,
            waiting: false,
            peers_max: None,
        };
        assert!(of(2, 1) > of(1, 9) && of(1, 9) > of(1, 1));
    }
}
