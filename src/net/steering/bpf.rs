//! bpf(2) for steering: maps, one program type, attaching to a SO_REUSEPORT group. The program itself is in `steering`.
#![expect(unsafe_code, reason = "bpf(2) takes pointers in a union that libc does not describe")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::net::steering::bpf_asm::Instruction;
use crate::net::udp::socket::set_option;

/// `enum bpf_map_type`.
#[derive(Clone, Copy)]
pub(super) enum MapKind {
    Hash = 1,
    PerCpuArray = 6,
    ReuseportSockets = 20,
}

const MAP_CREATE: i32 = 0;
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const MAP_DELETE: i32 = 3;
const PROGRAM_LOAD: i32 = 5;

/// `BPF_PROG_TYPE_SK_REUSEPORT` and its only attach type before 5.14, `BPF_SK_REUSEPORT_SELECT`.
const PROGRAM_TYPE: u32 = 21;
const ATTACH_TYPE: u32 = 39;

/// The verifier gives up with EAGAIN when a signal or other work for this thread arrives meanwhile; by the next call
/// that work is done.
const LOAD_ATTEMPTS: u32 = 50;

/// `union bpf_attr` in the kernel's own size for the fields we set; the rest is zero.
type Attributes = [u64; 18];

/// # Safety
/// Every pointer put into `attributes` must be valid for what `command` does with it until this returns.
unsafe fn bpf(command: i32, attributes: &mut Attributes) -> io::Result<i32> {
    // SAFETY: the pointer and the size are those of `attributes`; what it holds is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of::<Attributes>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Two 32-bit fields in the place of one 64-bit one.
fn pair(first: u32, second: u32) -> u64 {
    let [first, second] = [first.to_ne_bytes(), second.to_ne_bytes()];
    let mut both = [0; 8];
    both[..4].copy_from_slice(&first);
    both[4..].copy_from_slice(&second);
    u64::from_ne_bytes(both)
}

fn own(descriptor: i32) -> OwnedFd {
    // SAFETY: called only with what bpf(2) has just returned: a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// A map with keys of K and values of V; `V` is what user space reads (an array of them for a per-CPU map).
pub(super) struct Map<const KEY: usize, const VALUE: usize> {
    descriptor: OwnedFd,
}

impl<const KEY: usize, const VALUE: usize> Map<KEY, VALUE> {
    pub(super) fn new(kind: MapKind, entries: u32) -> io::Result<Self> {
        let mut attributes: Attributes = [0; 18];
        attributes[0] = pair(kind as u32, KEY as u32);
        attributes[1] = pair(VALUE as u32, entries);
        // SAFETY: MAP_CREATE takes no pointers.
        let descriptor = own(unsafe { bpf(MAP_CREATE, &mut attributes)? });
        Ok(Map { descriptor })
    }

    pub(super) fn descriptor(&self) -> i32 {
        self.descriptor.as_raw_fd()
    }

    fn access(&self, command: i32, key: &[u8; KEY], value: *mut u8) -> io::Result<()> {
        let mut attributes: Attributes = [0; 18];
        attributes[0] = u64::from(self.descriptor.as_raw_fd().cast_unsigned());
        attributes[1] = key.as_ptr() as u64;
        attributes[2] = value as u64;
        // SAFETY: the map has keys of KEY bytes, and our callers pass null or a place as large as its values.
        unsafe { bpf(command, &mut attributes).map(drop) }
    }

    pub(super) fn update(&self, key: &[u8; KEY], value: &[u8; VALUE]) -> io::Result<()> {
        self.access(MAP_UPDATE, key, value.as_ptr().cast_mut())
    }

    pub(super) fn delete(&self, key: &[u8; KEY]) -> io::Result<()> {
        self.access(MAP_DELETE, key, std::ptr::null_mut())
    }
}

impl Map<4, 8> {
    /// Entry `index` of a per-CPU array of u64, summed over the `cpus` that are possible on this machine.
    pub(super) fn sum(&self, index: u32, cpus: usize) -> io::Result<u64> {
        let mut values = vec![0u64; cpus];
        self.access(MAP_LOOKUP, &index.to_ne_bytes(), values.as_mut_ptr().cast())?;
        Ok(values.iter().sum())
    }
}

/// How many values a per-CPU map hands out: the highest possible CPU and those below it.
pub(super) fn possible_cpus() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit([',', '-']).next().and_then(|number| number.parse::<usize>().ok());
    last.map(|last| last + 1).ok_or_else(|| io::Error::other(format!("not a list of CPUs: {text}")))
}

/// A loaded program; it lives as long as a group uses it or this exists.
pub(super) struct Program {
    descriptor: OwnedFd,
}

pub(super) struct LoadError {
    pub error: io::Error,
    /// The log of the kernel's verifier; empty when it did not run.
    pub log: String,
}

impl Program {
    pub(super) fn load(code: &[Instruction]) -> Result<Program, LoadError> {
        let license = c"MIT";
        let mut log = vec![0u8; 64 * 1024];
        let mut attributes: Attributes = [0; 18];
        attributes[0] = pair(PROGRAM_TYPE, code.len() as u32);
        attributes[1] = code.as_ptr() as u64;
        attributes[2] = license.as_ptr() as u64;
        attributes[3] = pair(1, log.len() as u32);
        attributes[4] = log.as_mut_ptr() as u64;
        attributes[8] = pair(0, ATTACH_TYPE);
        let mut attempts = 0;
        let error = loop {
            attempts += 1;
            // SAFETY: code, licence and log are live and of the lengths given.
            match unsafe { bpf(PROGRAM_LOAD, &mut attributes) } {
                Ok(descriptor) => return Ok(Program { descriptor: own(descriptor) }),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && attempts < LOAD_ATTEMPTS => {}
                Err(error) => break error,
            }
        };
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        Err(LoadError { error, log: String::from_utf8_lossy(&log[..end]).into_owned() })
    }

    /// Attaches to the whole SO_REUSEPORT group that `socket` is bound in.
    pub(super) fn attach(&self, socket: &impl AsRawFd) -> io::Result<()> {
        /// include/uapi/asm-generic/socket.h; libc has it for Android alone.
        const SO_ATTACH_REUSEPORT_EBPF: i32 = 52;
        set_option(socket, libc::SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, &self.descriptor.as_raw_fd())
    }
}

/// Gives `socket` a filter that accepts nothing: what is delivered to it costs no memory and no wake.
pub(super) fn refuse_everything(socket: &impl AsRawFd) -> io::Result<()> {
    const RETURN_ZERO: libc::sock_filter = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 };
    let mut filter = [RETURN_ZERO];
    let program = libc::sock_fprog { len: 1, filter: filter.as_mut_ptr() };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}
