//! A stream of any codec whose payloads are encrypted as a whole: no forwarder may touch a byte of them. Only the
//! inside tells frames apart.

use super::model::{DecoderPacket, FaultKind, Found, Model, Part, Strictness};
use crate::sim::payload::{Inside, is_intact};

#[derive(Default)]
pub(super) struct Sealed;

impl Model for Sealed {
    fn read(&mut self, packet: &DecoderPacket<'_>, _opens: bool, _strictness: &Strictness) -> Result<Part, Found> {
        let inside = Inside::of(packet.payload).filter(|_| is_intact(packet.payload));
        let inside = inside.ok_or((FaultKind::Unreadable, "another payload than was encrypted".to_owned()))?;
        let (starts, ends) = (inside.index == 0, inside.index + 1 == inside.count);
        let key = starts && inside.key && inside.spatial == 0;
        Ok(Part { starts, ends: Some(ends), key, spatial: inside.spatial, temporal: inside.temporal })
    }

    fn judge(&mut self, _strictness: &Strictness, _faults: &mut Vec<Found>) {}

    fn lost(&mut self) {}
}
