//! The start of one shard's thread: builds the core on it, and reports when its backend stands and when it ends.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;

use socket2::Socket;
use tokio::sync::mpsc::UnboundedSender;

use super::executor::{self, Footing};
use super::guard::Guard;
use super::mesh::MeshEnd;
use super::pulse::Pulse;
use super::shard_core::Core;
use super::shard_thread::{ShardThread, Times};
use crate::base::buffer::LocalIndex;
use crate::base::id::{ShardId, ShardLabel};
use crate::base::time::Duration;
use crate::net::doorbell::Doorbell;
use crate::net::setup::{Birth, ShardSetup};
use crate::net::steering::{PathTable, SteeringInUse};
use crate::net::udp::io::{AnyBackend, IoInUse};
use crate::shard::command::{Command, Event};

/// The report that a shard's backend stands, and its kind.
pub(in crate::net) type BackendReady = io::Result<(ShardId, IoInUse)>;

/// The settings that all shards share.
#[derive(Clone)]
pub(in crate::net) struct Common {
    /// All shards; their slots in the steering's map are their places here.
    pub labels: Vec<(ShardId, ShardLabel)>,
    pub steering: SteeringInUse,
    pub io: IoInUse,
    pub run_datagrams_max: usize,
    pub coalesce_max: Duration,
    pub events: UnboundedSender<(ShardId, Event)>,
    pub ready: Sender<BackendReady>,
    pub ended: Sender<ShardId>,
}

/// The settings of one shard.
pub(in crate::net) struct Own {
    pub setup: ShardSetup,
    pub sockets: Vec<Socket>,
    pub quiet: Vec<Socket>,
    pub lane: Option<LocalIndex>,
    pub bell: Doorbell,
    pub door: Receiver<Command>,
    pub mesh: MeshEnd,
    pub paths: Option<PathTable>,
    /// It reports the counters of the whole process.
    pub first: bool,
    pub pulse: Arc<Pulse>,
}

pub(in crate::net) fn spawn<C, F>(common: Common, own: Own, make: F) -> io::Result<JoinHandle<()>>
where
    C: Core + 'static,
    F: Fn(Birth) -> C + Clone + Send + 'static,
{
    let (shard, core) = (own.setup.id, own.setup.core);
    let end = End { shard, ended: common.ended.clone() };
    executor::spawn(shard, core, move |footing| {
        let _end = end;
        live(common, own, make, footing);
    })
}

fn live<C, F>(common: Common, own: Own, make: F, footing: Footing)
where
    C: Core + 'static,
    F: Fn(Birth) -> C + 'static,
{
    let Common { labels, steering, io, run_datagrams_max, coalesce_max, events, ready, ended: _ } = common;
    let Own { setup, sockets, quiet, lane, bell, door, mesh, paths, first, pulse } = own;
    let shard = setup.id;
    let backend = match AnyBackend::open(io, sockets, quiet, &bell, run_datagrams_max) {
        Ok(backend) => backend,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let by_slot = labels.iter().map(|(shard, _)| *shard).collect();
    let own_bell = bell.clone();
    let birth = move |generation| {
        let (labels, bell) = (labels.clone(), own_bell.clone());
        make(Birth { setup, labels, steering, lane, bell, generation })
    };
    let guard = Guard::new(Box::new(birth));
    let in_use = backend.in_use();
    let _ = ready.send(Ok((shard, in_use)));
    drop(ready);
    let (times, on_ring) = (Times::new(coalesce_max), in_use == IoInUse::Ring);
    ShardThread {
        shard,
        guard,
        backend,
        bell,
        door,
        mesh,
        paths,
        by_slot,
        first,
        events,
        pulse,
        footing,
        on_ring,
        times,
    }
    .run();
}

/// Reports the end of a shard's thread, however it ends.
struct End {
    shard: ShardId,
    ended: Sender<ShardId>,
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.ended.send(self.shard);
    }
}
