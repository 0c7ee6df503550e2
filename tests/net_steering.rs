//! The kernel program at work: needs CAP_BPF, so each test says that it was skipped where bpf(2) is refused.
#![cfg(feature = "edge")]
#![expect(
    unsafe_code,
    reason = "capset(2), setresuid(2) and tgkill(2) for one thread, to be someone else or disturbed"
)]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::Socket;
use weirgate::base::buffer::{LocalIndex, Path};
use weirgate::base::id::ShardLabel;
use weirgate::base::limits::CHECK_BYTES_MAX;
use weirgate::net::steering::{Claimed, Group, Steering, SteeringError};
use weirgate::net::udp::socket::{Sharing, bind, local_address};

const LABELS: [ShardLabel; 3] = [ShardLabel(*b"Qx"), ShardLabel(*b"aZ"), ShardLabel(*b"07")];
const CAP_BPF: u64 = 1 << 39;
const NOT_STUN: [u8; 100] = [0x80; 100];

struct World {
    addresses: Vec<SocketAddr>,
    /// By address, by slot.
    sockets: Vec<Vec<Socket>>,
    steering: Arc<Steering>,
}

fn sockets_on(loopback: &str) -> Vec<Socket> {
    let first = bind(loopback.parse().unwrap(), Sharing::Group).unwrap();
    let address = local_address(&first).unwrap();
    let others = (1..LABELS.len()).map(|_| bind(address, Sharing::Group).unwrap());
    std::iter::once(first).chain(others).collect()
}

fn attach() -> Result<World, SteeringError> {
    attach_with(false)
}

/// `quiet`: with as many sockets again for RTCP, behind the others of each address.
fn attach_with(quiet: bool) -> Result<World, SteeringError> {
    let mut sockets = vec![sockets_on("127.0.0.1:0"), sockets_on("[::1]:0")];
    let addresses: Vec<_> = sockets.iter().map(|group| local_address(&group[0]).unwrap()).collect();
    if quiet {
        for (group, address) in sockets.iter_mut().zip(&addresses) {
            group.extend(LABELS.map(|_| bind(*address, Sharing::Group).unwrap()));
        }
    }
    let groups: Vec<_> = sockets
        .iter()
        .zip(&addresses)
        .map(|(group, address)| {
            let (first, second) = group.split_at(LABELS.len());
            Group { address: *address, sockets: first.iter().collect(), quiet: second.iter().collect() }
        })
        .collect();
    let steering = Steering::attach(&groups, &LABELS)?;
    drop(groups);
    Ok(World { addresses, sockets, steering })
}

