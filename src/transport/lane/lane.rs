//! One lane that is up: opens what comes, keeps what has to be acknowledged, and writes what is due. It closes itself
//! never: its owner asks whether it is dead or idle.

use crate::base::buffer::{Path, Transmit};
use crate::base::limits::{LANE_QUEUE_MAX, RUN_HOLD_MAX};
use crate::base::time::{Duration, Instant, Now, NtpTime};
use crate::secure::lane::{LaneKeys, LaneOpener, LaneSealer, LaneUnopened};
use crate::transport::lane::arrivals::LaneArrivals;
use crate::transport::lane::item::{LaneItem, LaneQueued};
use crate::transport::lane::offset::LaneOffset;
use crate::transport::lane::orders::{OrdersIn, OrdersOut};
use crate::transport::lane::packing::{Packer, Packing, SENT_TIME};
use crate::transport::lane::parts::Partials;
use crate::transport::lane::sent::LaneSent;
use crate::transport::lane::size::LaneSize;
use crate::transport::queued::{PacketStore, Urgency};
use crate::transport::send_buffer::SendBuffer;
use crate::wire::lane::{LaneClock, LaneFeedback, LaneMedia, LaneOrder, LaneRecord, LaneSkip, RecordWriter};

const KEEPALIVE: Duration = Duration::from_millis(200);
const DEAD_AFTER: Duration = Duration::from_secs(1);
const IDLE_MAX: Duration = Duration::from_secs(60);
const RTT_START: Duration = Duration::from_millis(100);
/// Worth sending again up to this age, so often at most.
const AUDIO_RESENT_MAX: Duration = Duration::from_millis(150);
const VIDEO_RESENT_MAX: Duration = Duration::from_millis(500);
const RESENDS_MAX: u8 = 2;
/// Of the queue: above the first, upper encodings are left out; above the second, all but audio.
const KEPT_FOR_LOWEST: usize = LANE_QUEUE_MAX / 4;
const KEPT_FOR_AUDIO: usize = LANE_QUEUE_MAX / 8;
/// Pings that wait for their answer.
const PONGS_MAX: usize = 8;
/// Keys are renewed before so many datagrams, and after so long.
const DATAGRAMS_PER_KEY: u64 = 1 << 40;
const KEY_AGE_MAX: Duration = Duration::from_secs(24 * 3_600);

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LaneCounts {
    pub datagrams_in: u64,
    pub datagrams_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub records_in: u64,
    pub records_out: u64,
    /// Datagrams that the other end did not get.
    pub lost: u64,
    pub resent: u64,
    pub resent_too_late: u64,
    pub lost_from_history: u64,
    pub malformed: u64,
}

/// What a record means for the owner of a lane.
#[derive(Debug)]
pub enum LaneHeard<'a> {
    /// It was for the lane itself, or has to wait for others.
    Nothing,
    Media(LaneMedia<'a>),
    /// A media record that came in parts, to be parsed.
    Whole(Vec<u8>),
    Skip(LaneSkip),
    /// On our timeline.
    Clock(LaneClock),
}

pub struct Lane {
    sealer: LaneSealer,
    opener: LaneOpener,
    /// Under the keys before these, and those after: what the other end seals with first decides.
    before: Option<LaneOpener>,
    after: Option<LaneKeys>,
    keys_since: Instant,
    arrivals: LaneArrivals,
    offset: LaneOffset,
    /// The NTP time of the other end's monotonic zero.
    zero: Option<NtpTime>,
    orders_in: OrdersIn,
    orders_out: OrdersOut,
    partials: Partials,
    sent: LaneSent,
    size: LaneSize,
    queue: Vec<LaneQueued>,
    due: Option<Instant>,
    pongs: Vec<u32>,
    rtt: Option<Duration>,
    heard_at: Instant,
    sent_at: Instant,
    /// Whether something is subscribed, and since when.
    in_use: (bool, Instant),
    broken: bool,
    /// What feedback tells the other end.
    pub bus_up: bool,
    pub children: u16,
    /// What the other end's told.
    pub their_bus_up: bool,
    pub their_children: u16,
    clocks: Vec<LaneClock>,
    lost: Vec<LaneQueued>,
    scratch: Vec<u8>,
    counts: LaneCounts,
}

