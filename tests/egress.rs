//! The send path: runs, padding, additions to a header, and packets that are never sent.

use weirgate::base::buffer::{LocalIndex, Path, Run, Transmit};
use weirgate::base::id::{ConsumerId, Mid, PayloadType, Ssrc};
use weirgate::base::limits::{EGRESS_QUEUE_MAX, RUN_BYTES_MAX, RUN_PACKETS_MAX};
use weirgate::base::seq::ExtSeq;
use weirgate::base::slab::{Key, Slab};
use weirgate::base::time::{Duration, Instant, Now};
use weirgate::base::units::{Bitrate, DataSize};
use weirgate::media::congestion::Cluster;
use weirgate::media::edit::{Change, Edit};
use weirgate::media::history::{Stored, StoredHeader};
use weirgate::media::pacer::Pace;
use weirgate::secure::srtp::{MasterKey, Opener, SealPlace, Sealer, SrtpProfile};
use weirgate::transport::edits::Edits;
use weirgate::transport::egress::{Egress, Exit};
use weirgate::transport::outgoing::{Outgoing, Rtx, Sent};
use weirgate::transport::queued::{PacketStore, Queued, StoredAt, Urgency};
use weirgate::transport::send_buffer::SendBuffer;
use weirgate::wire::codec::Codec;
use weirgate::wire::codec::vp8::Vp8Descriptor;
use weirgate::wire::extension::{Extension, ExtensionSet};
use weirgate::wire::rtp::RtpHeader;

const NOW: Instant = Instant::from_nanos(1_000_000_000);
const MEDIA: Ssrc = Ssrc(5);
const REPAIR: Ssrc = Ssrc(6);

/// Payloads by number, each behind so many bytes of a dependency descriptor.
struct Store(Vec<Vec<u8>>, u8);

impl PacketStore for Store {
    fn stored(&self, at: StoredAt) -> Option<Stored<'_>> {
        let header =
            StoredHeader { marker: false, timestamp: 0, extension_len: 0, descriptor_len: self.1, arrival: NOW };
        self.0.get(at.ext.0 as usize).map(|bytes| Stored { header, bytes })
    }
}

/// Every run as its datagrams, and the number of them with a time of arrival.
#[derive(Default)]
struct Taken(Vec<Vec<Vec<u8>>>, usize);

impl Transmit for Taken {
    fn transmit(&mut self, buffer: &[u8], runs: &[Run]) {
        for run in runs {
            self.0.push(run.datagrams(buffer).map(<[u8]>::to_vec).collect());
            self.1 += usize::from(run.oldest.is_some());
        }
    }
}

struct Bench {
    egress: Egress,
    sealer: Sealer,
    opener: Opener,
    outgoing: Slab<Outgoing>,
    stream: Key<Outgoing>,
    buffer: SendBuffer,
    store: Store,
    next: u64,
    /// Runs so far whose delay counts.
    timed: usize,
}

impl Bench {
    fn new(lengths: impl IntoIterator<Item = usize>) -> Bench {
        Bench::under(SrtpProfile::AeadAes128Gcm, lengths)
    }

    fn under(profile: SrtpProfile, lengths: impl IntoIterator<Item = usize>) -> Bench {
        let salt = vec![4; profile.salt_len()];
        let master = MasterKey::new(profile, &[3; 16], &salt).expect("the right lengths");
        let mut extensions = ExtensionSet::default();
        for extension in [Extension::Mid, Extension::AbsSendTime, Extension::TransportCc] {
            extensions.insert(extension);
        }
        let mut outgoing = Slab::default();
        let stream = outgoing.insert(Outgoing {
            seal_place: SealPlace::default(),
            consumer: ConsumerId(1),
            ssrc: MEDIA,
            payload_type: PayloadType(96),
            rtx: Some(Rtx { payload_type: PayloadType(97), ssrc: REPAIR, next_index: 30_000 }),
            mid: Mid::new(b"4").expect("short"),
            cname: "cname".into(),
            audio: false,
            extensions,
            acknowledged: false,
            sent: Sent::default(),
            edits: None,
        });
        Bench {
            egress: Egress::default(),
            sealer: Sealer::new(profile, &master),
            opener: Opener::new(profile, &master),
            outgoing,
            stream,
            buffer: SendBuffer::default(),
            store: Store(lengths.into_iter().map(|len| vec![0xab; len]).collect(), 0),
            next: 2_000,
            timed: 0,
        }
    }

