//! Keeps this process's memory in small pages: the first touch of a huge one has the kernel clear 2 MiB in the middle
//! of a shard's round (docs/decisions/0018). Called by the media tower's start.
#![expect(unsafe_code, reason = "prctl(2)")]

use std::io;

/// For the calling process; huge pages that it has already stay.
pub(in crate::net) fn only_small_pages() -> io::Result<()> {
    let on: libc::c_ulong = 1;
    let unused: libc::c_ulong = 0;
    // SAFETY: PR_SET_THP_DISABLE takes four numbers and no pointers.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, on, unused, unused, unused) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_that_they_are_off() {
        only_small_pages().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        // Since Linux 5.0: 1 where huge pages are possible for this process.
        let possible = status.lines().find_map(|line| line.strip_prefix("THP_enabled:")).map(str::trim);
        assert_eq!(possible, Some("0"));
    }
}
