//! RTP packets as they come out of decryption: header, extension elements, padding, and each codec's reading.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate::wire::codec::h264::{self, SetPart};
use weirgate::wire::codec::{Codec, inspect, size::pixels, vp8::Vp8Descriptor, vp9::Vp9Descriptor};
use weirgate::wire::rtp::{ExtensionWriter, RtpHeader};
use weirgate::wire::{Kind, classify, dependency_descriptor, extension};

fuzz_target!(|bytes: &[u8]| {
    assert!(classify(bytes) == Kind::Unknown || bytes.len() >= 8);
    let Ok(header) = RtpHeader::parse(bytes) else { return };
    assert!((12..=bytes.len()).contains(&header.len()));
    let elements: Vec<_> = header.extensions(bytes).collect();
    let mut block = vec![0; header.len() + 2 * elements.len() + 8];
    let mut writer = ExtensionWriter::new(&mut block, true);
    for &(id, value) in &elements {
        assert!(bytes[..header.len()].as_ptr_range().contains(&value.as_ptr()) || value.is_empty());
        assert!(id != 0 && writer.push(id, value), "what was read can be written");
        let _ = extension::AudioLevel::parse(value);
        let _ = (extension::transport_cc_seq(value), extension::AbsCaptureTime::parse(value));
        if let Some(name) = extension::short_name(value) {
            assert!(value.starts_with(name.as_bytes()) && !name.as_bytes().contains(&0));
        }
        if let Ok(Some(structure)) = dependency_descriptor::parse_structure(value) {
            assert!(structure.template(structure.template_id_offset).is_some());
        }
    }
    let written = writer.finish();
    let again = [&[0x90; 1], &[0; 11][..], &block[..written]].concat();
    if written > 0 {
        let reread = RtpHeader::parse(&again).expect("our own block is valid");
        assert!(reread.extensions(&again).eq(elements));
    }
    if let Ok(payload) = header.payload(bytes) {
        assert!(header.len() + payload.len() <= bytes.len());
        for codec in [Codec::Opus, Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1] {
            inspect(codec, payload);
            pixels(codec, payload);
        }
        for part in h264::parameter_sets(payload) {
            let (SetPart::Whole(bytes) | SetPart::Fragment { part: bytes, .. }) = part;
            assert!(bytes.is_empty() || payload.as_ptr_range().contains(&bytes.as_ptr()));
            let _ = h264::parameter_set_id(bytes);
        }
        let vp8 = Vp8Descriptor::parse(payload).map_or(0, |read| usize::from(read.len));
        let vp9 = Vp9Descriptor::parse(payload).map_or(0, |read| usize::from(read.len));
        assert!(vp8.max(vp9) <= payload.len());
    }
});
