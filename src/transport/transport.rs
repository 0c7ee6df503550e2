//! The state of one client on its shard. Behaviour is in the mechanisms it holds; the shard drives them.

use std::mem::offset_of;

use crate::base::buffer::Path;
use crate::base::id::{PeerId, TransportId};
use crate::base::prefetch::LINE;
use crate::base::prefetch::prefetch;
use crate::base::slab::{Key, SLOT_HEAD, Slab};
use crate::base::time::{Duration, Instant};
use crate::base::units::Bitrate;
use crate::media::arrival_log::ArrivalLog;
use crate::media::edit::Edit;
use crate::media::remb::RembEstimator;
use crate::media::report::ClockOffset;
use crate::media::sampled::Sampled;
use crate::secure::srtp::{Opener, Sealer};
use crate::transport::bandwidth::Bandwidth;
use crate::transport::egress::Egress;
use crate::transport::kind::TransportKind;
use crate::transport::outgoing::Outgoing;
use crate::transport::web_rtc::WebRtc;
use crate::wire::extension::ExtensionIds;

/// In the order of use: a shard reaches each of its receivers with a cold cache, and a packet needs the first lines of
/// this.
#[repr(C)]
pub struct Transport {
    pub egress: Egress,
    pub outgoing: Slab<Outgoing>,
    pub traffic: Traffic,
    /// The record of sent packets, once the client sends feedback.
    pub bandwidth: Option<Box<Bandwidth>>,
    pub kind: TransportKind,
    pub id: TransportId,
    pub peer: PeerId,
    /// Since when no media may flow towards it, as [`Transport::look_at_path`] last saw it.
    pub down_since: Option<Instant>,
    /// The publisher's ids, once one of its producers is bound here; the same for all (RFC 8843 section 8: one BUNDLE
    /// group, one id space).
    pub extensions: ExtensionIds,
    pub arrivals: ArrivalLog,
    /// Numbers the transport-cc feedback packets.
    pub feedback_count: u8,
    pub remb: Option<RembEstimator>,
    /// The most that the client may send, told by REMB.
    pub max_incoming: Option<Bitrate>,
    pub clock: ClockOffset,
    pub reports_at: Option<Instant>,
    /// Its earliest wake-up in the shard's timer queue.
    pub armed: Option<Instant>,
    /// The wake-up of its reports, which wait for media.
    pub armed_patient: Option<Instant>,
    pub round_trip: Option<Duration>,
    pub received_rate: Sampled,
    pub sent_rate: Sampled,
}

/// Up to the nominated path: five lines.
const _: () = assert!(SLOT_HEAD + Transport::HOT <= 5 * LINE);

#[derive(Clone, Copy, Default, Debug)]
pub struct Traffic {
    pub packets_received: u64,
    pub bytes_received: u64,
    pub packets_sent: u64,
    pub bytes_sent: u64,
}

impl Transport {
    /// Counts what a flush has sealed. True: it was the first.
    pub fn has_sent(&mut self, bytes: u64, packets: u64) -> bool {
        let first = self.traffic.packets_sent == 0 && bytes > 0;
        self.traffic.bytes_sent += bytes;
        self.traffic.packets_sent += packets;
        self.kind.has_sent(&self.egress.log, bytes);
        first
    }

    pub fn new(now: Instant, id: TransportId, peer: PeerId, kind: TransportKind) -> Transport {
        let mut transport = Transport {
            id,
            peer,
            kind,
            down_since: None,
            egress: Egress::default(),
            outgoing: Slab::default(),
            extensions: ExtensionIds::default(),
            arrivals: ArrivalLog::default(),
            feedback_count: 0,
            remb: None,
            max_incoming: None,
            bandwidth: None,
            clock: ClockOffset::default(),
            reports_at: None,
            traffic: Traffic::default(),
            armed: None,
            armed_patient: None,
            round_trip: None,
            received_rate: Sampled::default(),
            sent_rate: Sampled::default(),
        };
        transport.look_at_path(now);
        transport
    }

    /// The length, from its beginning, that a packet to it needs, and feedback from it.
    pub const HOT: usize =
        offset_of!(Transport, kind) + size_of::<u64>() + offset_of!(WebRtc, ice) + size_of::<Path>() + 8;

    /// Prefetches for a queued packet of this stream: the stream and the keys will be needed.
    pub fn prefetch(&self, outgoing: Key<Outgoing>) {
        self.outgoing.prefetch(outgoing, Outgoing::HOT);
        if let Some(srtp) = self.kind.srtp() {
            prefetch(srtp, size_of::<Sealer>());
        }
    }

    /// Prefetches for the flush of this queue.
    pub fn prefetch_flush(&self) {
        if let Some(srtp) = self.kind.srtp() {
            let places =
                self.egress.streams().filter_map(|stream| self.outgoing.get(stream)).map(|stream| stream.seal_place);
            srtp.sealer.prefetch(places);
        }
    }

    /// The next look at its bandwidth without any feedback. Nothing is sent where it is not open.
    pub fn bandwidth_deadline(&self) -> Option<Instant> {
        self.bandwidth.as_ref().filter(|_| self.is_open())?.deadline(&self.egress.log)
    }

    /// Prefetches for feedback from it; this itself is at hand.
    pub fn prefetch_feedback(&self) {
        self.egress.log.prefetch_feedback();
        if let Some(srtp) = self.kind.srtp() {
            prefetch(&srtp.opener, size_of::<Opener>());
        }
        if let Some(bandwidth) = &self.bandwidth {
            prefetch(&**bandwidth, size_of::<Bandwidth>());
        }
    }

    /// The same one step on: the lines of the first prefetch are at hand, too.
    pub fn prefetch_feedback_soon(&self) {
        if let Some(srtp) = self.kind.srtp() {
            srtp.opener.prefetch_rtcp();
        }
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.congestion.prefetch();
        }
    }

    /// The edits of this packet of a stream with layers, for sending and resending.
    pub fn edit(&mut self, outgoing: Key<Outgoing>, index: u64, edit: Edit) {
        if let Some(edits) = self.outgoing.get_mut(outgoing).and_then(|outgoing| outgoing.edits.as_mut()) {
            edits.set(index, edit);
        }
    }

    /// Whether media may flow towards it.
    pub fn is_open(&self) -> bool {
        self.kind.srtp().is_some() && self.kind.exit().is_some()
    }

    /// Call when anything that [`Transport::is_open`] depends on has changed; returns the new value.
    pub fn look_at_path(&mut self, now: Instant) -> bool {
        let open = self.is_open();
        self.down_since = if open { None } else { Some(self.down_since.unwrap_or(now)) };
        open
    }

    pub fn look_at_rates(&mut self, now: Instant) {
        self.received_rate.look(now, self.traffic.bytes_received);
        self.sent_rate.look(now, self.traffic.bytes_sent);
    }
}
