//! VP8 (RFC 7741): picture ids count every frame, TL0PICIDX those of the lowest temporal layer, and the Y bit says where
//! a higher one may begin.

use super::model::{DecoderPacket, FaultKind, Found, Model, Part, Strictness};
use crate::sim::payload::{Encryption, Inside};

/// Section 4.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Descriptor {
    key: bool,
    picture_id: Option<u16>,
    long: bool,
    tl0: Option<u8>,
    temporal: u8,
    base_only: bool,
}

#[derive(Default)]
pub(super) struct Vp8 {
    current: Option<Descriptor>,
    last: Option<Descriptor>,
    /// The highest temporal layer allowed for frames that do not refer to the lowest alone.
    open: u8,
    /// The highest since the last frame of the lowest.
    seen: u8,
    /// Which layers are open is not known.
    hurt: bool,
}

fn parse(payload: &[u8]) -> Option<(bool, Descriptor)> {
    let first = *payload.first()?;
    let mut at = 1;
    let mut next = || {
        at += 1;
        payload.get(at - 1).copied()
    };
    let flags = if first & 0x80 != 0 { next()? } else { 0 };
    let (mut picture_id, mut long) = (None, false);
    if flags & 0x80 != 0 {
        let high = next()?;
        long = high & 0x80 != 0;
        picture_id = Some(if long { u16::from(high & 0x7f) << 8 | u16::from(next()?) } else { u16::from(high) });
    }
    let tl0 = if flags & 0x40 != 0 { Some(next()?) } else { None };
    let layer = if flags & 0x30 != 0 { next()? } else { 0 };
    let (temporal, base_only) = if flags & 0x20 != 0 { (layer >> 6, layer & 0x20 != 0) } else { (0, false) };
    // S on partition 0; section 4.3: P is 0 for a keyframe.
    let starts = first & 0x17 == 0x10;
    let key = starts && next()? & 1 == 0;
    Some((starts, Descriptor { key, picture_id, long, tl0, temporal, base_only }))
}

impl Model for Vp8 {
    fn read(&mut self, packet: &DecoderPacket<'_>, _opens: bool, strictness: &Strictness) -> Result<Part, Found> {
        let (starts, mut read) =
            parse(packet.payload).ok_or((FaultKind::Unreadable, "no VP8 payload descriptor".to_owned()))?;
        if strictness.encryption != Encryption::None {
            read.key = starts && Inside::of(packet.payload).is_some_and(|inside| inside.key);
        }
        match (starts, self.current) {
            // A frame that was cut off had its numbers.
            (true, _) => self.last = self.current.replace(read).or(self.last),
            (false, Some(current)) if current.picture_id != read.picture_id || current.tl0 != read.tl0 => {
                let found = format!("picture {:?} within picture {:?}", read.picture_id, current.picture_id);
                return Err((FaultKind::Mixed, found));
            }
            _ => {}
        }
        Ok(Part { starts, ends: None, key: read.key, spatial: 0, temporal: read.temporal })
    }

    fn judge(&mut self, strictness: &Strictness, faults: &mut Vec<Found>) {
        let Some(this) = self.current.take() else { return };
        let may_jump = this.key && !strictness.one_numbering;
        if let (Some(last), false) = (self.last, may_jump) {
            check_picture_id(&last, &this, faults);
            if let (Some(before), Some(now)) = (last.tl0, this.tl0) {
                let follows = if this.temporal == 0 { before.wrapping_add(1) } else { before };
                if now != follows {
                    faults.push((FaultKind::Tl0, format!("{now} after {before} at temporal layer {}", this.temporal)));
                }
            }
        }
        self.last = Some(this);
        if this.key {
            (self.open, self.seen, self.hurt) = (0, 0, false);
        } else if this.temporal == 0 {
            // A layer without a frame between two of the lowest has been left.
            self.open = self.open.min(self.seen);
            self.seen = 0;
        } else {
            if this.base_only {
                self.open = self.open.max(this.temporal);
            } else if this.temporal > self.open && !self.hurt {
                let found = format!("layer {} begins, {} is open", this.temporal, self.open);
                faults.push((FaultKind::UpWithoutSync, found));
            }
            self.seen = self.seen.max(this.temporal);
        }
    }

    fn lost(&mut self) {
        (self.current, self.last, self.hurt) = (None, None, true);
    }
}

/// "The picture ID is incremented by one for each subsequent frame", on 7 or 15 bits.
fn check_picture_id(last: &Descriptor, this: &Descriptor, faults: &mut Vec<Found>) {
    let (Some(before), Some(now)) = (last.picture_id, this.picture_id) else { return };
    let mask = if last.long { 0x7fff } else { 0x7f };
    let ahead = now.wrapping_sub(before) & mask;
    match ahead {
        1 => {}
        _ if ahead == 0 || ahead > mask / 2 => {
            faults.push((FaultKind::NumberBack, format!("picture id {now} after {before}")));
        }
        _ => faults.push((FaultKind::NumberGap, format!("picture id {now} after {before}"))),
    }
}
