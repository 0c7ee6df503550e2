//! The structure of DTLS 1.2 handshake messages (RFC 5246 section 7.4, RFC 6347 section 4.2), checked to the last
//! byte before a library sees one: the first indexes without looking, trusts inner lengths, and allocates what a length
//! field says. Keeps nothing; called by `gate` with whole messages.

use crate::base::limits::CERTIFICATES_PER_CHAIN_MAX;
use crate::secure::srtp::SrtpProfile;
use sha2::{Digest, Sha256};

/// The handshake messages of WebRTC's DTLS (RFC 5246 section 7.4, RFC 6347 section 4.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MessageType {
    ClientHello,
    ServerHello,
    HelloVerifyRequest,
    Certificate,
    ServerKeyExchange,
    CertificateRequest,
    ServerHelloDone,
    CertificateVerify,
    ClientKeyExchange,
}

/// The cipher suite of a well-formed ServerHello, as the IANA registry calls it (RFC 5246 section 7.4.1.3); of those that
/// we offer.
pub(super) fn suite_of_server_hello(body: &[u8]) -> Option<&'static str> {
    let (session_len, rest) = body.get(34..)?.split_first()?;
    match rest.get(usize::from(*session_len)..)?.first_chunk::<2>()? {
        [0xC0, 0x2B] => Some(ECDSA_SUITE),
        [0xC0, 0x2F] => Some("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        _ => None,
    }
}

/// RFC 5246 section 7.4.1.2.
const SESSION_ID_LEN_MAX: usize = 32;

/// The one that we take as server.
pub(super) const ECDSA_SUITE: &str = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";

impl MessageType {
    pub(super) fn from_byte(byte: u8) -> Option<MessageType> {
        Some(match byte {
            1 => MessageType::ClientHello,
            2 => MessageType::ServerHello,
            3 => MessageType::HelloVerifyRequest,
            11 => MessageType::Certificate,
            12 => MessageType::ServerKeyExchange,
            13 => MessageType::CertificateRequest,
            14 => MessageType::ServerHelloDone,
            15 => MessageType::CertificateVerify,
            16 => MessageType::ClientKeyExchange,
            _ => return None,
        })
    }

    /// Whether `body` is such a message, whole and nothing else. ClientHellos are read by [`ClientHello::parse`].
    pub(super) fn is_well_formed(self, body: &[u8]) -> bool {
        let mut reader = Reader(body);
        let read = match self {
            MessageType::ClientHello => return ClientHello::parse(body).is_some(),
            MessageType::ServerHello => server_hello(&mut reader),
            MessageType::HelloVerifyRequest => hello_verify_request(&mut reader),
            MessageType::Certificate => certificate(&mut reader),
            MessageType::ServerKeyExchange => server_key_exchange(&mut reader),
            MessageType::CertificateRequest => certificate_request(&mut reader),
            MessageType::ServerHelloDone => Some(()),
            MessageType::CertificateVerify => signature(&mut reader),
            MessageType::ClientKeyExchange => reader.vec8().filter(|key| !key.is_empty()).map(|_| ()),
        };
        read.is_some() && reader.is_empty()
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    fn vec8(&mut self) -> Option<&'a [u8]> {
        let len = self.number(1)?;
        self.take(len)
    }

    fn vec16(&mut self) -> Option<&'a [u8]> {
        let len = self.number(2)?;
        self.take(len)
    }

    fn vec24(&mut self) -> Option<&'a [u8]> {
        let len = self.number(3)?;
        self.take(len)
    }

    /// A vector of 16-bit values, at least one.
    fn list16(&mut self) -> Option<&'a [u8]> {
        self.vec16().filter(|list| !list.is_empty() && list.len().is_multiple_of(2))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the library reads of an extension block; the rest it passes over.
#[derive(Default)]
struct Extensions<'a> {
    groups: &'a [u8],
    srtp_profiles: Option<&'a [u8]>,
    extended_master_secret: bool,
}

