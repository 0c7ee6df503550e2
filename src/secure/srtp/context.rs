//! Both directions of one transport: the cryptographic contexts of RFC 3711 section 3.2, or RTP as it is.

use super::keys::{MasterKey, SrtpProfile};
use super::opener::Opener;
use super::sealer::Sealer;

/// The master keys of both directions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SrtpKeys {
    pub profile: SrtpProfile,
    /// Of what we send.
    pub local: MasterKey,
    pub remote: MasterKey,
}

/// What leaves and what comes on one transport.
#[repr(C)]
pub struct SrtpContext {
    pub sealer: Sealer,
    pub opener: Opener,
    profile: Option<SrtpProfile>,
}

impl SrtpContext {
    pub fn new(profile: SrtpProfile, local: &MasterKey, remote: &MasterKey) -> SrtpContext {
        let (sealer, opener) = (Sealer::new(profile, local), Opener::new(profile, remote));
        SrtpContext { sealer, opener, profile: Some(profile) }
    }

    /// RTP without SRTP: nothing is encrypted, and nothing is verified.
    pub fn clear() -> SrtpContext {
        SrtpContext { sealer: Sealer::clear(), opener: Opener::clear(), profile: None }
    }

    /// None: in the clear.
    pub fn profile(&self) -> Option<SrtpProfile> {
        self.profile
    }
}

impl From<&SrtpKeys> for SrtpContext {
    fn from(keys: &SrtpKeys) -> SrtpContext {
        SrtpContext::new(keys.profile, &keys.local, &keys.remote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Ssrc;
    use crate::base::seq::Seq;
    use crate::secure::SecureDrop;

    #[test]
    fn in_the_clear_packets_stay_what_they_are() {
        let mut context = SrtpContext::clear();
        let mut packet = vec![0x80, 96, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0xEE, 0xEE];
        let rtp = packet.clone();
        assert_eq!(context.sealer.seal_rtp(5, &mut packet, 12, 14), Ok(14));
        for _ in 0..2 {
            assert_eq!(
                context.opener.open_rtp(12, Ssrc(1), Seq(5), &mut packet),
                Ok(14),
                "a repeat is not our concern"
            );
        }
        assert_eq!(packet, rtp);
        assert_eq!(context.opener.open_rtp(12, Ssrc(1), Seq(5), &mut packet[..11]), Err(SecureDrop::TooShort));
        let mut compound = vec![0x80, 201, 0, 1, 0, 0, 0, 1];
        let rtcp = compound.clone();
        context.sealer.seal_rtcp(&mut compound).unwrap();
        assert_eq!((context.opener.open_rtcp(&mut compound), &compound), (Ok(8), &rtcp));
        assert_eq!((context.sealer.tag_len(), context.profile()), (0, None));
    }

    #[test]
    fn each_end_opens_what_the_other_sealed() {
        for profile in SrtpProfile::ALL {
            let key = |byte| MasterKey::new(profile, &vec![byte; profile.key_len()], &vec![byte; profile.salt_len()]);
            let ours = SrtpKeys { profile, local: key(1).unwrap(), remote: key(2).unwrap() };
            let theirs = SrtpKeys { profile, local: ours.remote.clone(), remote: ours.local.clone() };
            let (mut one, mut other) = (SrtpContext::from(&ours), SrtpContext::from(&theirs));
            let compound = vec![0x80, 201, 0, 1, 0, 0, 0, 1];
            let mut sealed = compound.clone();
            one.sealer.seal_rtcp(&mut sealed).unwrap();
            assert!(one.opener.open_rtcp(&mut sealed.clone()).is_err(), "not its own");
            let len = other.opener.open_rtcp(&mut sealed).unwrap();
            assert_eq!((&sealed[..len], one.profile()), (&compound[..], Some(profile)));
        }
    }
}
