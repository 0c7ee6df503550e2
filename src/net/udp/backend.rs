//! The backend of a shard's loop: receive a batch, send runs, wait. By batch and not async, so that the plain sockets,
//! an io_uring ring and a test double stand behind one trait. Called by `shard_thread` alone.

use crate::base::buffer::{Batch, Transmit};
use crate::base::time::Instant;

/// Most datagrams taken in one round of the loop; the rest waits in the socket for the next.
pub const RECEIVE_BATCH_MAX: usize = 128;

/// Finished runs leave by [`Transmit::transmit`]; those of its last call perhaps with the next wait or pause only.
pub trait Backend: Transmit {
    /// Takes datagrams that have arrived by the last wait, and perhaps later ones, until the batch is full; returns how
    /// many were added. Never blocks.
    fn receive(&mut self, batch: &mut Batch) -> usize;

    /// Blocks until a datagram may be there, the shard's doorbell was rung or `deadline` has come, whichever is first
    /// (None: no deadline; one in the past: never sleeps). May return early for no reason.
    fn wait(&mut self, deadline: Option<Instant>);

    /// Gathers what arrives until `until` without waking for it. May go on waiting, as [`Backend::wait`] does for
    /// `deadline`, where nothing came, and may end when the doorbell is rung.
    fn pause(&mut self, until: Instant, deadline: Option<Instant>);

    fn counters(&self) -> &UdpCounters;

    /// (reason, datagrams), every reason that exists.
    fn drops(&self) -> Vec<(&'static str, u64)>;
}

macro_rules! counters {
    ($($field:ident: $name:literal, $help:literal;)*) => {
        /// The counters of a backend, by their names in /metrics.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct UdpCounters { $(pub $field: u64,)* }

        impl UdpCounters {
            /// (name, help, value) of every counter.
            pub fn rows(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$(($name, $help, self.$field),)*]
            }
        }
    };
}

counters! {
    datagrams_received: "udp_datagrams_received", "Datagrams received";
    bytes_received: "udp_bytes_received", "Bytes of datagrams received";
    receive_calls: "udp_receive_calls", "System calls that received at least one datagram";
    receive_failed: "udp_receive_failed", "Receive system calls that failed for another reason than an empty socket";
    datagrams_sent: "udp_datagrams_sent", "Datagrams handed to the kernel";
    bytes_sent: "udp_bytes_sent", "Bytes of datagrams handed to the kernel";
    runs_sent: "udp_runs_sent", "Sends that the kernel cut into more than one datagram (UDP GSO)";
    run_datagrams_sent: "udp_run_datagrams_sent", "Datagrams that left in such runs";
    send_calls: "udp_send_calls", "System calls that sent";
    send_retries: "udp_send_retries", "Sends repeated because the socket or the device queue was full";
    gso_fallbacks: "udp_gso_fallbacks", "Destinations to which runs are refused: sent one by one from then on";
    waits: "udp_waits", "Times the shard went to sleep";
    pauses: "udp_pauses", "Times a busy shard left its sockets alone to gather what arrives (--coalesce-max)";
}

/// Datagrams that were lost in the backend, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpDrop {
    /// Longer than a receive buffer.
    ReceiveTooLong,
    /// The kernel gave no usable remote address.
    ReceiveNoAddress,
    /// The socket's or the device's queue stayed full.
    SendQueueFull,
    /// Longer than the path or the kernel takes.
    SendTooLong,
    /// No route, a firewall, or an address of the wrong family.
    SendRefused,
    /// Any other error of the system call.
    SendFailed,
}

impl UdpDrop {
    pub const ALL: [UdpDrop; 6] = [
        UdpDrop::ReceiveTooLong,
        UdpDrop::ReceiveNoAddress,
        UdpDrop::SendQueueFull,
        UdpDrop::SendTooLong,
        UdpDrop::SendRefused,
        UdpDrop::SendFailed,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            UdpDrop::ReceiveTooLong => "receive_too_long",
            UdpDrop::ReceiveNoAddress => "receive_no_address",
            UdpDrop::SendQueueFull => "send_queue_full",
            UdpDrop::SendTooLong => "send_too_long",
            UdpDrop::SendRefused => "send_refused",
            UdpDrop::SendFailed => "send_failed",
        }
    }
}
