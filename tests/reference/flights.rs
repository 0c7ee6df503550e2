//! The DTLS gate in both roles against a peer whose datagrams the network, and an attacker on the way, treat badly: an
//! input cuts a recorded handshake's messages into fragments, mixes, repeats and loses them and throws forged records
//! between. The gate passes on the peer's messages, whole, in order, each once; and an honest repetition completes it.
//! Used by the fuzz target `dtls_flights` and by `tests/reference.rs`.

use weirgate::base::limits::{EARLY_RECORD_BYTES_MAX, EARLY_RECORDS_MAX, HANDSHAKE_BYTES_MAX};
use weirgate::secure::dtls::Side;
use weirgate::secure::dtls::gate::Gate;

use crate::choices::Choices;

const OPS_MAX: usize = 200;
const RECORD_HEADER_LEN: usize = 13;
const MESSAGE_HEADER_LEN: usize = 12;
const HANDSHAKE: u8 = 22;
const HELD_MAX: usize = HANDSHAKE_BYTES_MAX + EARLY_RECORDS_MAX * (EARLY_RECORD_BYTES_MAX + RECORD_HEADER_LEN);
/// Each datagram of these is behind two bytes of its length; the first byte is the role.
const TO_SERVER: &[u8] = include_bytes!("../../fuzz/seeds/dtls_gate/server-clean");
const TO_CLIENT: &[u8] = include_bytes!("../../fuzz/seeds/dtls_gate/client-clean");

struct Message {
    kind: u8,
    seq: u16,
    body: Vec<u8>,
}

impl Message {
    /// A record with the bytes `from..to` of it.
    fn fragment(&self, number: u64, from: usize, to: usize) -> Vec<u8> {
        let mut message = vec![self.kind];
        message.extend(&(self.body.len() as u32).to_be_bytes()[1..]);
        message.extend(self.seq.to_be_bytes());
        message.extend(&(from as u32).to_be_bytes()[1..]);
        message.extend(&((to - from) as u32).to_be_bytes()[1..]);
        message.extend(&self.body[from..to]);
        record(HANDSHAKE, 0, number, &message)
    }

    fn whole(&self, number: u64) -> Vec<u8> {
        self.fragment(number, 0, self.body.len())
    }
}

fn record(kind: u8, epoch: u16, number: u64, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 0xfe, 0xfd];
    record.extend(epoch.to_be_bytes());
    record.extend(&number.to_be_bytes()[2..]);
    record.extend((payload.len() as u16).to_be_bytes());
    record.extend(payload);
    record
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

/// The messages in plaintext of some datagrams' records, each of which must be whole.
fn messages<'a>(datagrams: impl Iterator<Item = &'a [u8]>) -> Vec<Message> {
    let mut found = Vec::new();
    for mut rest in datagrams {
        while rest.len() > RECORD_HEADER_LEN {
            let (header, behind) = rest.split_at(RECORD_HEADER_LEN);
            let (payload, behind) = behind.split_at(number(&header[11..13]).min(behind.len()));
            rest = behind;
            if header[0] != HANDSHAKE || number(&header[3..5]) != 0 {
                continue;
            }
            let (message, body) = payload.split_at(MESSAGE_HEADER_LEN);
            let whole = number(&message[6..9]) == 0 && number(&message[9..12]) == number(&message[1..4]);
            assert!(whole && body.len() == number(&message[1..4]), "a message in one piece");
            found.push(Message { kind: message[0], seq: number(&message[4..6]) as u16, body: body.to_vec() });
        }
    }
    found
}

fn recorded(mut bytes: &[u8]) -> Vec<Message> {
    let mut datagrams = Vec::new();
    bytes = &bytes[1..];
    while let Some((len, behind)) = bytes.split_first_chunk::<2>() {
        let (datagram, behind) = behind.split_at(usize::from(u16::from_be_bytes(*len)));
        datagrams.push(datagram);
        bytes = behind;
    }
    messages(datagrams.into_iter())
}

/// How many messages were passed on.
pub fn run(bytes: &[u8]) -> usize {
    let mut choices = Choices::new(bytes);
    let client = choices.yes();
    let (side, sent) = if client { (Side::Client, recorded(TO_CLIENT)) } else { (Side::Server, recorded(TO_SERVER)) };
    let mut gate = Gate::new(side);
    let (mut passed, mut record_number, mut hellos) = (Vec::new(), 0, 0);
    let mut handle = |datagram: &[u8], passed: &mut Vec<Message>| {
        let outcome = gate.handle(datagram);
        hellos += usize::from(outcome.hello.is_some());
        assert!(hellos <= usize::from(!client), "the library is started once, and by a client's hello alone");
        passed.extend(messages(outcome.deliver.iter().map(Vec::as_slice)));
        assert!(passed.len() <= sent.len(), "more was passed on than was sent");
        for (passed, sent) in passed.iter().zip(&sent) {
            assert!((passed.kind, &passed.body) == (sent.kind, &sent.body), "message {} is another's", sent.seq);
        }
        assert!(gate.held() <= HELD_MAX);
    };
    for _ in 0..OPS_MAX {
        if choices.is_empty() {
            break;
        }
        let message = &sent[choices.of(sent.len())];
        record_number += 1;
        let len = message.body.len();
        let mut datagram = match choices.of(8) {
            0 => message.whole(record_number),
            1..=4 => {
                let from = usize::from(choices.word()).checked_rem(len).unwrap_or(0);
                let to = (from + 1 + usize::from(choices.word()) % 400).min(len);
                message.fragment(record_number, from, to.max(from))
            }
            // Another length for the same message.
            5 if len > 1 => {
                let mut forged = message.fragment(record_number, len - 1, len);
                let wrong = (len as u32).wrapping_add(1 + u32::from(choices.byte())).to_be_bytes();
                forged[RECORD_HEADER_LEN + 1..RECORD_HEADER_LEN + 4].copy_from_slice(&wrong[1..]);
                forged
            }
            // A record of some kind with some bytes, none of them a handshake in plaintext.
            _ => {
                let (kind, epoch) = ([20, 21, 23, 24, HANDSHAKE][choices.of(5)], u16::from(choices.byte() & 3));
                let epoch = if kind == HANDSHAKE { epoch.max(1) } else { epoch };
                let len = usize::from(choices.byte());
                record(kind, epoch, record_number, choices.take(len))
            }
        };
        if choices.of(8) == 7 {
            let keep = usize::from(choices.word()) % datagram.len();
            datagram.truncate(keep);
        }
        handle(&datagram, &mut passed);
    }
    // The peer hears nothing, and sends all of it once more, each message by itself.
    for message in &sent {
        record_number += 1;
        handle(&message.whole(record_number), &mut passed);
    }
    assert_eq!(passed.len(), sent.len(), "all of it has passed");
    passed.len()
}
