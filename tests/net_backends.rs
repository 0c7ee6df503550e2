//! The backends on real sockets, each held to the same rules. A test that needs an MTU or ICMP of its own runs in a
//! network namespace and says that it was skipped where none may be made.
#![cfg(feature = "edge")]
#![expect(unsafe_code, reason = "unshare(2), interface ioctls and raw ICMP sockets")]

mod heard;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use heard::heard;
use socket2::{Domain, Protocol, Socket, Type};
use weirgate::base::buffer::{Batch, ConnectionId, DATAGRAM_MAX, Leg, LocalIndex, Path, Run, Transmit};
use weirgate::base::time::{Duration, Instant};
use weirgate::net::clock::Clock;
use weirgate::net::doorbell::Doorbell;
use weirgate::net::udp::backend::Backend;
use weirgate::net::udp::plain::PlainBackend;
use weirgate::net::udp::ring::RingBackend;
use weirgate::net::udp::socket::{Sharing, bind, int_option, local_address, run_datagrams_max, set_option};

/// Where io_uring is forbidden, `make` has nothing to test.
trait Made: Backend + Sized {
    /// The bell ends a pause. A ring's least wait ends by time alone.
    const BELL_ENDS_PAUSES: bool;
    /// What the kernel refused at first leaves before what was to follow it. A ring has sent that by then.
    const KEEPS_REFUSED_IN_ORDER: bool;

    fn make(sockets: Vec<Socket>, quiet: Vec<Socket>, bell: Doorbell, run_max: usize) -> Option<Self>;
}

impl Made for PlainBackend {
    const BELL_ENDS_PAUSES: bool = true;
    const KEEPS_REFUSED_IN_ORDER: bool = true;

    fn make(sockets: Vec<Socket>, quiet: Vec<Socket>, bell: Doorbell, run_max: usize) -> Option<PlainBackend> {
        Some(PlainBackend::new(sockets, quiet, bell, run_max).unwrap())
    }
}

impl Made for RingBackend {
    const BELL_ENDS_PAUSES: bool = false;
    const KEEPS_REFUSED_IN_ORDER: bool = false;

    fn make(sockets: Vec<Socket>, quiet: Vec<Socket>, bell: Doorbell, run_max: usize) -> Option<RingBackend> {
        let made = RingBackend::new(sockets, quiet, bell, run_max);
        made.inspect_err(|(why, ..)| skipped(&format!("the ring: {why}"))).ok()
    }
}

