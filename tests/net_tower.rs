//! The media tower with a test double as its core: echo, doors, mesh, panics, restarts, stopping.
#![cfg(feature = "edge")]
#![expect(unsafe_code, reason = "setrlimit(2) and seccomp(2) in a child process, setresuid(2) for one thread")]

mod heard;

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use heard::heard;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use weirgate::base::buffer::{Batch, Path, Run, Transmit};
use weirgate::base::id::{ConsumerId, PeerId, ProducerId, ShardId, ShardLabel, TransportId};
use weirgate::base::limits::{MESH_RECORD_BYTES_MAX, MESH_RING_BYTES};
use weirgate::base::time::{Duration, Instant, Now};
use weirgate::net::doorbell::Doorbell;
use weirgate::net::threads::shard_core::Core;
use weirgate::net::udp::backend::Backend;
use weirgate::net::udp::ring::{self, RingBackend};
use weirgate::net::udp::socket::{Sharing, bind, local_address};
use weirgate::net::{
    Birth, IoInUse, IoMode, MediaTower, NetSettings, ShardSetup, StartError, SteeringInUse, SteeringMode, start,
};
use weirgate::shard::PathChange;
use weirgate::shard::command::{Closed, Command, Event, IceCredentials, Metrics, Reply, RequestId};

/// Three times the size of the ring between two shards.
const ORDERS: usize = 3 * MESH_RING_BYTES / MESH_RECORD_BYTES_MAX;

/// Looks at the first byte of every datagram: `p` panics; `f` panics, and then `fault` does too; `m` goes to the other
/// shards, which tell of it by an event; `o` makes more for one of them than the ring between them holds; 0 (STUN)
/// validates the sender's path. That and all else is echoed twice.
struct Echo {
    birth: Birth,
    buffer: Vec<u8>,
    runs: Vec<Run>,
    events: VecDeque<Event>,
    mesh: Vec<(ShardId, Vec<u8>)>,
    paths: Vec<PathChange>,
    deadline: Option<Instant>,
    stopped: bool,
    fault_panics: bool,
    busy: Arc<AtomicBool>,
}

impl Echo {
    fn new(birth: Birth, busy: Arc<AtomicBool>) -> Echo {
        Echo {
            birth,
            buffer: vec![],
            runs: vec![],
            events: VecDeque::new(),
            mesh: vec![],
            paths: vec![],
            deadline: None,
            stopped: false,
            fault_panics: false,
            busy,
        }
    }

    fn others(&self) -> Vec<ShardId> {
        self.birth.labels.iter().map(|(id, _)| *id).filter(|id| *id != self.birth.setup.id).collect()
    }

    fn echo(&mut self, path: Path, bytes: &[u8]) {
        let start = self.buffer.len() as u32;
        self.buffer.extend(bytes);
        self.buffer.extend(bytes);
        self.runs.push(Run { path, start, len: 2 * bytes.len() as u32, segment: bytes.len() as u16, oldest: None });
    }
}

impl Core for Echo {
    fn handle_batch(&mut self, _: Now, batch: &mut Batch) -> usize {
        for slot in batch.slots_mut() {
            if !slot.take() {
                continue;
            }
            let (path, bytes) = (slot.path, slot.bytes().to_vec());
            match bytes.first() {
                Some(b'p') => panic!("asked to"),
                Some(b'f') => {
                    self.fault_panics = true;
                    panic!("asked to, twice");
                }
                Some(b'o') => {
                    let to = self.others()[0];
                    self.mesh.extend((0..ORDERS).map(|_| (to, vec![0; MESH_RECORD_BYTES_MAX])));
                }
                Some(b'm') => self.mesh.extend(self.others().into_iter().map(|id| (id, bytes.clone()))),
                Some(first) => {
                    if *first == 0 {
                        self.paths.push(PathChange::Up(path));
                    }
                    self.echo(path, &bytes);
                }
                None => {}
            }
        }
        batch.len()
    }

