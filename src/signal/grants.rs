//! What a peer may do. `permission` holds a request against it.

use serde_json::{Map, Value, json};

use crate::base::limits::{GRANT_SOURCES_MAX, NAME_BYTES_MAX};
use crate::shard::command::MediaKind;
use crate::signal::ortc::{kind_name, kind_named};

/// Rights of a peer; what was not granted is denied.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Grants {
    /// To enter the channel at all.
    pub join: bool,
    pub publish: Publish,
    pub subscribe: bool,
    pub moderate: bool,
    /// The others are not told of the peer, and it produces nothing.
    pub hidden: bool,
}

/// What may be produced.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Publish {
    #[default]
    Nothing,
    Everything,
    /// None: of any kind, from any source. A source is the string `appData.source`.
    Only {
        kinds: Option<Vec<MediaKind>>,
        sources: Option<Vec<String>>,
    },
}

impl Publish {
    pub fn allows(&self, kind: MediaKind, source: Option<&str>) -> bool {
        match self {
            Publish::Nothing => false,
            Publish::Everything => true,
            Publish::Only { kinds, sources } => {
                let of_kind = kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind));
                let named = |sources: &Vec<String>| sources.iter().any(|granted| Some(granted.as_str()) == source);
                of_kind && sources.as_ref().is_none_or(named)
            }
        }
    }
}

impl Grants {
    /// Who only gave a name may take part and moderate nothing.
    pub fn everyday() -> Grants {
        Grants { join: true, publish: Publish::Everything, subscribe: true, ..Grants::default() }
    }

    pub fn may_produce(&self, kind: MediaKind, source: Option<&str>) -> bool {
        !self.hidden && self.publish.allows(kind, source)
    }

    /// As JSON, in the form in which it is read.
    pub fn describe(&self) -> Value {
        let publish = match &self.publish {
            Publish::Nothing => json!(false),
            Publish::Everything => json!(true),
            Publish::Only { kinds, sources } => {
                let mut only = Map::new();
                if let Some(kinds) = kinds {
                    only.insert("kinds".to_owned(), kinds.iter().copied().map(kind_name).collect());
                }
                if let Some(sources) = sources {
                    only.insert("sources".to_owned(), json!(sources));
                }
                Value::Object(only)
            }
        };
        json!({
            "join": self.join,
            "publish": publish,
            "subscribe": self.subscribe,
            "moderate": self.moderate,
            "hidden": self.hidden,
        })
    }

    /// From the JSON of a token or a request; what is left out is denied. The error names the field and what it must
    /// be. An unknown name is refused, because it may be a restriction that was misspelt.
    pub fn read(value: &Value) -> Result<Grants, String> {
        let Value::Object(map) = value else { return Err("grants: an object wanted".to_owned()) };
        known(map, "grants", &["join", "publish", "subscribe", "moderate", "hidden"])?;
        Ok(Grants {
            join: flag(map, "join")?,
            publish: publish(map.get("publish"))?,
            subscribe: flag(map, "subscribe")?,
            moderate: flag(map, "moderate")?,
            hidden: flag(map, "hidden")?,
        })
    }
}

fn known(map: &Map<String, Value>, path: &str, names: &[&str]) -> Result<(), String> {
    match map.keys().all(|name| names.contains(&name.as_str())) {
        true => Ok(()),
        false => Err(format!("{path}: it may hold {} and nothing else", names.join(", "))),
    }
}

fn flag(map: &Map<String, Value>, name: &str) -> Result<bool, String> {
    match map.get(name) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(format!("grants.{name}: true or false wanted")),
    }
}

fn publish(value: Option<&Value>) -> Result<Publish, String> {
    let map = match value {
        None | Some(Value::Bool(false)) => return Ok(Publish::Nothing),
        Some(Value::Bool(true)) => return Ok(Publish::Everything),
        Some(Value::Object(map)) if !map.is_empty() => map,
        Some(_) => return Err("grants.publish: true, false or an object of kinds and sources wanted".to_owned()),
    };
    known(map, "grants.publish", &["kinds", "sources"])?;
    let source = |text: &str| (text.len() <= NAME_BYTES_MAX).then(|| text.to_owned());
    Ok(Publish::Only {
        kinds: list(map, "kinds", 2, "a list of \"audio\" and \"video\" wanted", kind_named)?,
        sources: list(map, "sources", GRANT_SOURCES_MAX, "a list of at most 32 short strings wanted", source)?,
    })
}

