//! The numbers of RTCP (RFC 3550, RFC 4585, RFC 5104) that reading and writing share.

use crate::base::id::Ssrc;

pub(super) mod packet_type {
    pub(crate) const SENDER_REPORT: u8 = 200;
    pub(crate) const RECEIVER_REPORT: u8 = 201;
    pub(crate) const SDES: u8 = 202;
    pub(crate) const BYE: u8 = 203;
    pub(crate) const TRANSPORT_FEEDBACK: u8 = 205;
    pub(crate) const PAYLOAD_FEEDBACK: u8 = 206;
}

pub(super) mod format {
    pub(crate) const NACK: u8 = 1;
    pub(crate) const TRANSPORT_CC: u8 = 15;
    pub(crate) const PLI: u8 = 1;
    pub(crate) const FIR: u8 = 4;
    pub(crate) const APPLICATION: u8 = 15;
}

pub(super) const REMB_NAME: [u8; 4] = *b"REMB";

pub(super) fn ssrcs(bytes: &[u8]) -> impl ExactSizeIterator<Item = Ssrc> + '_ {
    bytes.as_chunks().0.iter().map(|word| Ssrc(u32::from_be_bytes(*word)))
}
