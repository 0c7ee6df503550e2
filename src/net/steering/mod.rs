//! Steering: the kernel brings each datagram to the shard that owns its sender, by a program on every SO_REUSEPORT
//! group and one map from remote address to shard. Where bpf(2) is refused nothing here exists, and shards hand over to
//! each other by the mesh. The shards know which paths exist, and write them by [`PathTable`].

mod bpf;
mod bpf_asm;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::Socket;

use crate::base::buffer::{Leg, Path};
use crate::base::id::ShardLabel;
use crate::base::limits::{CHECK_BYTES_MAX, STEERED_PATHS_MAX};
use crate::net::steering::bpf::{LoadError, Map, MapKind, Program, possible_cpus, refuse_everything};
use crate::net::steering::bpf_asm::{Assembler, FRAME, Instruction, JumpLabel, R0, R1, R2, R3, R4, R5, R6, R7, Width};
use crate::net::udp::socket::{Sharing, open};

/// The operator's setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SteeringMode {
    /// By the kernel where it is allowed, else handed over.
    #[default]
    Auto,
    Bpf,
    Handover,
    /// Each shard has a port of its own: the port given plus its number.
    PortPerCore,
}

impl SteeringMode {
    pub const ALL: [SteeringMode; 4] =
        [SteeringMode::Auto, SteeringMode::Bpf, SteeringMode::Handover, SteeringMode::PortPerCore];

    pub const fn name(self) -> &'static str {
        match self {
            SteeringMode::Auto => "auto",
            SteeringMode::Bpf => "bpf",
            SteeringMode::Handover => "handover",
            SteeringMode::PortPerCore => "port-per-core",
        }
    }
}

impl fmt::Display for SteeringMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SteeringMode {
    type Err = String;

    fn from_str(text: &str) -> Result<SteeringMode, String> {
        SteeringMode::ALL
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| format!("{text:?} is no way of steering: auto, bpf, handover or port-per-core"))
    }
}

/// The way in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SteeringInUse {
    Bpf,
    Handover,
    PortPerCore,
}

impl fmt::Display for SteeringInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SteeringInUse::Bpf => "by the kernel (sk_reuseport program): datagrams reach their shard at once",
            SteeringInUse::Handover => "by handover: shards pass on what the kernel gave to the wrong one",
            SteeringInUse::PortPerCore => "a port for each shard",
        })
    }
}

#[derive(Debug)]
pub enum SteeringError {
    /// bpf(2) needs CAP_BPF.
    NotPermitted,
    /// The kernel is too old, or something else is wrong; `log` is the verifier's when it spoke.
    Refused { step: &'static str, error: io::Error, log: String },
}

impl SteeringError {
    fn at(step: &'static str) -> impl Fn(io::Error) -> SteeringError {
        move |error| match error.raw_os_error() {
            Some(libc::EPERM) => SteeringError::NotPermitted,
            _ => SteeringError::Refused { step, error, log: String::new() },
        }
    }
}

impl fmt::Display for SteeringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SteeringError::NotPermitted => f.write_str(
                "bpf(2) is not permitted: give the program CAP_BPF (setcap cap_bpf+ep FILE, AmbientCapabilities=CAP_BPF \
                 in a systemd unit, --cap-add BPF for a container) or start it as root; or choose --steering handover",
            ),
            SteeringError::Refused { step, error, log } => {
                write!(f, "{step}: {error} (Linux 5.8 or newer is needed; or choose --steering handover)")?;
                if log.is_empty() { Ok(()) } else { write!(f, "\n{log}") }
            }
        }
    }
}

impl std::error::Error for SteeringError {}

/// A remote address at one of our groups: IPv6 as it is, IPv4 as ::ffff:a.b.c.d, then the port in network order, then
/// the group, so that one map serves all.
type PathKey = [u8; 20];
const KEY_PORT: i32 = 16;
const KEY_GROUP: i32 = 18;

/// A slot of the socket arrays: a shard's number in the order of the start, or the sink behind the last.
type Slot = [u8; 4];

/// None for a connection of TCP: it stays with the shard that has it.
fn path_key(path: &Path) -> Option<PathKey> {
    let Leg::Udp(local) = path.leg else { return None };
    let mut key = [0; 20];
    let address = match path.remote.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    key[..16].copy_from_slice(&address.octets());
    key[16..18].copy_from_slice(&path.remote.port().to_be_bytes());
    key[18..].copy_from_slice(&u16::from(local.0).to_ne_bytes());
    Some(key)
}

