//! The socket that the library `dtls` reads and writes, in memory. Called by `webrtc_engine`.

use crate::base::limits::DTLS_QUEUE_MAX;
use async_trait::async_trait;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use webrtc_util::Conn;

/// Datagrams to and from the library. All on one thread: the locks are never contended, the library's traits ask for
/// them.
#[derive(Default)]
pub(super) struct MemorySocket {
    inbound: Mutex<VecDeque<Vec<u8>>>,
    outbound: Mutex<Vec<Vec<u8>>>,
    arrived: Notify,
}

impl MemorySocket {
    /// False when the library has not kept up: the datagram is lost, as on any link.
    pub(super) fn push(&self, datagram: Vec<u8>) -> bool {
        let mut inbound = locked(&self.inbound);
        if inbound.len() >= DTLS_QUEUE_MAX {
            return false;
        }
        inbound.push_back(datagram);
        self.arrived.notify_one();
        true
    }

    /// What the library has sent since the last call.
    pub(super) fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut locked(&self.outbound))
    }
}

#[async_trait]
impl Conn for MemorySocket {
    async fn connect(&self, _: SocketAddr) -> webrtc_util::Result<()> {
        Ok(())
    }

    /// Never an error: the library's reader would call again at once, for ever.
    async fn recv(&self, buffer: &mut [u8]) -> webrtc_util::Result<usize> {
        loop {
            if let Some(datagram) = locked(&self.inbound).pop_front() {
                let len = datagram.len().min(buffer.len());
                buffer[..len].copy_from_slice(&datagram[..len]);
                return Ok(len);
            }
            self.arrived.notified().await;
        }
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> webrtc_util::Result<(usize, SocketAddr)> {
        Ok((self.recv(buffer).await?, nowhere()))
    }

    async fn send(&self, datagram: &[u8]) -> webrtc_util::Result<usize> {
        let mut outbound = locked(&self.outbound);
        if outbound.len() < DTLS_QUEUE_MAX {
            outbound.push(datagram.to_vec());
        }
        Ok(datagram.len())
    }

    async fn send_to(&self, datagram: &[u8], _: SocketAddr) -> webrtc_util::Result<usize> {
        self.send(datagram).await
    }

    fn local_addr(&self) -> webrtc_util::Result<SocketAddr> {
        Ok(nowhere())
    }

    fn remote_addr(&self) -> Option<SocketAddr> {
        Some(nowhere())
    }

    async fn close(&self) -> webrtc_util::Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync) {
        self
    }
}

fn nowhere() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}

/// A panic while a lock is held leaves nothing half done here.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    /// With an error the library's reader spins.
    #[test]
    fn an_empty_line_pends_even_when_closed() {
        let socket = MemorySocket::default();
        let mut buffer = [0; 100];
        let mut context = Context::from_waker(Waker::noop());
        let mut poll =
            |buffer: &mut [u8]| Box::pin(socket.recv(buffer)).as_mut().poll(&mut context).map(Result::unwrap);
        assert_eq!(poll(&mut buffer), Poll::Pending);
        assert!(socket.push(vec![1, 2, 3]));
        assert_eq!(poll(&mut buffer), Poll::Ready(3));
        assert!(Box::pin(socket.close()).as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(poll(&mut buffer), Poll::Pending);
    }

    #[test]
    fn both_directions_are_bounded() {
        let socket = MemorySocket::default();
        (0..DTLS_QUEUE_MAX).for_each(|_| assert!(socket.push(vec![0])));
        assert!(!socket.push(vec![0]));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..DTLS_QUEUE_MAX + 10 {
            assert!(Box::pin(socket.send(&[0])).as_mut().poll(&mut context).is_ready());
        }
        assert_eq!(socket.take().len(), DTLS_QUEUE_MAX);
        assert!(socket.take().is_empty());
    }
}
