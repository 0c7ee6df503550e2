//! What members of a channel say to each other about it, and the list of the channels that a node has. Beside the message
//! on the bus: JSON, within its bounds.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::told::{self, RosterOp};
use crate::base::limits::{HELD_MAX, MEMBERS_PER_CHANNEL_MAX, NAME_BYTES_MAX, ROSTER_PAGES_MAX};
use crate::base::node_id::NodeId;
use crate::signal::act::{Act, By};
use crate::signal::auth::fault_of;

/// About one channel.
#[derive(Clone, PartialEq, Debug)]
pub struct ChannelMessage {
    pub(in crate::signal) channel: Arc<str>,
    pub(in crate::signal) says: Says,
}

#[derive(Clone, PartialEq, Debug)]
pub(in crate::signal) enum Says {
    /// The sender has peers of it. `empty`: it has told of none yet.
    Enter {
        q: u64,
        empty: bool,
    },
    /// All that the sender has, in pages.
    Roster(RosterPage),
    Change {
        q: u64,
        rank: u64,
        told: Vec<RosterOp>,
    },
    /// The sender has nobody there any more.
    Leave {
        q: u64,
    },
    /// Nothing new: this was the last number.
    Tail {
        q: u64,
        rank: u64,
    },
    /// The sender, whose own number this is, wants the roster of who gets it.
    Sync {
        q: u64,
    },
    /// An act of moderation on a peer, or a producer, of the node that gets it.
    Act {
        by: By,
        act: Box<Act>,
    },
}

#[derive(Clone, PartialEq, Debug)]
pub(in crate::signal) struct RosterPage {
    pub(in crate::signal) q: u64,
    pub(in crate::signal) rank: u64,
    pub(in crate::signal) page: usize,
    pub(in crate::signal) of: usize,
    /// The other members that the sender knows.
    pub(in crate::signal) members: Vec<NodeId>,
    pub(in crate::signal) told: Vec<RosterOp>,
}

/// The channels that a node has, by the low bits of their hashes: of `of` parts that with this number, which a channel is
/// in by the rest of those bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldList {
    pub(super) part: u32,
    pub(super) of: u32,
    pub(super) list: Vec<u32>,
}

impl HeldList {
    /// All parts of the list of these.
    pub(super) fn of(hashes: impl Iterator<Item = u32>) -> Vec<HeldList> {
        let hashes: Vec<u32> = hashes.collect();
        let of = hashes.len().div_ceil(HELD_MAX / 2).max(1) as u32;
        let part = |part| HeldList {
            part,
            of,
            // Parts are not equal: each has twice the room that it needs on average.
            list: hashes.iter().copied().filter(|hash| hash % of == part).take(HELD_MAX).collect(),
        };
        (0..of).map(part).collect()
    }

    /// Whether a channel is in it; None: that is in another part.
    pub(super) fn has(&self, hash: u32) -> Option<bool> {
        (hash % self.of == self.part).then(|| self.list.contains(&hash))
    }

    pub(super) fn write(&self) -> Value {
        let bytes: Vec<u8> = self.list.iter().flat_map(|hash| hash.to_be_bytes()).collect();
        json!({ "part": self.part, "of": self.of, "list": BASE64_STANDARD.encode(bytes) })
    }

    pub(super) fn read(fields: &mut Map<String, Value>) -> Option<HeldList> {
        let number = |fields: &mut Map<String, Value>, name| u32::try_from(fields.remove(name)?.as_u64()?).ok();
        let (part, of) = (number(fields, "part")?, number(fields, "of")?);
        let list = fields.remove("list")?;
        let bytes = BASE64_STANDARD.decode(list.as_str()?).ok()?;
        let list = bytes.chunks_exact(4).map(|hash| u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]));
        (part < of && bytes.len() <= 4 * HELD_MAX && bytes.len() % 4 == 0).then(|| HeldList {
            part,
            of,
            list: list.collect(),
        })
    }
}

impl ChannelMessage {
    pub(super) const KINDS: [&str; 7] = ["enter", "roster", "change", "leave", "tail", "sync", "act"];

