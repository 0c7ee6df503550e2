//! The quotas of one user and of one address: sockets, transports that no check has come for yet, and work. A user is a
//! name at one address, because a name proves nothing; an IPv6 address counts by its network of 64 bits. Loopback,
//! where a proxy or a load generator stands, has a bound on transports alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::base::id::TransportId;
use crate::base::limits::{
    ADDRESS_METER_SIZE, CHECK_WAIT, METERED_SAID_BY_USER, SOCKETS_PER_ADDRESS, SOCKETS_PER_USER,
    UNCHECKED_TRANSPORTS_LOOPBACK_MAX, UNCHECKED_TRANSPORTS_PER_ADDRESS_MAX, UNCHECKED_TRANSPORTS_PER_USER_MAX,
    USER_METER_SIZE,
};
use crate::base::time::{Duration, Instant};
use crate::signal::auth::OpenError;
use crate::signal::message::Refusal;
use crate::signal::meter::{Cost, Meter};

/// The operator's settings; 0 sets no bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quotas {
    pub sockets_per_address: usize,
    pub sockets_per_user: usize,
}

impl Default for Quotas {
    fn default() -> Quotas {
        Quotas { sockets_per_address: SOCKETS_PER_ADDRESS, sockets_per_user: SOCKETS_PER_USER }
    }
}

/// The account of a socket.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Holder {
    pub(super) remote: IpAddr,
    network: IpAddr,
    user: Arc<str>,
}

impl Holder {
    pub(super) fn new(remote: IpAddr, user: &str) -> Holder {
        let remote = remote.to_canonical();
        Holder { remote, network: network_of(remote), user: user.into() }
    }

    pub(super) fn network(&self) -> IpAddr {
        self.network
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }
}

