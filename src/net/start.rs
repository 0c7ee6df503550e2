//! The start of the media edge: bind, steer, a thread for each shard. When a part fails, the shards started before it
//! are ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use socket2::Socket;

use super::error::StartError;
use super::setup::{Birth, NetSettings, ShardSetup};
use super::steering::{Group, Steering, SteeringInUse, SteeringMode};
use super::threads::mesh;
use super::threads::pulse::{self, Patient, Pulse};
use super::threads::shard_core::Core;
use super::threads::small_pages::only_small_pages;
use super::threads::spawn::{BackendReady, Common, Own, spawn};
use super::tower::{Door, MediaTower};
use super::udp::bound::{adopt_all, bind_all, bind_lanes, bind_quiet};
use super::udp::io::{self, IoInUse};
use super::udp::socket::{local_address, run_datagrams_max};
use crate::base::buffer::LocalIndex;
use crate::base::id::{ShardId, ShardLabel};
use crate::base::limits::LOCAL_ADDRESSES_MAX;
use crate::net::doorbell::Doorbell;
use crate::shard::command::Command;

/// Binds, steers and starts a thread per shard. `make` builds a shard's core on the shard's own thread, at the start
/// and again when two panics within a second have shown it to be broken. Turns huge pages off for the whole process.
pub fn start<C, F>(settings: NetSettings, make: F) -> Result<MediaTower, StartError>
where
    C: Core + 'static,
    F: Fn(Birth) -> C + Clone + Send + 'static,
{
    let NetSettings { shards, addresses, inherited, lanes, steering, coalesce_max, io, events } = settings;
    if shards.is_empty() {
        return Err(StartError::NoShards);
    }
    let (ours, port_each) = (inherited.is_empty(), steering == SteeringMode::PortPerCore);
    if ours && (addresses.is_empty() || addresses.len() > LOCAL_ADDRESSES_MAX) {
        return Err(StartError::Addresses(addresses.len()));
    }
    if let Err(error) = only_small_pages() {
        tracing::debug!(%error, "huge pages stay allowed: a round that touches one first takes longer");
    }
    let mut sockets = match ours {
        true => bind_all(&addresses, shards.len(), port_each)?,
        false => adopt_all(inherited, shards.len(), port_each)?,
    };
    let labels: Vec<_> = shards.iter().map(|shard| (shard.id, shard.label)).collect();
    let io = io::choose(io);
    let steered = steer(steering, &sockets, ours, &labels)?;
    let lane = match lanes {
        // After the steering: it knows nothing of them.
        Some(first) => Some(add_lanes(&mut sockets, first)?),
        None => None,
    };
    let run_datagrams_max = run_datagrams_max();
    tracing::info!(steering = ?steered.in_use, ?io, run_datagrams_max, shards = shards.len(), "the media edge starts");

    let (ended, ends) = channel();
    let (ready, readies) = channel();
    let steering = steered.in_use;
    let common = Common { labels, steering, io, run_datagrams_max, coalesce_max, events, ready, ended };
    let mut tower = Rising::default();
    match tower.raise(&shards, sockets, (steered, lane), common, make).and_then(|()| all_alive(&shards, &readies)) {
        Ok(io) => tower.stand(steering, io, ends),
        Err(error) => {
            tower.send_home();
            Err(error)
        }
    }
}

/// The shards that were started so far.
#[derive(Default)]
struct Rising {
    doors: Vec<Door>,
    threads: Vec<std::thread::JoinHandle<()>>,
    patients: Vec<Patient>,
    addresses: Vec<(ShardId, Vec<SocketAddr>)>,
    lanes: Vec<(ShardId, SocketAddr)>,
}

impl Rising {
    fn raise<C, F>(
        &mut self,
        shards: &[ShardSetup],
        sockets: Vec<Vec<Socket>>,
        (steered, lane): (Steered, Option<LocalIndex>),
        common: Common,
        make: F,
    ) -> Result<(), StartError>
    where
        C: Core + 'static,
        F: Fn(Birth) -> C + Clone + Send + 'static,
    {
        let bells: std::io::Result<Vec<_>> = shards.iter().map(|_| Doorbell::new()).collect();
        let bells = bells.map_err(StartError::Resources)?;
        let named: Vec<_> = shards.iter().map(|shard| shard.id).zip(bells.iter().cloned()).collect();
        let meshes = mesh::build(&named, mesh::ring_bytes(shards.len()));
        let edges = sockets.into_iter().zip(steered.quiet).zip(bells).zip(meshes);
        for (slot, (setup, (((sockets, quiet), bell), mesh))) in shards.iter().copied().zip(edges).enumerate() {
            let bound: std::io::Result<Vec<_>> = sockets.iter().map(local_address).collect();
            let mut bound = bound.map_err(StartError::Resources)?;
            // No client is told of it.
            let lanes = lane.map(|lane| bound.remove(usize::from(lane.0)));
            self.lanes.extend(lanes.map(|address| (setup.id, address)));
            self.addresses.push((setup.id, bound));
            let (commands, door) = channel();
            let pulse = Arc::new(Pulse::new());
            self.doors.push(Door { shard: setup.id, commands, bell: bell.clone(), pulse: Arc::clone(&pulse) });
            self.patients.push(Patient::new(setup.id, Arc::clone(&pulse), bell.clone()));
            let paths = steered.steering.as_ref().map(|steering| steering.table(slot));
            let own = Own { setup, sockets, quiet, lane, bell, door, mesh, paths, first: slot == 0, pulse };
            self.threads.push(spawn(common.clone(), own, make.clone()).map_err(StartError::Resources)?);
        }
        Ok(())
    }

