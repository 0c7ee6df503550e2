//! The state of one client on its shard. Behaviour is in the mechanisms it holds; the shard drives them.

use std::mem::offset_of;

use crate::base::buffer::Path;
use crate::base::id::{PeerId, TransportId};
use crate::base::limits::{DISCONNECTED_MAX, FINGERPRINTS_PER_PEER_MAX};
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
use crate::transport::ice_lite::IceLite;
use crate::transport::link::{Announcement, Link};
use crate::transport::outgoing::Outgoing;
use crate::transport::proof::Proof;
use crate::wire::extension::ExtensionIds;

/// In the order of use: a shard reaches each of its receivers with a cold cache, and a packet needs the first lines of
/// this.
#[repr(C)]
pub struct Transport {
    pub egress: Egress,
    pub link: Link,
    pub outgoing: Slab<Outgoing>,
    /// Consent expired; everything is kept for the next check.
    pub disconnected_since: Option<Instant>,
    /// Sending is bounded, because the selected path is not proved.
    pub bounded: bool,
    pub traffic: Traffic,
    /// The record of sent packets, once the client sends feedback.
    pub bandwidth: Option<Box<Bandwidth>>,
    pub ice: IceLite,
    pub id: TransportId,
    pub peer: PeerId,
    pub announcements: Vec<Announcement>,
    /// When there was a pair first; or later, when a handshake of ours was put off.
    pub nominated_at: Option<Instant>,
    pub proof: Proof,
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
    pub path_changes: u64,
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
    /// Counts what a flush has sealed, and what the path's proof allows less for it. True: it was the first.
    pub fn has_sent(&mut self, bytes: u64, packets: u64) -> bool {
        let first = self.traffic.packets_sent == 0 && bytes > 0;
        self.traffic.bytes_sent += bytes;
        self.traffic.packets_sent += packets;
        if self.bounded {
            self.proof.sent(&self.egress.log);
            self.proof.spend(bytes as usize);
        }
        first
    }

    pub fn new(id: TransportId, peer: PeerId, ice: IceLite) -> Transport {
        // A new agent counts as silent since it was made.
        let down_since = Some(ice.silent_since());
        Transport {
            id,
            peer,
            ice,
            link: Link::default(),
            announcements: Vec::new(),
            nominated_at: None,
            proof: Proof::default(),
            bounded: false,
            disconnected_since: None,
            down_since,
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
            path_changes: 0,
            received_rate: Sampled::default(),
            sent_rate: Sampled::default(),
        }
    }

    /// The length, from its beginning, that a packet to it needs, and feedback from it.
    pub const HOT: usize = offset_of!(Transport, ice) + size_of::<Path>() + 8;

    /// Prefetches for a queued packet of this stream: the stream and the keys will be needed.
    pub fn prefetch(&self, outgoing: Key<Outgoing>) {
        self.outgoing.prefetch(outgoing, Outgoing::HOT);
        if let Link::Up(up) = &self.link {
            prefetch(&**up, size_of::<Sealer>());
        }
    }

    /// Prefetches for the flush of this queue.
    pub fn prefetch_flush(&self) {
        if let Link::Up(up) = &self.link {
            let places =
                self.egress.streams().filter_map(|stream| self.outgoing.get(stream)).map(|stream| stream.seal_place);
            up.sealer.prefetch(places);
        }
    }

    /// The next look at its bandwidth without any feedback. Nothing is sent where it is not open.
    pub fn bandwidth_deadline(&self) -> Option<Instant> {
        self.bandwidth.as_ref().filter(|_| self.is_open())?.deadline(&self.egress.log)
    }

    /// Prefetches for feedback from it; this itself is at hand.
    pub fn prefetch_feedback(&self) {
        self.egress.log.prefetch_feedback();
        if let Link::Up(up) = &self.link {
            prefetch(&up.opener, size_of::<Opener>());
        }
        if let Some(bandwidth) = &self.bandwidth {
            prefetch(&**bandwidth, size_of::<Bandwidth>());
        }
    }

    /// The same one step on: the lines of the first prefetch are at hand, too.
    pub fn prefetch_feedback_soon(&self) {
        if let Link::Up(up) = &self.link {
            up.opener.prefetch_rtcp();
        }
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.congestion.prefetch();
        }
    }

    /// Stores an announcement of connect-transport; one for this very transport overrules the uncertain ones.
    pub fn announce(&mut self, announcement: Announcement) {
        if announcement.certain {
            self.announcements.retain(|said| said.certain);
        } else if self.announcements.iter().any(|said| said.certain) {
            return;
        }
        if self.announcements.len() < FINGERPRINTS_PER_PEER_MAX {
            self.announcements.push(announcement);
        }
    }

    /// The edits of this packet of a stream with layers, for sending and resending.
    pub fn edit(&mut self, outgoing: Key<Outgoing>, index: u64, edit: Edit) {
        if let Some(edits) = self.outgoing.get_mut(outgoing).and_then(|outgoing| outgoing.edits.as_mut()) {
            edits.set(index, edit);
        }
    }

    /// The path to send on, as long as the peer consents to it (RFC 7675 section 5.1).
    pub fn exit(&self) -> Option<Path> {
        if self.disconnected_since.is_some() { None } else { self.ice.selected() }
    }

    /// Call when the path to send on, or its proof, may have changed. True: that path has yet to be proved.
    pub fn look_at_proof(&mut self) -> bool {
        let begins = self.proof.aim(self.ice.selected());
        self.bounded = self.proof.is_wanted();
        begins
    }

    /// The path belongs to another transport now.
    pub fn forget_path(&mut self, path: Path) {
        self.ice.forget_path(path);
        self.proof.forget(path);
        self.look_at_proof();
    }

    /// Whether a datagram that is no media may leave by the selected path.
    pub fn admits(&mut self, bytes: usize) -> bool {
        !self.bounded || self.proof.admits(bytes)
    }

    /// Whether media may flow towards it.
    pub fn is_open(&self) -> bool {
        self.link.is_up() && self.exit().is_some()
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

    /// As RTCIceTransportState (W3C webrtc); the state before a first check is `new` here.
    pub fn ice_state(&self) -> &'static str {
        match (self.disconnected_since, self.ice.selected()) {
            (Some(_), _) => "disconnected",
            (None, Some(_)) if self.ice.is_nominated() => "completed",
            (None, Some(_)) => "connected",
            (None, None) => "new",
        }
    }

    /// The next look at consent: its expiry, or the end of a disconnected transport's life.
    pub fn consent_deadline(&self) -> Option<Instant> {
        match self.disconnected_since {
            Some(since) => Some(since + DISCONNECTED_MAX),
            None => self.ice.consent_deadline(),
        }
    }
}