impl Lane {
    pub fn new(now: Instant, keys: LaneKeys) -> Lane {
        Lane {
            sealer: keys.sealer,
            opener: keys.opener,
            before: None,
            after: None,
            keys_since: now,
            arrivals: LaneArrivals::default(),
            offset: LaneOffset::default(),
            zero: None,
            orders_in: OrdersIn::default(),
            orders_out: OrdersOut::default(),
            partials: Partials::default(),
            sent: LaneSent::default(),
            size: LaneSize::new(now),
            queue: Vec::new(),
            due: None,
            pongs: Vec::new(),
            rtt: None,
            heard_at: now,
            sent_at: now,
            in_use: (false, now),
            broken: false,
            bus_up: false,
            children: 0,
            their_bus_up: false,
            their_children: 0,
            clocks: Vec::new(),
            lost: Vec::new(),
            scratch: Vec::new(),
            counts: LaneCounts::default(),
        }
    }

    /// Opens a datagram in place and gives its records, each of which wants a [`Lane::take`].
    pub fn open<'a>(&mut self, arrived: Instant, datagram: &'a mut [u8]) -> Result<&'a [u8], LaneUnopened> {
        let len = datagram.len();
        let phase = datagram.get(1).copied();
        let other = |opener: &LaneOpener| Some(opener.phase()) == phase;
        let (number, plain) = if self.after.as_ref().is_some_and(|keys| other(&keys.opener)) {
            let Some(mut keys) = self.after.take() else { return Err(LaneUnopened::Phase) };
            match keys.opener.open(datagram) {
                Ok(opened) => {
                    self.begin(arrived, keys);
                    opened
                }
                Err(why) => {
                    self.after = Some(keys);
                    return Err(why);
                }
            }
        } else if let Some(before) = self.before.as_mut().filter(|before| other(before)) {
            before.open(datagram)?
        } else {
            self.opener.open(datagram)?
        };
        let (sent, records) = plain.split_first_chunk::<SENT_TIME>().ok_or(LaneUnopened::Malformed)?;
        self.heard_at = arrived;
        self.arrivals.on_datagram(arrived, number);
        self.offset.on_datagram(arrived, u32::from_be_bytes(*sent));
        self.counts.datagrams_in += 1;
        self.counts.bytes_in += len as u64;
        Ok(records)
    }

    /// Does what a record asks of the lane itself.
    pub fn take<'a>(&mut self, now: Now, record: &LaneRecord<'a>) -> LaneHeard<'a> {
        self.counts.records_in += 1;
        if !matches!(record, LaneRecord::Feedback(_) | LaneRecord::Pong(_)) {
            self.arrivals.owe(now.mono);
        }
        match *record {
            LaneRecord::Media(media) => return LaneHeard::Media(media),
            LaneRecord::Skip(skip) => return LaneHeard::Skip(skip),
            LaneRecord::Clock(clock) => {
                if let Some(ntp) = self.on_our_timeline(now, clock.ntp) {
                    return LaneHeard::Clock(LaneClock { ntp, ..clock });
                }
            }
            LaneRecord::Part(head, bytes) => {
                if let Some(whole) = self.partials.on_part(now.mono, head, bytes) {
                    return LaneHeard::Whole(whole);
                }
            }
            LaneRecord::Feedback(feedback) => self.on_feedback(now.mono, &feedback),
            LaneRecord::Ping(id) if self.pongs.len() < PONGS_MAX => self.pongs.push(id),
            LaneRecord::Ping(_) => {}
            LaneRecord::Pong(id) => self.size.on_pong(now.mono, id),
            LaneRecord::Order(number, body) => self.orders_in.on_order(number, body),
        }
        LaneHeard::Nothing
    }

    pub fn malformed(&mut self) {
        self.counts.malformed += 1;
    }

    /// The next order of the other end, in its sequence.
    pub fn next_order(&mut self) -> Option<Box<[u8]>> {
        self.orders_in.pop()
    }

    /// Where the other end's timeline begins.
    pub fn set_zero(&mut self, zero: NtpTime) {
        self.zero = Some(zero);
    }

    /// A moment of the other end's timeline on ours.
    pub fn on_our_timeline(&self, now: Now, theirs: NtpTime) -> Option<NtpTime> {
        let since_zero = theirs.nanos_since(self.zero?) / 1_000;
        let ours = self.offset.ours(since_zero)?;
        Some(now.wall.offset_nanos(ours * 1_000 - now.mono.as_nanos() as i64))
    }

    /// Keys of another handshake, for which the one that made it is `first` to use them. The other end follows with the
    /// first datagram that it opens under them.
    pub fn renew(&mut self, now: Instant, keys: LaneKeys, first: bool) {
        match first {
            true => self.begin(now, keys),
            false => self.after = Some(keys),
        }
    }

    fn begin(&mut self, now: Instant, keys: LaneKeys) {
        let LaneKeys { mut sealer, opener } = keys;
        // Numbers go on, so that feedback knows what it is about.
        sealer.go_on_from(self.sealer.next());
        self.sealer = sealer;
        self.before = Some(std::mem::replace(&mut self.opener, opener));
        self.keys_since = now;
    }

    /// Time for another handshake, and the phase that its keys will have.
    pub fn wants_keys(&self, now: Instant) -> Option<u8> {
        let old = now.since(self.keys_since) >= KEY_AGE_MAX || self.sealer.next() >= DATAGRAMS_PER_KEY;
        // The first phase never comes again: it is how a lane that begins anew is known.
        old.then(|| self.sealer.phase().checked_add(1).unwrap_or(1))
    }

    pub fn phase(&self) -> u8 {
        self.sealer.phase()
    }

    pub fn order(&mut self, order: &LaneOrder<'_>) {
        self.broken |= !self.orders_out.push(order);
    }

    /// Queues a packet or a skip; false: there is no room for it. `layer`: of the encoding, 0 the lowest; None: audio.
    pub fn push(&mut self, now: Instant, item: LaneItem, layer: Option<u8>, urgency: Urgency) -> bool {
        let kept = match layer {
            None => 0,
            Some(0) => KEPT_FOR_AUDIO,
            Some(_) => KEPT_FOR_LOWEST,
        };
        if self.queue.len() + kept >= LANE_QUEUE_MAX {
            return false;
        }
        self.queue.push(LaneQueued { item, resent: 0, since: now, audio: layer.is_none() });
        let due = match urgency {
            Urgency::Now => now,
            Urgency::FrameContinues => now + RUN_HOLD_MAX,
        };
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        true
    }

    /// Sends a clock with the next datagram: what is said once a second is not said again.
    pub fn clock(&mut self, now: Instant, clock: LaneClock) {
        if self.clocks.len() < LANE_QUEUE_MAX {
            self.clocks.push(clock);
            self.due = Some(self.due.map_or(now, |due| due.min(now)));
        }
    }

    pub fn set_in_use(&mut self, now: Instant, in_use: bool) {
        if self.in_use.0 != in_use {
            self.in_use = (in_use, now);
        }
    }

    /// Nothing was heard although something should have been, or the other end acknowledges no orders.
    pub fn is_dead(&self, now: Instant) -> bool {
        self.broken || self.dead_at().is_some_and(|at| at <= now)
    }

    fn dead_at(&self) -> Option<Instant> {
        let (in_use, since) = self.in_use;
        in_use.then(|| self.heard_at.max(since) + DEAD_AFTER)
    }

    pub fn is_idle(&self, now: Instant) -> bool {
        !self.in_use.0 && now.since(self.in_use.1) >= IDLE_MAX
    }

    pub fn rtt(&self) -> Duration {
        self.rtt.unwrap_or(RTT_START)
    }

    pub fn counts(&self) -> LaneCounts {
        LaneCounts { lost: self.sent.lost, ..self.counts }
    }

    /// When [`Lane::flush`] has something to do, or the owner something to ask.
    pub fn deadline(&self) -> Option<Instant> {
        let used = match self.in_use {
            (true, _) => self.dead_at().map(|dead| dead.min(self.sent_at + KEEPALIVE).min(self.size.due())),
            (false, since) => Some(since + IDLE_MAX),
        };
        let pongs = (!self.pongs.is_empty()).then_some(Instant::ZERO);
        let all = [self.due, self.arrivals.due(), self.orders_out.due(self.rtt()), self.sent.tail_due(), used, pongs];
        all.into_iter().flatten().min()
    }

    /// Seals everything that is due into `buffer`, as runs for `path`.
    pub fn flush<S: PacketStore, T: Transmit>(
        &mut self,
        now: Instant,
        path: Path,
        store: &S,
        buffer: &mut SendBuffer,
        out: &mut T,
    ) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        let rtt = self.rtt();
        let pings = self.sent.asks(now, rtt);
        let probe = if self.in_use.0 { self.size.probe(now) } else { None };
        let Lane { sealer, sent, size, .. } = self;
        let (size, state) = (size.used(), Packing::default());
        let mut packer = Packer { now, path, size, rtt, sealer, sent, buffer, out, state };
        for clock in self.clocks.drain(..) {
            packer.ready_record(&small(&LaneRecord::Clock(clock)));
        }
        for id in self.pongs.drain(..) {
            packer.ready_record(&small(&LaneRecord::Pong(id)));
        }
        self.orders_out.send(now, rtt, |number, body| packer.record(LaneRecord::ORDER, &[&number.to_be_bytes(), body]));
        if self.due.take_if(|due| *due <= now).is_some() {
            for queued in self.queue.drain(..) {
                pack(now, &mut packer, &queued, store, &mut self.counts);
            }
        }
        // With what leaves anyway, or when it is due.
        let (orders_before, held) = (self.orders_in.before(), self.arrivals.held(now));
        let feedback =
            LaneFeedback { orders_before, bus_up: self.bus_up, children: self.children, held, arrivals: None };
        if let Some((base, numbers)) = self.arrivals.tell(now) {
            let mut bytes = [0; FEEDBACK_RECORD_MAX];
            let mut writer = RecordWriter::new(&mut bytes);
            if feedback.write(base as u16, numbers, &mut self.scratch, &mut writer) {
                let used = writer.used();
                packer.ready_record(&bytes[..used]);
            }
        }
        let silent = packer.state.records == 0 && self.in_use.0 && now.since(self.sent_at) >= KEEPALIVE;
        if pings || silent {
            packer.ready_record(&small(&LaneRecord::Ping(0)));
        }
        packer.end_run();
        if let Some(probe) = probe {
            packer.probe(probe.size, &small(&LaneRecord::Ping(probe.ping)));
        }
        let Packing { datagrams, bytes, records, spent, .. } = packer.state;
        self.broken |= spent;
        if datagrams > 0 {
            self.sent_at = now;
        }
        self.counts.datagrams_out += datagrams;
        self.counts.bytes_out += bytes;
        self.counts.records_out += records;
    }

    fn on_feedback(&mut self, now: Instant, feedback: &LaneFeedback<'_>) {
        self.orders_out.acknowledged(feedback.orders_before);
        (self.their_bus_up, self.their_children) = (feedback.bus_up, feedback.children);
        let Some(arrivals) = &feedback.arrivals else { return };
        let (held, rtt) = (Duration::from_micros(u64::from(feedback.held) * 8), self.rtt());
        let sample = self.sent.on_feedback(now, arrivals, (held, rtt), &mut self.size, &mut self.lost);
        if let Some(sample) = sample {
            self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
        }
        for lost in self.lost.drain(..) {
            let most = if lost.audio { AUDIO_RESENT_MAX } else { VIDEO_RESENT_MAX };
            if lost.resent >= RESENDS_MAX || now.since(lost.since) > most || self.queue.len() >= LANE_QUEUE_MAX {
                self.counts.resent_too_late += 1;
                continue;
            }
            self.queue.push(LaneQueued { resent: lost.resent + 1, ..lost });
            self.due = Some(self.due.map_or(now, |due| due.min(now)));
            self.counts.resent += 1;
        }
    }
}

/// Arrivals of as many numbers as are told at once, with their head.
const FEEDBACK_RECORD_MAX: usize = 1_200;

fn pack<S: PacketStore, T: Transmit>(
    now: Instant,
    packer: &mut Packer<'_, T>,
    queued: &LaneQueued,
    store: &S,
    counts: &mut LaneCounts,
) {
    match &queued.item {
        LaneItem::Packet(packet) => match store.stored(packet.at) {
            Some(stored) => packer.packet(queued, packet, &stored),
            None => counts.lost_from_history += 1,
        },
        LaneItem::Skip(skip) => {
            debug_assert!(queued.since <= now);
            if packer.ready_record(&small(&LaneRecord::Skip(*skip))) {
                packer.carries(queued);
            }
        }
    }
}

/// A record of few bytes, with its head.
fn small(record: &LaneRecord<'_>) -> Vec<u8> {
    let mut bytes = [0; 32];
    let mut out = RecordWriter::new(&mut bytes);
    record.write(&mut out);
    let used = out.used();
    bytes[..used].to_vec()
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
