//! Receiving on a test's own socket while rings come and go in the same thread. For the tests of the backends and of the tower.

use std::io;
use std::net::UdpSocket;

/// A ring that ends wakes the threads that have used it, some time after its descriptor is closed; a receive with a
/// timeout that waits just then fails with EINTR, although there was no signal (signal(7): SO_RCVTIMEO).
pub fn heard(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
