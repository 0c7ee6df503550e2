//! One request of the operator, read from its method, path, query and body.

use serde_json::{Map, Value, json};

use super::address::{Address, AdminRoute, Parameters};
use super::problem::Problem;
use crate::base::id::ShardId;
use crate::base::limits::{ADMIN_PAGE_MAX, NAME_BYTES_MAX, REVOKED_FOR_MAX};
use crate::base::time::Duration;
use crate::signal::act::Act;
use crate::signal::revoked::Revocation;

/// The entries of a page for which no number is given.
const PAGE: u64 = 50;

/// HEAD is read as GET; an answer without its body is for the edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Get,
    Post,
    Patch,
    Delete,
}

impl Method {
    /// None: a method that no route has.
    pub fn parse(name: &str) -> Option<Method> {
        match name {
            "GET" | "HEAD" => Some(Method::Get),
            "POST" => Some(Method::Post),
            "PATCH" => Some(Method::Patch),
            "DELETE" => Some(Method::Delete),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }

    pub const fn has_body(self) -> bool {
        matches!(self, Method::Post | Method::Patch)
    }
}

/// A part of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// What `next` of the page before said.
    pub(super) after: Option<String>,
    pub(super) limit: usize,
}

/// A peer by its channel and its id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAt {
    pub(super) channel: String,
    pub(super) peer: String,
}

