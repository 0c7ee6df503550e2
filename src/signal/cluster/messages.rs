//! What nodes say to each other on the bus: JSON with a version and a type, `{"v":1,"t":"hello",…}`. Types and fields that
//! this release does not know are passed over, so that a later one may add some. The text is opened already, so that it
//! comes from a member of the cluster, and is held to bounds all the same.

use serde_json::{Map, Value, json};

use super::speaks::Speaks;
use crate::base::limits::{BUS_MESSAGE_BYTES_MAX, NODE_NAME_BYTES_MAX, NODE_URL_BYTES_MAX};

/// Of the envelope. A hello and a bye are read whatever their version is: by them nodes find out what they have in common.
const VERSION: u64 = 1;

/// What a node says it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NodeState {
    /// It takes no sockets yet.
    Starting,
    Serving,
    /// It takes no new channels.
    Full,
    /// A word of a later release.
    Other,
}

impl NodeState {
    pub const fn name(self) -> &'static str {
        match self {
            NodeState::Starting => "starting",
            NodeState::Serving => "serving",
            NodeState::Full => "full",
            NodeState::Other => "other",
        }
    }
}

/// How much a node has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeLoad {
    pub peers: u64,
    pub channels: u64,
    /// Microseconds of CPU time a second that its peers are expected to take, and that it has.
    pub expected: u64,
    pub capacity: u64,
    /// The mean share of its cores that is used, in thousandths.
    pub permille: u32,
}

/// What a node tells of itself each second.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeHello {
    /// For people: two nodes may have one name.
    pub name: String,
    pub region: String,
    pub release: String,
    /// Where clients reach it.
    pub url: Option<String>,
    pub state: NodeState,
    /// Seconds since its start.
    pub up: u64,
    pub speaks: Speaks,
    pub load: NodeLoad,
    pub shards: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BusMessage {
    Hello(Box<NodeHello>),
    /// The sender ends.
    Bye,
}

impl BusMessage {
    pub const TYPES: [&str; 2] = ["hello", "bye"];

    pub const fn kind(&self) -> &'static str {
        match self {
            BusMessage::Hello(_) => "hello",
            BusMessage::Bye => "bye",
        }
    }
}

/// Why an opened text says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unread {
    /// No JSON, or without what its type needs.
    Malformed,
    /// A type or a version that this release does not know.
    Unknown,
}

/// A message, and how many of its fields mean nothing here.
pub fn read(text: &[u8]) -> Result<(BusMessage, usize), Unread> {
    if text.len() > BUS_MESSAGE_BYTES_MAX {
        return Err(Unread::Malformed);
    }
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(text) else { return Err(Unread::Malformed) };
    let version = fields.remove("v").and_then(|version| version.as_u64()).ok_or(Unread::Malformed)?;
    let Some(Value::String(kind)) = fields.remove("t") else { return Err(Unread::Malformed) };
    let message = match (kind.as_str(), version) {
        ("hello", _) => hello(&mut fields).map(Box::new).map(BusMessage::Hello).ok_or(Unread::Malformed)?,
        ("bye", _) => BusMessage::Bye,
        _ => return Err(Unread::Unknown),
    };
    Ok((message, fields.len()))
}

fn hello(fields: &mut Map<String, Value>) -> Option<NodeHello> {
    let mut load = match fields.remove("load")? {
        Value::Object(load) => load,
        _ => return None,
    };
    let url = match fields.remove("url") {
        None => None,
        Some(Value::String(url)) => Some(url).filter(|url| is_shown(url, NODE_URL_BYTES_MAX)),
        Some(_) => return None,
    };
    Some(NodeHello {
        name: text(fields, "name")?,
        region: text(fields, "region")?,
        release: text(fields, "release")?,
        url,
        state: match fields.remove("state")?.as_str()? {
            "starting" => NodeState::Starting,
            "serving" => NodeState::Serving,
            "full" => NodeState::Full,
            _ => NodeState::Other,
        },
        up: number(fields, "up")?,
        speaks: Speaks::read(&fields.remove("speaks")?)?,
        load: NodeLoad {
            peers: number(&mut load, "peers")?,
            channels: number(&mut load, "channels")?,
            expected: number(&mut load, "expected")?,
            capacity: number(&mut load, "capacity")?,
            permille: number(&mut load, "permille")?.try_into().ok()?,
        },
        shards: number(fields, "shards")?,
    })
}

/// Whether a text may be shown to people, in a log line too.
fn is_shown(text: &str, max: usize) -> bool {
    text.len() <= max && !text.chars().any(char::is_control)
}

fn text(fields: &mut Map<String, Value>, name: &str) -> Option<String> {
    match fields.remove(name)? {
        Value::String(text) => Some(text).filter(|text| is_shown(text, NODE_NAME_BYTES_MAX)),
        _ => None,
    }
}

