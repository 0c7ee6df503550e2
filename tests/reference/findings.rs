//! The findings of the models, each by its name and as small as it could be made.

use weirgate::base::id::{Layers, Mid, PayloadType, PeerId, ProducerId, Ssrc};
use weirgate::base::limits::NACK_LIST_MAX;
use weirgate::base::ranking::Ranking;
use weirgate::shard::command::{Command, EncodingSpec, FeedbackSpec, MediaKind, ProducerSpec};
use weirgate::wire::codec::Codec;
use weirgate::wire::extension::ExtensionIds;
use weirgate::wire::feedback;
use weirgate::wire::rtcp::{self, Rtcp};

use crate::flights;
use crate::shard_rig::{Rig, Stream, millis};

const SSRC: u32 = 1_000;
const OPUS: PayloadType = PayloadType(111);

/// One fragment that states another length than the message has, sent before the client's own: it kept the client's out
/// until the handshake was given up. In either role.
#[test]
fn a_forged_fragment_of_another_length_keeps_no_message_out() {
    let (forged, longer_by, whole) = (5, 7, 0);
    for role in [0, 1] {
        for message in 0..3 {
            assert!(flights::run(&[role, message, forged, longer_by, whole]) > 0);
        }
    }
}

/// Too many packets of an audio stream were missing for NACKs, and a PLI went out instead.
#[test]
fn audio_that_offers_keyframe_feedback_is_asked_for_none() {
    let mut rig = Rig::new(1);
    let publisher = rig.connected(0, 1, 1);
    let feedback = FeedbackSpec { nack: true, pli: true, fir: true, transport_cc: true, remb: false };
    let spec = ProducerSpec {
        kind: MediaKind::Audio,
        codec: Codec::Opus,
        clock_rate: 48_000,
        payload_type: OPUS,
        rtx_payload_type: None,
        mid: Mid::new(b"0"),
        encodings: vec![EncodingSpec { ssrc: Some(Ssrc(SSRC)), rtx_ssrc: None, rid: None }],
        ranking: Ranking::default(),
        ranked: true,
        top: Layers::default(),
        extensions: ExtensionIds::default(),
        feedback,
    };
    let (producer, peer, spec) = (ProducerId(1), PeerId(1), Box::new(spec));
    rig.command(0, Command::Produce { producer, peer, transport: None, spec, paused: false });
    let mut stream = Stream::new(SSRC);
    for seq in [1, 3, 4 + NACK_LIST_MAX as u16] {
        let packet = stream.packet(SSRC, OPUS, seq, &[0xfc; 40]);
        assert!(rig.clients[publisher].peer.send_rtp(&packet));
        rig.run(millis(10));
    }
    let compounds = rig.clients[publisher].rtcp.iter();
    let said: Vec<_> = compounds.flat_map(|(_, compound)| rtcp::parse(compound).flatten()).collect();
    let nacks = said.iter().filter(|packet| matches!(packet, Rtcp::Feedback(feedback::Feedback::Nack(_))));
    assert!(nacks.count() > 0, "what is missing is asked for: {said:?}");
    let keys =
        |packet: &&Rtcp<'_>| matches!(packet, Rtcp::Feedback(feedback::Feedback::Pli(_) | feedback::Feedback::Fir(_)));
    assert_eq!(said.iter().filter(keys).count(), 0, "{said:?}");
}
