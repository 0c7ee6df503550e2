//! TCP connections that are no WebSockets. When there are too many, all together or from one address (of IPv6: one /64),
//! the one that has waited longest for a request is closed, so that a new one is heard.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::base::limits::HTTP_IDLE_PER_ADDRESS_MAX;
use crate::signal::network_of;

pub(super) struct Connections {
    open: RefCell<Open>,
    last: Cell<u64>,
    max: usize,
}

#[derive(Default)]
struct Open {
    count: usize,
    /// Connections without a request that is being answered, oldest first.
    idle: BTreeMap<u64, Idle>,
    idle_of: BTreeMap<IpAddr, BTreeSet<u64>>,
}

struct Idle {
    /// Its network, as all of them.
    remote: IpAddr,
    evicted: Rc<Evicted>,
}

#[derive(Default)]
struct Evicted {
    told: Notify,
    so: Cell<bool>,
}

impl Open {
    fn remove(&mut self, number: u64) -> Option<Idle> {
        let idle = self.idle.remove(&number)?;
        if let Some(numbers) = self.idle_of.get_mut(&idle.remote) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.idle_of.remove(&idle.remote);
            }
        }
        Some(idle)
    }

    fn evict(&mut self, number: u64) {
        if let Some(idle) = self.remove(number) {
            self.count -= 1;
            idle.evicted.so.set(true);
            idle.evicted.told.notify_one();
        }
    }
}

impl Connections {
    pub(super) fn new(max: usize) -> Connections {
        Connections { open: RefCell::default(), last: Cell::default(), max }
    }

    /// Makes room for one more; None: all are busy with requests. The second value is the number closed for it.
    pub(super) fn admit(self: &Rc<Self>, remote: IpAddr) -> (Option<Place>, u64) {
        let (mut evicted, remote) = (0, network_of(remote));
        {
            let mut open = self.open.borrow_mut();
            if !remote.is_loopback()
                && let Some(numbers) = open.idle_of.get(&remote)
                && numbers.len() >= HTTP_IDLE_PER_ADDRESS_MAX
                && let Some(oldest) = numbers.first().copied()
            {
                open.evict(oldest);
                evicted += 1;
            }
            if open.count >= self.max {
                let Some(oldest) = open.idle.keys().next().copied() else { return (None, evicted) };
                open.evict(oldest);
                evicted += 1;
            }
            open.count += 1;
        }
        let place = Place { all: self.clone(), remote, number: Cell::new(0), evicted: Rc::default() };
        place.wait_for_request();
        (Some(place), evicted)
    }

    /// Closes the oldest that waits for a request. False: there is none.
    pub(super) fn make_room(&self) -> bool {
        let mut open = self.open.borrow_mut();
        let oldest = open.idle.keys().next().copied();
        oldest.inspect(|oldest| open.evict(*oldest)).is_some()
    }

    fn number(&self) -> u64 {
        self.last.set(self.last.get() + 1);
        self.last.get()
    }
}

/// One connection's.
pub(super) struct Place {
    all: Rc<Connections>,
    remote: IpAddr,
    number: Cell<u64>,
    evicted: Rc<Evicted>,
}

impl Place {
    /// Waits for a request from now on, behind all others.
    pub(super) fn wait_for_request(&self) {
        if self.evicted.so.get() {
            return;
        }
        let number = self.all.number();
        let mut open = self.all.open.borrow_mut();
        open.remove(self.number.replace(number));
        open.idle.insert(number, Idle { remote: self.remote, evicted: self.evicted.clone() });
        open.idle_of.entry(self.remote).or_default().insert(number);
    }

    pub(super) fn has_request(&self) {
        self.all.open.borrow_mut().remove(self.number.get());
    }

    /// Another connection needs the room.
    pub(super) async fn evicted(&self) {
        while !self.evicted.so.get() {
            self.evicted.told.notified().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.evicted.so.get() {
            let mut open = self.all.open.borrow_mut();
            open.remove(self.number.get());
            open.count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::HTTP_CONNECTIONS_MAX;

    fn admit(all: &Rc<Connections>, remote: [u8; 4]) -> Option<Place> {
        all.admit(remote.into()).0
    }

    fn is_evicted(place: &Place) -> bool {
        place.evicted.so.get()
    }

    #[test]
    fn the_oldest_without_a_request_gives_way() {
        let all = Rc::new(Connections::new(HTTP_CONNECTIONS_MAX));
        let mut places: Vec<Place> =
            (0..HTTP_CONNECTIONS_MAX).map(|n| admit(&all, [10, 0, (n >> 8) as u8, n as u8]).expect("room")).collect();
        places[0].has_request();
        places[1].has_request();
        places[1].wait_for_request();
        let late = admit(&all, [192, 0, 2, 1]).expect("one goes for it");
        let evicted: Vec<usize> = (0..places.len()).filter(|n| is_evicted(&places[*n])).collect();
        assert_eq!(evicted, [2], "the first is busy, the second was heard just now");
        late.has_request();
        places.iter().for_each(Place::has_request);
        assert!(admit(&all, [192, 0, 2, 2]).is_none(), "nobody waits");
        places.truncate(9);
        assert!(admit(&all, [192, 0, 2, 2]).is_some());
        drop((late, places));
        let open = all.open.borrow();
        assert_eq!((open.count, open.idle.len(), open.idle_of.len()), (0, 0, 0));
    }

    #[test]
    fn an_address_gives_way_to_itself_first() {
        let all = Rc::new(Connections::new(HTTP_CONNECTIONS_MAX));
        let other = admit(&all, [192, 0, 2, 7]).unwrap();
        let places: Vec<Place> =
            (0..HTTP_IDLE_PER_ADDRESS_MAX + 3).map(|_| admit(&all, [192, 0, 2, 1]).unwrap()).collect();
        assert!((0..places.len()).all(|n| is_evicted(&places[n]) == (n < 3)) && !is_evicted(&other));
        let local: Vec<Place> =
            (0..HTTP_IDLE_PER_ADDRESS_MAX + 3).map(|_| admit(&all, [127, 0, 0, 1]).unwrap()).collect();
        assert!(!local.iter().any(is_evicted), "a proxy holds the connections of many");
        assert!(all.make_room() && is_evicted(&other));
        // One customer of a provider has all the addresses of a /64.
        let v6 = |network: u16, n: usize| all.admit([0x2001, 0xdb8, 0, network, 0, 0, 0, n as u16].into()).0.unwrap();
        let (neighbour, first) = (v6(2, 0), v6(1, 0));
        let rest: Vec<Place> = (1..=HTTP_IDLE_PER_ADDRESS_MAX).map(|n| v6(1, n)).collect();
        assert!(is_evicted(&first) && !is_evicted(&neighbour) && !rest.iter().any(is_evicted));
    }
}
