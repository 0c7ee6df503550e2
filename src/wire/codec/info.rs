//! The fields read of a payload, whichever its codec. Filled in by the codecs' own files.

use crate::wire::{Malformed, Reader};

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

/// A VP8 or VP9 picture id of 7 or 15 bits, and its place in the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PictureId {
    pub value: u16,
    pub wide: bool,
    pub offset: u8,
}

impl PictureId {
    pub(super) fn parse(reader: &mut Reader<'_>, offset: usize) -> Result<PictureId, Malformed> {
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