/// Each function as a test of each backend.
macro_rules! of_each_backend {
    ($($test:ident)*) => {
        mod plain {
            $(#[test] fn $test() { super::$test::<super::PlainBackend>(); })*
        }
        mod ring {
            $(#[test] fn $test() { super::$test::<super::RingBackend>(); })*
        }
    };
}

of_each_backend! {
    runs_arrive_whole_and_in_order_on_both_families
    more_runs_than_one_system_call_takes_keep_their_order
    batches_are_filled_up_to_their_room_and_the_rest_waits
    a_datagram_came_when_the_kernel_got_it_not_when_it_is_taken
    datagrams_longer_than_a_buffer_are_dropped_and_their_neighbours_kept
    what_the_kernel_joined_is_taken_apart_over_several_batches
    a_wait_ends_by_the_bell_by_a_datagram_and_by_its_deadline
    a_pause_is_not_cut_short_by_a_bell_that_rang_before
    what_cannot_be_sent_is_dropped_by_reason_and_the_rest_goes_out
    a_destination_that_refuses_runs_gets_single_datagrams_from_then_on
    icmp_does_not_shrink_the_path_mtu
    quiet_sockets_wake_a_calm_shard_and_wait_for_a_busy_one
}

struct Bench<B> {
    backend: B,
    addresses: Vec<SocketAddr>,
    bell: Doorbell,
}

fn bench<B: Made>(listen: &[&str], run_max: usize) -> Option<Bench<B>> {
    let sockets: Vec<_> = listen.iter().map(|a| bind(a.parse().unwrap(), Sharing::Alone).unwrap()).collect();
    let addresses = sockets.iter().map(|socket| local_address(socket).unwrap()).collect();
    let bell = Doorbell::new().unwrap();
    Some(Bench { backend: B::make(sockets, Vec::new(), bell.clone(), run_max)?, addresses, bell })
}

fn client(near: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind((near.ip(), 0)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket2::SockRef::from(&client).set_recv_buffer_size(4 << 20).unwrap();
    client
}

fn path(local: u8, client: &UdpSocket) -> Path {
    Path::udp(LocalIndex(local), client.local_addr().unwrap())
}

fn next(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 65_536];
    let len = heard(client, &mut buffer).expect("a datagram within five seconds");
    buffer[..len].to_vec()
}

fn nothing_more(client: &UdpSocket) {
    client.set_nonblocking(true).unwrap();
    assert_eq!(heard(client, &mut [0; 9]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    client.set_nonblocking(false).unwrap();
}

/// The last runs may leave only when the backend waits.
fn transmit(backend: &mut impl Backend, buffer: &[u8], runs: &[Run]) {
    backend.transmit(buffer, runs);
    backend.wait(Some(Instant::ZERO));
}

/// Waits for a datagram, and receives all that came.
fn receive(bench: &mut Bench<impl Backend>, batch: &mut Batch) -> usize {
    bench.backend.wait(Some(Clock::process().mono() + Duration::from_secs(5)));
    let mut received = 0;
    loop {
        let more = bench.backend.receive(batch);
        received += more;
        if more == 0 {
            return received;
        }
        bench.backend.wait(Some(Instant::ZERO));
    }
}

fn drops(bench: &Bench<impl Backend>, reason: &str) -> u64 {
    bench.backend.drops().iter().find(|(name, _)| *name == reason).unwrap().1
}

/// Bytes that show a datagram out of place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

fn runs_arrive_whole_and_in_order_on_both_families<B: Made>() {
    for run_max in [run_datagrams_max(), 3, 1] {
        let Some(mut bench) = bench::<B>(&["127.0.0.1:0", "[::1]:0"], run_max) else { return };
        let clients = [client(bench.addresses[0]), client(bench.addresses[1])];
        let buffer = pattern(60_000);
        let run = |local: u8, start, len, segment| Run {
            path: path(local, &clients[usize::from(local)]),
            start,
            len,
            segment,
            oldest: None,
        };
        let runs = [
            run(0, 0, 100, 100),
            run(0, 100, 9 * 1_200 + 7, 1_200), // the last one shorter
            run(1, 20_000, 16 * 1_000, 1_000),
            run(0, 11_000, 50, 1_200), // shorter than its segment
            run(0, 12_000, 4, 1),
            run(1, 40_000, 1_001, 1_000),
        ];
        transmit(&mut bench.backend, &buffer, &runs);
        for (local, client) in clients.iter().enumerate() {
            for run in runs.iter().filter(|run| usize::from(run.path.leg.local().0) == local) {
                for expected in run.datagrams(&buffer) {
                    assert_eq!(next(client), expected);
                }
            }
            nothing_more(client);
        }
        let counters = bench.backend.counters();
        assert_eq!(counters.datagrams_sent, 1 + 10 + 16 + 1 + 4 + 2);
        assert_eq!(counters.bytes_sent, runs.iter().map(|run| u64::from(run.len)).sum::<u64>());
        match run_max {
            1 => assert_eq!(counters.runs_sent, 0),
            3 => assert_eq!((counters.runs_sent, counters.run_datagrams_sent), (3 + 5 + 1 + 1, 9 + 15 + 3 + 2)),
            _ => assert_eq!((counters.runs_sent, counters.run_datagrams_sent), (4, 32)),
        }
    }
}

fn more_runs_than_one_system_call_takes_keep_their_order<B: Made>() {
    let Some(mut bench) = bench::<B>(&["127.0.0.1:0"], run_datagrams_max()) else { return };
    let client = client(bench.addresses[0]);
    let buffer = pattern(4_000);
    let runs: Vec<_> = (0..80)
        .map(|n| Run { path: path(0, &client), start: n, len: 10 + n % 20, segment: 10, oldest: None })
        .collect();
    transmit(&mut bench.backend, &buffer, &runs);
    for run in &runs {
        for expected in run.datagrams(&buffer) {
            assert_eq!(next(&client), expected);
        }
    }
    nothing_more(&client);
}

fn batches_are_filled_up_to_their_room_and_the_rest_waits<B: Made>() {
    let Some(mut bench) = bench::<B>(&["127.0.0.1:0", "[::1]:0"], 1) else { return };
    let clients = [client(bench.addresses[0]), client(bench.addresses[1])];
    for n in 0..100u8 {
        for (client, address) in clients.iter().zip(&bench.addresses) {
            client.send_to(&[n; 200], address).unwrap();
        }
    }
    let mut batch = Batch::new(70);
    let mut seen = [0u8; 2];
    for _ in 0..3 {
        batch.clear();
        receive(&mut bench, &mut batch);
        for slot in batch.slots_mut() {
            let local = usize::from(slot.path.leg.local().0);
            assert_eq!(slot.path, path(local as u8, &clients[local]));
            assert_eq!(slot.bytes(), [seen[local]; 200]);
            seen[local] += 1;
        }
    }
    assert_eq!(seen, [100, 100]);
    assert_eq!(bench.backend.counters().datagrams_received, 200);
    assert_eq!(bench.backend.counters().bytes_received, 40_000);
}

/// The machine may stand still between the readings of two clocks: not three times in a row.
fn a_datagram_came_when_the_kernel_got_it_not_when_it_is_taken<B: Made>() {
    let Some(mut bench) = bench::<B>(&["127.0.0.1:0", "[::1]:0"], 1) else { return };
    let clients = [client(bench.addresses[0]), client(bench.addresses[1])];
    let clock = Clock::process();
    let mut told_rightly = || {
        let mut sent = Vec::new();
        for n in 0..5 {
            for (client, address) in clients.iter().zip(&bench.addresses) {
                let before = clock.mono();
                client.send_to(&[n], address).unwrap();
                sent.push((before, clock.mono()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut batch = Batch::new(20);
        receive(&mut bench, &mut batch);
        assert_eq!(batch.len(), 10);
        batch.slots_mut().iter().all(|slot| {
            let (before, after) = sent[usize::from(slot.bytes()[0]) * 2 + usize::from(slot.path.leg.local().0)];
            // The wall clock is read apart from the other.
            let slack = Duration::from_millis(5);
            (before - slack..=after + slack).contains(&slot.arrived)
        })
    };
    assert!((0..3).any(|_| told_rightly()));
}

fn datagrams_longer_than_a_buffer_are_dropped_and_their_neighbours_kept<B: Made>() {
    let Some(mut bench) = bench::<B>(&["127.0.0.1:0"], 1) else { return };
    let client = client(bench.addresses[0]);
    for len in [10, DATAGRAM_MAX + 1, 20, DATAGRAM_MAX, 30_000, 0, 30] {
        client.send_to(&pattern(len), bench.addresses[0]).unwrap();
    }
    let mut batch = Batch::new(16);
    assert_eq!(receive(&mut bench, &mut batch), 5);
    for (slot, len) in batch.slots_mut().iter().zip([10, 20, DATAGRAM_MAX, 0, 30]) {
        assert_eq!(slot.bytes(), pattern(len));
    }
    assert_eq!(drops(&bench, "receive_too_long"), 2);
}

fn what_the_kernel_joined_is_taken_apart_over_several_batches<B: Made>() {
    let Some(mut bench) = bench::<B>(&["127.0.0.1:0"], 1) else { return };
    let from = bind("127.0.0.1:0".parse().unwrap(), Sharing::Alone).unwrap();
    let sender = local_address(&from).unwrap();
    let mut backend = PlainBackend::new(vec![from], Vec::new(), Doorbell::new().unwrap(), run_datagrams_max()).unwrap();
    let buffer = pattern(60_000);
    let path = Path::udp(LocalIndex(0), bench.addresses[0]);
    let run = |start, len, segment| Run { path, start, len, segment, oldest: None };
    let runs = [run(0, 50_001, 1_000), run(7, 30, 30), run(9, 20_000, 1_100), run(3, 6_000, DATAGRAM_MAX as u16 + 1)];
    transmit(&mut backend, &buffer, &runs);
    let mut expected = runs[..3].iter().flat_map(|run| run.datagrams(&buffer));
    let mut batch = Batch::new(13);
    for wanted in [13, 13, 13, 13, 13, 7] {
        batch.clear();
        assert_eq!(receive(&mut bench, &mut batch), wanted);
        for slot in batch.slots_mut().iter().take(if wanted == 7 { 6 } else { 13 }) {
            assert_eq!((slot.path.remote, slot.bytes()), (sender, expected.next().unwrap()));
        }
    }
    assert_eq!(expected.next(), None);
    assert_eq!(drops(&bench, "receive_too_long"), 2, "the third of the last run is short enough");
}

fn a_wait_ends_by_the_bell_by_a_datagram_and_by_its_deadline<B: Made>() {
    let Some(mut bench) = bench::<B>(&["127.0.0.1:0"], 1) else { return };
    let clock = Clock::process();
    let mut batch = Batch::new(4);
    bench.bell.force();
    bench.backend.wait(None);
    assert_eq!(bench.backend.receive(&mut batch), 0);
    client(bench.addresses[0]).send_to(b"x", bench.addresses[0]).unwrap();
    bench.backend.wait(None);
    assert_eq!(bench.backend.receive(&mut batch), 1);
    let deadline = clock.mono() + Duration::from_millis(5);
    bench.backend.wait(Some(deadline));
    assert!(clock.mono() >= deadline, "the bell was cleared and the socket is empty");
}

fn a_pause_is_not_cut_short_by_a_bell_that_rang_before<B: Made>() {
    let Some(mut bench) = bench::<B>(&["127.0.0.1:0"], 64) else { return };
    let clock = Clock::process();
    bench.bell.force();
    bench.backend.wait(Some(clock.mono() + Duration::from_secs(5)));
    receive(&mut bench, &mut Batch::new(8));
    // One pause may still end by that ring, and by one of its own.
    bench.backend.pause(clock.mono() + Duration::from_millis(20), Some(clock.mono()));
    if B::BELL_ENDS_PAUSES {
        bench.bell.force();
        let start = clock.mono();
        bench.backend.pause(start + Duration::from_secs(60), Some(start));
        assert!(clock.mono().since(start) < Duration::from_secs(60), "the bell ends a pause");
    }
    let start = clock.mono();
    bench.backend.pause(start + Duration::from_millis(20), Some(start));
    assert!(clock.mono().since(start) >= Duration::from_millis(20), "but only one");
}

fn what_cannot_be_sent_is_dropped_by_reason_and_the_rest_goes_out<B: Made>() {
    let Some(mut bench) = bench::<B>(&["127.0.0.1:0"], run_datagrams_max()) else { return };
    let client = client(bench.addresses[0]);
    let buffer = pattern(70_000);
    let good = path(0, &client);
    let wrong_family = Path { remote: "[::1]:9".parse().unwrap(), ..good };
    let no_socket = Path::udp(LocalIndex(7), good.remote);
    let connection = Path { leg: Leg::Tcp(LocalIndex(0), ConnectionId(1)), ..good };
    let run = |path, len| Run { path, start: 0, len, segment: 1_000, oldest: None };
    let too_long = Run { path: good, start: 0, len: 65_535, segment: 65_535, oldest: None };
    let runs =
        [run(good, 10), run(wrong_family, 20), too_long, run(no_socket, 2_000), run(connection, 10), run(good, 30)];
    transmit(&mut bench.backend, &buffer, &runs);
    assert_eq!(next(&client), buffer[..10]);
    assert_eq!(next(&client), buffer[..30]);
    nothing_more(&client);
    assert_eq!(drops(&bench, "send_refused"), 1 + 2 + 1);
    assert_eq!(drops(&bench, "send_too_long"), 1);
    assert_eq!(bench.backend.counters().datagrams_sent, 2);
}

/// Runs `test` in a network namespace of its own, on a thread of its own, with the loopback interface at `mtu`.
fn in_namespace(mtu: i32, test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: changes only which network this thread sees.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
                skipped("no network namespace may be made here (needs root)");
                return;
            }
            set_up_loopback(mtu);
            test();
        });
        thread.join().unwrap();
    });
}

fn set_up_loopback(mtu: i32) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: all bits zero are a valid ifreq; the union's fields are written before the kernel reads them.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[..2].copy_from_slice(&[b'l' as _, b'o' as _]);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        request.ifr_ifru.ifru_mtu = mtu;
        assert_eq!(libc::ioctl(fd, libc::SIOCSIFMTU, &raw mut request), 0);
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        assert_eq!(libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw mut request), 0);
    }
}

