//! The dependency descriptor (AV1 RTP specification, appendix A) as the simulation's sources write it and its model
//! decoder reads it: whole, with the frame's own differences from its template. Apart from `wire`'s reader on purpose.

use crate::sim::scalability::{Definition, Definitions, Indication};

/// Template ids start here, so that nobody takes an id for an index.
const ID_OFFSET: u8 = 50;

/// One packet's descriptor.
pub struct Description<'a> {
    pub starts_frame: bool,
    pub ends_frame: bool,
    pub number: u16,
    pub frame: &'a Definition,
    /// Repeats the template's values in fields of its own.
    pub in_full: bool,
    pub attach: bool,
    /// Bit n: decode target n is active.
    pub active: Option<u32>,
}

#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    used: usize,
}

impl BitWriter {
    fn put(&mut self, value: u32, width: u32) {
        for bit in (0..width).rev() {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.len() - 1;
            self.bytes[last] |= ((value >> bit & 1) as u8) << (7 - self.used % 8);
            self.used += 1;
        }
    }

    /// `ns(n)`, AV1 specification section 4.10.7.
    fn put_non_symmetric(&mut self, value: u32, n: u32) {
        let width = u32::BITS - n.leading_zeros();
        let short = (1 << width) - n;
        if value < short {
            self.put(value, width - 1);
        } else {
            self.put(value + short, width);
        }
    }
}

fn code(indication: Indication) -> u32 {
    match indication {
        Indication::NotPresent => 0,
        Indication::Discardable => 1,
        Indication::Switch => 2,
        Indication::Required => 3,
    }
}

/// A.8.2, in the order of its syntax.
pub fn write(definitions: &Definitions, of: &Description<'_>) -> Vec<u8> {
    let templates = &definitions.templates;
    let layer = |template: &Definition| (template.spatial, template.temporal);
    let exact = templates.iter().position(|template| template == of.frame);
    let near = templates.iter().position(|template| layer(template) == layer(of.frame)).unwrap_or(0);
    let index = if of.in_full { near } else { exact.unwrap_or(near) };
    let template = &templates[index];
    let custom = |differs: bool| u32::from(of.in_full || differs);
    let customs = [
        custom(template.indications != of.frame.indications),
        custom(template.diffs != of.frame.diffs),
        custom(template.chain_diffs != of.frame.chain_diffs),
    ];
    let mut bits = BitWriter::default();
    bits.put(u32::from(of.starts_frame), 1);
    bits.put(u32::from(of.ends_frame), 1);
    bits.put((u32::from(ID_OFFSET) + index as u32) % 64, 6);
    bits.put(u32::from(of.number), 16);
    if !of.attach && of.active.is_none() && customs == [0; 3] {
        return bits.bytes;
    }
    bits.put(u32::from(of.attach), 1);
    bits.put(u32::from(of.active.is_some()), 1);
    customs.into_iter().for_each(|custom| bits.put(custom, 1));
    let targets = of.frame.indications.len() as u32;
    if of.attach {
        write_structure(&mut bits, templates, targets);
    }
    if let Some(mask) = of.active {
        bits.put(mask, targets);
    }
    if customs[0] == 1 {
        of.frame.indications.iter().for_each(|indication| bits.put(code(*indication), 2));
    }
    if customs[1] == 1 {
        for diff in &of.frame.diffs {
            let nibbles = if *diff <= 16 { 1 } else { 2 };
            bits.put(nibbles, 2);
            bits.put(u32::from(diff - 1), nibbles * 4);
        }
        bits.put(0, 2);
    }
    if customs[2] == 1 {
        of.frame.chain_diffs.iter().for_each(|diff| bits.put(u32::from(*diff), 8));
    }
    bits.bytes
}

