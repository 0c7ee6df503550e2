//! Writes one packet for one receiver: our header and extensions around a payload out of the history, or around padding
//! alone. Only `egress` calls it, which decides when, how much padding, and under which transport-wide number.

use crate::base::seq::Seq;
use crate::base::time::Now;
use crate::media::edit::{Change, Edit};
use crate::media::history::Stored;
use crate::secure::srtp::{DueTags, OVERHEAD_MAX, Placed, SealPlace, Sealer};
use crate::transport::outgoing::Outgoing;
use crate::transport::queued::Queued;
use crate::wire::codec::renumber;
use crate::wire::dependency_descriptor::{REWRITE_ADDS_MAX, rewrite, rewritten_len};
use crate::wire::extension::{Extension, abs_send_time};
use crate::wire::rtp::{ExtensionWriter, HeaderFields, one_byte_elements, write_fixed_header};

/// Fixed header, and the most that our own extension block takes: preamble, mid, abs-send-time, transport-cc, the head
/// of a dependency descriptor, padding.
const OWN_HEADER_MAX: usize = 12 + 4 + 33 + 5 + 4 + 2 + 3;
/// A descriptor of one byte's length, rewritten.
const DESCRIPTOR_BYTES_MAX: usize = 255 + REWRITE_ADDS_MAX;
pub(super) const PADDING_PACKET_MAX: usize = OWN_HEADER_MAX + 255 + OVERHEAD_MAX;

/// The parts of a packet's header and payload that depend on its stream.
#[derive(Default)]
struct Shape {
    edit: Edit,
    /// Length of the dependency descriptor as it goes out; 0: none.
    descriptor: usize,
    /// RFC 8285 section 4.3: the form for elements of over 16 bytes.
    two_byte: bool,
    /// RTP padding in place of the payload of a packet that is not for this receiver, or has none.
    hollow: usize,
    /// Of the elements stored with the packet, the length of those that the receiver agreed to.
    agreed: usize,
}

impl Shape {
    #[inline]
    fn of(stream: &Outgoing, queued: &Queued, (elements, descriptor, payload): (&[u8], &[u8], &[u8])) -> Shape {
        let edit = stream.edit(queued.index);
        let mut shape = Shape {
            edit,
            descriptor: 0,
            two_byte: false,
            hollow: usize::from(edit.change == Change::Hollow || payload.is_empty()),
            agreed: agreed(stream, elements).map(|(_, value)| 1 + value.len()).sum(),
        };
        if let Change::Frame { targets, .. } = edit.change
            && !descriptor.is_empty()
            && stream.extensions.contains(Extension::DependencyDescriptor)
        {
            shape.descriptor = Some(rewritten_len(descriptor, targets)).filter(|len| *len <= 255).unwrap_or(0);
            shape.two_byte = ExtensionWriter::needs_two_byte(Extension::DependencyDescriptor.id(), shape.descriptor);
        }
        shape
    }
}

/// The elements stored with a packet that the receiver agreed to (RFC 8285 section 5).
fn agreed<'a>(stream: &Outgoing, elements: &'a [u8]) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
    let extensions = stream.extensions;
    one_byte_elements(elements).filter(move |(id, _)| extensions.contains_id(*id))
}

#[inline]
pub(super) fn packet_len(stream: &Outgoing, stored: &Stored<'_>, queued: &Queued) -> usize {
    let (elements, descriptor, payload) = stored.parts();
    let shape = Shape::of(stream, queued, (elements, descriptor, payload));
    let head = 1 + usize::from(shape.two_byte);
    let mut block = shape.agreed;
    if shape.two_byte {
        block += agreed(stream, elements).count();
    }
    if !stream.acknowledged && stream.extensions.contains(Extension::Mid) {
        block += head + stream.mid.as_bytes().len();
    }
    if stream.extensions.contains(Extension::AbsSendTime) {
        block += head + 3;
    }
    if stream.extensions.contains(Extension::TransportCc) {
        block += head + 2;
    }
    if shape.descriptor > 0 {
        block += head + shape.descriptor;
    }
    let block = if block == 0 { 0 } else { 4 + block.next_multiple_of(4) };
    let payload = if shape.hollow > 0 { shape.hollow } else { payload.len() };
    12 + block + usize::from(queued.retransmission) * 2 + payload
}

/// Lengths of a packet, which is shorter than 64 KiB. Narrow, so that they are returned in a register: memory would be
/// read behind all the bytes that were just written.
#[derive(Clone, Copy)]
pub(super) struct Written {
    header: u16,
    len: u16,
    pub(super) payload: u16,
    pub(super) uses_transport_seq: bool,
}

