//! What every message on the bus is wrapped in, so that neither the engine nor another tenant of it can read one, make one
//! or have one taken twice:
//!
//! ```text
//! version (1) · key id (1) · NodeId (8) · counter (8) · ciphertext · tag (16)
//! ```
//!
//! AES-256-GCM under a key of the node alone; the counter is the nonce, and subject and header are associated data. A
//! NodeId is drawn at each start, so that no counter comes twice under one key.

use std::collections::BTreeMap;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::keys::ClusterKeys;
use crate::base::limits::{BUS_MESSAGE_BYTES_MAX, BUS_SENDERS_MAX, CLUSTER_KEYS_MAX};
use crate::base::node_id::NodeId;
use crate::base::window::{Seen, WindowOf};

const VERSION: u8 = 1;
const HEADER: usize = 18;
const TAG: usize = 16;

/// 4,096 numbers.
type SenderWindow = WindowOf<64>;

/// Why a payload was not opened; the label `why` of `weirgate_bus_unopened_total`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Unopened {
    /// Shorter than a header and a tag.
    Torn,
    Oversize,
    /// Of a form that this release does not know.
    Version,
    /// No line of the key file has this id.
    UnknownKey,
    /// Comes back to the node that sent it.
    Own,
    /// The tag does not fit: another key, another subject, or changed on the way.
    Forged,
    /// Taken already, or older than what can be told.
    Replayed,
}

impl Unopened {
    pub const ALL: [Unopened; 7] = [
        Unopened::Torn,
        Unopened::Oversize,
        Unopened::Version,
        Unopened::UnknownKey,
        Unopened::Own,
        Unopened::Forged,
        Unopened::Replayed,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Unopened::Torn => "torn",
            Unopened::Oversize => "oversize",
            Unopened::Version => "version",
            Unopened::UnknownKey => "unknown-key",
            Unopened::Own => "own",
            Unopened::Forged => "forged",
            Unopened::Replayed => "replayed",
        }
    }
}

/// A payload that a member of the cluster sealed for this subject, once.
#[derive(PartialEq, Eq, Debug)]
pub struct OpenedMessage<'a> {
    pub from: NodeId,
    /// The id of the cluster key.
    pub key: u8,
    pub text: &'a [u8],
}

/// What is known of who sends.
struct Sender {
    window: SenderWindow,
    /// By the id of the cluster key.
    keys: Vec<(u8, LessSafeKey)>,
    /// When it was heard, on the seal's own count.
    heard: u64,
}

/// One node's way to seal and to open.
pub struct BusSeal {
    keys: ClusterKeys,
    own: NodeId,
    own_key: LessSafeKey,
    counter: u64,
    senders: BTreeMap<NodeId, Sender>,
    opened: u64,
}

fn gcm(secret: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret).expect("a key of AES-256 has 32 bytes"))
}

fn sealing(keys: &ClusterKeys, own: NodeId) -> LessSafeKey {
    gcm(&keys.of_node(keys.first(), own).expect("the first key is one of the keys"))
}

fn nonce(counter: &[u8; 8]) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(counter);
    Nonce::assume_unique_for_key(nonce)
}

fn associated(header: &[u8; HEADER], subject: &str) -> Aad<Vec<u8>> {
    Aad::from([header, subject.as_bytes()].concat())
}

impl BusSeal {
    pub fn new(own: NodeId, keys: ClusterKeys) -> BusSeal {
        BusSeal { own_key: sealing(&keys, own), own, keys, counter: 0, senders: BTreeMap::new(), opened: 0 }
    }

    pub fn keys(&self) -> &ClusterKeys {
        &self.keys
    }

    /// Takes the keys that were read again. Counters and windows stay.
    pub fn use_keys(&mut self, keys: ClusterKeys) {
        self.own_key = sealing(&keys, self.own);
        self.senders.values_mut().for_each(|sender| sender.keys.clear());
        self.keys = keys;
    }

