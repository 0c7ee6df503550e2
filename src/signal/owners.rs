//! The owner of each object on a shard: looked up when a shard reports something about it. The keys are our own
//! numbers.

use rustc_hash::FxHashMap;

use crate::base::id::{ConsumerId, PeerId, ProducerId, TransportId};
use crate::shard::command::Event;

#[derive(Default)]
pub(super) struct Owners {
    pub(super) transports: FxHashMap<TransportId, PeerId>,
    pub(super) producers: FxHashMap<ProducerId, PeerId>,
    pub(super) consumers: FxHashMap<ConsumerId, PeerId>,
}

impl Owners {
    /// The owner of the object that an event is about. None: it is about no object, or about one that is gone.
    pub(super) fn of(&self, event: &Event) -> Option<PeerId> {
        match event {
            Event::TransportState { transport, .. }
            | Event::TransportClosed { transport, .. }
            | Event::TransportConnected { transport, .. }
            | Event::FirstPacket { transport, .. }
            | Event::HandshakeFailed { transport, .. }
            | Event::TransportEnded { transport, .. } => self.transports.get(transport).copied(),
            Event::ProducerBound { producer, .. }
            | Event::ProducerSilent { producer, .. }
            | Event::ProducerClosed { producer, .. }
            | Event::ProducerLayers { producer, .. } => self.producers.get(producer).copied(),
            Event::ConsumerClosed { consumer, .. } | Event::ConsumerLayers { consumer, .. } => {
                self.consumers.get(consumer).copied()
            }
            Event::Answer { .. }
            | Event::Speech { .. }
            | Event::Lane { .. }
            | Event::ImportLost { .. }
            | Event::ShardRestarted { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::command::Closed;

    #[test]
    fn an_event_finds_the_owner_of_its_own_kind_of_object() {
        let mut owners = Owners::default();
        owners.transports.insert(TransportId(1), PeerId(7));
        owners.producers.insert(ProducerId(2), PeerId(8));
        owners.consumers.insert(ConsumerId(3), PeerId(9));
        let why = Closed::Fault;
        let found = [
            owners.of(&Event::TransportClosed { transport: TransportId(1), why }),
            owners.of(&Event::ProducerClosed { producer: ProducerId(2), why }),
            owners.of(&Event::ConsumerClosed { consumer: ConsumerId(3), why }),
            owners.of(&Event::ConsumerClosed { consumer: ConsumerId(2), why }),
        ];
        assert_eq!(found, [Some(PeerId(7)), Some(PeerId(8)), Some(PeerId(9)), None]);
    }
}
