//! The lanes' socket: datagrams as they come, from a known node's address and without keys; and what an opened datagram
//! holds, as its other end may write it: records, orders, parts, feedback about anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate::base::buffer::{LocalIndex, Path, Run, Transmit};
use weirgate::base::time::{Duration, Instant, Now, NtpTime};
use weirgate::media::history::Stored;
use weirgate::secure::dtls::Keying;
use weirgate::secure::lane::LaneKeys;
use weirgate::secure::srtp::{MasterKey, SrtpProfile};
use weirgate::transport::lane::{LaneHeard, Lane};
use weirgate::transport::queued::{PacketStore, StoredAt};
use weirgate::transport::send_buffer::SendBuffer;
use weirgate::wire::lane::{LaneMedia, LaneOrder, LaneRecords, order_bytes};

struct Nothing;

impl PacketStore for Nothing {
    fn stored(&self, _: StoredAt) -> Option<Stored<'_>> {
        None
    }
}

#[derive(Default)]
struct Sent(usize);

impl Transmit for Sent {
    fn transmit(&mut self, _: &[u8], runs: &[Run]) {
        self.0 += runs.iter().map(Run::packets).sum::<usize>();
    }
}

fn keying(swapped: bool) -> Keying {
    let profile = SrtpProfile::AeadAes128Gcm;
    let key = |byte: u8| MasterKey::new(profile, &[byte; 16], &[byte; 12]).expect("the lengths of the profile");
    let (local, remote) = if swapped { (key(2), key(1)) } else { (key(1), key(2)) };
    Keying { profile, suite: "fuzzed", local, remote, peer_certificate: Vec::new() }
}

fuzz_target!(|bytes: &[u8]| {
    let start = Instant::from_nanos(1_000_000_000);
    let mut lane = Lane::new(start, LaneKeys::new(&keying(true), 0));
    let mut theirs = LaneKeys::new(&keying(false), 0);
    assert!(lane.open(start, &mut bytes.to_vec()).is_err(), "nobody forges a tag");
    if let Ok(Some(order)) = LaneOrder::parse(bytes) {
        assert_eq!(LaneOrder::parse(&order_bytes(&order)), Ok(Some(order)), "what was read can be written");
    }
    lane.set_in_use(start, true);
    let path = Path::udp(LocalIndex(0), ([192, 0, 2, 1], 41_000).into());
    let (mut buffer, mut sent, mut now) = (SendBuffer::default(), Sent::default(), start);
    // Each piece behind its length is the sealed part of a datagram.
    let mut rest = bytes;
    while let Some((len, after)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)) % 1_440;
        let (piece, after) = after.split_at(len.min(after.len()));
        rest = after;
        let mut datagram = [&[0; 8][..], piece, &[0; 16]].concat();
        theirs.sealer.seal(&mut datagram).expect("there are numbers enough");
        let Ok(records) = lane.open(now, &mut datagram) else { continue };
        let clock = Now { mono: now, wall: NtpTime(now.as_nanos()) };
        let most = records.len() / 2 + 1;
        let mut count = 0;
        for record in LaneRecords(records) {
            count += 1;
            match record.map(|record| lane.take(clock, &record)) {
                Ok(LaneHeard::Whole(whole)) => drop(LaneMedia::parse(&whole)),
                Ok(_) | Err(_) => {}
            }
        }
        assert!(count <= most, "records lie within their datagram");
        while let Some(order) = lane.next_order() {
            let _ = LaneOrder::parse(&order);
        }
        lane.flush(now, path, &Nothing, &mut buffer, &mut sent);
        buffer.finish(&mut sent);
        now = now + Duration::from_millis(7);
    }
    assert!(sent.0 <= 4 * (bytes.len() + 1), "an answer costs no more than its question");
});
