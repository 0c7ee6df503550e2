//! Records of DTLS 1.2 as they stand in a datagram (RFC 6347 section 4.1): their frame, not what is in them.

/// Content types (RFC 5246 section 6.2.1).
pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

pub(super) const RECORD_HEADER_LEN: usize = 13;

/// A fatal handshake_failure in plaintext (RFC 5246 section 7.2.2): what is said to whoever is refused.
pub const HANDSHAKE_FAILURE: [u8; 15] = [21, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 40];

#[derive(Clone, Copy)]
pub(super) struct DtlsRecord<'a> {
    pub(super) kind: u8,
    pub(super) epoch: u16,
    pub(super) payload: &'a [u8],
    pub(super) whole: &'a [u8],
}

impl<'a> DtlsRecord<'a> {
    /// The first record of `bytes` and what follows it. None for anything but a whole, non-empty DTLS 1.0 or 1.2 record.
    pub(super) fn split(bytes: &'a [u8]) -> Option<(DtlsRecord<'a>, &'a [u8])> {
        let (header, rest) = bytes.split_at_checked(RECORD_HEADER_LEN)?;
        let len = usize::from(u16::from_be_bytes([header[11], header[12]]));
        let (payload, rest) = rest.split_at_checked(len)?;
        let version_known = header[1] == 0xFE && matches!(header[2], 0xFD | 0xFF);
        if payload.is_empty() || !version_known {
            return None;
        }
        let whole = &bytes[..RECORD_HEADER_LEN + len];
        Some((DtlsRecord { kind: header[0], epoch: u16::from_be_bytes([header[3], header[4]]), payload, whole }, rest))
    }

    /// Epoch and sequence number, as one.
    pub(super) fn number(&self) -> u64 {
        self.whole[3..11].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
    }
}

/// Whether a datagram begins with the first ClientHello of a handshake.
pub fn is_client_hello(datagram: &[u8]) -> bool {
    const CLIENT_HELLO: u8 = 1;
    let record = DtlsRecord::split(datagram).map(|(record, _)| record);
    record.is_some_and(|record| (record.kind, record.epoch, record.payload[0]) == (HANDSHAKE, 0, CLIENT_HELLO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_split_off_whole_or_not_at_all() {
        let first = [22, 0xFE, 0xFF, 0, 1, 0, 0, 0, 0, 0, 9, 0, 2, 7, 8];
        let datagram = [&first[..], &HANDSHAKE_FAILURE].concat();
        let (record, rest) = DtlsRecord::split(&datagram).unwrap();
        assert_eq!((record.kind, record.epoch, record.number()), (HANDSHAKE, 1, 1 << 48 | 9));
        assert_eq!((record.payload, record.whole), (&[7, 8][..], &first[..]));
        let (alert, rest) = DtlsRecord::split(rest).unwrap();
        assert_eq!((alert.kind, alert.payload, rest), (ALERT, &[2, 40][..], &[][..]));
        (0..first.len()).for_each(|len| assert!(DtlsRecord::split(&first[..len]).is_none(), "cut to {len}"));
        for (at, byte) in [(1, 3), (2, 3), (12, 0), (12, 3)] {
            let mut torn = first;
            torn[at] = byte;
            assert!(DtlsRecord::split(&torn).is_none(), "byte {at}");
        }
    }

    #[test]
    fn a_hello_is_known_by_its_first_bytes() {
        let hello = [22, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
        assert!(is_client_hello(&hello));
        for (at, byte) in [(0, 21), (4, 1), (13, 2)] {
            let mut other = hello;
            other[at] = byte;
            assert!(!is_client_hello(&other), "byte {at}");
        }
        assert!(!is_client_hello(&hello[..13]));
    }
}
