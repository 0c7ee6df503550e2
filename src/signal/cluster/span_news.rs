//! What the other members of a channel mean for this node's peers: for the hub to carry out.

use super::told::RosterOp;
use crate::base::node_id::NodeId;
use crate::signal::act::{Act, By};

#[derive(PartialEq, Debug)]
pub(in crate::signal) enum SpanNews {
    /// The search for other members has ended, for now. `spans`: there are some, who know nobody here yet.
    Joined { spans: bool },
    /// There are other members, or none any more.
    Spans(bool),
    /// All that a member has.
    Roster {
        node: NodeId,
        told: Vec<RosterOp>,
        /// Nothing was known of the channel here before.
        joining: bool,
    },
    /// What happened at a member, in its order.
    Told { node: NodeId, told: Vec<RosterOp> },
    /// A member has none of the channel any more, or is dead.
    Gone { node: NodeId, fault: bool },
    /// It is time to tell what happened here.
    Flush,
    /// Somebody wants to know all that is here.
    RosterWanted { reply: String },
    /// Of a moderator elsewhere, about a peer here.
    Act { node: NodeId, by: By, act: Box<Act> },
}
