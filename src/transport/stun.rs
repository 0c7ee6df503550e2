//! STUN for ICE (RFC 8489): reads a datagram without allocating, checks its integrity and fingerprint, and finishes a
//! message written with the `stun` crate. No state of an agent: that is `ice_lite` (and the peer of `sim` at the other
//! end). The shard calls [`peek`] to find the transport of a datagram.

use hmac::{Hmac, Mac};
use sha1::Sha1;
use stun::attributes::{ATTR_FINGERPRINT, ATTR_MESSAGE_INTEGRITY};
use stun::fingerprint::FINGERPRINT_XOR_VALUE;
use stun::message::{ATTRIBUTE_HEADER_SIZE, MAGIC_COOKIE, MESSAGE_HEADER_SIZE};

use crate::base::buffer::DATAGRAM_MAX;
use crate::base::limits::STUN_ATTRIBUTES_MAX;

pub const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
pub const PRIORITY: u16 = 0x0024;
pub const USE_CANDIDATE: u16 = 0x0025;
/// The number in the draft of renomination, which libwebrtc uses.
pub const NOMINATION_EARLIER: u16 = 0x0030;
pub const NOMINATION: u16 = 0xC001;
pub const FINGERPRINT: u16 = 0x8028;
pub const ICE_CONTROLLED: u16 = 0x8029;
pub const ICE_CONTROLLING: u16 = 0x802A;

const INTEGRITY_LEN: usize = 20;
const FINGERPRINT_LEN: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StunClass {
    BindingRequest,
    BindingIndication,
    /// Success or error.
    BindingResponse,
    /// libwebrtc's short check, sent only to those who announce it.
    GoogPing,
    Other,
}

/// Not a STUN message: wrong cookie, or a length that does not add up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotStun;

/// The fields of a STUN datagram that the shard needs before any transport is known. Nothing in it is authenticated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StunPeek<'a> {
    pub class: StunClass,
    pub transaction: [u8; 12],
    /// USERNAME up to its colon: the receiver's half (RFC 8445 section 7.2.2). libnice writes it last.
    pub local_ufrag: Option<&'a [u8]>,
}

/// A cheap, allocation-free look at a STUN datagram.
pub fn peek(datagram: &[u8]) -> Result<StunPeek<'_>, NotStun> {
    let view = StunView::parse(datagram)?;
    let local_ufrag = view.local_ufrag();
    Ok(StunPeek { class: view.class(), transaction: view.transaction(), local_ufrag })
}

/// A STUN message whose lengths have all been checked.
#[derive(Clone, Copy, Debug)]
pub struct StunView<'a> {
    bytes: &'a [u8],
    /// Where the attribute MESSAGE-INTEGRITY starts.
    integrity_at: Option<usize>,
    /// Where the attribute FINGERPRINT starts, if it is the last one as RFC 8489 section 14.7 wants it.
    fingerprint_at: Option<usize>,
    fingerprint_misplaced: bool,
}

