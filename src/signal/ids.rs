//! Every identifier that signalling gives out: numbers for the shards, random ids for clients, ICE credentials, and
//! the mids and SSRCs of a transport's consumers. The generator is seeded from outside.

use std::fmt;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::base::id::{Mid, ShardLabel, ShortName, Ssrc};
use crate::shard::command::IceCredentials;

/// The id of a peer, transport, producer or consumer towards clients: random, in the form of a UUID (RFC 9562 section
/// 5.4), so that nobody can guess or count another's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct ExternalId(u128);

impl ExternalId {
    /// Accepts the exact text that was given out, and no other.
    pub(super) fn parse(text: &str) -> Option<ExternalId> {
        if text.len() != 36 {
            return None;
        }
        let id = ExternalId(u128::from_str_radix(&text.replace('-', ""), 16).ok()?);
        (id.to_string() == text).then_some(id)
    }
}

impl ExternalId {
    pub(super) const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for ExternalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

const UFRAG_RANDOM_CHARS: usize = 12;
const PWD_CHARS: usize = 32;

pub(super) struct Ids {
    rng: StdRng,
    last: u64,
}

impl Ids {
    pub(super) fn new(seed: [u8; 32]) -> Ids {
        Ids { rng: StdRng::from_seed(seed), last: 0 }
    }

    /// The next number: never the same twice, for whatever object.
    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) fn external(&mut self) -> ExternalId {
        let version_and_variant = (0xf << 76) | (0b11 << 62);
        ExternalId(self.rng.random::<u128>() & !version_and_variant | 4 << 76 | 0b10 << 62)
    }

    /// RFC 8839 section 5.4 allows ice-chars; letters and digits alone pass through everybody's URL and SDP code.
    pub(super) fn ice(&mut self, label: ShardLabel) -> IceCredentials {
        let label: String = label.0.iter().map(|&letter| char::from(letter)).collect();
        IceCredentials { ufrag: label + &self.alphanumeric(UFRAG_RANDOM_CHARS), pwd: self.alphanumeric(PWD_CHARS) }
    }

    /// For one resume token.
    pub(super) fn nonce(&mut self) -> [u8; 12] {
        self.rng.random()
    }

    pub(super) fn cname(&mut self) -> String {
        self.alphanumeric(16)
    }

    pub(super) fn names(&mut self) -> ConsumerNames {
        ConsumerNames { offset: self.rng.random(), stride: self.rng.random::<u32>() | 1, ssrcs: 0, mids: 0 }
    }

    fn alphanumeric(&mut self, chars: usize) -> String {
        (0..chars).map(|_| char::from(self.rng.sample(rand::distr::Alphanumeric))).collect()
    }
}

/// The mids and SSRCs of one transport's consumers. An odd stride visits every 32-bit number once before any comes
/// again, so "never twice on one transport" needs no record of used ones.
#[derive(Clone, Debug)]
pub(super) struct ConsumerNames {
    offset: u32,
    stride: u32,
    ssrcs: u32,
    mids: u32,
}

impl ConsumerNames {
    /// An SSRC that this transport's consumers never had; None when all are used up. 0 reads as "none" in feedback
    /// messages, and 1234 is the one mediasoup-client's probator section claims.
    pub(super) fn ssrc(&mut self, taken: impl Fn(Ssrc) -> bool) -> Option<Ssrc> {
        loop {
            let ssrc = self.offset.wrapping_add(self.ssrcs.wrapping_mul(self.stride));
            self.ssrcs = self.ssrcs.checked_add(1)?;
            if !matches!(ssrc, 0 | 1234) && !taken(Ssrc(ssrc)) {
                return Some(Ssrc(ssrc));
            }
        }
    }

    pub(super) fn mid(&mut self) -> Option<Mid> {
        let mid = ShortName::new(self.mids.to_string().as_bytes());
        self.mids = self.mids.checked_add(1)?;
        mid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn an_external_id_is_found_by_its_exact_text_only() {
        let id = Ids::new([1; 32]).external();
        let text = id.to_string();
        assert_eq!(ExternalId::parse(&text), Some(id));
        assert_eq!(text.as_bytes()[14], b'4');
        for other in ["", &text[1..], &text.to_uppercase(), &text.replace('-', ""), &"é".repeat(18), &"+".repeat(36)] {
            assert_eq!(ExternalId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_ids_and_another_seed_others() {
        let some = |seed| {
            let mut ids = Ids::new([seed; 32]);
            (0..100).map(|_| ids.external()).collect::<BTreeSet<_>>()
        };
        assert_eq!(some(1), some(1));
        assert_eq!(some(1).union(&some(2)).count(), 200);
    }

    #[test]
    fn ice_credentials_name_the_shard_in_letters_and_digits() {
        let ice = Ids::new([3; 32]).ice(ShardLabel(*b"Qz"));
        assert!(ice.ufrag.starts_with("Qz") && ice.ufrag.len() >= 10 && ice.pwd.len() >= 24);
        assert!((ice.ufrag + &ice.pwd).chars().all(|char| char.is_ascii_alphanumeric()));
    }

    #[test]
    fn ssrcs_and_mids_never_come_twice() {
        let mut names = ConsumerNames { offset: 0, stride: 617, ssrcs: 0, mids: 0 };
        let ssrcs: Vec<_> = (0..10_000).map(|_| names.ssrc(|ssrc| ssrc == Ssrc(617)).unwrap().0).collect();
        assert_eq!(ssrcs.iter().collect::<BTreeSet<_>>().len(), ssrcs.len());
        assert_eq!(ssrcs[..2], [3 * 617, 4 * 617], "0, the taken one and 1234 are passed over");
        let mids: Vec<_> = (0..3).map(|_| names.mid().unwrap()).collect();
        assert_eq!(mids.iter().map(|mid| mid.as_str()).collect::<Vec<_>>(), ["0", "1", "2"]);
    }

    #[test]
    fn used_up_ssrcs_are_refused_not_repeated() {
        let mut names = ConsumerNames { offset: 9, stride: 1, ssrcs: u32::MAX, mids: u32::MAX };
        assert_eq!((names.ssrc(|_| false), names.mid()), (None, None));
    }
}
