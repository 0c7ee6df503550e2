//! Plain-RTP transports: how one begins, and the source that it talks to. Each has a local address of its own, and gets
//! nothing from there but media from that source. Where the source is awaited, the first packet that is recognised
//! decides: under SRTP one that opens, in the clear RTP with the SSRC of a producer.

use crate::base::buffer::Path;
use crate::base::id::{PeerId, TransportId};
use crate::base::slab::Key;
use crate::base::time::Now;
use crate::secure::srtp::SrtpContext;
use crate::shard::binding;
use crate::shard::command::{Closed, PlainRtpSpec};
use crate::shard::commons::Commons;
use crate::shard::demux::Demux;
use crate::shard::flow::{self, FIRST_REPORT};
use crate::shard::transport_life;
use crate::transport::Transport;
use crate::transport::kind::TransportKind;
use crate::transport::plain_rtp::PlainRtp;
use crate::wire::Kind;
use crate::wire::rtp::RtpHeader;

pub(super) fn create(
    commons: &mut Commons,
    demux: &mut Demux,
    now: Now,
    (id, peer): (TransportId, PeerId),
    spec: &PlainRtpSpec,
) -> Result<(), Closed> {
    let PlainRtpSpec { local, remote, srtp } = spec;
    if !demux.is_free(*local) {
        return Err(Closed::Limit("transports at one local address"));
    }
    let srtp = srtp.as_ref().map_or_else(SrtpContext::clear, SrtpContext::from);
    let kind = TransportKind::PlainRtp(PlainRtp::new(*local, *remote, srtp));
    let transport = Transport::new(now.mono, id, peer, kind);
    let key = commons.registry.add_transport(transport).ok_or(Closed::Limit("transports per shard"))?;
    demux.plain_rtp.insert(*local, key);
    if remote.is_some() {
        connected(commons, demux, now, key);
    }
    Ok(())
}

/// Whether a packet from an address that is not its source's may be the first of an awaited source.
pub(super) fn is_awaited(commons: &Commons, key: Key<Transport>, protocol: Kind, bytes: &[u8]) -> bool {
    let Some(plain) = commons.registry.transports.get(key).and_then(|transport| transport.kind.plain_rtp()) else {
        return false;
    };
    // The keys decide, once it is opened.
    let keyed = plain.srtp.profile().is_some();
    let declared = || {
        let header = if protocol == Kind::Rtp { RtpHeader::parse(bytes).ok() } else { None };
        header.is_some_and(|header| binding::is_declared(&commons.registry, key, header.ssrc))
    };
    plain.path().is_none() && (keyed || declared())
}

/// Call after a packet of a stranger was taken: it may have been the first of the source.
pub(super) fn look_at_source(commons: &mut Commons, demux: &mut Demux, now: Now, key: Key<Transport>, path: Path) {
    let transport = commons.registry.transports.get(key);
    if transport.and_then(|transport| transport.kind.exit()) == Some(path) {
        connected(commons, demux, now, key);
    }
}

