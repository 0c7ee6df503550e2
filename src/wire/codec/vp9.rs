//! The VP9 payload descriptor (RFC 9628 section 4.2), flexible and non-flexible mode.

use super::{PayloadInfo, PictureId};
use crate::wire::{Malformed, Reader};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vp9Descriptor {
    /// P: the frame refers to earlier pictures.
    pub inter_predicted: bool,
    pub flexible: bool,
    /// B and E: of the frame of one spatial layer.
    pub starts_layer_frame: bool,
    pub ends_layer_frame: bool,
    /// Z: no higher spatial layer refers to this frame.
    pub not_for_upper_layers: bool,
    pub picture_id: Option<PictureId>,
    pub layers: Option<Vp9Layers>,
    /// TL0PICIDX and its offset; only in non-flexible mode.
    pub tl0_picture_index: Option<(u8, u8)>,
    /// A scalability structure is attached, with this many spatial layers.
    pub structure_layers: Option<u8>,
    /// Width and height of the highest of them.
    pub structure_size: Option<(u32, u32)>,
    /// Length of the descriptor.
    pub len: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vp9Layers {
    pub temporal: u8,
    pub spatial: u8,
    /// U: one may switch up to this temporal layer here.
    pub switches_up: bool,
    /// D: refers to the lower spatial layer of the same picture.
    pub inter_layer_predicted: bool,
}

impl Vp9Descriptor {
    pub fn parse(payload: &[u8]) -> Result<Vp9Descriptor, Malformed> {
        let mut reader = Reader::new(payload, "VP9 payload descriptor cut short");
        let first = reader.u8()?;
        let (inter_predicted, flexible) = (first & 0x40 != 0, first & 0x10 != 0);
        let picture_id = if first & 0x80 != 0 { Some(PictureId::parse(&mut reader, 1)?) } else { None };
        let (mut layers, mut tl0_picture_index) = (None, None);
        if first & 0x20 != 0 {
            let byte = reader.u8()?;
            layers = Some(Vp9Layers {
                temporal: byte >> 5,
                spatial: byte >> 1 & 7,
                switches_up: byte & 0x10 != 0,
                inter_layer_predicted: byte & 1 != 0,
            });
            if !flexible {
                let offset = (payload.len() - reader.rest().len()) as u8;
                tl0_picture_index = Some((reader.u8()?, offset));
            }
        }
        if flexible && inter_predicted {
            // Up to three reference distances; the low bit says that another follows.
            let mut distances = 1;
            while reader.u8()? & 1 != 0 {
                if distances == 3 {
                    return Err(Malformed("VP9 payload descriptor with over 3 references"));
                }
                distances += 1;
            }
        }
        let structure = if first & 0x02 != 0 { Some(structure(&mut reader)?) } else { None };
        Ok(Vp9Descriptor {
            inter_predicted,
            flexible,
            starts_layer_frame: first & 0x08 != 0,
            ends_layer_frame: first & 0x04 != 0,
            not_for_upper_layers: first & 0x01 != 0,
            picture_id,
            layers,
            tl0_picture_index,
            structure_layers: structure.map(|(layers, _)| layers),
            structure_size: structure.and_then(|(_, size)| size),
            // At most 1,061 bytes, most of them the structure.
            len: (payload.len() - reader.rest().len()) as u16,
        })
    }

    pub fn starts_keyframe(&self) -> bool {
        self.starts_layer_frame && !self.inter_predicted && self.layers.is_none_or(|layers| layers.spatial == 0)
    }
}

/// Section 4.2.1: resolutions, then a group of pictures. Returns the number of spatial layers, and how large the highest
/// is.
fn structure(reader: &mut Reader<'_>) -> Result<(u8, Option<(u32, u32)>), Malformed> {
    let head = reader.u8()?;
    let layers = (head >> 5) + 1;
    let mut size = None;
    if head & 0x10 != 0 {
        for _ in 0..layers {
            size = Some((u32::from(reader.u16()?), u32::from(reader.u16()?)));
        }
    }
    if head & 0x08 != 0 {
        for _ in 0..reader.u8()? {
            let references = reader.u8()? >> 2 & 3;
            reader.take(usize::from(references))?;
        }
    }
    Ok((layers, size))
}

pub(super) fn inspect(payload: &[u8]) -> PayloadInfo {
    Vp9Descriptor::parse(payload).map_or(PayloadInfo::default(), |descriptor| PayloadInfo {
        starts_keyframe: descriptor.starts_keyframe(),
        starts_idr: false,
        garbled: false,
        starts_frame: descriptor.starts_layer_frame,
        ends_frame: descriptor.ends_layer_frame,
        spatial: descriptor.layers.map_or(0, |layers| layers.spatial),
        temporal: descriptor.layers.map_or(0, |layers| layers.temporal),
        switches_up: descriptor.layers.is_some_and(|layers| layers.switches_up),
        inter_predicted: descriptor.inter_predicted,
        picture: descriptor.picture_id,
        tl0_picture_index: descriptor.tl0_picture_index.map(|(index, _)| index),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Non-flexible: I L B V; picture id 0x1267; TID 1 U SID 0 D; TL0PICIDX 5; two layers with sizes and one picture
    /// of a group with two references; then the frame.
    const FULL: [u8; 19] = [
        0b1010_1010,
        0x92,
        0x67,
        0b0011_0001,
        5, //
        0b0011_1000,
        1,
        64,
        0,
        180,
        2,
        128,
        1,
        104,
        1,
        0b0000_1000,
        1,
        2, //
        0xAA,
    ];

    #[test]
    fn a_full_descriptor_gives_every_field() {
        let read = Vp9Descriptor::parse(&FULL).unwrap();
        assert_eq!(read.picture_id, Some(PictureId { value: 0x1267, wide: true, offset: 1 }));
        let layers = Vp9Layers { temporal: 1, spatial: 0, switches_up: true, inter_layer_predicted: true };
        assert_eq!((read.layers, read.tl0_picture_index), (Some(layers), Some((5, 4))));
        assert_eq!((read.structure_layers, read.len), (Some(2), 18));
        assert!(read.starts_keyframe() && !read.ends_layer_frame && !read.flexible);
        assert_eq!(inspect(&FULL).temporal, 1);
    }

    #[test]
    fn every_cut_of_the_descriptor_is_malformed() {
        for cut in 0..18 {
            assert!(Vp9Descriptor::parse(&FULL[..cut]).is_err(), "{cut}");
            assert_eq!(inspect(&FULL[..cut]), PayloadInfo::default());
        }
    }

    #[test]
    fn flexible_mode_has_references_and_no_tl0_index() {
        let read = Vp9Descriptor::parse(&[0b1111_0100, 7, 0b0100_0010, 3, 4, 0]).unwrap();
        assert_eq!(read.picture_id, Some(PictureId { value: 7, wide: false, offset: 1 }));
        assert_eq!((read.tl0_picture_index, read.len), (None, 5));
        let info = inspect(&[0b1111_0100, 7, 0b0100_0010, 3, 4, 0]);
        assert!(info.ends_frame && !info.starts_frame && (info.spatial, info.temporal) == (1, 2));
        assert!(Vp9Descriptor::parse(&[0b0101_0000, 3, 3, 3, 3]).is_err(), "four references");
    }

    #[test]
    fn a_keyframe_starts_in_the_lowest_layer_without_references() {
        assert!(inspect(&[0b0000_1000]).starts_keyframe);
        assert!(!inspect(&[0b0000_0000]).starts_keyframe, "not its first packet");
        assert!(!inspect(&[0b0100_1000]).starts_keyframe, "inter-predicted");
        assert!(!inspect(&[0b0011_1000, 0b0000_0011]).starts_keyframe, "spatial layer 1");
        assert!(inspect(&[0b0011_1000, 0b0000_0000]).starts_keyframe);
    }
}