fn world() -> Option<World> {
    match attach() {
        Ok(world) => Some(world),
        Err(SteeringError::NotPermitted) => {
            skipped("bpf(2) is not permitted here (needs root or CAP_BPF)");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

impl World {
    fn client(&self, local: usize) -> UdpSocket {
        let any = if self.addresses[local].is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        UdpSocket::bind(any).unwrap()
    }

    /// The slots that a datagram came out of. Loopback delivers before send returns.
    fn send(&self, from: &UdpSocket, local: usize, bytes: &[u8]) -> Vec<usize> {
        from.send_to(bytes, self.addresses[local]).unwrap();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 2048];
        (0..self.sockets[local].len()).filter(|slot| self.sockets[local][*slot].recv(&mut buffer).is_ok()).collect()
    }

    fn count(&self, name: &str) -> u64 {
        self.steering.counters().iter().find(|row| row.0 == name).unwrap().2
    }
}

fn path(local: usize, client: &UdpSocket) -> Path {
    Path::udp(LocalIndex(local as u8), client.local_addr().unwrap())
}

/// A Binding request whose first attribute is `attribute`, beginning with `text`.
fn request(attribute: u16, text: &[u8]) -> Vec<u8> {
    let mut stun = vec![0, 1, 0, 20, 0x21, 0x12, 0xa4, 0x42];
    stun.extend([7; 12]);
    stun.extend(attribute.to_be_bytes());
    stun.extend([0, 16]);
    stun.extend(text);
    stun.resize(40, b'x');
    stun
}

#[test]
fn a_request_goes_by_its_label_whatever_the_path_map_says() {
    let Some(world) = world() else { return };
    for local in 0..2 {
        let client = world.client(local);
        for known in [false, true] {
            if known {
                assert_eq!(world.steering.table(2).up(&path(local, &client)), Claimed::Ours);
            }
            for (slot, label) in LABELS.iter().enumerate() {
                assert_eq!(world.send(&client, local, &request(0x0006, &label.0)), [slot]);
            }
        }
        let before = world.count("steering_unknown_label");
        assert_eq!(world.send(&client, local, &request(0x0006, b"??")), [0usize; 0], "nobody's label");
        assert_eq!(world.count("steering_unknown_label"), before + 1);
    }
}

#[test]
fn a_request_that_no_client_would_send_ends_in_the_sink() {
    let Some(world) = world() else { return };
    for local in 0..2 {
        let client = world.client(local);
        let label = LABELS[1].0;
        let mut long = request(0x0006, &label);
        long.resize(CHECK_BYTES_MAX, 0);
        assert_eq!(world.send(&client, local, &long), [1]);
        long.push(0);
        assert_eq!(world.send(&client, local, &long), [0usize; 0]);
        world.steering.table(2).up(&path(local, &client));
        assert_eq!(world.send(&client, local, &long), [0usize; 0], "whoever sends it");
        long[0] = 1;
        assert_eq!(world.send(&client, local, &long), [2], "this is none");
    }
    assert_eq!(world.count("steering_check_too_long"), 4);
}

#[test]
fn paths_decide_about_all_else_and_unknown_senders_end_in_the_sink() {
    let Some(world) = world() else { return };
    for local in 0..2 {
        let clients: Vec<_> = (0..300).map(|_| world.client(local)).collect();
        assert_eq!(world.send(&clients[0], local, &NOT_STUN), [0usize; 0]);
        assert_eq!(world.send(&clients[0], local, &[]), [0usize; 0], "an empty datagram");
        assert_eq!(world.send(&clients[0], local, &request(0x0006, b"Qx")[..27]), [0usize; 0], "too short for a label");
        for (n, client) in clients.iter().enumerate() {
            assert_eq!(world.steering.table(n % 3).up(&path(local, client)), Claimed::Ours);
        }
        for (n, client) in clients.iter().enumerate() {
            assert_eq!(world.send(client, local, &NOT_STUN), [n % 3]);
            let other = 1 - local;
            let elsewhere = path(other, client);
            world.steering.table(0).down(&elsewhere);
        }
        for (n, client) in clients.iter().enumerate() {
            world.steering.table((n + 1) % 3).down(&path(local, client));
            assert_eq!(world.send(client, local, &NOT_STUN), [n % 3], "another shard's word does not end a path");
            world.steering.table(n % 3).down(&path(local, client));
            assert_eq!(world.send(client, local, &NOT_STUN), [0usize; 0]);
        }
    }
    assert_eq!(world.steering.paths(), 0);
    assert_eq!(world.count("steering_unknown_sender"), 2 * (300 + 3));
    assert_eq!(world.count("steering_unselected"), 0);
}

#[test]
fn a_request_without_a_leading_username_reaches_a_shard_and_never_the_sink() {
    let Some(world) = world() else { return };
    for local in 0..2 {
        let mut reached = [0; 3];
        for _ in 0..200 {
            let slots = world.send(&world.client(local), local, &request(0x0024, b"Qx"));
            assert_eq!(slots.len(), 1);
            reached[slots[0]] += 1;
        }
        assert!(reached.iter().all(|count| *count > 0), "{reached:?}");
        let client = world.client(local);
        world.steering.table(1).up(&path(local, &client));
        assert_eq!(world.send(&client, local, &request(0x0024, b"Qx")), [1], "a known sender goes to its shard");
    }
    assert_eq!(world.count("steering_hashed"), 400);
}

#[test]
fn rtcp_goes_to_the_quiet_socket_of_its_shard_and_nothing_else_does() {
    let world = match attach_with(true) {
        Ok(world) => world,
        Err(SteeringError::NotPermitted) => return skipped("bpf(2) is not permitted here (needs root or CAP_BPF)"),
        Err(error) => panic!("{error}"),
    };
    for local in 0..2 {
        let (known, stranger) = (world.client(local), world.client(local));
        assert_eq!(world.steering.table(1).up(&path(local, &known)), Claimed::Ours);
        for second in 0..=255u8 {
            let quiet = (192..224).contains(&second);
            let expected = if quiet { LABELS.len() + 1 } else { 1 };
            assert_eq!(world.send(&known, local, &[0x80, second, 0, 1]), [expected], "{second}");
        }
        assert_eq!(world.send(&known, local, &[0x80]), [1], "too short to tell");
        assert!(world.send(&stranger, local, &[0x80, 200, 0, 1]).is_empty());
        assert_eq!(world.send(&known, local, &request(6, b"07xyz")), [2], "a check goes by its label");
    }
}

#[test]
fn a_path_moves_when_it_is_taken_and_a_restart_clears_only_its_own() {
    let Some(world) = world() else { return };
    let clients = [world.client(0), world.client(0)];
    let (first, second) = (world.steering.table(0), world.steering.table(1));
    assert_eq!(first.up(&path(0, &clients[0])), Claimed::Ours);
    assert_eq!(first.up(&path(0, &clients[1])), Claimed::Ours);
    assert_eq!(second.up(&path(0, &clients[0])), Claimed::HeldBy(0), "whoever has it keeps it");
    assert_eq!(world.send(&clients[0], 0, &NOT_STUN), [0]);
    assert_eq!(second.take(&path(0, &clients[0])), Claimed::Ours, "unless the client has proved where it is");
    assert_eq!(world.send(&clients[0], 0, &NOT_STUN), [1]);
    first.clear();
    assert_eq!(world.send(&clients[0], 0, &NOT_STUN), [1]);
    assert_eq!(world.send(&clients[1], 0, &NOT_STUN), [0usize; 0]);
    assert_eq!(world.steering.paths(), 1);
}

#[test]
fn sockets_kept_open_elsewhere_keep_their_slots() {
    let Some(mut world) = world() else { return };
    let client = world.client(0);
    world.steering.table(1).up(&path(0, &client));
    let kept = world.sockets[0][1].try_clone().unwrap();
    drop(world.sockets[0].remove(1));
    world.sockets[0].insert(1, kept);
    assert_eq!(world.send(&client, 0, &NOT_STUN), [1]);
}

/// The verifier of the kernel stops with EAGAIN at a signal, which is no reason not to start.
#[test]
fn signals_do_not_end_the_loading_of_the_program() {
    extern "C" fn caught(_: libc::c_int) {}
    if world().is_none() {
        return;
    }
    let done = AtomicBool::new(false);
    // SAFETY: gettid(2) takes nothing; the handler does nothing, and no other test here uses this signal.
    let loader = unsafe {
        libc::signal(libc::SIGUSR1, caught as *const () as libc::sighandler_t);
        libc::syscall(libc::SYS_gettid)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // SAFETY: the thread `loader` is alive, for it waits for this one; the signal has a handler.
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), loader, libc::SIGUSR1) };
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let refused = (0..50).filter_map(|_| attach().err()).next();
        done.store(true, Ordering::Relaxed);
        assert!(refused.is_none(), "{refused:?}");
    });
}