/// Entries of the program's counters.
#[derive(Clone, Copy)]
enum Count {
    UnknownSender,
    UnknownLabel,
    Hashed,
    Unselected,
    TooLong,
}

const COUNTS: [(Count, &str, &str); 5] = [
    (Count::UnknownSender, "steering_unknown_sender", "Datagrams of unknown senders dropped by the kernel program"),
    (Count::UnknownLabel, "steering_unknown_label", "STUN requests naming no shard of ours, dropped there"),
    (Count::Hashed, "steering_hashed", "STUN requests without a leading USERNAME, given to any shard"),
    (Count::Unselected, "steering_unselected", "Datagrams whose shard had no socket: the kernel chose"),
    (Count::TooLong, "steering_check_too_long", "STUN requests longer than any client's, dropped there"),
];

type PathMap = Map<20, 4>;
type LabelMap = Map<2, 4>;
type SocketMap = Map<4, 8>;
type CountMap = Map<4, 8>;

/// The sockets on one bound address, by slot.
pub struct Group<'a> {
    pub address: SocketAddr,
    pub sockets: Vec<&'a Socket>,
    /// For each slot another socket that takes its RTCP; or none, and everything comes to the first.
    pub quiet: Vec<&'a Socket>,
}

pub struct Steering {
    paths: Mutex<PathOwners>,
    paths_full: AtomicU64,
    counts: CountMap,
    cpus: usize,
    /// Held open: a map of a running program needs no descriptor, but a group needs its sink.
    _sinks: Vec<Socket>,
}

struct PathOwners {
    map: PathMap,
    /// The content of the map: a path that moved to another shard must not be cleared by the one it left.
    owners: HashMap<PathKey, Slot>,
}

impl Steering {
    /// Loads and attaches one program per group; `labels` in the order of the slots. From here on the program steers
    /// every datagram.
    pub fn attach(groups: &[Group<'_>], labels: &[ShardLabel]) -> Result<Arc<Steering>, SteeringError> {
        let map_error = SteeringError::at("creating a bpf map");
        let paths = PathMap::new(MapKind::Hash, STEERED_PATHS_MAX as u32).map_err(&map_error)?;
        let counts = CountMap::new(MapKind::PerCpuArray, COUNTS.len() as u32).map_err(&map_error)?;
        let by_label = LabelMap::new(MapKind::Hash, labels.len().max(1) as u32).map_err(&map_error)?;
        for (slot, label) in labels.iter().enumerate() {
            by_label.update(&label.0, &(slot as u32).to_ne_bytes()).map_err(&map_error)?;
        }
        let cpus = possible_cpus().map_err(SteeringError::at("counting CPUs"))?;
        let mut sinks = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            let sockets =
                SocketMap::new(MapKind::ReuseportSockets, (group.sockets.len() + 1 + group.quiet.len()) as u32)
                    .map_err(&map_error)?;
            let sink = bind_sink(group.address).map_err(SteeringError::at("binding a sink socket"))?;
            for (slot, socket) in
                group.sockets.iter().copied().chain([&sink]).chain(group.quiet.iter().copied()).enumerate()
            {
                put_socket(&sockets, slot as u32, socket)?;
            }
            let maps = Maps { paths: &paths, labels: &by_label, sockets: &sockets, counts: &counts };
            let quiet = !group.quiet.is_empty();
            let code = program(group.address.is_ipv6(), index as u16, group.sockets.len() as i32, quiet, &maps);
            let program = Program::load(&code).map_err(|LoadError { error, log }| match error.raw_os_error() {
                Some(libc::EPERM) => SteeringError::NotPermitted,
                _ => SteeringError::Refused { step: "loading the steering program", error, log },
            })?;
            program.attach(&sink).map_err(SteeringError::at("attaching the steering program"))?;
            sinks.push(sink);
        }
        let paths = Mutex::new(PathOwners { map: paths, owners: HashMap::new() });
        Ok(Arc::new(Steering { paths, paths_full: AtomicU64::new(0), counts, cpus, _sinks: sinks }))
    }

    /// For the shard of `slot`.
    pub fn table(self: &Arc<Steering>, slot: usize) -> PathTable {
        PathTable { steering: Arc::clone(self), slot: (slot as u32).to_ne_bytes() }
    }

