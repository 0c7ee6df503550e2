//! The dependency descriptor (AV1 RTP specification, appendix A): the frame of a packet, the frames it depends on, and
//! the decode targets that need it. Every packet has three mandatory bytes; the template structure comes with
//! keyframes, and the stream's owner keeps it, because later descriptors are read by it.

use super::Malformed;

/// Template ids have six bits.
const TEMPLATES_MAX: usize = 64;
/// `dt_cnt_minus_one` has five bits.
pub const DECODE_TARGETS_MAX: usize = 32;
const CHAINS_MAX: usize = 32;
/// AV1 has eight reference slots.
const FRAME_DIFFS_MAX: usize = 8;
/// AV1 has at most four spatial and eight temporal layers.
const SPATIAL_MAX: usize = 4;
pub const TEMPORAL_MAX: usize = 8;

/// The mandatory fields of every descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mandatory {
    pub start_of_frame: bool,
    pub end_of_frame: bool,
    pub template_id: u8,
    pub frame_number: u16,
    /// A template structure is attached: decoding may start here.
    pub has_structure: bool,
}

pub(crate) fn parse_mandatory(value: &[u8]) -> Result<Mandatory, Malformed> {
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

impl Indication {
    fn read(bits: &mut Bits<'_>) -> Result<Indication, Malformed> {
        Ok(match bits.read(2)? {
            0 => Indication::NotPresent,
            1 => Indication::Discardable,
            2 => Indication::Switch,
            _ => Indication::Required,
        })
    }
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

    /// The distances, in frames, to the frames that this one refers to.
    pub fn diffs(&self) -> &[u8] {
        &self.diffs[..usize::from(self.diff_count)]
    }

    /// The distance, in frames, to the previous frame of each chain; 0: there is none.
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

/// One frame, from the descriptors of its packets. Its chains are not read: `diffs` has its references.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DescribedFrame {
    pub mandatory: Mandatory,
    pub spatial: u8,
    pub temporal: u8,
    indications: [Indication; DECODE_TARGETS_MAX],
    diffs: [u16; FRAME_DIFFS_MAX],
    diff_count: u8,
    /// The place in this packet of the mask of active decode targets.
    pub active_decode_targets: Option<u32>,
}

impl DescribedFrame {
    pub fn indication(&self, decode_target: usize) -> Indication {
        self.indications.get(decode_target).copied().unwrap_or_default()
    }

    /// The distances, in frames, to the frames that this one refers to.
    pub fn diffs(&self) -> &[u16] {
        &self.diffs[..usize::from(self.diff_count)]
    }

    pub fn is_keyframe(&self) -> bool {
        self.mandatory.has_structure && self.diff_count == 0
    }
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
    let mut bits = Bits { bytes: value, at: FLAGS_END };
    let mut structure = Structure::read(&mut bits)?;
    if value[3] & ACTIVE_PRESENT != 0 {
        structure.active_decode_targets = bits.read(u32::from(structure.decode_targets))?;
    }
    Ok(Some(structure))
}

/// The frame of a descriptor: `structure` is the one attached to it, else the newest of the stream.
pub fn parse_frame(value: &[u8], structure: &Structure) -> Result<DescribedFrame, Malformed> {
    let mandatory = parse_mandatory(value)?;
    let template =
        structure.template(mandatory.template_id).ok_or(Malformed("dependency descriptor of no template"))?;
    let mut frame = DescribedFrame {
        mandatory,
        spatial: template.spatial,
        temporal: template.temporal,
        indications: template.indications,
        diffs: template.diffs.map(u16::from),
        diff_count: template.diff_count,
        active_decode_targets: None,
    };
    let Some(&flags) = value.get(3) else { return Ok(frame) };
    let mut bits = Bits { bytes: value, at: FLAGS_END };
    if mandatory.has_structure {
        Structure::read(&mut bits)?;
    }
    let targets = u32::from(structure.decode_targets);
    if flags & ACTIVE_PRESENT != 0 {
        frame.active_decode_targets = Some(bits.read(targets)?);
    } else if mandatory.has_structure {
        frame.active_decode_targets = Some(u32::MAX >> (u32::BITS - targets));
    }
    if flags & CUSTOM_INDICATIONS != 0 {
        for indication in &mut frame.indications[..usize::from(structure.decode_targets)] {
            *indication = Indication::read(&mut bits)?;
        }
    }
    if flags & CUSTOM_DIFFS != 0 {
        frame.diff_count = 0;
        while let nibbles @ 1.. = bits.read(2)? {
            let slot = frame
                .diffs
                .get_mut(usize::from(frame.diff_count))
                .ok_or(Malformed("dependency descriptor with over 8 references of a frame"))?;
            *slot = bits.read(nibbles * 4)? as u16 + 1;
            frame.diff_count += 1;
        }
    }
    Ok(frame)
}

/// The flags byte behind the mandatory ones: its three upper custom bits after structure and active targets.
const ACTIVE_PRESENT: u8 = 0x40;
const CUSTOM_INDICATIONS: u8 = 0x20;
const CUSTOM_DIFFS: u8 = 0x10;
/// In bits: the mandatory bytes and five flags.
const FLAGS_END: usize = 29;

/// The most that [`rewrite`] adds: a byte of flags, 32 decode targets, and what they shift over a byte's end.
pub const REWRITE_ADDS_MAX: usize = 6;

/// Bytes of a rewritten descriptor: as long as `value`, with `targets` bits where it does not say which are active.
pub fn rewritten_len(value: &[u8], targets: u8) -> usize {
    match value.get(3) {
        None => (FLAGS_END + usize::from(targets)).div_ceil(8),
        Some(flags) if flags & ACTIVE_PRESENT != 0 => value.len(),
        Some(_) => value.len() + usize::from(targets).div_ceil(8),
    }
}

/// Writes `value` with another frame number and with these decode targets active, and returns its length, that of
/// [`rewritten_len`]. None when it does not fit `out` or is none.
pub fn rewrite(value: &[u8], number_shift: u16, targets: u8, active: u32, out: &mut [u8]) -> Option<usize> {
    let mandatory = parse_mandatory(value).ok()?;
    let len = rewritten_len(value, targets);
    let out = out.get_mut(..len)?;
    out.fill(0);
    let flags = value.get(3).copied().unwrap_or(0);
    let mut from = Bits { bytes: value, at: FLAGS_END };
    if mandatory.has_structure {
        Structure::read(&mut from).ok()?;
    }
    let structure_end = from.at;
    if flags & ACTIVE_PRESENT != 0 {
        from.at += usize::from(targets);
    }
    out[0] = value[0];
    out[1..3].copy_from_slice(&mandatory.frame_number.wrapping_add(number_shift).to_be_bytes());
    let mut to = BitWriter { bytes: out, at: 24 };
    to.write(u32::from(flags >> 3) | u32::from(ACTIVE_PRESENT >> 3), 5);
    let mut structure = Bits { bytes: value, at: FLAGS_END };
    to.copy(&mut structure, structure_end.saturating_sub(FLAGS_END))?;
    to.write(active, u32::from(targets));
    let rest = (value.len() * 8).saturating_sub(from.at);
    to.copy(&mut from, rest)?;
    Some(len)
}

struct BitWriter<'a> {
    /// Zeros at first.
    bytes: &'a mut [u8],
    at: usize,
}

