//! What stands in front of a DTLS library, whichever and in both roles: it takes datagrams apart, puts handshake messages
//! together within bounds, and passes on only what is whole, well formed and expected now, in order, each message once
//! and in one piece. (The transcript of a DTLS handshake is over unfragmented messages, RFC 6347 section 4.2.6: framing
//! them anew changes nothing.)
//! Pure bytes: no clock, no library, no reply. Called by `opening`.

use super::message::{ClientHello, ECDSA_SUITE, MessageType, suite_of_server_hello};
use super::reassembly::{Added, Fragment, HANDSHAKE_HEADER_LEN, HandshakeMessage, Reassembly};
use super::record::{ALERT, CHANGE_CIPHER_SPEC, DtlsRecord, HANDSHAKE, RECORD_HEADER_LEN};
use super::session::Side;
use crate::base::limits::{
    EARLY_RECORD_BYTES_MAX, EARLY_RECORDS_MAX, HANDSHAKE_ENCRYPTED_RECORDS_MAX, HANDSHAKE_MESSAGE_BYTES_MAX,
};
use crate::secure::dropped::SecureDrop;
use crate::secure::srtp::SrtpProfile;
use std::collections::VecDeque;

/// The first ClientHello of a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// To answer it with; None if it offers none of ours.
    pub profile: Option<SrtpProfile>,
    /// Not every library takes one.
    pub has_session_id: bool,
}

/// What a datagram came to.
#[derive(Default, Debug)]
pub struct Outcome {
    /// Datagrams for the library, in order; each fits its receive buffer.
    pub deliver: Vec<Vec<u8>>,
    /// The first ClientHello was among them.
    pub hello: Option<Hello>,
    /// A whole ClientHello that is not well formed.
    pub unfit_hello: bool,
    /// The peer repeats a flight that we have answered: our answer was lost.
    pub repeated: bool,
    /// The first thing that was dropped. What was good of the datagram has gone through all the same.
    pub dropped: Option<SecureDrop>,
}

/// What the library takes in one datagram.
const DELIVERY_BYTES_MAX: usize = 8_192;
/// Explicit nonce, tag and one byte: the library subtracts before it looks (all suites it is offered are GCM).
const SEALED_LEN_MIN: usize = 8 + 1 + 16;

const _: () = assert!(RECORD_HEADER_LEN + HANDSHAKE_HEADER_LEN + HANDSHAKE_MESSAGE_BYTES_MAX <= DELIVERY_BYTES_MAX);
const _: () = assert!(RECORD_HEADER_LEN + EARLY_RECORD_BYTES_MAX <= DELIVERY_BYTES_MAX);

/// How far the peer's plaintext messages have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Start,
    /// Server: the first hello came. Client: the server wants a cookie.
    Verifying,
    HelloDone,
    CertificateDone,
    KeyExchangeDone,
    CertificateRequested,
    /// All plaintext messages came: what follows is encrypted.
    Complete,
}

impl Stage {
    /// The stage that `message` leads to, if it may come now.
    fn after(self, side: Side, message: MessageType) -> Option<Stage> {
        use MessageType as M;
        Some(match (side, self, message) {
            (Side::Server, Stage::Start, M::ClientHello) => Stage::Verifying,
            (Side::Server, Stage::Verifying, M::ClientHello) => Stage::HelloDone,
            (Side::Server, Stage::HelloDone, M::Certificate) => Stage::CertificateDone,
            (Side::Server, Stage::CertificateDone, M::ClientKeyExchange) => Stage::KeyExchangeDone,
            (Side::Server, Stage::KeyExchangeDone, M::CertificateVerify) => Stage::Complete,
            (Side::Client, Stage::Start, M::HelloVerifyRequest) => Stage::Verifying,
            (Side::Client, Stage::Start | Stage::Verifying, M::ServerHello) => Stage::HelloDone,
            (Side::Client, Stage::HelloDone, M::Certificate) => Stage::CertificateDone,
            (Side::Client, Stage::CertificateDone, M::ServerKeyExchange) => Stage::KeyExchangeDone,
            (Side::Client, Stage::KeyExchangeDone, M::CertificateRequest) => Stage::CertificateRequested,
            (Side::Client, Stage::KeyExchangeDone | Stage::CertificateRequested, M::ServerHelloDone) => Stage::Complete,
            _ => return None,
        })
    }

