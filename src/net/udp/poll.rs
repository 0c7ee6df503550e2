//! epoll(7) with deadlines in nanoseconds. Called by the plain backend and by `load`.
#![expect(unsafe_code, reason = "epoll(7) and ppoll(2)")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::base::time::Duration;

const EVENTS_MAX: usize = 64;

/// The kernel's 64-bit timespec on every architecture.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanos: i64,
}

pub struct Poller {
    epoll: OwnedFd,
    /// epoll_pwait2 (Linux 5.11) is there and allowed; else deadlines are rounded up to milliseconds.
    nanosecond: bool,
}

impl Poller {
    pub fn new() -> io::Result<Poller> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: epoll_create1 returned a new descriptor that nobody else owns.
        Ok(Poller { epoll: unsafe { OwnedFd::from_raw_fd(fd) }, nanosecond: true })
    }

    /// Reports `token` as long as `fd` is readable.
    pub fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: the pointer is to a live local.
        let result = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub fn remove(&self, fd: RawFd) -> io::Result<()> {
        let event: *mut libc::epoll_event = std::ptr::null_mut();
        // SAFETY: this operation takes no event.
        let result = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, event) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sleeps until something is readable or `timeout` is over (None: for ever); also returns on a signal.
    pub fn wait(&mut self, timeout: Option<Duration>, mut readable: impl FnMut(u64)) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        let mut count = -1;
        if self.nanosecond {
            count = self.pwait2(timeout, &mut events);
            let refused = [Some(libc::ENOSYS), Some(libc::EPERM)];
            self.nanosecond = count >= 0 || !refused.contains(&io::Error::last_os_error().raw_os_error());
        }
        if !self.nanosecond {
            let millis = timeout.map_or(-1, |t| i32::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
            // SAFETY: the array has room for EVENTS_MAX events.
            count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), EVENTS_MAX as i32, millis) };
        }
        for event in &events[..usize::try_from(count).unwrap_or(0)] {
            readable(event.u64);
        }
    }

    fn pwait2(&self, timeout: Option<Duration>, events: &mut [libc::epoll_event; EVENTS_MAX]) -> i32 {
        let limit = timeout.map(|timeout| KernelTimespec {
            seconds: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            nanos: i64::from(timeout.subsec_nanos()),
        });
        let limit: *const KernelTimespec = limit.as_ref().map_or(std::ptr::null(), |limit| &raw const *limit);
        let no_mask: *const libc::sigset_t = std::ptr::null();
        // SAFETY: the array has room for EVENTS_MAX events, `limit` is null or points to a live local, and without a
        // signal mask its size is not looked at. By number, because glibc has the name only since 2.35.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                EVENTS_MAX as i32,
                limit,
                no_mask,
                0usize,
            )
        };
        count as i32
    }
}

/// Waits until `fd` can be written to, at most `timeout`.
pub(in crate::net) fn wait_writable(fd: RawFd, timeout: Duration) {
    wait_for(fd, libc::POLLOUT, timeout);
}

/// Waits until `fd` can be read, at most `timeout`.
pub(in crate::net) fn wait_readable(fd: RawFd, timeout: Duration) {
    wait_for(fd, libc::POLLIN, timeout);
}

fn wait_for(fd: RawFd, events: libc::c_short, timeout: Duration) {
    let mut poll = libc::pollfd { fd, events, revents: 0 };
    let limit = libc::timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos() as _ };
    // SAFETY: one valid pollfd, a valid timespec, no signal mask. Whatever it returns, the caller just tries again.
    unsafe { libc::ppoll(&raw mut poll, 1, &raw const limit, std::ptr::null()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clock::Clock;
    use crate::net::doorbell::Doorbell;

    #[test]
    fn deadlines_and_readiness_end_a_wait_in_both_forms() {
        let bell = Doorbell::new().unwrap();
        for nanosecond in [true, false] {
            let mut poller = Poller { nanosecond, ..Poller::new().unwrap() };
            poller.add(bell.as_raw_fd(), 7).unwrap();
            let start = Clock::process().mono();
            poller.wait(Some(Duration::from_millis(3)), |_| panic!("nothing is readable"));
            assert!(Clock::process().mono().since(start) >= Duration::from_millis(3));
            bell.force();
            let mut seen = None;
            poller.wait(None, |token| seen = Some(token));
            assert_eq!(seen, Some(7));
            poller.remove(bell.as_raw_fd()).unwrap();
            poller.wait(Some(Duration::ZERO), |_| panic!("removed"));
            assert!(poller.remove(bell.as_raw_fd()).is_err(), "not there");
            poller.add(bell.as_raw_fd(), 7).unwrap();
            bell.clear();
            poller.wait(Some(Duration::ZERO), |_| panic!("cleared"));
        }
    }
}
