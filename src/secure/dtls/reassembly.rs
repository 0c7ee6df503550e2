//! Handshake messages out of fragments (RFC 6347 sections 4.2.2 and 4.2.3), in any order, overlapping or repeated, within
//! fixed bounds. Knows sequence numbers and lengths, no contents. Called by `gate`.

use crate::base::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_MESSAGE_BYTES_MAX, HANDSHAKE_MESSAGES_AHEAD_MAX};
use crate::secure::dropped::SecureDrop;

pub(super) const HANDSHAKE_HEADER_LEN: usize = 12;

pub(super) struct Fragment<'a> {
    pub(super) kind: u8,
    pub(super) sequence: u16,
    len: usize,
    offset: usize,
    bytes: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// The first fragment of a record and what follows it. None when it does not lie within its message.
    pub(super) fn split(bytes: &'a [u8]) -> Option<(Fragment<'a>, &'a [u8])> {
        let (header, rest) = bytes.split_at_checked(HANDSHAKE_HEADER_LEN)?;
        let number = |at: usize| header[at..at + 3].iter().fold(0, |number, &byte| number << 8 | usize::from(byte));
        let (len, offset) = (number(1), number(6));
        let (bytes, rest) = rest.split_at_checked(number(9))?;
        if offset + bytes.len() > len {
            return None;
        }
        let sequence = u16::from_be_bytes([header[4], header[5]]);
        Some((Fragment { kind: header[0], sequence, len, offset, bytes }, rest))
    }
}

/// A handshake message, while in pieces and when whole.
pub(super) struct HandshakeMessage {
    pub(super) sequence: u16,
    pub(super) kind: u8,
    pub(super) body: Vec<u8>,
    /// A bit for each byte that has come.
    have: Vec<u64>,
    /// Two pieces said different things of one byte, so that one was forged: now a bit for each byte that has come twice
    /// and was the same.
    confirmed: Option<Vec<u64>>,
    /// Bytes that have not come; of a message in dispute, that are not confirmed.
    missing: usize,
}

pub(super) enum Added {
    Kept,
    /// Its message was whole and taken before.
    Delivered,
}

/// At most [`HANDSHAKE_MESSAGES_AHEAD_MAX`] messages and [`HANDSHAKE_BYTES_MAX`] bytes.
#[derive(Default)]
pub(super) struct Reassembly {
    /// The sequence number that comes next.
    next: u16,
    messages: Vec<HandshakeMessage>,
}

impl Reassembly {
    pub(super) fn held(&self) -> usize {
        self.messages.iter().map(|message| HandshakeMessage::size(message.body.len())).sum()
    }

    pub(super) fn add(&mut self, fragment: &Fragment<'_>) -> Result<Added, SecureDrop> {
        if fragment.len > HANDSHAKE_MESSAGE_BYTES_MAX {
            return Err(SecureDrop::DtlsTooLarge);
        }
        // An empty fragment of a message that is not empty says nothing.
        if fragment.bytes.is_empty() && fragment.len > 0 {
            return Err(SecureDrop::DtlsMalformed);
        }
        let ahead = self.ahead(fragment.sequence);
        if ahead > u16::MAX / 2 {
            return Ok(Added::Delivered);
        }
        if ahead >= HANDSHAKE_MESSAGES_AHEAD_MAX {
            return Err(SecureDrop::DtlsOutOfPlace);
        }
        let same = |message: &HandshakeMessage| message.kind == fragment.kind && message.body.len() == fragment.len;
        let at = self.messages.iter().position(|message| message.sequence == fragment.sequence);
        if let Some(at) = at.filter(|at| same(&self.messages[*at])) {
            self.messages[at].add(fragment);
            return Ok(Added::Kept);
        }
        // Of two that differ one was forged, and nobody can tell which. Who is honest repeats its own: what came first must
        // not shut that out, nor give way to what has no room.
        let before = at.map(|at| self.messages.swap_remove(at));
        if let Err(full) = self.make_room(fragment) {
            self.messages.extend(before);
            return Err(full);
        }
        let mut message = HandshakeMessage::new(fragment);
        message.add(fragment);
        self.messages.push(message);
        Ok(Added::Kept)
    }

    /// The next message, if it is whole. It stays the next one until [`Reassembly::advance`].
    pub(super) fn take_next(&mut self) -> Option<HandshakeMessage> {
        let next = self.next;
        let at = self.messages.iter().position(|message| message.sequence == next && message.missing == 0)?;
        Some(self.messages.swap_remove(at))
    }

    pub(super) fn advance(&mut self) {
        self.next = self.next.wrapping_add(1);
    }

    fn ahead(&self, sequence: u16) -> u16 {
        sequence.wrapping_sub(self.next)
    }

    /// What lies further ahead gives way to what comes sooner, never the other way round.
    fn make_room(&mut self, fragment: &Fragment<'_>) -> Result<(), SecureDrop> {
        while self.held() + HandshakeMessage::size(fragment.len) > HANDSHAKE_BYTES_MAX {
            let furthest = (0..self.messages.len()).max_by_key(|&at| self.ahead(self.messages[at].sequence));
            match furthest {
                Some(at) if self.ahead(self.messages[at].sequence) > self.ahead(fragment.sequence) => {
                    self.messages.swap_remove(at);
                }
                _ => return Err(SecureDrop::DtlsBufferFull),
            }
        }
        Ok(())
    }
}

