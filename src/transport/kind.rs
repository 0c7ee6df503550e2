//! The kinds of transports. Each carries what only it has; whoever asks without regard to the kind asks here.

use rand::Rng;

use crate::base::buffer::Path;
use crate::base::time::{Instant, NtpTime};
use crate::media::congestion::sent_log::SentLog;
use crate::secure::srtp::{Opener, Sealer, SrtpContext};
use crate::transport::link::Link;
use crate::transport::plain_rtp::PlainRtp;
use crate::transport::web_rtc::WebRtc;

/// The tag comes first, or it could lie on a line that nothing else needs.
#[repr(C)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all transports are of the large kind, and a pointer costs a line"
)]
pub enum TransportKind {
    WebRtc(WebRtc),
    PlainRtp(PlainRtp),
}

/// What a flush may send, and under which keys.
pub struct Sending<'a> {
    /// Bytes; without a bound `usize::MAX`.
    pub room: usize,
    pub sealer: &'a mut Sealer,
}

impl TransportKind {
    pub fn web_rtc(&self) -> Option<&WebRtc> {
        match self {
            TransportKind::WebRtc(web_rtc) => Some(web_rtc),
            TransportKind::PlainRtp(_) => None,
        }
    }

    pub fn web_rtc_mut(&mut self) -> Option<&mut WebRtc> {
        match self {
            TransportKind::WebRtc(web_rtc) => Some(web_rtc),
            TransportKind::PlainRtp(_) => None,
        }
    }

    pub fn plain_rtp(&self) -> Option<&PlainRtp> {
        match self {
            TransportKind::WebRtc(_) => None,
            TransportKind::PlainRtp(plain) => Some(plain),
        }
    }

    /// The path to send on.
    pub fn exit(&self) -> Option<Path> {
        match self {
            TransportKind::WebRtc(web_rtc) => web_rtc.exit(),
            TransportKind::PlainRtp(plain) => plain.path(),
        }
    }

    /// Every path that is this transport's.
    pub fn paths(&self) -> impl Iterator<Item = Path> {
        let checked = self.web_rtc().into_iter().flat_map(|web_rtc| web_rtc.ice.paths());
        checked.chain(self.plain_rtp().and_then(PlainRtp::path))
    }

    pub fn is_valid_path(&self, path: Path) -> bool {
        self.paths().any(|known| known == path)
    }

    /// None: there are no keys yet, or no more.
    pub fn srtp(&self) -> Option<&SrtpContext> {
        match self {
            TransportKind::WebRtc(WebRtc { link: Link::Up(up), .. }) => Some(&up.srtp),
            TransportKind::WebRtc(_) => None,
            TransportKind::PlainRtp(plain) => Some(&plain.srtp),
        }
    }

    pub fn srtp_mut(&mut self) -> Option<&mut SrtpContext> {
        match self {
            TransportKind::WebRtc(WebRtc { link: Link::Up(up), .. }) => Some(&mut up.srtp),
            TransportKind::WebRtc(_) => None,
            TransportKind::PlainRtp(plain) => Some(&mut plain.srtp),
        }
    }

    pub fn opener(&mut self) -> Option<&mut Opener> {
        self.srtp_mut().map(|srtp| &mut srtp.opener)
    }

    /// A packet from this path was opened.
    pub fn heard(&mut self, path: Path, bytes: usize) {
        match self {
            TransportKind::WebRtc(web_rtc) if web_rtc.bounded => web_rtc.proof.heard(path, bytes),
            TransportKind::WebRtc(_) => {}
            TransportKind::PlainRtp(plain) => plain.heard(path),
        }
    }

    /// Packets with numbers out of this log are about to leave; None without keys.
    pub fn sending(&mut self, now: Instant, log: &mut SentLog, rng: &mut impl Rng) -> Option<Sending<'_>> {
        match self {
            TransportKind::WebRtc(WebRtc { link: Link::Up(up), bounded, proof, .. }) => {
                if *bounded {
                    proof.draw(now, log, rng);
                }
                let room = if *bounded { proof.room() } else { usize::MAX };
                Some(Sending { room, sealer: &mut up.srtp.sealer })
            }
            TransportKind::WebRtc(_) => None,
            TransportKind::PlainRtp(plain) => Some(Sending { room: usize::MAX, sealer: &mut plain.srtp.sealer }),
        }
    }

    /// Counts what a flush has sealed.
    pub fn has_sent(&mut self, log: &SentLog, bytes: u64) {
        if let TransportKind::WebRtc(web_rtc) = self {
            web_rtc.has_sent(log, bytes);
        }
    }

    /// Whether a datagram that is no media may leave by the path to send on.
    pub fn admits(&mut self, bytes: usize) -> bool {
        match self {
            TransportKind::WebRtc(web_rtc) => web_rtc.admits(bytes),
            TransportKind::PlainRtp(_) => true,
        }
    }

    /// Sending is bounded, because the path has yet to be proved.
    pub fn is_bounded(&self) -> bool {
        matches!(self, TransportKind::WebRtc(WebRtc { bounded: true, .. }))
    }

    /// The time for a sender report that is about to leave.
    pub fn report_time(&mut self, ntp: NtpTime, rng: &mut impl Rng) -> NtpTime {
        match self {
            TransportKind::WebRtc(web_rtc) => web_rtc.proof.report(ntp, rng),
            TransportKind::PlainRtp(_) => ntp,
        }
    }

    pub fn consent_deadline(&self) -> Option<Instant> {
        self.web_rtc().and_then(WebRtc::consent_deadline)
    }

    pub fn link_deadline(&self) -> Option<Instant> {
        self.web_rtc().and_then(WebRtc::link_deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::buffer::LocalIndex;
    use crate::transport::ice_lite::{IceCredentialsLocal, IceLite};

    #[test]
    fn plain_rtp_has_its_keys_from_the_start_and_webrtc_has_to_come_to_them() {
        let path = Path::udp(LocalIndex(3), ([192, 0, 2, 1], 7).into());
        let credentials = IceCredentialsLocal { ufrag: "ufrag".into(), pwd: "a password of twenty-four".into() };
        let mut kinds = [
            TransportKind::WebRtc(WebRtc::new(IceLite::new(credentials))),
            TransportKind::PlainRtp(PlainRtp::new(LocalIndex(3), None, SrtpContext::clear())),
        ];
        assert_eq!([0, 1].map(|at| kinds[at].srtp().is_some()), [false, true]);
        kinds.iter_mut().for_each(|kind| kind.heard(path, 100));
        assert_eq!([0, 1].map(|at| kinds[at].exit()), [None, Some(path)], "a packet makes no path of ICE");
        assert_eq!([0, 1].map(|at| kinds[at].is_valid_path(path)), [false, true]);
        assert!(kinds.iter().all(|kind| !kind.is_bounded() && kind.consent_deadline().is_none()));
        assert!(kinds[1].web_rtc_mut().is_none() && kinds[0].plain_rtp().is_none());
    }
}
