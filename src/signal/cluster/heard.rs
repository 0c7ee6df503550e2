//! What a node heard on the bus that is for its channels.

use super::messages::BusMessage;
use crate::base::node_id::NodeId;

#[derive(Debug)]
pub(in crate::signal) enum BusNews {
    /// `reply`: where the sender wants an answer.
    Said {
        from: NodeId,
        subject: String,
        reply: Option<String>,
        message: BusMessage,
    },
    /// Nobody listens where a question went whose answers would come to this inbox.
    Nobody {
        inbox: String,
    },
    /// The bus was away, or messages were lost.
    BusBack,
    NodeJoined(NodeId),
    /// It said so, or else it is dead.
    NodeGone {
        node: NodeId,
        fault: bool,
    },
}