    pub(super) const fn kind(&self) -> &'static str {
        match self.says {
            Says::Enter { .. } => "enter",
            Says::Roster(_) => "roster",
            Says::Change { .. } => "change",
            Says::Leave { .. } => "leave",
            Says::Tail { .. } => "tail",
            Says::Sync { .. } => "sync",
            Says::Act { .. } => "act",
        }
    }

    pub(super) fn write(&self) -> String {
        let channel = &*self.channel;
        let entries = |told: &[RosterOp]| told.iter().map(RosterOp::write).collect::<Vec<_>>();
        match &self.says {
            Says::Enter { q, empty } => text::enter(channel, *q, *empty),
            Says::Roster(RosterPage { q, rank, page, of, members, told }) => {
                text::roster(channel, (*q, *rank), (*page, *of), members.iter().copied(), &entries(told))
            }
            Says::Change { q, rank, told } => text::change(channel, (*q, *rank), &entries(told)),
            Says::Leave { q } | Says::Sync { q } => text::bare(self.kind(), channel, *q),
            Says::Tail { q, rank } => text::tail(channel, *q, *rank),
            Says::Act { by, act } => text::act(channel, by, act),
        }
    }

    /// Reads the fields of a message of this type, and how much of it says nothing. None: it lacks something, or is of
    /// another type.
    pub(super) fn read(kind: &str, fields: &mut Map<String, Value>) -> Option<(ChannelMessage, usize)> {
        let Value::String(channel) = fields.remove("c")? else { return None };
        if fault_of(&channel, NAME_BYTES_MAX).is_some() {
            return None;
        }
        let mut refused = 0;
        let mut listed = |fields: &mut Map<String, Value>| match fields.remove("ops")? {
            Value::Array(list) => {
                let (told, lost) = told::read_all(list);
                refused += lost;
                Some(told)
            }
            _ => None,
        };
        let says = match kind {
            "enter" => Says::Enter { q: number(fields, "q")?, empty: fields.remove("empty")?.as_bool()? },
            "roster" => {
                let page = usize::try_from(number(fields, "page")?).ok()?;
                let of = usize::try_from(number(fields, "of")?).ok().filter(|of| *of <= ROSTER_PAGES_MAX)?;
                let (q, rank, members) = (number(fields, "q")?, number(fields, "rank")?, members(fields)?);
                Says::Roster(RosterPage { q, rank, page, of, members, told: listed(fields)? })
            }
            "change" => Says::Change { q: number(fields, "q")?, rank: number(fields, "rank")?, told: listed(fields)? },
            "leave" => Says::Leave { q: number(fields, "q")? },
            "tail" => Says::Tail { q: number(fields, "q")?, rank: number(fields, "rank")? },
            "sync" => Says::Sync { q: number(fields, "q")? },
            "act" => {
                let by = By::parse(fields.remove("by")?.as_str()?)?;
                let kind = fields.remove("act")?;
                let act = Act::parse(kind.as_str()?, fields.remove("data")?).ok()?;
                Says::Act { by, act: Box::new(act) }
            }
            _ => return None,
        };
        Some((ChannelMessage { channel: channel.into(), says }, refused))
    }
}

/// Numbers are below half of what they could be, so that none is at its end.
fn number(fields: &mut Map<String, Value>, name: &str) -> Option<u64> {
    fields.remove(name)?.as_u64().filter(|number| *number <= u64::MAX / 2)
}

fn members(fields: &mut Map<String, Value>) -> Option<Vec<NodeId>> {
    let Value::Array(list) = fields.remove("members")? else { return None };
    (list.len() <= MEMBERS_PER_CHANNEL_MAX).then_some(())?;
    list.iter().map(|node| NodeId::parse(node.as_str()?)).collect()
}

/// The texts of the messages.
pub(super) mod text {
    use super::*;

    fn head(kind: &str, channel: &str) -> String {
        format!("{{\"v\":1,\"t\":\"{kind}\",\"c\":{}", json!(channel))
    }

    pub(in crate::signal::cluster) fn enter(channel: &str, q: u64, empty: bool) -> String {
        head("enter", channel) + &format!(",\"q\":{q},\"empty\":{empty}}}")
    }

    /// One that is a number alone.
    pub(in crate::signal::cluster) fn bare(kind: &str, channel: &str, q: u64) -> String {
        head(kind, channel) + &format!(",\"q\":{q}}}")
    }

    pub(in crate::signal::cluster) fn tail(channel: &str, q: u64, rank: u64) -> String {
        head("tail", channel) + &format!(",\"q\":{q},\"rank\":{rank}}}")
    }

    pub(in crate::signal::cluster) fn change(channel: &str, (q, rank): (u64, u64), entries: &[String]) -> String {
        head("change", channel) + &format!(",\"q\":{q},\"rank\":{rank},\"ops\":[{}]}}", entries.join(","))
    }

    pub(in crate::signal::cluster) fn act(channel: &str, by: &By, act: &Act) -> String {
        let rest = json!({ "by": by.to_string(), "act": act.name(), "data": act.write() }).to_string();
        head("act", channel) + "," + &rest[1..]
    }

