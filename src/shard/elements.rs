//! The header extensions of a packet, by the ids of its sender: those of this hop, those that travel on to consumers,
//! and those that identify its producer. Looks at bytes only; `incoming` and `binding` act on it.

use crate::base::id::{Mid, PayloadType, Rid, Ssrc};
use crate::base::limits::EXTENSION_ELEMENTS_MAX;
use crate::media::report::ClockOffset;
use crate::wire::extension::{
    AbsCaptureTime, AudioLevel, Extension, ExtensionIds, abs_capture_time, short_name, transport_cc_seq,
};
use crate::wire::rtp::RtpHeader;

/// The header extensions that travel with a packet to its consumers, in one-byte form under the router's ids. MID,
/// abs-send-time and transport-cc belong to one hop and are written at egress; so does the transmission offset (RFC
/// 5450), which says when the publisher sent the packet, and ends here.
const PROXIED: [Extension; 3] = [Extension::AudioLevel, Extension::PlayoutDelay, Extension::AbsCaptureTime];
const PASSED_MAX: usize = PROXIED.len() * 17;

/// The extensions of this hop, and those that travel on.
pub(super) struct Extensions<'a> {
    pub transport_seq: Option<u16>,
    pub level: Option<AudioLevel>,
    pub dependency_descriptor: &'a [u8],
    passed: [u8; PASSED_MAX],
    passed_len: usize,
}

impl<'a> Extensions<'a> {
    /// `clock` is that of the transport it came on.
    pub(super) fn read(
        header: &RtpHeader,
        packet: &'a [u8],
        ids: &ExtensionIds,
        clock: &ClockOffset,
    ) -> Extensions<'a> {
        let mut read = Extensions {
            transport_seq: None,
            level: None,
            dependency_descriptor: &[],
            passed: [0; PASSED_MAX],
            passed_len: 0,
        };
        for (id, data) in header.extensions(packet) {
            let Some(extension) = ids.find(id) else { continue };
            match extension {
                Extension::TransportCc => read.transport_seq = transport_cc_seq(data),
                Extension::DependencyDescriptor if data.len() <= usize::from(u8::MAX) => {
                    read.dependency_descriptor = data;
                }
                Extension::AbsCaptureTime => {
                    if let Some(captured) = AbsCaptureTime::parse(data) {
                        let (value, len) = abs_capture_time(on_our_hop(captured, clock));
                        read.pass(extension, &value[..len]);
                    }
                }
                _ if PROXIED.contains(&extension) => {
                    if extension == Extension::AudioLevel {
                        read.level = AudioLevel::parse(data);
                    }
                    read.pass(extension, data);
                }
                _ => {}
            }
        }
        read
    }

    /// In one-byte form.
    pub(super) fn passed(&self) -> &[u8] {
        &self.passed[..self.passed_len]
    }

    fn pass(&mut self, extension: Extension, data: &[u8]) {
        let end = self.passed_len + 1 + data.len();
        if let (1..=16, Some(room)) = (data.len(), self.passed.get_mut(self.passed_len..end)) {
            room[0] = extension.id() << 4 | (data.len() - 1) as u8;
            room[1..].copy_from_slice(data);
            self.passed_len = end;
        }
    }
}

/// The offset field is about the clock of the sender's reports, which towards consumers are ours: capture clock = sender's
/// clock + offset. Before the publisher's first report nobody knows how far its clock is from ours.
fn on_our_hop(captured: AbsCaptureTime, clock: &ClockOffset) -> AbsCaptureTime {
    let offset = captured.offset.zip(clock.of_theirs());
    AbsCaptureTime { offset: offset.map(|(offset, theirs)| offset.saturating_add(theirs)), ..captured }
}

/// The names by which a packet of an unknown SSRC can be recognised, read with one producer's ids.
pub(super) struct Names {
    pub ssrc: Ssrc,
    pub payload_type: PayloadType,
    pub mid: Option<Mid>,
    pub rid: Option<Rid>,
    pub repaired_rid: Option<Rid>,
}

