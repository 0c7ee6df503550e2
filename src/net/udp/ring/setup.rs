//! Makes rings for the backend, or says why the machine has none.

use std::io;

use io_uring::{IoUring, Probe};

/// A ring whose completions are run when this thread asks for them, and not whenever the kernel interrupts it (Linux
/// 6.1). Only the thread that calls this may use it.
pub(super) fn open(entries: u32, completions: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_cqsize(completions)
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        // An entry that is refused does not hold up those behind it.
        .setup_submit_all()
        .build(entries)
}

/// Whether io_uring may be used here at all. glommio panics where it may not.
pub fn allowed() -> io::Result<()> {
    IoUring::new(2)?.submitter().register_probe(&mut Probe::new())
}

/// The cure for an io_uring that is refused with `error`.
pub fn cure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => {
            "the limit on locked memory is used up: LimitMEMLOCK=64M in a systemd unit, or `ulimit -l 65536`"
        }
        Some(libc::EMFILE | libc::ENFILE) => {
            "this process may open too few files: LimitNOFILE in a systemd unit, or `ulimit -n`"
        }
        Some(libc::EINVAL) => "take Linux 6.1 or newer, or --io plain",
        _ => match std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default().trim() {
            "2" => "allow it: `sysctl -w kernel.io_uring_disabled=0`",
            "1" => {
                "run as a member of the group in kernel.io_uring_group, or allow it to all: \
                 `sysctl -w kernel.io_uring_disabled=0`"
            }
            _ => {
                "in a container, allow io_uring_setup, io_uring_enter and io_uring_register in its seccomp profile; else \
                 take Linux 6.1 or newer"
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_own_cure() {
        let cure = |error| cure(&io::Error::from_raw_os_error(error));
        assert!(cure(libc::ENOMEM).contains("ulimit -l"));
        assert!(cure(libc::EMFILE).contains("ulimit -n"));
        assert!(cure(libc::EINVAL).contains("6.1"));
        assert!(cure(libc::EPERM).contains("io_uring"));
    }
}
