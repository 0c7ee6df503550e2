//! Rings as the backend wants them, or why the machine has none.

use std::io;

use io_uring::IoUring;

/// A ring with the most helpful flags that this kernel knows. Only the thread that calls this may use it.
pub(super) fn open(entries: u32, completions: u32) -> io::Result<IoUring> {
    // Linux 6.1, where completions are worked off when this thread asks and not whenever the kernel interrupts it.
    let newest = IoUring::builder()
        .setup_cqsize(completions)
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(entries);
    match newest {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        outcome => return outcome,
    }
    // Linux 6.0, the first that receives messages by multishot.
    IoUring::builder()
        .setup_cqsize(completions)
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .build(entries)
}
