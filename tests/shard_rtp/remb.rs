//! A viewer that says it can receive next to nothing is believed, and harms only itself by it: what others are sent, and
//! what the publisher is told, is what it would be without.

use std::collections::BTreeSet;

use weirgate::base::id::{Mid, Rid, Ssrc};
use weirgate::base::units::Bitrate;
use weirgate::shard::command::{ConsumerSpec, EncodingSpec, FeedbackSpec, ProducerSpec};
use weirgate::wire::extension::Extension;
use weirgate::wire::feedback::Feedback as Told;
use weirgate::wire::rtcp::Rtcp;
use weirgate::wire::rtcp_write::RtcpWriter;

use crate::shard_rig::{consumer_spec, millis, producer_spec};
use crate::support::{CONSUMED, Call, Heard, MID, PUBLISHED, Rtp};

/// Of who says so.
const MEAN: u32 = CONSUMED + 10;
const RID: u8 = 6;
const RIDS: [&[u8]; 2] = [b"lo", b"hi"];
const FRAMES: u16 = 300;
const FRAME: u64 = 20;
/// From then on it is said.
const QUIET: u16 = 50;

/// What is said after each frame.
#[derive(Clone, Copy, Debug)]
enum Says {
    Nothing,
    Little,
    /// Now everything, now nothing.
    LittleAndMuch,
    /// As often as a datagram has room for.
    LittleAllTheTime,
}

/// Without transport-cc, so that REMB is all there is.
fn specs(encodings: usize) -> (ProducerSpec, impl Fn(u32) -> ConsumerSpec) {
    let feedback = FeedbackSpec { nack: true, pli: true, fir: true, transport_cc: false, remb: true };
    let mut produced = ProducerSpec { feedback, mid: Mid::new(b"0"), ..producer_spec(PUBLISHED) };
    if encodings > 1 {
        let encoding = |rid: &&[u8]| EncodingSpec { ssrc: None, rtx_ssrc: None, rid: Rid::new(rid) };
        produced.encodings = RIDS[..encodings].iter().map(encoding).collect();
        produced.extensions.set(Extension::Rid, RID);
    }
    let consumed = move |ssrc| ConsumerSpec { feedback, encodings, ..consumer_spec(ssrc) };
    (produced, consumed)
}

/// What the honest viewer got, what the mean one got, and what the publisher was told: REMBs and requests for keyframes.
#[derive(Debug)]
struct Outcome {
    honest: Vec<Heard>,
    mean: usize,
    told: Vec<Bitrate>,
    keyframes: usize,
}

fn run(encodings: usize, says: Says) -> Outcome {
    let (produced, consumed) = specs(encodings);
    let mut call = Call::new(1, produced, consumed(CONSUMED));
    let mean = call.rig.connected(0, 3, 3);
    call.rig.consume_as(0, 2, 3, 1, 0, consumed(MEAN));
    let mut asked = 0;
    for frame in 0..FRAMES {
        let plis = call.plis();
        let key = frame % 50 == 0 || plis > asked;
        asked = plis;
        for (at, rid) in RIDS[..encodings].iter().enumerate() {
            let mut payload: Vec<u8> = if key { vec![0x10, 0, 0, 0, 0x9d, 0x01, 0x2a] } else { vec![0x10, 1] };
            payload.resize(200 + 600 * at, 0xab);
            let named = [(MID, &b"0"[..]), (RID, rid)];
            let elements = if encodings > 1 { &named[..] } else { &named[..1] };
            call.send(Rtp {
                ssrc: PUBLISHED + 10 * at as u32,
                seq: 500 + frame,
                timestamp: 90_000 + u32::from(frame) * 1_800,
                elements,
                payload: &payload,
                ..Rtp::default()
            });
        }
        if frame >= QUIET {
            say(&mut call, mean, says, frame);
        }
        call.rig.run(millis(FRAME - 5 * encodings as u64));
    }
    let told = call.told(|packet| match packet {
        Rtcp::Feedback(Told::Remb(remb)) => Some(remb.bitrate),
        _ => None,
    });
    let mean = call.rig.clients[mean].rtp.iter().filter(|packet| Heard::read(packet).payload.len() > 100).count();
    Outcome { honest: call.media(), mean, told, keyframes: call.plis() }
}

fn say(call: &mut Call, mean: usize, says: Says, frame: u16) {
    let (rate, times) = match says {
        Says::Nothing => return,
        Says::LittleAndMuch if frame % 10 < 5 => (Bitrate::mbps(50), 1),
        Says::Little | Says::LittleAndMuch => (Bitrate(1), 1),
        Says::LittleAllTheTime => (Bitrate(1), 50),
    };
    let mut compound = Vec::new();
    for _ in 0..times {
        RtcpWriter::new(&mut compound).remb(Ssrc(1), rate, &[Ssrc(MEAN), Ssrc(CONSUMED), Ssrc(PUBLISHED)]);
    }
    assert!(call.rig.clients[mean].peer.send_rtcp(compound));
}

#[test]
fn a_low_remb_harms_only_who_says_it() {
    for encodings in [1, 2] {
        let without = run(encodings, Says::Nothing);
        assert!(without.honest.len() >= usize::from(FRAMES) - 5 && without.told.len() >= 4, "{encodings} encodings");
        for says in [Says::Little, Says::LittleAndMuch, Says::LittleAllTheTime] {
            let with = run(encodings, says);
            println!(
                "{encodings} encodings, {says:?}: {} of {} packets, {} requests for keyframes, {} without",
                with.mean, without.mean, with.keyframes, without.keyframes
            );
            assert_eq!(with.honest.len(), without.honest.len(), "{encodings} encodings, {says:?}");
            let large = |outcome: &Outcome| outcome.honest.iter().filter(|heard| heard.payload.len() > 700).count();
            assert_eq!(large(&with), large(&without), "the honest one has the large picture as before");
            // Keyframes that were asked for are counted too, and are of the same size here.
            let rates = |outcome: &Outcome| outcome.told.iter().copied().collect::<BTreeSet<Bitrate>>();
            assert_eq!(rates(&with), rates(&without), "the publisher is told what it was told");
            assert!(with.told.len() + 1 >= without.told.len(), "and as often");
            // As seldom as whoever asks for pictures all the time gets them: one a second, and a few ahead.
            let seconds = usize::from(FRAMES) * FRAME as usize / 1_000;
            assert!(with.keyframes <= encodings * (seconds + 5), "{} requests", with.keyframes);
        }
        // And it is believed.
        let with = run(encodings, Says::LittleAllTheTime);
        assert!(with.mean < without.mean / 2 || encodings > 1, "{} of {}", with.mean, without.mean);
    }
}
