//! The incoming datagrams: one multishot RECVMSG for each socket into lent buffers, and a multishot poll of the
//! doorbell; the sleep is a wait for any of their completions.
#![expect(unsafe_code, reason = "requests carry pointers, and buffers are shared with the kernel")]

use std::io;
use std::mem::{ManuallyDrop, zeroed};
use std::os::fd::{AsRawFd, RawFd};

use io_uring::cqueue::{Entry as Completion, buffer_select, more};
use io_uring::types::{CancelBuilder, Fd, Fixed, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use socket2::Socket;

use super::buffers::{Buffers, GROUP};
use super::setup;
use crate::base::buffer::{Batch, LocalIndex, Path};
use crate::base::limits::{LOCAL_ADDRESSES_MAX, RING_BUFFERS};
use crate::base::time::Duration;
use crate::net::clock::Clock;
use crate::net::udp::backend::UdpDrop;
use crate::net::udp::joined::Joined;
use crate::net::udp::message::{Ancillary, ControlBuffer, Name, control_from, decode};
use crate::net::udp::tally::UdpTally;

const BELL: u64 = u64::MAX;

/// One completion for each buffer, and for each request its last; the bell rings rarely.
const COMPLETIONS: u32 = RING_BUFFERS as u32 + 2 * LOCAL_ADDRESSES_MAX as u32;

/// How often one `receive` goes back to the kernel for held-back completions; the rest waits for the next.
const ENTERS_MAX: usize = 8;

/// How long a drop waits for the kernel to give the buffers back.
const CANCEL_WAIT: Duration = Duration::from_millis(100);
const CANCEL_TRIES: usize = 20;

pub(super) struct Inbox {
    ring: IoUring,
    /// Dropped by hand, after the kernel is done with them.
    buffers: ManuallyDrop<Buffers>,
    /// The room that every RECVMSG asks for: an address and a control message.
    header: Box<libc::msghdr>,
    bell: RawFd,
    sockets: usize,
    /// Bit i: socket i has a request in the kernel.
    armed: u64,
    bell_armed: bool,
    /// The socket that is armed first: moves on each time, so that a flooded one takes no other's buffers.
    first: usize,
    /// A buffer that did not fit into the batch whole, and where its bytes lie.
    open: Option<(Joined, u16, usize, usize)>,
}

// SAFETY: the pointers in `header` are null; the rest is Send by itself.
unsafe impl Send for Inbox {}

impl Inbox {
    pub(super) fn new(sockets: &[Socket], bell: RawFd) -> io::Result<Inbox> {
        let entries = (sockets.len() as u32 + 2).next_power_of_two();
        let ring = setup::open(entries, COMPLETIONS)?;
        if !ring.params().is_feature_ext_arg() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let fds: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        ring.submitter().register_files(&fds)?;
        let mut buffers = Buffers::new()?;
        // SAFETY: no request is under way yet, and `Drop` ends them all before it drops the buffers; an error in between
        // does not leave this function with a request, and closes the ring.
        unsafe { buffers.register(&ring.submitter())? };
        // SAFETY: all bits zero are a valid msghdr.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { zeroed() });
        header.msg_namelen = size_of::<Name>() as libc::socklen_t;
        header.msg_controllen = size_of::<ControlBuffer>() as _;
        Ok(Inbox {
            ring,
            buffers: ManuallyDrop::new(buffers),
            header,
            bell,
            sockets: sockets.len(),
            armed: 0,
            bell_armed: false,
            first: 0,
            open: None,
        })
    }

    /// Whether a wait would be pointless.
    pub(super) fn has_news(&mut self) -> bool {
        self.open.is_some() || !self.ring.completion().is_empty()
    }

    /// True: the kernel holds completions back until it is entered, or a request has ended.
    fn wants_enter(&mut self) -> bool {
        let queue = self.ring.submission();
        let held_back = queue.taskrun() || queue.cq_overflow() || !queue.is_empty();
        held_back || !self.bell_armed || self.armed.count_ones() as usize != self.sockets
    }

    /// Arms idle requests and lets the kernel work; sleeps, if asked to, until there is a completion or `timeout` is
    /// over (None: for ever).
    pub(super) fn enter(&mut self, sleep: bool, timeout: Option<Duration>, tally: &mut UdpTally) {
        self.arm();
        let limit = timeout.map(|timeout| Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos()));
        let mut args = SubmitArgs::new();
        if let Some(limit) = &limit {
            args = args.timespec(limit);
        }
        if let Err(error) = self.ring.submitter().submit_with_args(usize::from(sleep), &args) {
            let harmless = [libc::ETIME, libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ENOMEM];
            if !error.raw_os_error().is_some_and(|error| harmless.contains(&error)) {
                tally.counters.receive_failed += 1;
            }
        }
    }

    /// Collects completions without sleeping.
    pub(super) fn look(&mut self, tally: &mut UdpTally) {
        if self.wants_enter() {
            self.enter(false, None, tally);
        }
    }

    fn arm(&mut self) {
        let mut queue = self.ring.submission();
        for turn in 0..self.sockets {
            let index = (self.first + turn) % self.sockets;
            if self.armed & 1 << index != 0 {
                continue;
            }
            let receive = opcode::RecvMsgMulti::new(Fixed(index as u32), &raw const *self.header, GROUP);
            // SAFETY: the header lives as long as `self`, and `Drop` ends the request before both. It receives into
            // registered buffers only.
            if unsafe { queue.push(&receive.build().user_data(index as u64)) }.is_err() {
                return;
            }
            self.armed |= 1 << index;
        }
        if self.sockets > 0 {
            self.first = (self.first + 1) % self.sockets;
        }
        if !self.bell_armed {
            let poll = opcode::PollAdd::new(Fd(self.bell), libc::POLLIN as u32).multi(true);
            // SAFETY: no pointers; the kernel holds the bell's file open while it polls it.
            self.bell_armed = unsafe { queue.push(&poll.build().user_data(BELL)) }.is_ok();
        }
    }

    pub(super) fn receive(&mut self, batch: &mut Batch, tally: &mut UdpTally) -> usize {
        let before = batch.len();
        for _ in 0..ENTERS_MAX {
            let so_far = batch.len();
            self.drain(batch, tally);
            tally.counters.receive_calls += u64::from(batch.len() > so_far);
            if batch.room() == 0 || !self.wants_enter() {
                break;
            }
            // Every completion is handled, so that every buffer is lent again: a socket that had none has some now.
            self.enter(false, None, tally);
        }
        batch.len() - before
    }

    /// Handles completions until there are none or the batch is full.
    fn drain(&mut self, batch: &mut Batch, tally: &mut UdpTally) {
        while batch.room() > 0 {
            if self.open.is_none() {
                let Some(completion) = self.next() else { return };
                self.completed(&completion, tally);
            }
            let Some((mut joined, id, start, len)) = self.open.take() else { continue };
            let bytes = &self.buffers.filled(id, start + len)[start..];
            if joined.deal(bytes, batch, tally) {
                self.buffers.lend(id);
            } else {
                self.open = Some((joined, id, start, len));
            }
        }
    }

    fn next(&mut self) -> Option<Completion> {
        self.ring.completion().next()
    }

    fn completed(&mut self, completion: &Completion, tally: &mut UdpTally) {
        let ended = !more(completion.flags());
        if completion.user_data() == BELL {
            self.bell_armed &= !ended;
            return;
        }
        let socket = completion.user_data() as usize;
        if ended {
            self.armed &= !(1 << socket);
        }
        let buffer = buffer_select(completion.flags());
        let Ok(len) = usize::try_from(completion.result()) else {
            // Out of buffers is no failure: the datagrams wait in the socket.
            let harmless = [-libc::ENOBUFS, -libc::EINTR, -libc::EAGAIN, -libc::ECANCELED];
            tally.counters.receive_failed += u64::from(!harmless.contains(&completion.result()));
            if let Some(id) = buffer {
                self.buffers.lend(id);
            }
            return;
        };
        let Some(id) = buffer else { return };
        match open(self.buffers.filled(id, len), &self.header, LocalIndex(socket as u8)) {
            Ok((joined, start, len)) => self.open = Some((joined, id, start, len)),
            Err(why) => {
                tally.dropped(why, 1);
                self.buffers.lend(id);
            }
        }
    }
}

