//! What a WebRTC transport has that others have not: an ICE agent, the secure link that is set up on its path, the
//! fingerprints that signalling announced for it, and the proof of its path.

use crate::base::buffer::Path;
use crate::base::limits::{DISCONNECTED_MAX, FINGERPRINTS_PER_PEER_MAX};
use crate::base::time::Instant;
use crate::media::congestion::sent_log::SentLog;
use crate::transport::ice_lite::IceLite;
use crate::transport::link::{Announcement, Link};
use crate::transport::proof::Proof;

/// In the order of use: a packet to it needs all up to the nominated path.
#[repr(C)]
pub struct WebRtc {
    pub link: Link,
    /// Consent expired; everything is kept for the next check.
    pub disconnected_since: Option<Instant>,
    /// Sending is bounded, because the selected path is not proved.
    pub bounded: bool,
    pub ice: IceLite,
    pub announcements: Vec<Announcement>,
    /// When there was a pair first; or later, when a handshake of ours was put off.
    pub nominated_at: Option<Instant>,
    pub path_changes: u64,
    pub proof: Proof,
}

impl WebRtc {
    pub fn new(ice: IceLite) -> WebRtc {
        WebRtc {
            ice,
            link: Link::default(),
            announcements: Vec::new(),
            nominated_at: None,
            path_changes: 0,
            proof: Proof::default(),
            bounded: false,
            disconnected_since: None,
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

    /// Counts what was sent to a path that is not proved.
    pub fn has_sent(&mut self, log: &SentLog, bytes: u64) {
        if self.bounded {
            self.proof.sent(log);
            self.proof.spend(bytes as usize);
        }
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

    pub fn link_deadline(&self) -> Option<Instant> {
        self.link.deadline(&self.announcements, self.nominated_at)
    }
}
