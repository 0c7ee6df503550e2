//! The ownership of a path on which several transports have passed a check. A check proves no address, so it takes no
//! path from its owner: the owner keeps the path while its own consent there is fresh. A rival takes it by a proof that
//! its client is there (`transport::proof`), or when the owner falls silent. Meanwhile the rivals try datagrams that
//! the owner cannot read: records of a handshake, and media under their keys. A rival may live on another shard, which
//! is told. At the address of a plain-RTP transport there are none.

use crate::base::buffer::Path;
use crate::base::id::ShardId;
use crate::base::limits::CONSENT;
use crate::base::slab::{Key, Slab};
use crate::base::time::{Duration, Instant, Now};
use crate::shard::commons::Commons;
use crate::shard::demux::Demux;
use crate::shard::flow;
use crate::shard::ledger::PathChange;
use crate::shard::paths::Rival;
use crate::shard::relay::{Claim, Handover};
use crate::transport::Transport;
use crate::transport::kind::TransportKind;
use crate::transport::web_rtc::WebRtc;
use crate::wire::feedback::Feedback;
use crate::wire::rtcp::{ReportBlock, Rtcp};

/// How long an owner that has proved nothing yet keeps a path after its last check: connecting browsers check more
/// often.
const UNPROVED_HOLD: Duration = Duration::from_secs(5);

impl Demux {
    /// A check on the path was authentic: it is this transport's, unless another one holds it.
    pub(super) fn claim(&mut self, commons: &mut Commons, now: Now, path: Path, key: Key<Transport>) {
        match self.paths.owner(&path) {
            Some(owner) if owner == key => {}
            Some(owner) if self.holds(&commons.registry.transports, now.mono, path, owner) => {
                self.paths.contend(path, Rival::Here(key))
            }
            before => {
                self.paths.insert(path, key);
                self.paths.withdraw(path, Rival::Here(key));
                if let Some(loser) = before {
                    return lose_path(commons, now, path, loser);
                }
                match self.forget_elsewhere(&path) {
                    Some(owner) => self.path_is_held(commons, path, owner),
                    None => {
                        commons.ledger.path_changes.push_back(PathChange::Up(path));
                        self.announce(&mut commons.port, path, true);
                    }
                }
            }
        }
    }

    fn holds(&self, transports: &Slab<Transport>, now: Instant, path: Path, owner: Key<Transport>) -> bool {
        match transports.get(owner).map(|transport| &transport.kind) {
            None => false,
            Some(TransportKind::WebRtc(web_rtc)) => {
                let hold = if web_rtc.proof.is_proved(path) { CONSENT } else { UNPROVED_HOLD };
                web_rtc.ice.silence_of(now, path) < hold
            }
            // It is nobody else's, as long as there is the transport.
            Some(TransportKind::PlainRtp(_)) => true,
        }
    }

    /// Takes the path from the transport, which has it no more.
    pub(super) fn path_down(&mut self, commons: &mut Commons, now: Now, path: Path, key: Key<Transport>) {
        if self.paths.owner(&path) != Some(key) {
            return;
        }
        self.paths.remove(&path);
        if self.paths.let_go(&path).is_none() {
            commons.ledger.path_changes.push_back(PathChange::Down(path));
            self.announce(&mut commons.port, path, false);
        }
        self.inherit(commons, now, path);
    }

    /// Gives a path that nobody here has any more to the transport that has waited longest.
    fn inherit(&mut self, commons: &mut Commons, now: Now, path: Path) {
        debug_assert!(self.paths.peek(&path).is_none(), "its owner has lost it");
        while let Some(rival) = self.paths.next_rival(&path) {
            match rival {
                Rival::Here(key)
                    if commons.registry.transports.get(key).is_some_and(|t| t.kind.is_valid_path(path)) =>
                {
                    return self.claim(commons, now, path, key);
                }
                Rival::Here(_) => {}
                Rival::At(shard) => {
                    commons.port.hand_over(shard, Handover::Claim { path, claim: Claim::Released });
                    return;
                }
            }
        }
    }

