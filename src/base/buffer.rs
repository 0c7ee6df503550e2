//! A batch of received datagrams: fixed buffers, filled by a backend of `net` (or by the simulation), read and
//! decrypted in place by the shard, then handed back. Nothing here allocates after [`Batch::new`].

use std::net::SocketAddr;

use crate::base::time::Instant;

/// The largest datagram that is taken: the backend drops and counts longer ones.
pub const DATAGRAM_MAX: usize = 2048;

/// The bound address that a datagram came to or leaves from: an index into the list of rtc addresses that every shard
/// shares, in the order of the candidates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LocalIndex(pub u8);

/// A TCP connection of ICE (RFC 6544), accepted by the edge and numbered by it: no other connection gets the number as
/// long as the shard lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u32);

/// The local end of a path, and the protocol that carries datagrams on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Leg {
    /// The UDP socket that is bound there.
    Udp(LocalIndex),
    /// A connection that was accepted there. The edge puts each datagram into a frame (RFC 4571).
    Tcp(LocalIndex, ConnectionId),
}

impl Leg {
    pub const fn local(self) -> LocalIndex {
        match self {
            Leg::Udp(local) | Leg::Tcp(local, _) => local,
        }
    }

    /// As RTCIceProtocol has it (W3C webrtc).
    pub const fn protocol(self) -> &'static str {
        match self {
            Leg::Udp(_) => "udp",
            Leg::Tcp(..) => "tcp",
        }
    }
}

/// The way of datagrams between us and a remote address, as the ICE agent counts pairs: one remote port may talk to two
/// of our addresses, and one pair of addresses may have a UDP leg and a TCP leg.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Path {
    pub leg: Leg,
    pub remote: SocketAddr,
}

impl Path {
    pub const fn udp(local: LocalIndex, remote: SocketAddr) -> Path {
        Path { leg: Leg::Udp(local), remote }
    }
}

pub struct Slot {
    pub path: Path,
    /// The arrival at this machine, which may be before it was read.
    pub arrived: Instant,
    len: usize,
    taken: bool,
    bytes: Box<[u8; DATAGRAM_MAX]>,
}

impl Slot {
    /// True once, for the caller that is about to handle it: after a panic the rest of a batch is handled, but not the
    /// cause again.
    pub fn take(&mut self) -> bool {
        !std::mem::replace(&mut self.taken, true)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

pub struct Batch {
    slots: Vec<Slot>,
    filled: usize,
}

impl Batch {
    pub fn new(capacity: usize) -> Batch {
        let nowhere = Path::udp(LocalIndex(0), SocketAddr::from(([0, 0, 0, 0], 0)));
        let empty =
            || Slot { path: nowhere, arrived: Instant::ZERO, len: 0, taken: false, bytes: Box::new([0; DATAGRAM_MAX]) };
        Batch { slots: (0..capacity).map(|_| empty()).collect(), filled: 0 }
    }

    pub fn clear(&mut self) {
        self.filled = 0;
    }

    pub fn len(&self) -> usize {
        self.filled
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// How many more datagrams fit.
    pub fn room(&self) -> usize {
        self.slots.len() - self.filled
    }

    /// Takes the next free buffer, already written, as a datagram of `len` bytes.
    pub fn commit(&mut self, path: Path, arrived: Instant, len: usize) {
        if let Some(slot) = self.slots.get_mut(self.filled) {
            slot.path = path;
            slot.arrived = arrived;
            slot.len = len.min(DATAGRAM_MAX);
            slot.taken = false;
            self.filled += 1;
        }
    }

    /// Copies a datagram in; false when there is no room or it is too long.
    pub fn push(&mut self, path: Path, arrived: Instant, bytes: &[u8]) -> bool {
        if bytes.len() > DATAGRAM_MAX || self.room() == 0 {
            return false;
        }
        self.slots[self.filled].bytes[..bytes.len()].copy_from_slice(bytes);
        self.commit(path, arrived, bytes.len());
        true
    }

    pub fn slots_mut(&mut self) -> &mut [Slot] {
        &mut self.slots[..self.filled]
    }
}

/// One send: `range` of the buffer it comes with, to one destination, cut by the kernel into datagrams of `segment`
/// bytes (only the last may be shorter). `segment` equal to the range's length is a single datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    pub path: Path,
    pub start: u32,
    pub len: u32,
    pub segment: u16,
    /// The arrival of its first packet; None when no packet in it is forwarded for the first time.
    pub oldest: Option<Instant>,
}

impl Run {
    pub fn bytes<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        &buffer[self.start as usize..(self.start + self.len) as usize]
    }

    pub fn datagrams<'a>(&self, buffer: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.bytes(buffer).chunks(usize::from(self.segment.max(1)))
    }

    pub fn packets(&self) -> usize {
        (self.len as usize).div_ceil(usize::from(self.segment.max(1)))
    }
}

/// The receiver of finished runs: a socket backend in `net`, a link in the simulation, a counter in a bench. The buffer
/// is the sender's again as soon as the call returns.
pub trait Transmit {
    fn transmit(&mut self, buffer: &[u8], runs: &[Run]);

    /// The end of the last call, where somebody reads a clock: many packets take long to send, and a time written into
    /// the later ones must not be that of the first.
    fn now(&self) -> Option<Instant> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_bounded_and_reusable() {
        let path = Path::udp(LocalIndex(1), SocketAddr::from(([127, 0, 0, 1], 9)));
        let (mut batch, now) = (Batch::new(2), Instant::ZERO);
        assert!(batch.push(path, now, b"one") && batch.push(path, now, b"two"));
        assert!(!batch.push(path, now, b"three"));
        assert_eq!(batch.slots_mut()[1].bytes(), b"two");
        assert!(batch.slots_mut()[0].take() && !batch.slots_mut()[0].take(), "once");
        batch.clear();
        assert!(batch.is_empty() && !batch.push(path, now, &[0; DATAGRAM_MAX + 1]) && batch.room() == 2);
        assert!(batch.push(path, now, b"four") && batch.slots_mut()[0].take(), "it is another");
    }

    #[test]
    fn a_run_knows_its_datagrams() {
        let path = Path::udp(LocalIndex(0), SocketAddr::from(([127, 0, 0, 1], 9)));
        let run = Run { path, start: 2, len: 7, segment: 3, oldest: None };
        let buffer = *b"..abcdefg";
        assert_eq!(run.datagrams(&buffer).collect::<Vec<_>>(), [&b"abc"[..], b"def", b"g"]);
        assert_eq!(run.packets(), 3);
    }
}
