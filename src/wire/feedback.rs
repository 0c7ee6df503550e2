//! RTCP feedback messages (RFC 4585, RFC 5104, draft-alvestrand-rmcat-remb): a receiver's requests to a sender. Reached
//! through `rtcp::parse`; transport-wide feedback has its own file.

use super::rtcp_numbers::{REMB_NAME, format, packet_type, ssrcs};
use super::transport_cc::TransportCc;
use super::{Malformed, Reader};
use crate::base::id::Ssrc;
use crate::base::seq::Seq;
use crate::base::units::Bitrate;

#[derive(Clone, Debug)]
pub enum Feedback<'a> {
    Nack(Nack<'a>),
    Pli(Pli),
    Fir(Fir<'a>),
    Remb(Remb<'a>),
    TransportCc(TransportCc<'a>),
    /// SLI, RPSI, TMMBR and whatever else nobody here reads.
    Other {
        packet_type: u8,
        format: u8,
        sender: Ssrc,
        media: Ssrc,
    },
}

impl<'a> Feedback<'a> {
    /// RFC 4585 section 6.1: both SSRCs, then the control information.
    pub(super) fn parse(packet_type: u8, format: u8, body: &'a [u8]) -> Result<Feedback<'a>, Malformed> {
        let mut reader = Reader::new(body, "feedback without its two SSRCs");
        let sender = Ssrc(reader.u32()?);
        let media = Ssrc(reader.u32()?);
        let control = reader.rest();
        Ok(match (packet_type, format) {
            (packet_type::TRANSPORT_FEEDBACK, format::NACK) => {
                if control.is_empty() || !control.len().is_multiple_of(4) {
                    return Err(Malformed("NACK is not a list of whole words"));
                }
                Feedback::Nack(Nack { sender, media, entries: control })
            }
            (packet_type::TRANSPORT_FEEDBACK, format::TRANSPORT_CC) => {
                Feedback::TransportCc(TransportCc::parse(sender, media, control)?)
            }
            (packet_type::PAYLOAD_FEEDBACK, format::PLI) => Feedback::Pli(Pli { sender, media }),
            (packet_type::PAYLOAD_FEEDBACK, format::FIR) => {
                if control.is_empty() || !control.len().is_multiple_of(8) {
                    return Err(Malformed("FIR is not a list of eight-byte entries"));
                }
                Feedback::Fir(Fir { sender, entries: control })
            }
            (packet_type::PAYLOAD_FEEDBACK, format::APPLICATION) if control.starts_with(&REMB_NAME) => {
                Feedback::Remb(Remb::parse(sender, control)?)
            }
            _ => Feedback::Other { packet_type, format, sender, media },
        })
    }
}

/// Packets that are missing (RFC 4585 section 6.2.1).
#[derive(Clone, Debug)]
pub struct Nack<'a> {
    pub sender: Ssrc,
    pub media: Ssrc,
    entries: &'a [u8],
}

impl<'a> Nack<'a> {
    /// How many packets it names.
    #[expect(clippy::len_without_is_empty, reason = "it names one at least")]
    pub fn len(&self) -> u64 {
        let masks = self.entries.as_chunks().0.iter().map(|&[_, _, c, d]| u16::from_be_bytes([c, d]));
        masks.map(|mask| 1 + u64::from(mask.count_ones())).sum()
    }

    /// Each entry names one packet and, by a bit mask, any of the 16 that follow it.
    pub fn seqs(&self) -> impl Iterator<Item = Seq> + 'a {
        self.entries.as_chunks().0.iter().flat_map(|&[a, b, c, d]| {
            let first = u16::from_be_bytes([a, b]);
            let mask = u16::from_be_bytes([c, d]);
            let following = (0..16).filter(move |bit| mask & 1 << bit != 0).map(|bit| bit + 1);
            std::iter::once(0).chain(following).map(move |offset: u16| Seq(first.wrapping_add(offset)))
        })
    }
}

/// A decoder that lost its reference asks for a keyframe (RFC 4585 section 6.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pli {
    pub sender: Ssrc,
    pub media: Ssrc,
}

/// A new receiver asks for a keyframe (RFC 5104 section 4.3.1). The sources are in the entries; the media SSRC of
/// the message means nothing.
#[derive(Clone, Debug)]
pub struct Fir<'a> {
    pub sender: Ssrc,
    entries: &'a [u8],
}

