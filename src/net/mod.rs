//! The media edge: one pinned thread per shard between its core and the kernel. Sockets, clocks, system calls and
//! `unsafe` of the media tower end here; what a datagram means is the shard's business. Started and stopped by main.

pub mod addresses;
pub mod backend;
mod bpf;
mod bpf_asm;
pub mod clock;
mod core;
pub mod doorbell;
mod error;
mod executor;
mod guard;
pub mod handshakes;
pub mod io;
mod joined;
pub mod mesh;
mod message;
mod mmsg;
mod moderation;
mod outbox;
pub mod plain;
pub mod poll;
mod pulse;
pub mod ring;
pub mod shard_thread;
mod small_pages;
pub mod stamped;
pub mod steering;
mod tally;
pub mod udp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use socket2::Socket;
use tokio::sync::mpsc::UnboundedSender;

pub use error::StartError;
pub use io::{IoInUse, IoMode};
pub use steering::{SteeringInUse, SteeringMode};

use clock::Clock;
use doorbell::Doorbell;
use guard::Guard;
use io::AnyBackend;
use pulse::{Patient, Pulse};
use shard_thread::{Core, ShardThread, Times};
use steering::{Group, Steering};
use udp::{Sharing, bind, check_free, local_address};

use crate::base::id::{ShardId, ShardLabel};
use crate::base::limits::LOCAL_ADDRESSES_MAX;
use crate::base::time::{Duration, Now};
use crate::shard::command::{Command, Event};

/// How long [`MediaTower::stop`] waits for the shards, all together.
const STOP_MAX: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardSetup {
    pub id: ShardId,
    pub label: ShardLabel,
    /// The CPU it is pinned to.
    pub core: usize,
}

pub struct NetSettings {
    pub shards: Vec<ShardSetup>,
    /// Bound by every shard, in the order of `LocalIndex`; wildcards are expanded already ([`addresses::expand`]).
    pub addresses: Vec<SocketAddr>,
    pub steering: SteeringMode,
    /// The longest that a packet may wait for others while its shard is busy; zero: never.
    pub coalesce_max: Duration,
    pub io: IoMode,
    pub events: UnboundedSender<(ShardId, Event)>,
}

/// The arguments for building a shard's core.
#[derive(Clone, Debug)]
pub struct Birth {
    pub setup: ShardSetup,
    /// All shards, this one among them.
    pub labels: Vec<(ShardId, ShardLabel)>,
    pub steering: SteeringInUse,
    /// Wakes this shard's thread: for threads that work for it.
    pub bell: Doorbell,
    /// 0 at the start, one more at each restart of this shard: a seed must not be used twice.
    pub generation: u32,
    pub now: Now,
}