    pub(in crate::signal::cluster) fn roster(
        channel: &str,
        (q, rank): (u64, u64),
        (page, of): (usize, usize),
        members: impl Iterator<Item = NodeId>,
        entries: &[String],
    ) -> String {
        let members: Vec<String> = members.map(|node| format!("\"{node}\"")).collect();
        let numbers = format!(",\"q\":{q},\"rank\":{rank},\"page\":{page},\"of\":{of},");
        head("roster", channel)
            + &numbers
            + &format!("\"members\":[{}],\"ops\":[{}]}}", members.join(","), entries.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::cluster::told::tests::{ids, producer_entry};

    fn read(text: &str) -> Option<(ChannelMessage, usize)> {
        let mut fields = serde_json::from_str::<Map<String, Value>>(text).expect("JSON");
        let Some(Value::String(kind)) = fields.remove("t") else { panic!("{text}") };
        let found = ChannelMessage::read(&kind, &mut fields)?;
        assert!(ChannelMessage::KINDS.contains(&kind.as_str()) && found.0.kind() == kind);
        Some(found)
    }

    fn samples() -> Vec<(String, Says)> {
        let told = vec![RosterOp::Producer(Box::new(producer_entry())), RosterOp::Away { id: ids()[0], away: true }];
        let entries: Vec<String> = told.iter().map(RosterOp::write).collect();
        let members = vec![NodeId(1), NodeId(u64::MAX)];
        let by = By::Peer(ids()[2]);
        let act = Act::parse("remove-peer", json!({ "peerId": ids()[0].to_string(), "reason": "x" })).unwrap();
        let page = RosterPage { q: 7, rank: 2, page: 0, of: 2, members: members.clone(), told: told.clone() };
        vec![
            (text::enter("a \"b\"", 1, true), Says::Enter { q: 1, empty: true }),
            (text::roster("r", (7, 2), (0, 2), members.into_iter(), &entries), Says::Roster(page)),
            (text::change("r", (8, 2), &entries), Says::Change { q: 8, rank: 2, told }),
            (text::bare("leave", "r", 9), Says::Leave { q: 9 }),
            (text::tail("r", 9, 1), Says::Tail { q: 9, rank: 1 }),
            (text::bare("sync", "r", 0), Says::Sync { q: 0 }),
            (text::act("r", &by, &act), Says::Act { by, act: Box::new(act) }),
        ]
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (text, says) in samples() {
            let (message, refused) = read(&text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(message.write(), text);
            assert_eq!((message.says, refused), (says, 0), "{text}");
        }
    }

    #[test]
    fn a_message_that_lacks_something_says_nothing_and_one_whose_entries_do_says_the_rest() {
        for (text, _) in samples() {
            let whole: Map<String, Value> = serde_json::from_str(&text).unwrap();
            for name in whole.keys().filter(|name| !["v", "t"].contains(&name.as_str())) {
                for wrong in [None, Some(json!({})), Some(json!(u64::MAX))] {
                    let mut broken = whole.clone();
                    match wrong {
                        None => drop(broken.remove(name)),
                        Some(wrong) => drop(broken.insert(name.clone(), wrong)),
                    }
                    assert_eq!(read(&json!(broken).to_string()), None, "{name} of {text}");
                }
            }
        }
        let torn = text::change("r", (8, 1), &["7".to_owned(), RosterOp::Away { id: ids()[0], away: true }.write()]);
        assert_eq!(read(&torn).map(|(_, refused)| refused), Some(1));
        let long = "c".repeat(NAME_BYTES_MAX + 1);
        assert_eq!(read(&text::bare("leave", &long, 1)), None);
    }

    #[test]
    fn a_list_of_channels_says_what_is_in_it_and_what_is_not() {
        let parts = HeldList::of([7, 9].into_iter());
        let [one] = &parts[..] else { panic!("{parts:?}") };
        assert_eq!([7, 8, 9].map(|hash| one.has(hash)), [Some(true), Some(false), Some(true)]);
        let many: Vec<u32> = (0..10_000).map(|n: u32| n.wrapping_mul(2_654_435_761)).collect();
        let parts = HeldList::of(many.iter().copied());
        assert_eq!(parts.len(), 5);
        for hash in &many {
            let says: Vec<bool> = parts.iter().filter_map(|part| part.has(*hash)).collect();
            assert_eq!(says, [true]);
        }
        let Value::Object(mut fields) = parts[3].write() else { panic!("an object") };
        assert_eq!(HeldList::read(&mut fields).as_ref(), Some(&parts[3]));
        for (part, of, list) in [(1, 1, String::new()), (0, 1, "AAA=".to_owned()), (0, 1, "A".repeat(4 * 5_500))] {
            let Value::Object(mut fields) = json!({ "part": part, "of": of, "list": list }) else { panic!() };
            assert_eq!(HeldList::read(&mut fields), None);
        }
        let none = HeldList::of([].into_iter());
        assert_eq!(none[0].has(7), Some(false));
    }
}