    fn handle_command(&mut self, now: Now, command: Command) {
        match command {
            Command::GetMetrics { request } => {
                let reply = Reply::Metrics(Box::default());
                self.events.push_back(Event::Answer { request, reply });
            }
            // A timer: `peer` milliseconds from now an event names the transport.
            Command::CreateTransport { peer, .. } => self.deadline = Some(now.mono + Duration::from_millis(peer.0)),
            Command::CloseProducer { producer } => {
                self.events.push_back(Event::ProducerClosed { producer, why: Closed::TransportClosed });
            }
            Command::Shutdown => self.stopped = true,
            _ => {}
        }
    }

    fn handle_mesh(&mut self, _: Now, from: ShardId, _: Duration, record: &[u8]) {
        let producer = ProducerId(u64::from(from.0) * 1_000 + record.len() as u64);
        self.events.push_back(Event::ProducerSilent { producer, silent: true });
    }

    fn handle_timeout(&mut self, _: Now) {
        if self.deadline.take().is_some() {
            self.events.push_back(Event::ConsumerClosed { consumer: ConsumerId(7), why: Closed::ProducerClosed });
        }
    }

    fn flush<T: Transmit>(&mut self, _: Now, out: &mut T) {
        out.transmit(&self.buffer, &self.runs);
        self.buffer.clear();
        self.runs.clear();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.busy.load(Ordering::Relaxed) { Some(Instant::ZERO) } else { self.deadline }
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_mesh(&mut self, sink: &mut dyn FnMut(ShardId, &[u8]) -> bool) {
        self.mesh.retain(|(to, record)| !sink(*to, record));
    }

    fn poll_path(&mut self) -> Option<PathChange> {
        self.paths.pop()
    }

    fn path_is_held(&mut self, _: Path, _: ShardId) {}

    fn fault(&mut self, _: Now) {
        assert!(!self.fault_panics, "the fault handler panics too");
        self.buffer.clear();
        self.runs.clear();
        self.events.push_back(Event::TransportClosed { transport: TransportId(1), why: Closed::Fault });
    }

    fn is_stopped(&self) -> bool {
        self.stopped
    }
}

struct World {
    tower: MediaTower,
    events: UnboundedReceiver<(ShardId, Event)>,
    busy: Arc<AtomicBool>,
    births: Arc<AtomicU64>,
    runtime: tokio::runtime::Runtime,
}

fn setups(count: u16) -> Vec<ShardSetup> {
    (0..count)
        .map(|n| ShardSetup { id: ShardId(n), label: ShardLabel([b'a', b'0' + n as u8]), core: usize::from(n) })
        .collect()
}

fn world(shards: u16, steering: SteeringMode) -> World {
    world_on(IoMode::Auto, shards, steering)
}

fn world_on(io: IoMode, shards: u16, steering: SteeringMode) -> World {
    let (sender, events) = unbounded_channel();
    let busy = Arc::new(AtomicBool::new(false));
    let births = Arc::new(AtomicU64::new(0));
    let (for_cores, births_seen) = (Arc::clone(&busy), Arc::clone(&births));
    let addresses = vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    let settings = NetSettings {
        shards: setups(shards),
        addresses,
        inherited: Vec::new(),
        lanes: None,
        steering,
        io,
        coalesce_max: Duration::from_millis(2),
        events: sender,
    };
    let tower = start(settings, move |birth| {
        births_seen.fetch_add(1, Ordering::Relaxed);
        Echo::new(birth, Arc::clone(&for_cores))
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    World { tower: tower.unwrap(), events, busy, births, runtime }
}

impl World {
    fn event(&mut self) -> (ShardId, Event) {
        let next = async { tokio::time::timeout(Duration::from_secs(5), self.events.recv()).await };
        self.runtime.block_on(next).expect("an event within five seconds").expect("shards run")
    }

    fn metrics(&mut self, shard: usize) -> Metrics {
        self.tower.doors()[shard].send(Command::GetMetrics { request: RequestId(5) });
        match self.event().1 {
            Event::Answer { request: RequestId(5), reply: Reply::Metrics(metrics) } => *metrics,
            other => panic!("{other:?}"),
        }
    }

    fn address(&self, shard: u16, local: usize) -> SocketAddr {
        self.tower.addresses_of(ShardId(shard))[local]
    }
}

fn counter(metrics: &Metrics, name: &str) -> u64 {
    metrics.counters.iter().find(|row| row.0 == name).unwrap_or_else(|| panic!("no counter {name}")).2
}

fn client(to: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind((to.ip(), 0)).unwrap();
    client.connect(to).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client
}

fn echoed(client: &UdpSocket, text: &[u8]) {
    client.send(text).unwrap();
    for _ in 0..2 {
        let mut buffer = [0; 100];
        let len = heard(client, &mut buffer).expect("an echo within five seconds");
        assert_eq!(&buffer[..len], text);
    }
}

#[test]
fn datagrams_commands_timers_and_metrics_pass_through() {
    let mut world = world(1, SteeringMode::Handover);
    assert_eq!(world.tower.steering(), SteeringInUse::Handover);
    for local in 0..2 {
        echoed(&client(world.address(0, local)), b"hello");
    }
    let ice = IceCredentials { ufrag: String::new(), pwd: String::new() };
    let door = world.tower.doors().remove(0);
    assert!(door.send(Command::CreateTransport { transport: TransportId(1), peer: PeerId(20), ice }));
    assert!(matches!(world.event(), (ShardId(0), Event::ConsumerClosed { .. })));
    let metrics = world.metrics(0);
    assert_eq!(counter(&metrics, "udp_datagrams_received"), 2);
    assert_eq!(counter(&metrics, "udp_datagrams_sent"), 4);
    assert_eq!(counter(&metrics, "shard_panics"), 0);
    assert!(metrics.drops.contains(&("mesh_unfit", 0)));
    if metrics.gauges.iter().any(|row| (row.0, row.2) == ("shard_on_glommio", 0)) {
        skipped("the glommio executor: io_uring or locked memory is refused here, plain threads were tested");
    }
    assert!(world.tower.stop());
    assert!(!door.send(Command::Shutdown), "nobody is behind the door any more");
}

fn on_ring(metrics: &Metrics) -> bool {
    metrics.gauges.iter().any(|row| (row.0, row.2) == ("shard_on_ring", 1))
}

#[test]
fn on_the_ring_everything_is_as_it_was() {
    if let Err(why) = ring::probe() {
        skipped(&format!("the ring: {why}"));
        return;
    }
    let mut world = world_on(IoMode::Ring, 2, SteeringMode::PortPerCore);
    assert_eq!(world.tower.io(), IoInUse::Ring);
    for (shard, local) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        echoed(&client(world.address(shard, local)), b"hello");
    }
    client(world.address(0, 0)).send(b"mesh").unwrap();
    assert!(matches!(world.event(), (ShardId(1), Event::ProducerSilent { .. })));
    let sender = client(world.address(0, 0));
    sender.send(b"panic").unwrap();
    assert!(matches!(world.event().1, Event::TransportClosed { why: Closed::Fault, .. }));
    sender.send(b"fault panics too").unwrap();
    assert_eq!(world.event(), (ShardId(0), Event::ShardRestarted { shard: ShardId(0) }));
    echoed(&sender, b"new core, old ring");
    let metrics = world.metrics(0);
    assert!(on_ring(&metrics));
    assert_eq!((counter(&metrics, "udp_datagrams_received"), counter(&metrics, "udp_receive_failed")), (6, 0));
    assert!(world.tower.stop());
}

/// Descriptors and mappings of a process are a matter of the whole process, so that this test runs in a child, too.
#[test]
fn a_ring_that_ends_leaves_nothing_behind() {
    const TEST: &str = "a_ring_that_ends_leaves_nothing_behind";
    if !is_child(TEST) {
        return child_passes(TEST, |_| {});
    }
    let live = || {
        let mut backends = Vec::new();
        for _ in 0..8 {
            let sockets = ["127.0.0.1:0", "[::1]:0"].map(|at| bind(at.parse().unwrap(), Sharing::Alone).unwrap());
            let address = local_address(&sockets[0]).unwrap();
            let Ok(mut backend) = RingBackend::new(sockets.into(), Vec::new(), Doorbell::new().unwrap(), 1) else {
                skipped("the ring: io_uring is refused here");
                return (0, 0);
            };
            client(address).send(b"one is taken").unwrap();
            backend.wait(None);
            assert_eq!(backend.receive(&mut Batch::new(9)), 1);
            client(address).send(b"one waits").unwrap();
            backends.push(backend);
        }
        drop(backends);
        let count = |what| std::fs::read_dir(what).unwrap().count();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let rings = maps.lines().filter(|line| line.contains("[io_uring]")).count();
        (count("/proc/self/fd"), rings)
    };
    let first = live();
    for _ in 0..4 {
        assert_eq!(live(), first);
    }
}

/// A seccomp filter that answers io_uring_setup(2) with EPERM, as a container's does.
fn forbid_io_uring(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step(LOAD, 0, 0, 0), // seccomp_data.nr
        step(EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe; the program it points to is a
    // valid one that the closure owns.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            let mode = libc::SECCOMP_MODE_FILTER;
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

#[test]
fn where_io_uring_is_forbidden_the_ring_becomes_plain() {
    const TEST: &str = "where_io_uring_is_forbidden_the_ring_becomes_plain";
    if !is_child(TEST) {
        return child_passes(TEST, forbid_io_uring);
    }
    assert_eq!(ring::probe().unwrap_err().raw_os_error(), Some(libc::EPERM));
    let mut world = world_on(IoMode::Ring, 1, SteeringMode::Handover);
    assert_eq!(world.tower.io(), IoInUse::Plain);
    echoed(&client(world.address(0, 0)), b"hello");
    let metrics = world.metrics(0);
    assert!(!on_ring(&metrics));
    assert!(metrics.gauges.iter().any(|row| (row.0, row.2) == ("shard_on_glommio", 0)));
    assert!(world.tower.stop());
}

const CHILD: &str = "WEIRGATE_TEST_CHILD";

fn is_child(test: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|running| running == test)
}

/// Runs this one test once more, in a process of its own that `change` has changed.
fn child_passes(test: &str, change: impl FnOnce(&mut std::process::Command)) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test]).env(CHILD, test);
    change(&mut child);
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// The limit on locked memory belongs to the process, so that this test runs itself again in a child.
#[test]
fn without_locked_memory_a_shard_runs_on_a_plain_thread() {
    use std::os::unix::process::CommandExt;
    const TEST: &str = "without_locked_memory_a_shard_runs_on_a_plain_thread";
    if is_child(TEST) {
        let mut world = world(1, SteeringMode::Handover);
        echoed(&client(world.address(0, 0)), b"hello");
        assert!(world.metrics(0).gauges.iter().any(|row| (row.0, row.2) == ("shard_on_glommio", 0)));
        assert!(world.tower.stop());
        return;
    }
    child_passes(TEST, |child| {
        // SAFETY: between fork and exec only setrlimit is called, which is async-signal-safe.
        unsafe {
            child.pre_exec(|| {
                let limit = libc::rlimit { rlim_cur: 65_536, rlim_max: 65_536 };
                libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit);
                Ok(())
            });
        }
    });
}

