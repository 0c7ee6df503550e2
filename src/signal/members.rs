//! Every peer, whether it has a socket or none: its channel, the account that pays for it, and its own rate limit,
//! which outlives a socket.

use rustc_hash::FxHashMap;

use crate::base::id::PeerId;
use crate::base::slab::Key;
use crate::base::time::Instant;
use crate::signal::channel::Channel;
use crate::signal::meter::{Cost, Meter, RateDecision};
use crate::signal::quota::{Accounts, Holder};

pub(super) struct Member {
    pub(super) channel: Key<Channel>,
    /// The account for its cost and its objects.
    pub(super) holder: Holder,
    meter: Meter,
}

/// The peers by number. The keys are our own numbers, and nothing iterates over them.
#[derive(Default)]
pub(super) struct Members(FxHashMap<PeerId, Member>);

impl Members {
    pub(super) fn insert(&mut self, now: Instant, peer: PeerId, channel: Key<Channel>, holder: Holder) {
        self.0.insert(peer, Member { channel, holder, meter: Meter::new(now, 1) });
    }

    pub(super) fn remove(&mut self, peer: PeerId) -> Option<Member> {
        self.0.remove(&peer)
    }

    pub(super) fn get(&self, peer: PeerId) -> Option<&Member> {
        self.0.get(&peer)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the peer may ask for this now. None: it is gone.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        accounts: &mut Accounts,
        peer: PeerId,
        cost: Cost,
    ) -> Option<RateDecision> {
        let member = self.0.get_mut(&peer)?;
        let others_wait = accounts.wait(now, &member.holder);
        let admission = member.meter.admit(now, cost, others_wait);
        if admission == RateDecision::Pass {
            accounts.charge(now, &member.holder, cost);
        }
        Some(admission)
    }

    pub(super) fn charge(&mut self, now: Instant, accounts: &mut Accounts, peer: PeerId, cost: Cost) {
        if let Some(member) = self.0.get_mut(&peer) {
            member.meter.charge(cost);
            accounts.charge(now, &member.holder, cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::MESSAGES_BURST;
    use crate::base::slab::Slab;
    use crate::signal::quota::Quotas;

    #[test]
    fn a_peer_pays_from_its_own_purse_and_from_its_users() {
        let (mut members, mut accounts) = (Members::default(), Accounts::new(Quotas::default()));
        let channel = Slab::default().insert(Channel::new("room".into()));
        let (now, holder) = (Instant::ZERO, Holder::new([192, 0, 2, 1].into(), "anna"));
        for peer in [PeerId(1), PeerId(2)] {
            members.insert(now, peer, channel, holder.clone());
        }
        let cost = Cost::message(100);
        for _ in 0..MESSAGES_BURST {
            assert_eq!(members.admit(now, &mut accounts, PeerId(1), cost), Some(RateDecision::Pass));
        }
        assert!(matches!(members.admit(now, &mut accounts, PeerId(1), cost), Some(RateDecision::Refuse(_))));
        assert_eq!(members.admit(now, &mut accounts, PeerId(2), cost), Some(RateDecision::Pass));
        for _ in 0..1_000 {
            members.charge(now, &mut accounts, PeerId(2), Cost::told(5_000, 16 * 1024));
        }
        let third = PeerId(3);
        members.insert(now, third, channel, holder);
        assert!(
            matches!(members.admit(now, &mut accounts, third, cost), Some(RateDecision::Refuse(_))),
            "one user's debt"
        );
        assert!(members.remove(third).is_some() && members.admit(now, &mut accounts, third, cost).is_none());
    }
}
