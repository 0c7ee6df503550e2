//! The orders of a subscriber at a producer's home.

use crate::shard::relay::reader::RecordReader;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// The sender takes the producer's feed from now on. The receiver is the producer's home.
    Subscribe,
    Unsubscribe,
    /// A keyframe of this encoding, or of every one that is sent (`None`). `first`: somebody has no picture yet.
    KeyFrame {
        encoding: Option<u8>,
        first: bool,
    },
    /// The number of spatial layers, from the lowest up, that the sender has use for.
    Watched {
        layers: u8,
    },
}

const SUBSCRIBE: u8 = 3;
const UNSUBSCRIBE: u8 = 4;
const KEY_FRAME: u8 = 5;
const WATCHED: u8 = 12;

const ANY_ENCODING: u8 = u8::MAX;

impl Order {
    pub(super) fn kind(self) -> u8 {
        match self {
            Order::Subscribe => SUBSCRIBE,
            Order::Unsubscribe => UNSUBSCRIBE,
            Order::KeyFrame { .. } => KEY_FRAME,
            Order::Watched { .. } => WATCHED,
        }
    }

    pub(super) fn is_one(kind: u8) -> bool {
        matches!(kind, SUBSCRIBE | UNSUBSCRIBE | KEY_FRAME | WATCHED)
    }

    /// Writes the record after its producer.
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        match self {
            Order::Subscribe | Order::Unsubscribe => {}
            Order::KeyFrame { encoding, first } => out.extend([encoding.unwrap_or(ANY_ENCODING), u8::from(first)]),
            Order::Watched { layers } => out.push(layers),
        }
    }

    pub(super) fn decode(kind: u8, mut reader: RecordReader<'_>) -> Option<Order> {
        Some(match kind {
            SUBSCRIBE => Order::Subscribe,
            UNSUBSCRIBE => Order::Unsubscribe,
            KEY_FRAME => {
                let encoding = Some(reader.byte()?).filter(|encoding| *encoding != ANY_ENCODING);
                Order::KeyFrame { encoding, first: reader.byte()? != 0 }
            }
            WATCHED => Order::Watched { layers: reader.byte()? },
            _ => return None,
        })
    }
}
