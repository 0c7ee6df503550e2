//! The bus that nodes of a cluster speak over, as the rest of the program sees it: [`Bus`], with an engine behind it or a
//! socket of this machine. What is sent comes at most once; what one node sends to one subject comes in its order. Runs on the
//! signalling thread's runtime, and nothing here waits.

mod broker;
mod contract;
mod frames;
mod nats;
#[cfg(test)]
mod suite_tests;
mod unix;

use std::path::PathBuf;
use std::rc::Rc;

use tokio::sync::mpsc::{self, Receiver};

use crate::base::limits::BUS_QUEUE_MAX;
use crate::base::node_id::NodeId;
use crate::signal::cluster::BusEvent;

pub(super) use contract::Bus;
pub use nats::{EngineCredentials, EngineSettings};

/// How nodes reach each other.
#[derive(Clone, Debug)]
pub enum BusWay {
    /// By NATS servers.
    Engine(EngineSettings),
    /// By a socket of this machine, without an engine: whoever comes first serves the others.
    Unix(PathBuf),
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