fn a_destination_that_refuses_runs_gets_single_datagrams_from_then_on<B: Made>() {
    if run_datagrams_max() == 1 {
        skipped("this kernel has no UDP GSO");
        return;
    }
    in_namespace(1_500, || {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let Some(mut bench) = bench::<B>(&[listen], run_datagrams_max()) else { return };
            let clients = [client(bench.addresses[0]), client(bench.addresses[0])];
            let buffer = pattern(20_000);
            // The kernel refuses a run whose segment exceeds the MTU, but fragments single datagrams.
            let run =
                |to: usize, start, len, segment| Run { path: path(0, &clients[to]), start, len, segment, oldest: None };
            let runs = [
                run(0, 0, 5_500, 1_800),
                run(1, 0, 4_000, 1_000),
                run(0, 6_000, 900, 300),
                run(0, 7_000, 4_000, 2_000),
            ];
            transmit(&mut bench.backend, &buffer, &runs);
            for (to, client) in clients.iter().enumerate() {
                let runs = runs.iter().filter(|run| run.path == path(0, &clients[to]));
                let mut expected: Vec<_> = runs.flat_map(|run| run.datagrams(&buffer)).collect();
                let mut got: Vec<_> = expected.iter().map(|_| next(client)).collect();
                if !B::KEEPS_REFUSED_IN_ORDER {
                    expected.sort();
                    got.sort();
                }
                assert!(got == expected, "each once");
                nothing_more(client);
            }
            let counters = *bench.backend.counters();
            assert_eq!(counters.gso_fallbacks, 1);
            transmit(&mut bench.backend, &buffer, &runs[2..3]);
            assert_eq!(bench.backend.counters().runs_sent, counters.runs_sent, "remembered");
            assert_eq!(bench.backend.counters().gso_fallbacks, 1);
        }
    });
}

