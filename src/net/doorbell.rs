//! The doorbell of one shard: an eventfd that is written only when the shard sleeps. The producer of a queued item
//! (door, mesh) rings afterwards; the shard, before it sleeps, sets a flag and looks into its queues once more. Either
//! the ringer sees the flag or the shard sees the item.
#![expect(unsafe_code, reason = "eventfd(2), read(2) and write(2)")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

#[derive(Clone, Debug)]
pub struct Doorbell {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    parked: AtomicBool,
}

impl Doorbell {
    pub fn new() -> io::Result<Doorbell> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: eventfd returned a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Doorbell { inner: Arc::new(Inner { fd, parked: AtomicBool::new(false) }) })
    }

    /// Call after queueing an item: writes only when the shard sleeps, and then only the first of many. True when it
    /// wrote.
    pub fn ring(&self) -> bool {
        // Orders the caller's push before the look at the flag; pairs with the fence in `park` (store buffering).
        fence(Ordering::SeqCst);
        let wakes = self.inner.parked.load(Ordering::Relaxed) && self.inner.parked.swap(false, Ordering::AcqRel);
        if wakes {
            self.force();
        }
        wakes
    }

    /// Writes whatever the flag says: the heartbeat's poke.
    pub fn force(&self) {
        let one = 1u64;
        // SAFETY: the pointer is to eight readable bytes, and the descriptor is open as long as `inner` lives. The
        // only failure, EAGAIN on a counter near 2^64, leaves the descriptor readable, which is all that is asked.
        unsafe { libc::write(self.inner.fd.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// The shard is about to sleep. It must look into its queues after this, and sleep only if they are empty.
    pub fn park(&self) {
        self.inner.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The shard is awake.
    pub fn unpark(&self) {
        self.inner.parked.store(false, Ordering::Release);
    }

    #[cfg(test)]
    pub(super) fn is_parked(&self) -> bool {
        self.inner.parked.load(Ordering::Relaxed)
    }

    /// Makes the descriptor unreadable again.
    pub fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: the pointer is to eight writable bytes; EAGAIN (not rung) is as good as success.
        unsafe { libc::read(self.inner.fd.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_rung(bell: &Doorbell) -> bool {
        let mut poll = libc::pollfd { fd: bell.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 }
    }

    #[test]
    fn only_a_sleeping_shard_is_rung_and_only_once() {
        let bell = Doorbell::new().unwrap();
        bell.ring();
        assert!(!is_rung(&bell), "awake: nobody writes");
        bell.park();
        bell.ring();
        assert!(is_rung(&bell) && !bell.is_parked());
        bell.clear();
        bell.ring();
        assert!(!is_rung(&bell), "one write a sleep");
        bell.force();
        assert!(is_rung(&bell));
    }
}