pub(super) fn write_packet(
    packet: &mut [u8],
    now: Now,
    stream: &Outgoing,
    queued: &Queued,
    stored: &Stored<'_>,
    padding: usize,
    transport_seq: u16,
) -> Written {
    let (elements, descriptor, payload) = stored.parts();
    let shape = Shape::of(stream, queued, (elements, descriptor, payload));
    let (payload, padding) = if shape.hollow > 0 { (&[][..], padding + shape.hollow) } else { (payload, padding) };
    let uses_transport_seq = stream.extensions.contains(Extension::TransportCc);
    let (payload_type, seq, ssrc) = match (&stream.rtx, queued.retransmission) {
        (Some(rtx), true) => (rtx.payload_type, Seq(rtx.next_index as u16), rtx.ssrc),
        _ => (stream.payload_type, Seq(queued.index as u16), stream.ssrc),
    };
    let fields = HeaderFields {
        marker: (stored.header.marker || shape.edit.ends_picture) && shape.hollow == 0,
        has_padding: padding > 0,
        payload_type,
        seq,
        timestamp: queued.timestamp,
        ssrc,
    };
    let header = write_header(packet, now, stream, &shape, (elements, descriptor), fields, transport_seq);
    let mut at = header;
    if queued.retransmission {
        // RFC 4588 section 4: the original sequence number leads the payload.
        packet[at..at + 2].copy_from_slice(&(queued.index as u16).to_be_bytes());
        at += 2;
    }
    packet[at..at + payload.len()].copy_from_slice(payload);
    if let (Change::Picture { picture, tl0_picture_index }, Some(edits)) = (shape.edit.change, &stream.edits) {
        renumber(edits.codec, &mut packet[at..at + payload.len()], picture, tl0_picture_index);
    }
    at += payload.len();
    if padding > 0 {
        packet[at..at + padding].fill(0);
        packet[at + padding - 1] = padding as u8;
        at += padding;
    }
    Written { header: header as u16, len: at as u16, payload: payload.len() as u16, uses_transport_seq }
}

/// Fixed header and extensions, some of them a stored packet's; their length.
fn write_header(
    packet: &mut [u8],
    now: Now,
    stream: &Outgoing,
    shape: &Shape,
    (elements, descriptor): (&[u8], &[u8]),
    fields: HeaderFields,
    transport_seq: u16,
) -> usize {
    let (fixed, rest) = packet.split_at_mut(12);
    let room = OWN_HEADER_MAX + 2 * elements.len() + shape.descriptor;
    let mut writer = ExtensionWriter::new(&mut rest[..room], shape.two_byte);
    if !stream.acknowledged && stream.extensions.contains(Extension::Mid) {
        writer.push(Extension::Mid.id(), stream.mid.as_bytes());
    }
    if stream.extensions.contains(Extension::AbsSendTime) {
        writer.push(Extension::AbsSendTime.id(), &abs_send_time(now.wall));
    }
    if stream.extensions.contains(Extension::TransportCc) {
        writer.push(Extension::TransportCc.id(), &transport_seq.to_be_bytes());
    }
    if shape.two_byte || shape.agreed != elements.len() {
        for (id, value) in agreed(stream, elements) {
            writer.push(id, value);
        }
    } else {
        writer.push_one_byte_elements(elements);
    }
    if let (Change::Frame { number_shift, targets, active }, 1..) = (shape.edit.change, shape.descriptor) {
        let mut value = [0; DESCRIPTOR_BYTES_MAX];
        if let Some(len) = rewrite(descriptor, number_shift, targets, active, &mut value) {
            writer.push(Extension::DependencyDescriptor.id(), &value[..len]);
        }
    }
    let block = writer.finish();
    if let Ok(fixed) = fixed.try_into() {
        write_fixed_header(fixed, fields, block > 0);
    }
    12 + block
}

/// The new length of the packet at `start`, or None when the sealer refuses (the number was used before): such a packet
/// is not sent.
pub(super) fn seal(
    sealer: &mut Sealer,
    stream: &mut Outgoing,
    queued: &Queued,
    written: Written,
    start: usize,
    buffer: &mut [u8],
    due: &mut DueTags,
) -> Option<usize> {
    let placed = Placed { start, header_len: written.header.into(), len: written.len.into() };
    let sealed = match (&mut stream.rtx, queued.retransmission) {
        (Some(rtx), true) => {
            let index = rtx.next_index;
            rtx.next_index += 1;
            stream.sent.retransmitted += 1;
            sealer.seal_in_buffer(&mut SealPlace::default(), index, placed, buffer, due)
        }
        _ => sealer.seal_in_buffer(&mut stream.seal_place, queued.index, placed, buffer, due),
    };
    sealed.ok()
}

/// A packet of nothing but padding on the stream's RTX (RFC 4588 section 4 leaves it without a payload); its length.
pub(super) fn write_padding(
    packet: &mut [u8],
    now: Now,
    stream: &mut Outgoing,
    transport_seq: u16,
    sealer: &mut Sealer,
) -> Option<usize> {
    let rtx = stream.rtx.as_ref()?;
    let (payload_type, seq, ssrc) = (rtx.payload_type, Seq(rtx.next_index as u16), rtx.ssrc);
    let index = rtx.next_index;
    let fields =
        HeaderFields { marker: false, has_padding: true, payload_type, seq, timestamp: stream.sent.timestamp, ssrc };
    let header = write_header(packet, now, stream, &Shape::default(), (&[], &[]), fields, transport_seq);
    let end = header + 255;
    packet[header..end].fill(0);
    packet[end - 1] = 255;
    stream.rtx.as_mut()?.next_index += 1;
    sealer.seal_rtp(index, packet, header, end).ok()
}