    /// (name, help, value) of every counter, for all shards together.
    pub fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut rows: Vec<_> = COUNTS
            .iter()
            .map(|(count, name, help)| (*name, *help, self.counts.sum(*count as u32, self.cpus).unwrap_or(0)))
            .collect();
        let full = self.paths_full.load(Ordering::Relaxed);
        rows.push(("steering_paths_full", "Paths that found the kernel's map full and are not served", full));
        rows
    }

    pub fn paths(&self) -> usize {
        self.lock().owners.len()
    }

    fn lock(&self) -> MutexGuard<'_, PathOwners> {
        // No call under this lock leaves map and owners apart for good: a panic in between is no reason to stop.
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bind_sink(address: SocketAddr) -> io::Result<Socket> {
    let sink = open(address, Sharing::Group)?;
    refuse_everything(&sink)?;
    sink.bind(&address.into())?;
    Ok(sink)
}

fn put_socket(sockets: &SocketMap, slot: u32, socket: &Socket) -> Result<(), SteeringError> {
    let descriptor = u64::from(socket.as_raw_fd().cast_unsigned());
    let step = SteeringError::at("putting a socket into the steering array");
    sockets.update(&slot.to_ne_bytes(), &descriptor.to_ne_bytes()).map_err(step)
}

/// The outcome for a path that a shard claims.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claimed {
    Ours,
    /// The map is full: the path is not served.
    Full,
    /// Another shard's, in this slot, as before.
    HeldBy(usize),
}

/// One shard's access to the map. Each change is one system call of about 3 µs.
pub struct PathTable {
    steering: Arc<Steering>,
    slot: Slot,
}

impl PathTable {
    /// The path is validated: its datagrams come to this shard, unless it is another's.
    pub fn up(&self, path: &Path) -> Claimed {
        let Some(key) = path_key(path) else { return Claimed::Ours };
        let paths = self.steering.lock();
        match paths.owners.get(&key).filter(|owner| **owner != self.slot) {
            Some(owner) => Claimed::HeldBy(u32::from_ne_bytes(*owner) as usize),
            None => self.put(paths, key),
        }
    }

    /// The client has proved that it is there: its datagrams come to this shard, whosever the path was.
    pub fn take(&self, path: &Path) -> Claimed {
        let Some(key) = path_key(path) else { return Claimed::Ours };
        self.put(self.steering.lock(), key)
    }

    fn put(&self, mut paths: MutexGuard<'_, PathOwners>, key: PathKey) -> Claimed {
        if let Err(error) = paths.map.update(&key, &self.slot) {
            drop(paths);
            if self.steering.paths_full.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::error!(%error, "the steering map refuses a path (at most {STEERED_PATHS_MAX})");
            }
            return Claimed::Full;
        }
        paths.owners.insert(key, self.slot);
        Claimed::Ours
    }

    /// The path has ended, unless another shard has taken it over meanwhile.
    pub fn down(&self, path: &Path) {
        let Some(key) = path_key(path) else { return };
        let mut paths = self.steering.lock();
        if paths.owners.get(&key) == Some(&self.slot) {
            paths.remove(&key);
        }
    }

    /// Ends all paths of this shard: it has lost its state.
    pub fn clear(&self) {
        let mut paths = self.steering.lock();
        let mut mine: Vec<_> =
            paths.owners.iter().filter(|(_, slot)| **slot == self.slot).map(|(key, _)| *key).collect();
        mine.sort_unstable();
        for key in &mine {
            paths.remove(key);
        }
    }

    pub fn steering(&self) -> &Steering {
        &self.steering
    }
}

impl PathOwners {
    fn remove(&mut self, key: &PathKey) {
        self.owners.remove(key);
        if let Err(error) = self.map.delete(key) {
            tracing::warn!(%error, "a path was not in the steering map");
        }
    }
}

struct Maps<'a> {
    paths: &'a PathMap,
    labels: &'a LabelMap,
    sockets: &'a SocketMap,
    counts: &'a CountMap,
}