/// A forged "packet too big" about a datagram from `from` to `to`, claiming that the path takes 1,280 bytes (IPv4: 600).
fn forge_too_big(from: SocketAddr, to: SocketAddr) {
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let udp = [&ports[..], &[0x03, 0xe8, 0, 0]].concat();
    let (domain, protocol, mut icmp) = match (from.ip(), to.ip()) {
        (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
            let mut quoted = vec![0x45, 0, 0x03, 0xfc, 0, 1, 0x40, 0, 64, 17, 0, 0];
            quoted.extend(from.octets().into_iter().chain(to.octets()));
            let head = vec![3, 4, 0, 0, 0, 0, 0x02, 0x58]; // RFC 1191 section 4
            (Domain::IPV4, Protocol::ICMPV4, [head, quoted, udp].concat())
        }
        (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
            let mut quoted = vec![0x60, 0, 0, 0, 0x03, 0xe8, 17, 64];
            quoted.extend(from.octets().into_iter().chain(to.octets()));
            let head = vec![2, 0, 0, 0, 0, 0, 0x05, 0x00]; // RFC 4443 section 3.2; the kernel fills the checksum
            (Domain::IPV6, Protocol::ICMPV6, [head, quoted, udp].concat())
        }
        _ => unreachable!("both ends have one family"),
    };
    if domain == Domain::IPV4 {
        let sum: u32 = icmp.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        icmp[2..4].copy_from_slice(&(!(folded as u16 + (folded >> 16) as u16)).to_be_bytes());
    }
    let raw = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    raw.send_to(&icmp, &SocketAddr::new(from.ip(), 0).into()).unwrap();
}