    /// Gives the path to the transport that proved it; the owner before loses it.
    fn take_path(&mut self, commons: &mut Commons, now: Now, path: Path, key: Key<Transport>) {
        let before = self.paths.insert(path, key).filter(|before| *before != key);
        self.paths.withdraw(path, Rival::Here(key));
        if let Some(loser) = before {
            lose_path(commons, now, path, loser);
        }
        if let Some(owner) = self.paths.let_go(&path) {
            self.take_from(commons, path, owner);
        }
    }

    fn take_from(&self, commons: &mut Commons, path: Path, owner: ShardId) {
        commons.ledger.path_changes.push_back(PathChange::Taken(path));
        commons.port.hand_over(owner, Handover::Claim { path, claim: Claim::Taken });
        self.announce(&mut commons.port, path, true);
    }

    /// Notes that another shard holds this path. That shard decides whether its own owner keeps it.
    pub(super) fn path_is_held(&mut self, commons: &mut Commons, path: Path, by: ShardId) {
        if by != self.id && self.paths.owner(&path).is_some() {
            if self.plain_rtp_at(path.leg).is_some() {
                return self.take_from(commons, path, by);
            }
            self.paths.hold_elsewhere(path, by);
            commons.port.hand_over(by, Handover::Claim { path, claim: Claim::Asked });
        }
    }

    /// Takes another shard's claim about a path on which one of its transports has passed a check.
    pub(super) fn claimed(&mut self, commons: &mut Commons, now: Now, from: ShardId, path: Path, claim: Claim) {
        if self.plain_rtp_at(path.leg).is_some() {
            // An answer to every claim would have no end, were there such a transport on both shards.
            if claim != Claim::Taken {
                commons.port.hand_over(from, Handover::Claim { path, claim: Claim::Taken });
            }
            return;
        }
        let owner = self.paths.owner(&path).filter(|_| self.paths.holder(&path).is_none());
        match (claim, owner) {
            (Claim::Asked, Some(owner)) => {
                self.paths.contend(path, Rival::At(from));
                if !self.holds(&commons.registry.transports, now.mono, path, owner) {
                    self.path_down(commons, now, path, owner);
                    lose_path(commons, now, path, owner);
                }
            }
            (Claim::Asked, None) => {
                commons.port.hand_over(from, Handover::Claim { path, claim: Claim::Released });
            }
            (Claim::Held, _) => {
                let mut proved =
                    |key| commons.registry.web_rtc(key).is_some_and(|web_rtc| web_rtc.proof.is_proved(path));
                if self.paths.owner(&path).is_some_and(|key| !proved(key)) {
                    self.paths.hold_elsewhere(path, from);
                }
            }
            (Claim::Taken, _) => {
                // Other waiting transports ask the new owner, with their next check.
                while self.paths.next_rival(&path).is_some() {}
                self.paths.let_go(&path);
                if let Some(owner) = self.paths.remove(&path) {
                    lose_path(commons, now, path, owner);
                }
            }
            (Claim::Released, _) => {
                self.paths.let_go(&path);
                if self.paths.owner(&path).is_some() {
                    commons.ledger.path_changes.push_back(PathChange::Up(path));
                    self.announce(&mut commons.port, path, true);
                }
            }
        }
    }

    /// Another shard claims a path. Where both do, the proved one has it, else the lower number.
    pub(super) fn path_elsewhere(&mut self, commons: &mut Commons, now: Now, path: Path, from: ShardId) {
        if self.plain_rtp_at(path.leg).is_some() {
            return commons.port.hand_over(from, Handover::Claim { path, claim: Claim::Taken });
        }
        let owner = self.paths.owner(&path);
        if let Some(owner) = owner.filter(|owner| self.holds(&commons.registry.transports, now.mono, path, *owner))
            && self.paths.holder(&path).is_none()
        {
            let proved = commons.registry.web_rtc(owner).is_some_and(|web_rtc| web_rtc.proof.is_proved(path));
            if proved || self.id < from {
                self.paths.contend(path, Rival::At(from));
                return commons.port.hand_over(from, Handover::Claim { path, claim: Claim::Held });
            }
        }
        if owner.is_some() {
            return self.path_is_held(commons, path, from);
        }
        self.is_elsewhere(path, from);
    }

