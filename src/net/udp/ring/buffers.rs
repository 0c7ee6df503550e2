//! Memory that the kernel receives into, and the ring of descriptors by which it is lent out (a provided buffer ring).
//! A buffer is the kernel's from `lend` until a completion names it, ours from then until it is lent again.
#![expect(unsafe_code, reason = "mmap(2), and memory that the kernel writes")]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::base::limits::RING_BUFFERS;
use crate::net::udp::joined::JOINED_BYTES;

/// The group in which the kernel finds them.
pub(super) const GROUP: u16 = 0;

const DESCRIPTORS_BYTES: usize = RING_BUFFERS as usize * size_of::<BufRingEntry>();
const BYTES: usize = DESCRIPTORS_BYTES + RING_BUFFERS as usize * JOINED_BYTES;
const _: () = assert!(RING_BUFFERS.is_power_of_two() && size_of::<BufRingEntry>() == 16);

pub(super) struct Buffers {
    /// One mapping: the descriptors, then the buffers.
    memory: NonNull<u8>,
    tail: u16,
}

// SAFETY: the mapping is this value's alone, and the kernel does not care which thread looks at it.
unsafe impl Send for Buffers {}

impl Buffers {
    pub(super) fn new() -> io::Result<Buffers> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping wherever the kernel likes; no memory of anybody's is passed.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, protection, flags, -1, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Buffers { memory, tail: 0 })
    }

    /// Makes them known to the ring and lends it all of them.
    ///
    /// # Safety
    /// `self` must not be dropped before the ring has ended every request that receives into the group and
    /// has forgotten the group or is closed.
    pub(super) unsafe fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        let descriptors = self.memory.as_ptr() as u64;
        // SAFETY: page aligned, with room for RING_BUFFERS descriptors, and living long enough by the caller's word.
        unsafe { submitter.register_buf_ring_with_flags(descriptors, RING_BUFFERS, GROUP, 0)? };
        (0..RING_BUFFERS).for_each(|id| self.lend(id));
        Ok(())
    }

    /// Gives a buffer (back) to the kernel. The caller has no slice of it any more, as the borrow checker shows.
    pub(super) fn lend(&mut self, id: u16) {
        let address = self.start_of(id) as u64;
        let ring: *mut BufRingEntry = self.memory.as_ptr().cast();
        let slot = usize::from(self.tail & (RING_BUFFERS - 1));
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `slot` is below RING_BUFFERS, the mapping has room for that many descriptors, and the kernel only
        // reads those between its head and the tail: never this one, because no more buffers are lent than there are.
        // The tail lies in the first descriptor's reserved field, which the setters leave alone; it is only ever
        // accessed as an atomic of two aligned bytes.
        unsafe {
            let entry = &mut *ring.add(slot);
            entry.set_addr(address);
            entry.set_len(JOINED_BYTES as u32);
            entry.set_bid(id);
            let tail = BufRingEntry::tail(ring).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }

    /// The beginning of a buffer that a completion has named and that was not lent since.
    pub(super) fn filled(&self, id: u16, len: usize) -> &[u8] {
        // SAFETY: in bounds of the mapping (`start_of` checks the id, `min` the length), initialised (mmap zeroes it), and not
        // written while the kernel does not have it; `lend` needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start_of(id), len.min(JOINED_BYTES)) }
    }

    fn start_of(&self, id: u16) -> *mut u8 {
        assert!(id < RING_BUFFERS, "the kernel names buffers that it was lent");
        // SAFETY: within the mapping, by its size.
        unsafe { self.memory.as_ptr().add(DESCRIPTORS_BYTES + usize::from(id) * JOINED_BYTES) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, whole; the kernel is done with it by the word given to `register`.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), BYTES) };
    }
}
