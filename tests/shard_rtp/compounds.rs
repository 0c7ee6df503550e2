//! RFC 3550 appendix A.2: of a compound's packets a bad one hides no good one.

use weirgate::base::id::Ssrc;
use weirgate::wire::rtcp_write::RtcpWriter;

use crate::shard_rig::{consumer_spec, millis, producer_spec};
use crate::support::{CONSUMED, Call, PUBLISHED, Rtp};

const KEYFRAME: [u8; 10] = [0x10, 0, 0, 0, 0x9d, 0x01, 0x2a, 1, 1, 1];

#[test]
fn a_pli_behind_a_bad_packet_is_heard() {
    let bad: [(&str, &[u8]); 9] = [
        ("an SDES chunk without its zero", &[0x81, 202, 0, 3, 0, 0, 0, 1, 1, 6, b'c', b'n', b'a', b'm', b'e', b's']),
        ("an SDES item that is too long", &[0x81, 202, 0, 2, 0, 0, 0, 1, 1, 99, b'a', b'b']),
        ("a BYE of another source whose reason is too long", &[0x81, 203, 0, 2, 0, 0, 0, 9, 200, b'b', b'y', b'e']),
        ("a BYE of more sources than it has", &[0x9F, 203, 0, 1, 0, 0, 0, 9]),
        ("a receiver report of more blocks than it has", &[0x83, 201, 0, 1, 0, 0, 0, 1]),
        ("a sender report without its numbers", &[0x80, 200, 0, 1, 0, 0, 0, 1]),
        ("an APP", &[0x80, 204, 0, 2, 0, 0, 0, 1, b'n', b'a', b'm', b'e']),
        ("an XR that is no XR", &[0x80, 207, 0, 1, 0, 0, 0, 1]),
        ("a NACK of half a word, padded", &[0xA1, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 2]),
    ];
    for (what, bad) in bad {
        let mut call = Call::new(1, producer_spec(PUBLISHED), consumer_spec(CONSUMED));
        call.send(Rtp { payload: &KEYFRAME, ..Rtp::default() });
        call.rig.run(millis(1_000));
        let before = call.plis();
        let mut compound = Vec::new();
        RtcpWriter::new(&mut compound).receiver_report(Ssrc(1), &[]);
        compound.extend_from_slice(bad);
        RtcpWriter::new(&mut compound).pli(Ssrc(1), Ssrc(CONSUMED));
        // The last packet is cut short and leads nowhere.
        compound.extend_from_slice(&[0x80, 201, 0, 40, 0, 0, 0, 1]);
        assert!(call.rig.clients[call.viewer].peer.send_rtcp(compound));
        call.rig.run(millis(10));
        assert_eq!(call.plis(), before + 1, "{what}");
        let counted = call.drops("malformed_rtcp");
        assert!((1..=2).contains(&counted), "{what}: {counted}");
    }
}