    /// Whether the peer's flight is whole, and ours has answered it.
    fn is_answered(self, side: Side) -> bool {
        match side {
            Side::Server => matches!(self, Stage::Verifying | Stage::HelloDone),
            Side::Client => matches!(self, Stage::Verifying | Stage::Complete),
        }
    }
}

pub struct Gate {
    side: Side,
    stage: Stage,
    pieces: Reassembly,
    /// The message sequence number that the peer's present flight began with.
    flight_start: u16,
    hello: Option<ClientHello>,
    /// Of the ServerHello, where it is the peer's.
    suite: Option<&'static str>,
    change_cipher_spec: bool,
    /// Encrypted records that came before everything in plaintext had.
    early: VecDeque<Vec<u8>>,
    encrypted_delivered: usize,
    /// Plaintext records are numbered anew: a forged number cannot push the library's replay window ahead.
    record_number: u64,
}

impl Gate {
    pub fn new(side: Side) -> Gate {
        Gate {
            side,
            stage: Stage::Start,
            pieces: Reassembly::default(),
            flight_start: 0,
            hello: None,
            suite: None,
            change_cipher_spec: false,
            early: VecDeque::new(),
            encrypted_delivered: 0,
            record_number: 0,
        }
    }

    /// The cipher suite, once it is agreed on.
    pub fn suite(&self) -> &'static str {
        match self.side {
            Side::Server => ECDSA_SUITE,
            Side::Client => self.suite.unwrap_or("unknown"),
        }
    }

    /// Bytes held for this handshake.
    pub fn held(&self) -> usize {
        self.pieces.held() + self.early.iter().map(Vec::len).sum::<usize>()
    }

    pub fn handle(&mut self, datagram: &[u8]) -> Outcome {
        let mut outcome = Outcome::default();
        let mut rest = datagram;
        while !rest.is_empty() {
            let result = match DtlsRecord::split(rest) {
                Some((record, behind)) => {
                    rest = behind;
                    self.record(record, &mut outcome)
                }
                None => {
                    rest = &[];
                    Err(SecureDrop::DtlsMalformed)
                }
            };
            if let Err(why) = result {
                outcome.dropped.get_or_insert(why);
            }
        }
        outcome
    }

    fn record(&mut self, record: DtlsRecord<'_>, outcome: &mut Outcome) -> Result<(), SecureDrop> {
        match (record.epoch, record.kind) {
            (1, ALERT | HANDSHAKE) => self.encrypted(record, outcome),
            (0, HANDSHAKE) => self.handshake(record.payload, outcome),
            (0, CHANGE_CIPHER_SPEC) if record.payload == [1] => {
                if std::mem::replace(&mut self.change_cipher_spec, true) {
                    return Ok(());
                }
                self.release(outcome);
                Ok(())
            }
            (0, CHANGE_CIPHER_SPEC) => Err(SecureDrop::DtlsMalformed),
            // An alert or data in plaintext: anybody on the path may have made it (RFC 6347 section 4.1.2.7).
            (0, _) => Err(SecureDrop::DtlsPlaintext),
            _ => Err(SecureDrop::DtlsOutOfPlace),
        }
    }

    /// RFC 6347 section 4.2.3: a record may hold fragments of several messages.
    fn handshake(&mut self, payload: &[u8], outcome: &mut Outcome) -> Result<(), SecureDrop> {
        let mut rest = payload;
        let mut result = Ok(());
        while !rest.is_empty() {
            let Some((fragment, behind)) = Fragment::split(rest) else {
                return result.and(Err(SecureDrop::DtlsMalformed));
            };
            rest = behind;
            result = result.and(self.fragment(fragment, outcome));
        }
        result
    }

    fn fragment(&mut self, fragment: Fragment<'_>, outcome: &mut Outcome) -> Result<(), SecureDrop> {
        if MessageType::from_byte(fragment.kind).is_none() {
            return Err(SecureDrop::DtlsOutOfPlace);
        }
        match self.pieces.add(&fragment)? {
            Added::Kept => self.deliver_whole(outcome),
            Added::Delivered => {
                outcome.repeated |= fragment.sequence >= self.flight_start && self.stage.is_answered(self.side);
                Ok(())
            }
        }
    }

    fn deliver_whole(&mut self, outcome: &mut Outcome) -> Result<(), SecureDrop> {
        while let Some(message) = self.pieces.take_next() {
            // A message that may not pass is forgotten: the peer's own may still come.
            let kind = MessageType::from_byte(message.kind).ok_or(SecureDrop::DtlsOutOfPlace)?;
            let stage = self.stage.after(self.side, kind).ok_or(SecureDrop::DtlsOutOfPlace)?;
            if kind == MessageType::ClientHello {
                let Some(hello) = ClientHello::parse(&message.body) else {
                    outcome.unfit_hello = true;
                    return Err(SecureDrop::DtlsMalformed);
                };
                match &self.hello {
                    None => {
                        outcome.hello = Some(Hello { profile: hello.profile, has_session_id: hello.has_session_id })
                    }
                    Some(first) if first.essence == hello.essence => {}
                    Some(_) => return Err(SecureDrop::DtlsHelloChanged),
                }
                self.hello = Some(hello);
            } else if !kind.is_well_formed(&message.body) {
                return Err(SecureDrop::DtlsMalformed);
            } else if kind == MessageType::ServerHello {
                self.suite = suite_of_server_hello(&message.body);
            }
            if self.stage.is_answered(self.side) {
                self.flight_start = message.sequence;
            }
            let record = self.frame(&message);
            push(outcome, &record);
            self.stage = stage;
            self.pieces.advance();
        }
        self.release(outcome);
        Ok(())
    }

    /// The message as one fragment in one record.
    fn frame(&mut self, message: &HandshakeMessage) -> Vec<u8> {
        let len = (message.body.len() as u32).to_be_bytes();
        let mut payload = Vec::with_capacity(HANDSHAKE_HEADER_LEN + message.body.len());
        payload.push(message.kind);
        payload.extend_from_slice(&len[1..]);
        payload.extend_from_slice(&message.sequence.to_be_bytes());
        payload.extend_from_slice(&[0, 0, 0]);
        payload.extend_from_slice(&len[1..]);
        payload.extend_from_slice(&message.body);
        self.plain_record(HANDSHAKE, &payload)
    }

    fn plain_record(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut record = Vec::with_capacity(RECORD_HEADER_LEN + payload.len());
        record.extend_from_slice(&[kind, 0xFE, 0xFD, 0, 0]);
        record.extend_from_slice(&self.record_number.to_be_bytes()[2..]);
        record.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        record.extend_from_slice(payload);
        self.record_number += 1;
        record
    }

    /// Once all plaintext messages are through, ChangeCipherSpec and then what is encrypted: the library queues
    /// without limit whatever comes before.
    fn release(&mut self, outcome: &mut Outcome) {
        if self.stage != Stage::Complete || !self.change_cipher_spec || self.encrypted_delivered > 0 {
            return;
        }
        let record = self.plain_record(CHANGE_CIPHER_SPEC, &[1]);
        push(outcome, &record);
        self.encrypted_delivered = 1;
        for record in std::mem::take(&mut self.early) {
            self.encrypted_delivered += 1;
            push(outcome, &record);
        }
    }

    fn encrypted(&mut self, record: DtlsRecord<'_>, outcome: &mut Outcome) -> Result<(), SecureDrop> {
        if !(SEALED_LEN_MIN..=EARLY_RECORD_BYTES_MAX).contains(&record.payload.len()) {
            return Err(SecureDrop::DtlsMalformed);
        }
        if self.encrypted_delivered == 0 {
            // The newest are kept: a flood of forgeries before must not shut out the peer's Finished.
            self.early.push_back(record.whole.to_vec());
            if self.early.len() > EARLY_RECORDS_MAX {
                self.early.pop_front();
                return Err(SecureDrop::DtlsEarly);
            }
            return Ok(());
        }
        // Whoever holds the keys may still put fragments into these records: not without end.
        if self.encrypted_delivered >= HANDSHAKE_ENCRYPTED_RECORDS_MAX {
            return Err(SecureDrop::DtlsEarly);
        }
        self.encrypted_delivered += 1;
        push(outcome, record.whole);
        Ok(())
    }
}

