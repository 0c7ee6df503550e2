//! The media path allocates nothing once everything has its size: counted by the allocator, over 2,000 frames.

#![expect(unsafe_code, reason = "an allocator can only be counted by standing in front of it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weirgate::sim::rig::{FRAME_PACKETS, RelayRig, Rig};

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

const RECEIVERS: usize = 10;
const FRAMES: usize = 2_000;

/// Allocations of the media, the most of one frame, and those of reports.
fn over_all_frames<R>(rig: &mut R, next: fn(&mut R), deliver: fn(&mut R), tick: fn(&mut R)) -> (u64, u64, u64) {
    let (mut media, mut reports, mut most) = (0, 0, 0);
    for _ in 0..FRAMES {
        next(rig);
        let allocated = counted(|| deliver(rig));
        media += allocated;
        most = most.max(allocated);
        reports += counted(|| tick(rig));
    }
    (media, most, reports)
}

/// One test only: nothing else may run beside it.
#[test]
fn a_forwarded_packet_allocates_nothing() {
    let step = Duration::from_millis(10);
    let mut rig = Rig::new(RECEIVERS, step);
    let (media, most, reports) = over_all_frames(&mut rig, Rig::next_frame, Rig::deliver, Rig::tick);
    let expected = (FRAMES * RECEIVERS * FRAME_PACKETS) as u64;
    assert!(rig.sent.packets >= expected, "everything was sent: {}", rig.sent.packets);
    assert_eq!(media, 0, "at most {most} for one frame");
    // A report a second, and transport feedback twenty times a second, are small and bounded.
    let seconds = FRAMES as u64 / 100;
    assert!(reports > 0 && reports / seconds < 2_000, "{reports} allocations for reports in {seconds} s");

    let mut rig = RelayRig::new(RECEIVERS, step);
    let (media, most, _) = over_all_frames(&mut rig, |rig| rig.home.next_frame(), RelayRig::cross, RelayRig::tick);
    assert!(rig.delivered.packets >= expected, "everything crossed and was sent: {}", rig.delivered.packets);
    assert_eq!(media, 0, "at most {most} for one frame that crosses to another shard");
}