fn icmp_does_not_shrink_the_path_mtu<B: Made>() {
    in_namespace(1_500, || {
        for loopback in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
            let client = client(loopback);
            let to = client.local_addr().unwrap();
            let path_mtu = |from: &Socket| {
                let probe = from.try_clone().unwrap();
                probe.connect(&to.into()).unwrap();
                let (level, name) =
                    if to.is_ipv4() { (libc::IPPROTO_IP, libc::IP_MTU) } else { (libc::IPPROTO_IPV6, libc::IPV6_MTU) };
                int_option(&probe, level, name).unwrap()
            };
            let ours = bind(loopback, Sharing::Alone).unwrap();
            forge_too_big(local_address(&ours).unwrap(), to);
            assert_eq!(path_mtu(&bind_trusting(loopback)), 1_500, "the forgery against our socket is ignored");

            // The same against a socket with the kernel's default shows that the forgery is a good one.
            let trusting = bind_trusting(loopback);
            forge_too_big(local_address(&trusting).unwrap(), to);
            assert!(path_mtu(&trusting) < 1_500, "believed");

            // What others made the kernel believe of this destination does not bind us.
            if run_datagrams_max() > 1 {
                let sockets = vec![ours];
                let Some(mut backend) = B::make(sockets, Vec::new(), Doorbell::new().unwrap(), run_datagrams_max())
                else {
                    return;
                };
                let buffer = pattern(4_200);
                let run = Run { path: path(0, &client), start: 0, len: 4_200, segment: 1_400, oldest: None };
                transmit(&mut backend, &buffer, &[run]);
                for expected in run.datagrams(&buffer) {
                    assert_eq!(next(&client), expected);
                }
                assert_eq!((backend.counters().runs_sent, backend.counters().gso_fallbacks), (1, 0));
            }
        }
    });
}

