//! RTCP datagrams after decryption: a malformed packet hides no other, and every packet that can be written again must
//! read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate::wire::Malformed;
use weirgate::wire::feedback::Feedback;
use weirgate::wire::rtcp::{Rtcp, parse};
use weirgate::wire::rtcp_write::RtcpWriter;
use weirgate::wire::transport_cc::{FEEDBACK_BYTES_MAX, FeedbackBuilder, TICK_US};

fuzz_target!(|bytes: &[u8]| {
    let packets: Vec<_> = parse(bytes).collect();
    assert!(packets.len() <= bytes.len().div_ceil(4));
    each_is_read_by_itself(bytes, &packets);
    let mut out = Vec::new();
    for packet in packets.into_iter().flatten() {
        out.clear();
        let mut writer = RtcpWriter::new(&mut out);
        match packet {
            Rtcp::ReceiverReport(report) => {
                writer.receiver_report(report.ssrc, &report.blocks().collect::<Vec<_>>());
                let Some(Ok(Rtcp::ReceiverReport(again))) = parse(&out).next() else { panic!("{out:?}") };
                assert!(again.ssrc == report.ssrc && again.blocks().eq(report.blocks()));
            }
            Rtcp::SenderReport(report) => assert!(report.blocks().count() * 24 < bytes.len()),
            Rtcp::Sdes(sdes) => assert!(sdes.items().map(|(_, _, text)| text.len() + 2).sum::<usize>() < bytes.len()),
            Rtcp::Bye(bye) => assert!(bye.ssrcs().count() * 4 < bytes.len()),
            Rtcp::Feedback(Feedback::Nack(nack)) => assert!(nack.seqs().count() * 4 < bytes.len() * 17),
            Rtcp::Feedback(Feedback::Fir(fir)) => assert!(fir.requests().count() * 8 < bytes.len()),
            Rtcp::Feedback(Feedback::Remb(remb)) => {
                writer.remb(remb.sender, remb.bitrate, &remb.ssrcs().collect::<Vec<_>>());
                let Some(Ok(Rtcp::Feedback(Feedback::Remb(again)))) = parse(&out).next() else { panic!("{out:?}") };
                // A rate that saturated is not one of the format's own; every other is kept exactly.
                assert!(again.bitrate == remb.bitrate || remb.bitrate.0 == u64::MAX);
                assert!(again.ssrcs().eq(remb.ssrcs()));
            }
            Rtcp::Feedback(Feedback::TransportCc(feedback)) => {
                let read: Vec<_> = feedback.packets().collect();
                assert_eq!(read.len(), usize::from(feedback.status_count));
                // Far enough from zero that no sum of deltas goes below it, and a multiple of 64 ms.
                let origin = 1i64 << 40;
                let arrivals = read.iter().map(|(seq, ticks)| (*seq, ticks.map(|at| (origin + at) as u64 * TICK_US)));
                let builder = FeedbackBuilder {
                    sender: feedback.sender,
                    media: feedback.media,
                    base_seq: feedback.base_seq,
                    feedback_count: feedback.feedback_count,
                };
                let taken = builder.write(arrivals, &mut out);
                assert!(taken <= read.len() && out.len() <= FEEDBACK_BYTES_MAX);
                if taken > 0 {
                    let Some(Ok(Rtcp::Feedback(Feedback::TransportCc(again)))) = parse(&out).next() else { panic!() };
                    let again: Vec<_> = again.packets().collect();
                    let first =
                        |packets: &[(u16, Option<i64>)]| packets.iter().find_map(|packet| packet.1).unwrap_or(0);
                    let shift = first(&read[..taken]) - first(&again);
                    assert!(
                        again.iter().map(|(seq, at)| (*seq, at.map(|at| at + shift))).eq(read[..taken].iter().copied())
                    );
                }
            }
            Rtcp::Feedback(Feedback::Pli(_) | Feedback::Other { .. }) | Rtcp::Other { .. } => {}
        }
    }
});

/// RFC 3550 appendix A.2: whatever is in a packet, its header's length leads to the next, whose reading does not depend
/// on those before it.
fn each_is_read_by_itself(bytes: &[u8], packets: &[Result<Rtcp<'_>, Malformed>]) {
    let mut rest = bytes;
    for (at, packet) in packets.iter().enumerate() {
        let Some(&[first, _, high, low]) = rest.first_chunk() else { return assert_eq!(at + 1, packets.len()) };
        let len = 4 + 4 * usize::from(u16::from_be_bytes([high, low]));
        if first >> 6 != 2 || len > rest.len() {
            return assert!(packet.is_err() && at + 1 == packets.len());
        }
        let alone: Vec<_> = parse(&rest[..len]).collect();
        assert_eq!(format!("{alone:?}"), format!("{:?}", std::slice::from_ref(packet)));
        rest = &rest[len..];
    }
    assert!(rest.is_empty());
}
