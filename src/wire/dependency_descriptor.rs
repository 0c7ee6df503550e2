//! The dependency descriptor (AV1 RTP specification, appendix A): which frame a packet belongs to, what that frame
//! needs, and who needs it. Every packet has three mandatory bytes; the template structure comes with keyframes. Not a
//! decoder of the frame's own dependencies: those need the structure kept by the stream's owner. Nothing of
//! it is forwarded: descriptors end at the router.

use super::Malformed;

/// Template ids have six bits.
pub const TEMPLATES_MAX: usize = 64;
/// `dt_cnt_minus_one` has five bits.
pub const DECODE_TARGETS_MAX: usize = 32;
pub const CHAINS_MAX: usize = 32;
/// AV1 has eight reference slots.
pub const FRAME_DIFFS_MAX: usize = 8;
/// AV1 has at most four spatial and eight temporal layers.
pub const SPATIAL_MAX: usize = 4;
pub const TEMPORAL_MAX: usize = 8;

/// What every descriptor says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mandatory {
    pub start_of_frame: bool,
    pub end_of_frame: bool,
    pub template_id: u8,
    pub frame_number: u16,
    /// A template structure is attached: decoding may start here.
    pub has_structure: bool,
}

pub fn parse_mandatory(value: &[u8]) -> Result<Mandatory, Malformed> {
    let &[first, high, low] = value.first_chunk().ok_or(Malformed("dependency descriptor under 3 bytes"))?;
    Ok(Mandatory {
        start_of_frame: first & 0x80 != 0,
        end_of_frame: first & 0x40 != 0,
        template_id: first & 0x3F,
        frame_number: u16::from_be_bytes([high, low]),
        has_structure: value.get(3).is_some_and(|flags| flags & 0x80 != 0),
    })
}

/// How much a decode target needs a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Indication {
    #[default]
    NotPresent,
    Discardable,
    Switch,
    Required,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Template {
    pub spatial: u8,
    pub temporal: u8,
    indications: [Indication; DECODE_TARGETS_MAX],
    diffs: [u8; FRAME_DIFFS_MAX],
    diff_count: u8,
    chain_diffs: [u8; CHAINS_MAX],
}

impl Template {
    /// For each decode target of the structure.
    pub fn indication(&self, decode_target: usize) -> Indication {
        self.indications.get(decode_target).copied().unwrap_or_default()
    }

    /// How many frames back each frame lies that this one refers to.
    pub fn diffs(&self) -> &[u8] {
        &self.diffs[..usize::from(self.diff_count)]
    }

    /// How many frames back the previous frame of a chain lies; 0: there is none.
    pub fn chain_diff(&self, chain: usize) -> u8 {
        self.chain_diffs.get(chain).copied().unwrap_or(0)
    }
}

/// The attached structure. About 5 kB: box it where it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Structure {
    /// Template `n` has the id `(template_id_offset + n) % 64`.
    pub template_id_offset: u8,
    pub decode_targets: u8,
    pub chains: u8,
    /// Bit n: decode target n is active; all of them where the descriptor does not say.
    pub active_decode_targets: u32,
    templates: [Template; TEMPLATES_MAX],
    template_count: u8,
    protected_by: [u8; DECODE_TARGETS_MAX],
    resolutions: Option<[(u32, u32); SPATIAL_MAX]>,
    spatial_count: u8,
}

impl Structure {
    pub fn templates(&self) -> &[Template] {
        &self.templates[..usize::from(self.template_count)]
    }

    /// The template a packet's id stands for.
    pub fn template(&self, template_id: u8) -> Option<&Template> {
        let index = template_id.wrapping_sub(self.template_id_offset) & 0x3F;
        self.templates().get(usize::from(index))
    }

    /// The chain whose integrity a decode target needs; None without chains.
    pub fn protected_by(&self, decode_target: usize) -> Option<u8> {
        self.protected_by[..usize::from(self.decode_targets)].get(decode_target).copied().filter(|_| self.chains > 0)
    }

    /// Width and height of each spatial layer; empty where the structure does not say.
    pub fn resolutions(&self) -> &[(u32, u32)] {
        self.resolutions.as_ref().map_or(&[], |all| &all[..usize::from(self.spatial_count)])
    }
}

