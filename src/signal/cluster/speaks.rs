//! The versions of each protocol that a node speaks, and what two nodes have in common. Nodes without a common version
//! would split channels: the newer of them takes no sockets.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::base::limits::{NODE_NAME_BYTES_MAX, NODE_PROTOCOLS_MAX};

/// The oldest and the newest version of each protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Speaks(BTreeMap<String, (u16, u16)>);

/// What becomes of two nodes that have no version of a protocol in common.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Apart {
    /// This node's are newer: it is the one that waits.
    WeAreNewer(String),
    TheyAreNewer(String),
}

impl Speaks {
    /// Those of this release.
    pub fn ours() -> Speaks {
        Speaks::of("bus", 1, 1)
    }

    pub fn of(protocol: &str, oldest: u16, newest: u16) -> Speaks {
        Speaks(BTreeMap::from([(protocol.to_owned(), (oldest, newest))]))
    }

    /// None: it is not of this form, or names too many.
    pub(super) fn read(value: &Value) -> Option<Speaks> {
        let protocols = value.as_object()?;
        if protocols.len() > NODE_PROTOCOLS_MAX {
            return None;
        }
        let read = |(name, range): (&String, &Value)| {
            let [oldest, newest] = range.as_array()?.as_slice() else { return None };
            let (oldest, newest) = (oldest.as_u64()?.try_into().ok()?, newest.as_u64()?.try_into().ok()?);
            (oldest <= newest && name.len() <= NODE_NAME_BYTES_MAX).then(|| (name.clone(), (oldest, newest)))
        };
        protocols.iter().map(read).collect::<Option<_>>().map(Speaks)
    }

    pub(super) fn to_json(&self) -> Value {
        let range = |(name, (oldest, newest)): (&String, &(u16, u16))| (name.clone(), json!([oldest, newest]));
        Value::Object(self.0.iter().map(range).collect::<Map<_, _>>())
    }

    /// None: every protocol that both name has a version in common. One that only one of them knows is not used between
    /// them.
    pub fn apart(&self, other: &Speaks) -> Option<Apart> {
        for (name, (oldest, newest)) in &self.0 {
            match other.0.get(name) {
                Some((_, theirs)) if theirs < oldest => return Some(Apart::WeAreNewer(name.clone())),
                Some((theirs, _)) if theirs > newest => return Some(Apart::TheyAreNewer(name.clone())),
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_without_a_common_version_the_newer_knows_itself() {
        let (old, both, new) = (Speaks::of("bus", 1, 1), Speaks::of("bus", 1, 2), Speaks::of("bus", 2, 3));
        assert_eq!((old.apart(&both), both.apart(&new), old.apart(&Speaks::of("lane", 7, 7))), (None, None, None));
        assert_eq!(new.apart(&old), Some(Apart::WeAreNewer("bus".to_owned())));
        assert_eq!(old.apart(&new), Some(Apart::TheyAreNewer("bus".to_owned())));
    }

    #[test]
    fn only_ranges_are_read() {
        let ours = Speaks::ours();
        assert_eq!(Speaks::read(&ours.to_json()), Some(ours));
        assert_eq!(Speaks::read(&json!({})), Some(Speaks(BTreeMap::new())));
        let many: Map<_, _> = (0..=NODE_PROTOCOLS_MAX).map(|n| (n.to_string(), json!([1, 1]))).collect();
        let long = json!({ "a".repeat(NODE_NAME_BYTES_MAX + 1): [1, 1] });
        for bad in [
            json!([]),
            json!({ "bus": 1 }),
            json!({ "bus": [1] }),
            json!({ "bus": [2, 1] }),
            json!({ "bus": [1, 65_536] }),
            json!({ "bus": ["1", "1"] }),
            long,
            Value::Object(many),
        ] {
            assert_eq!(Speaks::read(&bad), None, "{bad}");
        }
    }
}