impl<'a> Fir<'a> {
    /// Each source with the number of the request: the same number again is a repeat.
    pub fn requests(&self) -> impl Iterator<Item = (Ssrc, u8)> + 'a {
        self.entries.as_chunks().0.iter().map(|&[a, b, c, d, number, ..]: &[u8; 8]| {
            let target = Ssrc(u32::from_be_bytes([a, b, c, d]));
            (target, number)
        })
    }
}

/// The rate a receiver can take over the listed sources together (draft-alvestrand-rmcat-remb-03 section 2.2).
#[derive(Clone, Debug)]
pub struct Remb<'a> {
    pub sender: Ssrc,
    pub bitrate: Bitrate,
    ssrcs: &'a [u8],
}

impl<'a> Remb<'a> {
    fn parse(sender: Ssrc, control: &'a [u8]) -> Result<Remb<'a>, Malformed> {
        let mut reader = Reader::new(control, "REMB shorter than its source count");
        reader.take(REMB_NAME.len())?;
        let word = reader.u32()?;
        let count = (word >> 24) as usize;
        let exponent = word >> 18 & 0x3F;
        let mantissa = u128::from(word & 0x3_FFFF);
        let bitrate = Bitrate(u64::try_from(mantissa << exponent).unwrap_or(u64::MAX));
        Ok(Remb { sender, bitrate, ssrcs: reader.take(count * 4)? })
    }

    pub fn ssrcs(&self) -> impl Iterator<Item = Ssrc> + 'a {
        ssrcs(self.ssrcs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feedback(packet_type: u8, format: u8, control: &[u8]) -> Result<Feedback<'static>, Malformed> {
        let body = [&[0, 0, 0, 1, 0, 0, 0, 2], control].concat();
        Feedback::parse(packet_type, format, body.leak())
    }

    #[test]
    fn a_nack_entry_names_up_to_17_packets_over_the_wrap() {
        let Ok(Feedback::Nack(nack)) = feedback(205, 1, &[0xFF, 0xFE, 0x80, 0x03, 0, 7, 0, 0]) else {
            panic!("not a NACK")
        };
        assert_eq!((nack.sender, nack.media), (Ssrc(1), Ssrc(2)));
        let seqs: Vec<u16> = nack.seqs().map(|seq| seq.0).collect();
        assert_eq!(seqs, [65_534, 65_535, 0, 14, 7]);
        assert_eq!(nack.len(), 5);
        assert!(feedback(205, 1, &[]).is_err() && feedback(205, 1, &[0; 6]).is_err());
    }

    #[test]
    fn a_fir_lists_sources_with_request_numbers() {
        let Ok(Feedback::Fir(fir)) = feedback(206, 4, &[0, 0, 0, 5, 9, 0, 0, 0, 0, 0, 0, 6, 255, 0, 0, 0]) else {
            panic!("not a FIR")
        };
        assert_eq!(fir.requests().collect::<Vec<_>>(), [(Ssrc(5), 9), (Ssrc(6), 255)]);
        assert!(feedback(206, 4, &[0; 4]).is_err());
    }

    #[test]
    fn a_remb_rate_saturates() {
        let remb = |exponent: u32, mantissa: u32| {
            let word = (1u32 << 24 | exponent << 18 | mantissa).to_be_bytes();
            match feedback(206, 15, &[b"REMB", &word[..], &[0, 0, 0, 7]].concat()) {
                Ok(Feedback::Remb(remb)) => {
                    assert_eq!(remb.ssrcs().collect::<Vec<_>>(), [Ssrc(7)]);
                    remb.bitrate.0
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(remb(0, 1), 1);
        assert_eq!(remb(3, 250_000), 2_000_000);
        assert_eq!(remb(46, 0x3_FFFF), 0x3_FFFF << 46);
        assert_eq!(remb(63, 0x3_FFFF), u64::MAX);
        assert_eq!(remb(63, 0), 0);
        assert!(feedback(206, 15, b"REMB\x02\0\0\0\0\0\0\x07").is_err(), "two sources claimed, one there");
        assert!(feedback(206, 15, b"REMB").is_err());
    }

    #[test]
    fn messages_nobody_reads_keep_their_ssrcs() {
        for (packet_type, format) in [(205, 3), (206, 2), (206, 15)] {
            let read = feedback(packet_type, format, b"ABCD");
            assert!(matches!(read, Ok(Feedback::Other { sender: Ssrc(1), media: Ssrc(2), .. })));
        }
        assert!(matches!(feedback(206, 1, &[]), Ok(Feedback::Pli(Pli { sender: Ssrc(1), media: Ssrc(2) }))));
        assert!(Feedback::parse(206, 1, &[0; 7]).is_err());
    }
}