/// The program of one group with `shards` slots, the sink behind them, and behind that their quiet sockets, if there are
/// any:
///
/// - a STUN Binding request of over [`CHECK_BYTES_MAX`] goes to the sink: who sends many of those would only fill a
///   shard's receive buffer, which media needs;
/// - a STUN Binding request whose first attribute is USERNAME goes by the shard label at its start, whatever the path
///   map says: browsers and NATs re-use ports (and a label of nobody goes to the sink);
/// - else the sender's entry in the path map decides, and RTCP (RFC 5761 section 4) goes to that slot's quiet socket;
/// - else any other Binding request goes to some shard, which hands it over by its ufrag (libnice puts USERNAME last);
/// - else the sink.
///
/// Only helpers that copy are used, because a device's buffer may not be linear.
fn program(v6: bool, group: u16, shards: i32, quiet: bool, maps: &Maps<'_>) -> Vec<Instruction> {
    let mut a = Assembler::default();
    let ends = Ends {
        by_path: a.new_label(),
        hashed: a.new_label(),
        sink: a.new_label(),
        unknown_label: a.new_label(),
        too_long: a.new_label(),
        select: a.new_label(),
    };
    a.copy(R6, R1).set(R7, 0);
    by_label(&mut a, &ends, maps);
    a.place(ends.by_path);
    by_path(&mut a, &ends, (v6, group), (shards, quiet), maps);
    for (end, why) in
        [(ends.sink, Count::UnknownSender), (ends.unknown_label, Count::UnknownLabel), (ends.too_long, Count::TooLong)]
    {
        a.place(end);
        count(&mut a, maps, why);
        a.store_value(Width::Word, FRAME, SLOT, shards).jump(ends.select);
    }
    // Not left to the kernel's own hash: that would sometimes choose the sink.
    a.place(ends.hashed);
    count(&mut a, maps, Count::Hashed);
    a.load(Width::Word, R1, R6, CONTEXT_HASH).modulo(R1, shards.max(1)).store(Width::Word, FRAME, SLOT, R1);

    let done = a.new_label();
    a.place(ends.select);
    a.copy(R1, R6).map(R2, maps.sockets.descriptor()).frame_address(R3, i32::from(SLOT)).set(R4, 0);
    a.call(SELECT_SOCKET).jump_if(R0, 0, done);
    count(&mut a, maps, Count::Unselected);
    a.place(done).set(R0, PASS).exit();
    a.finish()
}

const MAP_LOOKUP: i32 = 1;
const LOAD_BYTES: i32 = 26;
const LOAD_BYTES_RELATIVE: i32 = 68;
const SELECT_SOCKET: i32 = 82;
const FROM_NETWORK_HEADER: i32 = 1;
const PASS: i32 = 1;
// struct sk_reuseport_md: the length is from the UDP header on.
const CONTEXT_LEN: i16 = 16;
const CONTEXT_HASH: i16 = 32;
const UDP_HEADER: i32 = 8;

// The program's stack.
const SLOT: i16 = -4;
const COUNT: i16 = -8;
const KEY: i16 = -32;
const STUN: i16 = -64;
/// Header, the first attribute's head, and the label.
const STUN_BYTES: i32 = 28;

/// Where the program goes on.
struct Ends {
    by_path: JumpLabel,
    /// A check whose sender is not known: any shard.
    hashed: JumpLabel,
    sink: JumpLabel,
    unknown_label: JumpLabel,
    too_long: JumpLabel,
    /// The slot is found.
    select: JumpLabel,
}

/// A Binding request goes to the shard whose label its username begins with; R7 says that it was one.
fn by_label(a: &mut Assembler, ends: &Ends, maps: &Maps<'_>) {
    a.copy(R1, R6).set(R2, UDP_HEADER).frame_address(R3, i32::from(STUN)).set(R4, STUN_BYTES).call(LOAD_BYTES);
    a.jump_unless(R0, 0, ends.by_path);
    // RFC 8489 section 5: Binding request, magic cookie.
    a.load(Width::Half, R1, FRAME, STUN);
    a.jump_unless(R1, i32::from(u16::from_ne_bytes([0x00, 0x01])), ends.by_path);
    a.load(Width::Word, R1, FRAME, STUN + 4);
    a.jump_unless(R1, i32::from_ne_bytes([0x21, 0x12, 0xa4, 0x42]), ends.by_path);
    let fits = a.new_label();
    a.load(Width::Word, R1, R6, CONTEXT_LEN).jump_below(R1, CHECK_BYTES_MAX as i32 + UDP_HEADER + 1, fits);
    a.jump(ends.too_long).place(fits);
    a.set(R7, 1);
    a.load(Width::Half, R1, FRAME, STUN + 20);
    a.jump_unless(R1, i32::from(u16::from_ne_bytes([0x00, 0x06])), ends.by_path);
    a.map(R1, maps.labels.descriptor()).frame_address(R2, i32::from(STUN) + 24).call(MAP_LOOKUP);
    a.jump_if(R0, 0, ends.unknown_label);
    a.load(Width::Word, R1, R0, 0).store(Width::Word, FRAME, SLOT, R1).jump(ends.select);
}

