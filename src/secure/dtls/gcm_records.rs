//! The record layer under AES-128-GCM (RFC 5288, RFC 6347 section 4.1) for a library that yields its secrets and goes: two
//! keys, a counter and a window of 64 numbers. An idle session has no key schedule of AES: the first record makes it.

use super::library::{Opened, RecordLayer};
use super::record::{ALERT, APPLICATION_DATA, DtlsRecord, HANDSHAKE, RECORD_HEADER_LEN};
use super::session::Side;
use crate::base::buffer::DATAGRAM_MAX;
use crate::base::time::Instant;
use crate::secure::dropped::SecureDrop;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;

const KEY_LEN: usize = 16;
const IV_LEN: usize = 4;
const EXPLICIT_NONCE_LEN: usize = 8;
const TAG_LEN: usize = 16;
/// What protecting a record adds to its plaintext, behind the header.
const OVERHEAD: usize = EXPLICIT_NONCE_LEN + TAG_LEN;

const FINISHED: u8 = 20;
/// Handshake header and verify_data (RFC 6347 section 4.2.2, RFC 5246 section 7.4.9).
const FINISHED_LEN: usize = 12 + 12;
const ALERT_LEN: usize = 2;
const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;

/// Epoch 1 and a record number far above those that the handshake used.
const FIRST_NUMBER: u64 = 1 << 48 | 1 << 32;
/// The last of epoch 1 (RFC 6347 section 4.1: a number never wraps).
const LAST_NUMBER: u64 = (2 << 48) - 1;

/// One direction (RFC 5288 section 3).
struct Direction {
    key: [u8; KEY_LEN],
    iv: [u8; IV_LEN],
    schedule: Option<Box<LessSafeKey>>,
}

impl Direction {
    fn new(key: &[u8], iv: &[u8]) -> Direction {
        let mut direction = Direction { key: [0; KEY_LEN], iv: [0; IV_LEN], schedule: None };
        direction.key.copy_from_slice(key);
        direction.iv.copy_from_slice(iv);
        direction
    }

    fn cipher(&mut self) -> &LessSafeKey {
        self.schedule.get_or_insert_with(|| {
            let key = UnboundKey::new(&AES_128_GCM, &self.key).expect("it has the length the algorithm names");
            Box::new(LessSafeKey::new(key))
        })
    }

    fn nonce(&self, explicit: [u8; EXPLICIT_NONCE_LEN]) -> Nonce {
        let mut nonce = [0; IV_LEN + EXPLICIT_NONCE_LEN];
        nonce[..IV_LEN].copy_from_slice(&self.iv);
        nonce[IV_LEN..].copy_from_slice(&explicit);
        Nonce::assume_unique_for_key(nonce)
    }

    /// A whole record. The library draws its nonces at random; ours are the numbers of records, which never come twice.
    fn seal(&mut self, number: u64, kind: u8, plaintext: &[u8]) -> Vec<u8> {
        let number_bytes = number.to_be_bytes();
        let mut record = Vec::with_capacity(RECORD_HEADER_LEN + OVERHEAD + plaintext.len());
        record.extend_from_slice(&[kind, 0xFE, 0xFD]);
        record.extend_from_slice(&number_bytes);
        record.extend_from_slice(&((OVERHEAD + plaintext.len()) as u16).to_be_bytes());
        record.extend_from_slice(&number_bytes);
        record.extend_from_slice(plaintext);
        let (nonce, associated) = (self.nonce(number_bytes), associated(number, kind, plaintext.len()));
        let text = &mut record[RECORD_HEADER_LEN + EXPLICIT_NONCE_LEN..];
        let tag = self.cipher().seal_in_place_separate_tag(nonce, associated, text);
        record.extend_from_slice(tag.expect("a datagram is not too long for AES-GCM").as_ref());
        record
    }

    fn open(&mut self, record: &DtlsRecord<'_>) -> Option<Vec<u8>> {
        let (explicit, sealed) = record.payload.split_first_chunk()?;
        let len = sealed.len().checked_sub(TAG_LEN)?;
        let mut text = sealed.to_vec();
        let (nonce, associated) = (self.nonce(*explicit), associated(record.number(), record.kind, len));
        self.cipher().open_in_place(nonce, associated, &mut text).ok()?;
        text.truncate(len);
        Some(text)
    }
}

