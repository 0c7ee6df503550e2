//! The keys of the router's objects: names, so that a source and its consumers can point at each other without knowing
//! each other's types.

use crate::base::slab::Key;

pub enum OfProducer {}
pub enum OfSource {}
pub enum OfConsumer {}
pub enum OfLane {}

pub type ProducerKey = Key<OfProducer>;
pub type SourceKey = Key<OfSource>;
pub type ConsumerKey = Key<OfConsumer>;
/// A lane to a shard of another node.
pub type LaneSlotKey = Key<OfLane>;
