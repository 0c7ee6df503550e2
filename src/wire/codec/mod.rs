//! The codecs that the SFU knows, one file each for the fields that it reads of a payload. Called by `media` for each
//! packet of a producer; nothing here decodes pictures or sound, and payloads under end-to-end encryption are simply
//! unreadable.

pub mod av1;
pub mod h264;
pub mod opus;
pub mod size;
pub mod vp8;
pub mod vp9;

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

/// The fields of one packet's payload that forwarding needs. All false and 0 for an unreadable payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PayloadInfo {
    /// A decoder can start with this packet.
    pub starts_keyframe: bool,
    /// H.264: an IDR begins, and the packet has no sequence parameter set. A decoder that has the sets can start with
    /// it.
    pub starts_idr: bool,
    /// No encoder writes this: the payload behind its descriptor is encrypted end to end.
    pub garbled: bool,
    /// The packet can be the first of a frame (of a layer's frame, where the codec tells them apart).
    pub starts_frame: bool,
    /// The VP9 E bit. The other codecs leave it to the RTP marker, and this is false.
    pub ends_frame: bool,
    pub spatial: u8,
    pub temporal: u8,
    /// VP8's Y: the frame needs none above the base layer. VP9's U: nothing after this picture needs an earlier one
    /// above its temporal layer.
    pub switches_up: bool,
    /// VP9's P: the frame refers to earlier pictures.
    pub inter_predicted: bool,
    /// VP8 and VP9.
    pub picture: Option<PictureId>,
    pub tl0_picture_index: Option<u8>,
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

/// A VP8 or VP9 picture id of 7 or 15 bits, and its place in the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PictureId {
    pub value: u16,
    pub wide: bool,
    pub offset: u8,
}

impl PictureId {
    fn parse(reader: &mut super::Reader<'_>, offset: usize) -> Result<PictureId, super::Malformed> {
        let first = reader.u8()?;
        let wide = first & 0x80 != 0;
        let high = u16::from(first & 0x7F);
        let value = if wide { high << 8 | u16::from(reader.u8()?) } else { high };
        Ok(PictureId { value, wide, offset: offset as u8 })
    }

    /// Writes another value in its place, cut to its width.
    pub fn write(&self, payload: &mut [u8], value: u16) {
        let at = usize::from(self.offset);
        let [high, low] = value.to_be_bytes();
        if self.wide {
            if let Some(place) = payload.get_mut(at..at + 2) {
                place.copy_from_slice(&[high | 0x80, low]);
            }
        } else if let Some(place) = payload.get_mut(at) {
            *place = low & 0x7F;
        }
    }
}
