//! The cluster key: up to four, of which the first seals and all open, so that one can follow another without a
//! restart. Whoever has one of them belongs to the cluster.

use std::fmt;

use ring::hkdf::{HKDF_SHA256, KeyType, Salt};

use crate::base::limits::CLUSTER_KEYS_MAX;
use crate::base::node_id::NodeId;

/// Told apart from whatever else a cluster key could ever be the origin of.
const PURPOSE: &[u8] = b"weirgate bus";

const SECRET: usize = 32;

#[derive(Clone, PartialEq, Eq)]
struct ClusterKey {
    id: u8,
    secret: [u8; SECRET],
}

/// At least one, no two of one id.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKeys(Vec<ClusterKey>);

/// What is wrong with a text of keys. It repeats nothing of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeysFault {
    Empty,
    TooMany,
    /// The number of the line, from 1.
    Line(usize),
    Twice(u8),
}

impl fmt::Display for KeysFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeysFault::Empty => f.write_str("holds no key"),
            KeysFault::TooMany => write!(f, "holds more than {CLUSTER_KEYS_MAX} keys"),
            KeysFault::Line(line) => {
                write!(f, "has no key on line {line}: an id from 0 to 255, a colon, 64 hex digits")
            }
            KeysFault::Twice(id) => write!(f, "has two keys of the id {id}"),
        }
    }
}

/// The length of a sealing key, for HKDF.
struct SealingKey;

impl KeyType for SealingKey {
    fn len(&self) -> usize {
        SECRET
    }
}

impl ClusterKeys {
    /// Reads a line each, as `1:` and 64 hex digits. Empty lines and those that begin with `#` say nothing.
    pub fn parse(text: &str) -> Result<ClusterKeys, KeysFault> {
        let mut keys: Vec<ClusterKey> = Vec::new();
        for (place, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if keys.len() == CLUSTER_KEYS_MAX {
                return Err(KeysFault::TooMany);
            }
            let key = key(line).ok_or(KeysFault::Line(place + 1))?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(KeysFault::Twice(key.id));
            }
            keys.push(key);
        }
        if keys.is_empty() { Err(KeysFault::Empty) } else { Ok(ClusterKeys(keys)) }
    }

    /// A line that [`ClusterKeys::parse`] reads, of 32 bytes that nobody can guess.
    pub fn line(id: u8, secret: [u8; SECRET]) -> String {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{id}:{hex}")
    }

    /// The id of the key that seals.
    pub(super) fn first(&self) -> u8 {
        self.0[0].id
    }

    pub fn ids(&self) -> impl Iterator<Item = u8> {
        self.0.iter().map(|key| key.id)
    }

    /// The key under which a node seals (RFC 5869): each node has its own, so that their counters are apart. None: there
    /// is no cluster key of this id.
    pub(super) fn of_node(&self, id: u8, node: NodeId) -> Option<[u8; SECRET]> {
        let key = self.0.iter().find(|key| key.id == id)?;
        let node = node.to_be_bytes();
        let parts: [&[u8]; 1] = [&node];
        let mut derived = [0; SECRET];
        let expanded = Salt::new(HKDF_SHA256, PURPOSE).extract(&key.secret);
        expanded.expand(&parts, SealingKey).and_then(|key| key.fill(&mut derived)).expect("32 bytes are not too many");
        Some(derived)
    }
}

impl fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKeys{:?}", self.ids().collect::<Vec<_>>())
    }
}

fn key(line: &str) -> Option<ClusterKey> {
    let (id, digits) = line.split_once(':')?;
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let id = Some(id).filter(|id| plain(id))?.parse().ok()?;
    let digits = digits.as_bytes();
    if digits.len() != 2 * SECRET {
        return None;
    }
    let mut secret = [0; SECRET];
    for (byte, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(ClusterKey { id, secret })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(digit: &str) -> String {
        digit.repeat(64)
    }

    #[test]
    fn a_text_of_keys_is_read_and_written() {
        let text = format!("# the old one stays for a while\n\n7:{}\n 255:{}\n", hex("a"), hex("B"));
        let keys = ClusterKeys::parse(&text).unwrap();
        assert_eq!((keys.first(), keys.ids().collect::<Vec<_>>()), (7, vec![7, 255]));
        assert!(ClusterKeys::parse(&ClusterKeys::line(7, [0xaa; 32])).unwrap().0[0] == keys.0[0]);
        let shown = format!("{keys:?}");
        assert!(shown.contains('7') && !shown.contains("aa") && !shown.contains("170"), "{shown}");
    }

    #[test]
    fn what_is_wrong_with_a_text_is_said_by_line() {
        let fault = |text: &str| ClusterKeys::parse(text).unwrap_err();
        assert_eq!(fault("\n# nothing\n"), KeysFault::Empty);
        assert_eq!(fault(&format!("1:{}\n1:{}", hex("a"), hex("b"))), KeysFault::Twice(1));
        let five: String = (0..5).map(|id| format!("{id}:{}\n", hex("a"))).collect();
        assert_eq!(fault(&five), KeysFault::TooMany);
        for bad in [
            "1".to_owned(),
            format!("256:{}", hex("a")),
            format!("+1:{}", hex("a")),
            format!(":{}", hex("a")),
            format!("1:{}", &hex("a")[1..]),
            format!("1:{}0", hex("a")),
            format!("1:{}", hex("g")),
            format!("1:{}", "é".repeat(32)),
        ] {
            assert_eq!(fault(&format!("# first\n{bad}")), KeysFault::Line(2), "{bad}");
        }
    }

    #[test]
    fn each_node_and_each_key_seals_under_another() {
        let keys = ClusterKeys::parse(&format!("1:{}\n2:{}", hex("a"), hex("b"))).unwrap();
        let of = |id, node| keys.of_node(id, NodeId(node)).unwrap();
        assert!(of(1, 1) != of(1, 2) && of(1, 1) != of(2, 1));
        assert_eq!(of(1, 1), of(1, 1));
        assert_eq!(keys.of_node(3, NodeId(1)), None);
    }
}