/// The way into one shard for commands. Cheap to clone; any thread.
#[derive(Clone)]
pub struct Door {
    shard: ShardId,
    commands: Sender<Command>,
    bell: Doorbell,
    pulse: Arc<Pulse>,
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
    doors: Vec<Door>,
    addresses: Vec<(ShardId, Vec<SocketAddr>)>,
    steering: SteeringInUse,
    io: IoInUse,
    threads: Vec<JoinHandle<()>>,
    /// Each shard's thread reports its end here.
    ends: Receiver<ShardId>,
    heart: Sender<()>,
    heartbeat: JoinHandle<()>,
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

/// Binds, steers and starts a thread per shard. `make` builds a shard's core on the shard's own thread, at the start
/// and again when two panics within a second have shown it to be broken. Turns huge pages off for the whole process.
pub fn start<C, F>(settings: NetSettings, make: F) -> Result<MediaTower, StartError>
where
    C: Core + 'static,
    F: Fn(Birth) -> C + Clone + Send + 'static,
{
    let NetSettings { shards, addresses, steering, coalesce_max, io, events } = settings;
    if shards.is_empty() {
        return Err(StartError::NoShards);
    }
    if addresses.is_empty() || addresses.len() > LOCAL_ADDRESSES_MAX {
        return Err(StartError::Addresses(addresses.len()));
    }
    if let Err(error) = small_pages::only_small_pages() {
        tracing::debug!(%error, "huge pages stay allowed: a round that touches one first takes longer");
    }
    let sockets = bind_all(&addresses, shards.len(), steering == SteeringMode::PortPerCore)?;
    let labels: Vec<_> = shards.iter().map(|shard| (shard.id, shard.label)).collect();
    let io = io::choose(io);
    let Steered { in_use, steering: steered, quiet } = steer(steering, io, &sockets, &labels)?;
    let run_datagrams_max = udp::run_datagrams_max();
    tracing::info!(steering = ?in_use, ?io, run_datagrams_max, shards = shards.len(), "the media edge starts");

    let bells =
        shards.iter().map(|_| Doorbell::new()).collect::<std::io::Result<Vec<_>>>().map_err(StartError::Resources)?;
    let named_bells: Vec<_> = shards.iter().map(|shard| shard.id).zip(bells.iter().cloned()).collect();
    let ends_of_mesh = mesh::build(&named_bells, mesh::ring_bytes(shards.len()));
    let (ended, ends) = channel();
    let (ready, readies) = channel();
    let (mut doors, mut threads, mut patients, mut addresses_of) = (vec![], vec![], vec![], vec![]);
    for (slot, (((setup, (sockets, quiet)), bell), mesh)) in
        shards.iter().zip(sockets.into_iter().zip(quiet)).zip(bells).zip(ends_of_mesh).enumerate()
    {
        let bound =
            sockets.iter().map(local_address).collect::<std::io::Result<Vec<_>>>().map_err(StartError::Resources)?;
        addresses_of.push((setup.id, bound));
        let (commands, door) = channel();
        let pulse = Arc::new(Pulse::new());
        doors.push(Door { shard: setup.id, commands, bell: bell.clone(), pulse: Arc::clone(&pulse) });
        patients.push(Patient::new(setup.id, Arc::clone(&pulse), bell.clone()));
        let (setup, make, labels, events) = (*setup, make.clone(), labels.clone(), events.clone());
        let by_slot = shards.iter().map(|setup| setup.id).collect();
        let paths = steered.as_ref().map(|steering| steering.table(slot));
        let (ready, end) = (ready.clone(), End { shard: setup.id, ended: ended.clone() });
        let body = move |footing| {
            let _end = end;
            let backend = match AnyBackend::open(io, sockets, quiet, &bell, run_datagrams_max) {
                Ok(backend) => backend,
                Err(error) => {
                    let _ = ready.send(Err(StartError::Resources(error)));
                    return;
                }
            };
            let own_bell = bell.clone();
            let birth = move |generation, now| {
                let (labels, bell) = (labels.clone(), own_bell.clone());
                make(Birth { setup, labels, steering: in_use, bell, generation, now })
            };
            let guard = Guard::new(Box::new(birth), Clock::process().now());
            let _ = ready.send(Ok((setup.id, backend.in_use())));
            drop(ready);
            let first = slot == 0;
            let shard = setup.id;
            let times = Times::new(coalesce_max);
            let on_ring = backend.in_use() == IoInUse::Ring;
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
        };
        match executor::spawn(setup.id, setup.core, body) {
            Ok(thread) => threads.push(thread),
            Err(error) => return Err(give_up(&doors, StartError::Resources(error))),
        }
    }
    drop(ready);
    let alive: Vec<_> = match readies.iter().collect() {
        Ok(alive) => alive,
        Err(error) => return Err(give_up(&doors, error)),
    };
    let io = if alive.iter().all(|(_, io)| *io == IoInUse::Ring) { IoInUse::Ring } else { IoInUse::Plain };
    if let Some(dead) = shards.iter().find(|shard| !alive.iter().any(|(id, _)| *id == shard.id)) {
        return Err(give_up(&doors, StartError::ShardDied(dead.id)));
    }
    let (heart, stop) = channel();
    let heartbeat =
        std::thread::Builder::new().name("heartbeat".into()).spawn(move || pulse::heartbeat(patients, &stop));
    let heartbeat = heartbeat.map_err(StartError::Resources)?;
    Ok(MediaTower { doors, addresses: addresses_of, steering: in_use, io, threads, ends, heart, heartbeat })
}

/// Ends the shards that were started already.
fn give_up(doors: &[Door], error: StartError) -> StartError {
    for door in doors {
        door.send(Command::Shutdown);
    }
    error
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

/// For each shard a socket on each address: one port for all, or a port each.
fn bind_all(addresses: &[SocketAddr], shards: usize, port_each: bool) -> Result<Vec<Vec<Socket>>, StartError> {
    let mut sockets: Vec<Vec<Socket>> = (0..shards).map(|_| Vec::new()).collect();
    for address in addresses {
        let failed = |address| move |error| StartError::Bind { address, error };
        // With port 0 the first socket finds the port and the others follow.
        let mut shared = *address;
        for (slot, sockets) in sockets.iter_mut().enumerate() {
            let (wanted, sharing) = if port_each {
                let port = port_of(*address, slot).ok_or(StartError::PortsExhausted { first: *address, shards })?;
                (SocketAddr::new(address.ip(), port), Sharing::Alone)
            } else {
                (shared, Sharing::Group)
            };
            if slot == 0 && sharing == Sharing::Group {
                check_free(wanted).map_err(failed(wanted))?;
            }
            let socket = bind(wanted, sharing).map_err(failed(wanted))?;
            shared = local_address(&socket).map_err(failed(wanted))?;
            sockets.push(socket);
        }
    }
    if let Some(socket) = sockets.first().and_then(|sockets| sockets.first())
        && let Ok(granted) = udp::receive_buffer_granted(socket)
        && granted < udp::SOCKET_BUFFER_BYTES
    {
        tracing::warn!(
            granted,
            "the kernel grants small socket buffers, so that bursts may be lost: sysctl -w net.core.rmem_max={0} \
             net.core.wmem_max={0}, or CAP_NET_ADMIN",
            udp::SOCKET_BUFFER_BYTES
        );
    }
    Ok(sockets)
}

/// The port of the shard in `slot`; 0 stays 0 (any free one).
fn port_of(address: SocketAddr, slot: usize) -> Option<u16> {
    match address.port() {
        0 => Some(0),
        first => first.checked_add(u16::try_from(slot).ok()?),
    }
}

struct Steered {
    in_use: SteeringInUse,
    steering: Option<Arc<Steering>>,
    /// For each shard its quiet sockets, one on each address or none at all.
    quiet: Vec<Vec<Socket>>,
}

fn steer(
    mode: SteeringMode,
    io: IoInUse,
    sockets: &[Vec<Socket>],
    labels: &[(ShardId, ShardLabel)],
) -> Result<Steered, StartError> {
    let unsteered = |in_use| Steered { in_use, steering: None, quiet: sockets.iter().map(|_| Vec::new()).collect() };
    match mode {
        SteeringMode::PortPerCore => return Ok(unsteered(SteeringInUse::PortPerCore)),
        SteeringMode::Handover => return Ok(unsteered(SteeringInUse::Handover)),
        SteeringMode::Auto | SteeringMode::Bpf => {}
    }
    let addresses: Vec<_> =
        sockets[0].iter().map(local_address).collect::<std::io::Result<_>>().map_err(StartError::Resources)?;
    let quiet = match io {
        IoInUse::Plain => bind_quiet(&addresses, sockets.len())?,
        IoInUse::Ring => sockets.iter().map(|_| Vec::new()).collect(),
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

/// A second socket for each shard on each address, in the same groups; only the steering program gives it anything.
fn bind_quiet(addresses: &[SocketAddr], shards: usize) -> Result<Vec<Vec<Socket>>, StartError> {
    let one = |address: SocketAddr| bind(address, Sharing::Group).map_err(|error| StartError::Bind { address, error });
    (0..shards).map(|_| addresses.iter().map(|address| one(*address)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_count_up_and_not_past_the_end() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(port_of(at(40_000), 3), Some(40_003));
        assert_eq!(port_of(at(65_535), 0), Some(65_535));
        assert_eq!(port_of(at(65_535), 1), None);
        assert_eq!(port_of(at(0), 9), Some(0));
        assert!(matches!(bind_all(&[at(65_535)], 2, true), Err(StartError::PortsExhausted { shards: 2, .. })));
    }

    #[test]
    fn a_port_in_use_and_a_foreign_address_are_named_with_their_cure() {
        let mine = bind_all(&[SocketAddr::from(([127, 0, 0, 1], 0))], 1, false).unwrap();
        let address = local_address(&mine[0][0]).unwrap();
        for port_each in [false, true] {
            let error = bind_all(&[address], 2, port_each).unwrap_err().to_string();
            assert!(error.contains(&address.to_string()) && error.contains("--rtc-listen"), "{error}");
        }
        let foreign = SocketAddr::from(([192, 0, 2, 1], 0));
        let error = bind_all(&[foreign], 1, false).unwrap_err().to_string();
        assert!(error.contains("--announce"), "{error}");
    }
}
