//! The DTLS library's end of a handshake: the in-memory socket it reads and writes, and the task that runs it. What the
//! task finds is left in a [`Report`] for `dtls` to collect.

use super::Keying;
use super::settled::AlertKeys;
use crate::base::limits::DTLS_QUEUE_MAX;
use crate::secure::srtp::{MasterKey, SrtpProfile};
use async_trait::async_trait;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use webrtc_dtls::config::Config;
use webrtc_dtls::conn::DTLSConn;
use webrtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use webrtc_util::{Conn, KeyingMaterialExporter};

/// Datagrams to and from the library. All on one thread: the locks are never contended, the library's traits ask for
/// them.
#[derive(Default)]
pub(super) struct Line {
    inbound: Mutex<VecDeque<Vec<u8>>>,
    outbound: Mutex<Vec<Vec<u8>>>,
    arrived: Notify,
}

impl Line {
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
impl Conn for Line {
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

/// What the task has come to.
#[derive(Default)]
pub(super) struct Report {
    found: Mutex<Found>,
}

#[derive(Default)]
pub(super) struct Found {
    pub(super) established: Option<(Box<Keying>, AlertKeys)>,
    /// Why the handshake failed.
    pub(super) closed: Option<String>,
}

impl Report {
    pub(super) fn take(&self) -> Found {
        std::mem::take(&mut locked(&self.found))
    }
}

/// Reports an end that nobody foresaw: the runtime catches a panic in the library and drops the task.
struct Ending(Arc<Report>);

impl Drop for Ending {
    fn drop(&mut self) {
        locked(&self.0.found).closed.get_or_insert_with(|| "the DTLS library gave up".to_owned());
    }
}

/// One handshake. The connection ends with it: nothing that the library does later is wanted.
pub(super) async fn associate(line: Arc<Line>, config: Config, is_client: bool, report: Arc<Report>) {
    let ending = Ending(report);
    let outcome = establish(line, config, is_client).await;
    let mut found = locked(&ending.0.found);
    match outcome {
        Err(reason) => found.closed = Some(reason),
        Ok(established) => found.established = Some(established),
    }
}

async fn establish(line: Arc<Line>, config: Config, is_client: bool) -> Result<(Box<Keying>, AlertKeys), String> {
    let connection = DTLSConn::new(line, config, is_client, None).await.map_err(|error| error.to_string())?;
    let profile = match connection.selected_srtpprotection_profile() {
        SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm => SrtpProfile::AeadAes128Gcm,
        SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm => SrtpProfile::AeadAes256Gcm,
        SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => SrtpProfile::Aes128CmSha1_80,
        _ => return Err("no SRTP profile was agreed on".to_owned()),
    };
    let state = connection.connection_state().await;
    let (key_len, salt_len) = (profile.key_len(), profile.salt_len());
    // RFC 5764 section 4.2.
    let material = state
        .export_keying_material("EXTRACTOR-dtls_srtp", &[], 2 * (key_len + salt_len))
        .await
        .map_err(|error| error.to_string())?;
    let [client, server] = master_keys(profile, &material).ok_or("the exported keys have the wrong length")?;
    let secrets = state.key_log_data().map_err(|error| error.to_string())?;
    let alerts = AlertKeys::new(is_client, &secrets.master_secret, &secrets.local_random, &secrets.remote_random);
    let peer_certificate = state.peer_certificates.first().cloned().ok_or("the peer sent no certificate")?;
    let (local, remote) = if is_client { (client, server) } else { (server, client) };
    // The gate knows the suite, the library does not tell it.
    Ok((Box::new(Keying { profile, suite: "", local, remote, peer_certificate }), alerts))
}

/// RFC 5764 section 4.2: client key, server key, client salt, server salt.
fn master_keys(profile: SrtpProfile, material: &[u8]) -> Option<[MasterKey; 2]> {
    let (client_key, rest) = material.split_at_checked(profile.key_len())?;
    let (server_key, rest) = rest.split_at_checked(profile.key_len())?;
    let (client_salt, server_salt) = rest.split_at_checked(profile.salt_len())?;
    Some([MasterKey::new(profile, client_key, client_salt)?, MasterKey::new(profile, server_key, server_salt)?])
}

fn nowhere() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}

/// A panic while a lock is held leaves nothing half done here.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
        let line = Line::default();
        let mut buffer = [0; 100];
        let mut context = Context::from_waker(Waker::noop());
        let mut poll = |buffer: &mut [u8]| Box::pin(line.recv(buffer)).as_mut().poll(&mut context).map(Result::unwrap);
        assert_eq!(poll(&mut buffer), Poll::Pending);
        assert!(line.push(vec![1, 2, 3]));
        assert_eq!(poll(&mut buffer), Poll::Ready(3));
        assert!(Box::pin(line.close()).as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(poll(&mut buffer), Poll::Pending);
    }

    #[test]
    fn both_directions_are_bounded() {
        let line = Line::default();
        (0..DTLS_QUEUE_MAX).for_each(|_| assert!(line.push(vec![0])));
        assert!(!line.push(vec![0]));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..DTLS_QUEUE_MAX + 10 {
            assert!(Box::pin(line.send(&[0])).as_mut().poll(&mut context).is_ready());
        }
        assert_eq!(line.take().len(), DTLS_QUEUE_MAX);
        assert!(line.take().is_empty());
    }

    #[test]
    fn keys_are_cut_as_rfc_5764_orders_them() {
        let material: Vec<u8> = (0..56).collect();
        let [client, server] = master_keys(SrtpProfile::AeadAes128Gcm, &material).unwrap();
        assert_eq!((client.key(), client.salt()), (&material[..16], &material[32..44]));
        assert_eq!((server.key(), server.salt()), (&material[16..32], &material[44..]));
        assert!(master_keys(SrtpProfile::AeadAes128Gcm, &material[1..]).is_none());
    }
}
