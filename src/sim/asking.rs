//! Commands, questions and datagrams to the shards of a world, past signalling and past its clients.

use std::net::SocketAddr;

use crate::base::buffer::{LocalIndex, Path};
use crate::base::id::ShardId;
use crate::shard::command::{Command, Event, Metrics, Reply, RequestId};
use crate::sim::link::LinkModel;
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

    /// Lets everything go that is imported here, as for consumers that have all left.
    pub fn drop_imports(&mut self, shard: u16) {
        for producer in self.across.as_mut().map(|across| across.dropped(shard)).unwrap_or_default() {
            self.command(shard, Command::DropImport { producer });
        }
    }

    /// The link of lanes from one node to another.
    pub fn lane_link(&mut self, from: usize, to: usize) -> &mut LinkModel {
        let link = self.across.as_mut().and_then(|across| across.links.get_mut(&(from, to)));
        link.expect("these are nodes of a world across nodes")
    }

    /// Bytes sent from one node to another so far.
    pub fn lane_bytes(&self, from: usize, to: usize) -> u64 {
        let bytes = self.across.as_ref().and_then(|across| across.bytes.get(&(from, to)));
        bytes.copied().unwrap_or(0)
    }

    /// Delivers a datagram from somewhere, with any return address, right now.
    pub fn inject(&mut self, remote: SocketAddr, bytes: Vec<u8>) {
        self.inject_by(Path::udp(LocalIndex(0), remote), bytes);
    }

    pub(super) fn inject_by(&mut self, path: Path, bytes: Vec<u8>) {
        self.decide(self.now(), Happening::ToServer { path, bytes });
    }
}
