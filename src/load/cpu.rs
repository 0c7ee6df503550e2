//! The CPU time of a process, all its threads together, as the scheduler counts it in nanoseconds (proc(5), schedstat).

use std::fs;
use std::io;

use crate::base::time::Duration;

/// CPU time of all living threads of `pid`. One that ends between two readings takes its share with it.
pub fn used(pid: u32) -> io::Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while the list is read.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        let on_cpu = text.split(' ').next().and_then(|first| first.parse::<u64>().ok());
        nanos += on_cpu.ok_or_else(|| io::Error::other(format!("schedstat reads {text:?}")))?;
    }
    Ok(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen_and_nobody_is_an_error() {
        let before = used(std::process::id()).unwrap();
        let mut sum = 0u64;
        while used(std::process::id()).unwrap() < before + Duration::from_millis(3) {
            sum = (0..100_000u64).fold(sum, |sum, n| std::hint::black_box(sum ^ n.wrapping_mul(sum | 1)));
        }
        assert!(used(u32::MAX).is_err());
    }
}
