//! Why something that came from a peer went no further than this folder: the reasons that /metrics counts.

macro_rules! drops {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// Why something that came from a peer went no further.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum SecureDrop {
            $($(#[$doc])* $variant,)+
        }

        impl SecureDrop {
            pub const ALL: &[SecureDrop] = &[$(SecureDrop::$variant,)+];

            /// As it appears in /metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(SecureDrop::$variant => $name,)+
                }
            }
        }
    };
}

drops! {
    /// A record or handshake message that is not built as RFC 6347 and RFC 5246 say.
    DtlsMalformed = "dtls_malformed",
    /// A handshake message over [`crate::base::limits::HANDSHAKE_MESSAGE_BYTES_MAX`].
    DtlsTooLarge = "dtls_too_large",
    /// Well formed, but not what may come now.
    DtlsOutOfPlace = "dtls_out_of_place",
    /// Fragments beyond what one handshake may hold.
    DtlsBufferFull = "dtls_buffer_full",
    /// An encrypted record before the keys to read it, beyond the few that are held.
    DtlsEarly = "dtls_early",
    /// An alert, or after the handshake anything at all, that came in plaintext: anybody could have forged it.
    DtlsPlaintext = "dtls_plaintext",
    /// An encrypted alert that the session's keys do not open.
    DtlsForged = "dtls_forged",
    /// A ClientHello with a cookie whose parameters differ from the first one's.
    DtlsHelloChanged = "dtls_hello_changed",
    /// The peer repeats its flight and ours was sent again too often or a moment ago.
    DtlsRepeatLimit = "dtls_repeat_limit",
    DtlsQueueFull = "dtls_queue_full",
    /// The session has ended.
    DtlsClosed = "dtls_closed",
    /// Media before the handshake is done and the fingerprint compared.
    NotReady = "srtp_not_ready",
    TooShort = "srtp_too_short",
    BadTag = "srtp_bad_tag",
    Replayed = "srtp_replayed",
    /// Older than the replay window.
    TooOld = "srtp_too_old",
    /// SRTCP with the E bit 0: nobody in WebRTC sends it.
    Unencrypted = "srtcp_unencrypted",
    UnknownSsrcLimit = "srtp_ssrc_limit",
}

#[cfg(test)]
mod tests {
    use super::SecureDrop;

    #[test]
    fn every_reason_has_its_own_name() {
        let mut names: Vec<_> = SecureDrop::ALL.iter().map(|why| why.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SecureDrop::ALL.len());
    }
}