fn bind_trusting(loopback: SocketAddr) -> Socket {
    let socket = bind(loopback, Sharing::Alone).unwrap();
    if loopback.is_ipv4() {
        set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &libc::IP_PMTUDISC_WANT).unwrap();
    } else {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &libc::IPV6_PMTUDISC_WANT).unwrap();
    }
    socket
}

/// A small flush of a ring leaves with the wait, a large one at once; either way each datagram leaves once and in order.
#[test]
fn a_small_flush_of_a_ring_leaves_with_the_wait() {
    let Some(mut bench) = bench::<RingBackend>(&["127.0.0.1:0"], run_datagrams_max()) else { return };
    let client = client(bench.addresses[0]);
    let buffer = pattern(60_000);
    let run = |start, len, segment| Run { path: path(0, &client), start, len, segment, oldest: None };
    bench.backend.transmit(&buffer, &[run(0, 2_000, 1_000), run(5_000, 10, 10)]);
    nothing_more(&client);
    bench.backend.wait(Some(Instant::ZERO));
    assert_eq!(
        [next(&client), next(&client), next(&client)],
        [&buffer[..1_000], &buffer[1_000..2_000], &buffer[5_000..5_010]]
    );
    bench.backend.transmit(&buffer, &[run(0, 50_000, 1_000)]);
    (0..50).for_each(|n| assert_eq!(next(&client), &buffer[n * 1_000..][..1_000]));
    // What is staged leaves before what comes behind it, and not only with the wait.
    bench.backend.transmit(&buffer, &[run(7, 20, 20)]);
    bench.backend.transmit(&buffer, &[run(9, 30, 30)]);
    assert_eq!(next(&client), &buffer[7..27]);
    nothing_more(&client);
    // The backend takes nothing with it, and leaves nothing behind.
    let address = bench.addresses[0];
    drop(bench);
    assert_eq!(next(&client), &buffer[9..39]);
    let free = || bind(address, Sharing::Alone).is_ok();
    assert!(
        (0..200).any(|_| free() || {
            std::thread::sleep(Duration::from_millis(10));
            false
        }),
        "the port is free again"
    );
}

/// Past the test harness, which keeps the output of tests that pass to itself.
fn skipped(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

fn quiet_sockets_wake_a_calm_shard_and_wait_for_a_busy_one<B: Made>() {
    let sockets = ["127.0.0.1:0", "127.0.0.1:0"].map(|a| bind(a.parse().unwrap(), Sharing::Alone).unwrap());
    let addresses = [local_address(&sockets[0]).unwrap(), local_address(&sockets[1]).unwrap()];
    let [first, quiet] = sockets;
    let Some(mut backend) = B::make(vec![first], vec![quiet], Doorbell::new().unwrap(), 1) else { return };
    let client = client(addresses[0]);
    let clock = Clock::process();
    let mut batch = Batch::new(8);
    let mut take = |backend: &mut B, within: Duration| {
        batch.clear();
        let until = clock.mono() + within;
        // A wait may end early for no reason.
        while batch.is_empty() && clock.mono() < until {
            backend.wait(Some(until));
            backend.receive(&mut batch);
        }
        batch.slots_mut().iter().map(|slot| slot.bytes().to_vec()).collect::<Vec<_>>()
    };
    let long = Duration::from_secs(5);
    for _ in 0..3 {
        client.send_to(b"calm", addresses[1]).unwrap();
        assert_eq!(take(&mut backend, long), [b"calm"]);
    }
    client.send_to(b"media", addresses[0]).unwrap();
    assert_eq!(take(&mut backend, long), [b"media"]);
    // Along with media.
    client.send_to(b"word", addresses[1]).unwrap();
    client.send_to(b"media", addresses[0]).unwrap();
    assert_eq!(take(&mut backend, long), [&b"media"[..], b"word"]);
    // Alone: not at once, but without any media too.
    let before = clock.mono();
    client.send_to(b"word", addresses[1]).unwrap();
    while take(&mut backend, long).is_empty() {}
    assert!(clock.mono().since(before) < long, "its own deadline ended the wait");
    // Nor do batches full of media keep it out.
    client.send_to(b"word", addresses[1]).unwrap();
    let mut heard = false;
    for _ in 0..1_000 {
        (0..8).for_each(|_| assert!(client.send_to(b"media", addresses[0]).is_ok()));
        heard |= take(&mut backend, long).contains(&b"word".to_vec());
        std::thread::sleep(Duration::from_micros(100));
        if heard {
            break;
        }
    }
    assert!(heard, "8 of media for each batch of 8");
}
