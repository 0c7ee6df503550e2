//! One io_uring and the one way to enter it: what is queued is submitted, and the same call waits as long as asked.
#![expect(unsafe_code, reason = "io_uring_enter(2) with an argument of its own, io_uring_register(2)")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::null;

use io_uring::cqueue::Entry as Completion;
use io_uring::squeue::Entry;
use io_uring::types::Timespec;
use io_uring::{IoUring, Submitter};

use super::setup;
use crate::base::time::Duration;

/// What io_uring_enter(2) takes, by its numbers in the kernel's io_uring.h.
const GETEVENTS: u32 = 1;
const EXT_ARG: u32 = 1 << 3;
const REGISTERED_RING: u32 = 1 << 4;
const NO_IOWAIT: u32 = 1 << 7;
/// What io_uring_register(2) takes.
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;

/// io_uring_getevents_arg.
#[repr(C)]
struct WaitArgument {
    signal_mask: u64,
    signal_mask_bytes: u32,
    least_wait_us: u32,
    timeout: u64,
}

/// io_uring_rsrc_update.
#[repr(C)]
struct ResourceUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// Runs what the kernel has put off, and looks.
    No,
    /// Until there is a completion or the time is over (None: for ever).
    ForOne(Option<Duration>),
    /// Lets completions gather for so long without waking for them; then like [`Wait::ForOne`], for the time that is
    /// left.
    Gather(Duration, Option<Duration>),
}

pub(super) struct Ring {
    uring: IoUring,
    /// By what it is entered: a registered descriptor spares the kernel a search.
    entry: RawFd,
    flags: u32,
    /// The kernel knows a least wait (Linux 6.12).
    waits_least: bool,
    /// Completions that were passed over in the search for others.
    passed_over: VecDeque<Completion>,
    /// The kernel refused to be entered at all. What is queued may point to what is gone: it is never entered again.
    broken: Option<i32>,
    /// The kernel had no memory for some completion.
    lost_completions: bool,
}

