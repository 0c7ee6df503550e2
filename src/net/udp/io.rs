//! The choice of the shards' backend: the setting and what the machine allows.

use std::fmt;
use std::io;
use std::str::FromStr;

use socket2::Socket;

use crate::base::buffer::{Batch, Run, Transmit};
use crate::base::time::Instant;
use crate::net::doorbell::Doorbell;
use crate::net::udp::backend::{Backend, UdpCounters};
use crate::net::udp::plain::PlainBackend;
use crate::net::udp::ring::{self, RingBackend};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IoMode {
    /// The backend that measures best: see docs/decisions/0010.
    #[default]
    Auto,
    /// The ring, where the machine has it.
    Ring,
    Plain,
}

impl IoMode {
    pub const ALL: [IoMode; 3] = [IoMode::Auto, IoMode::Ring, IoMode::Plain];

    pub const fn name(self) -> &'static str {
        match self {
            IoMode::Auto => "auto",
            IoMode::Ring => "ring",
            IoMode::Plain => "plain",
        }
    }

    pub const fn wants_ring(self) -> bool {
        match self {
            IoMode::Ring => true,
            IoMode::Auto | IoMode::Plain => false,
        }
    }
}

impl FromStr for IoMode {
    type Err = String;

    fn from_str(text: &str) -> Result<IoMode, String> {
        let known = IoMode::ALL.into_iter().find(|mode| mode.name() == text);
        known.ok_or_else(|| format!("{text:?} is no way to read and write sockets: ring, plain or auto"))
    }
}

/// The result of the choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoInUse {
    Ring,
    Plain,
}

impl fmt::Display for IoInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IoInUse::Ring => "ring: io_uring to send and wait, recvmmsg",
            IoInUse::Plain => "plain: recvmmsg and sendmmsg",
        })
    }
}

/// The backend that the shards try. A refusal is only noted here: the machine's check reports it, with its cure.
pub(in crate::net) fn choose(mode: IoMode) -> IoInUse {
    if !mode.wants_ring() {
        return IoInUse::Plain;
    }
    match ring::probe() {
        Ok(()) => IoInUse::Ring,
        Err(error) => {
            tracing::debug!(%error, "the ring is refused");
            IoInUse::Plain
        }
    }
}

pub(in crate::net) enum AnyBackend {
    Plain(Box<PlainBackend>),
    Ring(Box<RingBackend>),
}

impl AnyBackend {
    /// To be made on the thread that will use it.
    pub(in crate::net) fn open(
        io: IoInUse,
        sockets: Vec<Socket>,
        quiet: Vec<Socket>,
        bell: &Doorbell,
        run_datagrams_max: usize,
    ) -> io::Result<AnyBackend> {
        let plain = |sockets, quiet| {
            let backend = PlainBackend::new(sockets, quiet, bell.clone(), run_datagrams_max)?;
            Ok(AnyBackend::Plain(Box::new(backend)))
        };
        if io == IoInUse::Plain {
            return plain(sockets, quiet);
        }
        match RingBackend::new(sockets, quiet, bell.clone(), run_datagrams_max) {
            Ok(backend) => Ok(AnyBackend::Ring(Box::new(backend))),
            // The probe had one: this shard is one too many.
            Err((error, sockets, quiet)) => {
                let cure = ring::cure(&error);
                tracing::warn!(%error, cure, "a shard has no ring and uses plain system calls");
                plain(sockets, quiet)
            }
        }
    }

    pub(in crate::net) fn in_use(&self) -> IoInUse {
        match self {
            AnyBackend::Plain(_) => IoInUse::Plain,
            AnyBackend::Ring(_) => IoInUse::Ring,
        }
    }
}

impl Transmit for AnyBackend {
    fn transmit(&mut self, buffer: &[u8], runs: &[Run]) {
        match self {
            AnyBackend::Plain(backend) => backend.transmit(buffer, runs),
            AnyBackend::Ring(backend) => backend.transmit(buffer, runs),
        }
    }
}

impl Backend for AnyBackend {
    fn receive(&mut self, batch: &mut Batch) -> usize {
        match self {
            AnyBackend::Plain(backend) => backend.receive(batch),
            AnyBackend::Ring(backend) => backend.receive(batch),
        }
    }

    fn wait(&mut self, deadline: Option<Instant>) {
        match self {
            AnyBackend::Plain(backend) => backend.wait(deadline),
            AnyBackend::Ring(backend) => backend.wait(deadline),
        }
    }

    fn pause(&mut self, until: Instant, deadline: Option<Instant>) {
        match self {
            AnyBackend::Plain(backend) => backend.pause(until, deadline),
            AnyBackend::Ring(backend) => backend.pause(until, deadline),
        }
    }

    fn counters(&self) -> &UdpCounters {
        match self {
            AnyBackend::Plain(backend) => backend.counters(),
            AnyBackend::Ring(backend) => backend.counters(),
        }
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        match self {
            AnyBackend::Plain(backend) => backend.drops(),
            AnyBackend::Ring(backend) => backend.drops(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in IoMode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        assert!("epoll".parse::<IoMode>().unwrap_err().contains("ring, plain or auto"));
    }
}
