//! The running shards, and the way into each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;

use crate::base::id::ShardId;
use crate::base::time::Duration;
use crate::net::clock::Clock;
use crate::net::doorbell::Doorbell;
use crate::net::steering::SteeringInUse;
use crate::net::threads::pulse::Pulse;
use crate::net::udp::io::IoInUse;
use crate::shard::command::Command;

/// How long [`MediaTower::stop`] waits for the shards, all together.
const STOP_MAX: Duration = Duration::from_secs(5);

/// The way into one shard for commands. Cheap to clone; any thread.
#[derive(Clone)]
pub struct Door {
    pub(super) shard: ShardId,
    pub(super) commands: Sender<Command>,
    pub(super) bell: Doorbell,
    pub(super) pulse: Arc<Pulse>,
}

impl Door {
    /// Never blocks. False: the shard has ended.
    pub fn send(&self, command: Command) -> bool {
        let sent = self.commands.send(command).is_ok();
        self.bell.ring();
        sent
    }

    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The share of its core that the shard used in the last second, in thousandths.
    pub fn load_permille(&self) -> u32 {
        self.pulse.load_permille()
    }
}

/// The running shards.
pub struct MediaTower {
    pub(super) doors: Vec<Door>,
    pub(super) addresses: Vec<(ShardId, Vec<SocketAddr>)>,
    pub(super) lanes: Vec<(ShardId, SocketAddr)>,
    pub(super) steering: SteeringInUse,
    pub(super) io: IoInUse,
    pub(super) threads: Vec<JoinHandle<()>>,
    /// Each shard's thread reports its end here.
    pub(super) ends: Receiver<ShardId>,
    pub(super) heart: Sender<()>,
    pub(super) heartbeat: JoinHandle<()>,
}

impl MediaTower {
    pub fn doors(&self) -> Vec<Door> {
        self.doors.clone()
    }

    /// The addresses of this shard for clients, in the order of `LocalIndex`.
    pub fn addresses_of(&self, shard: ShardId) -> Vec<SocketAddr> {
        let of = self.addresses.iter().find(|(id, _)| *id == shard);
        of.map(|(_, addresses)| addresses.clone()).unwrap_or_default()
    }

    /// The address of this shard's lanes, where it has some.
    pub fn lanes_of(&self, shard: ShardId) -> Option<SocketAddr> {
        self.lanes.iter().find(|(id, _)| *id == shard).map(|(_, address)| *address)
    }

    pub fn steering(&self) -> SteeringInUse {
        self.steering
    }

    /// The ring only when every shard has one.
    pub fn io(&self) -> IoInUse {
        self.io
    }

    /// Shuts every shard down and waits until they are; true when all ended in time.
    pub fn stop(self) -> bool {
        let clock = Clock::process();
        let give_up = clock.mono() + STOP_MAX;
        for door in &self.doors {
            door.send(Command::Shutdown);
        }
        let mut running: Vec<ShardId> = self.doors.iter().map(Door::shard).collect();
        while !running.is_empty() {
            match self.ends.recv_timeout(give_up.since(clock.mono())) {
                Ok(ended) => running.retain(|shard| *shard != ended),
                Err(_) => break,
            }
        }
        drop(self.heart);
        let all = running.is_empty();
        if all {
            for thread in self.threads.into_iter().chain([self.heartbeat]) {
                if thread.join().is_err() {
                    tracing::error!("a thread of the media tower ended by a panic");
                }
            }
        } else {
            tracing::error!(?running, "shards did not stop in time and are left behind");
        }
        all
    }
}