fn number(fields: &mut Map<String, Value>, name: &str) -> Option<u64> {
    fields.remove(name)?.as_u64()
}

pub fn write(message: &BusMessage) -> String {
    match message {
        BusMessage::Bye => json!({ "v": VERSION, "t": "bye" }),
        BusMessage::Hello(hello) => {
            let NodeHello { name, region, release, url, state, up, speaks, load, shards } = &**hello;
            let NodeLoad { peers, channels, expected, capacity, permille } = load;
            let mut text = json!({
                "v": VERSION, "t": "hello",
                "name": name, "region": region, "release": release, "state": state.name(), "up": up,
                "speaks": speaks.to_json(), "shards": shards,
                "load": {
                    "peers": peers, "channels": channels, "expected": expected, "capacity": capacity,
                    "permille": permille,
                },
            });
            if let Some(url) = url {
                text["url"] = json!(url);
            }
            text
        }
    }
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> NodeHello {
        NodeHello {
            name: "sfu-7".to_owned(),
            region: "eu".to_owned(),
            release: "0.1.0".to_owned(),
            url: Some("wss://sfu-7.example".to_owned()),
            state: NodeState::Full,
            up: 81_234,
            speaks: Speaks::ours(),
            load: NodeLoad { peers: 812, channels: 61, expected: 2_100_000, capacity: 5_600_000, permille: 377 },
            shards: 8,
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bare = NodeHello { url: None, state: NodeState::Starting, ..sample() };
        for message in [BusMessage::Hello(Box::new(sample())), BusMessage::Hello(Box::new(bare)), BusMessage::Bye] {
            let text = write(&message);
            assert_eq!(read(text.as_bytes()), Ok((message.clone(), 0)), "{text}");
            assert!(BusMessage::TYPES.contains(&message.kind()) && text.contains(message.kind()));
        }
    }

    #[test]
    fn what_a_later_release_adds_is_passed_over() {
        let text = write(&BusMessage::Hello(Box::new(sample())));
        let mut later: Value = serde_json::from_str(&text).unwrap();
        later["v"] = json!(9);
        later["state"] = json!("asleep");
        later["lanes"] = json!(["10.0.0.7:41000"]);
        later["load"]["heat"] = json!(40);
        let (read_back, unknown) = read(later.to_string().as_bytes()).unwrap();
        assert_eq!(unknown, 1);
        assert_eq!(read_back, BusMessage::Hello(Box::new(NodeHello { state: NodeState::Other, ..sample() })));
        assert_eq!(read(br#"{"v":1,"t":"sing"}"#), Err(Unread::Unknown));
        assert_eq!(read(br#"{"v":2,"t":"bye","why":"tired"}"#), Ok((BusMessage::Bye, 1)));
    }

    #[test]
    fn a_message_that_lacks_something_or_has_too_much_says_nothing() {
        let whole: Value = serde_json::from_str(&write(&BusMessage::Hello(Box::new(sample())))).unwrap();
        let mut broken = Vec::new();
        for name in ["v", "t", "name", "region", "release", "state", "up", "speaks", "load", "shards"] {
            for wrong in [None, Some(json!(-1)), Some(json!([])), Some(json!("a".repeat(NODE_NAME_BYTES_MAX + 1)))] {
                let mut text = whole.clone();
                match &wrong {
                    None => drop(text.as_object_mut().unwrap().remove(name)),
                    Some(wrong) => text[name] = wrong.clone(),
                }
                if name != "t" && name != "state" || !wrong.is_some_and(|wrong| wrong.is_string()) {
                    broken.push(text.to_string());
                }
            }
        }
        for name in ["peers", "channels", "expected", "capacity", "permille"] {
            let mut text = whole.clone();
            text["load"][name] = json!(1.5);
            broken.push(text.to_string());
        }
        let mut shouting = whole.clone();
        shouting["name"] = json!("sfu\u{7}");
        broken.push(shouting.to_string());
        broken.extend(["", "[]", "{}", "1", "{\"v\":1}", "{\"v\":1,\"t\":7}"].map(str::to_owned));
        broken.push("[".repeat(10_000));
        for text in broken {
            assert_eq!(read(text.as_bytes()), Err(Unread::Malformed), "{}", &text[..text.len().min(400)]);
        }
        assert_eq!(read(&vec![b' '; BUS_MESSAGE_BYTES_MAX + 1]), Err(Unread::Malformed));
    }

    #[test]
    fn a_url_that_nobody_should_be_shown_is_left_out() {
        let mut text: Value = serde_json::from_str(&write(&BusMessage::Hello(Box::new(sample())))).unwrap();
        text["url"] = json!("a".repeat(NODE_URL_BYTES_MAX + 1));
        let (BusMessage::Hello(hello), _) = read(text.to_string().as_bytes()).unwrap() else { panic!("a hello") };
        assert_eq!(hello.url, None);
    }
}