impl HandshakeMessage {
    fn new(fragment: &Fragment<'_>) -> HandshakeMessage {
        HandshakeMessage {
            sequence: fragment.sequence,
            kind: fragment.kind,
            body: vec![0; fragment.len],
            have: vec![0; fragment.len.div_ceil(64)],
            confirmed: None,
            missing: fragment.len,
        }
    }

    /// What it takes to hold one, in dispute or not.
    fn size(len: usize) -> usize {
        len + 2 * len.div_ceil(64) * 8
    }

    /// Who is honest repeats itself word for word until it is answered; a forgery has to win against that. A message in one
    /// piece agrees with itself.
    fn add(&mut self, fragment: &Fragment<'_>) {
        if self.missing == 0 {
            return;
        }
        if fragment.bytes.len() == fragment.len {
            self.body.copy_from_slice(fragment.bytes);
            self.missing = 0;
            return;
        }
        let contradicts = |(at, byte): (usize, &u8)| has(&self.have, at) && self.body[at] != *byte;
        if self.confirmed.is_none() && (fragment.offset..).zip(fragment.bytes).any(contradicts) {
            self.confirmed = Some(vec![0; self.have.len()]);
            self.missing = self.body.len();
        }
        for (at, &byte) in (fragment.offset..).zip(fragment.bytes) {
            let came = has(&self.have, at);
            mark(&mut self.have, at);
            match &mut self.confirmed {
                None => self.missing -= usize::from(!came),
                Some(confirmed) if came && self.body[at] == byte => {
                    self.missing -= usize::from(!has(confirmed, at));
                    mark(confirmed, at);
                }
                // What has come twice stays.
                Some(confirmed) if has(confirmed, at) => continue,
                Some(_) => {}
            }
            self.body[at] = byte;
        }
    }
}

fn has(bits: &[u64], at: usize) -> bool {
    bits[at / 64] >> (at % 64) & 1 == 1
}

fn mark(bits: &mut [u64], at: usize) {
    bits[at / 64] |= 1 << (at % 64);
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: [u8; 90] = [7; 90];

    fn piece(bytes: &[u8], from: usize, to: usize) -> Fragment<'_> {
        Fragment { kind: 11, sequence: 0, len: bytes.len(), offset: from, bytes: &bytes[from..to] }
    }

    fn add(pieces: &mut Reassembly, fragment: &Fragment<'_>) -> Option<Vec<u8>> {
        assert!(matches!(pieces.add(fragment), Ok(Added::Kept)));
        pieces.take_next().map(|message| message.body)
    }

    #[test]
    fn a_forged_piece_costs_a_repetition_and_not_the_message() {
        let mut forged = BODY;
        forged[40] = 8;
        let honest = [(0, 30), (30, 60), (60, 90)];
        // Before and after the honest piece, and once more while the honest one is repeated.
        for order in [&[0, 1, 2, 9, 1, 0, 1, 2][..], &[0, 9, 1, 2, 0, 1, 2], &[9, 0, 1, 2, 0, 1, 2, 9]] {
            let mut pieces = Reassembly::default();
            let mut found = None;
            for &number in &order[..order.len()] {
                let fragment = match honest.get(number) {
                    Some(&(from, to)) => piece(&BODY, from, to),
                    None => piece(&forged, 35, 50),
                };
                found = found.or(add(&mut pieces, &fragment));
                if found.is_some() {
                    break;
                }
            }
            assert_eq!(found.as_deref(), Some(&BODY[..]), "{order:?}");
        }
    }

    #[test]
    fn a_message_in_one_piece_does_not_mix_with_another() {
        let mut forged = BODY;
        forged[0] = 8;
        let mut pieces = Reassembly::default();
        assert_eq!(add(&mut pieces, &piece(&forged, 0, 50)), None);
        assert_eq!(add(&mut pieces, &piece(&BODY, 0, 90)).as_deref(), Some(&BODY[..]));
    }

    /// One that came ahead of its turn, in one piece and in several.
    #[test]
    fn a_message_that_is_whole_stays_as_it_is_until_its_turn() {
        let mut forged = BODY;
        forged[40] = 8;
        for first in [&[(0, 90)][..], &[(0, 45), (45, 90)]] {
            let mut pieces = Reassembly::default();
            for &(from, to) in first {
                assert!(pieces.add(&Fragment { sequence: 1, ..piece(&BODY, from, to) }).is_ok());
            }
            for body in [&BODY, &forged] {
                for (from, to) in [(0, 90), (30, 60), (0, 1)] {
                    assert!(pieces.add(&Fragment { sequence: 1, ..piece(body, from, to) }).is_ok());
                }
            }
            assert!(add(&mut pieces, &piece(&BODY, 0, 90)).is_some());
            pieces.advance();
            assert_eq!(pieces.take_next().map(|message| message.body).as_deref(), Some(&BODY[..]));
        }
    }

    #[test]
    fn what_is_in_dispute_is_counted_from_the_start() {
        let mut pieces = Reassembly::default();
        add(&mut pieces, &piece(&BODY, 0, 10));
        let held = pieces.held();
        let mut forged = BODY;
        forged[3] = 8;
        add(&mut pieces, &piece(&forged, 0, 10));
        assert_eq!(pieces.held(), held);
        assert_eq!(held, 90 + 2 * 16);
    }
}