impl<'a> Extensions<'a> {
    fn parse(block: &'a [u8]) -> Option<Extensions<'a>> {
        let mut found = Extensions::default();
        let mut block = Reader(block);
        let mut known = 0u8;
        while !block.is_empty() {
            let kind = block.number(2)?;
            let mut body = Reader(block.vec16()?);
            let bit = match kind {
                // server_name: empty in a ServerHello (RFC 6066 section 3).
                0 => {
                    if !body.is_empty() {
                        let mut names = Reader(body.vec16()?);
                        while !names.is_empty() {
                            names.number(1)?;
                            names.vec16()?;
                        }
                    }
                    1
                }
                // supported_groups, ec_point_formats (RFC 8422 section 5.1), signature_algorithms.
                10 => {
                    found.groups = body.list16()?;
                    2
                }
                11 => {
                    body.vec8()?;
                    4
                }
                13 => {
                    body.list16()?;
                    8
                }
                // use_srtp (RFC 5764 section 4.1.1).
                14 => {
                    found.srtp_profiles = Some(body.list16()?);
                    body.vec8()?;
                    16
                }
                // extended_master_secret (RFC 7627 section 5.1).
                23 => {
                    found.extended_master_secret = true;
                    32
                }
                // renegotiation_info (RFC 5746 section 3.2).
                0xFF01 => {
                    body.vec8()?;
                    64
                }
                _ => continue,
            };
            // RFC 5246 section 7.4.1.4: not more than one of a type.
            if !body.is_empty() || known & bit != 0 {
                return None;
            }
            known |= bit;
        }
        Some(found)
    }
}

/// A well-formed ClientHello, as far as the handshake depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ClientHello {
    /// The best profile that both know: the library would go by the client's order.
    pub(super) profile: Option<SrtpProfile>,
    /// The client would like to resume a session (RFC 5246 section 7.4.1.2). Nobody resumes one in WebRTC: it gets a full
    /// handshake.
    pub(super) has_session_id: bool,
    /// Over all that must not change between the first hello and the one that brings the cookie (RFC 6347 section
    /// 4.2.1): the library answers by the first, and only the second is part of the transcript.
    pub(super) essence: [u8; 32],
}

impl ClientHello {
    pub(super) fn parse(body: &[u8]) -> Option<ClientHello> {
        let mut reader = Reader(body);
        let version_and_random = reader.take(2 + 32)?;
        let session_id = reader.vec8().filter(|id| id.len() <= SESSION_ID_LEN_MAX)?;
        let _cookie = reader.vec8()?;
        let suites = reader.list16()?;
        let _compression = reader.vec8().filter(|methods| !methods.is_empty())?;
        let extensions = Extensions::parse(reader.vec16()?)?;
        if !reader.is_empty() {
            return None;
        }
        let offered = extensions.srtp_profiles.unwrap_or_default();
        let offers = |profile: &SrtpProfile| offered.chunks_exact(2).any(|id| id == profile.id().to_be_bytes());
        let mut essence = Sha256::new();
        for part in [version_and_random, session_id, suites, extensions.groups, offered] {
            essence.update((part.len() as u32).to_be_bytes());
            essence.update(part);
        }
        essence.update([u8::from(extensions.extended_master_secret)]);
        Some(ClientHello {
            profile: SrtpProfile::ALL.into_iter().find(offers),
            has_session_id: !session_id.is_empty(),
            essence: essence.finalize().into(),
        })
    }
}

fn server_hello(reader: &mut Reader<'_>) -> Option<()> {
    reader.take(2 + 32)?;
    reader.vec8().filter(|session_id| session_id.len() <= SESSION_ID_LEN_MAX)?;
    reader.take(2 + 1)?;
    let extensions = Extensions::parse(reader.vec16()?)?;
    // RFC 5764 section 4.1.1: the server names one profile.
    extensions.srtp_profiles.is_none_or(|profiles| profiles.len() == 2).then_some(())
}

fn hello_verify_request(reader: &mut Reader<'_>) -> Option<()> {
    reader.take(2)?;
    reader.vec8().map(|_| ())
}