/// Records that come together go to the library together: it then verifies a flight once.
fn push(outcome: &mut Outcome, record: &[u8]) {
    match outcome.deliver.last_mut() {
        Some(datagram) if datagram.len() + record.len() <= DELIVERY_BYTES_MAX => datagram.extend_from_slice(record),
        _ => outcome.deliver.push(record.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_MESSAGES_AHEAD_MAX};
    use crate::secure::dtls::message::tests::client_hello;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn record(kind: u8, epoch: u16, payload: &[u8]) -> Vec<u8> {
        let mut record = vec![kind, 0xFE, 0xFD];
        record.extend(epoch.to_be_bytes());
        record.extend([0; 6]);
        record.extend((payload.len() as u16).to_be_bytes());
        record.extend(payload);
        record
    }

    fn fragment(kind: u8, sequence: u16, len: usize, offset: usize, bytes: &[u8]) -> Vec<u8> {
        let u24 = |number: usize| (number as u32).to_be_bytes()[1..].to_vec();
        let sequence = sequence.to_be_bytes().to_vec();
        let payload = [vec![kind], u24(len), sequence, u24(offset), u24(bytes.len()), bytes.to_vec()];
        record(HANDSHAKE, 0, &payload.concat())
    }

    fn whole(kind: u8, sequence: u16, body: &[u8]) -> Vec<u8> {
        fragment(kind, sequence, body.len(), 0, body)
    }

    const CERTIFICATE: &[u8] = &[0, 0, 4, 0, 0, 1, 48];
    const KEY_EXCHANGE: &[u8] = &[2, 9, 9];
    const VERIFY: &[u8] = &[4, 3, 0, 1, 7];

    /// A server's gate past both hellos.
    fn past_hellos() -> Gate {
        let mut gate = Gate::new(Side::Server);
        let first = gate.handle(&whole(1, 0, &client_hello(&[], 0)));
        let hello = Hello { profile: Some(SrtpProfile::AeadAes128Gcm), has_session_id: false };
        assert_eq!(first.hello, Some(hello));
        let second = gate.handle(&whole(1, 1, &client_hello(&[7; 20], 0)));
        assert!(second.hello.is_none() && second.deliver.len() == 1 && second.dropped.is_none());
        gate
    }

    fn complete() -> Gate {
        let mut gate = past_hellos();
        for (kind, sequence, body) in [(11, 2, CERTIFICATE), (16, 3, KEY_EXCHANGE), (15, 4, VERIFY)] {
            assert_eq!(gate.handle(&whole(kind, sequence, body)).deliver.len(), 1);
        }
        gate
    }

    #[test]
    fn a_long_hello_in_any_pieces_is_delivered_once_and_whole() {
        let body = client_hello(&[], 2_000);
        let expected = Gate::new(Side::Server).handle(&whole(1, 0, &body)).deliver;
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..50 {
            let mut gate = Gate::new(Side::Server);
            let mut pieces: Vec<(usize, usize)> = (0..body.len())
                .step_by(97)
                .map(|from| (from, (from + rng.random_range(97..300)).min(body.len())))
                .collect();
            pieces.extend(pieces.clone());
            let mut delivered = Vec::new();
            while !pieces.is_empty() {
                let (from, to) = pieces.swap_remove(rng.random_range(0..pieces.len()));
                let outcome = gate.handle(&fragment(1, 0, body.len(), from, &body[from..to]));
                assert_eq!(outcome.dropped, None);
                delivered.extend(outcome.deliver);
                assert!(gate.held() <= HANDSHAKE_BYTES_MAX);
            }
            assert_eq!(delivered, expected);
            assert_eq!(gate.held(), 0);
        }
    }

    #[test]
    fn messages_are_delivered_in_order_and_the_encrypted_last() {
        let mut gate = past_hellos();
        let finished = record(HANDSHAKE, 1, &[9; 48]);
        let hasty = [&finished[..], &record(CHANGE_CIPHER_SPEC, 0, &[1]), &whole(15, 4, VERIFY)].concat();
        assert!(gate.handle(&hasty).deliver.is_empty());
        assert!(gate.handle(&whole(16, 3, KEY_EXCHANGE)).deliver.is_empty());
        let delivered = gate.handle(&whole(11, 2, CERTIFICATE)).deliver.concat();
        let mut kinds = Vec::new();
        let mut rest = &delivered[..];
        while let Some((record, behind)) = DtlsRecord::split(rest) {
            kinds.push((record.kind, record.epoch, record.payload[0]));
            rest = behind;
        }
        assert_eq!(kinds, [(22, 0, 11), (22, 0, 16), (22, 0, 15), (20, 0, 1), (22, 1, 9)]);
        assert!(delivered.ends_with(&finished), "encrypted records pass unchanged");
    }

    #[test]
    fn what_is_out_of_place_is_dropped_and_harms_nothing() {
        let mut gate = Gate::new(Side::Server);
        for (kind, sequence) in [(11, 0), (2, 0), (20, 0), (0, 0), (1, HANDSHAKE_MESSAGES_AHEAD_MAX), (1, 40_000)] {
            let outcome = gate.handle(&whole(kind, sequence, CERTIFICATE));
            assert!(outcome.deliver.is_empty() && (sequence == 40_000 || outcome.dropped.is_some()), "{kind}");
        }
        assert_eq!(gate.handle(&record(HANDSHAKE, 2, &[0; 40])).dropped, Some(SecureDrop::DtlsOutOfPlace));
        assert_eq!(gate.handle(&record(23, 1, &[0; 40])).dropped, Some(SecureDrop::DtlsOutOfPlace));
        assert_eq!(gate.handle(&record(CHANGE_CIPHER_SPEC, 0, &[2])).dropped, Some(SecureDrop::DtlsMalformed));
        assert!(gate.handle(&whole(1, 0, &client_hello(&[], 0))).hello.is_some());
        let changed =
            client_hello(&[7; 20], 0).iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 9)).collect::<Vec<_>>();
        assert_eq!(gate.handle(&whole(1, 1, &changed)).dropped, Some(SecureDrop::DtlsHelloChanged));
        assert!(gate.handle(&whole(1, 1, &client_hello(&[7; 20], 0))).deliver.len() == 1, "the right one still may");
    }

    #[test]
    fn what_is_held_is_bounded_and_the_next_message_has_precedence() {
        let mut gate = Gate::new(Side::Server);
        for sequence in 1..HANDSHAKE_MESSAGES_AHEAD_MAX {
            // Of several that differ the last is kept.
            for len in [1, 100, HANDSHAKE_MESSAGE_BYTES_MAX] {
                gate.handle(&fragment(11, sequence, len, 0, &[1]));
                assert!(gate.held() <= HANDSHAKE_BYTES_MAX);
            }
        }
        assert!(gate.held() > HANDSHAKE_BYTES_MAX / 2);
        let body = client_hello(&[], HANDSHAKE_MESSAGE_BYTES_MAX - 200);
        assert!(gate.handle(&whole(1, 0, &body)).hello.is_some());
        let over = fragment(1, 1, HANDSHAKE_MESSAGE_BYTES_MAX + 1, 0, &[1]);
        assert_eq!(gate.handle(&over).dropped, Some(SecureDrop::DtlsTooLarge));
    }

    /// Whoever forges a piece of a message of another length neither keeps the peer's own out nor, where there is no room
    /// for his, takes away what has come of it.
    #[test]
    fn pieces_of_another_message_give_way_to_the_peers() {
        let hello = client_hello(&[], 400);
        let (front, back) = hello.split_at(200);
        let piece = |sequence, offset, bytes: &[u8]| fragment(1, sequence, hello.len(), offset, bytes);
        let mut gate = Gate::new(Side::Server);
        gate.handle(&fragment(1, 0, hello.len() + 1, 0, &[1]));
        gate.handle(&piece(0, 0, front));
        assert!(gate.handle(&piece(0, 200, back)).hello.is_some());

        // Room is left for a small message, not for a large one.
        let mut full = Gate::new(Side::Server);
        for sequence in 0..2 {
            full.handle(&fragment(1, sequence, HANDSHAKE_MESSAGE_BYTES_MAX, 0, &[1]));
        }
        full.handle(&fragment(11, 2, CERTIFICATE.len(), 0, &CERTIFICATE[..1]));
        let held = full.held();
        let forged = fragment(11, 2, HANDSHAKE_MESSAGE_BYTES_MAX, 0, &[1]);
        assert_eq!(full.handle(&forged).dropped, Some(SecureDrop::DtlsBufferFull));
        assert_eq!(full.held(), held, "what had come of the certificate is still there");
    }

    #[test]
    fn encrypted_records_are_bounded_before_and_after_the_keys() {
        let mut gate = complete();
        for number in 0..100u8 {
            let outcome = gate.handle(&record(HANDSHAKE, 1, &[number; 48]));
            let full = usize::from(number) >= EARLY_RECORDS_MAX;
            assert_eq!(outcome.dropped, full.then_some(SecureDrop::DtlsEarly));
            assert!(outcome.deliver.is_empty());
        }
        let released = gate.handle(&record(CHANGE_CIPHER_SPEC, 0, &[1])).deliver.concat();
        assert!(released.ends_with(&[99; 48]), "the newest were kept");
        let later = (0..1_000).filter(|_| !gate.handle(&record(HANDSHAKE, 1, &[7; 48])).deliver.is_empty()).count();
        assert_eq!(later + EARLY_RECORDS_MAX + 1, HANDSHAKE_ENCRYPTED_RECORDS_MAX);
        for len in [1, 8, 23, 24, EARLY_RECORD_BYTES_MAX + 1] {
            assert_eq!(
                complete().handle(&record(HANDSHAKE, 1, &vec![7; len])).dropped,
                Some(SecureDrop::DtlsMalformed)
            );
        }
    }

    #[test]
    fn a_repeated_flight_is_noticed_only_when_ours_has_answered_it() {
        let mut gate = Gate::new(Side::Server);
        let first = whole(1, 0, &client_hello(&[], 0));
        assert!(!gate.handle(&first).repeated);
        assert!(gate.handle(&first).repeated);
        gate.handle(&whole(1, 1, &client_hello(&[7; 20], 0)));
        assert!(!gate.handle(&first).repeated, "that one is settled");
        gate.handle(&whole(11, 2, CERTIFICATE));
        assert!(!gate.handle(&whole(11, 2, CERTIFICATE)).repeated, "the flight is not whole");
    }

    #[test]
    fn junk_in_both_roles_delivers_only_bounded_datagrams() {
        let mut rng = StdRng::seed_from_u64(2);
        for side in [Side::Server, Side::Client] {
            let mut gate = Gate::new(side);
            for _ in 0..50_000 {
                let kind = rng.random_range(19..24);
                let mut datagram: Vec<u8> = (0..rng.random_range(0..120)).map(|_| rng.random()).collect();
                if rng.random_bool(0.5) {
                    let kind = rng.random_range(0..21);
                    datagram = fragment(kind, rng.random_range(0..9), datagram.len(), 0, &datagram);
                } else if rng.random_bool(0.7) {
                    datagram = record(kind, rng.random_range(0..3), &datagram);
                }
                let outcome = gate.handle(&datagram);
                assert!(outcome.deliver.iter().all(|delivered| delivered.len() <= DELIVERY_BYTES_MAX));
                assert!(gate.held() <= HANDSHAKE_BYTES_MAX + EARLY_RECORDS_MAX * 300);
            }
        }
    }
}
