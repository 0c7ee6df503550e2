//! The name of a channel where a subject or a list has to carry it: channel ids are any printable text, and long.

use std::fmt;

use sha2::{Digest, Sha256};

const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The first 128 bits of the id's SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ChannelHash(u128);

impl ChannelHash {
    pub(super) fn of(channel: &str) -> ChannelHash {
        let digest = Sha256::digest(channel.as_bytes());
        ChannelHash(digest.iter().take(16).fold(0, |hash, byte| hash << 8 | u128::from(*byte)))
    }

    /// Reads what [`fmt::Display`] writes, and nothing else.
    pub(super) fn parse(text: &str) -> Option<ChannelHash> {
        let mut hash: u128 = 0;
        for byte in text.bytes() {
            let digit = LETTERS.iter().position(|letter| *letter == byte)?;
            hash = hash << 5 | digit as u128;
        }
        Some(ChannelHash(hash)).filter(|hash| hash.to_string() == text)
    }

    /// What `held` lists: two channels may have the same, and then somebody asks once too often.
    pub(super) const fn low(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for ChannelHash {
    /// Base32 (RFC 4648 section 6) in lower case, without padding: 26 letters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digit = |place: u32| LETTERS[(self.0 >> (5 * place)) as usize & 31];
        (0..26).rev().try_for_each(|place| write!(f, "{}", char::from(digit(place))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_26_letters_of_the_digest_and_is_read_back() {
        let hash = ChannelHash::of("abc");
        assert_eq!(hash.0, 0xba78_16bf_8f01_cfea_4141_40de_5dae_2223);
        assert_eq!((hash.to_string().len(), hash.low()), (26, 0x5dae_2223));
        for hash in [hash, ChannelHash(0), ChannelHash(u128::MAX), ChannelHash::of("room ☃")] {
            assert_eq!(ChannelHash::parse(&hash.to_string()), Some(hash));
        }
        let long = "7".repeat(27);
        for wrong in ["", "a", "A", &long, "zzzzzzzzzzzzzzzzzzzzzzzzzz", "............"] {
            assert_eq!(ChannelHash::parse(wrong), None, "{wrong}");
        }
    }
}