    fn push(&mut self, packet: usize, index: u64, retransmission: bool) -> bool {
        let at = StoredAt { slot: 0, generation: 0, encoding: 0, ext: ExtSeq(packet as u64) };
        let queued = Queued { outgoing: self.stream, at, index, timestamp: 9, retransmission };
        self.egress.push(NOW, queued, Urgency::Now)
    }

    fn push_all(&mut self) {
        for packet in 0..self.store.0.len() {
            assert!(self.push(packet, self.next, false));
            self.next += 1;
        }
    }

    fn flush(&mut self) -> Vec<Vec<Vec<u8>>> {
        self.flush_at(NOW)
    }

    fn flush_at(&mut self, now: Instant) -> Vec<Vec<Vec<u8>>> {
        let path = Path::udp(LocalIndex(0), "192.0.2.9:9".parse().expect("an address"));
        let mut taken = Taken::default();
        let exit = Exit { path, sealer: &mut self.sealer, outgoing: &mut self.outgoing, room: usize::MAX };
        let now = Now { mono: now, ..Now::default() };
        self.egress.flush(now, exit, &self.store, &mut self.buffer, &mut taken);
        self.buffer.finish(&mut taken);
        self.timed += taken.1;
        taken.0
    }

    /// Flushes, and opens the datagrams: header and packet of each.
    fn sent(&mut self) -> Vec<(RtpHeader, Vec<u8>)> {
        let mut sent = Vec::new();
        for mut packet in self.flush().into_iter().flatten() {
            let header = RtpHeader::parse(&packet).expect("a packet");
            let len = self.opener.open_rtp(header.len(), header.ssrc, header.seq, &mut packet).expect("it opens");
            packet.truncate(len);
            sent.push((header, packet));
        }
        sent
    }
}

fn extension(packet: &(RtpHeader, Vec<u8>), wanted: Extension) -> Option<Vec<u8>> {
    packet.0.extensions(&packet.1).find(|(id, _)| *id == wanted.id()).map(|(_, data)| data.to_vec())
}

#[test]
fn mid_is_on_every_packet_until_the_ssrc_is_acknowledged() {
    let mut bench = Bench::new([100; 3]);
    bench.push_all();
    assert!(bench.push(1, 2_001, true));
    let sent = bench.sent();
    assert_eq!(sent.len(), 4);
    assert!(sent.iter().all(|packet| extension(packet, Extension::Mid).as_deref() == Some(b"4")), "RTX too");
    bench.outgoing.get_mut(bench.stream).expect("it is there").acknowledged = true;
    bench.push_all();
    assert!(bench.sent().iter().all(|packet| extension(packet, Extension::Mid).is_none()));
}

#[test]
fn transport_wide_numbers_count_every_packet_and_a_retransmission_has_its_own_numbers() {
    let mut bench = Bench::new([300, 40, 500]);
    bench.push_all();
    assert!(bench.push(0, 2_000, true) && bench.push(0, 2_000, true));
    let sent = bench.sent();
    let wide: Vec<_> =
        sent.iter().map(|packet| extension(packet, Extension::TransportCc).expect("it has one")).collect();
    assert_eq!(wide, (0..5u16).map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>());
    for (at, (header, packet)) in sent[3..].iter().enumerate() {
        assert_eq!((header.ssrc, header.seq.0, header.payload_type.0), (REPAIR, 30_000 + at as u16, 97));
        assert_eq!(header.payload(packet).expect("a payload")[..2], 2_000u16.to_be_bytes(), "RFC 4588 section 4");
    }
    let counts = bench.outgoing.get(bench.stream).expect("it is there").sent;
    assert_eq!((counts.packets, counts.retransmitted, counts.octets), (5, 2, 840), "reports count the media alone");
}