#[test]
fn records_cross_the_mesh_and_wake_the_other_shard() {
    let mut world = world(2, SteeringMode::PortPerCore);
    assert_eq!(world.tower.steering(), SteeringInUse::PortPerCore);
    for (from, len) in [(0, 9), (1, 30), (0, 1)] {
        client(world.address(from, 0)).send(&vec![b'm'; len]).unwrap();
        let producer = ProducerId(u64::from(from) * 1_000 + len as u64);
        assert_eq!(world.event(), (ShardId(1 - from), Event::ProducerSilent { producer, silent: true }));
    }
    assert!(world.tower.stop());
}

#[test]
fn what_waits_for_room_in_the_mesh_is_sent_without_another_cause() {
    let mut world = world(2, SteeringMode::PortPerCore);
    client(world.address(0, 0)).send(b"o").unwrap();
    for _ in 0..ORDERS {
        assert!(matches!(world.event(), (ShardId(1), Event::ProducerSilent { .. })));
    }
    assert!(world.tower.stop());
}

#[test]
fn a_panic_costs_one_transport_and_a_restart_loses_no_port() {
    let mut world = world(1, SteeringMode::Handover);
    let client = client(world.address(0, 0));
    client.send(b"panic").unwrap();
    assert!(matches!(world.event().1, Event::TransportClosed { why: Closed::Fault, .. }));
    echoed(&client, b"still here");
    assert_eq!(world.births.load(Ordering::Relaxed), 1);
    std::thread::sleep(Duration::from_millis(1_100));
    // The datagrams behind it in one batch are handled, and it is not handled again: a second panic would be a restart.
    client.send(b"panic").unwrap();
    echoed(&client, b"behind");
    assert!(matches!(world.event().1, Event::TransportClosed { why: Closed::Fault, .. }));
    assert_eq!(world.births.load(Ordering::Relaxed), 1);
    std::thread::sleep(Duration::from_millis(1_100));

    client.send(b"fault panics too").unwrap();
    assert_eq!(world.event(), (ShardId(0), Event::ShardRestarted { shard: ShardId(0) }));
    echoed(&client, b"new core, old port");
    assert_eq!(world.births.load(Ordering::Relaxed), 2);
    let metrics = world.metrics(0);
    assert_eq!((counter(&metrics, "shard_panics"), counter(&metrics, "shard_restarts")), (3, 1));
    assert!(world.tower.stop());
}