/// The elements of one packet, walked once and found by any publisher's ids.
pub(super) struct Elements<'a> {
    ssrc: Ssrc,
    payload_type: PayloadType,
    /// By id: the place in `values`, from 1.
    places: [u8; 256],
    values: [&'a [u8]; EXTENSION_ELEMENTS_MAX],
}

impl<'a> Elements<'a> {
    pub(super) fn of(header: &RtpHeader, packet: &'a [u8]) -> Elements<'a> {
        let mut elements = Elements {
            ssrc: header.ssrc,
            payload_type: header.payload_type,
            places: [0; 256],
            values: [&[]; EXTENSION_ELEMENTS_MAX],
        };
        for (place, (id, value)) in header.extensions(packet).take(EXTENSION_ELEMENTS_MAX).enumerate() {
            elements.places[usize::from(id)] = place as u8 + 1;
            elements.values[place] = value;
        }
        elements
    }

    pub(super) fn names(&self, ids: &ExtensionIds) -> Names {
        let name = |extension| ids.get(extension).and_then(|id| self.get(id)).and_then(short_name);
        Names {
            ssrc: self.ssrc,
            payload_type: self.payload_type,
            mid: name(Extension::Mid),
            rid: name(Extension::Rid),
            repaired_rid: name(Extension::RepairedRid),
        }
    }

    /// The transport-wide number, where it is known under which id that comes.
    pub(super) fn number(&self, id: u8) -> Option<u16> {
        self.get(id).and_then(transport_cc_seq)
    }

    /// Candidates for its transport-wide number, by id: the right id is not known yet.
    pub(super) fn numbers(&self) -> impl Iterator<Item = (u8, u16)> {
        let short = |id: u8| self.get(id).filter(|value| value.len() == 2).and_then(transport_cc_seq);
        (1..=u8::MAX).filter_map(move |id| Some((id, short(id)?)))
    }

    fn get(&self, id: u8) -> Option<&'a [u8]> {
        let place = usize::from(self.places[usize::from(id)]).checked_sub(1)?;
        Some(self.values[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::seq::Seq;
    use crate::base::time::{Duration, Instant, Now, NtpTime};
    use crate::media::report::SenderClock;
    use crate::wire::rtp::{ExtensionWriter, HeaderFields, write_fixed_header};

    fn packet(two_byte: bool, elements: &[(u8, &[u8])]) -> Vec<u8> {
        let mut packet = vec![0; 400];
        let (fixed, rest) = packet.split_at_mut(12);
        let fields = HeaderFields {
            marker: false,
            has_padding: false,
            payload_type: PayloadType(96),
            seq: Seq(1),
            timestamp: 0,
            ssrc: Ssrc(7),
        };
        write_fixed_header(fixed.try_into().unwrap(), fields, true);
        let mut writer = ExtensionWriter::new(rest, two_byte);
        for (id, value) in elements {
            assert!(writer.push(*id, value));
        }
        let len = 12 + writer.finish();
        packet.truncate(len);
        packet
    }

    fn ids() -> ExtensionIds {
        let mut ids = ExtensionIds::default();
        for (extension, id) in Extension::ALL.into_iter().zip(3..) {
            ids.set(extension, id);
        }
        ids
    }

    fn passed(elements: &[(Extension, &[u8])], clock: &ClockOffset) -> Vec<u8> {
        let ids = ids();
        let theirs: Vec<_> = elements.iter().map(|(extension, value)| (ids.get(*extension).unwrap(), *value)).collect();
        let packet = packet(true, &theirs);
        let header = RtpHeader::parse(&packet).unwrap();
        Extensions::read(&header, &packet, &ids, clock).passed().to_vec()
    }

    #[test]
    fn what_describes_the_media_travels_on_and_what_belongs_to_the_hop_does_not() {
        let none = ClockOffset::default();
        for extension in Extension::ALL {
            let travels = PROXIED.contains(&extension) && extension != Extension::AbsCaptureTime;
            let expected = if travels { vec![extension.id() << 4 | 1, 1, 2] } else { vec![] };
            assert_eq!(passed(&[(extension, &[1, 2])], &none), expected, "{extension:?}");
        }
        for len in [0, 17] {
            assert!(passed(&[(Extension::PlayoutDelay, &vec![1; len])], &none).is_empty());
        }
    }

    /// The specification of abs-capture-time: capture clock = clock of the sender's reports + offset.
    #[test]
    fn a_capture_clocks_offset_becomes_one_to_our_clock() {
        let now = |seconds: u64| Now {
            mono: Instant::from_nanos(seconds * 1_000_000_000),
            wall: NtpTime::from_unix(Duration::from_secs(1_700_000_000 + seconds)),
        };
        let id = Extension::AbsCaptureTime.id() << 4;
        let full = |offset: i64| [[9; 8], offset.to_be_bytes()].concat();
        let unknown = ClockOffset::default();
        let short = [&[id | 7][..], &[9; 8]].concat();
        assert_eq!(passed(&[(Extension::AbsCaptureTime, &full(5 << 32))], &unknown), short, "nobody can say");
        for ahead in [30, 0, -7i64] {
            let mut clock = ClockOffset::default();
            let theirs = now(50).wall.offset_nanos(ahead * 1_000_000_000);
            SenderClock::new(90_000).on_sender_report(now(50), theirs, 0, &mut clock);
            let out = passed(&[(Extension::AbsCaptureTime, &full(5 << 32))], &clock);
            assert_eq!((out[0], &out[1..9]), (id | 15, &[9; 8][..]));
            let offset = i64::from_be_bytes(out[9..].try_into().unwrap());
            assert!(offset.abs_diff((5 + ahead) << 32) < 1 << 12, "{ahead}: {}", offset >> 32);
            assert_eq!(passed(&[(Extension::AbsCaptureTime, &[9; 8])], &clock), short, "none is none");
            for extreme in [i64::MAX, i64::MIN] {
                assert_eq!(passed(&[(Extension::AbsCaptureTime, &full(extreme))], &clock).len(), 17);
            }
        }
        for len in [0, 1, 7, 9, 15, 17] {
            assert!(passed(&[(Extension::AbsCaptureTime, &vec![9; len])], &unknown).is_empty(), "{len}");
        }
    }

    #[test]
    fn every_name_is_read_by_the_same_rule() {
        let ids = ids();
        let cases: [(&[u8], Option<&str>); 6] = [
            (b"r0", Some("r0")),
            (b"r0\0\0", Some("r0")),
            (b"r0\0x", Some("r0")),
            (b"\0r0", None),
            (b"", None),
            (&[b'r'; 32], None),
        ];
        for (value, expected) in cases {
            for extension in [Extension::Mid, Extension::Rid, Extension::RepairedRid] {
                let packet = packet(true, &[(200, b"x"), (ids.get(extension).unwrap(), value), (201, b"x")]);
                let names = Elements::of(&RtpHeader::parse(&packet).unwrap(), &packet).names(&ids);
                let read = |of: Extension| match of {
                    Extension::Mid => names.mid,
                    Extension::Rid => names.rid,
                    _ => names.repaired_rid,
                };
                for other in [Extension::Mid, Extension::Rid, Extension::RepairedRid] {
                    let expected = expected.filter(|_| other == extension);
                    assert_eq!(read(other).as_ref().map(|name| name.as_str()), expected, "{extension:?} {value:?}");
                }
            }
        }
    }

    #[test]
    fn numbers_are_elements_of_two_bytes() {
        let packet = packet(true, &[(4, b"0"), (3, &[1, 2]), (254, &[3, 4]), (5, &[1, 2, 3]), (3, &[7, 8])]);
        let elements = Elements::of(&RtpHeader::parse(&packet).unwrap(), &packet);
        assert_eq!(elements.numbers().collect::<Vec<_>>(), [(3, 0x0708), (254, 0x0304)]);
    }
}
