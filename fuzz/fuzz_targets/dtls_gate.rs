//! The DTLS gate in both roles. The first byte chooses the role; the rest is datagrams, each behind two bytes of length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate::base::limits::{EARLY_RECORD_BYTES_MAX, EARLY_RECORDS_MAX, HANDSHAKE_BYTES_MAX};
use weirgate::secure::dtls::Side;
use weirgate::secure::dtls::gate::Gate;

const RECORD_HEADER_LEN: usize = 13;
const HELD_MAX: usize = HANDSHAKE_BYTES_MAX + EARLY_RECORDS_MAX * (EARLY_RECORD_BYTES_MAX + RECORD_HEADER_LEN);

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, mut rest)) = bytes.split_first() else { return };
    let mut gate = Gate::new(if choice & 1 == 0 { Side::Server } else { Side::Client });
    let mut hellos = 0;
    while let Some((len, behind)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(behind.len());
        let (datagram, behind) = behind.split_at(len);
        rest = behind;
        let outcome = gate.handle(datagram);
        hellos += usize::from(outcome.hello.is_some());
        for delivered in &outcome.deliver {
            assert!((RECORD_HEADER_LEN + 1..=8_192).contains(&delivered.len()));
            assert!(matches!(delivered[0], 20..=22));
        }
        assert!(gate.held() <= HELD_MAX);
    }
    assert!(hellos <= 1, "the library is started once");
});