impl<'a> StunView<'a> {
    pub fn parse(datagram: &'a [u8]) -> Result<StunView<'a>, NotStun> {
        // RFC 8489 section 5: two zero bits, the cookie, and a length that counts whole words after the header.
        if datagram.len() < MESSAGE_HEADER_SIZE || datagram.len() > DATAGRAM_MAX || datagram[0] & 0xc0 != 0 {
            return Err(NotStun);
        }
        let length = usize::from(u16::from_be_bytes([datagram[2], datagram[3]]));
        if length % 4 != 0
            || length + MESSAGE_HEADER_SIZE != datagram.len()
            || datagram[4..8] != MAGIC_COOKIE.to_be_bytes()
        {
            return Err(NotStun);
        }
        let mut view =
            StunView { bytes: datagram, integrity_at: None, fingerprint_at: None, fingerprint_misplaced: false };
        let mut at = MESSAGE_HEADER_SIZE;
        let mut count = 0;
        while at < datagram.len() {
            // The attributes are read several times.
            count += 1;
            if count > STUN_ATTRIBUTES_MAX {
                return Err(NotStun);
            }
            let (kind, value_len) = attribute_header(datagram, at).ok_or(NotStun)?;
            let next = at + ATTRIBUTE_HEADER_SIZE + value_len.next_multiple_of(4);
            if next > datagram.len() {
                return Err(NotStun);
            }
            match kind {
                MESSAGE_INTEGRITY if value_len != INTEGRITY_LEN => return Err(NotStun),
                MESSAGE_INTEGRITY if view.integrity_at.is_none() => view.integrity_at = Some(at),
                FINGERPRINT if value_len == FINGERPRINT_LEN && next == datagram.len() => view.fingerprint_at = Some(at),
                FINGERPRINT => view.fingerprint_misplaced = true,
                _ => {}
            }
            at = next;
        }
        Ok(view)
    }

    pub fn class(&self) -> StunClass {
        match u16::from_be_bytes([self.bytes[0], self.bytes[1]]) {
            0x0001 => StunClass::BindingRequest,
            0x0011 => StunClass::BindingIndication,
            0x0101 | 0x0111 => StunClass::BindingResponse,
            0x0200 => StunClass::GoogPing,
            _ => StunClass::Other,
        }
    }

    pub fn is_success(&self) -> bool {
        self.bytes[..2] == [0x01, 0x01]
    }

    pub fn transaction(&self) -> [u8; 12] {
        let mut transaction = [0; 12];
        transaction.copy_from_slice(&self.bytes[8..MESSAGE_HEADER_SIZE]);
        transaction
    }

    /// Every attribute that counts: RFC 8489 section 14.5 has those after MESSAGE-INTEGRITY ignored, since anybody on
    /// the way could have added them.
    pub fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let bytes = self.bytes;
        let end = self.integrity_at.or(self.fingerprint_at).unwrap_or(bytes.len());
        let mut at = MESSAGE_HEADER_SIZE;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (kind, value_len) = attribute_header(bytes, at)?;
            let start = at + ATTRIBUTE_HEADER_SIZE;
            at = start + value_len.next_multiple_of(4);
            Some((kind, bytes.get(start..start + value_len)?))
        })
    }

    pub fn attribute(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    pub fn local_ufrag(&self) -> Option<&'a [u8]> {
        let username = self.attribute(USERNAME)?;
        let colon = username.iter().position(|byte| *byte == b':')?;
        Some(&username[..colon])
    }

    pub fn has_integrity(&self) -> bool {
        self.integrity_at.is_some()
    }

    /// The time of this does not depend on where the two codes differ.
    pub fn integrity_holds(&self, key: &IntegrityKey) -> bool {
        let Some(at) = self.integrity_at else { return false };
        let value_at = at + ATTRIBUTE_HEADER_SIZE;
        let end = value_at + INTEGRITY_LEN;
        // RFC 8489 section 14.5: the header's length counts up to and with MESSAGE-INTEGRITY while it is computed.
        let length = ((end - MESSAGE_HEADER_SIZE) as u16).to_be_bytes();
        let code = key.0.clone().chain_update(&self.bytes[..2]).chain_update(length).chain_update(&self.bytes[4..at]);
        code.verify_slice(&self.bytes[value_at..end]).is_ok()
    }

    /// False when a fingerprint is wrong, or not the last attribute. A missing one does no harm: the integrity
    /// authenticates.
    pub fn fingerprint_holds(&self) -> bool {
        let Some(at) = self.fingerprint_at else { return !self.fingerprint_misplaced };
        !self.fingerprint_misplaced && self.bytes[at + ATTRIBUTE_HEADER_SIZE..] == fingerprint(&self.bytes[..at])
    }
}

