//! RTP header extensions (RFC 8285): those that the SFU knows, the id tables of a transport, and the elements' values.
//! The block that carries them is `rtp`'s.

use crate::base::id::ShortName;
use crate::base::time::NtpTime;

/// A header extension the SFU knows. The discriminant is the router's id for it: the same in every channel and for
/// audio and video, within 1–14 so that the one-byte form can carry it (RFC 8285 section 4.2).
///
/// `urn:3gpp:video-orientation` is not among them: where it is agreed a publisher leaves turning to its viewers
/// (3GPP TS 26.114 section 7.4.5), and one that does not know it shows the picture lying on its side.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Extension {
    Mid = 1,
    Rid = 2,
    RepairedRid = 3,
    AbsSendTime = 4,
    TransportCc = 5,
    AudioLevel = 6,
    DependencyDescriptor = 8,
    TransmissionOffset = 9,
    PlayoutDelay = 10,
    AbsCaptureTime = 11,
}

impl Extension {
    pub const ALL: [Extension; 10] = [
        Extension::Mid,
        Extension::Rid,
        Extension::RepairedRid,
        Extension::AbsSendTime,
        Extension::TransportCc,
        Extension::AudioLevel,
        Extension::DependencyDescriptor,
        Extension::TransmissionOffset,
        Extension::PlayoutDelay,
        Extension::AbsCaptureTime,
    ];

    /// The router's id for it.
    pub const fn id(self) -> u8 {
        self as u8
    }

    pub const fn uri(self) -> &'static str {
        match self {
            Extension::Mid => "urn:ietf:params:rtp-hdrext:sdes:mid",
            Extension::Rid => "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
            Extension::RepairedRid => "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
            Extension::AbsSendTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
            Extension::TransportCc => "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
            Extension::AudioLevel => "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
            Extension::DependencyDescriptor => {
                "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
            }
            Extension::TransmissionOffset => "urn:ietf:params:rtp-hdrext:toffset",
            Extension::PlayoutDelay => "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
            Extension::AbsCaptureTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time",
        }
    }

    pub fn from_uri(uri: &str) -> Option<Extension> {
        Extension::ALL.into_iter().find(|extension| extension.uri() == uri)
    }
}

/// The ids one publisher uses for the extensions the SFU knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExtensionIds {
    /// By router id; 0 where the publisher has none.
    theirs: [u8; 16],
}

impl ExtensionIds {
    pub fn set(&mut self, extension: Extension, theirs: u8) {
        self.theirs[usize::from(extension.id())] = theirs;
    }

    pub fn get(&self, extension: Extension) -> Option<u8> {
        let id = self.theirs[usize::from(extension.id())];
        (id != 0).then_some(id)
    }

    /// Adds the ids of `other`; within one BUNDLE group both use the same ids.
    pub fn merge(&mut self, other: &ExtensionIds) {
        for (ours, theirs) in self.theirs.iter_mut().zip(other.theirs) {
            if theirs != 0 {
                *ours = theirs;
            }
        }
    }

    /// Which extension the publisher's id `theirs` stands for.
    pub fn find(&self, theirs: u8) -> Option<Extension> {
        Extension::ALL.into_iter().find(|extension| theirs != 0 && self.theirs[usize::from(extension.id())] == theirs)
    }
}

/// A set of extensions: what one consumer agreed to receive, by the router's ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExtensionSet(u16);

impl ExtensionSet {
    pub fn insert(&mut self, extension: Extension) {
        self.0 |= 1 << extension.id();
    }

    pub fn contains(self, extension: Extension) -> bool {
        self.contains_id(extension.id())
    }

    /// By the router's id of one.
    pub fn contains_id(self, id: u8) -> bool {
        self.0 & 1 << (id & 15) != 0
    }
}

/// Loudness of the packet's audio (RFC 6464): 0 is the loudest, 127 silence, in -dBov.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AudioLevel {
    pub level: u8,
    pub voice: bool,
}

impl AudioLevel {
    pub fn parse(value: &[u8]) -> Option<AudioLevel> {
        // RFC 6464 section 3: one byte; in the two-byte form a second one may follow as padding.
        let byte = *value.first()?;
        Some(AudioLevel { level: byte & 0x7F, voice: byte & 0x80 != 0 })
    }

    pub fn to_bytes(self) -> [u8; 1] {
        [u8::from(self.voice) << 7 | self.level & 0x7F]
    }
}

/// When the media was captured, by the capture system's clock, and how far that clock is ahead of the one of the sender's
/// reports, in 2^-32 s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AbsCaptureTime {
    pub captured: NtpTime,
    pub offset: Option<i64>,
}

