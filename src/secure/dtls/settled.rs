//! A DTLS session after its handshake. Media has its own keys, so little is left to do: repeat our last flight for a
//! server's client that missed it, and close. The library is gone by then; the two keys for alerts are all that stays of it
//! (AES-128-GCM, the only cipher it is offered). Called by `dtls`, and by whoever keeps the session then.

use super::gate::{ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, RECORD_HEADER_LEN, Record, Side};
use super::{ClosedBy, SecureOutput, SecureSession};
use crate::base::limits::FLIGHT_RESENDS_MAX;
use crate::base::time::{Duration, Instant};
use crate::secure::Dropped;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use std::collections::VecDeque;

const KEY_LEN: usize = 16;
const IV_LEN: usize = 4;
const EXPLICIT_NONCE_LEN: usize = 8;
const ALERT_LEN: usize = 2;
const TAG_LEN: usize = 16;
const SEALED_ALERT_LEN: usize = EXPLICIT_NONCE_LEN + ALERT_LEN + TAG_LEN;
/// Handshake header and verify_data (RFC 6347 section 4.2.2, RFC 5246 section 7.4.9).
const FINISHED_LEN: usize = 12 + 12;
const SEALED_FINISHED_LEN: usize = EXPLICIT_NONCE_LEN + FINISHED_LEN + TAG_LEN;
const FINISHED: u8 = 20;

const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
/// Epoch 1 and a record number far above those that the handshake used.
const FAREWELL_NUMBER: [u8; 8] = [0, 1, 0, 1, 0, 0, 0, 0];

/// One direction (RFC 5288 section 3).
#[derive(Clone, Copy)]
struct AlertKey {
    key: [u8; KEY_LEN],
    iv: [u8; IV_LEN],
}

/// What protects alerts in both directions.
pub(super) struct AlertKeys {
    local: AlertKey,
    remote: AlertKey,
}

impl AlertKeys {
    /// RFC 5246 section 6.3: the key block, which has no MAC keys here.
    pub(super) fn new(is_client: bool, master_secret: &[u8], local: &[u8], remote: &[u8]) -> AlertKeys {
        let (client, server) = if is_client { (local, remote) } else { (remote, local) };
        let block = key_block(master_secret, &[b"key expansion", server, client].concat());
        let (keys, ivs) = block.split_at(2 * KEY_LEN);
        let key = |at: usize| {
            let mut found = AlertKey { key: [0; KEY_LEN], iv: [0; IV_LEN] };
            found.key.copy_from_slice(&keys[at * KEY_LEN..][..KEY_LEN]);
            found.iv.copy_from_slice(&ivs[at * IV_LEN..][..IV_LEN]);
            found
        };
        let (client, server) = (key(0), key(1));
        if is_client {
            AlertKeys { local: client, remote: server }
        } else {
            AlertKeys { local: server, remote: client }
        }
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

impl AlertKey {
    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &self.key).expect("it has the length the algorithm names"))
    }

    fn nonce(&self, explicit: [u8; EXPLICIT_NONCE_LEN]) -> Nonce {
        let mut nonce = [0; IV_LEN + EXPLICIT_NONCE_LEN];
        nonce[..IV_LEN].copy_from_slice(&self.iv);
        nonce[IV_LEN..].copy_from_slice(&explicit);
        Nonce::assume_unique_for_key(nonce)
    }

    /// RFC 5246 section 6.2.3.3: epoch and number, type, version, length of the plaintext.
    fn associated(number: [u8; 8], kind: u8, len: usize) -> Aad<[u8; 13]> {
        let mut data = [0; 13];
        data[..8].copy_from_slice(&number);
        data[8..].copy_from_slice(&[kind, 0xFE, 0xFD, 0, len as u8]);
        Aad::from(data)
    }

    /// A record with close_notify. The library draws its nonces at random; this one is used once, by whoever is the last
    /// to seal anything.
    fn seal_close_notify(&self) -> Vec<u8> {
        let mut alert = [1, CLOSE_NOTIFY];
        let (nonce, associated) =
            (self.nonce(FAREWELL_NUMBER), AlertKey::associated(FAREWELL_NUMBER, ALERT, ALERT_LEN));
        let tag = self.cipher().seal_in_place_separate_tag(nonce, associated, &mut alert);
        let tag = tag.expect("two bytes are not too long for AES-GCM");
        let header = [ALERT, 0xFE, 0xFD];
        let len = (SEALED_ALERT_LEN as u16).to_be_bytes();
        [&header[..], &FAREWELL_NUMBER, &len, &FAREWELL_NUMBER, &alert, tag.as_ref()].concat()
    }

    /// The `SEALED` bytes after the explicit nonce, and which record it was.
    fn open<const SEALED: usize>(&self, record: &Record<'_>) -> Option<([u8; SEALED], u64)> {
        let number: [u8; 8] = record.whole[..RECORD_HEADER_LEN][3..11].try_into().ok()?;
        let (explicit, sealed) = record.payload.split_first_chunk()?;
        let mut sealed: [u8; SEALED] = sealed.try_into().ok()?;
        let associated = AlertKey::associated(number, record.kind, SEALED - TAG_LEN);
        self.cipher().open_in_place(self.nonce(*explicit), associated, &mut sealed).ok()?;
        Some((sealed, u64::from_be_bytes(number)))
    }
}

