//! RTP header extensions (RFC 8285): which ones the SFU knows, and the id tables of a transport.

/// A header extension the SFU knows. The discriminant is the router's id for it: the same in every channel and for
/// audio and video, within 1–14 so that the one-byte form can carry it (RFC 8285 section 4.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Extension {
    Mid = 1,
    Rid = 2,
    RepairedRid = 3,
    AbsSendTime = 4,
    TransportCc = 5,
    AudioLevel = 6,
    VideoOrientation = 7,
    DependencyDescriptor = 8,
    TransmissionOffset = 9,
    PlayoutDelay = 10,
    AbsCaptureTime = 11,
}

impl Extension {
    pub const ALL: [Extension; 11] = [
        Extension::Mid,
        Extension::Rid,
        Extension::RepairedRid,
        Extension::AbsSendTime,
        Extension::TransportCc,
        Extension::AudioLevel,
        Extension::VideoOrientation,
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
            Extension::VideoOrientation => "urn:3gpp:video-orientation",
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
        self.0 & 1 << extension.id() != 0
    }
}
