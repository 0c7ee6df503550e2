//! What every kind of bus does, and what its users may count on.

use std::future::Future;
use std::pin::Pin;

use crate::signal::cluster::BusOutput;

/// What cannot be sent at once is lost: whoever has to know it asks.
pub(in crate::server) trait Bus {
    /// What is published there comes as [`BusEvent::Message`](crate::signal::cluster::BusEvent::Message). A subject that ends with `.>` stands for all below it.
    /// Outlives connections.
    fn subscribe(&self, subject: &str);
    fn unsubscribe(&self, subject: &str);
    /// To all that listen there but this node. With `reply`, an inbox that it listens to, whoever gets it may answer
    /// there; and where nobody listens, [`BusEvent::Nobody`](crate::signal::cluster::BusEvent::Nobody) comes.
    fn publish(&self, subject: &str, reply: Option<&str>, payload: Vec<u8>);
    /// Leaves a connection that is open and does not work.
    fn force_reconnect(&self);
    /// Resolves when what was published is on its way, or cannot be.
    fn flushed(&self) -> Pin<Box<dyn Future<Output = ()>>>;

    fn carry_out(&self, output: BusOutput) {
        match output {
            BusOutput::Subscribe { subject } => self.subscribe(&subject),
            BusOutput::Unsubscribe { subject } => self.unsubscribe(&subject),
            BusOutput::Publish { subject, reply, payload } => self.publish(&subject, reply.as_deref(), payload),
            BusOutput::ForceReconnect => self.force_reconnect(),
        }
    }
}
