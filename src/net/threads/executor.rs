//! The thread that a shard runs on: a glommio executor pinned to its core. Where the machine refuses pinning, the
//! executor or both, the shard still runs, and the log says what is missing and how to allow it.

use std::io;
use std::thread::JoinHandle;

use glommio::{GlommioError, LocalExecutor, LocalExecutorBuilder, Placement};

use crate::base::id::ShardId;
use crate::base::time::Duration;
use crate::net::udp::ring;

/// glommio 0.9 can park for ever with a runnable task when a short timer preempts it; at its own default of 100 ms
/// ring I/O would wait. Our one task never yields, so that nothing depends on this.
const PREEMPT: Duration = Duration::from_millis(10);

/// The executor's own ring carries nothing: the smallest it takes.
const IO_MEMORY_BYTES: usize = 64 * 1024;
const RING_DEPTH: usize = 16;

const STACK_BYTES: usize = 4 * 1024 * 1024;

/// The machine's grants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::net) struct Footing {
    pub pinned: bool,
    pub glommio: bool,
}

/// Runs `body` to its end on a thread of its own; it blocks as it likes.
pub(in crate::net) fn spawn(
    shard: ShardId,
    core: usize,
    body: impl FnOnce(Footing) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(format!("shard-{shard}")).stack_size(STACK_BYTES);
    thread.spawn(move || match executor(shard, core) {
        (Some(executor), pinned) => executor.run(async move { body(Footing { pinned, glommio: true }) }),
        (None, pinned) => body(Footing { pinned, glommio: false }),
    })
}

fn executor(shard: ShardId, core: usize) -> (Option<LocalExecutor>, bool) {
    let builder = |placement| {
        let name = format!("shard-{shard}");
        let builder = LocalExecutorBuilder::new(placement).name(&name).preempt_timer(PREEMPT);
        builder.io_memory(IO_MEMORY_BYTES).ring_depth(RING_DEPTH).make()
    };
    if let Err(error) = ring::allowed() {
        tracing::debug!(%shard, %error, "a shard runs on a plain thread: the machine's check said why");
        return (None, core_affinity::set_for_current(core_affinity::CoreId { id: core }));
    }
    let refused = match builder(Placement::Fixed(core)) {
        Ok(executor) => return (Some(executor), true),
        Err(refused) => refused,
    };
    // Either the core or the executor is refused: without the core it shows which.
    match builder(Placement::Unbound) {
        Ok(executor) => {
            tracing::warn!(
                %shard, core, error = %refused,
                "a shard may not be pinned to its core and runs wherever the kernel puts it: allow the core in the \
                 cgroup or CPU set, or name others with --cores"
            );
            (Some(executor), false)
        }
        Err(error) => {
            match unforeseen(&error) {
                Some(error) => tracing::warn!(
                    %shard, %error, cure = ring::cure(&error),
                    "a shard runs without its glommio executor, on a plain thread"
                ),
                None => tracing::debug!(%shard, %error, "a shard runs on a plain thread"),
            }
            (None, core_affinity::set_for_current(core_affinity::CoreId { id: core }))
        }
    }
}

/// A refusal that the machine's check cannot have reported: io_uring may be allowed and the limit on locked memory
/// enough for one executor, and this one is still too many.
fn unforeseen(error: &GlommioError<()>) -> Option<io::Error> {
    let exhausted = [libc::ENOMEM, libc::EMFILE, libc::ENFILE];
    error.raw_os_error().filter(|error| exhausted.contains(error)).map(io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use glommio::ReactorErrorKind;

    #[test]
    fn a_core_that_does_not_exist_costs_the_pinning_not_the_shard() {
        let (send, receive) = std::sync::mpsc::channel();
        for core in [0, 100_000] {
            let send = send.clone();
            spawn(ShardId(0), core, move |footing| send.send(footing.pinned).unwrap()).unwrap().join().unwrap();
        }
        assert_eq!(receive.try_iter().collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn what_the_machines_check_says_is_not_repeated() {
        let os = |error| GlommioError::IoError(io::Error::from_raw_os_error(error));
        assert!(unforeseen(&GlommioError::ReactorError(ReactorErrorKind::MemLockLimit(64, 512))).is_none());
        assert!(unforeseen(&os(libc::EPERM)).is_none());
        assert_eq!(unforeseen(&os(libc::ENOMEM)).and_then(|error| error.raw_os_error()), Some(libc::ENOMEM));
    }
}
