//! Sockets that the process was started with (socket activation, sd_listen_fds(3)), by the names that the service
//! manager gives them. `main` takes them once, before anything else, and uses them in place of those that it would
//! bind.
#![expect(unsafe_code, reason = "descriptors come as bare numbers")]

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Socket, Type};

use super::udp::socket::local_address;

/// The inherited sockets, by what they are for.
#[derive(Default, Debug)]
pub struct Inherited {
    /// In place of `--listen`.
    pub http: Option<TcpListener>,
    /// In place of `--admin-listen`.
    pub admin: Option<TcpListener>,
    /// In place of `--rtc-listen`: one for each shard on each address.
    pub udp: Vec<Socket>,
}

#[derive(Debug)]
pub enum InheritError {
    /// LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES do not fit together, or a descriptor is not open.
    Environment(io::Error),
    UnknownName(String),
    /// Two have this name, which may have one.
    Twice(&'static str),
    /// It is no TCP listener.
    NoListener(&'static str),
    NoUdp(String),
}

impl fmt::Display for InheritError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InheritError::Environment(error) => write!(
                f,
                "{error}: LISTEN_FDS counts the descriptors from 3 on, LISTEN_FDNAMES names each; without \
                 LISTEN_PID nothing is inherited"
            ),
            InheritError::UnknownName(name) => {
                write!(f, "one is named {name:?}: set FileDescriptorName= of its .socket unit to http, admin or udp")
            }
            InheritError::Twice(name) => {
                write!(f, "two are named {name}: leave one ListenStream= in the .socket unit of that name")
            }
            InheritError::NoListener(name) => {
                write!(f, "the one named {name} does not listen on TCP: give it with ListenStream=IP:PORT")
            }
            InheritError::NoUdp(name) => {
                write!(f, "one named {name} is no UDP socket on an address: give it with ListenDatagram=IP:PORT")
            }
        }
    }
}

impl std::error::Error for InheritError {}

/// Whether the descriptors have an owner, of which there may be one.
static TAKEN: AtomicBool = AtomicBool::new(false);

impl Inherited {
    /// Takes the inherited sockets: none where none was inherited, or where they were taken before.
    pub fn take() -> Result<Inherited, InheritError> {
        let named = sd_notify::listen_fds_with_names().map_err(InheritError::Environment)?;
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(Inherited::default());
        }
        // SAFETY: the service manager opened these for this process alone, as LISTEN_PID says, and each was seen to be
        // open; nobody has owned them since, because they are taken once.
        Inherited::sort(named.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    fn sort(named: impl Iterator<Item = (String, OwnedFd)>) -> Result<Inherited, InheritError> {
        let mut all = Inherited::default();
        for (name, fd) in named {
            let (place, name) = match name.as_str() {
                "http" => (&mut all.http, "http"),
                "admin" => (&mut all.admin, "admin"),
                "udp" => {
                    all.udp.push(media(fd.into(), &name)?);
                    continue;
                }
                _ => return Err(InheritError::UnknownName(name)),
            };
            if place.replace(listener(fd.into(), name)?).is_some() {
                return Err(InheritError::Twice(name));
            }
        }
        Ok(all)
    }

    /// The addresses of the UDP sockets, each once.
    pub fn media_addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for address in self.udp.iter().filter_map(|socket| local_address(socket).ok()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }
}

fn listener(socket: Socket, name: &'static str) -> Result<TcpListener, InheritError> {
    let listens = socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
        && socket.is_listener().unwrap_or(false)
        && local_address(&socket).is_ok();
    if listens { Ok(socket.into()) } else { Err(InheritError::NoListener(name)) }
}

fn media(socket: Socket, name: &str) -> Result<Socket, InheritError> {
    let bound = local_address(&socket).is_ok_and(|address| address.port() != 0);
    let datagrams = socket.r#type().is_ok_and(|kind| kind == Type::DGRAM);
    if bound && datagrams { Ok(socket) } else { Err(InheritError::NoUdp(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn sort(named: Vec<(&str, OwnedFd)>) -> Result<Inherited, InheritError> {
        Inherited::sort(named.into_iter().map(|(name, fd)| (name.to_owned(), fd)))
    }

    fn tcp() -> OwnedFd {
        TcpListener::bind("127.0.0.1:0").unwrap().into()
    }

    fn udp() -> OwnedFd {
        UdpSocket::bind("127.0.0.1:0").unwrap().into()
    }

    #[test]
    fn each_goes_by_its_name() {
        let all = sort(vec![("udp", udp()), ("http", tcp()), ("udp", udp()), ("admin", tcp())]).unwrap();
        assert!(all.http.is_some() && all.admin.is_some());
        assert_eq!((all.udp.len(), all.media_addresses().len()), (2, 2));
    }

    #[test]
    fn what_does_not_fit_its_name_is_named_with_its_cure() {
        let connected: OwnedFd = Socket::new(socket2::Domain::IPV4, Type::STREAM, None).unwrap().into();
        let (unix, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
        for (named, cure) in [
            (vec![("weirgate.socket", tcp())], "FileDescriptorName="),
            (vec![("http", tcp()), ("http", tcp())], "leave one ListenStream="),
            (vec![("http", udp())], "ListenStream="),
            (vec![("admin", connected)], "ListenStream="),
            (vec![("udp", tcp())], "ListenDatagram="),
            (vec![("udp", unix.into())], "ListenDatagram="),
            (vec![("http", std::fs::File::open("/dev/null").unwrap().into())], "ListenStream="),
        ] {
            let error = sort(named).unwrap_err().to_string();
            assert!(error.contains(cure), "{error}");
        }
    }

    #[test]
    fn a_process_that_was_started_with_none_inherits_none() {
        let none = Inherited::take().unwrap();
        assert!(none.http.is_none() && none.admin.is_none() && none.udp.is_empty());
    }
}