fn write_structure(bits: &mut BitWriter, templates: &[Definition], targets: u32) {
    bits.put(u32::from(ID_OFFSET), 6);
    bits.put(targets - 1, 5);
    for (at, template) in templates.iter().enumerate() {
        let step = match templates.get(at + 1) {
            None => 3,
            Some(next) if next.spatial > template.spatial => 2,
            Some(next) if next.temporal > template.temporal => 1,
            Some(_) => 0,
        };
        bits.put(step, 2);
    }
    for template in templates {
        template.indications.iter().for_each(|indication| bits.put(code(*indication), 2));
    }
    for template in templates {
        for diff in &template.diffs {
            bits.put(1, 1);
            bits.put(u32::from(diff - 1), 4);
        }
        bits.put(0, 1);
    }
    let chains = templates[0].chain_diffs.len() as u32;
    bits.put_non_symmetric(chains, targets + 1);
    for target in 0..targets {
        bits.put_non_symmetric(target / (targets / chains), chains);
    }
    for template in templates {
        template.chain_diffs.iter().for_each(|diff| bits.put(u32::from(*diff), 4));
    }
    // No resolutions.
    bits.put(0, 1);
}

/// A receiver's reading of one packet's descriptor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Described {
    pub starts_frame: bool,
    pub ends_frame: bool,
    pub number: u16,
    pub attached: bool,
    /// As of this packet.
    pub active: u32,
    pub frame: Definition,
}

/// The attached structure, as kept by a receiver.
#[derive(Clone, Debug)]
struct Structure {
    id_offset: u8,
    targets: usize,
    templates: Vec<Definition>,
    /// The chain of each decode target.
    protected_by: Vec<u32>,
}

/// Reads descriptors in the order of their packets.
#[derive(Clone, Debug, Default)]
pub struct DescriptorReader {
    structure: Option<Structure>,
    active: u32,
}

struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl BitReader<'_> {
    fn take(&mut self, width: u32) -> Option<u32> {
        (0..width).try_fold(0, |value, _| {
            let bit = self.bytes.get(self.at / 8)? >> (7 - self.at % 8) & 1;
            self.at += 1;
            Some(value << 1 | u32::from(bit))
        })
    }

    fn take_non_symmetric(&mut self, n: u32) -> Option<u32> {
        let width = u32::BITS - n.leading_zeros();
        let short = (1 << width) - n;
        let value = self.take(width - 1)?;
        if value < short { Some(value) } else { Some((value << 1) - short + self.take(1)?) }
    }

    fn indications(&mut self, targets: usize) -> Option<Vec<Indication>> {
        let one = |code| match code {
            0 => Indication::NotPresent,
            1 => Indication::Discardable,
            2 => Indication::Switch,
            _ => Indication::Required,
        };
        (0..targets).map(|_| self.take(2).map(one)).collect()
    }
}

impl DescriptorReader {
    /// None when the bytes are none, or their template is unknown: then nothing can be made of the packet.
    pub fn read(&mut self, value: &[u8]) -> Option<Described> {
        let mut bits = BitReader { bytes: value, at: 0 };
        let (starts_frame, ends_frame) = (bits.take(1)? == 1, bits.take(1)? == 1);
        let (template, number) = (bits.take(6)? as u8, bits.take(16)? as u16);
        let mut flags = [false; 5];
        if value.len() > 3 {
            for flag in &mut flags {
                *flag = bits.take(1)? == 1;
            }
        }
        let [attached, masked, indications, diffs, chains] = flags;
        if attached {
            let structure = read_structure(&mut bits)?;
            self.active = u32::MAX >> (32 - structure.targets);
            self.structure = Some(structure);
        }
        let structure = self.structure.as_ref()?;
        if masked {
            self.active = bits.take(structure.targets as u32)?;
        }
        let index = template.wrapping_sub(structure.id_offset) & 63;
        let mut frame = structure.templates.get(usize::from(index))?.clone();
        if indications {
            frame.indications = bits.indications(structure.targets)?;
        }
        if diffs {
            frame.diffs.clear();
            loop {
                let nibbles = bits.take(2)?;
                if nibbles == 0 {
                    break;
                }
                frame.diffs.push(bits.take(nibbles * 4)? as u16 + 1);
            }
        }
        if chains {
            for diff in &mut frame.chain_diffs {
                *diff = bits.take(8)? as u8;
            }
        }
        Some(Described { starts_frame, ends_frame, number, attached, active: self.active, frame })
    }

