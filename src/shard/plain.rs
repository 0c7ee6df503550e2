//! Plain-RTP transports: how one begins, and the source that it talks to. Each has a local address of its own, and gets
//! nothing from there but media from that source. Where the source is awaited, the first packet that is recognised
//! decides: under SRTP one that opens, in the clear RTP with the SSRC of a producer.

use crate::base::buffer::Path;
use crate::base::id::{PeerId, TransportId};
use crate::base::slab::Key;
use crate::base::time::Now;
use crate::secure::srtp::SrtpContext;
use crate::shard::binding;
use crate::shard::command::{Closed, PlainRtp};
use crate::shard::commons::Commons;
use crate::shard::demux::Demux;
use crate::shard::flow::{self, FIRST_REPORT};
use crate::shard::life;
use crate::transport::Transport;
use crate::transport::kind::Kind;
use crate::transport::plain::Plain;
use crate::wire::Kind as Protocol;
use crate::wire::rtp::RtpHeader;

pub(super) fn create(
    commons: &mut Commons,
    demux: &mut Demux,
    now: Now,
    (id, peer): (TransportId, PeerId),
    spec: &PlainRtp,
) -> Result<(), Closed> {
    let PlainRtp { local, remote, srtp } = spec;
    if !demux.is_free(*local) {
        return Err(Closed::Limit("transports at one local address"));
    }
    let srtp = srtp.as_ref().map_or_else(SrtpContext::clear, SrtpContext::from);
    let kind = Kind::Plain(Plain::new(*local, *remote, srtp));
    let transport = Transport::new(now.mono, id, peer, kind);
    let key = commons.registry.add_transport(transport).ok_or(Closed::Limit("transports per shard"))?;
    demux.plain.insert(*local, key);
    if remote.is_some() {
        connected(commons, demux, now, key);
    }
    Ok(())
}

/// Whether a packet from an address that is not its source's may be the first of an awaited source.
pub(super) fn is_awaited(commons: &Commons, key: Key<Transport>, protocol: Protocol, bytes: &[u8]) -> bool {
    let Some(plain) = commons.registry.transports.get(key).and_then(|transport| transport.kind.plain()) else {
        return false;
    };
    // The keys decide, once it is opened.
    let keyed = plain.srtp.profile().is_some();
    let declared = || {
        let header = if protocol == Protocol::Rtp { RtpHeader::parse(bytes).ok() } else { None };
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
    commons.ledger.events.push_back(life::state(transport));
    commons.ledger.events.extend(life::connected(transport, None));
    demux.claim(commons, now, path, key);
    commons.arm(key, now.mono + FIRST_REPORT);
    flow::reopen_all(commons, now, key);
}
