//! The ledger: what a shard tells. Events for signalling, paths for the edge, counts for the readers of
//! /metrics.

use std::collections::VecDeque;

use crate::base::buffer::Path;
use crate::base::id::TransportId;
use crate::router::pass::ForwardCounts;
use crate::shard::command::{Closed, Event, Reply, RequestId};
use crate::shard::drops::Drops;

/// A change of a path, for the edge: of a UDP leg for the kernel's steering map, of a TCP leg for whoever has the
/// connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathChange {
    /// The path is ours, unless another shard has it: see [`Shard::path_is_held`](crate::shard::Shard::path_is_held).
    Up(Path),
    /// The path is ours, whichever shard had it.
    Taken(Path),
    Down(Path),
}

#[derive(Default)]
pub(super) struct Ledger {
    pub(super) events: VecDeque<Event>,
    pub(super) path_changes: VecDeque<PathChange>,
    pub(super) drops: Drops,
    pub(super) forwarded: ForwardCounts,
    pub(super) counters: ShardCounters,
}

impl Ledger {
    /// Tells why there is no such transport, where it was refused.
    pub(super) fn tell_refused(&mut self, transport: TransportId, made: Result<(), Closed>) {
        if let Err(why) = made {
            self.events.push_back(Event::TransportClosed { transport, why });
        }
    }

    pub(super) fn answer(&mut self, request: RequestId, reply: Reply) {
        self.events.push_back(Event::Answer { request, reply });
    }
}

#[derive(Clone, Copy, Default, Debug)]
pub struct ShardCounters {
    pub stun_answered: u64,
    pub handed_over: u64,
    pub taken_over: u64,
    pub handshakes_done: u64,
    pub handshakes_failed: u64,
    pub consent_lost: u64,
    pub paths_proved: u64,
    pub transport_feedback: u64,
    pub remb: u64,
    pub nacks_unanswered: u64,
    pub key_frames_requested: u64,
    /// Consumers that were served from a history instead.
    pub replays: u64,
    /// Packets that the open transports received.
    pub received: u64,
    pub faults: u64,
    pub histories_given_up: u64,
    pub probes: u64,
}
