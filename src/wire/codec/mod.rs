//! The codecs the SFU knows, one file each for what it must read of a payload.

/// A codec as the media plane needs to tell it; everything else of it is signalling's business.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Codec {
    Opus,
    Vp8,
    Vp9,
    H264,
    Av1,
}

impl Codec {
    pub fn is_video(self) -> bool {
        !matches!(self, Codec::Opus)
    }
}
