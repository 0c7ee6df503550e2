//! The codecs that the SFU knows, one file each for the fields that it reads of a payload. Called by `media` for each
//! packet of a producer; nothing here decodes pictures or sound, and payloads under end-to-end encryption are simply
//! unreadable.

pub mod av1;
pub mod h264;
mod info;
pub mod opus;
pub mod size;
pub mod vp8;
pub mod vp9;

pub use info::{PayloadInfo, PictureId};

/// A codec as the media plane tells it apart; everything else about it is signalling's business.
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

pub fn inspect(codec: Codec, payload: &[u8]) -> PayloadInfo {
    match codec {
        Codec::Opus => opus::inspect(payload),
        Codec::Vp8 => vp8::inspect(payload),
        Codec::Vp9 => vp9::inspect(payload),
        Codec::H264 => h264::inspect(payload),
        Codec::Av1 => av1::inspect(payload),
    }
}

/// Replaces a payload's picture id and TL0PICIDX, where it has them.
pub fn renumber(codec: Codec, payload: &mut [u8], picture: u16, tl0_picture_index: u8) {
    let (id, tl0) = match codec {
        Codec::Vp8 => match vp8::Vp8Descriptor::parse(payload) {
            Ok(descriptor) => (descriptor.picture_id, descriptor.tl0_picture_index),
            Err(_) => return,
        },
        Codec::Vp9 => match vp9::Vp9Descriptor::parse(payload) {
            Ok(descriptor) => (descriptor.picture_id, descriptor.tl0_picture_index),
            Err(_) => return,
        },
        Codec::Opus | Codec::H264 | Codec::Av1 => return,
    };
    if let Some(id) = id {
        id.write(payload, picture);
    }
    if let Some((_, offset)) = tl0
        && let Some(place) = payload.get_mut(usize::from(offset))
    {
        *place = tl0_picture_index;
    }
}