fn list<T>(
    map: &Map<String, Value>,
    name: &str,
    max: usize,
    wanted: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<Vec<T>>, String> {
    let Some(value) = map.get(name) else { return Ok(None) };
    let items = value.as_array().filter(|items| items.len() <= max);
    let read = |items: &Vec<Value>| items.iter().map(|item| item.as_str().and_then(&read)).collect::<Option<Vec<T>>>();
    match items.and_then(read) {
        Some(items) => Ok(Some(items)),
        None => Err(format!("grants.publish.{name}: {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_denied() {
        assert_eq!(Grants::read(&json!({})), Ok(Grants::default()));
        let all = json!({ "join": true, "publish": true, "subscribe": true, "moderate": true, "hidden": true });
        let all = Grants::read(&all).unwrap();
        assert!(all.join && all.subscribe && all.moderate && all.hidden && all.publish == Publish::Everything);
        let named = Grants::everyday();
        assert!(named.join && named.subscribe && !named.moderate && !named.hidden);
    }

    #[test]
    fn what_is_described_reads_the_same() {
        let sources = Some(vec!["mic".to_owned()]);
        for publish in [
            Publish::Nothing,
            Publish::Everything,
            Publish::Only { kinds: Some(vec![MediaKind::Audio]), sources: sources.clone() },
            Publish::Only { kinds: None, sources },
        ] {
            let grants = Grants { publish, moderate: true, ..Grants::everyday() };
            assert_eq!(Grants::read(&grants.describe()), Ok(grants));
        }
    }

    #[test]
    fn a_publisher_keeps_to_its_kinds_and_sources() {
        use MediaKind::{Audio, Video};
        let may = |publish: Value| {
            let grants = Grants::read(&json!({ "publish": publish })).unwrap();
            [(Audio, None), (Audio, Some("mic")), (Video, Some("camera")), (Video, Some("screen"))]
                .map(|(kind, source)| grants.may_produce(kind, source))
        };
        assert_eq!(may(json!(true)), [true; 4]);
        assert_eq!(may(json!(false)), [false; 4]);
        assert_eq!(may(json!({ "kinds": ["audio"] })), [true, true, false, false]);
        assert_eq!(may(json!({ "sources": ["camera", "mic"] })), [false, true, true, false]);
        assert_eq!(may(json!({ "kinds": ["video"], "sources": ["camera", "mic"] })), [false, false, true, false]);
        assert_eq!(may(json!({ "kinds": [] })), [false; 4]);
        let hidden = Grants::read(&json!({ "publish": true, "hidden": true })).unwrap();
        assert!(!hidden.may_produce(Audio, None));
    }

    #[test]
    fn anything_else_is_refused_by_its_name() {
        let many: Vec<String> = (0..=GRANT_SOURCES_MAX).map(|n| n.to_string()).collect();
        for (grants, path) in [
            (json!(null), "grants:"),
            (json!([]), "grants:"),
            (json!({ "subscirbe": true }), "grants:"),
            (json!({ "join": 1 }), "grants.join:"),
            (json!({ "hidden": null }), "grants.hidden:"),
            (json!({ "publish": {} }), "grants.publish:"),
            (json!({ "publish": "audio" }), "grants.publish:"),
            (json!({ "publish": { "kind": ["audio"] } }), "grants.publish:"),
            (json!({ "publish": { "kinds": ["smell"] } }), "grants.publish.kinds:"),
            (json!({ "publish": { "kinds": null } }), "grants.publish.kinds:"),
            (json!({ "publish": { "sources": [7] } }), "grants.publish.sources:"),
            (json!({ "publish": { "sources": many } }), "grants.publish.sources:"),
            (json!({ "publish": { "sources": ["x".repeat(NAME_BYTES_MAX + 1)] } }), "grants.publish.sources:"),
        ] {
            let why = Grants::read(&grants).unwrap_err();
            assert!(why.starts_with(path), "{grants}: {why}");
        }
    }
}