    pub fn seal(&mut self, subject: &str, text: &[u8]) -> Vec<u8> {
        self.counter += 1;
        let counter = self.counter.to_be_bytes();
        let mut header = [0; HEADER];
        header[..2].copy_from_slice(&[VERSION, self.keys.first()]);
        header[2..10].copy_from_slice(&self.own.to_be_bytes());
        header[10..].copy_from_slice(&counter);
        let mut sealed = Vec::with_capacity(HEADER + text.len() + TAG);
        sealed.extend_from_slice(&header);
        sealed.extend_from_slice(text);
        let tag = self
            .own_key
            .seal_in_place_separate_tag(nonce(&counter), associated(&header, subject), &mut sealed[HEADER..])
            .expect("a message is not too long for GCM");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens a payload in its place.
    pub fn open<'a>(&mut self, subject: &str, sealed: &'a mut [u8]) -> Result<OpenedMessage<'a>, Unopened> {
        if sealed.len() > HEADER + BUS_MESSAGE_BYTES_MAX + TAG {
            return Err(Unopened::Oversize);
        }
        let Some((header, body)) = sealed.split_first_chunk_mut::<HEADER>() else { return Err(Unopened::Torn) };
        if body.len() < TAG {
            return Err(Unopened::Torn);
        }
        let [version, id, ..] = *header;
        let (from, counter) = (chunk(header, 2), chunk(header, 10));
        let (from, number) = (NodeId::from_be_bytes(from), u64::from_be_bytes(counter));
        if version != VERSION {
            return Err(Unopened::Version);
        }
        if from == self.own {
            return Err(Unopened::Own);
        }
        let known = self.senders.get(&from);
        if known.is_some_and(|sender| sender.window.check(number) != Seen::New) {
            return Err(Unopened::Replayed);
        }
        let cached = known.and_then(|sender| sender.keys.iter().find(|(of, _)| *of == id)).map(|(_, key)| key);
        let derived = match cached {
            Some(_) => None,
            None => Some(gcm(&self.keys.of_node(id, from).ok_or(Unopened::UnknownKey)?)),
        };
        let key = cached.or(derived.as_ref()).ok_or(Unopened::UnknownKey)?;
        let aad = associated(header, subject);
        let text = key.open_in_place(nonce(&counter), aad, body).map_err(|_| Unopened::Forged)?;
        self.took(from, number, derived.map(|key| (id, key)));
        Ok(OpenedMessage { from, key: id, text })
    }

    /// Remembers a number whose message was opened.
    fn took(&mut self, from: NodeId, number: u64, key: Option<(u8, LessSafeKey)>) {
        self.opened += 1;
        if !self.senders.contains_key(&from) && self.senders.len() == BUS_SENDERS_MAX {
            let silent = self.senders.iter().min_by_key(|(_, sender)| sender.heard).map(|(id, _)| *id);
            silent.and_then(|id| self.senders.remove(&id));
        }
        let sender = self.senders.entry(from).or_insert_with(|| Sender {
            window: SenderWindow::starting_at(number),
            keys: Vec::new(),
            heard: 0,
        });
        sender.window.commit(number);
        sender.heard = self.opened;
        if let Some(key) = key
            && sender.keys.len() < CLUSTER_KEYS_MAX
        {
            sender.keys.push(key);
        }
    }
}