#[test]
fn the_kernel_steers_by_what_the_cores_say_and_a_restart_forgets_it() {
    let mut world = world(2, SteeringMode::Auto);
    if world.tower.steering() != SteeringInUse::Bpf {
        skipped("bpf(2) is not permitted here (needs root or CAP_BPF)");
        assert!(world.tower.stop());
        return;
    }
    let client = client(world.address(0, 0));
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    client.send(b"unknown").unwrap();
    assert!(heard(&client, &mut [0; 9]).is_err(), "the sink");
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // A Binding request that names shard 1 brings the first datagram there; its core then validates the path.
    let mut request = vec![0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42];
    request.extend([7; 12]);
    request.extend([0, 6, 0, 4, b'a', b'1', b'x', b'x']);
    client.send(&request).unwrap();
    for _ in 0..2 {
        heard(&client, &mut [0; 99]).unwrap();
    }
    assert_eq!(counter(&world.metrics(1), "udp_datagrams_received"), 1);
    assert_eq!(counter(&world.metrics(0), "udp_datagrams_received"), 0);
    assert_eq!(counter(&world.metrics(0), "steering_unknown_sender"), 1);
    echoed(&client, b"steered by the path alone");
    let held = |metrics: Metrics| metrics.gauges.iter().find(|row| row.0 == "steering_paths").map(|row| row.2);
    assert_eq!(held(world.metrics(0)), Some(1));

    client.send(b"panic").unwrap();
    assert!(matches!(world.event(), (ShardId(1), Event::TransportClosed { .. })));
    client.send(b"fault panics too").unwrap();
    assert_eq!(world.event(), (ShardId(1), Event::ShardRestarted { shard: ShardId(1) }));
    assert_eq!(held(world.metrics(0)), Some(0));
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    client.send(b"unknown again").unwrap();
    assert!(heard(&client, &mut [0; 9]).is_err(), "the sink");
    assert!(world.tower.stop());
}

