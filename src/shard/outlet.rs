//! The outlet of a shard: ready datagrams, the buffer that packets are sealed into, the transports that have some, and
//! when the next one may leave.

use std::collections::VecDeque;

use rand::rngs::StdRng;

use crate::base::buffer::{Path, Transmit};
use crate::base::slab::{Key, Slab};
use crate::base::time::{Instant, Now};
use crate::router::forward::Dirty;
use crate::router::source::Sources;
use crate::shard::command::Event;
use crate::shard::drops::{Drops, ShardDrop};
use crate::transport::Transport;
use crate::transport::egress::Exit;
use crate::transport::kind::Sending;
use crate::transport::send_buffer::SendBuffer;

#[derive(Default)]
pub(super) struct Outlet {
    /// STUN, DTLS and RTCP for the next flush.
    pub(super) ready: Ready,
    pub(super) buffer: SendBuffer,
    pub(super) dirty: Dirty,
    held: Option<Instant>,
}

/// Datagrams that are ready to leave, one after the other in one buffer.
#[derive(Default)]
pub(super) struct Ready {
    bytes: Vec<u8>,
    ends: Vec<(Path, usize)>,
}

impl Ready {
    pub(super) fn push(&mut self, path: Path, datagram: &[u8]) {
        self.bytes.extend_from_slice(datagram);
        self.ends.push((path, self.bytes.len()));
    }

    fn drain<T: Transmit>(&mut self, buffer: &mut SendBuffer, out: &mut T) {
        let mut start = 0;
        for (path, end) in self.ends.drain(..) {
            buffer.datagram(path, &self.bytes[start..end], out);
            start = end;
        }
        self.bytes.clear();
    }
}

/// The parts of a shard that a flush needs.
pub(super) struct Leaving<'a> {
    pub(super) transports: &'a mut Slab<Transport>,
    pub(super) sources: &'a Sources,
    pub(super) drops: &'a mut Drops,
    pub(super) events: &'a mut VecDeque<Event>,
    pub(super) rng: &'a mut StdRng,
    /// The transport whose packets leave: closed when that panics.
    pub(super) current: &'a mut Option<Key<Transport>>,
}

impl Outlet {
    /// Seals and hands on what is due.
    pub(super) fn flush<T: Transmit>(&mut self, now: Now, from: Leaving<'_>, out: &mut T) {
        let Leaving { transports, sources, drops, events, rng, current } = from;
        self.ready.drain(&mut self.buffer, out);
        self.held = None;
        let mut still_held = 0;
        for at in 0..self.dirty.len() {
            let key = self.dirty[at];
            if let Some(next) = self.dirty.get(at + 1).and_then(|next| transports.get(*next)) {
                next.prefetch_flush();
            }
            *current = Some(key);
            let Some(transport) = transports.get_mut(key) else { continue };
            let Some(due) = transport.egress.due() else { continue };
            if due > now.mono {
                self.held = Some(self.held.map_or(due, |earlier| earlier.min(due)));
                self.dirty[still_held] = key;
                still_held += 1;
                continue;
            }
            let Some(path) = transport.kind.exit() else {
                drops.add(ShardDrop::NoConsent, transport.egress.len() as u64);
                transport.egress.clear();
                continue;
            };
            let Some(Sending { room, sealer }) = transport.kind.sending(now.mono, &mut transport.egress.log, rng)
            else {
                transport.egress.clear();
                continue;
            };
            let exit = Exit { path, room, sealer, outgoing: &mut transport.outgoing };
            let before = self.buffer.counts.packets;
            // Send times that lag behind would look like a queue on the path to the receiver of feedback.
            let leaves = out.now().map_or(now, |at| now.advanced_to(at));
            let bytes = transport.egress.flush(leaves, exit, sources, &mut self.buffer, out);
            if transport.has_sent(bytes, self.buffer.counts.packets - before) {
                events.push_back(Event::FirstPacket { transport: transport.id, incoming: false });
            }
            // The pacer holds some back, or a probe goes on.
            if let Some(due) = transport.egress.due() {
                self.held = Some(self.held.map_or(due, |earlier| earlier.min(due)));
                self.dirty[still_held] = key;
                still_held += 1;
            }
        }
        self.dirty.truncate(still_held);
    }

    /// Hands on the ready datagrams, and what has gathered in the buffer.
    pub(super) fn finish<T: Transmit>(&mut self, out: &mut T) {
        self.ready.drain(&mut self.buffer, out);
        self.buffer.finish(out);
    }

    /// When something that is held back may leave.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::buffer::{LocalIndex, Run};

    #[derive(Default)]
    struct Sent(Vec<(u16, Vec<u8>)>);

    impl Transmit for Sent {
        fn transmit(&mut self, buffer: &[u8], runs: &[Run]) {
            for run in runs {
                let bytes = &buffer[run.start as usize..][..run.len as usize];
                self.0.push((run.path.remote.port(), bytes.to_vec()));
            }
        }
    }

    #[test]
    fn ready_datagrams_leave_once_and_in_their_order() {
        let (mut outlet, mut sent) = (Outlet::default(), Sent::default());
        let path = |port| Path::udp(LocalIndex(0), ([192, 0, 2, 1], port).into());
        outlet.ready.push(path(1), b"one");
        outlet.ready.push(path(2), b"two");
        outlet.ready.push(path(1), b"three");
        outlet.finish(&mut sent);
        outlet.finish(&mut sent);
        assert_eq!(sent.0, [(1, b"one".to_vec()), (2, b"two".to_vec()), (1, b"three".to_vec())]);
        assert_eq!(outlet.next_deadline(), None);
    }
}
