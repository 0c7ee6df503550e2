//! The ownership of a path that several transports have passed a check on. A check proves no address, so it takes no
//! path from its owner: the owner keeps its path as long as its own consent there is fresh, and a rival takes it by the
//! proof that it is there (`transport::proof`), or when the owner falls silent. Meanwhile the rivals try datagrams that
//! the owner cannot read: records of a handshake, and media under their keys. A rival may live on another shard, which
//! is told.

use crate::base::buffer::{DATAGRAM_MAX, Path};
use crate::base::id::ShardId;
use crate::base::limits::{CONSENT, PATHS_ELSEWHERE_MAX};
use crate::base::slab::Key;
use crate::base::time::{Duration, Instant, Now};
use crate::secure::Dropped;
use crate::shard::ledger::PathChange;
use crate::shard::paths::Rival;
use crate::shard::relay::{Claim, RelayMessage};
use crate::shard::shard::Shard;
use crate::transport::Transport;
use crate::transport::link::Link;
use crate::wire::feedback::Feedback;
use crate::wire::rtcp::{ReportBlock, Rtcp};
use crate::wire::{Kind, classify};

/// How long an owner that has proved nothing yet keeps a path after its last check: connecting browsers check more
/// often.
const UNPROVED_HOLD: Duration = Duration::from_secs(5);

impl Shard {
    /// A check on the path was authentic: it is this transport's, unless another one holds it.
    pub(super) fn claim(&mut self, now: Now, path: Path, key: Key<Transport>) {
        match self.paths.owner(&path) {
            Some(owner) if owner == key => {}
            Some(owner) if self.holds(now.mono, path, owner) => self.paths.contend(path, Rival::Here(key)),
            before => {
                self.paths.insert(path, key);
                self.paths.withdraw(path, Rival::Here(key));
                if let Some(loser) = before {
                    return self.lose_path(now, path, loser);
                }
                match self.elsewhere.remove(&path) {
                    Some(owner) => self.path_is_held(path, owner),
                    None => {
                        self.commons.ledger.path_changes.push_back(PathChange::Up(path));
                        self.announce_path(path, true);
                    }
                }
            }
        }
    }

    fn holds(&self, now: Instant, path: Path, owner: Key<Transport>) -> bool {
        let Some(transport) = self.commons.registry.transports.get(owner) else { return false };
        let silence = transport.ice.silence_of(now, path);
        match transport.proof.is_proved(path) {
            true => silence < CONSENT,
            false => silence < UNPROVED_HOLD,
        }
    }

    fn lose_path(&mut self, now: Now, path: Path, loser: Key<Transport>) {
        if let Some(transport) = self.commons.registry.transports.get_mut(loser) {
            transport.forget_path(path);
            self.reopen_consumers(now, loser);
        }
    }

    /// Nobody here has it any more: the oldest waiting transport gets it.
    pub(super) fn inherit(&mut self, now: Now, path: Path) {
        while let Some(rival) = self.paths.next_rival(&path) {
            match rival {
                Rival::Here(key)
                    if self.commons.registry.transports.get(key).is_some_and(|t| t.ice.is_valid_path(path)) =>
                {
                    return self.claim(now, path, key);
                }
                Rival::Here(_) => {}
                Rival::At(shard) => {
                    self.send_relay(shard, &RelayMessage::Claim { path, claim: Claim::Released });
                    return;
                }
            }
        }
    }

    /// The path is proved: its previous owner loses it.
    fn take_path(&mut self, now: Now, path: Path, key: Key<Transport>) {
        let before = self.paths.insert(path, key).filter(|before| *before != key);
        self.paths.withdraw(path, Rival::Here(key));
        if let Some(loser) = before {
            self.lose_path(now, path, loser);
        }
        if let Some(owner) = self.paths.let_go(&path) {
            self.commons.ledger.path_changes.push_back(PathChange::Taken(path));
            self.send_relay(owner, &RelayMessage::Claim { path, claim: Claim::Taken });
            self.announce_path(path, true);
        }
    }

    /// Another shard has this path: that one decides whether its owner holds it.
    pub fn path_is_held(&mut self, path: Path, by: ShardId) {
        if by != self.settings.id && self.paths.owner(&path).is_some() {
            self.paths.hold_elsewhere(path, by);
            self.send_relay(by, &RelayMessage::Claim { path, claim: Claim::Asked });
        }
    }

    /// Another shard's claim about a path that one of its transports has passed a check on.
    pub(super) fn claimed(&mut self, now: Now, from: ShardId, path: Path, claim: Claim) {
        let owner = self.paths.owner(&path).filter(|_| self.paths.holder(&path).is_none());
        match (claim, owner) {
            (Claim::Asked, Some(owner)) => {
                self.paths.contend(path, Rival::At(from));
                if !self.holds(now.mono, path, owner) {
                    self.path_down(now, path, owner);
                    self.lose_path(now, path, owner);
                }
            }
            (Claim::Asked, None) => {
                self.send_relay(from, &RelayMessage::Claim { path, claim: Claim::Released });
            }
            (Claim::Held, _) => {
                let proved = |key| {
                    self.commons.registry.transports.get(key).is_some_and(|transport| transport.proof.is_proved(path))
                };
                if self.paths.owner(&path).is_some_and(|key| !proved(key)) {
                    self.paths.hold_elsewhere(path, from);
                }
            }
            (Claim::Taken, _) => {
                // Other waiting transports ask the new owner, with their next check.
                while self.paths.next_rival(&path).is_some() {}
                self.paths.let_go(&path);
                if let Some(owner) = self.paths.remove(&path) {
                    self.lose_path(now, path, owner);
                }
            }
            (Claim::Released, _) => {
                self.paths.let_go(&path);
                if self.paths.owner(&path).is_some() {
                    self.commons.ledger.path_changes.push_back(PathChange::Up(path));
                    self.announce_path(path, true);
                }
            }
        }
    }