#[test]
fn a_user_without_cap_bpf_gets_handover_or_an_error_that_names_the_cure() {
    let as_nobody = std::thread::spawn(|| {
        let nobody = 65_534;
        // SAFETY: the raw call changes this thread and those it starts; where it fails we are some other user already.
        unsafe { libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody) };
        let world = world(2, SteeringMode::Auto);
        assert_eq!(world.tower.steering(), SteeringInUse::Handover);
        echoed(&client(world.address(0, 1)), b"hello");
        assert!(world.tower.stop());

        let (events, _receiver) = unbounded_channel();
        let addresses = vec!["127.0.0.1:0".parse().unwrap()];
        let settings = NetSettings {
            shards: setups(2),
            addresses,
            inherited: Vec::new(),
            lanes: None,
            steering: SteeringMode::Bpf,
            io: IoMode::Auto,
            coalesce_max: Duration::ZERO,
            events,
        };
        let error = start(settings, |birth| Echo::new(birth, Arc::default())).err().unwrap();
        assert!(matches!(error, StartError::Steering(_)) && error.to_string().contains("CAP_BPF"), "{error}");
    });
    as_nobody.join().unwrap();
}

#[test]
fn what_is_wrong_with_the_settings_is_said() {
    let (events, _receiver) = unbounded_channel();
    let try_start = |shards, addresses: &[&str]| {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let settings = NetSettings {
            shards: setups(shards),
            addresses,
            inherited: Vec::new(),
            lanes: None,
            steering: SteeringMode::Handover,
            io: IoMode::Auto,
            coalesce_max: Duration::ZERO,
            events: events.clone(),
        };
        start(settings, |birth| Echo::new(birth, Arc::default())).err().unwrap()
    };
    assert!(matches!(try_start(0, &["127.0.0.1:0"]), StartError::NoShards));
    assert!(matches!(try_start(1, &[]), StartError::Addresses(0)));
    assert!(matches!(try_start(1, &["127.0.0.1:0"; 65]), StartError::Addresses(65)));
    assert!(matches!(try_start(1, &["192.0.2.1:0"]), StartError::Bind { .. }));
}

