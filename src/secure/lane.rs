//! The keys of a lane: one for each direction, out of what a DTLS handshake yields for SRTP, by labels of their own.
//! AES-128-GCM over a datagram whose first eight bytes stay in the clear; its number is the nonce. Called by
//! `transport::lane`.

use std::fmt;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;

use crate::base::window::{Seen, Window};
use crate::secure::dtls::Keying;
use crate::secure::srtp::MasterKey;
use crate::wire::lane::{LANE_HEADER, LANE_VERSION, LaneHeader};

pub const LANE_TAG: usize = 16;
const SALT: &[u8] = b"weirgate lane 1";

/// Why a lane's datagram was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LaneUnopened {
    Malformed,
    /// Of a version that is not spoken here.
    Version,
    /// Under keys that this lane does not have.
    Phase,
    Replayed,
    BadTag,
}

/// Seals what this end sends.
pub struct LaneSealer {
    key: LessSafeKey,
    salt: [u8; NONCE_LEN],
    phase: u8,
    next: u64,
}

/// Opens what the other end sends, each number once.
pub struct LaneOpener {
    key: LessSafeKey,
    salt: [u8; NONCE_LEN],
    phase: u8,
    window: Option<Window>,
}

/// Both directions under one handshake's keys.
pub struct LaneKeys {
    pub sealer: LaneSealer,
    pub opener: LaneOpener,
}

impl LaneKeys {
    /// `phase`: how many handshakes this lane has had before.
    pub fn new(keying: &Keying, phase: u8) -> LaneKeys {
        let (key, salt) = expand(&keying.local);
        let sealer = LaneSealer { key, salt, phase, next: 0 };
        let (key, salt) = expand(&keying.remote);
        LaneKeys { sealer, opener: LaneOpener { key, salt, phase, window: None } }
    }
}

impl fmt::Debug for LaneKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LaneKeys({})", self.sealer.phase)
    }
}

/// The length of a salt, as a key of HKDF.
struct SaltLen;

impl hkdf::KeyType for SaltLen {
    fn len(&self) -> usize {
        NONCE_LEN
    }
}

/// Key and salt of one direction (RFC 5869).
fn expand(master: &MasterKey) -> (LessSafeKey, [u8; NONCE_LEN]) {
    let secret = [master.key(), master.salt()].concat();
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(&secret);
    let key = extracted.expand(&[b"lane key"], &AES_128_GCM).expect("a key is shorter than HKDF's bound");
    let mut salt = [0; NONCE_LEN];
    let filled = extracted.expand(&[b"lane salt"], SaltLen).and_then(|okm| okm.fill(&mut salt));
    filled.expect("a salt is shorter than HKDF's bound");
    (LessSafeKey::new(UnboundKey::from(key)), salt)
}

fn nonce(salt: &[u8; NONCE_LEN], number: u64) -> Nonce {
    let mut nonce = *salt;
    for (byte, number) in nonce[NONCE_LEN - 6..].iter_mut().zip(&number.to_be_bytes()[2..]) {
        *byte ^= number;
    }
    Nonce::assume_unique_for_key(nonce)
}

impl LaneSealer {
    /// The number of the next datagram.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Under new keys the numbers of the ones before go on.
    pub fn go_on_from(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    pub fn phase(&self) -> u8 {
        self.phase
    }

    /// Seals a datagram in place: room for the header, what is to be sealed, room for the tag. Its number; None: all
    /// numbers are spent, and nothing may be sent under these keys any more.
    pub fn seal(&mut self, datagram: &mut [u8]) -> Option<u64> {
        let number = self.next;
        if number > LaneHeader::NUMBER_MAX || datagram.len() < LANE_HEADER + LANE_TAG {
            return None;
        }
        self.next += 1;
        let (header, sealed) = datagram.split_at_mut(LANE_HEADER);
        let (plain, tag) = sealed.split_at_mut(sealed.len() - LANE_TAG);
        header.copy_from_slice(&LaneHeader { version: LANE_VERSION, phase: self.phase, number }.to_bytes());
        let made = self.key.seal_in_place_separate_tag(nonce(&self.salt, number), Aad::from(&*header), plain).ok()?;
        tag.copy_from_slice(made.as_ref());
        Some(number)
    }
}

impl LaneOpener {
    pub fn phase(&self) -> u8 {
        self.phase
    }