fn chunk(header: &[u8; HEADER], at: usize) -> [u8; 8] {
    let mut chunk = [0; 8];
    chunk.copy_from_slice(&header[at..at + 8]);
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(ids: &[u8]) -> ClusterKeys {
        let lines: Vec<String> = ids.iter().map(|id| ClusterKeys::line(*id, [*id; 32])).collect();
        ClusterKeys::parse(&lines.join("\n")).unwrap()
    }

    fn pair() -> (BusSeal, BusSeal) {
        (BusSeal::new(NodeId(1), keys(&[1])), BusSeal::new(NodeId(2), keys(&[1])))
    }

    #[test]
    fn what_is_sealed_for_a_subject_is_opened_there_once() {
        let (mut one, mut two) = pair();
        let sealed = one.seal("wg.a.nodes", b"hello");
        assert!(!sealed.windows(5).any(|part| part == b"hello"));
        let open = |two: &mut BusSeal, subject: &str, bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            two.open(subject, &mut bytes).map(|opened| (opened.from, opened.key, opened.text.to_vec()))
        };
        assert_eq!(open(&mut two, "wg.b.nodes", &sealed), Err(Unopened::Forged), "of another subject");
        assert_eq!(open(&mut two, "wg.a.nodes", &sealed), Ok((NodeId(1), 1, b"hello".to_vec())));
        assert_eq!(open(&mut two, "wg.a.nodes", &sealed), Err(Unopened::Replayed));
        assert_eq!(open(&mut one, "wg.a.nodes", &sealed), Err(Unopened::Own));
        let again = one.seal("wg.a.nodes", b"hello");
        assert!(again != sealed && open(&mut two, "wg.a.nodes", &again).is_ok());
    }

    #[test]
    fn one_changed_bit_anywhere_opens_nothing_and_uses_nothing_up() {
        let (mut one, mut two) = pair();
        let sealed = one.seal("s", b"text");
        for at in 0..sealed.len() * 8 {
            let mut forged = sealed.clone();
            forged[at / 8] ^= 1 << (at % 8);
            let refused = two.open("s", &mut forged).unwrap_err();
            let expected = match at / 8 {
                0 => Unopened::Version,
                1 => Unopened::UnknownKey,
                _ => Unopened::Forged,
            };
            assert_eq!(refused, expected, "bit {at}");
        }
        for length in 0..HEADER + TAG {
            assert_eq!(two.open("s", &mut sealed.clone()[..length]).unwrap_err(), Unopened::Torn);
        }
        assert_eq!(two.open("s", &mut vec![1; BUS_MESSAGE_BYTES_MAX + HEADER + TAG + 1]), Err(Unopened::Oversize));
        assert!(two.senders.is_empty(), "whoever has no key leaves nothing behind");
        assert_eq!(two.open("s", &mut sealed.clone()).unwrap().text, b"text");
    }

    #[test]
    fn the_longest_message_and_the_empty_one_pass() {
        let (mut one, mut two) = pair();
        for length in [0, BUS_MESSAGE_BYTES_MAX] {
            let mut sealed = one.seal("s", &vec![7; length]);
            assert_eq!(two.open("s", &mut sealed).unwrap().text.len(), length);
        }
    }

    #[test]
    fn messages_out_of_order_pass_within_the_window() {
        let (mut one, mut two) = pair();
        let mut all: Vec<Vec<u8>> = (0..5_000).map(|_| one.seal("s", b"x")).collect();
        let last = all.len() - 1;
        assert!(two.open("s", &mut all[last].clone()).is_ok());
        assert!(two.open("s", &mut all[last - 4_095].clone()).is_ok());
        assert_eq!(two.open("s", &mut all[last - 4_096]), Err(Unopened::Replayed), "too old to be told");
    }

    #[test]
    fn a_key_follows_another_without_a_message_lost() {
        let (mut one, mut two) = pair();
        let passes = |one: &mut BusSeal, two: &mut BusSeal| {
            let mut sealed = one.seal("s", b"x");
            two.open("s", &mut sealed).map(|opened| opened.key)
        };
        assert_eq!(passes(&mut one, &mut two), Ok(1));
        one.use_keys(keys(&[1, 2]));
        assert_eq!(passes(&mut one, &mut two), Ok(1), "the other has only the old one yet");
        two.use_keys(keys(&[1, 2]));
        one.use_keys(keys(&[2, 1]));
        assert_eq!((passes(&mut one, &mut two), passes(&mut two, &mut one)), (Ok(2), Ok(1)));
        two.use_keys(keys(&[2]));
        assert_eq!((passes(&mut one, &mut two), passes(&mut two, &mut one)), (Ok(2), Ok(2)));
        one.use_keys(keys(&[3]));
        assert_eq!(passes(&mut one, &mut two), Err(Unopened::UnknownKey));
    }

    #[test]
    fn a_key_of_the_same_id_and_another_text_opens_nothing() {
        let mut one = BusSeal::new(NodeId(1), ClusterKeys::parse(&ClusterKeys::line(1, [9; 32])).unwrap());
        let mut sealed = one.seal("s", b"x");
        assert_eq!(pair().1.open("s", &mut sealed), Err(Unopened::Forged));
    }

    #[test]
    fn of_too_many_senders_the_silent_one_is_forgotten() {
        let mut two = BusSeal::new(NodeId(0), keys(&[1]));
        for node in 1..=BUS_SENDERS_MAX as u64 + 1 {
            let mut one = BusSeal::new(NodeId(node), keys(&[1]));
            assert!(two.open("s", &mut one.seal("s", b"x")).is_ok());
        }
        assert_eq!(two.senders.len(), BUS_SENDERS_MAX);
        assert!(!two.senders.contains_key(&NodeId(1)) && two.senders.contains_key(&NodeId(2)));
    }
}