    fn stand(self, steering: SteeringInUse, io: IoInUse, ends: Receiver<ShardId>) -> Result<MediaTower, StartError> {
        let Rising { doors, threads, patients, addresses, lanes } = self;
        let (heart, stop) = channel();
        let heartbeat =
            std::thread::Builder::new().name("heartbeat".into()).spawn(move || pulse::heartbeat(patients, &stop));
        let heartbeat = heartbeat.map_err(StartError::Resources)?;
        Ok(MediaTower { doors, addresses, lanes, steering, io, threads, ends, heart, heartbeat })
    }

    fn send_home(&self) {
        for door in &self.doors {
            door.send(Command::Shutdown);
        }
    }
}

/// Gives each shard's sockets one more, for lanes.
fn add_lanes(sockets: &mut [Vec<Socket>], first: SocketAddr) -> Result<LocalIndex, StartError> {
    let at = sockets.first().map_or(0, Vec::len);
    let local = u8::try_from(at).ok().filter(|at| usize::from(*at) < LOCAL_ADDRESSES_MAX);
    let local = local.ok_or(StartError::Addresses(at + 1))?;
    let lanes = bind_lanes(first, sockets.len())?;
    sockets.iter_mut().zip(lanes).for_each(|(sockets, lane)| sockets.push(lane));
    Ok(LocalIndex(local))
}

/// Waits until every shard has said that its backend stands. The ring only when every shard has one.
fn all_alive(shards: &[ShardSetup], readies: &Receiver<BackendReady>) -> Result<IoInUse, StartError> {
    let alive: std::io::Result<Vec<_>> = readies.iter().collect();
    let alive = alive.map_err(StartError::Resources)?;
    if let Some(dead) = shards.iter().find(|shard| !alive.iter().any(|(id, _)| *id == shard.id)) {
        return Err(StartError::ShardDied(dead.id));
    }
    Ok(if alive.iter().all(|(_, io)| *io == IoInUse::Ring) { IoInUse::Ring } else { IoInUse::Plain })
}

struct Steered {
    in_use: SteeringInUse,
    steering: Option<Arc<Steering>>,
    /// The quiet sockets of each shard, one on each address or none at all.
    quiet: Vec<Vec<Socket>>,
}

fn steer(
    mode: SteeringMode,
    sockets: &[Vec<Socket>],
    ours: bool,
    labels: &[(ShardId, ShardLabel)],
) -> Result<Steered, StartError> {
    let none = || sockets.iter().map(|_| Vec::new()).collect();
    let unsteered = |in_use| Steered { in_use, steering: None, quiet: none() };
    match mode {
        SteeringMode::PortPerCore => return Ok(unsteered(SteeringInUse::PortPerCore)),
        SteeringMode::Handover => return Ok(unsteered(SteeringInUse::Handover)),
        SteeringMode::Auto | SteeringMode::Bpf => {}
    }
    let addresses: Vec<_> =
        sockets[0].iter().map(local_address).collect::<std::io::Result<_>>().map_err(StartError::Resources)?;
    let quiet = match bind_quiet(&addresses, sockets.len()) {
        // A service manager's sockets are another user's, beside which ours cannot be bound. The steering has no sink
        // there either, and says so.
        Err(StartError::Bind { .. }) if !ours => none(),
        bound => bound?,
    };
    let groups: Vec<_> = addresses
        .iter()
        .enumerate()
        .map(|(index, address)| Group {
            address: *address,
            sockets: sockets.iter().map(|of_shard| &of_shard[index]).collect(),
            quiet: quiet.iter().filter_map(|of_shard| of_shard.get(index)).collect(),
        })
        .collect();
    let labels: Vec<_> = labels.iter().map(|(_, label)| *label).collect();
    match Steering::attach(&groups, &labels) {
        Ok(steering) => Ok(Steered { in_use: SteeringInUse::Bpf, steering: Some(steering), quiet }),
        Err(error) if mode == SteeringMode::Bpf => Err(StartError::Steering(error)),
        Err(error) => {
            tracing::warn!(%error, "the kernel does not steer datagrams: shards hand them over to each other");
            Ok(unsteered(SteeringInUse::Handover))
        }
    }
}