    /// Opens a datagram in place: its number, and what was sealed.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<(u64, &'a mut [u8]), LaneUnopened> {
        let header = LaneHeader::parse(datagram).map_err(|_| LaneUnopened::Malformed)?;
        if header.version != LANE_VERSION {
            return Err(LaneUnopened::Version);
        }
        if header.phase != self.phase {
            return Err(LaneUnopened::Phase);
        }
        if self.window.as_ref().is_some_and(|window| window.check(header.number) != Seen::New) {
            return Err(LaneUnopened::Replayed);
        }
        let (clear, sealed) = datagram.split_at_mut(LANE_HEADER);
        let nonce = nonce(&self.salt, header.number);
        let plain = self.key.open_in_place(nonce, Aad::from(&*clear), sealed).map_err(|_| LaneUnopened::BadTag)?;
        match &mut self.window {
            Some(window) => window.commit(header.number),
            None => self.window = Some(Window::starting_at(header.number)),
        }
        Ok((header.number, plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secure::srtp::SrtpProfile;

    fn keying(swapped: bool) -> Keying {
        let profile = SrtpProfile::AeadAes128Gcm;
        let key = |byte: u8| MasterKey::new(profile, &[byte; 16], &[byte; 12]).unwrap();
        let (local, remote) = if swapped { (key(2), key(1)) } else { (key(1), key(2)) };
        Keying { profile, suite: "test", local, remote, peer_certificate: Vec::new() }
    }

    fn sealed(sealer: &mut LaneSealer, plain: &[u8]) -> Vec<u8> {
        let mut datagram = [&[0; LANE_HEADER], plain, &[0; LANE_TAG]].concat();
        sealer.seal(&mut datagram).unwrap();
        datagram
    }

    #[test]
    fn what_one_end_seals_the_other_opens_once() {
        let (mut here, mut there) = (LaneKeys::new(&keying(false), 0), LaneKeys::new(&keying(true), 0));
        let first = sealed(&mut here.sealer, b"first");
        let second = sealed(&mut here.sealer, b"second");
        for (datagram, number, plain) in [(&second, 1, &b"second"[..]), (&first, 0, b"first")] {
            assert_eq!(there.opener.open(&mut datagram.clone()).unwrap(), (number, &mut plain.to_vec()[..]));
            assert_eq!(there.opener.open(&mut datagram.clone()), Err(LaneUnopened::Replayed));
        }
        assert_eq!(here.opener.open(&mut sealed(&mut here.sealer, b"own")), Err(LaneUnopened::BadTag));
        assert_eq!(there.opener.phase(), 0);
    }

    #[test]
    fn each_byte_is_sealed_and_other_keys_open_nothing() {
        let (mut here, mut there) = (LaneKeys::new(&keying(false), 0), LaneKeys::new(&keying(true), 0));
        let datagram = sealed(&mut here.sealer, b"what is said");
        for at in 0..datagram.len() {
            let mut bad = datagram.clone();
            bad[at] ^= 1;
            assert!(there.opener.open(&mut bad).is_err(), "byte {at}");
        }
        for len in 0..datagram.len() {
            assert!(there.opener.open(&mut datagram[..len].to_vec()).is_err());
        }
        let mut later = LaneKeys::new(&keying(true), 1);
        assert_eq!(later.opener.open(&mut datagram.clone()), Err(LaneUnopened::Phase));
        assert!(there.opener.open(&mut datagram.clone()).is_ok(), "forgeries have burnt no number");
    }

    #[test]
    fn no_number_is_used_twice_and_the_last_one_ends_it() {
        let mut keys = LaneKeys::new(&keying(false), 3);
        keys.sealer.next = LaneHeader::NUMBER_MAX;
        assert_eq!(keys.sealer.seal(&mut [0; 40]), Some(LaneHeader::NUMBER_MAX));
        assert_eq!((keys.sealer.seal(&mut [0; 40]), keys.sealer.phase()), (None, 3));
        assert_eq!(LaneKeys::new(&keying(false), 0).sealer.seal(&mut [0; 23]), None);
    }
}
