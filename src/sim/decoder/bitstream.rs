//! The truth about each frame, from the content that this world's sources write: whether it is whole, whether it is
//! new, and whether all its references were decoded. Knows no codec and no descriptor.

use std::collections::BTreeSet;

use super::model::{FaultKind, Found};
use crate::sim::payload::Inside;

/// Coded frames that can still be referred to.
const KEPT: u32 = 512;

#[derive(Default)]
pub(super) struct Bitstream {
    /// The stream being decoded, its newest frame, and the frames of it that a decoder holds.
    stream: Option<u32>,
    newest: u32,
    decoded: BTreeSet<u32>,
    /// Frames that the network lost, and those that could not be decoded for it.
    excused: BTreeSet<u32>,
    current: Option<Inside>,
    torn: bool,
}

impl Bitstream {
    pub(super) fn lost(&mut self) {
        self.torn = true;
        if let Some(cut) = self.current.take() {
            self.excused.insert(cut.frame);
        }
    }

    /// The frame whose packets were coming is over, whole or not.
    pub(super) fn abandon(&mut self) {
        self.current = None;
    }

    /// Whether the frame that this packet ends could be decoded; None where it ends none, or nothing is known.
    pub(super) fn take(&mut self, payload: &[u8], faults: &mut Vec<Found>) -> Option<bool> {
        let inside = Inside::of(payload)?;
        self.change_stream(&inside);
        if std::mem::take(&mut self.torn) {
            let from = self.newest + 1;
            // The first frame is excused as well if it begins in its middle.
            let whole = u32::from(inside.index > 0);
            self.excused.extend(from..inside.frame + whole);
        }
        match self.current {
            Some(before) if before.frame == inside.frame && inside.index == before.index + 1 => {}
            Some(before) if before.frame == inside.frame => {
                let found = format!("packet {} of a frame follows packet {}", inside.index, before.index);
                faults.push((FaultKind::Cut, found));
                self.current = None;
                return Some(false);
            }
            Some(before) => {
                faults.push((FaultKind::Mixed, format!("frame {} within frame {}", inside.frame, before.frame)));
            }
            None if inside.index > 0 => {
                if !self.excused.contains(&inside.frame) {
                    faults.push((FaultKind::Cut, format!("frame {} begins at packet {}", inside.frame, inside.index)));
                }
                return (inside.index + 1 == inside.count).then_some(false);
            }
            None => {}
        }
        self.current = Some(inside);
        if inside.index + 1 < inside.count {
            return None;
        }
        self.current = None;
        Some(self.decode(&inside, faults))
    }

    fn change_stream(&mut self, inside: &Inside) {
        if self.stream != Some(inside.stream) {
            let torn = self.torn;
            *self = Bitstream { stream: Some(inside.stream), torn, ..Bitstream::default() };
            // Packets before the first frame belong to none: they are missed only if something refers to them.
            self.newest = inside.frame.saturating_sub(1);
            if torn {
                self.excused.extend(inside.frame.saturating_sub(KEPT)..inside.frame);
            }
        }
    }

    fn decode(&mut self, inside: &Inside, faults: &mut Vec<Found>) -> bool {
        let number = inside.frame;
        if self.decoded.contains(&number) {
            faults.push((FaultKind::Repeat, format!("frame {number} again")));
            return false;
        }
        if number < self.newest {
            faults.push((FaultKind::StepBack, format!("frame {number} after frame {}", self.newest)));
            return false;
        }
        self.newest = number;
        let refs = inside.refs.iter().filter(|back| **back > 0).map(|back| number.wrapping_sub(u32::from(*back)));
        let missing: Vec<u32> = refs.filter(|needed| !self.decoded.contains(needed)).collect();
        let good = missing.is_empty() && (inside.key || inside.refs[0] > 0);
        let (spatial, temporal) = (inside.spatial, inside.temporal);
        if good {
            self.decoded.insert(number);
        } else if missing.iter().any(|needed| self.excused.contains(needed)) {
            self.excused.insert(number);
        } else {
            let found = format!("frame {number} of layer {spatial}.{temporal} refers to {missing:?}");
            faults.push((FaultKind::MissingReference, found));
        }
        if number > KEPT {
            self.decoded = self.decoded.split_off(&(number - KEPT));
            self.excused = self.excused.split_off(&(number - KEPT));
        }
        good
    }
}