/// The content of a filled buffer, and its place.
fn open(buffer: &[u8], header: &libc::msghdr, local: LocalIndex) -> Result<(Joined, usize, usize), UdpDrop> {
    let message = RecvMsgOut::parse(buffer, header).map_err(|()| UdpDrop::ReceiveNoAddress)?;
    if message.is_payload_truncated() {
        return Err(UdpDrop::ReceiveTooLong);
    }
    let remote = decode(&Name::from_bytes(message.name_data())).ok_or(UdpDrop::ReceiveNoAddress)?;
    let payload = message.payload_data();
    let start = payload.as_ptr() as usize - buffer.as_ptr() as usize;
    let control = message.control_data();
    let told = Ancillary::read(&control_from(control), control.len());
    let arrived = Clock::process().arrivals().at(told.stamp);
    let joined = Joined::new(Path::udp(local, remote), arrived, payload.len(), told.segment);
    Ok((joined, start, payload.len()))
}

impl Drop for Inbox {
    /// Ends every request, sees them end, and only then frees what they receive into.
    fn drop(&mut self) {
        let limit = Timespec::from(CANCEL_WAIT);
        let mut tally = UdpTally::default();
        for _ in 0..CANCEL_TRIES {
            // An entry that was never submitted cannot be told apart here: it is submitted and ended.
            let _ = self.ring.submit();
            // Nothing found is as good as all found; what matters is what completes.
            let _ = self.ring.submitter().register_sync_cancel(Some(limit), CancelBuilder::any());
            let _ = self.ring.submitter().submit_with_args(0, &SubmitArgs::new());
            while let Some(completion) = self.next() {
                self.completed(&completion, &mut tally);
            }
            if self.armed == 0 && !self.bell_armed {
                let _ = self.ring.submitter().unregister_buf_ring(GROUP);
                // SAFETY: dropped once, here. No request is left that could write to them, and none can come: the
                // ring is closed next.
                unsafe { ManuallyDrop::drop(&mut self.buffers) };
                return;
            }
        }
        tracing::error!("the kernel does not end the requests of an io_uring: its buffers are left to it");
    }
}