    /// Proves the path of a transport whose handshake is done.
    pub(super) fn proved_by_handshake(&mut self, commons: &mut Commons, now: Now, key: Key<Transport>) {
        let Some(web_rtc) = commons.registry.web_rtc(key) else { return };
        if let Some(path) = web_rtc.proof.established(now.mono).filter(|path| web_rtc.ice.is_valid_path(*path)) {
            self.take_path(commons, now, path, key);
        }
        look_at_proof(commons, now, key);
    }

    /// Weighs a bounded transport's feedback, which may prove its path.
    pub(super) fn weigh(&mut self, commons: &mut Commons, now: Now, key: Key<Transport>, packet: &Rtcp<'_>) {
        let Some(Transport { kind, egress, .. }) = commons.registry.transports.get_mut(key) else { return };
        let TransportKind::WebRtc(WebRtc { proof, .. }) = kind else { return };
        let mut report = |block: ReportBlock| proof.on_report(now.mono, block.last_sr);
        let proved = match packet {
            Rtcp::SenderReport(sender) => sender.blocks().find_map(&mut report),
            Rtcp::ReceiverReport(receiver) => receiver.blocks().find_map(&mut report),
            Rtcp::Feedback(Feedback::TransportCc(numbers)) => {
                proof.on_transport_feedback(now.mono, numbers, &egress.log)
            }
            _ => None,
        };
        let Some(path) = proved else { return };
        commons.ledger.counters.paths_proved += 1;
        if commons.registry.web_rtc(key).is_some_and(|web_rtc| web_rtc.ice.is_valid_path(path)) {
            self.take_path(commons, now, path, key);
        }
        look_at_proof(commons, now, key);
    }
}

fn lose_path(commons: &mut Commons, now: Now, path: Path, loser: Key<Transport>) {
    if let Some(web_rtc) = commons.registry.web_rtc(loser) {
        web_rtc.forget_path(path);
        flow::reopen_all(commons, now, loser);
    }
}

