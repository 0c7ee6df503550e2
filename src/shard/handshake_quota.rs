//! The quota of handshakes of one address: each costs a thread a good part of a millisecond, whatever becomes of it,
//! and transports come and go as fast as their owner likes. A browser that is over it asks again a little later.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};

use rustc_hash::FxHashMap;

use crate::base::limits::{HANDSHAKE_ADDRESSES_MAX, HANDSHAKES_BURST, HANDSHAKES_PER_SECOND};
use crate::base::time::{Duration, Instant};

const EACH: Duration = Duration::from_nanos(1_000_000_000 / HANDSHAKES_PER_SECOND as u64);

#[derive(Default)]
pub(super) struct HandshakeQuota {
    /// When those that were begun would have been, one after the other.
    until: FxHashMap<IpAddr, Instant>,
    /// Of `until`, oldest first.
    order: VecDeque<IpAddr>,
}

impl HandshakeQuota {
    pub(super) fn admits(&mut self, now: Instant, address: IpAddr) -> bool {
        let address = match address.to_canonical() {
            loopback if loopback.is_loopback() => return true,
            IpAddr::V4(address) => IpAddr::V4(address),
            // One customer has a network.
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        };
        if !self.until.contains_key(&address) {
            if self.order.len() >= HANDSHAKE_ADDRESSES_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.until.remove(&oldest);
            }
            self.order.push_back(address);
        }
        let until = self.until.entry(address).or_insert(now);
        let next = (*until).max(now) + EACH;
        let admits = next.since(now) <= EACH * HANDSHAKES_BURST;
        if admits {
            *until = next;
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn begun(quota: &mut HandshakeQuota, now: Instant, address: &str) -> u32 {
        (0..1_000).map(|_| u32::from(quota.admits(now, address.parse().unwrap()))).sum()
    }

    #[test]
    fn an_address_has_its_burst_and_then_its_rate() {
        let mut quota = HandshakeQuota::default();
        assert_eq!(begun(&mut quota, at(0), "192.0.2.1"), HANDSHAKES_BURST);
        assert_eq!(begun(&mut quota, at(0), "192.0.2.2"), HANDSHAKES_BURST, "another's is its own");
        assert_eq!(begun(&mut quota, at(0), "::ffff:192.0.2.2"), 0);
        assert_eq!(begun(&mut quota, at(1_000), "192.0.2.1"), HANDSHAKES_PER_SECOND);
        assert_eq!(begun(&mut quota, at(3_600_000), "192.0.2.1"), HANDSHAKES_BURST);
        assert_eq!(begun(&mut quota, at(0), "127.0.0.1") + begun(&mut quota, at(0), "::1"), 2_000);
        assert_eq!(begun(&mut quota, at(0), "2001:db8::1"), HANDSHAKES_BURST);
        assert_eq!(begun(&mut quota, at(0), "2001:db8::ffff"), 0, "the same network");
        assert_eq!(begun(&mut quota, at(0), "2001:db8:0:1::1"), HANDSHAKES_BURST);
    }

    #[test]
    fn what_it_remembers_is_bounded() {
        let mut quota = HandshakeQuota::default();
        for address in 0..2 * HANDSHAKE_ADDRESSES_MAX as u32 {
            assert!(quota.admits(at(0), IpAddr::V4((0x0a00_0000 + address).into())));
        }
        assert_eq!((quota.until.len(), quota.order.len()), (HANDSHAKE_ADDRESSES_MAX, HANDSHAKE_ADDRESSES_MAX));
    }
}
