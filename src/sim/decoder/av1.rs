//! AV1 (AV1 RTP specification). With dependency descriptors (appendix A): every frame difference and the chain of the
//! highest active decode target lead to frames that were decoded, numbers only go forward, decoding starts at an
//! attached structure. Without them: aggregation headers alone, and `bitstream` judges the references.

use std::collections::BTreeSet;

use super::model::{DecoderPacket, FaultKind, Found, Model, Part, Strictness};
use crate::sim::descriptor::{Described, DescriptorReader};
use crate::sim::payload::{Encryption, Inside};
use crate::sim::scalability::Indication;

#[derive(Default)]
pub(super) struct Av1 {
    reader: DescriptorReader,
    current: Option<Described>,
    /// The newest frame number, unwrapped.
    last: Option<u64>,
    decoded: BTreeSet<u64>,
    torn: bool,
    /// References that these frames and those before them lack may be lost by the network.
    excused: Option<u64>,
    /// Y of the packet before: its last unit goes on.
    continued: bool,
    /// The layers of the last unit that has them, where there are no descriptors.
    spatial: u8,
    temporal: u8,
    /// Packets of the present picture are missing.
    incomplete: bool,
}

impl Model for Av1 {
    fn read(&mut self, packet: &DecoderPacket<'_>, opens: bool, strictness: &Strictness) -> Result<Part, Found> {
        let aggregation = *packet.payload.first().ok_or((FaultKind::Unreadable, "no aggregation header".to_owned()))?;
        // Section 4.4: Z, Y, W, N.
        let (continues, mut key) = (aggregation & 0x80 != 0, aggregation & 0x08 != 0);
        if strictness.encryption != Encryption::None {
            key = Inside::of(packet.payload).is_some_and(|inside| inside.key && inside.spatial == 0);
        }
        // A unit left open by a picture without its marker does not count.
        let expected = std::mem::replace(&mut self.continued, aggregation & 0x40 != 0) && !opens;
        if !self.torn && continues != expected && !(opens && self.last.is_none()) {
            return Err((FaultKind::Cut, "a unit goes on that did not begin, or begins within another".into()));
        }
        let Some(descriptor) = packet.descriptor else {
            self.read_layers(aggregation, packet.payload);
            let starts = opens && !continues;
            if starts {
                self.torn = false;
            }
            return Ok(Part { starts, ends: None, key, spatial: self.spatial, temporal: self.temporal });
        };
        let described = self.reader.read(descriptor).ok_or_else(|| match self.last {
            None => (FaultKind::BadStart, "no structure came yet".to_owned()),
            Some(_) => (FaultKind::Unreadable, "no dependency descriptor of the structure".to_owned()),
        })?;
        let (starts, ends) = (described.starts_frame, Some(described.ends_frame));
        if starts == continues {
            return Err((FaultKind::Mixed, "descriptor and aggregation header tell different starts".into()));
        }
        let (spatial, temporal) = (described.frame.spatial, described.frame.temporal);
        let key = described.attached && described.frame.diffs.is_empty();
        match (starts, &self.current) {
            (true, _) => self.current = Some(described),
            (false, Some(current)) if current.number != described.number || current.frame != described.frame => {
                let found = format!("frame {} within frame {}", described.number, current.number);
                return Err((FaultKind::Mixed, found));
            }
            _ => {}
        }
        Ok(Part { starts, ends, key, spatial, temporal })
    }

    fn judge(&mut self, strictness: &Strictness, faults: &mut Vec<Found>) {
        let Some(this) = self.current.take() else { return };
        if this.attached && this.frame.diffs.is_empty() && !strictness.one_numbering {
            (self.last, self.excused) = (None, None);
            self.decoded.clear();
        }
        let number = match self.last {
            None => 1 << 32 | u64::from(this.number),
            Some(last) => last.wrapping_add_signed(i64::from(this.number.wrapping_sub(last as u16) as i16)),
        };
        if let Some(last) = self.last
            && number <= last
        {
            faults.push((FaultKind::NumberBack, format!("frame {} after {}", this.number, last as u16)));
        }
        if std::mem::take(&mut self.torn) {
            self.excused = Some(number);
            self.incomplete = true;
        }
        let missing = |back: u64| {
            let needed = number - back;
            !self.decoded.contains(&needed) && self.excused.is_none_or(|excused| needed > excused)
        };
        for diff in this.frame.diffs.iter().filter(|diff| missing(u64::from(**diff))) {
            faults.push((FaultKind::MissingReference, format!("frame {} refers {diff} back", this.number)));
        }
        if let Some(target) = self.reader.highest_active()
            && this.frame.indications.get(target).is_some_and(|indication| *indication != Indication::NotPresent)
            && let Some(chain) = self.reader.chain_of(target)
            && let Some(diff) = this.frame.chain_diffs.get(chain)
            && *diff > 0
            && missing(u64::from(*diff))
        {
            faults.push((FaultKind::BrokenChain, format!("frame {}: chain {chain}, {diff} back", this.number)));
        }
        let needed = |(target, indication): (usize, &Indication)| {
            *indication != Indication::NotPresent && this.active >> target & 1 == 1
        };
        if !this.frame.indications.iter().enumerate().any(needed) {
            let layer = (this.frame.spatial, this.frame.temporal);
            faults.push((
                FaultKind::InactiveLayer,
                format!("frame {} of {layer:?}, mask {:b}", this.number, this.active),
            ));
        }
        self.decoded.insert(number);
        if self.decoded.len() > 1_024 {
            self.decoded.pop_first();
        }
        self.last = Some(self.last.map_or(number, |last| last.max(number)));
    }

    fn lost(&mut self) {
        (self.current, self.torn, self.incomplete) = (None, true, true);
    }

    fn end_picture(&mut self, spatial: u8, faults: &mut Vec<Found>) {
        if std::mem::take(&mut self.incomplete) {
            return;
        }
        let promised = self.reader.highest_active().and_then(|target| self.reader.target(target));
        if let Some((highest, _)) = promised
            && highest > spatial
        {
            faults.push((FaultKind::MissingLayer, format!("layer {highest} is active, the highest is {spatial}")));
        }
    }
}

impl Av1 {
    /// AV1 specification section 5.3: the first unit that starts here, behind a sequence header where there is one.
    fn read_layers(&mut self, aggregation: u8, payload: &[u8]) {
        if aggregation & 0x80 != 0 {
            return;
        }
        let skipped = if aggregation >> 4 & 3 == 2 { 1 + payload.get(1).map_or(0, |len| usize::from(*len)) } else { 0 };
        if let Some([header, layers]) = payload.get(1 + skipped..3 + skipped)
            && header & 0x04 != 0
        {
            (self.temporal, self.spatial) = (layers >> 5, layers >> 3 & 3);
        }
    }
}