/// Acts on a change of the path to send on, or of its proof.
pub(super) fn look_at_proof(commons: &mut Commons, now: Now, key: Key<Transport>) {
    let Some(web_rtc) = commons.registry.web_rtc(key) else { return };
    if web_rtc.look_at_proof() && web_rtc.link.is_up() {
        // The receiver report about a sender report is a proof.
        flow::report_soon(commons, now, key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{PeerId, TransportId};
    use crate::shard::command::PlainRtpSpec;
    use crate::shard::demux::Owner;
    use crate::shard::fixture::{Fixture, THERE, path};
    use crate::shard::plain_rtp;

    fn owner(fixture: &mut Fixture) -> Option<Key<Transport>> {
        fixture.demux.paths.owner(&path(9))
    }

    /// The transport passes a check on the path.
    fn passes(fixture: &mut Fixture, key: Key<Transport>) {
        let Fixture { commons, demux, now, .. } = fixture;
        demux.claim(commons, *now, path(9), key);
    }

    #[test]
    fn a_check_takes_no_path_from_an_owner_that_is_there_and_a_proof_does() {
        let mut fixture = Fixture::new();
        let (owns, waits) = (fixture.transport(1), fixture.transport(2));
        fixture.connect(owns, path(9));
        fixture.connect(waits, path(9));
        assert_eq!((owner(&mut fixture), fixture.demux.paths.is_contested(&path(9))), (Some(owns), true));
        let Fixture { commons, demux, now, .. } = &mut fixture;
        demux.take_path(commons, *now, path(9), waits);
        assert_eq!((owner(&mut fixture), fixture.demux.paths.is_contested(&path(9))), (Some(waits), false));
        let loser = fixture.commons.registry.transports.get(owns).unwrap();
        assert!(!loser.is_open() && loser.down_since.is_some(), "its consumers are closed");
    }

    #[test]
    fn an_owner_that_has_fallen_silent_loses_its_path_to_the_next_check() {
        let mut fixture = Fixture::new();
        let (owns, waits) = (fixture.transport(1), fixture.transport(2));
        fixture.connect(owns, path(9));
        fixture.wait(4_999);
        fixture.connect(waits, path(9));
        assert_eq!(owner(&mut fixture), Some(owns));
        fixture.wait(1);
        passes(&mut fixture, waits);
        assert_eq!(owner(&mut fixture), Some(waits));
    }

    #[test]
    fn the_oldest_rival_inherits_a_path_that_goes_down() {
        let mut fixture = Fixture::new();
        let (owns, waits) = (fixture.transport(1), fixture.transport(2));
        fixture.connect(owns, path(9));
        fixture.connect(waits, path(9));
        fixture.commons.ledger.path_changes.clear();
        let Fixture { commons, demux, now, .. } = &mut fixture;
        demux.path_down(commons, *now, path(9), waits);
        assert!(commons.ledger.path_changes.is_empty(), "it was not its own");
        demux.path_down(commons, *now, path(9), owns);
        assert_eq!(commons.ledger.path_changes, [PathChange::Down(path(9)), PathChange::Up(path(9))]);
        assert_eq!(owner(&mut fixture), Some(waits));
    }

    #[test]
    fn shards_settle_a_path_that_both_have_between_them() {
        let mut fixture = Fixture::new();
        let key = fixture.transport(1);
        fixture.connect(key, path(9));
        let Fixture { commons, demux, now, .. } = &mut fixture;
        demux.claimed(commons, *now, THERE, path(9), Claim::Asked);
        assert_eq!(demux.paths.rivals(&path(9)), [Rival::At(THERE)]);
        // It fell silent: the path is down, and the rival hears of it.
        *now = now.advanced_to(now.mono + UNPROVED_HOLD);
        demux.claimed(commons, *now, THERE, path(9), Claim::Asked);
        assert_eq!(demux.paths.peek(&path(9)), None);
        let said = fixture.said();
        assert!(said[0].contains("Claim") && said[0].contains("Released"), "{said:?}");
    }

    /// A plain-RTP transport at the local address of [`path`], which talks to that path's remote, or awaits its source.
    fn plain(fixture: &mut Fixture, told: bool) -> Key<Transport> {
        let Path { leg, remote } = path(9);
        let spec = PlainRtpSpec { local: leg.local(), remote: told.then_some(remote), srtp: None };
        let Fixture { commons, demux, now, .. } = fixture;
        plain_rtp::create(commons, demux, *now, (TransportId(1), PeerId(1)), &spec).unwrap();
        commons.registry.transport_keys[&TransportId(1)]
    }

    #[test]
    fn no_other_shard_has_a_say_about_the_address_of_plain_rtp() {
        for claim in [None, Some(Claim::Asked), Some(Claim::Held), Some(Claim::Taken)] {
            let mut fixture = Fixture::new();
            let key = plain(&mut fixture, true);
            fixture.said();
            let Fixture { commons, demux, now, .. } = &mut fixture;
            match claim {
                None => demux.path_elsewhere(commons, *now, path(9), THERE),
                Some(claim) => demux.claimed(commons, *now, THERE, path(9), claim),
            }
            assert_eq!(
                (demux.owner(&path(9)), demux.paths.is_contested(&path(9))),
                (Owner::Here(key), false),
                "{claim:?}"
            );
            let answered = fixture.said().iter().any(|said| said.contains("Taken"));
            assert_eq!(answered, claim != Some(Claim::Taken), "{claim:?}: two that answer each other never end");
        }
    }

    #[test]
    fn a_source_of_plain_rtp_takes_the_path_from_the_shard_that_had_it_before() {
        let mut fixture = Fixture::new();
        let Fixture { commons, demux, now, .. } = &mut fixture;
        demux.path_elsewhere(commons, *now, path(9), THERE);
        let key = plain(&mut fixture, false);
        assert_eq!(fixture.demux.owner(&path(9)), Owner::Stranger(key), "it may be the first of the source");
        passes(&mut fixture, key);
        let Fixture { commons, demux, .. } = &mut fixture;
        assert_eq!(
            (demux.owner(&path(9)), &commons.ledger.path_changes),
            (Owner::Here(key), &[PathChange::Taken(path(9))].into())
        );
        // Or where the kernel's map says so.
        demux.path_is_held(commons, path(9), THERE);
        assert_eq!(demux.owner(&path(9)), Owner::Here(key));
    }
}
