//! RFC 8285 section 5: a packet has the header extensions that its receiver agreed to, and no other.

use std::collections::BTreeSet;

use weirgate::base::id::Ssrc;
use weirgate::base::seq::Seq;
use weirgate::base::time::Duration;
use weirgate::wire::extension::{Extension, ExtensionSet};
use weirgate::wire::rtcp_write::RtcpWriter;

use crate::shard_rig::{consumer_spec, producer_spec};
use crate::support::{CONSUMED, Call, PUBLISHED, Rtp};

const KEYFRAME: [u8; 10] = [0x10, 0, 0, 0, 0x9d, 0x01, 0x2a, 1, 1, 1];
/// The extensions that a publisher may send, under other ids than the router's, each with whether it describes the
/// media itself.
const SAID: [(Extension, u8, &[u8], bool); 4] = [
    (Extension::AudioLevel, 8, &[0x99], true),
    (Extension::TransmissionOffset, 11, &[1, 2, 3], false),
    (Extension::PlayoutDelay, 14, &[0, 0x10, 2], true),
    (Extension::AbsCaptureTime, 13, &[7; 8], true),
];
/// The extensions written at each hop.
const OWN: [Extension; 3] = [Extension::Mid, Extension::AbsSendTime, Extension::TransportCc];

#[test]
fn a_packet_has_what_was_agreed_and_no_more() {
    let known: Vec<Extension> = SAID.iter().map(|said| said.0).chain(OWN).collect();
    for picked in 0..1u32 << known.len() {
        let agreed: Vec<Extension> =
            known.iter().enumerate().filter(|(at, _)| picked & 1 << at != 0).map(|(_, extension)| *extension).collect();
        let (mut produced, mut consumed) = (producer_spec(PUBLISHED), consumer_spec(CONSUMED));
        SAID.iter().for_each(|(extension, id, ..)| produced.extensions.set(*extension, *id));
        consumed.extensions = ExtensionSet::default();
        agreed.iter().for_each(|extension| consumed.extensions.insert(*extension));
        let mut call = Call::new(1, produced, consumed);
        let elements = SAID.map(|(_, id, value, _)| (id, value));
        call.send(Rtp { payload: &KEYFRAME, elements: &elements, ..Rtp::default() });
        let media = call.media();
        call.ask_again(&[Seq(media[0].seq)]);
        let travels = |extension: Extension| SAID.iter().all(|said| said.0 != extension || said.3);
        let mut expected: BTreeSet<u8> =
            agreed.iter().filter(|extension| travels(**extension)).map(|extension| extension.id()).collect();
        let ids = |elements: &[(u8, Vec<u8>)]| elements.iter().map(|(id, _)| *id).collect::<BTreeSet<u8>>();
        assert_eq!(ids(&media[0].elements), expected, "{agreed:?}");
        for (extension, _, value, _) in SAID {
            assert!(media[0].element(extension.id()).is_none_or(|out| out == value), "{extension:?}");
        }
        assert_eq!(media[0].payload, KEYFRAME);
        let repair = &call.repairs()[0];
        // The NACK named our SSRC.
        expected.remove(&Extension::Mid.id());
        assert_eq!((ids(&repair.elements), &repair.payload[2..]), (expected, &KEYFRAME[..]), "{agreed:?}");
    }
}

/// The offset of an absolute capture time is that to the clock of the sender's reports: towards viewers, ours.
#[test]
fn a_capture_times_offset_is_to_the_clock_of_our_reports() {
    for ahead in [30i64, -3_600] {
        let (mut produced, mut consumed) = (producer_spec(PUBLISHED), consumer_spec(CONSUMED));
        produced.extensions.set(Extension::AbsCaptureTime, 13);
        consumed.extensions.insert(Extension::AbsCaptureTime);
        let mut call = Call::new(1, produced, consumed);
        // The capture system's clock is two seconds ahead of the publisher's.
        let value = [[9; 8], (2i64 << 32).to_be_bytes()].concat();
        let elements = [(13, &value[..])];
        call.send(Rtp { payload: &KEYFRAME, elements: &elements, ..Rtp::default() });
        assert_eq!(call.media()[0].element(Extension::AbsCaptureTime.id()), Some(&[9; 8][..]), "nobody can say yet");
        let ntp = call.rig.now.wall.offset_nanos(ahead * 1_000_000_000);
        let mut report = Vec::new();
        RtcpWriter::new(&mut report).sender_report(Ssrc(PUBLISHED), ntp, 90_000, 1, 10, &[]);
        assert!(call.rig.clients[call.publisher].peer.send_rtcp(report));
        call.send(Rtp { seq: 501, payload: &[0x10, 1, 2], elements: &elements, ..Rtp::default() });
        let media = call.media();
        let out = media[1].element(Extension::AbsCaptureTime.id()).expect("agreed");
        assert_eq!((out.len(), &out[..8]), (16, &[9; 8][..]));
        let offset = i64::from_be_bytes(out[8..].try_into().unwrap());
        let wrong = (offset >> 16).abs_diff((2 + ahead) << 16) * 1_000 / 65_536;
        assert!(u128::from(wrong) <= Duration::from_millis(20).as_millis(), "{wrong} ms off");
    }
}
