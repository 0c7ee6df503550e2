//! RTCP compounds against a shard with state: a publisher, one who watches it quietly, and one who sends whatever the
//! input says about the streams that it knows. The quiet one loses nothing, and the loud one gets no more out of it
//! than it is allowed. Used by the fuzz target `shard_rtcp` and by `tests/reference.rs`.

use weirgate::base::id::Ssrc;
use weirgate::base::limits::RESENT_BURST_MAX;
use weirgate::sim::endpoint::Endpoint;
use weirgate::wire::feedback::Feedback;
use weirgate::wire::rtcp::{self, Rtcp};
use weirgate::wire::rtp::RtpHeader;

use crate::choices::Choices;
use crate::shard_rig::{Rig, Stream, millis};

const OPS_MAX: usize = 300;
const PUBLISHED: u32 = 1_000;
/// The loud one sends too.
const OWN: u32 = 2_000;
const LOUD: u32 = 70_000;
const QUIET: u32 = 80_000;
/// Requests for keyframes that one frame or one span of time may bring a publisher, at the very most.
const REQUESTS_A_STEP: usize = 3;

struct Call {
    rig: Rig,
    publisher: usize,
    loud: usize,
    quiet: usize,
    streams: [Stream; 2],
    /// The publisher's packets that the quiet one must have been sent.
    sent: usize,
    steps: usize,
}

impl Call {
    fn new() -> Call {
        let mut rig = Rig::new(1);
        let publisher = rig.connected(0, 1, 1);
        let loud = rig.connected(0, 2, 2);
        let quiet = rig.connected(0, 3, 3);
        rig.produce(0, 1, 1, PUBLISHED);
        rig.produce(0, 2, 2, OWN);
        rig.consume(0, 1, 2, 1, 0, LOUD);
        rig.consume(0, 2, 3, 1, 0, QUIET);
        rig.consume(0, 3, 3, 2, 0, QUIET + 10);
        let streams = [Stream::new(PUBLISHED), Stream::new(OWN)];
        let mut call = Call { rig, publisher, loud, quiet, streams, sent: 0, steps: 0 };
        call.frame(0, true);
        call.frame(1, true);
        call
    }

    fn frame(&mut self, of: usize, key: bool) {
        let client = [self.publisher, self.loud][of];
        let packet = self.streams[of].frame(key, 200);
        let peer: &mut Endpoint = &mut self.rig.clients[client].peer;
        assert!(peer.send_rtp(&packet));
        self.sent += usize::from(of == 0);
        self.steps += 1;
        self.rig.run(millis(5));
    }

    fn received(&self, client: usize, ssrc: u32) -> usize {
        let of = |packet: &&Vec<u8>| RtpHeader::parse(packet).is_ok_and(|header| header.ssrc == Ssrc(ssrc));
        self.rig.clients[client].rtp.iter().filter(of).count()
    }

    fn check(&mut self) {
        assert_eq!(self.received(self.quiet, QUIET), self.sent, "the quiet one gets every packet, once");
        let resent = self.received(self.loud, LOUD + 1);
        let limit = RESENT_BURST_MAX as usize + self.sent;
        assert!(resent <= limit, "{resent} were sent again, of {}", self.sent);
        let compounds = self.rig.clients[self.publisher].rtcp.iter();
        let requests = compounds.flat_map(|(_, compound)| rtcp::parse(compound).flatten());
        let requests = requests.filter(|packet| matches!(packet, Rtcp::Feedback(Feedback::Pli(_))));
        let (requests, limit) = (requests.count(), REQUESTS_A_STEP * (self.steps + 2));
        assert!(requests <= limit, "{requests} requests for a keyframe in {} steps", self.steps);
        assert!(self.rig.clients.iter().all(|client| client.unopened == 0), "a number was sealed twice");
    }

    /// A compound of packets with the input's bodies, about streams that there are.
    fn say(&mut self, choices: &mut Choices<'_>) {
        let mut compound = Vec::new();
        for _ in 0..choices.of(4) + 1 {
            let (kind, first) = (200 + choices.byte() % 8, choices.byte());
            let known = [LOUD, LOUD + 1, OWN, OWN + 1, PUBLISHED, QUIET, 0];
            let media = known[choices.of(known.len())];
            let len = usize::from(choices.byte());
            let body = choices.take(len);
            let mut packet = vec![0x80 | first & 0x1f, kind, 0, 0];
            packet.extend(if kind == 203 { media } else { 1 }.to_be_bytes());
            packet.extend(media.to_be_bytes());
            packet.extend(body);
            packet.resize(packet.len().next_multiple_of(4), 0);
            let words = packet.len() / 4 - 1;
            // Now and then it says another length.
            let words = if first & 0x20 == 0 { words } else { usize::from(first) };
            packet[2..4].copy_from_slice(&(words as u16).to_be_bytes());
            compound.extend(packet);
        }
        let before = self.rig.clients[self.loud].reached;
        self.rig.clients[self.loud].peer.send_rtcp(compound.clone());
        self.rig.run(millis(1));
        let answers = self.rig.clients[self.loud].reached - before;
        // A NACK's four bytes name 17 packets.
        assert!(answers <= compound.len() / 4 * 17 + 8, "{answers} datagrams for {} bytes", compound.len());
    }
}

/// How many packets the quiet one had to get.
pub fn run(bytes: &[u8]) -> usize {
    let mut choices = Choices::new(bytes);
    let mut call = Call::new();
    for _ in 0..OPS_MAX {
        if choices.is_empty() {
            break;
        }
        match choices.of(8) {
            0 | 1 => call.frame(0, choices.of(8) == 0),
            2 => call.frame(1, choices.yes()),
            3 => {
                call.steps += 10;
                call.rig.run(millis(u64::from(choices.byte())));
            }
            _ => call.say(&mut choices),
        }
    }
    call.rig.run(millis(50));
    call.frame(0, true);
    call.check();
    call.sent
}
