//! The extra state of egress for a client whose bandwidth is short: the pacer with the packets it holds back, and the
//! probe being sent. Called by `egress` alone; transports without pressure have none of it.

use crate::base::slab::{Key, Slab};
use crate::base::time::{Duration, Instant};
use crate::media::congestion::Cluster;
use crate::media::pacer::Pacer;
use crate::transport::outgoing::Outgoing;
use crate::transport::queued::{PacketStore, Queued};

/// Headers and tag, about.
const OVERHEAD: usize = 40;
/// A replay may take this multiple of its planned time.
const REPLAY_LATE: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(super) struct Pacing {
    pub(super) pacer: Option<Pacer>,
    pub(super) replay: Option<Replay>,
    pub(super) probe: Option<Probe>,
    held: Vec<Queued>,
}

/// The replay for a joiner is on its way.
pub(super) struct Replay {
    pub(super) pacer: Pacer,
    pub(super) bytes: usize,
    /// From then on no packet waits for it: live media may be more than its pace.
    until: Instant,
}

impl Replay {
    pub(super) fn new(now: Instant, bytes: usize, span: Duration) -> Replay {
        Replay { pacer: Pacer::over(now, bytes, span), bytes, until: now + span + REPLAY_LATE }
    }
}

impl Pacing {
    /// Takes packets that may not leave yet out of the queue. Audio does not wait, and repairs go before new packets.
    pub(super) fn hold_back<S: PacketStore>(
        &mut self,
        now: Instant,
        queue: &mut Vec<Queued>,
        outgoing: &Slab<Outgoing>,
        store: &S,
    ) {
        self.replay.take_if(|replay| now >= replay.until);
        let replay = self.replay.as_mut().map(|replay| &mut replay.pacer);
        let Some(pacer) = self.pacer.as_mut().or(replay) else { return };
        let class = |queued: &Queued| match outgoing.get(queued.outgoing) {
            Some(stream) if stream.audio => 0,
            _ if queued.retransmission => 1,
            _ => 2,
        };
        queue.sort_by_key(class);
        pacer.advance(now, queue.iter().filter(|queued| class(queued) > 0).count());
        let mut leave = 0;
        for queued in queue.iter() {
            if class(queued) > 0 && !pacer.may_send() {
                break;
            }
            pacer.sent(store.stored(queued.at).map_or(0, |stored| stored.bytes.len() + OVERHEAD));
            leave += 1;
        }
        self.held.extend(queue.drain(leave..));
    }

    /// Puts them back; returns when more of them may leave.
    pub(super) fn give_back(&mut self, queue: &mut Vec<Queued>) -> Option<Instant> {
        std::mem::swap(queue, &mut self.held);
        if queue.is_empty() {
            self.replay = None;
            return None;
        }
        self.pacer.as_ref().or(self.replay.as_ref().map(|replay| &replay.pacer)).map(Pacer::next_at)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pacer.is_none() && self.replay.is_none() && self.probe.is_none()
    }
}

pub(super) struct Probe {
    pub(super) cluster: Cluster,
    pub(super) stream: Key<Outgoing>,
    since: Instant,
    bytes: u64,
    packets: u32,
}

impl Probe {
    /// The interval between two bursts of one probe: some packets each time, and several times, or it shows nothing.
    pub(super) const GAP: Duration = Duration::from_millis(3);

    pub(super) fn new(now: Instant, cluster: Cluster, stream: Key<Outgoing>) -> Probe {
        Probe { cluster, stream, since: now, bytes: 0, packets: 0 }
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.packets += 1;
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.is_done() && self.bytes <= (self.cluster.rate * now.since(self.since)).bytes()
    }

    /// One packet more than is measured: the last one has no time after it.
    pub(super) fn is_done(&self) -> bool {
        self.bytes > self.cluster.bytes.bytes() && self.packets > self.cluster.packets
    }
}
