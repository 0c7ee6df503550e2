//! Commands and questions to the shards of a world, past signalling.

use crate::base::id::ShardId;
use crate::shard::command::{Command, Event, Metrics, Reply, RequestId};
use crate::sim::world::{DOOR, Happening, World, at};

/// Requests of the world's own, far from those that the hub counts up.
const OWN_REQUEST: RequestId = RequestId(u64::MAX);

impl World {
    /// Past signalling, for commands that it would never give.
    pub fn command(&mut self, shard: u16, command: Command) {
        self.decide(self.now() + DOOR, Happening::Command { shard: usize::from(shard), command });
    }

    /// Pretends that the shard used this much of its core lately: time costs nothing here.
    pub fn measured_load(&mut self, shard: u16, permille: u32) {
        self.hub.measured_load(ShardId(shard), permille);
    }

    pub fn metrics(&mut self, shard: u16) -> Metrics {
        match self.ask_shard(shard, |request| Command::GetMetrics { request }) {
            Reply::Metrics(metrics) => *metrics,
            Reply::Stats(_) => panic!("metrics were asked for"),
        }
    }

    pub(super) fn ask_shard(&mut self, shard: u16, command: impl FnOnce(RequestId) -> Command) -> Reply {
        let now = at(self.now());
        self.places[usize::from(shard)].shard.handle_command(now, command(OWN_REQUEST));
        let mut found = None;
        while let Some(event) = self.places[usize::from(shard)].shard.poll_event() {
            match event {
                Event::Answer { request: OWN_REQUEST, reply } => found = Some(reply),
                event => self.decide(self.now() + DOOR, Happening::Event(event)),
            }
        }
        found.expect("a request is answered at once")
    }
}