impl Ring {
    /// Only the thread that calls this may use it.
    pub(super) fn open(entries: u32, completions: u32) -> io::Result<Ring> {
        let uring = setup::open(entries, completions)?;
        let features = uring.params();
        if !features.is_feature_ext_arg() || !features.is_feature_skip_cqe_on_success() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let quietly = if features.is_feature_no_iowait() { NO_IOWAIT } else { 0 };
        let waits_least = features.is_feature_min_timeout();
        let (entry, flags) = match registered(uring.as_raw_fd()) {
            Some(index) => (index, REGISTERED_RING | quietly),
            None => (uring.as_raw_fd(), quietly),
        };
        Ok(Ring {
            uring,
            entry,
            flags,
            waits_least,
            passed_over: VecDeque::new(),
            broken: None,
            lost_completions: false,
        })
    }

    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.uring.submitter()
    }

    /// # Safety
    /// Everything that the entry points to must live until its request has ended.
    ///
    /// False: the queue is full.
    pub(super) unsafe fn push(&mut self, entry: &Entry) -> bool {
        // SAFETY: by the caller's word.
        unsafe { self.uring.submission().push(entry) }.is_ok()
    }

    /// Completions that fit into it.
    fn room(&self) -> u32 {
        self.uring.params().cq_entries()
    }

    /// Entries that the kernel has not taken yet.
    pub(super) fn queued(&mut self) -> usize {
        self.uring.submission().len()
    }

    pub(super) fn next(&mut self) -> Option<Completion> {
        self.passed_over.pop_front().or_else(|| self.uring.completion().next())
    }

    /// Shows every new completion to `is_mine`; the others are kept for [`Ring::next`].
    pub(super) fn look_for(&mut self, mut is_mine: impl FnMut(&Completion) -> bool) {
        for completion in self.uring.completion() {
            if !is_mine(&completion) {
                self.passed_over.push_back(completion);
            }
        }
    }

    /// Has the kernel take all that is queued. An error means that it never will.
    pub(super) fn submit_all(&mut self) -> io::Result<()> {
        loop {
            let queued = self.queued() as u32;
            if queued == 0 {
                return Ok(());
            }
            match self.enter(queued, 0, self.flags & !NO_IOWAIT, null(), 0) {
                Ok(()) => {}
                // Interrupted, or short of memory or of room for completions: again, with room made.
                Err(error) if is_passing(&error) => self.submit_and_wait(Wait::No)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Submits what is queued, and waits. The end of the time is no error, nor is an early one.
    pub(super) fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()> {
        let (events, least, timeout) = match wait {
            Wait::No => (0, Duration::ZERO, None),
            Wait::ForOne(timeout) => (1, Duration::ZERO, timeout),
            Wait::Gather(least, timeout) if self.waits_least => (self.room(), least, timeout),
            Wait::Gather(least, _) => (self.room(), Duration::ZERO, Some(least)),
        };
        let limit = timeout.map(|limit| Timespec::new().sec(limit.as_secs()).nsec(limit.subsec_nanos()));
        let argument = WaitArgument {
            signal_mask: 0,
            signal_mask_bytes: 0,
            least_wait_us: least.as_micros().try_into().unwrap_or(u32::MAX),
            timeout: limit.as_ref().map_or(0, |limit| &raw const *limit as u64),
        };
        let (queued, flags) = (self.queued() as u32, GETEVENTS | EXT_ARG | self.flags);
        let result = self.enter(queued, events, flags, &raw const argument, size_of::<WaitArgument>());
        match result {
            Err(error) if is_passing(&error) => Ok(()),
            result => result,
        }
    }

    fn enter(
        &mut self,
        queued: u32,
        events: u32,
        flags: u32,
        argument: *const WaitArgument,
        len: usize,
    ) -> io::Result<()> {
        if let Some(error) = self.broken {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: the argument is null or a live local of the caller, as is the time that it points to. What the queued
        // entries point to lives, by the word given to `push`.
        let result =
            unsafe { libc::syscall(libc::SYS_io_uring_enter, self.entry, queued, events, flags, argument, len) };
        if result >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::EBADR) {
            self.lost_completions = true;
        } else if !is_passing(&error) {
            self.broken = error.raw_os_error().or(Some(libc::EIO));
        }
        Err(error)
    }

    /// True once after completions were lost: whatever is under way may have ended unheard.
    pub(super) fn has_lost_completions(&mut self) -> bool {
        std::mem::take(&mut self.lost_completions)
    }

    /// Entries that can be queued before the ring is entered.
    pub(super) fn free(&mut self) -> usize {
        let queue = self.uring.submission();
        queue.capacity() - queue.len()
    }
}

impl Drop for Ring {
    /// The thread holds the ring by its registered descriptor, and the ring its sockets.
    fn drop(&mut self) {
        if self.flags & REGISTERED_RING != 0 {
            let mut update = ResourceUpdate { offset: self.entry as u32, reserved: 0, data: 0 };
            let ring = self.uring.as_raw_fd();
            // SAFETY: one live update, which the kernel reads.
            unsafe { libc::syscall(libc::SYS_io_uring_register, ring, UNREGISTER_RING_FDS, &raw mut update, 1) };
        }
    }
}

/// The time is over, or the call was interrupted, or short of memory.
fn is_passing(error: &io::Error) -> bool {
    let passing = [libc::ETIME, libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ENOMEM, libc::EBADR];
    error.raw_os_error().is_some_and(|error| passing.contains(&error))
}

/// The index under which this thread may enter the ring, where the kernel gives one (Linux 5.18).
fn registered(ring: RawFd) -> Option<RawFd> {
    let mut update = ResourceUpdate { offset: u32::MAX, reserved: 0, data: ring as u64 };
    // SAFETY: one live update, which the kernel writes the index into.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_register, ring, REGISTER_RING_FDS, &raw mut update, 1) };
    (result == 1).then(|| RawFd::try_from(update.offset).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clock::Clock;

    /// None, said once more by the machine's check: io_uring is refused here.
    fn ring() -> Option<Ring> {
        Ring::open(8, 16).ok()
    }

    #[test]
    fn a_wait_ends_by_its_time_and_a_gathering_not_before_its_least() {
        let Some(mut ring) = ring() else { return };
        let clock = Clock::process();
        let lasts = |ring: &mut Ring, wait| {
            let start = clock.mono();
            ring.submit_and_wait(wait).expect("the end of the time is no error");
            clock.mono().since(start)
        };
        let (short, long) = (Duration::from_millis(5), Duration::from_millis(15));
        assert!(lasts(&mut ring, Wait::ForOne(Some(short))) >= short);
        assert!(lasts(&mut ring, Wait::Gather(short, Some(long))) >= short);
        lasts(&mut ring, Wait::No);
        // A completion ends the first at once, and the second not before its least.
        for (wait, least) in [(Wait::ForOne(None), Duration::ZERO), (Wait::Gather(short, None), short)] {
            let nop = io_uring::opcode::Nop::new().build().user_data(7);
            // SAFETY: no pointers.
            assert!(unsafe { ring.push(&nop) } && ring.queued() == 1);
            assert!(lasts(&mut ring, wait) >= least);
            assert_eq!(ring.queued(), 0);
            assert_eq!(ring.next().map(|completion| completion.user_data()), Some(7));
        }
    }

    #[test]
    fn completions_that_are_looked_past_come_later_in_their_order() {
        let Some(mut ring) = ring() else { return };
        for name in 1..=5 {
            // SAFETY: no pointers.
            assert!(unsafe { ring.push(&io_uring::opcode::Nop::new().build().user_data(name)) });
        }
        ring.submit_all().expect("an open ring");
        let mut seen = Vec::new();
        ring.look_for(|completion| {
            let mine = completion.user_data() % 2 == 0;
            seen.extend(mine.then_some(completion.user_data()));
            mine
        });
        assert_eq!(seen, [2, 4]);
        assert_eq!(std::iter::from_fn(|| ring.next()).map(|it| it.user_data()).collect::<Vec<_>>(), [1, 3, 5]);
    }
}