fn certificate(reader: &mut Reader<'_>) -> Option<()> {
    let mut chain = Reader(reader.vec24()?);
    let mut certificates = 0;
    while !chain.is_empty() {
        chain.vec24().filter(|der| !der.is_empty())?;
        certificates += 1;
    }
    (1..=CERTIFICATES_PER_CHAIN_MAX).contains(&certificates).then_some(())
}

/// RFC 8422 section 5.4: a named curve, a public key, and a signature over both.
fn server_key_exchange(reader: &mut Reader<'_>) -> Option<()> {
    reader.number(1).filter(|&curve_type| curve_type == 3)?;
    reader.take(2)?;
    reader.vec8().filter(|key| !key.is_empty())?;
    signature(reader)
}

fn certificate_request(reader: &mut Reader<'_>) -> Option<()> {
    reader.vec8().filter(|types| !types.is_empty())?;
    reader.list16()?;
    reader.vec16().map(|_| ())
}

/// RFC 5246 section 4.7: hash, signature algorithm, signature.
fn signature(reader: &mut Reader<'_>) -> Option<()> {
    reader.take(2)?;
    reader.vec16().map(|_| ())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn vec16(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
    }

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vec16(body)].concat()
    }

    fn use_srtp(profiles: &[u16]) -> Vec<u8> {
        let list: Vec<u8> = profiles.iter().flat_map(|id| id.to_be_bytes()).collect();
        extension(14, &[&vec16(&list)[..], &[0]].concat())
    }

    fn hello_with(cookie: &[u8], session_id: &[u8], block: &[u8]) -> Vec<u8> {
        let mut body = vec![0xFE, 0xFD];
        body.extend([7; 32]);
        body.push(session_id.len() as u8);
        body.extend(session_id);
        body.push(cookie.len() as u8);
        body.extend(cookie);
        body.extend(vec16(&[0xC0, 0x2B]));
        body.extend([1, 0]);
        body.extend(vec16(block));
        body
    }

    /// A ClientHello that the gate admits; `padding` bytes of an unknown extension make it long.
    pub(in crate::secure) fn client_hello(cookie: &[u8], padding: usize) -> Vec<u8> {
        let block = [
            extension(10, &vec16(&[0, 0x1D])),
            extension(0xFA, &vec![0; padding]),
            use_srtp(&[1, 7]),
            extension(23, &[]),
        ];
        hello_with(cookie, &[], &block.concat())
    }

    #[test]
    fn the_best_profile_is_found_whatever_the_order() {
        let best = |profiles: &[u16]| ClientHello::parse(&hello_with(&[], &[], &use_srtp(profiles))).unwrap().profile;
        assert_eq!(best(&[1, 2, 8, 7]), Some(SrtpProfile::AeadAes128Gcm));
        assert_eq!(best(&[1, 8]), Some(SrtpProfile::AeadAes256Gcm));
        assert_eq!(best(&[2, 1]), Some(SrtpProfile::Aes128CmSha1_80));
        assert_eq!(best(&[2, 5]), None);
        assert_eq!(ClientHello::parse(&hello_with(&[], &[], &[])).unwrap().profile, None);
    }

    /// The library panics on each of these.
    #[test]
    fn an_extension_block_with_a_torn_end_is_refused() {
        for torn in 1..=3 {
            assert!(ClientHello::parse(&hello_with(&[], &[], &vec![0; torn])).is_none());
            let after = [use_srtp(&[7]), vec![0; torn]].concat();
            assert!(ClientHello::parse(&hello_with(&[], &[], &after)).is_none());
            let mut server = vec![0xFE, 0xFD];
            server.extend([7; 32]);
            server.extend([0, 0xC0, 0x2B, 0]);
            server.extend(vec16(&vec![0; torn]));
            assert!(!MessageType::ServerHello.is_well_formed(&server));
        }
        assert!(!MessageType::ClientKeyExchange.is_well_formed(&[]));
        assert!(!MessageType::ClientKeyExchange.is_well_formed(&[0]));
        assert!(!MessageType::ServerKeyExchange.is_well_formed(&[3]));
    }

    #[test]
    fn every_cut_and_every_addition_is_refused() {
        let hello = client_hello(&[9; 20], 40);
        let mut server = vec![0xFE, 0xFD];
        server.extend([7; 32]);
        server.extend([32; 33]);
        server.extend([0xC0, 0x2B, 0]);
        server.extend(vec16(&[use_srtp(&[7]), extension(0xFF01, &[0]), extension(11, &[1, 0])].concat()));
        let key_exchange = [&[3, 0, 0x1D, 2, 9, 9, 4, 3][..], &vec16(&[5; 70])].concat();
        let request = [&[1, 64][..], &vec16(&[4, 3]), &vec16(&[])].concat();
        for (kind, body) in [
            (MessageType::ClientHello, hello),
            (MessageType::ServerHello, server),
            (MessageType::HelloVerifyRequest, vec![0xFE, 0xFF, 2, 1, 1]),
            (MessageType::Certificate, vec![0, 0, 8, 0, 0, 1, 48, 0, 0, 1, 48]),
            (MessageType::ServerKeyExchange, key_exchange),
            (MessageType::CertificateRequest, request),
            (MessageType::CertificateVerify, [&[4, 3][..], &vec16(&[5; 70])].concat()),
            (MessageType::ClientKeyExchange, vec![2, 9, 9]),
        ] {
            assert!(kind.is_well_formed(&body), "{kind:?}");
            (0..body.len()).for_each(|len| assert!(!kind.is_well_formed(&body[..len]), "{kind:?} cut to {len}"));
            assert!(!kind.is_well_formed(&[&body[..], &[0]].concat()), "{kind:?}");
        }
        assert!(MessageType::ServerHelloDone.is_well_formed(&[]));
        assert!(!MessageType::ServerHelloDone.is_well_formed(&[0]));
    }

    #[test]
    fn lengths_inside_are_held_to_their_frame() {
        assert!(!MessageType::Certificate.is_well_formed(&[0, 0, 3, 0xFF, 0xFF, 0xFF]), "16 MB in 6 bytes");
        assert!(!MessageType::Certificate.is_well_formed(&[0, 0, 0]), "an empty chain");
        let nine = [0, 0, 1, 48].repeat(CERTIFICATES_PER_CHAIN_MAX + 1);
        assert!(!MessageType::Certificate.is_well_formed(&[&[0, 0, nine.len() as u8][..], &nine].concat()));
        let reaches_out = extension(14, &[0, 200, 0, 7, 0]);
        assert!(ClientHello::parse(&hello_with(&[], &[], &reaches_out)).is_none());
        let twice = [use_srtp(&[7]), use_srtp(&[1])].concat();
        assert!(ClientHello::parse(&hello_with(&[], &[], &twice)).is_none());
        for len in [0, 1, 32] {
            let hello = ClientHello::parse(&hello_with(&[], &vec![1; len], &use_srtp(&[7])));
            assert_eq!(hello.map(|hello| hello.has_session_id), Some(len > 0), "a session id of {len} bytes");
        }
        assert!(ClientHello::parse(&hello_with(&[], &[1; 33], &use_srtp(&[7]))).is_none(), "longer than any");
    }

    #[test]
    fn only_the_cookie_may_change_between_hellos() {
        let essence = |body: &[u8]| ClientHello::parse(body).unwrap().essence;
        let first = essence(&client_hello(&[], 10));
        assert_eq!(first, essence(&client_hello(&[3; 20], 10)));
        assert_ne!(first, essence(&hello_with(&[], &[], &use_srtp(&[1]))));
        assert_ne!(essence(&hello_with(&[], &[1], &[])), essence(&hello_with(&[], &[], &[])));
        assert_ne!(essence(&hello_with(&[], &[1], &[])), essence(&hello_with(&[], &[2], &[])));
        let mut other_random = client_hello(&[], 10);
        other_random[5] ^= 1;
        assert_ne!(first, essence(&other_random));
    }
}