/// The structure of a descriptor that has one attached.
pub fn parse_structure(value: &[u8]) -> Result<Option<Structure>, Malformed> {
    if !parse_mandatory(value)?.has_structure {
        return Ok(None);
    }
    let mut bits = Bits { bytes: value, at: 24 };
    bits.read(1)?;
    let active_present = bits.read(1)? == 1;
    bits.read(3)?;
    let mut structure = Structure {
        template_id_offset: bits.read(6)? as u8,
        decode_targets: bits.read(5)? as u8 + 1,
        chains: 0,
        active_decode_targets: u32::MAX,
        templates: [Template::default(); TEMPLATES_MAX],
        template_count: 0,
        protected_by: [0; DECODE_TARGETS_MAX],
        resolutions: None,
        spatial_count: 0,
    };
    structure.read_layers(&mut bits)?;
    structure.read_indications(&mut bits)?;
    structure.read_diffs(&mut bits)?;
    structure.read_chains(&mut bits)?;
    structure.read_resolutions(&mut bits)?;
    let targets = u32::from(structure.decode_targets);
    structure.active_decode_targets =
        if active_present { bits.read(targets)? } else { u32::MAX >> (u32::BITS - targets) };
    Ok(Some(structure))
}

impl Structure {
    fn templates_mut(&mut self) -> &mut [Template] {
        &mut self.templates[..usize::from(self.template_count)]
    }

    fn read_layers(&mut self, bits: &mut Bits<'_>) -> Result<(), Malformed> {
        let (mut spatial, mut temporal) = (0u8, 0u8);
        loop {
            let template = self
                .templates
                .get_mut(usize::from(self.template_count))
                .ok_or(Malformed("dependency descriptor with over 64 templates"))?;
            (template.spatial, template.temporal) = (spatial, temporal);
            self.template_count += 1;
            match bits.read(2)? {
                0 => {}
                1 => temporal += 1,
                2 => (spatial, temporal) = (spatial + 1, 0),
                _ => break,
            }
            if usize::from(spatial) >= SPATIAL_MAX || usize::from(temporal) >= TEMPORAL_MAX {
                return Err(Malformed("dependency descriptor with more layers than AV1 has"));
            }
        }
        self.spatial_count = spatial + 1;
        Ok(())
    }

    fn read_indications(&mut self, bits: &mut Bits<'_>) -> Result<(), Malformed> {
        let targets = usize::from(self.decode_targets);
        for template in self.templates_mut() {
            for indication in &mut template.indications[..targets] {
                *indication = match bits.read(2)? {
                    0 => Indication::NotPresent,
                    1 => Indication::Discardable,
                    2 => Indication::Switch,
                    _ => Indication::Required,
                };
            }
        }
        Ok(())
    }

    fn read_diffs(&mut self, bits: &mut Bits<'_>) -> Result<(), Malformed> {
        for template in self.templates_mut() {
            while bits.read(1)? == 1 {
                let slot = template
                    .diffs
                    .get_mut(usize::from(template.diff_count))
                    .ok_or(Malformed("dependency descriptor with over 8 references of a frame"))?;
                *slot = bits.read(4)? as u8 + 1;
                template.diff_count += 1;
            }
        }
        Ok(())
    }

    fn read_chains(&mut self, bits: &mut Bits<'_>) -> Result<(), Malformed> {
        self.chains = bits.non_symmetric(u32::from(self.decode_targets) + 1)? as u8;
        if self.chains == 0 {
            return Ok(());
        }
        let chains = self.chains;
        for chain in &mut self.protected_by[..usize::from(self.decode_targets)] {
            *chain = bits.non_symmetric(u32::from(chains))? as u8;
        }
        for template in self.templates_mut() {
            for diff in &mut template.chain_diffs[..usize::from(chains)] {
                *diff = bits.read(4)? as u8;
            }
        }
        Ok(())
    }