/// What is left of a session. It may live on another thread than its handshake.
pub struct Settled {
    side: Side,
    keys: AlertKeys,
    last_flight: Vec<Vec<u8>>,
    /// Between two times that it is sent again.
    pause: Duration,
    resends: u32,
    resent_at: Option<Instant>,
    /// The record of the last repeat that was answered: overheard, it is worth no second answer.
    repeated: u64,
    closed: bool,
    outputs: VecDeque<SecureOutput>,
}

impl Settled {
    pub(super) fn new(side: Side, keys: AlertKeys, last_flight: Vec<Vec<u8>>, pause: Duration) -> Settled {
        // A client's last flight has been answered.
        let last_flight = if side == Side::Server { last_flight } else { Vec::new() };
        let (closed, outputs) = (false, VecDeque::new());
        Settled { side, keys, last_flight, pause, resends: 0, resent_at: None, repeated: 0, closed, outputs }
    }

    fn record(&mut self, now: Instant, record: &Record<'_>) -> Result<(), Dropped> {
        match (record.epoch, record.kind) {
            (1, ALERT) if record.payload.len() == SEALED_ALERT_LEN => {
                let opened = self.keys.remote.open::<{ ALERT_LEN + TAG_LEN }>(record);
                let ([level, description, ..], _) = opened.ok_or(Dropped::DtlsForged)?;
                if level == FATAL || description == CLOSE_NOTIFY {
                    // RFC 5246 section 7.2.1: answered in kind.
                    self.close();
                    self.outputs.push_back(SecureOutput::Closed(ClosedBy::Peer));
                }
                Ok(())
            }
            // The client's Finished again: our last flight was lost.
            (1, HANDSHAKE) if self.side == Side::Server && record.payload.len() == SEALED_FINISHED_LEN => {
                let opened = self.keys.remote.open::<{ FINISHED_LEN + TAG_LEN }>(record);
                let ([kind, ..], number) = opened.ok_or(Dropped::DtlsForged)?;
                if kind != FINISHED || number <= self.repeated {
                    return Err(Dropped::DtlsOutOfPlace);
                }
                self.resend(now)?;
                self.repeated = number;
                Ok(())
            }
            (1, _) | (0, HANDSHAKE | CHANGE_CIPHER_SPEC) => Err(Dropped::DtlsOutOfPlace),
            // Anybody on the path may have made it (RFC 6347 section 4.1.2.7).
            (0, _) => Err(Dropped::DtlsPlaintext),
            _ => Err(Dropped::DtlsOutOfPlace),
        }
    }

    fn resend(&mut self, now: Instant) -> Result<(), Dropped> {
        let too_soon = self.resent_at.is_some_and(|at| now.since(at) < self.pause);
        if too_soon || self.resends >= FLIGHT_RESENDS_MAX {
            return Err(Dropped::DtlsRepeatLimit);
        }
        self.resends += 1;
        self.resent_at = Some(now);
        self.outputs.extend(self.last_flight.iter().cloned().map(SecureOutput::Transmit));
        Ok(())
    }
}

impl SecureSession for Settled {
    fn handle_datagram(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Dropped> {
        let mut result = Ok(());
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.closed {
                return result.and(Err(Dropped::DtlsClosed));
            }
            let Some((record, behind)) = Record::split(rest) else {
                return result.and(Err(Dropped::DtlsMalformed));
            };
            rest = behind;
            result = result.and(self.record(now, &record));
        }
        result
    }

    fn poll(&mut self) -> Option<SecureOutput> {
        self.outputs.pop_front()
    }

    fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.outputs.push_back(SecureOutput::Transmit(self.keys.local.seal_close_notify()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(100);

    fn pair() -> [Settled; 2] {
        let (server, client) = ([1; 32], [2; 32]);
        let keys = |is_client, local, remote| AlertKeys::new(is_client, &[3; 48], local, remote);
        [
            Settled::new(Side::Server, keys(false, &server, &client), vec![vec![7; 60]], PAUSE),
            Settled::new(Side::Client, keys(true, &client, &server), vec![vec![8; 60]], PAUSE),
        ]
    }

    fn said(session: &mut Settled) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| match session.poll()? {
            SecureOutput::Transmit(datagram) => Some(datagram),
            other => panic!("{other:?}"),
        })
        .collect()
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
    fn a_close_is_heard_answered_once_and_final() {
        let now = Instant::ZERO;
        for closer in 0..2 {
            let mut ends = pair();
            ends[closer].close();
            let farewell = said(&mut ends[closer]);
            assert_eq!(farewell.len(), 1);
            let other = &mut ends[1 - closer];
            let mut forged = farewell[0].clone();
            for at in [3, 5, 13, 21, 38] {
                forged[at] ^= 1;
                assert!(other.handle_datagram(now, &forged).is_err(), "byte {at}");
                forged[at] ^= 1;
            }
            assert!(other.poll().is_none());
            assert_eq!(other.handle_datagram(now, &forged), Ok(()));
            assert!(matches!(other.poll(), Some(SecureOutput::Transmit(_))));
            assert!(matches!(other.poll(), Some(SecureOutput::Closed(ClosedBy::Peer))));
            assert_eq!(other.handle_datagram(now, &forged), Err(Dropped::DtlsClosed));
            other.close();
            assert!(other.poll().is_none());
        }
    }

    fn record(kind: u8, epoch: u8, len: usize) -> Vec<u8> {
        let header = [kind, 0xFE, 0xFD, 0, epoch, 0, 0, 0, 0, 0, 9, 0, len as u8];
        [&header[..], &vec![7; len]].concat()
    }

    /// The client's Finished as its record `number`.
    fn finished(client: &Settled, number: u8) -> Vec<u8> {
        let number = [0, 1, 0, 0, 0, 0, 0, number];
        let mut message = [0; FINISHED_LEN];
        message[0] = FINISHED;
        let key = &client.keys.local;
        let associated = AlertKey::associated(number, HANDSHAKE, FINISHED_LEN);
        let tag = key.cipher().seal_in_place_separate_tag(key.nonce(number), associated, &mut message).unwrap();
        let len = (SEALED_FINISHED_LEN as u16).to_be_bytes();
        [&[HANDSHAKE, 0xFE, 0xFD][..], &number, &len, &number, &message, tag.as_ref()].concat()
    }

    #[test]
    fn only_a_finished_of_the_client_s_own_is_answered_and_each_once() {
        let [mut server, client] = pair();
        let now = |step: u32| Instant::ZERO + PAUSE * step;
        for step in 0..4 * FLIGHT_RESENDS_MAX {
            let forged = record(HANDSHAKE, 1, SEALED_FINISHED_LEN);
            assert_eq!(server.handle_datagram(now(step), &forged), Err(Dropped::DtlsForged));
        }
        assert!(said(&mut server).is_empty());
        let genuine = finished(&client, 3);
        assert_eq!(server.handle_datagram(now(90), &genuine), Ok(()));
        assert_eq!(said(&mut server), [vec![7; 60]]);
        for step in 91..200 {
            assert_eq!(server.handle_datagram(now(step), &genuine), Err(Dropped::DtlsOutOfPlace), "overheard");
        }
        assert!(said(&mut server).is_empty());
        assert_eq!(server.handle_datagram(now(200), &finished(&client, 4)), Ok(()));
    }

    #[test]
    fn a_server_repeats_its_last_flight_a_bounded_number_of_times() {
        let [mut server, mut client] = pair();
        let mut now = Instant::ZERO;
        let mut answers = 0;
        for number in 1..=4 * FLIGHT_RESENDS_MAX as u8 {
            now = now + PAUSE / 2;
            let finished = finished(&client, number);
            let result = server.handle_datagram(now, &finished);
            let sent = said(&mut server);
            assert_eq!(result.is_ok(), sent == [vec![7; 60]]);
            answers += u32::from(result.is_ok());
        }
        assert_eq!(answers, FLIGHT_RESENDS_MAX);
        let finished = finished(&client, 1);
        assert_eq!(client.handle_datagram(now, &finished), Err(Dropped::DtlsOutOfPlace));
        assert!(client.poll().is_none());
    }

    #[test]
    fn everything_else_is_dropped_by_name() {
        for (kind, epoch, len, why) in [
            (ALERT, 1, 25, Dropped::DtlsOutOfPlace),
            (ALERT, 1, 26, Dropped::DtlsForged),
            (ALERT, 1, 27, Dropped::DtlsOutOfPlace),
            (ALERT, 0, 2, Dropped::DtlsPlaintext),
            (23, 1, 30, Dropped::DtlsOutOfPlace),
            (23, 0, 30, Dropped::DtlsPlaintext),
            (HANDSHAKE, 0, 30, Dropped::DtlsOutOfPlace),
            (CHANGE_CIPHER_SPEC, 0, 1, Dropped::DtlsOutOfPlace),
            (ALERT, 2, 26, Dropped::DtlsOutOfPlace),
        ] {
            for mut end in pair() {
                assert_eq!(end.handle_datagram(Instant::ZERO, &record(kind, epoch, len)), Err(why), "{kind} {epoch}");
                assert_eq!(end.handle_datagram(Instant::ZERO, &[kind]), Err(Dropped::DtlsMalformed));
                assert!(end.poll().is_none());
            }
        }
    }
}
