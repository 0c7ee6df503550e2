//! Sockets that a service manager opens: the program serves on them, and on no others.
#![expect(unsafe_code, reason = "a child gets descriptors between fork and exec")]

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use weirgate::base::units::Bitrate;
use weirgate::net::udp::socket::{self, Sharing};
use weirgate::wire::codec::Codec;

use crate::support::{NOBODY, Server, frames_more, is_root, one_core, program, runnable_by_all, sink, skipped};

/// Where a service manager's descriptors begin.
const FIRST: RawFd = 3;
/// A descriptor above all that a test process has open.
const ASIDE: RawFd = 10_000;

struct Sockets {
    names: Vec<&'static str>,
    fds: Vec<OwnedFd>,
}

impl Sockets {
    fn new() -> Sockets {
        Sockets { names: Vec::new(), fds: Vec::new() }
    }

    fn add(&mut self, name: &'static str, fd: impl Into<OwnedFd>) {
        self.names.push(name);
        self.fds.push(fd.into());
    }

    fn listener(&mut self, name: &'static str, port: u16) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let address = listener.local_addr().unwrap();
        self.add(name, listener);
        address
    }

    /// One for each shard.
    fn media(&mut self, shards: usize) -> SocketAddr {
        let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
        for _ in 0..shards {
            let socket = socket::bind(address, Sharing::Group).unwrap();
            address = socket::local_address(&socket).unwrap();
            self.add("udp", socket);
        }
        address
    }

    /// The program as a service manager starts it. The shell has the process id, and becomes the program.
    fn command(&self, program: Command) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(program.get_program());
        command.env("LISTEN_FDS", self.fds.len().to_string()).env("LISTEN_FDNAMES", self.names.join(":"));
        let fds: Vec<RawFd> = self.fds.iter().map(AsRawFd::as_raw_fd).collect();
        // SAFETY: fcntl and dup2 may be called between fork and exec, and nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                let failed = |result: i32| if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) };
                // First out of the way, because some may be where others belong.
                for (at, fd) in (0..).zip(&fds) {
                    failed(libc::dup3(*fd, ASIDE + at, libc::O_CLOEXEC))?;
                }
                (0..fds.len() as RawFd).try_for_each(|at| failed(libc::dup2(ASIDE + at, FIRST + at)))
            });
        }
        command
    }
}

/// Somebody speaks and is heard.
fn a_call_goes_through(server: &Server) {
    let (mut anna, mut berta) = (server.join("anna"), server.join("berta"));
    let voice = anna.produce_audio().unwrap();
    let heard = berta.consume(Some(&voice.id)).unwrap();
    frames_more(&berta, &heard, 50);
    assert_eq!(sink(&berta, &heard).lost, 0);
}

/// Starts the program with these sockets. None: this machine has too few cpus.
fn started(sockets: &Sockets, args: &[&str]) -> Option<Server> {
    match Server::spawn(|| sockets.command(program()), args) {
        Ok(server) => Some(server),
        Err(said) if one_core(&said) => None,
        Err(said) => panic!("{said}"),
    }
}

#[test]
fn two_shards_serve_on_inherited_sockets_and_on_no_others() {
    for steering in ["auto", "handover"] {
        let mut sockets = Sockets::new();
        // The order is another than that of their use.
        let media = sockets.media(2);
        let admin = sockets.listener("admin", 0);
        let http = sockets.listener("http", 0);
        let args = ["--cores", "2", "--steering", steering];
        let Some(server) = started(&sockets, &args) else { return };
        assert_eq!((server.address, server.admin), (http, admin));
        let told = server.banner.matches(&format!("media on UDP {media}")).count();
        assert_eq!(told, 2, "{}", server.banner);
        a_call_goes_through(&server);
        server.stop();
    }
}

#[test]
fn a_port_each_is_inherited_in_the_order_of_the_shards() {
    let mut sockets = Sockets::new();
    let media = [sockets.media(1), sockets.media(1)];
    let args = ["--cores", "2", "--steering", "port-per-core", "--spread", "always"];
    let Some(server) = started(&sockets, &args) else { return };
    let place = media.map(|address| server.banner.find(&format!("media on UDP {address}")).expect("it is told"));
    assert!(place[0] < place[1], "{}", server.banner);
    a_call_goes_through(&server);
    server.stop();
}

/// The sockets are root's, the port is below 1024, and the program is nobody's: it can bind nothing beside them.
#[test]
fn who_may_bind_no_low_port_serves_on_inherited_ones() {
    if !is_root() {
        return skipped("only root opens sockets for others");
    }
    let mut sockets = Sockets::new();
    sockets.media(1);
    let free = (600..1_024).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("one is free");
    let http = sockets.listener("http", free);
    let program = runnable_by_all("inherited");
    let as_nobody = || {
        let mut command = sockets.command(Command::new(&program.path));
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        command
    };
    let server = Server::spawn(as_nobody, &["--cores", "1"]).unwrap_or_else(|said| panic!("{said}"));
    assert_eq!(server.address, http);
    a_call_goes_through(&server);
    server.stop();
}

/// Without the right to bind beside another user's sockets there is no sink for the kernel's steering, and there are no
/// quiet sockets.
#[test]
fn shards_hand_over_what_comes_to_sockets_of_another_user() {
    if !is_root() {
        return skipped("only root opens sockets as somebody else");
    }
    let opened = std::thread::spawn(|| {
        // SAFETY: it changes this thread alone, which ends with its sockets made.
        unsafe { libc::setfsuid(NOBODY) };
        let mut sockets = Sockets::new();
        sockets.media(2);
        sockets
    });
    let sockets = opened.join().unwrap();
    let Some(server) = started(&sockets, &["--cores", "2", "--steering", "auto", "--spread", "always"]) else { return };
    assert!(server.banner.contains("steering    handover"), "{}", server.banner);
    let (mut anna, mut berta) = (server.join("anna"), server.join("berta"));
    let picture = anna.produce_video(Codec::Vp8, Bitrate::kbps(300)).unwrap();
    let seen = berta.consume(Some(&picture.id)).unwrap();
    frames_more(&berta, &seen, 20);
    // The receiver sends nothing but reports, and is on the other shard.
    server.until("her reports", |metrics| metrics.of_shard("open_transports_received_packets", 1) > 2);
    server.stop();
}

#[test]
fn sockets_that_fit_nothing_are_refused_with_their_cure() {
    let refused = |sockets: &Sockets, cores: &str| {
        Server::spawn(|| sockets.command(program()), &["--cores", cores]).err().expect("it does not start")
    };
    let mut unnamed = Sockets::new();
    unnamed.listener("weirgate.socket", 0);
    let said = refused(&unnamed, "1");
    assert!(said.contains("\"weirgate.socket\"") && said.contains("FileDescriptorName="), "{said}");
    let mut none = Sockets::new();
    none.names.push("http");
    let said = refused(&none, "1");
    assert!(said.contains("LISTEN_FDNAMES"), "{said}");
    let mut few = Sockets::new();
    let media = few.media(1);
    let said = refused(&few, "2");
    if one_core(&said) {
        return;
    }
    assert!(said.contains(&format!("repeat ListenDatagram={media} for each shard")), "{said}");
}