    /// Another shard claims a path. Where both do, the proved one has it, else the lower number.
    pub(super) fn path_elsewhere(&mut self, now: Now, path: Path, from: ShardId) {
        let owner = self.paths.owner(&path);
        if let Some(owner) = owner.filter(|owner| self.holds(now.mono, path, *owner))
            && self.paths.holder(&path).is_none()
        {
            let proved =
                self.commons.registry.transports.get(owner).is_some_and(|transport| transport.proof.is_proved(path));
            if proved || self.settings.id < from {
                self.paths.contend(path, Rival::At(from));
                return self.send_relay(from, &RelayMessage::Claim { path, claim: Claim::Held });
            }
        }
        if owner.is_some() {
            return self.path_is_held(path, from);
        }
        if self.elsewhere.len() < PATHS_ELSEWHERE_MAX {
            self.elsewhere.insert(path, from);
        }
    }

    /// Media on a path that several have passed a check on: the transport whose keys open it gets it.
    pub(super) fn sort_out(&mut self, now: Now, arrived: Instant, path: Path, owner: Key<Transport>, bytes: &mut [u8]) {
        let mut buffer = [0; DATAGRAM_MAX];
        let Some(kept) = buffer.get_mut(..bytes.len()) else { return };
        kept.copy_from_slice(bytes);
        let taken = match classify(bytes) {
            Kind::Rtp => self.take_rtp(now, arrived, path, owner, bytes),
            _ => self.take_rtcp(now, arrived, path, owner, bytes),
        };
        if let Err(why) = taken {
            self.try_rivals(now, arrived, path, kept, why);
        }
    }

    /// A datagram that the owner of the path could not read.
    pub(super) fn try_rivals(&mut self, now: Now, arrived: Instant, path: Path, bytes: &[u8], why: Dropped) {
        let kind = classify(bytes);
        for rival in self.paths.rivals(&path) {
            let taken = match rival {
                Rival::Here(key) => self.give_rival(now, arrived, path, key, kind, bytes),
                Rival::At(shard) if kind == Kind::Dtls || self.paths.rivals(&path).len() == 1 => {
                    self.commons.ledger.counters.handed_over += 1;
                    self.send_relay(shard, &RelayMessage::Datagram { path, bytes });
                    true
                }
                Rival::At(_) => false,
            };
            if taken {
                return;
            }
        }
        self.commons.ledger.drops.secure(why);
    }

    fn give_rival(
        &mut self,
        now: Now,
        arrived: Instant,
        path: Path,
        key: Key<Transport>,
        kind: Kind,
        bytes: &[u8],
    ) -> bool {
        let Some(transport) = self.commons.registry.transports.get(key).filter(|t| t.ice.is_valid_path(path)) else {
            return false;
        };
        self.commons.current = Some(key);
        match (&transport.link, kind) {
            (Link::Idle | Link::Handshaking(_) | Link::Unannounced(_), Kind::Dtls) => {
                self.take_dtls(now, path, key, bytes).is_ok()
            }
            (Link::Up(_), Kind::Rtp | Kind::Rtcp) => {
                let mut buffer = [0; DATAGRAM_MAX];
                let Some(copy) = buffer.get_mut(..bytes.len()) else { return false };
                copy.copy_from_slice(bytes);
                match kind {
                    Kind::Rtp => self.take_rtp(now, arrived, path, key, copy).is_ok(),
                    _ => self.take_rtcp(now, arrived, path, key, copy).is_ok(),
                }
            }
            _ => false,
        }
    }

    /// The path to send on may have changed, or its proof.
    pub(super) fn look_at_proof(&mut self, now: Now, key: Key<Transport>) {
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        if transport.look_at_proof() && transport.link.is_up() {
            // The receiver report about a sender report is a proof.
            self.report_soon(now, key);
        }
    }

    /// The handshake is done.
    pub(super) fn proved_by_handshake(&mut self, now: Now, key: Key<Transport>) {
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        if let Some(path) = transport.proof.established(now.mono).filter(|path| transport.ice.is_valid_path(*path)) {
            self.take_path(now, path, key);
        }
        self.look_at_proof(now, key);
    }

    /// A bounded transport's feedback may prove its path.
    pub(super) fn weigh(&mut self, now: Now, key: Key<Transport>, packet: &Rtcp<'_>) {
        let Some(Transport { proof, egress, .. }) = self.commons.registry.transports.get_mut(key) else { return };
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
        self.commons.ledger.counters.paths_proved += 1;
        if self.commons.registry.transports.get(key).is_some_and(|transport| transport.ice.is_valid_path(path)) {
            self.take_path(now, path, key);
        }
        self.look_at_proof(now, key);
    }
}
