//! The binary as a process of its own, on ports that were free a moment ago.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A running server, ended with the test.
pub struct ServerProcess {
    pub child: Child,
    pub address: SocketAddr,
}

impl ServerProcess {
    pub fn start() -> ServerProcess {
        ServerProcess::start_with(&[])
    }

    pub fn start_with(args: &[&str]) -> ServerProcess {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let media = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_weirgate"))
            .args(["--listen", &address.to_string(), "--rtc-listen", &media.to_string(), "--log", "warn"])
            .args(if args.contains(&"--admin-listen") { &[][..] } else { &["--admin-listen", "off"] })
            .args(args)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = ServerProcess { child, address };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "the server does not listen");
            sleep(Duration::from_millis(20));
        }
        server
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It may have ended by itself, which a test has noticed then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