    /// Spatial and temporal id of a decode target: the highest of any frame in it (A.4).
    pub fn target(&self, target: usize) -> Option<(u8, u8)> {
        let templates = self.structure.iter().flat_map(|structure| &structure.templates);
        let members = templates.filter(|template| {
            template.indications.get(target).is_some_and(|indication| *indication != Indication::NotPresent)
        });
        members.fold(None, |highest: Option<(u8, u8)>, template| {
            let (spatial, temporal) = highest.unwrap_or((0, 0));
            Some((spatial.max(template.spatial), temporal.max(template.temporal)))
        })
    }

    /// The active decode target with the most in it.
    pub fn highest_active(&self) -> Option<usize> {
        let targets = self.structure.as_ref()?.targets;
        (0..targets).filter(|target| self.active >> target & 1 == 1).max_by_key(|target| self.target(*target))
    }

    pub fn chain_of(&self, target: usize) -> Option<usize> {
        self.structure.as_ref()?.protected_by.get(target).map(|chain| *chain as usize)
    }
}

fn read_structure(bits: &mut BitReader<'_>) -> Option<Structure> {
    let id_offset = bits.take(6)? as u8;
    let targets = bits.take(5)? as usize + 1;
    let mut templates = Vec::new();
    let (mut spatial, mut temporal) = (0, 0);
    loop {
        templates.push(Definition { spatial, temporal, indications: vec![], diffs: vec![], chain_diffs: vec![] });
        match bits.take(2)? {
            0 => {}
            1 => temporal += 1,
            2 => (spatial, temporal) = (spatial + 1, 0),
            _ => break,
        }
        if templates.len() > 64 {
            return None;
        }
    }
    for template in &mut templates {
        template.indications = bits.indications(targets)?;
    }
    for template in &mut templates {
        while bits.take(1)? == 1 {
            template.diffs.push(bits.take(4)? as u16 + 1);
        }
    }
    let chains = bits.take_non_symmetric(targets as u32 + 1)?;
    let mut protected_by = Vec::new();
    if chains > 0 {
        protected_by = (0..targets).map(|_| bits.take_non_symmetric(chains)).collect::<Option<_>>()?;
        for template in &mut templates {
            template.chain_diffs = (0..chains).map(|_| Some(bits.take(4)? as u8)).collect::<Option<_>>()?;
        }
    }
    if bits.take(1)? == 1 {
        (0..=spatial).try_for_each(|_| bits.take(32).map(drop))?;
    }
    Some(Structure { id_offset, targets, templates, protected_by })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scalability::Scalability;
    use crate::wire::dependency_descriptor::{parse_mandatory, parse_structure};

    #[test]
    fn frames_read_back_as_written_and_as_the_router_reads_them() {
        for mode in [Scalability::L1T3, Scalability::L1T3Sparse, Scalability::L3T3, Scalability::L3T3Key] {
            let layers = mode.spatial_layers();
            let definitions = Definitions::new(mode, layers);
            let mut reader = DescriptorReader::default();
            for (number, picture) in (0..40usize).flat_map(|n| (0..layers).map(move |s| (n, s))).enumerate() {
                let (picture, spatial) = picture;
                let frame = definitions.of(picture, spatial);
                let attach = number == 0;
                let active = (picture % 5 == 0).then_some(0b111);
                let number = number as u16;
                let in_full = number % 7 == 3;
                let of = Description {
                    starts_frame: true,
                    ends_frame: picture == 1,
                    number,
                    frame,
                    in_full,
                    attach,
                    active,
                };
                let written = write(&definitions, &of);
                let read = reader.read(&written).unwrap();
                assert_eq!((&read.frame, read.number, read.attached), (frame, number, attach), "{mode:?}");
                let theirs = parse_mandatory(&written).unwrap();
                assert_eq!((theirs.frame_number, theirs.has_structure), (number, attach));
                if let Some(structure) = parse_structure(&written).unwrap() {
                    assert_eq!(structure.templates().len(), definitions.templates.len());
                    assert_eq!((structure.chains, structure.active_decode_targets), (layers, 0b111));
                    let template = structure.template(theirs.template_id).unwrap();
                    assert_eq!((template.spatial, template.temporal), (frame.spatial, frame.temporal));
                }
            }
            let top = usize::from(layers) * 3 - 1;
            assert_eq!(
                (reader.target(top), reader.chain_of(top)),
                (Some((layers - 1, 2)), Some(usize::from(layers) - 1))
            );
            assert_eq!(reader.highest_active(), Some(2));
        }
    }
}