    fn read_resolutions(&mut self, bits: &mut Bits<'_>) -> Result<(), Malformed> {
        if bits.read(1)? == 1 {
            let resolutions = self.resolutions.insert([(0, 0); SPATIAL_MAX]);
            for resolution in &mut resolutions[..usize::from(self.spatial_count)] {
                *resolution = (bits.read(16)? + 1, bits.read(16)? + 1);
            }
        }
        Ok(())
    }
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// The next `count` bits, at most 32, highest first.
    fn read(&mut self, count: u32) -> Result<u32, Malformed> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or(Malformed("dependency descriptor cut short"))?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Ok(value)
    }

    /// `ns(n)` of the AV1 specification, section 4.10.7: a value below `n`, the smaller ones a bit shorter.
    fn non_symmetric(&mut self, n: u32) -> Result<u32, Malformed> {
        let width = u32::BITS - n.leading_zeros();
        let short = (1 << width) - n;
        let value = self.read(width - 1)?;
        if value < short { Ok(value) } else { Ok((value << 1) - short + self.read(1)?) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes (value, width) pairs, highest bit first.
    fn written(fields: &[(u32, u32)]) -> Vec<u8> {
        let bits: Vec<u8> = fields
            .iter()
            .flat_map(|(value, width)| (0..*width).rev().map(move |bit| (value >> bit & 1) as u8))
            .collect();
        bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |all, (at, bit)| all | bit << (7 - at))).collect()
    }

    /// L1T2 with two decode targets and one chain, 640×360, and an active mask of one target.
    fn l1t2() -> Vec<u8> {
        written(&[
            (1, 1),
            (0, 1),
            (63, 6),
            (0x1234, 16),
            (1, 1),
            (1, 1),
            (0, 3),
            (62, 6),
            (1, 5),
            (1, 2),
            (3, 2),
            (2, 2),
            (3, 2),
            (0, 2),
            (1, 2),
            (0, 1),
            (1, 1),
            (0, 4),
            (0, 1),
            (1, 1),
            (0, 1),
            (0, 4),
            (5, 4),
            (1, 1),
            (639, 16),
            (359, 16),
            (0b10, 2),
        ])
    }

    #[test]
    fn the_mandatory_fields_are_three_bytes() {
        let read = parse_mandatory(&l1t2()).unwrap();
        assert!(read.start_of_frame && !read.end_of_frame && read.has_structure);
        assert_eq!((read.template_id, read.frame_number), (63, 0x1234));
        let bare = parse_mandatory(&[0x41, 0, 9]).unwrap();
        assert!(bare.end_of_frame && !bare.has_structure);
        assert_eq!(parse_structure(&[0x41, 0, 9]), Ok(None));
        assert!(parse_mandatory(&[0x41, 0]).is_err());
    }

    #[test]
    fn a_structure_gives_its_templates() {
        let structure = parse_structure(&l1t2()).unwrap().unwrap();
        assert_eq!((structure.decode_targets, structure.chains), (2, 1));
        assert_eq!(structure.active_decode_targets, 0b10);
        let [base, upper] = structure.templates() else { panic!("two templates") };
        assert_eq!((base.temporal, upper.temporal, upper.spatial), (0, 1, 0));
        assert_eq!((base.indication(0), base.indication(1)), (Indication::Switch, Indication::Required));
        assert_eq!((upper.indication(0), upper.indication(1)), (Indication::NotPresent, Indication::Discardable));
        assert_eq!((base.diffs(), upper.diffs()), (&[][..], &[1][..]));
        assert_eq!((base.chain_diff(0), upper.chain_diff(0)), (0, 5));
        assert_eq!((structure.protected_by(1), structure.protected_by(2)), (Some(0), None));
        assert_eq!(structure.resolutions(), [(640, 360)]);
        assert_eq!(structure.template(63), Some(upper), "ids count from the offset");
        assert_eq!(structure.template(0), None);
    }

    #[test]
    fn every_truncation_is_malformed_or_has_no_structure() {
        let bytes = l1t2();
        for cut in 0..bytes.len() {
            assert!(!matches!(parse_structure(&bytes[..cut]), Ok(Some(_))), "{cut}");
        }
    }

    #[test]
    fn non_symmetric_values_are_read_as_the_specification_lists_them() {
        for (bits, width, value) in [(0b00, 2, 0), (0b01, 2, 1), (0b10, 2, 2), (0b110, 3, 3), (0b111, 3, 4)] {
            let bytes = written(&[(bits, width)]);
            let mut reader = Bits { bytes: &bytes, at: 0 };
            assert_eq!((reader.non_symmetric(5).unwrap(), reader.at), (value, width as usize));
        }
        let mut nothing = Bits { bytes: &[], at: 0 };
        assert_eq!(nothing.non_symmetric(1), Ok(0), "one possible value takes no bits");
    }

    #[test]
    fn too_many_templates_layers_or_references_are_malformed() {
        let head = [(0x8000, 24 - 8), (0, 8), (1, 1), (0, 4), (0, 6), (0, 5)];
        let with = |more: &[(u32, u32)]| parse_structure(&written(&[&head[..], more].concat())).unwrap_err().0;
        assert!(with(&[(0, 2); 70]).contains("templates"));
        assert!(with(&[(2, 2); 4]).contains("layers") && with(&[(1, 2); 8]).contains("layers"));
        let references = [vec![(3, 2), (0, 2)], vec![(0b1_0000, 5); 9]].concat();
        assert!(with(&references).contains("references"));
    }
}