fn attribute_header(bytes: &[u8], at: usize) -> Option<(u16, usize)> {
    let header = bytes.get(at..at + ATTRIBUTE_HEADER_SIZE)?;
    Some((u16::from_be_bytes([header[0], header[1]]), usize::from(u16::from_be_bytes([header[2], header[3]]))))
}

/// A short-term password, ready for HMAC-SHA1: both halves of the key are hashed once, not with every message.
#[derive(Clone)]
pub struct IntegrityKey(Hmac<Sha1>);

impl IntegrityKey {
    pub fn new(password: &str) -> IntegrityKey {
        IntegrityKey(Hmac::new_from_slice(password.as_bytes()).expect("HMAC takes a key of any length"))
    }
}

/// Appends MESSAGE-INTEGRITY and FINGERPRINT. The crate's own setters hash the password and build the CRC table for
/// every message: 3 of the 4 µs that a reply would cost.
pub fn finish(message: &mut stun::message::Message, key: &IntegrityKey) {
    announce_length(message, INTEGRITY_LEN);
    let code = key.0.clone().chain_update(&message.raw).finalize().into_bytes();
    message.add(ATTR_MESSAGE_INTEGRITY, &code);
    announce_length(message, FINGERPRINT_LEN);
    let check = fingerprint(&message.raw);
    message.add(ATTR_FINGERPRINT, &check);
}

/// Writes the length the header will have once an attribute of `value_len` bytes is added.
fn announce_length(message: &mut stun::message::Message, value_len: usize) {
    let length = message.length;
    message.length += (ATTRIBUTE_HEADER_SIZE + value_len) as u32;
    message.write_length();
    message.length = length;
}

