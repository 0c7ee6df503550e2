//! Every reason for which a shard throws a datagram or packet away, with its count. The lower layers name their own;
//! this file adds the shard's and puts all of them under one name in /metrics.

use crate::secure::SecureDrop;
use crate::transport::ice_lite::IceDrop;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum ShardDrop {
    /// First byte of no protocol that is spoken here (RFC 7983).
    UnknownProtocol,
    /// RTP, RTCP or DTLS from an address that never passed an authenticated check.
    UnknownPath,
    /// A STUN username that names no transport of this process.
    UnknownUfrag,
    /// More STUN in one batch than the budget allows.
    StunBudget,
    /// Media before the keys.
    NoKeys,
    MalformedRtp,
    MalformedRtcp,
    /// Authenticated, but of no producer that is known yet.
    UnknownSsrc,
    RouteTableFull,
    DuplicateRtp,
    /// A sequence number far from all others, until its successor confirms it (RFC 3550 appendix A.1).
    UnconfirmedJump,
    WrongPayloadType,
    PaddingOnly,
    /// Too large, or the history had no room.
    NotStored,
    ProducerPaused,
    /// Its producer is not among the loudest that the channel forwards.
    BeyondLastN,
    EgressFull,
    /// With the extensions that are added it would not fit a datagram of the path.
    PacketTooLong,
    /// The sealer refused it: its number or its SSRC must not be used.
    Unsealed,
    /// A consumer's packet could not be built any more: its history entry was gone.
    LostFromHistory,
    MeshFull,
    MalformedRelay,
    /// No consent: the peer is not sent anything.
    NoConsent,
    /// A NACK that came while the shard was far behind its sockets.
    NackBehind,
    /// Video that waited too long for a shard that cannot keep up.
    Shed,
    /// Asked for again where the bandwidth has no room for it.
    BeyondBandwidth,
    /// Asked for again where the bandwidth is short, and a keyframe makes it worthless.
    Overtaken,
    /// The rest of an RTCP datagram beyond its budget of work.
    RtcpEffort,
    /// Beyond the allowance of a path that has yet to be proved.
    UnprovedPath,
    /// A handshake beyond its address's quota.
    HandshakeQuota,
    /// At a plain-RTP transport's address, and not from its source.
    PlainSource,
    /// At the lanes' address, and from no node that is known, or of no lane that is up.
    LaneStranger,
    /// Of a lane, and not sealed under its keys, or no datagram of it at all.
    LaneUnopened,
    /// Of a lane, a second time.
    LaneReplayed,
    /// A record of a lane that cannot be read.
    LaneMalformed,
    /// Media on a lane that nobody here has subscribed to, or does not any more.
    LaneHandle,
    /// More waits for a lane than it may.
    LaneFull,
    /// A lane's other end has a certificate that no known node has.
    LaneCertificate,
}

