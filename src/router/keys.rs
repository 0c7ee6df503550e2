//! The keys of the router's objects: names for them, so that a source and its consumers can point at each other without
//! knowing what the other is.

use crate::base::slab::Key;

pub enum OfProducer {}
pub enum OfSource {}
pub enum OfConsumer {}

pub type ProducerKey = Key<OfProducer>;
pub type SourceKey = Key<OfSource>;
pub type ConsumerKey = Key<OfConsumer>;