/// RFC 5246 section 6.2.3.3: epoch and number, type, version, length of the plaintext.
fn associated(number: u64, kind: u8, len: usize) -> Aad<[u8; 13]> {
    let mut data = [0; 13];
    data[..8].copy_from_slice(&number.to_be_bytes());
    let [high, low] = (len as u16).to_be_bytes();
    data[8..].copy_from_slice(&[kind, 0xFE, 0xFD, high, low]);
    Aad::from(data)
}

/// RFC 6347 section 4.1.2.6, by bits.
#[derive(Default)]
struct ReplayWindow {
    highest: u64,
    /// Bit 0 is `highest`.
    seen: u64,
}

impl ReplayWindow {
    fn is_new(&self, number: u64) -> bool {
        number > self.highest || (self.highest - number < 64 && self.seen >> (self.highest - number) & 1 == 0)
    }

    fn commit(&mut self, number: u64) {
        if number > self.highest {
            let ahead = number - self.highest;
            self.seen = if ahead < 64 { self.seen << ahead } else { 0 } | 1;
            self.highest = number;
        } else {
            self.seen |= 1 << (self.highest - number);
        }
    }
}

pub(super) struct GcmRecords {
    local: Direction,
    remote: Direction,
    next: u64,
    window: ReplayWindow,
}

impl GcmRecords {
    /// From what the handshake agreed on (RFC 5246 section 6.3): the key block, which has no MAC keys here.
    pub(super) fn new(side: Side, master_secret: &[u8], client_random: &[u8], server_random: &[u8]) -> GcmRecords {
        let block = key_block(master_secret, &[b"key expansion", server_random, client_random].concat());
        let (keys, ivs) = block.split_at(2 * KEY_LEN);
        let client = Direction::new(&keys[..KEY_LEN], &ivs[..IV_LEN]);
        let server = Direction::new(&keys[KEY_LEN..], &ivs[IV_LEN..]);
        let (local, remote) = if side == Side::Client { (client, server) } else { (server, client) };
        GcmRecords { local, remote, next: FIRST_NUMBER, window: ReplayWindow::default() }
    }

    fn seal_next(&mut self, kind: u8, plaintext: &[u8]) -> Option<Vec<u8>> {
        if self.next > LAST_NUMBER || RECORD_HEADER_LEN + OVERHEAD + plaintext.len() > DATAGRAM_MAX {
            return None;
        }
        let number = self.next;
        self.next += 1;
        Some(self.local.seal(number, kind, plaintext))
    }
}

impl RecordLayer for GcmRecords {
    fn open(&mut self, _: Instant, record: &DtlsRecord<'_>) -> Result<Opened, SecureDrop> {
        let len = record.payload.len().checked_sub(OVERHEAD);
        // What has another length is not what it says it is, and is not worth a decryption.
        let fits = match record.kind {
            ALERT => len == Some(ALERT_LEN),
            HANDSHAKE => len == Some(FINISHED_LEN),
            APPLICATION_DATA => len.is_some_and(|len| RECORD_HEADER_LEN + OVERHEAD + len <= DATAGRAM_MAX),
            _ => false,
        };
        if record.epoch != 1 || !fits || !self.window.is_new(record.number()) {
            return Err(SecureDrop::DtlsOutOfPlace);
        }
        let text = self.remote.open(record).ok_or(SecureDrop::DtlsForged)?;
        self.window.commit(record.number());
        match (record.kind, &text[..]) {
            (APPLICATION_DATA, _) => Ok(Opened::Application(text)),
            (ALERT, [level, description]) if *level == FATAL || *description == CLOSE_NOTIFY => Ok(Opened::Closed),
            (ALERT, _) => Ok(Opened::Nothing),
            (_, [FINISHED, ..]) => Ok(Opened::FlightRepeated),
            _ => Err(SecureDrop::DtlsOutOfPlace),
        }
    }

    fn seal(&mut self, data: &[u8]) -> Option<Vec<u8>> {
        self.seal_next(APPLICATION_DATA, data)
    }

    fn farewell(&mut self) -> Option<Vec<u8>> {
        self.seal_next(ALERT, &[WARNING, CLOSE_NOTIFY])
    }
}