/// Twenty thousand wakes from another thread, by turns while the shard sleeps, spins through rounds of its own and goes
/// from one to the other; each is answered before the next, so that a lost one is waited for in vain.
#[test]
fn no_wake_is_lost_idle_or_loaded() {
    let mut world = world(1, SteeringMode::Handover);
    let door = world.tower.doors().remove(0);
    for n in 0..20_000u64 {
        world.busy.store(n % 4 < 2, Ordering::Relaxed);
        if n % 32 == 31 {
            std::thread::sleep(Duration::from_micros(20)); // enough for it to fall asleep first
        }
        let producer = ProducerId(n);
        assert!(door.send(Command::CloseProducer { producer }));
        let closed = Event::ProducerClosed { producer, why: Closed::TransportClosed };
        assert_eq!(world.event(), (ShardId(0), closed));
    }
    world.busy.store(false, Ordering::Relaxed);
    let metrics = world.metrics(0);
    assert_eq!(counter(&metrics, "shard_pokes"), 0);
    let (waits, rounds) = (counter(&metrics, "udp_waits"), counter(&metrics, "shard_rounds"));
    assert!(waits > 300 && rounds > 2 * waits, "it slept {waits} times in {rounds} rounds");
    assert!(world.tower.stop());
}

/// Past the test harness, which keeps the output of tests that pass to itself.
fn skipped(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

#[test]
fn each_shard_has_an_address_of_its_own_for_lanes_that_no_client_is_told_of() {
    for io in [IoMode::Plain, IoMode::Auto] {
        let (events, _told) = unbounded_channel();
        let settings = NetSettings {
            shards: setups(2),
            addresses: vec!["127.0.0.1:0".parse().unwrap()],
            inherited: Vec::new(),
            lanes: Some("127.0.0.1:0".parse().unwrap()),
            steering: SteeringMode::Handover,
            io,
            coalesce_max: Duration::ZERO,
            events,
        };
        let tower = start(settings, |birth| Echo::new(birth, Arc::default())).unwrap();
        let lanes = [0, 1].map(|shard| tower.lanes_of(ShardId(shard)).expect("it was asked for"));
        assert_ne!(lanes[0], lanes[1]);
        for (shard, lane) in [0, 1].into_iter().zip(lanes) {
            assert_eq!(tower.addresses_of(ShardId(shard)).len(), 1);
            assert!(!tower.addresses_of(ShardId(shard)).contains(&lane));
            let other = UdpSocket::bind("127.0.0.1:0").unwrap();
            other.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            other.send_to(&[0xC1, 0, 7], lane).unwrap();
            let mut answer = [0; 16];
            let (len, from) = other.recv_from(&mut answer).expect("an echo within five seconds");
            assert_eq!((&answer[..len], from), (&[0xC1, 0, 7][..], lane), "from where it went to");
        }
        assert!(tower.stop());
    }
}

#[test]
fn lanes_that_cannot_be_bound_say_so() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (lanes, cure) in
        [(taken.local_addr().unwrap(), "lanes of other nodes"), ("127.0.0.1:65535".parse().unwrap(), "lower port")]
    {
        let (events, _told) = unbounded_channel();
        let settings = NetSettings {
            shards: setups(2),
            addresses: vec!["127.0.0.1:0".parse().unwrap()],
            inherited: Vec::new(),
            lanes: Some(lanes),
            steering: SteeringMode::Handover,
            io: IoMode::Plain,
            coalesce_max: Duration::ZERO,
            events,
        };
        let refused = start(settings, |birth| Echo::new(birth, Arc::default())).err().expect("it is refused");
        assert!(refused.to_string().contains(cure), "{refused}");
    }
}
