//! The counters of a backend, and its losses by reason: the same for every backend.

use crate::net::udp::backend::{UdpCounters, UdpDrop};

#[derive(Default)]
pub(super) struct UdpTally {
    pub counters: UdpCounters,
    drops: [u64; UdpDrop::ALL.len()],
}

impl UdpTally {
    pub(super) fn dropped(&mut self, why: UdpDrop, datagrams: usize) {
        self.drops[why as usize] += datagrams as u64;
    }

    pub(super) fn drops(&self) -> Vec<(&'static str, u64)> {
        UdpDrop::ALL.iter().map(|why| (why.name(), self.drops[*why as usize])).collect()
    }
}
