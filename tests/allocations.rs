//! The media path allocates nothing once everything has its size: counted by the allocator, over 2,000 frames.

#![expect(unsafe_code, reason = "an allocator can only be counted by standing in front of it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weirgate::sim::rig::{FRAME_PACKETS, Rig};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes on to the system's allocator as it came; counting touches no memory of its.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises about `layout` are the ones that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `System`, as everything here does.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `at` came from `System`, and the caller's promises are the ones it asks for.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn counted(what: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    what();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// One test only: nothing else may run beside it.
#[test]
fn a_forwarded_packet_allocates_nothing() {
    const RECEIVERS: usize = 10;
    const FRAMES: usize = 2_000;
    let mut rig = Rig::new(RECEIVERS, Duration::from_millis(10));
    let (mut media, mut reports, mut most) = (0, 0, 0);
    for _ in 0..FRAMES {
        rig.next_frame();
        let allocated = counted(|| rig.deliver());
        media += allocated;
        most = most.max(allocated);
        reports += counted(|| rig.tick());
    }
    assert!(
        rig.sent.packets >= (FRAMES * RECEIVERS * FRAME_PACKETS) as u64,
        "everything was sent: {}",
        rig.sent.packets
    );
    assert_eq!(media, 0, "at most {most} for one frame");
    // A report a second and transport and feedback twenty times a second are small, and bounded.
    let seconds = FRAMES as u64 / 100;
    assert!(reports > 0 && reports / seconds < 2_000, "{reports} allocations for reports in {seconds} s");
}
