//! VP9 (RFC 9628) in non-flexible mode: a picture's references follow from its place in the group of pictures that the
//! scalability structure describes, its layers from P and D. Flexible mode names its references itself; none of this
//! world's sources uses it.

use std::collections::BTreeSet;

use super::model::{DecoderPacket, FaultKind, Found, Model, Part, Strictness};

/// Section 4.2.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Descriptor {
    opens: bool,
    picture_id: u16,
    mask: u16,
    inter_picture: bool,
    inter_layer: bool,
    spatial: u8,
    temporal: u8,
    tl0: u8,
    structure: Option<Vec<Slot>>,
}

/// A picture of the group: its temporal layer, and how far back its references lie.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Slot {
    temporal: u8,
    diffs: Vec<u8>,
}

#[derive(Default)]
pub(super) struct Vp9 {
    current: Option<Descriptor>,
    group: Vec<Slot>,
    /// The picture that the group begins with.
    origin: u64,
    /// The newest picture: its picture id unwrapped, its highest layer so far, its TL0PICIDX.
    last: Option<(u64, u8, u8)>,
    decoded: BTreeSet<(u64, u8)>,
    torn: bool,
    /// Since a gap no structure has come: the group may be another.
    unsure: bool,
    /// References that these pictures and those before them lack may be lost by the network.
    excused: Option<u64>,
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }
}

/// Section 4.2.1.
fn parse_structure(bytes: &mut Bytes<'_>) -> Option<Vec<Slot>> {
    let head = bytes.next()?;
    if head & 0x10 != 0 {
        for _ in 0..4 * ((head >> 5) + 1) {
            bytes.next()?;
        }
    }
    if head & 0x08 == 0 {
        return Some(Vec::new());
    }
    let count = bytes.next()?;
    let slot = |bytes: &mut Bytes<'_>| {
        let flags = bytes.next()?;
        let diffs = (0..flags >> 2 & 3).map(|_| bytes.next()).collect::<Option<_>>()?;
        Some(Slot { temporal: flags >> 5, diffs })
    };
    (0..count).map(|_| slot(bytes)).collect()
}

/// The descriptor with its B and E; None also for one without a picture id or in flexible mode.
fn parse(payload: &[u8], opens: bool) -> Option<(bool, bool, Descriptor)> {
    let mut bytes = Bytes(payload);
    let flags = bytes.next()?;
    if flags & 0x80 == 0 || flags & 0x10 != 0 {
        return None;
    }
    let high = bytes.next()?;
    let long = high & 0x80 != 0;
    let picture_id = if long { u16::from(high & 0x7f) << 8 | u16::from(bytes.next()?) } else { u16::from(high) };
    let (ids, tl0) = if flags & 0x20 != 0 { (bytes.next()?, bytes.next()?) } else { (0, 0) };
    let structure = if flags & 0x02 != 0 { Some(parse_structure(&mut bytes)?) } else { None };
    let descriptor = Descriptor {
        opens,
        picture_id,
        mask: if long { 0x7fff } else { 0x7f },
        inter_picture: flags & 0x40 != 0,
        inter_layer: ids & 1 != 0,
        spatial: ids >> 1 & 7,
        temporal: ids >> 5,
        tl0,
        structure,
    };
    Some((flags & 0x08 != 0, flags & 0x04 != 0, descriptor))
}

impl Model for Vp9 {
    fn read(&mut self, packet: &DecoderPacket<'_>, opens: bool, _strictness: &Strictness) -> Result<Part, Found> {
        let (starts, ends, read) = parse(packet.payload, opens)
            .ok_or((FaultKind::Unreadable, "no VP9 payload descriptor of non-flexible mode".to_owned()))?;
        let key = !read.inter_picture && read.spatial == 0;
        let (spatial, temporal) = (read.spatial, read.temporal);
        match (starts, &self.current) {
            (true, _) => {
                // A frame that was cut off had its numbers.
                if let Some(cut) = self.current.replace(read) {
                    self.last = Some((self.picture(&cut, &mut Vec::new()), cut.spatial, cut.tl0));
                }
            }
            (false, Some(current)) => {
                let of = |read: &Descriptor| (read.picture_id, read.spatial, read.temporal, read.tl0);
                if of(current) != of(&read) {
                    return Err((FaultKind::Mixed, format!("{:?} within {:?}", of(&read), of(current))));
                }
            }
            (false, None) => {}
        }
        Ok(Part { starts, ends: Some(ends), key, spatial, temporal })
    }