/// Its source is known: media may flow.
fn connected(commons: &mut Commons, demux: &mut Demux, now: Now, key: Key<Transport>) {
    let Some(transport) = commons.registry.transports.get(key) else { return };
    let Some(path) = transport.kind.exit() else { return };
    commons.ledger.events.push_back(transport_life::state(transport));
    commons.ledger.events.extend(transport_life::connected(transport, None));
    demux.claim(commons, now, path, key);
    commons.arm(key, now.mono + FIRST_REPORT);
    flow::reopen_all(commons, now, key);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::buffer::LocalIndex;
    use crate::secure::srtp::SrtpProfile;
    use crate::shard::closing;
    use crate::shard::command::{Event, SrtpKeys, TransportState};
    use crate::shard::demux::Owner;
    use crate::shard::fixture::{Fixture, keys, rtp, video};
    use crate::shard::ledger::PathChange;

    const LOCAL: LocalIndex = LocalIndex(3);

    fn path(port: u16) -> Path {
        Path::udp(LOCAL, ([198, 51, 100, 1], port).into())
    }

    /// A transport of a peer of the same number.
    fn plain(fixture: &mut Fixture, id: u64, remote: Option<u16>, srtp: Option<SrtpKeys>) -> Result<(), Closed> {
        let spec = PlainRtpSpec { local: LOCAL, remote: remote.map(|port| path(port).remote), srtp };
        create(&mut fixture.commons, &mut fixture.demux, fixture.now, (TransportId(id), PeerId(id)), &spec)
    }

    fn key(fixture: &Fixture, id: u64) -> Key<Transport> {
        fixture.commons.registry.transport_keys[&TransportId(id)]
    }

    #[test]
    fn one_that_is_told_its_source_has_it_from_the_start_and_nobody_else_its_address() {
        let mut fixture = Fixture::new();
        plain(&mut fixture, 1, Some(7), None).unwrap();
        let one = key(&fixture, 1);
        assert_eq!(
            (fixture.demux.owner(&path(7)), fixture.demux.owner(&path(8))),
            (Owner::Here(one), Owner::Stranger(one))
        );
        assert_eq!(fixture.commons.ledger.path_changes, [PathChange::Up(path(7))]);
        let state = |event: &Event| matches!(event, Event::TransportState { state: TransportState::Connected, .. });
        assert!(fixture.events().iter().any(state));
        assert_eq!(plain(&mut fixture, 2, None, None), Err(Closed::Limit("transports at one local address")));
        let Fixture { commons, demux, now, .. } = &mut fixture;
        closing::close_transport(commons, demux, *now, one, None);
        assert_eq!(demux.owner(&path(7)), Owner::Nobody);
        assert_eq!(commons.ledger.path_changes, [PathChange::Up(path(7)), PathChange::Down(path(7))]);
        assert_eq!(plain(&mut fixture, 2, None, None), Ok(()));
    }

    #[test]
    fn an_address_that_browsers_use_is_none_for_it() {
        let mut fixture = Fixture::new();
        let browser = fixture.transport(1);
        fixture.connect(browser, path(5));
        assert_eq!(plain(&mut fixture, 2, Some(7), None), Err(Closed::Limit("transports at one local address")));
    }

    #[test]
    fn in_the_clear_a_producers_ssrc_is_awaited_and_under_srtp_anything_that_may_open() {
        let mut fixture = Fixture::new();
        plain(&mut fixture, 1, None, None).unwrap();
        fixture.producer(7, 1, video(100));
        let one = key(&fixture, 1);
        let awaited = |fixture: &Fixture, protocol, bytes: &[u8]| is_awaited(&fixture.commons, one, protocol, bytes);
        for (ssrc, expected) in [(100, true), (101, true), (102, false)] {
            assert_eq!(awaited(&fixture, Kind::Rtp, &rtp(ssrc, 96, 1, None, &[1])), expected, "{ssrc}");
        }
        assert!(!awaited(&fixture, Kind::Rtcp, &rtp(100, 96, 1, None, &[1])));
        fixture.commons.registry.transports.get_mut(one).unwrap().kind.heard(path(7), 1);
        assert!(!awaited(&fixture, Kind::Rtp, &rtp(100, 96, 1, None, &[1])), "it has come");

        let mut fixture = Fixture::new();
        let srtp = SrtpKeys { profile: SrtpProfile::AeadAes128Gcm, local: keys(), remote: keys() };
        plain(&mut fixture, 1, None, Some(srtp)).unwrap();
        assert!(is_awaited(&fixture.commons, one, Kind::Rtcp, &[0x80, 201]));
    }

    #[test]
    fn a_source_that_was_heard_opens_the_path() {
        let mut fixture = Fixture::new();
        plain(&mut fixture, 1, None, None).unwrap();
        let one = key(&fixture, 1);
        let look = |fixture: &mut Fixture, port| {
            let Fixture { commons, demux, now, .. } = fixture;
            look_at_source(commons, demux, *now, one, path(port));
            demux.owner(&path(port))
        };
        assert_eq!(look(&mut fixture, 7), Owner::Stranger(one), "its packet was not opened");
        fixture.commons.registry.transports.get_mut(one).unwrap().kind.heard(path(7), 1);
        assert_eq!((look(&mut fixture, 8), look(&mut fixture, 7)), (Owner::Stranger(one), Owner::Here(one)));
        assert!(fixture.commons.registry.transports.get(one).unwrap().is_open());
    }
}
