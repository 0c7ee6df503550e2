//! Prefetches memory that is about to be read, so that it arrives while other work goes on: packets find the state of
//! their receivers in no cache. The hot loop and the flush call it, for the lines that profiles show them to wait for.
#![expect(unsafe_code, reason = "the instruction takes a raw pointer")]

/// The bytes of a cache line.
pub const LINE: usize = 64;

/// Prefetches the first bytes of `value`.
#[inline]
pub fn prefetch<T>(value: &T, bytes: usize) {
    prefetch_at(value, bytes.min(size_of::<T>()));
}

/// Prefetches the line at `place`, whether or not there is anything.
#[inline]
pub fn prefetch_at<T>(place: *const T, bytes: usize) {
    for offset in (0..bytes).step_by(LINE) {
        let line = place.cast::<i8>().wrapping_add(offset);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing that the program sees, and faults at no address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(line);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = line;
    }
}