/// RFC 8489 section 14.7: CRC-32 (ISO-HDLC) of the message before it, XORed with "STUN".
fn fingerprint(bytes: &[u8]) -> [u8; FINGERPRINT_LEN] {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    let crc = bytes.iter().fold(!0, |crc: u32, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)]);
    (!crc ^ FINGERPRINT_XOR_VALUE).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use stun::agent::TransactionId;
    use stun::attributes::{ATTR_SOFTWARE, ATTR_USERNAME, AttrType, RawAttribute};
    use stun::integrity::MessageIntegrity;
    use stun::message::{BINDING_REQUEST, Message};
    use stun::textattrs::TextAttribute;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

    /// RFC 5769 section 2.1.
    fn sample_request() -> Vec<u8> {
        hex("00010058 2112a442 b7e7a701 bc34d686 fa87dfae 80220010 5354554e 20746573 7420636c 69656e74
             00240004 6e0001ff 80290008 932ff9b1 51263b36 00060009 6576746a 3a683676 59202020 00080014
             9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2 80280004 e57a3bcf")
    }

    /// RFC 5769 sections 2.2 and 2.3.
    fn sample_responses() -> [Vec<u8>; 2] {
        [
            hex("0101003c 2112a442 b7e7a701 bc34d686 fa87dfae 8022000b 74657374 20766563 746f7220 00200008
                 0001a147 e112a643 00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7 80280004 c07d4c96"),
            hex("01010048 2112a442 b7e7a701 bc34d686 fa87dfae 8022000b 74657374 20766563 746f7220 00200014
                 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9 00080014 a382954e 4be67bf1 1784c97c 8292c275
                 bfe3ed41 80280004 c8fb0b4c"),
        ]
    }

    #[test]
    fn rfc_5769_vectors() {
        let key = IntegrityKey::new(PASSWORD);
        let request = sample_request();
        let view = StunView::parse(&request).unwrap();
        assert_eq!(view.class(), StunClass::BindingRequest);
        assert_eq!(view.local_ufrag(), Some(&b"evtj"[..]));
        assert_eq!(view.attribute(PRIORITY), Some(&[0x6e, 0, 1, 0xff][..]));
        assert!(view.integrity_holds(&key) && view.fingerprint_holds());
        assert!(!view.integrity_holds(&IntegrityKey::new("VOkJxbRl1RmTxUk/WvJxBu")));
        for response in sample_responses() {
            let view = StunView::parse(&response).unwrap();
            assert_eq!(view.class(), StunClass::BindingResponse);
            assert!(view.is_success() && view.integrity_holds(&key) && view.fingerprint_holds());
        }
    }

    #[test]
    fn what_finish_writes_is_what_the_crate_writes() {
        let mut ours = Message::new();
        let transaction = TransactionId([7; 12]);
        let username = TextAttribute::new(ATTR_USERNAME, "abcdefghij:klmn".into());
        ours.build(&[Box::new(transaction), Box::new(BINDING_REQUEST), Box::new(username.clone())]).unwrap();
        finish(&mut ours, &IntegrityKey::new(PASSWORD));
        let mut theirs = Message::new();
        theirs
            .build(&[
                Box::new(transaction),
                Box::new(BINDING_REQUEST),
                Box::new(username),
                Box::new(MessageIntegrity::new_short_term_integrity(PASSWORD.into())),
                Box::new(stun::fingerprint::FINGERPRINT),
            ])
            .unwrap();
        assert_eq!(ours.raw, theirs.raw);
    }

    #[test]
    fn the_ufrag_is_found_wherever_username_stands_before_the_integrity() {
        let software = || TextAttribute::new(ATTR_SOFTWARE, "libnice-like".into());
        let username = || TextAttribute::new(ATTR_USERNAME, "xy12345678:remote".into());
        let mut message = Message::new();
        message.build(&[Box::new(BINDING_REQUEST), Box::new(software()), Box::new(username())]).unwrap();
        finish(&mut message, &IntegrityKey::new(PASSWORD));
        assert_eq!(peek(&message.raw).unwrap().local_ufrag, Some(&b"xy12345678"[..]));

        let mut late = Message::new();
        let integrity = MessageIntegrity::new_short_term_integrity(PASSWORD.into());
        late.build(&[Box::new(BINDING_REQUEST), Box::new(integrity), Box::new(username())]).unwrap();
        assert_eq!(peek(&late.raw).unwrap().local_ufrag, None);
    }

    #[test]
    fn a_fingerprint_counts_only_as_the_last_attribute() {
        let mut message = Message::new();
        message.build(&[Box::new(BINDING_REQUEST)]).unwrap();
        finish(&mut message, &IntegrityKey::new(PASSWORD));
        assert!(StunView::parse(&message.raw).unwrap().fingerprint_holds());
        message.add(AttrType(0x8022), b"more");
        assert!(!StunView::parse(&message.raw).unwrap().fingerprint_holds());
        let mut without = Message::new();
        without.build(&[Box::new(BINDING_REQUEST)]).unwrap();
        assert!(StunView::parse(&without.raw).unwrap().fingerprint_holds());
    }

    #[test]
    fn classes_and_lengths() {
        let with_type = |kind: u16| {
            let mut message = sample_request();
            message[..2].copy_from_slice(&kind.to_be_bytes());
            peek(&message).unwrap().class
        };
        assert_eq!(with_type(0x0011), StunClass::BindingIndication);
        assert_eq!(with_type(0x0111), StunClass::BindingResponse);
        assert_eq!(with_type(0x0200), StunClass::GoogPing);
        assert_eq!(with_type(0x0003), StunClass::Other);
        let request = sample_request();
        for len in 0..request.len() {
            assert_eq!(peek(&request[..len]), Err(NotStun), "cut to {len}");
        }
        let mut longer = request.clone();
        longer.extend_from_slice(&[0; 4]);
        assert_eq!(peek(&longer), Err(NotStun));
        // An integrity code of another size does not count.
        let mut message = Message::new();
        let short = RawAttribute { typ: ATTR_MESSAGE_INTEGRITY, length: 4, value: vec![0; 4] };
        message.build(&[Box::new(BINDING_REQUEST), Box::new(short)]).unwrap();
        assert_eq!(peek(&message.raw), Err(NotStun));
    }
}