#[test]
fn a_number_is_never_sent_twice_without_rtx() {
    let mut bench = Bench::new([100]);
    assert!(bench.push(0, 2_000, false) && bench.push(0, 2_000, false));
    assert_eq!(bench.sent().len(), 1);
    assert_eq!(bench.buffer.counts.unsealed, 1);
}

/// Under AES_CM tags are put off: also those before a packet that is refused, and before a buffer that is full.
#[test]
fn no_packet_leaves_without_its_tag() {
    for count in [1, 2, 3, 4, 5, 48, 400] {
        let mut bench = Bench::under(SrtpProfile::Aes128CmSha1_80, (0..count).map(|n| 1_000 + n % 3 * 100));
        bench.push_all();
        assert!(bench.push(0, 2_000, false) && bench.push(0, 2_000, true));
        let sent = bench.sent();
        assert_eq!((sent.len(), bench.buffer.counts.unsealed), (count + 1, 1));
        for (n, (header, packet)) in sent.iter().enumerate().take(count) {
            let payload = header.payload(packet).expect("a payload");
            assert!(payload.len() == 1_000 + n % 3 * 100 && payload.iter().all(|byte| *byte == 0xab));
        }
    }
}

#[test]
fn all_but_the_last_datagram_of_a_run_are_equally_long_and_padding_is_what_rfc_3550_says() {
    let mut state = 12_345u32;
    let mut random = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    for round in 0..200 {
        let count = 1 + random(40) as usize;
        let near = 20 + random(1_100) as usize;
        let lengths: Vec<usize> = (0..count)
            .map(|_| if random(4) == 0 { 1 + random(1_200) as usize } else { near + random(20) as usize })
            .collect();
        let mut bench = Bench::new(lengths.clone());
        bench.push_all();
        let runs = bench.flush();
        let mut at = 0;
        for run in &runs {
            let bytes: usize = run.iter().map(Vec::len).sum();
            let mut padding = 0;
            assert!(run.len() <= RUN_PACKETS_MAX && bytes <= RUN_BYTES_MAX, "round {round}");
            let (last, others) = run.split_last().expect("no run is empty");
            assert!(others.iter().all(|packet| packet.len() == run[0].len()) && last.len() <= run[0].len());
            for packet in run {
                let mut packet = packet.clone();
                let header = RtpHeader::parse(&packet).expect("a packet");
                let len = bench.opener.open_rtp(header.len(), header.ssrc, header.seq, &mut packet).expect("it opens");
                assert_eq!(header.seq.0, 2_000 + at as u16, "in order");
                assert_eq!(header.payload(&packet[..len]).expect("well-formed").len(), lengths[at], "round {round}");
                if header.has_padding {
                    padding += usize::from(packet[len - 1]);
                    assert!(packet[len - 1] > 0);
                }
                at += 1;
            }
            assert!(padding <= (16 * run.len()).max(bytes / 8), "{padding} of {bytes} in round {round}");
        }
        assert_eq!(at, count);
    }
}

#[test]
fn what_does_not_fit_is_dropped_by_name_and_the_rest_goes() {
    let mut bench = Bench::new([1_200, 1_900, 1_400]);
    bench.push_all();
    let sent = bench.sent();
    assert_eq!(sent.iter().map(|(header, _)| header.seq.0).collect::<Vec<_>>(), [2_000, 2_002]);
    assert_eq!(bench.buffer.counts.too_long, 1);
}

#[test]
fn the_queue_is_bounded_and_clearing_it_sends_nothing() {
    let mut bench = Bench::new([50]);
    let taken = (0..EGRESS_QUEUE_MAX + 10).filter(|n| bench.push(0, 2_000 + *n as u64, false)).count();
    assert_eq!(taken, EGRESS_QUEUE_MAX);
    bench.egress.clear();
    assert!(bench.flush().is_empty() && bench.egress.due().is_none());
}

