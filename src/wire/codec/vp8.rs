//! The VP8 payload descriptor (RFC 7741 section 4.2), and whether the frame behind it is a keyframe.

use super::{PayloadInfo, PictureId};
use crate::wire::{Malformed, Reader};

const START_CODE: [u8; 3] = [0x9D, 0x01, 0x2A];

/// Fields with the offsets in the payload at which a forwarder rewrites them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vp8Descriptor {
    /// N: no other frame refers to this one.
    pub non_reference: bool,
    /// S bit on partition 0.
    pub starts_frame: bool,
    pub picture_id: Option<PictureId>,
    /// TL0PICIDX and its offset: counts the frames of the lowest temporal layer.
    pub tl0_picture_index: Option<(u8, u8)>,
    pub temporal: Option<Vp8Temporal>,
    pub key_index: Option<u8>,
    /// Length of the descriptor.
    pub len: u8,
    /// The frame that starts here is a keyframe.
    pub keyframe: bool,
    /// The header claims a keyframe and has no start code: it is encrypted.
    pub garbled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vp8Temporal {
    pub id: u8,
    /// Y: refers to the lowest layer only, so that one may switch up here.
    pub switches_up: bool,
    /// Of the byte that both are in.
    pub offset: u8,
}

impl Vp8Descriptor {
    pub fn parse(payload: &[u8]) -> Result<Vp8Descriptor, Malformed> {
        let mut reader = Reader::new(payload, "VP8 payload descriptor cut short");
        let at = |reader: &Reader<'_>| payload.len() - reader.rest().len();
        let first = reader.u8()?;
        let extended = if first & 0x80 != 0 { reader.u8()? } else { 0 };
        let picture_id = if extended & 0x80 != 0 {
            let offset = at(&reader);
            Some(PictureId::parse(&mut reader, offset)?)
        } else {
            None
        };
        let mut tl0_picture_index = None;
        if extended & 0x40 != 0 {
            let offset = at(&reader) as u8;
            tl0_picture_index = Some((reader.u8()?, offset));
        }
        let (mut temporal, mut key_index) = (None, None);
        if extended & 0x30 != 0 {
            let offset = at(&reader) as u8;
            let byte = reader.u8()?;
            if extended & 0x20 != 0 {
                temporal = Some(Vp8Temporal { id: byte >> 6, switches_up: byte & 0x20 != 0, offset });
            }
            key_index = (extended & 0x10 != 0).then_some(byte & 0x1F);
        }
        let len = at(&reader) as u8;
        let starts_frame = first & 0x10 != 0 && first & 0x07 == 0;
        // RFC 7741 section 4.3: the P bit, 0 for keyframes, is only there in the first packet of a frame. RFC 6386
        // section 9.1: a start code follows. In an encrypted frame the bit is 0 half of the time, and the start code is
        // never there.
        let (keyframe, garbled) = match reader.rest() {
            &[tag, _, _, a, b, c, ..] if starts_frame && tag & 1 == 0 => {
                ([a, b, c] == START_CODE, [a, b, c] != START_CODE)
            }
            _ => (false, false),
        };
        let non_reference = first & 0x20 != 0;
        Ok(Vp8Descriptor {
            non_reference,
            starts_frame,
            picture_id,
            tl0_picture_index,
            temporal,
            key_index,
            len,
            keyframe,
            garbled,
        })
    }
}

pub(super) fn inspect(payload: &[u8]) -> PayloadInfo {
    Vp8Descriptor::parse(payload).map_or(PayloadInfo::default(), |descriptor| PayloadInfo {
        starts_keyframe: descriptor.keyframe,
        garbled: descriptor.garbled,
        starts_frame: descriptor.starts_frame,
        temporal: descriptor.temporal.map_or(0, |temporal| temporal.id),
        switches_up: descriptor.temporal.is_some_and(|temporal| temporal.switches_up),
        picture: descriptor.picture_id,
        tl0_picture_index: descriptor.tl0_picture_index.map(|(index, _)| index),
        ..PayloadInfo::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// X, S; I L T K; 15-bit picture id 4711; TL0PICIDX 9; TID 2, Y, KEYIDX 3; a keyframe's first bytes.
    const FULL: [u8; 12] = [0x90, 0xF0, 0x80 | 0x12, 0x67, 9, 0b1010_0011, 0x10, 0, 0, 0x9D, 0x01, 0x2A];

    #[test]
    fn a_full_descriptor_gives_every_field_with_its_place() {
        let read = Vp8Descriptor::parse(&FULL).unwrap();
        assert_eq!(read.picture_id, Some(PictureId { value: 0x1267, wide: true, offset: 2 }));
        assert_eq!(read.tl0_picture_index, Some((9, 4)));
        assert_eq!(read.temporal, Some(Vp8Temporal { id: 2, switches_up: true, offset: 5 }));
        assert_eq!((read.key_index, read.len), (Some(3), 6));
        assert!(read.starts_frame && read.keyframe && !read.non_reference);
    }

    #[test]
    fn the_p_bit_counts_only_where_a_frame_starts() {
        assert!(inspect(&[0x10, 0, 0, 0, 0x9D, 0x01, 0x2A]).starts_keyframe);
        let interframe = inspect(&[0x10, 1]);
        assert!(interframe.starts_frame && !interframe.starts_keyframe);
        for inside in [[0x00, 0], [0x11, 0]] {
            assert_eq!(inspect(&inside), PayloadInfo::default(), "{inside:?}");
        }
        assert!(!inspect(&[0x10]).starts_keyframe, "no frame behind the descriptor");
    }

    #[test]
    fn what_has_no_start_code_is_no_keyframe() {
        for hidden in [&[0x10, 0][..], &[0x10, 0, 0, 0], &[0x10, 0, 0, 0, 0x9D, 0x01], &[0x10, 2, 8, 4, 6, 7, 5]] {
            let info = inspect(hidden);
            assert!(info.starts_frame && !info.starts_keyframe, "{hidden:?}");
            assert_eq!(info.garbled, hidden.len() > 6, "{hidden:?}");
        }
    }

    #[test]
    fn a_short_picture_id_and_a_key_index_alone() {
        let read = Vp8Descriptor::parse(&[0xA0, 0x90, 0x7F, 0xFF]).unwrap();
        assert_eq!(read.picture_id, Some(PictureId { value: 127, wide: false, offset: 2 }));
        assert_eq!((read.temporal, read.key_index, read.non_reference), (None, Some(31), true));
    }

    #[test]
    fn every_cut_of_the_descriptor_is_malformed() {
        for cut in 0..6 {
            assert!(Vp8Descriptor::parse(&FULL[..cut]).is_err(), "{cut}");
            assert_eq!(inspect(&FULL[..cut]), PayloadInfo::default());
        }
        assert!(Vp8Descriptor::parse(&FULL[..6]).is_ok());
    }

    #[test]
    fn a_picture_id_is_rewritten_in_its_own_width() {
        for (mut payload, value) in [(FULL.to_vec(), 0x7ABC), (vec![0x80, 0x80, 5], 0x3C)] {
            let id = Vp8Descriptor::parse(&payload).unwrap().picture_id.unwrap();
            id.write(&mut payload, 0xFABC);
            assert_eq!(Vp8Descriptor::parse(&payload).unwrap().picture_id, Some(PictureId { value, ..id }));
            id.write(&mut [], 1);
        }
    }
}
