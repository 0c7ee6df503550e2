//! H.264 (RFC 6184): units whole, aggregated or in fragments, and no numbers of pictures: `bitstream` judges the
//! references.

use super::model::{DecoderPacket, FaultKind, Found, Model, Part, Strictness};
use crate::sim::payload::{Encryption, Inside};

#[derive(Default)]
pub(super) struct H264 {
    /// A fragmented unit is open.
    fragment: bool,
    /// Packets are missing: a unit may begin or end in its middle.
    torn: bool,
}

impl Model for H264 {
    fn read(&mut self, packet: &DecoderPacket<'_>, opens: bool, strictness: &Strictness) -> Result<Part, Found> {
        let short = || (FaultKind::Unreadable, "an H.264 payload cut short".to_owned());
        let kind = packet.payload.first().ok_or_else(short)? & 0x1f;
        let torn = std::mem::take(&mut self.torn);
        // A unit left open by a picture without its marker.
        self.fragment &= !opens;
        let (starts_unit, inner) = match kind {
            24 => (true, packet.payload.get(3).ok_or_else(short)? & 0x1f),
            28 => {
                let header = packet.payload.get(1).ok_or_else(short)?;
                let (starts, ends) = (header & 0x80 != 0, header & 0x40 != 0);
                if starts == self.fragment {
                    let found = if starts { "a unit begins within another" } else { "a fragment of no unit" };
                    self.fragment = !ends;
                    if !torn {
                        return Err((FaultKind::Cut, found.into()));
                    }
                }
                self.fragment = !ends;
                (starts, header & 0x1f)
            }
            kind => (true, kind),
        };
        if kind != 28 && std::mem::take(&mut self.fragment) && !torn {
            return Err((FaultKind::Cut, "a fragmented unit without its end".into()));
        }
        let inside = Inside::of(packet.payload);
        let key = match inside {
            Some(inside) if strictness.encryption != Encryption::None => inside.key,
            _ => starts_unit && matches!(inner, 5 | 7),
        };
        Ok(Part { starts: opens && starts_unit, ends: None, key, spatial: 0, temporal: 0 })
    }

    fn judge(&mut self, _strictness: &Strictness, faults: &mut Vec<Found>) {
        if std::mem::take(&mut self.fragment) {
            faults.push((FaultKind::WrongEnd, "the picture ends within a fragmented unit".into()));
        }
    }

    fn lost(&mut self) {
        (self.fragment, self.torn) = (false, true);
    }
}