#[test]
fn a_frame_that_goes_on_is_held_for_a_millisecond_and_its_end_takes_it_along() {
    let mut bench = Bench::new([50, 50]);
    let at = StoredAt { slot: 0, generation: 0, encoding: 0, ext: ExtSeq(0) };
    let queued = Queued { outgoing: bench.stream, at, index: 2_000, timestamp: 9, retransmission: false };
    bench.egress.push(NOW, queued, Urgency::FrameContinues);
    assert_eq!(bench.egress.due(), Some(NOW + Duration::from_millis(1)));
    assert!(bench.push(1, 2_001, false));
    assert_eq!(bench.egress.due(), Some(NOW));
    assert_eq!(bench.flush().len(), 1, "both in one run");
}

#[test]
fn packets_of_many_speakers_share_a_run_and_streams_keep_their_order() {
    let mut bench = Bench::new([120, 1_100, 131, 1_100, 126, 1_090, 140]);
    let streams: Vec<Key<Outgoing>> = (0..3)
        .map(|n| {
            let ssrc = Ssrc(100 + n);
            let cname = "cname".into();
            let (payload_type, mid) = (PayloadType(111), Mid::new(b"a").expect("short"));
            let (extensions, acknowledged) = (ExtensionSet::default(), true);
            let (consumer, sent) = (ConsumerId(2), Sent::default());
            let (rtx, audio) = (None, true);
            bench.outgoing.insert(Outgoing {
                seal_place: SealPlace::default(),
                consumer,
                ssrc,
                payload_type,
                rtx,
                mid,
                cname,
                audio,
                extensions,
                acknowledged,
                sent,
                edits: None,
            })
        })
        .collect();
    // Since one voice's packet before the last: each of them twice.
    for (n, index) in (0..12).zip(50..) {
        let at = StoredAt { slot: 0, generation: 0, encoding: 0, ext: ExtSeq(n % 6) };
        let outgoing = if n % 2 == 0 { streams[n as usize % 6 / 2] } else { bench.stream };
        let queued = Queued { outgoing, at, index, timestamp: 9, retransmission: false };
        assert!(bench.egress.push(NOW, queued, Urgency::Now));
    }
    let runs = bench.flush();
    let seqs = |ssrc: u32| -> Vec<u16> {
        let headers = runs.iter().flatten().map(|packet| RtpHeader::parse(packet).expect("a packet"));
        headers.filter(|header| header.ssrc == Ssrc(ssrc)).map(|header| header.seq.0).collect()
    };
    assert_eq!(runs.iter().map(Vec::len).collect::<Vec<_>>(), [7, 5], "the longest voice ends the run of video");
    assert_eq!(seqs(MEDIA.0), [51, 53, 55, 57, 59, 61]);
    assert_eq!([100, 101, 102].map(seqs), [vec![50, 56], vec![52, 58], vec![54, 60]]);
}