/// Something of a peer's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thing {
    pub(super) of: PeerAt,
    pub(super) kind: ThingKind,
    pub(super) id: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ThingKind {
    Transport,
    Producer,
    Consumer,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Operation {
    /// `docs/openapi.json`.
    Document,
    /// The journal, as it is written; of one channel, if that is given.
    Events {
        channel: Option<String>,
    },
    /// Of a token or a user, for so long.
    Revoke(Revocation, Duration),
    Channels(Page),
    Channel(String),
    CloseChannel(String),
    /// What a moderator may do, about the channel itself.
    Change(String, Act),
    /// The same where nothing is to be seen afterwards.
    Act(String, Act),
    Bans(String, Page),
    Comers(String, Page),
    Peers(String, Page),
    Peer(PeerAt),
    /// Each about the peer.
    ChangePeer(PeerAt, Vec<Act>),
    ActOnPeer(PeerAt, Act),
    Move(PeerAt, ShardId),
    Things {
        of: PeerAt,
        kind: ThingKind,
        page: Page,
        /// With what its shard says about each.
        stats: bool,
    },
    Thing(Thing),
    /// A producer of this peer.
    ActOnProducer(Thing, Act),
    Close(Thing),
}

impl Operation {
    /// `body` is empty where there is none. The names in it are checked when they are looked up.
    pub fn parse(method: &str, path: &str, query: Option<&str>, body: &[u8]) -> Result<Operation, Problem> {
        let (method, address) = Operation::route(method, path)?;
        let query = Parameters::parse(query.unwrap_or_default())?;
        let fields = Fields::parse(method, body)?;
        let route = address.route;
        let [channel, peer, id] = address.into_names();
        let mut asked = Asked { method, route, query, fields };
        let operation = asked.operation(PeerAt { channel, peer }, id)?;
        asked.query.end()?;
        asked.fields.end()?;
        Ok(operation)
    }

    /// Whether there is such a path, and it has this method: what can be said before a body is read.
    pub fn check(method: &str, path: &str) -> Result<Method, Problem> {
        Operation::route(method, path).map(|(method, _)| method)
    }

    fn route(method: &str, path: &str) -> Result<(Method, Address), Problem> {
        let address = Address::parse(path)?;
        let known = Method::parse(method).filter(|method| {
            let mut methods = address.methods.split(", ");
            methods.any(|allowed| allowed == method.name())
        });
        let Some(method) = known else {
            let message = format!("this path has {}", address.methods);
            let problem = Problem::new(405, "method-not-allowed", message);
            return Err(Problem { allow: Some(address.methods), ..problem });
        };
        Ok((method, address))
    }
}

/// A request apart from the names in its path.
struct Asked {
    method: Method,
    route: AdminRoute,
    query: Parameters,
    fields: Fields,
}

impl Asked {
    fn operation(&mut self, of: PeerAt, id: String) -> Result<Operation, Problem> {
        Ok(match self.route {
            AdminRoute::Document => Operation::Document,
            AdminRoute::Events => Operation::Events { channel: self.query.take("channel") },
            AdminRoute::Revocations => self.fields.revocation()?,
            AdminRoute::Channels => Operation::Channels(page(&mut self.query)?),
            AdminRoute::Channel => match self.method {
                Method::Delete => Operation::CloseChannel(of.channel),
                Method::Patch => {
                    let change = self.fields.act("set-channel", json!({}), &["locked", "waiting", "peersMax"])?;
                    Operation::Change(of.channel, change)
                }
                _ => Operation::Channel(of.channel),
            },
            AdminRoute::ChannelMessages => {
                Operation::Act(of.channel, self.fields.act("send-message", json!({}), &["data"])?)
            }
            AdminRoute::Bans => Operation::Bans(of.channel, page(&mut self.query)?),
            AdminRoute::Ban => Operation::Act(of.channel, Act::Unban { user: of.peer }),
            AdminRoute::Comers => Operation::Comers(of.channel, page(&mut self.query)?),
            AdminRoute::Comer => {
                let turned = self.query.act("turn-away-peer", &of.peer, &["reason"])?;
                Operation::Act(of.channel, turned)
            }
            AdminRoute::Admit => Operation::Act(of.channel, Act::AdmitPeer { peer: of.peer }),
            AdminRoute::Peers => Operation::Peers(of.channel, page(&mut self.query)?),
            AdminRoute::Peer | AdminRoute::PeerMessages | AdminRoute::Mute | AdminRoute::Unmute | AdminRoute::Move => {
                self.about_peer(of)?
            }
            AdminRoute::Transports => things(of, ThingKind::Transport, &mut self.query)?,
            AdminRoute::Producers => things(of, ThingKind::Producer, &mut self.query)?,
            AdminRoute::Consumers => things(of, ThingKind::Consumer, &mut self.query)?,
            AdminRoute::Transport => self.about_thing(Thing { of, kind: ThingKind::Transport, id })?,
            AdminRoute::Producer => self.about_thing(Thing { of, kind: ThingKind::Producer, id })?,
            AdminRoute::Consumer => self.about_thing(Thing { of, kind: ThingKind::Consumer, id })?,
        })
    }

    fn about_peer(&mut self, of: PeerAt) -> Result<Operation, Problem> {
        let peer = json!({ "peerId": of.peer });
        let act = match self.route {
            AdminRoute::PeerMessages => self.fields.act("send-message", peer, &["data"])?,
            AdminRoute::Mute => self.fields.act("mute-peer", peer, &["kinds"])?,
            AdminRoute::Unmute => self.fields.act("unmute-peer", peer, &["kinds"])?,
            AdminRoute::Move => return Ok(Operation::Move(of, ShardId(self.fields.shard("shard")?))),
            _ => {
                return Ok(match self.method {
                    Method::Delete => {
                        let removed = self.query.act("remove-peer", &of.peer, &["reason", "banSeconds"])?;
                        Operation::Act(of.channel, removed)
                    }
                    Method::Patch => {
                        let changes = self.fields.changes(&of.peer)?;
                        Operation::ChangePeer(of, changes)
                    }
                    _ => Operation::Peer(of),
                });
            }
        };
        Ok(Operation::ActOnPeer(of, act))
    }

    fn about_thing(&mut self, thing: Thing) -> Result<Operation, Problem> {
        let producer = thing.id.clone();
        Ok(match (thing.kind, self.method) {
            (ThingKind::Producer, Method::Patch) => {
                let muted = self.fields.muted()?;
                Operation::ActOnProducer(thing, Act::MuteProducer { producer, muted })
            }
            (_, Method::Delete) => Operation::Close(thing),
            _ => Operation::Thing(thing),
        })
    }
}

impl Parameters {
    /// An act of moderation about a peer, with these parameters.
    fn act(&mut self, kind: &str, peer: &str, parameters: &[&str]) -> Result<Act, Problem> {
        let mut data = json!({ "peerId": peer });
        for name in parameters {
            if let Some(text) = self.take(name) {
                data[*name] =
                    text.parse::<u64>().ok().filter(|_| *name == "banSeconds").map_or(text.into(), Value::from);
            }
        }
        Act::parse(kind, data).map_err(|refusal| {
            let problem = Problem::from(refusal);
            let message = problem.message.strip_prefix("body.").map(|rest| format!("query.{rest}"));
            Problem { message: message.unwrap_or(problem.message.clone()), ..problem }
        })
    }
}

fn page(query: &mut Parameters) -> Result<Page, Problem> {
    let limit = query.number("limit", ADMIN_PAGE_MAX as u64)?.unwrap_or(PAGE) as usize;
    let after = query.take("cursor");
    if after.as_ref().is_some_and(|cursor| cursor.is_empty() || cursor.len() > NAME_BYTES_MAX) {
        return Err(Problem::bad_field("query.cursor", "not what `next` of a page said"));
    }
    Ok(Page { after, limit })
}

fn things(of: PeerAt, kind: ThingKind, query: &mut Parameters) -> Result<Operation, Problem> {
    Ok(Operation::Things { of, kind, page: page(query)?, stats: query.flag("stats")? })
}

/// The fields of a body, each of which somebody takes.
struct Fields(Map<String, Value>);

impl Fields {
    fn parse(method: Method, body: &[u8]) -> Result<Fields, Problem> {
        if !method.has_body() {
            return match body.is_empty() {
                true => Ok(Fields(Map::new())),
                false => Err(Problem::bad_field("body", "this method has none")),
            };
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(Problem::bad_field("body", "not an object")),
            Err(error) => Err(Problem::new(400, "bad-json", format!("body: no JSON object, at least {{}}: {error}"))),
        }
    }

    fn shard(&mut self, name: &str) -> Result<u16, Problem> {
        let value = self.0.remove(name);
        let number = value.as_ref().and_then(Value::as_u64).and_then(|number| u16::try_from(number).ok());
        number.ok_or_else(|| Problem::bad_field(&format!("body.{name}"), "not the number of a shard"))
    }

    fn revocation(&mut self) -> Result<Operation, Problem> {
        let name = |value: Value, field: &str| match value.as_str() {
            Some(name) if (1..=NAME_BYTES_MAX).contains(&name.len()) => Ok(name.into()),
            _ => Err(Problem::bad_field(&format!("body.{field}"), "not a text of 1 to 256 bytes")),
        };
        let what = match (self.0.remove("jti"), self.0.remove("user")) {
            (Some(jti), None) => Revocation::Token(name(jti, "jti")?),
            (None, Some(user)) => Revocation::User(name(user, "user")?),
            _ => return Err(Problem::bad_field("body", "one of jti and user, and not both")),
        };
        let most = REVOKED_FOR_MAX.as_secs();
        let seconds =
            self.0.remove("seconds").as_ref().and_then(Value::as_u64).filter(|span| (1..=most).contains(span));
        let why = || Problem::bad_field("body.seconds", format_args!("not a number from 1 to {most}"));
        Ok(Operation::Revoke(what, Duration::from_secs(seconds.ok_or_else(why)?)))
    }

    fn muted(&mut self) -> Result<bool, Problem> {
        let value = self.0.remove("muted");
        value
            .as_ref()
            .and_then(Value::as_bool)
            .ok_or_else(|| Problem::bad_field("body.muted", "neither true nor false"))
    }

    /// An act of moderation, which has these fields beside those given here.
    fn act(&mut self, kind: &str, mut data: Value, fields: &[&str]) -> Result<Act, Problem> {
        for name in fields {
            if let Some(value) = self.0.remove(*name) {
                data[*name] = value;
            }
        }
        Ok(Act::parse(kind, data)?)
    }

    /// What is to change of a peer: at least one thing.
    fn changes(&mut self, peer: &str) -> Result<Vec<Act>, Problem> {
        let mut acts = Vec::new();
        for (field, kind) in [("name", "rename"), ("appData", "set-app-data"), ("grants", "set-grants")] {
            if self.0.contains_key(field) {
                acts.push(self.act(kind, json!({ "peerId": peer }), &[field])?);
            }
        }
        if acts.is_empty() && self.0.is_empty() {
            Err(Problem::bad_field("body", "none of name, appData and grants"))
        } else {
            Ok(acts)
        }
    }

    /// A misspelt field would be ignored.
    fn end(self) -> Result<(), Problem> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => {
                let key: String = key.escape_debug().take(64).collect();
                Err(Problem::bad_field(&format!("body.{key}"), "no such field here"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, path: &str, body: &str) -> Result<Operation, Problem> {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        Operation::parse(method, path, query, body.as_bytes())
    }

    #[test]
    fn a_request_is_its_method_path_query_and_body() {
        let anna = PeerAt { channel: "a room".into(), peer: "anna".into() };
        assert_eq!(
            parse("POST", "/v1/channels/a%20room/peers/anna/move", "{\"shard\":1}"),
            Ok(Operation::Move(anna.clone(), ShardId(1)))
        );
        assert_eq!(
            parse("HEAD", "/v1/channels?limit=7&cursor=x", ""),
            Ok(Operation::Channels(Page { after: Some("x".into()), limit: 7 }))
        );
        let page = Page { after: None, limit: PAGE as usize };
        let things = Operation::Things { of: anna.clone(), kind: ThingKind::Consumer, page, stats: true };
        assert_eq!(parse("GET", "/v1/channels/a%20room/peers/anna/consumers?stats=true", ""), Ok(things));
        let camera = Thing { of: anna, kind: ThingKind::Producer, id: "camera".into() };
        let path = "/v1/channels/a%20room/peers/anna/producers/camera";
        assert_eq!(parse("DELETE", path, ""), Ok(Operation::Close(camera.clone())));
        assert_eq!(parse("GET", path, ""), Ok(Operation::Thing(camera)));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let fault = |method, path, body| {
            let problem = parse(method, path, body).unwrap_err();
            (problem.status, problem.message.split(':').next().unwrap().to_owned())
        };
        let to = "/v1/channels/c/peers/p/move";
        assert_eq!(fault("POST", to, ""), (400, "body".into()));
        assert_eq!(fault("POST", to, "[]"), (400, "body".into()));
        assert_eq!(fault("POST", to, "{}"), (400, "body.shard".into()));
        assert_eq!(fault("POST", to, "{\"shard\":-1}"), (400, "body.shard".into()));
        assert_eq!(fault("POST", to, "{\"shard\":65536}"), (400, "body.shard".into()));
        assert_eq!(fault("POST", to, "{\"shard\":1,\"shared\":2}"), (400, "body.shared".into()));
        assert_eq!(fault("GET", "/v1/channels?limit=0", ""), (400, "query.limit".into()));
        assert_eq!(fault("GET", "/v1/channels?limit=201", ""), (400, "query.limit".into()));
        assert_eq!(fault("GET", "/v1/channels?limits=2", ""), (400, "query.limits".into()));
        assert_eq!(fault("GET", "/v1/channels?cursor=", ""), (400, "query.cursor".into()));
        assert_eq!(fault("GET", "/v1/channels", "{}"), (400, "body".into()));
        let deep = "[".repeat(100_000);
        assert_eq!(fault("POST", to, &deep), (400, "body".into()));
        let problem = parse("POST", "/v1/channels/c", "{}").unwrap_err();
        assert_eq!((problem.status, problem.allow), (405, Some("GET, HEAD, PATCH, DELETE")));
        assert_eq!(parse("BREW", "/v1/channels", "").unwrap_err().status, 405);
    }
}