/// RFC 5246 section 5: P_SHA256.
fn key_block(secret: &[u8], seed: &[u8]) -> [u8; 2 * (KEY_LEN + IV_LEN)] {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut block = [0; 2 * (KEY_LEN + IV_LEN)];
    let mut a = hmac::sign(&secret, seed);
    for chunk in block.chunks_mut(32) {
        let output = hmac::sign(&secret, &[a.as_ref(), seed].concat());
        chunk.copy_from_slice(&output.as_ref()[..chunk.len()]);
        a = hmac::sign(&secret, a.as_ref());
    }
    block
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The server's and the client's.
    pub(in crate::secure) fn pair() -> [GcmRecords; 2] {
        [Side::Server, Side::Client].map(|side| GcmRecords::new(side, &[3; 48], &[2; 32], &[1; 32]))
    }

    /// A Finished as the record `number` of whoever has `records`.
    pub(in crate::secure) fn finished(records: &mut GcmRecords, number: u64) -> Vec<u8> {
        let mut message = [0; FINISHED_LEN];
        message[0] = FINISHED;
        records.local.seal(1 << 48 | number, HANDSHAKE, &message)
    }

    fn open(records: &mut GcmRecords, datagram: &[u8]) -> Result<Opened, SecureDrop> {
        let (record, rest) = DtlsRecord::split(datagram).unwrap();
        assert!(rest.is_empty());
        records.open(Instant::ZERO, &record)
    }

    /// As the drafts of RFC 5246 had it for P_SHA256, cut to what a key block takes.
    #[test]
    fn the_key_block_is_p_sha256() {
        let secret = [0x9b, 0xbe, 0x43, 0x6b, 0xa9, 0x40, 0xf0, 0x17, 0xb1, 0x76, 0x52, 0x84, 0x9a, 0x71, 0xdb, 0x35];
        let seed = [0xa0, 0xba, 0x9f, 0x93, 0x6c, 0xda, 0x31, 0x18, 0x27, 0xa6, 0xf7, 0x96, 0xff, 0xd5, 0x19, 0x8c];
        let block = key_block(&secret, &[&b"test label"[..], &seed].concat());
        let expected = [0xe3, 0xf2, 0x29, 0xba, 0x72, 0x7b, 0xe1, 0x7b, 0x8d, 0x12, 0x26, 0x20, 0x55, 0x7c, 0xd4, 0x53];
        assert_eq!(block[..16], expected);
    }

    #[test]
    fn records_go_both_ways_and_each_once() {
        let [mut server, mut client] = pair();
        for data in [&b"to the client"[..], &[], &[7; 1_200]] {
            let sealed = server.seal(data).unwrap();
            assert_eq!(open(&mut client, &sealed), Ok(Opened::Application(data.to_vec())));
            assert_eq!(open(&mut client, &sealed), Err(SecureDrop::DtlsOutOfPlace), "a replay");
            assert_eq!(open(&mut server, &sealed), Err(SecureDrop::DtlsForged), "reflected");
            let sealed = client.seal(data).unwrap();
            assert_eq!(open(&mut server, &sealed), Ok(Opened::Application(data.to_vec())));
        }
        assert!(server.seal(&vec![0; DATAGRAM_MAX]).is_none());
        assert_eq!(open(&mut client, &server.farewell().unwrap()), Ok(Opened::Closed));
    }

    #[test]
    fn late_records_pass_and_those_behind_the_window_do_not() {
        let [mut server, mut client] = pair();
        let mut sealed: Vec<_> = (0..65).map(|number| server.seal(&[number]).unwrap()).collect();
        let newest = sealed.pop().unwrap();
        assert!(open(&mut client, &newest).is_ok());
        for (number, record) in sealed.iter().enumerate().rev() {
            let opened = open(&mut client, record);
            assert_eq!(opened.is_ok(), number > 0, "record {number}");
            assert_eq!(open(&mut client, record), Err(SecureDrop::DtlsOutOfPlace));
        }
    }

    #[test]
    fn whatever_is_changed_is_forged() {
        let [mut server, mut client] = pair();
        let sealed = server.seal(b"data").unwrap();
        for at in (0..sealed.len()).filter(|at| !matches!(at, 1..=4 | 11 | 12)) {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            let (record, _) = DtlsRecord::split(&forged).unwrap();
            assert!(client.open(Instant::ZERO, &record).is_err(), "byte {at}");
        }
        assert!(open(&mut client, &sealed).is_ok(), "and none of it moved the window");
    }

    #[test]
    fn numbers_never_wrap() {
        let [mut server, mut client] = pair();
        server.next = LAST_NUMBER;
        assert!(open(&mut client, &server.seal(b"last").unwrap()).is_ok());
        assert!(server.seal(b"one more").is_none() && server.farewell().is_none());
    }
}
