//! RTCP of our own on its way out: sealed for one transport, and ready to leave.

use crate::base::id::Ssrc;
use crate::base::slab::Key;
use crate::shard::command::Event;
use crate::shard::commons::Commons;
use crate::shard::drops::ShardDrop;
use crate::transport::Transport;
use crate::wire::rtcp_write::RtcpWriter;

/// The sender SSRC of feedback from this end; receivers of it look at the media SSRC only.
pub(super) const OWN_SSRC: Ssrc = Ssrc(1);

/// Seals an RTCP packet for the transport; does nothing while it has no keys or no consent.
pub(super) fn send(commons: &mut Commons, key: Key<Transport>, mut packet: Vec<u8>) {
    if packet.is_empty() {
        return;
    }
    let Some(transport) = commons.registry.transports.get_mut(key) else { return };
    let Some(path) = transport.kind.exit() else { return };
    if !transport.kind.admits(packet.len()) {
        return commons.ledger.drops.count(ShardDrop::UnprovedPath);
    }
    let Some(srtp) = transport.kind.srtp_mut() else { return };
    if srtp.sealer.seal_rtcp(&mut packet).is_ok() {
        transport.traffic.packets_sent += 1;
        transport.traffic.bytes_sent += packet.len() as u64;
        if transport.traffic.packets_sent == 1 {
            commons.ledger.events.push_back(Event::FirstPacket { transport: transport.id, incoming: false });
        }
        commons.outlet.ready.push(path, &packet);
    }
}

/// Says BYE for an SSRC of ours (RFC 3550 section 6.6), so that the receiver can let go of its decoder.
pub(super) fn bye(commons: &mut Commons, key: Key<Transport>, ssrc: Ssrc) {
    let mut packet = Vec::new();
    RtcpWriter::new(&mut packet).receiver_report(ssrc, &[]);
    RtcpWriter::new(&mut packet).bye(&[ssrc]);
    send(commons, key, packet);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::fixture::{Fixture, path};

    #[test]
    fn rtcp_leaves_sealed_for_its_own_transport_and_only_where_there_are_keys() {
        let mut fixture = Fixture::new();
        let (closed, open) = (fixture.transport(1), fixture.transport(2));
        bye(&mut fixture.commons, closed, Ssrc(5));
        assert!(fixture.events().is_empty(), "it has neither path nor keys");
        fixture.connect(open, path(9));
        bye(&mut fixture.commons, open, Ssrc(5));
        send(&mut fixture.commons, open, Vec::new());
        let traffic = fixture.commons.registry.transports.get(open).unwrap().traffic;
        // Eight bytes of each report, the tag and the index (RFC 7714 section 9).
        assert_eq!((traffic.packets_sent, traffic.bytes_sent), (1, 8 + 8 + 16 + 4));
        assert!(matches!(fixture.events()[..], [Event::FirstPacket { incoming: false, .. }]));
    }
}
