//! A proxy that cuts connections after a drawn number of bytes.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// Whose bytes are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Client,
    Server,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Manner {
    /// RST to both sides.
    Reset,
    /// FIN to both sides.
    Close,
    /// Nothing passes any more, and nobody is told.
    Hole,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) side: Side,
    pub(crate) bytes: usize,
    pub(crate) manner: Manner,
}

/// One connection's two streams, and whether it is cut.
struct Pair {
    client: TcpStream,
    server: TcpStream,
    cut: AtomicBool,
}

#[derive(Default)]
struct Plan {
    cuts: VecDeque<Cut>,
    open: Vec<Arc<Pair>>,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
}

impl Proxy {
    pub(crate) fn start(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, plan) = (listener.local_addr().unwrap(), Arc::<Mutex<Plan>>::default());
        let shared = plan.clone();
        spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let Ok(server) = TcpStream::connect(server) else { return };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let pair = Arc::new(Pair { client, server, cut: AtomicBool::new(false) });
                let mut plan = shared.lock().unwrap();
                let cut = plan.cuts.pop_front();
                plan.open.push(pair.clone());
                for side in [Side::Client, Side::Server] {
                    let (pair, cut) = (pair.clone(), cut.filter(|cut| cut.side == side));
                    spawn(move || pump(&pair, side, cut));
                }
            }
        });
        Proxy { address, plan }
    }

    /// The connection that is open is cut at once, and each that follows as the next of these says.
    pub(crate) fn cut_from_now(&self, cuts: VecDeque<Cut>) {
        let mut plan = self.plan.lock().unwrap();
        plan.cuts = cuts;
        plan.open.drain(..).for_each(|pair| end(&pair, Manner::Reset));
    }

    pub(crate) fn hole_now(&self) {
        self.plan.lock().unwrap().open.iter().for_each(|pair| end(pair, Manner::Hole));
    }
}

fn end(pair: &Pair, manner: Manner) {
    if pair.cut.swap(true, Ordering::SeqCst) {
        return;
    }
    for stream in [&pair.client, &pair.server] {
        if manner == Manner::Reset {
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
        if manner != Manner::Hole {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pump(pair: &Pair, side: Side, cut: Option<Cut>) {
    let (mut from, mut to) = match side {
        Side::Client => (&pair.client, &pair.server),
        Side::Server => (&pair.server, &pair.client),
    };
    let mut left = cut.map_or(usize::MAX, |cut| cut.bytes);
    let mut buffer = [0; 4096];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        if pair.cut.load(Ordering::SeqCst) {
            // A hole stays open until the proxy is forgotten.
            return;
        }
        if read == 0 {
            // Whoever ends its side, ends the connection.
            sleep(Duration::from_millis(1));
            return end(pair, Manner::Close);
        }
        let passes = read.min(left);
        let _ = to.write_all(&buffer[..passes]);
        left -= passes;
        if left == 0 {
            return end(pair, cut.map_or(Manner::Close, |cut| cut.manner));
        }
    }
}