#[test]
fn a_paced_keyframe_leaves_in_runs_over_time_and_audio_does_not_wait() {
    let mut bench = Bench::new([1_100; 41]);
    let audio = Outgoing {
        seal_place: SealPlace::default(),
        consumer: ConsumerId(2),
        ssrc: Ssrc(70),
        payload_type: PayloadType(111),
        rtx: None,
        mid: Mid::new(b"a").expect("short"),
        cname: "cname".into(),
        audio: true,
        extensions: ExtensionSet::default(),
        acknowledged: true,
        sent: Sent::default(),
        edits: None,
    };
    let audio = bench.outgoing.insert(audio);
    bench.egress.pace(NOW, Some(Pace::Usual(Bitrate::mbps(1))));
    for packet in 0..40 {
        assert!(bench.push(packet, 2_000 + packet as u64, false));
    }
    let (mut now, mut seqs, mut flushes) = (NOW, Vec::new(), 0);
    while let Some(due) = bench.egress.due() {
        now = due.max(now);
        let at = StoredAt { slot: 0, generation: 0, encoding: 0, ext: ExtSeq(40) };
        let spoken = Queued { outgoing: audio, at, index: 100 + flushes, timestamp: 1, retransmission: false };
        bench.egress.push(now, spoken, Urgency::Now);
        let sent = bench.flush_at(now);
        let packets: Vec<_> = sent.iter().flatten().map(|packet| RtpHeader::parse(packet).expect("a packet")).collect();
        assert_eq!(packets.iter().filter(|header| header.ssrc == Ssrc(70)).count(), 1, "audio leaves at once");
        let media: Vec<_> = packets.iter().filter(|header| header.ssrc == MEDIA).map(|header| header.seq.0).collect();
        assert!(media.len() >= 2 || seqs.len() + media.len() == 40, "in runs: {}", media.len());
        assert!(media.len() <= 8, "and not at once: {}", media.len());
        seqs.extend(media);
        flushes += 1;
    }
    assert_eq!(seqs, (2_000..2_040).collect::<Vec<_>>(), "in order");
    assert!((100..=300).contains(&now.since(NOW).as_millis()), "{:?}", now.since(NOW));
}

#[test]
fn a_replay_delays_what_is_live_no_longer_than_was_planned_for_it() {
    let mut bench = Bench::new([1_100; 200]);
    let span = Duration::from_millis(60);
    assert!(bench.egress.make_room_for_replay(NOW, 2, 2_200, span));
    bench.push_all();
    let by = |bench: &mut Bench, millis| bench.flush_at(NOW + Duration::from_millis(millis)).iter().map(Vec::len).sum();
    let before: usize = (0..6).map(|n| -> usize { by(&mut bench, n * 10) }).sum();
    assert!((2..100).contains(&before), "at the pace of the replay: {before}");
    let after: usize = by(&mut bench, 80);
    assert_eq!((before + after, bench.egress.is_empty(), bench.egress.due()), (200, true, None));
    assert_eq!(bench.timed, 0, "how long it was in the history is no delay");
    assert!(bench.push(0, 3_000, false));
    let _ = by(&mut bench, 90);
    assert_eq!(bench.timed, 1);
}

#[test]
fn a_probe_is_padding_on_the_repair_stream_at_its_rate() {
    let mut bench = Bench::new([500]);
    let cluster = Cluster { id: 3, rate: Bitrate::mbps(4), bytes: DataSize(7_500), packets: 5 };
    bench.push_all();
    bench.egress.start_probe(NOW, cluster, bench.stream);
    let (mut now, mut bytes, mut numbers, mut bursts, mut media_timestamp) = (NOW, 0, Vec::new(), 0, None);
    while let Some(due) = bench.egress.due() {
        now = due.max(now);
        bursts += 1;
        for mut packet in bench.flush_at(now).into_iter().flatten() {
            let header = RtpHeader::parse(&packet).expect("a packet");
            let (_, number) =
                header.extensions(&packet).find(|(id, _)| *id == Extension::TransportCc.id()).expect("one");
            numbers.push(u16::from_be_bytes(number.try_into().expect("two bytes")));
            let wire = packet.len();
            let len = bench.opener.open_rtp(header.len(), header.ssrc, header.seq, &mut packet).expect("it opens");
            if header.ssrc == REPAIR {
                bytes += wire;
                assert_eq!(
                    (header.payload_type, header.timestamp),
                    (PayloadType(97), media_timestamp.expect("media first"))
                );
                assert_eq!(header.payload(&packet[..len]).expect("well-formed"), b"", "nothing but padding");
            } else {
                media_timestamp = Some(header.timestamp);
            }
        }
    }
    assert!(bench.egress.is_empty());
    assert_eq!(numbers, (0..numbers.len() as u16).collect::<Vec<_>>(), "every packet has its number");
    assert!((7_500..8_200).contains(&bytes), "{bytes}");
    assert!(bursts >= 5 && (12..=20).contains(&now.since(NOW).as_millis()), "{bursts} in {:?}", now.since(NOW));
}