    fn judge(&mut self, strictness: &Strictness, faults: &mut Vec<Found>) {
        let Some(this) = self.current.take() else { return };
        let key = !this.inter_picture && this.spatial == 0;
        if key && !strictness.one_numbering {
            *self = Vp9 { torn: self.torn, unsure: self.unsure, ..Vp9::default() };
        }
        let picture = self.picture(&this, faults);
        if let Some(group) = &this.structure {
            (self.group, self.origin, self.unsure) = (group.clone(), picture, false);
        }
        if std::mem::take(&mut self.torn) {
            self.excused = Some(picture);
        } else {
            self.check_order(&this, picture, faults);
        }
        self.check_references(&this, picture, faults);
        self.decoded.insert((picture, this.spatial));
        if self.decoded.len() > 1_024 {
            self.decoded.pop_first();
        }
        self.last = Some((picture, this.spatial, this.tl0));
    }

    fn lost(&mut self) {
        (self.current, self.torn, self.unsure) = (None, true, true);
    }
}

impl Vp9 {
    /// The picture id unwrapped.
    fn picture(&self, this: &Descriptor, faults: &mut Vec<Found>) -> u64 {
        let Some((last, ..)) = self.last else { return 1 << 32 | u64::from(this.picture_id) };
        let ahead = this.picture_id.wrapping_sub(last as u16) & this.mask;
        if ahead > this.mask / 2 {
            faults.push((
                FaultKind::NumberBack,
                format!("picture id {} after {}", this.picture_id, last as u16 & this.mask),
            ));
            return last - u64::from(this.mask) - 1 + u64::from(ahead);
        }
        last + u64::from(ahead)
    }

    fn slot(&self, picture: u64) -> Option<&Slot> {
        let place = picture.checked_sub(self.origin)? % self.group.len().max(1) as u64;
        self.group.get(place as usize)
    }

    fn check_order(&self, this: &Descriptor, picture: u64, faults: &mut Vec<Found>) {
        let Some((last, spatial, tl0)) = self.last else { return };
        let id = this.picture_id;
        if this.opens == (picture == last) {
            let found = if this.opens { "two pictures have" } else { "one picture has another than" };
            let kind = if this.opens { FaultKind::NumberBack } else { FaultKind::Mixed };
            faults.push((kind, format!("{found} the picture id {id}")));
        } else if !this.opens && this.spatial <= spatial {
            faults.push((FaultKind::Repeat, format!("layer {} after layer {spatial} of picture {id}", this.spatial)));
        }
        // Pictures of higher temporal layers may be left out, those of the lowest never.
        let left_out = last.saturating_add(1)..picture;
        if this.structure.is_none()
            && !self.unsure
            && let Some(base) =
                left_out.clone().find(|skipped| self.slot(*skipped).is_none_or(|slot| slot.temporal == 0))
        {
            let base = base as u16 & this.mask;
            faults.push((FaultKind::NumberGap, format!("picture {base} of the lowest layer is left out before {id}")));
        }
        let follows = if this.temporal == 0 && this.opens { tl0.wrapping_add(1) } else { tl0 };
        if this.tl0 != follows {
            faults.push((FaultKind::Tl0, format!("{} after {tl0} at temporal layer {}", this.tl0, this.temporal)));
        }
    }

    fn check_references(&self, this: &Descriptor, picture: u64, faults: &mut Vec<Found>) {
        let slot = self.slot(picture);
        if let Some(slot) = slot
            && slot.temporal != this.temporal
        {
            if self.unsure {
                return;
            }
            let found = format!("temporal layer {} where the group has {}", this.temporal, slot.temporal);
            faults.push((FaultKind::Misplaced, found));
        }
        let missing = |(picture, spatial): (u64, u8)| {
            !self.decoded.contains(&(picture, spatial)) && self.excused.is_none_or(|excused| picture > excused)
        };
        let layer = (this.spatial, this.temporal);
        if this.inter_picture {
            let diffs = slot.map_or(&[1][..], |slot| &slot.diffs);
            for diff in diffs {
                if missing((picture - u64::from(*diff), this.spatial)) {
                    let found = format!("{layer:?} of picture {} refers {diff} pictures back", this.picture_id);
                    faults.push((FaultKind::MissingReference, found));
                }
            }
        }
        if this.inter_layer && this.spatial > 0 && missing((picture, this.spatial - 1)) {
            let found = format!("{layer:?} of picture {} lacks the layer below", this.picture_id);
            faults.push((FaultKind::MissingReference, found));
        }
    }
}
