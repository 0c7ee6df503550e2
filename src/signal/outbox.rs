//! What signalling has for other nodes: `spanning` brings it to the bus.

use std::sync::Arc;

use crate::base::node_id::NodeId;
use crate::signal::act::{Act, By};

/// What goes to other nodes soon.
#[derive(Default)]
pub(super) struct AbroadMail {
    /// Channels in which something happened.
    pub(super) touched: Vec<Arc<str>>,
    pub(super) acts: Vec<ActAbroad>,
}

/// An act on a peer of another node.
pub(super) struct ActAbroad {
    pub(super) channel: Arc<str>,
    pub(super) node: NodeId,
    pub(super) by: By,
    pub(super) act: Act,
}

impl AbroadMail {
    pub(super) fn is_empty(&self) -> bool {
        self.touched.is_empty() && self.acts.is_empty()
    }
}
