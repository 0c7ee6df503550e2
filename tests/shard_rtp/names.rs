//! RFC 8852 and RFC 9143: what names a stream in its packets, as senders write it.

use weirgate::base::id::Rid;
use weirgate::shard::command::EncodingSpec;
use weirgate::wire::extension::Extension;

use crate::shard_rig::{RTX, VIDEO, producer_spec};
use crate::support::{Call, MID, PUBLISHED, Rtp, TRANSPORT_CC};

const RID: u8 = 6;
const REPAIRED: u8 = 7;
const KEYFRAME: [u8; 10] = [0x10, 0, 0, 0, 0x9d, 0x01, 0x2a, 1, 1, 1];
const NOWHERE: &str = "unknown_ssrc";

/// Whether packets with these elements find the producer, whose SSRCs nobody announced.
fn is_found(payload_type: weirgate::base::id::PayloadType, elements: &[(u8, &[u8])]) -> bool {
    let mut call = Call::unproduced(1);
    let mut spec = producer_spec(PUBLISHED);
    let encoding = |rid: &[u8]| EncodingSpec { ssrc: None, rtx_ssrc: None, rid: Rid::new(rid) };
    spec.encodings = vec![encoding(b"lo"), encoding(b"hi")];
    spec.extensions.set(Extension::Rid, RID);
    spec.extensions.set(Extension::RepairedRid, REPAIRED);
    call.produce(spec);
    call.send(Rtp { ssrc: 77, payload_type, elements, payload: &KEYFRAME, ..Rtp::default() });
    call.rig.run(crate::shard_rig::millis(600));
    let lost = call.drops(NOWHERE);
    assert!(lost <= 1);
    lost == 0
}

#[test]
fn mid_rid_and_repaired_rid_are_read_alike() {
    let long = [b'h'; 40];
    let values: [(&[u8], &[u8], bool); 7] = [
        (b"0", b"hi", true),
        (b"0\0\0\0", b"hi\0", true),
        (b"0\0rest", b"hi\0rest", true),
        (b"\x000", b"\0hi", false),
        (b"", b"", false),
        (&long, &long, false),
        (b"1", b"no", false),
    ];
    for (mid, rid, good) in values {
        for (which, payload_type) in [(RID, VIDEO), (REPAIRED, RTX)] {
            let numbered = (TRANSPORT_CC, &[0, 9][..]);
            assert_eq!(is_found(payload_type, &[(MID, b"0"), (which, rid), numbered]), good, "rid {rid:?}");
            // An element that is no name is no mid either: the rid alone must do.
            let absent = matches!(mid, [] | [0, ..]) || mid.len() > 31;
            let found = is_found(payload_type, &[(MID, mid), (which, b"hi"), numbered]);
            assert_eq!(found, good || absent, "mid {mid:?}");
        }
    }
}
