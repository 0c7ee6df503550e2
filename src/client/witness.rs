//! webrtc-srtp as the witness of one end of a transport: it opens a sample of what that end received and sealed, so
//! that no fault can hide in the SRTP that the server and its clients share.

use std::collections::HashSet;

use rustc_hash::FxBuildHasher;
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

use crate::secure::dtls::Keying;
use crate::secure::srtp::{MasterKey, SrtpProfile};
use crate::sim::endpoint::{Heading, Witness, WitnessCounts};
use crate::wire::Kind;

/// One RTP packet in this many is compared, by its number, and the first of each stream. The other SRTP counts
/// rollovers itself.
const RTP_SAMPLE: u16 = 256;
/// One RTCP compound in this many is compared.
const RTCP_SAMPLE: u64 = 16;
/// The SSRC of a packet is anybody's until the packet is opened: so many are remembered.
const STREAMS_MAX: usize = 4_096;

/// The other SRTP of one transport. Its contexts are made at the first comparison: most transports of a large run are
/// idle.
#[derive(Default)]
pub struct OtherSrtp {
    keys: Option<Keys>,
    sent: Option<Context>,
    received: Option<Context>,
    streams: HashSet<[u8; 4], FxBuildHasher>,
    compounds: u64,
    seen: WitnessCounts,
}

struct Keys {
    profile: SrtpProfile,
    local: MasterKey,
    remote: MasterKey,
}

fn theirs(profile: SrtpProfile) -> ProtectionProfile {
    match profile {
        SrtpProfile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        SrtpProfile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
        SrtpProfile::Aes128CmSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
    }
}

impl OtherSrtp {
    fn context(&mut self, heading: Heading) -> Option<&mut Context> {
        let keys = self.keys.as_ref()?;
        let (context, master) = match heading {
            Heading::Sent => (&mut self.sent, &keys.local),
            Heading::Received => (&mut self.received, &keys.remote),
        };
        if context.is_none() {
            *context = Context::new(master.key(), master.salt(), theirs(keys.profile), None, None).ok();
        }
        context.as_mut()
    }
}

impl Witness for OtherSrtp {
    fn keyed(&mut self, keying: &Keying) {
        let Keying { profile, local, remote, .. } = keying;
        let keys = Keys { profile: *profile, local: local.clone(), remote: remote.clone() };
        *self = OtherSrtp { keys: Some(keys), seen: self.seen, ..OtherSrtp::default() };
    }

    fn wants(&mut self, kind: Kind, packet: &[u8]) -> bool {
        if kind == Kind::Rtcp {
            self.compounds += 1;
            return self.compounds % RTCP_SAMPLE == 1;
        }
        let (Some(seq), Some(ssrc)) = (packet.get(2..4), packet.get(8..12)) else { return false };
        let (Ok(seq), Ok(ssrc)) = (seq.try_into(), ssrc.try_into()) else { return false };
        let first = self.streams.len() < STREAMS_MAX && self.streams.insert(ssrc);
        first || u16::from_be_bytes(seq).is_multiple_of(RTP_SAMPLE)
    }

    fn compare(&mut self, heading: Heading, kind: Kind, sealed: &[u8], plain: &[u8]) {
        let Some(context) = self.context(heading) else { return };
        let opened = match kind {
            Kind::Rtcp => context.decrypt_rtcp(sealed),
            _ => context.decrypt_rtp(sealed),
        };
        let agrees = opened.as_ref().is_ok_and(|opened| opened == plain);
        if !agrees {
            tracing::warn!(?heading, ?kind, ?opened, ?plain, "webrtc-srtp reads a packet otherwise");
        }
        self.seen.compared += 1;
        self.seen.disputed += u64::from(!agrees);
    }

    fn seen(&self) -> WitnessCounts {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Ssrc;
    use crate::base::seq::Seq;
    use crate::secure::srtp::{OVERHEAD_MAX, Sealer};

    fn keying(profile: SrtpProfile) -> Keying {
        let master = |fill: u8| {
            MasterKey::new(profile, &vec![fill; profile.key_len()], &vec![fill; profile.salt_len()]).expect("it fits")
        };
        Keying { profile, suite: "", local: master(1), remote: master(2), peer_certificate: Vec::new() }
    }

    fn packet(seq: u16, ssrc: u32) -> Vec<u8> {
        let mut packet = vec![0x80, 96];
        packet.extend(Seq(seq).0.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(Ssrc(ssrc).0.to_be_bytes());
        packet.extend([7; 100]);
        packet
    }

    #[test]
    fn each_stream_is_compared_in_both_directions_across_a_rollover() {
        for profile in SrtpProfile::ALL {
            let (keying, mut witness) = (keying(profile), OtherSrtp::default());
            witness.keyed(&keying);
            for (heading, master) in [(Heading::Sent, &keying.local), (Heading::Received, &keying.remote)] {
                let mut sealer = Sealer::new(profile, master);
                for index in 65_000..66_000u64 {
                    let plain = packet(index as u16, 5 + heading as u32);
                    let mut sealed = plain.clone();
                    sealed.resize(plain.len() + OVERHEAD_MAX, 0);
                    let len = sealer.seal_rtp(index, &mut sealed, 12, plain.len()).expect("it is sealed");
                    if witness.wants(Kind::Rtp, &plain) {
                        witness.compare(heading, Kind::Rtp, &sealed[..len], &plain);
                    }
                }
            }
            let seen = witness.seen();
            assert!((8..12).contains(&seen.compared) && seen.disputed == 0, "{profile:?}: {seen:?}");
        }
    }

    #[test]
    fn forged_streams_are_remembered_up_to_a_bound() {
        let mut witness = OtherSrtp::default();
        for ssrc in 0..2 * STREAMS_MAX as u32 {
            assert_eq!(witness.wants(Kind::Rtp, &packet(1, ssrc)), (ssrc as usize) < STREAMS_MAX);
        }
        assert_eq!(witness.streams.len(), STREAMS_MAX);
    }

    #[test]
    fn another_reading_of_a_packet_and_another_key_are_disputed() {
        let (keying, mut witness) = (keying(SrtpProfile::AeadAes128Gcm), OtherSrtp::default());
        witness.keyed(&keying);
        let mut compound = vec![0x80, 201, 0, 1, 0, 0, 0, 9];
        let plain = compound.clone();
        assert!(witness.wants(Kind::Rtcp, &plain) && !witness.wants(Kind::Rtcp, &plain));
        Sealer::new(keying.profile, &keying.remote).seal_rtcp(&mut compound).expect("it is sealed");
        witness.compare(Heading::Received, Kind::Rtcp, &compound, &plain);
        assert_eq!(witness.seen(), WitnessCounts { compared: 1, disputed: 0 });
        witness.compare(Heading::Received, Kind::Rtcp, &compound, &plain[..4]);
        witness.compare(Heading::Sent, Kind::Rtcp, &compound, &plain);
        assert_eq!(witness.seen(), WitnessCounts { compared: 3, disputed: 2 });
    }
}