impl BitWriter<'_> {
    /// The low `count` bits, highest first; what does not fit is left out, which may only be padding.
    fn write(&mut self, value: u32, count: u32) {
        for bit in (0..count).rev() {
            if let Some(byte) = self.bytes.get_mut(self.at / 8) {
                *byte |= ((value >> bit & 1) as u8) << (7 - self.at % 8);
            }
            self.at += 1;
        }
    }

    fn copy(&mut self, from: &mut Bits<'_>, mut count: usize) -> Option<()> {
        while count > 0 {
            let some = count.min(8) as u32;
            self.write(from.read(some).ok()?, some);
            count -= some as usize;
        }
        Some(())
    }
}

impl Structure {
    /// Behind the flags; all its decode targets are active.
    fn read(bits: &mut Bits<'_>) -> Result<Structure, Malformed> {
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
        structure.read_layers(bits)?;
        structure.read_indications(bits)?;
        structure.read_diffs(bits)?;
        structure.read_chains(bits)?;
        structure.read_resolutions(bits)?;
        structure.active_decode_targets = u32::MAX >> (u32::BITS - u32::from(structure.decode_targets));
        Ok(structure)
    }

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
                *indication = Indication::read(bits)?;
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
pub(crate) mod tests {
    use super::*;

    /// Writes (value, width) pairs, highest bit first.
    pub(crate) fn written(fields: &[(u32, u32)]) -> Vec<u8> {
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
    fn a_frame_is_its_template_unless_it_says_otherwise() {
        let structure = parse_structure(&l1t2()).unwrap().unwrap();
        let key = parse_frame(&l1t2(), &structure).unwrap();
        assert!(!key.is_keyframe(), "the second template refers to the frame before");
        assert_eq!((key.temporal, key.active_decode_targets), (1, Some(0b10)));
        let plain = parse_frame(&[0x80 | 62, 0, 9], &structure).unwrap();
        assert_eq!((plain.temporal, plain.indication(0), plain.diffs()), (0, Indication::Switch, &[][..]));
        let custom = written(&[
            (0, 2),
            (62, 6),
            (9, 16),
            (0b0_0110, 5),
            (0b01_11, 4),
            (1, 2),
            (4, 4),
            (3, 2),
            (0xABC, 12),
            (0, 2),
        ]);
        let custom = parse_frame(&custom, &structure).unwrap();
        assert_eq!(custom.diffs(), [5, 0xABD]);
        assert_eq!((custom.indication(0), custom.indication(1)), (Indication::Discardable, Indication::Required));
        assert!(parse_frame(&[0, 0, 9], &structure).is_err(), "template 0 is not in it");
        assert!(parse_frame(&[62, 0, 9, 0x20], &structure).is_err(), "cut short");
    }

    #[test]
    fn rewriting_changes_the_number_and_the_active_targets_alone() {
        let structure = parse_structure(&l1t2()).unwrap().unwrap();
        let custom = written(&[(62, 8), (9, 16), (0b0_0100, 5), (0b01_11, 4)]);
        for value in [l1t2(), vec![62, 0xFF, 0xFF], custom] {
            let mut out = [0xEE; 64];
            let len = rewrite(&value, 2, 2, 0b01, &mut out).unwrap();
            assert!(len == rewritten_len(&value, 2) && len <= value.len() + REWRITE_ADDS_MAX);
            let (before, after) =
                (parse_frame(&value, &structure).unwrap(), parse_frame(&out[..len], &structure).unwrap());
            let number = before.mandatory.frame_number.wrapping_add(2);
            let mandatory = Mandatory { frame_number: number, ..before.mandatory };
            assert_eq!(after, DescribedFrame { mandatory, active_decode_targets: Some(0b01), ..before });
            let of = |value: &[u8]| parse_structure(value).unwrap().map(|found| found.templates().to_vec());
            assert_eq!(of(&value), of(&out[..len]));
            assert_eq!(rewrite(&value, 2, 2, 0b01, &mut out[..len - 1]), None, "no room");
        }
        assert_eq!(rewrite(&[1, 2], 0, 1, 1, &mut [0; 9]), None);
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