/// The network that one customer of a provider usually has for itself.
pub fn network_of(remote: IpAddr) -> IpAddr {
    match remote {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

struct Account {
    sockets: usize,
    unchecked: usize,
    meter: Meter,
}

impl Account {
    fn new(now: Instant, size: u32) -> Account {
        Account { sockets: 0, unchecked: 0, meter: Meter::new(now, size) }
    }
}

/// A transport that no check has come for.
struct Unchecked {
    holder: Holder,
    due: Option<Instant>,
}

/// The accounts of users and addresses, and the transports that no check has come for.
#[derive(Default)]
pub(super) struct Accounts {
    quotas: Quotas,
    addresses: BTreeMap<IpAddr, Account>,
    users: BTreeMap<(IpAddr, Arc<str>), Account>,
    unchecked: BTreeMap<TransportId, Unchecked>,
    due: BTreeSet<(Instant, TransportId)>,
    /// The number of accounts that the last clean-up left.
    swept: usize,
}

/// The next clean-up, beyond twice the accounts of the last.
const SWEEP_SLACK: usize = 1_024;

impl Accounts {
    pub(super) fn new(quotas: Quotas) -> Accounts {
        Accounts { quotas, ..Accounts::default() }
    }

    fn counts_address(&self, holder: &Holder) -> bool {
        !holder.remote.is_loopback() && self.quotas.sockets_per_address > 0
    }

    fn counts_user(&self, holder: &Holder) -> bool {
        !holder.remote.is_loopback() && self.quotas.sockets_per_user > 0
    }

    fn address(&mut self, now: Instant, holder: &Holder) -> &mut Account {
        self.addresses.entry(holder.network).or_insert_with(|| Account::new(now, ADDRESS_METER_SIZE))
    }

    fn user(&mut self, now: Instant, holder: &Holder) -> &mut Account {
        let key = (holder.network, holder.user.clone());
        self.users.entry(key).or_insert_with(|| Account::new(now, USER_METER_SIZE))
    }

    /// Adds one socket, or says why not. `leaving`: how many of the account are about to be closed for it.
    pub(super) fn open(&mut self, now: Instant, holder: &Holder, leaving: usize) -> Result<(), OpenError> {
        let Quotas { sockets_per_address, sockets_per_user } = self.quotas;
        if let Some(wait) = self.wait(now, holder) {
            return Err(OpenError::RateLimited(wait));
        }
        if self.counts_address(holder) && self.address(now, holder).sockets >= sockets_per_address + leaving {
            return Err(OpenError::Limit { who: "address", max: sockets_per_address });
        }
        if self.counts_user(holder) && self.user(now, holder).sockets >= sockets_per_user + leaving {
            return Err(OpenError::Limit { who: "user at one address", max: sockets_per_user });
        }
        self.address(now, holder).sockets += 1;
        self.user(now, holder).sockets += 1;
        Ok(())
    }

    pub(super) fn close(&mut self, now: Instant, holder: &Holder) {
        let address = self.address(now, holder);
        address.sockets = address.sockets.saturating_sub(1);
        let user = self.user(now, holder);
        user.sockets = user.sockets.saturating_sub(1);
        self.sweep(now);
    }

    fn sweep(&mut self, now: Instant) {
        if self.addresses.len() + self.users.len() > 2 * self.swept + SWEEP_SLACK {
            let used = |account: &mut Account| account.sockets > 0 || !account.meter.is_full(now);
            self.addresses.retain(|_, account| used(account));
            self.users.retain(|_, account| used(account));
            self.swept = self.addresses.len() + self.users.len();
        }
    }

    /// Charges an address for somebody who is not let in yet, or says why not.
    pub(super) fn knock(&mut self, now: Instant, remote: IpAddr, cost: Cost) -> Result<(), OpenError> {
        let holder = Holder::new(remote, "");
        if !self.counts_address(&holder) {
            return Ok(());
        }
        self.sweep(now);
        let meter = &mut self.address(now, &holder).meter;
        if let Some(wait) = meter.wait(now) {
            return Err(OpenError::RateLimited(wait));
        }
        meter.charge(cost);
        Ok(())
    }

    /// The wait of the account's next message; None: none.
    pub(super) fn wait(&mut self, now: Instant, holder: &Holder) -> Option<Duration> {
        let address = self.counts_address(holder).then(|| self.address(now, holder).meter.wait(now)).flatten();
        let user = self.counts_user(holder).then(|| self.user(now, holder).meter.wait(now)).flatten();
        address.max(user)
    }

    pub(super) fn charge(&mut self, now: Instant, holder: &Holder, cost: Cost) {
        if self.counts_address(holder) {
            self.address(now, holder).meter.charge(cost);
        }
        if self.counts_user(holder) {
            self.user(now, holder).meter.charge(cost);
        }
    }

    /// The user alone says so much, from whichever of its sockets.
    pub(super) fn charge_said(&mut self, now: Instant, holder: &Holder, said: Cost) {
        if self.counts_user(holder) {
            self.user(now, holder).meter.charge(said.times(METERED_SAID_BY_USER));
        }
    }

    /// Adds one transport that no check has come for.
    pub(super) fn transport_made(&mut self, now: Instant, holder: &Holder, id: TransportId) -> Result<(), Refusal> {
        let local = holder.remote.is_loopback();
        let max = if local { UNCHECKED_TRANSPORTS_LOOPBACK_MAX } else { UNCHECKED_TRANSPORTS_PER_ADDRESS_MAX };
        let counts = local || self.counts_address(holder);
        if counts && self.address(now, holder).unchecked >= max {
            return Err(Refusal::limit("transports of one address that no ICE check has come for", max));
        }
        let max = UNCHECKED_TRANSPORTS_PER_USER_MAX;
        if self.counts_user(holder) && self.user(now, holder).unchecked >= max {
            return Err(Refusal::limit("transports of one user that no ICE check has come for", max));
        }
        self.address(now, holder).unchecked += 1;
        self.user(now, holder).unchecked += 1;
        self.unchecked.insert(id, Unchecked { holder: holder.clone(), due: None });
        Ok(())
    }

    /// Its client is about to connect it: a check comes now or never.
    pub(super) fn transport_announced(&mut self, now: Instant, id: TransportId) {
        if let Some(unchecked) = self.unchecked.get_mut(&id)
            && unchecked.due.is_none()
        {
            let due = now + CHECK_WAIT;
            unchecked.due = Some(due);
            self.due.insert((due, id));
        }
    }

    /// A check has come for it, or it is gone.
    pub(super) fn transport_settled(&mut self, id: TransportId) {
        let Some(Unchecked { holder, due }) = self.unchecked.remove(&id) else { return };
        if let Some(due) = due {
            self.due.remove(&(due, id));
        }
        let accounts = [self.addresses.get_mut(&holder.network), self.users.get_mut(&(holder.network, holder.user))];
        for account in accounts.into_iter().flatten() {
            account.unchecked = account.unchecked.saturating_sub(1);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// A transport that was announced and that no check came for in time.
    pub(super) fn overdue(&self, now: Instant) -> Option<TransportId> {
        self.due.first().filter(|(due, _)| *due <= now).map(|(_, id)| *id)
    }

    pub(super) fn unchecked(&self) -> usize {
        self.unchecked.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(address: &str, user: &str) -> Holder {
        Holder::new(address.parse().unwrap(), user)
    }

    #[test]
    fn sockets_are_counted_by_address_and_by_user() {
        let mut accounts = Accounts::new(Quotas { sockets_per_address: 5, sockets_per_user: 2 });
        let now = Instant::ZERO;
        let [anna, berta] = ["anna", "berta"].map(|user| holder("192.0.2.1", user));
        for who in [&anna, &anna, &berta, &berta] {
            assert_eq!(accounts.open(now, who, 0), Ok(()));
        }
        assert!(matches!(accounts.open(now, &anna, 0), Err(OpenError::Limit { max: 2, .. })));
        assert_eq!(accounts.open(now, &holder("192.0.2.1", "carla"), 0), Ok(()));
        assert!(matches!(accounts.open(now, &holder("192.0.2.1", "dora"), 0), Err(OpenError::Limit { max: 5, .. })));
        assert_eq!(
            accounts.open(now, &holder("192.0.2.2", "anna"), 0),
            Ok(()),
            "the same name elsewhere is somebody else"
        );
        accounts.close(now, &anna);
        assert_eq!(accounts.open(now, &anna, 0), Ok(()));
        for _ in 0..100 {
            assert_eq!(accounts.open(now, &holder("127.0.0.1", "anna"), 0), Ok(()), "many may stand behind a proxy");
        }
    }

    #[test]
    fn an_ipv6_network_is_one_address_and_a_mapped_one_is_ipv4() {
        let of = |address: &str| holder(address, "anna").network;
        assert_eq!(of("2001:db8::1"), of("2001:db8:0:0:ffff::9"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert!(holder("::ffff:127.0.0.1", "anna").remote.is_loopback());
    }

    #[test]
    fn accounts_that_nobody_uses_are_forgotten() {
        let mut accounts = Accounts::new(Quotas::default());
        for n in 0..50_000_u32 {
            let who = Holder::new(IpAddr::from(n.to_be_bytes()), "anna");
            accounts.open(Instant::ZERO, &who, 0).unwrap();
            accounts.close(Instant::ZERO, &who);
        }
        assert!(accounts.addresses.len() + accounts.users.len() <= SWEEP_SLACK + 2, "{}", accounts.addresses.len());
    }

    #[test]
    fn who_knocks_too_often_waits_and_others_do_not() {
        let mut accounts = Accounts::new(Quotas::default());
        let (now, remote) = (Instant::ZERO, [192, 0, 2, 1].into());
        let knocks = (0..).take_while(|_| accounts.knock(now, remote, Cost::KNOCK_IN_VAIN).is_ok()).count();
        assert!((100..1_000).contains(&knocks), "{knocks}");
        assert!(matches!(accounts.open(now, &holder("192.0.2.1", "anna"), 0), Err(OpenError::RateLimited(_))));
        assert_eq!(accounts.knock(now, [192, 0, 2, 2].into(), Cost::KNOCK_IN_VAIN), Ok(()));
        for _ in 0..10_000 {
            assert_eq!(accounts.knock(now, [127, 0, 0, 1].into(), Cost::KNOCK_IN_VAIN), Ok(()), "a proxy's");
        }
        let handshakes =
            (0..).take_while(|_| accounts.knock(now, [192, 0, 2, 3].into(), Cost::TLS_HANDSHAKE).is_ok()).count();
        assert!((500..2_000).contains(&handshakes), "{handshakes}");
        let second = now + Duration::from_secs(1);
        let more =
            (0..).take_while(|_| accounts.knock(second, [192, 0, 2, 3].into(), Cost::TLS_HANDSHAKE).is_ok()).count();
        assert!((50..200).contains(&more), "{more} a second");
        for n in 0..50_000_u32 {
            let later = now + Duration::from_secs(60 + u64::from(n));
            accounts.knock(later, IpAddr::from(n.to_be_bytes()), Cost::message(0)).unwrap();
        }
        assert!(accounts.addresses.len() <= 2 * SWEEP_SLACK, "{}", accounts.addresses.len());
    }

    #[test]
    fn what_an_address_costs_is_remembered_when_its_sockets_are_gone() {
        let mut accounts = Accounts::new(Quotas::default());
        let (who, now) = (holder("192.0.2.1", "anna"), Instant::ZERO);
        accounts.open(now, &who, 0).unwrap();
        for _ in 0..1_000 {
            accounts.charge(now, &who, Cost::told(5_000, 16 * 1024));
        }
        accounts.close(now, &who);
        assert!(matches!(accounts.open(now, &who, 0), Err(OpenError::RateLimited(_))));
        assert_eq!(accounts.open(now, &holder("192.0.2.2", "anna"), 0), Ok(()));
        assert_eq!(accounts.open(now + Duration::from_secs(60), &who, 0), Ok(()));
    }
}
