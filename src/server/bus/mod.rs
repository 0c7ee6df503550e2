//! The bus that nodes of a cluster speak over, as the rest of the program sees it: [`Bus`], with an engine behind it or a
//! socket of this machine. What is sent comes at most once, in the order in which one node sent it. Runs on the
//! signalling thread's runtime, and nothing here waits.

mod broker;
mod frames;
mod nats;
#[cfg(test)]
mod suite_tests;
mod unix;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;

use tokio::sync::mpsc::{self, Receiver};

use crate::base::limits::BUS_QUEUE_MAX;
use crate::base::node_id::NodeId;
use crate::signal::cluster::{BusEvent, BusOutput};

pub use nats::{EngineCredentials, EngineSettings};

/// How nodes reach each other.
#[derive(Clone, Debug)]
pub enum BusWay {
    /// By NATS servers.
    Engine(EngineSettings),
    /// By a socket of this machine, without an engine: whoever comes first serves the others.
    Unix(PathBuf),
}

/// What cannot be sent at once is lost: whoever has to know it asks.
pub(super) trait Bus {
    /// What is published there comes as [`BusEvent::Message`]. A subject that ends with `.>` stands for all below it.
    /// Outlives connections.
    fn subscribe(&self, subject: &str);
    fn unsubscribe(&self, subject: &str);
    /// To all that listen there but this node. With `reply`, an inbox that it listens to, whoever gets it may answer
    /// there; and where nobody listens, [`BusEvent::Nobody`] comes.
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

/// Starts to connect, for as long as the bus lives. Inside of the signalling thread's runtime.
pub(super) async fn open(way: BusWay, node: NodeId) -> (Rc<dyn Bus>, Receiver<BusEvent>) {
    let (events, received) = mpsc::channel(BUS_QUEUE_MAX);
    let bus: Rc<dyn Bus> = match way {
        BusWay::Engine(settings) => nats::open(settings, node, events).await,
        BusWay::Unix(path) => Rc::new(unix::UnixBus::open(path, events)),
    };
    (bus, received)
}