#[test]
fn a_stream_with_layers_goes_out_as_was_decided_and_again_so() {
    let mut bench = Bench::new([0; 3]);
    // X, S; I, L and T; a 15-bit picture id, TL0PICIDX, temporal layer 1; an interframe.
    bench.store.0 = vec![[&[0x90, 0xE0, 0x80, 7, 9, 0x40, 1][..], &[0xab; 300]].concat(); 3];
    let mut edits = Edits::new(Codec::Vp8);
    let change = Change::Picture { picture: 0x7ABC, tl0_picture_index: 200 };
    edits.set(2_000, Edit { ends_picture: true, change });
    edits.set(2_001, Edit { ends_picture: true, change: Change::Hollow });
    bench.outgoing.get_mut(bench.stream).unwrap().edits = Some(Box::new(edits));
    bench.push_all();
    assert!(bench.push(0, 2_000, true) && bench.push(1, 2_001, true));
    let sent = bench.sent();
    let payloads: Vec<_> = sent.iter().map(|(header, packet)| header.payload(packet).unwrap()).collect();
    for (payload, marker) in [(payloads[0], sent[0].0.marker), (&payloads[3][2..], sent[3].0.marker)] {
        let descriptor = Vp8Descriptor::parse(payload).unwrap();
        assert_eq!(descriptor.picture_id.map(|id| id.value), Some(0x7ABC));
        assert_eq!(descriptor.tl0_picture_index.map(|(index, _)| index), Some(200));
        assert!(marker && payload[6..] == bench.store.0[0][6..]);
    }
    assert!(payloads[1].is_empty() && !sent[1].0.marker, "padding in the place of what is not for it");
    assert_eq!(payloads[4].len(), 2, "again too, behind its number");
    assert_eq!((payloads[2], sent[2].0.marker), (&bench.store.0[2][..], false), "as it came");
}

#[test]
fn a_dependency_descriptor_goes_out_in_either_form() {
    // The longer has no structure; its content does not matter here.
    for (descriptor, sent_as) in
        [(vec![0xC1, 0xFF, 0xFF], 5), (vec![0xC1, 0xFF, 0xFF, 0, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5], 17)]
    {
        let mut bench = Bench::new([0; 4]);
        bench.store.1 = descriptor.len() as u8;
        bench.store.0 = vec![[&descriptor[..], &[0xab; 1_000]].concat(); 4];
        let mut edits = Edits::new(Codec::Av1);
        let change = Change::Frame { number_shift: 2, targets: 4, active: 0b1010 };
        for index in 2_000..2_003 {
            edits.set(index, Edit { ends_picture: false, change });
        }
        let stream = bench.outgoing.get_mut(bench.stream).unwrap();
        stream.edits = Some(Box::new(edits));
        stream.extensions.insert(Extension::DependencyDescriptor);
        bench.push_all();
        let runs = bench.flush();
        assert!(runs.iter().all(|run| run.iter().rev().skip(1).all(|packet| packet.len() == run[0].len())));
        let mut bench_again = Bench { opener: bench.opener, ..Bench::new([]) };
        for (at, mut packet) in runs.into_iter().flatten().enumerate() {
            let header = RtpHeader::parse(&packet).unwrap();
            let len = bench_again.opener.open_rtp(header.len(), header.ssrc, header.seq, &mut packet).unwrap();
            packet.truncate(len);
            let packet = (header, packet);
            let value = extension(&packet, Extension::DependencyDescriptor);
            assert_eq!(value.as_ref().map(Vec::len), (at < 3).then_some(sent_as), "none where nothing was read");
            if let Some(value) = value {
                assert_eq!(value[..3], [0xC1, 0, 1], "65,535 and 2");
                assert_eq!(value[3] & 0x47, 0x40 | 0b101, "active targets are there");
            }
            assert!(extension(&packet, Extension::TransportCc).is_some());
            assert_eq!(packet.0.payload(&packet.1).unwrap(), [0xab; 1_000]);
        }
    }
}