impl AbsCaptureTime {
    pub fn parse(value: &[u8]) -> Option<AbsCaptureTime> {
        let (words, rest) = value.as_chunks::<8>();
        match (words, rest) {
            ([captured], []) => Some(AbsCaptureTime { captured: NtpTime(u64::from_be_bytes(*captured)), offset: None }),
            ([captured, offset], []) => Some(AbsCaptureTime {
                captured: NtpTime(u64::from_be_bytes(*captured)),
                offset: Some(i64::from_be_bytes(*offset)),
            }),
            _ => None,
        }
    }
}

/// The bytes of the value, and their number.
pub fn abs_capture_time(AbsCaptureTime { captured, offset }: AbsCaptureTime) -> ([u8; 16], usize) {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&captured.0.to_be_bytes());
    value[8..].copy_from_slice(&offset.unwrap_or(0).to_be_bytes());
    (value, if offset.is_some() { 16 } else { 8 })
}

/// Seconds within a 64 s circle, 6 bits, and 18 bits of fraction.
pub fn abs_send_time(sent: NtpTime) -> [u8; 3] {
    let [.., a, b, c] = (sent.0 >> 14).to_be_bytes();
    [a, b, c]
}

/// The transport-wide sequence number; version 2 of the extension may carry a feedback request behind it.
pub fn transport_cc_seq(value: &[u8]) -> Option<u16> {
    value.first_chunk().copied().map(u16::from_be_bytes)
}

/// A mid, rid or repaired rid (RFC 8852, RFC 9143): the text up to the first zero, which some senders end it with. An
/// empty, over-long or invalid one counts as absent.
pub fn short_name(value: &[u8]) -> Option<ShortName> {
    ShortName::new(value.split(|byte| *byte == 0).next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audio_level_is_a_voice_bit_and_seven_bits() {
        let level = AudioLevel { level: 42, voice: true };
        assert_eq!(level.to_bytes(), [0xAA]);
        assert_eq!(AudioLevel::parse(&[0xAA]), Some(level));
        assert_eq!(AudioLevel::parse(&[127]), Some(AudioLevel { level: 127, voice: false }));
        assert_eq!(AudioLevel::parse(&[]), None);
    }

    #[test]
    fn abs_send_time_is_6_18_fixed_point() {
        let second = |seconds: u64, fraction: u64| abs_send_time(NtpTime(seconds << 32 | fraction));
        assert_eq!(second(1, 0), [0x04, 0, 0]);
        assert_eq!(second(64, 0), [0, 0, 0], "wraps after 64 s");
        assert_eq!(second(63, 1 << 31), [0xFE, 0, 0]);
        assert_eq!(second(0, 1 << 14), [0, 0, 1]);
        assert_eq!(second(0, (1 << 14) - 1), [0, 0, 0]);
    }

    #[test]
    fn a_capture_time_has_an_offset_or_none() {
        let full: [u8; 16] = std::array::from_fn(|at| at as u8);
        let read = AbsCaptureTime::parse(&full).unwrap();
        let expected = AbsCaptureTime { captured: NtpTime(0x0001_0203_0405_0607), offset: Some(0x0809_0A0B_0C0D_0E0F) };
        assert_eq!((read, abs_capture_time(read)), (expected, (full, 16)));
        let short = AbsCaptureTime::parse(&full[..8]).unwrap();
        assert_eq!((short.offset, abs_capture_time(short).1), (None, 8));
        assert!([0, 7, 9, 15].iter().all(|len| AbsCaptureTime::parse(&full[..*len]).is_none()));
    }

    #[test]
    fn names_and_transport_numbers_are_read_or_refused() {
        assert_eq!(short_name(b"r0").unwrap().as_str(), "r0");
        assert_eq!(short_name(b"0\0\0").unwrap().as_str(), "0");
        assert_eq!(short_name(b"a\0b").unwrap().as_str(), "a", "nothing behind the first zero counts");
        assert_eq!(short_name(&[b'a'; ShortName::MAX]).unwrap().as_bytes().len(), ShortName::MAX);
        for absent in [&b""[..], b"\0", b"\0a", &[b'a'; ShortName::MAX + 1], b"a b", b"\xFF"] {
            assert!(short_name(absent).is_none(), "{absent:?}");
        }
        assert_eq!(transport_cc_seq(&[1, 2]), Some(0x0102));
        assert_eq!(transport_cc_seq(&[1, 2, 0xC0, 1]), Some(0x0102));
        assert_eq!(transport_cc_seq(&[1]), None);
    }
}