/// Runs `task` on a thread of its own, which has no capabilities but `keep`.
fn with_capabilities<T: Send>(keep: u64, task: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let header: [u32; 2] = [0x2008_0522, 0]; // _LINUX_CAPABILITY_VERSION_3, this thread
            let (low, high) = (keep as u32, (keep >> 32) as u32);
            let data: [u32; 6] = [low, low, 0, high, high, 0];
            // SAFETY: header and data have the kernel's layout for version 3; only this thread is changed.
            let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            task()
        });
        thread.join().unwrap()
    })
}

#[test]
fn cap_bpf_alone_is_enough_and_without_it_the_error_names_the_cure() {
    if world().is_none() {
        return;
    }
    assert!(with_capabilities(CAP_BPF, attach).is_ok());
    let refused = with_capabilities(0, || attach().err().unwrap());
    assert!(matches!(refused, SteeringError::NotPermitted), "{refused}");
    assert!(refused.to_string().contains("CAP_BPF"));
}

#[test]
fn another_user_is_refused() {
    let refused = std::thread::spawn(|| {
        let nobody = 65_534;
        // SAFETY: the raw call changes this thread alone; where it fails we are some other user already.
        unsafe { libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody) };
        attach().err()
    });
    let refused = refused.join().unwrap();
    assert!(matches!(refused, Some(SteeringError::NotPermitted)), "{refused:?}");
}

/// Past the test harness, which keeps the output of tests that pass to itself.
fn skipped(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}
