//! Views of bytes, and bytes written from values, without state, clock or heap: a view is checked once, and after that
//! no accessor can fail. Everything here is total: any bytes give a value or [`Malformed`], never a panic, and every
//! iterator ends within the bytes it was given. Called by `transport` (demultiplexing), `media` and `router` (packets),
//! `shard` (feedback).

pub mod codec;
pub mod dependency_descriptor;
pub mod extension;
pub mod feedback;
pub mod lane;
pub mod rtcp;
mod rtcp_numbers;
pub mod rtcp_write;
pub mod rtp;
pub mod transport_cc;

/// Why bytes are malformed, in the field's words. The one error of this folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// The protocol that a datagram on the one port claims to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Stun,
    Dtls,
    Rtp,
    Rtcp,
    /// Another protocol, or too short for the header of its kind.
    Unknown,
}

const STUN_HEADER: usize = 20;
const DTLS_RECORD_HEADER: usize = 13;
const RTP_HEADER: usize = 12;
/// Header and sender SSRC, which SRTCP leaves in the clear (RFC 3711 section 3.4).
const RTCP_HEADER: usize = 8;

/// RFC 7983 section 7: the first byte names the protocol. ZRTP and TURN channels are nobody's here.
pub fn classify(bytes: &[u8]) -> Kind {
    let [first, second, ..] = *bytes else { return Kind::Unknown };
    let (kind, header) = match first {
        0..=3 => (Kind::Stun, STUN_HEADER),
        20..=63 => (Kind::Dtls, DTLS_RECORD_HEADER),
        // RFC 5761 section 4: RTCP types 192–223 are the payload types 64–95 with the marker bit, which RTP avoids.
        128..=191 if (192..=223).contains(&second) => (Kind::Rtcp, RTCP_HEADER),
        128..=191 => (Kind::Rtp, RTP_HEADER),
        _ => return Kind::Unknown,
    };
    if bytes.len() < header { Kind::Unknown } else { kind }
}

/// Reads forward through bytes; running out is an error that names what was being read.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: Malformed,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(rest: &'a [u8], what: &'static str) -> Self {
        Reader { rest, what: Malformed(what) }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(self.what)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(self.what)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_at_every_length_has_one_kind() {
        for first in 0..=255u8 {
            for second in [0u8, 96, 127, 191, 192, 200, 206, 223, 224, 255] {
                for len in 0..=20usize {
                    let mut bytes = [0u8; 20];
                    (bytes[0], bytes[1]) = (first, second);
                    let expected = match first {
                        0..=3 if len >= 20 => Kind::Stun,
                        20..=63 if len >= 13 => Kind::Dtls,
                        128..=191 if (192..=223).contains(&second) && len >= 8 => Kind::Rtcp,
                        128..=191 if !(192..=223).contains(&second) && len >= 12 => Kind::Rtp,
                        _ => Kind::Unknown,
                    };
                    assert_eq!(classify(&bytes[..len]), expected, "{first} {second} {len}");
                }
            }
        }
    }
}