/// Anything else goes to the shard that owns its sender.
fn by_path(a: &mut Assembler, ends: &Ends, (v6, group): (bool, u16), (shards, quiet): (i32, bool), maps: &Maps<'_>) {
    a.store_value(Width::Double, FRAME, KEY, 0).store_value(Width::Double, FRAME, KEY + 8, 0);
    a.store_value(Width::Half, FRAME, KEY + KEY_GROUP as i16, i32::from(i16::from_ne_bytes(group.to_ne_bytes())));
    // The source address, relative to the network header: right during GRO and behind IP options too.
    let (offset, len, into) = if v6 {
        (8, 16, i32::from(KEY))
    } else {
        a.store_value(Width::Half, FRAME, KEY + 10, -1);
        (12, 4, i32::from(KEY) + 12)
    };
    a.copy(R1, R6).set(R2, offset).frame_address(R3, into).set(R4, len).set(R5, FROM_NETWORK_HEADER);
    a.call(LOAD_BYTES_RELATIVE).jump_unless(R0, 0, ends.sink);
    a.copy(R1, R6).set(R2, 0).frame_address(R3, i32::from(KEY) + KEY_PORT).set(R4, 2).call(LOAD_BYTES);
    a.jump_unless(R0, 0, ends.sink);
    a.map(R1, maps.paths.descriptor()).frame_address(R2, i32::from(KEY)).call(MAP_LOOKUP);
    let unknown = a.new_label();
    a.jump_if(R0, 0, unknown);
    a.load(Width::Word, R1, R0, 0).store(Width::Word, FRAME, SLOT, R1);
    if quiet {
        let rtcp = a.new_label();
        a.copy(R1, R6).set(R2, UDP_HEADER + 1).frame_address(R3, i32::from(COUNT)).set(R4, 1).call(LOAD_BYTES);
        a.jump_unless(R0, 0, ends.select).load(Width::Byte, R1, FRAME, COUNT);
        a.jump_below(R1, 192, ends.select).jump_below(R1, 224, rtcp).jump(ends.select);
        a.place(rtcp).load(Width::Word, R1, FRAME, SLOT).add(R1, shards + 1).store(Width::Word, FRAME, SLOT, R1);
    }
    a.jump(ends.select);
    a.place(unknown).jump_unless(R7, 0, ends.hashed).jump(ends.sink);
}

/// Adds one; no atomic, because the entry is this CPU's own.
fn count(a: &mut Assembler, maps: &Maps<'_>, which: Count) {
    let skip = a.new_label();
    a.store_value(Width::Word, FRAME, COUNT, which as i32);
    a.map(R1, maps.counts.descriptor()).frame_address(R2, i32::from(COUNT)).call(MAP_LOOKUP).jump_if(R0, 0, skip);
    a.load(Width::Double, R1, R0, 0).add(R1, 1).store(Width::Double, R0, 0, R1).place(skip);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::buffer::{ConnectionId, LocalIndex};

    #[test]
    fn keys_are_one_form_for_both_families() {
        let path = |remote: &str, local| Path::udp(LocalIndex(local), remote.parse().unwrap());
        let key = path_key(&path("192.0.2.1:258", 3)).unwrap();
        assert_eq!(key[..18], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 1, 1, 2]);
        assert_eq!(key[18..], 3u16.to_ne_bytes());
        assert_eq!(path_key(&path("[::ffff:192.0.2.1]:258", 3)), Some(key));
        assert_ne!(path_key(&path("192.0.2.1:258", 4)), Some(key));
        let connection = Path { leg: Leg::Tcp(LocalIndex(3), ConnectionId(1)), ..path("192.0.2.1:258", 3) };
        assert_eq!(path_key(&connection), None);
    }

    #[test]
    fn modes_are_named_as_on_the_command_line() {
        for mode in SteeringMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("kernel".parse::<SteeringMode>().unwrap_err().contains("port-per-core"));
    }
}