impl ShardDrop {
    pub const ALL: [ShardDrop; 38] = [
        ShardDrop::UnknownProtocol,
        ShardDrop::UnknownPath,
        ShardDrop::UnknownUfrag,
        ShardDrop::StunBudget,
        ShardDrop::NoKeys,
        ShardDrop::MalformedRtp,
        ShardDrop::MalformedRtcp,
        ShardDrop::UnknownSsrc,
        ShardDrop::RouteTableFull,
        ShardDrop::DuplicateRtp,
        ShardDrop::UnconfirmedJump,
        ShardDrop::WrongPayloadType,
        ShardDrop::PaddingOnly,
        ShardDrop::NotStored,
        ShardDrop::ProducerPaused,
        ShardDrop::BeyondLastN,
        ShardDrop::EgressFull,
        ShardDrop::PacketTooLong,
        ShardDrop::Unsealed,
        ShardDrop::LostFromHistory,
        ShardDrop::MeshFull,
        ShardDrop::MalformedRelay,
        ShardDrop::NoConsent,
        ShardDrop::NackBehind,
        ShardDrop::Shed,
        ShardDrop::BeyondBandwidth,
        ShardDrop::Overtaken,
        ShardDrop::RtcpEffort,
        ShardDrop::UnprovedPath,
        ShardDrop::HandshakeQuota,
        ShardDrop::PlainSource,
        ShardDrop::LaneStranger,
        ShardDrop::LaneUnopened,
        ShardDrop::LaneReplayed,
        ShardDrop::LaneMalformed,
        ShardDrop::LaneHandle,
        ShardDrop::LaneFull,
        ShardDrop::LaneCertificate,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            ShardDrop::UnknownProtocol => "unknown_protocol",
            ShardDrop::UnknownPath => "unknown_path",
            ShardDrop::UnknownUfrag => "unknown_ufrag",
            ShardDrop::StunBudget => "stun_budget",
            ShardDrop::NoKeys => "no_keys",
            ShardDrop::MalformedRtp => "malformed_rtp",
            ShardDrop::MalformedRtcp => "malformed_rtcp",
            ShardDrop::UnknownSsrc => "unknown_ssrc",
            ShardDrop::RouteTableFull => "route_table_full",
            ShardDrop::DuplicateRtp => "duplicate_rtp",
            ShardDrop::UnconfirmedJump => "unconfirmed_jump",
            ShardDrop::WrongPayloadType => "wrong_payload_type",
            ShardDrop::PaddingOnly => "padding_only",
            ShardDrop::NotStored => "not_stored",
            ShardDrop::ProducerPaused => "producer_paused",
            ShardDrop::BeyondLastN => "beyond_last_n",
            ShardDrop::EgressFull => "egress_full",
            ShardDrop::PacketTooLong => "packet_too_long",
            ShardDrop::Unsealed => "unsealed",
            ShardDrop::LostFromHistory => "lost_from_history",
            ShardDrop::MeshFull => "mesh_full",
            ShardDrop::MalformedRelay => "malformed_relay",
            ShardDrop::NoConsent => "no_consent",
            ShardDrop::NackBehind => "nack_behind",
            ShardDrop::Shed => "shed",
            ShardDrop::BeyondBandwidth => "beyond_bandwidth",
            ShardDrop::Overtaken => "overtaken",
            ShardDrop::RtcpEffort => "rtcp_effort",
            ShardDrop::UnprovedPath => "unproved_path",
            ShardDrop::HandshakeQuota => "handshake_quota",
            ShardDrop::PlainSource => "plain_source",
            ShardDrop::LaneStranger => "lane_stranger",
            ShardDrop::LaneUnopened => "lane_unopened",
            ShardDrop::LaneReplayed => "lane_replayed",
            ShardDrop::LaneMalformed => "lane_malformed",
            ShardDrop::LaneHandle => "lane_handle",
            ShardDrop::LaneFull => "lane_full",
            ShardDrop::LaneCertificate => "lane_certificate",
        }
    }
}

#[derive(Clone)]
pub struct Drops {
    own: [u64; ShardDrop::ALL.len()],
    secure: [u64; SecureDrop::ALL.len()],
    ice: [u64; IceDrop::ALL.len()],
}

impl Default for Drops {
    fn default() -> Self {
        Drops { own: [0; ShardDrop::ALL.len()], secure: [0; SecureDrop::ALL.len()], ice: [0; IceDrop::ALL.len()] }
    }
}

impl Drops {
    pub fn count(&mut self, why: ShardDrop) {
        self.own[why as usize] += 1;
    }

    pub fn add(&mut self, why: ShardDrop, count: u64) {
        self.own[why as usize] += count;
    }

    pub fn secure(&mut self, why: SecureDrop) {
        self.secure[why as usize] += 1;
    }

    pub fn ice(&mut self, why: IceDrop) {
        self.ice[why as usize] += 1;
    }

    #[cfg(test)]
    pub(super) fn of(&self, why: ShardDrop) -> u64 {
        self.own[why as usize]
    }

    /// Every reason that exists, also those that never happened.
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        let own = ShardDrop::ALL.iter().map(|why| (why.name(), self.own[*why as usize]));
        let secure = SecureDrop::ALL.iter().map(|why| (why.name(), self.secure[*why as usize]));
        let ice = IceDrop::ALL.iter().map(|why| (why.name(), self.ice[*why as usize]));
        own.chain(secure).chain(ice).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_place_and_name() {
        for (place, why) in ShardDrop::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, place);
        }
        for (place, why) in SecureDrop::ALL.iter().enumerate() {
            assert_eq!(*why as usize, place);
        }
        for (place, why) in IceDrop::ALL.iter().enumerate() {
            assert_eq!(*why as usize, place);
        }
        let mut names: Vec<_> = Drops::default().all().into_iter().map(|(name, _)| name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
